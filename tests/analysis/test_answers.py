"""Answers to problems: right at first, right in the end, missing where none was set."""

from __future__ import annotations

from pathlib import Path

from analysis import load
from analysis.answers import answers
from analysis.factorial import design
from analysis.summary import summarise
from analysis.tables import tables
from tests.analysis.synthetic import Story

OSLO = {"help": "tools", "problem": "rain", "accept": ["Oslo"], "number": None}
SUM = {"help": "tools", "problem": "sum", "accept": [], "number": 4}


def test_the_first_and_the_last_answer_are_graded_without_their_calls(tmp_path: Path) -> None:
    Story("a", 0, OSLO).say("Lima.").say("STEER Oslo").call("steer", span=(0, 10)).end().write(tmp_path)
    Story("a", 1, OSLO).say("Oslo.").say("It is Oslo.").end().write(tmp_path)
    Story("a", 2, SUM).say("It is 4.").end().write(tmp_path)
    Story("a", 3, {"help": "tools"}).say("Oslo.").end().write(tmp_path)
    Story("a", 4, SUM).say("It is 4.").end("failed", error="x").write(tmp_path)
    frames = load(tmp_path)
    found = answers(frames)
    assert found["right_first"].tolist()[:3] == [0.0, 1.0, 1.0]
    assert found["right_last"].tolist()[:2] == [0.0, 1.0]
    assert found["right_last"].isna().tolist() == [False, False, True, True, True]
    assert found["right_first"].isna().tolist() == [False, False, False, True, True]
    assert "Answers to problems" in [t.title for t in tables(summarise(frames))]
    assert design(frames).shape[1] == 0, "which problem it was varies within a condition: no factor"
