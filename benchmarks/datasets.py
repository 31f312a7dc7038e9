"""Datasets from GRIB next to eccodes alone and the stock way: CPU time, memory and bytes, as ratios within one run.

Full-size files of NOAA's layout are written to a temporary folder and served by an HTTP server in a process of its own.

- Ours: the recipes' 83 archive fields through anemoi-datasets' own machinery, from the request to the values.
- Floor: eccodes decoding the same messages, which are in memory already.
- Stock: `grib`, `rotate_winds` and `regrid` with a matrix, on the same files in a local folder; and the same with the
  winds rotated after the regridding.

Imports and the reading of the recipe are not timed. Two cores are used, however many there are.
"""

from __future__ import annotations

import argparse
import cProfile
import inspect
import json
import logging
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyproj  # noqa: F401  # isort: skip  # ahead of eccodes: see anemoi_house/datasets/fields.py
import eccodes
import numpy as np
import yaml
import zarr
from anemoi.datasets.create.creator import Creator

from anemoi_house.datasets import fields, filters, sources
from anemoi_house.datasets.recipe import archive_entries, recipe
from anemoi_house.datasets.request import Request
from anemoi_house.geometry import HRRR_3KM, HRRR_15KM
from anemoi_house.study import records

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from noaa.files import GFS, HRRR, LEVELS_HPA, write_date  # noqa: E402
from noaa.servers import http_server  # noqa: E402

START = datetime(2021, 4, 1)
PACKAGES = ("anemoi-datasets", "anemoi-transform", "earthkit-data", "eccodes", "eccodeslib", "numpy", "obstore", "zarr")
RECIPES = {"hrrr": "hrrr_15km", "gfs": "gfs_1deg"}
MODELS = {"hrrr": HRRR, "gfs": GFS}
PUBLISHED_DATES = 13147
SAMPLES = ("nam.t00z.awp21100.tm00.grib2", "gfs.t12z.pgrbf120.2p5deg.grib2")
CELLS = 5
# On a shared machine a pair of runs says little: 9 gave from 1.3 to 2.1.
PAIRS = 21
_NAMES_OF_STOCK = {"u80_80": "u80", "v80_80": "v80"}  # the height is a level there

PARTS: dict[str, tuple[Callable[..., Any], ...]] = {
    "eccodes": (eccodes.codes_new_from_message, eccodes.codes_get_values, eccodes.codes_release),
    "decoding with checks": (fields.decode,),
    "mean": (filters._shaped,),
    "rotation": (filters.HouseRotateWinds.forward,),
    "fetch": (sources.HouseNoaaSource.execute_valid_dates,),
}
"""Functions whose time is reported; decoding includes that of eccodes except for the grid."""


# Recipes


def ours(model: str, root: str, dates: int = 1) -> dict[str, Any]:
    """Our recipe for the first dates."""
    end = START + timedelta(hours=6 * (dates - 1))
    text = recipe(RECIPES[model], f"{START:%Y-%m-%dT%H}", f"{end:%Y-%m-%dT%H}", [f"{root}/{MODELS[model].bucket}"])
    return yaml.safe_load(text)


def archive_fields(content: dict[str, Any]) -> dict[str, Any]:
    """The same of what comes from the archives alone: without forcings."""
    joined, *after = content["input"]["pipe"]
    return content | {"input": {"pipe": [joined["join"][0], *after]}}


def stock(folder: Path, matrix: Path, *, rotate_first: bool) -> dict[str, Any]:
    """The stock way to the same fields of the first date."""
    analysis = str(folder / HRRR.bucket / HRRR.path(START, 0))
    forecast = str(folder / HRRR.bucket / HRRR.path(START - timedelta(hours=6), 6))

    def select(path: str, names: dict[str, str] | list[str], **selection: Any) -> dict[str, Any]:
        source = {"grib": {"path": path, "param": list(names), **selection}}
        return {"pipe": [source, {"rename": {"param": names}}]} if isinstance(names, dict) else source

    near_ground = {"sp": "sp", "2t": "t2m", "2sh": "sh2", "10u": "u10", "10v": "v10", "lsm": "lsm", "orog": "orog"}
    join = [
        select(analysis, ["gh", "u", "v", "w", "t", "q"], levelist=list(LEVELS_HPA)),
        select(analysis, near_ground),
        select(analysis, {"t": "t_surface"}, typeOfLevel="surface"),
        select(analysis, {"u": "u80", "v": "v80"}, typeOfLevel="heightAboveGround", level=80),
        select(forecast, {"tp": "accum_tp"}, stepRange="0-6"),
    ]
    rotate = [{"rotate_winds": {"x_wind": x, "y_wind": y}} for x, y in (("u", "v"), ("u10", "v10"), ("u80", "v80"))]
    regrid = [{"regrid": {"matrix": str(matrix)}}]
    filters = [*rotate, *regrid] if rotate_first else [*regrid, *rotate]
    date = f"{START:%Y-%m-%dT%H:%M:%S}"
    dates = {"start": date, "end": date, "frequency": "6h"}
    return {"dates": dates, "input": {"pipe": [{"join": join}, *filters]}}


def write_matrix(path: Path) -> None:
    """Means of 5 x 5 points as stock `regrid` reads a matrix."""
    (ny, nx), (rows, columns) = HRRR_3KM.shape, HRRR_15KM.shape
    points = np.arange(ny * nx, dtype=np.int32).reshape(ny, nx)[: rows * CELLS, : columns * CELLS]
    blocks = points.reshape(rows, CELLS, columns, CELLS).transpose(0, 2, 1, 3).reshape(rows * columns, CELLS**2)
    fine, coarse = HRRR_3KM.latlon(), HRRR_15KM.latlon()
    np.savez(
        path,
        matrix_data=np.full(blocks.size, 1 / CELLS**2),
        matrix_indices=blocks.ravel(),
        matrix_indptr=np.arange(0, blocks.size + 1, CELLS**2, dtype=np.int32),
        matrix_shape=np.array([rows * columns, ny * nx]),
        in_latitudes=fine[0].ravel(),
        in_longitudes=fine[1].ravel(),
        out_latitudes=coarse[0].ravel(),
        out_longitudes=coarse[1].ravel(),
    )


# In a process of its own


class Task:
    """What one recipe is timed with."""

    def __init__(self, path: Path) -> None:
        self.content = yaml.safe_load(path.read_text())
        self.creator = Creator.from_recipe(str(path), path=str(path.with_suffix(".zarr")))
        self.messages: list[bytes] = []

    def values(self) -> dict[str, np.ndarray]:
        """Values of all fields, by name, as `anemoi-datasets load` gets them."""
        found = {}
        for group in self.creator.groups:
            cube = self.creator.input.select(self.creator.context(), argument=group).get_cube()
            names = cube.user_coords["param_level"]
            for cubelet in cube.iterate_cubelets(None):
                found[names[cubelet.coords[1]]] = cubelet.to_numpy()
        return found

    def parts(self) -> dict[str, float]:
        """Seconds that the parts of `values` take, by Python's profiler."""
        profile = cProfile.Profile()
        profile.runcall(self.values)
        stats = pstats.Stats(profile)
        seconds = {"all": stats.total_tt}  # type: ignore[attr-defined]
        for name, functions in PARTS.items():
            codes = [inspect.unwrap(function).__code__ for function in functions]
            keys = [(code.co_filename, code.co_firstlineno, code.co_name) for code in codes]
            found = stats.stats  # type: ignore[attr-defined]
            seconds[name] = sum(found[key][3] for key in keys if key in found)
        return seconds

    def fetch(self) -> None:
        """The messages of the first date into memory, for the floor."""
        for entry in archive_entries(self.content["input"]):
            request = Request.of(**entry.settings)
            fetched = request.archive().fetch(request.run(START), request.lead_hours, request.fields)
            self.messages += [message.content for message in fetched]

    def decode(self) -> None:
        """Every message, one after the other, and nothing else."""
        for message in self.messages:
            handle = eccodes.codes_new_from_message(message)
            eccodes.codes_get_values(handle)
            eccodes.codes_release(handle)


def work(path: Path) -> None:
    """Does what standard input asks for, a word a line, and answers in JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stock sources print
    logging.disable(logging.WARNING)
    task = Task(path)
    print(json.dumps({"idle_gb": _peak_gb()}), file=answers, flush=True)
    for line in sys.stdin:
        kind, _, target = line.strip().partition(" ")
        start, cpu = time.perf_counter(), time.process_time()
        answer: dict[str, Any] = {}
        match kind:
            case "values":
                values = task.values()
            case "decode":
                task.decode()
            case "fetch":
                task.fetch()
                answer = {"messages": len(task.messages), "bytes": sum(map(len, task.messages))}
            case "save":
                np.savez(target, **values)
            case "statistics":
                building = Creator.from_recipe(None, path=target, recompute_statistics=True)
                building.task_statistics()
            case "profile":
                answer = {"parts": task.parts()}
        answer |= {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - start}
        answer |= {"fields": len(values) if kind == "values" else None}
        answer |= {"peak_gb": _peak_gb()}
        print(json.dumps(answer), file=answers, flush=True)


def _peak_gb() -> float:
    """Largest resident memory of this process; `ru_maxrss` begins with that of the process it was started from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e6


class Worker:
    """A fresh process for one recipe."""

    def __init__(self, content: dict[str, Any], folder: Path) -> None:
        descriptor, name = tempfile.mkstemp(suffix=".yaml", dir=folder)
        os.write(descriptor, yaml.safe_dump(content).encode())
        os.close(descriptor)
        self.log = Path(name).with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--work", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(folder),
            )
        self.idle_gb = self.answer()["idle_gb"]

    def ask(self, kind: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{kind}\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A process of the benchmark has failed:\n{self.log.read_text()[-4000:]}")
        return json.loads(line)

    def run(self, kind: str) -> dict[str, Any]:
        self.ask(kind)
        return self.answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(TESTS)}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Address of a server, a process of its own, for the files of a folder."""
    command = [sys.executable, "-m", "noaa.servers", str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(folder)
    )
    try:
        assert process.stdout
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")


# Measurements


def one_date(model: str, root: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Load one date, and eccodes alone, in turn, in one process."""
    runs: dict[str, list[dict[str, Any]]] = {"decode": [], "values": []}
    with Worker(archive_fields(ours(model, root)), folder) as worker:
        messages = worker.run("fetch")
        first = worker.run("values")  # also makes what all dates share: coordinates, the way to the coarse grid
        worker.run("decode")
        for number in range(repeats):
            for kind in list(runs)[:: -1 if number % 2 else 1]:
                runs[kind].append(worker.run(kind))
        parts = worker.run("profile")["parts"]
    floor, mine = _median(runs["decode"]), _median(runs["values"])
    return {
        "fields": first["fields"],
        "messages_mb": messages["bytes"] / 1e6,
        "ratios": {"CPU of ours / eccodes alone": mine["cpu"] / floor["cpu"]},
        "median_seconds": {"eccodes": floor, "ours": mine, "ours, first date of a process": _seconds(first)},
        "profile_of_ours": parts,
        "seconds": {"eccodes": _all(runs["decode"]), "ours": _all(runs["values"])},
    }


def beside_stock(root: str, folder: Path, archive: Path, repeats: int) -> dict[str, Any]:
    """The stock way in both orders and ours, in turn, each in a fresh process."""
    matrix = folder / "matrix.npz"
    write_matrix(matrix)
    recipes = {
        "ours": archive_fields(ours("hrrr", root)),
        "stock": stock(archive, matrix, rotate_first=True),
        "stock, rotation after regrid": stock(archive, matrix, rotate_first=False),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in recipes}
    idle: dict[str, float] = {}
    values: dict[str, dict[str, np.ndarray]] = {}
    for number in range(repeats):
        for name, content in recipes.items():
            with Worker(content, folder) as worker:
                runs[name].append(worker.run("values"))
                idle[name] = worker.idle_gb
                if number == 0:
                    target = folder / "values.npz"
                    worker.run(f"save {target}")
                    with np.load(target) as found:
                        values[name] = {_NAMES_OF_STOCK.get(key, key): found[key] for key in found}
    median = {name: _median(found) for name, found in runs.items()}
    others = list(recipes)[1:]
    return {
        "ratios": {f"CPU of {name} / ours": median[name]["cpu"] / median["ours"]["cpu"] for name in others},
        "differences": {name: _differences(values["ours"], values[name]) for name in others},
        "peak_memory_gb": {name: statistics.median(run["peak_gb"] for run in found) for name, found in runs.items()},
        "peak_memory_before_gb": idle,
        "median_seconds": median,
        "seconds": {name: _all(found) for name, found in runs.items()},
    }


def _differences(mine: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> dict[str, float]:
    if set(mine) != set(others):
        raise SystemExit(f"The fields differ: {sorted(set(mine) ^ set(others))}")
    winds = {name for name in mine if name[0] in "uv"}
    largest = {name: float(np.abs(mine[name].ravel() - others[name].ravel()).max()) for name in mine}
    relative = [largest[name] / float(np.ptp(mine[name])) for name in set(mine) - winds]
    return {"winds, m/s": max(largest[name] for name in winds), "others, of their range": max(relative)}


def fetched(folder: Path, archive: Path) -> dict[str, Any]:
    """Bytes that a server counts for one date."""
    entries = [MODELS["hrrr"].path(START - timedelta(hours=lead), lead) for lead in (0, 6)]
    index = sum((archive / HRRR.bucket / f"{path}.idx").stat().st_size for path in entries)
    with http_server(archive) as counting, Worker(archive_fields(ours("hrrr", counting.url)), folder) as worker:
        worker.run("values")
        sent, requests = counting.bytes_sent(), len(counting.requests)
        messages = worker.run("fetch")["bytes"]
    return {
        "ratios": {"bytes fetched / messages and index": sent / (messages + index)},
        "bytes": {"sent": sent, "messages": messages, "index": index},
        "requests": requests,
    }


def side_by_side(root: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Dates per second of two processes over those of one; and the same of eccodes alone, as what the machine gives."""
    names = {"two loads / one": "values", "two of eccodes alone / one": "decode"}
    alone: dict[str, list[float]] = {name: [] for name in names}
    together: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        content = archive_fields(ours("hrrr", root))
        workers = [stack.enter_context(Worker(content, folder)) for _ in range(2)]
        for worker in workers:
            worker.run("fetch")
            worker.run("values")
        for number in range(repeats):
            for name, kind in names.items():
                alone[name].append(workers[number % 2].run(kind)["wall"])
                start = time.perf_counter()
                for worker in workers:
                    worker.ask(kind)
                for worker in workers:
                    worker.answer()
                together[name].append(time.perf_counter() - start)
    return {
        "ratios": {name: 2 * statistics.median(alone[name]) / statistics.median(together[name]) for name in names},
        "seconds": {"alone": alone, "together": together},
    }


def whole_build(model: str, root: str, folder: Path, dates: int) -> dict[str, Any]:
    """`anemoi-datasets load` of the recipe as it is, as a job runs it, and the statistics of `finalise`.

    What `load --parts` takes includes such statistics of its part; the job script does without them, and so are
    they removed here.
    """
    path, dataset = folder / f"{model}.yaml", folder / f"{model}.zarr"
    path.write_text(yaml.safe_dump(ours(model, root, dates)))

    def command(*arguments: object) -> dict[str, float]:
        return _command([Path(sys.executable).with_name("anemoi-datasets"), *arguments], folder)

    init = command("init", path, dataset, "--overwrite")
    load = command("load", dataset, "--parts", "1/1")
    start = command("load", dataset)  # nothing left to do
    for partial_statistics in Path(f"{dataset}.work_dir").glob("statistics_*.pkl"):
        partial_statistics.unlink()
    with Worker(ours(model, root, dates), folder) as worker:
        counted = _median([worker.run(f"statistics {dataset}") for _ in range(3)])
    per_date = {
        "load": {key: (load[key] - start[key]) / dates for key in ("cpu", "wall")},
        "statistics": {key: seconds / dates for key, seconds in counted.items()},
    }
    array = zarr.open(str(dataset), "r")["data"]
    stored = sum(part.stat().st_size for part in (dataset / "data").rglob("*") if not part.name.startswith(".z"))
    return {
        "dates": dates,
        "seconds_per_date": per_date,
        "seconds_of_a_command_that_does_nothing": _seconds(start),
        "seconds_of_init": _seconds(init),
        "peak_memory_gb_of_load": load["peak_gb"],
        "hours_for_all_dates": {name: seconds["wall"] * PUBLISHED_DATES / 3600 for name, seconds in per_date.items()},
        "stored": stored_bytes(array, stored / dates),
    }


def stored_bytes(array: zarr.Array, per_date: float) -> dict[str, Any]:
    """Bytes of a date as it is stored, and what other values would take.

    The fields of the benchmark are smooth: real ones are rougher, and a random mantissa is as rough as can be.
    """
    values = array[0]
    mantissa = np.uint32((1 << 23) - 1)
    noise = np.random.default_rng(0).integers(0, 1 << 23, values.shape, dtype=np.uint32)
    noisy = ((values.view(np.uint32) & ~mantissa) | noise).view(np.float32)
    result: dict[str, Any] = {
        "uncompressed_mb": values.nbytes / 1e6,
        "mb": per_date / 1e6,
        "mb_with_a_random_mantissa": len(array.compressor.encode(noisy)) / 1e6,
    }
    for name in SAMPLES:
        ratio = compressed_share(name, array.compressor)
        if ratio is not None:
            result[f"mb_if_as_{name.partition('.')[0]}"] = ratio * values.nbytes / 1e6
    return result


def compressed_share(name: str, compressor: Any) -> float | None:
    """Compressed over uncompressed bytes of a real file's fields; None where the file is not there.

    Means of 2 x 2 points, as float32, of the fields on pressure levels that the datasets have.
    """
    root = Path(__file__).parents[1]
    places = [root / ".samples", root.parent / "shared" / "data" / "grib"]
    paths = [folder / name for folder in places if (folder / name).is_file()]
    if not paths:
        return None
    blocks = []
    eccodes.codes_grib_multi_support_on()
    with paths[0].open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            kind, level = eccodes.codes_get(handle, "shortName"), eccodes.codes_get(handle, "typeOfLevel")
            if level == "isobaricInhPa" and kind in ("gh", "u", "v", "w", "t", "q"):
                ny, nx = eccodes.codes_get(handle, "Nj"), eccodes.codes_get(handle, "Ni")
                values = eccodes.codes_get_values(handle).reshape(ny, nx)[: ny // 2 * 2, : nx // 2 * 2]
                blocks.append(values.reshape(ny // 2, 2, nx // 2, 2).mean(axis=(1, 3)).ravel())
            eccodes.codes_release(handle)
    eccodes.codes_grib_multi_support_off()
    values = np.concatenate(blocks).astype(np.float32)
    return len(compressor.encode(values)) / values.nbytes


def _command(command: Sequence[object], folder: Path) -> dict[str, float]:
    """Seconds and memory of a command."""
    log = folder / "command.log"
    # From a small process: the largest memory of a process begins with that of the one it was started from.
    small = [sys.executable, "-S", "-c", _MEASURED, *map(str, command)]
    with log.open("wb") as output:
        found = subprocess.run(small, cwd=folder, env=_environment(folder), stdout=subprocess.PIPE, stderr=output)
    if found.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} has failed:\n{log.read_text()[-4000:]}")
    return json.loads(found.stdout)


_MEASURED = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu, wall = used.ru_utime + used.ru_stime, time.perf_counter() - start
print(json.dumps({"cpu": cpu, "wall": wall, "peak_gb": used.ru_maxrss / 1e6}))
sys.exit(status)
"""


def _seconds(run: dict[str, Any]) -> dict[str, float]:
    return {key: run[key] for key in ("cpu", "wall")}


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in ("cpu", "wall")}


def _all(runs: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    return {key: [run[key] for run in runs] for key in ("cpu", "wall")}


def measure(folder: Path, repeats: int, stock_repeats: int, dates: int) -> dict[str, Any]:
    """All numbers."""
    load = os.getloadavg()[0]
    archive = folder / "archive"
    archive.mkdir()
    result: dict[str, Any] = {}

    def stage(name: str, task: Callable[[], dict[str, Any]]) -> None:
        start = time.perf_counter()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        result[name] = task()
        print(f"{time.perf_counter() - start:.0f} s {result[name].get('ratios', '')}", file=sys.stderr, flush=True)

    def write() -> dict[str, Any]:
        for model in MODELS.values():
            for number in range(dates):
                write_date(archive, model, START + timedelta(hours=6 * number))
        return {"dates": dates}

    with server(archive) as root:
        stage("files", write)
        stage("hrrr, one date", lambda: one_date("hrrr", root, folder, repeats))
        stage("hrrr, beside stock", lambda: beside_stock(root, folder, archive, stock_repeats))
        stage("hrrr, bytes", lambda: fetched(folder, archive))
        stage("hrrr, side by side", lambda: side_by_side(root, folder, PAIRS))
        stage("gfs, one date", lambda: one_date("gfs", root, folder, repeats))
        for model in RECIPES:
            stage(f"{model}, whole build", partial(whole_build, model, root, folder, dates))
    return {
        **result,
        "cores_used": len(os.sched_getaffinity(0)),
        "load_average_before": load,
        **records.circumstances(PACKAGES),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="default: 9")
    parser.add_argument("--stock-repeats", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--dates", type=int, default=8, metavar="N", help="dates of the whole builds, default: 8")
    records.add_option(parser)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    logging.disable(logging.WARNING)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory() as folder:
        numbers = measure(Path(folder), arguments.repeats, arguments.stock_repeats, arguments.dates)
    records.write(numbers, arguments.json)


if __name__ == "__main__":
    main()
