"""Measure what the encoder's edges cost: time and peak memory of a step with 12 neighbours, 20, and covering.

A step is normalisation, forward, loss, backward, clipping and optimiser of one batch, with the model, loss and
optimiser that anemoi builds from our configs; without data loading, logging and checkpoints. All cases have the data
nodes of the untrimmed grids, so that they differ only in the encoder's edges; one case is measured twice to show the
noise.

- `sample`: the sample experiments as they are, on CPU.
- `narrow`: the published grids and a narrow model, on CPU.
- `published`: the published grids and model, if there is a GPU.

On CPU the cases share a process and step in turn, in several such processes, since the same step differs between
processes. Memory is what torch allocates, counted exactly: resident memory depends on what the allocator releases.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anemoi_house.study import records

PACKAGES = ("anemoi-training", "anemoi-models", "anemoi-graphs", "torch", "torch-geometric")
CASES = {"knn_12": "mmgt", "knn_20": "nbd", "covering": "tnbd_covering", "knn_12_again": "mmgt"}
PAIRS = (("covering", "knn_12"), ("knn_20", "knn_12"), ("covering", "knn_20"), ("knn_12_again", "knn_12"))
TIMES = ("wall_s", "cpu_s")
WARM_UP = 2
"""Steps that are not counted: the first creates the optimiser's state."""

KEEP_MEMORY = f"glibc.malloc.mmap_threshold={2**33}:glibc.malloc.trim_threshold={2**34}"
"""Reuse the memory of the previous step: requesting new pages takes up to a third of a step on CPU, and varies more
between processes than covering could."""

COMMON = ("dataloader.trim=null", "diagnostics.log.mlflow.enabled=False")
ONE_DATE = tuple(
    f"dataloader.{part}.datasets.data.{end}=2020-01-01"
    for part in ("training", "validation", "test")
    for end in ("start", "end")
)
NARROW = (
    "system.hardware.accelerator=cpu",
    "model.compile=[]",
    "model.num_channels=64",
    "model.processor.num_layers=1",
    "model.processor.num_chunks=1",
    "training.precision='32'",
    *(
        f"model.{part}.{key}={value}"
        for part in ("processor", "encoders.0.mapper", "decoders.0.mapper")
        for key, value in (("num_heads", 4), ("graph_attention_backend", "pyg"))
    ),
)


@dataclass(frozen=True)
class Size:
    """Grids and model of one part of the benchmark."""

    grid: str
    suffix: str  # appended to the experiments' names
    overrides: tuple[str, ...]
    device: str
    rounds: int  # steps of each case in each process
    processes: int
    one_process: bool  # for all cases; else each has its own


SIZES = {
    "sample": Size("tiny", "_sample", (), "cpu", 21, 5, one_process=True),
    "narrow": Size("published", "", (*ONE_DATE, *NARROW), "cpu", 7, 3, one_process=True),
    "published": Size("published", "", ONE_DATE, "cuda", 11, 1, one_process=False),
}


# In the measured process


class Training:
    """A case that is ready to take steps."""

    def __init__(self, size: Size, case: str) -> None:
        import torch
        from anemoi.training.train.train import AnemoiTrainer
        from hydra import compose, initialize

        with initialize(version_base=None):
            overrides = [*COMMON, *size.overrides, f"diagnostics.log.mlflow.run_name={case}"]
            config = compose(CASES[case] + size.suffix, overrides=overrides)
        precision = str(config.training.precision)
        trainer = AnemoiTrainer(config)
        torch.manual_seed(0)
        self.device = size.device
        self.module = trainer.model.to(size.device)
        sample = trainer.datamodule.ds_train.get_sample(0)
        self.batch = {name: field[None].to(size.device) for name, field in sample.items()}
        self.graph = trainer.graph_data
        self.clip = config.training.gradient_clip.val
        made = self.module.configure_optimizers()
        (self.optimizer,) = made[0] if isinstance(made, tuple | list) else [made]
        self.half = size.device == "cuda" and precision == "16-mixed"
        self.scaler = torch.amp.GradScaler(size.device, enabled=self.half)
        self.about = {
            "device": torch.cuda.get_device_name() if size.device == "cuda" else "cpu",
            "data_nodes": self.graph["data"].num_nodes,
            "hidden_nodes": self.graph["hidden"].num_nodes,
            "encoder_edges": self.graph["data", "to", "hidden"].num_edges,
            "parameters": sum(part.numel() for part in self.module.parameters() if part.requires_grad),
            "channels": config.model.num_channels,
            "processor_layers": config.model.processor.num_layers,
            "precision": precision,
        }

    def step(self) -> float:
        """Take a step and return its loss."""
        import torch

        fresh = self.module.on_after_batch_transfer({name: field.clone() for name, field in self.batch.items()}, 0)
        with torch.autocast(self.device, torch.float16, enabled=self.half):
            loss = self.module._step(fresh).loss
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_value_(self.module.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return float(loss.detach())  # waits for a GPU

    def timed(self) -> dict[str, float]:
        """Return the time and the loss of a step."""
        wall, cpu = time.perf_counter(), time.process_time()
        loss = self.step()
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "loss": loss}

    def memory(self) -> dict[str, float]:
        """Return the memory between two steps, and the maximum in one."""
        kept, of_step = self._kept_bytes() / 1e9, self._bytes_of_step() / 1e9
        return {"kept_gb": kept, "of_step_gb": of_step, "peak_gb": kept + of_step}

    def _kept_bytes(self) -> int:
        """Return the bytes of model, optimiser state, graph and batch."""
        import torch

        states = (part for state in self.optimizer.state.values() for part in state.values())
        stores = (part for store in self.graph.stores for part in store.values())
        tensors = [*self.module.parameters(), *self.module.buffers(), *states, *stores, *self.batch.values()]
        storages = [each.untyped_storage() for each in tensors if isinstance(each, torch.Tensor)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def _bytes_of_step(self) -> int:
        import torch

        if self.device == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return torch.cuda.max_memory_allocated() - before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.step()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder, "trace.json")
            profiler.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text())["traceEvents"]
        return max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]")


def serve(size: Size, cases: Sequence[str]) -> None:
    """Execute each line of standard input, `timed CASE` or `memory CASE`; answer with a line of JSON."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is not an answer
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    trainings = {case: Training(size, case) for case in cases}
    print(json.dumps({case: training.about for case, training in trainings.items()}), file=answers)
    for line in sys.stdin:
        what, case = line.split()
        print(json.dumps({"timed": trainings[case].timed, "memory": trainings[case].memory}[what]()), file=answers)


# In the benchmark's own process


@contextlib.contextmanager
def process_of(size: str, cases: Sequence[str]) -> Iterator[tuple[dict[str, Any], Callable[[str], dict[str, float]]]]:
    """Start a process for some cases; yield their descriptions and a function that queries it."""
    # Not a child of multiprocessing, which would wait at its end for a pool that anemoi-datasets never closes.
    command = [sys.executable, __file__, "--cases", size, *cases]
    environment = os.environ | {"GLIBC_TUNABLES": KEEP_MEMORY}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    asked, answers = process.stdin, process.stdout
    if asked is None or answers is None:
        raise RuntimeError("the process has no pipes")

    def answer() -> dict[str, Any]:
        if not (line := answers.readline()):
            raise SystemExit(f"The process of {', '.join(cases)} ended unexpectedly; see its message above.")
        return json.loads(line)

    def ask(what: str) -> dict[str, float]:
        asked.write(f"{what}\n")
        asked.flush()
        return answer()

    try:
        yield answer(), ask
    finally:
        process.communicate()  # end of file stops it


def measure(name: str, rounds: int | None) -> dict[str, Any]:
    """Return all cases of one size: descriptions, times of their steps, and ratios."""
    size = SIZES[name]
    with process_of(name, tuple(CASES) if size.one_process else ("knn_12",)):
        pass  # writes the graph files and fills the caches
    descriptions: dict[str, dict[str, Any]] = {}
    runs: list[dict[str, list[dict[str, float]]]] = []
    for number in range(size.processes):
        runs.append({case: [] for case in CASES})
        for group in [tuple(CASES)] if size.one_process else [(case,) for case in CASES]:
            with process_of(name, group) as (about, ask):
                for turn in range(WARM_UP + (rounds or size.rounds)):
                    for case in group[:: 1 if turn % 2 else -1]:
                        runs[-1][case].append(ask(f"timed {case}"))
                    line = ", ".join(f"{case} {runs[-1][case][-1]['wall_s']:.2f} s" for case in group)
                    print(f"process {number + 1}, step {turn + 1}: {line}", file=sys.stderr, flush=True)
                descriptions |= {case: {**about[case], **ask(f"memory {case}")} for case in group}
    return summary(descriptions, runs)


def summary(descriptions: dict[str, dict[str, Any]], runs: list[dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Return medians over steps after the warm-up, and over processes."""
    for run in runs:
        for case, steps in run.items():
            if not all(math.isfinite(step["loss"]) for step in steps):
                raise SystemExit(f"The loss of {case} is not finite.")
    medians = [
        {case: {key: statistics.median(step[key] for step in steps[WARM_UP:]) for key in TIMES}
         for case, steps in run.items()}
        for run in runs
    ]  # fmt: skip
    cases = {
        case: {
            "experiment": CASES[case],
            **about,
            **{key: statistics.median(run[case][key] for run in medians) for key in TIMES},
            "wall_s_of_each": [[step["wall_s"] for step in run[case][WARM_UP:]] for run in runs],
        }
        for case, about in descriptions.items()
    }
    ratios: dict[str, Any] = {}
    for one, other in PAIRS:
        of_each = {key: [run[one][key] / run[other][key] for run in medians] for key in TIMES}
        ratios[f"{one} / {other}"] = {
            **{key: statistics.median(each) for key, each in of_each.items()},
            **{key: cases[one][key] / cases[other][key] for key in ("peak_gb", "of_step_gb", "encoder_edges")},
            "wall_s_of_each": of_each["wall_s"],
        }
    return {
        "processes": len(runs),
        "steps_of_each": len(runs[0]["knn_12"]) - WARM_UP,
        "ratios": ratios,
        "cases": cases,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    records.add_option(parser)
    parser.add_argument("--only", choices=SIZES, action="append", help="default: what this machine can do")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="steps that count, in each process (default: 21, 7, 11)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch on CPU (default: 1)")
    parser.add_argument("--cases", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep samples here (default: do not keep them)")
    options = parser.parse_args()
    if options.cases:
        name, *cases = options.cases
        serve(SIZES[name], cases)
        return

    import torch

    wanted = options.only or [name for name, size in SIZES.items() if size.device == "cpu" or torch.cuda.is_available()]
    result = {**records.circumstances(PACKAGES), "threads": options.threads}
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        for name in wanted:
            size = SIZES[name]
            folder = (options.data or Path(temporary)).absolute() / size.grid
            dates = ["--dates", "4"] if size.grid == "published" else []
            sample = [Path(sys.prefix) / "bin" / "anemoi-house", "sample", folder, "--grid", size.grid, *dates]
            subprocess.run(sample, check=True, stdout=sys.stderr)
            os.environ |= {
                "HOUSE_SAMPLE": str(folder),
                "HOUSE_HRRR": str(folder / "hrrr.zarr"),
                "HOUSE_GFS": str(folder / "gfs.zarr"),
                "HOUSE_OUTPUT": str(Path(temporary) / name),
            }
            result[name] = measure(name, options.rounds)
    records.write(result, options.json)


if __name__ == "__main__":
    main()
