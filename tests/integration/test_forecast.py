"""`anemoi-house forecast` on a trained run, against the stock command and `anemoi-house skill`."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from anemoi_house.cli import main
from anemoi_house.forecast.read import Verification, find_forecasts, forecasts_of
from anemoi_house.runs.trained import find_run
from anemoi_house.scores.skill import skill

DATES = ("2020-01-26T06", "2020-01-26T12")
VARIABLES = {"gh_500", "t_850", "u_850", "v_850", "t2m", "sh2", "u10", "v10", "sp", "accum_tp"}


@pytest.fixture(scope="module")
def folder(here, sample, tmp_path_factory) -> Path:
    """Train a model for a few steps, with the validation dates of one day."""
    folder = tmp_path_factory.mktemp("forecasts")
    (folder / "sample").symlink_to(sample)
    short = ["training.max_steps=4", "dataloader.validation.datasets.data.end=2020-01-26"]
    here.check("anemoi-training", "train", "--config-name=tnbd_sample", *short, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def made(here, folder) -> Path:
    """Folder of the forecasts."""
    told = here.check("anemoi-house", "forecast", *asked(*DATES), cwd=folder)
    assert re.search(r"^2020-01-26T12: 12 h ahead, in \d+ s \(2 of 2\)$", told, re.MULTILINE)
    assert "Warning" not in told
    return find_forecasts(folder / "outputs")


def asked(*dates: str, lead_time: str = "12h") -> list[str]:
    return ["outputs", "--device", "cpu", "--lead-time", lead_time, "--dates", *dates]


def test_the_stock_command_makes_the_same_file_from_the_config(here, made, tmp_path):
    ours = (made / f"{DATES[1]}.nc").read_bytes()  # made by the runner that had made the first one
    (made / f"{DATES[1]}.nc").unlink()
    here.check("anemoi-inference", "run", made / f"{DATES[1]}.yaml", cwd=tmp_path)
    assert (made / f"{DATES[1]}.nc").read_bytes() == ours
    first, second = (forecast.values("gh_500") for forecast in forecasts_of(made))
    assert first.shape == (3, 4854)
    assert np.abs(first[1:] - second[:-1]).max() > 0  # of the same times, from other starts


def test_what_is_read(made):
    forecasts = forecasts_of(made)
    assert [str(forecast.date)[:13] for forecast in forecasts] == list(DATES)
    forecast, about = forecasts[0], forecasts[0].about
    assert (about.name, about.lam_shape, about.trim) == ("tnbd_sample", (22, 40), (2, 2, 2, 2))
    assert (forecast.leads_h, set(forecast.variables)) == ((0, 6, 12), VARIABLES)
    assert forecast.in_lam.sum() == 22 * 40
    assert np.isnan(forecast.values("accum_tp")).all(axis=1).tolist() == [True, False, False]
    truth = Verification(forecasts, ["gh_500"])
    assert truth.missing == ()
    for each in forecasts:
        np.testing.assert_array_equal(each.values("gh_500")[0], truth.values(each, "gh_500")[0])


def test_errors_6_h_ahead_are_those_of_skill(folder, made):
    table = {(each.variable, each.region): each.model for each in skill(find_run(folder))}
    forecasts = forecasts_of(made)  # from all dates of validation that have a next one there
    truth = Verification(forecasts, ["gh_500", "v_850"])
    in_lam, areas = forecasts[0].in_lam, np.cos(np.deg2rad(forecasts[0].latitudes))
    for variable in ("gh_500", "v_850"):
        errors = [each.values(variable)[1].astype(float) - truth.values(each, variable)[1] for each in forecasts]
        inside = np.mean([error[in_lam] ** 2 for error in errors]) ** 0.5
        outside = np.mean([np.average(error[~in_lam] ** 2, weights=areas[~in_lam]) for error in errors]) ** 0.5
        assert (inside, outside) == pytest.approx((table[variable, "lam"], table[variable, "outside"]), rel=1e-3)


def test_it_continues_after_an_interrupt(here, folder, made):
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    many = asked("2020-01-10/2020-01-20/6h", *DATES, lead_time="12h")
    with subprocess.Popen(
        [here.prefix / "bin" / "anemoi-house", "forecast", *many], cwd=folder, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (made / "2020-01-10T06.nc").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in told
    assert f"{made}: 2 of 43 forecasts exist and are kept" in told
    found = forecasts_of(made)
    assert f"interrupted with {len(found)} of 43 forecasts in {made}. Run the same command to continue." in told
    assert 4 <= len(found) < 43
    assert all(forecast.leads_h == (0, 6, 12) for forecast in found)
    assert not [path for path in made.iterdir() if path.name.startswith(".")]
    assert {name: (made / name).stat().st_mtime_ns for name in before if name[:4] == "2020"} == {
        name: time_ns for name, time_ns in before.items() if name[:4] == "2020"
    }


def test_everything_that_the_model_predicts(folder, made, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["forecast", *asked(DATES[0], lead_time="6h"), "--variables", "all", "-o", str(tmp_path)]) == 0
    (everything,) = forecasts_of(tmp_path)
    assert len(everything.variables) == 81
    np.testing.assert_array_equal(everything.values("t2m"), forecasts_of(made)[-2].values("t2m")[:2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--dates", "2020-01-26T06", "--lead-time", "6h"], "sample: contains no inference-last.ckpt"),
        (asked("2020-01-26T06", lead_time="7h"), "--lead-time: 7h is not a multiple of the model's step, 6h"),
        (asked("2020-01-01T00"), "--dates: 2020-01-01T00 cannot be an initial date"),
        (asked("2021-01-01T00"), "--dates: 2021-01-01T00 is not in the data"),
        ([*asked("2020-01-26T06"), "--device", "tpu"], "--device: 'tpu' is not a torch device"),
        ([*asked("2020-01-26T06"), "-o", "sample/hrrr.zarr/.zgroup"], "/sample/hrrr.zarr/.zgroup: is not writable"),
    ],
)
def test_mistakes_end_with_one_message(arguments, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["forecast", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("anemoi-house: ")
    assert message in line
