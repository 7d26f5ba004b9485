"""The one loop: a generator that yields what it wants done and what is to be recorded; a driver does both.

Knows no engine, no file and no clock. The same code runs alone, hundreds abreast, or against a transcript.

    driver                         rollout
    next(...)                  ->  record.Start, record.Turn ...   write it, then next(...)
    next(...)                  ->  Generate(...)                   have the engine do it, then send(Completion)
    send(completion)           ->  Measure(...)                    toolkit.reading.measure, then send(Reading)
    next(...)                  ->  Hear(...)                       where two talk: send(Turn), or None at the end
    throw(error)               ->  record.End(how="failed")        a request that failed ends the rollout
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from agents import events as record
from agents.monitor import judged
from agents.parse import parse_all, prose
from agents.recorded import call_of, reading_of, start_of
from agents.script import Agent, Aggregation, Hear, Round, Script, Turn
from toolkit.context import Context
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.base import Completion, Generate, check_steered
from toolkit.errors import BadInput
from toolkit.steering import NO_STEERING, Steering
from toolkit.tools import Call, Reading, carry_out_all

SINK = 1  # positions at the start that no change of steering touches: the attention sink


@dataclass(frozen=True)
class Measure:
    """Activations of the response of `completion`: the k most active features of `dictionary`, aggregated over it."""

    completion: Completion
    dictionary: FeatureDictionary
    aggregation: Aggregation
    k: int
    steered: str  # digest of the steering under which the response was computed


Yielded = Generate | Measure | Hear | record.Event
Answer = Completion | Reading | Turn | None
Rollout = Generator[Yielded, Answer, None]


class _RequestFailed(Exception):
    """What the driver threw in; ends the rollout as failed."""


def rollout(agent: Agent, script: Script) -> Rollout:
    """Run one rollout; see the module's docstring for what a driver does with what it yields.

    A request that failed, and steering that was not what the plan says, end it as `failed`; nothing goes on unsteered.
    """
    how: record.How
    error: str | None = None
    yield start_of(agent, script)
    loop = _Loop(agent, script)
    try:
        how = yield from loop.run()
    except _RequestFailed as failed:
        how, error = "failed", str(failed)
    yield record.End(how=how, rounds=loop.rounds, error=error)


class _Loop:
    """The state of one rollout: its context, its steering, and how far it is."""

    def __init__(self, agent: Agent, script: Script) -> None:
        self.agent = agent
        self.script = script
        self.toolbox = replace(agent.toolbox, verbs=agent.framing.verbs)
        self.context = Context()
        self.outside = NO_STEERING  # in force on a model whose own tools act on another
        self.rounds = 0
        self.texts: list[str] = []
        self.unhealthy = 0

    @property
    def force(self) -> Steering:
        """What is in force on the model itself."""
        return self.toolbox.steering if self.agent.own is None else self.outside

    def run(self) -> Generator[Yielded, Answer, record.How]:
        turns = iter(self.script.turns)
        results = ""
        closed = True
        told: Round | None = None
        if self.script.given is not None:
            yield from self._add(self.script.given)
            closed = self.script.given.closed
        while True:
            try:
                following = turns.send(told) if isinstance(turns, Generator) else next(turns)
            except StopIteration:
                return "finished"
            turn = (yield from self._hear(following)) if isinstance(following, Hear) else following
            if turn is None:
                return "finished"
            number = self.rounds + 1
            if turn.forget and self.context:
                yield from self._add(record.Truncate(round=number, dropped=len(self.context)))
                results, closed = "", True
            text = "\n\n".join(part for part in (results, turn.text) if part)
            tokens = self._tokens(text, closed)
            if len(self.context) + len(tokens) >= self.agent.model.window:
                return "window"
            if turn.change is not None:
                yield from self._external(number, turn)
            steering = self.force
            yield from self._add(record.Turn(round=number, text=text, tokens=tokens, steering=steering))
            completion, reading = yield from self._answer(number)
            response, calls, said = self._read(number, completion)
            if reading is not None:
                yield reading_of(number, reading)
            yield from self._add(response)
            self.rounds = number
            shown = reading if self.agent.own is None else turn.reading
            self.toolbox, receipts = carry_out_all(replace(self.toolbox, reading=shown), calls)
            for order, receipt in enumerate(receipts, 1):
                yield call_of(number, order, receipt)
            yield from self._rebase(number, steering)
            yield self._judge(number, response.text)
            if any(r.call.verb == "leave" and r.outcome == "ok" for r in receipts):
                return "left"
            if self.script.stop_when_unhealthy and self.unhealthy >= self.script.stop_when_unhealthy:
                return "stopped"
            if completion.why == "window":
                return "window"
            results = self.agent.framing.theme.word(receipts)
            closed = completion.why == "stop"
            held = self.toolbox.steering
            told = Round(number, response.text, said, completion.why, tuple(receipts), reading, held)

    def _hear(self, wish: Hear) -> Generator[Yielded, Answer, Turn | None]:
        """What the other says; None if it says nothing more."""
        try:
            turn = yield wish
        except Exception as error:  # whatever became of the other
            raise _RequestFailed(f"{type(error).__name__}: {error}") from error
        if turn is not None and not isinstance(turn, Turn):
            raise _RequestFailed(f"TypeError: a Hear was answered by {type(turn).__name__}, not by a Turn")
        return turn

    def _tokens(self, text: str, closed: bool) -> tuple[int, ...]:
        tokenizer = self.agent.tokenizer
        return tokenizer.user_turn(text, closed) if self.context else tokenizer.opening(self.agent.system, text)

    def _add(self, event: record.Event) -> Generator[record.Event, Answer, None]:
        self.context = record.extended(self.context, event)
        yield event

    def _external(self, number: int, turn: Turn) -> Generator[record.Event, Answer, None]:
        before = self.force
        after = turn.change(before) if turn.change else before
        if any(i.source == "self" for i in after.without(*before)):
            raise BadInput(f"round {number}: a scenario's change of steering has source external, not self")
        if self.agent.own is None:
            self.toolbox = replace(self.toolbox, steering=after)
        else:
            self.outside = after
        yield record.External(round=number, before=before, after=after, why=turn.why)
        yield from self._rebase(number, before)

    def _rebase(self, number: int, before: Steering) -> Generator[record.Event, Answer, None]:
        """Under scope `whole`, a change of steering since `before` holds for the context so far as well."""
        steering = self.force
        if self.agent.framing.scope == "whole" and steering != before and len(self.context) > SINK:
            yield from self._add(record.Rebase(round=number, start=SINK, steering=steering))

    def _answer(self, number: int) -> Generator[Yielded, Answer, tuple[Completion, Reading | None]]:
        agent, toolbox, script = self.agent, self.toolbox, self.script
        own, steering = agent.own or toolbox.dictionary, self.force
        shown = toolbox.inspect_k if agent.own is None and "inspect" in toolbox.verbs else 0
        k = max(agent.record_k, shown)
        stream = (script.seed, script.name, script.rollout, number, "sample")
        request = Generate(
            self.context,
            replace(agent.sampling, stream=stream),
            steering,
            own.key if k else None,
            agent.logprobs,
        )
        try:
            completion = yield request
            if not isinstance(completion, Completion):
                raise TypeError(f"a Generate was answered by {type(completion).__name__}, not by a Completion")
            check_steered(self.context, completion, steering)
            if not k or not completion.tokens:
                return completion, None
            reading = yield Measure(completion, own, agent.aggregation, k, steering.digest)
            if not isinstance(reading, Reading):
                raise TypeError(f"a Measure was answered by {type(reading).__name__}, not by a Reading")
        except Exception as error:  # whatever the driver threw in: an engine can fail in its own ways
            raise _RequestFailed(f"{type(error).__name__}: {error}") from error
        return completion, reading

    def _read(self, number: int, completion: Completion) -> tuple[record.Response, tuple[Call, ...], str]:
        text = self.agent.tokenizer.decode(completion.tokens).encode("utf-8", "replace").decode()
        parsed = parse_all(text, self.agent.framing.theme)
        response = record.Response(
            round=number,
            text=text,
            tokens=completion.tokens,
            why=completion.why,
            steering=self.force,
            steered=record.counts(completion.steered),
            fenced=parsed.fenced,
            mentions=parsed.mentions,
            logprobs=completion.logprobs,
            timing={"reused": completion.reused},
        )
        return response, parsed.calls, prose(text, parsed.calls)

    def _judge(self, number: int, text: str) -> record.Note:
        verdict = judged(self.agent.monitor, text, self.texts)
        self.texts.append(text)
        self.unhealthy = self.unhealthy + 1 if verdict.health == "unhealthy" else 0
        return record.Note(round=number, about="health", verdict=verdict.health, text=verdict.why)
