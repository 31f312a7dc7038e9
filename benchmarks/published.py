"""Build the published graphs and models with the stock trainer, without training, and print their numbers.

One JSON line for each experiment, to compare with the published table in the README.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import warnings
from pathlib import Path

EXPERIMENTS = ("mmgt", "nbd", "tnbd", "tnbd_covering")

# The model is built but not run, so any device works; the dates are the sample's.
OVERRIDES = [
    "system.hardware.accelerator=cpu",
    "model.compile=[]",
    "diagnostics.log.mlflow.enabled=False",
    "graph.overwrite=True",
    *(
        f"dataloader.{part}.datasets.data.{key}=2020-01-01"
        for part in ("training", "validation", "test")
        for key in ("start", "end")
    ),
]


def numbers(experiment: str, overrides: list[str]) -> dict:
    """Return the numbers of one experiment's graph and model."""
    # Hydra runs our plugin when it composes, which needs anemoi's schemas to be imported.
    from anemoi.training.train.train import AnemoiTrainer
    from hydra import compose, initialize

    from anemoi_house.graphs.describe import describe

    with initialize(version_base=None):
        trainer = AnemoiTrainer(compose(experiment, overrides=[*OVERRIDES, *overrides]))
    found = describe(trainer.graph_data)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    return {
        "experiment": experiment,
        "data_nodes": found["nodes"]["data"],
        "lam_nodes": found["nodes"]["lam"],
        "hidden_nodes": found["nodes"]["hidden"],
        "edges": found["edges"],
        "encoder_neighbours": found["encoder_neighbours"],
        "isolated": found["isolated"]["all"],
        "isolated_within_1000_km": found["isolated"]["lam"] + found["isolated"]["rim"],
        "parameters": parameters,
        "model_size_mb": round(parameters * 4 / 1e6, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory of `anemoi-house sample --grid published`")
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS, metavar="NAME")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="config override")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    os.environ["HOUSE_HRRR"] = str(arguments.data / "hrrr.zarr")
    os.environ["HOUSE_GFS"] = str(arguments.data / "gfs.zarr")
    os.environ.setdefault("HOUSE_OUTPUT", str(arguments.data / "outputs"))
    for experiment in arguments.experiments:
        print(json.dumps(numbers(experiment, arguments.override)), flush=True)


if __name__ == "__main__":
    main()
