"""`slurm2ddp.sh` with the variables that srun sets. tests/integration/test_slurm.py uses a real srun."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[2] / "slurm2ddp.sh"
SHOW = [sys.executable, "-I", "-c", "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"]
PATH = {"PATH": os.environ["PATH"]}
STEP = PATH | {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "3",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "rack[1-2]n[03-04]",
    "SLURM_JOB_NODELIST": "rack[0-9]n[01-09]",
    "SLURM_NTASKS": "64",
    "SLURM_CPUS_PER_TASK": "1",
}
SHELLS = [shell for shell in ("dash", "bash", "busybox", "ksh") if shutil.which(shell)]


def start(environment: dict[str, str], *command: str, shell: str = "sh") -> subprocess.CompletedProcess[str]:
    begin = [shell, "sh"] if shell == "busybox" else [shell]
    return subprocess.run([*begin, SCRIPT, *command], env=environment, capture_output=True, text=True, check=False)


def exported(environment: dict[str, str], shell: str = "sh") -> dict[str, str]:
    done = start(environment, *SHOW, shell=shell)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)[1]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_task_is_told_its_place_in_the_step(shell: str) -> None:
    found = exported(STEP, shell)
    assert {name: found[name] for name in ("RANK", "WORLD_RANK", "GLOBAL_RANK")} == dict.fromkeys(
        ("RANK", "WORLD_RANK", "GLOBAL_RANK"), "5"
    )
    assert (found["LOCAL_RANK"], found["NODE_RANK"], found["WORLD_SIZE"]) == ("1", "1", "8")
    assert (found["MASTER_ADDR"], found["OMP_NUM_THREADS"], found["SLURM_NTASKS_PER_NODE"]) == ("rack1n03", "1", "4")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-2]", "n1"),
        ("n[007,009-011]", "n007"),
        ("a,b[1-2]", "a"),
        ("a[3,5],b[1-2]", "a3"),
        ("rack[1-2]n[3-4]", "rack1n3"),
        ("rack[1,4]n[3-4]-ib,x", "rack1n3-ib"),
        ("n[5-6].cluster.example.org", "n5.cluster.example.org"),
        ("[10-12]", "10"),
    ],
)
def test_every_form_of_a_node_list(nodes: str, first: str) -> None:
    assert exported(STEP | {"SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


_NUMBER = st.integers(0, 999)
_LABEL = st.from_regex(r"[a-z][a-z-]{0,5}", fullmatch=True)


@st.composite
def _node_lists(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a list of nodes, and the first of them."""
    texts, firsts = [], []
    for _ in range(draw(st.integers(1, 3))):
        text = first = draw(_LABEL)
        for _ in range(draw(st.integers(0, 2))):
            width = draw(st.integers(1, 4))
            ranges = draw(st.lists(st.tuples(_NUMBER, st.integers(0, 9)), min_size=1, max_size=3))
            ends = [(f"{low:0{width}}", f"{low + more:0{width}}") for low, more in ranges]
            text += "[" + ",".join(low if low == high else f"{low}-{high}" for low, high in ends) + "]"
            first += ends[0][0]
            label = draw(_LABEL)
            text, first = text + label, first + label
        texts.append(text)
        firsts.append(first)
    return ",".join(texts), firsts[0]


@given(_node_lists())
@settings(max_examples=40, deadline=None)
def test_the_first_of_any_node_list(drawn: tuple[str, str]) -> None:
    nodes, first = drawn
    done = start(STEP | {"SLURM_STEP_NODELIST": nodes}, "printenv", "MASTER_ADDR")
    assert done.stdout == first + "\n"


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), max_size=5))
@settings(max_examples=30, deadline=None)
def test_arguments_are_handed_on_untouched(arguments: list[str]) -> None:
    tell = "import os, sys; sys.stdout.buffer.write(os.fsencode('\\0'.join(sys.argv)))"
    done = subprocess.run(
        [SCRIPT, sys.executable, "-I", "-c", tell, *arguments],
        env=STEP | {"LC_ALL": "C.UTF-8"}, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == os.fsencode("\0".join(["-c", *arguments]))


def test_what_is_preset_stays() -> None:
    preset = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501", "OMP_NUM_THREADS": "7"}
    found = exported(STEP | preset)
    assert {name: found[name] for name in preset} == preset


def test_ranks_are_the_step_s_whatever_was_preset() -> None:
    assert exported(STEP | {"RANK": "0", "WORLD_SIZE": "1"})["RANK"] == "5"


def test_every_step_has_a_port_of_its_own() -> None:
    steps = [(job, step) for job in range(4700, 4710) for step in range(3)]
    ports = [int(exported(STEP | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})["MASTER_PORT"])
             for job, step in steps]  # fmt: skip
    assert len(set(ports)) == len(steps)
    assert all(1024 < port < 32768 for port in ports)
    again = exported(STEP | {"SLURM_RESTART_COUNT": "1"})["MASTER_PORT"]
    assert again != exported(STEP)["MASTER_PORT"]


def test_one_node_needs_no_name() -> None:
    one = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_STEP_NODELIST": "login-of-no-address"}
    assert exported(STEP | one)["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(("tasks", "per_node"), [("4(x2)", "4"), ("8", "8"), ("4,3", None), ("2(x3),1", None)])
def test_tasks_per_node_are_those_of_the_step(tasks: str, per_node: str | None) -> None:
    found = exported(STEP | {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NTASKS_PER_NODE": "64"})
    assert found.get("SLURM_NTASKS_PER_NODE") == per_node


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"SLURM_CPUS_PER_TASK": "100000"}, str(len(os.sched_getaffinity(0)))),
        ({"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "4"}, "1"),
        ({"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "2"}, "1"),
    ],
)
def test_threads_are_no_more_than_processors(given_: dict[str, str], expected: str) -> None:
    assert exported(STEP | given_)["OMP_NUM_THREADS"] == expected


@pytest.mark.parametrize("step", [None, "4294967290", "4294967291"])
def test_outside_of_srun_it_says_so_and_stops(step: str | None) -> None:
    environment = {name: value for name, value in STEP.items() if name != "SLURM_STEP_ID"}
    done = start(environment | ({"SLURM_STEP_ID": step} if step else {}), "touch", "here")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "slurm2ddp.sh: not a task of a SLURM step; start it with srun: srun slurm2ddp.sh touch ...\n"
    )


def test_a_variable_that_is_missing_is_named() -> None:
    done = start({name: value for name, value in STEP.items() if name != "SLURM_NODEID"}, "true")
    assert done.returncode == 2
    assert "SLURM_NODEID is not set" in done.stderr


def test_without_a_command_it_says_how() -> None:
    done = start(STEP)
    assert done.returncode == 2
    assert "srun slurm2ddp.sh COMMAND" in done.stderr


def test_the_command_s_status_is_its_own() -> None:
    assert start(STEP, "sh", "-c", "exit 7").returncode == 7


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_is_content() -> None:
    done = subprocess.run(["shellcheck", "--shell=sh", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
