"""Was the problem answered right: first, and in the end? A row per rollout that was given a problem.

Knows no problem file: the first line of a transcript says which answers are right.
"""

from __future__ import annotations

import pandas as pd

from agents.grading import right
from analysis.calls import prose
from analysis.frames import Frames, per_rollout


def answers(frames: Frames) -> pd.DataFrame:
    """right_first, right_last: is the answer in the first and in the last response right, calls left out.

    NaN in rollouts without a problem, and right_last in those of a single round: nothing was asked again.
    """
    said = prose(frames)
    rows = {}
    for rollout, told in frames.rollouts[["rollout", "parameters"]].itertuples(index=False):
        if isinstance(told, dict) and told.get("problem") is not None:
            mine = said[said["rollout"] == rollout].sort_values("round")["prose"]
            graded = [float(right(text, told.get("accept") or (), told.get("number"))) for text in mine]
            last = graded[-1] if len(graded) > 1 else float("nan")
            rows[rollout] = {"right_first": graded[0] if graded else float("nan"), "right_last": last}
    return per_rollout(frames, rows)
