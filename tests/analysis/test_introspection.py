"""The quiz with planted probabilities: three scorings of the same lists, gaps, and what truncation leaves open."""

from __future__ import annotations

from math import exp, log
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from analysis.importers.self_medication import matched
from analysis.introspection import (
    bounds,
    by_group,
    by_vector,
    clustered_error,
    gain,
    gaps,
    letters,
    pooled,
    probability,
    scored,
    truncated,
)

POOL = list("wxyz")
Tops = list[tuple[str, float]]


def quiz(rollout: str, vector: str, cached: Any, uncached: Any, dose: float = 1.0, correct: str = "B") -> list[dict]:
    """Two rows; a reading is a stored probability or a list of tokens with their probabilities."""
    rows = []
    for reading, given_ in (("cached", cached), ("uncached", uncached)):
        tops = [(t, log(p)) for t, p in given_] if isinstance(given_, list) else None
        stored = float("nan") if given_ is None or tops is not None else given_
        row = {"rollout": rollout, "vector": vector, "dose": dose, "primer": True, "correct": correct, "pool": POOL}
        rows.append({**row, "reading": reading, "stored": stored, "tops": tops})
    return rows


def table(*rows: list[dict]) -> pd.DataFrame:
    made = pd.DataFrame([r for pair in rows for r in pair])
    return made.astype({"tops": object, "pool": object})


def test_a_later_spelling_overwrites_as_published_and_is_added_as_it_should() -> None:
    """P(A) = .2, P(B) = .6 + .1 in two spellings, C and D not listed."""
    tops = [
        (" B", log(0.6)),
        (" A", log(0.2)),
        ("\tB", log(0.1)),
        ("\n", log(0.05)),
        ("", log(0.02)),
        ("BA", log(0.01)),
    ]
    floor = exp(-100)
    assert probability(tops, "B", "ABCD", "last") == pytest.approx(0.1 / (0.3 + 2 * floor), rel=1e-12)
    assert probability(tops, "B", "ABCD", "sum") == pytest.approx(0.7 / (0.9 + 2 * floor), rel=1e-12)
    assert probability(tops, "C", "ABCD", "last") == pytest.approx(floor / 0.3, rel=1e-9), "a flag, not a probability"
    assert probability([("", 0.0)], "A", "ABCD", "last") == pytest.approx(0.25), "no letter at all: all alike"


def test_gaps_pair_the_readings_of_a_question_and_missing_is_missing() -> None:
    quizzes = table(quiz("r0", "v", 0.5, 0.2), quiz("r1", "v", 0.4, None), quiz("r2", "w", 0.1, 0.3, dose=2.0))
    found = gaps(quizzes).set_index("rollout")
    assert found["gap"].tolist()[0::2] == pytest.approx([0.3, -0.2])
    assert np.isnan(found.loc["r1", "gap"])
    assert np.isnan(found.loc["r1", "uncached"])
    assert pooled(gaps(quizzes)).value == pytest.approx(0.05)
    assert pooled(gaps(quizzes)).missing == 1
    assert gaps(quizzes, "summed")["gap"].isna().all(), "without lists of tokens there is nothing to add up"


def test_gaps_by_vector_and_group_are_means_over_vectors() -> None:
    rows = [quiz(f"a{i}", "a", 0.6, 0.0) for i in range(3)] + [quiz("b", "b", 0.2, 0.0), quiz("c", "c", 0.1, 0.2)]
    found = gaps(table(*rows))
    assert by_vector(found)[["vector", "n"]].values.tolist() == [["c", 1], ["b", 1], ["a", 3]]
    groups = by_group(found, {"a": "up", "b": "up", "c": "down"}).set_index("group")
    assert groups["gap"].to_dict() == pytest.approx({"up": 0.4, "down": -0.1})
    assert clustered_error(found) == pytest.approx(np.std([0.6, 0.2, -0.1], ddof=1) / np.sqrt(3))
    assert pooled(found).value == pytest.approx((3 * 0.6 + 0.2 - 0.1) / 5), "pooled over questions, not vectors"
    assert pooled(found).n == 3


def test_a_gain_is_paired_over_vectors() -> None:
    first = gaps(table(quiz("a", "a", 0.5, 0.1), quiz("b", "b", 0.4, 0.1), quiz("x", "x", 0.9, 0.0)))
    second = gaps(table(quiz("a", "a", 0.3, 0.1), quiz("b", "b", 0.3, 0.1)))
    found = gain(first, second)
    assert found.value == pytest.approx(0.15)
    assert found.n == 2


def test_letters_say_what_a_list_shows() -> None:
    quizzes = table(quiz("r", "v", [(" A", 0.1), ("\tA", 0.2), (" C", 0.3), ("", 0.4)], None))
    found = letters(quizzes).set_index("reading")
    row = found.loc["cached"]
    assert (row["letters"], row["entries"], row["doubled"]) == (2, 3, 1), "the blank token is no letter"
    assert row["mass"] == pytest.approx(0.6)
    assert found.loc["uncached", ["letters", "mass"]].isna().all()


def test_bounds_hold_what_exact_scoring_gives_and_are_it_for_a_whole_list() -> None:
    """Exact: A .1, B .5 + .05, C .15, D .02, and .18 of anything else."""
    every = [(" B", 0.5), (" C", 0.15), (" A", 0.1), ("\tB", 0.05), (" D", 0.02)]
    exact = 0.55 / 0.82
    for k in range(1, 6):
        quizzes = truncated(table(quiz("r", "v", every, every)), k)
        found = bounds(quizzes, (" ", "\t")).iloc[0]
        assert found["low"] <= exact <= found["high"], k
    every += [("\tA", 1e-9), ("\tC", 1e-9), ("\tD", 1e-9)]
    whole = bounds(table(quiz("r", "v", every, every)), (" ", "\t")).iloc[0]
    assert whole["low"] == pytest.approx(exact)
    assert whole["high"] == pytest.approx(exact)
    assert scored(table(quiz("r", "v", every, every)), "summed").iloc[0] == pytest.approx(exact)
    unseen = bounds(table(quiz("r", "v", [(" A", 0.9), (" C", 0.01)], None)), (" ",)).iloc[0]
    assert unseen["low"] == 0
    assert unseen["high"] == pytest.approx(0.01 / 0.92)


@given(
    some.lists(some.floats(0.001, 1), min_size=8, max_size=8),
    some.integers(1, 8),
    some.sampled_from("ABCD"),
)
def test_bounds_of_any_truncation_hold_the_exact_value(weights: list[float], k: int, correct: str) -> None:
    total = sum(weights) * 1.25
    tokens = [f"{space}{letter}" for letter in "ABCD" for space in (" ", "\t")]
    every = [(t, w / total) for t, w in zip(tokens, weights, strict=True)]
    exact = sum(p for t, p in every if t.strip() == correct) / sum(p for _, p in every)
    found = bounds(truncated(table(quiz("r", "v", every, every, correct=correct)), k), (" ", "\t")).iloc[0]
    assert found["low"] - 1e-9 <= exact <= found["high"] + 1e-9


def test_truncation_makes_a_gap_of_nothing() -> None:
    """Equal exact scores, the right option second both times: one list shows it, the other is cut before it."""
    long = [(" A", 0.6), (" B", 0.3), (" C", 0.05), (" D", 0.05)]
    quizzes = table(quiz("r", "v", long, long))
    assert gaps(quizzes, "summed")["gap"].iloc[0] == 0
    cut = pd.concat([quizzes.iloc[:1], truncated(quizzes, 1).iloc[1:]])
    assert gaps(cut, "summed")["gap"].iloc[0] == pytest.approx(0.3)


def test_lists_are_matched_to_what_was_stored_or_refused() -> None:
    one: Tops = [(" A", log(0.7)), (" B", log(0.2))]
    two: Tops = [(" B", log(0.5))]
    stored = [probability(t, "B", "ABCD", "last") for t in (one, two)]
    assert matched([one, two], stored, "B", 4) == [one, two]
    assert matched([two, one], stored, "B", 4) == [one, two]
    assert matched([two, one], [0.4, 0.4], "B", 4) == [None, None]
    assert matched([two], stored, "B", 4) == [None, None]
    assert matched([two, one], [None, 0.1], "B", 4) == [None, None]
