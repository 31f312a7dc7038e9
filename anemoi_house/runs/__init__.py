"""A trained run: where it starts, how it goes on, as a job of SLURM."""
