"""The sample command, from arguments to datasets that the stock tools open."""

from __future__ import annotations

import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from anemoi.datasets import open_dataset

from anemoi_house.cli import main
from anemoi_house.errors import HouseError
from anemoi_house.geometry import HRRR_3KM, global_grid
from anemoi_house.sample import build
from anemoi_house.sample.atmosphere import EPOCH, Atmosphere, variable_names

DATES = 8
POINTS = {"hrrr": HRRR_3KM.coarsened(40).latlon(), "gfs": global_grid(4.0)}
FORCINGS = {f"{f}_{x}" for f in ("cos", "sin") for x in ("latitude", "longitude", "julian_day", "local_time")}
FORCINGS |= {"insolation"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sample") / "new" / "folder"
    assert main(["sample", str(directory), "--grid", "tiny", "--dates", str(DATES)]) == 0
    return directory


def attributes(dataset: Path) -> dict:
    return json.loads((dataset / ".zattrs").read_text())


def files(dataset: Path) -> dict[str, bytes]:
    return {str(p.relative_to(dataset)): p.read_bytes() for p in sorted(dataset.rglob("*")) if p.is_file()}


def test_nothing_else_is_left(sample: Path) -> None:
    assert sorted(path.name for path in sample.iterdir()) == ["gfs.zarr", "hrrr.zarr"]


@pytest.mark.parametrize("name", ["hrrr", "gfs"])
def test_dataset(sample: Path, name: str) -> None:
    data = open_dataset(str(sample / f"{name}.zarr"))
    lat, lon = POINTS[name]
    assert data.shape == (DATES, 92, 1, lat.size)
    assert tuple(data.field_shape) == lat.shape
    assert data.dtype == np.float32
    assert set(data.variables) == set(variable_names()) | FORCINGS
    assert data.dates[0] == np.datetime64("2020-01-01T00")
    assert set(np.diff(data.dates)) == {np.timedelta64(6, "h")}
    np.testing.assert_allclose(data.latitudes, lat.ravel(), atol=1e-4)
    np.testing.assert_allclose((data.longitudes - lon.ravel() + 180) % 360 - 180, 0, atol=1e-4)

    state = Atmosphere(lat, lon).state(EPOCH + 5 * build.STEP)
    for variable in ("gh_500", "q_850", "accum_tp", "orog", "t_surface"):
        stored = data[5, data.name_to_index[variable], 0]
        np.testing.assert_allclose(stored, state[variable].ravel(), rtol=1e-6, err_msg=variable)
    np.testing.assert_allclose(
        data[0, data.name_to_index["sin_latitude"], 0], np.sin(np.deg2rad(lat)).ravel(), atol=1e-6
    )


@pytest.mark.parametrize("name", ["hrrr", "gfs"])
def test_metadata_name_the_loss_groups(sample: Path, name: str) -> None:
    described = attributes(sample / f"{name}.zarr")["variables_metadata"]
    for variable in variable_names():
        param, _, level = variable.rpartition("_")
        mars = described[variable]["mars"]
        if level.isdigit():
            assert mars == {"param": param, "levtype": "pl", "levelist": int(level)}
        else:
            assert mars == {"param": variable, "levtype": "sfc"}
        assert described[variable]["units"]
    assert described["accum_tp"]["process"] == "accumulation"
    assert described["accum_tp"]["period"] == ["0h", "6h"]
    assert "process" not in described["t2m"]


def test_statistics_are_over_the_first_80_percent(sample: Path) -> None:
    data = open_dataset(str(sample / "hrrr.zarr"))
    first = np.asarray(data[: int(0.8 * DATES)], dtype=np.float64)[:, :, 0]
    np.testing.assert_allclose(data.statistics["mean"], first.mean(axis=(0, 2)), rtol=1e-6, atol=1e-7)
    for variable in ("gh_500", "u_850", "q_850", "sp"):
        index = data.name_to_index[variable]
        assert data.statistics["stdev"][index] == pytest.approx(first[:, index].std(), rel=1e-5)
    # Whether the tendency across the end of the period counts is upstream's choice: a few percent.
    step = data.statistics_tendencies("6h")["stdev"][data.name_to_index["v_500"]]
    assert step == pytest.approx(np.diff(first[:, data.name_to_index["v_500"]], axis=0).std(), rel=0.05)


def test_nested_as_the_experiments_nest_it(sample: Path) -> None:
    lam, trim = str(sample / "hrrr.zarr"), [2, 3, 4, 5]
    trimmed = open_dataset(lam, trim_edge=trim)
    assert tuple(trimmed.field_shape) == (26 - 5, 44 - 9)
    lat = POINTS["hrrr"][0][2:-3, 4:-5]
    np.testing.assert_allclose(trimmed.latitudes, lat.ravel(), atol=1e-4)

    nested = open_dataset(
        cutout=[{"dataset": lam, "trim_edge": trim}, {"dataset": str(sample / "gfs.zarr")}],
        adjust="all",
        min_distance_km=0,
    )
    assert nested.grids[0] == lat.size
    assert 3800 < nested.grids[1] < 4050
    assert nested.shape == (DATES, 92, 1, sum(nested.grids))
    assert np.isfinite(nested[0]).all()


def test_same_arguments_are_kept_without_a_build(
    sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(build, "_create", pytest.fail)
    assert main(["sample", str(sample), "--dates", str(DATES)]) == 0
    output = capsys.readouterr()
    assert output.out.split() == [str(sample / "hrrr.zarr"), str(sample / "gfs.zarr")]
    assert output.err.count("kept") == 2


def test_same_arguments_same_bytes(sample: Path, tmp_path: Path) -> None:
    """Also with `--overwrite`, which replaces other datasets completely."""
    for name in build.PARTS.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "stale").touch()
    assert main(["sample", str(tmp_path), "--dates", str(DATES), "--overwrite"]) == 0
    for name in build.PARTS.values():
        first, second = files(sample / name), files(tmp_path / name)
        assert first.keys() == second.keys()
        assert {path for path in first if first[path] != second[path]} == {".zattrs"}
        one, other = attributes(sample / name), attributes(tmp_path / name)
        differing = {key for key in one if one[key] != other[key]}
        assert differing <= {"uuid", "latest_write_timestamp", "provenance_load", "total_size"}


def test_other_datasets_are_kept(sample: Path, capsys: pytest.CaptureFixture) -> None:
    before = files(sample)
    assert main(["sample", str(sample), "--dates", str(DATES + 1)]) == 1
    output = capsys.readouterr().err
    for part in (str(sample / "hrrr.zarr"), "8 dates", "9 dates", "--overwrite"):
        assert part in output
    assert "Traceback" not in output
    assert files(sample) == before


def test_a_foreign_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "gfs.zarr").mkdir()
    with pytest.raises(HouseError, match=r"gfs\.zarr already holds something else.*--overwrite"):
        build.build_sample(tmp_path, "tiny", DATES, overwrite=False)


def refused(*arguments: str, capsys: pytest.CaptureFixture) -> str:
    assert main(["sample", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err


@pytest.mark.parametrize("dates", ["3", "0", "-5"])
def test_too_few_dates(tmp_path: Path, dates: str, capsys: pytest.CaptureFixture) -> None:
    output = refused(str(tmp_path / "x"), f"--dates={dates}", capsys=capsys)
    assert f"--dates {dates}" in output
    assert not (tmp_path / "x").exists()


def test_unknown_grid(tmp_path: Path) -> None:
    with pytest.raises(HouseError, match=r"--grid huge: .*tiny, study, published"):
        build.build_sample(tmp_path / "x", "huge", DATES, overwrite=False)
    assert not (tmp_path / "x").exists()


def test_directory_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x").write_text("mine")
    assert "is a file" in refused(str(tmp_path / "x"), capsys=capsys)
    assert "is not writable" in refused(str(tmp_path / "x" / "y"), capsys=capsys)
    assert (tmp_path / "x").read_text() == "mine"


def test_directory_is_not_writable(capsys: pytest.CaptureFixture) -> None:
    assert "/proc/x is not writable" in refused("/proc/x", capsys=capsys)


def test_disk_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    usage = namedtuple("usage", "total used free")(10**12, 0, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    output = refused(str(tmp_path / "x" / "y"), "--grid", "published", "--dates", "100", capsys=capsys)
    assert "need up to 5.2 GB, but 1.0 GB are free" in output
    assert not (tmp_path / "x").exists()


FULL = "raise OSError(28, 'No space left on device')"
OTHER = "print('looking'); raise SystemExit('💣 something else')"


@pytest.mark.parametrize(("code", "message"), [(FULL, "the disk is full"), (OTHER, "something else")])
def test_failure_in_mid_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, code: str, message: str
) -> None:
    """One dataset fails while the other would continue for minutes."""

    def command(_: Path, target: Path) -> list[str]:
        wait = f"import os, time; os.mkdir({str(target)!r}); time.sleep(300)"
        return [sys.executable, "-c", code if target.name == "gfs.zarr" else wait]

    monkeypatch.setattr(build, "_command", command)
    output = refused(str(tmp_path / "x"), "--dates", "4", capsys=capsys)
    assert message in output
    assert "nothing was kept" in output
    assert list(tmp_path.iterdir()) == []


def test_failed_rebuild_keeps_existing_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hrrr.zarr").mkdir()
    (tmp_path / "hrrr.zarr" / "mine").touch()
    monkeypatch.setattr(build, "_command", lambda *_: [sys.executable, "-c", FULL])
    with pytest.raises(HouseError, match="the disk is full"):
        build.build_sample(tmp_path, "tiny", 4, overwrite=True)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["hrrr.zarr", "hrrr.zarr/mine"]


def test_source_names_a_bad_key() -> None:
    from anemoi_house.sample.source import HouseSampleSource

    with pytest.raises(HouseError, match="grid: 'huge' is not one of tiny, study, published"):
        HouseSampleSource(None, grid="huge", part="lam")
    with pytest.raises(HouseError, match="part: 'lan' is not one of lam, global"):
        HouseSampleSource(None, grid="tiny", part="lan")
