"""Jump, kink and ripple at the boundary: of the error, of the forecast alone and of the analysis alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from anemoi_house.boundary.significance import (
    BETTER,
    FEWEST_DATES,
    HIGHER,
    LOWER,
    WORSE,
    Difference,
    Stretches,
    paired_difference,
)
from anemoi_house.geometry import Floats
from anemoi_house.scores.score import Fields, Kind, Score

ARTIFACT = "the artifact is more than noise"

_PREFIXES: dict[Kind, str] = {"error": "", "forecast": "forecast_", "analysis": "analysis_"}


class Excess(Score):
    """Jump, kink or ripple at the boundary in excess of that elsewhere; see `boundary.index`."""

    def __init__(self, part: Literal["jump", "kink", "ripple"], of: Kind) -> None:
        self._part, self.of = part, of
        self.name, self.label = f"{_PREFIXES[of]}{part}", f"{part} of the {of}"
        self.per = "100 km" if part == "kink" else ""

    def values(self, fields: Fields) -> Floats:
        """Return signed squares."""
        return getattr(fields.index, self._part).squared


class Jump(Excess):
    """The jump, compared along the boundary too."""

    has_stretches = True

    def __init__(self, of: Kind) -> None:
        super().__init__("jump", of)
        self.table_leads = "all" if of == "error" else ""

    def stretches(self, fields: Fields) -> Floats:
        """Return signed squares by stretches of the boundary."""
        return fields.index.jump.stretches

    def compare(self, ours: Floats, theirs: Floats, stretches: Stretches | None) -> Difference | None:
        """Return the difference: neither is better where the larger jump is not an artifact."""
        difference = super().compare(ours, theirs, stretches)
        if difference is None or stretches is None or difference.verdict not in (BETTER, WORSE):
            return difference
        better = difference.verdict == BETTER
        larger = (theirs, stretches.theirs) if better else (ours, stretches.ours)
        is_artifact = artifact(*larger) == ARTIFACT
        return difference if is_artifact else replace(difference, verdict=LOWER if better else HIGHER)


class Along(Score):
    """Change of a field along the boundary over the distance of the jump: the unit of the artifact index."""

    def __init__(self, of: Kind) -> None:
        self.of, self.name, self.label = of, f"{_PREFIXES[of]}along", f"change of the {of} along the boundary"

    def values(self, fields: Fields) -> Floats:
        """Return squares."""
        return fields.index.jump.scale**2


def artifact(jump: Floats, stretches: Floats) -> str:
    """Say whether a jump differs from none by more than noise.

    Parameters
    ----------
    jump : ndarray, shape (trainings, dates)
        Signed squares.
    stretches : ndarray, shape (trainings, dates, stretches)
        The same by stretches of the boundary.
    """
    none = Stretches(stretches, np.zeros_like(stretches), same=True)
    found = paired_difference(jump, np.zeros_like(jump), squares=True, stretches=none)
    intervals = [(found.low, found.high), (found.edge_low, found.edge_high)]
    if found.dates < FEWEST_DATES:
        return "too few dates to tell whether there is an artifact"
    if all(low is not None and low > 0 for low, _ in intervals):
        return ARTIFACT
    if all(high is not None and high < 0 for _, high in intervals):
        return "smoother at the boundary than elsewhere"
    return "no artifact beyond noise"


ARTIFACT_SCORES: tuple[Score, ...] = tuple(
    score for of in _PREFIXES for score in (Jump(of), Excess("kink", of), Excess("ripple", of), Along(of))
)
