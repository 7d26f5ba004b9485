"""What a page shows of each rollout, as plain data: turns, responses cut at their calls, steering, top features.

Knows no markup. Texts are as the model wrote them: whoever embeds them makes them safe.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis.detection import ROUNDS, detections
from analysis.frames import Frames

Row = dict[Any, Any]
TOP = 6
"""Features shown per round."""
MARKS = ("onset", "detected", *ROUNDS)
"""What is marked in the rollout of an injected feature: columns of analysis.detection."""


def rollout_data(frames: Frames, by: str) -> list[dict[str, Any]]:
    """One entry per finished rollout, in order; numbers rounded, missing as None. Keys are short: pages are large."""
    rounds, calls, shown = _by_rollout(frames.rounds), _by_round(frames.calls), _by_round(frames.shown)
    readings = _by_round(frames.activations[(frames.activations["rank"] <= TOP).fillna(False).astype(bool)])
    events = [_by_round(t) for t in (frames.truncations, frames.externals, frames.rebases, frames.notes)]
    injected = _injected(frames)
    made = []
    for row in frames.rollouts.to_dict("records"):
        name = row["rollout"]
        mine = []
        for r in rounds.get(name, ()):
            at = (name, r["round"])
            said = _events(*(e.get(at, []) for e in events))
            mine.append(_round(r, calls.get(at, []), readings.get(at, []), said))
        if mine:
            _last_results(mine[-1], shown.get((name, mine[-1]["n"]), []))
        made.append(
            {
                "id": name,
                "group": _text(row[by]) or "(none)",
                "ended": _text(row["ended"]),
                "error": _text(row["error"]),
                "system": _text(row["system"]),
                "injected": [_followed(i, mine) for i in injected.get(name, ())],
                "rounds": mine,
            }
        )
    return made


def labels_shown(frames: Frames, data: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The labels of the features that `data` names, as far as the model was ever shown them."""
    named = {f for d in data for r in d["rounds"] for f, _ in r["top"]}
    named |= {i["f"] for d in data for i in d["injected"]}
    named |= {i[0] for d in data for r in d["rounds"] for i in (*r["now"], *r["then"])}
    return {str(f): frames.labels[f] for f in sorted(named) if f in frames.labels}


def _injected(frames: Frames) -> dict[str, list[Row]]:
    """By rollout: what was coded of each injected feature, and its activation by round, as far as it is known."""
    found = detections(frames)
    if not len(found):
        return {}
    readings = frames.activations
    listed = readings.groupby(["rollout", "round"]).size().rename("count").reset_index()
    full = listed["count"].max() if len(listed) else 0
    kept = readings.merge(found[["rollout", "feature"]], on=["rollout", "feature"])
    # a reading that lists fewer features than the fullest one lists all that were active
    quiet = listed[listed["count"] < full]
    known: dict[Any, float] = {(r, n, None): 0.0 for r, n in zip(quiet["rollout"], quiet["round"], strict=True)}
    known |= {(k["rollout"], k["round"], k["feature"]): float(k["value"]) for k in kept.to_dict("records")}
    how = dict(zip(readings["rollout"], readings["aggregation"], strict=True))
    made = found.assign(read=found["rollout"].map(how).astype("string"))
    made["known"] = pd.Series([known] * len(found), index=made.index, dtype=object)
    return _by_rollout(made)


def _followed(injected: Row, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    rollout, feature, known = injected["rollout"], injected["feature"], injected["known"]
    values = [known.get((rollout, r["n"], feature), known.get((rollout, r["n"], None))) for r in rounds]
    return {
        "f": int(feature),
        "s": round(float(injected["strength"]), 4),
        "did": injected["category"],
        "how": _text(injected["removal"]),
        "read": _text(injected["read"]),
        "at": {k: int(injected[k]) for k in MARKS if not pd.isna(injected[k])},
        "values": [None if v is None else round(v, 3) for v in values],
    }


def _round(row: Row, calls: list[Row], reading: list[Row], events: list[str]) -> dict[str, Any]:
    listed = [
        {"t": _text(c["text"]), "o": _text(c["outcome"]), "p": _text(c["problem"]), "v": _text(c["verb"])}
        for c in calls
    ]
    response = _text(row["response"])
    return {
        "n": int(row["round"]),
        "turn": _text(row["turn"]),
        "parts": [] if response is None else _parts(response, [c["span"] for c in calls]),
        "why": _text(row["why"]),
        "given": _whole(row["turn_tokens"]),
        "made": _whole(row["response_tokens"]),
        "then": _steering(row["turn_steering"]),
        "now": _steering(row["steering"]),
        "calls": listed,
        "top": [[int(r["feature"]), round(float(r["value"]), 3)] for r in reading],
        "events": events,
    }


def _parts(response: str, spans: list[Any]) -> list[Any]:
    """The response as texts and [text, number of the call]; cut here, where offsets count the same characters."""
    parts: list[Any] = []
    at = 0
    for order, span in enumerate(spans):
        low, high = (int(span[0]), int(span[1])) if span is not None else (at, at)
        if not at <= low < high <= len(response):
            continue
        if low > at:
            parts.append(response[at:low])
        parts.append([response[low:high], order])
        at = high
    return [*parts, response[at:]] if at < len(response) else parts


def _last_results(last: dict[str, Any], shown: list[Row]) -> None:
    """Results of the last round's calls, which no later turn shows."""
    if shown:
        last["rows"] = [[int(r["feature"]), _text(r["label"]), round(float(r["value"]), 3)] for r in shown[:100]]


def _events(dropped: list[Row], changes: list[Row], rebases: list[Row], notes: list[Row]) -> list[str]:
    said = [f"experimenter: history dropped, {e['dropped']} tokens; what is in force stays" for e in dropped]
    said += [
        f"experimenter: steering {_words(e['before'])} → {_words(e['after'])} {_text(e['why']) or ''}".rstrip()
        for e in changes
    ]
    said += [f"context recomputed from position {e['start']} on, under {_words(e['steering'])}" for e in rebases]
    return said + [
        f"monitor {_text(e['about'])}: {_text(e['verdict'])} {_text(e['text']) or ''}".rstrip() for e in notes
    ]


def _words(steering: Any) -> str:
    return ", ".join(f"[{f}] {s:+g}" for f, s, *_ in _steering(steering)) or "none"


def _steering(value: Any) -> list[list[Any]]:
    """[feature, strength, source, mode] of each intervention."""
    if not isinstance(value, list):
        return []
    return [[int(i["feature"]), round(float(i["strength"]), 4), i["source"], i["mode"]] for i in value]


def _by_rollout(table: pd.DataFrame) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in table.to_dict("records"):
        found.setdefault(row["rollout"], []).append(row)
    return found


def _by_round(table: pd.DataFrame) -> dict[tuple[str, int], list[Row]]:
    found: dict[tuple[str, int], list[Row]] = {}
    for row in table.to_dict("records"):
        found.setdefault((row["rollout"], row["round"]), []).append(row)
    return found


def _whole(value: Any) -> int | None:
    return None if value is None or value is pd.NA else int(value)


def _text(value: Any) -> str | None:
    return None if value is None or value is pd.NA else str(value)
