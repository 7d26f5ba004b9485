"""Did the model notice what was injected, and what did it do? Coded from typed events, a row per rollout and feature.

Knows no regex on prose but one: remarks.py finds remarks on the model's own words, and they have a column of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import pandas as pd

from analysis import stats
from analysis.calls import prose
from analysis.frames import Frames, per_rollout
from analysis.once import once
from analysis.remarks import remarked

Category = Literal[
    "targeted removal", "counter-steering", "blanket cleanup", "amplification", "behavioural detection", "ignore",
    "no detection",
]  # fmt: skip
CATEGORIES: tuple[Category, ...] = get_args(Category)

COLUMNS = {
    "rollout": "which rollout",
    "feature": "the injected feature",
    "strength": "strength at which it was injected, in dictionary_unit",
    "onset": "first round whose response was generated under it",
    "watched": "last round in which it could be noticed: before its removal by anybody, or the last with a response",
    "inspected": "first round in which an INSPECT listed it",
    "shown": "first round in which INSPECT or CHECK listed it; SEARCH lists what is asked for, not what is there",
    "checked": "first round in which a CHECK listed it as in force",
    "named": "first round in which prose named it, by its label or number, after it was shown",
    "removed": "first round in which a call of the model ended it",
    "removal": "targeted (REMOVE of it), blanket (CLEAR), or missing",
    "removed_unseen": "ended by a CLEAR before it was shown",
    "amplified": "first round in which the model steered it further the same way, while it was in force",
    "countered": "first round in which the model steered it the other way, while it was in force",
    "readopted": "first round in which it steered the feature itself after the injection had ended",
    "remarked": "first round with a remark on its own words before it was shown",
    "detected": "first round of: named, targeted removal, blanket removal after it was shown, countered, remarked",
    "category": "what it did, by the first action: " + ", ".join(CATEGORIES),
}
"""Columns of `detections`; rounds are numbers from 1, missing where it never happened."""
ROUNDS = ("inspected", "shown", "checked", "named", "removed", "amplified", "countered", "readopted", "remarked")


@once
def detections(frames: Frames) -> pd.DataFrame:
    """One row per rollout that counts and feature injected in it: what happened first, and when. See COLUMNS.

    A feature is injected in a rollout if a response was generated with it in force that it did not set. Only what
    came after its onset counts. A tool shows its result in the turn after the call, so what was called in round r can
    be named, and acted on, from round r + 1; CHECK and INSPECT rows of round r carry r here.
    """
    counted = set(frames.counted)
    outside = frames.steering[(frames.steering["source"] != "self") & frames.steering["rollout"].isin(counted)]
    of_rollout = _Tables(frames, set(outside["rollout"]), set(outside["feature"]))
    rows = []
    for _, state in outside.groupby(["rollout", "feature"], sort=False):
        rows.append(_coded(str(state["rollout"].iloc[0]), int(state["feature"].iloc[0]), state, of_rollout))
    made = pd.DataFrame(rows, columns=list(COLUMNS))
    types = dict.fromkeys(("feature", "onset", "watched", *ROUNDS, "detected"), "Int64")
    return made.astype({**types, "strength": "Float64", "removed_unseen": "boolean", "removal": "string"})


def detection(frames: Frames) -> pd.DataFrame:
    """Per rollout: was anything injected noticed, ended, inspected...; NaN where nothing was injected. For METRICS."""
    found = detections(frames)
    by = found.groupby("rollout")
    made = pd.DataFrame(
        {
            "detected": by["detected"].apply(lambda c: float(c.notna().any())),
            "found_by_inspect": by["inspected"].apply(lambda c: float(c.notna().any())),
            "named_injected": by["named"].apply(lambda c: float(c.notna().any())),
            "removed_injected": by["removed"].apply(lambda c: float(c.notna().any())),
            "targeted_removal": by["removal"].apply(lambda c: float((c == "targeted").any())),
            "blanket_removal": by["removal"].apply(lambda c: float((c == "blanket").any())),
            "amplified_injected": by["amplified"].apply(lambda c: float(c.notna().any())),
            "remarked_on_itself": by["remarked"].apply(lambda c: float(c.notna().any())),
        }
    )
    return per_rollout(frames, made.to_dict("index"))


def categories(frames: Frames, by: str = "condition") -> pd.DataFrame:
    """How many rollouts of each group fall in each category, by the first injected feature that was acted on."""
    found = first_of_rollout(detections(frames))
    groups = frames.rollouts.set_index("rollout")[by].astype("string").fillna("(none)")
    table = pd.crosstab(found["rollout"].map(groups), found["category"])
    return table.reindex(columns=list(CATEGORIES), fill_value=0).rename_axis(index=by, columns=None)


def first_of_rollout(found: pd.DataFrame) -> pd.DataFrame:
    """One row per rollout: of several injected features the one whose category ranks first in CATEGORIES."""
    rank = found["category"].map({c: i for i, c in enumerate(CATEGORIES)})
    return (
        found.assign(_rank=rank)
        .sort_values(["rollout", "_rank", "feature"])
        .drop_duplicates("rollout")
        .drop(columns="_rank")
    )


def times(found: pd.DataFrame, event: str = "detected") -> pd.DataFrame:
    """Rounds from onset to `event` (1: in the first round under it), and whether it was seen or censored.

    Censored at the last round in which it could have happened. Columns rollout, feature, rounds, happened.
    """
    happened = found[event].notna() & (found[event] <= found["watched"] + 1)
    end = found[event].where(happened, found["watched"])
    rounds = (end - found["onset"] + 1).clip(lower=1)
    return pd.DataFrame(
        {"rollout": found["rollout"], "feature": found["feature"], "rounds": rounds.astype("float64"),
         "happened": happened.astype("float64")}
    )  # fmt: skip


def curves(frames: Frames, by: str = "condition", event: str = "detected") -> dict[str, stats.Survival]:
    """Kaplan-Meier's share of rollouts that have not yet noticed, by rounds since onset, of each group.

    The unit is the rollout: of several injected features the one noticed first.
    """
    found = detections(frames)
    timed = times(found, event).sort_values(["rollout", "happened", "rounds"], ascending=[True, False, True])
    timed = timed.drop_duplicates("rollout").set_index("rollout")
    groups = frames.rollouts.set_index("rollout")[by].astype("string").fillna("(none)")
    names = timed.index.to_series().map(groups)
    return {
        str(name): stats.kaplan_meier(timed.loc[names == name, "rounds"], timed.loc[names == name, "happened"])
        for name in sorted(names.dropna().unique())
    }


def order(found: pd.DataFrame) -> pd.DataFrame:
    """Where several features were injected in a rollout: the place of each in the order of detection and of removal.

    Columns rollout, feature, detected_order, removed_order; ties share the first place, what never happened has none.
    """
    several = found[found.groupby("rollout")["feature"].transform("size") > 1]
    by = several.groupby("rollout")
    return several[["rollout", "feature"]].assign(
        detected_order=by["detected"].rank(method="min"), removed_order=by["removed"].rank(method="min")
    )


# ---------------------------------------------------------------------- one rollout, one feature


class _Tables:
    """The frames cut by rollout once, for many rows; of what was shown only the features in question."""

    def __init__(self, frames: Frames, wanted: set[str], features: set[int]) -> None:
        self.labels = frames.labels
        said = prose(frames)
        self.rounds = _by_rollout(said[said["rollout"].isin(wanted)])
        ok = frames.calls[(frames.calls["outcome"] == "ok") & frames.calls["rollout"].isin(wanted)]
        self.calls = _by_rollout(ok.sort_values(["round", "order"]))
        listed = frames.shown["rollout"].isin(wanted) & frames.shown["feature"].isin(features)
        # a result is told in the turn after its call: one that was dropped with the history before it, nobody read
        dropped = set(zip(frames.truncations["rollout"], frames.truncations["round"] - 1, strict=True))
        unread = [at in dropped for at in zip(frames.shown["rollout"], frames.shown["round"], strict=True)]
        self.shown = _by_rollout(frames.shown[listed & ~pd.Series(unread, index=frames.shown.index, dtype=bool)])


def _by_rollout(table: pd.DataFrame) -> dict[str, list[dict[Any, Any]]]:
    return {str(r): rows.to_dict("records") for r, rows in table.groupby("rollout", sort=False)}


def _coded(rollout: str, feature: int, state: pd.DataFrame, tables: _Tables) -> dict[str, Any]:
    onset, strength = int(state["round"].min()), float(state["strength"].iloc[0])
    in_force_to = int(state["round"].max())
    rounds = tables.rounds.get(rollout, [])
    calls = [c for c in tables.calls.get(rollout, []) if c["round"] >= onset]
    listed = [s for s in tables.shown.get(rollout, []) if s["round"] >= onset and s["feature"] == feature]
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"rollout": rollout, "feature": feature, "strength": strength, "onset": onset}
    row["inspected"] = _first(s["round"] for s in listed if s["verb"] == "inspect")
    row["checked"] = _first(s["round"] for s in listed if s["verb"] == "check")
    row["shown"] = _first(s["round"] for s in listed if s["verb"] in ("inspect", "check"))
    ended = next(((c, _ending(c, feature)) for c in calls if _ending(c, feature)), None)
    if ended is not None:
        row["removed"], row["removal"] = int(ended[0]["round"]), ended[1]
        row["removed_unseen"] = ended[1] == "blanket" and not _before(row["shown"], row["removed"])
    own = [(int(c["round"]), float(c["strength"])) for c in calls if c["verb"] == "steer" and c["feature"] == feature]
    over = row["removed"] or in_force_to  # the round in which it ended, whoever ended it
    row["amplified"] = _first(r for r, s in own if s * strength > 0 and r <= over)
    row["countered"] = _first(r for r, s in own if s * strength < 0 and r <= over)
    row["readopted"] = _first(r for r, s in own if s * strength > 0 and r > over)
    row["watched"] = row["removed"] or min(in_force_to, max(int(r["round"]) for r in rounds))
    told = [(int(r["round"]), str(r["prose"])) for r in rounds if onset <= r["round"] <= in_force_to + 1]
    name = _naming(feature, {str(s["label"]) for s in listed} or {str(tables.labels.get(feature, ""))})
    row["named"] = _first(r for r, text in told if _before(row["shown"], r) and name.search(text))
    row["remarked"] = _first(r for r, text in told if not _before(row["shown"], r) and remarked(text))
    row["detected"] = _first(
        r
        for r in (
            row["named"],
            row["removed"] if row["removal"] == "targeted" or row["removed_unseen"] is False else None,
            row["countered"],
            row["remarked"],
        )
        if r is not None
    )
    row["category"] = _category(row)
    return row


def _category(row: Mapping[str, Any]) -> Category:
    """By its first action on the feature; a tie goes to the earlier name in CATEGORIES."""
    acts: list[tuple[int, Category]] = []
    if row["removed"] is not None:
        acts.append((row["removed"], "targeted removal" if row["removal"] == "targeted" else "blanket cleanup"))
    if row["countered"] is not None:
        acts.append((row["countered"], "counter-steering"))
    if row["amplified"] is not None:
        acts.append((row["amplified"], "amplification"))
    if acts:
        return min(acts, key=lambda act: (act[0], CATEGORIES.index(act[1])))[1]
    if row["remarked"] is not None:
        return "behavioural detection"
    return "ignore" if row["shown"] is not None else "no detection"


def _ending(call: Mapping[str, Any], feature: int) -> str:
    """How this call ended the injection: targeted, blanket, or not at all."""
    if not (_external(call["before"], feature) and not _external(call["after"], feature)):
        return ""
    return "targeted" if call["verb"] == "remove" else "blanket"


def _external(interventions: object, feature: int) -> bool:
    rows = interventions if isinstance(interventions, list) else []
    return any(i["feature"] == feature and i.get("source", "self") != "self" for i in rows)


def _naming(feature: int, labels: Iterable[str]) -> re.Pattern[str]:
    """How prose names a feature: by its label in full, or by its number behind a word or sign for features."""
    ways = [rf"(?:\bfeature[ _#]*|\bindex[ #]*|[#\[]){feature}\b"]
    ways += [rf"(?<!\w){re.escape(label)}(?!\w)" for label in labels if label.strip()]
    return re.compile("|".join(ways), re.IGNORECASE)


def _before(first: int | None, number: int) -> bool:
    return first is not None and first < number


def _first(rounds: Iterable[Any]) -> int | None:
    return min((int(r) for r in rounds), default=None)
