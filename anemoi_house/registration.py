"""What the Hydra plugin registers: where our configs are, our resolvers, our schemas."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

SUPPORTED = "0.17"
"""Minor version of anemoi-training that our configs and schemas are made for, as in pyproject.toml."""

ANEMOI_SCHEMAS = "anemoi.training.schemas.base_schema"


def shipped(name: str) -> Path:
    """A file or folder of the repository's top that is shipped: inside the package in a wheel, beside it otherwise."""
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.exists() else package.parent / name


def config_folder() -> Path:
    """Folder of our configs."""
    return shipped("configs")


def register() -> None:
    """Register the resolvers that our configs use and, where anemoi-training is at work, our schemas.

    A plain Hydra application of somebody else's pays for neither anemoi nor torch.
    """
    from anemoi_house import resolvers

    resolvers.register()
    if ANEMOI_SCHEMAS in sys.modules:
        warn_of_another_version()
        from anemoi_house import schemas

        schemas.register()


@cache
def warn_of_another_version() -> None:
    """Say, once and in one line, that the anemoi-training installed is not one we were made for."""
    installed = version("anemoi-training")
    if not installed.startswith(f"{SUPPORTED}."):
        print(
            f"anemoi-house {version('anemoi-house')} is made for anemoi-training {SUPPORTED}, but {installed} is "
            f"installed: its configs may not fit. Install 'anemoi-training=={SUPPORTED}.*' or another anemoi-house.",
            file=sys.stderr,
        )
