"""The boundary of the limited area: regions around it, and what fields do there. Arrays in, arrays out."""
