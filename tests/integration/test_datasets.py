"""From NOAA's archives to a training: the recipes, the stock commands, an S3 server, and what can go wrong."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr
from anemoi.datasets import open_dataset
from anemoi.datasets.create.tasks import run_task
from noaa.files import (
    GFS,
    HRRR,
    LEVELS_HPA,
    Record,
    analysis_records,
    field_values,
    precision,
    stored_values,
    write_date,
    write_file,
)
from noaa.servers import Fault, Server, http_server, s3_server

from anemoi_house.datasets.grib import fields_of, message_length
from anemoi_house.datasets.variables import VARIABLES
from anemoi_house.geometry import HRRR_15KM, global_grid
from anemoi_house.graphs.describe import load_graph
from anemoi_house.sample.build import FORCINGS
from anemoi_house.upstream.errors import CommandError

START = datetime(2021, 4, 1)
STEP = timedelta(hours=6)
DATES = [START + k * STEP for k in range(7)]
RECIPES = {"gfs_1deg": "gfs.zarr", "hrrr_15km": "hrrr.zarr"}


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NOAA's two buckets with all fields of a few dates, at full size."""
    folder = tmp_path_factory.mktemp("buckets")
    for model in (GFS, HRRR):
        for date in DATES:
            write_date(folder, model, date)
    return folder


@pytest.fixture(scope="module")
def built(here, buckets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the two datasets: the recipes as they are, for these dates, and the stock command."""
    folder = tmp_path_factory.mktemp("built")
    with s3_server(buckets) as endpoint:
        running = []
        for name, dataset in RECIPES.items():
            period = ["--start", f"{DATES[0]:%Y-%m-%dT%H}", "--end", f"{DATES[-1]:%Y-%m-%dT%H}"]
            recipe = here.check("anemoi-house", "recipe", name, *period, cwd=folder)
            (folder / f"{name}.yaml").write_text(recipe)
            command = [here.prefix / "bin" / "anemoi-datasets", "create", f"{name}.yaml", dataset]
            s3 = {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}
            running.append(started(command, folder, folder / f"{name}.log", **s3))
        for name, process in zip(RECIPES, running):
            assert process.wait(300) == 0, (folder / f"{name}.log").read_text()[-4000:]
    return folder


def started(command: list, cwd: Path, log: Path, **variables: str) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HOUSE_", "PYTHON", "AWS_"))}
    clean["PATH"] = f"{Path(sys.prefix) / 'bin'}:{clean['PATH']}"
    with log.open("wb") as output:
        return subprocess.Popen(
            list(map(str, command)), cwd=cwd, env=clean | variables, stdout=output, stderr=subprocess.STDOUT
        )


def names() -> set[str]:
    return {f"{name}_{level}" for name in ("gh", "u", "v", "w", "t", "q") for level in LEVELS_HPA} | {
        *("sp", "u10", "v10", "t2m", "t_surface", "sh2", "u80", "v80", "accum_tp", "lsm", "orog"),
        *FORCINGS,
    }


@pytest.mark.parametrize(("dataset", "shape"), [("gfs.zarr", (180, 360)), ("hrrr.zarr", (211, 359))])
def test_the_recipes_give_the_published_datasets(built: Path, dataset: str, shape: tuple[int, int]) -> None:
    store = zarr.open(str(built / dataset), "r")
    assert store["data"].shape == (len(DATES), 92, 1, shape[0] * shape[1])
    assert store["data"].chunks == (1, 92, 1, shape[0] * shape[1])
    assert tuple(store.attrs["field_shape"]) == shape
    assert set(store.attrs["variables"]) == names()
    lat, lon = global_grid(1.0) if dataset == "gfs.zarr" else HRRR_15KM.latlon()
    np.testing.assert_allclose(store["latitudes"][:], lat.ravel(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(store["longitudes"][:] % 360, lon.ravel(), rtol=0, atol=1e-5)
    assert np.isfinite(store["data"][:]).all()
    assert store.attrs["missing_dates"] == []

    metadata = store.attrs["variables_metadata"]
    # Loss groups go by `param`.
    assert {name: entry["mars"]["param"] for name, entry in metadata.items() if name not in FORCINGS} == {
        name: name.rsplit("_", 1)[0] if name.rsplit("_", 1)[-1].isdigit() else name for name in names() - {*FORCINGS}
    }
    assert metadata["t_850"]["mars"] == {"param": "t", "levtype": "pl", "levelist": 850}
    assert metadata["accum_tp"]["process"] == "accumulation"
    assert metadata["accum_tp"]["units"] == "kg m**-2"
    assert metadata["orog"]["constant_in_time"]

    opened = open_dataset(str(built / dataset))
    assert opened.frequency == STEP
    assert list(opened.dates.astype("datetime64[s]").tolist()) == DATES
    tendencies = opened.statistics_tendencies("6h")
    data = store["data"][:, opened.name_to_index["t_850"], 0]
    # Tendencies are a range and a spread of differences: the difference of the first two dates is among them.
    difference = data[1].astype(float) - data[0]
    position = opened.name_to_index["t_850"]
    assert tendencies["minimum"][position] <= difference.min()
    assert tendencies["maximum"][position] >= difference.max()


def test_a_trim_leaves_the_published_points(built: Path) -> None:
    trimmed = open_dataset(dataset=str(built / "hrrr.zarr"), trim_edge=[15, 16, 15, 16])
    assert trimmed.field_shape == (180, 328)


def blocks(values: np.ndarray) -> np.ndarray:
    """Means of 5 x 5 points, written out."""
    return np.array(
        [[values[5 * j : 5 * j + 5, 5 * i : 5 * i + 5].mean() for i in range(0, 359, 17)] for j in range(0, 211, 15)]
    )


@pytest.mark.parametrize("name", ["gh_500", "q_1000", "u_250", "v_250", "u10", "v10", "accum_tp", "lsm", "t2m", "sp"])
def test_hrrr_holds_block_means_of_what_was_archived(built: Path, name: str) -> None:
    opened = open_dataset(str(built / "hrrr.zarr"))
    for position in (0, len(DATES) - 1):
        record, lead = record_of(name)
        truth = field_values(HRRR, record, DATES[position], lead)
        found = opened[position][opened.name_to_index[name], 0].reshape(211, 359)[::15, ::17]
        # Packing, the float32 of the dataset, and what turning winds after the mean differs by (measured 1.6e-3 m/s).
        tolerance = 2 * precision(record, stored_values(HRRR, record, DATES[position], lead)) + 1e-6 * abs(truth).max()
        tolerance += 2e-3 if name[0] in "uv" else 0
        np.testing.assert_allclose(found, blocks(truth), rtol=0, atol=tolerance)


def record_of(name: str) -> tuple[Record, int]:
    param, _, level = name.rpartition("_")
    if level.isdigit():
        return Record(VARIABLES[param].name, f"{level} mb"), 0
    variable = VARIABLES[name]
    return Record(variable.name, variable.level or "", (0, 6) if variable.accumulated else None), (
        6 if variable.accumulated else 0
    )


def test_gfs_keeps_the_global_mean(built: Path) -> None:
    """Area means of the archived fields by the weights of their points' own cells, poles included."""
    opened = open_dataset(str(built / "gfs.zarr"))
    edges = np.clip(90.125 - 0.25 * np.arange(722), -90, 90)
    fine = np.repeat(-np.diff(np.sin(np.deg2rad(edges)))[:, None], 1440, axis=1)
    lat, _ = global_grid(1.0)
    coarse = np.sin(np.deg2rad(lat + 0.5)) - np.sin(np.deg2rad(lat - 0.5))
    for name in ("t_850", "gh_100", "u10", "sp"):
        record, lead = record_of(name)
        truth = field_values(GFS, record, DATES[2], lead)
        found = opened[2][opened.name_to_index[name], 0].reshape(180, 360).astype(float)
        expected = np.average(truth, weights=fine)
        # The mean of many roundings to the packing's step is far closer than the step.
        tolerance = 1e-6 * abs(expected) + 0.1 * precision(record, truth)
        assert np.average(found, weights=coarse) == pytest.approx(expected, abs=tolerance)


EXPERIMENT = """\
defaults:
  - tnbd
  - sample/house_tiny # a small model, on a CPU
  - _self_
graph: # the published mesh: on a coarser one NBD's 20 neighbours leave nodes of the boundary out, and it says so
  nodes: {hidden: {node_builder: {global_resolution: 5, lam_resolution: 8, margin_radius_km: 11}}}
dataloader:
  training: {datasets: {data: {start: 2021-04-01, end: 2021-04-01}}}
  validation: {datasets: {data: {start: 2021-04-02, end: 2021-04-02}}}
  test: {datasets: {data: {start: 2021-04-02, end: 2021-04-02}}}
model: {num_channels: 16}
training: {max_steps: 2}
"""


def test_tnbd_trains_on_what_the_recipes_built(here, built: Path, tmp_path: Path) -> None:
    (tmp_path / "nested.yaml").write_text(EXPERIMENT)
    here.check("anemoi-training", "train", "--config-name=nested", cwd=tmp_path, HOUSE_SAMPLE=str(built))
    (run,) = tmp_path.glob("outputs/checkpoint/*")
    checkpoint = torch.load(run / "last.ckpt", map_location="cpu", weights_only=False)
    assert checkpoint["global_step"] == 2
    coverage = load_graph(tmp_path / "outputs" / "graphs" / "tnbd.pt").anemoi_house["coverage"]
    assert coverage["lam_shape"] == [180, 328]
    assert coverage["isolated"]["lam"] == coverage["isolated"]["rim"] == 0


# What can go wrong, on a coarse archive of two days: four dates a group.

SMALL = HRRR.thinned(20)
DAYS = [START + k * STEP for k in range(8)]
SECOND_DAY = SMALL.path(DAYS[5], 0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    for date in DAYS:
        write_date(folder, SMALL, date, [500, 850])
    return folder / SMALL.bucket


@pytest.fixture
def server(archive: Path) -> Iterator[Server]:
    with http_server(archive) as running:
        yield running


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """A build in this process changes how numpy and the interpreter report errors."""
    handling, hook = np.geterr(), sys.excepthook
    yield
    np.seterr(**handling)
    sys.excepthook = hook


def recipe(folder: Path, root: str, patience_s: float = 20, **changes: object) -> Path:
    noaa = {"model": "hrrr", "shape": list(SMALL.grid.shape), "roots": [root], "patience_s": patience_s}
    analysis = {"house-noaa": {**noaa, "param": ["t", "u", "v", "sp", "orog"], "level": [500, 850]}}
    rain = {"house-noaa": {**noaa, "param": "accum_tp", "lead_time": "6h"}}
    content = {
        "description": "two days of a coarse archive",
        "dates": {"start": DAYS[0].isoformat(), "end": DAYS[-1].isoformat(), "frequency": "6h"},
        "input": {"pipe": [{"join": [analysis, rain]}, {"house-coarsen": {"cells": 5}}, {"house-rotate-winds": {}}]},
        "output": {"dtype": "float32", "chunking": {"dates": 1, "ensembles": 1}},
        "statistics": {"tendencies": ["6h"]},
        "build": {"group_by": "daily", "allow_nans": False, "env": {"BLOSC_NTHREADS": "1"}},
    } | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def task(name: str, path: Path, **options: object) -> None:
    """One of the steps that `anemoi-datasets create` is made of, in this process."""
    run_task(name, path=str(path), **options)


def arrays(path: Path) -> dict[str, bytes]:
    """All files of a dataset but the attributes, which hold when, where and with what it was made."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != ".zattrs"
    }


@pytest.fixture(scope="module")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    before = np.geterr()
    task("init", folder / "a.zarr", recipe=str(recipe(folder, str(archive))))
    task("load", folder / "a.zarr")
    task("finalise", folder / "a.zarr")
    np.seterr(**before)
    return arrays(folder / "a.zarr")


def loaded(path: Path) -> list[bool]:
    return zarr.open(str(path), "r")["_build/flags"][:].tolist()


def test_faults_that_pass_leave_no_trace(here, server: Server, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    kinds = [429, 500, 503, "reset", "short", "timeout"]
    for date, kind in zip(DAYS, kinds):
        server.inject(Fault(rf"{date:%Y%m%d}.*t{date:%H}z", kind, times=1 if kind == "timeout" else 3))
    recipe(tmp_path, server.url, patience_s=12)
    log = here.check("anemoi-datasets", "create", "recipe.yaml", "a.zarr", cwd=tmp_path)
    assert arrays(tmp_path / "a.zarr") == undisturbed
    assert "429 Too Many Requests" in log
    faults = {request.fault for request in server.requests if request.fault}
    assert faults == set(kinds)


def bit(offset: int, bit: int) -> Fault:
    return Fault(SECOND_DAY + "$", "bit", offset=offset, bit=bit)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(SECOND_DAY, 404), r"has no .*`anemoi-house scan RECIPE` writes .* `anemoi-house missing DATASET 2021"),
        (Fault(SECOND_DAY, 403), r"access denied\. Check the root"),
        (Fault(SECOND_DAY + "$", 503), "503 .*gave up after 2 s"),
        (Fault(SECOND_DAY + "$", "truncated", offset=1000), "cut short"),
        (Fault(SECOND_DAY, "html"), "line 1 is a web page"),
        (Fault(SECOND_DAY + "$", "ignore-range"), "does not support byte ranges"),
        ("edition", "the message is GRIB edition 3"),
        ("category", "the index does not belong to its file"),
        (
            "values",
            "damaged: .*Run `anemoi-datasets load` again once .* or declare the date missing with "
            "`anemoi-house missing`",
        ),
    ],
)
def test_a_fault_that_stays_stops_the_build_and_keeps_what_was_loaded(
    server: Server, archive: Path, tmp_path: Path, undisturbed: dict[str, bytes], fault, told: str
) -> None:
    path = tmp_path / "a.zarr"
    task("init", path, recipe=str(recipe(tmp_path, server.url, patience_s=2)))
    server.inject(fault if isinstance(fault, Fault) else damage(archive, fault))
    with pytest.raises(CommandError, match=told) as stop:
        task("load", path)
    assert "\n" not in str(stop.value)
    assert f"{server.url}/{SECOND_DAY}" in str(stop.value) or "has no" in str(stop.value)
    assert loaded(path) == [True, False]
    assert np.isnan(zarr.open(str(path), "r")["data"][4:]).all()
    server.heal()
    task("load", path)
    task("finalise", path)
    assert arrays(path) == undisturbed


def damage(archive: Path, what: str) -> Fault:
    """One bit of the message of the temperature on 500 hPa."""
    lines = (archive / f"{SECOND_DAY}.idx").read_text().splitlines()
    (offset,) = [int(line.split(":")[1]) for line in lines if ":TMP:500 mb:" in line]
    message = (archive / SECOND_DAY).read_bytes()[offset:]
    at = {
        number: start for number, start, _ in reversed(fields_of(message[: message_length(message[:16])])[0].sections)
    }
    byte, position = {"edition": (7, 0), "category": (at[4] + 9, 2), "values": (at[5] + 11, 6)}[what]
    return bit(offset + byte, position)


def as_grib1(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"GRIB" + content[4:7] + b"\x02", b"GRIB" + content[4:7] + b"\x01"))


def on_another_grid(path: Path) -> None:
    write_file(path, HRRR.thinned(30), DAYS[5], 0, analysis_records([500, 850]))


def with_the_index_of_another_file(path: Path) -> None:
    other = path.with_name("other")
    write_file(other, SMALL, DAYS[5], 0, analysis_records([500, 850])[::-1])
    Path(f"{other}.idx").replace(f"{path}.idx")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (as_grib1, "the message is GRIB edition 1"),
        (on_another_grid, "on a lambert grid of 36 x 60 points, expected 53 x 90"),
        (with_the_index_of_another_file, "(cut short|no GRIB message|does not belong to its file)"),
    ],
)
def test_another_file_in_place_of_the_right_one_stops_the_build(
    archive: Path, tmp_path: Path, undisturbed: dict[str, bytes], spoil, told: str
) -> None:
    served, path = tmp_path / "served", tmp_path / "a.zarr"
    shutil.copytree(archive, served)
    with http_server(served) as server:
        task("init", path, recipe=str(recipe(tmp_path, server.url, patience_s=2)))
        spoil(served / SECOND_DAY)
        with pytest.raises(CommandError, match=told) as stop:
            task("load", path)
        assert f"{server.url}/{SECOND_DAY}" in str(stop.value)
        assert loaded(path) == [True, False]
        shutil.copytree(archive, served, dirs_exist_ok=True)
        task("load", path)
        task("finalise", path)
    assert arrays(path) == undisturbed


def test_a_killed_load_goes_on_where_it_was(
    here, server: Server, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    path = tmp_path / "a.zarr"
    here.check("anemoi-datasets", "init", recipe(tmp_path, server.url, patience_s=60), path, cwd=tmp_path)
    # The second day hangs, so that the kill comes in the middle of it.
    server.inject(Fault(SECOND_DAY, "timeout"))
    process = started([here.prefix / "bin" / "anemoi-datasets", "load", path], tmp_path, tmp_path / "log")
    try:
        until = time.monotonic() + 120
        while loaded(path) != [True, False] or not any(request.fault for request in server._requests):
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < until
            time.sleep(0.1)
            if loaded(path) == [True, False]:
                time.sleep(1)
                break
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert loaded(path) == [True, False]
    server.heal()
    here.check("anemoi-datasets", "load", path, cwd=tmp_path)
    here.check("anemoi-datasets", "finalise", path, cwd=tmp_path)
    assert arrays(path) == undisturbed


def test_a_dataset_in_the_way_ends_in_one_line(here, archive: Path, tmp_path: Path) -> None:
    recipe(tmp_path, str(archive))
    (tmp_path / "a.zarr").mkdir()
    done = here.run("anemoi-datasets", "create", "recipe.yaml", "a.zarr", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith(
        "Dataset path 'a.zarr' already exists. Use --overwrite to overwrite."
    )


def test_a_full_disk_ends_in_one_line(archive: Path, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("a small disk is made in a user namespace, which this system does not allow")
    recipe(tmp_path, str(archive))
    (tmp_path / "disk").mkdir()
    script = "mount -t tmpfs -o size=120k tmpfs disk && exec anemoi-datasets create recipe.yaml disk/a.zarr"
    process = started(["unshare", "-rm", "sh", "-c", script], tmp_path, tmp_path / "log")
    assert process.wait(120) == 1
    told = (tmp_path / "log").read_text()
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("The disk is full. Loaded dates are kept")


def test_a_join_of_a_flat_part_and_one_in_rows_ends_in_one_line(archive: Path, tmp_path: Path) -> None:
    noaa = {"model": "hrrr", "shape": list(SMALL.grid.shape), "roots": [str(archive)]}
    in_rows = {"house-noaa": {**noaa, "param": "sp"}}
    flat = {
        "pipe": [
            {"house-noaa": {**noaa, "param": ["u10", "v10"]}},
            {
                "rotate-winds": {
                    "x_wind": "u10",
                    "y_wind": "v10",
                    "source_projection": "+proj=lcc +lat_1=38.5 +lon_0=262.5",
                }
            },
        ]
    }
    content = {"pipe": [{"join": [in_rows, flat]}, {"house-same-grid": {}}]}
    path = recipe(tmp_path, str(archive), input=content)
    with pytest.raises(CommandError, match="house-same-grid") as stop:
        task("init", tmp_path / "a.zarr", recipe=str(path))
    assert "u10" in str(stop.value)


SBATCH = """\
#!/bin/bash
# Runs the jobs of an array in parallel, kills those that KILL_AFTER names (seconds for each part), and starts a job
# that depends on others only if they succeeded.
for word; do
    case "$word" in --array=1-*) parts=${word#--array=1-} ;; --dependency=*) after=yes ;; esac
done
set -- "${@: -2}"
if [ -n "$parts" ]; then
    for part in $(seq "$parts"); do
        SLURM_ARRAY_TASK_ID=$part timeout -s KILL "$(echo "${KILL_AFTER:-600}" | cut -d" " -f"$part")" \
            bash "$1" "$2" >"part$part.log" 2>&1 || touch failed &
    done
    wait
    echo 17
elif [ -n "$after" ] && [ ! -e failed ]; then
    bash "$1" "$2"
fi
"""


def test_parts_that_are_killed_and_started_again_give_the_same_dataset(here, archive: Path, tmp_path: Path) -> None:
    """The batch script with a stand-in for SLURM, on a recipe with a missing date: against one serial build."""
    changes = {"build": {"group_by": 2, "allow_nans": False, "env": {"BLOSC_NTHREADS": "1"}}}
    small = recipe(tmp_path, str(archive), **changes)
    content = yaml.safe_load(small.read_text())
    content["dates"]["missing"] = [DAYS[3].isoformat()]
    (tmp_path / "hrrr_15km.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "build.sh").write_text(here.check("anemoi-house", "recipe", "hrrr_15km", "--sbatch", "3", cwd=tmp_path))
    commands = tmp_path / "commands"
    for name, text in (("sbatch", SBATCH), ("squeue", "#!/bin/bash\n")):
        commands.mkdir(exist_ok=True)
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    path = f"{commands}:{here.prefix / 'bin'}:{os.environ['PATH']}"

    def submit(**variables: str) -> int:
        (tmp_path / "failed").unlink(missing_ok=True)
        return started(["bash", "build.sh"], tmp_path, tmp_path / "log", PATH=path, **variables).wait(300)

    dataset = tmp_path / "hrrr_15km.zarr"
    moments = random.Random(4)
    submit(KILL_AFTER=f"{moments.uniform(4, 9):.1f} {moments.uniform(4, 9):.1f} 1")
    assert (dataset / "_build").exists(), (tmp_path / "log").read_text()[-2000:]
    assert submit() == 0, (tmp_path / "log").read_text()[-2000:]
    assert not (dataset / "_build").exists()

    here.check("anemoi-datasets", "create", "hrrr_15km.yaml", "serial.zarr", cwd=tmp_path)
    assert arrays(dataset) == arrays(tmp_path / "serial.zarr")
    assert zarr.open(str(dataset), "r").attrs["missing_dates"] == [DAYS[3].isoformat()]
