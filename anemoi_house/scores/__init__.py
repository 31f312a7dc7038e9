"""Scores of forecasts by region and at the boundary, and comparisons of runs.

A score is a class in one file. It says

- `of` which fields it is computed: the error of a forecast, the forecast alone, or the analysis alone;
- its `values` at each lead time, from `Fields`: the fields, their grid, the weights of the regions, and statistics that
  several scores share, computed once;
- whether these are (signed) squares, which are averaged over dates before the root is taken, or plain means;
- how two experiments are compared: paired over dates, and along the boundary where it has values by `stretches`;
- its words: label, units, and the lead times at which the tables show it.

Everything else works for any score: `runs` finds what the runs have in common, `comparison` computes the scores of
each run, lead time and date, `tables` compares experiments, and the report writes and draws what is registered here.
To add a score, write its class in a file of its own and list it in `SCORES`.

`skill` is separate: it runs a model one step ahead and compares its errors with those of persistence.
"""

from __future__ import annotations

from anemoi_house.scores.artifact import ARTIFACT_SCORES
from anemoi_house.scores.drift import Drift
from anemoi_house.scores.profile import ErrorProfile
from anemoi_house.scores.rmse import RMSE_SCORES
from anemoi_house.scores.score import Score
from anemoi_house.scores.spectrum import AnalysisSpectrum, ForecastSpectrum

SCORES: dict[str, Score] = {
    score.name: score
    for score in (*ARTIFACT_SCORES, *RMSE_SCORES, Drift(), ErrorProfile(), ForecastSpectrum(), AnalysisSpectrum())
}
"""All scores by name, in the order of the tables."""
