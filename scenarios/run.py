"""The composition root: conditions x seeds onto one engine, all at once; what happened goes to disk as it happens.

The same call on the same folder goes on where it stopped: finished rollouts are left alone, unfinished ones are
replayed from their record and continued. Knows no scenario: a condition brings an agent and a script.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.replay import replay
from agents.rollout import Agent, Measure, Rollout, Script, Yielded, rollout
from agents.transcript import End, append, keep, read, with_timing
from scenarios.folder import begin, locked, manifest, path_of, write_json, write_labels
from scenarios.progress import Outcome, Progress
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.base import Completion, Engine, Failure, Generate
from toolkit.errors import BadInput, SelfsteerError
from toolkit.reading import measure
from toolkit.tools import Reading

__all__ = ["Condition", "manifest", "path_of", "run"]

ABREAST = 64


@dataclass(frozen=True)
class Condition:
    """A scenario with its parameters: an agent, and the script of the rollout with a given number.

    parameters: whatever tells this condition from others, for the manifest and for each transcript's first line.
    rounds: how many a rollout has at most, for the time left. also: dictionaries whose directions the experimenter
    adds, beside the agent's own.
    """

    name: str
    agent: Agent
    script: Callable[[int], Script]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 1
    also: tuple[FeatureDictionary, ...] = ()


# ---------------------------------------------------------------------- the run


def run(
    conditions: Sequence[Condition],
    seeds: int,
    engine: Engine,
    out: Path,
    manifest: Mapping[str, Any],
    *,
    abreast: int = ABREAST,
    quiet: bool = False,
    labels: FeatureDictionary | None = None,
    beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> Outcome:
    """Run every condition `seeds` times into `out`, `abreast` rollouts at once. Raises BadInput for a folder of another
    run, or of this one under changed code, model, dictionary or prompts.

    labels: whose labels go into labels.json (default: those of the first condition). beside: other JSON files by name,
    which readers of the run need."""
    if seeds < 1:
        raise BadInput(f"{seeds} seeds give no rollout; use at least 1")
    names = [c.name for c in conditions]
    if len(set(names)) != len(names) or not names:
        raise BadInput(f"conditions must be named apart and there must be one; got {', '.join(names) or 'none'}")
    with locked(out):
        for condition in conditions:  # before anything is written: one that does not fit must not claim the folder
            for dictionary in (condition.agent.toolbox.dictionary, *condition.also):
                engine.attach(dictionary)
        begin(out, manifest)
        write_labels(out, labels or conditions[0].agent.toolbox.dictionary)
        for name, whole in (beside or {}).items():
            write_json(out / name, whole)
        waiting = [(c, seed) for seed in range(seeds) for c in conditions]
        progress = Progress(len(waiting), sum(c.rounds for c, _ in waiting), quiet)
        outcome = Outcome()
        begun = time.perf_counter()
        with progress:
            _drive(iter(waiting), engine, out, abreast, progress, outcome)
        outcome.tokens, outcome.wall_s = progress.tokens, time.perf_counter() - begun
    return outcome


def _drive(
    waiting: Iterator[tuple[Condition, int]],
    engine: Engine,
    out: Path,
    abreast: int,
    progress: Progress,
    outcome: Outcome,
) -> None:
    """Keep the engine full: start a rollout for every one that ends, resume whichever is answered."""
    asked: dict[int, _Live] = {}

    def settle(live: _Live, yielded: Yielded | None) -> bool:
        """Write events and measure until an engine request stands; True if the rollout goes on."""
        request = live.upto_request(yielded)
        if request is None:
            outcome.ended[live.how] = outcome.ended.get(live.how, 0) + 1
            progress.ended(live.how, live.rounds - live.answered)
            return False
        asked[engine.submit(request)] = live
        return True

    def start() -> None:
        while len(asked) < abreast:
            following = next(waiting, None)
            if following is None:
                return
            live = _Live(path_of(out, following[0].name, following[1]), following[0].rounds)
            if live.ended is not None:
                outcome.before += 1
                outcome.failed_before += live.ended.how == "failed"
                progress.ended("before", following[0].rounds)
                continue
            pending = live.begin(rollout(following[0].agent, following[0].script(following[1])))
            progress.spare(live.answered)
            settle(live, pending)

    try:
        start()
        while asked:
            finished = engine.poll()
            if not finished:
                raise SelfsteerError(f"the engine lost {len(asked)} requests; run the same command again to go on")
            for ticket, result in finished:
                live = asked.pop(ticket, None)
                if live is None:
                    continue
                if isinstance(result, Completion):
                    progress.responded(len(result.tokens))
                settle(live, live.answer(result if isinstance(result, Completion | Failure) else _odd(result)))
            start()
    finally:  # stopped in the middle: an engine that lives on must not go on computing for nobody
        for ticket in asked:
            engine.cancel(ticket)


class _Live:
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

    def upto_request(self, yielded: Yielded | None) -> Generate | None:
        while yielded is not None:
            if isinstance(yielded, Generate):
                self._asked_at = time.perf_counter()
                return yielded
            if isinstance(yielded, Measure):
                try:
                    reading = _measured(yielded)
                except (SelfsteerError, RuntimeError) as error:  # the rollout ends as failed, the others go on
                    yielded = self._throw(error)
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

    def answer(self, result: Completion | Failure) -> Yielded | None:
        self._wall_s = time.perf_counter() - self._asked_at
        if isinstance(result, Completion):
            self.answered += 1
            return self._send(result)
        return self._throw(result.error)

    def _throw(self, error: Exception) -> Yielded | None:
        if self._rollout is None:
            raise SelfsteerError("a rollout was answered before it began")
        return self._rollout.throw(error)

    def _send(self, answer: Completion | Reading | None) -> Yielded | None:
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


def _odd(result: object) -> Failure:
    return Failure(SelfsteerError(f"a Generate was answered by {type(result).__name__}"))
