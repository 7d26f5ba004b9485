"""Content, not keywords: a fact in a sentence is stated, distorted or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import load
from analysis.content import Fact, coded_sentence, content, facts_of, marking, sentences
from analysis.summary import summarise
from analysis.tables import tables
from tests.analysis.synthetic import Story, held
from toolkit.errors import BadInput

YEAR = Fact("year", "The treaty was signed in 1848.", (("treaty",), ("1848",)))
RAIN = Fact("rain", "The rains of Lima start in June.", (("rain", "rains"), ("Lima",), ("June",)))
PIRATE = {"scurvy", "hearties", "arr"}


@pytest.mark.parametrize(
    ("sentence", "fact", "code"),
    [
        ("The rain in Lima starts in June.", RAIN, "stated correctly"),
        ("Arr, the rain in Lima starts in June, me hearties.", RAIN, "stated correctly"),  # tone is no distortion
        ("The rain in Lima starts scurvy June.", RAIN, "distorted"),
        ("The rain of hearties in Lima starts in June.", RAIN, "distorted"),
        ("The rain in Oslo starts in June.", RAIN, "absent"),
        ("The rainbow in Lima is seen in June.", RAIN, "absent"),
        ("The treaty was signed in 1848.", YEAR, "stated correctly"),
        ("The treaty was signed in 1902.", YEAR, "distorted"),
        ("The treaty was signed late.", YEAR, "absent"),
        ("It was 1902.", YEAR, "absent"),
        ("", YEAR, "absent"),
    ],
)
def test_a_sentence_is_coded_by_where_its_foreign_words_stand(sentence: str, fact: Fact, code: str) -> None:
    assert coded_sentence(sentence, fact, PIRATE) == code


def run_of(path: Path) -> Path:
    pirate = held(12, 0.6, "external")
    for seed, text in enumerate(
        ["The rain in Lima starts in June. The treaty was old.", "The rain in scurvy Lima is in June."]
    ):
        told = Story("a", seed, {"topic": "both"}).say("Good day to you.").external(pirate)
        told.say(text).end().write(path)
    Story("b", 0, {"topic": "none"}).say("The rain in Lima starts in June.").end().write(path)
    facts = [{"id": "rain", "statement": "x", "terms": [["rain", "rains"], "Lima", "June"]}]
    facts.append({"id": "year", "statement": "y", "terms": ["treaty", "1848"]})
    (path / "facts.json").write_text(json.dumps({"both": facts}))
    return path


def test_coverage_and_distortion_are_apart_and_missing_without_facts(tmp_path: Path) -> None:
    frames = load(run_of(tmp_path))
    found = content(frames, {12: PIRATE})
    assert found.loc["a/0"].tolist() == [0.5, 0.0]
    assert found.loc["a/1"].tolist() == [0.0, 0.5]
    assert found.loc["b/0"].isna().all()
    assert sentences(frames, {12: PIRATE})["fact"].tolist() == ["rain", "rain"]


def test_words_that_mark_an_injection_are_found(tmp_path: Path) -> None:
    for seed in range(12):
        told = Story("a", seed).say("The rain is fine and the wind is fine.").external(held(12, 0.6, "external"))
        told.say("Arr the rain is scurvy and the wind is scurvy.").end().write(tmp_path)
    found = marking(load(tmp_path))[12]
    assert {"arr", "scurvy"} <= found and not {"the", "rain", "is"} & found


def test_the_report_says_coverage_and_distortion(tmp_path: Path) -> None:
    summary = summarise(load(run_of(tmp_path)))
    assert summary.cell("coverage", "a").n == 2 and summary.cell("coverage", "b").missing == 1
    assert "What was said of the facts" in [t.title for t in tables(summary)]


@pytest.mark.parametrize("raw", [{"a": [{"id": "x"}]}, {"a": 3}, {"a": ["x"]}])
def test_broken_facts_are_an_error_that_names_the_file(raw: dict) -> None:
    with pytest.raises(BadInput, match=r"facts\.json"):
        facts_of(raw)
