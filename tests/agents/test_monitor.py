"""The health monitor: deterministic, three-valued, and blind to the arm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import events as record
from agents.monitor import Verdict, health, judged, repetition
from agents.rollout import rollout
from tests.agents.plain import agent, dictionary, drive, engine, of, script, toolbox

PROSE = (
    "The river runs slow in the summer and quick in the spring. Boats come down from the hills with wool and salt, "
    "and the people of the town meet them at the old stone bridge, where there is always somebody who sings."
)


@pytest.mark.parametrize("text", [PROSE, "Hello.", "STEER(12, +0.3)", "ha ha ha", "no, no, no!", "-" * 30])
def test_ordinary_text_is_healthy(text: str) -> None:
    assert health(text, ["another text"]).health == "healthy"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "\u200b",
        "\x00 \u2060\ufeff",
        "arr " * 12,
        "a" * 60,
        "the sea and the ship " * 10,
        PROSE + " and the sea of salt" * 20,
    ],
)
def test_loops_and_silence_are_not(text: str) -> None:
    assert health(text).health == "unhealthy"


CHINESE = "河水夏天流得慢，春天流得快。船从山上下来，载着羊毛和盐，镇上的人在古老的石桥边迎接他们，那里总有人在唱歌。"


@pytest.mark.parametrize(
    "loop", ["我很好，谢谢。" * 12, "好的" * 20, "ありがとう" * 10, "สวัสดี" * 10, CHINESE + "很好" * 60]
)
def test_loops_in_scripts_without_spaces_are_seen(loop: str) -> None:
    assert health(loop).health == "unhealthy"
    assert health(CHINESE).health == "healthy" and repetition(CHINESE) < 0.1


@given(st.lists(st.sampled_from(["a", "b", "don’t", "٣", "x1,"]), max_size=60))
def test_repetition_is_counted_as_by_hand(said: list[str]) -> None:
    seen, again = set(), 0
    for place in range(len(said) - 3):
        again += (gram := tuple(said[place : place + 4])) in seen
        seen.add(gram)
    assert repetition("  ".join(said)) == pytest.approx(again / (len(said) - 3) if len(said) >= 24 else 0.0)


def test_saying_the_same_again_is_not_healthy() -> None:
    assert health(PROSE, ["x", PROSE]).health == "unhealthy"
    assert health(PROSE, [PROSE, "x"]).health == "healthy"
    assert health(PROSE + " ", [PROSE.replace(" ", "\n")]).health == "unhealthy"  # spacing does not hide it


def test_a_monitor_that_fails_is_not_healthy() -> None:
    """In the published harness a failed monitor counted as healthy."""

    def broken(_text: str, _earlier: object) -> Verdict:
        raise RuntimeError("no judge")

    assert judged(broken, PROSE, []) == Verdict("failed", "RuntimeError: no judge")
    on = engine(["a", "b"])
    events = drive(on, rollout(agent(on, monitor=broken), script(2, stop_when_unhealthy=1)))
    assert [note.verdict for note in of(events, record.Note)] == ["failed", "failed"]


@given(st.text(), st.lists(st.text(), max_size=2))
def test_any_text_gets_the_same_verdict_twice(text: str, earlier: list[str]) -> None:
    assert health(text, earlier) == health(text, earlier)
    assert 0 <= repetition(text) < 1


@pytest.mark.parametrize("key", ["key", "zero", "random"])
def test_every_arm_has_the_same_monitor(key: str) -> None:
    """The published placebo ran without one."""
    on = engine(["arr " * 12, "STEER(1, 0.3)", "fine"])
    on.attach(dictionary(key=key))
    events = drive(on, rollout(agent(on, toolbox=toolbox(dictionary=dictionary(key=key))), script(3, arm=key)))
    assert [note.verdict for note in of(events, record.Note)] == ["unhealthy", "healthy", "healthy"]


def test_stopping_is_asked_for_and_recorded() -> None:
    says = ["fine", "arr " * 12, "fine again", "arr " * 12, "yo " * 12, "never said"]
    on = engine(says)
    events = drive(on, rollout(agent(on), script(6, stop_when_unhealthy=2)))
    assert events[-1] == record.End(how="stopped", rounds=5)
    on = engine(says)
    assert drive(on, rollout(agent(on), script(6)))[-1] == record.End(how="finished", rounds=6)
