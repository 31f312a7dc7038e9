"""Files of the repository's top level that travel with the package: configs and the SLURM launcher."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """Return the path of a shipped file or folder: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.exists() else package.parent / name


def config_folder() -> Path:
    """Return the folder of our configs."""
    return shipped("configs")
