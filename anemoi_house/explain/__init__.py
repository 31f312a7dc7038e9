"""What a training will use, told from its config before anything runs."""
