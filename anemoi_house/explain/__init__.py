"""What a training will use, from its config, before anything runs."""
