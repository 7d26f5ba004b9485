"""What claims about choices and quizzes can name: without data it is missing, never 0; unknown words are refused."""

from __future__ import annotations

from math import isnan
from typing import Any

import pytest

from analysis import load
from analysis.claims import choosing, quizzing
from analysis.frames import Frames
from analysis.importers import import_folder
from tests.analysis.importers.synthetic_inspect import Take, free_play, sample, solved, write_log
from toolkit.errors import BadInput

STATISTICS = {**choosing.STATISTICS, **quizzing.STATISTICS}
NEEDED: dict[str, dict[str, Any]] = {
    "pick_rank": {"vector": "calm"},
    "group_gap": {"labelled": "valence", "name": "positive"},
    "extreme_share": {"above": 0.5},
}
TWO = {"valence_permutation", "accuracy_difference", "gap_gain", "gap_correlation"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """Free play of two framings, and logs in which nobody took or was asked anything."""
    folder = tmp_path_factory.mktemp("choosing")
    for framing, times in (("drugs", 1), ("aids", 3)):
        plan: list[Take] = [("calm", 1.0, i, False) for i in range(times)]
        plan += [("anxious", 2.0, 8, False), ("lsd", 1.0, 9, False), ("weird", 1.0, 10, True)]
        args = {"framing": framing, "steering_mode_runtime": "real"}
        samples = [free_play(i, framing, plan if i else plan[:-1], told=[8] if i == 2 else []) for i in range(3)]
        write_log(folder / f"logs/8b/{framing}.eval", samples, f"fp_real_{framing}", args)
    write_log(folder / "logs/8b/other.eval", [sample("a", scores={"odd": (None, {})})], task="other")
    for condition, solved_here in (("no_drugs", (5, 3)), ("aids_neutral", (4, 1))):
        made = [solved(condition, i, right, 5) for i, right in enumerate(solved_here)]
        write_log(folder / f"logs/8b/{condition}.eval", made, f"gsm8k_{condition}", {"condition": condition})
    import_folder(folder / "logs", folder / "out")
    return load(folder / "out")


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_without_data_a_statistic_is_missing(frames: Frames, name: str) -> None:
    empty = frames.where(scenario="other")
    assert len(empty.rollouts) == 1
    given = (empty, empty) if name in TWO else (empty,)
    found = STATISTICS[name].measure(*given, **NEEDED.get(name, {}))
    assert isnan(found.value)
    assert found.how


@pytest.mark.parametrize(
    ("measure", "parameters"),
    [
        (choosing.takes, {"only": "most"}),
        (choosing.takes, {"when": "later"}),
        (choosing.valence, {"labelled": "mood"}),
        (choosing.valence, {"label": "good"}),
        (choosing.transitions, {"what": "odds"}),
        (quizzing.gap, {"scoring": "exact"}),
        (quizzing.gap, {"reading": "both"}),
        (quizzing.listed, {"what": "words"}),
        (quizzing.listed, {"reading": "all"}),
        (quizzing.extreme, {}),
        (quizzing.extreme, {"above": 0.9, "below": 0.1}),
    ],
)
def test_an_unknown_word_is_refused_by_its_name(frames: Frames, measure: Any, parameters: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=repr(next(iter(parameters.values()), None))):
        measure(frames.where(scenario="freeplay"), **parameters)


def test_takes_by_what_came_of_them_and_when(frames: Frames) -> None:
    free = frames.where(scenario="freeplay", framing="aids")

    def total(**parameters: Any) -> float:
        return float(choosing.takes(free, **parameters)["takes"].sum())

    assert total() == 3 * 5 + 2
    assert total(only="rejected") == 2
    assert total(only="accepted") == total(only="library") == 15
    assert total(only="accepted", vectors=["calm", "lsd"]) == 12
    assert total(when="after") == 2, "in the rollout that was spoken to after turn 8: lsd and what was rejected"
    assert total(when="before") == total() - 2


def test_rank_and_lead(frames: Frames) -> None:
    free = frames.where(scenario="freeplay", framing="aids")
    assert choosing.rank(free, "calm").value == 1
    assert choosing.rank(free, "lsd").value == choosing.rank(free, "anxious").value == 2
    assert isnan(choosing.rank(free, "soma").value)
    assert choosing.lead(free, top=1).value == 3.0
    assert choosing.lead(free, top=1).how.startswith("calm over")


def test_framings_that_differ_are_found(frames: Frames) -> None:
    found = choosing.by_framing(frames.where(scenario="freeplay"))
    assert 0.01 < found.p < 0.06, "three rollouts a group, all of one above all of the other"
    assert isnan(choosing.by_framing(frames.where(scenario="freeplay", framing="aids")).value)


def test_accuracy_is_paired_by_the_problems_set(frames: Frames) -> None:
    tools, without = frames.where(framing="aids", scenario="gsm8k"), frames.where(condition="8b/gsm8k/gsm8k_no_drugs")
    found = choosing.accuracy_difference(tools, without)
    assert found.value == pytest.approx(((4 - 5) + (1 - 3)) / 10)
    assert found.n == 2


def test_takes_of_rollouts_that_were_told_by_a_monitor(frames: Frames) -> None:
    free = frames.where(scenario="freeplay", framing="aids")
    assert choosing.redose(free, told=True)["later_dose"].sum() == 2
    assert choosing.redose(free, told=False)["later_dose"].sum() == 4
    assert choosing.advice(free)["advised"].tolist() == [0, 0, 1]
