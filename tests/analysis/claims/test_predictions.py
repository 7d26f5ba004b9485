"""Predictions: hit, miss or undecided, as written before the run, or shown as changed since."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from analysis import load
from analysis.claims.predictions import foretold, outcome, parsed
from analysis.plots import LIGHT
from analysis.plots_injected import injected_drawings
from analysis.report import report
from analysis.stats import Estimate
from analysis.summary import summarise
from analysis.tables import found, tables
from scenarios.folder import begin, read_manifest
from tests.analysis.synthetic import Story
from toolkit.errors import BadInput

QUERY = "metric: steered@1, aggregate: share"
FILE = f"""
predictions:
  - {{id: most, text: Most steer., {QUERY}, where: {{condition: a}}, above: 0.3}}
  - {{id: few, text: Few steer., {QUERY}, where: {{condition: a}}, below: 0.5}}
  - {{id: half, text: More than half., {QUERY}, above: 0.5}}
  - {{id: none, text: Of no condition., {QUERY}, where: {{condition: c}}, above: 0.5}}
  - {{id: differ, text: More in a., metric: steered@1, aggregate: difference,
     where: {{condition: a}}, against: {{condition: b}}, above: 0}}
  - {{id: p, text: p is small., metric: steered@1, aggregate: fisher,
     where: {{condition: a}}, against: {{condition: b}}, below: 0.05}}
"""


def a_run(out: Path, text: str | None = FILE) -> Path:
    out.mkdir()
    if text is not None:
        (out / "predictions.yaml").write_text(text)
    parts = {k: {} for k in ("options", "hashes", "engine", "versions")}
    begin(out, {"schema": 1, "scenario": "t", "seeds": 1, "conditions": [], **parts})
    for seed in range(10):
        Story("a", seed).say("x").steer(1, 0.5).say("y").end().write(out)
        Story("b", seed).say("x").say("y").end().write(out)
    return out


def test_each_is_a_hit_a_miss_undecided_or_undefined(tmp_path: Path) -> None:
    run = a_run(tmp_path / "r")
    became = {f.prediction.id: f for f in foretold(run, load(run))}
    assert {k: f.outcome for k, f in became.items()} == {
        "most": "hit", "few": "miss", "half": "undecided", "none": "undefined", "differ": "hit", "p": "hit",
    }  # fmt: skip
    assert {f.registered for f in became.values()} == {"before the start"}
    assert became["half"].estimate.n == 20 and math.isnan(became["none"].estimate.value)


def test_what_was_changed_after_the_start_shows(tmp_path: Path) -> None:
    run = a_run(tmp_path / "r")
    text = FILE.replace("below: 0.5", "below: 1.5").replace("id: half", "id: other")
    (run / "predictions.yaml").write_text(text)
    written = {f.prediction.id: f.registered for f in foretold(run, load(run))}
    assert (written["most"], written["few"]) == ("before the start", "changed after the start")
    assert (written["other"], written["half"]) == ("added after the start", "removed after the start")
    assert read_manifest(run)["predictions"]["text"] == FILE
    (run / "predictions.yaml").unlink()
    assert {f.registered for f in foretold(run, load(run))} == {"removed after the start"}


def test_a_file_that_came_later_is_no_prediction(tmp_path: Path) -> None:
    run = a_run(tmp_path / "r", None)
    assert foretold(run, load(run)) == []
    (run / "predictions.yaml").write_text(FILE)
    assert {f.registered for f in foretold(run, load(run))} == {"added after the start"}
    summary = summarise(load(run), predictions=foretold(run, load(run)))
    assert any("Of 0 predictions" in line and "6 more" in line for line in found(summary))


def test_the_report_says_them_first_and_draws_them(tmp_path: Path) -> None:
    run = a_run(tmp_path / "r")
    frames = load(run)
    summary = summarise(frames, predictions=foretold(run, frames))
    assert tables(summary)[0].title == "Predictions" and len(tables(summary)[0].rows) == 6
    assert any("Of 6 predictions written before the run began: 3 hit, 1 miss, 1 undecided" in t for t in found(summary))
    [drawing] = [d for d in injected_drawings(frames, summary) if d.name == "predictions"]
    assert drawing.png(LIGHT).startswith(b"\x89PNG")
    assert "undecided" in report(run).markdown.read_text()


@pytest.mark.parametrize(
    ("low", "value", "high", "wanted"),
    [(0.6, 0.7, 0.8, "hit"), (0.2, 0.3, 0.4, "miss"), (0.4, 0.6, 0.8, "undecided"), (0.5, 0.6, 0.7, "undecided")],
)
def test_an_interval_that_touches_the_threshold_decides_nothing(
    low: float, value: float, high: float, wanted: str
) -> None:
    [prediction] = parsed(f"predictions: [{{id: a, text: t, {QUERY}, above: 0.5}}]")
    assert outcome(prediction, Estimate(value, low, high, 9, "x")) == wanted
    assert outcome(prediction, Estimate(value, math.nan, math.nan, 9, "x")) == "undecided"


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "predictions: [{id: a}]",
        f"predictions: [{{id: a, text: t, {QUERY}}}]",
        f"predictions: [{{id: a, text: t, {QUERY}, above: 1, below: 2}}]",
        "predictions: [{id: a, text: t, metric: nosuch@1, aggregate: share, above: 1}]",
        "predictions: [{id: a, text: t, metric: coverage@1, aggregate: share, above: 0.5}]",
        "predictions: [{id: a, text: t, metric: coverage@1, aggregate: difference, where: {condition: a}, "
        "against: {condition: b}, above: 0}]",
        f"predictions: [{{id: a, text: t, {QUERY}, above: 1}}, {{id: a, text: t, {QUERY}, above: 1}}]",
        f"predictions: [{{id: a, text: t, {QUERY}, above: 1, more: 2}}]",
    ],
)
def test_a_file_that_is_none_is_refused_before_the_run_begins(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match="predictions"):
        a_run(tmp_path / "r", text)
    assert not (tmp_path / "r" / "manifest.json").exists()
