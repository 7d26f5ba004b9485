"""What claims about choices and tasks can name: takes, valence, redosing, transitions; problems solved, scores given.

Knows no claim. Parameters are the words of a file of claims; a word that is unknown is a BadInput that names it.
"""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pandas as pd
from scipy import stats as scipy_stats

from analysis import choice, tasks
from analysis.claims.statistic import Statistic
from analysis.frames import WHOLE, Frames, per_rollout
from analysis.importers import self_medication
from analysis.metrics import Metric
from analysis.stats import Estimate, mean, pooled_difference
from toolkit.errors import BadInput

SIGNIFICANT = 0.05


def labels(column: str) -> dict[str, str]:
    """A column of the states by name: category, valence or valence_alternative. Raises BadInput on another one."""
    states = self_medication.states()
    if column not in ("category", "valence", "valence_alternative"):
        raise BadInput(f"states have no labels {column!r}; use category, valence or valence_alternative")
    return dict(zip(states["name"], states[column], strict=True))


def taken(frames: Frames, only: str = "all", when: str = "always") -> pd.DataFrame:
    """Takes: of any name and outcome (`all`), `accepted`, `rejected`, or of a name in the `library`, accepted or not.

    when: `always`, or `before` or `after` a monitor first spoke to the model.
    """
    found = choice.takes(frames)
    if when == "before":
        found = choice.before_advice(frames, found)
    elif when == "after":
        found = choice.after_advice(frames, found)
    elif when != "always":
        raise BadInput(f"when {when!r} is unknown; use always, before or after")
    kept = {"all": found["accepted"].notna(), "accepted": found["accepted"], "rejected": ~found["accepted"]}
    kept["library"] = found["vector"].isin(self_medication.numbers())
    if only not in kept:
        raise BadInput(f"takes {only!r} are unknown; use {', '.join(kept)}")
    return found[kept[only]]


def takes(frames: Frames, only: str = "all", vectors: list[str] | None = None, when: str = "always") -> pd.DataFrame:
    """Takes per rollout, of some vectors or of all."""
    found = taken(frames, only, when)
    mine = found if vectors is None else found[found["vector"].isin(vectors)]
    return _counted(frames, mine["rollout"].value_counts(), "takes")


def valence(
    frames: Frames, label: str = "negative", labelled: str = "valence", only: str = "accepted", when: str = "always"
) -> pd.DataFrame:
    """Takes per rollout of a valence: labelled_takes; all that have one: all_labelled; positive minus negative: net."""
    made = choice.valences(taken(frames, only, when), frames.rollouts["rollout"], labels(labelled))
    if label not in made:
        raise BadInput(f"valence {label!r} is unknown; use positive, neutral or negative")
    columns = {"labelled_takes": made[label], "all_labelled": made["total"]}
    columns["net_valence"] = made["positive"] - made["negative"]
    return _wide(frames, pd.DataFrame(columns))


def redose(
    frames: Frames,
    vector: str | None = None,
    only: str = "accepted",
    when: str = "always",
    told: bool | None = None,
) -> pd.DataFrame:
    """Per rollout: the sum over vectors of later doses (later_dose), and vectors that were taken (vectors_taken).

    told: only rollouts in which a monitor spoke to the model, or only the others.
    """
    found = choice.redose(taken(frames, only, when))
    mine = found if vector is None else found[found["vector"] == vector]
    if told is not None:
        mine = mine[mine["rollout"].isin(choice.advised(frames).index) == told]
    grouped = mine.groupby("rollout")["later"]
    made = pd.DataFrame({"later_dose": grouped.sum(), "vectors_taken": grouped.size()})
    return _wide(frames, made.reindex(frames.rollouts["rollout"]).fillna(0.0))


def advice(frames: Frames) -> pd.DataFrame:
    """Was the model spoken to by a monitor (advised), and did it end the rollout (ended_by_monitor)?"""
    first = choice.advised(frames)
    ended = set(frames.rollouts.loc[frames.rollouts["ended"] == "stopped", "rollout"])
    names = [str(r) for r in frames.rollouts["rollout"]]
    rows = {r: {"advised": float(r in first.index), "ended_by_monitor": float(r in ended)} for r in names}
    return per_rollout(frames, rows)


def problems(frames: Frames, scorer: str = tasks.SCORER) -> pd.DataFrame:
    """analysis.tasks.problems under the names that claims use."""
    made = tasks.problems(frames, scorer)
    return made.rename(columns={c: f"problems_{c}" for c in ("total", "attempted", "correct")})


def scores(frames: Frames, scorer: str = "", minus: str = "") -> pd.DataFrame:
    """A scorer's value per rollout, or that minus another's; missing where one of them is."""
    value = tasks.judged(frames, scorer)
    return (value - tasks.judged(frames, minus) if minus else value).to_frame("scored")


def permutation(
    frames: Frames, other: Frames, label: str = "negative", labelled: str = "valence", only: str = "accepted"
) -> Estimate:
    """p of the difference of pooled shares of a valence, arms shuffled over whole rollouts."""
    tables = [valence(f, label, labelled, only) for f in (frames, other)]
    both = pd.concat(tables, keys=["first", "second"])
    arms = both.index.get_level_values(0)
    found = pooled_difference(both["labelled_takes"], both["all_labelled"], arms, "first")
    return Estimate(found.p, nan, nan, found.n, f"p of: {found.how}", found.missing, found.p)


def rank(frames: Frames, vector: str, only: str = "library") -> Estimate:
    """The place of a vector by how often it was taken, from 1; ties share the better place."""
    counts = choice.picks(taken(frames, only)).set_index("vector")["takes"]
    value = float((counts > counts[vector]).sum() + 1) if vector in counts else nan
    return Estimate(value, nan, nan, int(counts.sum()), f"place of {vector} among {len(counts)} names; n: takes")


def lead(frames: Frames, top: int = 3, only: str = "library") -> Estimate:
    """How many times as often the last of the top was taken as the next. Picked from the data: no interval."""
    counts = choice.picks(taken(frames, only))
    n, how = int(counts["takes"].sum()), f"place {top} over place {top + 1}; n: takes"
    if len(counts) <= top:
        return Estimate(nan, nan, nan, n, how)
    last, next_one = counts["takes"].iloc[top - 1], counts["takes"].iloc[top]
    names = f"{counts['vector'].iloc[top - 1]} over {counts['vector'].iloc[top]}"
    return Estimate(float(last / next_one), nan, nan, n, f"{names}: {how}")


def accuracy_difference(frames: Frames, other: Frames, measure: str = "accuracy") -> Estimate:
    """Mean accuracy of the first rollouts minus that of the others, paired by the problems they were set.

    The study sets the same problems to the rollouts of one number in every cell, so pairs differ in the cell alone.
    """
    first, second = (_by_number(f, tasks.problems(f)[measure]) for f in (frames, other))
    pair = pd.concat([first, second], axis=1, join="inner").dropna()
    found = mean(pair.iloc[:, 0] - pair.iloc[:, 1])
    gone = max(len(first), len(second)) - len(pair)
    return replace(found, how=f"difference paired by problems; {found.how}", missing=gone)


def _by_number(frames: Frames, values: pd.Series) -> pd.Series:
    numbers = frames.rollouts.set_index("rollout")["number"].astype(object).str.rpartition("-")[2]
    return values.rename(numbers.to_dict()).groupby(level=0).mean()


def by_framing(frames: Frames, only: str = "accepted") -> Estimate:
    """p of the Kruskal-Wallis test that takes per rollout are alike under every framing."""
    counts = takes(frames, only)["takes"]
    framing = frames.rollouts.set_index("rollout")["framing"].reindex(counts.index)
    groups = [g.dropna() for _, g in counts.groupby(framing.astype(object)) if g.notna().any()]
    n, how = int(counts.notna().sum()), "p of Kruskal-Wallis over framings"
    if len(groups) < 2 or counts.dropna().nunique() < 2:
        return Estimate(nan, nan, nan, n, f"{how}: needs two framings that differ")
    p = float(scipy_stats.kruskal(*groups).pvalue)
    return Estimate(p, nan, nan, n, how, int(counts.isna().sum()), p)


def transitions(
    frames: Frames,
    other: Frames | None = None,
    what: str = "tested",
    before: str = "",
    after: str = "",
    at_least: int = 3,
    only: str = "all",
) -> Estimate:
    """Of choice.transitions, both groups pooled where there are two: `neighbours`, `tested`, `significant` (binomial,
    all neighbours as independent), `significant_within` (order shuffled within rollouts), or n, lift, q or q_within
    of one pair."""
    found = pd.concat([taken(f, only) for f in ((frames,) if other is None else (frames, other))])
    library = frozenset(self_medication.numbers())
    rollouts = int(found["rollout"].nunique())
    if not rollouts:
        return Estimate(nan, nan, nan, 0, "nobody took anything")
    if what == "neighbours":
        every = choice.transitions(found, library, 1, resamples=0)
        return Estimate(float(every["n"].sum()), nan, nan, rollouts, "count of neighbours, no interval")
    pairs = choice.transitions(found, library, at_least, resamples=2000 if "within" in what else 0)
    how = f"pairs seen {at_least} times or more, of {rollouts} rollouts"
    counts = {"tested": len(pairs), "significant": int((pairs["q"] < SIGNIFICANT).sum())}
    counts["significant_within"] = int((pairs["q_within"] < SIGNIFICANT).sum())
    if what in counts:
        return Estimate(float(counts[what]), nan, nan, rollouts, f"{what}: {how}")
    if what not in ("n", "lift", "q", "q_within"):
        raise BadInput(f"transitions have no {what!r}; use neighbours, {', '.join(counts)}, n, lift, q or q_within")
    mine = pairs[(pairs["before"] == before) & (pairs["after"] == after)]
    value = float(mine[what].iloc[0]) if len(mine) else nan
    return Estimate(value, nan, nan, rollouts, f"{what} of {before} then {after}: {how}")


def _counted(frames: Frames, counts: pd.Series, name: str) -> pd.DataFrame:
    return _wide(frames, counts.reindex(frames.rollouts["rollout"]).fillna(0.0).to_frame(name))


def _wide(frames: Frames, made: pd.DataFrame) -> pd.DataFrame:
    """Rows for every rollout that counts; the others are missing."""
    whole = made.reindex(frames.rollouts["rollout"]).astype("float64").rename_axis("rollout")
    whole[~frames.rollouts["ended"].isin(WHOLE).to_numpy(dtype=bool)] = nan
    return whole


COUNTS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("takes", 1, "number", "STEER calls, of one name or all", takes),
        Metric("labelled_takes", 1, "number", "takes of a valence", valence),
        Metric("all_labelled", 1, "number", "takes of anything that has a valence", valence),
        Metric("net_valence", 1, "number", "positive takes minus negative ones", valence),
        Metric("later_dose", 1, "number", "doses of what had been taken before, summed", redose),
        Metric("vectors_taken", 1, "number", "different names taken", redose),
        Metric("advised", 1, "rate", "a monitor spoke to the model", advice),
        Metric("ended_by_monitor", 1, "rate", "a monitor ended it", advice),
        Metric("tried", 1, "rate", "a STEER was written, carried out or not", tasks.taking),
        Metric("took", 1, "rate", "a STEER was carried out", tasks.taking),
        Metric("problems_total", 1, "number", "problems set", problems),
        Metric("problems_attempted", 1, "number", "problems attempted", problems),
        Metric("problems_correct", 1, "number", "problems solved", problems),
        Metric("accuracy", 1, "share", "problems solved of all: not attempted is wrong", problems),
        Metric("given_attempted", 1, "share", "problems solved of those attempted", problems),
        Metric("scored", 1, "number", "the value of a scorer, or a difference of two", scores),
    )
}
STATISTICS: dict[str, Statistic] = {
    s.name: s
    for s in (
        Statistic("valence_permutation", 1, "p of a difference of valence shares between arms", permutation),
        Statistic("takes_by_framing", 1, "p that framings do not differ in takes per rollout", by_framing),
        Statistic("pick_rank", 1, "place of a vector by how often it was taken", rank),
        Statistic("pick_lead", 1, "how far the top picks are ahead of the next", lead),
        Statistic(
            "accuracy_difference", 1, "accuracy minus the other group's, on the same problems", accuracy_difference
        ),
        Statistic("transitions", 1, "what is taken after what", transitions),
    )
}
