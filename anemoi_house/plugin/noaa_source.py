"""The entry point of the source `house-noaa`: without its extra, one line says what to install."""

from __future__ import annotations

from anemoi_house.extras import extras_named
from anemoi_house.upstream.errors import CommandError, mistakes_as

with mistakes_as(CommandError), extras_named("house-noaa"):
    from anemoi_house.datasets.sources import HouseNoaaSource

__all__ = ["HouseNoaaSource"]
