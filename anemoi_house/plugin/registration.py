"""Register our resolvers and schemas when Hydra loads the plugin."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import version

SUPPORTED = "0.17"
"""Minor version of anemoi-training that our configs and schemas are made for, as in pyproject.toml."""


def register() -> None:
    """Register the resolvers that our configs use and, in a process that has loaded anemoi-training's, our schemas.

    Any other Hydra application thus imports neither anemoi nor torch.
    """
    from anemoi_house.plugin import resolvers

    resolvers.register()
    if "anemoi.training.schemas.base_schema" in sys.modules:
        warn_of_another_version()
        from anemoi_house.plugin import schemas

        schemas.register()


@cache
def warn_of_another_version() -> None:
    """Print one line, once, if the installed anemoi-training is not the supported version."""
    installed = version("anemoi-training")
    if not installed.startswith(f"{SUPPORTED}."):
        print(
            f"anemoi-house {version('anemoi-house')} is made for anemoi-training {SUPPORTED}, but {installed} is "
            f"installed: its configs may not fit. Install 'anemoi-training=={SUPPORTED}.*' or another anemoi-house.",
            file=sys.stderr,
        )
