"""The README's make targets, as a user runs them, in the environment of the tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tracking.mlflow_server import find_runs, read_run

ROOT = Path(__file__).parents[2]

# From the original training notes and the published grids; not our output.
PUBLISHED = {
    "mmgt": {
        "data_nodes": 138_832,
        "lam_nodes": 75_749,
        "hidden_nodes": 31_424,
        "encoder_edges": 377_088,
        "isolated": 7_281,
        "isolated_within_1000_km": 17,
        "parameters": 71_533_873,
        "model_size_mb": 286.135,
    },
    "nbd": {
        "hidden_nodes": 31_424,
        "encoder_edges": 628_480,
        "isolated": 4_184,
        "isolated_within_1000_km": 0,
        "parameters": 73_545_009,
        "model_size_mb": 294.180,
    },
    "tnbd": {"lam_nodes": 180 * 328, "isolated_within_1000_km": 0},
    "tnbd_covering": {"lam_nodes": 180 * 328, "isolated": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def make(target: str, folder: Path, *more: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", target, f"VENV={sys.prefix}", f"DEMO={folder}", *more],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_demo_beats_persistence_on_all_four_fields(folder):
    output = make("demo", folder)
    verdicts = re.findall(r"^(\w+) +(lam|outside) +\S+ +\S+ +(\S+)  (better|worse)$", output, flags=re.MULTILINE)
    assert {name for name, *_ in verdicts} == {"gh_500", "t_850", "u_850", "v_850"}
    assert len(verdicts) == 8
    assert all(verdict == "better" and float(ratio) < 1 for *_, ratio, verdict in verdicts)
    assert "validation loss" in output
    assert "make dashboard" in output
    assert (folder / "graph.png").read_bytes().startswith(b"\x89PNG")
    # Tracked without a server or a variable, where `make dashboard` looks.
    store = folder / "outputs" / "logs" / "mlflow" / "mlflow.db"
    (run_id,) = find_runs(store, experiment="nested")
    run = read_run(store, run_id)
    assert (run["name"], run["status"]) == ("tnbd_sample", "FINISHED")
    assert {"train/loss", "val/loss", "val/mse_inner_ring/t_850.step1"} <= {key for key, *_ in run["metrics"]}
    assert {"config.yaml", "graph.png", "terminal_log.txt"} <= run["artifacts"].keys()


def test_compare_shows_the_four_experiments_on_one_page(folder):
    make("compare", folder, "STEPS=10")
    report = folder / "compare" / "report"
    found = json.loads((report / "report.json").read_text())
    names = ["mmgt_sample", "nbd_sample", "tnbd_sample", "tnbd_covering_sample"]
    assert [run["experiment"] for run in found["runs"]] == names
    assert [variable["name"] for variable in found["variables"]] == ["gh_500", "t_850", "u_850", "v_850"]
    assert (len(found["dates"]), found["leads_h"], found["faults"], found["notes"]) == (6, [*range(0, 49, 6)], [], [])
    # So few steps end before the first validation: there are forecasts and graphs, but no losses or metrics.
    assert all("ended before the first validation" in text for run in found["runs"] for text in run["lacks"])
    assert [run["coverage"]["isolated"]["all"] for run in found["runs"]] == [460, 228, 228, 0]
    assert [run["lam_shape"] for run in found["runs"]] == [[26, 44], [26, 44], [22, 40], [22, 40]]
    assert found["places"]["trimmed_nodes"] == 26 * 44 - 22 * 40
    for run in found["runs"]:
        # The untrained model is poor, but every score exists.
        assert None not in [
            score for scores in run["scores"].values() for leads in scores["jump"][1:] for score in leads
        ]
    page = (report / "index.html").read_text()
    assert found["summary"]["verdict"]["headline"] in page
    assert all(name in page for name in names)
    assert page.count("<img ") == len(list((report / "figures").glob("*.png"))) > 70


def test_published_numbers(folder):
    lines = [json.loads(line) for line in make("published", folder).splitlines()]
    found = {line["experiment"]: line | {"encoder_edges": line["edges"]["data -> hidden"]} for line in lines}
    assert {name: {key: found[name][key] for key in numbers} for name, numbers in PUBLISHED.items()} == PUBLISHED


def test_auto_finds_19_neighbours_for_nbd(folder, here):
    here.check("anemoi-house", "sample", "published", "--grid", "published", "--dates", "4", cwd=folder)
    output = here.check(
        "python",
        ROOT / "benchmarks" / "published.py",
        folder / "published",
        "--experiments=nbd",
        "--override=graph.encoder_neighbours=auto",
        cwd=folder,
    )
    (numbers,) = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert numbers["encoder_neighbours"] == 19
    assert numbers["edges"]["data -> hidden"] == 19 * 31_424
    assert numbers["isolated_within_1000_km"] == 0
