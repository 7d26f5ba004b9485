"""Replaying a record: a fresh rollout is answered from its own transcript, and must say the same again.

Knows no engine and no file. It is how a rollout resumes, and how a finished one is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents import events as record
from agents.rollout import Answer, Measure, Rollout, Yielded
from agents.script import Hear
from agents.transcript import difference
from toolkit.engines.base import Completion, Generate
from toolkit.errors import BadInput
from toolkit.tools import Reading


@dataclass(frozen=True)
class Resumed:
    """Where a replayed rollout stands. kept: how many recorded events hold; what follows them in the file is dropped.

    pending: what the rollout yielded last, for the driver to do live; None if the record was replayed to its end.
    """

    kept: int
    pending: Yielded | None


def replay(run: Rollout, events: Sequence[record.Event]) -> Resumed:
    """Answer a fresh rollout's requests from recorded events, comparing what it makes of them with the record.

    Raises BadInput at the first event that comes out otherwise: the code, a prompt or the dictionary changed since.
    """
    at = 0
    pending = _next(run, None)
    while pending is not None and at < len(events):
        if isinstance(pending, Generate):
            response = _ahead(events[at:], record.Response)
            if response is None:
                if isinstance(events[at], record.End):  # failed on this request
                    return Resumed(len(events), None)
                return Resumed(at, pending)
            known = {*pending.context.steered(), pending.steering}
            steered = record.steered(response.steered, known)
            if steered is None:
                raise _changed(response, "its tokens ran under other steering than the rollout now asks for")
            answer: Answer = Completion(response.tokens, response.why, steered, response.logprobs)
        elif isinstance(pending, Measure):
            reading = _ahead(events[at:], record.Reading)
            if reading is None:
                raise _changed(events[at], "it has no reading, and the rollout now asks for one")
            fields = reading.model_dump(exclude={"event", "round", "timing"})
            answer = Reading(**fields)
        elif isinstance(pending, Hear):
            raise BadInput("of two that talk, one cannot be replayed without the other; run both again")
        else:
            if differs := difference(events[at], pending):
                raise _changed(events[at], differs)
            at, answer = at + 1, None
        pending = _next(run, answer)
    if at < len(events):
        raise _changed(events[at], "the rollout now ends before it")
    return Resumed(at, pending)


def _next(run: Rollout, answer: Answer) -> Yielded | None:
    try:
        return run.send(answer)
    except StopIteration:
        return None


def _ahead(events: Sequence[record.Event], kind: type[Any]) -> Any:
    """The next event of `kind` before another turn begins."""
    for event in events:
        if isinstance(event, kind):
            return event
        if isinstance(event, record.Turn | record.End):
            return None
    return None


def _changed(event: record.Event, how: str) -> BadInput:
    where = f"round {event.round}, {event.event}" if hasattr(event, "round") else event.event
    return BadInput(
        f"the record does not come out the same ({where}): {how}; the code, a prompt or the dictionary changed since "
        "then, so it cannot go on: begin a new output folder, or go back to the version that the record names"
    )
