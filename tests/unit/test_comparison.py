"""Numbers of the report, against brute force and known errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_forecasts import DATES, LEADS_H, WIDTHS, Analyses, World, verify, world, write_run

from anemoi_house.errors import HouseError
from anemoi_house.forecast.read import forecasts_of
from anemoi_house.report.numbers import numbers, plain, summary
from anemoi_house.scores.comparison import compare
from anemoi_house.scores.grid import Widths
from anemoi_house.scores.runs import ComparedRun, Settings
from anemoi_house.scores.scored import RunComparison
from anemoi_house.words import significant

WHOLE, TRIMMED = world(), world(trim=2)
SETTINGS = Settings(widths=WIDTHS)


def step(inside: float, outside: float, growth: float = 0.0) -> Any:
    """An error that is constant on either side of the boundary, and grows with the lead time."""
    return lambda where, variable, date, lead: np.where(where.in_lam, inside, outside) * (1 + growth * lead)


def noise(where: World, variable: str, date: str, lead: int) -> np.ndarray:
    seed = [ord(letter) for letter in f"{variable}{date}{lead}"]
    return np.random.default_rng(seed).normal(size=len(where.latitudes))


def compared(*folders: Path) -> list[ComparedRun]:
    return [ComparedRun(forecasts_of(folder)) for folder in folders]


def of_runs(*folders: Path, worlds: dict[str, World], settings: Settings = SETTINGS, **how: Any) -> RunComparison:
    return compare(compared(*folders), settings, verify=verify(worlds, **how))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> RunComparison:
    """A run with a large jump, and a trimmed one with a small one."""
    folder = tmp_path_factory.mktemp("steps")
    runs = [
        write_run(folder, WHOLE, step(3, 1, 1 / 6), run_id="one", name="nbd"),
        write_run(folder, TRIMMED, step(2, 1.5), run_id="two", name="tnbd"),
    ]
    return of_runs(*runs, worlds={"one": WHOLE, "two": TRIMMED})


def test_errors_that_are_constant_on_either_side_have_their_scores(steps: RunComparison) -> None:
    squares = steps.scores["one"].values
    for place, (lead, grown) in enumerate(zip(LEADS_H, (np.nan, 2.0, 3.0))):
        if not lead:
            assert np.isnan(squares["jump"][0, place]).all()
            continue
        np.testing.assert_allclose(squares["rmse_lam_interior"][0, place], (3 * grown) ** 2, rtol=1e-5)
        np.testing.assert_allclose(squares["rmse_inner_ring"][0, place], (3 * grown) ** 2, rtol=1e-5)
        np.testing.assert_allclose(squares["rmse_outer_ring"][0, place], grown**2, rtol=1e-5)
        np.testing.assert_allclose(squares["rmse_outside"][0, place], grown**2, rtol=1e-5)
        np.testing.assert_allclose(squares["jump"][0, place], (2 * grown) ** 2, rtol=1e-4)
        np.testing.assert_allclose(squares["drift"][0, place], 3 * grown, rtol=1e-5)
    np.testing.assert_allclose(steps.scores["two"].values["jump"][0, 1:], 0.25, rtol=1e-3)
    profile = np.sqrt(steps.scores["one"].values["profile"][0, 0, 0])
    middles = (steps.grids["one"].bins_km[1:] + steps.grids["one"].bins_km[:-1]) / 2
    np.testing.assert_allclose(profile, np.where(middles < 0, 9, 3), rtol=1e-5)


@pytest.mark.parametrize("centre", [(89.0, 20.0), (52.0, 179.0)])
def test_a_lam_at_a_pole_or_across_the_date_line_has_the_same_scores(
    tmp_path: Path, centre: tuple[float, float]
) -> None:
    where, trimmed = world(centre=centre), world(trim=2, centre=centre)
    folders = [
        write_run(tmp_path, where, step(3, 1), run_id="one", dates=DATES[:1]),
        write_run(tmp_path, trimmed, step(3, 1), run_id="two", dates=DATES[:1]),
    ]
    found = of_runs(*folders, worlds={"one": where, "two": trimmed})
    for run_id in ("one", "two"):
        squares = found.scores[run_id].values
        assert squares["jump"][0, 2, 0] == pytest.approx(4, rel=1e-3)
        assert squares["common_rmse_inner_ring"][0, 2, 0] == pytest.approx(9, rel=1e-5)
        assert squares["common_rmse_outer_ring"][0, 2, 0] == pytest.approx(1, rel=1e-5)
    assert found.common.trimmed_nodes == 320 - 12 * 16


def test_the_analysis_has_the_same_index_with_and_without_a_forecast(steps: RunComparison) -> None:
    squares = steps.scores["one"].values
    np.testing.assert_allclose(squares["forecast_jump"][0, 0], squares["analysis_jump"][0, 0], rtol=1e-6)


def test_scores_of_rings_against_brute_force(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, WHOLE, noise, run_id="one", dates=DATES[:1]),
        write_run(tmp_path, TRIMMED, noise, run_id="two", dates=DATES[:1]),
    ]
    found = of_runs(*folders, worlds={"one": WHOLE, "two": TRIMMED})
    for run_id, where in (("one", WHOLE), ("two", TRIMMED)):
        error, signed = noise(where, "gh_500", DATES[0], 12), where.signed_km
        regions = {
            "lam_interior": signed < -WIDTHS.inner_km,
            "inner_ring": (signed >= -WIDTHS.inner_km) & (signed <= 0),
            "outer_ring": (signed > 0) & (signed <= WIDTHS.outer_km),
            "outside": signed > WIDTHS.outer_km,
        }
        for name, there in regions.items():
            expected = np.average(error[there] ** 2, weights=where.areas[there])
            assert found.scores[run_id].values[f"rmse_{name}"][0, 2, 0] == pytest.approx(expected, rel=1e-4)

    # The common nodes: the trimmed LAM's inner ring, as nodes of the whole one, by their rows and columns.
    rows, columns = np.divmod(np.arange(320), 20)
    inside = (rows >= 2) & (rows < 14) & (columns >= 2) & (columns < 18)
    rim = inside & ((rows == 2) | (rows == 13) | (columns == 2) | (columns == 17))
    ring = np.flatnonzero(inside)
    ring = ring[WHOLE.km_to(np.flatnonzero(rim))[ring] <= WIDTHS.inner_km]
    expected = np.average(noise(WHOLE, "gh_500", DATES[0], 12)[ring] ** 2, weights=WHOLE.areas[ring])
    assert found.scores["one"].values["common_rmse_inner_ring"][0, 2, 0] == pytest.approx(expected, rel=1e-4)
    of_trimmed = found.scores["two"].values
    assert of_trimmed["common_rmse_lam_interior"][0, 2, 0] == pytest.approx(
        of_trimmed["rmse_lam_interior"][0, 2, 0], rel=1e-3
    )
    assert (found.common.lam_nodes, found.common.trimmed_nodes) == (12 * 16, 320 - 12 * 16)
    for one, two in zip(*found.common.nodes):
        assert WHOLE.latitudes[one] == pytest.approx(TRIMMED.latitudes[two])
        assert WHOLE.longitudes[one] == pytest.approx(TRIMMED.longitudes[two])


def test_the_summary_says_which_is_better_and_by_how_much(steps: RunComparison) -> None:
    runs = [{"experiment": name, "coverage": None} for name in ("nbd", "tnbd")]
    found = summary(steps, runs)
    one, two = (row["index"]["12"] for row in found["rows"])
    # In units of what the baseline's error does along the boundary, which is only rounding here.
    assert one["value"] / two["value"] == pytest.approx(6 / 0.5, rel=1e-3)
    assert (one["lowest"], two["lowest"]) == (False, True)
    assert two["difference"]["verdict"] == "better"
    assert found["verdict"]["headline"] == "tnbd is better at the boundary than nbd, by more than noise"
    assert "trained once" in found["verdict"]["sentences"][-1]
    ring = found["rows"][1]["common_rmse_inner_ring"]
    assert ring["value"] == pytest.approx(2 / 9, rel=1e-4)


def test_where_there_is_no_artifact_there_is_nothing_to_better(tmp_path: Path) -> None:
    def small(where: World, variable: str, date: str, lead: int) -> np.ndarray:
        return noise(where, variable, date, lead)

    def smaller(where: World, variable: str, date: str, lead: int) -> np.ndarray:
        return 0.5 * noise(where, variable, date, lead)

    def seam(where: World, variable: str, date: str, lead: int) -> np.ndarray:
        return noise(where, variable, date, lead) + np.where(where.in_lam, 6, 0)

    names = {"nbd": small, "half": smaller, "seam": seam}
    folders = {name: write_run(tmp_path, WHOLE, error, run_id=name, name=name) for name, error in names.items()}
    worlds = dict.fromkeys(names, WHOLE)

    def said(*runs: str) -> dict[str, Any]:
        found = of_runs(*(folders[name] for name in runs), worlds=worlds)
        return summary(found, [{"experiment": name, "coverage": None} for name in runs])

    without = said("nbd", "half")
    assert without["verdict"]["headline"] == "No experiment has an artifact at the boundary beyond noise at +12 h"
    assert [row["artifact"] for row in without["rows"]].count("the artifact is more than noise") == 0
    assert without["rows"][1]["index"]["12"]["difference"]["verdict"] not in ("better", "worse")
    one = said("nbd", "seam")
    assert one["verdict"]["headline"] == "Nothing is better at the boundary than nbd; seam is worse"
    other = said("seam", "nbd")
    assert other["verdict"]["headline"] == "nbd is better at the boundary than seam, by more than noise"
    assert other["rows"][0]["artifact"] == "the artifact is more than noise"


def test_trainings_of_one_name_are_one_experiment(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, WHOLE, step(size, 0), run_id=f"{name}{size}", name=name, dates=DATES)
        for name, sizes in (("nbd", (3, 5)), ("covering", (2.0, 2.2)))
        for size in sizes
    ]
    found = of_runs(*folders, worlds=dict.fromkeys(("nbd3", "nbd5", "covering2.0", "covering2.2"), WHOLE))
    assert found.experiments == {"nbd": ["nbd3", "nbd5"], "covering": ["covering2.0", "covering2.2"]}
    said = numbers(found, [{"experiment": run.experiment, "coverage": None} for run in found.runs], {})
    one, other = (row["cells"]["jump 12"] for row in said["by_variable"]["gh_500"])
    assert (one["value"], one["trainings"]) == (pytest.approx(4, rel=1e-4), 2)
    assert other["spread_trainings"] == pytest.approx(0.2 / np.sqrt(2), rel=1e-2)
    # Two trainings each: their spread does not rule out chance, whatever the dates say.
    assert other["difference"]["high"] < 0 < other["difference"]["seed_high"]
    assert other["difference"]["verdict"] == "no difference beyond noise"


def test_values_that_are_missing_are_named_and_their_field_left_out_for_every_run(tmp_path: Path) -> None:
    def broken(where: World, variable: str, date: str, lead: int) -> np.ndarray:
        values = step(2, 1)(where, variable, date, lead).astype(float)
        if (variable, date, lead) == ("t_850", DATES[1], 12):
            values[5:12] = np.nan
        return values

    both = ("gh_500", "t_850")
    folders = [
        write_run(tmp_path, WHOLE, step(2, 1), run_id="one", variables=both),
        write_run(tmp_path, WHOLE, broken, run_id="two", variables=both),
    ]
    found = of_runs(*folders, worlds={"one": WHOLE, "two": WHOLE})
    (fault,) = found.faults
    assert (fault.run_id, fault.variable, str(fault.date)[:13], fault.lead_h, fault.count) == (
        "two", "t_850", DATES[1], 12, 7,
    )  # fmt: skip
    assert np.flatnonzero(fault.missing).tolist() == list(range(5, 12))
    for run_id in ("one", "two"):
        missing = np.isnan(found.scores[run_id].values["jump"])
        assert np.argwhere(missing[:, 1:]).tolist() == [[1, 1, 1]]
        assert ("t_850", np.datetime64(DATES[1], "s")) not in found.scores[run_id].squared_error


def test_a_diagnostic_variable_has_no_initial_state_and_that_is_no_fault(tmp_path: Path) -> None:
    def without_start(where: World, variable: str, date: str, lead: int) -> np.ndarray:
        return step(2, 1)(where, variable, date, lead)

    folder = write_run(tmp_path, WHOLE, without_start, run_id="one", dates=DATES[:2], diagnostic=("gh_500",))
    from netCDF4 import Dataset

    for path in folder.glob("*.nc"):
        with Dataset(path, "a") as file:
            file["gh_500"][0] = np.nan
    assert not of_runs(folder, worlds={"one": WHOLE}).faults


def test_dates_without_analyses_have_no_errors_but_an_index_of_the_forecast(tmp_path: Path) -> None:
    folder = write_run(tmp_path, WHOLE, step(2, 1), run_id="one", dates=DATES[:2])
    found = of_runs(folder, worlds={"one": WHOLE}, missing=["2020-01-02T12"])
    squares = found.scores["one"].values
    assert np.isnan(squares["jump"][0, 2]).tolist() == [False, True]
    assert np.isfinite(squares["forecast_jump"]).all()
    assert [str(date)[:13] for date in found.unverified] == ["2020-01-02T12"]


def test_without_any_analysis_the_forecast_alone_is_judged(tmp_path: Path) -> None:
    def nothing(forecasts: Any, variables: Any) -> Analyses:
        raise HouseError("the data of run nbd cannot be opened (gone).")

    folders = [
        write_run(tmp_path, WHOLE, step(size, 0), run_id=name, name=name) for name, size in (("nbd", 9), ("tnbd", 3))
    ]
    found = compare(compared(*folders), SETTINGS, verify=nothing)
    assert any("cannot be opened (gone)" in note for note in found.frame.notes)
    said = summary(found, [{"experiment": name, "coverage": None} for name in ("nbd", "tnbd")])
    assert not said["verified"]
    assert "without verification" in said["verdict"]["measure"]
    assert said["verdict"]["headline"].startswith("tnbd is better")


def test_lead_times_and_dates_that_some_lack_are_named_and_left_out(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, WHOLE, noise, run_id="one", dates=DATES[:3], leads_h=(0, 6, 12, 18)),
        write_run(tmp_path, WHOLE, noise, run_id="two", dates=DATES[1:4], leads_h=(0, 6, 18)),
    ]
    found = of_runs(*folders, worlds={"one": WHOLE, "two": WHOLE})
    assert [str(date)[:13] for date in found.frame.dates] == list(DATES[1:3])
    assert found.frame.leads_h == (0, 6, 18)
    notes = " ".join(found.frame.notes)
    assert f"{DATES[0]} of nbd (one)" in notes
    assert f"{DATES[3]} of nbd (two)" in notes
    assert f"Lead times left out everywhere: +12 h. nbd (two) from {DATES[1]} lacks +12 h" in notes


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dates": ["2020-03-01T00"]}, r"no starting date in common: nbd \(one\) .*; tnbd \(two\) has 2020-03"),
        ({"leads_h": (0, 3)}, r"no lead time in common: .*\+12 h; tnbd \(two\) has \+0 h \+3 h"),
        ({"variables": ("t_850",)}, r"no variable in common: nbd \(one\) has gh_500; tnbd \(two\) has t_850"),
        ({"where": world(centre=(-20.0, 100.0))}, r"the LAMs of .* share no node"),
        ({"where": world(trim=2, globe_step=4.0)}, r"outside the LAM are not in .*: the global grids differ"),
        ({"run_id": "one"}, "one: given more than once"),
    ],
)  # fmt: skip
def test_runs_that_cannot_be_compared_are_told_apart(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    first = write_run(tmp_path / "a", WHOLE, step(1, 0), run_id="one", dates=DATES[:2])
    given = {"where": WHOLE, "run_id": "two", "dates": DATES[:2]} | how
    second = write_run(tmp_path / "b", given.pop("where"), step(1, 0), name="tnbd", **given)
    with pytest.raises(HouseError, match=message):
        of_runs(first, second, worlds={"one": WHOLE, "two": WHOLE})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(variables=("t_850",), widths=WIDTHS), r"--variables t_850: not in the forecast of nbd \(one\)"),
        (
            Settings(leads_h=(24,), widths=WIDTHS),
            r"--leads \+24 h: not in all forecasts, which have \+0 h \+6 h \+12 h",
        ),
        (Settings(widths=Widths(400, 10)), "outer_km: no node lies within 10 km"),
    ],
)
def test_what_is_asked_for_must_be_there(tmp_path: Path, settings: Settings, message: str) -> None:
    folder = write_run(tmp_path, WHOLE, step(1, 0), run_id="one", dates=DATES[:1])
    with pytest.raises(HouseError, match=message):
        of_runs(folder, worlds={"one": WHOLE}, settings=settings)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1.00"), (-0.12345, "−0.123"), (12345.6, "12,346"), (1e-5, "1.00e-05"), (None, "–")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


def test_json_holds_plain_numbers_alone() -> None:
    found = plain({"a": np.array([1.123456789, np.nan]), "b": (np.int64(2), np.inf), 3: np.bool_(True)})
    assert found == {"a": [1.123457, None], "b": [2, None], "3": True}
    assert [type(each) for each in (found["b"][0], found["3"])] == [int, bool]
