from __future__ import annotations

import pytest
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from anemoi_house.errors import HouseError
from anemoi_house.plugin import resolvers
from anemoi_house.upstream.errors import CommandError, ResolverError


@pytest.fixture(autouse=True)
def _registered() -> None:
    resolvers.register()


def resolved(text: str) -> object:
    """Return a value as a config resolves it."""
    config = OmegaConf.create({"system": {"hardware": {"value": text}}})
    OmegaConf.resolve(config)
    return config.system.hardware.value


def test_path_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_HRRR", "/data/hrrr.zarr")
    assert resolved("${house.path_of:HOUSE_HRRR,system.input.dataset.lam}") == "/data/hrrr.zarr"


@pytest.mark.parametrize("value", [None, ""])
def test_path_that_is_not_set(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv("HOUSE_HRRR", value)
    with pytest.raises(ResolverError) as caught:
        resolved("${house.path_of:HOUSE_HRRR,system.input.dataset.lam}")
    assert str(caught.value).splitlines()[0] == (
        "system.input.dataset.lam is not set. Set the path of the dataset: `export HOUSE_HRRR=/path/to/it.zarr`, once, "
        "or `system.input.dataset.lam=...` on the command line. Without data of your own: `anemoi-house sample "
        "sample` and a config that ends in _sample."
    )


@pytest.mark.parametrize(
    ("asked", "number"), [(None, 1), ("", 1), ("4", 4), ("a100:4", 4), ("gpu:a100:8", 8), ("1", 1)]
)
def test_gpus_per_node_of_a_slurm_job(monkeypatch: pytest.MonkeyPatch, asked: str | None, number: int) -> None:
    if asked is not None:
        monkeypatch.setenv("SLURM_GPUS_PER_NODE", asked)
    assert resolved("${house.slurm_gpus_per_node:}") == number


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (1, 1, 1)),
        ({"SLURM_NNODES": "8", "SLURM_GPUS_PER_NODE": "4"}, (8, 1, 4)),
        # A step on one of the job's nodes; and tasks that requested GPUs with --gpus-per-task or --gres.
        ({"SLURM_NNODES": "8", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "4"}, (1, 4, 4)),
        ({"SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_GPUS_PER_NODE": "v:2"}, (3, 2, 2)),
        # A shell on a node, from which Lightning starts the ranks.
        ({"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_GPUS_PER_NODE": "4"}, (1, 1, 4)),
    ],
)
def test_hardware_of_a_step(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[int, int, int]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    names = ("slurm_nodes", "slurm_tasks_per_node", "slurm_gpus_per_node")
    assert tuple(resolved(f"${{house.{name}:}}") for name in names) == expected


def test_more_tasks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "8(x2)")
    monkeypatch.setenv("SLURM_GPUS_PER_NODE", "a100:4")
    with pytest.raises(
        ResolverError, match=r"the job has 4 GPUs per node, but the step 8 tasks.*Request --ntasks-per-node=4\."
    ):
        resolved("${house.slurm_gpus_per_node:}")


@pytest.mark.parametrize("layout", ["3,1", "4(x2),3"])
def test_uneven_tasks(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", layout)
    with pytest.raises(ResolverError, match=r"Request tasks with --ntasks-per-node instead of --ntasks\."):
        resolved("${house.slurm_tasks_per_node:}")


@pytest.mark.parametrize(("nodes", "devices", "ends"), [(1, 1, "SingleDeviceStrategy"), (2, 1, "DDPGroupStrategy"),
                                                        (1, 2, "DDPGroupStrategy")])  # fmt: skip
def test_strategy(nodes: int, devices: int, ends: str) -> None:
    assert str(resolved(f"${{house.strategy:{nodes},{devices}}}")).endswith(ends)


@pytest.mark.parametrize("asked", ["x", "a100", "a100:", "4:a100", "-4", "2.5"])
def test_no_number_of_gpus(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("SLURM_GPUS_PER_NODE", asked)
    with pytest.raises(ResolverError) as caught:
        resolved("${house.slurm_gpus_per_node:}")
    message = f"SLURM_GPUS_PER_NODE: '{asked}' is not a number of GPUs. Set system.hardware.num_gpus_per_node "
    assert str(caught.value).startswith(message)


def test_registering_again_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_GPUS_PER_NODE", "2")
    resolvers.register()
    resolvers.register()
    assert resolved("${house.slurm_gpus_per_node:}") == 2


def test_a_mistake_passes_through_omegaconf_as_what_ends_a_command() -> None:
    """Hydra prints a CompactHydraException without its traceback, and the interpreter a SystemExit."""
    config = OmegaConf.create({"system": {"input": {"lam": "${house.path_of:HOUSE_HRRR,system.input.lam}"}}})
    for reach in (OmegaConf.resolve, lambda config: config.system.input.lam, OmegaConf.to_object):
        with pytest.raises(ResolverError) as caught:
            reach(config)
        mistake = caught.value
        assert str(mistake).startswith("system.input.lam is not set.")
        assert isinstance(mistake, HouseError)
        assert isinstance(mistake, CompactHydraException)
        assert isinstance(mistake, InterpolationResolutionError)
        assert isinstance(mistake, SystemExit)
        assert mistake.code
        assert str(mistake.code).startswith("system.input.lam is not set.")


def test_the_interpreter_ends_with_the_message_and_status_1() -> None:
    with pytest.raises(SystemExit) as caught:
        raise CommandError("the trim is too wide")
    assert not isinstance(caught.value, ValueError)  # or pydantic would wrap it
    assert caught.value.code == "the trim is too wide"  # which the interpreter prints, and exits with 1


def test_other_errors_are_not_dressed_up() -> None:
    with pytest.raises(Exception, match="missing 1 required positional argument") as caught:
        resolved("${house.path_of:HOUSE_HRRR}")
    assert not isinstance(caught.value, HouseError)
