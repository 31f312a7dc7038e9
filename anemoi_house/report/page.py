"""The report as one HTML page: no script, no font and no picture from elsewhere; it opens from the disk.

Numbers are looked up in the dict that `report.json` holds, and each carries its place in it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from anemoi_house.boundary.significance import BETTER, NOISE, WORSE
from anemoi_house.figures.style import pretty
from anemoi_house.report.lines import Picture
from anemoi_house.report.summary import SCORES, figures

Numbers = dict[str, Any]

SYMBOLS = {BETTER: "▼", WORSE: "▲", NOISE: "="}

STYLE = """
:root { color-scheme: light; --ink: #1d1d1f; --soft: #5b5b60; --rule: #d5d5da; --ground: #f6f6f8; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  color: var(--ink); background: #fff; overflow-wrap: anywhere; }
main { max-width: 1240px; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: .2rem 0 .4rem; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem; padding-top: .9rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; }
.top { display: grid; gap: .5rem 2rem; }
@media (min-width: 900px) { .top { grid-template-columns: minmax(0, 1fr) 27rem; } }
.what { color: var(--soft); font-size: .88rem; margin: 0; }
.verdict { margin: .8rem 0; padding: 0; list-style: none; max-width: 60rem; }
.verdict li { padding: .15rem 0 .15rem .8rem; border-left: 3px solid var(--rule); margin: .3rem 0; }
.notes { background: var(--ground); border: 1px solid var(--rule); padding: .6rem 1rem; margin: 1rem 0; }
.notes ul { margin: .3rem 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--rule); }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .45rem .7rem; border-bottom: 1px solid var(--rule);
  min-width: 7.2rem; overflow-wrap: normal; }
thead th { background: var(--ground); font-weight: 600; border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: 600; }
tr > :first-child { position: sticky; left: 0; background: #fff; box-shadow: 1px 0 0 var(--rule); min-width: 6.5rem; }
thead tr > :first-child { background: var(--ground); }
tbody tr:last-child > * { border-bottom: 0; }
td .value { font-size: 1.02rem; }
td.lowest .value { font-weight: 700; }
.whole { white-space: nowrap; }
.mark { font-size: .78rem; font-weight: 700; border: 1px solid var(--ink); padding: 0 .25rem;
  white-space: nowrap; }
.sub { display: block; font-size: .78rem; color: var(--soft); font-weight: 400; }
.said { display: block; font-size: .82rem; font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: .8rem;
  margin: .6rem 0; }
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; height: auto; }
details { margin: .5rem 0; border: 1px solid var(--rule); }
summary { cursor: pointer; padding: .5rem .8rem; font-weight: 600; background: var(--ground); }
details > :not(summary) { margin: .6rem .8rem; }
code { font-size: .9em; }
@media (max-width: 600px) { h1 { font-size: 1.3rem; } main { padding: .8rem .8rem 3rem; } }
@media print { details > summary { display: none; } .scroll { overflow: visible; } figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Group:
    """Pictures of one kind that stand together.

    Attributes
    ----------
    title : str
        Empty for those that are shown at once; the others are folded away behind it.
    pictures : sequence of Picture
    """

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    text: str
    groups: Sequence[Group] = field(default_factory=tuple)


class _Numbers:
    """Shows numbers of the dict, each with its place."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def __call__(self, *place: str | int, signed: bool = False, digits: int = 3) -> str:
        value: Any = self._numbers
        for step in place:
            value = value[step]
        if value is None:
            return "–"
        text = f"{value:,}" if isinstance(value, int) else figures(value, signed, digits)
        return f'<data value="{value!r}" data-at="{escape("/".join(map(str, place)))}">{text}</data>'


def page(numbers: Numbers, first: Picture, sections: Sequence[Section]) -> str:
    """The page.

    Parameters
    ----------
    numbers : dict
        As `report.json` holds them.
    first : Picture
        What stands beside the verdict.
    sections : sequence of Section
        Figures, in the order of the page.
    """
    show = _Numbers(numbers)
    parts = [_top(numbers, first), _summary(numbers, show), _notes(numbers, show)]
    parts += [_by_variable(numbers, show)]
    parts += [_section(section) for section in sections if section.groups]
    parts += [_graphs(numbers, show)]
    parts += [_reading(numbers, show)]
    title = escape(f"Boundary: {', '.join(each['name'] for each in numbers['experiments'])}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _top(numbers: Numbers, first: Picture) -> str:
    verdict = numbers["summary"]["verdict"]
    sentences = "".join(f"<li>{escape(text)}</li>" for text in verdict["sentences"])
    return (
        f'<p class="what">anemoi-house report · {len(numbers["runs"])} runs · {_dates(numbers)}</p>'
        f"<h1>{escape(verdict['headline'])}</h1>"
        f'<div class="top"><div><p class="what">{escape(verdict["measure"])}. 0: nothing at the boundary '
        "beyond what the field does elsewhere. Smaller is better, down to 0.</p>"
        f'<ul class="verdict">{sentences}</ul></div>{_image(first)}</div>'
    )


def _dates(numbers: Numbers) -> str:
    dates = numbers["dates"]
    if len(dates) == 1:
        return f"one starting date, {dates[0]}: no spread"
    return f"{len(dates)} starting dates, {dates[0]} to {dates[-1]}"


def _summary(numbers: Numbers, show: _Numbers) -> str:
    leads, decides = numbers["table_leads_h"], numbers["deciding_lead_h"]
    alike = numbers["places"]["alike"]
    columns: list[tuple[str, tuple[str, ...]]] = [
        (f"artifact index, +{lead} h", ("index", str(lead))) for lead in leads
    ]
    if numbers["summary"]["verified"]:
        ring = "inner ring" if alike else "inner ring, same places"
        columns.append((f"RMSE, {ring}, +{decides} h", ("common_rmse_inner_ring",)))
        if not alike:
            columns.append((f"RMSE, own inner ring, +{decides} h", ("rmse_inner_ring",)))
    rows = []
    for number, row in enumerate(numbers["summary"]["rows"]):
        cells = [_cell(("summary", "rows", number, *place), numbers, show) for _, place in columns]
        isolated = show("summary", "rows", number, "isolated_near_lam")
        rows.append(f'{_name(row)}{"".join(cells)}<td><span class="value">{isolated}</span></td>')
    heads = ["experiment", *(text for text, _ in columns), "isolated data nodes in the LAM or within 1000 km of it"]
    text = (
        f"<p>Each against the first, {escape(numbers['summary']['baseline'])}. ±: standard deviation over starting "
        "dates. In brackets: "
        f"{numbers['method']['level']:.0%} interval of the difference over dates. RMSEs "
        f"are means over variables, {escape(numbers['summary']['baseline'])}'s "
        f"{'being 1' if alike else 'in the inner ring, same places, being 1'}.</p>"
    )
    return f"<h2>Summary</h2>{_table(heads, rows)}{text}"


def _name(row: dict[str, Any]) -> str:
    ids = ", ".join(run[:8] for run in row.get("runs", ()))
    return f'<th scope="row">{escape(row["experiment"])}<span class="sub">{escape(ids)}</span></th>'


def _cell(place: tuple[str | int, ...], numbers: Numbers, show: _Numbers) -> str:
    found: Any = numbers
    for step in place:
        found = found[step]
    text = f'<span class="whole"><span class="value">{show(*place, "value")}</span>'
    if found["spread_dates"] is not None:
        text += f" ± {show(*place, 'spread_dates', digits=2)}"
    text += "</span>"
    if found["lowest"]:
        text += ' <span class="mark">lowest</span>'
    if found["dates"] == 1:
        text += '<span class="sub">one date: no spread</span>'
    if found["spread_trainings"] is not None:
        spread, trainings = show(*place, "spread_trainings", digits=2), show(*place, "trainings")
        text += f'<span class="sub">± {spread} over {trainings} trainings</span>'
    if "artifact" in found:
        text += f'<span class="sub">{escape(found["artifact"])}</span>'
    if difference := found["difference"]:
        verdict = difference["verdict"]
        text += f'<span class="said">{SYMBOLS.get(verdict, "")} {escape(verdict)}</span>'
        if difference["low"] is not None:
            low, high = (show(*place, "difference", key, signed=True, digits=2) for key in ("low", "high"))
            text += f'<span class="sub">{show(*place, "difference", "value", signed=True)} ({low} to {high})</span>'
        for kind, where in (("edge", "along the boundary"), ("seed", "over trainings")):
            if difference[f"{kind}_low"] is not None:
                low, high = (
                    show(*place, "difference", f"{kind}_{end}", signed=True, digits=2) for end in ("low", "high")
                )
                text += f'<span class="sub">{where} {low} to {high}</span>'
    return f"<td{' class=lowest' if found['lowest'] else ''}>{text}</td>"


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _notes(numbers: Numbers, show: _Numbers) -> str:
    lines = [escape(note) for note in numbers["notes"]]
    names = {run["run_id"]: run["experiment"] for run in numbers["runs"]}
    for number, fault in enumerate(numbers["faults"]):
        lines.append(
            f"Missing values: {show('faults', number, 'missing_values')} of {escape(fault['variable'])} in the "
            f"forecast of {escape(names[fault['run_id']])} ({escape(fault['run_id'][:8])}) from "
            f"{escape(fault['date'])}, +{fault['lead_h']} h. This field is left out of all means, for every run."
        )
    if unverified := numbers["unverified_dates"]:
        shown = ", ".join(unverified[:4]) + (f" and {len(unverified) - 4} more" if len(unverified) > 4 else "")
        lines.append(f"No analysis for {escape(shown)}: the errors there are not known.")
    lines += [
        escape(f"{run['experiment']} ({run['run_id'][:8]}): {text}") for run in numbers["runs"] for text in run["lacks"]
    ]
    if len(numbers["dates"]) == 1:
        lines.append("One starting date: there is no spread, and no difference can be told from noise.")
    if not lines:
        return ""
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f'<div class="notes"><strong>What is not as it should be, or was left out</strong><ul>{items}</ul></div>'


def _by_variable(numbers: Numbers, show: _Numbers) -> str:
    decides, alike = numbers["deciding_lead_h"], numbers["places"]["alike"]
    parts = []
    for number, variable in enumerate(numbers["variables"]):
        rows = numbers["by_variable"][variable["name"]]
        keys = [key for key in rows[0]["cells"] if not (alike and key.startswith("common_"))]
        heads = ["experiment"]
        for key in keys:
            score, lead = key.split(" ")
            heads.append(f"{SCORES[score]}, +{lead} h")
        table = _table(
            heads,
            [
                _name(row)
                + "".join(_cell(("by_variable", variable["name"], place, "cells", key), numbers, show) for key in keys)
                for place, row in enumerate(rows)
            ],
        )
        units = f" in {pretty(variable['units'])}" if variable["units"] else ""
        opened = " open" if number == 0 else ""
        parts.append(f"<details{opened}><summary>{escape(variable['name'] + units)}</summary>{table}</details>")
    return f"<h2>By variable, in its units</h2><p>Jump and RMSE at +{decides} h; smaller is better.</p>{''.join(parts)}"


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>", f"<p>{section.text}</p>"]
    for group in section.groups:
        images = "".join(_image(picture) for picture in group.pictures)
        grid = f'<div class="grid">{images}</div>'
        parts.append(f"<details><summary>{escape(group.title)}</summary>{grid}</details>" if group.title else grid)
    return "".join(parts)


def _image(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode()
    return f'<figure><img alt="{escape(picture.text)}" src="data:image/png;base64,{data}"></figure>'


def _graphs(numbers: Numbers, show: _Numbers) -> str:
    rows = []
    for number, run in enumerate(numbers["runs"]):
        if run["coverage"] is None:
            continue
        at = ("runs", number, "coverage")
        cells = "".join(
            f"<td>{show(*at, 'isolated', zone)}</td>" for zone in ("all", "lam", "rim", "poles", "elsewhere")
        )
        sizes = f"<td>{show('runs', number, 'nodes')}</td><td>{show('runs', number, 'lam_nodes')}</td>"
        edges = f"<td>{show(*at, 'edges', 'data -> hidden')}</td>"
        rows.append(f"{_name({'experiment': run['experiment'], 'runs': [run['run_id']]})}{sizes}{edges}{cells}")
    if not rows:
        return ""
    heads = ["run", "data nodes", "of them in the LAM", "encoder edges", "isolated, all", "in the LAM",
             "within 1000 km of it", "towards the poles", "elsewhere"]  # fmt: skip
    return f"<h3>Isolated data nodes by zone</h3>{_table(heads, rows)}"


def _reading(numbers: Numbers, show: _Numbers) -> str:
    method, places = numbers["method"], numbers["places"]
    paragraphs = [
        "<strong>Artifact index.</strong> The jump of a field across the edge of the LAM, squared and averaged along "
        "the edge, less the same away from it, as a root with its sign: 0 without an artifact, below 0 where the field "
        "is smoother at the boundary than elsewhere. In the summary it is divided by what the baseline's error does "
        "along the edge over the same distance, and averaged over variables as squares. Formulas and limits: "
        "<code>docs/boundary.md</code> of anemoi-house.",
        "<strong>Means.</strong> Over dates, squares are averaged: means of RMSE² and of signed jump², then the root. "
        "The ± is the standard deviation of the scores of single dates; it holds the weather of these dates, which "
        "all runs share. What tells runs apart is the interval of the difference.",
        "<strong>Better or worse.</strong> A paired bootstrap: dates are drawn with replacement "
        f"{show('method', 'resamples')} times, the same for both runs. “Better” and “worse” are said where the "
        f"{method['level']:.0%} interval does not hold 0 and there are at least {show('method', 'fewest_dates')} "
        "dates. What stays in place from date to date, such as mountains in the temperature, is chance along the "
        "boundary: for jumps the interval over stretches of the boundary must not hold 0 either, and where both were "
        "trained several times, nor that over trainings. Where the larger of two jumps is none beyond noise there is "
        "nothing to better: they are called lower and higher. Dates count as independent: where forecasts overlap in "
        "time the intervals are too narrow. Each cell stands for itself: of twenty comparisons without any "
        "difference, one is expected to look like one. The verdict is about one of them, named above.",
        f"<strong>Regions.</strong> Inner ring: up to {show('rings_km', 'inner_km')} km inside the boundary; outer "
        f"ring: up to {show('rings_km', 'outer_km')} km outside.",
    ]
    if not places["alike"]:
        paragraphs.append(
            "<strong>Other trims, other places.</strong> A trim moves the boundary. “Own” scores are taken around each "
            "run’s own boundary, so over other ground. “Common” ones are over the same nodes: inside the smallest LAM "
            f"({show('places', 'common_lam_nodes')} nodes), with the inner ring along its edge, and outside the "
            "largest. There a run with a larger LAM has its boundary further away. The "
            f"{show('places', 'trimmed_nodes')} LAM nodes between the two edges are in no common score: one run "
            "predicts the LAM’s fields there and the other the global ones, and each is verified with its own."
        )
    paragraphs.append(
        "<strong>Not shown.</strong> Whether a smaller jump is a better forecast: a model that smooths everything has "
        "none; look at the spectra. Verification is against the analyses that the model was trained on, which jump at "
        "the boundary themselves. Variables, dates and lead times other than those here."
    )
    versions = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    text = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return (
        f"<h2>How to read this, and what is not shown</h2>{text}"
        f'<p class="what">All numbers: <code>report.json</code> beside this page. Made with {escape(versions)}.</p>'
    )
