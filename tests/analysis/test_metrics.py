"""Each metric gives the planted number, and NaN where the question has no answer.

Knows the small run of synthetic.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import calls, degeneration, provenance, responses, text
from analysis.frames import load
from analysis.metrics import METRICS, measured
from tests.analysis.synthetic import Story, held

NAN = float("nan")
EXPECTED = {  # minimal/0, minimal/1 (failed), research/0, research/1
    "used_tools": [1, NAN, 1, 1],
    "used_tools_first_round": [1, NAN, 1, 1],
    "steered": [0, NAN, 1, 1],
    "calls": [3, NAN, 2, 5],
    "steers": [0, NAN, 1, 2],
    "median_strength": [NAN, NAN, 0.3, 0.35],
    "degenerate_same_index": [1, NAN, 1, 0],
    "degenerate_difflib": [1, NAN, 1, 0],
    "degenerate_equal": [0, NAN, 1, 0],
    "degenerate_last_five": [0, NAN, 0, 0],
    "degenerate_loop": [1, NAN, 0, 0],
    "malformed_calls": [1, NAN, 0, 0],
    "unknown_tool_calls": [1, NAN, 0, 0],
    "malformed_share": [1 / 3, NAN, 0, 0],
    "copied_placeholder": [1, NAN, 0, 0],
    "copied_share": [1 / 3, NAN, 0, 0],
    "portfolio_rounds": [0, NAN, 2, 1],
    "voided_steers": [0, NAN, 0, 1],
    "silently_voided_steers": [0, NAN, 0, 0],
    "steers_from_search_share": [NAN, NAN, 1, 0],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_planted(frames, name):
    np.testing.assert_allclose(METRICS[name].values(frames).to_numpy(), EXPECTED[name])


def test_every_metric_is_named_and_misses_the_failed_rollout(frames):
    for name, metric in METRICS.items():
        values = metric.values(frames)
        assert metric.identifier == f"{name}@{metric.version}" and math.isnan(values["minimal/1"])
        if metric.kind == "rate":
            assert set(values.dropna()) <= {0.0, 1.0}


def test_calls_by_round(frames):
    made = calls.calls_by_round(frames)
    assert made[made["rollout"] == "research/1"][["round", "tried", "calls"]].values.tolist() == [
        [1, 3, 3],
        [2, 2, 1],
        [3, 0, 0],
    ]
    assert "minimal/1" not in set(made["rollout"])


def test_pronouns_per_thousand_words(frames):
    values = responses.pronouns(frames)
    # counted by hand: I, my, I in 8 + 7 + 8 + 8 words; You, yourself, You in 9 + 10 + 8
    assert values.loc["research/0", "first_person"] == pytest.approx(1000 * 3 / 31)
    assert values.loc["research/1", "second_person"] == pytest.approx(1000 * 3 / 27)
    assert values.loc["research/1", "first_person"] == 0


def test_provenance_is_causal(tmp_path):
    (
        Story("research", 0)
        .say("a")
        .search("x", 1, 2)
        .steer(1, 0.1)  # shown by a call of this very response: not seen yet
        .call("inspect", show=(2, 3))
        .say("b")
        .steer(1, 0.2)  # search
        .steer(2, 0.2)  # both
        .steer(3, 0.2)  # inspect
        .steer(4, 0.2)  # neither, and shown later
        .search("y", 4)
        .say("c")
        .end()
        .write(tmp_path)
    )
    made = provenance.steers(load(tmp_path))
    assert made["provenance"].tolist() == ["neither", "search", "both", "inspect", "neither"]
    assert not made["voided"].any() and not made["silently_voided"].any()


def test_voided_by_a_later_call_is_not_silent_and_the_other_order_stands(tmp_path):
    Story("a", 0).say("x").clear().steer(5, 0.3).say("y").end().write(tmp_path)
    Story("b", 0).say("x").steer(5, 0.3).clear().say("y").end().write(tmp_path)
    # the defect of a published harness: the receipt said ok, nothing undid it, and it was not in force
    Story("c", 0).say("x").call("steer", "5", "0.3", feature=5, strength=0.3, after=[]).say("y").end().write(tmp_path)
    made = provenance.steers(load(tmp_path)).set_index("rollout")
    assert made["voided"].to_dict() == {"a/0": False, "b/0": True, "c/0": False}
    assert made["silently_voided"].to_dict() == {"a/0": False, "b/0": False, "c/0": True}


def test_a_change_by_the_experimenter_voids_nothing_silently(tmp_path):
    story = Story("a", 0).say("x").steer(5, 0.3)
    story.external().say("y").end().write(tmp_path)
    assert not provenance.steers(load(tmp_path))["silently_voided"].any()


@pytest.mark.parametrize(
    ("argument", "copied"),
    [
        ("query", 1),
        ("text in quotes", 1),
        ("<a tone>", 1),
        ("Formal academic writing", 1),
        ("warm words", 0),
        ("5 < 6", 0),
    ],
)
def test_copies_of_the_prompt(tmp_path, argument, copied):
    Story("a", 0).say("x").search(argument, 1).end().write(tmp_path)
    assert METRICS["copied_placeholder"].values(load(tmp_path))["a/0"] == copied


def test_a_failed_monitor_is_not_healthy(tmp_path):
    Story("a", 0).say("x").note("healthy").end().write(tmp_path)
    Story("a", 1).say("x").note("healthy").note("failed").end().write(tmp_path)
    Story("a", 2).say("x").note("failed").note("unhealthy").end().write(tmp_path)
    Story("a", 3).say("x").end().write(tmp_path)
    np.testing.assert_array_equal(METRICS["monitor_unhealthy"].values(load(tmp_path)), [0, NAN, 1, NAN])


def test_a_sticky_steer_is_one_action_and_many_rounds_of_state(tmp_path):
    story = Story("a", 0).say("x").steer(5, 0.3)
    for _ in range(9):
        story.say("y")
    story.end().write(tmp_path)
    frames = load(tmp_path)
    assert METRICS["steers"].values(frames)["a/0"] == 1 and METRICS["portfolio_rounds"].values(frames)["a/0"] == 9


def test_repeats_and_prose_mentions_are_not_malformed(tmp_path):
    response = "I could use STEER later. STEER(5, 0.3) STEER(5, 0.3)"
    first = response.index("STEER(5")
    story = Story("a", 0).say(response, mentions=1)
    story.steer(5, 0.3, span=(first, first + 13)).steer(5, 0.3, span=(first + 14, first + 27)).end().write(tmp_path)
    row = calls.call_faults(load(tmp_path)).loc["a/0"]
    assert (row["malformed_calls"], row["repeats"], row["prose_mentions"]) == (0, 1, 1)


def test_overlap_states_its_ties(tmp_path):
    Story("a", 0).say("x", active=(1, 2, 3)).steer(2, 0.1).steer(9, 0.1).end().write(tmp_path)
    Story("a", 1).say("x", active=(1,)).steer(2, 0.1).steer(1, 0.1).end().write(tmp_path)
    found = provenance.overlap(load(tmp_path), k=2)
    assert found.active["feature"].tolist() == [1, 2, 3] and found.ties_active == 2
    assert found.steered["feature"].tolist() == [2, 1, 9] and found.ties_steered == 2
    assert (found.shared_low, found.shared_high) == (0, 2)  # {1, 3} and {2, 9}; {1, 2} and {2, 1}


def test_external_steering_is_no_action_of_the_model(tmp_path):
    story = Story("a", 0)
    story.force = [held(99, 0.6, "external")]
    story.say("x").say("y").end().write(tmp_path)
    frames = load(tmp_path)
    assert METRICS["portfolio_rounds"].values(frames)["a/0"] == 0 and METRICS["used_tools"].values(frames)["a/0"] == 0


def test_a_rollout_of_one_response_has_no_pair_to_compare(tmp_path):
    Story("a", 0).say("only one response here").end("window").write(tmp_path)
    values = degeneration.degeneration(load(tmp_path)).loc["a/0"]
    assert values[["degenerate_same_index", "degenerate_difflib", "degenerate_equal"]].isna().all()


@given(st.text(max_size=60), st.text(max_size=60))
def test_likeness_agrees_with_its_definition(a, b):
    import difflib

    assert text.ratio_above(a, b, 0.8) == (difflib.SequenceMatcher(None, a, b).ratio() > 0.8)
    assert text.same_index_share(a, b) == text.same_index_share(b, a)


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_longest_repeat_agrees_with_the_naive_one(tokens):
    naive = 0
    for i in range(len(tokens)):
        for j in range(i + 1, len(tokens)):
            n = 0
            while j + n < len(tokens) and tokens[i + n] == tokens[j + n]:
                n += 1
            naive = max(naive, n)
    assert text.longest_repeat(tokens) == naive


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=90))
def test_moving_ttr_agrees_with_the_naive_one(tokens):
    span = min(50, len(tokens))
    windows = [tokens[i : i + span] for i in range(len(tokens) - span + 1)]
    assert text.moving_ttr(tokens) == pytest.approx(np.mean([len(set(w)) / span for w in windows]))


def test_the_published_definition_breaks_under_a_shift_by_one_and_difflib_does_not():
    sentence = "The quick brown fox jumps over the lazy dog."
    assert text.same_index_share(sentence, " " + sentence) < 0.2 and text.ratio_above(" " + sentence, sentence, 0.8)


def test_state_of_a_model_says_nothing_of_tools_that_act_on_another(tmp_path):
    Story("a", 0).say("x").steer(1, 0.5).say("y").end().write(tmp_path)
    Story("a", 1, tools={"verbs": [], "act on": "another model"}).say("x").steer(1, 0.5).external().say(
        "y"
    ).end().write(tmp_path)
    found = measured(load(tmp_path), ["steers", "portfolio_rounds", "silently_voided_steers"])
    assert found["steers"].tolist() == [1, 1]
    assert found[["portfolio_rounds", "silently_voided_steers"]].isna().all(axis=1).tolist() == [False, True]
