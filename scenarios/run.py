"""The composition root: conditions x seeds onto one engine, all at once; what happened goes to disk as it happens.

The same call on the same folder goes on where it stopped: finished rollouts are left alone, unfinished ones are
replayed from their record and continued. Knows no scenario: a condition brings an agent and a script.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.rollout import Yielded, rollout
from agents.script import Hear
from scenarios.condition import Condition
from scenarios.folder import begin, locked, path_of, write_json, write_labels
from scenarios.live import Live
from scenarios.progress import Outcome, Progress
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.base import Completion, Engine, Foretelling
from toolkit.errors import BadInput, SelfsteerError

ABREAST = 64


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
        abreast = that_fit(engine, conditions, min(abreast, len(waiting)), quiet)
        progress = Progress(len(waiting), sum(c.rounds for c, _ in waiting), quiet)
        outcome = Outcome()
        begun = time.perf_counter()
        with progress:
            _drive(iter(waiting), engine, out, abreast, progress, outcome)
        outcome.tokens, outcome.wall_s = progress.tokens, time.perf_counter() - begun
    return outcome


def that_fit(engine: Engine, conditions: Sequence[Condition], abreast: int, quiet: bool) -> int:
    """How many rollouts go abreast: as many of these as the engine says fit its memory. Says what it foretold."""
    if not isinstance(engine, Foretelling):
        return abreast
    # a round adds a response and, as a rule, no more than as much again that is told
    longest = max(
        len(engine.tokenizer.encode(c.agent.system)) + 2 * c.rounds * c.agent.sampling.max_tokens for c in conditions
    )
    forecast = engine.prepare(abreast, longest)
    if not quiet:
        print(forecast, file=sys.stderr, flush=True)
    return forecast.abreast


def _drive(
    waiting: Iterator[tuple[Condition, int]],
    engine: Engine,
    out: Path,
    abreast: int,
    progress: Progress,
    outcome: Outcome,
) -> None:
    """Keep the engine full: start a rollout for every one that ends, resume whichever is answered."""
    asked: dict[int, Live] = {}

    def settle(live: Live, yielded: Yielded | None) -> bool:
        """Write events and measure until an engine request stands; True if the rollout goes on."""
        request = live.upto_request(yielded)
        if request is None:
            outcome.ended[live.how] = outcome.ended.get(live.how, 0) + 1
            progress.ended(live.how, live.rounds - live.answered)
            return False
        if isinstance(request, Hear):
            raise BadInput(f"{live.path}: a script that hears another runs in a pair (scenarios/pairs.py)")
        asked[engine.submit(request)] = live
        return True

    def start() -> None:
        while len(asked) < abreast:
            following = next(waiting, None)
            if following is None:
                return
            live = Live(path_of(out, following[0].name, following[1]), following[0].rounds)
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
                settle(live, live.answer(result))
            start()
    finally:  # stopped in the middle: an engine that lives on must not go on computing for nobody
        for ticket in asked:
            engine.cancel(ticket)
