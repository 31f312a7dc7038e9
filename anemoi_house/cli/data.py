"""Commands on datasets: `sample`, `recipe`, `scan`, `missing`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from anemoi_house.cli.parser import Commands, add_command
from anemoi_house.errors import HouseError


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    text = "Build two sample datasets, hrrr.zarr and gfs.zarr, with the stock anemoi-datasets."
    parser = add_command(commands, "sample", _sample, text)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory for the two datasets")
    parser.add_argument("--grid", choices=["tiny", "study", "published"], default="tiny", help="default: tiny")
    parser.add_argument("--dates", type=int, default=120, metavar="N", help="number of 6-hourly dates (default: 120)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing datasets")

    text = "Print a recipe for anemoi-datasets of a published dataset, as published or for other dates and levels."
    parser = add_command(commands, "recipe", _recipe, text)
    parser.add_argument("name", metavar="NAME", help="hrrr_15km or gfs_1deg")
    parser.add_argument("--start", metavar="DATE", help="first date: 2021-04-01T06, or 2021-04-01 for T00")
    parser.add_argument("--end", metavar="DATE", help="last date: 2021-04-02T06, or 2021-04-02 for T18")
    parser.add_argument("--levels", nargs="+", default=[], metavar="HPA", help="pressure levels in hPa")
    text = "s3://, https:// or a directory to read from instead of the public archives; repeat it for fallbacks"
    parser.add_argument("--root", action="append", default=[], metavar="URL", help=text)
    batch = parser.add_argument_group("building in parallel with SLURM")
    batch.add_argument("--sbatch", type=int, metavar="N", help="print a job script that builds in N parallel parts")
    batch.add_argument("--output", metavar="PATH.zarr", help="dataset (default: NAME.zarr next to the script)")
    for option in ("account", "partition", "time"):
        batch.add_argument(f"--{option}", metavar=option.upper(), help="as for sbatch (default: sbatch's own)")

    text = "Ask the archives for every date of a recipe, and write the absent ones into its dates.missing."
    more = "No field is read. An interrupted scan continues when started again. Exit status 1 if an archive did not "
    parser = add_command(commands, "scan", _scan, text, f"{more}answer.")
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("--jobs", type=int, default=32, metavar="N", help="dates asked for in parallel (default: 32)")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="result (default: RECIPE.scan.json)")

    text = "Declare dates of an unfinished dataset missing, or print what is still to be loaded."
    more = "No load may be running. Without dates, exit status 1 while some are still to be loaded."
    parser = add_command(commands, "missing", _missing, text, more)
    parser.add_argument("dataset", type=Path, metavar="DATASET.zarr")
    parser.add_argument("dates", nargs="*", metavar="DATE", help="such as 2021-04-01T06")


def _sample(arguments: argparse.Namespace) -> None:
    from anemoi_house.sample.build import build_sample

    for path in build_sample(arguments.directory, arguments.grid, arguments.dates, overwrite=arguments.overwrite):
        print(path)


def _recipe(arguments: argparse.Namespace) -> None:
    from anemoi_house.datasets.recipe import batch_script, recipe

    text = recipe(arguments.name, arguments.start, arguments.end, arguments.root, arguments.levels)
    batch = {key: getattr(arguments, key) for key in ("output", "account", "partition", "time")}
    if arguments.sbatch is not None:
        text = batch_script(arguments.name, text, arguments.sbatch, **batch)
    elif given := [key for key, value in batch.items() if value]:
        raise HouseError(f"--{given[0]}: is only valid with --sbatch N. Give the number of parallel parts too.")
    print(text, end="")


def _scan(arguments: argparse.Namespace) -> int:
    from anemoi_house.datasets.scan import scan

    result = scan(arguments.recipe, arguments.jobs, arguments.report)
    print(result.as_text())
    return 1 if result.of("unknown") else 0


def _missing(arguments: argparse.Namespace) -> int:
    from anemoi_house.datasets.missing import declare_missing, progress

    logging.getLogger("anemoi.datasets").setLevel(logging.WARNING)  # it logs each array that it makes
    if arguments.dates:
        print(declare_missing(arguments.dataset, arguments.dates).as_text())
        return 0
    found = progress(arguments.dataset)
    print(found.as_text())
    return 1 if found.left else 0
