"""The report on the boundary: runs in, one page with its figures and numbers out."""
