"""Forecasts: requests, the configs that are written, and what is read back. No model runs here."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import namedtuple
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from anemoi.datasets import open_dataset
from anemoi.utils.checkpoints import save_metadata
from forecasts.fabricate import fabricate
from hypothesis import given
from hypothesis import strategies as st
from netCDF4 import Dataset
from small_grids import DATES, VARIABLES, globe_grid, lam_grid, write_store

from anemoi_house.dates import MOST_DATES, parse_dates, parse_hours
from anemoi_house.errors import HouseError
from anemoi_house.forecast.plan import Plan
from anemoi_house.forecast.read import SIDECAR, About, Verification, find_forecasts, forecasts_of
from anemoi_house.forecast.request import plan
from anemoi_house.forecast.run import check_runner, write_configs
from anemoi_house.runs.trained import find_run

TRIMMED = (8, 10)
TRIM = [1, 1, 1, 1]
PREDICTED = ("gh_500", "t_850", "accum_tp")

# Requests


def parsed(parse: Callable[[Any], Any], given_: Any) -> Any:
    """Return the value, or the message of a HouseError; any other error fails the test."""
    try:
        return parse(given_)
    except HouseError as mistake:
        return str(mistake)


LIKE_A_DATE = st.from_regex(r"[-0-9TZ:/hd +.]{0,40}", fullmatch=True)
LIKE_HOURS = st.from_regex(r"[-0-9 .]{0,8}[hdms]?", fullmatch=True)


@given(st.lists(st.text(max_size=40) | LIKE_A_DATE, max_size=4))
def test_any_text_is_dates_or_one_message(texts):
    dates = parsed(parse_dates, texts)
    if isinstance(dates, str):
        assert dates.startswith("--dates: ")
    else:
        assert dates == sorted(set(dates))
        assert {date.dtype for date in dates} == {np.dtype("datetime64[h]")}


@given(st.text(max_size=12) | LIKE_HOURS)
def test_any_text_is_a_duration_or_one_message(text):
    hours = parsed(parse_hours, text)
    assert hours.startswith("--lead-time: ") if isinstance(hours, str) else hours > 0


HOURS = st.integers(0, 40 * 366 * 24).map(lambda hours: datetime(1990, 1, 1) + timedelta(hours=hours))


@given(HOURS, st.integers(0, 500), st.integers(1, 80))
def test_a_range_holds_both_ends(start, span_h, step_h):
    end = start + timedelta(hours=span_h)
    expected = []
    while not expected or expected[-1] + timedelta(hours=step_h) <= end:
        expected.append(expected[-1] + timedelta(hours=step_h) if expected else start)
    text = f"{start:%Y-%m-%dT%H}/{end:%Y-%m-%dT%H:%M}/{step_h}h"
    assert [date.astype(datetime) for date in parse_dates([text])] == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["2020-01-27T00", "2020-01-27"], "2020-01-27T00 is given twice"),
        (["2020-01-27T00/2020-01-28T00/12h", "2020-01-27T12"], "2020-01-27T12 is given twice"),
        (["2020-02-30"], "is not in the calendar"),
        (["2020-01-27T24"], "is not in the calendar"),
        (["2020-01-27T06:30"], "is not a date. Give it as 2020-01-27T00, in UTC and on the hour"),
        (["2020-01-28/2020-01-27/12h"], "ends before it starts"),
        (["2020-01-28/2020-01-27"], "is not a range. Give START/END/STEP"),
        (["2020-01-27/2020-01-28/0h"], "is not a duration of more than 0"),
        (["2020-01-27/2020-01-28/12"], "has no unit. Is it 12h or 12d?"),
        (["1000-01-01/9000-01-01/1h"], f"at most {MOST_DATES:,}"),
        ([], "is empty. Give one date or more"),
    ],
)
def test_wrong_dates_are_named(texts, message):
    with pytest.raises(HouseError, match=message.replace("?", r"\?").replace(".", r"\.")):
        parse_dates(texts)


def test_durations():
    assert [parse_hours(text) for text in ("6h", "72h", "3d", " 24h ")] == [6, 72, 72, 24]


# A run and its data, without a model


@pytest.fixture
def data(tmp_path) -> tuple[Path, Path]:
    """Write two datasets with a diagnostic variable; the fourth of their five dates is missing."""
    names = (*VARIABLES, "accum_tp")
    paths = (
        write_store(tmp_path / "hrrr.zarr", *lam_grid(), names),
        write_store(tmp_path / "gfs.zarr", *globe_grid(), names),
    )
    for path in paths:
        zarr.open_group(str(path)).attrs["missing_dates"] = [str(DATES[3])]
    return paths


def arguments_of(lam: Path, globe: Path) -> dict[str, Any]:
    cutout = [{"dataset": str(lam), "trim_edge": TRIM}, {"dataset": str(globe)}]
    return {"dataset": {"cutout": cutout, "adjust": "all"}, "frequency": "6h"}


def metadata_of(lam: Path, globe: Path, **variables_metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a checkpoint that a forecast needs."""
    said = {name: {"units": "m"} for name in ("gh_500", "accum_tp")} | {"orog": {"constant_in_time": True}}
    config = {
        "diagnostics": {"log": {"mlflow": {"run_name": "small"}}, "plot": {"callbacks": []}},
        "system": {"output": {"root": "outputs", "checkpoints": {"root": "outputs/checkpoint/abc"}}},
        "dataloader": {
            "test": {"datasets": {"data": {"dataset_config": {**arguments_of(lam, globe), "drop": None}}}},
        },
        "training": {"metrics": {"datasets": {"data": ["t_850", "u_850"]}}},
    }
    return {
        "run_id": "abc",
        "uuid": "first",
        "training": {"global_step": 60},
        "config": config,
        "dataset": {"data": {"variables_metadata": said | variables_metadata}},
        "metadata_inference": {
            "dataset_names": ["data"],
            "data": {
                "timesteps": {"timestep": "6h", "input_relative_date_indices": [0, 1]},
                "variable_types": {"forcing": ["orog"], "diagnostic": ["accum_tp"]},
                "data_indices": {
                    "input": {"gh_500": 0, "orog": 1, "t_850": 2},
                    "output": {name: place for place, name in enumerate(PREDICTED)},
                },
            },
        },
    }


def checkpoint_of(
    folder: Path, metadata: dict[str, Any], data: Any, *, model: bytes = b"HeteroData", arrays: bool = True
) -> Path:
    """Write an inference checkpoint where a training does, with everything but a model."""
    path = folder / "outputs" / "checkpoint" / "abc" / "inference-last.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inference-last/data.pkl", model)
    coordinates = {"latitudes": np.asarray(data.latitudes), "longitudes": np.asarray(data.longitudes)}
    save_metadata(str(path), metadata, supporting_arrays={"data": coordinates if arrays else {}})
    return path


@pytest.fixture
def checkpoint(data, tmp_path) -> Path:
    return checkpoint_of(tmp_path, metadata_of(*data), open_dataset(**arguments_of(*data)))


def asked(checkpoint: Path, *dates: str, lead_h: int = 6, **options: Any) -> Plan:
    return plan(find_run(checkpoint), parse_dates(dates or ("2020-01-01T06",)), lead_h, **options)


def moved_a_little(store: Path) -> Path:
    """Move the points of a dataset 1 km north."""
    latitudes = zarr.open_group(str(store))["latitudes"]
    latitudes[:] = latitudes[:] + 0.01
    return store


# Configs


def test_the_config_opens_the_runs_data_with_its_trim(checkpoint, data):
    made = asked(checkpoint, lead_h=12, device="cpu")
    folder = checkpoint.parents[2] / "forecast" / "abc"
    (path,) = write_configs(made)
    assert path == folder / "2020-01-01T06.yaml"
    said = yaml.safe_load(path.read_text())
    assert said == made.config(made.dates[0])
    assert said["checkpoint"] == str(checkpoint)
    assert (said["date"], said["lead_time"], said["device"]) == ("2020-01-01T06", "12h", "cpu")
    opened = open_dataset(**said["input"]["dataset"])
    assert opened.shape == (5, 4, 1, TRIMMED[0] * TRIMMED[1] + opened.grids[1])
    assert said["output"] == {
        "netcdf": {"path": str(folder / "2020-01-01T06.nc"), "variables": ["gh_500", "t_850", "accum_tp"]}
    }
    assert "device" not in asked(checkpoint).config(made.dates[0])
    about = About.read(folder)
    assert about == made.about
    assert (about.lam_nodes, about.lam_shape, about.trim) == (80, TRIMMED, (1, 1, 1, 1))
    assert (about.units, about.diagnostic, about.step) == ({"gh_500": "m", "accum_tp": "m"}, ("accum_tp",), 60)
    assert not [each for each in folder.iterdir() if each.name.startswith(".")]


def test_variables_that_are_written(checkpoint):
    assert asked(checkpoint).variables == PREDICTED  # what the plots look at, as far as it is predicted
    assert asked(checkpoint, variables=["t_850"]).variables == ("t_850",)
    everything = asked(checkpoint, variables=["all"])
    assert everything.variables == PREDICTED
    assert "variables" not in everything.config(everything.dates[0])["output"]["netcdf"]
    with pytest.raises(HouseError, match=r"--variables: the model does not predict gh500. Did you mean gh_500\?"):
        asked(checkpoint, variables=["gh500"])


def test_data_that_lie_elsewhere_now(checkpoint, data, tmp_path):
    moved = [path.rename(path.with_name(f"moved-{path.name}")) for path in data]
    with pytest.raises(HouseError, match=rf"{data[0]} does not exist\. .* --lam PATH"):
        asked(checkpoint)
    with pytest.raises(HouseError, match=rf"{data[1]} does not exist\. .* --global PATH"):
        asked(checkpoint, lam=moved[0])
    made = asked(checkpoint, lam=moved[0], globe=moved[1])
    assert [part["dataset"] for part in made.about.dataset["dataset"]["cutout"]] == list(map(str, moved))
    other = write_store(tmp_path / "other.zarr", *lam_grid(step=2.9), (*VARIABLES, "accum_tp"))
    with pytest.raises(HouseError, match="not on the grid that run small was trained on"):
        asked(checkpoint, lam=other, globe=moved[1])
    shifted = moved_a_little(shutil.copytree(moved[0], tmp_path / "shifted.zarr"))
    with pytest.raises(HouseError, match=r"trained on: the same number of nodes, up to 0\.01 degrees apart"):
        asked(checkpoint, lam=shifted, globe=moved[1])
    with pytest.raises(HouseError, match="cannot be opened"):
        asked(checkpoint, lam=moved[0].parent, globe=moved[1])


@pytest.mark.parametrize(
    ("date", "lead_h", "message"),
    [
        ("2020-01-01T06", 7, "--lead-time: 7h is not a multiple of the model's step, 6h. Give 6h or 12h"),
        ("2020-01-01T03", 6, "2020-01-01T03 is not in the data; the data have 4 dates"),
        ("2020-01-01T18", 6, "2020-01-01T18 is not in the data"),  # missing
        ("2020-01-01T00", 6, "starts from 2 states, and 2019-12-31T18 is not in the data"),
        ("2020-01-02T00", 6, "and 2020-01-01T18 is not in the data"),
    ],
)
def test_dates_that_cannot_be_started_from(checkpoint, date, lead_h, message):
    with pytest.raises(HouseError, match=message):
        asked(checkpoint, date, lead_h=lead_h)
    assert not (checkpoint.parents[2] / "forecast").exists()


def test_dates_that_cannot_be_verified_are_named(checkpoint):
    assert asked(checkpoint, lead_h=6).summary == ["run small (abc) at step 60, 6 h from 1 date"]
    made = asked(checkpoint, "2020-01-01T12", lead_h=18)
    assert list(made.unverified) == [np.datetime64(date) for date in ("2020-01-01T18", "2020-01-02T06")]
    assert "2 valid times (2020-01-01T18 to 2020-01-02T06) cannot be verified" in made.summary[1]


def test_forcings_that_are_read_at_each_step_must_be_there(data, tmp_path):
    changing = metadata_of(*data, orog={})
    path = checkpoint_of(tmp_path, changing, open_dataset(**arguments_of(*data)))
    assert asked(path, "2020-01-01T12", lead_h=6).unverified
    with pytest.raises(HouseError, match=r"needs orog of 2020-01-01T18, which the data lack; .* Give 6h or less"):
        asked(path, "2020-01-01T12", lead_h=12)
    computed = metadata_of(*data, orog={"computed_forcing": True})
    asked(checkpoint_of(tmp_path, computed, open_dataset(**arguments_of(*data))), "2020-01-01T12", lead_h=12)


def test_checkpoints_that_cannot_forecast(checkpoint, data, tmp_path):
    opened = open_dataset(**arguments_of(*data))
    said = metadata_of(*data)
    for options, message in (
        ({"model": b"weights"}, r"has no graph \(nodes and edges"),
        ({"arrays": False}, r"has no graph \(latitudes, longitudes are missing"),
        ({"model": b"pytorch-lightning_version HeteroData"}, r"use the inference-\*\.ckpt next to it"),
    ):
        with pytest.raises(HouseError, match=message):
            asked(checkpoint_of(tmp_path, said, opened, **options))
    several = said | {"metadata_inference": {"dataset_names": ["a", "b"]}}
    with pytest.raises(HouseError, match="has 2 named datasets"):
        find_run(checkpoint_of(tmp_path, several, opened)).check_whole()
    whole = checkpoint_of(tmp_path, said, opened)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(HouseError, match="cut short"):
        find_run(whole)
    with pytest.raises(HouseError, match=r"contains no inference-last\.ckpt"):
        find_run(tmp_path / "nothing")


def test_a_checkpoint_that_lies_by_itself(checkpoint, tmp_path):
    assert find_run(tmp_path).root == tmp_path / "outputs"
    alone = shutil.copy(checkpoint, tmp_path / "mine.ckpt")
    assert find_run(Path(alone)).root == tmp_path


def test_the_folder_that_is_written_to(checkpoint, tmp_path, monkeypatch):
    made = asked(checkpoint, output=tmp_path / "there")
    write_configs(made)
    said = json.loads((tmp_path / "there" / SIDECAR).read_text())
    for other, message in (
        ({"checkpoint_uuid": "another"}, "holds forecasts of another checkpoint of the run, at step 60"),
        ({"run_id": "another"}, "holds forecasts of run another"),
    ):
        (tmp_path / "there" / SIDECAR).write_text(json.dumps(said | other))
        with pytest.raises(HouseError, match=message):
            write_configs(made)
    (tmp_path / "file").write_text("")
    with pytest.raises(HouseError, match="is not writable"):
        asked(checkpoint, output=tmp_path / "file" / "in it")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100))
    with pytest.raises(HouseError, match="1 forecast of 3 variables need"):
        asked(checkpoint)


def test_what_is_there_is_kept_where_it_holds_what_is_asked_for(checkpoint, data, tmp_path):
    made = asked(checkpoint, lead_h=12, variables=["gh_500", "t_850"])
    (date,) = made.dates
    assert not made.is_done(date)
    write_configs(made)
    assert not made.is_done(date)
    fields = dict.fromkeys(("gh_500", "t_850"), np.zeros((3, 4)))
    path = fabricate(made.folder, str(date), (0, 6, 12), fields, range(4), range(4), (2, 2))
    assert path == made.file(date)
    assert made.is_done(date)
    names = {"variables": ["gh_500"]}
    assert asked(checkpoint, lead_h=6, device="cpu", **names).is_done(date)
    assert not asked(checkpoint, lead_h=18, **names).is_done(date)
    assert not asked(checkpoint, lead_h=6).is_done(date)  # accum_tp too
    elsewhere = shutil.copytree(data[0], tmp_path / "copy.zarr")
    assert not asked(checkpoint, lead_h=6, lam=elsewhere, **names).is_done(date)
    with pytest.raises(HouseError, match="was made from another config"):
        write_configs(asked(checkpoint, lead_h=18, **names))
    fabricate(
        made.folder, str(date), (0, 6), {name: each[:2] for name, each in fields.items()}, range(4), range(4), (2, 2)
    )
    assert not asked(checkpoint, lead_h=6, **names).is_done(date)  # fewer lead times than its config says
    path.write_bytes(path.read_bytes()[:1000])
    assert not made.is_done(date)
    made.config_file(date).write_text("[")
    assert not made.is_done(date)


def test_devices():
    check_runner("cpu")
    with pytest.raises(HouseError, match="'tpu9' is not a torch device"):
        check_runner("tpu9")
    with pytest.raises(HouseError, match="cuda:99 is not available on this machine"):
        check_runner("cuda:99")


# Reading


@pytest.fixture
def forecasts(data, tmp_path) -> Path:
    """Two forecasts on the grid of the data."""
    opened = open_dataset(**arguments_of(*data))
    for seed, date in enumerate(("2020-01-01T12", "2020-01-01T06")):
        values = np.random.default_rng(seed).normal(size=(2, opened.shape[-1])).astype(np.float32)
        rain = np.where(np.arange(2)[:, None] == 0, np.nan, values)
        fabricate(
            tmp_path / "made",
            date,
            (0, 6),
            {"gh_500": values, "accum_tp": rain},
            opened.latitudes,
            opened.longitudes,
            TRIMMED,
            dataset=arguments_of(*data),
            diagnostic=["accum_tp"],
        )
    return tmp_path / "made"


def test_forecasts_are_read_as_they_were_written(forecasts, data):
    opened = open_dataset(**arguments_of(*data))
    first, second = forecasts_of(forecasts)
    assert [str(each.date) for each in (first, second)] == ["2020-01-01T06:00:00", "2020-01-01T12:00:00"]
    about = first.about
    assert (about.run_id, about.name, about.timestep_h, about.lam_shape) == ("run", "tnbd_sample", 6, TRIMMED)
    assert (first.leads_h, first.variables, first.missing_leads_h) == ((0, 6), ("gh_500", "accum_tp"), ())
    assert list(map(str, first.valid_dates)) == ["2020-01-01T06:00:00", "2020-01-01T12:00:00"]
    expected = np.random.default_rng(1).normal(size=(2, opened.shape[-1])).astype(np.float32)
    assert first.values("gh_500").dtype == np.float32
    np.testing.assert_array_equal(first.values("gh_500"), expected)
    assert np.isnan(first.values("accum_tp")).all(axis=1).tolist() == [True, False]
    np.testing.assert_allclose(first.latitudes, opened.latitudes, atol=1e-4)
    np.testing.assert_allclose(first.longitudes, opened.longitudes, atol=1e-4)
    assert first.in_lam.tolist() == [True] * 80 + [False] * (opened.shape[-1] - 80)
    assert find_forecasts(forecasts) == forecasts
    with pytest.raises(HouseError, match="holds gh_500, accum_tp, but not t_850"):
        first.values("t_850")


def test_lead_times_that_are_missing_are_named(tmp_path):
    fabricate(tmp_path, "2020-01-01T00", (0, 12, 24), {"t": np.zeros((3, 4))}, range(4), range(4), (2, 2))
    (forecast,) = forecasts_of(tmp_path)
    assert forecast.missing_leads_h == (6, 18)


def test_forecasts_that_cannot_be_read(forecasts, tmp_path):
    with pytest.raises(HouseError, match=r"holds no forecast\.json"):
        forecasts_of(tmp_path)
    with pytest.raises(HouseError, match=r"no inference-last\.ckpt"):
        find_forecasts(tmp_path / "nowhere")
    odd = fabricate(forecasts, "2020-01-02T00", (0,), {"gh_500": np.zeros((1, 4))}, range(4), range(4), (2, 2))
    with pytest.raises(HouseError, match=r"differ in grid: .*2020-01-02T00\.nc has 4 nodes"):
        forecasts_of(forecasts)
    with Dataset(odd, "w") as file:
        file.createDimension("x", 1)
    with pytest.raises(HouseError, match="is not a forecast of anemoi-inference"):
        forecasts_of(forecasts)
    odd.write_bytes(b"CDF")
    with pytest.raises(HouseError, match=r"2020-01-02T00\.nc: is unreadable or truncated"):
        forecasts_of(forecasts)
    for text, message in (("{", "cannot be read"), ("{}", "is not of format 1"), ('{"format": 1}', "lacks checkpoint")):
        (forecasts / SIDECAR).write_text(text)
        with pytest.raises(HouseError, match=message):
            forecasts_of(forecasts)


def test_a_folder_without_forecasts_yet(forecasts):
    for path in forecasts.glob("*.nc"):
        path.unlink()
    with pytest.raises(HouseError, match=r"holds no forecast \(\*\.nc\) yet"):
        forecasts_of(forecasts)


def test_verification_is_what_the_data_hold(forecasts, data):
    opened = open_dataset(**arguments_of(*data))
    both = forecasts_of(forecasts)
    truth = Verification(both, ["accum_tp", "gh_500"])
    assert list(map(str, truth.missing)) == ["2020-01-01T18:00:00"]
    place = opened.name_to_index["gh_500"]
    found = truth.values(both[0], "gh_500")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack([opened[1][place, 0], opened[2][place, 0]]))
    found = truth.values(both[1], "gh_500")
    np.testing.assert_array_equal(found[0], opened[2][place, 0])
    assert np.isnan(found[1]).all()
    with pytest.raises(HouseError, match="lack u_850"):
        Verification(both, ["u_850"])
    moved_a_little(data[0])
    with pytest.raises(HouseError, match="are not on the grid of"):
        Verification(both, ["gh_500"])
    said = json.loads((forecasts / SIDECAR).read_text())
    said["dataset"]["dataset"]["cutout"][0]["trim_edge"] = [0, 0, 0, 0]
    (forecasts / SIDECAR).write_text(json.dumps(said))
    with pytest.raises(HouseError, match="are not on the grid of"):
        Verification(forecasts_of(forecasts), ["gh_500"])
    shutil.rmtree(data[0])
    with pytest.raises(HouseError, match="cannot be opened"):
        Verification(forecasts_of(forecasts), ["gh_500"])
