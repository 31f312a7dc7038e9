"""Training runs: what they start from, how they continue, as a SLURM job, and finding finished ones."""
