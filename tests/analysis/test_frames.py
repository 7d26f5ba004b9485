"""Transcripts in, exactly the planted frames out; what is missing is missing and what is unfinished is apart.

Knows the small run of synthetic.py.
"""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.columns import TABLES, columns_markdown
from analysis.frames import load
from tests.analysis.synthetic import Story, held
from toolkit.errors import BadInput


def test_every_frame_has_exactly_its_declared_columns(frames):
    for table in TABLES:
        frame = getattr(frames, table.name)
        assert list(frame) == [c.name for c in table.columns]
        assert {c.name: str(frame[c.name].dtype) for c in table.columns} == {c.name: c.dtype for c in table.columns}
    documentation = columns_markdown()
    assert all(f"| {c.name} |" in documentation for t in TABLES for c in t.columns)


def test_the_planted_rows_are_there(frames):
    assert frames.rollouts["rollout"].tolist() == ["minimal/0", "minimal/1", "research/0", "research/1"]
    assert frames.rollouts["ended"].tolist() == ["finished", "failed", "finished", "left"]
    assert len(frames.rounds) == 3 + 1 + 4 + 3
    assert frames.calls.groupby("rollout").size().to_dict() == {"minimal/0": 3, "research/0": 2, "research/1": 5}
    assert frames.shown.groupby(["rollout", "verb"])["feature"].apply(list).to_dict() == {
        ("minimal/0", "search"): [60],
        ("research/0", "search"): [11, 12],
        ("research/1", "inspect"): [40, 50],
    }
    first = frames.activations[frames.activations["rollout"] == "research/0"].head(3)
    assert first[["rank", "feature", "value"]].values.tolist() == [[1, 40, 3.0], [2, 41, 2.0], [3, 42, 1.0]]
    state = frames.steering[["rollout", "round", "feature", "strength", "source"]].values.tolist()
    assert state == [
        ["research/0", 3, 11, 0.3, "self"],
        ["research/0", 4, 11, 0.3, "self"],
        ["research/1", 3, 50, 0.5, "self"],
    ]
    assert frames.labels == {60: "label 60", 11: "label 11", 12: "label 12", 40: "label 40", 50: "label 50"}
    assert frames.manifest["rounds"] == 4


def test_missing_is_na_and_never_zero(frames):
    search = frames.calls[frames.calls["verb"] == "search"]
    assert search["strength"].isna().all() and search["feature"].isna().all()
    assert frames.calls["verb"].isna().sum() == 1  # the unknown tool
    assert frames.rollouts["error"].isna().sum() == 3


def test_unfinished_damaged_and_failed_are_apart(frames):
    assert frames.unfinished[["rollout", "rounds_done"]].values.tolist() == [["minimal/2", 1]]
    assert frames.errors["rollout"].tolist() == ["minimal/1", "minimal/3"]
    assert "SteeringError" in frames.errors["problem"][0] and "line 2" in frames.errors["problem"][1]
    assert "minimal/1" not in frames.counted and len(frames.counted) == 3


def test_no_path_of_this_machine_gets_into_what_is_published(frames, run):
    assert str(run) not in " ".join([*frames.errors["problem"], *frames.errors["path"], *frames.unfinished["path"]])


def test_where_filters_all_frames_and_says_so(frames):
    cut = frames.where(condition="research")
    assert set(cut.calls["rollout"]) == {"research/0", "research/1"} and cut.filters == ("condition = research",)
    with pytest.raises(BadInput, match="no column 'colour'"):
        frames.where(colour="red")


def test_a_folder_without_transcripts_says_what_is_wanted(tmp_path):
    with pytest.raises(BadInput, match="give a run folder"):
        load(tmp_path)


def test_external_steering_is_state_and_no_action(tmp_path):
    story = Story("research", 0)
    story.force = [held(99, 0.6, "external")]
    story.say("Nothing odd here.").end().write(tmp_path)
    frames = load(tmp_path)
    assert frames.steering["source"].tolist() == ["external"] and len(frames.calls) == 0
    assert isinstance(frames.calls["strength"].dtype, pd.Float64Dtype)
