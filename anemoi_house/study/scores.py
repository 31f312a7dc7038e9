"""What is asked of each run of the study: its errors by place, the artifact index at its edge, error by distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from anemoi.graphs.edges import KNNEdges
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from anemoi_house.boundary.band import Band, cell_areas_km2
from anemoi_house.boundary.index import ArtifactIndex, artifact_index
from anemoi_house.forecast.read import Forecast, Verification, find_forecasts, forecasts_of
from anemoi_house.geometry import Bools, Floats, LambertGrid, distance_to_km, to_cartesian
from anemoi_house.graphs.describe import load_graph
from anemoi_house.sample.build import PARTS

VARIABLES = ("gh_500", "t_850", "u_850", "v_850")
"""Those that the published experiments are judged by in validation."""

PLACES = {
    "lam": "in the LAM, more than 455 km from HRRR's edge: the same nodes in every experiment",
    "lam_edge": "225 to 455 km inside HRRR's edge: just inside that of a LAM trimmed by 225 km",
    "strip": "within 225 km inside HRRR's edge: nodes 60 km apart untrimmed, global ones in a trimmed run",
    "rim": "outside HRRR's domain, within 1000 km of it: the same nodes in every experiment",
    "globe": "farther away, equatorward of 60 degrees",
    "poles": "farther away, poleward of 60 degrees",
    "isolated_rim": "the nodes of the rim that mmgt isolates",
    "isolated_poles": "the nodes of the poles that mmgt isolates",
}
STRIP_KM, LAM_KM, RIM_KM = 225.0, 455.0, 1000.0
"""Distances from HRRR's edge: the outer 4 and 8 rows of its cells lie within the first two (60 km on the map are 57 to
60 km on the ground); the third is what the published experiments call the boundary zone."""

PROFILE_KM = np.arange(-1440.0, 2401.0, 240.0)
"""Bins of distance from HRRR's edge."""

MEASURES = ("jump", "kink", "ripple")
SAME_PLACE_KM = 1.0


@dataclass(frozen=True)
class Nodes:
    """Data nodes of one experiment.

    Attributes
    ----------
    points : ndarray, shape (nodes, 3)
        On the unit sphere.
    in_lam : ndarray of bool, shape (nodes,)
    isolated : ndarray of bool, shape (nodes,)
        No encoder edge begins there.
    """

    points: Floats
    in_lam: Bools
    isolated: Bools

    @classmethod
    def of_graph(cls, path: Path, neighbours: int | None = None) -> Nodes:
        """From the graph that a training was made with; with `neighbours`, as if its encoder had that many."""
        graph = load_graph(path)
        latitudes, longitudes = np.rad2deg(graph["data"].x.numpy().astype(np.float64)).T
        edges = (
            graph["data", "to", "hidden"].edge_index
            if neighbours is None
            else KNNEdges("data", "hidden", neighbours).get_edge_index(graph)
        )
        isolated = np.ones(len(latitudes), dtype=bool)
        isolated[edges[0].numpy()] = False
        return cls(to_cartesian(latitudes, longitudes), graph["data"].cutout_mask.numpy().ravel(), isolated)


def places_of(nodes: Nodes, untrimmed: Nodes, grid: LambertGrid) -> tuple[dict[str, Bools], Floats]:
    """Where each node lies, by the distance from the edge of the untrimmed LAM.

    Parameters
    ----------
    nodes : Nodes
    untrimmed : Nodes
        Of mmgt, or as of it: where the edge is, and which nodes 12 neighbours isolate.
    grid : LambertGrid
        The untrimmed LAM.

    Returns
    -------
    places : dict of str to ndarray of bool
        By the names of `PLACES`.
    signed_km : ndarray, shape (nodes,)
        Distance from the edge, negative inside.
    """
    lattice = untrimmed.points[untrimmed.in_lam].reshape(*grid.shape, 3)
    edge = np.concatenate([lattice[0], lattice[-1], lattice[:, 0], lattice[:, -1]])
    inside = nodes.in_lam | _within(nodes.points, grid)
    distance = distance_to_km(nodes.points, edge)
    signed = np.where(inside, -distance, distance)
    deep = nodes.in_lam & (signed <= -LAM_KM)
    near = (signed > 0) & (signed <= RIM_KM)
    polar = (signed > RIM_KM) & (np.abs(nodes.points[:, 2]) > np.sin(np.deg2rad(60)))
    isolated = _same(nodes.points, untrimmed.points[untrimmed.isolated])
    return {
        "lam": deep,
        "lam_edge": (signed <= -STRIP_KM) & ~deep,
        "strip": (signed > -STRIP_KM) & (signed <= 0),
        "rim": near,
        "globe": (signed > RIM_KM) & ~polar,
        "poles": polar,
        "isolated_rim": near & isolated,
        "isolated_poles": polar & isolated,
    }, signed


def scores_of(run: Path, nodes: Nodes, places: Mapping[str, Bools], signed_km: Floats, truth: Path) -> dict[str, Any]:
    """Scores of all forecasts of a run; arrays are of shape (dates, leads), squares where they are of errors.

    Parameters
    ----------
    run : Path
        Its outputs.
    nodes, places, signed_km
        Of its experiment.
    truth : Path
        Folder of the datasets that it is verified with, whichever it was trained on.
    """
    forecasts = [_verified_with(truth, forecast) for forecast in forecasts_of(find_forecasts(run))]
    areas = cell_areas_km2(nodes.points)
    band = Band.along_edge(nodes.points, nodes.in_lam, areas)
    verification = Verification(forecasts, VARIABLES)
    bins = np.digitize(signed_km, PROFILE_KM, right=True) - 1
    scores: dict[str, Any] = {
        "run_id": forecasts[0].run_id,
        "dates": [str(forecast.date) for forecast in forecasts],
        "leads_h": list(forecasts[0].leads_h[1:]),
        "nodes": {name: int(mask.sum()) for name, mask in places.items()},
        "isolated": {name: int((mask & nodes.isolated).sum()) for name, mask in places.items()},
        "band": {"cell_km": band.cell_km, "sites": len(band.sites), "used": band.used},
        "variables": {},
    }
    for variable in VARIABLES:
        rows = []
        for forecast in forecasts:
            values = forecast.values(variable).astype(np.float64)
            truth = verification.values(forecast, variable).astype(np.float64)
            rows.append(_of_forecast(values, truth, band, areas, places, bins))
        scores["variables"][variable] = _stacked(rows)
    return scores


def _verified_with(truth: Path, forecast: Forecast) -> Forecast:
    """The same forecast, of a run whose datasets are those of the same names in another folder."""

    def moved(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: moved(each) for key, each in part.items()}
        if isinstance(part, list | tuple):
            return [moved(each) for each in part]
        is_dataset = isinstance(part, str) and Path(part).name in PARTS.values()
        return str(truth / Path(part).name) if is_dataset else part

    return replace(forecast, about=replace(forecast.about, dataset=moved(forecast.about.dataset)))


def _of_forecast(
    values: Floats, truth: Floats, band: Band, areas: Floats, places: Mapping[str, Bools], bins: NDArray[np.int64]
) -> dict[str, Any]:
    """Scores at each lead after the first, at which the forecast is the analysis."""
    error, still = (values - truth)[1:], (truth[0] - truth)[1:]
    of_error, alone, of_truth = (artifact_index(band, field[1:]) for field in (values - truth, values, truth))
    weights = areas * ((bins >= 0) & (bins < len(PROFILE_KM) - 1))
    where = np.clip(bins, 0, len(PROFILE_KM) - 2)
    total = np.bincount(where, weights, len(PROFILE_KM) - 1)
    profile = [np.bincount(where, weights * row**2, len(total)) / np.where(total, total, np.nan) for row in error]
    return {
        "mse": {name: _mean(error**2, areas, mask) for name, mask in places.items()},
        "persistence": {name: _mean(still**2, areas, mask) for name, mask in places.items()},
        "bias": {name: _mean(error, areas, places[name]) for name in ("lam", "rim")},
        "error": _index(of_error),
        "forecast": _index(alone),
        "analysis": _index(of_truth),
        "profile": np.array(profile),
    }


def _index(found: ArtifactIndex) -> dict[str, dict[str, Floats]]:
    return {
        name: {"squared": getattr(found, name).squared, "scale": getattr(found, name).scale ** 2} for name in MEASURES
    }


def _mean(field: Floats, areas: Floats, mask: Bools) -> Floats:
    if not mask.any():
        return np.full(len(field), np.nan)
    return np.average(field[:, mask], weights=areas[mask], axis=1)


def _stacked(rows: list[Any]) -> Any:
    """One dictionary of arrays (dates, ...) from one of each date."""
    if isinstance(rows[0], dict):
        return {key: _stacked([row[key] for row in rows]) for key in rows[0]}
    return np.stack(rows).tolist()


def _within(points: Floats, grid: LambertGrid) -> Bools:
    """Points between the outermost rows and columns of a grid."""
    latitudes, longitudes = np.rad2deg(np.arcsin(points[:, 2])), np.rad2deg(np.arctan2(points[:, 1], points[:, 0]))
    x, y = grid.project(np.clip(latitudes, -89, 89), longitudes)
    left, low = grid.project(grid.first_latitude, grid.first_longitude)
    right, high = left + (grid.nx - 1) * grid.spacing_km, low + (grid.ny - 1) * grid.spacing_km
    return (left < x) & (x < right) & (low < y) & (y < high)


def _same(points: Floats, others: Floats) -> Bools:
    """Points that are among others."""
    if not len(others):
        return np.zeros(len(points), dtype=bool)
    return cKDTree(others).query(points)[0] * 6371 < SAME_PLACE_KM
