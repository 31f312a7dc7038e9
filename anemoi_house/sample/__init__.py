"""A sample atmosphere on the grids of the nested experiments, and the two datasets built from it."""
