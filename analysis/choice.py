"""What a model chose to take: picks, the valence of what it picked, taking again, and what it took after what.

Knows no quiz and no interval: stats has those. A take is a STEER call of the model, by the name of what it set.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.frames import WHOLE, Frames
from analysis.stats import followers

TAKES = ["rollout", "round", "order", "vector", "dose", "accepted"]
ADVICE = "trip_sitter"
"""Notes of this name advised the model to take less, and to take again."""


def takes(frames: Frames) -> pd.DataFrame:
    """One row per STEER call that named something, in the order written: TAKES, of every rollout that counts.

    vector: the label of the feature, or what was written where it is none, lower case, spaces and hyphens as `_`.
    dose: nominal and signed, in the unit of the dictionary. accepted: the call was carried out.
    """
    calls = frames.calls[(frames.calls["verb"] == "steer").fillna(False).astype(bool)]
    calls = calls[~calls["rollout"].isin(uncounted(frames))]
    written = [a[0] if isinstance(a, list | tuple) and a else None for a in calls["arguments"]]
    known = [None if pd.isna(f) else frames.labels.get(int(f)) for f in calls["feature"]]
    made = calls.assign(
        vector=pd.array([_name(k or w) for k, w in zip(known, written, strict=True)], dtype="string"),
        dose=calls["strength"].astype("float64"),
        accepted=(calls["outcome"] == "ok").fillna(False).astype(bool),
    )
    made = made[made["vector"].notna()].sort_values(["rollout", "round", "order"], kind="stable")
    return made[TAKES].reset_index(drop=True)


def uncounted(frames: Frames) -> pd.Series:
    """The rollouts that do not count: few, so that leaving them out is quick."""
    return frames.rollouts.loc[~frames.rollouts["ended"].isin(WHOLE), "rollout"]


def picks(taken: pd.DataFrame) -> pd.DataFrame:
    """How often each vector was taken: vector, takes, share, rollouts; most first, ties by name.

    A count says how long rollouts were as much as what was liked; the share and the rollouts do not.
    """
    grouped = taken.groupby("vector").agg(takes=("rollout", "size"), rollouts=("rollout", "nunique"))
    grouped["share"] = grouped["takes"] / len(taken) if len(taken) else float("nan")
    return grouped.reset_index().sort_values(["takes", "vector"], ascending=[False, True], ignore_index=True)


def valences(taken: pd.DataFrame, rollouts: pd.Series, valence: Mapping[str, str]) -> pd.DataFrame:
    """Takes by valence and rollout: positive, neutral, negative, total, mean (+1, 0, -1 per take; NaN without takes).

    A row per rollout of `rollouts`, those without takes too. Vectors that `valence` does not name are left out.
    """
    kind = taken["vector"].map(dict(valence)) if len(taken) else pd.Series(dtype=object)
    counts = pd.crosstab(taken["rollout"], kind) if kind.notna().any() else pd.DataFrame()
    made = counts.reindex(index=pd.Index(rollouts, name="rollout"), columns=["positive", "neutral", "negative"])
    made = made.fillna(0).astype("float64")
    made["total"] = made.sum(axis=1)
    made["mean"] = ((made["positive"] - made["negative"]) / made["total"]).where(made["total"] > 0)
    return made


def advised(frames: Frames) -> pd.Series:
    """The first round of each rollout after which a monitor spoke to the model; rollouts without are not in it."""
    notes = frames.notes[(frames.notes["about"] == ADVICE) & (frames.notes["verdict"] == "unhealthy")]
    return notes.groupby("rollout")["round"].min()


def before_advice(frames: Frames, taken: pd.DataFrame) -> pd.DataFrame:
    """The takes up to the round in which a monitor first spoke; later ones were asked for by its message."""
    first = taken["rollout"].map(advised(frames))
    return taken[first.isna() | (taken["round"] <= first)].reset_index(drop=True)


def after_advice(frames: Frames, taken: pd.DataFrame) -> pd.DataFrame:
    """The takes in later rounds than the one in which a monitor first spoke."""
    first = taken["rollout"].map(advised(frames))
    return taken[first.notna() & (taken["round"] > first)].reset_index(drop=True)


def redose(taken: pd.DataFrame) -> pd.DataFrame:
    """Taking the same again: one row per rollout and vector: first (signed nominal dose), later (sum of the others).

    A later dose of 0 means that it was not taken again: it is an observation, not a hole.
    """
    grouped = taken.groupby(["rollout", "vector"], sort=False)["dose"]
    made = pd.DataFrame({"first": grouped.first(), "times": grouped.size(), "total": grouped.sum()})
    made["later"] = made["total"] - made["first"]
    return made.reset_index()[["rollout", "vector", "first", "later", "times"]]


def redose_by_vector(taken: pd.DataFrame, at_least: int = 10) -> pd.DataFrame:
    """The mean later dose of each vector that at least this many rollouts took: vector, later, rollouts."""
    by = redose(taken).groupby("vector").agg(later=("later", "mean"), rollouts=("rollout", "nunique"))
    by = by[by["rollouts"] >= at_least].reset_index()
    return by.sort_values(["later", "vector"], ascending=[False, True], ignore_index=True)


def transitions(
    taken: pd.DataFrame, library: frozenset[str] | None = None, at_least: int = 3, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """What was taken after what: analysis.stats.followers over the takes of each rollout.

    library: names outside it are nobody's neighbours, as in the published table.
    """
    vector = taken["vector"] if library is None else taken["vector"].where(taken["vector"].isin(library))
    return followers([None if pd.isna(v) else v for v in vector], taken["rollout"], at_least, resamples, seed)


def _name(text: str | None) -> str | None:
    return "_".join(text.lower().replace("-", " ").split()) if isinstance(text, str) and text.strip() else None
