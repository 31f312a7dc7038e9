"""Run the study: `python -m anemoi_house.study DIR --json FILE`.

Sample data, trainings, forecasts and scores are kept in DIR and are not made again: after an interruption, the same
command continues. A training is repeated if its settings have changed. Each training and each forecast has its own
process with one thread; `--side-by-side` of them run in parallel.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from anemoi_house.errors import HouseError
from anemoi_house.extras import extras_named
from anemoi_house.study import records
from anemoi_house.study.plan import EXPERIMENTS, SEEDS, Run
from anemoi_house.study.result import result_of
from anemoi_house.study.trainings import build_samples, make

PACKAGES = ("anemoi-house", "anemoi-training", "anemoi-models", "anemoi-graphs", "anemoi-inference", "torch", "numpy")


def main() -> int:
    """Run the missing parts of the study and write its result; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m anemoi_house.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="N")
    parser.add_argument("--side-by-side", type=int, default=2, metavar="N", help="parallel processes (default: 2)")
    parser.add_argument("--prefix", default="", metavar="COMMAND", help="put before each of them, such as 'nice'")
    records.add_option(parser)
    arguments = parser.parse_args()
    study = arguments.folder.absolute()
    runs = {name: [Run(name, seed, study) for seed in arguments.seeds] for name in arguments.experiments}
    try:
        with extras_named("study"):
            circumstances = records.circumstances(PACKAGES)
        build_samples(study)
        by_seed = [run for same_seed in zip(*runs.values()) for run in same_seed]
        make(by_seed, arguments.side_by_side, shlex.split(arguments.prefix))
        records.write(circumstances | result_of(study, runs), arguments.json)
    except HouseError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
