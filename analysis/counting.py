"""Counts by rollout as metrics need them: 0 where nothing of the kind happened, missing where the rollout failed.

Knows no metric.
"""

from __future__ import annotations

import pandas as pd

from analysis.frames import Frames


def tallied(frames: Frames, missing: tuple[str, ...] = (), **columns: pd.Series[float]) -> pd.DataFrame:
    """A row per rollout. columns: numbers by rollout; a rollout not in one has 0, or NaN where `missing` names it."""
    index = pd.Index(frames.rollouts["rollout"], name="rollout")
    made = pd.DataFrame({name: column.reindex(index) for name, column in columns.items()}, index=index)
    made = made.astype("float64")
    kept = [name for name in columns if name not in missing]
    made[kept] = made[kept].fillna(0.0)
    made[~made.index.isin(frames.counted)] = float("nan")
    return made


def ever(rows: pd.DataFrame) -> pd.Series[float]:
    """1 for every rollout with a row."""
    return pd.Series(1.0, index=pd.Index(rows["rollout"].unique(), dtype=object))


def times(rows: pd.DataFrame) -> pd.Series[float]:
    """How many rows each rollout has."""
    return rows.groupby("rollout").size().astype("float64")


def said(frames: Frames) -> pd.DataFrame:
    """Rounds with a response: rollout, round, response, in order."""
    rounds = frames.rounds.loc[frames.rounds["response"].notna(), ["rollout", "round", "response"]]
    return rounds.sort_values(["rollout", "round"], ignore_index=True)


def heard(frames: Frames) -> set[str]:
    """Rollouts with a recorded response. Of others (extracts) only some calls were listed, and notes of some kinds."""
    return set(frames.rounds.loc[frames.rounds["response"].notna(), "rollout"])


def followed(frames: Frames) -> set[str]:
    """Rollouts of which it was recorded what was in force. Inspect logs have responses without it."""
    return set(frames.rounds.loc[frames.rounds["in_force"].notna(), "rollout"])
