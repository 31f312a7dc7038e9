"""Files in the format of NOAA's archives: GRIB2 messages of GFS and HRRR, their index, and what they hold.

Every key of grid, packing, tables and product section is that of NOAA's own messages (test_noaa_files.py compares
them). The values are an analytic atmosphere, so that a test can compute what it should find::

    value = scale(record) * pattern(name, place) + offset(record, time)

with a power of two for the scale. GRIB's packing is value = (R + X 2**E) / 10**D: the packed integers X of a pattern
serve every level and every time, under another reference value R and binary scale factor E. A pattern is encoded once
in a process; a message is then a copy with a few changed bytes, and a full-size file takes a second or so.

In the words of NOAA's index a field is `TMP:500 mb`. As a command, `python -m noaa.files --help`, with `tests` on the
path, writes archives to try things on.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
from numpy.typing import NDArray

from anemoi_house.geometry import HRRR_3KM, LambertGrid

Floats = NDArray[np.float64]

LEVELS_HPA = (100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Levels of the published datasets."""


# Grids and models


@dataclass(frozen=True)
class LatLonGrid:
    """A regular global grid from the north pole and Greenwich, poles included.

    Attributes
    ----------
    spacing : float
        Degrees; it divides 90.
    """

    spacing: float

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), north to south and eastward."""
        return round(180 / self.spacing) + 1, round(360 / self.spacing)

    def latlon(self) -> tuple[Floats, Floats]:
        """Latitudes and longitudes (0 to 360) of all points, in degrees, each of shape (rows, columns)."""
        rows, columns = self.shape
        latitudes, longitudes = 90 - self.spacing * np.arange(rows), self.spacing * np.arange(columns)
        lat, lon = np.meshgrid(latitudes, longitudes, indexing="ij")
        return lat, lon


@dataclass(frozen=True)
class Model:
    """One of NOAA's two archives.

    Attributes
    ----------
    name : str
        `gfs` or `hrrr`.
    bucket : str
        Its public bucket.
    grid : LatLonGrid or LambertGrid
    """

    name: str
    bucket: str
    grid: LatLonGrid | LambertGrid

    def thinned(self, step: int) -> Model:
        """The same model on every `step`-th point of its grid, for tests that should take milliseconds."""
        grid = self.grid
        if isinstance(grid, LatLonGrid):
            return replace(self, grid=LatLonGrid(grid.spacing * step))
        nx, ny = -(-grid.nx // step), -(-grid.ny // step)
        return replace(self, grid=replace(grid, nx=nx, ny=ny, spacing_km=grid.spacing_km * step))

    def path(self, run: datetime, lead_hours: int, layout: str = "current", product: str = "pgrb2") -> str:
        """Path of a file below the root of its archive.

        Parameters
        ----------
        run : datetime
            Start of the forecast, UTC.
        lead_hours : int
        layout : str
            `current` or `old` (GFS before the folder `atmos`) of NOAA's buckets, or `ncar` (GFS in NCAR's d084001).
        product : str
            Of GFS: `pgrb2` or `pgrb2b`.
        """
        if self.name == "hrrr":
            return f"hrrr.{run:%Y%m%d}/conus/hrrr.t{run:%H}z.wrfprsf{lead_hours:02d}.grib2"
        if layout == "ncar":
            return f"{run:%Y}/{run:%Y%m%d}/gfs.0p25.{run:%Y%m%d%H}.f{lead_hours:03d}.grib2"
        folder = {"current": "atmos/", "old": ""}[layout]
        return f"gfs.{run:%Y%m%d}/{run:%H}/{folder}gfs.t{run:%H}z.{product}.0p25.f{lead_hours:03d}"


GFS = Model("gfs", "noaa-gfs-bdp-pds", LatLonGrid(0.25))
HRRR = Model("hrrr", "noaa-hrrr-bdp-pds", HRRR_3KM)


@functools.lru_cache(maxsize=4)
def _latlon(grid: LatLonGrid | LambertGrid) -> tuple[Floats, Floats]:
    return grid.latlon()


# Records


@dataclass(frozen=True)
class Record:
    """One field of a file.

    Attributes
    ----------
    name, level : str
        In the words of the index: `TMP`, and `500 mb`, `2 m above ground` or `surface`.
    accumulation : tuple of int, optional
        First and last hour of the forecast that an accumulation covers.
    copy : int
        Of a field that stands in a file several times: later copies hold 5 more, to tell them apart.
    """

    name: str
    level: str
    accumulation: tuple[int, int] | None = None
    copy: int = 0

    @property
    def pressure_hpa(self) -> float | None:
        """The pressure of a record on a pressure level."""
        return float(self.level.removesuffix(" mb")) if self.level.endswith(" mb") else None

    def forecast(self, lead_hours: int) -> str:
        """The index's words for the time of the forecast."""
        if self.accumulation:
            return "{}-{} hour acc fcst".format(*self.accumulation)
        return f"{lead_hours} hour fcst" if lead_hours else "anl"


_ON_LEVELS = ("HGT", "TMP", "RH", "SPFH", "VVEL", "UGRD", "VGRD")
_NEAR_GROUND = (
    Record("UGRD", "80 m above ground"),
    Record("VGRD", "80 m above ground"),
    Record("PRES", "surface"),
    Record("HGT", "surface"),
    Record("TMP", "surface"),
    Record("TMP", "2 m above ground"),
    Record("SPFH", "2 m above ground"),
    Record("RH", "2 m above ground"),
    Record("UGRD", "10 m above ground"),
    Record("VGRD", "10 m above ground"),
    Record("LAND", "surface"),
)


def analysis_records(levels: Iterable[float] = LEVELS_HPA, *, decoys: bool = True) -> list[Record]:
    """The fields that the datasets take from the file at lead time 0: 82 of their 83 for all of the levels.

    With `decoys`, also RH everywhere and all fields on 550 hPa, which no dataset asks for.
    """
    pressures = sorted({*levels, 550} if decoys else set(levels))
    records = [Record(name, f"{pressure:g} mb") for pressure in pressures for name in _ON_LEVELS]
    return [record for record in [*records, *_NEAR_GROUND] if decoys or record.name != "RH"]


def forecast_records(
    model: Model, lead_hours: int = 6, *, doubled: bool | None = None, hourly: bool | None = None
) -> list[Record]:
    """The accumulated precipitation of a forecast among some decoys.

    Parameters
    ----------
    model : Model
    lead_hours : int
    doubled : bool, optional
        The accumulation from the start stands twice under one key, as in GFS, where it is the default.
    hourly : bool, optional
        That of the last hour is there too, as in HRRR, where it is the default.
    """
    whole = Record("APCP", "surface", (0, lead_hours))
    rain = [whole]
    if doubled if doubled is not None else model.name == "gfs":
        rain.append(replace(whole, copy=1))
    if hourly if hourly is not None else model.name == "hrrr":
        rain.append(Record("APCP", "surface", (lead_hours - 1, lead_hours)))
    return [Record("HGT", "500 mb"), Record("TMP", "500 mb"), *_NEAR_GROUND[2:-1], *rain, _NEAR_GROUND[-1]]


# What the fields hold


def _wave(lat: Floats, lon: Floats, zonal: int, meridional: float, phase: float) -> Floats:
    """A wave of amplitude 1 at the equator and 0 at the poles; radians."""
    return np.cos(lat) ** 2 * np.cos(zonal * lon + meridional * lat + phase)


def _mountains(lat: Floats, lon: Floats) -> Floats:
    peaks = ((40, 250, 12, 9, 2400), (33, 90, 9, 18, 4200), (-20, 290, 25, 6, 3000), (-80, 60, 15, 400, 2800))
    height = np.zeros_like(lat)
    for y, x, half_y, half_x, top in peaks:
        east = np.abs((np.rad2deg(lon) - x + 180) % 360 - 180)
        height += top * np.exp(-(((np.rad2deg(lat) - y) / half_y) ** 2) - (east / half_x) ** 2)
    return height * (1 + 0.1 * np.cos(60 * lon + 20 * lat))


def _pattern(key: str, lat: Floats, lon: Floats) -> Floats:
    """One pattern, in the units of GRIB; latitudes and longitudes in radians."""
    contrast = np.cos(lat) ** 2 - 2 / 3
    match key:
        case "HGT":
            return 250 * contrast + 60 * _wave(lat, lon, 5, 3, 0.3)
        case "TMP":
            return 36 * contrast + 7 * _wave(lat, lon, 4, -3, 1.1)
        case "SPFH":
            return 0.012 * (0.06 + np.cos(lat) ** 2 * (0.8 + 0.3 * _wave(lat, lon, 7, 4, 2.0)))
        case "RH":
            return 50 + 35 * _wave(lat, lon, 7, 4, 2.0)
        case "VVEL":
            return 0.5 * _wave(lat, lon, 9, 5, 0.7)
        case "UGRD":
            return 8 * np.cos(lat) ** 2 + 6 * _wave(lat, lon, 6, -4, 0.2)
        case "VGRD":
            return 7 * _wave(lat, lon, 5, 5, 1.7)
        case "PRES":
            return 101000 * np.exp(-_mountains(lat, lon) / 8400) + 600 * _wave(lat, lon, 5, 3, 0.3)
        case "HGT:surface":
            return _mountains(lat, lon)
        case "LAND":
            return (np.sin(5 * lon) * np.cos(7 * lat) + 0.2 > 0).astype(np.float64)
        case "APCP":
            return np.maximum(30 * _wave(lat, lon, 9, 5, 2.3) - 2, 0)
    raise ValueError(f"There is no field {key!r} in the files of the tests.")


_DECIMALS = {"HGT": 2, "TMP": 2, "SPFH": 6, "RH": 1, "VVEL": 4, "UGRD": 2, "VGRD": 2, "PRES": 0, "LAND": 0, "APCP": 2}
"""Decimal scale factor of each name; `HGT:surface` has that of HGT."""

_SWING = {"HGT": 40, "TMP": 3, "SPFH": 5e-4, "RH": 5, "VVEL": 0.05, "UGRD": 2, "VGRD": -1.5, "PRES": 250, "APCP": 0.5}
"""How far a field goes up and down in time, everywhere by the same amount."""

_PERIOD_H = 40.3
"""Of that swing: no two of some hundred consecutive dates are alike."""

_NEAR_GROUND_OFFSETS = {
    **{"TMP:surface": 287.0, "TMP:2 m above ground": 285.5, "RH:2 m above ground": 4.0},
    **{"UGRD:10 m above ground": -0.2, "UGRD:80 m above ground": -0.4},
    **{"VGRD:10 m above ground": 0.3, "VGRD:80 m above ground": 0.6},
}


def _pattern_key(record: Record) -> str:
    return "HGT:surface" if (record.name, record.level) == ("HGT", "surface") else record.name


def _exponent(record: Record) -> int:
    """Scale of a record as a power of two."""
    if record.accumulation:
        first, last = record.accumulation
        return round(math.log2((last - first) / 6))
    if record.pressure_hpa is None:
        return -1 if record.level.startswith("10 m") else 0
    s = math.log(1000 / record.pressure_hpa)
    by_name = {
        "HGT": 1.3 * s,
        "TMP": -1 if s > 1.1 else 0,
        "SPFH": -4.8 * s,
        "VVEL": -3 * abs(s - 0.7),
        "UGRD": min(1.5 * s, 2),
        "VGRD": min(1.5 * s, 2),
    }
    return round(by_name.get(record.name, 0))


def _offset(record: Record, valid: datetime, lead_hours: int) -> float:
    """What is added everywhere: the level's mean, the swing in time, and the drift of a forecast."""
    if record.name == "LAND" or _pattern_key(record) == "HGT:surface":
        return 0.0
    hours = (valid - datetime(2000, 1, 1)) / timedelta(hours=1)
    swing = math.sin(2 * math.pi * hours / _PERIOD_H) + 1
    if record.accumulation:
        return _SWING["APCP"] * swing + 5 * record.copy
    if record.name == "SPFH":
        # It goes with the scale, and is never negative.
        level = 0.6 if record.pressure_hpa is None else 2 * math.log(1000 / record.pressure_hpa)
        return _SWING["SPFH"] * 2.0 ** _exponent(record) * (level + swing + lead_hours / 60)
    in_time = _SWING[record.name] * (swing - 1 + lead_hours / 60)
    if record.pressure_hpa is None:
        return _NEAR_GROUND_OFFSETS.get(f"{record.name}:{record.level}", 0.0) + in_time
    s = math.log(1000 / record.pressure_hpa)
    mean = {
        "HGT": 110 + 29.27 * (286 * s - 27.8 * s**2 + 3.145 * s**3),
        "TMP": 286 - 55.6 * s + 9.435 * s**2,
        "VVEL": 0.02 * s,
        "UGRD": 2 * s,
        "VGRD": 0.7 * s,
        "RH": -3 * s,
    }
    return mean[record.name] + in_time


def _stored_pattern(model: Model, key: str) -> Floats:
    """A pattern as the files hold it: winds along the axes of the model's grid."""
    lat, lon = (np.deg2rad(degrees) for degrees in _latlon(model.grid))
    if key not in ("UGRD", "VGRD") or not isinstance(model.grid, LambertGrid):
        return _pattern(key, lat, lon)
    u, v, angle = _pattern("UGRD", lat, lon), _pattern("VGRD", lat, lon), _grid_angle(model.grid)
    if key == "UGRD":
        return u * np.cos(angle) - v * np.sin(angle)
    return u * np.sin(angle) + v * np.cos(angle)


def _grid_angle(grid: LambertGrid) -> Floats:
    """Angle, in radians, from the grid's x axis to east, shape (ny, nx): Snyder, Map Projections, 1987, p. 106."""
    _, lon = _latlon(grid)
    return np.sin(np.deg2rad(grid.parallel)) * np.deg2rad((lon - grid.meridian + 180) % 360 - 180)


def stored_values(model: Model, record: Record, valid: datetime, lead_hours: int = 0) -> Floats:
    """What a file holds for a record, before packing.

    Parameters
    ----------
    model : Model
    record : Record
    valid : datetime
        UTC; for an accumulation the end of its range.
    lead_hours : int
        Hours since the start of the forecast: forecasts drift away from the analysis. It does not matter for APCP.

    Returns
    -------
    ndarray, shape of the grid
        In the units of GRIB. HRRR's winds are along the axes of its grid.
    """
    pattern = _stored_pattern(model, _pattern_key(record))
    return pattern * 2.0 ** _exponent(record) + _offset(record, valid, lead_hours)


def field_values(model: Model, record: Record, valid: datetime, lead_hours: int = 0) -> Floats:
    """The truth: as `stored_values`, but with every wind along the parallels and meridians of the earth."""
    if record.name not in ("UGRD", "VGRD") or not isinstance(model.grid, LambertGrid):
        return stored_values(model, record, valid, lead_hours)
    u = stored_values(model, replace(record, name="UGRD"), valid, lead_hours)
    v = stored_values(model, replace(record, name="VGRD"), valid, lead_hours)
    angle = _grid_angle(model.grid)
    if record.name == "UGRD":
        return u * np.cos(angle) + v * np.sin(angle)
    return v * np.cos(angle) - u * np.sin(angle)


def precision(record: Record, values: Floats) -> float:
    """The largest difference that packing makes to `values`, which `stored_values` gave for `record`.

    Half a packed unit, and the rounding of the reference value to the four bytes that it has in a message.
    """
    unit = 10.0 ** -_DECIMALS[record.name] * 2.0 ** _exponent(record)
    return 0.5 * unit + 2.0**-23 * float(np.abs(values).max())


# Messages

_PARAMETERS = {
    **{"TMP": (0, 0, 0), "SPFH": (0, 1, 0), "RH": (0, 1, 1), "APCP": (0, 1, 8), "UGRD": (0, 2, 2), "VGRD": (0, 2, 3)},
    **{"VVEL": (0, 2, 8), "PRES": (0, 3, 0), "HGT": (0, 3, 5), "LAND": (2, 0, 0)},
}
"""Discipline, category and number in the tables of GRIB2."""

_MICRODEGREES = 1_000_000

# A sphere of 6371229 m; NOAA leaves no radius or axis missing, as eccodes would.
_EARTH = {
    "shapeOfTheEarth": 6,
    **{f"scale{kind}OfRadiusOfSphericalEarth": 0 for kind in ("Factor", "dValue")},
    **{f"scale{kind}OfEarth{axis}Axis": 0 for kind in ("Factor", "dValue") for axis in ("Major", "Minor")},
}


def _latlon_keys(grid: LatLonGrid) -> dict[str, int]:
    rows, columns = grid.shape
    increment = round(grid.spacing * _MICRODEGREES)
    return {
        "gridDefinitionTemplateNumber": 0,
        **_EARTH,
        "basicAngleOfTheInitialProductionDomain": 0,
        "subdivisionsOfBasicAngle": 0,
        "Ni": columns,
        "Nj": rows,
        "latitudeOfFirstGridPoint": 90 * _MICRODEGREES,
        "longitudeOfFirstGridPoint": 0,
        "resolutionAndComponentFlags": 48,
        "latitudeOfLastGridPoint": -90 * _MICRODEGREES,
        "longitudeOfLastGridPoint": 360 * _MICRODEGREES - increment,
        "iDirectionIncrement": increment,
        "jDirectionIncrement": increment,
        "scanningMode": 0,
    }


def _lambert_keys(grid: LambertGrid) -> dict[str, int]:
    parallel, spacing_mm = round(grid.parallel * _MICRODEGREES), round(grid.spacing_km * 1e6)
    return {
        "gridDefinitionTemplateNumber": 30,
        **_EARTH,
        "Nx": grid.nx,
        "Ny": grid.ny,
        "latitudeOfFirstGridPoint": round(grid.first_latitude * _MICRODEGREES),
        "longitudeOfFirstGridPoint": round(grid.first_longitude * _MICRODEGREES),
        "resolutionAndComponentFlags": 8,
        "LaD": parallel,
        "LoV": round(grid.meridian * _MICRODEGREES),
        "Dx": spacing_mm,
        "Dy": spacing_mm,
        "projectionCentreFlag": 0,
        "scanningMode": 64,
        "Latin1": parallel,
        "Latin2": parallel,
        "latitudeOfSouthernPole": 0,
        "longitudeOfSouthernPole": 0,
    }


def _set(handle: int, keys: dict[str, Any]) -> None:
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)


@functools.cache
def _encoded(model: Model, key: str) -> int:
    """Handle of eccodes for a message that holds a pattern alone, in units of its decimal scale factor.

    It is kept for the life of the process: some 0.5 MB for a pattern at full size.
    """
    lambert = isinstance(model.grid, LambertGrid)
    units = np.rint(_stored_pattern(model, key) * 10.0 ** _DECIMALS[key.split(":")[0]])
    handle: int = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    _set(
        handle,
        {
            "centre": "kwbc",
            "subCentre": 0,
            "tablesVersion": 2,
            "localTablesVersion": 1,
            "significanceOfReferenceTime": 1,
            "productionStatusOfProcessedData": 0,
            "typeOfProcessedData": 1,
            **(_lambert_keys(model.grid) if isinstance(model.grid, LambertGrid) else _latlon_keys(model.grid)),
            "packingType": "grid_complex_spatial_differencing",
            "orderOfSpatialDifferencing": 2 if lambert else 1,
            # Any value that equals eccodes' number for a missing one, by default 9999, would be packed as missing.
            "missingValue": 1e30,
            # As many bits as the units need: eccodes then packs them as they are, with a binary scale factor of 0.
            "bitsPerValue": int(np.ptp(units)).bit_length(),
        },
    )
    eccodes.codes_set_values(handle, units.ravel())
    _set(handle, {"primaryMissingValueSubstitute": 0, "secondaryMissingValueSubstitute": 0})
    if eccodes.codes_get(handle, "binaryScaleFactor") != 0:
        raise ValueError(f"eccodes did not pack the pattern {key} in whole units.")
    return handle


def _product_keys(model: Model, record: Record, run: datetime, lead_hours: int) -> dict[str, Any]:
    discipline, category, number = _PARAMETERS[record.name]
    if record.pressure_hpa is not None:
        surface, level = 100, round(record.pressure_hpa * 100)
    elif record.level.endswith(" m above ground"):
        surface, level = 103, int(record.level.split()[0])
    else:
        surface, level = 1, 0
    keys = {
        "discipline": discipline,
        "dataDate": int(f"{run:%Y%m%d}"),
        "dataTime": int(f"{run:%H%M}"),
        "productDefinitionTemplateNumber": 8 if record.accumulation else 0,
        "parameterCategory": category,
        "parameterNumber": number,
        "typeOfGeneratingProcess": 2,
        "backgroundProcess": 0,
        "generatingProcessIdentifier": 83 if model.name == "hrrr" else 96,
        "hoursAfterDataCutoff": 0,
        "minutesAfterDataCutoff": 0,
        "indicatorOfUnitForForecastTime": 1,
        "forecastTime": record.accumulation[0] if record.accumulation else lead_hours,
        "typeOfFirstFixedSurface": surface,
        "scaleFactorOfFirstFixedSurface": 0,
        "scaledValueOfFirstFixedSurface": level,
        "typeOfSecondFixedSurface": 255,
        "scaleFactorOfSecondFixedSurface": 0,
        "scaledValueOfSecondFixedSurface": 0,
    }
    if record.accumulation:
        first, last = record.accumulation
        end = run + timedelta(hours=last)
        parts = {"year": end.year, "month": end.month, "day": end.day, "hour": end.hour, "minute": 0, "second": 0}
        keys |= {f"{part}OfEndOfOverallTimeInterval": value for part, value in parts.items()}
        keys |= {
            "numberOfTimeRanges": 1,
            "numberOfMissingInStatisticalProcess": 0,
            "typeOfStatisticalProcessing": 1,
            "typeOfTimeIncrement": 2,
            "indicatorOfUnitForTimeRange": 1,
            "lengthOfTimeRange": last - first,
            "indicatorOfUnitForTimeIncrement": 255,
            "timeIncrement": 0,
        }
    return keys


def sections(message: bytes | bytearray) -> list[tuple[int, int, int]]:
    """(number, start, end) of each section from 1 to 7 of one GRIB2 message, in order."""
    found, start = [], 16
    while message[start : start + 4] != b"7777":
        (length,) = struct.unpack_from(">I", message, start)
        found.append((message[start + 4], start, start + length))
        start += length
    return found


def _sign_magnitude(value: int) -> bytes:
    """Two bytes as GRIB has them for negative numbers: a bit for the sign, and the magnitude."""
    return struct.pack(">H", abs(value) | (0x8000 if value < 0 else 0))


def encode(model: Model, record: Record, run: datetime, lead_hours: int) -> bytes:
    """One GRIB2 message.

    Parameters
    ----------
    model : Model
    record : Record
    run : datetime
        Start of the forecast, UTC.
    lead_hours : int
        For an accumulation the end of its range is what counts.
    """
    handle = eccodes.codes_clone(_encoded(model, _pattern_key(record)))
    try:
        _set(handle, _product_keys(model, record, run, lead_hours))
        message = bytearray(eccodes.codes_get_message(handle))
    finally:
        eccodes.codes_release(handle)
    last = record.accumulation[1] if record.accumulation else lead_hours
    decimals, exponent = _DECIMALS[record.name], _exponent(record)
    (start,) = (start for number, start, _ in sections(message) if number == 5)
    (reference,) = struct.unpack_from(">f", message, start + 11)
    reference = reference * 2.0**exponent + _offset(record, run + timedelta(hours=last), last) * 10.0**decimals
    scales = _sign_magnitude(exponent) + _sign_magnitude(decimals)
    message[start + 11 : start + 19] = struct.pack(">f", reference) + scales
    message[4:6] = b"\0\0"  # reserved; eccodes has all bits set
    return bytes(message)


def share(first: bytes, second: bytes) -> bytes:
    """One message of two fields on the same grid and of the same run: sections 4 to 7 stand in it twice."""
    fields = b"".join(second[start:end] for number, start, end in sections(second) if number >= 4)
    body = first[16:-4] + fields + b"7777"
    return first[:8] + struct.pack(">Q", 16 + len(body)) + body


# Files


@dataclass(frozen=True)
class Placed:
    """Where a record stands in a file: the message that it is in.

    Attributes
    ----------
    record : Record
    offset, length : int
        Bytes, of the whole message.
    line : str
        Its line of the index.
    """

    record: Record
    offset: int
    length: int
    line: str


def write_file(
    path: Path,
    model: Model,
    run: datetime,
    lead_hours: int,
    records: Sequence[Record],
    *,
    shared_winds: bool = False,
    idx: bool = True,
) -> list[Placed]:
    """Write one file of an archive and its index, each whole or not at all.

    Parameters
    ----------
    path : Path
        Its folders are made. The index is next to it, with `.idx` appended.
    model : Model
    run : datetime
        Start of the forecast, UTC.
    lead_hours : int
    records : sequence of Record
        In the order of the file.
    shared_winds : bool
        Each UGRD that a VGRD of the same level follows shares a message with it.
    idx : bool
        Write the index.

    Returns
    -------
    list of Placed
        One for each record.
    """
    messages: list[tuple[bytes, list[Record]]] = []
    for record in records:
        message = encode(model, record, run, lead_hours)
        held = messages[-1][1] if messages else []
        if shared_winds and record.name == "VGRD" and held == [replace(record, name="UGRD")]:
            messages[-1] = (share(messages[-1][0], message), [*held, record])
        else:
            messages.append((message, [record]))
    placed, offset = [], 0
    for number, (message, held) in enumerate(messages, 1):
        for part, record in enumerate(held, 1):
            label = f"{number}.{part}" if len(held) > 1 else f"{number}"
            line = f"{label}:{offset}:d={run:%Y%m%d%H}:{record.name}:{record.level}:{record.forecast(lead_hours)}:"
            placed.append(Placed(record, offset, len(message), line))
        offset += len(message)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, b"".join(message for message, _ in messages))
    if idx:
        _write_whole(path.with_name(path.name + ".idx"), "".join(f"{p.line}\n" for p in placed).encode())
    return placed


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def write_date(
    folder: Path,
    model: Model,
    date: datetime,
    levels: Iterable[float] = LEVELS_HPA,
    *,
    lead_hours: int = 6,
    layout: str = "current",
    decoys: bool = True,
    shared_winds: bool = False,
    idx: bool = True,
) -> None:
    """Write the two files that the fields of one date come from: the analysis, and a forecast that started earlier.

    They go into the folder of the model's bucket in `folder`; the rest is as for `write_file` and `analysis_records`.
    """
    earlier = date - timedelta(hours=lead_hours)
    rain = forecast_records(model, lead_hours)
    for run, lead, records in ((date, 0, analysis_records(levels, decoys=decoys)), (earlier, lead_hours, rain)):
        path = folder / model.bucket / model.path(run, lead, layout)
        write_file(path, model, run, lead, records, shared_winds=shared_winds, idx=idx)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m noaa.files", description="Write archives of GFS and HRRR.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the folders of the buckets go")
    parser.add_argument("--dates", type=int, default=2, metavar="N", help="number of dates, 6 h apart")
    parser.add_argument(
        "--start", type=datetime.fromisoformat, default=datetime(2021, 4, 1), metavar="TIME", help="UTC"
    )
    parser.add_argument("--models", nargs="+", choices=("gfs", "hrrr"), default=["gfs", "hrrr"])
    parser.add_argument("--thin", type=int, default=1, metavar="N", help="every Nth point of the grids")
    chosen = parser.parse_args(arguments)
    for name in chosen.models:
        model = {"gfs": GFS, "hrrr": HRRR}[name].thinned(chosen.thin)
        for index in range(chosen.dates):
            write_date(chosen.folder, model, chosen.start + timedelta(hours=6 * index))


if __name__ == "__main__":
    main()
