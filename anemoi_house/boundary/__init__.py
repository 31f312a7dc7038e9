"""What the boundary of the LAM does to a forecast: arrays in, arrays out, numpy and scipy alone."""
