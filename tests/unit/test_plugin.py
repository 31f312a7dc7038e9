"""The Hydra plugin, what it registers, and our configs as Hydra composes them."""

from __future__ import annotations

import copy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra_plugins.anemoi_searchpath.anemoi_searchpath_plugin import AnemoiSearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from anemoi_house.plugin import registration
from anemoi_house.shipped import config_folder
from hydra_plugins.house_searchpath.plugin import HouseSearchPathPlugin

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ("mmgt", "nbd", "tnbd", "tnbd_covering")
PUBLISHED_WEIGHTS = {
    **{"default": 1, "gh": 12, "t": 6, "u": 0.8, "v": 0.5, "w": 0.001, "q": 0.6},
    **{"sp": 10, "u10": 0.1, "v10": 0.1, "accum_tp": 0.025},
}
OURS, STOCK = f"file://{config_folder()}", "pkg://anemoi.training/config"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


def composed_anew(name: str, *overrides: str) -> DictConfig:
    """Compose a config as `anemoi-training config validate` does."""
    with initialize(version_base=None, config_path=None):
        return compose(config_name=name, overrides=list(overrides))


_composed_once = cache(composed_anew)


def composed(name: str, *overrides: str) -> DictConfig:
    """The same, unresolved, for tests with an empty working directory."""
    return copy.deepcopy(_composed_once(name, *overrides))


# The search path


def search_path(*plugins: SearchPathPlugin) -> list[str]:
    """Folders that Hydra searches, in order of precedence, with a `--config-path`."""
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    path.append("main", "file:///given/with/config-path")
    for plugin in plugins:
        plugin.manipulate_search_path(path)
    path.append("schema", "structured://")
    return list(dict.fromkeys(entry.path for entry in path.get_path()))


@pytest.mark.parametrize("order", [1, -1])
def test_precedence_whichever_plugin_runs_first(tmp_path: Path, order: int) -> None:
    plugins = [HouseSearchPathPlugin(), AnemoiSearchPathPlugin()][::order]
    assert search_path(*plugins) == [
        "pkg://hydra.conf",
        "file:///given/with/config-path",
        str(tmp_path),
        OURS,
        STOCK,
        "structured://",
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_precedence_with_a_folder_config_in_the_working_folder(tmp_path: Path, order: int) -> None:
    (tmp_path / "config").mkdir()
    places = search_path(*[HouseSearchPathPlugin(), AnemoiSearchPathPlugin()][::order])
    assert places[2:5] == [str(tmp_path / "config"), OURS, STOCK]


def test_our_configs_are_there() -> None:
    assert (config_folder() / "tnbd.yaml").is_file()


@pytest.mark.usefixtures("registered")
def test_a_file_in_the_working_folder_comes_before_ours(tmp_path: Path) -> None:
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "house_knn.yaml").write_text("mine: True\n")
    config = composed_anew("mmgt")
    assert config.graph.mine is True
    assert "nodes" not in config.graph
    assert config.training.max_steps == 30_000


# Stock runs do not change


def config_files(folder: Any) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(str(folder)).rglob("*.yaml")}


def test_no_config_of_ours_has_the_name_of_a_stock_one() -> None:
    ours, stock = (
        config_files(config_folder()),
        config_files(resources.files("anemoi.training") / "config"),
    )
    assert len(ours) > 10
    assert len(stock) > 100
    assert not ours & stock


@pytest.mark.parametrize("name", ["stretched", "lam", "multi"])
def test_stock_configs_compose_as_without_us(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_us = OmegaConf.to_yaml(composed_anew(name))
    known = Plugins.instance().plugin_type_to_subclass_list
    assert any(plugin.__name__ == "HouseSearchPathPlugin" for plugin in known[SearchPathPlugin])
    others = [plugin for plugin in known[SearchPathPlugin] if plugin.__name__ != "HouseSearchPathPlugin"]
    monkeypatch.setitem(known, SearchPathPlugin, others)
    assert OmegaConf.to_yaml(composed_anew(name)) == with_us


# Cost of importing


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a new interpreter has loaded after running a line of code."""
    run = [sys.executable, "-c", f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"]
    return set(subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


@pytest.mark.parametrize(
    "module", ["anemoi_house", "anemoi_house.plugin.registration", "hydra_plugins.house_searchpath.plugin"]
)
def test_importing_costs_nothing_heavy(module: str) -> None:
    ours = modules_after(f"import {module}") - modules_after("import hydra.core.config_search_path")
    allowed = {"anemoi_house", "hydra_plugins", "hydra", "omegaconf", "antlr4", "yaml"}
    third_party = {name for name in ours if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert third_party <= allowed


def test_a_plain_hydra_application_pays_for_neither_anemoi_nor_torch() -> None:
    code = "from hydra import compose, initialize\nwith initialize(version_base=None): compose()"
    heavy = {"torch", "numpy", "pydantic", "mlflow", "earthkit", "scipy"}
    assert not modules_after(code) & heavy


# Versions


def requirement(name: str) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = [line for line in project["dependencies"] if line.startswith(name)]
    return found


def test_supported_version_is_that_of_the_requirement() -> None:
    major, minor = registration.SUPPORTED.split(".")
    assert requirement("anemoi-training").endswith(f">={major}.{minor}.1,<{major}.{int(minor) + 1}")
    assert metadata.version("anemoi-training").startswith(f"{registration.SUPPORTED}.")


@pytest.fixture
def _fresh_warning() -> Iterator[None]:
    registration.warn_of_another_version.cache_clear()
    yield
    registration.warn_of_another_version.cache_clear()


@pytest.mark.usefixtures("_fresh_warning")
@pytest.mark.parametrize("installed", ["0.18.0", "0.16.3", "0.170.1", "1.0.0"])
def test_another_version_is_said_in_one_line(
    installed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real = metadata.version("anemoi-house")
    versions = {"anemoi-training": installed, "anemoi-house": real}
    monkeypatch.setattr(registration, "version", versions.__getitem__)
    registration.warn_of_another_version()
    registration.warn_of_another_version()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"anemoi-house {real} is made for anemoi-training 0.17, but {installed} is installed: its configs may not fit. "
        "Install 'anemoi-training==0.17.*' or another anemoi-house.\n"
    )


@pytest.mark.usefixtures("_fresh_warning")
def test_the_supported_version_is_not_worth_a_word(capsys: pytest.CaptureFixture) -> None:
    registration.warn_of_another_version()
    assert capsys.readouterr() == ("", "")


# Our configs


def lines_that_count(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", [name + stage for name in EXPERIMENTS for stage in ("", "_sample")])
def test_an_experiment_is_a_few_lines(name: str) -> None:
    assert len(lines_that_count(config_folder() / f"{name}.yaml")) <= 25


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("experiment", ["mmgt", "tnbd_covering"])
def test_experiments_pass_validation_with_two_paths(
    experiment: str, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anemoi.training.schemas.base_schema import BaseSchema

    monkeypatch.setenv("HOUSE_HRRR", str(sample / "hrrr.zarr"))
    monkeypatch.setenv("HOUSE_GFS", str(sample / "gfs.zarr"))
    period = (f"dataloader.validation.datasets.data.{key}=2020-01" for key in ("start", "end"))
    config = composed(experiment, "dataloader.trim=null", *period)
    OmegaConf.resolve(config)
    assert BaseSchema(**config).config_validation
    assert config.system.hardware.num_nodes == config.system.hardware.num_gpus_per_node == 1
    assert config.diagnostics.log.mlflow.run_name == experiment


@pytest.mark.usefixtures("registered")
def test_slurm_job_gives_the_hardware(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NNODES", "8")
    monkeypatch.setenv("SLURM_GPUS_PER_NODE", "a100:4")
    hardware = composed("mmgt").system.hardware
    assert (hardware.num_nodes, hardware.num_gpus_per_node) == (8, 4)


@pytest.mark.usefixtures("registered")
def test_mistyped_key_in_an_experiment_is_refused(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anemoi.training.schemas.base_schema import BaseSchema

    from anemoi_house.upstream.errors import CommandError

    monkeypatch.setenv("HOUSE_SAMPLE", str(sample))
    config = composed("tnbd_sample", "+graph.encoder_edges.edge_builders.0.boundary_width=5")
    OmegaConf.resolve(config)
    with pytest.raises(CommandError, match=r"has no setting 'boundary_width'; did you mean 'boundary_width_km'\?"):
        BaseSchema(**config)


@pytest.mark.usefixtures("registered")
def test_path_that_is_not_set_ends_the_command_with_its_message() -> None:
    with pytest.raises(
        SystemExit, match=r"system\.input.dataset\.lam is not set\. Set the path of the dataset: `export HOUSE_"
    ):
        OmegaConf.resolve(composed("tnbd"))


@pytest.mark.usefixtures("registered")
def test_experiments_differ_in_what_their_names_say() -> None:
    """The published settings, under the current keys."""
    mmgt, nbd, tnbd, covering = (composed(name) for name in EXPERIMENTS)

    def encoder(config: DictConfig) -> tuple[str, int]:
        (builder,) = config.graph.edges[0].edge_builders
        return builder["_target_"], builder.num_nearest_neighbours

    assert encoder(mmgt) == ("anemoi.graphs.edges.KNNEdges", 12)
    assert encoder(nbd) == encoder(tnbd) == ("anemoi_house.graphs.BoundaryAwareKNNEdges", 20)
    assert encoder(covering) == ("anemoi_house.graphs.CoveringKNNEdges", 12)
    assert [config.dataloader.trim for config in (mmgt, nbd)] == [None, None]
    assert [config.dataloader.trim for config in (tnbd, covering)] == [[15, 16, 15, 16]] * 2
    for config in (mmgt, nbd, tnbd, covering):
        assert config.model.num_channels == 512
        assert (config.model.processor.num_layers, config.model.processor.num_heads) == (16, 16)
        assert config.training.optimization.lr == 0.625e-4
        weights = config.training.scalers.datasets.data.general_variable.weights
        # It keeps stock's own entries (z, 10u, cp, ...), which none of our variables is named after.
        assert weights.items() >= PUBLISHED_WEIGHTS.items()


# The graph of an experiment, built as the stock trainer builds it


@pytest.mark.usefixtures("registered")
def test_graph_of_an_experiment_is_recognised(sample: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Validated settings, with defaults filled in, give the same record as the config that the resolver sees."""
    from anemoi.graphs.create import GraphCreator
    from anemoi.training.schemas.base_schema import BaseSchema, convert_to_omegaconf

    monkeypatch.setenv("HOUSE_SAMPLE", str(sample))
    node_builder = "graph.nodes.hidden.node_builder"
    smaller = (f"{node_builder}.global_resolution=2", f"{node_builder}.lam_resolution=4")

    def to_build(*overrides: str) -> bool:
        return composed("tnbd_covering_sample", *smaller, *overrides).graph.overwrite

    assert to_build() is True
    config = composed("tnbd_covering_sample", *smaller)
    OmegaConf.resolve(config)
    validated = convert_to_omegaconf(BaseSchema(**config))
    validated.graph.nodes.data.node_builder.dataset = {"dataset": validated.dataloader.dataset}
    path = Path(validated.system.input.graph)
    graph = GraphCreator(validated.graph).create(path, overwrite=validated.graph.overwrite)
    assert path.resolve().parent == tmp_path / "outputs" / "graphs"
    assert graph.anemoi_house["coverage"]["lam_shape"] == [10, 10]
    assert graph.anemoi_house["coverage"]["isolated"]["all"] == 0

    assert to_build() is False
    assert to_build("dataloader.trim=null", f"{node_builder}.margin_radius_km=88.0") is True
