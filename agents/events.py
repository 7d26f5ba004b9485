"""What happens in a rollout, as typed events: all that is recorded, and the context that follows from it.

Knows no file, no engine and no loop. What is in an event and not in its `timing` must come out the same when the
rollout is replayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, model_validator

from toolkit import tools
from toolkit.context import Author, Context, Segment
from toolkit.engines.base import Why
from toolkit.errors import BadInput
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


class EventBase(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    timing: dict[str, float | int | str] = Field(default_factory=dict)
    """How long it took and what was reused; a replay does not compare it."""


class InRound(EventBase):
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


class Start(EventBase):
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


class GivenSegment(BaseModel):
    """Tokens of a conversation that was made up beforehand, with the steering under which they are computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[int, ...]
    steering: InForce
    author: Author


class Given(EventBase):
    """The conversation before the first turn, where the rollout goes on from one: who said it is in its segments."""

    event: Literal["given"] = "given"
    segments: tuple[GivenSegment, ...]
    closed: bool
    """Whether its last response ended by its own stop token."""

    @classmethod
    def of(cls, context: Context, closed: bool) -> Given:
        made = (GivenSegment(tokens=s.tokens, steering=s.steering, author=s.author) for s in context.segments)
        return cls(segments=tuple(made), closed=closed)


class External(InRound):
    """The experimenter changed the steering, before this round's turn."""

    event: Literal["external"] = "external"
    before: InForce
    after: InForce
    why: Text = ""


class Rebase(InRound):
    """Scope `whole`: the context so far is computed anew under another steering, from position `start` on."""

    event: Literal["rebase"] = "rebase"
    start: int
    """The first position that changes; those before it (the attention sink) keep what they had."""
    steering: InForce


class Truncate(InRound):
    """The history was dropped before this round's turn, which tells the system prompt anew. Steering stays."""

    event: Literal["truncate"] = "truncate"
    dropped: int
    """How many tokens the context held."""


class Turn(InRound):
    """What was said to the model: results of its last calls, then the scenario's text."""

    event: Literal["turn"] = "turn"
    text: Text
    tokens: tuple[int, ...]
    """As appended, chat template included; in round 1, and after a truncation, with the system prompt."""
    steering: InForce
    """Under which these tokens were computed (position 0 of a context never is)."""


class Reading(InRound):
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

    @model_validator(mode="after")
    def _paired(self) -> Reading:
        if len(self.features) != len(self.values):
            raise ValueError(f"{len(self.features)} features have {len(self.values)} values")
        return self


class Response(InRound):
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


class Call(InRound):
    """One tool call: an action, with its one outcome, and the steering before and after it."""

    event: Literal["call"] = "call"
    order: int
    """Place among the calls of its response, from 1."""
    verb: tools.Verb | None = None
    """None if no tool of the theme has this name."""
    arguments: tuple[Text, ...]
    """What stood between the brackets, cut at the commas."""
    text: Text
    """As the model wrote it."""
    span: tuple[int, int]
    """Character offsets in the response's text."""
    outcome: tools.Outcome
    problem: str = ""
    """Why it is not ok, as a short code."""
    rows: tuple[ShownRow, ...] = ()
    """The lines of its result, as they were shown."""
    values: dict[str, int | float | Text] = Field(default_factory=dict)
    """What the wording used: feature, strength, count, query, limit, source."""
    before: InForce
    after: InForce


class Note(InRound):
    """The verdict of a monitor on this round. A monitor that fails is `failed`, never `healthy`."""

    event: Literal["note"] = "note"
    about: str
    verdict: Health
    text: Text = ""


class End(EventBase):
    """The last line: how it ended. A record without one is unfinished."""

    event: Literal["end"] = "end"
    how: How
    rounds: int
    """Rounds with a response."""
    error: Text | None = None


Event = Start | Given | External | Rebase | Truncate | Turn | Reading | Response | Call | Note | End


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
    if isinstance(event, Truncate):
        return Context()
    if isinstance(event, Given):
        return Context(tuple(Segment(s.tokens, s.steering, s.author) for s in event.segments))
    return context


def counts(steered: Mapping[Steering, int]) -> dict[str, int]:
    """Steered counts as they are recorded: by digest."""
    return {steering.digest: n for steering, n in steered.items() if n}


def steered(recorded: Mapping[str, int], known: Iterable[Steering]) -> dict[Steering, int] | None:
    """Recorded counts with their steerings again, out of `known`; None if one of them is not there."""
    by_digest = {s.digest: s for s in known}
    return {by_digest[d]: n for d, n in recorded.items()} if recorded.keys() <= by_digest.keys() else None
