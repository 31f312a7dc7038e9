"""Cost of tracking for a training, whatever the server does, in comparison with the stock logger.

- `step`: time in the training thread for one logged step of ten metrics, with a server that works, is dead, is
  silent, or answers 429; and from the last step to the end of the process. The same with the stock logger.
- `large`: time in the training thread for one step of 10,000 metrics, and for an artifact of 1 GB.
- `drain`: 100,000 rows to a local server, next to bare `log_batch` calls of the same rows.
- `training`: `tnbd_sample` with a dead server, and without a logger; pairs in turn.

The server is a real `mlflow server` on SQLite. Each measurement has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anemoi_house.study import records

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

PACKAGES = ("anemoi-training", "mlflow", "azureml-mlflow", "torch")
SERVERS = ("well", "dead", "silent", "busy")
METRICS, LOGGED_STEPS, BETWEEN_S = 10, 300, 0.02
MANY, LARGE_STEPS, LARGE_BYTES = 10_000, 30, 10**9
PATIENCE_S = 60
"""Longest wait for the stock logger, which itself waits for up to an hour."""
ROWS, BATCH = 100_000, 1000
PAIRS, TRAININGS = 7, 11
RUNS = {"ours": 5, "stock": 1}
"""Of the steps; a single worst step is due to the machine as much as to the logger."""
NOTHING_S = 1e-4
"""Busy loop in the same thread, as long as a step of ours; it shows the delays due to the machine."""
BIN = Path(sys.prefix) / "bin"


# In a process of its own


def log_steps(kind: str, folder: Path, uri: str, signals: Any) -> None:
    """Log steps as a training does; the fault of the server begins after a tenth of them."""
    logger = make_logger(kind, folder, uri)
    took, nothing = [], []
    for step in range(LOGGED_STEPS):
        if step == LOGGED_STEPS // 10:
            signals("trouble")
        metrics = {f"train_metric_{number}": step + number / 7 for number in range(METRICS)}
        begun = time.perf_counter()
        logger.log_metrics(metrics, step)
        took.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        while time.perf_counter() - begun < NOTHING_S:
            pass
        nothing.append(time.perf_counter() - begun)
        time.sleep(BETWEEN_S)
    signals("steps", took=took, nothing=nothing)
    logger.finalize("success")


def log_much(folder: Path) -> dict[str, Any]:
    """Return the times of steps of many metrics, and of a large artifact, in the calling thread; nothing is sent."""
    logger = make_logger("ours", folder, "", offline=True)
    logger.experiment.log_text(
        logger.run_id, "", "first.txt"
    )  # the first one imports, as config.yaml does in a training
    names = [f"val_data_mse_metric/data/t_{number}/1" for number in range(MANY)]
    steps = []
    for step in range(LARGE_STEPS):
        metrics = {name: step + number / 7 for number, name in enumerate(names)}
        begun = time.perf_counter()
        logger.log_metrics(metrics, step)
        steps.append(1000 * (time.perf_counter() - begun))
        logger._store.writer.flush(PATIENCE_S)
    local = folder / "large.bin"
    with local.open("wb") as file:
        for _ in range(LARGE_BYTES // 10**6):
            file.write(os.urandom(10**6))
    begun = time.perf_counter()
    logger.experiment.log_artifact(logger.run_id, str(local))
    artifact = time.perf_counter() - begun
    local.unlink()
    logger.finalize("success")
    copied_s = time.perf_counter() - begun
    return {
        "metrics": MANY, "first_step_ms": steps[0], "median_ms": statistics.median(steps), "worst_ms": max(steps[1:]),
        "artifact_bytes": LARGE_BYTES, "artifact_ms": 1000 * artifact, "artifact_copied_s": copied_s,
    }  # fmt: skip


def make_logger(kind: str, folder: Path, uri: str, offline: bool = False) -> Any:
    if kind == "ours":
        from anemoi_house.tracking.logger import SpooledMLflowLogger

        logger: Any = SpooledMLflowLogger(str(folder), tracking_uri=uri, terminal=False, offline=offline)
    else:
        from anemoi.training.diagnostics.mlflow.logger import AnemoiMLflowLogger

        logger = AnemoiMLflowLogger(tracking_uri=uri, save_dir=str(folder), terminal=False, max_params_length=2000)
    _ = logger.experiment, logger.run_id
    return logger


def bare_batches(uri: str) -> float:
    """Return the seconds that MLflow's client needs for the rows."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(uri)
    run_id = client.create_run(client.create_experiment(f"bare {time.time()}")).info.run_id
    now = int(time.time() * 1000)
    begun = time.perf_counter()
    for first in range(0, ROWS, BATCH):
        rows = [Metric(key, value, now + step, step) for key, value, step in some_rows(first, BATCH)]
        client.log_batch(run_id, metrics=rows)
    return time.perf_counter() - begun


def drain(folder: Path, uri: str) -> float:
    """Return the seconds that the sender needs for the same rows from a spool."""
    from anemoi_house.tracking.ledger import sender_lock
    from anemoi_house.tracking.sender import Sender
    from anemoi_house.tracking.servers.connect import connect
    from anemoi_house.tracking.spool import Spool

    server = connect({"uri": uri, "authentication": False, "aml": None})
    spool = Spool(folder)
    begun = time.perf_counter()
    with sender_lock(spool, uri):
        sender = Sender(spool, uri, server)
        while sender.advance():
            pass
        sender.flush()
    return time.perf_counter() - begun


def write_spool(folder: Path) -> None:
    """Write the record of a run as the logger does: ten metrics a step."""
    folder.mkdir(parents=True)
    now = int(time.time() * 1000)
    start = {"kind": "start", "t": now, "session": 0, "run_id": folder.name, "run_name": "many", "experiment": "drain",
             "parent": None, "fork_of": None, "server_run": None}  # fmt: skip
    with (folder / "records.jsonl").open("w") as lines:
        lines.write(json.dumps(start) + "\n")
        for first in range(0, ROWS, METRICS):
            rows = [[key, value, now + step, step] for key, value, step in some_rows(first, METRICS)]
            lines.write(json.dumps({"kind": "metrics", "rows": rows}) + "\n")
        lines.write(json.dumps({"kind": "end", "t": now + ROWS, "status": "FINISHED"}) + "\n")


def some_rows(first: int, number: int) -> Iterator[tuple[str, float, int]]:
    for row in range(first, first + number):
        yield f"metric_{row % METRICS}", row / 7, row // METRICS


# The measurements


def measure_steps(kind: str, trouble: str, folder: Path) -> dict[str, Any]:
    """Return the times of one logged step, and of the end, in the process of the training."""
    with running_server(folder) as (server, front):
        address = front.environment["MLFLOW_TRACKING_URI"]
        process = subprocess.Popen(
            [sys.executable, __file__, "--worker", kind, str(folder / "logger"), address],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
            env=os.environ | front.environment,
        )  # fmt: skip
        found: dict[str, Any] = {"finished": False}
        begun = ended = time.monotonic()
        watch = subprocess.Popen(["sh", "-c", f"sleep {PATIENCE_S + 40}; kill -9 {process.pid}"])
        for line in process.stdout or ():
            with suppress(ValueError):
                said = json.loads(line)
                if said["event"] == "trouble":
                    make_trouble(trouble, server, front)
                if said["event"] == "steps":
                    ended = time.monotonic()
                    took, nothing = (
                        [1000 * each for each in said[key][LOGGED_STEPS // 10 :]] for key in ("took", "nothing")
                    )
                    found |= {"finished": True, "median_ms": statistics.median(took), "worst_ms": max(took)}
                    found["worst_of_nothing_ms"] = max(nothing)
        process.wait()
        watch.kill()
        watch.wait()
        seconds = time.monotonic() - (ended if found["finished"] else begun)
        found["exit_status"] = process.returncode
        found["end_s" if found["finished"] else "given_up_after_s"] = seconds
        front.heal()
    return found


def measure_runs(kind: str, trouble: str, folder: Path, runs: int) -> dict[str, Any]:
    """Return the medians over several processes, and the worst step of each."""
    each = [measure_steps(kind, trouble, folder / f"{kind}-{trouble}-{run}") for run in range(runs)]
    if runs == 1:
        return each[0]
    numbers = ("median_ms", "worst_ms", "end_s")
    return {
        "finished": all(run["finished"] for run in each),
        "exit_status": max(abs(run["exit_status"]) for run in each),
        **{number: statistics.median(run[number] for run in each) for number in numbers if number in each[0]},
        **{
            f"{number}_of_each": [run[number] for run in each if number in run]
            for number in ("worst_ms", "worst_of_nothing_ms")
        },
    }


def make_trouble(trouble: str, server: Any, front: Any) -> None:
    if trouble == "dead":
        front.stop()
        server.kill()
    elif trouble == "silent":
        front.fail(kind="timeout")
    elif trouble == "busy":
        front.fail("log-batch", status=429)


def measure_large(folder: Path) -> dict[str, Any]:
    """Return the times of one step of many metrics, and of a large artifact, in a process of its own."""
    command = [sys.executable, __file__, "--worker", "large", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_drain(folder: Path) -> dict[str, float]:
    """Return the medians of the sender and of bare calls, in turn, each in a process of its own."""
    bare, ours = [], []
    with running_server(folder) as (server, _):
        for turn in range(PAIRS):
            write_spool(folder / f"spool-{turn}" / f"run{turn}")
            spool = folder / f"spool-{turn}" / f"run{turn}"
            for into, arguments in ((bare, ["bare", server.uri]), (ours, ["drain", spool, server.uri])):
                command = [sys.executable, __file__, "--worker", *map(str, arguments)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                into.append(float(done.stdout.splitlines()[-1]))
    bare_s, ours_s = statistics.median(bare), statistics.median(ours)
    return {"rows": ROWS, "bare_s": bare_s, "ours_s": ours_s, "ratio": ours_s / bare_s}


def measure_training(folder: Path, steps: int) -> dict[str, Any]:
    """Return the wall times of the whole command, with a dead server and without a logger, in turn."""
    subprocess.run([BIN / "anemoi-house", "sample", folder / "sample"], check=True, capture_output=True)
    without = ["diagnostics.log.mlflow.enabled=False"]
    dead = ["diagnostics=house_mlflow", "diagnostics.log.mlflow.tracking_uri=http://127.0.0.1:9"]
    times: dict[str, list[float]] = {"without": [], "dead": []}
    train(folder, [*without, "training.max_steps=2"])  # the graph is built, files are in the cache
    for turn in range(TRAININGS):
        for name, overrides in (
            (("without", without), ("dead", dead)) if turn % 2 else (("dead", dead), ("without", without))
        ):
            times[name].append(train(folder, [*overrides, f"training.max_steps={steps}"]))
            print(f"training {name}: {times[name][-1]:.1f} s", file=sys.stderr)
    medians = {name: statistics.median(each) for name, each in times.items()}
    pairs = [dead_s / without_s for dead_s, without_s in zip(times["dead"], times["without"], strict=True)]
    return {
        "steps": steps,
        **times,
        "ratio": medians["dead"] / medians["without"],
        "median_of_pair_ratios": statistics.median(pairs),
    }


def train(folder: Path, overrides: list[str]) -> float:
    command = [BIN / "anemoi-training", "train", "--config-name=tnbd_sample", *overrides]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.monotonic()
    with (folder / "train.log").open("wb") as log:
        subprocess.run(command, cwd=folder, check=True, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                       env=environment | {"PATH": f"{BIN}:{os.environ['PATH']}", "MPLBACKEND": "Agg"})  # fmt: skip
    shutil.rmtree(folder / "outputs" / "checkpoint", ignore_errors=True)
    return time.monotonic() - begun


@contextmanager
def running_server(folder: Path) -> Iterator[tuple[Any, Any]]:
    from tracking.front import Front
    from tracking.mlflow_server import MlflowServer

    with MlflowServer(folder / "server") as server, Front(server) as front:
        yield server, front


def worker(arguments: list[str]) -> None:
    kind, *rest = arguments
    if kind == "bare":
        print(bare_batches(*rest))
    elif kind == "large":
        print(json.dumps(log_much(Path(rest[0]))))
    elif kind == "drain":
        print(drain(Path(rest[0]), rest[1]))
    else:
        log_steps(
            kind, Path(rest[0]), rest[1], lambda event, **more: print(json.dumps({"event": event, **more}), flush=True)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    records.add_option(parser)
    parser.add_argument("--worker", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=300, help="of the training (default: 300)")
    parser.add_argument("--only", choices=["step", "large", "drain", "training"], action="append")
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    parts: dict[str, Callable[[Path], Any]] = {
        "step": lambda folder: {
            kind: {trouble: measure_runs(kind, trouble, folder, runs) for trouble in SERVERS}
            for kind, runs in RUNS.items()
        },
        "large": measure_large,
        "drain": measure_drain,
        "training": lambda folder: measure_training(folder, options.steps),
    }
    result = records.circumstances(PACKAGES)
    for name, measure in parts.items():
        if not options.only or name in options.only:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                result[name] = measure(Path(folder))
            print(name, json.dumps(result[name], default=str)[:1500], file=sys.stderr)
    records.write(result, options.json)


if __name__ == "__main__":
    main()
