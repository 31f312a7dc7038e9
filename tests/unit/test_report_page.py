"""The page of the report: its numbers are those of the JSON, it stands alone, and it fits a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from small_forecasts import DATES, WIDTHS, World, verify, world, write_run

from anemoi_house.cli import main
from anemoi_house.errors import HouseError
from anemoi_house.figures.lines import label_ends, new_panel
from anemoi_house.figures.maps import View
from anemoi_house.figures.style import line_of, pretty
from anemoi_house.forecast.read import forecasts_of
from anemoi_house.report import build
from anemoi_house.report.build import check_output, report, settings_of, write_report
from anemoi_house.report.trained import known_of, ring_errors
from anemoi_house.runs.trained import Run
from anemoi_house.scores.comparison import compare
from anemoi_house.scores.runs import ComparedRun, Settings

WHOLE, TRIMMED = world(), world(trim=2)


def error(where: World, variable: str, date: str, lead: int) -> np.ndarray:
    """A jump, larger without the trim, with noise; values are missing in one field of the trimmed run."""
    trimmed = len(where.latitudes) == len(TRIMMED.latitudes)
    random = np.random.default_rng(int(date[8:10]) + lead)
    values = np.where(where.in_lam, 1, -1) * (0.5 if trimmed else 2) + random.normal(size=len(where.latitudes)) / 5
    if trimmed and (date, lead) == (DATES[0], 6):
        values[10:40] = np.nan
    return values


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two runs, drawn once for all tests."""
    folder = tmp_path_factory.mktemp("report")
    runs = [
        write_run(folder, WHOLE, error, run_id="aaaa1111bbbb", name="nbd <b>&", dates=[*DATES, "2020-01-07T00"]),
        write_run(folder, TRIMMED, error, run_id="cccc2222dddd", name="tnbd", dates=[*DATES, "2020-01-07T00"]),
    ]
    worlds = {"aaaa1111bbbb": WHOLE, "cccc2222dddd": TRIMMED}
    compared = [ComparedRun(forecasts_of(run)) for run in runs]
    comparison = compare(compared, Settings(widths=WIDTHS, leads_h=(12, 6)), verify=verify(worlds))
    write_report(comparison, folder / "made", {"runs": ["one", "two"]})
    return folder / "made"


class Reader(HTMLParser):
    """Numbers of a page with their paths, its pictures, and the addresses in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str, str]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.addresses += [given[key] for key in ("src", "href", "srcset", "data") if key in given]
        if tag == "img":
            assert given["alt"]
        if tag == "data":
            self.numbers.append((given["data-at"], given["value"], ""))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.numbers and not self.numbers[-1][2]:
            place, value, _ = self.numbers[-1]
            self.numbers[-1] = place, value, data


def looked_up(found: Any, place: str) -> Any:
    for step in place.split("/"):
        found = found[int(step) if isinstance(found, list) else step]
    return found


def test_every_number_of_the_page_is_that_of_the_json(made: Path) -> None:
    found = json.loads((made / "report.json").read_text())
    page = Reader((made / "index.html").read_text())
    assert len(page.numbers) > 60
    for place, value, shown in page.numbers:
        of_json = looked_up(found, place)
        assert float(value) == of_json, place
        assert float(shown.replace(",", "").replace("−", "-")) == pytest.approx(of_json, rel=0.06, abs=1e-9), place
    # And no other decimal number stands in the tables.
    tables = re.sub(
        r"<data.*?</data>", "", "".join(re.findall(r"<tbody>.*?</tbody>", (made / "index.html").read_text(), re.DOTALL))
    )
    assert not re.findall(r"\d+\.\d+", re.sub(r"<[^>]*>", "", tables))
    for sentence in (found["summary"]["verdict"]["headline"], *found["summary"]["verdict"]["sentences"]):
        assert sentence in page.text


def test_the_numbers_in_the_verdict_are_those_of_the_table(made: Path) -> None:
    found = json.loads((made / "report.json").read_text())["summary"]
    for row, sentence in zip(found["rows"], found["verdict"]["sentences"]):
        value = re.search(r": (−?\d+(?:\.\d+)?)", sentence)
        assert value is not None
        assert float(value[1].replace("−", "-")) == pytest.approx(row["index"]["12"]["value"], rel=0.006)


def test_the_json_has_each_run_variable_lead_and_date(made: Path) -> None:
    found = json.loads((made / "report.json").read_text())
    assert (found["leads_h"], found["table_leads_h"], len(found["dates"])) == ([0, 6, 12], [12, 6], 7)
    assert found["versions"]["numpy"] == np.__version__
    assert found["arguments"] == {"runs": ["one", "two"]}
    for run in found["runs"]:
        jump = np.array(run["scores"]["gh_500"]["jump"], dtype=float)
        assert jump.shape == (3, 7)
        # Lead 0 has no error, and the field with missing values is left out for both.
        assert np.argwhere(np.isnan(jump[1:])).tolist() == [[0, 0]]
    assert found["faults"] == [
        {"run_id": "cccc2222dddd", "date": DATES[0], "variable": "gh_500", "lead_h": 6, "missing_values": 30}
    ]


def test_the_page_stands_alone(made: Path) -> None:
    page = Reader((made / "index.html").read_text())
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "@import" not in (made / "index.html").read_text()
    assert "url(" not in (made / "index.html").read_text()
    assert len(page.addresses) == len(list((made / "figures").glob("*.png")))
    assert "nbd <b>&" in page.text  # a name is text, whatever it holds


def test_what_was_left_out_is_said(made: Path) -> None:
    text = Reader((made / "index.html").read_text()).text
    assert "Missing values: 30 of gh_500 in the forecast of tnbd (cccc2222) from 2020-01-01T00, +6 h" in text
    assert "its checkpoint, /gone/aaaa1111bbbb/inference-last.ckpt, is gone" in text
    assert (made / "figures" / "missing-1.png").is_file()
    assert "RMSE, common inner ring" in text


def test_a_report_is_replaced_by_a_whole_one_only(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "old")

    def fail(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    before = (tmp_path / "old" / "index.html").read_bytes()
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(HouseError, match="No space left on device"):
        build._write(tmp_path / "old", {}, "new", {})
    assert (tmp_path / "old" / "index.html").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["figures", "index.html", "report.json"]


def test_other_files_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(HouseError, match=r"index\.html is not of a report"):
        check_output(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(HouseError, match="is not a writable directory"):
        check_output(tmp_path / "file" / "report")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing"),
        (["nothing", "--leads", "soon"], "--leads soon: not a lead time. Give hours, such as 24h."),
        (["nothing", "--inner-km", "-5"], "--inner-km -5: not a valid width"),
    ],
)
def test_a_mistake_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["report", *arguments, "-o", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_settings_are_read_as_written() -> None:
    found = settings_of(["t_850"], ["24h", "48"], None, 300.0)
    assert (found.variables, found.leads_h, found.widths) == (("t_850",), (24, 48), (225.0, 300.0))


@pytest.mark.parametrize("centre", [(89.0, 20.0), (52.0, 179.0), (-80.0, 0.0)])
def test_a_lam_at_a_pole_or_across_the_date_line_is_drawn_whole(centre: tuple[float, float]) -> None:
    where = world(centre=centre)
    from small_grids import unit_vectors

    points = unit_vectors(where.latitudes, where.longitudes)
    view = View.around(points[where.in_lam])
    nearest = view.nearest(points)
    assert set(np.flatnonzero(where.in_lam)) <= set(nearest.ravel())
    assert (nearest >= 0).all()
    # In one piece: the pixels of the LAM are as wide and high as 16 x 20 points of some 250 km.
    x, y = view.pixels
    inside = nearest < where.in_lam.sum()
    assert np.ptp(x[inside]) * 6371 == pytest.approx(20 * 250, rel=0.15)
    assert np.ptp(y[inside]) * 6371 == pytest.approx(16 * 250, rel=0.15)


def test_lines_differ_in_black_and_white() -> None:
    looks = [line_of(number) for number in range(35)]
    assert len({(str(look["linestyle"]), look["marker"]) for look in looks}) == 35
    assert len({looks[number]["color"] for number in range(7)}) == 7


def test_labels_do_not_lie_on_each_other() -> None:
    figure, axes = new_panel("title")
    axes.plot([0, 1], [0, 1])
    label_ends(axes, [(1, 1.0, "one", "black"), (1, 1.0, "two", "black"), (1, 0.99, "three", "black")])
    figure.canvas.draw()
    boxes = sorted((Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 3
    assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))


def test_units_have_raised_exponents() -> None:
    assert pretty("kg m**-2 s**-1") == "kg m⁻² s⁻¹"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_on_a_phone_or_a_desk(made: Path, tmp_path: Path, width: int) -> None:
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page = escape((made / "index.html").read_text().replace("<details>", "<details open>"), quote=True)
    script = (
        "onload = () => { const page = document.querySelector('iframe').contentDocument;"
        "const wide = [...page.querySelectorAll('body *')].filter(each => !each.closest('.scroll')"
        " && each.getBoundingClientRect().right > page.documentElement.clientWidth + 1);"
        "document.title = [page.documentElement.scrollWidth, page.images.length,"
        "[...page.images].filter(each => each.naturalWidth).length, wide.length].join(' '); }"
    )
    (tmp_path / "harness.html").write_text(
        f'<meta charset="utf-8"><iframe style="width: {width}px; height: 3000px; border: 0" srcdoc="{page}"></iframe>'
        f"<script>{script}</script>"
    )
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "harness.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )  # fmt: skip
    title = re.search(r"<title>([\d ]+)</title>", done.stdout)
    assert title is not None, done.stdout[-500:]
    scroll_width, images, drawn, sticking_out = map(int, title[1].split())
    assert scroll_width <= width
    assert sticking_out == 0
    assert images == drawn > 10


def test_a_run_without_forecasts_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(HouseError, match="empty"):
        report([tmp_path / "empty"], tmp_path / "out", Settings())


def test_a_checkpoint_without_its_graph_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path, WHOLE, error, run_id="one", dates=DATES[:1])
    checkpoint = tmp_path / "checkpoint" / "one" / "inference-last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"weights": 1}, checkpoint)
    output = {
        "root": str(tmp_path),
        "logs": {"mlflow": str(tmp_path / "logs")},
        "checkpoints": {"root": "checkpoint/one"},
    }
    trained = Run(checkpoint, {"run_id": "one", "config": {"system": {"output": output}}})
    known, graph = known_of(ComparedRun(forecasts_of(folder), trained))
    assert (known["coverage"], graph, known["losses"], known["rings"]) == (None, None, [], {})
    training, coverage = known["lacks"]
    assert "left no record" in training
    assert "coverage is not shown" in coverage
    assert "is a checkpoint without its graph" in coverage


def test_losses_and_errors_in_rings_are_read_from_the_record_of_the_training(tmp_path: Path) -> None:
    spool = tmp_path / "logs" / "spool" / "one"
    spool.mkdir(parents=True)
    rows = [["val/mse_inner_ring/t_850.step1", 4.0, 1, 49], ["val/mse_outside/t_850.step1", 9.0, 1, 49],
            ["val/mse_inner_ring/t_850.step2", 5.0, 1, 49], ["val/mse_inner_ring/t_850.step1", 1.0, 2, 99]]  # fmt: skip
    (spool / "records.jsonl").write_text(json.dumps({"kind": "metrics", "rows": rows}) + "\n")
    output = {
        "root": str(tmp_path),
        "logs": {"mlflow": str(tmp_path / "logs")},
        "checkpoints": {"root": "checkpoint/one"},
    }
    run = Run(tmp_path / "checkpoint" / "one" / "x.ckpt", {"run_id": "one", "config": {"system": {"output": output}}})
    assert ring_errors(run) == {"inner_ring/t_850": [[49, 4.0], [99, 1.0]]}
