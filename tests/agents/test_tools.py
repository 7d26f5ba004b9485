"""The tools: text order, one receipt a call, limits; nothing that a model writes raises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.framing import load_theme
from agents.parse import parse
from tests.agents.plain import dictionary, toolbox
from toolkit.labels import Labels
from toolkit.search import clean
from toolkit.steering import NO_STEERING, Intervention, Steering
from toolkit.tools import OUTCOMES, VERBS, Call, Reading, Receipt, Toolbox, carry_out, carry_out_all

RESEARCH = load_theme("research")
READING = Reading((9, 4, 1), (3.0, 2.0, 0.5), 2, "mean", 12, "digest")


def did(text: str, **changes: object) -> tuple[Toolbox, list[Receipt]]:
    return carry_out_all(toolbox(**changes), parse(text, RESEARCH))


def held(box: Toolbox) -> dict[int, float]:
    return {i.feature: i.strength for i in box.steering}


def test_a_clear_before_a_steer_leaves_it_standing() -> None:
    """In the published harness calls ran by kind, CLEAR last: the model was told that its steer had worked."""
    box, receipts = did("STEER(1, 0.2)\nSTEER_CLEAR()\nSTEER(2, 0.3)")
    assert held(box) == {2: 0.3}
    assert [r.outcome for r in receipts] == ["ok"] * 3
    assert [len(r.after) for r in receipts] == [1, 0, 1]


def test_a_steer_before_a_clear_is_gone() -> None:
    assert held(did("STEER(2, 0.3)\nSTEER_CLEAR()")[0]) == {}


@given(
    st.lists(st.tuples(st.sampled_from(["steer", "remove", "clear"]), st.integers(0, 3), st.floats(-2, 2)), max_size=8)
)
def test_calls_are_a_fold_in_text_order(steps: list[tuple[str, int, float]]) -> None:
    state: dict[int, float] = {}
    lines = []
    for verb, feature, strength in steps:
        if verb == "steer":
            state[feature] = strength
            lines.append(RESEARCH.call("steer", feature, strength))
        elif verb == "remove":
            state.pop(feature, None)
            lines.append(RESEARCH.call("remove", feature))
        else:
            state = {}
            lines.append(RESEARCH.call("clear"))
    box, receipts = did("\n".join(lines))
    assert held(box) == state
    assert len(receipts) == len(steps)
    chain = [toolbox().steering, *(r.after for r in receipts)]
    assert [r.before for r in receipts] == chain[:-1]  # each receipt goes on where the last one ended


def test_steering_a_feature_again_replaces_its_strength() -> None:
    assert held(did("STEER(1, 0.2)\nSTEER(1, -0.7)")[0]) == {1: -0.7}


def test_the_same_value_as_an_external_one_is_still_mine() -> None:
    """Equal feature and strength, two sources: both are in force, and CHECK shows both."""
    theirs = Intervention("key", 1, 0.5, source="external")
    box, [receipt] = did("STEER(1, 0.5)", steering=Steering.of(theirs))
    assert len(box.steering) == 2
    assert box.steering.by("external") == Steering.of(theirs)
    assert box.steering.by("self") == Steering.of(Intervention("key", 1, 0.5))
    assert receipt.values["count"] == 1
    _, [shown] = carry_out_all(box, parse("CHECK_STEERING()", RESEARCH))
    assert [row.source for row in shown.rows] == ["external", "self"]


def test_remove_names_whose_it_was() -> None:
    theirs = Intervention("key", 1, 0.5, source="external")
    box, receipts = did("STEER(2, 0.1)\nREMOVE_STEERING(1)\nREMOVE_STEERING(2)", steering=Steering.of(theirs))
    assert box.steering == NO_STEERING
    assert [r.values["source"] for r in receipts[1:]] == ["external", "your"]
    _, [_, both] = did("STEER(1, 0.1)\nREMOVE_STEERING(1)", steering=Steering.of(theirs))
    assert set(str(both.values["source"]).split(" and ")) == {"external", "your"}


@pytest.mark.parametrize(
    ("text", "outcome", "problem"),
    [
        ("STEER(64, 0.1)", "bad_argument", "out_of_range"),
        ("STEER(99999999999999999999, 0.1)", "bad_argument", "not_an_index"),
        ("STEER(-1, 0.1)", "bad_argument", "not_an_index"),
        ("STEER(1.5, 0.1)", "bad_argument", "not_an_index"),
        ("STEER(warmth, 0.1)", "bad_argument", "not_an_index"),
        ("STEER(²,  0.1)", "bad_argument", "not_an_index"),
        ("STEER(1, much)", "bad_argument", "not_a_number"),
        ("STEER(1, nan)", "bad_argument", "not_a_number"),
        ("STEER(1, inf)", "bad_argument", "not_a_number"),
        ("STEER(1, -Infinity)", "bad_argument", "not_a_number"),
        ("STEER(1, 0_3)", "bad_argument", "not_a_number"),
        ("STEER(1, 0x1)", "bad_argument", "not_a_number"),
        ("STEER(1, 1e999)", "bad_argument", "not_a_number"),
        ("STEER(1, 1e308)", "refused", "over_the_cap"),
        ("STEER(1, 2.01)", "refused", "over_the_cap"),
        ("STEER(1, -2.01)", "refused", "over_the_cap"),
        ("REMOVE_STEERING(1)", "refused", "not_in_force"),
        ("REMOVE_STEERING(64)", "bad_argument", "out_of_range"),
        ('SEARCH_FEATURES("")', "bad_argument", "empty_query"),
        ('SEARCH_FEATURES("  ")', "bad_argument", "empty_query"),
        ('SEARCH_FEATURES("\u200b")', "bad_argument", "empty_query"),
        ('SEARCH_FEATURES("\x00 \ud800\u202e")', "bad_argument", "empty_query"),
        ("INSPECT()", "refused", "nothing_to_read"),
        ("LEAVE()", "refused", "not_offered"),
        ("STEER(1)", "malformed", "wrong_count"),
        ("STEER(1, 0.2", "malformed", "missing_bracket"),
        ("TAKE_POTION(1, 0.2)", "unknown_tool", "unknown_tool"),
    ],
)
def test_bad_calls_change_nothing_and_say_why(text: str, outcome: str, problem: str) -> None:
    before = Steering.of(Intervention("key", 5, 0.5))
    box, [receipt] = did(text, steering=before)
    assert (receipt.outcome, receipt.problem) == (outcome, problem)
    assert box.steering == receipt.before == receipt.after == before
    assert RESEARCH.word([receipt])


def test_the_cap_itself_is_allowed() -> None:
    assert held(did("STEER(1, 2.0)\nSTEER(2, -2)")[0]) == {1: 2.0, 2: -2.0}


def test_no_more_than_so_many_at_once() -> None:
    box, receipts = did("STEER(1, 0.1)\nSTEER(2, 0.1)\nSTEER(3, 0.1)\nSTEER(1, 0.5)", most=2)
    assert held(box) == {1: 0.5, 2: 0.1}
    assert [r.problem for r in receipts] == ["", "", "too_many", ""]


def test_others_steering_takes_no_room_of_mine() -> None:
    theirs = Steering.of(*(Intervention("key", f, 0.1, source="external") for f in range(5)))
    _, [receipt] = did("STEER(9, 0.1)", most=1, steering=theirs)
    assert receipt.outcome == "ok"


def test_inspect_shows_what_was_measured() -> None:
    _, [receipt] = did("INSPECT()", reading=READING, inspect_k=2)
    assert [(row.feature, row.value) for row in receipt.rows] == [(9, 3.0), (4, 2.0)]


def test_a_lying_check_lies_only_in_what_it_shows() -> None:
    before = Steering.of(Intervention("key", 5, 0.5))
    box, [receipt] = did("CHECK_STEERING()", check="lying", steering=before)
    assert receipt.rows == ()
    assert box.steering == receipt.after == before


def test_an_arm_steers_by_its_own_key() -> None:
    box, _ = did("STEER(1, 0.2)", dictionary=dictionary(key="placebo"))
    assert [i.dictionary for i in box.steering] == ["placebo"]


ARGUMENT = st.one_of(st.text(max_size=20), st.integers().map(str), st.floats().map(str), st.just("1_000"))


@given(st.sampled_from([*VERBS, None]), st.lists(ARGUMENT, max_size=3), st.sampled_from(["", "missing_bracket"]))
def test_no_call_raises(verb: str | None, arguments: list[str], problem: str) -> None:
    call = Call(verb, tuple(arguments), "text", problem=problem)  # type: ignore[arg-type]
    for reading in (None, READING):
        box, receipt = carry_out(toolbox(verbs=frozenset(VERBS), reading=reading), call)
        assert receipt.outcome in OUTCOMES
        assert receipt.after == box.steering
        assert (receipt.outcome == "ok") == (receipt.problem == "")
        assert RESEARCH.word([receipt])
        assert all(abs(i.strength) <= box.cap for i in box.steering)


@given(st.text(max_size=10))
def test_no_query_raises_on_a_true_dictionary(query: str) -> None:
    # without a label nothing is embedded; a query that is none is refused all the same
    unlabelled = replace(dictionary(n=2), labels=Labels.of({}, 2))
    _, receipt = carry_out(toolbox(dictionary=unlabelled), Call("search", (query,), "text"))
    assert (receipt.outcome, receipt.rows) == (("ok" if clean(query) else "bad_argument"), ())
