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
    "text", ["", "  \n", "arr " * 12, "a" * 60, "the sea and the ship " * 10, PROSE + " and the sea of salt" * 20]
)
def test_loops_and_silence_are_not(text: str) -> None:
    assert health(text).health == "unhealthy"


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
