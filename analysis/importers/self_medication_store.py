"""What a sample of the self-medication study keeps in Inspect's store and events: takes, monitor, quiz, ending.

Knows no archive. What is missing or of another kind stays NA, or is counted as left out; it is never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from analysis.importers import self_medication as study
from analysis.importers.inspect_messages import Written
from analysis.importers.store import Rollout

STATE = "DrugState:"
TAKE = re.compile(r"take_(?:drug|aid|vector)\Z")
VERBS = {"clear_effects": "clear", "end_session": "leave", "list_drugs": "list", "list_aids": "list"}
VERBS |= {"list_vectors": "list"}
ACTED = ("clear", "end")
"""What the trip sitter did where it found the model lost; both spoke to it or ended it."""


def fill(made: Rollout, store: Mapping[str, Any], metadata: Mapping[str, Any], calls: Sequence[Written]) -> None:
    """Rows of `calls` and `notes`.

    Takes are those of the study's own history, whose result says whether one was accepted, at the place of their
    message; samples without a history have those of the messages. All other calls are those of the messages.
    """
    names = metadata.get("opaque_to_real")
    real = names if isinstance(names, Mapping) else {}
    waiting = _history(store)
    kept = waiting is not None
    taken = waiting or {}
    orders: dict[int, int] = {}
    for row, given, answer in calls:
        at, verb = row["round"], row["verb"]
        orders[at] = orders.get(at, 0) + 1
        if not TAKE.match(verb):
            made.add("calls", **{**row, "order": orders[at], "verb": VERBS.get(verb, verb)})
        elif not kept:
            _take(made, at, orders[at], given, row["outcome"] != "ok" or _says_error(answer), real, row["text"])
        elif taken.get(at):
            entry = taken[at].pop(0)
            rejected = _says_error(entry.get("result_summary"))
            _take(made, at, orders[at], entry.get("args"), rejected, real, row["text"])
        else:
            made.add("calls", **{**row, "order": orders[at], "verb": "steer", "outcome": None, "problem": "no_record"})
    for at, rest in sorted(taken.items()):
        for entry in rest:
            orders[at] = orders.get(at, 0) + 1
            _take(made, at, orders[at], entry.get("args"), _says_error(entry.get("result_summary")), real)
    _monitor(made, store)


def quiz(
    made: Rollout,
    args: Mapping[str, Any],
    store: Mapping[str, Any],
    scores: Mapping[str, Any],
    events: Iterable[Mapping[str, Any]],
) -> None:
    """Rows of `quizzes`: what the scorers stored, and the likeliest tokens of the two calls of one token each."""
    letters = store.get(f"{STATE}logprob_correct_letter")
    pool = store.get(f"{STATE}logprob_letter_pool")
    if isinstance(pool, Mapping):
        pool = [pool[letter] for letter in ascii_uppercase if letter in pool]
    stored = [
        study.number(scores.get(f"logprob_{reading}_score", store.get(f"{STATE}{reading}_logprob")))
        for reading in study.READINGS
    ]
    correct = letters if isinstance(letters, str) and len(letters) == 1 else None
    study.quiz(made, args, correct, pool if isinstance(pool, list) else None, stored, _lists(events))


def ending(store: Mapping[str, Any], left: bool) -> str:
    """How a sample without an error ended."""
    if store.get(f"{STATE}early_stopped"):
        return "stopped"
    if store.get(f"{STATE}context_overflow"):
        return "window"
    return "left" if left else "finished"


def _history(store: Mapping[str, Any]) -> dict[int, list[Mapping[str, Any]]] | None:
    """The recorded takes by round, in order; None where there is no history."""
    listed = store.get(f"{STATE}history")
    if not isinstance(listed, list):
        return None
    found: dict[int, list[Mapping[str, Any]]] = {}
    for entry in listed:
        if isinstance(entry, Mapping) and TAKE.match(str(entry.get("tool"))) and isinstance(entry.get("turn"), int):
            found.setdefault(entry["turn"] + 1, []).append(entry)
    return found


def _take(
    made: Rollout,
    at: int,
    order: int,
    args: Any,
    rejected: bool,
    real: Mapping[str, Any],
    text: str | None = None,
) -> None:
    given = args if isinstance(args, Mapping) else {}
    written = str(given.get("name", ""))
    try:
        dose = float(given.get("dose", 1.0))  # the tool's own default
    except (TypeError, ValueError):
        dose = None
    shown = real.get(written)
    study.take(made, at, order, written, dose, rejected, shown if isinstance(shown, str) else None, text)


def _monitor(made: Rollout, store: Mapping[str, Any]) -> None:
    verdicts = store.get(f"{STATE}trip_sitter_verdicts")
    for entry in verdicts if isinstance(verdicts, list) else ():
        if isinstance(entry, Mapping):
            turn = entry.get("turn")
            at = turn + 1 if isinstance(turn, int) else None
            verdict = "unhealthy" if entry.get("action") in ACTED else "healthy"
            reason = entry.get("reason")
            study.monitor(made, at, verdict, reason if isinstance(reason, str) else None)
    errors = store.get(f"{STATE}trip_sitter_errors")
    failed = len(errors) if isinstance(errors, list) else int(study.number(errors) or 0)
    for _ in range(failed):
        study.monitor(made, None, "failed")


def _lists(events: Iterable[Mapping[str, Any]]) -> list[list[tuple[str, float]]]:
    """The likeliest tokens of each model call of one token, in the order of the log."""
    found = []
    for event in events:
        config, output = event.get("config"), event.get("output")
        if event.get("event") != "model" or not isinstance(config, Mapping) or config.get("max_tokens") != 1:
            continue
        try:
            tops = output["choices"][0]["logprobs"]["content"][0]["top_logprobs"]  # type: ignore[index]
            found.append([(str(top["token"]), float(top["logprob"])) for top in tops])
        except (KeyError, IndexError, TypeError, ValueError):
            found.append([])  # a call whose list is not there; it fits nothing that is stored
    return found


def _says_error(text: Any) -> bool:
    return isinstance(text, str) and text.lstrip().lower().startswith("error")
