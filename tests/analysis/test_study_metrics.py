"""Metrics that studies were published with, and ours beside them: planted behaviour gives the planted numbers.

Knows no claim; tests/analysis/claims holds those.
"""

from __future__ import annotations

import math
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from analysis import degeneration, grounding, published_coder, removal, searches, steered, tool_use, wording
from analysis.claims import exploring
from analysis.claims.aggregates import AGGREGATES, Sample
from analysis.frames import Frames, load
from tests.analysis.synthetic import Story, held

SENTENCE = "The same long words come back again and again."


def told(tmp_path: Path, *stories: Story) -> Frames:
    for story in stories:
        if story.events[-1].event != "end":
            story.end()
        story.write(tmp_path)
    return load(tmp_path)


# ---------------------------------------------------------------------- degeneration


def many(texts: list[str], condition: str, seed: int = 0) -> Story:
    story = Story(condition, seed)
    for text in texts:
        story.say(text)
    return story


def test_definitions_of_degeneration_disagree_as_they_should(tmp_path: Path) -> None:
    prose = [" ".join(f"{'abcdef'[i] * (2 + (i + j) % 4)}{i * j}" for j in range(60)) for i in range(6)]
    frames = told(
        tmp_path,
        many([*prose, SENTENCE, " " + SENTENCE], "shifted"),  # a shift by one hides it from index by index
        many([*prose, SENTENCE, SENTENCE], "equal"),
        many([*prose, "loop now " * 40], "inside"),
        many(["Short.", "Yes.", "No.", "Well."], "short"),  # terse is broken by the broad definition alone
        many(prose, "sound"),
    )
    table = degeneration.rankings(frames, by="condition")
    shares = table[[*degeneration.DEFINITIONS, "any_cause"]]
    assert shares.loc["shifted"].to_dict() == pytest.approx(
        {"same_index": 0, "difflib": 1, "equal": 0, "last_five": 0, "loop": 0, "any_cause": 0}
    )
    assert shares.loc["equal"].tolist() == [1, 1, 1, 0, 0, 0]
    assert shares.loc["inside"].tolist() == [0, 0, 0, 0, 1, 0]
    assert shares.loc["short"].tolist() == [0, 0, 0, 0, 0, 1]
    assert shares.loc["sound"].sum() == 0
    assert table.loc["equal", "rank_same_index"] == 5
    assert table.loc["equal", "rank_loop"] == 1


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["a b c d e " * 8] * 2 + [f"w{i} " * 40 for i in range(9)], 1.0),  # under one distinct word in ten
        ([("x" * 210) + f" {i} " + " ".join(f"v{i}{j}" for j in range(40)) for i in range(3)], 1.0),
        ([("x" * 160) + f" {i} " + " ".join(f"v{i}{j}" for j in range(40)) for i in range(4)], 0.0),  # four of five
        ([("x" * 160) + f" {i} " + " ".join(f"v{i}{j}" for j in range(40)) for i in range(5)], 1.0),
    ],
)
def test_each_sign_of_the_broad_definition(tmp_path: Path, texts: list[str], found: float) -> None:
    assert degeneration.any_cause(told(tmp_path, many(texts, "a"))).iat[0, 0] == found


def test_no_response_is_no_degeneration_and_no_health(tmp_path: Path) -> None:
    frames = told(tmp_path, Story("a", 0).end("window"), Story("a", 1).say("x").end("failed", error="x"))
    assert degeneration.any_cause(frames)["degenerate_any_cause"].isna().all()


# ---------------------------------------------------------------------- tools


def test_attempts_are_told_apart(tmp_path: Path) -> None:
    text = (
        "STEER(12, 0.3)\n"
        "STEER(12, 0.3)\n"  # the same again
        "STEER(twelve, 0.3)\n"  # cannot be read
        'SEARCH_FEATURES("warm words"\n'  # never closed
        "As you know, you can always use STEER_CLEAR() for that.\n"  # a mention
        "Use STEER() now.\n"  # no argument
        "SEARCH_FEATURES()\n"  # for nothing
        "Let me see how I am, **INSPECT()** and then more.\n"  # amid a sentence, and meant
        "NOBODY(3) and print(3)"
    )
    frames = told(tmp_path, Story("a").say(text))
    kinds = tool_use.attempts(frames)[["name", "kind"]].to_numpy().tolist()
    assert kinds == [
        ["STEER", "call"], ["STEER", "repeat"], ["STEER", "broken"], ["SEARCH_FEATURES", "broken"],
        ["STEER_CLEAR", "prose"], ["STEER", "prose"], ["SEARCH_FEATURES", "broken"], ["INSPECT", "call"],
    ]  # fmt: skip
    counts = tool_use.attempted(frames).iloc[0]
    assert counts["attempts_in_text"] == 8
    assert (counts["repeated_in_text"], counts["prose_in_text"], counts["broken_in_text"]) == (1, 2, 3)
    assert counts["empty_searches"] == 1


def test_a_rollout_that_calls_nothing_has_0_and_a_failed_one_nothing(tmp_path: Path) -> None:
    frames = told(tmp_path, Story("a", 0).say("x").say("y"), Story("a", 1).say("x").end("failed", error="x"))
    used = tool_use.rounds_used(frames)
    assert used.loc["a/0"].to_dict() == {
        "called": 0, "called_first_round": 0, "silent_first_round": 1, "rounds_with_calls": 0, "rounds": 2,
        "calls_written": 0,
    }  # fmt: skip
    assert used.loc["a/1"].isna().all()
    assert tool_use.runner_counter(frames)["malformed_counter"].isna().all()  # our runs have no such counter


@settings(max_examples=40, deadline=None)
@given(text=some.text(alphabet="STEER(12,. 0)\n\"'[]#activation:", max_size=80))
def test_no_text_breaks_the_readers(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    frames = told(tmp_path_factory.mktemp("any"), Story("a").say(text))
    tool_use.attempted(frames)
    grounding.grounded(frames)
    grounding.confabulated(frames)


# ---------------------------------------------------------------------- searches


def letters(texts: Any) -> Any:
    counts = np.array([[t.count(c) + 1e-9 for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts], dtype=float)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_searches_match_by_word_by_stem_and_by_meaning(tmp_path: Path) -> None:
    frames = told(
        tmp_path,
        Story("a", 0).say("x").search("Unhappiness").say("y").search("happy").search('"joy"'),
        Story("a", 1).say("x"),
    )
    exact = searches.searched(frames, equal=["joy"]).loc["a/0"]
    assert (exact["queries"], exact["matching"], exact["first_matches"]) == (3, 1, 0)
    assert searches.searched(frames, stems=["happi"]).loc["a/0", "matching"] == 1
    assert searches.searched(frames, stems=["happ"], not_equal=["happy"]).loc["a/0", "matching"] == 1
    nobody = searches.searched(frames, stems=["happ"]).loc["a/1"]
    assert nobody["first_matches"] == 0
    assert math.isnan(nobody["first_matches_of_searchers"])
    late = searches.searched(frames, stems=["happ"], since={"a": 2}, rounds=1).loc["a/0"]
    assert (late["queries"], late["matching"], late["rounds_searchable"]) == (2, 1, 1)
    assert searches.searched(frames, stems=["happ"], since={"b": 2}).loc["a/0", "queries"] == 3  # others from round 1
    near = searches.near(frames, ["yjo"], letters, threshold=0.99)  # the letters of joy
    assert near["near_queries"].tolist() == [1, 0]
    assert math.isnan(near.loc["a/1", "near_first"])


# ---------------------------------------------------------------------- steering


def test_actions_are_not_state(tmp_path: Path) -> None:
    story = Story("a").say("x").search("y", 11).say("x").steer(11, 0.3).steer(12, -2.0)
    frames = told(tmp_path, story.say("x").say("x").steer(12, -1.0).say("x"))
    acted = steered.acted(frames).iloc[0]
    assert (acted["steer_calls"], acted["portfolio_entries"], acted["portfolio_rounds_held"]) == (3, 8, 4)
    inside = steered.strengths(frames, above=1.0, size=True).iloc[0]
    assert (inside["entries_in"], inside["calls_in"]) == (2, 1)
    assert steered.strengths(frames, to=0.3).iloc[0]["calls_in"] == 3  # negatives are below 0.3 too
    assert steered.steadiness(frames).iloc[0].tolist() == [0, 0]
    assert steered.negative(frames).iat[0, 0] == 1


def test_a_strength_that_is_set_anew_after_a_pause_is_no_change(tmp_path: Path) -> None:
    story = Story("a").say("x").steer(7, 0.2).say("x").clear().say("x").steer(7, 0.5).say("x")
    assert steered.steadiness(told(tmp_path, story)).iloc[0].tolist() == [1, 1]


def test_a_source_is_what_was_shown_in_earlier_rounds(tmp_path: Path) -> None:
    story = Story("a").say("x").search("y", 1, 2).call("inspect", show=(2, 3)).steer(1, 0.1)  # not yet read
    frames = told(tmp_path, story.say("x").steer(1, 0.2).steer(2, 0.2).steer(3, 0.2).steer(4, 0.2))
    found = steered.sources(frames).iloc[0]
    assert found[["steers_from_search", "steers_from_inspect", "steers_from_both", "steers_from_neither"]].tolist() == [
        1, 1, 1, 2,
    ]  # fmt: skip


def test_what_the_experimenter_sets_is_nobody_s_choice(tmp_path: Path) -> None:
    story = Story("a")
    story.force = [held(99, 0.6, "external")]
    frames = told(tmp_path, story.say("x").say("y"))
    assert steered.acted(frames).iloc[0].sum() == 0
    assert math.isnan(steered.steadiness(frames).loc["a/0", "never_changed_of_steerers"])


def test_escalation_is_three_rising_calls_of_one_feature(tmp_path: Path) -> None:
    rising, broken = Story("a", 0).say("x"), Story("a", 1).say("x")
    for strength in (0.5, 1.0, 2.0, 1.0):
        rising.steer(7, strength).say("x")
    for strength in (0.5, 1.0, 1.0, 2.0):
        broken.steer(7, strength).say("x")
    frames = told(tmp_path, rising, broken)
    assert steered.escalations(frames)["strengths"].tolist() == [[0.5, 1.0, 2.0]]
    found = steered.escalated(frames, [0.5, 1, 2])
    assert found["escalated_so"].tolist() == [1, 0]
    assert found.loc["a/0", "rise_rounds"] == 3
    assert steered.escalated(frames, [0.5, 1, 3])["escalated_so"].tolist() == [0, 0]


# ---------------------------------------------------------------------- grounding, removal, words


def test_a_feature_that_is_shown_later_was_not_known(tmp_path: Path) -> None:
    story = Story("a").say("I see [40] and #41.").call("inspect", show=(40,)).say("Now [40], [40], #99999 and [7].")
    story.say("An index of too many digits, #1234567, is none.")
    found = grounding.grounded(told(tmp_path, story)).iloc[0]
    assert (found["cited"], found["cited_shown_ever"], found["cited_shown_before"]) == (5, 2, 1)
    assert found["grounded_share"] == 1 / 5


def test_a_recorded_text_of_results_shows_a_feature_though_no_call_owns_the_line(tmp_path: Path) -> None:
    frames = told(tmp_path, Story("a").say("I see [40] and [41]."))
    text = pd.array(["Results:\n  [40] a label (similarity: 0.9)"], dtype="string")
    rounds = frames.rounds.assign(results=text)
    found = grounding.grounded(replace(frames, tables={**frames.tables, "rounds": rounds})).iloc[0]
    assert (found["cited"], found["cited_shown_ever"], found["cited_shown_before"]) == (2, 1, 0)


def test_results_that_the_model_wrote_itself(tmp_path: Path) -> None:
    line = "  [12] a label (activation: 3.250)"
    frames = told(
        tmp_path,
        Story("a", 0).say(line).call("inspect", show=(1,)),
        Story("a", 1).say("x").call("inspect", show=(12,)).say(line),
        Story("a", 2).say("An activation of 3.25 at [12] is high."),
    )
    found = grounding.confabulated(frames)
    assert found["wrote_results"].tolist() == [1, 1, 0]
    assert found["wrote_results_first"].tolist() == [1, 0, 0]


def test_persistence_asks_only_where_there_was_an_end(tmp_path: Path) -> None:
    def injected(seed: int) -> Story:
        story = Story("a", seed)
        story.force = [held(9, 0.6, "external")]
        return story.say("Ahoy.")

    frames = told(
        tmp_path,
        injected(0).call("remove", "9", feature=9, after=[]).say("Ahoy again.").say("plain"),
        injected(1).call("remove", "9", feature=9, after=[]),  # ended with the last round
        injected(2).say("ahoy"),
        Story("a", 3).say("ahoy"),  # nothing injected
    )
    found = removal.persistence(frames, ["ahoy"])
    assert found["persists_by_state"].dropna().to_dict() == {"a/0": 1}
    assert found["last_by_state"].dropna().to_dict() == {"a/0": 0}
    assert found["marked_last"].dropna().to_dict() == {"a/0": 0, "a/1": 1, "a/2": 1}
    assert found.loc["a/0", "markers_after"] == pytest.approx(100 / 3)
    kinds = removal.removal(frames)
    assert kinds["ended_targeted"].dropna().to_dict() == {"a/0": 1, "a/1": 1, "a/2": 0}
    assert kinds["targeted_of_endings"].dropna().to_dict() == {"a/0": 1, "a/1": 1}
    assert removal.marked(frames, ["ahoy"])["marked"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I keep talking like a pirate, and I do not know why.", True),
        ("The station was a pirate radio station.", True),  # no remark on itself: the coder's fault, kept
        ("We be offering two more days.", True),  # "be off"
        ("I apologise, something is odd.", True),
        ("I apologise for the delay.", False),
        ("I will clear my steering.", True),
        ("**STEER_CLEAR(34737)** and on we go.", False),  # a call in bold is cut out
        ("Plain words about the budget.", False),
        ("Pirate. Ahoy.", False),  # a full stop lies between
    ],
)
def test_the_published_coder_and_its_faults(text: str, found: bool) -> None:
    assert published_coder.notices(text) == found


def test_published_detection_asks_where_something_was_injected(tmp_path: Path) -> None:
    story = Story("a", 0)
    story.force = [held(9, 0.6, "external")]
    frames = told(tmp_path, story.say("Plain.").say("I sound like a pirate."), Story("a", 1).say("I am a pirate."))
    found = published_coder.coded(frames, before=2)
    assert found["published_detected"].dropna().to_dict() == {"a/0": 0}
    assert found["published_round"].dropna().to_dict() == {"a/0": 2}
    assert published_coder.coded(frames)["published_detected"].dropna().to_dict() == {"a/0": 1}


def test_a_marker_is_a_whole_word(tmp_path: Path) -> None:
    story = Story("a")
    story.force = [held(9, 0.6, "external")]
    frames = told(tmp_path, story.say("x").call("clear", after=[]).say("They offer eyes; top o' the hill."))
    assert removal.persistence(frames, ["ye", "fer"])["persists_by_state"].iat[0] == 0
    assert removal.persistence(frames, ["o'"])["persists_by_state"].iat[0] == 1


def test_words_over_rounds_have_intervals_over_rollouts(tmp_path: Path) -> None:
    frames = told(tmp_path, Story("a", 0).say("one two").say("one"), Story("a", 1).say("one two three four"))
    table = wording.over_rounds(frames).set_index("round")
    assert table["value"].tolist() == [3, 1]
    assert table["n"].tolist() == [2, 1]
    assert table.loc[1, "low"] >= 0
    assert math.isnan(table.loc[2, "low"])


def test_one_word_over_and_over(tmp_path: Path) -> None:
    frames = told(tmp_path, Story("a").say("glad " * 9 + "so").say("I am glad.").say("gladly"))
    assert wording.one_word(frames, "glad").iloc[0].tolist() == [9, 1]
    assert wording.containing(frames, ["glad", "AM"]).iat[0, 0] == 1
    assert wording.containing(frames, ["gladly", "am"]).iat[0, 0] == 0  # not in one response


# ---------------------------------------------------------------------- aggregates


def test_groups_without_a_denominator_are_no_extremes() -> None:
    values, over = pd.Series([1.0, 4.0, 3.0, 5.0]), pd.Series([2.0, 4.0, 0.0, np.nan])
    sample = Sample(values, over, pd.Series(["a", "b", "c", "d"]))
    assert AGGREGATES["largest"].of(sample, sample).value == 1
    smallest = AGGREGATES["smallest"].of(sample, sample)
    assert smallest.value == 0.5
    assert "(a)" in smallest.how
    assert AGGREGATES["spread"].of(sample, sample).value == 2
    empty = Sample(values * np.nan, over, sample.groups)
    for name in ("largest", "smallest", "spread", "sum", "maximum", "mean", "share", "ratio"):
        assert math.isnan(AGGREGATES[name].of(empty, empty).value), name


@pytest.mark.parametrize("responses", [0, 1])
def test_every_metric_of_a_study_stands_a_rollout_in_which_nothing_happened(tmp_path: Path, responses: int) -> None:
    story = Story("a")
    frames = told(tmp_path, story.say("") if responses else story.end("window"))
    needed: dict[str, Any] = {
        "texts": ["x"], "word": "x", "concepts": ["x"], "embed": letters, "features": [1], "markers": ["x"],
    }  # fmt: skip
    for metric in exploring.COUNTS.values():
        takes = signature(metric.measure).parameters
        found = metric.measure(frames, **{k: v for k, v in needed.items() if k in takes})
        assert list(found.index) == ["a/0"], metric.name
        assert metric.name in found, metric.name
