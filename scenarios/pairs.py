"""Pairs of rollouts that talk with each other: what one said, and set, is what the other hears next.

Each has a transcript of its own, under the same number. A pair that was cut short is run again from its beginning:
the random streams are its own, so it comes out the same. Knows no scenario.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agents.rollout import Yielded, rollout
from agents.script import Hear, Round, Turn
from scenarios.condition import Condition
from scenarios.folder import begin, locked, path_of, write_labels
from scenarios.live import Live
from scenarios.progress import Outcome, Progress
from scenarios.run import that_fit
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.base import Completion, Engine
from toolkit.errors import BadInput, SelfsteerError
from toolkit.steering import NO_STEERING, Steering

ABREAST = 32
Relay = Callable[[Round, int], Turn]


@dataclass(frozen=True)
class Side:
    """One of the two. hears: how it is told the other's round, and the how-many-th of its own turns that makes.

    Its script begins with a Turn or a Hear and then only hears. dictionaries: all whose directions may be in force on
    it, or whose activations are read from it.
    """

    condition: Condition
    engine: Engine
    hears: Relay
    dictionaries: tuple[FeatureDictionary, ...]


Pair = tuple[Side, Side]


def relayed(text: str, other: Round) -> Turn:
    """A turn with `text`, under what the other's tools hold, INSPECT showing what was active in the other."""
    held = other.steering
    return Turn(text, lambda now: set_by_partner(now, held), "partner", reading=other.reading)


def set_by_partner(now: Steering, held: Steering) -> Steering:
    """What is in force once the partner holds exactly `held`; what others set stays."""
    return now.without(*now.by("partner")).with_(*(replace(i, source="partner") for i in held))


def run_pairs(
    pairs: Sequence[Pair],
    seeds: int,
    out: Path,
    manifest: Mapping[str, Any],
    *,
    abreast: int = ABREAST,
    quiet: bool = False,
) -> Outcome:
    """Run every pair `seeds` times into `out`. Both rollouts of a pair count for `rounds` each, and end together.

    If one fails, the other fails; if one leaves or its window is full, the other finishes. Raises BadInput as run does.
    """
    sides = [side for pair in pairs for side in pair]
    names = [side.condition.name for side in sides]
    if seeds < 1 or not names or len(set(names)) != len(names):
        raise BadInput(f"{seeds} seeds of {', '.join(names) or 'no'} sides; use at least 1, and sides named apart")
    with locked(out):
        for side in sides:
            for dictionary in side.dictionaries:
                side.engine.attach(dictionary)
        begin(out, manifest)
        write_labels(out, sides[0].condition.agent.toolbox.dictionary)
        abreast = _that_fit(pairs, min(abreast, len(pairs) * seeds), quiet)
        progress = Progress(len(sides) * seeds, sum(s.condition.rounds for s in sides) * seeds, quiet)
        outcome = Outcome()
        begun = time.perf_counter()
        with progress:
            _Table(out, progress, outcome).drive(iter((p, n) for n in range(seeds) for p in pairs), abreast)
        outcome.tokens, outcome.wall_s = progress.tokens, time.perf_counter() - begun
    return outcome


def _that_fit(pairs: Sequence[Pair], abreast: int, quiet: bool) -> int:
    """How many pairs go abreast: as many of these as every engine says fit its memory."""
    sides = [side for pair in pairs for side in pair]
    for engine in {id(side.engine): side.engine for side in sides}.values():
        there = [side.condition for side in sides if side.engine is engine]
        each = max(sum(side.engine is engine for side in pair) for pair in pairs)
        abreast = max(1, that_fit(engine, there, each * abreast, quiet) // each)
    return abreast


@dataclass
class _Talk:
    """A pair on its way. heard: for each side, what the other said and it has not been told yet."""

    sides: Pair
    lives: tuple[Live, Live]
    waiting: list[bool] = field(default_factory=lambda: [False, False])
    heard: list[Round | None] = field(default_factory=lambda: [None, None])
    held: list[Steering] = field(default_factory=lambda: [NO_STEERING, NO_STEERING])
    over: list[bool] = field(default_factory=lambda: [False, False])


class _Table:
    """All talks that are going on, and whose answer is awaited from which engine."""

    def __init__(self, out: Path, progress: Progress, outcome: Outcome) -> None:
        self.out, self.progress, self.outcome = out, progress, outcome
        self.asked: dict[tuple[int, int], tuple[_Talk, int]] = {}
        self.engines: dict[int, Engine] = {}

    def drive(self, coming: Iterator[tuple[Pair, int]], abreast: int) -> None:
        try:
            self._start(coming, abreast)
            while self.asked:
                answered = [(key, *one) for key, engine in self.engines.items() for one in engine.poll()]
                if not answered:
                    raise SelfsteerError(f"the engines lost {len(self.asked)} requests; run the same command again")
                for key, ticket, result in answered:
                    if (waited := self.asked.pop((key, ticket), None)) is None:
                        continue
                    talk, side = waited
                    if isinstance(result, Completion):
                        self.progress.responded(len(result.tokens))
                    self._settle(talk, side, talk.lives[side].answer(result))
                self._start(coming, abreast)
        finally:
            for key, ticket in self.asked:
                self.engines[key].cancel(ticket)

    def _start(self, coming: Iterator[tuple[Pair, int]], abreast: int) -> None:
        while len(self.asked) < abreast and (following := next(coming, None)) is not None:
            sides, number = following
            first, second = (Live(path_of(self.out, s.condition.name, number), s.condition.rounds) for s in sides)
            if first.ended is not None and second.ended is not None:
                for live in (first, second):
                    self.outcome.before += 1
                    self.outcome.failed_before += live.ended is not None and live.ended.how == "failed"
                    self.progress.ended("before", live.rounds)
                continue
            talk = _Talk(sides, (first, second))
            for side, live in enumerate(talk.lives):
                condition = sides[side].condition
                self._settle(talk, side, live.again(rollout(condition.agent, condition.script(number))))

    def _settle(self, talk: _Talk, side: int, yielded: Yielded | None) -> None:
        """Go on with one side until it waits for its engine or for the other; then see who can hear whom."""
        live = talk.lives[side]
        request = live.upto_request(yielded)
        if request is None:
            talk.over[side] = True
            self.outcome.ended[live.how] = self.outcome.ended.get(live.how, 0) + 1
            self.progress.ended(live.how, live.rounds - live.answered)
        elif isinstance(request, Hear):
            talk.waiting[side] = True
            talk.heard[1 - side] = request.told or talk.heard[1 - side]
        else:
            engine = talk.sides[side].engine
            self.engines[id(engine)] = engine
            self.asked[id(engine), engine.submit(request)] = (talk, side)
        for hearer in (0, 1):
            if talk.waiting[hearer]:
                self._tell(talk, hearer)

    def _tell(self, talk: _Talk, hearer: int) -> None:
        """Let a side that waits hear what there is: the other's round, that there is no more, or its failure."""
        live, other, said = talk.lives[hearer], talk.lives[1 - hearer], talk.heard[hearer]
        enough = live.answered >= live.rounds
        if not enough and said is None and not talk.over[1 - hearer]:
            return  # the other is still speaking
        talk.waiting[hearer] = False
        if not enough and said is not None:
            turn = talk.sides[hearer].hears(said, live.answered)
            if said.steering == talk.held[hearer]:  # nothing was changed, so nothing is recorded as changed
                turn = replace(turn, change=None, why="")
            talk.held[hearer], talk.heard[hearer] = said.steering, None
            following = live.hear(turn)
        elif not enough and other.how == "failed":
            following = live.throw(SelfsteerError("the rollout that it talked with failed"))
        else:
            following = live.hear(None)
        self._settle(talk, hearer, following)
