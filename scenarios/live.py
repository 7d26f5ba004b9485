"""One rollout on its way and the file that holds its record: events are written and readings measured as it goes.

Knows no engine and no other rollout: whoever drives it answers its requests.
"""

from __future__ import annotations

import time
from pathlib import Path

from agents.replay import replay
from agents.rollout import Measure, Rollout, Yielded
from agents.script import Hear, Turn
from agents.transcript import End, append, keep, read, with_timing
from toolkit.engines.base import Completion, Failure, Generate, Result
from toolkit.errors import BadInput, SelfsteerError
from toolkit.reading import measure
from toolkit.tools import Reading


class Live:
    """One rollout on its way, and the file that holds its record."""

    def __init__(self, path: Path, rounds: int) -> None:
        self.path, self.rounds = path, rounds
        self.answered = 0
        self.how = "unfinished"
        self._rollout: Rollout | None = None
        self._asked_at = 0.0
        self._wall_s = 0.0
        self._record = read(path) if path.exists() and path.stat().st_size else None
        self.ended = self._record.end if self._record is not None else None

    def begin(self, one: Rollout) -> Yielded | None:
        """Bring a fresh rollout to where its record stops; without a record, to its first wish."""
        self._rollout = one
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._record is None or not self._record.events:
            self.path.unlink(missing_ok=True)
            return next(one)
        try:
            resumed = replay(one, self._record.events)
        except BadInput as error:
            raise BadInput(f"{self.path}: {error}") from error
        self.answered = self._record.rounds
        keep(self._record, resumed.kept)
        return resumed.pending

    def again(self, one: Rollout) -> Yielded | None:
        """Begin it from nothing, whatever its record holds."""
        self._record = None
        self.answered = 0
        return self.begin(one)

    def upto_request(self, yielded: Yielded | None) -> Generate | Hear | None:
        """Write events and measure until somebody else must answer; None when it is over."""
        while yielded is not None:
            if isinstance(yielded, Generate | Hear):
                self._asked_at = time.perf_counter()
                return yielded
            if isinstance(yielded, Measure):
                try:
                    reading = _measured(yielded)
                except (SelfsteerError, RuntimeError) as error:  # the rollout ends as failed, the others go on
                    yielded = self.throw(error)
                else:
                    yielded = self._send(reading)
                continue
            if yielded.event == "response":
                yielded = with_timing(yielded, wall_s=round(self._wall_s, 4))
            append(self.path, yielded)
            if isinstance(yielded, End):
                self.how = yielded.how
            yielded = self._send(None)
        return None

    def answer(self, result: Result | Failure) -> Yielded | None:
        """Hand it what the engine gave; what is no completion ends it as failed."""
        self._wall_s = time.perf_counter() - self._asked_at
        if isinstance(result, Completion):
            self.answered += 1
            return self._send(result)
        if isinstance(result, Failure):
            return self.throw(result.error)
        return self.throw(SelfsteerError(f"a Generate was answered by {type(result).__name__}"))

    def hear(self, turn: Turn | None) -> Yielded | None:
        """What the other says, or None: it says nothing more."""
        return self._send(turn)

    def throw(self, error: Exception) -> Yielded | None:
        """What it waits for cannot be had: it ends as failed, with this error."""
        if self._rollout is None:
            raise SelfsteerError("a rollout was answered before it began")
        return self._rollout.throw(error)

    def _send(self, answer: Completion | Reading | Turn | None) -> Yielded | None:
        if self._rollout is None:
            raise SelfsteerError("a rollout was answered before it began")
        try:
            return self._rollout.send(answer)
        except StopIteration:
            return None


def _measured(wish: Measure) -> Reading:
    residuals = wish.completion.residuals
    if residuals is None:
        raise SelfsteerError("the engine gave no residuals to measure; use an engine that captures them")
    return measure(wish.dictionary, residuals, wish.aggregation, wish.k, wish.steered)
