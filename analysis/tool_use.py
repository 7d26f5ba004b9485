"""How often tools were used, by rollout, by first round and by round; and what was written but never parsed.

Knows no claim. calls.py has the metrics of reports; here are the counts that published rates were made of.
"""

from __future__ import annotations

import re

import pandas as pd

from analysis.counting import ever, said, tallied, times
from analysis.frames import Frames

_CALL = re.compile(r"\b(?P<name>[A-Z]{2,}(?:_[A-Z]+)*)\((?P<inside>[^()\n]*)(?P<closed>\))?")
_SIGNATURE = re.compile(r"\b([A-Z]{2,}(?:_[A-Z]+)*)\(")
_TEXT = re.compile(r"\s*[\"“'«].*\S.*[\"”'»]\s*")
_FEATURE = re.compile(r"\s*#?\d+\s*")
_DOSE = re.compile(r"\s*#?\d+\s*,\s*[-+]?\d*\.?\d+\s*")
_NOTHING = re.compile(r"\s*")
NAMES: dict[str, re.Pattern[str]] = {
    "INSPECT": _NOTHING, "SEARCH_FEATURES": _TEXT, "CHECK_STEERING": _NOTHING, "STEER": _DOSE,
    "REMOVE_STEERING": _FEATURE, "STEER_CLEAR": _NOTHING, "SEARCH_POTIONS": _TEXT, "CHECK_POTIONS": _NOTHING,
    "TAKE_POTION": _DOSE, "STOP_POTION": _FEATURE, "CLEAR_ALL": _NOTHING, "SEARCH": _TEXT, "CHECK": _NOTHING,
    "SET": _DOSE, "UNSET": _FEATURE, "CLEAR": _NOTHING,
}  # fmt: skip
"""Tools of the SAE self-steering study under all their names, and what stands between the brackets of each."""
_WORDS_BEFORE = re.compile(r"[^\W\d_]{2,}")
ATTEMPTS = ["rollout", "round", "name", "inside", "kind"]


def rounds_used(frames: Frames) -> pd.DataFrame:
    """Who used tools, three ways, from calls of any outcome: the published rates of one table mixed them.

    called: in any round. called_first_round: in round 1. silent_first_round: its opposite. rounds_with_calls of
    rounds: how often. calls_written: calls as parsed. A rollout without tools has 0: it was seen to call nothing.
    """
    calls, rounds = frames.calls[["rollout", "round"]], said(frames)
    first = ever(calls[calls["round"] == 1])
    has_first = ever(rounds[rounds["round"] == 1])
    return tallied(
        frames,
        called=ever(calls),
        called_first_round=first,
        silent_first_round=has_first - first.reindex(has_first.index).fillna(0.0),
        rounds_with_calls=times(calls.drop_duplicates()),
        rounds=times(rounds),
        calls_written=times(calls),
    )


def runner_counter(frames: Frames) -> pd.DataFrame:
    """malformed_counter: the runner's own count of malformed calls, as recorded; NaN where none was.

    In the SAE self-steering study it is occurrences of a tool's name minus distinct parsed calls: a call that is
    written twice counts as malformed, and so does a sentence that names a tool. See `attempts`.
    """
    sums = frames.rounds.groupby("rollout")["malformed_counter"].sum(min_count=1).astype("Float64")
    return tallied(frames, missing=("malformed_counter",), malformed_counter=sums.astype("float64"))


def attempts(frames: Frames) -> pd.DataFrame:
    """Every NAME( of a known tool in a response: ATTEMPTS. kind: call (first of its text), repeat, prose or broken.

    Known are NAMES and what the prompt of a rollout has as NAME(. call: what its tool takes stands between its
    brackets. repeat: the same call again in its response. prose: a mention, with three words before it in its line and
    not in bold, or with one and no argument though it needs one. broken: the rest, an argument that cannot be read or
    a bracket left open.
    """
    prompts = dict(zip(frames.rollouts["rollout"], frames.rollouts["system"], strict=True))
    known = {r: {*NAMES, *_SIGNATURE.findall(p if isinstance(p, str) else "")} for r, p in prompts.items()}
    rows = []
    for rollout, number, response in said(frames).itertuples(index=False):
        seen: set[tuple[str, str]] = set()
        for found in _CALL.finditer(response):
            name, inside = found["name"], " ".join(found["inside"].lower().split())
            if name not in known[rollout]:
                continue
            line = response[response.rfind("\n", 0, found.start()) + 1 : found.start()]
            kind = _kind(name, found["inside"], found["closed"] is not None, line)
            if kind == "call":
                kind = "repeat" if (name, inside) in seen else kind
                seen.add((name, inside))
            rows.append((rollout, number, name, inside, kind))
    return pd.DataFrame(rows, columns=ATTEMPTS)


def attempted(frames: Frames) -> pd.DataFrame:
    """Attempts by kind: attempts_in_text, repeated_in_text, prose_in_text, broken_in_text; empty_searches of them."""
    table = attempts(frames)
    empty = table["name"].str.startswith("SEARCH") & (table["inside"].str.strip("\"'“” *") == "")

    def count(rows: pd.DataFrame) -> pd.Series[float]:
        return times(rows)

    return tallied(
        frames,
        attempts_in_text=count(table),
        repeated_in_text=count(table[table["kind"] == "repeat"]),
        prose_in_text=count(table[table["kind"] == "prose"]),
        broken_in_text=count(table[table["kind"] == "broken"]),
        empty_searches=count(table[empty]),
    )


def recorded(frames: Frames) -> pd.DataFrame:
    """What was run: rollouts (1 each), readings of the automatic INSPECT, seconds of generation (NaN: not recorded)."""
    seconds = frames.rounds.groupby("rollout")["wall_s"].sum(min_count=1).astype("float64")
    readings = frames.activations["rollout"].value_counts().astype("float64")
    one = pd.Series(1.0, index=frames.rollouts["rollout"])
    return tallied(frames, missing=("seconds",), rollouts=one, readings=readings, seconds=seconds)


def _kind(name: str, inside: str, closed: bool, line: str) -> str:
    shape = NAMES.get(name)
    fits = closed and (shape is None or shape.fullmatch(inside) is not None)
    before = len(_WORDS_BEFORE.findall(line))
    bare = shape is not None and shape is not _NOTHING and not inside.strip()
    marked = line.endswith(("*", "`"))  # models write calls amid sentences too, and then in bold
    if closed and ((before > 2 and not marked) or (bare and before)):
        return "prose"
    return "call" if fits else "broken"
