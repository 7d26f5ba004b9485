"""The HTML page of a report: one self-contained file from template, style and script, or several where it grows large.

Knows no transcript: a summary, drawn figures and plain data of rollouts in. All text is escaped here or in safe.py.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.detection import CATEGORIES
from analysis.plots import DARK, LIGHT, Drawing
from analysis.safe import for_html, json_for_html
from analysis.stats import Estimate
from analysis.summary import Summary
from analysis.tables import asked, found, tables
from analysis.words import SHORT, Table, rate

HERE = Path(__file__).parent
PAGE_BYTES = 4_000_000
"""Rollouts beyond this much JSON go on to a next page."""
FOREST = ("used_tools", "steered", "copied_placeholder", "degenerate_same_index", "degenerate_loop")


@dataclass(frozen=True)
class Pictured:
    """A drawing with its PNGs, so that each is drawn once."""

    drawing: Drawing
    light: bytes
    dark: bytes

    @classmethod
    def of(cls, drawing: Drawing) -> Pictured:
        return cls(drawing, drawing.png(LIGHT), drawing.png(DARK))


def pages(
    summary: Summary, pictures: Sequence[Pictured], rollouts: Sequence[dict[str, Any]], labels: Mapping[str, str]
) -> dict[str, str]:
    """File name to HTML: report.html, with report-2.html and so on where the rollouts do not fit one page."""
    strengths = [abs(i[1]) for d in rollouts for r in d["rounds"] for i in (*r["now"], *r["then"])]
    strongest = max(strengths, default=1.0) or 1.0
    shared: dict[str, Any] = {"strongest": strongest, "labels": labels, "groups": summary.groups}
    done = {i["did"] for d in rollouts for i in d["injected"]}
    shared["categories"] = [c for c in CATEGORIES if c in done]
    cut = _cut(rollouts)
    names = ["report.html", *(f"report-{i}.html" for i in range(2, len(cut) + 1))]
    script = "".join((HERE / name).read_text("utf-8") for name in ("rollout_view.js", "report.js"))
    style = (HERE / "report.css").read_text("utf-8")
    made = {}
    for index, (name, part) in enumerate(zip(names, cut, strict=True)):
        systems = list(dict.fromkeys(r["system"] for r in part))
        listed = [{**r, "system": systems.index(r["system"])} for r in part]
        parts = {
            "style": style,
            "style_hash": _hash(style),
            "script": script,
            "script_hash": _hash(script),
            "title": for_html(f"{_heading(summary)} - selfsteer"),
            "page_of": f", page {index + 1} of {len(names)}" if len(names) > 1 else "",
            "heading": for_html(_heading(summary)),
            "setting": "".join(f"<div><dt>{for_html(k)}</dt><dd>{for_html(v)}</dd></div>" for k, v in asked(summary)),
            "findings": _findings(summary, pictures) if index == 0 else "",
            "pages": _page_links(names, cut, index),
            "by": for_html(summary.by),
            "footer": for_html(f"Run {summary.run}. Every number is over rollouts; captions come from their queries."),
            "data": json_for_html({**shared, "systems": systems, "rollouts": listed}),
        }
        made[name] = _filled((HERE / "report.html").read_text("utf-8"), parts)
    return made


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with every {{name}} replaced, in one pass: what is put in is never looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], template)


def _cut(rollouts: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    cut: list[list[dict[str, Any]]] = [[]]
    room = PAGE_BYTES
    for rollout in rollouts:
        size = len(json_for_html({**rollout, "system": None}).encode("utf-8", "replace"))
        if size > room and cut[-1]:
            cut.append([])
            room = PAGE_BYTES
        cut[-1].append(rollout)
        room -= size
    return cut


def _page_links(names: Sequence[str], cut: Sequence[Sequence[dict[str, Any]]], here: int) -> str:
    if len(names) == 1:
        return ""
    links = []
    for index, (name, part) in enumerate(zip(names, cut, strict=True)):
        text = for_html(f"{part[0]['id']} to {part[-1]['id']}")
        links.append(f"<strong>{text}</strong>" if index == here else f'<a href="{name}">{text}</a>')
    return f'<p class="pages">Pages: {" · ".join(links)}</p>'


def _findings(summary: Summary, pictures: Sequence[Pictured]) -> str:
    first = "".join(f"<li>{for_html(line)}</li>" for line in found(summary))
    parts = [
        '<section id="found"><h2 class="sr">What was found</h2>',
        f'<ul class="found">{first}</ul>',
        _forest(summary),
        *(f'<p class="warn">{for_html(f"{rollout}: {problem}")}</p>' for rollout, problem in summary.errors[:5]),
        f'<p class="note">{len(summary.errors) - 5} more problems are in report.md.</p>'
        if len(summary.errors) > 5
        else "",
        "</section>",
        '<section id="figures"><h2>Figures</h2>',
        *(_figure(p) for p in pictures),
        "</section>",
        '<section id="tables"><h2>Tables</h2>',
        *(_table(t) for t in tables(summary)),
        "</section>",
    ]
    return "\n".join(parts)


def _forest(summary: Summary) -> str:
    """The first thing to see: groups down, rates across, each with its interval."""
    there = {c.metric.name: c.metric for c in summary.rates}
    names = [n for n in FOREST if n in there]
    if not names or not summary.groups:
        return ""
    head = "".join(f'<th scope="col" title="{for_html(there[n].meaning)}">{for_html(SHORT[n])}</th>' for n in names)
    rows = "".join(
        f'<tr><th scope="row">{for_html(g)}</th>'
        + "".join(f"<td>{_whisker(summary.cell(n, g))}</td>" for n in names)
        + "</tr>"
        for g in summary.groups
    )
    what = "; ".join(f"{SHORT[n]}: {there[n].meaning}" for n in names)
    missing = sum(summary.cell(n, g).missing for n in names for g in summary.groups)
    how = summary.cell(names[0], summary.groups[0]).how
    note = (
        f"Shares of rollouts with {how} intervals, rail from 0 to 100%. {what[:1].upper() + what[1:]}. "
        f"{missing or 'No'} missing values; filters: {', '.join(summary.filters) or 'none'}."
    )
    return (
        f'<div class="scroll"><table class="forest"><thead><tr><th scope="col">{for_html(summary.by)}</th>{head}</tr>'
        f'</thead><tbody>{rows}</tbody></table></div><p class="note">{for_html(note)}</p>'
    )


def _whisker(e: Estimate) -> str:
    if math.isnan(e.value):
        missing = f", {e.missing} missing" if e.missing else ""
        return f'<span class="n">{for_html(rate(e))}{missing}</span>'
    value, _, bounds = rate(e).partition(" ")
    missing = f", {e.missing} missing" if e.missing else ""
    return (
        f'<svg viewBox="0 0 136 16" role="img" aria-label="{for_html(rate(e))}">'
        f'<line class="rail" x1="3" x2="133" y1="8" y2="8"/>'
        f'<line class="bar" x1="{3 + 130 * e.low:.1f}" x2="{3 + 130 * e.high:.1f}" y1="8" y2="8"/>'
        f'<circle class="point" cx="{3 + 130 * e.value:.1f}" cy="8" r="4"/></svg>'
        f'<span class="figure">{value}</span><span class="range">{bounds.strip("[]").replace(", ", " to ")}</span>'
        f'<span class="n">n {e.n}{missing}</span>'
    )


def _figure(picture: Pictured) -> str:
    drawing = picture.drawing
    return (
        f"<figure><h3>{for_html(drawing.title)}</h3><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{_uri(picture.dark)}">'
        f'<img alt="{for_html(drawing.title)}" src="{_uri(picture.light)}"></picture>'
        f"<figcaption>{for_html(drawing.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{for_html(c)}</th>' for c in table.columns)
    body = "".join(
        f'<tr><th scope="row">{for_html(row[0])}</th>' + "".join(f"<td>{for_html(c)}</td>" for c in row[1:]) + "</tr>"
        for row in table.rows
    )
    return (
        f'<details><summary>{for_html(table.title)}</summary><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="note">{for_html(table.note)}</p></details>'
    )


def _heading(summary: Summary) -> str:
    scenario = dict(summary.setting).get("scenario", "Run").replace("-", " ").replace("_", " ")
    return f"{scenario[:1].upper()}{scenario[1:]}: {summary.run}"


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
