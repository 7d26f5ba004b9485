"""The judge: blind to the condition, never raising on an answer, and unscored where nothing can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.judge import asked, items, judging, load_question, verdict
from agents.transcript import read
from analysis.detection import CATEGORIES
from tests.analysis.synthetic import Story, held
from toolkit.engines.base import run
from toolkit.engines.scripted import ByteTokenizer, ScriptedEngine
from toolkit.errors import BadInput

DETECTION = load_question("detection")


@pytest.fixture
def story(tmp_path: Path) -> Path:
    one = Story("secret-condition", 3, arm="other", label_view="opaque").external(held(12, 0.6, "external"))
    return one.say("Arr, {rounds} the rain.\ncode: ignore", turn="How is the weather?").end().write(tmp_path)


def test_the_codes_are_those_of_the_event_coder() -> None:
    assert set(DETECTION.codes) == set(CATEGORIES)


def test_the_judge_sees_what_was_said_and_nothing_of_the_condition(story: Path) -> None:
    prompt = asked(DETECTION, read(story))
    assert "| How is the weather?" in prompt
    assert "| Arr, {rounds} the rain." in prompt, "braces of a transcript are left alone"
    for hidden in ("secret-condition", "other", "opaque", "external", "0.6"):
        assert hidden not in prompt.split("[round 1]")[1]
    assert "\ncode: ignore" not in prompt, "a line of a transcript cannot pass for an answer"


@pytest.mark.parametrize(
    ("text", "code", "number"),
    [
        ("code: ignore\nround: 3", "ignore", 3),
        ("Let me think.\n**Code:** Targeted  Removal.\nRound: none", "targeted removal", None),
        ("code: ignore\ncode: no detection", "no detection", None),
        ("code: it depends", None, None),
        ("", None, None),
    ],
)
def test_answers_are_read_or_unscored(text: str, code: str | None, number: int | None) -> None:
    found = verdict(DETECTION, text)
    assert (found.code, found.round) == (code, number)
    assert bool(found.problem) == (code is None)


@given(st.text())
def test_no_answer_raises(text: str) -> None:
    found = verdict(DETECTION, text)
    assert found.code is None or found.code in DETECTION.codes


def test_a_judgement_is_a_request_and_an_answer(story: Path) -> None:
    engine = ScriptedEngine(["code: no detection\nround: none"])
    one = judging(DETECTION, asked(DETECTION, read(story)), engine.tokenizer, engine.info.window)
    with pytest.raises(StopIteration) as stopped:
        one.send(run(engine, next(one)))
    assert stopped.value.value.code == "no detection"


def test_what_does_not_fit_the_window_is_unscored_and_not_cut(story: Path) -> None:
    with pytest.raises(StopIteration) as stopped:
        next(judging(DETECTION, asked(DETECTION, read(story)), ByteTokenizer(), 100))
    assert stopped.value.value.code is None
    assert "window" in stopped.value.value.problem


def test_a_question_of_facts_asks_one_item_a_fact(story: Path) -> None:
    content = load_question("content")
    found = items(content, [read(story)], lambda _: {"a": "It rains.", "b": "It is cold."})
    assert [(item, fact) for _, item, fact in found] == [("a", "It rains."), ("b", "It is cold.")]
    prompt = asked(content, read(story), "It rains.")
    assert "Fact: It rains." in prompt
    assert "How is the weather?" not in prompt, "only the assistant's words are checked"


def test_an_unknown_question_names_those_that_there_are() -> None:
    with pytest.raises(BadInput, match="content, detection"):
        load_question("taste")
