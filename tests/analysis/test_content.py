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


def spoken(path: Path, marked: int, plain: int) -> Path:
    """Rollouts whose first round is about the wind and whose second is about rain, `marked` of them under a pirate."""
    for seed in range(marked + plain):
        told = Story("a", seed, {"topic": "both"}).say("The wind is fine and the wind is mild.")
        if seed < marked:
            told.external(held(12, 0.6, "external"))
        said = "Arr scurvy rain in Lima starts in June." if seed < marked else "The rain in Lima starts in June."
        told.say(said).end().write(path)
    facts = [{"id": "rain", "statement": RAIN.statement, "terms": [["rain", "rains"], "Lima", "June"]}]
    (path / "facts.json").write_text(json.dumps({"both": facts}))
    return path


def test_words_that_mark_an_injection_are_told_from_those_of_its_rounds(tmp_path: Path) -> None:
    found = marking(load(spoken(tmp_path, 12, 12)))[12]
    assert found == {"arr", "scurvy"}, "rain, Lima and June are what that round is about, injected or not"


@pytest.mark.parametrize(("marked", "plain"), [(12, 0), (1, 12)])
def test_without_the_same_round_under_nothing_or_in_one_rollout_alone_distortion_is_missing(
    tmp_path: Path, marked: int, plain: int
) -> None:
    frames = load(spoken(tmp_path, marked, plain))
    assert marking(frames) == {}
    assert content(frames)["distortion"].isna().sum() == marked
    assert content(frames)["coverage"].isna().sum() == marked


def test_a_word_of_the_fact_itself_is_not_foreign_to_it() -> None:
    assert coded_sentence("The rain in Lima starts in June.", RAIN, {"of", "in"}) == "stated correctly"
    assert coded_sentence("The rain in Lima scurvy in June.", RAIN, {"of", "scurvy"}) == "distorted"


def test_the_report_says_coverage_and_distortion(tmp_path: Path) -> None:
    Story("b", 0, {"topic": "none"}).say("The rain in Lima starts in June.").end().write(tmp_path)
    summary = summarise(load(spoken(tmp_path, 2, 2)))
    assert summary.cell("coverage", "a").n == 4 and summary.cell("coverage", "b").missing == 1
    assert "What was said of the facts" in [t.title for t in tables(summary)]


@pytest.mark.parametrize("raw", [{"a": [{"id": "x"}]}, {"a": 3}, {"a": ["x"]}])
def test_broken_facts_are_an_error_that_names_the_file(raw: dict) -> None:
    with pytest.raises(BadInput, match=r"facts\.json"):
        facts_of(raw)
