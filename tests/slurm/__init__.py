"""A real SLURM for tests."""
