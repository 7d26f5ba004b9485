"""The record of one rollout on disk: append-only JSON lines of events, written whole and read with suspicion.

Knows no engine, no torch and no loop. A finished record is never changed; one cut-off last line is forgiven.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from agents.events import (
    SCHEMA,
    Call,
    End,
    Event,
    External,
    Given,
    InRound,
    Note,
    Reading,
    Rebase,
    Response,
    Start,
    Truncate,
    Turn,
    extended,
)
from toolkit.context import Context
from toolkit.errors import BadInput, SelfsteerError

__all__ = [
    "Call", "End", "Event", "External", "Given", "Note", "Reading", "Rebase", "Response", "Start", "Transcript",
    "Truncate", "Turn", "append", "difference", "keep", "read", "to_line", "with_timing",
]  # fmt: skip

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


@dataclass(frozen=True)
class Transcript:
    """The events of one file, in order. ends: the byte offset after each line. torn: a last line was cut off."""

    path: Path
    events: tuple[Event, ...]
    ends: tuple[int, ...]
    torn: bool = False

    @property
    def start(self) -> Start:
        if not self.events or not isinstance(self.events[0], Start):
            raise BadInput(f"{self.path} holds no whole line; remove it and the rollout is done anew")
        return self.events[0]

    @property
    def end(self) -> End | None:
        """How the rollout ended, or None if the record is unfinished."""
        return last if self.events and isinstance(last := self.events[-1], End) else None

    @cached_property
    def rounds(self) -> int:
        """Rounds with a response."""
        return sum(isinstance(event, Response) for event in self.events)

    def context(self, upto_round: int | None = None) -> Context:
        """The context as the rollout held it when round `upto_round` (default: the last) was over."""
        context = Context()
        for event in self.events:
            if isinstance(event, InRound) and upto_round is not None and event.round > upto_round:
                break
            context = extended(context, event)
        return context


def to_line(event: Event) -> bytes:
    """One line of a record, newline included: plain ASCII JSON. Raises BadInput on what JSON cannot hold, as NaN."""
    fields = event.model_dump(exclude={"event"} if event.timing else {"event", "timing"})
    data = {"event": event.event, **{key: value for key, value in fields.items() if value is not None}}
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise BadInput(f"{event.event} cannot be recorded: {error}; records hold text and finite numbers") from None


def append(path: str | Path, event: Event) -> None:
    """Write one event to the end of `path` and hand it to the system.

    The line is written whole or taken back. Raises BadInput for a start in a file that has content, anything else
    in a file that has none, or after a line that was cut off; SelfsteerError if the disk is full or cannot be written.
    """
    line = to_line(event)
    try:
        with open(path, "ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            _may_follow(Path(path), file, size, event)
            try:
                written = 0
                while written < len(line):
                    written += file.write(line[written:]) or 0
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise SelfsteerError(
            f"{path} could not be written ({error.strerror or error}); make room and run the same command again: "
            "what is whole in the file is kept"
        ) from error


def _may_follow(path: Path, file: Any, size: int, event: Event) -> None:
    if isinstance(event, Start) == bool(size):
        what = "already holds a rollout; a record is never written over" if size else "does not exist yet"
        raise BadInput(f"{path} {what}")
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            raise BadInput(f"{path} ends in a line that was cut off; cut it with keep(transcript, events) first")


def keep(transcript: Transcript, count: int) -> None:
    """Cut the file of `transcript` down to its first `count` events, so that a resumed rollout can be appended.

    Raises BadInput if the record is finished: a finished one is never touched.
    """
    if transcript.end is not None:
        raise BadInput(f"{transcript.path} is finished; a finished record is never changed")
    if count == 0:
        transcript.path.unlink()
        return
    with open(transcript.path, "rb+") as file:
        file.truncate(transcript.ends[count - 1])
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def read(path: str | Path) -> Transcript:
    """The transcript in `path`. One cut-off last line is dropped, and leaves the record unfinished.

    Raises BadInput, naming the line, for any other damage, another schema version, or events out of order.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BadInput(f"{path} could not be read ({error.strerror or error})") from error
    events: list[Event] = []
    ends: list[int] = []
    offset = 0
    torn = False
    for number, line in enumerate(lines, 1):
        last = number == len(lines)
        if last and not line:
            break
        try:
            data = json.loads(line, parse_constant=_no_constant, parse_float=_finite)
        except (ValueError, RecursionError):
            if last:
                torn = True
                break
            raise BadInput(f"{path}, line {number}: not JSON; the file was damaged or edited") from None
        event = _event(f"{path}, line {number}", data)
        _in_order(f"{path}, line {number}", events, event)
        offset += len(line) + (not last)
        events.append(event)
        ends.append(offset)
    return Transcript(path, tuple(events), tuple(ends), torn)


def _event(where: str, data: object) -> Event:
    if isinstance(data, Mapping) and data.get("event") == "start" and data.get("schema_version") != SCHEMA:
        raise BadInput(
            f"{where}: schema version {data.get('schema_version')!r} is not {SCHEMA}, the one that this version reads"
        )
    try:
        return _EVENT.validate_python(data, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{where}: not an event of a transcript: {place} {first['msg']}".rstrip()) from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is more than a float can hold")
    return number


def _in_order(where: str, before: list[Event], event: Event) -> None:
    if isinstance(event, Start) == bool(before):
        raise BadInput(f"{where}: a transcript begins with its one start event; this is {event.event!r}")
    if before and isinstance(before[-1], End):
        raise BadInput(f"{where}: {event.event!r} comes after the end of the rollout")


def difference(recorded: Event, made: Event) -> str:
    """In words, where two events differ, timing left out; "" if they are equal."""
    left, right = (json.loads(to_line(e.model_copy(update={"timing": {}}))) for e in (recorded, made))
    for key in [*left, *(k for k in right if k not in left)]:
        if left.get(key) != right.get(key):
            return f"{key} is {_short(left.get(key))} in the record and {_short(right.get(key))} now"
    return ""


def with_timing(event: Event, **timing: float | int | str) -> Event:
    """The event with more in its `timing`, such as wall_s."""
    return event.model_copy(update={"timing": {**event.timing, **timing}})


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
