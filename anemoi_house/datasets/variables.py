"""The variables of the experiments: their names in NOAA's files, and the bounds of their values.

Fields and levels are named as by wgrib2, which writes NOAA's `.idx` files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from anemoi_house.errors import HouseError


@dataclass(frozen=True)
class Variable:
    """One variable of the experiments.

    Attributes
    ----------
    param : str
        Name in the experiments.
    name : str
        Name in NOAA's index.
    level : str or None
        Level in NOAA's index; None for a variable on pressure levels.
    code : tuple of int
        Discipline, category and number of GRIB2.
    units : str
        Units in the file. Values are not converted.
    bounds : tuple of float
        Smallest and largest value that can occur, in these units.
    accumulated : bool
        Whether it is a sum over a time range.
    """

    param: str
    name: str
    level: str | None
    code: tuple[int, int, int]
    units: str
    bounds: tuple[float, float]
    accumulated: bool = False


_HEIGHT, _TEMPERATURE, _HUMIDITY = (0, 3, 5), (0, 0, 0), (0, 1, 0)
_U, _V, _OMEGA = (0, 2, 2), (0, 2, 3), (0, 2, 8)
_WIND_MS, _KELVIN = (-200.0, 200.0), (140.0, 360.0)
# Models round specific humidity slightly below zero; convection at 3 km lifts by some 200 Pa/s.
_SPECIFIC_HUMIDITY, _OMEGA_PA_S = (-0.01, 0.1), (-600.0, 600.0)

VARIABLES = {
    variable.param: variable
    for variable in (
        Variable("gh", "HGT", None, _HEIGHT, "gpm", (-2000.0, 60000.0)),
        Variable("u", "UGRD", None, _U, "m s**-1", _WIND_MS),
        Variable("v", "VGRD", None, _V, "m s**-1", _WIND_MS),
        Variable("w", "VVEL", None, _OMEGA, "Pa s**-1", _OMEGA_PA_S),
        Variable("t", "TMP", None, _TEMPERATURE, "K", _KELVIN),
        Variable("q", "SPFH", None, _HUMIDITY, "kg kg**-1", _SPECIFIC_HUMIDITY),
        Variable("sp", "PRES", "surface", (0, 3, 0), "Pa", (30000.0, 115000.0)),
        Variable("u10", "UGRD", "10 m above ground", _U, "m s**-1", _WIND_MS),
        Variable("v10", "VGRD", "10 m above ground", _V, "m s**-1", _WIND_MS),
        Variable("t2m", "TMP", "2 m above ground", _TEMPERATURE, "K", _KELVIN),
        Variable("t_surface", "TMP", "surface", _TEMPERATURE, "K", _KELVIN),
        Variable("sh2", "SPFH", "2 m above ground", _HUMIDITY, "kg kg**-1", _SPECIFIC_HUMIDITY),
        Variable("u80", "UGRD", "80 m above ground", _U, "m s**-1", _WIND_MS),
        Variable("v80", "VGRD", "80 m above ground", _V, "m s**-1", _WIND_MS),
        Variable("accum_tp", "APCP", "surface", (0, 1, 8), "kg m**-2", (-0.1, 3000.0), accumulated=True),
        Variable("lsm", "LAND", "surface", (2, 0, 0), "(0 - 1)", (0.0, 1.0)),
        Variable("orog", "HGT", "surface", _HEIGHT, "gpm", (-1000.0, 9500.0)),
    )
}
"""Variables of the experiments, by their names there."""

NAMES = {variable.code: variable.name for variable in VARIABLES.values()}
"""NOAA's names by discipline, category and number."""


def variable(param: str, among: Mapping[str, Variable] = VARIABLES) -> Variable:
    """Return the variable of a name; raise a HouseError for an unknown one."""
    if param in among:
        return among[param]
    meant = get_close_matches(str(param), among, n=1)
    hint = f"Did you mean {meant[0]}? " if meant else ""
    raise HouseError(f"param: {param!r} is unknown. {hint}Use some of {', '.join(among)}.")
