"""The study: its grid, regions, fault and scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from anemoi.graphs.edges import KNNEdges
from scipy.spatial import cKDTree
from torch_geometric.data import HeteroData

from anemoi_house.boundary.band import Band, cell_areas_km2
from anemoi_house.boundary.index import signed_root
from anemoi_house.forecast.read import About, Forecast
from anemoi_house.geometry import chord, to_cartesian
from anemoi_house.graphs import CoveringKNNEdges
from anemoi_house.sample import grids
from anemoi_house.sample.grids import GRIDS
from anemoi_house.study.fault import SIZES, WEIGHTS, Fault, write_faulty
from anemoi_house.study.regions import REGIONS, Nodes, regions_of
from anemoi_house.study.scores import MEASURES, PROFILE_KM, _of_forecasts, _verified_with
from anemoi_house.study.tables import tables

ROOT = Path(__file__).parents[2]

ABOUT = About("id", "nbd", "a.ckpt", None, 712, 6, 4628, (52, 89), (0, 0, 0, 0), {})
PARTS = ("deep_interior", "shallow_interior", "strip", "rim", "globe", "poles")


@pytest.fixture(scope="module")
def graphs() -> dict[int, HeteroData]:
    """Graphs by the cells that are trimmed: none, 225 km and 480 km."""
    return {trim: grids.nodes(replace(GRIDS["study"], trim_cells=trim)) for trim in (0, 4, 8)}


def nodes_of(graph: HeteroData, edges: KNNEdges | CoveringKNNEdges) -> Nodes:
    latitudes, longitudes = np.rad2deg(graph["data"].x.numpy().astype(float)).T
    begins = edges.get_edge_index(graph)[0].numpy()
    isolated = ~np.isin(np.arange(len(latitudes)), begins)
    return Nodes(to_cartesian(latitudes, longitudes), graph["data"].cutout_mask.numpy().ravel(), isolated)


@pytest.fixture(scope="module")
def untrimmed(graphs: dict[int, HeteroData]) -> Nodes:
    return nodes_of(graphs[0], KNNEdges("data", "hidden", 12))


@pytest.mark.parametrize(("trim", "with_12"), [(0, 7), (4, 2), (8, 0)])
def test_12_neighbours_isolate_nodes_of_the_rim_and_20_do_not(
    graphs: dict[int, HeteroData], untrimmed: Nodes, trim: int, with_12: int
) -> None:
    """As on the published grids. Covering isolates none anywhere."""

    def isolated(edges: KNNEdges | CoveringKNNEdges) -> tuple[int, int]:
        nodes = nodes_of(graphs[trim], edges)
        regions, _ = regions_of(nodes, untrimmed, GRIDS["study"].lam)
        boundary = nodes.in_lam | regions["strip"] | regions["rim"]
        return int((boundary & nodes.isolated).sum()), int(nodes.isolated.sum())

    twelve, everywhere = isolated(KNNEdges("data", "hidden", 12))
    assert twelve == with_12
    assert isolated(KNNEdges("data", "hidden", 20))[0] == 0
    assert 100 < isolated(KNNEdges("data", "hidden", 20))[1] < everywhere
    assert isolated(CoveringKNNEdges("data", "hidden", 12)) == (0, 0)


@pytest.mark.parametrize("trim", [0, 4, 8])
def test_each_node_is_in_one_region(graphs: dict[int, HeteroData], untrimmed: Nodes, trim: int) -> None:
    nodes = nodes_of(graphs[trim], KNNEdges("data", "hidden", 12))
    regions, signed = regions_of(nodes, untrimmed, GRIDS["study"].lam)
    assert set(regions) == set(REGIONS)
    np.testing.assert_array_equal(sum(regions[name].astype(int) for name in PARTS), 1)
    rows = nodes.in_lam.nonzero()[0].size
    assert regions["deep_interior"].sum() == (52 - 16) * (89 - 16)
    assert (regions["deep_interior"] | regions["shallow_interior"])[nodes.in_lam].sum() == (
        44 * 81 if trim < 8 else rows
    )

    # Distance from the border by brute force, and sides by the untrimmed cutout.
    lattice = untrimmed.points[untrimmed.in_lam].reshape(52, 89, 3)
    border = np.concatenate([lattice[0], lattice[-1], lattice[:, 0], lattice[:, -1]])
    nearest = np.linalg.norm(nodes.points[:, None] - border[None], axis=-1).min(axis=1)
    np.testing.assert_array_equal(regions["rim"], (signed > 0) & (nearest <= chord(1000.0)))
    beyond = cKDTree(untrimmed.points[~untrimmed.in_lam]).query(nodes.points)[0] < 1e-6
    np.testing.assert_array_equal(beyond, signed > 0)
    assert (signed[nodes.in_lam] <= 0).all()


def test_regions_outside_and_deep_inside_are_the_same_nodes_in_every_experiment(
    graphs: dict[int, HeteroData], untrimmed: Nodes
) -> None:
    first, _ = regions_of(untrimmed, untrimmed, GRIDS["study"].lam)
    assert first["isolated_rim"].sum() == 7
    for trim in (4, 8):
        nodes = nodes_of(graphs[trim], KNNEdges("data", "hidden", 12))
        regions, _ = regions_of(nodes, untrimmed, GRIDS["study"].lam)
        for name in ("deep_interior", "rim", "globe", "poles", "isolated_rim", "isolated_poles"):
            np.testing.assert_allclose(nodes.points[regions[name]], untrimmed.points[first[name]], atol=1e-6)
    assert regions["shallow_interior"].sum() < 100 < first["shallow_interior"].sum()  # 480 km leave global nodes there


def test_scores_of_planted_errors(untrimmed: Nodes) -> None:
    """An error of a different size in each region is found there and nowhere else; profile and index agree."""
    regions, signed = regions_of(untrimmed, untrimmed, GRIDS["study"].lam)
    areas = cell_areas_km2(untrimmed.points)
    band = Band.along_border(untrimmed.points, untrimmed.in_lam, areas)
    sizes = dict(zip(PARTS, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)))
    error = np.sum([size * regions[name] for name, size in sizes.items()], axis=0)
    truth = np.stack([np.zeros(len(areas)), np.full(len(areas), 2.0)])
    found = _of_forecasts(truth + np.stack([0 * error, error]), truth, band, areas, regions, signed)
    for name, size in sizes.items():
        assert found["mse"][name] == pytest.approx([size**2])
        assert found["persistence"][name] == pytest.approx([4.0])
    assert found["mse"]["isolated_rim"] == pytest.approx([16.0])
    assert found["bias"] == {"deep_interior": pytest.approx([1.0]), "rim": pytest.approx([4.0])}
    centres = (PROFILE_KM[1:] + PROFILE_KM[:-1]) / 2
    assert found["profile"][0, (centres < -600)] == pytest.approx(1.0)
    assert found["profile"][0, (centres > 0) & (centres < 900)] == pytest.approx(16.0)

    jump = np.where(untrimmed.in_lam, 0.0, 7.0)
    found = _of_forecasts(truth + np.stack([0 * jump, jump]), truth, band, areas, regions, signed)
    assert signed_root(found["error"]["jump"]["squared"]) == pytest.approx([7.0], rel=0.01)
    assert set(found["error"]) == set(MEASURES)


def test_the_fault_lies_in_the_rows_that_the_trim_takes() -> None:
    fault = Fault(GRIDS["study"].lam)
    dates = [fault.at(date) for date in range(200)]
    for name, size in SIZES.items():
        errors = np.stack([each[name] for each in dates]).reshape(-1, 52, 89)
        left, peeled = errors, []
        for _ in WEIGHTS:
            peeled.append(np.concatenate([left[:, [0, -1]].reshape(200, -1), left[:, :, [0, -1]].reshape(200, -1)], 1))
            left = left[:, 1:-1, 1:-1]
        assert left.shape == (200, 44, 81), "what a trim of 4 cells leaves"
        assert not left.any()
        sizes = [np.sqrt(np.mean(row**2)) for row in peeled]
        np.testing.assert_allclose(sizes, size * np.array(WEIGHTS), rtol=0.15)
        same = np.mean(peeled[0].mean(axis=0) ** 2) / np.mean(peeled[0] ** 2)
        assert 0.35 < same < 0.65, "half of the variance is the same at all dates"


def test_a_faulty_sample_is_the_sample_elsewhere(tmp_path: Path) -> None:
    grid = GRIDS["tiny"].lam
    cells = grid.shape[0] * grid.shape[1]
    (tmp_path / "sample" / "gfs.zarr").mkdir(parents=True)
    whole = zarr.open(str(tmp_path / "sample" / "hrrr.zarr"), mode="w")
    whole.create_dataset("data", data=np.ones((3, 5, 1, cells), np.float32), chunks=(1, 5, 1, cells))
    whole.attrs["variables"] = ["lsm", *reversed(SIZES)]

    write_faulty(tmp_path / "sample", tmp_path / "faulty", grid)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faulty", "sample"]
    assert (tmp_path / "faulty" / "gfs.zarr").samefile(tmp_path / "sample" / "gfs.zarr")
    found = zarr.open(str(tmp_path / "faulty" / "hrrr.zarr"), mode="r")["data"][:] - 1
    assert not found[:, 0].any()
    for date in range(3):
        for row, name in enumerate(reversed(SIZES), start=1):
            np.testing.assert_allclose(found[date, row, 0], Fault(grid).at(date)[name], atol=1e-6)
    assert (whole["data"][:] == 1).all()

    record = tmp_path / "faulty" / "fault.json"
    before = record.stat().st_ino
    write_faulty(tmp_path / "sample", tmp_path / "faulty", grid)
    assert record.stat().st_ino == before
    record.write_text("{}")
    write_faulty(tmp_path / "sample", tmp_path / "faulty", grid)
    assert json.loads(record.read_text())["rms_of_outermost_row"] == SIZES


def test_forecasts_of_faulty_data_are_verified_without_the_fault(tmp_path: Path) -> None:
    parts = [{"dataset": f"/study/faulty/{name}.zarr", "trim_edge": [0, 0, 0, 0]} for name in ("hrrr", "gfs")]
    about = replace(ABOUT, dataset={"cutout": parts, "adjust": "all"})
    forecast = Forecast(tmp_path, about, np.datetime64("2020-02-19T06"), (0, 6), ("t_850",))
    moved = _verified_with(Path("/study/sample"), forecast)
    assert [part["dataset"] for part in moved.about.dataset["cutout"]] == [
        "/study/sample/hrrr.zarr",
        "/study/sample/gfs.zarr",
    ]
    assert moved.about.dataset["cutout"][0]["trim_edge"] == [0, 0, 0, 0]
    assert replace(moved, about=about) == forecast


def test_the_page_shows_the_numbers_of_the_result() -> None:
    result = json.loads((ROOT / "benchmarks/results/study.json").read_text())
    page = (ROOT / "docs/study.md").read_text()
    assert len(result["seeds"]) >= 3
    assert len(result["dates"]) >= 6
    for table in tables(result):
        assert table in page, table
