"""The study: the experiments trained alike from several seeds, and what each does at the boundary."""
