"""The models that `house-noaa` reads, one module each. To add one, add a module that defines `MODEL`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from anemoi_house.datasets.model import Model
from anemoi_house.errors import HouseError
from anemoi_house.words import listed


def names() -> list[str]:
    """Return the names of all models."""
    return sorted(module.name for module in iter_modules(__path__))


def model(name: str) -> Model:
    """Return the model of a name; raise a HouseError for an unknown one."""
    if name not in names():
        raise HouseError(f"model: {name!r} is unknown. Use {listed(names(), 'or')}.")
    found: Model = import_module(f"{__name__}.{name}").MODEL
    return found
