"""Scores of a run of the study: errors by region, the artifact index at its border, error by distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anemoi_house.boundary.band import Band, cell_areas_km2
from anemoi_house.boundary.index import artifact_index
from anemoi_house.boundary.profile import error_profile
from anemoi_house.forecast.read import Forecast, Verification, find_forecasts, forecasts_of
from anemoi_house.geometry import Bools, Floats
from anemoi_house.sample.grids import PARTS
from anemoi_house.study.plan import VARIABLES
from anemoi_house.study.regions import Nodes

PROFILE_KM = np.arange(-1440.0, 2401.0, 240.0)
"""Bins of distance from HRRR's border."""

MEASURES = ("jump", "kink", "ripple")
BIAS_REGIONS = ("deep_interior", "rim")


def scores_of(run: Path, nodes: Nodes, regions: Mapping[str, Bools], signed_km: Floats, truth: Path) -> dict[str, Any]:
    """Score all forecasts of a run: arrays of shape (dates, leads), squared for errors.

    Parameters
    ----------
    run : Path
        Folder of its outputs.
    nodes, regions, signed_km
        Data nodes of its experiment, as from `regions_of`.
    truth : Path
        Folder of the datasets that verify it, whichever it was trained on.
    """
    forecasts = [_verified_with(truth, forecast) for forecast in forecasts_of(find_forecasts(run))]
    areas = cell_areas_km2(nodes.points)
    band = Band.along_border(nodes.points, nodes.in_lam, areas)
    verification = Verification(forecasts, VARIABLES)
    scores: dict[str, Any] = {
        "run_id": forecasts[0].about.run_id,
        "dates": [str(forecast.date) for forecast in forecasts],
        "leads_h": list(forecasts[0].leads_h[1:]),
        "nodes": {name: int(mask.sum()) for name, mask in regions.items()},
        "isolated": {name: int((mask & nodes.isolated).sum()) for name, mask in regions.items()},
        "band": {"cell_km": band.cell_km, "sites": len(band.sites), "used": band.used},
        "variables": {},
    }
    for variable in VARIABLES:
        values = np.stack([each.values(variable) for each in forecasts]).astype(np.float64)
        analyses = np.stack([verification.values(each, variable) for each in forecasts]).astype(np.float64)
        scores["variables"][variable] = _of_forecasts(values, analyses, band, areas, regions, signed_km)
    return scores


def _verified_with(truth: Path, forecast: Forecast) -> Forecast:
    """Return the forecast with its datasets replaced by those of the same names in another folder."""

    def moved(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: moved(each) for key, each in part.items()}
        if isinstance(part, list | tuple):
            return [moved(each) for each in part]
        is_dataset = isinstance(part, str) and Path(part).name in PARTS.values()
        return str(truth / Path(part).name) if is_dataset else part

    return replace(forecast, about=replace(forecast.about, dataset=moved(forecast.about.dataset)))


def _of_forecasts(
    values: Floats, truth: Floats, band: Band, areas: Floats, regions: Mapping[str, Bools], signed_km: Floats
) -> dict[str, Any]:
    """Score each lead time after the first, which is the analysis, of fields of shape (..., leads, nodes)."""
    start, values, truth = truth[..., :1, :], values[..., 1:, :], truth[..., 1:, :]
    error, persistence = values - truth, start - truth
    return {
        "mse": {name: _mean(error**2, areas, mask) for name, mask in regions.items()},
        "persistence": {name: _mean(persistence**2, areas, mask) for name, mask in regions.items()},
        "bias": {name: _mean(error, areas, regions[name]) for name in BIAS_REGIONS},
        "error": _index(band, error),
        "forecast": _index(band, values),
        "analysis": _index(band, truth),
        "profile": error_profile(signed_km, error, areas, PROFILE_KM).rms ** 2,
    }


def _index(band: Band, field: Floats) -> dict[str, dict[str, Floats]]:
    index = artifact_index(band, field)
    measures = {name: getattr(index, name) for name in MEASURES}
    return {name: {"squared": found.squared, "scale": found.scale**2} for name, found in measures.items()}


def _mean(field: Floats, areas: Floats, mask: Bools) -> Floats:
    if not mask.any():
        return np.full(field.shape[:-1], np.nan)
    return np.average(field[..., mask], weights=areas[mask], axis=-1)
