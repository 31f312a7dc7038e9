"""What the study trains, forecasts and compares."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anemoi_house.study.fault import SETTINGS
from anemoi_house.upstream import keys

GRID, SAMPLE_DATES = "study", 264
TRIM = f"{keys.TRIM}='225 km'"
EXPERIMENTS = {
    "mmgt": ["--config-name=mmgt"],
    "nbd": ["--config-name=nbd"],
    "tnbd": ["--config-name=tnbd", TRIM],
    "tnbd_covering": ["--config-name=tnbd_covering", TRIM],
    "nbd_covering": ["--config-name=nbd", "graph=house_covering"],
    "tnbd_wide": ["--config-name=tnbd", f"{keys.TRIM}='480 km'"],
    "nbd_fault": ["--config-name=nbd"],
}
"""Arguments of `anemoi-training train`."""

FAULTY = ("nbd_fault",)
"""Experiments whose HRRR data have a fault in their outer 225 km, in training and at the start of forecasts. `tnbd` and
`tnbd_covering` are the same with it: they have none of those cells."""

CONTRASTS = {
    "nbd - mmgt": "20 neighbours for 12, so that no node of the rim is isolated",
    "nbd_covering - mmgt": "one more edge for each node that 12 neighbours leave out",
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
VARIABLES = ("gh_500", "t_850", "u_850", "v_850")
"""Variables that the published experiments are judged by in validation."""

DATES, LEAD_TIME = "2020-02-19T06/2020-03-02T12/42h", "72h"
"""Eight starts, two at each hour of the day, all after the dates of training and validation."""

JUDGED_LEADS_H = (6, 24, 48, 72)
BY_DATE_LEADS_H = (24, 48)

BIN = Path(sys.prefix) / "bin"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


@dataclass(frozen=True)
class Run:
    """One training of an experiment.

    Attributes
    ----------
    experiment : str
        A name in `EXPERIMENTS`.
    seed : int
    study : Path
        Folder of the whole study.
    """

    experiment: str
    seed: int
    study: Path

    @property
    def name(self) -> str:
        """Name for messages; trackers and reports use the experiment's, under which they pool its seeds."""
        return f"{self.experiment}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Folder of its outputs."""
        return self.study / "runs" / self.experiment / f"seed{self.seed}"

    @property
    def record(self) -> Path:
        """File with the settings and the time of a finished training."""
        return self.folder / "training.json"

    @property
    def graph(self) -> Path:
        """The graph that it was trained on."""
        return self.folder / "graphs" / f"{self.experiment}.pt"

    @property
    def fault(self) -> dict[str, Any] | None:
        """The fault in its HRRR data."""
        return SETTINGS if self.experiment in FAULTY else None

    @property
    def arguments(self) -> list[str]:
        """Arguments of `anemoi-training train`."""
        return [*EXPERIMENTS[self.experiment], "+sample=house_study", f"{keys.RUN_NAME}={self.experiment}"]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of its training."""
        sample = self.study / ("faulty" if self.fault else "sample")
        own = {"ANEMOI_BASE_SEED": f"{self.seed}", "HOUSE_SAMPLE": f"{sample}", "HOUSE_OUTPUT": f"{self.folder}"}
        return own | ONE_THREAD
