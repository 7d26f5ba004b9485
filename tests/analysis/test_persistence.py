"""The decomposition gives back what was planted in it: state alone, words alone, both, and how fast it goes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import stats
from analysis.frames import load
from analysis.persistence import CELLS, PARTS, carried, marks_of, persistence, tables
from tests.analysis.synthetic import Story
from toolkit.errors import BadInput

ROUNDS = 4


def planted(state: float, text: float, both: float = 0.0, n: int = 30, keeps: float = 1.0, noise: float = 0.02):
    """A table of `carried`: each cell has what it keeps, which falls to `keeps` of itself from round to round."""
    draw = np.random.default_rng(3)
    rows = []
    for conversation in range(n):
        for r in range(1 - ROUNDS, 1):
            rows.append((conversation, "steered", r, 0.4))
        for r in range(1 - ROUNDS, ROUNDS + 1):
            rows.append((conversation, "plain", r, draw.normal(0.01, noise)))
        for cell in CELLS:
            s, t = cell in ("state_text", "state_only"), cell in ("state_text", "text_only")
            for r in range(1, ROUNDS + 1):
                level = (state * s + text * t + both * (s and t)) * keeps ** (r - 1)
                rows.append((conversation, cell, r, level + draw.normal(0.01, noise)))
    table = pd.DataFrame(rows, columns=["conversation", "condition", "after", "text"])
    return table.assign(feature=1, activation=100 * table["text"])


@pytest.mark.parametrize(
    ("state", "text", "both"), [(0.3, 0, 0), (0, 0.3, 0), (0.1, 0.3, 0), (0.1, 0.1, 0.2), (0, 0, 0)]
)
def test_each_part_is_what_was_planted(state: float, text: float, both: float) -> None:
    found = persistence(planted(state, text, both))
    truth = {"state": state, "text": text, "interaction": both, "whole": state + text + both}
    for measure, scale in (("text", 1), ("activation", 100)):
        for part, value in truth.items():
            e = found.parts[measure, part]
            assert e.value == pytest.approx(scale * value, abs=0.02 * scale), part
            assert e.low <= e.value <= e.high and e.n == 30 and "30 clusters" in e.how
            if value:
                assert e.low > 0


def test_parts_add_up_to_the_whole() -> None:
    found = persistence(planted(0.1, 0.2, 0.05)).parts
    for measure in ("text", "activation"):
        added = sum(found[measure, part].value for part in ("state", "text", "interaction"))
        assert added == pytest.approx(found[measure, "whole"].value)


def test_a_conversation_with_a_way_on_missing_is_counted_as_missing() -> None:
    table = planted(0.1, 0.2)
    table = table[~((table["conversation"] == 4) & (table["condition"] == "neither"))]
    found = persistence(table).parts["text", "state"]
    assert (found.n, found.missing) == (29, 1)


def test_half_lives_are_those_of_the_planted_decay() -> None:
    found = persistence(planted(0, 0.4, keeps=0.5, noise=0.001)).half_lives["text", "text_only"]
    assert found.value == pytest.approx(1.0, abs=0.05) and found.low <= found.value <= found.high
    never = persistence(planted(0, 0.4, noise=0.001)).half_lives["text", "text_only"]
    assert math.isnan(never.value) and never.p > 0.9


@given(st.floats(0.05, 0.95), st.integers(2, 6))
def test_a_half_life_does_not_depend_on_the_scale_of_the_effect(keeps: float, n: int) -> None:
    curves = [[keeps**r for r in range(6)] for _ in range(n)]
    once, thrice = stats.half_life(curves), stats.half_life([[3 * v for v in row] for row in curves])
    assert once.value == pytest.approx(thrice.value, nan_ok=True)
    assert math.isnan(once.value) == (keeps**5 > 0.5)
    if once.value == once.value:
        assert once.low == pytest.approx(once.value) == once.high  # clusters that are equal leave nothing open


def test_what_never_halves_and_what_is_nothing_are_told_apart() -> None:
    never = stats.half_life([[1.0, 0.9, 0.8]] * 3)
    assert math.isnan(never.value) and never.p == 1.0
    nothing = stats.half_life([[0.0, 0.0, 0.0]] * 3)
    assert math.isnan(nothing.value) and math.isnan(nothing.p) and nothing.n == 3
    assert stats.half_life([]).n == 0
    assert stats.half_life([[1.0, float("nan")], [1.0, 0.0]]).missing == 1


# ---------------------------------------------------------------------- from transcripts


def told(run: Path, condition: str, *responses: str, active: tuple[int, ...] = (1, 7)) -> None:
    parameters = {"feature": 7, "remove_at": 3}
    story = Story(condition, 0, parameters, scenario="persistence")
    for response in responses:
        story.say(response, active=active)
    story.end().write(run)


def test_rounds_are_counted_from_the_removal_and_words_against_the_marks(tmp_path: Path) -> None:
    told(tmp_path, "steered", "arr the rain", "Arr, ahoy!")
    told(tmp_path, "plain", "the rain", "the sun", "the wind")
    told(tmp_path, "text_only", "arr the rain is", active=(1, 2, 3))
    (tmp_path / "marks.json").write_text('{"7": ["arr", "ahoy"]}')
    table = carried(load(tmp_path), marks_of(tmp_path)).set_index(["condition", "after"])
    assert table.loc[("steered", -1), "text"] == pytest.approx(1 / 3)
    assert table.loc[("steered", 0), "text"] == 1
    assert table.loc[("plain", 1), "text"] == 0
    assert table.loc[("text_only", 1), "text"] == 0.25
    assert table.loc[("steered", 0), "activation"] == 1.0
    assert math.isnan(table.loc[("text_only", 1), "activation"])  # the fullest reading, and it is not in it
    with pytest.raises(BadInput, match="no words for feature 7"):
        carried(load(tmp_path), {8: frozenset({"arr"})})


def test_marks_that_are_none_are_refused(tmp_path: Path) -> None:
    for text in (None, "[]", "{", '{"a": ["b"]}'):
        if text is not None:
            (tmp_path / "marks.json").write_text(text)
        with pytest.raises(BadInput, match="which words mark"):
            marks_of(tmp_path)


def test_tables_say_every_part_and_how() -> None:
    first, second = tables(persistence(planted(0, 0.3)))
    assert len(first.rows) == 2 * 5 and len(second.rows) == 2 * len(PARTS)
    assert "bootstrap of 30 clusters" in first.note and "30 conversations" in second.note
