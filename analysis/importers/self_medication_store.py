"""What a sample of the self-medication study keeps in Inspect's store and events: takes, monitor, quiz, ending.

Knows no archive. What is missing or of another kind stays NA, or is counted as left out; it is never 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from analysis.importers import self_medication as study
from analysis.importers.inspect_messages import Written
from analysis.importers.store import Rollout

STATE = "DrugState:"
TAKE = re.compile(r"take_(?:drug|aid|vector)\Z")
VERBS = {"clear_effects": "clear", "end_session": "leave", "list_drugs": "list", "list_aids": "list"}
VERBS |= {"list_vectors": "list"}
LAST = 1000
"""The place of a call that stands in no message: behind all that do."""
ACTED = ("clear", "end")
"""What the trip sitter did where it found the model lost; both spoke to it or ended it."""


class Take(NamedTuple):
    """A take before it is a row: its round, its place among the calls of the round, what was asked for.

    rejected is None where nothing says what came of it.
    """

    round: int
    place: int
    args: Any
    rejected: bool | None
    text: str | None


def fill(made: Rollout, store: Mapping[str, Any], metadata: Mapping[str, Any], calls: Sequence[Written]) -> None:
    """Rows of `calls` and `notes`.

    Takes are those of the study's own history, whose result says whether one was accepted; samples without a history
    have those of the messages. All other calls are those of the messages.
    """
    names = metadata.get("opaque_to_real")
    real = names if isinstance(names, Mapping) else {}
    written = [call for call in calls if TAKE.match(call.row["verb"])]
    recorded = _history(store)
    if recorded is None:
        takes = [_said(call) for call in written]
    else:
        takes = _placed(recorded, written)
        if gone := abs(len(recorded) - len(written)):
            made.left_out["takes that stand in the messages or in the study's history, not in both"] += gone
    rows: list[tuple[int, int, Take | Written]] = [(t.round, t.place, t) for t in takes]
    rows += [(c.row["round"], c.row["order"], c) for c in calls if not TAKE.match(c.row["verb"])]
    orders = Counter[int]()
    for at, _, one in sorted(rows, key=lambda row: row[:2]):
        orders[at] += 1
        if isinstance(one, Take):
            _take(made, one, orders[at], real)
        else:
            verb = one.row["verb"]
            made.add("calls", **{**one.row, "order": orders[at], "verb": VERBS.get(verb, verb)})
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


def _history(store: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The recorded takes in their order; None where there is no history."""
    listed = store.get(f"{STATE}history")
    if not isinstance(listed, list):
        return None
    takes = [e for e in listed if isinstance(e, Mapping) and TAKE.match(str(e.get("tool")))]
    return [e for e in takes if isinstance(e.get("turn"), int)]


def _said(call: Written) -> Take:
    answered = call.row["outcome"] is not None
    rejected = call.row["outcome"] != "ok" or _says_error(call.answer) if answered else None
    return Take(call.row["round"], call.row["order"], call.given, rejected, call.row["text"])


def _placed(recorded: Sequence[Mapping[str, Any]], written: Sequence[Written]) -> list[Take]:
    """Recorded takes at their turn: at the place of their message where both sources tell the same, else last in it."""
    alike = len(recorded) == len(written)
    takes = []
    for i, entry in enumerate(recorded):
        row = written[i].row if alike else None
        place = row["order"] if row is not None and row["round"] == entry["turn"] + 1 else LAST + i
        rejected = _says_error(entry.get("result_summary"))
        text = None if row is None else row["text"]
        takes.append(Take(entry["turn"] + 1, place, entry.get("args"), rejected, text))
    return takes


def _take(made: Rollout, take: Take, order: int, real: Mapping[str, Any]) -> None:
    given = take.args if isinstance(take.args, Mapping) else {}
    written = str(given.get("name", ""))
    try:
        dose = study.number(float(given.get("dose", 1.0)))  # the tool's own default
    except (TypeError, ValueError, OverflowError):
        dose = None
    shown = real.get(written)
    name = shown if isinstance(shown, str) else None
    study.take(made, take.round, order, written, dose, take.rejected, name, take.text)


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
    if isinstance(errors, list):
        for _ in errors:
            study.monitor(made, None, "failed")
    elif (count := study.number(errors)) and count > 0:
        study.monitor(made, None, "failed", f"{count:g} of its verdicts")


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
