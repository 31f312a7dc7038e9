"""The artifact index: how a field changes across the border of the LAM, compared with places away from it.

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
"""Kinks are changes of slope per this many km."""

LEVEL = 0.95
"""Of all confidence intervals."""

MEASURES = ("jump", "kink", "ripple", "ripple_inside", "ripple_outside")


def signed_root(squared: ArrayLike) -> Floats:
    """Return the square root of the absolute value, with the sign kept."""
    squared = np.asarray(squared, dtype=np.float64)
    return np.sign(squared) * np.sqrt(np.abs(squared))


@dataclass(frozen=True)
class Excess:
    """Variability of a field at the border in excess of that elsewhere; arrays have the shape of the fields.

    Attributes
    ----------
    squared : ndarray
        Mean square at the border minus that away from it, in squared units. Negative where the field is smoother at
        the border than elsewhere. Average this over dates, not `value`.
    margin : ndarray
        Half the width of the 95 % interval of `squared`, from its spread over stretches of the border and, after
        `mean`, over dates: the wider of the two.
    background : ndarray
        Root mean square away from the border, in units.
    scale : ndarray
        Scale of `value`, in units: for jumps and kinks the root mean square of the same difference along the border,
        for ripples the background.
    stretches : ndarray, shape (..., blocks)
        `squared` of each stretch of the border.
    """

    squared: Floats
    margin: Floats
    background: Floats
    scale: Floats
    stretches: Floats

    @property
    def value(self) -> Floats:
        """The excess in units: zero without an artifact, else its size."""
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
        """The value over the scale: dimensionless, to compare variables.

        Zero where the value is zero, infinite where only the artifact varies.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.squared == 0, 0.0, self.value / self.scale)

    def mean(self, axis: int = 0) -> Excess:
        """Average over an axis, such as the dates.

        The margin is that over dates or that over stretches of the mean, whichever is wider: features that stay in
        place, such as mountains in the temperature, vary along the border but not in time. An axis of length one leaves
        the spread along the border.
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
class ArtifactIndex:
    """Jump, kink and ripple of fields at the border of the LAM.

    Attributes
    ----------
    jump : Excess
        Difference between the values just outside and just inside, in the field's units.
    kink : Excess
        Difference of the slopes across the border, in units per 100 km.
    ripple, ripple_inside, ripple_outside : Excess
        Short waves next to the border, root mean square in units: on both sides, and on each.
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
        """Average over an axis of the fields, such as the dates; see `Excess.mean`."""
        axis = axis % (self.jumps.ndim - 1)  # jumps have one more axis, for the sites
        means = {name: getattr(self, name).mean(axis) for name in MEASURES}
        return replace(self, **means, jumps=self.jumps.mean(axis=axis))


def artifact_index(band: Band, field: ArrayLike) -> ArtifactIndex:
    """Measure jump, kink and ripple of fields at the border of the LAM.

    Parameters
    ----------
    band : Band
        Of the grid of the fields.
    field : array_like, shape (..., nodes)
        Forecast errors, forecasts, or analyses.

    Raises
    ------
    HouseError
        If values are not finite, or the number of nodes is not the band's.
    """
    field = np.asarray(field)
    if field.shape[-1:] != (band.number_of_nodes,):
        raise HouseError(
            f"Fields of shape {field.shape} do not match a grid of {band.number_of_nodes:,} nodes. Put the nodes on "
            "the last axis, and make the band from the same grid."
        )
    require_finite(field)
    measured = _measure(band, field.reshape(-1, field.shape[-1]))
    shaped = {
        name: [part.reshape((*field.shape[:-1], *part.shape[1:])) for part in parts] for name, parts in measured.items()
    }
    return ArtifactIndex(**{name: Excess(*shaped[name]) for name in MEASURES}, jumps=shaped["jumps"][0])


def require_finite(field: np.ndarray) -> None:
    """Raise `HouseError` if a value is not finite: averaging would hide it or spread it."""
    if np.isfinite(field.sum(axis=-1, dtype=np.float64)).all():
        return
    broken = ~np.isfinite(field)
    fields = int(broken.any(axis=-1).sum())
    raise HouseError(
        f"{int(broken.sum()):,} of {broken.size:,} values are not finite, in {fields} of "
        f"{broken.size // broken.shape[-1]} fields. Leave out those fields (dates, lead times), and report it."
    )


def _measure(band: Band, fields: np.ndarray) -> dict[str, tuple[Floats, ...]]:
    """Return the arguments of `Excess` for each measure, and the jumps, for fields of shape (fields, nodes)."""
    field = fields[:, band.nodes].T.astype(np.float64)
    field -= field.mean(axis=0)  # for precision; a constant changes nothing
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

    def excess(at: Floats, away: Floats, along: list[Floats] | None = None, unit: float = 1.0) -> tuple[Floats, ...]:
        squared = (at - away) * unit**2
        stretches = _stretches(band, squared)
        background = np.sqrt(away.mean(axis=0))
        scale = background if along is None else np.sqrt(np.mean([_along(band, side) for side in along], axis=0))
        return squared.mean(axis=0), _margin(stretches, axis=-1), background * unit, scale * unit, stretches

    return {
        "jump": excess(jumps[1], for_jump * jumps_away, [before[1], after[1]]),
        "kink": excess(kinks[1], for_kink * kinks_away, [slopes[1], slopes[2]], KINK_KM),
        "ripple": excess((inner + outer) / 2, for_both * (deep + far) / 2),
        "ripple_inside": excess(inner, for_inside * deep),
        "ripple_outside": excess(outer, for_outside * far),
        "jumps": ((after[1] - before[1]).T,),
    }


def _along(band: Band, side: Floats) -> Floats:
    """Return the mean square difference between sites that are a box width apart along the border."""
    one, other = band.partners.T
    return ((side[one] - side[other]) ** 2).mean(axis=0)


def _stretches(band: Band, at_sites: Floats) -> Floats:
    """Return means over the sites of each block: shape (fields, blocks)."""
    sizes = np.bincount(band.blocks)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return (np.add.reduceat(at_sites, starts, axis=0) / sizes[:, None]).T


def _margin(samples: Floats, axis: int) -> Floats:
    number = samples.shape[axis]
    return samples.std(axis=axis, ddof=1) / np.sqrt(number) * stdtrit(number - 1, 0.5 + LEVEL / 2)
