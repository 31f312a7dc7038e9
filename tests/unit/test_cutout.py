from __future__ import annotations

import logging
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from anemoi.datasets import open_dataset
from anemoi.graphs.create import GraphCreator
from omegaconf import DictConfig, OmegaConf
from small_grids import DATES, VARIABLES, globe_grid, lam_grid, write_store

from anemoi_house.errors import HouseError
from anemoi_house.plugin.cutout import checked_cutout, graph_to_build
from anemoi_house.upstream.errors import ResolverError

pytestmark = pytest.mark.usefixtures("registered")

LAM, GLOBAL = "system.input.dataset.lam", "system.input.dataset.global"


def config_of(lam: Path | str, globe: Path | str, graph: Path | None = None, **settings: Any) -> DictConfig:
    """Return a small version of our nested configs; `settings` by dotted key."""
    attributes = {"edge_length": {"_target_": "anemoi.graphs.edges.attributes.EdgeLength"}}
    encoder = {"_target_": "anemoi_house.graphs.CoveringKNNEdges", "num_nearest_neighbours": 3}
    config = OmegaConf.create(
        {
            "system": {"input": {"dataset": {"lam": str(lam), "global": str(globe)}, "graph": graph and str(graph)}},
            "data": {"datasets": {"data": {"forcing": ["orog"], "diagnostic": []}}},
            "dataloader": {
                "trim": None,
                "dataset": "${house.nested:${dataloader.nested}}",
                "nested": {
                    "cutout": [
                        {"dataset": "${system.input.dataset.lam}", "trim_edge": "${dataloader.trim}"},
                        {"dataset": "${system.input.dataset.global}"},
                    ],
                    "adjust": "all",
                    "min_distance_km": 0,
                },
            },
            "graph": {
                "overwrite": "${house.build_graph:}",
                "nodes": {
                    "data": {
                        "node_builder": {
                            "_target_": "anemoi.graphs.nodes.AnemoiDatasetNodes",
                            "dataset": "${dataloader.dataset}",
                        },
                        "attributes": {"cutout_mask": {"_target_": "anemoi.graphs.nodes.attributes.CutOutMask"}},
                    },
                    "hidden": {"node_builder": {"_target_": "anemoi.graphs.nodes.TriNodes", "resolution": 2}},
                },
                "edges": [
                    {
                        "source_name": "data",
                        "target_name": "hidden",
                        "edge_builders": [encoder],
                        "attributes": attributes,
                    }
                ],
                "post_processors": [{"_target_": "anemoi_house.graphs.GraphRecord"}],
            },
        }
    )
    for key, value in settings.items():
        OmegaConf.update(config, key, value)
    return config


def cutout_of(config: DictConfig) -> dict[str, Any]:
    """Return the cutout as the resolver gives it to stock training."""
    return OmegaConf.to_container(config.dataloader.dataset, resolve=True)


def mistake_in(config: DictConfig) -> str:
    """Return the first line of the error that ends a command with this config; OmegaConf adds the key below."""
    with pytest.raises(ResolverError) as caught:
        OmegaConf.resolve(config)
    assert str(caught.value.code)
    with pytest.raises(HouseError):
        checked_cutout(config.dataloader.nested, config)
    return str(caught.value).splitlines()[0]


@pytest.fixture
def lam(stores: tuple[Path, Path]) -> Path:
    return stores[0]


@pytest.fixture
def globe(stores: tuple[Path, Path]) -> Path:
    return stores[1]


# Valid cutouts


def test_cutout_that_fits_is_that_of_stock(lam: Path, globe: Path) -> None:
    cutout = cutout_of(config_of(lam, globe))
    stock = {"cutout": [{"dataset": str(lam)}, {"dataset": str(globe)}], "adjust": "all", "min_distance_km": 0}
    assert cutout == stock
    opened = open_dataset(**cutout)
    assert opened.shape[:3] == (5, 3, 1)
    np.testing.assert_allclose(opened.latitudes[:120], lam_grid()[0].ravel())


@pytest.mark.parametrize(
    ("trim", "cells"),
    [
        ([1, 0, 2, 1], [1, 0, 2, 1]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ("300 km", [1, 1, 1, 1]),  # rows 3 degrees or 334 km apart, columns 264 km in the middle
        ("0 km", [0, 0, 0, 0]),
    ],
)
def test_trim_becomes_cells(lam: Path, globe: Path, trim: Any, cells: list[int]) -> None:
    cutout = cutout_of(config_of(lam, globe, **{"dataloader.trim": trim}))
    assert cutout["cutout"][0]["trim_edge"] == cells
    rows, columns = 10 - cells[0] - cells[1], 12 - cells[2] - cells[3]
    assert open_dataset(cutout["cutout"][0]).field_shape == (rows, columns)
    y, x = slice(cells[0], 10 - cells[1]), slice(cells[2], 12 - cells[3])
    np.testing.assert_allclose(open_dataset(**cutout).latitudes[: rows * columns], lam_grid()[0][y, x].ravel())


def test_paths_become_absolute(lam: Path, globe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lam.parent)
    cutout = cutout_of(config_of(lam.name, f"./{globe.name}"))
    assert [part["dataset"] for part in cutout["cutout"]] == [str(lam), str(globe)]


def test_a_lam_without_a_grid_does_without_a_trim(tmp_path: Path, globe: Path) -> None:
    flat = write_store(tmp_path / "flat.zarr", *lam_grid(), field_shape=(120,))
    assert open_dataset(**cutout_of(config_of(flat, globe))).latitudes.size > 648


def test_parts_that_differ_in_the_order_of_the_variables(tmp_path: Path, globe: Path) -> None:
    """Stock refuses these, even with `adjust: all`; `reorder` is its own solution."""
    lam = write_store(tmp_path / "hrrr.zarr", *lam_grid(), variables=VARIABLES[::-1])
    config = config_of(lam, globe)
    assert mistake_in(config) == (
        f"the two datasets have the same variables in different order: {lam} and {globe}. Build both in the same "
        "order, or give both `reorder: sort` in dataloader.nested."
    )
    for part in config.dataloader.nested.cutout:
        part.reorder = "sort"
    assert open_dataset(**cutout_of(config)).variables == sorted(VARIABLES)


def test_other_keys_of_a_part_reach_stock(tmp_path: Path, lam: Path) -> None:
    """The solutions that the messages name: `drop:`, `start:` and `end:` in dataloader.nested."""
    dates = DATES[0] + np.arange(9) * np.timedelta64(6, "h")
    globe = write_store(tmp_path / "gfs.zarr", *globe_grid(), variables=(*VARIABLES, "lsm"), dates=dates)
    config = config_of(lam, globe)
    config.dataloader.nested.cutout[1].update({"drop": ["lsm"], "end": str(DATES[-1])})
    assert open_dataset(**cutout_of(config)).shape[:2] == (5, 3)


def test_a_part_may_itself_be_more_than_a_path(lam: Path, globe: Path) -> None:
    config = config_of(lam, globe)
    config.dataloader.nested.cutout[0].dataset = {"dataset": str(lam), "select": ["gh_500", "orog"]}
    config.dataloader.nested.cutout[1].select = ["gh_500", "orog"]
    assert open_dataset(**cutout_of(config)).variables == ["gh_500", "orog"]


# Paths and stores


@pytest.mark.parametrize("key", [LAM, GLOBAL])
def test_missing_path(tmp_path: Path, lam: Path, globe: Path, key: str) -> None:
    gone = tmp_path / "gone.zarr"
    config = config_of(lam, globe, **{key: str(gone)})
    assert mistake_in(config) == f"{key}: {gone} does not exist. Correct the path, or build the dataset first."


@pytest.mark.parametrize("key", [LAM, GLOBAL])
@pytest.mark.parametrize("kind", ["folder", "group", "file"])
def test_zarr_that_is_no_anemoi_dataset(tmp_path: Path, lam: Path, globe: Path, key: str, kind: str) -> None:
    path = tmp_path / "x.zarr"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("no zarr")
    else:
        zarr.open_group(str(path), mode="w").create_dataset("temperature", data=np.zeros(3))
    mistake = mistake_in(config_of(lam, globe, **{key: str(path)}))
    assert mistake.startswith(f"{key}: {path} cannot be opened as an anemoi dataset (")
    assert mistake.endswith(").")


def test_name_that_is_neither_a_path_nor_known_to_anemoi(lam: Path, globe: Path) -> None:
    mistake = mistake_in(config_of("hrrr-of-nowhere", globe))
    assert mistake.startswith(f"{LAM}: hrrr-of-nowhere cannot be opened as an anemoi dataset (Cannot find")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("key", [LAM, GLOBAL])
def test_coordinates_that_are_not_finite(tmp_path: Path, lam: Path, globe: Path, key: str, value: float) -> None:
    latitudes, longitudes = lam_grid() if key == LAM else globe_grid()
    longitudes = longitudes.copy()
    longitudes[2, 3:5] = value
    broken = write_store(tmp_path / "broken.zarr", latitudes, longitudes)
    assert mistake_in(config_of(lam, globe, **{key: str(broken)})) == (
        f"{key}: 2 of the {latitudes.size} points of {broken} have coordinates that are not finite. Rebuild the "
        "dataset from fields with a valid grid."
    )


# The two parts


def test_wrong_order(lam: Path, globe: Path) -> None:
    assert mistake_in(config_of(globe, lam)) == (
        f"{LAM} must be the limited-area dataset and {GLOBAL} the global one, but {globe} spans latitudes -85.0 to "
        f"85.0 and {lam} spans latitudes 24.0 to 51.5. Swap the two paths."
    )


@pytest.mark.parametrize("which", [0, 1])
def test_the_same_dataset_twice(stores: tuple[Path, Path], which: int) -> None:
    assert f"{LAM} must be the limited-area dataset" in mistake_in(config_of(stores[which], stores[which]))


@pytest.mark.parametrize("use", ["forcing", "diagnostic"])
def test_variable_that_a_dataset_lacks(lam: Path, globe: Path, use: str) -> None:
    config = config_of(lam, globe, **{f"data.datasets.data.{use}": ["orog", "insolation", "accum_tp"]})
    assert mistake_in(config) == (
        f"{LAM}: {lam} lacks the variable accum_tp, insolation, which data.datasets.data names. Rebuild the "
        "dataset with it, or remove the name from the config."
    )


def test_variable_that_one_dataset_lacks(tmp_path: Path, lam: Path) -> None:
    globe = write_store(tmp_path / "gfs.zarr", *globe_grid(), variables=VARIABLES[:2])
    assert mistake_in(config_of(lam, globe)).startswith(f"{GLOBAL}: {globe} lacks the variable orog, which")


def test_parts_that_differ_in_variables(tmp_path: Path, lam: Path) -> None:
    globe = write_store(tmp_path / "gfs.zarr", *globe_grid(), variables=("gh_500", "orog", "q_850", "w_500"))
    assert mistake_in(config_of(lam, globe)) == (
        f"the two datasets differ in variables: only one of {lam} (3 variables) and {globe} (4) has q_850, t_850, "
        "w_500. Build both with the same variables, or give the one with more a `drop:` in dataloader.nested."
    )


def test_parts_that_differ_in_dates(tmp_path: Path, lam: Path) -> None:
    globe = write_store(tmp_path / "gfs.zarr", *globe_grid(), dates=DATES[:4])
    assert mistake_in(config_of(lam, globe)) == (
        f"the two datasets differ in dates: {lam} has 5 from 2020-01-01T00 to 2020-01-02T00, {globe} has 4 from "
        "2020-01-01T00 to 2020-01-01T18. Build both for the same dates, or give the longer one `start:` and "
        "`end:` in dataloader.nested."
    )


# The trim


@pytest.mark.parametrize(
    ("trim", "said"),
    [
        ([1, 2, 3], "[1, 2, 3] has 3 numbers, not 4."),
        ([1, -2, 3, 4], "[1, -2, 3, 4] must be whole numbers of cells, 0 or more."),
        ([1.5, 2, 3, 4], "[1.5, 2, 3, 4] must be whole numbers of cells, 0 or more."),
        ("225", "'225' has no unit; is it '225 km'?"),
        (225, "225 has no unit; is it '225 km', or cells?"),
        (True, "True is not a valid trim."),
        ("wide", "'wide' is not a valid trim."),
        (
            [1, 2, 0, 0],
            "[1, 2, 0, 0] removes too much of a LAM of 10 rows x 12 columns: at least 8 of each must remain.",
        ),
        ("700 km", "[2, 2, 3, 3] removes too much of a LAM of 10 rows x 12 columns: at least 8 of each must remain."),
    ],
)
def test_bad_trim(lam: Path, globe: Path, trim: Any, said: str) -> None:
    assert mistake_in(config_of(lam, globe, **{"dataloader.trim": trim})).startswith(f"dataloader.trim: {said} ")


@pytest.mark.parametrize("trim", [[1, 1, 1, 1], [0, 0, 0, 0], "225 km"])
def test_trim_of_a_lam_without_a_grid(tmp_path: Path, globe: Path, trim: Any) -> None:
    flat = write_store(tmp_path / "flat.zarr", *lam_grid(), field_shape=(120,))
    assert mistake_in(config_of(flat, globe, **{"dataloader.trim": trim})) == (
        f"dataloader.trim: {flat} has no two-dimensional grid (its field_shape is (120,)), so its border cannot be "
        "trimmed. Build it from fields that keep their 2-D shape, or set dataloader.trim=null."
    )


# Where the graph goes


def test_folder_of_the_graph_is_made(tmp_path: Path, lam: Path, globe: Path) -> None:
    cutout_of(config_of(lam, globe, tmp_path / "new" / "folder" / "graph.pt"))
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def unwritable(tmp_path: Path) -> list[Path]:
    """Folders that cannot be written, not even when the tests run as root."""
    (tmp_path / "file").touch()
    return [tmp_path / "file", tmp_path / "file" / "below", *(p / "graphs" for p in [Path("/proc")] if p.exists())]


def test_folder_of_the_graph_cannot_be_written(tmp_path: Path, lam: Path, globe: Path) -> None:
    for folder in unwritable(tmp_path):
        mistake = mistake_in(config_of(lam, globe, folder / "graph.pt"))
        assert mistake.startswith(f"system.input.graph: {folder} cannot be written (")
        assert mistake.endswith("). Set system.output.root (or HOUSE_OUTPUT) to a folder of yours.")


def test_disk_is_full(tmp_path: Path, lam: Path, globe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    assert mistake_in(config_of(lam, globe, tmp_path / "graph.pt")) == (
        f"system.input.graph: {tmp_path} has 0 MB left, but the graph needs up to 1 MB. Free some space, or set "
        "system.output.root (or HOUSE_OUTPUT) to another disk."
    )


# The graph file


def build(config: DictConfig) -> Path:
    """Build the graph of a config as stock training does."""
    path = Path(config.system.input.graph)
    graph = OmegaConf.create(OmegaConf.to_container(config.graph, resolve=True))
    graph.nodes.data.node_builder.dataset = {"dataset": cutout_of(config)}
    GraphCreator(graph).create(path, overwrite=True)
    return path


@pytest.fixture(scope="module")
def built(stores: tuple[Path, Path], registered: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(config_of(*stores, tmp_path_factory.mktemp("graphs") / "graph.pt"))


@pytest.fixture
def graph_file(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(built, tmp_path / "graph.pt"))


def without_our_overwrite(config: DictConfig) -> DictConfig:
    config.graph.overwrite = False
    return config


def rebuilt_because(config: DictConfig, caplog: pytest.LogCaptureFixture) -> str:
    """Why the resolver has the graph rebuilt; with the user's own `overwrite` the same is a mistake."""
    with caplog.at_level(logging.WARNING, "anemoi_house"):
        assert config.graph.overwrite is True
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("anemoi_house")]
    path = config.system.input.graph
    assert warning.startswith(f"The graph file {path} is rebuilt: ")
    reason = warning.removeprefix(f"The graph file {path} is rebuilt: ")
    assert mistake_in(without_our_overwrite(config)) == (
        f"system.input.graph: {path} does not fit, and graph.overwrite=False: {reason}. Name another file, "
        "or remove graph.overwrite (and graph=existing) so that an outdated file is rebuilt."
    )
    return reason


def test_no_graph_file_is_built(tmp_path: Path, lam: Path, globe: Path) -> None:
    assert config_of(lam, globe).graph.overwrite is True
    assert config_of(lam, globe, tmp_path / "graph.pt").graph.overwrite is True
    OmegaConf.resolve(without_our_overwrite(config_of(lam, globe, tmp_path / "graph.pt")))


def test_graph_file_that_fits_is_used(
    graph_file: Path, lam: Path, globe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert config_of(lam, globe, graph_file).graph.overwrite is False
    OmegaConf.resolve(without_our_overwrite(config_of(lam, globe, graph_file)))
    config = config_of(lam, globe, graph_file)
    OmegaConf.resolve(config)
    assert config.graph.overwrite is False
    assert graph_to_build(config_of(lam, globe, graph_file)) is False
    assert not [record for record in caplog.records if record.name.startswith("anemoi_house.plugin.cutout")]


def test_data_that_moved_still_fit(graph_file: Path, lam: Path, globe: Path, tmp_path: Path) -> None:
    shutil.copytree(lam, tmp_path / "moved.zarr")
    assert config_of(tmp_path / "moved.zarr", globe, graph_file).graph.overwrite is False


def test_graph_file_cut_short(graph_file: Path, lam: Path, globe: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph_file.write_bytes(graph_file.read_bytes()[:2000])
    reason = rebuilt_because(config_of(lam, globe, graph_file), caplog)
    assert reason == "it is cut short or not a graph file"


def test_graph_file_from_other_settings(
    graph_file: Path, lam: Path, globe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(lam, globe, graph_file)
    config.graph.edges[0].edge_builders[0].num_nearest_neighbours = 4
    assert rebuilt_because(config, caplog) == (
        "it was built from other settings (edges.0.edge_builders.0.num_nearest_neighbours: 3 -> 4)"
    )


def test_graph_file_from_another_trim(
    graph_file: Path, lam: Path, globe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(lam, globe, graph_file, **{"dataloader.trim": "300 km"})
    assert rebuilt_because(config, caplog) == "it was built from other settings (the coordinates of the data)"


def test_graph_file_from_other_data(
    graph_file: Path, lam: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    latitudes, longitudes = globe_grid()
    globe = write_store(tmp_path / "gfs.zarr", latitudes, longitudes + 0.01)
    config = config_of(lam, globe, graph_file)
    assert rebuilt_because(config, caplog) == "it was built from other settings (the coordinates of the data)"


def test_graph_file_without_a_record(
    graph_file: Path, lam: Path, globe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = torch.load(graph_file, weights_only=False)
    del graph.anemoi_house
    torch.save(graph, graph_file)
    config = config_of(lam, globe, graph_file)
    assert rebuilt_because(config, caplog) == "it has no record of what it was built from"


def test_a_graph_that_the_user_wants_anew_is_not_looked_at(graph_file: Path, lam: Path, globe: Path) -> None:
    graph_file.write_bytes(b"")
    config = config_of(lam, globe, graph_file, **{"graph.overwrite": True})
    OmegaConf.resolve(config)
    assert config.graph.overwrite is True


def test_graph_of_stock_existing(graph_file: Path, lam: Path, globe: Path) -> None:
    """`graph: existing` has no settings but the file: any graph of these data is right."""
    config = config_of(lam, globe, graph_file)
    config.graph = {"overwrite": False}
    OmegaConf.resolve(config)
    other = config_of(lam, globe, graph_file, **{"dataloader.trim": "300 km"})
    other.graph = {"overwrite": False}
    assert "its data nodes are not those of the dataset" in mistake_in(other)


# Within one process


def test_a_mistake_that_is_mended_is_not_remembered(tmp_path: Path, globe: Path) -> None:
    path = tmp_path / "hrrr.zarr"
    assert "does not exist" in mistake_in(config_of(path, globe))
    write_store(path, *lam_grid())
    assert cutout_of(config_of(path, globe))["cutout"][0]["dataset"] == str(path)


def test_what_a_caller_does_to_the_cutout_is_not_remembered(lam: Path, globe: Path) -> None:
    config = config_of(lam, globe)
    cutout = checked_cutout(config.dataloader.nested, config)
    cutout["cutout"].clear()
    assert len(cutout_of(config)["cutout"]) == 2
