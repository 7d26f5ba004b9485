"""A rollout that goes on from a conversation made up beforehand is the rollout that had it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents import events as record
from agents import transcript
from agents.replay import replay
from agents.rollout import Measure, rollout
from agents.script import Script, Turn
from tests.scenarios import driving
from toolkit.context import Context
from toolkit.engines.base import Generate, run
from toolkit.reading import measure
from toolkit.steering import Intervention, Steering

ENGINE = driving.engine(lambda request: f"I say {len(request.context)}.")
AGENT = replace(driving.condition("c", ENGINE).agent, record_k=0)
ENGINE.attach(AGENT.toolbox.dictionary)
PUSH = Steering.of(Intervention(AGENT.toolbox.dictionary.key, 3, 0.5, source="external"))


def events_of(script: Script) -> list[Any]:
    """Drive one rollout against the scripted engine."""
    out, answer = [], None
    loop = rollout(AGENT, script)
    try:
        while True:
            yielded = loop.send(answer)
            answer = None
            if isinstance(yielded, Generate):
                answer = run(ENGINE, yielded)
            elif isinstance(yielded, Measure):
                y, residuals = yielded, yielded.completion.residuals
                answer = measure(y.dictionary, residuals, y.aggregation, y.k, y.steered)
            else:
                out.append(yielded)
    except StopIteration:
        return out


def script(turns: list[str], given: record.Given | None = None) -> Script:
    return Script("test", "c", 0, 0, [Turn(t) for t in turns], given=given)


def responses(events: list[Any]) -> list[record.Response]:
    return [e for e in events if isinstance(e, record.Response)]


def folded(events: list[Any]) -> Context:
    context = Context()
    for event in events:
        context = record.extended(context, event)
    return context


def test_what_is_given_is_in_the_record_and_comes_back_from_it(tmp_path: Path) -> None:
    context = Context().append([1]).append([5, 6], PUSH).append([7, 8, 9], PUSH, "generated")
    events = events_of(script(["Continue."], record.Given.of(context, closed=False)))
    for event in events:
        transcript.append(tmp_path / "0000.jsonl", event)
    again = transcript.read(tmp_path / "0000.jsonl")
    assert again.events == tuple(events)
    assert again.context().segments[: len(context.segments)] == context.segments


def test_going_on_from_what_a_rollout_held_is_that_rollout() -> None:
    whole = events_of(script(["Hello.", "Continue.", "Continue."]))
    first = events_of(script(["Hello."]))
    held = record.Given.of(folded(first), closed=responses(first)[-1].why == "stop")
    rest = events_of(script(["Continue.", "Continue."], held))
    assert list(folded(rest).pairs()) == list(folded(whole).pairs())


def test_a_rollout_that_was_given_a_conversation_replays() -> None:
    context = Context().append([1]).append([5, 6], PUSH)
    plan = script(["Continue.", "Continue."], record.Given.of(context, closed=True))
    events = events_of(plan)
    assert replay(rollout(AGENT, plan), events).pending is None
    other = script(["Continue.", "Continue."], record.Given.of(context.under(Steering(), 1), closed=True))
    with pytest.raises(Exception, match="given"):
        replay(rollout(AGENT, other), events)


def test_a_reply_that_was_cut_off_is_closed_by_the_next_turn() -> None:
    context = Context().append([1]).append([7, 8], author="generated")
    turns = {}
    for closed in (True, False):
        events = events_of(script(["Continue."], record.Given.of(context, closed)))
        turns[closed] = next(e for e in events if isinstance(e, record.Turn))
        assert turns[closed].tokens == AGENT.tokenizer.user_turn("Continue.", closed)
    assert turns[True].tokens != turns[False].tokens
