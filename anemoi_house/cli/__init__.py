"""`anemoi-house ...`: parse, call, print; no logic."""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from anemoi_house import __version__
from anemoi_house.errors import HouseError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = _parser()
    arguments, more = parser.parse_known_args(argv)
    # Overrides that stand behind options: argparse takes a list of arguments in one piece.
    if any(each.startswith("-") for each in more) or (more and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        arguments.overrides = [*arguments.overrides, *more]
    try:
        status = arguments.run(arguments) or 0
        sys.stdout.flush()
        return status
    except HouseError as mistake:
        print(f"anemoi-house: {mistake}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _nobody_reads_on():
            raise
        return 1


def _nobody_reads_on() -> bool:
    """Whether the standard output was closed, as by `head`; if so, what is left of it goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not poll.poll(0):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anemoi-house",
        description="Sample data, recipes of datasets, graphs and tracked runs of nested experiments. Training, "
        "inference and datasets stay with the stock commands: anemoi-training, anemoi-inference, anemoi-datasets.",
    )
    parser.add_argument("--version", action="version", version=f"anemoi-house {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_sample(commands)
    _add_recipe(commands)
    _add_scan(commands)
    _add_missing(commands)
    _add_graph(commands)
    _add_skill(commands)
    _add_forecast(commands)
    _add_report(commands)
    _add_sync(commands)
    _add_runs(commands)
    _add_slurm2ddp(commands)
    _add_resume(commands)
    _add_sbatch(commands)
    _add_prepare(commands)
    _add_explain(commands)
    return parser


def _add_sample(commands: argparse._SubParsersAction) -> None:
    text = "Build two sample datasets, hrrr.zarr and gfs.zarr, with the stock anemoi-datasets."
    parser = commands.add_parser("sample", help=text, description=text)
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder for the two datasets")
    parser.add_argument("--grid", choices=["tiny", "study", "published"], default="tiny", help="default: tiny")
    parser.add_argument("--dates", type=int, default=120, metavar="N", help="number of 6-hourly dates (default: 120)")
    parser.add_argument("--overwrite", action="store_true", help="replace datasets that are already there")
    parser.set_defaults(run=_sample)


def _sample(arguments: argparse.Namespace) -> None:
    from anemoi_house.sample.build import build_sample

    for path in build_sample(arguments.directory, arguments.grid, arguments.dates, overwrite=arguments.overwrite):
        print(path)


def _add_recipe(commands: argparse._SubParsersAction) -> None:
    text = "Print a recipe of the published datasets for anemoi-datasets, as it is or for other dates."
    parser = commands.add_parser("recipe", help=text, description=text)
    parser.add_argument("name", metavar="NAME", help="hrrr_15km or gfs_1deg")
    parser.add_argument("--start", metavar="DATE", help="first date: 2021-04-01T06, or 2021-04-01 for T00")
    parser.add_argument("--end", metavar="DATE", help="last date: 2021-04-02T06, or 2021-04-02 for T18")
    parser.add_argument("--levels", nargs="+", default=[], metavar="HPA", help="pressure levels in hPa")
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="URL",
        help="s3://, https:// or a folder to take the fields from, instead of the public archives; several in turn",
    )
    batch = parser.add_argument_group("building in parallel with SLURM")
    batch.add_argument("--sbatch", type=int, metavar="N", help="print a script instead that builds in N parallel parts")
    batch.add_argument("--output", metavar="PATH.zarr", help="dataset (default: NAME.zarr beside the script)")
    for option in ("account", "partition", "time"):
        batch.add_argument(f"--{option}", metavar=option.upper(), help="as sbatch takes it (default: sbatch's own)")
    parser.set_defaults(run=_recipe)


def _recipe(arguments: argparse.Namespace) -> None:
    from anemoi_house.datasets.recipe import batch_script, recipe

    text = recipe(arguments.name, arguments.start, arguments.end, arguments.root, arguments.levels)
    batch = {key: getattr(arguments, key) for key in ("output", "account", "partition", "time")}
    if arguments.sbatch is not None:
        text = batch_script(arguments.name, text, arguments.sbatch, **batch)
    elif given := [key for key, value in batch.items() if value]:
        raise HouseError(f"--{given[0]}: belongs to --sbatch; give the number of parts with it")
    print(text, end="")


def _add_scan(commands: argparse._SubParsersAction) -> None:
    text = "Ask the archives for every date of a recipe, and write those that they lack into its dates.missing."
    more = " No field is read. Stopped and started again, it goes on. Exit status 1 if an archive did not answer."
    parser = commands.add_parser("scan", help=text, description=text + more)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("--jobs", type=int, default=32, metavar="N", help="dates asked for at a time (default: 32)")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="result (default: RECIPE.scan.json)")
    parser.set_defaults(run=_scan)


def _scan(arguments: argparse.Namespace) -> int:
    from anemoi_house.datasets.scan import scan

    result = scan(arguments.recipe, arguments.jobs, arguments.report)
    print(result.as_text())
    return 1 if result.of("unknown") else 0


def _add_missing(commands: argparse._SubParsersAction) -> None:
    text = "Take dates out of a dataset that is being built, or say what is still to load."
    more = " Exit status 1 while dates are to be loaded, and none was given. No load may be running."
    parser = commands.add_parser("missing", help=text, description=text + more)
    parser.add_argument("dataset", type=Path, metavar="DATASET.zarr")
    parser.add_argument("dates", nargs="*", metavar="DATE", help="such as 2021-04-01T06")
    parser.set_defaults(run=_missing)


def _missing(arguments: argparse.Namespace) -> int:
    from anemoi_house.datasets.missing import declare_missing, progress

    logging.getLogger("anemoi.datasets").setLevel(logging.WARNING)  # it tells of each array that it makes
    if arguments.dates:
        print(declare_missing(arguments.dataset, arguments.dates).as_text())
        return 0
    found = progress(arguments.dataset)
    print(found.as_text())
    return 1 if found.left else 0


def _add_graph(commands: argparse._SubParsersAction) -> None:
    text = "Look at a graph, or find the number of neighbours for one."
    group = commands.add_parser("graph", help=text, description=text)
    verbs = group.add_subparsers(title="commands", required=True, metavar="COMMAND")

    text = "Nodes, edges, and the data nodes that no encoder edge begins at."
    parser = verbs.add_parser("describe", help=text, description=text)
    parser.add_argument("graph", type=Path, metavar="GRAPH.pt")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_graph_describe)

    text = "Table of encoder neighbours against isolated data nodes, without building a graph."
    parser = verbs.add_parser("size", help=text, description=text)
    parser.add_argument("config", metavar="CONFIG", help="as for `anemoi-training train --config-name`")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument("--config-path", type=Path, metavar="DIR", help="folder to look for CONFIG in first")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_graph_size)

    text = "Maps of the boundary, the mesh and the isolated data nodes."
    parser = verbs.add_parser("plot", help=text, description=text)
    parser.add_argument("graph", type=Path, metavar="GRAPH.pt")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png", help="picture to write")
    parser.add_argument(
        "--width-km", type=float, default=1000.0, metavar="KM", help="width of the rim around the LAM (default: 1000)"
    )
    parser.set_defaults(run=_graph_plot)


def _graph_describe(arguments: argparse.Namespace) -> None:
    from anemoi_house.graphs.describe import as_text, describe, load_graph

    description = describe(load_graph(arguments.graph))
    print(json.dumps(description) if arguments.json else as_text(description))


def _graph_size(arguments: argparse.Namespace) -> None:
    from anemoi_house.graphs.size import as_text, size_of

    size = size_of(arguments.config, arguments.config_path, arguments.overrides)
    print(json.dumps(size.as_json()) if arguments.json else as_text(size))


def _graph_plot(arguments: argparse.Namespace) -> None:
    from anemoi_house.figures.graph import plot_graph

    print(plot_graph(arguments.graph, arguments.output, arguments.width_km))


def _add_skill(commands: argparse._SubParsersAction) -> None:
    text = "Losses of a finished run, and its errors 6 h ahead beside those of persistence."
    parser = commands.add_parser("skill", help=text, description=text)
    parser.add_argument(
        "run_folder",
        type=Path,
        nargs="?",
        default=Path("outputs"),
        metavar="RUN",
        help="checkpoint folder of a run, or a folder above several: then the latest (default: outputs)",
    )
    parser.set_defaults(run=_skill)


def _skill(arguments: argparse.Namespace) -> None:
    from anemoi_house.runs.trained import find_run
    from anemoi_house.scores.skill import as_text, losses, skill

    run = find_run(arguments.run_folder)
    print(as_text(run, skill(run), losses(run)))


def _add_forecast(commands: argparse._SubParsersAction) -> None:
    text = (
        "Make forecasts of a finished run with the stock anemoi-inference: a NetCDF file and its config for each date."
    )
    more = " Those that are there already are kept."
    parser = commands.add_parser("forecast", help=text, description=text + more)
    parser.add_argument(
        "run_folder",
        type=Path,
        nargs="?",
        default=Path(os.environ.get("HOUSE_OUTPUT", "outputs")),
        metavar="RUN",
        help="checkpoint folder of a run, an inference checkpoint, or a folder above several runs: then the latest "
        "(default: $HOUSE_OUTPUT or outputs)",
    )
    parser.add_argument(
        "--dates",
        nargs="+",
        required=True,
        metavar="DATE",
        help="where they start: 2020-01-27T00, or START/END/STEP such as 2020-01-26T12/2020-01-28T00/12h",
    )
    parser.add_argument("--lead-time", required=True, metavar="T", help="how far they go: 72h or 3d")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: OUTPUTS/forecast/RUN_ID")
    parser.add_argument(
        "--variables",
        nargs="+",
        default=[],
        metavar="NAME",
        help="what to write, or 'all' (default: what the plots and metrics of the run look at)",
    )
    parser.add_argument("--lam", type=Path, metavar="PATH", help="limited-area dataset, where it is elsewhere now")
    parser.add_argument("--global", type=Path, dest="globe", metavar="PATH", help="global dataset, likewise")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: the stock runner's choice)")
    parser.add_argument("--config-only", action="store_true", help="write the configs for anemoi-inference run alone")
    parser.set_defaults(run=_forecast)


def _forecast(arguments: argparse.Namespace) -> None:
    from anemoi_house.dates import parse_dates, parse_hours
    from anemoi_house.forecast.run import check_runner, run, write_configs
    from anemoi_house.forecast.write import plan
    from anemoi_house.runs.trained import find_run

    dates, lead_h = parse_dates(arguments.dates), parse_hours(arguments.lead_time)
    if not arguments.config_only:
        check_runner(arguments.device)
    options = {key: getattr(arguments, key) for key in ("output", "variables", "lam", "globe", "device")}
    asked = plan(find_run(arguments.run_folder), dates, lead_h, **options)
    for line in asked.told:
        print(f"anemoi-house forecast: {line}", file=sys.stderr)
    print(*(write_configs if arguments.config_only else run)(asked), sep="\n")


def _add_report(commands: argparse._SubParsersAction) -> None:
    text = "Compare forecasts of several runs at the boundary: one HTML page, its figures and all numbers as JSON."
    more = " The runs need forecasts: anemoi-house forecast. Those with one name, but for _seed1 and so on, are"
    more += " trainings of one experiment."
    parser = commands.add_parser("report", help=text, description=text + more)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="checkpoint folder of a run, folder of its forecasts, or a folder above several runs: then all of them, "
        "in the order of their training. The others are compared with the first",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder for index.html, report.json and figures"
    )
    parser.add_argument(
        "--variables", nargs="+", default=[], metavar="NAME", help="default: gh_500 t_850 u_850 v_850, as far as there"
    )
    parser.add_argument(
        "--leads",
        nargs="+",
        default=[],
        metavar="24h",
        help="of the tables; the first one decides (default: 24h 48h 72h)",
    )
    parser.add_argument("--inner-km", type=float, metavar="KM", help="width of the ring inside (default: 225)")
    parser.add_argument("--outer-km", type=float, metavar="KM", help="width of the ring outside (default: 225)")
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> None:
    from anemoi_house.report.build import report, settings_of

    settings = settings_of(arguments.variables, arguments.leads, arguments.inner_km, arguments.outer_km)
    print(report(arguments.runs, arguments.output, settings, lambda line: print(line, file=sys.stderr)))


def _add_sync(commands: argparse._SubParsersAction) -> None:
    text = "Send what is recorded of runs to their tracking servers, as far as that has not been done."
    more = (
        " Nothing is sent twice, whenever it was stopped. Exit status 1 if something is left: a server that cannot be"
    )
    more += " reached is given up after 3 attempts, one that fails or is overloaded after 6, a sign-in that is refused"
    more += " at once. A run that another process is sending is left to it."
    parser = commands.add_parser("sync", help=text, description=text + more)
    _add_run_folders(parser)
    parser.add_argument("--to", metavar="URI", help="another server: http://, https://, sqlite:///FILE, azureml://")
    parser.add_argument("--watch", action="store_true", help="go on until Ctrl-C, also with new runs")
    parser.add_argument("--until-end", action="store_true", help=argparse.SUPPRESS)  # what the logger starts
    parser.set_defaults(run=_sync)


def _sync(arguments: argparse.Namespace) -> int:
    from anemoi_house.tracking.sync import sync, until_end

    if arguments.until_end:
        if len(arguments.runs) != 1 or arguments.to or arguments.watch:
            raise HouseError("--until-end: goes with one RUN_DIR, and with no other option")
        return until_end(arguments.runs[0])
    return sync(arguments.runs, arguments.to, arguments.watch)


def _add_runs(commands: argparse._SubParsersAction) -> None:
    text = "List recorded runs, and what of each is still to be sent."
    parser = commands.add_parser("runs", help=text, description=text)
    _add_run_folders(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(run=_runs)


def _runs(arguments: argparse.Namespace) -> None:
    from anemoi_house.tracking.listing import as_text, recorded_runs

    found = recorded_runs(arguments.runs)
    print(json.dumps([run.as_json() for run in found]) if arguments.json else as_text(found))


def _add_run_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN_DIR",
        help="folder of a run, its checkpoint folder, or one above (default: $HOUSE_OUTPUT or outputs)",
    )


def _add_slurm2ddp(commands: argparse._SubParsersAction) -> None:
    text = "Print the path of slurm2ddp.sh, which tells the tasks of a SLURM step their ranks."
    more = ' To use it: srun "$(anemoi-house slurm2ddp)" anemoi-training train --config-name=tnbd'
    parser = commands.add_parser("slurm2ddp", help=text, description=text + more)
    parser.set_defaults(run=_slurm2ddp)


def _slurm2ddp(_: argparse.Namespace) -> None:
    from anemoi_house.shipped import shipped

    print(shipped("slurm2ddp.sh"))


def _add_resume(commands: argparse._SubParsersAction) -> None:
    text = "Print what `anemoi-training train` needs to go on with a run that was ended, one override a line."
    more = " At the last whole checkpoint that ends an epoch, else at the last one. Prints nothing where there is none."
    parser = commands.add_parser("resume", help=text, description=text + more)
    parser.add_argument(
        "run_folder",
        type=Path,
        nargs="?",
        default=Path(os.environ.get("HOUSE_OUTPUT", "outputs")),
        metavar="RUN",
        help="checkpoint folder of a run, or the outputs of one run (default: $HOUSE_OUTPUT or outputs)",
    )
    parser.set_defaults(run=_resume)


def _resume(arguments: argparse.Namespace) -> None:
    from anemoi_house.runs.resume import resume

    found = resume(arguments.run_folder)
    told = found.summary if found else [f"{arguments.run_folder}: no checkpoint yet; the training begins at step 0"]
    print(*(f"anemoi-house resume: {line}" for line in told), sep="\n", file=sys.stderr)
    if found:
        print(*found.overrides, sep="\n")


def _add_sbatch(commands: argparse._SubParsersAction) -> None:
    text = "Print a job script that trains an experiment under SLURM, and goes on after every limit: sbatch takes it."
    more = " Other options of sbatch: on its command line, where they come first, or as its SBATCH_ variables."
    parser = commands.add_parser("sbatch", help=text, description=text + more)
    parser.add_argument("--config-name", required=True, metavar="NAME", help="experiment, as for anemoi-training train")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--gpus-per-node", metavar="N", help="4 or a100:4: a task for each")
    parser.add_argument("--ntasks-per-node", type=int, metavar="N", help="ranks on CPUs, without GPUs (default: 1)")
    parser.add_argument("--gpus-per-model", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--cpus-per-task", type=int, metavar="N")
    parser.add_argument("--time", required=True, help="limit of an attempt, such as 12:00:00")
    parser.add_argument("--account", metavar="NAME", help="default: $SBATCH_ACCOUNT; none where the site has none")
    parser.add_argument("--partition", metavar="NAME")
    parser.add_argument("--env", type=Path, metavar="FILE", help="shell file that each attempt reads, for credentials")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of this run alone (default: runs/NAME)")
    parser.add_argument("--seed", type=int, metavar="N", help="the same for each attempt (default: another for each)")
    parser.add_argument(
        "--signal-before",
        type=int,
        default=600,
        metavar="S",
        help="seconds before the limit at which it stops at the next checkpoint (default: 600)",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    parser.set_defaults(run=_sbatch)


def _sbatch(arguments: argparse.Namespace) -> None:
    from anemoi_house.runs.batch import Job, job_script

    asked = {key: value for key, value in vars(arguments).items() if key not in ("run", "ntasks_per_node")}
    print(job_script(Job(**asked, tasks_per_node=arguments.ntasks_per_node)), end="")


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    text = "Check a training, its data, its folder and its config, and build its graph, before its ranks start."
    parser = commands.add_parser("prepare", help=text, description=text)
    parser.add_argument("--config-name", required=True, metavar="NAME", help="experiment, as for anemoi-training train")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    parser.set_defaults(run=_prepare)


def _prepare(arguments: argparse.Namespace) -> None:
    from anemoi_house.runs.prepare import prepare

    prepare(arguments.config_name, arguments.overrides)


def _add_explain(commands: argparse._SubParsersAction) -> None:
    text = "Print what a training will use: rates, steps, weights of the loss, checkpoints. Nothing is trained."
    parser = commands.add_parser("explain", help=text, description=text)
    parser.add_argument("config_name", metavar="CONFIG", help="experiment, as for anemoi-training train --config-name")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument("--config-path", type=Path, metavar="DIR", help="folder of configs of your own")
    for option in ("nodes", "gpus-per-node", "gpus-per-model"):
        parser.add_argument(
            f"--{option}", type=int, metavar="N", help=f"system.hardware.num_{option.replace('-', '_')}"
        )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the learning rate")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    parser.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> None:
    from anemoi_house.explain.effective import effective
    from anemoi_house.explain.text import as_text

    asked = {key: getattr(arguments, key) for key in ("nodes", "gpus_per_node", "gpus_per_model")}
    hardware = [f"system.hardware.num_{key}={value}" for key, value in asked.items() if value is not None]
    values = effective(arguments.config_name, arguments.config_path, [*hardware, *arguments.overrides])
    if arguments.plot:
        from anemoi_house.explain.plot import plot_rate

        plot_rate(values, arguments.plot)
    print(json.dumps(values.as_json(), indent=2) if arguments.json else as_text(values))
