"""What goes on after a steering is removed: how strongly each way on carries the feature, and what that is owed to.

Runs of scenarios/persistence.py in, estimates out; the unit is the conversation with its four ways on. Knows no engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import stats
from analysis.frames import Frames
from analysis.words import Table, number
from toolkit.errors import BadInput

SCENARIO = "persistence"
CELLS = {
    "state_text": "state and words",
    "text_only": "words only",
    "state_only": "state only",
    "neither": "neither",
}
MEASURES = {"text": "marking words", "activation": "activation"}
"""The share of a response's words that mark the feature, and the feature's own mean activation in it."""
PARTS = {
    "whole": "state and words, less neither",
    "state": "owed to state: state only, less neither",
    "text": "owed to words: words only, less neither",
    "interaction": "their interaction: the whole, less both parts",
}
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class Level:
    """The mean of one measure in one condition. after: rounds since removal, 0 and less before; None: all after it."""

    measure: str
    condition: str
    after: int | None
    estimate: stats.Estimate


@dataclass(frozen=True)
class Persistence:
    """All that a run says. parts: by measure and name (PARTS), over all rounds after the removal.

    half_lives: by measure and cell, in rounds from the first after the removal on, of what goes beyond the conversation
    without injection. first: PARTS in the first round after the removal alone.
    """

    levels: tuple[Level, ...]
    parts: Mapping[tuple[str, str], stats.Estimate]
    first: Mapping[tuple[str, str], stats.Estimate]
    half_lives: Mapping[tuple[str, str], stats.Estimate]

    def level(self, measure: str, condition: str, after: int | None) -> stats.Estimate | None:
        for one in self.levels:
            if (one.measure, one.condition, one.after) == (measure, condition, after):
                return one.estimate
        return None


def marks_of(run: str | Path) -> dict[int, frozenset[str]]:
    """By feature, the words that mark it, from RUN/marks.json. Raises BadInput if it is not there or is none."""
    path = Path(run) / "marks.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {int(feature): frozenset(map(str, words)) for feature, words in raw.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path} does not tell which words mark a feature ({error}); restore it") from error


def of_run(run: str | Path, frames: Frames) -> Persistence | None:
    """What a run of this scenario says; None for other runs, and for one in which no way on is finished."""
    if not (frames.rollouts["scenario"] == SCENARIO).any():
        return None
    table = carried(frames, marks_of(run))
    return persistence(table) if table["condition"].isin(list(CELLS)).any() else None


def carried(frames: Frames, marks: Mapping[int, frozenset[str]]) -> pd.DataFrame:
    """A row per response: conversation, condition, after (rounds since the removal), text and activation.

    text: share of its words that mark the feature; activation: the feature's mean over its tokens, NaN where the
    reading was full without it. Rollouts that failed have no rows. Raises BadInput for a feature without marks.
    """
    told = frames.rollouts[frames.rollouts["rollout"].isin(frames.counted)]
    recorded = frames.activations.groupby(["rollout", "round"]).size()
    values = frames.activations.set_index(["rollout", "round", "feature"])["value"]
    full = int(recorded.max()) if len(recorded) else 0
    said = dict(iter(frames.rounds[frames.rounds["response"].notna()].groupby("rollout")))
    rows = []
    for rollout, condition, conversation, parameters, features in told[
        ["rollout", "condition", "number", "parameters", "n_features"]
    ].itertuples(index=False):
        feature = int(parameters["feature"])
        if feature not in marks:
            raise BadInput(
                f"marks.json has no words for feature {feature}, which {rollout} was injected with; restore it"
            )
        shift = 0 if condition in CELLS else int(parameters["remove_at"]) - 1
        for at, response in said[rollout][["round", "response"]].itertuples(index=False) if rollout in said else ():
            active, listed = values.get((rollout, at, feature)), int(recorded.get((rollout, at), 0))
            # a reading that lists fewer features than the fullest one, or every feature, lists all that were active
            quiet = 0.0 if listed < max(full, 1) or listed == features else float("nan")
            rows.append(
                {
                    "conversation": conversation,
                    "condition": condition,
                    "feature": feature,
                    "after": int(at) - shift,
                    "text": _share(str(response), marks[feature]),
                    "activation": quiet if active is None else float(active),
                }
            )
    return pd.DataFrame(rows, columns=["conversation", "condition", "feature", "after", *MEASURES])


def persistence(table: pd.DataFrame) -> Persistence:
    """The estimates of a table of `carried`."""
    levels, parts, first, lives = [], {}, {}, {}
    after = table[table["after"] > 0]
    for measure in MEASURES:
        for (condition, at), group in table.groupby(["condition", "after"], sort=False):
            found = stats.cluster_bootstrap(group[measure], group["conversation"])
            levels.append(Level(measure, str(condition), int(str(at)), found))
        for condition, group in after.groupby("condition", sort=False):
            found = stats.cluster_bootstrap(group[measure], group["conversation"])
            levels.append(Level(measure, str(condition), None, found))
        parts.update({(measure, k): v for k, v in _parts(after, measure).items()})
        first.update({(measure, k): v for k, v in _parts(after[after["after"] == 1], measure).items()})
        lives.update({(measure, cell): _half_life(table, measure, cell) for cell in CELLS})
    return Persistence(tuple(levels), parts, first, lives)


def tables(found: Persistence) -> list[Table]:
    """What goes on by round, and what it is owed to, as a report shows it."""
    rounds = sorted({one.after for one in found.levels if one.after is not None and one.after > 0})
    rows, owed = [], []
    for measure, named in MEASURES.items():
        for condition, cell in {**CELLS, "plain": "never injected"}.items():
            before = found.level(measure, "steered" if condition in CELLS else "plain", 0)
            later = [found.level(measure, condition, r) for r in rounds]
            life = found.half_lives.get((measure, condition))
            rows.append((named, cell, *("" if e is None else number(e) for e in (before, *later)), _worded(life)))
        owed += [(named, PARTS[p], number(found.first[measure, p]), number(found.parts[measure, p])) for p in PARTS]
    how = next((e.how for e in found.parts.values()), "")
    life_how = next((e.how for e in found.half_lives.values()), "")
    n = max((e.n for e in found.parts.values()), default=0)
    missing = sum(one.estimate.missing for one in found.levels if one.after is not None)
    lost = f" {missing} values are missing: empty responses, or readings full without the feature." if missing else ""
    return [
        Table(
            "What goes on after the removal",
            ("measure", "at the removal", "under steering", *(f"round {r}" for r in rounds), "half-life, rounds"),
            tuple(rows),
            "State: keys and values computed under steering are kept, else computed anew without. Words: the model's "
            "own are kept, else neutral ones of the same length. Under steering: the last response before the removal, "
            "its activation with what the steering adds. Half-life: of what goes beyond the conversation without "
            f"injection, from round 1 on; never: not within these rounds. Levels: {how}. Half-lives: {life_how}.{lost}",
        ),
        Table(
            "What it is owed to",
            ("measure", "part", "round 1", "all rounds after"),
            tuple(owed),
            f"Differences within {n} conversations: {how}.",
        ),
    ]  # fmt: skip


def _worded(life: stats.Estimate | None) -> str:
    if life is None or not life.n:
        return ""
    return number(life) if life.value == life.value else "never" if life.p == life.p else "nothing to halve"


def _parts(after: pd.DataFrame, measure: str) -> dict[str, stats.Estimate]:
    wide = after.pivot_table(measure, "conversation", "condition", aggfunc="mean").reindex(columns=list(CELLS))
    both, text, state, neither = (wide[cell] for cell in CELLS)
    differences = {
        "whole": both - neither,
        "state": state - neither,
        "text": text - neither,
        "interaction": both - state - text + neither,
    }
    return {name: stats.cluster_bootstrap(values, wide.index) for name, values in differences.items()}


def _half_life(table: pd.DataFrame, measure: str, cell: str) -> stats.Estimate:
    """Of what a cell has beyond the conversation that was never injected, from the first round after removal on."""
    by_round = table.set_index(["condition", "conversation", "after"])[measure].sort_index()
    rounds = sorted({int(r) for r in table.loc[table["condition"] == cell, "after"]})
    curves: list[Sequence[float]] = []
    for conversation in sorted(set(table.loc[table["condition"] == cell, "conversation"])):
        curves.append(
            [
                float(by_round.get((cell, conversation, r), float("nan")))
                - float(by_round.get(("plain", conversation, r), float("nan")))
                for r in rounds
            ]
        )
    return stats.half_life(curves)


def _share(response: str, marks: frozenset[str]) -> float:
    said = _WORD.findall(response.lower())
    return sum(word in marks for word in said) / len(said) if said else float("nan")
