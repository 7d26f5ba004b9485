"""Differences between rounds of the same rollouts, planted; and the sign-flip test against what is known of it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import load, stats
from analysis.contrast import contrast, contrasts
from analysis.report import report
from tests.analysis.synthetic import Story

GUIDED = {"script": "guided"}


def run_of(path: Path, rollouts: int = 8) -> Path:
    """Feature 5 is active in round 1 alone, 8 in round 2, 6 equally in both, 7 in one; a later list is fullest."""
    for seed in range(rollouts):
        first = (6, 5) if seed else (7, 6, 5)
        told = Story("guided", seed, GUIDED).say("True.", active=first).say("False.", active=(6, 8))
        told.say("More.", active=(1, 2, 3, 4)).end().write(path)
    return path


def test_a_planted_difference_is_found_and_what_no_list_held_is_0(tmp_path: Path) -> None:
    found = contrast(load(run_of(tmp_path)), 1, 2).set_index("feature")
    assert found.index.tolist() == [5, 8, 6]  # 7 was listed in one rollout of eight
    assert found.loc[5, "difference"] == 1 and found.loc[5, "n"] == 8 and found.loc[5, "missing"] == 0
    assert found.loc[5, "p"] == pytest.approx(2 / 2**8)
    assert found.loc[5, "p_adjusted"] == pytest.approx(3 / 2**8)
    assert found.loc[8, "difference"] == -1 and found.loc[6, ["difference", "p"]].tolist() == [0, 1]


def test_what_a_full_list_left_out_is_missing_and_not_0(tmp_path: Path) -> None:
    for seed in range(4):
        told = Story("guided", seed, GUIDED).say("True.", active=(5, 6)).say("False.", active=(6, 8))
        told.end().write(tmp_path)
    found = contrast(load(tmp_path), 1, 2).set_index("feature")
    assert np.isnan(found.loc[5, "difference"]) and found.loc[5, ["n", "missing"]].tolist() == [0, 4]
    assert found.loc[6, "n"] == 4


def test_a_round_that_nobody_reached_has_no_contrast(tmp_path: Path) -> None:
    assert len(contrast(load(run_of(tmp_path)), 1, 9)) == 0


def test_guided_runs_alone_have_the_tables_and_the_report_prints_them(tmp_path: Path) -> None:
    run = run_of(tmp_path / "guided")
    first, second = contrasts(load(run))
    assert first.title == "Activations: true against false"
    assert first.rows[0][:3] == ("guided", "- [5]", "+1.00") and first.rows[0][-1] == "8"
    assert second.rows == (("guided", "no pair of readings", "", "", "", "0"),)
    assert "true against false" in report(run).markdown.read_text()
    Story("free", 0, {"script": "free"}).say("One.", active=(5,)).say("Two.", active=(6,)).end().write(
        tmp_path / "free"
    )
    assert contrasts(load(tmp_path / "free")) == ()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=7))
def test_sign_flips_are_every_arrangement(differences: list[float]) -> None:
    x = np.array(differences)
    every = [abs(np.dot(signs, x)) for signs in product((1, -1), repeat=len(x))]
    expected = np.mean([e >= abs(x.sum()) * (1 - 1e-9) - 1e-15 * len(x) for e in every])
    found = stats.sign_flips(differences)
    assert found.p == pytest.approx(expected) and found.value == pytest.approx(x.mean())


def test_sign_flips_of_fishers_darwin_data() -> None:
    """Fisher 1935, The Design of Experiments, section 21: 1,726 of 32,768 arrangements are as extreme."""
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    found = stats.sign_flips(darwin, resamples=2**15)
    assert found.p == pytest.approx(1726 / 32768)
    drawn = stats.sign_flips(darwin)
    assert drawn.p == pytest.approx(found.p, abs=0.01) and drawn == stats.sign_flips(darwin)
    assert np.isnan(stats.sign_flips([]).value) and stats.sign_flips([float("nan"), 1.0]).missing == 1
