"""The record of one rollout: typed events, append-only JSON lines, and what can be rebuilt from them.

Knows no engine and no torch; analysis reads the same lines. What is in a record and not in `timing` must come out
the same when the rollout is replayed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, TypeAdapter
from pydantic import ValidationError as _Invalid

from toolkit import tools
from toolkit.context import Context
from toolkit.engines.base import Why
from toolkit.errors import BadInput, SelfsteerError
from toolkit.steering import NO_STEERING, Scope, Source, Steering

SCHEMA = 1

How = Literal["finished", "left", "window", "failed", "stopped"]
Health = Literal["healthy", "unhealthy", "failed"]


def _plain(text: object) -> object:
    """Text without lone surrogates, which no UTF-8 file can hold; each becomes one "?", so spans still fit."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


def _to_steering(value: object) -> Steering:
    if isinstance(value, Steering):
        return value
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ValueError("steering is a list of interventions")
    try:
        return Steering.from_json(value)
    except (TypeError, BadInput) as error:
        raise ValueError(f"not a steering: {error}") from None


Text = Annotated[str, BeforeValidator(_plain)]
InForce = Annotated[Steering, PlainValidator(_to_steering), PlainSerializer(Steering.to_json)]


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    timing: dict[str, float | int | str] = Field(default_factory=dict)
    """How long it took and what was reused; a replay does not compare it."""


class _Round(_Event):
    round: int = Field(ge=1)
    """The round of the rollout, from 1."""


class DictionaryFacts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    key: str
    """Content hash of what steering writes; interventions name it. An arm has another one."""
    name: str
    labels: str
    """Hash of the labels as this agent sees them."""
    unit: str
    """In words: what strength 1.0 means."""
    n_features: int
    layer: int
    """The decoder block that INSPECT reads, from 0."""


class FramingFacts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    digest: str
    """Hash of the texts of narrative and theme."""
    system: Text
    """The system prompt as rendered."""


class Start(_Event):
    """The first line: all that must be equal for two rollouts to be the same one."""

    event: Literal["start"] = "start"
    schema_version: Literal[1] = 1
    scenario: str
    name: str
    """Name of the condition: the folder of its rollouts."""
    condition: dict[str, Any]
    """The parameters of the condition."""
    seed: int
    """Seed of the run."""
    rollout: int | str
    """Which rollout of the condition; with `seed` and `name` it names every random stream."""
    versions: dict[str, str] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    """Of model, dictionary, code, prompts: whatever the run pins."""
    model: dict[str, Any]
    dictionary: DictionaryFacts
    framing: FramingFacts
    arm: str
    """What the steering really is: target, zero, random, other, none."""
    label_view: str
    scope: Scope
    sampling: dict[str, Any]
    """temperature, top_p, max_tokens."""
    tools: dict[str, Any]
    """Verbs offered, and the limits of the toolbox."""
    measurement: dict[str, Any]
    """What INSPECT and the automatic reading measure: aggregation, how many features are recorded."""


class External(_Round):
    """The experimenter changed the steering, before this round's turn."""

    event: Literal["external"] = "external"
    before: InForce
    after: InForce
    why: Text = ""


class Rebase(_Round):
    """Scope `whole`: the context so far is computed anew under another steering, from position `start` on."""

    event: Literal["rebase"] = "rebase"
    start: int
    """The first position that changes; those before it (the attention sink) keep what they had."""
    steering: InForce


class Turn(_Round):
    """What was said to the model: results of its last calls, then the scenario's text."""

    event: Literal["turn"] = "turn"
    text: Text
    tokens: tuple[int, ...]
    """As appended, chat template included; in round 1 with the system prompt."""
    steering: InForce
    """Under which these tokens were computed (position 0 of a context never is)."""


class Reading(_Round):
    """The automatic INSPECT of the response: recorded, not shown. Written before the response that it measures."""

    event: Literal["reading"] = "reading"
    layer: int
    aggregation: Literal["last", "mean", "max"]
    tokens: int
    """How many tokens of the response were measured."""
    steered: str
    """Digest of the steering that they ran under."""
    features: tuple[int, ...]
    """The most active ones, highest first; only those above 0."""
    values: tuple[float, ...]
    """Their aggregated activations."""


class Response(_Round):
    """What the model generated."""

    event: Literal["response"] = "response"
    text: Text
    tokens: tuple[int, ...]
    """The stop token included, if there was one."""
    why: Why
    """Why it ended: stop, length (max_tokens), window."""
    steering: InForce
    """In force during the response: state, not action."""
    steered: dict[str, int]
    """Tokens of context and response computed under each steering, by its digest, as the engine counted them."""
    fenced: int = 0
    """Calls in code fences: not carried out."""
    mentions: int = 0
    """Calls in the middle of sentences, quotations or thoughts: not carried out."""
    logprobs: tuple[float, ...] | None = None


class ShownRow(BaseModel):
    """One line of a result, as it was shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    feature: int
    label: Text
    value: float
    source: Source | None = None


class Call(_Round):
    """One tool call: an action, with its one outcome, and the steering before and after it."""

    event: Literal["call"] = "call"
    order: int
    """Place among the calls of its response, from 1."""
    verb: tools.Verb | None = None
    """None if no tool of the theme has this name."""
    arguments: tuple[Text, ...]
    text: Text
    """As the model wrote it."""
    span: tuple[int, int]
    """Character offsets in the response's text."""
    outcome: tools.Outcome
    problem: str = ""
    """Why it is not ok, as a short code."""
    rows: tuple[ShownRow, ...] = ()
    values: dict[str, int | float | Text] = Field(default_factory=dict)
    """What the wording used: feature, strength, count, query, limit, source."""
    before: InForce
    after: InForce


class Note(_Round):
    """The verdict of a monitor on this round. A monitor that fails is `failed`, never `healthy`."""

    event: Literal["note"] = "note"
    about: str
    verdict: Health
    text: Text = ""


class End(_Event):
    """The last line: how it ended. A record without one is unfinished."""

    event: Literal["end"] = "end"
    how: How
    rounds: int
    """Rounds with a response."""
    error: Text | None = None


Event = Start | External | Rebase | Turn | Reading | Response | Call | Note | End
EVENTS: tuple[type[_Event], ...] = get_args(Event)
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def extended(context: Context, event: Event) -> Context:
    """The context after `event`. A rollout's context is the fold of its events by this function, live and rebuilt."""
    if isinstance(event, Turn):
        if not len(context):  # the first token is where attention rests; steering it would disturb every later one
            return context.append(event.tokens[:1], NO_STEERING).append(event.tokens[1:], event.steering)
        return context.append(event.tokens, event.steering)
    if isinstance(event, Response):
        return context.append(event.tokens, event.steering, "generated")
    if isinstance(event, Rebase):
        return context.under(event.steering, start=event.start)
    return context


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
            if isinstance(event, _Round) and upto_round is not None and event.round > upto_round:
                break
            context = extended(context, event)
        return context


def to_line(event: Event) -> bytes:
    """One line of a record, newline included: plain ASCII JSON, never NaN."""
    fields = event.model_dump(exclude={"event"} if event.timing else {"event", "timing"})
    data = {"event": event.event, **{key: value for key, value in fields.items() if value is not None}}
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode() + b"\n"


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
            data = json.loads(line, parse_constant=_no_constant)
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
    except _Invalid as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{where}: not an event of a transcript: {place} {first['msg']}".rstrip()) from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


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


def counts(steered: Mapping[Steering, int]) -> dict[str, int]:
    """Steered counts as they are recorded: by digest."""
    return {steering.digest: n for steering, n in steered.items() if n}


def steered(recorded: Mapping[str, int], known: Iterable[Steering]) -> dict[Steering, int] | None:
    """Recorded counts with their steerings again, out of `known`; None if one of them is not there."""
    by_digest = {s.digest: s for s in known}
    return {by_digest[d]: n for d, n in recorded.items()} if recorded.keys() <= by_digest.keys() else None


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
