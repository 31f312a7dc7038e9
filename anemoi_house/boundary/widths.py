"""Widths of the rings and of the zone around the border. Importing this costs nothing: the command line does."""

from __future__ import annotations

INNER_KM = 225.0
"""Width of the inner ring: the published trim, 15 cells of 15 km."""

OUTER_KM = 225.0
"""Width of the outer ring: the same, two cells of GFS at 1 degree."""

ZONE_KM = 1000.0
"""Width of the boundary zone outside the LAM, in which isolated data nodes matter: as in the published experiments,
some nine cells of GFS at 1 degree."""
