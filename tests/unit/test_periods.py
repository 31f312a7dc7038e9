"""Periods and names of a training against its data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from small_grids import globe_grid, lam_grid, write_store

from anemoi_house.errors import HouseError
from anemoi_house.plugin.periods import check_use_of_data

pytestmark = pytest.mark.usefixtures("registered")

DATES = np.arange("2020-01-01", "2020-01-11", np.timedelta64(6, "h"), dtype="datetime64[s]")  # 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    variables = ("gh_500", "t_850", "orog")
    lam = write_store(folder / "lam.zarr", *lam_grid(), variables, DATES)
    return lam, write_store(folder / "globe.zarr", *globe_grid(), variables, DATES)


def config_of(data: tuple[Path, Path], **settings: Any) -> DictConfig:
    """Return what the checks read of a training's config; `settings` by dotted key."""
    stage = {"datasets": {"data": {"dataset_config": {"frequency": "${data.frequency}"}, "start": None, "end": None}}}
    config = OmegaConf.create(
        {
            "system": {"input": {"graph": None}},
            "data": {"frequency": "6h", "datasets": {"data": {"forcing": ["orog"], "diagnostic": []}}},
            "dataloader": {
                "nested": {"cutout": [{"dataset": str(path)} for path in data], "adjust": "all"},
                "training": stage,
                "validation": stage,
            },
            "task": {
                "_target_": "anemoi.training.tasks.Forecaster",
                "multistep_input": 2,
                "multistep_output": 1,
                "timestep": "6H",
                "rollout": {"start": 1, "epoch_increment": 0, "maximum": 1},
                "validation_rollout": None,
            },
            "training": {"metrics": {"datasets": {"data": ["gh_500"]}}},
            "diagnostics": {"plot": {"callbacks": [], "parameters": ["t_850"]}},
        }
    )
    for key, value in settings.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


TRAINING, VALIDATION = "dataloader__training__datasets__data__", "dataloader__validation__datasets__data__"
APART = {f"{TRAINING}end": "2020-01-06", f"{VALIDATION}start": "2020-01-07"}


def test_periods_that_fit_pass_without_a_word(data: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_use_of_data(config_of(data, **APART))
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({f"{TRAINING}start": "2019-13-01"}, r"training\.datasets\.data\.start: '2019-13-01' is not a date\. Give"),
        ({f"{TRAINING}end": "01/02/2020"}, r"training\.datasets\.data\.end: '01/02/2020' is not a date\. Give"),
        ({f"{VALIDATION}start": "2023-02"}, r"validation\.datasets\.data: 0 of the 40 dates .* from 2023-02 to"),
        ({f"{VALIDATION}start": 2019, f"{VALIDATION}end": 2019}, "0 of the 40 dates of the data, from 2020-01-01T00"),
        ({f"{TRAINING}start": "2020-01-05", f"{TRAINING}end": "2020-01-03"}, "0 of the 40 dates"),
        ({f"{TRAINING}end": "2020-01-01T06:00:00"}, "2 of the 40 dates .* takes 3 dates in a row"),
        ({"task__rollout__start": 50, "task__rollout__maximum": 50}, "None begins a complete sample.* takes 52 dates"),
        ({"data__frequency": "4h"}, r"data\.frequency: 4h is invalid for .* not a multiple"),
        ({"data__frequency": "12h"}, r"data\.frequency: 12h does not suit task"),
        (
            {"data__frequency": "24h", f"{TRAINING}end": "2020-01-01"},
            r"data\.frequency: 24h is invalid for the period from their start to 2020-01-01: .* less than two dates",
        ),
        (
            {"training__metrics__datasets__data": ["gh_50"]},
            r"datasets\.data: 'gh_50' .* Did you mean gh_500\?",
        ),
        ({"training__metrics__datasets__data": ["orog"]}, "'orog' is not an output of the model"),
        (
            {"diagnostics__plot__callbacks": [{}], "diagnostics__plot__parameters": ["z"]},
            r"diagnostics\.plot\.parameters: 'z' is not an output",
        ),
    ],
)
def test_a_mistake_ends_in_one_message(data: tuple[Path, Path], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HouseError, match=message) as mistake:
        check_use_of_data(config_of(data, **{**APART, **settings}))
    assert "\n" not in str(mistake.value)


def test_missing_dates_can_leave_no_sample(tmp_path: Path, data: tuple[Path, Path]) -> None:
    import zarr

    lam = write_store(tmp_path / "lam.zarr", *lam_grid(), ("gh_500", "t_850", "orog"), DATES)
    zarr.open(str(lam), mode="a").attrs["missing_dates"] = [str(date) for date in DATES[2::3]]
    with pytest.raises(HouseError, match=r"24 of the 40 dates .* 8 of them missing\. None begins a complete sample"):
        check_use_of_data(config_of((lam, data[1]), **APART))


def test_shared_dates_are_counted_in_a_warning(data: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    settings = {f"{TRAINING}end": "2020-01-06", f"{VALIDATION}start": "2020-01-05"}
    with caplog.at_level(logging.WARNING):
        check_use_of_data(config_of(data, **settings))
    assert "share 8 dates, from 2020-01-05T00 to 2020-01-06T18" in caplog.text


def test_tasks_of_anemoi_and_a_frequency_that_is_not_set(data: tuple[Path, Path]) -> None:
    task = {"_target_": "anemoi.training.tasks.Autoencoder"}
    check_use_of_data(config_of(data, **APART, task=task, data__frequency=None))


@pytest.mark.parametrize(
    "settings", [{f"{TRAINING}end": "50%", f"{VALIDATION}start": "50%"}, {f"{TRAINING}end": 202001}]
)
def test_what_anemoi_takes_for_a_period_is_taken(data: tuple[Path, Path], settings: dict[str, Any]) -> None:
    check_use_of_data(config_of(data, **settings))
