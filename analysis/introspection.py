"""Can a model tell which vector steered it? The gap between its answer with the steered state kept and from text alone.

Knows no file. One row per question and reading in (`quizzes`), probabilities of the right option and their gaps out.

Three scorings of the same question. `stored`: what was published. `overwritten`: that definition applied to the
likeliest tokens that were kept: each spelling of a letter (" A", "\\tA") replaces the one before it, and a letter that
is not among them gets a log-probability of -100. `summed`: spellings are added up, the floor stays. All are of a
truncated list: where few letters are listed they say which letter won, not how likely it was; see `letters`, `bounds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.stats import Estimate, cluster_bootstrap, mean

Scoring = Literal["stored", "overwritten", "summed"]
Tops = Sequence[tuple[str, float]]
FLOOR = -100.0
"""The log-probability that the study gave to a letter outside the listed tokens."""
SPELLINGS = ("", " ", "\t")
"""What may stand before a letter in a token of its own."""
KEYS = ["rollout", "vector", "dose", "primer"]


def spelled(tops: Tops, letters: str, spelling: Literal["last", "sum"]) -> dict[str, float]:
    """The log-probability of each letter that is listed; white space around it does not count."""
    found: dict[str, float] = {}
    for token, logprob in tops:
        letter = token.strip()
        if len(letter) == 1 and letter in letters:
            again = letter in found and spelling == "sum"
            found[letter] = float(np.logaddexp(found[letter], logprob)) if again else float(logprob)
    return found


def probability(
    tops: Tops, correct: str, letters: str, spelling: Literal["last", "sum"], floor: float = FLOOR
) -> float:
    """P(correct) by a softmax over the letters, those not listed at `floor`; an exact list needs no floor."""
    found = spelled(tops, letters, spelling)
    logs = np.array([found.get(letter, floor) for letter in letters])
    shares = np.exp(logs - logs.max())
    return float(shares[letters.index(correct)] / shares.sum())


def scored(quizzes: pd.DataFrame, scoring: Scoring) -> pd.Series:
    """P(correct) of each row of `quizzes`; NaN where the scoring has nothing to go by."""
    if scoring == "stored":
        return quizzes["stored"].astype("float64")
    spelling: Literal["last", "sum"] = "sum" if scoring == "summed" else "last"
    values = [probability(*quiz, spelling) if quiz else float("nan") for quiz in _quizzes(quizzes)]
    return pd.Series(values, index=quizzes.index, dtype="float64")


def gaps(quizzes: pd.DataFrame, scoring: Scoring = "stored") -> pd.DataFrame:
    """One row per question: KEYS, cached, uncached (P of the right option) and gap, their difference.

    The gap is NaN if one reading is missing: a reading that is not there is no probability of 0.
    """
    long = quizzes[[*KEYS, "reading"]].assign(p=scored(quizzes, scoring))
    wide = long.pivot(index=KEYS, columns="reading", values="p").reindex(columns=["cached", "uncached"])
    made = wide.reset_index().rename_axis(columns=None)
    return made.assign(gap=made["cached"] - made["uncached"])


def pooled(gap: pd.DataFrame, column: str = "gap") -> Estimate:
    """The mean over all questions of any dose; the interval resamples vectors, as questions of one belong together."""
    return cluster_bootstrap(gap[column], gap["vector"])


def by_vector(gap: pd.DataFrame) -> pd.DataFrame:
    """vector, cached, uncached, gap (means over its questions), n; ordered by gap."""
    there = gap.dropna(subset="gap").groupby("vector")
    made = there[["cached", "uncached", "gap"]].mean().assign(n=there.size())
    return made.reset_index().sort_values(["gap", "vector"], ignore_index=True)


def by_group(gap: pd.DataFrame, group: Mapping[str, str]) -> pd.DataFrame:
    """Means over vectors of their gaps, by valence, category or what `group` says: group, gap, vectors, low, high."""
    vectors = by_vector(gap)
    rows = []
    for name, mine in vectors.groupby(vectors["vector"].map(dict(group)), sort=True):
        estimate = mean(mine["gap"])
        rows.append((name, estimate.value, estimate.n, estimate.low, estimate.high))
    return pd.DataFrame(rows, columns=["group", "gap", "vectors", "low", "high"])


def clustered_error(gap: pd.DataFrame) -> float:
    """Standard error of the pooled gap with vectors as clusters; NaN for fewer than two."""
    vectors = by_vector(gap)["gap"]
    return float(vectors.std(ddof=1) / np.sqrt(len(vectors))) if len(vectors) > 1 else float("nan")


def gain(first: pd.DataFrame, second: pd.DataFrame) -> Estimate:
    """The gap of `first` minus that of `second`, paired over the vectors that both have, with Student's interval."""
    a, b = (by_vector(gap).set_index("vector")["gap"] for gap in (first, second))
    return mean((a - b).dropna())


def letters(quizzes: pd.DataFrame) -> pd.DataFrame:
    """What a truncated list shows of the options: KEYS, reading, letters, entries, doubled, mass.

    letters: different options that are listed. entries: tokens that spell one. doubled: some option is listed in two
    spellings. mass: probability of all that is listed of the options. Where mass is low, P(correct) rests on little.
    """
    rows: list[tuple[float, float, float, float]] = []
    for quiz in _quizzes(quizzes):
        if quiz is None:
            rows.append((np.nan,) * 4)
            continue
        tops, _, names = quiz
        found = [(t.strip(), lp) for t, lp in tops if len(t.strip()) == 1 and t.strip() in names]
        distinct = len({letter for letter, _ in found})
        rows.append((distinct, len(found), float(len(found) > distinct), float(sum(np.exp(lp) for _, lp in found))))
    made = pd.DataFrame(rows, columns=["letters", "entries", "doubled", "mass"], index=quizzes.index, dtype="float64")
    return pd.concat([quizzes[[*KEYS, "reading"]], made], axis=1)


def bounds(quizzes: pd.DataFrame, before: Sequence[str] = SPELLINGS) -> pd.DataFrame:
    """What exact scoring, spellings added up, could give at least and at most: KEYS, reading, low, high.

    A spelling (a letter with one of `before` in front) that is not listed has at most the probability of the last
    listed token, and all that is not listed has no more than the listed leave. Where every spelling is listed, low
    and high are the exact value. Other spellings than these are taken to have no probability.
    """
    rows = []
    for quiz in _quizzes(quizzes):
        if quiz is None:
            rows.append((np.nan, np.nan))
            continue
        tops, correct, names = quiz
        found = {k: float(np.exp(v)) for k, v in spelled(tops, names, "sum").items()}
        tokens, seen = {t for t, _ in tops}, [float(np.exp(lp)) for _, lp in tops]
        unlisted = {n: sum(f"{b}{n}" not in tokens for b in before) for n in names}
        spare = max(0.0, 1.0 - sum(seen))
        most = min(spare, min(seen, default=spare))
        own, others = found.get(correct, 0.0), sum(v for k, v in found.items() if k != correct)
        own_more = min(spare, most * unlisted[correct])
        others_more = min(spare, most * sum(n for k, n in unlisted.items() if k != correct))
        rows.append((_part(own, own + others + others_more, 0.0), _part(own + own_more, own + own_more + others, 1.0)))
    made = pd.DataFrame(rows, columns=["low", "high"], index=quizzes.index, dtype="float64")
    return pd.concat([quizzes[[*KEYS, "reading"]], made], axis=1)


def truncated(quizzes: pd.DataFrame, k: int) -> pd.DataFrame:
    """The same questions with only the k likeliest tokens kept, as a server that lists k of them would give."""
    kept = [None if t is None else sorted(t, key=lambda pair: -pair[1])[:k] for t in quizzes["tops"]]
    made = quizzes.copy()
    made["tops"] = pd.Series(kept, index=quizzes.index, dtype=object)
    return made


def _quizzes(quizzes: pd.DataFrame) -> Iterable[tuple[Tops, str, str] | None]:
    """(tops, correct letter, all letters) of each row, None where one of them is missing."""
    for tops, correct, pool in zip(quizzes["tops"], quizzes["correct"], quizzes["pool"], strict=True):
        there = _listed(tops) and _listed(pool) and isinstance(correct, str)
        names = ascii_uppercase[: len(pool)] if there else ""
        yield (tops, correct, names) if there and correct in names and correct else None


def _listed(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0


def _part(part: float, whole: float, otherwise: float) -> float:
    return part / whole if whole > 0 else otherwise
