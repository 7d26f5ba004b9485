"""Where a steered feature came from, whether its steering took hold, and what was active against what was chosen.

Knows no text. Causal: a call is held against results of earlier turns only, never of its own turn or a later one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.counting import followed, heard
from analysis.frames import Frames

STEER_COLUMNS = ["rollout", "round", "order", "feature", "strength"]
STEER_COLUMNS += ["provenance", "seen_in_check", "voided", "silently_voided"]


@dataclass(frozen=True)
class Overlap:
    """The most active and the most steered features, and how many are in both lists.

    active, steered: feature, label, rollouts, rank (ties share the smallest rank), every tie of the k-th included.
    shared_low, shared_high: the fewest and the most that two lists of exactly k can share, over all ways to break ties.
    """

    k: int
    active: pd.DataFrame
    steered: pd.DataFrame
    ties_active: int
    ties_steered: int
    shared_low: int
    shared_high: int


def steers(frames: Frames) -> pd.DataFrame:
    """One row per STEER carried out: where its feature had been seen, and whether it stood when the turn was over.

    provenance: search, inspect, both or neither. voided: undone by a later call of the same response.
    silently_voided: not in force in the next round, though no later call undid it and its receipt said ok; where the
    experimenter changed the steering in between, after the last call of its own round. None where nobody recorded what
    was in force, as provenance and voided are where nobody recorded the other calls.
    """
    whole, state_known = heard(frames), followed(frames)
    ok = frames.calls[(frames.calls["outcome"] == "ok")].sort_values(["rollout", "round", "order"])
    seen = _first_seen(frames.shown)
    state = _state(frames)
    changed = set(zip(frames.externals["rollout"], frames.externals["round"], strict=True))
    after = {
        (r, n): {int(i["feature"]) for i in _list(a) if i.get("source", "self") == "self"}
        for r, n, a in ok.drop_duplicates(["rollout", "round"], keep="last")[["rollout", "round", "after"]].itertuples(
            index=False
        )
    }
    by_response = ok.groupby(["rollout", "round"])
    later = {key: list(zip(g["order"], g["verb"], g["feature"], strict=True)) for key, g in by_response}
    rows = []
    chosen = ok[(ok["verb"] == "steer") & ok["feature"].notna()]
    for rollout, number, order, feature, strength in chosen[
        ["rollout", "round", "order", "feature", "strength"]
    ].itertuples(index=False):
        before = {v for v in ("search", "inspect", "check") if seen.get((rollout, v, feature), number) < number}
        undone = any(
            o > order and (verb == "clear" or (verb == "remove" and named == feature))
            for o, verb, named in later[(rollout, number)]
        )
        ended = after.get((rollout, number), set())
        standing = ended if (rollout, number + 1) in changed else state.get((rollout, number + 1), ended)
        rows.append(
            {
                "rollout": rollout,
                "round": number,
                "order": order,
                "feature": feature,
                "strength": strength,
                "provenance": _provenance(before) if rollout in whole else None,
                "seen_in_check": "check" in before,
                "voided": undone if rollout in whole else None,
                "silently_voided": not undone and feature not in standing if rollout in state_known else None,
            }
        )
    return pd.DataFrame(rows, columns=STEER_COLUMNS)


def per_rollout(frames: Frames) -> dict[str, dict[str, float]]:
    """State against actions, and what became of steers, per rollout; a share of no steers is NaN.

    Where the tools act on another model, what is in force on the model itself says nothing of them: state is NaN there,
    as it is where nobody recorded it (Inspect logs); all is NaN where nobody recorded the other calls (extracts).
    """
    whole, state_known = heard(frames), followed(frames)
    elsewhere = set(frames.rollouts.loc[(frames.rollouts["acts_on"] == "another model").fillna(False), "rollout"])
    made = dict(iter(steers(frames).groupby("rollout")))
    own = frames.steering[frames.steering["source"] == "self"].groupby("rollout").size()
    rows = {}
    for rollout in frames.rollouts["rollout"]:
        mine = made.get(rollout)
        rows[rollout] = {
            "portfolio_rounds": float(own.get(rollout, 0)),
            "voided_steers": float(mine["voided"].astype(float).sum()) if mine is not None else 0.0,
            "silently_voided_steers": float(mine["silently_voided"].astype(float).sum()) if mine is not None else 0.0,
            "steers_from_search_share": float((mine["provenance"] == "search").mean())
            if mine is not None
            else float("nan"),
        }
        if rollout not in whole:
            rows[rollout] = dict.fromkeys(rows[rollout], float("nan"))
        elif rollout in elsewhere or rollout not in state_known:
            rows[rollout] |= {"portfolio_rounds": float("nan"), "silently_voided_steers": float("nan")}
    return rows


def overlap(frames: Frames, k: int = 20) -> Overlap:
    """Most active (by rollouts in whose automatic INSPECT a feature appears) against most steered (by rollouts).

    A rollout counts a feature once, however many rounds it was active or in force: state is not action.
    """
    counted = set(frames.counted)
    readings = frames.activations[frames.activations["rollout"].isin(counted)]
    ok = frames.calls[(frames.calls["outcome"] == "ok") & (frames.calls["verb"] == "steer")]
    ok = ok[ok["feature"].notna() & ok["rollout"].isin(counted)]
    active, ties_active = _top(readings, k, frames.labels)
    steered, ties_steered = _top(ok, k, frames.labels)
    low, high = _shared(active, steered, k)
    return Overlap(k, active, steered, ties_active, ties_steered, low, high)


def _top(table: pd.DataFrame, k: int, labels: object) -> tuple[pd.DataFrame, int]:
    """The k features in most rollouts with all ties of the last, and how many tie for the last places."""
    counts = table.drop_duplicates(["rollout", "feature"]).groupby("feature").size()
    made = pd.DataFrame({"feature": counts.index.astype(int), "rollouts": counts.to_numpy()})
    made = made.sort_values(["rollouts", "feature"], ascending=[False, True], ignore_index=True)
    made["rank"] = made["rollouts"].rank(method="min", ascending=False).astype(int)
    made = made[made["rank"] <= k]
    made["label"] = [labels.get(int(f), "") if isinstance(labels, dict) else "" for f in made["feature"]]
    ties = int((made["rollouts"] == made["rollouts"].iloc[-1]).sum()) if len(made) > k else 0
    return made[["feature", "label", "rollouts", "rank"]], ties


def _shared(active: pd.DataFrame, steered: pd.DataFrame, k: int) -> tuple[int, int]:
    """The fewest and the most features in both lists, over all ways to pick the last places among ties."""
    sure_a, tied_a, places_a = _split(active, k)
    sure_b, tied_b, places_b = _split(steered, k)
    both, either = len(sure_a & sure_b), tied_a & tied_b
    in_b, in_a = len(tied_a & sure_b), len(tied_b & sure_a)
    most_a, most_b = min(in_b, places_a), min(in_a, places_b)
    high = both + most_a + most_b + min(len(either), places_a - most_a, places_b - most_b)
    free_a, free_b = len(tied_a) - in_b - len(either), len(tied_b) - in_a - len(either)
    forced_a, forced_b = max(0, places_a - len(tied_a) + in_b), max(0, places_b - len(tied_b) + in_a)
    meet_a, meet_b = max(0, places_a - forced_a - free_a), max(0, places_b - forced_b - free_b)
    return both + forced_a + forced_b + max(0, meet_a + meet_b - len(either)), high


def _split(top: pd.DataFrame, k: int) -> tuple[set[int], set[int], int]:
    """Features surely among the first k, features tied for the last places, and how many places those are."""
    if len(top) <= k:
        return set(top["feature"]), set(), 0
    last = top["rollouts"].iloc[-1]
    sure = set(top.loc[top["rollouts"] > last, "feature"])
    return sure, set(top.loc[top["rollouts"] == last, "feature"]), k - len(sure)


def _first_seen(shown: pd.DataFrame) -> dict[tuple[str, str, int], int]:
    """The round in which a tool first showed a feature; the model can read it from the next turn on."""
    first = shown.dropna(subset=["feature"]).groupby(["rollout", "verb", "feature"])["round"].min()
    rows = first.reset_index().itertuples(index=False)
    return {(str(r), str(v), int(f)): int(n) for r, v, f, n in rows}


def _state(frames: Frames) -> dict[tuple[str, int], set[int]]:
    """The model's own features in force in each round that has a response; an empty set if none."""
    state: dict[tuple[str, int], set[int]] = defaultdict(set)
    with_response = frames.rounds[frames.rounds["response"].notna()]
    for rollout, number in with_response[["rollout", "round"]].itertuples(index=False):
        state[(rollout, number)] = set()
    own = frames.steering[frames.steering["source"] == "self"]
    for rollout, number, feature in own[["rollout", "round", "feature"]].itertuples(index=False):
        state[(rollout, number)].add(int(feature))
    return dict(state)


def _provenance(before: set[str]) -> str:
    searched, inspected = "search" in before, "inspect" in before
    return "both" if searched and inspected else "search" if searched else "inspect" if inspected else "neither"


def _list(value: object) -> list[dict[str, Any]]:
    return list(value) if isinstance(value, list) else []
