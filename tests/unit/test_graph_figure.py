from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anemoi.graphs.edges import KNNEdges
from matplotlib.figure import Figure
from matplotlib.image import imread
from small_grids import graph_of, mesh_coordinates, nested_coordinates, unit_vectors
from torch_geometric.data import HeteroData

from anemoi_house.errors import HouseError
from anemoi_house.figures import graph as graph_plot
from anemoi_house.figures import projection as maps
from anemoi_house.figures.files import DOTS_PER_INCH, write_figure
from anemoi_house.figures.graph import INCHES, plot_graph
from anemoi_house.figures.projection import Projection, coastlines, outline


def nested_graph(neighbours: int = 12, lam_step: float = 2.5) -> HeteroData:
    data, in_lam = nested_coordinates(lam_step, 10.0, seed=1)
    graph = graph_of(data, in_lam, mesh_coordinates(2))
    return KNNEdges("data", "hidden", neighbours).update_graph(graph)


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    torch.save(nested_graph(), tmp_path / "graph.pt")
    return tmp_path / "graph.pt"


@pytest.fixture(autouse=True)
def _coarse_raster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_plot, "RASTER", 40)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that are drawn, and not written: that takes the most time."""
    figures: list[Figure] = []
    monkeypatch.setattr(graph_plot, "write_figure", lambda figure, output: figures.append(figure))
    return figures


def texts(figure: Figure) -> str:
    parts = [text.get_text() for text in figure.texts]
    parts += [axes.get_title() for axes in figure.axes]
    return "\n".join(parts)


def test_the_picture_has_its_size_and_nothing_else_is_left(graph_file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "maps" / "graph.png"
    picture.parent.mkdir()
    assert plot_graph(graph_file, picture) == picture
    assert imread(picture).shape[:2] == tuple(round(DOTS_PER_INCH * inches) for inches in INCHES[::-1])
    assert list(picture.parent.iterdir()) == [picture]


@pytest.mark.parametrize(
    ("neighbours", "verdict"), [(1, "The boundary has gaps"), (300, "Every data node is reached: 0 of")]
)
def test_the_heading_says_in_words_what_is_the_case(
    neighbours: int, verdict: str, tmp_path: Path, drawn: list[Figure]
) -> None:
    graph = nested_graph(neighbours)
    torch.save(graph, tmp_path / "graph.pt")
    plot_graph(tmp_path / "graph.pt", tmp_path / "graph.png")

    picked = np.unique(graph["data", "to", "hidden"].edge_index[0].numpy())
    total = graph["data"].num_nodes
    assert verdict in texts(drawn[0])
    assert f"{total - len(picked):,} of {total:,} data nodes isolated" in texts(drawn[0])


@pytest.mark.parametrize("width_km", [1.0, 19_000.0])
def test_extreme_widths_are_drawn(graph_file: Path, tmp_path: Path, width_km: float, drawn: list[Figure]) -> None:
    plot_graph(graph_file, tmp_path / "graph.png", width_km)
    assert f"{width_km:g} km" in texts(drawn[0])


@pytest.mark.parametrize("width_km", [0.0, -5.0, float("nan"), float("inf")])
def test_what_is_no_width_is_refused(graph_file: Path, tmp_path: Path, width_km: float) -> None:
    with pytest.raises(HouseError, match="is not a valid width"):
        plot_graph(graph_file, tmp_path / "graph.png", width_km)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("graph.docx", "not a picture format"),
        ("graph", "not a picture format"),
        ("nowhere/graph.png", "is not a directory"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_before_anything_is_read(tmp_path: Path, output: str, message: str) -> None:
    with pytest.raises(HouseError, match=message):
        plot_graph(tmp_path / "not_there.pt", tmp_path / output)


def test_a_full_disk_leaves_the_old_picture_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Figure, path: Path, **how: object) -> None:
        path.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    picture = tmp_path / "graph.png"
    picture.write_bytes(b"the old picture")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(HouseError, match="No space left on device"):
        write_figure(Figure(), picture)
    assert picture.read_bytes() == b"the old picture"
    assert list(tmp_path.iterdir()) == [picture]


def test_a_folder_in_the_place_of_the_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graph.png").mkdir()
    with pytest.raises(HouseError, match="cannot be written"):
        write_figure(Figure(figsize=(1, 1)), tmp_path / "graph.png")
    assert [path.name for path in tmp_path.iterdir()] == ["graph.png"]


def test_a_graph_without_a_lam_is_refused(tmp_path: Path) -> None:
    graph = nested_graph()
    graph["data"].cutout_mask[:] = False
    torch.save(graph, tmp_path / "graph.pt")
    with pytest.raises(HouseError, match="no data node belongs to a LAM"):
        plot_graph(tmp_path / "graph.pt", tmp_path / "graph.png")


@pytest.mark.parametrize("globe", [True, False])
@pytest.mark.parametrize("centre", [(38.0, 262.0), (90.0, 0.0), (-90.0, 0.0)])
def test_a_projection_and_its_inverse_agree(centre: tuple[float, float], globe: bool) -> None:
    projection = Projection(unit_vectors(*np.array(centre)[:, None])[0], globe)
    points = np.random.default_rng(0).normal(size=(200, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    x, y = projection.project(points)
    shown = np.isfinite(x)
    assert np.array_equal(shown, points @ projection.centre > (0 if globe else -0.99))
    np.testing.assert_allclose(projection.unproject(x[shown], y[shown]), points[shown], atol=1e-9)


def test_north_is_up_and_east_is_right() -> None:
    projection = Projection(unit_vectors(np.array([40.0]), np.array([260.0]))[0], globe=True)
    x, y = projection.project(unit_vectors(np.array([41.0, 40.0]), np.array([260.0, 261.0])))
    assert y[0] > 0
    assert x[1] > 0


def test_the_equal_area_map_keeps_areas() -> None:
    projection = Projection(np.array([0.0, 0.0, 1.0]), globe=False)
    x, y = projection.project(unit_vectors(np.array([60.0, 0.0]), np.array([0.0, 0.0])))
    cap, half = np.pi * (x**2 + y**2)
    assert cap == pytest.approx(2 * np.pi * (1 - np.sin(np.pi / 3)))
    assert half == pytest.approx(2 * np.pi)


def test_the_outline_of_a_grid_goes_once_around_its_edge() -> None:
    rows, columns = np.meshgrid(np.arange(6), np.arange(8), indexing="ij")
    points = unit_vectors(30 + rows, 250 + columns)
    (loop,) = outline(points)
    edge = np.flatnonzero((rows % 5 == 0) | (columns % 7 == 0))
    indices = [int(np.abs(points - point).sum(axis=1).argmin()) for point in loop]
    assert indices[0] == indices[-1]
    assert len(set(indices)) == len(indices) - 1
    assert set(indices) <= set(edge)
    assert {0, 7, 40, 47} <= set(indices)


def test_the_outline_of_two_parts_is_two_lines_and_of_a_line_none() -> None:
    rows, columns = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    parts = np.concatenate([unit_vectors(30 + rows, west + columns) for west in (240, 270)])
    assert len(outline(parts)) == 2
    assert outline(parts[:2]) == []
    assert outline(unit_vectors(np.zeros(5), np.arange(5.0))) == []


def test_a_map_is_drawn_without_coastlines_too(
    graph_file: Path, tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "files", lambda package: tmp_path)
    assert coastlines() == []
    plot_graph(graph_file, tmp_path / "graph.png")
    assert len(drawn) == 1


def test_coastlines_are_degrees() -> None:
    lines = coastlines()
    assert len(lines) > 10
    assert all(np.abs(latitudes).max() <= 90 and np.abs(longitudes).max() <= 180.01 for latitudes, longitudes in lines)
