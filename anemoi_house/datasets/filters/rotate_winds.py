"""The filter `house-rotate-winds`: winds along the axes of a Lambert grid become eastward and northward winds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anemoi.transform.fields import new_field_from_numpy, new_fieldlist_from_list

from anemoi_house.datasets.filters.base import HouseFilter, required
from anemoi_house.datasets.regrid import LambertRotation
from anemoi_house.errors import HouseError

DEFAULT_PAIRS = (("u", "v"), ("u10", "v10"), ("u80", "v80"))
"""Names of the wind components in the experiments' datasets."""

_EXAMPLE = "such as [[u, v], [u10, v10]]."

_SHARED = ("levtype", "typeOfLevel", "levelist", "level", "valid_datetime", "number")
"""Metadata that are equal for both components of a wind."""


class HouseRotateWinds(HouseFilter):
    """Rotates winds along the axes of a Lambert grid to eastward and northward winds.

    Only winds that are relative to their grid, `uvRelativeToGrid: 1`, are rotated; the results have 0. All other fields
    are passed through, in the same order. Rotating block means instead of fine fields is 25 times less work, and the
    angle hardly changes over a block.

    Parameters
    ----------
    pairs : list of pairs of str
        Names of the components along x and y, by default `u` and `v`, `u10` and `v10`, `u80` and `v80`.

    Raises
    ------
    CommandError
        For invalid settings, a component without the other, and a grid that is not Lambert.
    """

    NAME = "house-rotate-winds"
    KEYS = ("pairs",)

    def __init__(self, pairs: Any = None, **unknown: Any) -> None:
        super().__init__(**unknown)
        pairs = DEFAULT_PAIRS if pairs is None else pairs
        if not _is_list(pairs) or not all(_is_list(pair) and len(pair) == 2 for pair in pairs):
            raise self.mistake(f"pairs: {pairs!r} must be a list of pairs of names, {_EXAMPLE}")
        names = [name for pair in pairs for name in pair]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise self.mistake(f"pairs: {pairs!r} must name each component once, {_EXAMPLE}")
        self._components = {name: (tuple(pair), axis) for pair in pairs for axis, name in enumerate(pair)}

    def forward(self, data: Any) -> Any:
        """Return the fields in the same order, with rotated winds."""
        fields = list(data)
        rotation = _LastRotation()
        for first, second in self._winds(fields):
            u, v = fields[first], fields[second]
            try:
                rotated = rotation.of(u)(u.to_numpy(), v.to_numpy())
            except HouseError as mistake:
                raise self.mistake(mistake, u) from None
            for position, values, template in zip((first, second), rotated, (u, v)):
                fields[position] = new_field_from_numpy(values, template=template, uvRelativeToGrid=0)
        return new_fieldlist_from_list(fields)

    def _winds(self, fields: Sequence[Any]) -> list[tuple[int, int]]:
        """Return the positions of both components of each wind that is relative to its grid."""
        winds: dict[tuple[Any, ...], dict[int, int]] = {}
        for position, field in enumerate(fields):
            pair, axis = self._components.get(field.metadata("param"), (None, 0))
            if pair is None or field.metadata("uvRelativeToGrid", default=0) != 1:
                continue
            wind = winds.setdefault((pair, *field.metadata(*_SHARED, default=None)), {})
            if axis in wind:
                raise self.mistake("it occurs twice.", field)
            wind[axis] = position
        for (pair, *_), wind in winds.items():
            if len(wind) == 1:
                ((axis, position),) = wind.items()
                raise self.mistake(
                    f"it is relative to its grid, but '{pair[1 - axis]}' of the same level and time is not, or is "
                    "missing. Read both from the source.",
                    fields[position],
                )
        return [(wind[0], wind[1]) for wind in winds.values()]


class _LastRotation:
    """The rotation of one field after the other, rebuilt only if the points or the cone change."""

    def __init__(self) -> None:
        self._longitudes: Any = None
        self._cone: tuple[float, ...] = ()
        self._rotation: LambertRotation | None = None

    def of(self, field: Any) -> LambertRotation:
        kind = field.metadata("gridType", default=None)
        if kind != "lambert":
            raise HouseError(f"gridType: {kind!r} is not supported. Only winds on 'lambert' can be rotated.")
        cone = required(field, ("Latin1InDegrees", "Latin2InDegrees", "LoVInDegrees"))
        longitudes = field.grid_points()[1]
        if self._rotation is None or longitudes is not self._longitudes or cone != self._cone:
            self._cone, self._longitudes = cone, longitudes
            self._rotation = LambertRotation(longitudes.reshape(field.shape), cone[:2], cone[2])
        return self._rotation


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
