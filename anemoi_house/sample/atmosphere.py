r"""The sample atmosphere: every variable of the nested experiments as a function of position and time.

One atmosphere, sampled on any points: grids that share a point get the same values there. It is a sum of travelling
waves on a zonal mean, without randomness: the state six hours ahead follows from two states. With latitude
:math:`\varphi`, longitude :math:`\lambda`, :math:`s = \ln(1000\,\mathrm{hPa}/p)` and time :math:`t`:

Geopotential height (m)
    .. math:: h = Z(s) + D(s)\,(\cos^2\varphi - 2/3)
              + \sum_w a_w V_w(s)\, E_w(\varphi, \lambda) \cos(m_w\lambda + n_w\varphi - \omega_w t + \chi_w + \tau_w s)

    - *planetary and synoptic waves*: whole zonal wavenumbers 2 to 9, each with its own phase speed; they tilt
      westward with height;
    - *advected structure*: wavenumbers 10 to 16, all carried by one solid-body westerly rotation;
    - *mesoscale structure*: wavelengths of 450 to 900 km, moving mostly eastward at 3 to 4 m/s, under a window
      that is zero outside the contiguous US: finer than a global grid of four degrees, and zero where the LAM ends.

Temperature (K)
    Hydrostatic, :math:`t = (g/R)\,\partial h/\partial s`, plus a mesoscale part of some tenths of a kelvin.
Wind (m/s)
    Geostrophic, :math:`u = -gF\,\partial h/\partial y`, :math:`v = gF\,\partial h/\partial x`, with
    :math:`F = f/(f^2 + f_0^2)` in place of :math:`1/f`, which keeps the wind finite at the equator.
Vertical velocity (m/s)
    The waves of `h`, a quarter of a wavelength ahead: air rises east of the troughs, most in the middle troposphere.
Specific humidity (kg/kg)
    Relative humidity, higher where air rises and lower aloft, times the saturation value of `t` (Bolton, 1980,
    Monthly Weather Review 108, p. 1046-1053, eq. 10).
Surface
    `orog` is a sum of smooth mountains, `lsm` a set of wavy ellipses; `sp` is hydrostatic from the height of 1000 hPa
    down or up to `orog`; `t2m` and `t_surface` follow the lowest level, `orog` and the local hour; `u10 v10 u80 v80`
    are the wind of the lowest level, slowed more over land; `accum_tp` (kg/m2 in 6 h) goes with the rising part of
    `w_700` times `q_850`.

Numpy alone; independent of datasets and anemoi.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

REVISION = 1
"""Raise it when a formula changes, so that samples of an older atmosphere are recognised."""

EPOCH = datetime(2020, 1, 1)
"""Time zero of the waves, UTC."""

LEVELS_HPA = (100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
LEVEL_UNITS = {"gh": "m", "u": "m s**-1", "v": "m s**-1", "w": "m s**-1", "t": "K", "q": "kg kg**-1"}
SURFACE_UNITS = {
    "sp": "Pa", "u10": "m s**-1", "v10": "m s**-1", "t2m": "K", "t_surface": "K", "sh2": "kg kg**-1",
    "u80": "m s**-1", "v80": "m s**-1", "accum_tp": "kg m**-2", "lsm": "(0 - 1)", "orog": "m",
}  # fmt: skip
"""Units of the parameters on each level, and of the surface variables."""

RADIUS_M = 6371229.0
GRAVITY = 9.80665
GAS_CONSTANT = 287.04
ROTATION = 7.292e-5
F0 = 2 * ROTATION * math.sin(math.radians(15))
"""Coriolis parameter at 15 degrees; equatorward, the wind departs from geostrophy."""

WINDOW_LATITUDE, WINDOW_LONGITUDE = 38.5, 262.5
WINDOW_HALF_X_M, WINDOW_HALF_Y_M = 2.4e6, 1.4e6
"""Centre (degrees) and half axes of the window of the mesoscale structure; it lies inside both LAM grids."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Wave:
    """One travelling wave of the geopotential height.

    Attributes
    ----------
    zonal, meridional : float
        Wavenumbers m and n: radians of phase per radian of longitude and of latitude.
    frequency : float
        Radians per second; a crest moves towards increasing `zonal * longitude + meridional * latitude`.
    amplitude : float
        Metres, at 500 hPa or so.
    mesoscale : bool
        Confined to the window over the contiguous US, instead of the global envelope.
    """

    zonal: float
    meridional: float
    frequency: float
    amplitude: float
    mesoscale: bool = False


def _synoptic(zonal: int, meridional: float, period_days: float, amplitude: float) -> Wave:
    return Wave(zonal, meridional, 2 * math.pi / (period_days * 86400), amplitude)


def _advected(zonal: int, meridional: float, amplitude: float) -> Wave:
    """Return a wave advected by a solid-body rotation of 12 m/s at the equator."""
    return Wave(zonal, meridional, zonal * 12 / RADIUS_M, amplitude)


def _mesoscale(wavelength_km: float, direction: float, speed: float, amplitude: float) -> Wave:
    """Return a wave in the window, with its wave vector `direction` degrees north of east at the window's centre."""
    wavenumber = 2 * math.pi / (wavelength_km * 1000)
    x, y = wavenumber * math.cos(math.radians(direction)), wavenumber * math.sin(math.radians(direction))
    parallel_m = RADIUS_M * math.cos(math.radians(WINDOW_LATITUDE))
    return Wave(x * parallel_m, y * RADIUS_M, wavenumber * speed, amplitude, mesoscale=True)


WAVES = (
    _synoptic(2, 3, -8.0, 36),
    _synoptic(3, -4, 9.0, 38),
    _synoptic(4, 3, 5.9, 40),
    _synoptic(5, -5, 4.9, 46),
    _synoptic(6, 4, 4.3, 46),
    _synoptic(7, -3, 3.9, 40),
    _synoptic(8, 5, 3.5, 32),
    _synoptic(9, -4, 3.3, 24),
    _advected(10, 6, 9.0),
    _advected(12, -8, 7.5),
    _advected(14, 5, 6.0),
    _advected(16, -7, 5.0),
    _mesoscale(450, 10, 3.0, 2.2),
    _mesoscale(520, 50, 3.2, 2.5),
    _mesoscale(600, -30, 3.4, 2.8),
    _mesoscale(680, 25, 3.6, 3.1),
    _mesoscale(780, 70, 3.8, 3.5),
    _mesoscale(900, -10, 4.0, 4.0),
)

# Phases spread evenly by the golden ratio: reproducible without a random generator, whose stream may change.
_PHASES = 2 * math.pi * ((np.arange(len(WAVES)) + 1) * _GOLDEN % 1)
_ZONAL, _MERIDIONAL = np.array([(wave.zonal, wave.meridional) for wave in WAVES]).T[:, :, None]
_MESOSCALE = np.array([wave.mesoscale for wave in WAVES])
_AMPLITUDES = np.array([wave.amplitude for wave in WAVES])
_FREQUENCIES = np.array([wave.frequency for wave in WAVES])
_TILTS = np.where(_MESOSCALE, 0.0, 0.7)

# By level, a column. Height Z (m) of the mean atmosphere, its hydrostatic temperature (K), and the height difference D
# (m) between equator and pole with its derivative by s.
_S = np.log(1000.0 / np.array(LEVELS_HPA))[:, None]
_MEAN_HEIGHT = 110.0 + GAS_CONSTANT / GRAVITY * (286.0 * _S - 27.8 * _S**2 + 3.145 * _S**3)
_MEAN_TEMPERATURE = 286.0 - 55.6 * _S + 9.435 * _S**2
_CONTRAST, _CONTRAST_SLOPE = 100.0 + 1050.0 * _S - 250.0 * _S**2, 1050.0 - 500.0 * _S
_MOISTURE = 0.55 * np.exp(-0.5 * _S)
# By level and wave. Amplitude V and height (m); derivatives of the height by s, in phase and a quarter of a wavelength
# ahead, of the mesoscale waves 0.45 K at 1000 hPa; vertical velocity (m/s), none at the ground and little on top.
_VERTICAL = np.where(_MESOSCALE, np.exp(-_S), 0.45 + 1.1 * _S - 0.4 * _S**2)
_HEIGHT = _AMPLITUDES * _VERTICAL
_BY_S_COS = _AMPLITUDES * np.where(_MESOSCALE, -np.exp(-_S), 1.1 - 0.8 * _S)
_BY_S_SIN = _VERTICAL * np.where(_MESOSCALE, 0.45 * GAS_CONSTANT / GRAVITY, -_AMPLITUDES * _TILTS)
_LIFT = 0.0012 * np.sin(math.pi * (_S + 0.05) / 2.4) * np.sqrt(_AMPLITUDES)

# latitude, longitude, half widths (degrees of arc), height (m)
_MOUNTAINS = (
    (47.0, 244.0, 7.0, 4.5, 1700.0),  # Rockies, north
    (38.5, 252.5, 6.5, 5.5, 2400.0),  # Rockies, south
    (36.5, 280.0, 4.0, 2.5, 550.0),  # Appalachians
    (-20.0, 291.5, 16.0, 3.0, 3300.0),  # Andes
    (33.0, 88.0, 7.0, 13.0, 4600.0),  # Tibet
    (74.0, 320.0, 8.0, 6.0, 2600.0),  # Greenland
    (-90.0, 0.0, 14.0, 14.0, 2800.0),  # Antarctica
    (46.0, 10.0, 2.5, 5.0, 1300.0),  # Alps
    (5.0, 37.0, 12.0, 5.0, 1400.0),  # East Africa
)

# latitude, longitude, half axes (degrees of latitude, of longitude)
_CONTINENTS = (
    (47.0, 261.0, 22.0, 34.0),  # North America
    (-15.0, 300.0, 27.0, 19.0),  # South America
    (5.0, 20.0, 29.0, 24.0),  # Africa
    (52.0, 80.0, 24.0, 78.0),  # Eurasia
    (-25.0, 134.0, 12.0, 19.0),  # Australia
    (74.0, 320.0, 9.0, 22.0),  # Greenland
    (-90.0, 0.0, 19.0, 1e9),  # Antarctica
)


def variable_names() -> list[str]:
    """Return the names of the 83 variables: pressure levels such as `gh_500`, then the surface."""
    return [f"{name}_{level}" for name in LEVEL_UNITS for level in LEVELS_HPA] + list(SURFACE_UNITS)


def saturation(temperature: ArrayLike, pressure_pa: ArrayLike) -> Floats:
    """Return the specific humidity (kg/kg) of air saturated over water (Bolton, 1980), for K and Pa."""
    celsius = np.asarray(temperature, dtype=np.float64) - 273.15
    vapour_pa = 611.2 * np.exp(17.67 * celsius / (celsius + 243.5))
    return 0.622 * vapour_pa / np.maximum(np.asarray(pressure_pa, dtype=np.float64) - 0.378 * vapour_pa, vapour_pa)


def window(latitudes: ArrayLike, longitudes: ArrayLike) -> Floats:
    """Return the weight of the mesoscale structure: 1 in the centre of the contiguous US, exactly 0 outside an ellipse.

    Parameters
    ----------
    latitudes, longitudes : array_like, shape (...)
        Degrees.

    Returns
    -------
    ndarray, shape (...)
    """
    return _window(*_radians(latitudes, longitudes))[0]


def _radians(latitudes: ArrayLike, longitudes: ArrayLike) -> tuple[Floats, Floats]:
    """Return latitude, and longitude within 180 degrees of the window's centre, where fractional wavenumbers jump."""
    lat = np.deg2rad(np.asarray(latitudes, dtype=np.float64))
    lon = np.asarray(longitudes, dtype=np.float64)
    return lat, np.deg2rad((lon - WINDOW_LONGITUDE + 180) % 360 - 180)


def _window(phi: Floats, lam: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the window and its derivatives by longitude and latitude (per radian)."""
    x_scale = RADIUS_M * math.cos(math.radians(WINDOW_LATITUDE)) / WINDOW_HALF_X_M
    y_scale = RADIUS_M / WINDOW_HALF_Y_M
    x, y = lam * x_scale, (phi - math.radians(WINDOW_LATITUDE)) * y_scale
    inside = np.maximum(1 - x**2 - y**2, 0)
    slope = -6 * inside**2
    return inside**3, slope * x * x_scale, slope * y * y_scale


def _global_envelope(phi: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the envelope of the global waves, about 1 in mid-latitudes and 0 at the poles, and its derivatives."""
    cos2, sin2 = np.cos(phi) ** 2, np.sin(phi) ** 2
    return cos2 * (1 + 6 * sin2) / 2, np.zeros_like(phi), np.sin(2 * phi) * (6 * cos2 - 6 * sin2 - 1) / 2


def _lifted(w: Floats) -> Floats:
    """Return the factor by which air that rises at `w` (m/s) is more humid."""
    return 1 + 0.6 * np.tanh(w / 0.03)


class Atmosphere:
    """The sample atmosphere on given points.

    Everything independent of time is computed once; a state then takes a few matrix products.

    Parameters
    ----------
    latitudes, longitudes : array_like, shape (...)
        Degrees.
    """

    def __init__(self, latitudes: ArrayLike, longitudes: ArrayLike) -> None:
        self.shape = np.shape(latitudes)
        self._latitudes = np.asarray(latitudes, dtype=np.float64).ravel()
        self._longitudes = np.asarray(longitudes, dtype=np.float64).ravel()
        self._phi, self._lam = _radians(self._latitudes, self._longitudes)
        # 1/f away from the equator, and 0 on it.
        f = 2 * ROTATION * np.sin(np.deg2rad(self._latitudes))
        self._coriolis = f / (f**2 + F0**2)
        self._value, self._east, self._north = self._basis()
        self._land = self._land_sea_mask()
        self._orography = self._mountains()

    def _basis(self) -> tuple[Floats, Floats, Floats]:
        """Return each wave's envelope times cosine and sine at time zero, and its derivatives eastward and northward.

        Each has shape (2 waves, points): all cosines, then all sines; derivatives are per metre.
        """
        # cos(latitude) is 0 at a pole, where every envelope vanishes faster.
        parallel_m = RADIUS_M * np.maximum(np.cos(self._phi), 1e-9)
        envelopes = zip(_window(self._phi, self._lam), _global_envelope(self._phi))
        envelope, by_lam, by_phi = (np.where(_MESOSCALE[:, None], inside, globe) for inside, globe in envelopes)
        phase = _ZONAL * self._lam + _MERIDIONAL * self._phi + _PHASES[:, None]
        cos, sin = np.cos(phase), np.sin(phase)
        harmonic, slope = np.stack([cos, sin]), np.stack([-sin, cos])
        value = envelope * harmonic
        east = (by_lam * harmonic + envelope * _ZONAL * slope) / parallel_m
        north = (by_phi * harmonic + envelope * _MERIDIONAL * slope) / RADIUS_M
        flat = (2 * len(WAVES), -1)
        return value.reshape(flat), east.reshape(flat), north.reshape(flat)

    def _mountains(self) -> Floats:
        height = np.zeros_like(self._phi)
        for lat, lon, half_lat, half_lon, top in _MOUNTAINS:
            dx = ((self._longitudes - lon + 180) % 360 - 180) * np.cos(self._phi)
            height += top * np.exp(-(((self._latitudes - lat) / half_lat) ** 2) - (dx / half_lon) ** 2)
        # Cut the tails of the bells, which would extend around the globe.
        height[height < 0.01] = 0
        # Ridges some 500 km apart on all mountains, finer than a coarse global grid.
        return height * (1 + 0.2 * np.cos(60 * self._lam + 20 * self._phi))

    def _land_sea_mask(self) -> Floats:
        shore = 1 + 0.15 * np.sin(9 * self._lam) * np.cos(11 * self._phi)
        land = np.zeros(len(self._phi), dtype=bool)
        for lat, lon, half_lat, half_lon in _CONTINENTS:
            dx = (self._longitudes - lon + 180) % 360 - 180
            land |= ((self._latitudes - lat) / half_lat) ** 2 + (dx / half_lon) ** 2 < shore
        return land.astype(np.float64)

    def state(self, valid_time: datetime) -> dict[str, Floats]:
        """Return all variables at one time.

        Parameters
        ----------
        valid_time : datetime
            UTC, without a time zone.

        Returns
        -------
        dict of str to ndarray
            By the names of `variable_names`, in that order; each array has the shape of the points.
        """
        seconds = (valid_time - EPOCH).total_seconds()
        angle = _TILTS * _S - _FREQUENCIES * seconds
        cos, sin = np.cos(angle), np.sin(angle)
        # cos(base + angle) = cos(base) cos(angle) - sin(base) sin(angle): weights of the two halves of the basis.
        weights = np.concatenate([_HEIGHT * cos, -_HEIGHT * sin], axis=1)
        by_s = np.concatenate([_BY_S_COS * cos + _BY_S_SIN * sin, _BY_S_SIN * cos - _BY_S_COS * sin], axis=1)
        ahead = np.concatenate([-_LIFT * sin, -_LIFT * cos], axis=1)

        shape_of_mean = np.cos(self._phi) ** 2 - 2 / 3
        mean_north = -np.sin(2 * self._phi) / RADIUS_M

        gh = weights @ self._value + _CONTRAST * shape_of_mean + _MEAN_HEIGHT
        u = -GRAVITY * self._coriolis * (weights @ self._north + _CONTRAST * mean_north)
        v = GRAVITY * self._coriolis * (weights @ self._east)
        t = by_s @ self._value + _CONTRAST_SLOPE * shape_of_mean
        t = t * (GRAVITY / GAS_CONSTANT) + _MEAN_TEMPERATURE
        w = ahead @ self._value
        q = _MOISTURE * _lifted(w) * saturation(t, 100.0 * np.array(LEVELS_HPA)[:, None])

        fields = dict(zip(variable_names(), np.concatenate([gh, u, v, w, t, q])))  # the surface's names come last
        fields |= self._surface(fields, valid_time)
        return {name: fields[name].reshape(self.shape) for name in variable_names()}

    def _surface(self, fields: dict[str, Floats], valid_time: datetime) -> dict[str, Floats]:
        land, orog = self._land, self._orography
        hour = valid_time.hour + valid_time.minute / 60 + self._longitudes / 15
        # Warmest at three in the afternoon.
        daily = land * np.cos(self._phi) * np.cos((hour - 15) / 24 * 2 * math.pi)
        lowest = fields["t_1000"] - 0.0065 * orog
        t2m = lowest + 4.0 * daily
        layer_mean = (fields["t_1000"] + lowest) / 2
        sp = 1e5 * np.exp((fields["gh_1000"] - orog) * GRAVITY / (GAS_CONSTANT * layer_mean))
        humidity = 0.55 * _lifted(fields["w_925"]) + 0.1 * (1 - land)
        slow10, slow80 = 0.8 - 0.2 * land, 0.95 - 0.1 * land
        return {
            "sp": sp,
            "u10": slow10 * fields["u_1000"],
            "v10": slow10 * fields["v_1000"],
            "t2m": t2m,
            "t_surface": lowest + 7.0 * daily,
            "sh2": humidity * saturation(t2m, sp),
            "u80": slow80 * fields["u_1000"],
            "v80": slow80 * fields["v_1000"],
            "accum_tp": 3e4 * np.maximum(fields["w_700"], 0) * fields["q_850"],
            "lsm": land,
            "orog": orog,
        }
