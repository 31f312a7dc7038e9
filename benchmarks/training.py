"""What the encoder's edges cost a training: time and peak memory of a step with 12 neighbours, with 20, and covering.

A step is what a training does with a batch: normalising, forward, loss, backward, clipping, optimiser; of the model,
the loss and the optimiser that anemoi builds from our configs, without reading data, logging and checkpoints. All
three cases have the data nodes of the untrimmed grids, so that they differ in the encoder's edges alone.

- `sample`: the sample experiments as they are, on CPU.
- `narrow`: the published grids and a narrow model, on CPU.
- `published`: the published grids and model, where there is a GPU.

Each case is a process of its own that has loaded its graph; steps are taken in turn.
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

import records

PACKAGES = ("anemoi-training", "anemoi-models", "anemoi-graphs", "torch", "torch-geometric")
CASES = {"knn_12": "mmgt", "knn_20": "nbd", "covering": "tnbd_covering"}
PAIRS = (("covering", "knn_12"), ("knn_20", "knn_12"), ("covering", "knn_20"))
MEASURED = ("wall_s", "cpu_s", "peak_gb")
WARM_UP = 2
"""Steps before those that count: the first one makes the optimiser's state."""

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
    suffix: str  # of the experiments' names
    overrides: tuple[str, ...]
    device: str
    rounds: int
    at_once: bool  # all cases in memory, their steps in turn; else their processes in turn


SIZES = {
    "sample": Size("tiny", "_sample", (), "cpu", 41, at_once=True),
    "narrow": Size("published", "", (*ONE_DATE, *NARROW), "cpu", 11, at_once=True),
    "published": Size("published", "", ONE_DATE, "cuda", 11, at_once=False),
}


# In a process of its own


def prepare(size: Size, case: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The training module on its device, a batch, and what is to be said of them."""
    import torch
    from anemoi.training.train.train import AnemoiTrainer
    from hydra import compose, initialize

    with initialize(version_base=None):
        overrides = [*COMMON, *size.overrides, f"diagnostics.log.mlflow.run_name={case}"]
        config = compose(CASES[case] + size.suffix, overrides=overrides)
    told = {
        "channels": config.model.num_channels,
        "processor_layers": config.model.processor.num_layers,
        "precision": str(config.training.precision),
    }
    trainer = AnemoiTrainer(config)
    torch.manual_seed(0)
    module = trainer.model.to(size.device)
    batch = {name: field[None].to(size.device) for name, field in trainer.datamodule.ds_train.get_sample(0).items()}
    graph = trainer.graph_data
    return (
        module,
        batch,
        {
            "data_nodes": graph["data"].num_nodes,
            "hidden_nodes": graph["hidden"].num_nodes,
            "encoder_edges": graph["data", "to", "hidden"].num_edges,
            "parameters": sum(part.numel() for part in module.parameters() if part.requires_grad),
            **told,
        },
    )


def take_steps(size: Size, case: str) -> None:
    """Take a step for every line of the standard input, and answer with what it took, one line of JSON each."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    import torch

    module, batch, told = prepare(size, case)
    clip = module.config.training.gradient_clip.val
    (optimizer,) = _optimizers(module)
    half = size.device == "cuda" and told["precision"] == "16-mixed"
    scaler = torch.amp.GradScaler(size.device, enabled=half)

    def step() -> float:
        fresh = module.on_after_batch_transfer({name: field.clone() for name, field in batch.items()}, 0)
        with torch.autocast(size.device, torch.float16, enabled=half):
            loss = module._step(fresh).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_value_(module.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return float(loss.detach())  # waits for a GPU

    memory = _memory_of(size.device)
    told |= {"before_gb": memory.now_gb(), "device": memory.device, "peak_of": memory.peak_of}
    print(json.dumps(told), file=answers)
    for _ in sys.stdin:
        memory.forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        loss = step()
        taken = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(json.dumps({**taken, "loss": loss, "peak_gb": memory.peak_gb()}), file=answers)


def _optimizers(module: Any) -> list[Any]:
    made = module.configure_optimizers()
    return made[0] if isinstance(made, tuple | list) else [made]


class ProcessMemory:
    """Resident memory of this process. Its peak is that of a step where Linux lets a process forget it."""

    device = "cpu"

    def __init__(self) -> None:
        self.peak_of = "steps"
        self.forget_peak()

    def forget_peak(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.peak_of = "process"

    def now_gb(self) -> float:
        return self._status("VmRSS")

    def peak_gb(self) -> float:
        return self._status("VmHWM")

    @staticmethod
    def _status(key: str) -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) / 1e6
        return math.nan


class CudaMemory:
    """Memory that torch has allocated on the GPU."""

    peak_of = "steps"

    def __init__(self) -> None:
        import torch

        self.cuda = torch.cuda
        self.device = torch.cuda.get_device_name()

    def forget_peak(self) -> None:
        self.cuda.reset_peak_memory_stats()

    def now_gb(self) -> float:
        return self.cuda.memory_allocated() / 1e9

    def peak_gb(self) -> float:
        return self.cuda.max_memory_allocated() / 1e9


def _memory_of(device: str) -> ProcessMemory | CudaMemory:
    return CudaMemory() if device == "cuda" else ProcessMemory()


# From outside


@contextlib.contextmanager
def case_process(size: str, case: str) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, float]]]]:
    """What a case says of itself, and a function that takes a step there."""
    # No child of multiprocessing: that waits at its end for a pool of anemoi-datasets, which none there ends.
    command = [sys.executable, __file__, "--case", size, case]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    asked, answers = process.stdin, process.stdout
    if asked is None or answers is None:
        raise RuntimeError("a process with pipes has none")

    def answer() -> dict[str, Any]:
        if not (line := answers.readline()):
            raise SystemExit(f"The process of {case} ended by itself; its message is above.")
        return json.loads(line)

    def step() -> dict[str, float]:
        asked.write("step\n")
        asked.flush()
        return answer()

    try:
        yield answer(), step
    finally:
        process.communicate()  # an end of file ends it


def measure(name: str, rounds: int | None) -> dict[str, Any]:
    """All cases of one size: what they are, what their steps took, and the ratios."""
    size = SIZES[name]
    for case in CASES:  # the graphs' files, so that no building is in the memory that is measured
        with case_process(name, case):
            pass
    taken: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    told: dict[str, dict[str, Any]] = {}
    for group in [tuple(CASES)] if size.at_once else [(case,) for case in CASES]:
        with contextlib.ExitStack() as stack:
            processes = {case: stack.enter_context(case_process(name, case)) for case in group}
            told |= {case: about for case, (about, _) in processes.items()}
            for turn in range(WARM_UP + (rounds or size.rounds)):
                for case in group[:: 1 if turn % 2 else -1]:
                    taken[case].append(processes[case][1]())
                print(f"step {turn + 1}:", _said(taken, group), file=sys.stderr, flush=True)
    return summary(told, taken)


def _said(taken: dict[str, list[dict[str, float]]], group: Sequence[str]) -> str:
    return ", ".join(f"{case} {taken[case][-1]['wall_s']:.2f} s" for case in group)


def summary(told: dict[str, dict[str, Any]], taken: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of the steps after the warm-up."""
    cases: dict[str, Any] = {}
    for case, steps in taken.items():
        if not all(math.isfinite(step["loss"]) for step in steps):
            raise SystemExit(f"The loss of {case} is not finite: its steps are no training.")
        counted = steps[WARM_UP:]
        medians = {key: statistics.median(step[key] for step in counted) for key in MEASURED}
        cases[case] = {
            "experiment": CASES[case],
            **told[case],
            **medians,
            "of_steps_gb": medians["peak_gb"] - told[case]["before_gb"],
            **{f"{key}_of_each": [step[key] for step in counted] for key in MEASURED},
        }
    keys = (*MEASURED, "of_steps_gb", "encoder_edges")
    ratios = {f"{one} / {other}": {key: cases[one][key] / cases[other][key] for key in keys} for one, other in PAIRS}
    for one, other in PAIRS:
        rounds = zip(cases[one]["wall_s_of_each"], cases[other]["wall_s_of_each"], strict=True)
        ratios[f"{one} / {other}"]["wall_s, median of rounds"] = statistics.median(a / b for a, b in rounds)
    return {"rounds": len(cases["knn_12"]["wall_s_of_each"]), "ratios": ratios, "cases": cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    records.add_option(parser)
    parser.add_argument("--only", choices=SIZES, action="append", help="default: what this machine can do")
    parser.add_argument("--rounds", type=int, metavar="N", help="steps that count (default: 41, 11, 11)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch on CPU (default: 1)")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, metavar="DIR", help="samples are kept here (default: nowhere)")
    options = parser.parse_args()
    if options.case:
        take_steps(SIZES[options.case[0]], options.case[1])
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
