"""What steering tools cost or buy on a task: how many problems were solved, and who took anything at all.

Knows no problem and no answer: the study's own scorer said what was right.
"""

from __future__ import annotations

import pandas as pd

from analysis.choice import uncounted
from analysis.frames import Frames, per_rollout

SCORER = "gsm8k_accuracy"


def problems(frames: Frames, scorer: str = SCORER) -> pd.DataFrame:
    """Per rollout: total, attempted, correct, accuracy (of all: not attempted is wrong), given_attempted.

    The study published `accuracy`; a rollout that ends early loses by it whatever it can do. given_attempted is NaN
    where nothing was attempted, and all is NaN for a rollout that the scorer did not score.
    """
    mine = frames.scores[frames.scores["scorer"] == scorer]
    wide = mine.pivot(index="rollout", columns="key", values="value").reindex(frames.rollouts["rollout"])
    wide = wide.reindex(columns=["n_total", "n_attempted", "n_correct"]).astype("float64")
    wide.columns = pd.Index(["total", "attempted", "correct"])
    made = wide.rename_axis("rollout")
    made[made.index.isin(uncounted(frames))] = float("nan")
    made["accuracy"] = (made["correct"] / made["total"]).where(made["total"] > 0)
    made["given_attempted"] = (made["correct"] / made["attempted"]).where(made["attempted"] > 0)
    return made


def taking(frames: Frames) -> pd.DataFrame:
    """Per rollout: tried (any STEER call, carried out or not) and took (one that was carried out), 1.0 or 0.0.

    The published take rates are of `tried`. A rollout without tools to take anything has 0.0 too: filter it out.
    """
    calls = frames.calls[frames.calls["verb"] == "steer"]
    tried, took = set(calls["rollout"]), set(calls.loc[calls["outcome"] == "ok", "rollout"])
    rows = {r: {"tried": float(r in tried), "took": float(r in took)} for r in frames.rollouts["rollout"]}
    return per_rollout(frames, rows)


def judged(frames: Frames, scorer: str, key: str = "value") -> pd.Series:
    """A scorer's value per rollout, NaN where it gave none or the rollout failed."""
    mine = frames.scores[(frames.scores["scorer"] == scorer) & (frames.scores["key"] == key)]
    values = mine.set_index("rollout")["value"].astype("float64")
    made = values.reindex(frames.rollouts["rollout"]).rename_axis("rollout")
    return made.where(~made.index.isin(uncounted(frames)))
