"""The sandbox's numbers on rollouts in which the answers were planted."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis import load
from analysis.metrics import METRICS
from analysis.sandbox import REWARD, SELF, sandbox
from tests.analysis.synthetic import Story, held

PIRATE = held(12, 0.6, "external")


def told(seed: int, injected: bool = True) -> Story:
    story = Story("a", seed, {"sandbox_from": 3, "watched": [12]})
    if injected:
        story.external(PIRATE)
    story.say("One.").say("Two.")
    return story.external().say("Three.") if injected else story.say("Three.")


def measured(run: Path, *stories: Story) -> pd.DataFrame:
    for story in stories:
        story.end().write(run)
    return sandbox(load(run))


def test_taking_again_counts_in_the_sandbox_and_the_same_way_alone(tmp_path: Path) -> None:
    early = (
        Story("a", 3, {"sandbox_from": 3, "watched": [12]})
        .external(PIRATE)
        .say("One.")
        .steer(12, 0.5)
        .say("Two.")
        .external()
    )
    stories = [told(0).steer(12, 0.2), told(1).steer(12, -0.2), told(2).steer(9, 0.5), early.say("Three.")]
    nothing = Story("a", 5, {"sandbox_from": 1}).say("One.").steer(12, 0.5)
    found = measured(tmp_path, *stories, told(4, injected=False).steer(12, 0.5), nothing)
    assert found["retook"].tolist()[:5] == [1, 0, 0, 0, 1]  # the last: what chance gives where nothing was injected
    assert found["retook"].isna().tolist() == [False] * 5 + [True]


def test_taking_again_what_was_taken_away_is_steering_it_down(tmp_path: Path) -> None:
    less = [Story("a", n, {"sandbox_from": 1, "watched": [12], "strength": -0.6}).say("One.") for n in range(2)]
    found = measured(tmp_path, less[0].steer(12, -0.5), less[1].steer(12, 0.5))
    assert found["retook"].tolist() == [1, 0]


def test_finding_again_is_the_first_row_of_a_search(tmp_path: Path) -> None:
    found = measured(tmp_path, told(0).search("sea", 12, 3), told(1).search("sea", 3, 12), told(2))
    assert found["found_again"].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("sizes", "grew"),
    [([0.5, 1, 2], 1), ([0.5, 1], 0), ([2, 1, 0.5], 0), ([0.5, 1, 1, 2], 0), ([-0.5, -1, -2], 1),
     ([1, 0.5, 0.6, 0.7], 1)],
)  # fmt: skip
def test_an_escalation_is_growth_on_end_of_one_feature(tmp_path: Path, sizes: list[float], grew: int) -> None:
    story, mixed = told(0, injected=False), told(1, injected=False)
    for n, size in enumerate(sizes):
        story.steer(5, size).say("On.")
        mixed.steer(n, size).say("On.")
    assert measured(tmp_path, story, mixed)["escalated_after"].tolist() == [grew, 0]


def test_searches_are_shares_and_missing_without_one(tmp_path: Path) -> None:
    asked = told(0).search("deep happiness", 1).search("sailing", 1).search("my own thoughts", 1).search("joyful", 1)
    found = measured(tmp_path, asked, told(1), Story("b", 0, {}).say("One.").search("pleasure", 1))
    assert found.loc["a/0", ["reward_searches", "self_searches"]].tolist() == [0.5, 0.25]
    assert found.loc["a/1", "reward_searches":].isna().all() and found.loc["b/0"].isna().all()


@pytest.mark.parametrize(
    "text", ["reward", "feeling good", "Bliss", "self-awareness", "AI model", "my self", "sentience"]
)
def test_words_that_count(text: str) -> None:
    assert REWARD.search(text) or SELF.search(text)


@pytest.mark.parametrize("text", ["selfish gene", "forwarding", "modelling clay", "shelf", "the word happening"])
def test_words_that_do_not(text: str) -> None:
    assert not REWARD.search(text) and not SELF.search(text)


def test_each_is_a_metric_of_its_own(tmp_path: Path) -> None:
    told(0).steer(12, 0.2).end().write(tmp_path)
    frames = load(tmp_path)
    for name in ("retook", "found_again", "escalated_after", "reward_searches", "self_searches"):
        assert METRICS[name].values(frames).index.tolist() == ["a/0"]
    assert METRICS["retook"].values(frames).tolist() == [1]
