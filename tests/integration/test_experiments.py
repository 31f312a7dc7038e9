"""The sample experiments through the stock commands, in an unrelated directory, with the wheel installed."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from anemoi_house.boundary.regions import REGIONS
from anemoi_house.graphs.describe import load_graph
from anemoi_house.tracking.spool import find_spools

pytestmark = pytest.mark.alone

STEPS = 12

EXPERIMENTS = {
    # rows and columns of the LAM, encoder neighbours, whether data nodes are isolated
    "mmgt_sample": ([26, 44], 12, True),
    "nbd_sample": ([26, 44], 20, True),
    "tnbd_sample": ([22, 40], 20, True),
    "tnbd_covering_sample": ([22, 40], 12, False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An unrelated directory, in which all experiments of this module run."""
    return tmp_path_factory.mktemp("unrelated")


@pytest.fixture(scope="module")
def trained(installed, folder):
    """Function that trains an experiment once, and returns its checkpoint folder and its log."""
    runs: dict[str, tuple[Path, str]] = {}

    def train(experiment: str) -> tuple[Path, str]:
        if experiment not in runs:
            before = set(folder.glob("outputs/checkpoint/*"))
            log = installed.check(
                "anemoi-training",
                "train",
                f"--config-name={experiment}",
                f"training.max_steps={STEPS}",
                f"dataloader.limit_batches.training={STEPS}",  # one epoch, so that it is validated
                "dataloader.limit_batches.validation=4",
                cwd=folder,
            )
            (run,) = set(folder.glob("outputs/checkpoint/*")) - before
            runs[experiment] = run, log
        return runs[experiment]

    return train


def test_the_wheel_ships_every_config(wheel):
    root = Path(__file__).parents[2]
    ours = {str(path.relative_to(root)) for path in (root / "configs").rglob("*.yaml")}
    shipped = {name.removeprefix("anemoi_house/") for name in zipfile.ZipFile(wheel).namelist()}
    assert ours
    assert ours <= shipped


def test_the_wheel_ships_slurm2ddp(installed):
    path = Path(installed.check("anemoi-house", "slurm2ddp", cwd=installed.prefix).strip())
    assert path.read_bytes() == (Path(__file__).parents[2] / "slurm2ddp.sh").read_bytes()
    assert path.is_relative_to(installed.prefix)
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_trains(experiment, trained, folder):
    run, log = trained(experiment)
    lam_shape, neighbours, some_isolated = EXPERIMENTS[experiment]

    checkpoint = torch.load(run / "last.ckpt", map_location="cpu", weights_only=False)
    assert checkpoint["global_step"] == STEPS
    graph = load_graph(folder / "outputs" / "graphs" / f"{experiment}.pt")
    coverage = graph.anemoi_house["coverage"]
    assert coverage["lam_shape"] == lam_shape
    assert coverage["encoder_neighbours"] == neighbours
    assert coverage["isolated"]["lam"] == coverage["isolated"]["rim"] == 0
    assert (coverage["isolated"]["all"] > 0) == some_isolated
    assert re.search(rf"isolated data nodes +{coverage['isolated']['all']:,}\b", log)

    with closing(sqlite3.connect(folder / "outputs" / "logs" / "mlflow" / "mlflow.db")) as store:
        (there,) = store.execute(
            "select run_uuid from tags where (key, value) = ('house.run_id', ?)", (run.name,)
        ).fetchone()
        assert store.execute("select name from runs where run_uuid = ?", (there,)).fetchone() == (experiment,)
        rows = store.execute("select value from metrics where key like 'train/%' and run_uuid = ?", (there,))
        assert rows.fetchone()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_metrics_of_the_regions_add_up_to_the_whole(experiment, trained, folder):
    """In the record of the run, by the areas in the graph, with half of the weight on the LAM."""
    run, log = trained(experiment)
    (spool,) = (spool for spool in find_spools(folder / "outputs") if spool.run_id == run.name)
    metrics = spool.summary().metrics
    nodes = load_graph(folder / "outputs" / "graphs" / f"{experiment}.pt")["data"]
    area = nodes["area_weight"].double().squeeze().numpy()
    in_lam = nodes["cutout_mask"].squeeze().numpy()
    codes = np.stack([nodes[f"region_{region}"].squeeze().numpy() for region in REGIONS]).argmax(axis=0)
    assert np.array_equal(in_lam, codes < 2)
    weights = np.where(in_lam, area / area[in_lam].sum(), area / area[~in_lam].sum()) / 2
    shares = np.bincount(codes, weights)
    for variable in ("gh_500", "t_850", "u_850", "v_850", "all"):
        regions = [metrics[f"val/mse_{region}/{variable}.step1"] for region in REGIONS]
        assert len(set(regions)) == len(REGIONS)
        assert metrics[f"val/mse/{variable}.step1"] == pytest.approx(np.dot(shares, regions), rel=1e-5)
    assert len([name for name in metrics if name.startswith("val/mse")]) == 100
    (printed,) = re.findall(r"share of the area\n +lam interior +([\d.]+)%", log)
    assert float(printed) == pytest.approx(100 * area[codes == 0].sum() / area.sum(), abs=0.01)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_config_validate_accepts(experiment, installed, tmp_path):
    assert "Config files validated" in installed.check(
        "anemoi-training", "config", "validate", f"--config-name={experiment}", cwd=tmp_path
    )


@pytest.mark.parametrize("command", [["train"], ["config", "validate"]])
def test_a_mistyped_key_is_refused_with_one_message(command, installed, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "defaults: [tnbd_sample, _self_]\n"
        "graph: {encoder_edges: {edge_builders: [{_target_: anemoi_house.graphs.BoundaryAwareKNNEdges,\n"
        "  num_nearest_neighbours: 20, boundary_with_km: 500}]}}\n"
    )
    done = installed.run("anemoi-training", *command, "--config-name=mine", cwd=tmp_path)
    assert done.returncode != 0
    assert "has no setting 'boundary_with_km'; did you mean 'boundary_width_km'?" in done.stdout
    assert "Traceback" not in done.stdout
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("command", [["train"], ["config", "validate"]])
def test_a_missing_dataset_ends_with_one_message(command, installed, tmp_path):
    done = installed.run("anemoi-training", *command, "--config-name=tnbd_sample", cwd=tmp_path, HOUSE_SAMPLE="gone")
    assert done.returncode != 0
    assert "system.input.dataset.lam: gone/hrrr.zarr does not exist." in done.stdout
    assert "Traceback" not in done.stdout


def test_paths_that_are_not_set_end_with_one_message(installed, tmp_path):
    done = installed.run("anemoi-training", "train", "--config-name=tnbd", cwd=tmp_path)
    assert done.returncode != 0
    assert "system.input.dataset.lam is not set." in done.stdout
    assert "export HOUSE_HRRR=" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_broken_promise_ends_the_training_with_one_message(installed, tmp_path):
    done = installed.run(
        "anemoi-training", "train", "--config-name=tnbd_sample", "graph.encoder_neighbours=3", cwd=tmp_path
    )
    assert done.returncode != 0
    assert "num_nearest_neighbours: 3 leaves " in done.stdout
    assert "The smallest sufficient number is " in done.stdout
    assert "Traceback" not in done.stdout
    assert not list(tmp_path.rglob("*.pt"))


def test_the_stock_stretched_config_resolves_as_without_us(installed, tmp_path):
    script = """
import sys
if sys.argv[1] == "without":
    sys.modules["hydra_plugins.house_searchpath.plugin"] = None
from hydra import compose, initialize
from omegaconf import OmegaConf
with initialize(version_base=None):
    print("CONFIG" + OmegaConf.to_yaml(compose("stretched")))
    found = "house" in str(compose("stretched", return_hydra_config=True).hydra.runtime.config_sources)
    print("PLUGIN", found)
"""
    outputs = [installed.check("python", "-c", script, how, cwd=tmp_path) for how in ("with", "without")]
    with_us, without_us = (output.partition("CONFIG")[2].partition("PLUGIN") for output in outputs)
    assert with_us[0] == without_us[0]
    assert "cutout" in with_us[0]
    assert (with_us[2].strip(), without_us[2].strip()) == ("True", "False")


def test_restart_continues_the_run_with_its_graph(trained, installed, folder):
    run, _ = trained("tnbd_sample")
    graph = folder / "outputs" / "graphs" / "tnbd_sample.pt"
    built = graph.stat().st_mtime_ns
    runs = set(folder.glob("outputs/checkpoint/*"))
    log = installed.check(
        "anemoi-training",
        "train",
        "--config-name=tnbd_sample",
        f"training.run_id={run.name}",
        f"training.max_steps={2 * STEPS}",
        f"training.optimization.lr_scheduler.t_initial={STEPS}",
        cwd=folder,
    )
    assert "Resuming training from last checkpoint" in log
    assert torch.load(run / "last.ckpt", map_location="cpu", weights_only=False)["global_step"] == 2 * STEPS
    assert set(folder.glob("outputs/checkpoint/*")) == runs
    assert graph.stat().st_mtime_ns == built


def test_two_ranks_find_configs_and_schemas(installed, tmp_path):
    log = installed.check(
        "anemoi-training",
        "train",
        "--config-name=tnbd_covering_sample",
        "training.max_steps=2",
        "system.hardware.num_gpus_per_node=2",
        "training.strategy._target_=anemoi.training.distributed.strategy.DDPGroupStrategy",
        cwd=tmp_path,
    )
    assert log.count("Config validated.") == 2
    (checkpoint,) = tmp_path.glob("outputs/checkpoint/*/last.ckpt")
    assert torch.load(checkpoint, map_location="cpu", weights_only=False)["global_step"] == 2


def test_inference_without_anemoi_house(trained, without_house, tmp_path):
    run, _ = trained("tnbd_sample")
    config = {
        "checkpoint": str(run / "inference-last.ckpt"),
        "date": "2020-01-28T00",
        "lead_time": "24h",
        "device": "cpu",
        "input": {"test": {"use_original_paths": True}},
        "output": {"netcdf": "forecast.nc"},
    }
    (tmp_path / "forecast.yaml").write_text(json.dumps(config))
    assert without_house.run("python", "-c", "import anemoi_house", cwd=tmp_path).returncode != 0
    without_house.check("anemoi-inference", "run", "forecast.yaml", cwd=tmp_path)
    script = """
import json, netCDF4, numpy
with netCDF4.Dataset("forecast.nc") as forecast:
    height = forecast["gh_500"][:]
    hours = forecast["time"][:] / {"seconds": 3600, "hours": 1}[forecast["time"].units.split()[0]]
    missing = int(numpy.isnan(height).sum())
    print(json.dumps([height.shape, (hours - hours[0]).tolist(), float(numpy.mean(height)), missing]))
"""
    shape, hours, mean, missing = json.loads(without_house.check("python", "-c", script, cwd=tmp_path))
    assert shape == [5, 4854]
    assert hours == [0, 6, 12, 18, 24]
    assert 5000 < mean < 6000
    assert missing == 0
