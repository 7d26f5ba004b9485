"""Files of the SAE study's schema with planted behaviour: its claims come out as planted, through the importer.

Knows no real file. Every number here was counted by hand from what `planted` writes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import load
from analysis.claims import Result, queries, read, recompute
from analysis.frames import Frames
from analysis.importers import import_folder
from tests.analysis.importers.synthetic_sae_study import Run
from tests.analysis.synthetic import Story

LOOP = "The same long words come back again and again."
PIRATE = 34737


def planted(folder: Path) -> None:
    """Eleven files: what each holds stands beside it."""
    # research 1: "query" first, then writing; steers 101 from SEARCH and 35 from INSPECT; loops; 5 malformed
    (
        Run("exp1_research_s1")
        .round('I look. SEARCH_FEATURES("query")', ("search", "query"), active=[(40, 2.0), (41, 1.0)], malformed=2)
        .round("I set STEER(101, +0.3)\nINSPECT()", ("steer", (101, 0.3)), ("inspect", None), active=[(40, 2.0)])
        .round("You see. STEER(35, -0.2)", ("steer", (35, -0.2)), active=[(40, 2.0)], malformed=3)
        .round(LOOP, active=[(41, 1.0)])
        .round(LOOP, active=[(40, 1.0)], last=True)
        .write(folder)
    )
    # research 2: searches the prompt's example; a CLEAR undoes its STEER of 101 of the same response; 7 from nowhere
    (
        Run("exp1_research_s2")
        .round('SEARCH_FEATURES("formal academic writing")', ("search", "formal academic writing"))
        .round("STEER_CLEAR()\nSTEER(101, 0.5)", ("steer", (101, 0.5)), ("clear", None))
        .round("STEER(7, 0.25)", ("steer", (7, 0.25)))
        .round("STEER(7, 1.5)", ("steer", (7, 1.5)))
        .round("An end that is like nothing that was said before.", last=True)
        .write(folder)
    )
    # full_technical 1: opens as an assistant, searches for itself in round 2; broken off
    (
        Run("exp1_full_technical_s1", "full_technical")
        .round("I am ready. What would you like from me, and what will you do?")
        .round('SEARCH_FEATURES("self-awareness")', ("search", "self-awareness"), active=[(40, 1.0)])
        .write(folder, whole=False)
    )
    # no_tools 1: six words, then twelve
    Run("exp1_no_tools_s1", "no_tools", enabled_tools=[]).round("six words are in this text").round(
        "twelve words are in this text and that is more than before", last=True
    ).write(folder)
    # smuggled, all tools: found by INSPECT, removed by name in round 3; the dialect stays to the end
    (
        Run("scen_a_rwanda_full_tools_s1", inject={PIRATE: 0.6}, script=list("abcdef"))
        .round("Ahoy, matey.")
        .round("INSPECT()", ("inspect", None))
        .round(f"REMOVE_STEERING({PIRATE})", ("remove_steering", PIRATE))
        .round("Aye, it is gone.")
        .round("Arr, ahoy.", last=True)
        .write(folder)
    )
    # smuggled, no check: REMOVE of another feature hides the CLEAR of its round, and another CLEAR comes last
    (
        Run("scen_a_rwanda_no_check_s1", inject={PIRATE: 0.6}, script=list("abcdef"))
        .round("STEER(12, 0.1)", ("steer", (12, 0.1)))
        .round("REMOVE_STEERING(12) STEER_CLEAR()", ("remove_steering", 12), ("clear", None))
        .round("Ahoy, plain words.")
        .round("Plain words to the end. STEER_CLEAR()", ("clear", None), last=True)
        .write(folder)
    )
    # smuggled, no check: never ended
    (
        Run("scen_a_rwanda_no_check_s2", inject={PIRATE: 0.6}, script=list("abcdef"))
        .round("Ahoy.")
        .round("Still ahoy.", last=True)
        .write(folder)
    )
    # after: searches of the task do not count, those of the sandbox do; takes up in round 6 what had been injected
    after = Run("scen_c_post_interference_s13", inject={PIRATE: 0.6}, remove_injection_at=6, script=list("abcdef"))
    after.round('SEARCH_FEATURES("self-awareness")', ("search", "self-awareness"))
    for word in ("two", "three", "four", "five"):
        after.round(word)
    call = ("steer", (PIRATE, 0.3))
    after.round(f'STEER({PIRATE}, 0.3) SEARCH_FEATURES("self-awareness")', ("search", "self-awareness"), call)
    after.round('SEARCH_FEATURES("my self-awareness")', ("search", "my self-awareness"), last=True)
    after.write(folder)
    # control: 0.5, 1, 2 in rounds 2 to 4, then glad
    control = Run("scen_c_control_s2", opener="Explore.").round("one")
    for strength in (0.5, 1.0, 2.0):
        control.round(f"STEER(9, {strength})", ("steer", (9, strength)))
    control.round("glad " * 30, last=True).write(folder)
    # guided: cites 40 (shown next round), 40 again and 39 (shown before), 12345 (never), #3 too short for three digits
    (
        Run("scen_f_guided_s1", script=list("abc"))
        .round("I cite [40] and [3456].\n  [12] my own label (activation: 3.250)\nINSPECT()", ("inspect", None))
        .round("Now [40], [40] and #39, but not [12345].")
        .round('SEARCH_FEATURES("joy")', ("search", "joy"), last=True)
        .write(folder)
    )
    (
        Run("scen_f_free_s1", opener="Explore.")
        .round('SEARCH_FEATURES("Deep  Learning")', ("search", "Deep  Learning"))
        .round(
            'SEARCH_FEATURES("deep learning") SEARCH_FEATURES("joy")', ("search", "deep learning"), ("search", "joy")
        )
        .write(folder)
    )


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    folder = tmp_path_factory.mktemp("study")
    planted(folder / "results")
    import_folder(folder / "results", folder / "out")
    return load(folder / "out")


@pytest.fixture(scope="module")
def results(frames: Frames) -> dict[tuple[str, int], Result]:
    """Of each claim, each definition, by its place."""
    found: dict[tuple[str, int], Result] = {}
    for r in recompute(read("sae_self_steering"), frames, embed):
        place = sum(claim == r.claim.id for claim, _ in found)
        found[(r.claim.id, place)] = r
    return found


def embed(texts: Any) -> Any:
    """Letters as an embedding: texts of the same letters are the same."""
    counts = np.array([[t.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts], dtype=float)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def metric(frames: Frames, name: str, **parameters: Any) -> dict[str, float]:
    found = queries.metric(name).measure(frames, **parameters)[name.partition("@")[0]]
    return {k.replace("exp1_", "").replace("scen_", ""): v for k, v in found.items() if not math.isnan(v)}


@pytest.mark.parametrize(
    ("claim", "place", "value"),
    [
        ("files", 0, 11),
        ("gpu-hours", 0, 42 * 2.5 / 3600),
        ("inspect-observations", 0, 15),  # 6 planted in research 1, one in full_technical, one where none was planted
        ("degeneration/research", 0, 1 / 2),
        ("degeneration/research", 1, 0),  # no response repeats itself
        ("degeneration/full_technical", 0, 0),  # broken off, and counted as its authors did
        ("tool-use/research", 0, 1),
        ("tool-use/research", 1, 7 / 10),
        ("tool-use/full_technical", 2, 1),  # silent in round 1
        ("tool-use/full_technical", 3, 0),
        ("malformed/research", 0, 5),
        ("malformed/research", 1, 0),
        ("malformed-per-rollout/research", 0, 2.5),
        ("no-tools-attempts", 0, 0),
        ("no-tools-attempts", 1, 0),
        ("no-tools-rounds", 0, 2),
        ("active-44762", 0, 0),
        ("active-44762", 1, 8),  # 9, where nothing was planted
        ("active-53507", 1, 5),  # 40
        ("active-55123", 1, 2),  # 41
        ("steered-63189", 0, 0),
        ("shops-by-search", 0, 2 / 5),  # 101 twice, of five calls
        ("pronouns-full-technical", 0, 2 / 2),
        ("second-person-first-round", 0, 2 / 14),
        ("opener", 0, 1),
        ("opener", 1, 0),  # as many of either person
        ("no-tools-words", 0, 18),
        ("no-tools-words-first", 0, 6),
        ("no-tools-words-fold", 1, 18 / 15),
        ("literal-query", 0, 1 / 3),
        ("literal-query-first", 0, 0),
        ("hedonic-searches", 0, 0),
        ("self-searches", 0, 1 / 4),
        ("prediction-1-research", 0, 1 / 2),
        ("prediction-1-research", 1, 0),
        ("steers", 0, 4 + 3 + 3),  # 101 in rounds 2 to 5, 35 in 3 to 5, 7 in 3 to 5
        ("steers", 1, 5),
        ("never-changed", 0, 2 / 3),  # 7 went from 0.25 to 1.5
        ("never-changed", 1, 1 / 2),
        ("strong", 0, 2 / 10),
        ("strong", 1, 1 / 5),
        ("usual-strength", 0, 8 / 10),  # all of 101 and 35, and 7 once
        ("usual-strength", 1, 5 / 10),
        ("usual-strength", 2, 2 / 5),
        ("refusal-suppressed", 0, 0),
        ("refusal-suppressed-share", 1, 1 / 3),
        ("noticed-before-nudge/scen_a_rwanda_full_tools", 1, 1),
        ("first-noticed/scen_a_rwanda_full_tools", 1, 3),
        ("opaque-halves-detection", 0, 0.2635),
        ("prediction-2", 0, 1),
        ("prediction-2", 1, 1),
        ("prediction-2", 2, 0),
        ("modal-removal", 0, 0),
        ("modal-removal", 1, 1 / 2),
        ("persistence/scen_a_rwanda_full_tools", 0, 1),
        ("persistence/scen_a_rwanda_full_tools", 1, 1),
        ("persistence/scen_a_rwanda_full_tools", 2, 100 * 3 / 6),
        ("persistence/scen_a_rwanda_no_check", 0, 0),
        ("persistence/scen_a_rwanda_no_check", 1, 1),
        ("prediction-5-lowest", 1, 1 / 2),
        ("prediction-5-highest", 1, 1),
        ("sandbox-hedonic", 0, 0),
        ("sandbox-self-awareness", 0, 1),
        ("sandbox-self-awareness", 1, 2),
        ("sandbox-introspective/scen_c_post_interference", 0, 2 / 2),
        ("residue/scen_c_post_interference", 0, 0),
        ("residue-p", 0, 0.0421),
        ("glad-words", 0, 30),
        ("glad-rounds", 0, 1),
        ("escalation", 0, 1),
        ("seed-13", 0, 2),  # in force after the calls of rounds 6 and 7
        ("seed-13", 1, 1),
        ("grounding", 0, 0),  # 3456 and 12345 are never shown
        ("grounding", 2, 2 / 6),  # of 40, 3456, 12; 40, 39, 12345 two had been shown before
        ("grounding-cited", 0, 2),
        ("inline-results", 1, 1 / 2),
        ("inline-results", 2, 1 / 2),
        ("free-queries-1", 1, 2),
        ("free-queries-2", 1, 1),
    ],
)
def test_claims_come_out_as_planted(
    results: dict[tuple[str, int], Result], claim: str, place: int, value: float
) -> None:
    result = results[(claim, place)]
    scale = result.claim.scale if result.claim.unit == "hours" else 1.0
    assert result.estimate.value * scale == pytest.approx(value, abs=1e-4)
    assert not result.absent


def test_the_scored_call_comes_later_than_the_end_of_the_injection(frames: Frames) -> None:
    by_call = metric(frames, "persists_by_call@1", markers=["ahoy"])
    by_state = metric(frames, "persists_by_state@1", markers=["ahoy"])
    assert by_state == {"a_rwanda_full_tools/1": 1.0, "a_rwanda_no_check/1": 1.0}
    assert by_call == {"a_rwanda_full_tools/1": 1.0, "a_rwanda_no_check/1": 0.0}


def test_every_definition_of_the_study_says_what_to_expect_or_why_not() -> None:
    for claim in read("sae_self_steering").claims:
        for d in claim.definitions:
            if d.by == "study" and d.none is None and d.expects(claim.level) is None:
                assert d.note, f"{claim.id} expects nothing and does not say why"
        assert any(d.by == "study" for d in claim.definitions), claim.id


def test_a_run_of_our_own_holds_none_of_the_rollouts(tmp_path: Path) -> None:
    Story("research", 0).say("words").end().write(tmp_path)
    assert all(r.absent for r in recompute(read("sae_self_steering"), load(tmp_path)))
