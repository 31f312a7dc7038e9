"""The result of the study: scores of all runs, and differences between experiments."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anemoi_house.boundary.index import signed_root
from anemoi_house.boundary.significance import difference_over_seeds
from anemoi_house.errors import HouseError
from anemoi_house.geometry import Floats
from anemoi_house.sample.grids import GRIDS
from anemoi_house.study import plan
from anemoi_house.study.fault import SETTINGS
from anemoi_house.study.mesh import mesh_use
from anemoi_house.study.regions import REGIONS, Nodes, regions_of
from anemoi_house.study.scores import BIAS_REGIONS, MEASURES, PROFILE_KM, scores_of

SCORES = [f"rmse {region}" for region in REGIONS] + [
    f"{kind} {measure}" for kind, measure in itertools.product(("error", "forecast"), MEASURES)
]

RunScores = Sequence[dict[str, Any]]
"""Scores of the runs of one experiment, as from `scores_of`."""


def result_of(study: Path, runs: Mapping[str, Sequence[plan.Run]]) -> dict[str, Any]:
    """Score runs and compare experiments.

    Parameters
    ----------
    study : Path
        Folder of the study.
    runs : mapping of str to sequence of Run
        Finished runs of each experiment, in the same order of seeds.

    Raises
    ------
    HouseError
        If no experiment is untrimmed, or runs have forecasts of different dates or lead times.
    """
    untrimmed = [name for name in runs if not any("trim" in argument for argument in plan.EXPERIMENTS[name])]
    if not untrimmed:
        raise HouseError("--experiments: all are trimmed. Give an untrimmed one, which defines HRRR's border.")
    border = Nodes.of_graph(runs[untrimmed[0]][0].graph, neighbours=12)
    scores = {name: _scores_of_experiment(study, each, border) for name, each in runs.items()}
    dates, leads_h = _shared(scores, "dates"), _shared(scores, "leads_h")
    judged, by_date = ({lead: leads_h.index(lead) for lead in of} for of in (plan.JUDGED_LEADS_H, plan.BY_DATE_LEADS_H))
    return {
        "grid": {"name": plan.GRID, "dates": plan.SAMPLE_DATES},
        "experiments": {name: plan.EXPERIMENTS[name] for name in runs},
        "seeds": [run.seed for run in next(iter(runs.values()))],
        "dates": dates,
        "leads_h": leads_h,
        "regions": REGIONS,
        "fault": {"experiments": list(plan.FAULTY), **SETTINGS},
        "profile_km": PROFILE_KM.tolist(),
        "trainings": {name: [_training(run) for run in each] for name, each in runs.items()},
        **{key: {name: of[0][key] for name, of in scores.items()} for key in ("nodes", "isolated")},
        "mesh_use": {name: mesh_use(each[0].folder) for name, each in runs.items()},
        "band": {name: of[0]["band"] for name, of in scores.items()},
        "scores": {name: {each: _summary(of, each) for each in plan.VARIABLES} for name, of in scores.items()},
        "by_date": {name: _by_date(each, by_date) for name, each in scores.items()},
        "differences_are": "value, low and high end of the 95 % interval",
        "differences": _differences(scores, judged),
    }


def _scores_of_experiment(study: Path, runs: Sequence[plan.Run], border: Nodes) -> list[dict[str, Any]]:
    nodes = Nodes.of_graph(runs[0].graph)
    regions, signed_km = regions_of(nodes, border, GRIDS[plan.GRID].lam)
    print(f"scores of {runs[0].experiment}, {len(runs)} runs", file=sys.stderr, flush=True)
    return [scores_of(run.folder, nodes, regions, signed_km, study / "sample") for run in runs]


def _shared(scores: Mapping[str, RunScores], key: str) -> list[Any]:
    """Return the dates or lead times of all runs, which must be the same."""
    first, *others = (run[key] for runs in scores.values() for run in runs)
    if any(other != first for other in others):
        raise HouseError("the runs have forecasts of different dates or lead times. Make the missing ones.")
    return first


def _training(run: plan.Run) -> dict[str, Any]:
    record = json.loads(run.record.read_text())
    return {key: record[key] for key in ("seed", "wall_s", "cpu_s")}


def squares(runs: RunScores, variable: str, score: str, key: str = "squared") -> Floats:
    """Return the squares behind a score, of shape (seeds, dates, leads).

    Parameters
    ----------
    runs : sequence of dict
        Scores of one experiment's runs, as from `scores_of`.
    variable : str
    score : str
        `rmse REGION`, or a measure of the boundary: `error MEASURE` or `forecast MEASURE`.
    key : str
        `squared`, or the `scale` of a measure.
    """
    kind, name = score.split()
    of_runs = [run["variables"][variable] for run in runs]
    found = [scores["mse"][name] if kind == "rmse" else scores[kind][name][key] for scores in of_runs]
    return np.array(found, dtype=np.float64)


def _summary(runs: RunScores, variable: str) -> dict[str, Any]:
    """Return each score by lead time and seed: the root of the mean over dates."""
    of_runs = [run["variables"][variable] for run in runs]
    first = of_runs[0]
    profile = np.array([scores["profile"] for scores in of_runs], dtype=np.float64).mean(axis=(0, 1))
    return {
        "score": {score: signed_root(squares(runs, variable, score).mean(axis=1)).tolist() for score in SCORES},
        "persistence": {region: np.sqrt(np.mean(first["persistence"][region], axis=0)).tolist() for region in REGIONS},
        "analysis": {name: signed_root(np.mean(first["analysis"][name]["squared"])).item() for name in MEASURES},
        "bias": {name: np.mean([each["bias"][name] for each in of_runs], axis=1).tolist() for name in BIAS_REGIONS},
        "profile_rmse": np.sqrt(profile).tolist(),
    }


def _by_date(runs: RunScores, leads: Mapping[int, int]) -> dict[str, Any]:
    """Return each score by seed and date at some lead times, without averaging."""
    found: dict[str, Any] = {variable: {} for variable in plan.VARIABLES}
    for variable, score in itertools.product(plan.VARIABLES, SCORES):
        roots = signed_root(squares(runs, variable, score))
        found[variable][score] = {str(lead): roots[..., at].tolist() for lead, at in leads.items()}
    return found


def _differences(scores: Mapping[str, RunScores], leads: Mapping[int, int]) -> dict[str, Any]:
    """Return every contrast whose two experiments were run: by score, lead time and variable."""
    found: dict[str, Any] = {}
    for contrast, meaning in plan.CONTRASTS.items():
        ours, theirs = map(scores.get, contrast.split(" - "))
        if ours and theirs:
            each = ((score, _contrast(ours, theirs, score, leads)) for score in SCORES)
            found[contrast] = {"what": meaning} | {score: by_lead for score, by_lead in each if by_lead}
    return found


def _contrast(ours: RunScores, theirs: RunScores, score: str, leads: Mapping[int, int]) -> dict[str, Any] | None:
    """Return the difference of one score by lead time; None for a region without nodes."""
    one, other = (np.stack([squares(runs, each, score) for each in plan.VARIABLES]) for runs in (ours, theirs))
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    scale = "squared" if score.startswith("rmse") else "scale"
    units = np.stack([squares(theirs, each, score, scale) for each in plan.VARIABLES]).mean(axis=(1, 2))
    return {
        str(lead): {
            "all": _interval(one[..., at], other[..., at], np.sqrt(units[:, at])),
            **{name: _interval(one[[row], ..., at], other[[row], ..., at]) for row, name in enumerate(plan.VARIABLES)},
        }
        for lead, at in leads.items()
    }


def _interval(ours: Floats, theirs: Floats, units: ArrayLike = 1.0) -> list[float | None]:
    """Return the difference over seeds and the ends of its interval; None for an infinite end."""
    found = difference_over_seeds(ours, theirs, units)
    return [value if np.isfinite(value) else None for value in (found.value, found.low, found.high)]
