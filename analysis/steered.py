"""What a model steered: its calls (actions) against what was in force (state), strengths, sources, escalation, ranks.

Knows no text. A feature that stays in force for ten rounds is one action and ten portfolio-rounds; both are here, and
no number of one is called the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import provenance
from analysis.counting import ever, tallied, times
from analysis.frames import Frames
from analysis.once import once
from analysis.stats import Estimate

STATE = ["rollout", "round", "feature", "strength"]
RISE = 3
"""Calls of one feature with ever larger strength that make an escalation."""


@once
def portfolio(frames: Frames) -> pd.DataFrame:
    """The model's own interventions after the calls of each round: STATE, one row per round and feature.

    As recorded (`portfolio` of rounds), else what the last call of the round left, else what was in force in it.
    """
    rounds = frames.rounds[frames.rounds["response"].notna()]
    last = frames.calls.sort_values(["rollout", "round", "order"]).drop_duplicates(["rollout", "round"], keep="last")
    after = {(r, n): a for r, n, a in last[["rollout", "round", "after"]].itertuples(index=False)}
    rows = []
    for rollout, number, recorded, during in rounds[["rollout", "round", "portfolio", "steering"]].itertuples(
        index=False
    ):
        held = recorded if isinstance(recorded, list) else after.get((rollout, number))
        for i in (held if isinstance(held, list) else during) or ():
            if i.get("source", "self") == "self":
                rows.append((rollout, int(number), int(i["feature"]), float(i["strength"])))
    return pd.DataFrame(rows, columns=STATE)


def actions(frames: Frames) -> pd.DataFrame:
    """Every STEER call that named a feature, whatever came of it: rollout, round, order, outcome, feature, strength."""
    found = frames.calls[(frames.calls["verb"] == "steer") & frames.calls["feature"].notna()]
    columns = ["rollout", "round", "order", "outcome", "feature", "strength"]
    return found[columns].sort_values(["rollout", "round", "order"], ignore_index=True)


def acted(frames: Frames) -> pd.DataFrame:
    """Actions and state side by side.

    steer_calls: STEER calls; portfolio_entries: features in force after the calls of a round, summed over rounds,
    which the SAE self-steering study published as "steers"; portfolio_rounds_held: rounds that end with any.
    ever_steered: any STEER call; ever_held: any round that ends with a feature of the model's own in force.
    """
    state, calls = portfolio(frames), actions(frames)
    return tallied(
        frames,
        steer_calls=times(calls),
        ever_steered=ever(calls),
        portfolio_entries=times(state),
        portfolio_rounds_held=times(state.drop_duplicates(["rollout", "round"])),
        ever_held=ever(state),
    )


def voided(frames: Frames) -> pd.DataFrame:
    """voided_calls: STEERs that a later call of their response undid. silently_voided_calls: gone without such a call.

    In the order in which calls were carried out. Where a harness sorts calls by kind, a CLEAR written before a STEER
    undoes it, and both receipts say that it worked.
    """
    found = provenance.steers(frames)
    undone, silently = (found[c].fillna(False).astype(bool) for c in ("voided", "silently_voided"))
    return tallied(frames, voided_calls=times(found[undone]), silently_voided_calls=times(found[silently]))


def sources(frames: Frames) -> pd.DataFrame:
    """STEER calls by where their feature had been shown before: steers_from_search (there alone), _inspect, _both,
    _neither. Causally: results of calls of earlier rounds; what the same round shows comes after the call.
    """
    calls = actions(frames)
    shown = frames.shown[frames.shown["feature"].notna() & frames.shown["verb"].isin(["search", "inspect"])]
    first = shown.groupby(["rollout", "feature", "verb"])["round"].min().unstack("verb").reset_index()
    first = first.reindex(columns=["rollout", "feature", "search", "inspect"])
    calls = calls.merge(first, how="left", on=["rollout", "feature"])
    search = (calls["search"] < calls["round"]).fillna(False).astype(bool)
    inspect = (calls["inspect"] < calls["round"]).fillna(False).astype(bool)
    return tallied(
        frames,
        steers_from_search=times(calls[search & ~inspect]),
        steers_from_inspect=times(calls[inspect & ~search]),
        steers_from_both=times(calls[search & inspect]),
        steers_from_neither=times(calls[~search & ~inspect]),
    )


def strengths(
    frames: Frames,
    above: float = -np.inf,
    at_least: float = -np.inf,
    to: float = np.inf,
    size: bool = False,
) -> pd.DataFrame:
    """How many strengths lie in above < s, at_least <= s, s <= to: entries_in (state) and calls_in (actions).

    size: the sign is left out. A share "<= 0.3" of signed strengths holds every negative one.
    """

    def inside(table: pd.DataFrame) -> pd.DataFrame:
        s = table["strength"].astype("float64").round(9)
        s = s.abs() if size else s
        return table[(s > above) & (s >= at_least) & (s <= to)]

    return tallied(frames, entries_in=times(inside(portfolio(frames))), calls_in=times(inside(actions(frames))))


def steadiness(frames: Frames) -> pd.DataFrame:
    """never_changed_strength: no feature has another strength than in the round before, 1 without any steering too
    (as published); never_changed_of_steerers: the same, NaN for rollouts that never had one of their own in force.
    """
    state = portfolio(frames).sort_values(["rollout", "feature", "round"])
    same = (state["rollout"] == state["rollout"].shift()) & (state["feature"] == state["feature"].shift())
    changed = state[
        same & (state["round"] == state["round"].shift() + 1) & (state["strength"] != state["strength"].shift())
    ]
    moved = ever(changed)
    steerers = ever(state)
    everyone = pd.Series(1.0, index=frames.rollouts["rollout"])
    return tallied(
        frames,
        missing=("never_changed_of_steerers",),
        never_changed_strength=everyone - moved.reindex(everyone.index).fillna(0.0),
        never_changed_of_steerers=steerers - moved.reindex(steerers.index).fillna(0.0),
    )


def of_features(frames: Frames, features: Sequence[int]) -> pd.DataFrame:
    """held_any: one of the features was in force after the calls of some round, rounds_held: of how many; held_below_0:
    with a negative strength. steered_any: a STEER call named one, steers_of: how many did. active_rounds: rounds whose
    automatic INSPECT lists one of them.
    """
    state, calls, wanted = portfolio(frames), actions(frames), list(features)
    mine = state[state["feature"].isin(wanted)]
    read = frames.activations[frames.activations["feature"].isin(wanted)].drop_duplicates(["rollout", "round"])
    named = calls[calls["feature"].isin(wanted)]
    return tallied(
        frames,
        held_any=ever(mine),
        rounds_held=times(mine.drop_duplicates(["rollout", "round"])),
        held_below_0=ever(mine[mine["strength"] < 0]),
        steered_any=ever(named),
        steers_of=times(named),
        active_rounds=times(read),
    )


def negative(frames: Frames) -> pd.DataFrame:
    """ever_negative: any strength below 0 in force after the calls of some round; NaN-free, as published."""
    state = portfolio(frames)
    return tallied(frames, ever_negative=ever(state[state["strength"] < 0]))


def escalations(frames: Frames) -> pd.DataFrame:
    """Runs of STEER calls of one feature, each stronger than the one before: rollout, feature, strengths, rounds.

    The longest run per rollout and feature, of RISE calls or more. Strength is taken without its sign.
    """
    rows = []
    for (rollout, feature), calls in actions(frames).groupby(["rollout", "feature"]):
        best: list[tuple[float, int]] = []
        run: list[tuple[float, int]] = []
        for strength, number in zip(calls["strength"].astype("float64").abs(), calls["round"], strict=True):
            run = [*run, (strength, int(number))] if run and strength > run[-1][0] else [(strength, int(number))]
            best = max(best, run, key=len)
        if len(best) >= RISE:
            rows.append((rollout, feature, [s for s, _ in best], [n for _, n in best]))
    return pd.DataFrame(rows, columns=["rollout", "feature", "strengths", "rounds"])


def escalated(frames: Frames, strengths: Sequence[float] = ()) -> pd.DataFrame:
    """escalated: any escalation; escalated_so: one with just these strengths, in this order; rise_rounds: in so many
    rounds, first to last (NaN without)."""
    found = escalations(frames)
    so = found.loc[[not strengths or list(map(float, strengths)) == s for s in found["strengths"]]]
    span = pd.Series([r[-1] - r[0] + 1 for r in so["rounds"]], index=list(so["rollout"]), dtype="float64")
    return tallied(
        frames,
        missing=("rise_rounds",),
        escalated=ever(found),
        escalated_so=ever(so),
        rise_rounds=span.groupby(level=0).min(),
    )


# ---------------------------------------------------------------------- ranks


def active_in_place(frames: Frames, place: int) -> Estimate:
    """In how many rounds the automatic INSPECT lists the feature of this place, by rounds; `how` names it and ties."""
    read = frames.activations[frames.activations["rollout"].isin(frames.counted)]
    counts = read.groupby(["rollout", "round", "feature"], sort=False).size().groupby(level="feature").size()
    return _placed(counts, place, frames, "rounds")


def held_in_place(frames: Frames, place: int) -> Estimate:
    """In how many rollouts the feature of this place was in force after the calls of a round: state, as published."""
    state = portfolio(frames)
    state = state[state["rollout"].isin(frames.counted)]
    return _placed(state.groupby("feature")["rollout"].nunique(), place, frames, "rollouts")


def shared_of_top(frames: Frames, k: int = 20) -> Estimate:
    """How many of the k most active features are among the k most steered, by rollouts: see provenance.overlap.

    value, low: the fewest over all ways to break ties for the last places; high: the most.
    """
    found = provenance.overlap(frames, k)
    if not len(found.active) or not len(found.steered):
        return Estimate(
            float("nan"), float("nan"), float("nan"), len(frames.counted), "nothing read, or nothing steered"
        )
    ties = f"ties for the last places: {found.ties_active} active, {found.ties_steered} steered"
    how = f"fewest to most over all ways to break ties ({ties}); no sampling interval"
    return Estimate(found.shared_low, found.shared_low, found.shared_high, len(frames.counted), how)


def _placed(counts: pd.Series[Any], place: int, frames: Frames, of: str) -> Estimate:
    counts = counts.sort_values(ascending=False)
    nan, n = float("nan"), len(frames.counted)
    if len(counts) < place:
        return Estimate(nan, nan, nan, n, f"there are {len(counts)} features")
    count = int(counts.iloc[place - 1])
    ties = sorted(int(f) for f in counts.index[counts == count])
    named = " or ".join(f"{f} {frames.labels.get(f, '')}".strip() for f in ties[:4])
    return Estimate(
        count, nan, nan, n, f"{of} of number {place}: {named}{' ...' if len(ties) > 4 else ''}; no interval"
    )
