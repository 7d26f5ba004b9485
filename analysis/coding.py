"""Judgements of a second coder, read from beside a run, and how far they agree with the coding from events.

Knows no judge at work. A judgement without a code is unscored: it counts as missing, never as "no".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import stats
from analysis.detection import detections, first_of_rollout
from analysis.frames import Frames
from toolkit.errors import BadInput

COLUMNS = ["question", "version", "judge", "rollout", "item", "code", "round", "problem"]
NOTHING = "no detection"


def judgements(run: str | Path) -> pd.DataFrame:
    """All judgements of a run, from RUN/judgements/*.jsonl; a cut-off last line is left out.

    Columns COLUMNS; code is missing where nothing could be read. Raises BadInput for a file that is none.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(Path(run).glob("judgements/*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            head, *found = [json.loads(line) for line in lines if line.endswith("\n")]
            about = {key: head[key] for key in ("question", "version", "judge")}
            rows += [{**about, **{key: one[key] for key in COLUMNS[3:]}} for one in found]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} holds no judgements ({error}); move it away") from error
    made = pd.DataFrame(rows, columns=COLUMNS)
    return made.astype({"version": "Int64", "round": "Int64", "code": "string"})


def agreement(frames: Frames, judged: pd.DataFrame) -> dict[str, stats.Estimate]:
    """Cohen's kappa between the category from events and each judge's, over rollouts; by name of the judge.

    Rollouts in which nothing was injected count: there the coding from events is "no detection".
    """
    events = pd.Series(NOTHING, index=pd.Index(frames.counted, name="rollout"), dtype="string")
    coded = first_of_rollout(detections(frames)).set_index("rollout")["category"]
    events.update(coded.astype("string"))
    found = {}
    for judge, rows in judged[judged["question"] == "detection"].groupby("judge"):
        second = rows.set_index("rollout")["code"].reindex(events.index)
        found[str(judge)] = stats.cohen_kappa(events.to_list(), [None if pd.isna(c) else c for c in second])
    return found


def confusion(frames: Frames, judged: pd.DataFrame, judge: str) -> pd.DataFrame:
    """Rollouts by category from events (rows) and from the judge (columns); unscored ones have a column."""
    coded = first_of_rollout(detections(frames)).set_index("rollout")["category"].reindex(frames.counted)
    mine = judged[(judged["question"] == "detection") & (judged["judge"] == judge)].set_index("rollout")["code"]
    second = mine.reindex(frames.counted).fillna("unscored")
    table = pd.crosstab(coded.fillna(NOTHING).to_numpy(), second.to_numpy())
    return table.rename_axis(index="from events", columns=judge)
