"""What a model searched for: exact words, stems in any form, or by embedding; first queries, and the most frequent.

Knows no embedding model: whoever has one hands in a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.counting import ever, said, tallied, times
from analysis.frames import Frames
from analysis.stats import Estimate

Embed = Callable[[Sequence[str]], NDArray[np.floating[Any]]]
"""Texts in, one row of unit length per text out, [n, D]."""
NEAR = 0.5
"""Cosine from which a query is near a concept, if nobody says otherwise; sentence encoders differ, so say otherwise."""


def queries(frames: Frames) -> pd.DataFrame:
    """Every SEARCH with a query, in order: rollout, round, order, query (lower case, white space and quotes even)."""
    found = frames.calls[(frames.calls["verb"] == "search") & frames.calls["query"].notna()]
    found = found[["rollout", "round", "order", "query"]].sort_values(["rollout", "round", "order"], ignore_index=True)
    return found.assign(query=found["query"].str.lower().str.split().str.join(" ").str.strip("\"'“”‘’ "))


def searched(
    frames: Frames,
    equal: Sequence[str] = (),
    stems: Sequence[str] = (),
    not_equal: Sequence[str] = (),
    since: Mapping[str, int] | None = None,
    rounds: int | None = None,
) -> pd.DataFrame:
    """Searches that match: equal to one of `equal`, or with one of `stems` in them; those in `not_equal` never do.

    since: by condition, the first round that counts (others count from 1); rounds: how many from there.
    Columns: queries, matching (counts), matched (ever), rounds_searchable (rounds in that span), and of the first
    query: first_matches (0 without a query, as published) and first_matches_of_searchers (NaN without one).
    """
    found, spoken = _within(frames, queries(frames), since, rounds), _within(frames, said(frames), since, rounds)
    hit = found["query"].isin([e.lower() for e in equal])
    for stem in stems:
        hit |= found["query"].str.contains(stem.lower(), regex=False).fillna(False).astype(bool)
    hit &= ~found["query"].isin([e.lower() for e in not_equal])
    first = found.assign(hit=hit.astype("float64")).drop_duplicates("rollout").set_index("rollout")["hit"]
    return tallied(
        frames,
        missing=("first_matches_of_searchers",),
        queries=times(found),
        matching=times(found[hit]),
        matched=ever(found[hit]),
        rounds_searchable=times(spoken),
        first_matches=first,
        first_matches_of_searchers=first,
    )


def near(frames: Frames, concepts: Sequence[str], embed: Embed, threshold: float = NEAR) -> pd.DataFrame:
    """Searches by meaning: near_queries have a cosine of `threshold` or more to one of the concepts; near_first is
    the largest cosine of the first query. A stem finds its own letters alone; this finds synonyms, and false ones.
    """
    found = queries(frames)
    texts = sorted(set(found["query"]))
    closest = (embed(texts) @ embed(list(concepts)).T).max(axis=1) if texts else np.zeros(0)
    cosine = found["query"].map(dict(zip(texts, closest.astype(float), strict=True))).astype("float64")
    hit = cosine >= threshold
    first = found.assign(cosine=cosine).drop_duplicates("rollout").set_index("rollout")["cosine"]
    return tallied(
        frames, missing=("near_first",), near_queries=times(found[hit]), near_ever=ever(found[hit]), near_first=first
    )


def frequent(frames: Frames, place: int) -> Estimate:
    """How often the query in this place by frequency was searched; `how` says which query or queries that is."""
    found = queries(frames)
    found = found[found["rollout"].isin(frames.counted)]
    counts = found["query"].value_counts()
    nan, n = float("nan"), len(frames.counted)
    if len(counts) < place:
        return Estimate(nan, nan, nan, n, f"there are {len(counts)} different queries")
    count = int(counts.iloc[place - 1])
    ties = sorted(counts.index[counts == count])
    return Estimate(count, nan, nan, n, f"number {place} by frequency: {' or '.join(ties)}; no interval")


def _within(frames: Frames, table: pd.DataFrame, since: Mapping[str, int] | None, rounds: int | None) -> pd.DataFrame:
    if since is None and rounds is None:
        return table
    start = frames.rollouts.set_index("rollout")["condition"].map(dict(since or {})).fillna(1)
    low = table["rollout"].map(start).astype("int64")
    keep = table["round"] >= low
    if rounds is not None:
        keep &= table["round"] < low + rounds
    return table[keep.fillna(False).astype(bool)].reset_index(drop=True)
