"""What claims about the quiz can name: gaps under three scorings, by vector, dose and group, and what the lists show.

Knows no claim. Gaps are shares; a claim in percent scales them.
"""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from analysis import introspection as quiz
from analysis.choice import uncounted
from analysis.claims.choosing import labels
from analysis.claims.statistic import Statistic
from analysis.frames import Frames
from analysis.introspection import Scoring
from analysis.stats import Estimate, mean, spearman
from toolkit.errors import BadInput


def gaps(
    frames: Frames, scoring: Scoring = "stored", dose: float | None = None, vector: str | None = None
) -> pd.DataFrame:
    """analysis.introspection.gaps of the rollouts that count. Raises BadInput on an unknown scoring."""
    if scoring not in ("stored", "overwritten", "summed"):
        raise BadInput(f"scoring {scoring!r} is unknown; use stored, overwritten or summed")
    found = quiz.gaps(_counted(frames), scoring)
    keep = pd.Series(True, index=found.index)
    if dose is not None:
        keep &= found["dose"] == dose
    if vector is not None:
        keep &= found["vector"] == vector
    return found[keep]


def gap(
    frames: Frames,
    scoring: Scoring = "stored",
    reading: str = "gap",
    dose: float | None = None,
    vector: str | None = None,
) -> Estimate:
    """The mean of the gap, or of one reading (cached, uncached), over all questions; vectors are resampled."""
    if reading not in ("gap", "cached", "uncached"):
        raise BadInput(f"reading {reading!r} is unknown; use gap, cached or uncached")
    return quiz.pooled(gaps(frames, scoring, dose, vector), reading)


def error(frames: Frames, scoring: Scoring = "stored") -> Estimate:
    """The standard error of the pooled gap, with vectors as clusters."""
    found = gaps(frames, scoring)
    n = int(found.dropna(subset="gap")["vector"].nunique())
    return Estimate(quiz.clustered_error(found), nan, nan, n, "standard error over vectors, no interval")


def group(frames: Frames, labelled: str, name: str, scoring: Scoring = "stored") -> Estimate:
    """The mean over vectors of one valence or category of their gaps."""
    found = quiz.by_vector(gaps(frames, scoring))
    mine = found[found["vector"].map(labels(labelled)) == name]
    return mean(mine["gap"])


def lowest(frames: Frames, scoring: Scoring = "stored") -> Estimate:
    """The lowest gap of any vector, which `how` names. Picked from the data: no interval."""
    found = quiz.by_vector(gaps(frames, scoring))
    if not len(found):
        return Estimate(nan, nan, nan, 0, "no gaps")
    how = f"lowest of {len(found)} vectors: {found['vector'].iloc[0]}; picked from the data, no interval"
    return Estimate(float(found["gap"].iloc[0]), nan, nan, len(found), how)


def negatives(frames: Frames, scoring: Scoring = "stored") -> Estimate:
    """How many vectors have a gap below 0."""
    found = quiz.by_vector(gaps(frames, scoring))
    how = f"of {len(found)} vectors, no interval"
    return Estimate(float((found["gap"] < 0).sum()) if len(found) else nan, nan, nan, len(found), how)


def gain(frames: Frames, other: Frames, scoring: Scoring = "stored", what: str = "gain") -> Estimate:
    """The gap of the first rollouts minus that of the others, paired over vectors; or (`p`) its p, paired t."""
    first, second = gaps(frames, scoring), gaps(other, scoring)
    found = quiz.gain(first, second)
    if what == "gain":
        return found
    if what != "p":
        raise BadInput(f"{what!r} is unknown; use gain or p")
    a, b = (quiz.by_vector(g).set_index("vector")["gap"] for g in (first, second))
    pair = pd.concat([a, b], axis=1, join="inner")
    p = float(scipy_stats.ttest_rel(pair.iloc[:, 0], pair.iloc[:, 1]).pvalue) if len(pair) > 1 else nan
    return Estimate(p, nan, nan, len(pair), "p of a t-test paired over vectors", 0, p)


def correlation(frames: Frames, other: Frames, method: str = "pearson", scoring: Scoring = "stored") -> Estimate:
    """How alike two groups' gaps are over the vectors that both have: Pearson's or Spearman's correlation."""
    a, b = (quiz.by_vector(gaps(f, scoring)).set_index("vector")["gap"] for f in (frames, other))
    pair = pd.concat([a, b], axis=1, join="inner")
    if method == "spearman":
        return spearman(pair.iloc[:, 0], pair.iloc[:, 1])
    if method != "pearson":
        raise BadInput(f"correlation {method!r} is unknown; use pearson or spearman")
    if len(pair) < 4:
        return Estimate(nan, nan, nan, len(pair), "Pearson: needs four vectors")
    found = scipy_stats.pearsonr(pair.iloc[:, 0], pair.iloc[:, 1])
    low, high = found.confidence_interval()
    how = "Pearson over vectors; Fisher z 95%"
    return Estimate(float(found.statistic), float(low), float(high), len(pair), how, 0, float(found.pvalue))


def listed(frames: Frames, what: str = "mass", reading: str = "both") -> Estimate:
    """The mean over questions of analysis.introspection.letters: letters, entries, doubled or mass."""
    quizzes = _read(frames, reading)
    found = quiz.letters(quizzes)
    if what not in ("letters", "entries", "doubled", "mass"):
        raise BadInput(f"{what!r} is unknown; use letters, entries, doubled or mass")
    return quiz.pooled(found, what)


def extreme(
    frames: Frames,
    above: float | None = None,
    below: float | None = None,
    reading: str = "cached",
    scoring: Scoring = "stored",
) -> Estimate:
    """The share of questions whose P(correct) is above or below a bound."""
    if (above is None) == (below is None):
        raise BadInput(f"give one bound, above or below; found {above!r} and {below!r}")
    quizzes = _read(frames, reading)
    p = quiz.scored(quizzes, scoring)
    hit = p > above if above is not None else p < below
    return quiz.pooled(quizzes.assign(hit=hit.astype("float64").where(p.notna())), "hit")


def bounded(frames: Frames) -> Estimate:
    """The middle of what exact scoring of the gap could give, and its two ends: what truncation leaves open.

    The interval says nothing of sampling. Source of the bounds: analysis.introspection.bounds.
    """
    found = quiz.bounds(_counted(frames)).pivot(index="rollout", columns="reading", values=["low", "high"])
    if not len(found):
        return Estimate(nan, nan, nan, 0, "no quizzes")
    low = float((found[("low", "cached")] - found[("high", "uncached")]).mean())
    high = float((found[("high", "cached")] - found[("low", "uncached")]).mean())
    n = int(found.dropna().shape[0])
    return Estimate((low + high) / 2, low, high, n, "middle and ends of what truncation leaves open", len(found) - n)


def _counted(frames: Frames) -> pd.DataFrame:
    return frames.quizzes[~frames.quizzes["rollout"].isin(uncounted(frames))]


def _read(frames: Frames, reading: str) -> pd.DataFrame:
    found = _counted(frames)
    if reading == "both":
        return found
    if reading not in ("cached", "uncached"):
        raise BadInput(f"reading {reading!r} is unknown; use both, cached or uncached")
    return found[np.asarray(found["reading"] == reading, dtype=bool)]


STATISTICS: dict[str, Statistic] = {
    s.name: s
    for s in (
        Statistic("gap", 1, "P(right option) with the steered state minus without, or one of the two", gap),
        Statistic("gap_error", 1, "standard error of the gap over vectors", error),
        Statistic("group_gap", 1, "mean over the vectors of a group of their gaps", group),
        Statistic("lowest_gap", 1, "the lowest gap of any vector", lowest),
        Statistic("negative_gaps", 1, "vectors whose gap is below 0", negatives),
        Statistic("gap_gain", 1, "difference of two gaps, paired over vectors", gain),
        Statistic("gap_correlation", 1, "correlation of two groups' gaps over vectors", correlation),
        Statistic("listed", 1, "what the lists of likeliest tokens show of the options", listed),
        Statistic("extreme_share", 1, "share of questions answered with near certainty", extreme),
        Statistic("gap_bounds", 1, "what exact scoring of the gap could give", bounded),
    )
}
