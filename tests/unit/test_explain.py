"""What a training will use, against the published tables, independent counts, and the formula of the schedule."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from itertools import pairwise
from math import cos, pi
from pathlib import Path

import pytest

from anemoi_house.cli import main
from anemoi_house.errors import HouseError
from anemoi_house.explain.effective import Effective, effective
from anemoi_house.explain.plot import plot_rate
from anemoi_house.explain.text import as_text

PUBLISHED = [f"system.hardware.{each}" for each in ("num_nodes=8", "num_gpus_per_node=4", "num_gpus_per_model=2")]
BY_LEVEL = "training.training_loss.datasets.data.scalers=[general_variable,pressure_level,node_weights,time_steps]"
LEVELS = (100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)


@pytest.fixture(autouse=True)
def without_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("HOUSE_HRRR", "HOUSE_GFS", "HOUSE_SAMPLE", "HOUSE_OUTPUT"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def tnbd() -> Effective:
    return effective("tnbd", None, PUBLISHED)


@pytest.fixture(scope="module")
def by_level() -> Effective:
    return effective("tnbd", None, [BY_LEVEL])


def beginnings(rollout: int) -> int:
    """Count dates that can start a forecast: the previous date and all of the forecast's are in the training period."""
    first, last = datetime(2015, 2, 1, 6), datetime(2023, 1, 31, 18)
    holes = {datetime(2015, 8, 2, 12), datetime(2016, 10, 22, 12)}
    step = timedelta(hours=6)
    dates = {first + index * step for index in range((last - first) // step + 1)} - holes
    return sum(all(date + k * step in dates for k in range(-1, rollout + 1)) for date in dates)


def test_the_published_first_stage(tnbd: Effective) -> None:
    assert (tnbd.hardware.models, tnbd.hardware.global_batch) == (16, 16)
    assert tnbd.rate.local == 0.625e-4
    assert tnbd.rate.effective == pytest.approx(1.0e-3)
    assert tnbd.steps == len(tnbd.rate.by_step) == 30_000
    (phase,) = tnbd.phases
    assert (phase.rollout, phase.hours, phase.samples) == (1, 6, beginnings(1))
    assert phase.steps == phase.batches == beginnings(1) // 16
    assert (phase.epochs - 1) * phase.steps < 30_000 <= phase.epochs * phase.steps
    assert tnbd.loss.lam_share == 0.5
    assert tnbd.loss.name == "MSELoss"
    assert tnbd.start == "a new model"
    assert tnbd.checkpoints == ("every 30 minutes, the last 3 kept", "every epoch, all kept")


def test_the_schedule_is_a_line_and_then_a_cosine(tnbd: Effective) -> None:
    rates = tnbd.rate.by_step
    assert rates[0] == 0
    assert rates[500] == pytest.approx(0.5e-3)
    for step in (1000, 10_000, 15_000, 29_999):
        assert rates[step] == pytest.approx(3e-7 + (1e-3 - 3e-7) * (1 + cos(pi * step / 30_000)) / 2)
    assert all(after < before for before, after in pairwise(rates[1000:]))


def test_the_published_weights(tnbd: Effective) -> None:
    by_param = {"gh": 12, "t": 6, "u": 0.8, "v": 0.5, "w": 0.001, "q": 0.6}
    expected = {f"{param}_{level}": weight for param, weight in by_param.items() for level in LEVELS}
    expected |= dict.fromkeys(("t2m", "t_surface", "sh2", "u80", "v80"), 1)
    expected |= {"sp": 10, "u10": 0.1, "v10": 0.1, "accum_tp": 0.025}
    assert {each.variable: each.weight for each in tnbd.loss.weights} == pytest.approx(expected)


def test_levels_are_weighed_by_the_stock_scaler_with_its_minimum(by_level: Effective) -> None:
    found = {each.variable: each.weight for each in by_level.loss.weights}
    for level in LEVELS:
        assert found[f"gh_{level}"] == pytest.approx(12 * max(0.2, level * 0.001))
    assert found["sp"] == 10
    text = as_text(by_level)
    assert "100 hPa 2.4" in text
    assert "The smallest is 0.0002, of w_100." in text


def test_the_second_stage_grows_to_72_hours() -> None:
    values = effective("tnbd_rollout", None, PUBLISHED)
    assert [each.rollout for each in values.phases] == list(range(2, 13))
    assert [each.hours for each in values.phases] == list(range(12, 73, 6))
    assert [each.samples for each in values.phases] == [beginnings(each.rollout) for each in values.phases]
    assert {each.steps for each in values.phases} == {200}
    assert values.steps == 2200
    assert values.rate.schedule is None
    assert set(values.rate.by_step) == {values.rate.effective}
    assert values.rate.effective == pytest.approx(3e-7)
    assert values.start == "the weights of a first stage"
    shorter = effective("tnbd_rollout", None, ["task.rollout.maximum=8", "training.max_epochs=7"])
    assert shorter.phases[-1].hours == 48


def test_accumulated_batches_and_limits_shorten_an_epoch() -> None:
    chosen = ["training.accum_grad_batches=3", "dataloader.batch_size.training=2", "dataloader.num_workers.training=4"]
    values = effective("mmgt", None, chosen)
    share, rest = divmod(beginnings(1), 4)
    batches = sum(-(-(share + (worker < rest)) // 2) for worker in range(4))
    assert values.phases[0].batches == batches
    assert values.phases[0].steps == -(-batches // 3)
    assert values.hardware.global_batch == 6
    limited = effective("mmgt", None, ["dataloader.limit_batches.training=10", "training.max_steps=25"])
    assert (limited.phases[0].steps, limited.phases[0].epochs, limited.steps) == (10, 3, 25)


def test_text_fits_a_terminal_and_says_what_is_not_known(tnbd: Effective) -> None:
    text = as_text(tnbd)
    assert max(map(len, text.splitlines())) <= 80
    assert "0.001, 6.25e-05 for each of 16 models" in text
    assert "  gh          12          12 levels, 100 to 1000 hPa" in text
    assert text.count("not known") == 1
    assert "HOUSE_HRRR" in text


def test_the_page_shows_what_is_printed(tnbd: Effective, by_level: Effective) -> None:
    page = Path(__file__).parents[2] / "docs" / "explain.md"
    first, second = re.findall(r"^```text\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert re.findall(r'explain tnbd "(.*)"', page.read_text()) == [BY_LEVEL]
    assert first in as_text(tnbd)
    assert second in as_text(by_level)


def test_mistakes_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for asked, told in (
        (["tnbdd"], "there is no config 'tnbdd'"),
        (["tnbd", "dataloader.trim=[1,2]"], "dataloader.trim: [1, 2] has 2 numbers, not 4"),
        (["tnbd", "--nodes=3", "--gpus-per-model=2"], "num_gpus_per_model=2: does not divide the 3 GPUs"),
        (["tnbd", "dataloader.training.datasets.data.end=2015-02-01", "--nodes=8"], "less than a batch for each of 8"),
        (["tnbd", "--plot=/nowhere/rate.png"], "/nowhere is not a directory"),
    ):  # fmt: skip
        assert main(["explain", *asked]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert told in printed.err
        assert "Traceback" not in printed.err
    with pytest.raises(HouseError, match="is not valid"):
        effective("tnbd", None, ["training.max_steps=many"])


def test_options_and_overrides_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["explain", "tnbd", "--json", "training.max_steps=10", "--nodes=2", "training.accum_grad_batches=2"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["steps"], told["hardware"]["global_batch"]) == (10, 4)
    with pytest.raises(SystemExit):
        main(["explain", "tnbd", "training.max_steps=10", "--nods=2"])
    assert "unrecognized arguments: --nods=2" in capsys.readouterr().err


def test_json_and_picture(tnbd: Effective, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = json.loads(json.dumps(tnbd.as_json()))
    assert told["rate"]["effective"] == pytest.approx(1e-3)
    assert told["rate"]["by_step"][0] == [0, 0.0]
    assert told["rate"]["by_step"][-1][0] == 29_999
    assert told["loss"]["weights"][0].keys() == {"variable", "param", "level", "weight"}
    picture = plot_rate(tnbd, tmp_path / "rate.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
