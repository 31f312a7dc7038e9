"""The artifact index: what a field does across the edge of the LAM, beyond what it does along it and away from it.

Arrays in, arrays out: numpy and scipy alone. Formulas, limits and references: docs/boundary.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from anemoi_house.boundary.band import Band
from anemoi_house.errors import HouseError
from anemoi_house.geometry import Bools, Floats

KINK_KM = 100.0
"""Kinks are slopes per so many km."""

CONFIDENCE = 0.95

_FIELDS_AT_ONCE = 64


def signed_root(squared: ArrayLike) -> Floats:
    """Square root of the size, with the sign kept."""
    squared = np.asarray(squared, dtype=np.float64)
    return np.sign(squared) * np.sqrt(np.abs(squared))


@dataclass(frozen=True)
class Excess:
    """What a field does at the edge beyond what it does elsewhere, each array of the shape of the fields.

    Attributes
    ----------
    squared : ndarray
        Mean square at the edge minus that away from it, in squared units. Negative where the field is smoother at
        the edge than elsewhere. Means over dates are means of this, not of `value`.
    margin : ndarray
        Half of the 95 % interval of `squared`, from its spread over stretches of the edge, and after `mean` over dates
        too, whichever is wider.
    background : ndarray
        Root mean square away from the edge, in units.
    scale : ndarray
        What `value` is compared with, in units: for jumps and kinks the root mean square of the same difference taken
        along the edge, for ripples the background.
    stretches : ndarray, shape (..., blocks)
        `squared` of each stretch of the edge alone.
    """

    squared: Floats
    margin: Floats
    background: Floats
    scale: Floats
    stretches: Floats

    @property
    def value(self) -> Floats:
        """The excess in units: zero without an artifact, and the size of one that is there."""
        return signed_root(self.squared)

    @property
    def low(self) -> Floats:
        """Lower end of the 95 % interval of the value."""
        return signed_root(self.squared - self.margin)

    @property
    def high(self) -> Floats:
        """Upper end of the 95 % interval of the value."""
        return signed_root(self.squared + self.margin)

    @property
    def beyond_noise(self) -> Bools:
        """Whether the whole interval lies above zero."""
        return self.squared > self.margin

    @property
    def index(self) -> Floats:
        """The value over the scale: without units, to compare variables.

        Zero where the value is, and infinite where nothing but the artifact varies.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.squared == 0, 0.0, self.value / self.scale)

    def mean(self, axis: int = 0) -> Excess:
        """Mean over an axis, such as that of the dates.

        The margin is that of the spread over dates or that of the stretches of the mean, whichever is wider: what stays
        in place from date to date, such as mountains in the temperature, is chance along the edge but not in time. Over
        an axis of length one there is the spread along the edge alone.
        """
        axis = axis % self.squared.ndim
        stretches = self.stretches.mean(axis=axis)
        margin = _margin(stretches, axis=-1)
        if self.squared.shape[axis] > 1:
            margin = np.maximum(margin, _margin(self.squared, axis))
        return Excess(
            squared=self.squared.mean(axis=axis),
            margin=margin,
            background=np.sqrt((self.background**2).mean(axis=axis)),
            scale=np.sqrt((self.scale**2).mean(axis=axis)),
            stretches=stretches,
        )


@dataclass(frozen=True)
class Comparison:
    """Difference between two runs, with its 95 % interval over dates.

    Attributes
    ----------
    difference : ndarray
        Value of the first minus value of the second, in units.
    low, high : ndarray
        Ends of the interval; NaN for a single date.
    number : int
        Dates.
    """

    difference: Floats
    low: Floats
    high: Floats
    number: int

    @property
    def beyond_noise(self) -> Bools:
        """Whether zero lies outside of the interval: never for a single date."""
        return (self.low > 0) | (self.high < 0)


def compare(first: Excess, second: Excess, axis: int = 0, samples: int = 1000, seed: int = 0) -> Comparison:
    """Whether two runs differ by more than noise, by a bootstrap over dates.

    Both runs are resampled alike, so that what the weather does to both cancels.

    Parameters
    ----------
    first, second : Excess
        Of the same dates in the same order.
    axis : int
        That of the dates.
    samples, seed : int
        Of the bootstrap.

    Raises
    ------
    HouseError
        Where the two have different shapes.
    """
    if first.squared.shape != second.squared.shape:
        raise HouseError(
            f"runs cannot be compared date by date: one has values of shape {first.squared.shape}, the other of "
            f"{second.squared.shape}. Give both the same dates, lead times and variables."
        )
    both = [np.moveaxis(each.squared, axis, 0) for each in (first, second)]
    number = len(both[0])
    difference = signed_root(both[0].mean(axis=0)) - signed_root(both[1].mean(axis=0))
    if number < 2:
        nothing = np.full_like(difference, np.nan)
        return Comparison(difference, nothing, nothing, number)
    draws = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=samples) / number
    values = [signed_root(np.tensordot(draws, each, axes=1)) for each in both]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[0] - values[1], [tail, 1 - tail], axis=0)
    return Comparison(difference, low, high, number)


@dataclass(frozen=True)
class ArtifactIndex:
    """What a field does at the edge of the LAM.

    Attributes
    ----------
    jump : Excess
        Difference of the values just outside and just inside, in the field's units.
    kink : Excess
        Difference of the slopes across the edge, in units per 100 km.
    ripple, ripple_inside, ripple_outside : Excess
        Short waves next to the edge, as a root mean square in units: on both sides, and on each.
    jumps : ndarray, shape (..., sites)
        Value outside minus value inside at each site of the band.
    """

    jump: Excess
    kink: Excess
    ripple: Excess
    ripple_inside: Excess
    ripple_outside: Excess
    jumps: Floats

    def mean(self, axis: int = 0) -> ArtifactIndex:
        """Mean over an axis of the fields, such as that of the dates; see `Excess.mean`."""
        axis = axis % (self.jumps.ndim - 1)  # jumps have one axis more, for the sites
        names = ("jump", "kink", "ripple", "ripple_inside", "ripple_outside")
        means = {name: getattr(self, name).mean(axis) for name in names}
        return replace(self, **means, jumps=self.jumps.mean(axis=axis))


def artifact_index(band: Band, field: ArrayLike) -> ArtifactIndex:
    """Jump, kink and ripple of fields at the edge of the LAM.

    Parameters
    ----------
    band : Band
        Of the grid of the fields.
    field : array_like, shape (..., nodes)
        Forecast errors, forecasts, or analyses.

    Raises
    ------
    HouseError
        For values that are not finite, or another number of nodes than the band's.
    """
    field = np.asarray(field)
    if field.shape[-1:] != (band.number_of_nodes,):
        raise HouseError(
            f"fields of shape {field.shape} do not belong to a grid of {band.number_of_nodes:,} nodes: the nodes must "
            "be the last axis, and the band made of the same grid."
        )
    require_finite(field)
    flat = field.reshape(-1, field.shape[-1])
    parts = [
        _of_some(band, flat[start : start + _FIELDS_AT_ONCE]) for start in range(0, max(len(flat), 1), _FIELDS_AT_ONCE)
    ]
    shape = field.shape[:-1]

    def joined(name: str) -> Excess:
        columns = zip(*(part[name] for part in parts))
        each = [np.concatenate(column) for column in columns]
        return Excess(*(part.reshape((*shape, *part.shape[1:])) for part in each))

    jumps = np.concatenate([part["jumps"][0] for part in parts])
    return ArtifactIndex(
        jump=joined("jump"),
        kink=joined("kink"),
        ripple=joined("ripple"),
        ripple_inside=joined("ripple_inside"),
        ripple_outside=joined("ripple_outside"),
        jumps=jumps.reshape((*shape, len(band.sites))),
    )


def require_finite(field: np.ndarray) -> None:
    """Refuse values that are not finite: averaged, they would hide or spread.

    Raises
    ------
    HouseError
    """
    if np.isfinite(field.sum(axis=-1, dtype=np.float64)).all():
        return
    broken = ~np.isfinite(field)
    fields = int(broken.any(axis=-1).sum())
    raise HouseError(
        f"{int(broken.sum()):,} of {broken.size:,} values are not finite, in {fields} of "
        f"{broken.size // broken.shape[-1]} fields: leave those fields (dates, lead times) out, and say so."
    )


def _of_some(band: Band, fields: np.ndarray) -> dict[str, tuple[Floats, ...]]:
    field = fields[:, band.nodes].T.astype(np.float64)
    field -= field.mean(axis=0)  # a constant changes nothing, and digits are kept
    before, after = band.values(field)
    slopes = band.slopes(field)
    deep, inner, outer, far = band.roughness(field)

    jumps, kinks = (after - before) ** 2, np.diff(slopes, axis=0) ** 2
    jumps_away, kinks_away = (
        inside[:, None] * squares[0] + outside[:, None] * squares[2]
        for (inside, outside), squares in zip(band.weights, (jumps, kinks))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        smoothness = jumps_away.mean(axis=0) / (kinks_away.mean(axis=0) * band.cell_km**2)
    for_jump, for_kink, for_both, for_inside, for_outside = band.ratios_at(smoothness)

    def excess(edge: Floats, away: Floats, beside: list[Floats] | None = None, unit: float = 1.0) -> tuple[Floats, ...]:
        squared = (edge - away) * unit**2
        stretches = _stretches(band, squared)
        background = np.sqrt(away.mean(axis=0))
        scale = background if beside is None else np.sqrt(np.mean([_beside(band, side) for side in beside], axis=0))
        return squared.mean(axis=0), _margin(stretches, axis=-1), background * unit, scale * unit, stretches

    return {
        "jump": excess(jumps[1], for_jump * jumps_away, [before[1], after[1]]),
        "kink": excess(kinks[1], for_kink * kinks_away, [slopes[1], slopes[2]], KINK_KM),
        "ripple": excess((inner + outer) / 2, for_both * (deep + far) / 2),
        "ripple_inside": excess(inner, for_inside * deep),
        "ripple_outside": excess(outer, for_outside * far),
        "jumps": ((after[1] - before[1]).T,),
    }


def _beside(band: Band, side: Floats) -> Floats:
    """Mean square difference between sites that are a box apart along the edge."""
    one, other = band.partners.T
    return ((side[one] - side[other]) ** 2).mean(axis=0)


def _stretches(band: Band, at_sites: Floats) -> Floats:
    """Means over the sites of each block: shape (fields, blocks)."""
    sizes = np.bincount(band.blocks)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return (np.add.reduceat(at_sites, starts, axis=0) / sizes[:, None]).T


def _margin(samples: Floats, axis: int) -> Floats:
    number = samples.shape[axis]
    return samples.std(axis=axis, ddof=1) / np.sqrt(number) * stdtrit(number - 1, 0.5 + CONFIDENCE / 2)
