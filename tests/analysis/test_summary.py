"""The tables that every report prints: counts, rates with Wilson intervals, comparisons adjusted together.

Knows the small run of synthetic.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis import load, stats
from analysis.chosen import COMPARED
from analysis.summary import MOST_COMPARED, rates_frame, summarise
from analysis.tables import found, tables
from tests.analysis.synthetic import Story, held


def test_counts_rates_and_missing(frames):
    summary = summarise(frames)
    assert summary.groups == ("minimal", "research")
    minimal, research = summary.counts
    assert (minimal.finished, minimal.failed, minimal.unfinished, minimal.counted) == (1, 1, 1, 1)
    assert (research.finished, research.left, research.counted) == (1, 1, 2)
    cell = summary.cell("degenerate_same_index", "research")
    assert cell == stats.wilson([1, 0]) and "Wilson 95%" in cell.how
    assert summary.cell("degenerate_same_index", "minimal").missing == 1  # the failed one: neither healthy nor not
    assert dict(summary.provenance) == {"search": 1, "inspect": 1, "both": 0, "neither": 1}
    assert summary.unfinished == 1 and [r for r, _ in summary.errors] == ["minimal/1", "minimal/3"]


def test_comparisons_are_fisher_between_all_groups_and_adjusted_together(tmp_path):
    for seed in range(10):
        Story("a", seed).say("x y z").steer(1, 0.1).say("y").end().write(tmp_path)
        Story("b", seed).say("x y z").say("y").end().write(tmp_path)
        Story("c", seed).say("x y z").say("y").end().write(tmp_path)
    from analysis.frames import load

    summary = summarise(load(tmp_path))
    assert len(summary.comparisons) == 3 * len(COMPARED)
    used = {(c.first, c.second): c for c in summary.comparisons if c.metric.name == "used_tools"}
    assert used["a", "b"].fisher.p == pytest.approx(2 / 184756) and used["b", "c"].fisher.p == 1
    assert used["a", "b"].difference == stats.newcombe([1] * 10, [0] * 10)
    p = [c.fisher.p for c in summary.comparisons]
    np.testing.assert_allclose([c.p_adjusted for c in summary.comparisons], stats.benjamini_hochberg(p))
    assert len(rates_frame(summary.rates)) == 9 * 3


def test_a_rollout_stopped_for_its_health_counts(tmp_path):
    from analysis.frames import load

    Story("a", 0).say("mate " * 40).say("mate " * 40).end("stopped").write(tmp_path)
    summary = summarise(load(tmp_path))
    assert summary.counts[0].counted == 1 and summary.cell("degenerate_equal", "a").value == 1


def test_the_unit_is_the_rollout(frames):
    assert all(c.estimate.n <= 2 for c in (*summarise(frames).rates, *summarise(frames).numbers))


def test_what_was_cited_and_made_up_is_told_where_tools_showed_something(tmp_path: Path) -> None:
    told = Story("a", 0).say("I look.").search("joy", 11).say("I see joy [11] and [99].")
    told.end().write(tmp_path)
    Story("a", 1).say("  joy [12] (similarity: 0.50)").search("joy", 11).end().write(tmp_path)
    summary = summarise(load(tmp_path))
    found = {c.metric.name: c.estimate for c in (*summary.rates, *summary.numbers)}
    assert (found["cited"].value, found["grounded_share"].value) == (1.5, 0.25)
    assert found["wrote_results_first"].value == 0.5
    titles = [t.title for t in tables(summary)]
    assert "Features cited" in titles and "Results that the model wrote itself" in titles
    silent = tmp_path / "silent"
    Story("a", 0).say("Quiet.").end().write(silent)
    assert "Features cited" not in [t.title for t in tables(summarise(load(silent)))]


def test_sides_of_a_pair_are_not_independent_and_not_compared(tmp_path):
    from analysis.frames import load

    for seed in range(3):
        for side, name in (("a", "pair"), ("b", "pair"), ("c", "other")):
            Story(side, seed, {"paired": name}).say("x").end().write(tmp_path)
    compared = {(c.first, c.second) for c in summarise(load(tmp_path)).comparisons}
    assert compared == {("a", "c"), ("b", "c")}


def test_the_setting_says_what_was_really_injected(tmp_path: Path) -> None:
    for seed, arm in enumerate(("zero", "target")):
        told = {"inject": "style", "injection_arm": arm, "strength": 0.6, "remove_at": None}
        Story(arm, seed, told).external(held(12, 0.6, "external")).say("x").end().write(tmp_path)
    setting = dict(summarise(load(tmp_path)).setting)
    assert setting["injection arm"] == "target, zero" and setting["strength"] == "0.6"
    assert setting["arm of its own steering"] == "target" and "arm" not in setting and "remove at" not in setting


@pytest.mark.parametrize(("problems", "says"), [(4, "4"), (2, "2; asked again and again, so that")])
def test_the_setting_says_when_rollouts_share_problems(tmp_path: Path, problems: int, says: str) -> None:
    for seed in range(4):
        Story("a", seed, {"problem": f"p{seed % problems}", "accept": ["x"]}).say("x").say("x").end().write(tmp_path)
    assert dict(summarise(load(tmp_path)).setting)["problems"].startswith(says)


def test_hundreds_of_groups_are_not_compared_each_with_each_and_the_page_says_so(tmp_path):
    for cell in range(MOST_COMPARED + 1):
        Story(f"cell{cell:03}", 0).say("words").end().write(tmp_path)
    summary = summarise(load(tmp_path))
    assert summary.comparisons == ()
    assert any(f"{MOST_COMPARED + 1} groups are too many" in line for line in found(summary))
    fewer = summarise(load(tmp_path), by="scenario")
    assert not any("too many" in line for line in found(fewer))
