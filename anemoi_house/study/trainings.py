"""The study: the experiments trained alike, from several seeds, and what each does at the boundary.

    python benchmarks/study.py FOLDER --json benchmarks/results/study.json

Sample data, trainings, forecasts and scores are kept in FOLDER, and what is there is not made again: the same command
goes on after any end. A training is done again where its settings have changed. Each training and each forecast has one
thread and a process of its own; `--side-by-side` of them run at once.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from anemoi_house.boundary.index import signed_root
from anemoi_house.errors import HouseError
from anemoi_house.sample.build import GRIDS
from anemoi_house.study import records
from anemoi_house.study.fault import SETTINGS, write_faulty
from anemoi_house.study.mesh import mesh_use
from anemoi_house.study.scores import MEASURES, PLACES, PROFILE_KM, VARIABLES, Nodes, places_of, scores_of
from anemoi_house.study.statistics import Difference, difference
from anemoi_house.upstream.compose import composed

GRID, SAMPLE_DATES = "study", 264
TRIM = "dataloader.trim='225 km'"
EXPERIMENTS = {
    "mmgt": ["--config-name=mmgt"],
    "nbd": ["--config-name=nbd"],
    "tnbd": ["--config-name=tnbd", TRIM],
    "tnbd_covering": ["--config-name=tnbd_covering", TRIM],
    "nbd_covering": ["--config-name=nbd", "graph=house_covering"],
    "tnbd_wide": ["--config-name=tnbd", "dataloader.trim='480 km'"],
    "nbd_fault": ["--config-name=nbd"],
}
FAULTY = ("nbd_fault",)
"""Those whose HRRR data have a fault in their outer 225 km, in training and where forecasts start. `tnbd` and
`tnbd_covering` would be the same with it, for they have no such cells."""

CONTRASTS = {
    "nbd - mmgt": "20 neighbours for 12, so that no node of the rim is isolated",
    "nbd_covering - mmgt": "one edge more for each node that 12 neighbours leave out",
    "nbd_covering - nbd": "covering for 20 neighbours, untrimmed",
    "tnbd - nbd": "225 km trimmed off the LAM, 20 neighbours",
    "tnbd_covering - nbd_covering": "225 km trimmed off the LAM, covering",
    "tnbd_covering - tnbd": "covering for 20 neighbours, trimmed",
    "tnbd - mmgt": "20 neighbours and the trim",
    "tnbd_wide - tnbd": "480 km trimmed for 225 km",
    "nbd_fault - nbd": "a fault in HRRR's outer 225 km, untrimmed",
    "tnbd - nbd_fault": "225 km trimmed off the LAM, where they have a fault",
}
SEEDS = (1, 2, 3)
DATES, LEAD_TIME = "2020-02-19T06/2020-03-02T12/42h", "72h"
"""Eight starts, two at each hour of the day, none of them a date that was trained or validated on."""
JUDGED_LEADS_H = (6, 24, 48, 72)
BY_DATE_LEADS_H = (24, 48)

PACKAGES = ("anemoi-house", "anemoi-training", "anemoi-models", "anemoi-graphs", "anemoi-inference", "torch", "numpy")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
BIN = Path(sys.prefix) / "bin"


@dataclass(frozen=True)
class Run:
    """One training of an experiment.

    Attributes
    ----------
    experiment : str
        A name of `EXPERIMENTS`.
    seed : int
    study : Path
        Folder of the whole study.
    """

    experiment: str
    seed: int
    study: Path

    @property
    def name(self) -> str:
        """For a person; trackers and reports have the experiment's, under which they pool its seeds."""
        return f"{self.experiment}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Its outputs."""
        return self.study / "runs" / self.experiment / f"seed{self.seed}"

    @property
    def fault(self) -> dict[str, Any] | None:
        """That of its LAM's data."""
        return SETTINGS if self.experiment in FAULTY else None

    @property
    def sample(self) -> Path:
        """Folder of its datasets."""
        return self.study / ("faulty" if self.fault else "sample")

    @property
    def arguments(self) -> list[str]:
        """Of `anemoi-training train`."""
        return [
            *EXPERIMENTS[self.experiment],
            "+sample=house_study",
            f"diagnostics.log.mlflow.run_name={self.experiment}",
        ]

    @property
    def graph(self) -> Path:
        """The graph that it was trained on."""
        return self.folder / "graphs" / f"{self.experiment}.pt"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that it is trained with."""
        return {
            "ANEMOI_BASE_SEED": str(self.seed),
            "HOUSE_SAMPLE": str(self.sample),
            "HOUSE_OUTPUT": str(self.folder),
            **ONE_THREAD,
        }


def main() -> int:
    """Run what is missing of the study, and write its result; return the exit status."""
    arguments = _arguments()
    study = arguments.folder.absolute()
    runs = [Run(name, seed, study) for seed in arguments.seeds for name in arguments.experiments]
    prefix = shlex.split(arguments.prefix)
    try:
        _build_samples(study)
        _make(runs, arguments.side_by_side, prefix)
        result = records.circumstances(PACKAGES) | _result(study, arguments)
        records.write(result, arguments.json)
    except HouseError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="N")
    parser.add_argument("--side-by-side", type=int, default=2, metavar="N", help="processes at once (default: 2)")
    parser.add_argument("--prefix", default="", metavar="COMMAND", help="before each of them, such as 'nice'")
    records.add_option(parser)
    return parser.parse_args()


def _build_samples(study: Path) -> None:
    command = [BIN / "anemoi-house", "sample", study / "sample", "--grid", GRID, "--dates", str(SAMPLE_DATES)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise HouseError("the sample data could not be built.")
    write_faulty(study / "sample", study / "faulty", GRIDS[GRID].lam)


def _make(runs: Sequence[Run], side_by_side: int, prefix: list[str]) -> None:
    """Train and forecast, some runs side by side; after a failure none begins."""
    failed, done = threading.Event(), itertools.count(1)

    def one(run: Run) -> None:
        if failed.is_set():
            return
        try:
            told = [stage(run, prefix) for stage in (_train, _forecast)]
        except BaseException:
            failed.set()
            raise
        print(f"[{next(done)}/{len(runs)}] {run.name}: {', '.join(told)}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(side_by_side) as pool:
        list(pool.map(one, runs))


def _train(run: Run, prefix: list[str]) -> str:
    record = run.folder / "training.json"
    settings = _settings(run.experiment)
    wanted = {"arguments": run.arguments, "seed": run.seed, "settings": settings, "fault": run.fault}
    if record.is_file():
        found = json.loads(record.read_text())
        if {key: found.get(key) for key in wanted} == wanted:
            return "trained already"
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    spent = _execute([*prefix, BIN / "anemoi-training", "train", *run.arguments], run, "training.log")
    _write(record, wanted | spent)
    return f"trained in {spent['wall_s']:.0f} s, {spent['cpu_s']:.0f} s of CPU time"


def _forecast(run: Run, prefix: list[str]) -> str:
    arguments = [str(run.folder), "--dates", DATES, "--lead-time", LEAD_TIME, "--variables", *VARIABLES]
    spent = _execute([*prefix, BIN / "anemoi-house", "forecast", *arguments], run, "forecast.log")
    return f"forecasts made in {spent['wall_s']:.0f} s"


def _execute(command: Sequence[str | Path], run: Run, log: str) -> dict[str, float]:
    """Run a command to its end, and say how long it took."""
    begun = time.monotonic()
    with (run.folder / log).open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=run.folder,
            env=os.environ | run.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = (run.folder / log).read_text(errors="replace").strip().splitlines()[-5:]
        raise HouseError(
            "\n".join([f"{run.name} ended with status {process.returncode}; {run.folder / log} ends:", *last])
        )
    return {"wall_s": time.monotonic() - begun, "cpu_s": usage.ru_utime + usage.ru_stime}


_COMPOSE = threading.Lock()


@cache
def _composed(experiment: str) -> str:
    name, *overrides = EXPERIMENTS[experiment]
    config = composed(name.removeprefix("--config-name="), None, [*overrides, "+sample=house_study"])
    parts = {key: _plain(config[key]) for key in ("data", "dataloader", "graph", "model", "task", "training")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _plain(config: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=False)


def _settings(experiment: str) -> str:
    """Digest of all that decides what a training of the experiment gives."""
    with _COMPOSE:  # Hydra composes one config at a time
        return _composed(experiment)


def _result(study: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of all runs, and differences between the experiments."""
    experiments, seeds, grid = arguments.experiments, arguments.seeds, GRIDS[GRID].lam
    whole = next((name for name in experiments if not any("trim" in each for each in EXPERIMENTS[name])), None)
    if whole is None:
        raise HouseError("--experiments: give one that is not trimmed, for where HRRR's edge is.")
    untrimmed = Nodes.of_graph(Run(whole, seeds[0], study).graph, neighbours=12)
    scores: dict[str, list[dict[str, Any]]] = {}
    trainings: dict[str, list[dict[str, Any]]] = {}
    for experiment in experiments:
        nodes = Nodes.of_graph(Run(experiment, seeds[0], study).graph)
        places, signed = places_of(nodes, untrimmed, grid)
        for run in (Run(experiment, seed, study) for seed in seeds):
            print(f"scores of {run.name}", file=sys.stderr, flush=True)
            scores.setdefault(experiment, []).append(scores_of(run.folder, nodes, places, signed, study / "sample"))
            trained = json.loads((run.folder / "training.json").read_text())
            trainings.setdefault(experiment, []).append({key: trained[key] for key in ("seed", "wall_s", "cpu_s")})
    first = scores[experiments[0]][0]
    if any(
        run["dates"] != first["dates"] or run["leads_h"] != first["leads_h"] for runs in scores.values() for run in runs
    ):
        raise HouseError("the runs have forecasts of different dates or lead times; make those that are missing.")
    leads = {lead: first["leads_h"].index(lead) for lead in JUDGED_LEADS_H}
    return {
        "grid": {"name": GRID, "dates": SAMPLE_DATES},
        "experiments": {name: EXPERIMENTS[name] for name in experiments},
        "seeds": list(seeds),
        "dates": first["dates"],
        "leads_h": first["leads_h"],
        "places": PLACES,
        "fault": {"experiments": list(FAULTY), **SETTINGS},
        "profile_km": PROFILE_KM.tolist(),
        "trainings": trainings,
        "nodes": {name: runs[0]["nodes"] for name, runs in scores.items()},
        "isolated": {name: runs[0]["isolated"] for name, runs in scores.items()},
        "mesh_use": {name: mesh_use(Run(name, seeds[0], study).folder) for name in experiments},
        "band": {name: runs[0]["band"] for name, runs in scores.items()},
        "scores": {name: _summary(runs) for name, runs in scores.items()},
        "by_date": {
            name: _by_date(runs, {lead: leads[lead] for lead in BY_DATE_LEADS_H}) for name, runs in scores.items()
        },
        "differences_are": "value, low and high end of the 95 % interval",
        "differences": _differences(scores, leads),
    }


def squares(runs: Sequence[dict[str, Any]], variable: str, score: str, key: str = "squared") -> np.ndarray:
    """Squares behind a score, of shape (seeds, dates, leads).

    Parameters
    ----------
    runs : sequence of dict
        Of one experiment, as from `scores_of`.
    variable : str
    score : str
        `rmse PLACE`, or a measure of the boundary `error MEASURE`, `forecast MEASURE`.
    key : str
        `squared`, or the `scale` of a measure.
    """
    kind, name = score.split()
    of = [run["variables"][variable] for run in runs]
    if kind == "rmse":
        return np.array([each["mse"][name] for each in of], dtype=np.float64)
    return np.array([each[kind][name][key] for each in of], dtype=np.float64)


SCORES = [f"rmse {place}" for place in PLACES] + [
    f"{kind} {measure}" for kind, measure in itertools.product(("error", "forecast"), MEASURES)
]


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each score by lead time and seed: root of the mean over dates."""
    summary: dict[str, Any] = {}
    for variable in VARIABLES:
        of = {score: signed_root(squares(runs, variable, score).mean(axis=1)).tolist() for score in SCORES}
        still = {place: np.array(runs[0]["variables"][variable]["persistence"][place]) for place in PLACES}
        profile = np.array([run["variables"][variable]["profile"] for run in runs], dtype=np.float64).mean(axis=(0, 1))
        bias = {
            place: np.mean([run["variables"][variable]["bias"][place] for run in runs], axis=1).tolist()
            for place in ("lam", "rim")
        }
        summary[variable] = {
            "score": of,
            "persistence": {place: np.sqrt(values.mean(axis=0)).tolist() for place, values in still.items()},
            "analysis": {
                measure: signed_root(np.mean(runs[0]["variables"][variable]["analysis"][measure]["squared"])).item()
                for measure in MEASURES
            },
            "bias": bias,
            "profile_rmse": np.sqrt(profile).tolist(),
        }
    return summary


def _by_date(runs: Sequence[dict[str, Any]], leads: dict[int, int]) -> dict[str, Any]:
    """Each score by date and seed at some lead times, before any averaging."""
    return {
        variable: {
            score: {
                str(lead): signed_root(squares(runs, variable, score)[..., at]).tolist() for lead, at in leads.items()
            }
            for score in SCORES
        }
        for variable in VARIABLES
    }


def _differences(scores: dict[str, list[dict[str, Any]]], leads: dict[int, int]) -> dict[str, Any]:
    """Every contrast of two experiments that were run: by score, variable and lead time."""
    found: dict[str, Any] = {}
    for contrast, what in CONTRASTS.items():
        ours, theirs = contrast.split(" - ")
        if ours not in scores or theirs not in scores:
            continue
        found[contrast] = {"what": what}
        for score in SCORES:
            one, other = (
                np.stack([squares(scores[name], each, score) for each in VARIABLES]) for name in (ours, theirs)
            )
            if not np.isfinite(one).all() or not np.isfinite(other).all():
                continue  # no node of that place
            scale = "squared" if score.startswith("rmse") else "scale"
            units = np.stack([squares(scores[theirs], each, score, scale) for each in VARIABLES]).mean(axis=(1, 2))
            found[contrast][score] = {
                str(lead): {
                    "all": _interval(difference(one[..., at], other[..., at], np.sqrt(units[:, at]))),
                    **{
                        variable: _interval(difference(one[[row], ..., at], other[[row], ..., at]))
                        for row, variable in enumerate(VARIABLES)
                    },
                }
                for lead, at in leads.items()
            }
    return found


def _interval(found: Difference) -> list[float | None]:
    """Difference, and the ends of its interval where there is one."""
    return [value if np.isfinite(value) else None for value in (found.value, found.low, found.high)]


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
