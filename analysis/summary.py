"""What a run was asked and what it answered, as tables: terminal, Markdown and HTML print this and nothing else.

Knows no wording of a page and no figure. Every number is an Estimate from stats, over rollouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from analysis import detection, provenance, stats
from analysis.chosen import chosen, was_injected
from analysis.claims.predictions import Foretold
from analysis.coding import agreement
from analysis.factorial import Effect, design, effects
from analysis.frames import WHOLE, Frames
from analysis.metrics import METRICS, Metric, measured
from analysis.provenance import Overlap
from analysis.words import Table
from toolkit.errors import BadInput

SETTING = (
    "scenario",
    "model",
    "dictionary",
    "dictionary_unit",
    "layer",
    "framing",
    "arm",
    "label_view",
    "scope",
    "temperature",
)

INJECTION = ("topic", "inject", "injection_arm", "strength", "inject_at", "remove_at", "forget_at", "hint", "check",
             "tools")  # fmt: skip
"""Parameters of conditions that inject: what a reader must know of them beside SETTING, whose arm is that of its own
steering."""


MOST_COMPARED = 64
"""Groups that are compared with each other."""


@dataclass(frozen=True)
class Cell:
    """One metric of one group of rollouts."""

    metric: Metric
    group: str
    estimate: stats.Estimate


@dataclass(frozen=True)
class Comparison:
    """One rate in two groups: the difference with Newcombe's interval, Fisher's p, and p over all comparisons shown."""

    metric: Metric
    first: str
    second: str
    difference: stats.Estimate
    fisher: stats.Estimate
    p_adjusted: float


@dataclass(frozen=True)
class Counts:
    """What became of the rollouts of one group."""

    group: str
    finished: int
    left: int
    window: int
    stopped: int
    failed: int
    unfinished: int

    @property
    def counted(self) -> int:
        return self.finished + self.left + self.window + self.stopped


@dataclass(frozen=True)
class Summary:
    """Everything that a report says. by: the column of rollouts that makes the groups. setting: what was the same.

    categories: rollouts of each group by detection.CATEGORIES; agreement: kappa of each judge with them; effects: of
    the factors that the conditions cross; own: tables of one scenario alone. All are empty in runs that have no such
    thing.
    """

    run: str
    by: str
    filters: tuple[str, ...]
    groups: tuple[str, ...]
    setting: tuple[tuple[str, str], ...]
    counts: tuple[Counts, ...]
    rates: tuple[Cell, ...]
    numbers: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    categories: tuple[tuple[str, tuple[int, ...]], ...]
    agreement: tuple[tuple[str, stats.Estimate], ...]
    predictions: tuple[Foretold, ...]
    effects: tuple[tuple[Metric, Effect], ...]
    provenance: tuple[tuple[str, int], ...]
    overlap: Overlap
    unfinished: int
    errors: tuple[tuple[str, str], ...]
    own: tuple[Table, ...] = ()

    def cell(self, metric: str, group: str) -> stats.Estimate:
        """The estimate of a metric in a group. Raises KeyError if the summary has none."""
        for cell in (*self.rates, *self.numbers):
            if cell.metric.name == metric and cell.group == group:
                return cell.estimate
        raise KeyError(f"no {metric} of {group} in this summary")


def summarise(
    frames: Frames,
    by: str = "condition",
    top: int = 20,
    judged: pd.DataFrame | None = None,
    predictions: Sequence[Foretold] = (),
    own: Sequence[Table] = (),
) -> Summary:
    """Compute every table of the report. `by` is a column of rollouts, such as condition, framing or arm.

    judged: judgements of a second coder (coding.judgements), where there are any. predictions: as
    claims.predictions.foretold gives them. own: tables that only this kind of run has.
    """
    groups = grouping(frames, by)
    rates, numbers, tested = chosen(frames)
    names = [n for n in (*rates, *numbers) if n != "monitor_unhealthy" or len(frames.notes)]
    values = measured(frames, names)
    coded = detection.categories(frames, by) if was_injected(frames) else pd.DataFrame()
    steers = provenance.steers(frames)
    steers = steers[steers["rollout"].isin(frames.counted)]
    origin = steers["provenance"].value_counts()
    return Summary(
        run=frames.run,
        by=by,
        filters=frames.filters,
        groups=tuple(groups),
        setting=_setting(frames, by),
        counts=tuple(_counts(frames, by, groups)),
        rates=tuple(_cells(values, groups, rates)),
        numbers=tuple(_cells(values, groups, numbers)),
        comparisons=tuple(compare(values, groups, tested, _paired(frames, groups))),
        categories=tuple(
            (str(g), tuple(int(n) for n in row)) for g, row in zip(coded.index, coded.to_numpy(), strict=True)
        ),
        agreement=tuple(agreement(frames, judged).items()) if judged is not None else (),
        effects=tuple(crossed(frames, values, tested)),
        predictions=tuple(predictions),
        provenance=tuple((k, int(origin.get(k, 0))) for k in ("search", "inspect", "both", "neither")),
        overlap=provenance.overlap(frames, top),
        unfinished=len(frames.unfinished),
        errors=tuple((str(r), str(p)) for r, p in frames.errors[["rollout", "problem"]].itertuples(index=False)),
        own=tuple(own),
    )


def grouping(frames: Frames, by: str) -> dict[str, list[str]]:
    """Group name to its rollouts, names in order; a rollout without a value is in the group "(none)".

    Raises BadInput for a column that rollouts have not.
    """
    if by not in frames.rollouts:
        raise BadInput(f"rollouts have no column {by!r}; use one of {', '.join(sorted(frames.rollouts.columns))}")
    names = frames.rollouts[by].astype("string").fillna("(none)")
    return {
        str(name): [str(r) for r in frames.rollouts.loc[names == name, "rollout"]] for name in sorted(names.unique())
    }


def estimate(metric: Metric, values: Iterable[Any]) -> stats.Estimate:
    """A rate with Wilson's interval, a number as a mean with Student's; one value per rollout. None is below 0."""
    if metric.kind == "rate":
        return stats.wilson(values)
    return stats.mean(values, floor=0.0, ceiling=1.0 if metric.kind == "share" else float("inf"))


def compare(
    table: pd.DataFrame, groups: dict[str, list[str]], rates: Sequence[str], paired: Mapping[str, str] | None = None
) -> list[Comparison]:
    """Fisher's exact test of every rate between every two groups, adjusted together by Benjamini and Hochberg.

    table: as metrics.measured makes it, a row per rollout. paired: group to a name that groups share whose rollouts of
    equal number belong together; those are not independent, and not compared. Of more than MOST_COMPARED groups none
    are: hundreds of cells of an imported study make pairs by the hundred thousand, and nobody asked about them.
    """
    if len(groups) > MOST_COMPARED:
        return []
    together = paired or {}
    found = []
    for name in rates:
        values = table[name]
        for first, second in combinations(groups, 2):
            if first in together and together[first] == together.get(second):
                continue
            a, b = values[groups[first]], values[groups[second]]
            found.append((METRICS[name], first, second, stats.newcombe(a, b), stats.fisher(a, b)))
    adjusted = stats.benjamini_hochberg([f.p for *_, f in found])
    return [Comparison(*row, float(p)) for row, p in zip(found, adjusted, strict=True)]


def _paired(frames: Frames, groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Groups whose conditions say that their rollouts belong together with those of others, by the name they share."""
    said = frames.rollouts.set_index("rollout")["parameters"]
    made = {}
    for group, rollouts in groups.items():
        names = {str(p["paired"]) for p in said[list(rollouts)] if isinstance(p, dict) and "paired" in p}
        if len(names) == 1:
            made[group] = names.pop()
    return made


def crossed(frames: Frames, table: pd.DataFrame, rates: Sequence[str]) -> Iterable[tuple[Metric, Effect]]:
    """Main effects and interactions of two factors at a time on every rate; none unless conditions cross factors.

    A rate that a whole combination of levels lacks (all of its rollouts are missing) has no effects.
    """
    levels = design(frames)
    if levels.shape[1] >= 2:
        cells = [levels[factor] for factor in levels]
        for name in rates:
            values = table.loc[levels.index, name]
            if values.groupby(cells).count().min() > 0:
                yield from ((METRICS[name], effect) for effect in effects(values, levels))


def rates_frame(cells: Iterable[Cell]) -> pd.DataFrame:
    """The cells as a tidy frame, for a notebook."""
    return pd.DataFrame(
        [
            {
                "metric": c.metric.identifier,
                "group": c.group,
                "value": c.estimate.value,
                "low": c.estimate.low,
                "high": c.estimate.high,
                "n": c.estimate.n,
                "missing": c.estimate.missing,
                "how": c.estimate.how,
                "meaning": c.metric.meaning,
            }
            for c in cells
        ]
    )


def _cells(table: pd.DataFrame, groups: dict[str, list[str]], names: Sequence[str]) -> Iterable[Cell]:
    for name in names:
        if name not in table:
            continue  # no monitor ran
        values = table[name]
        for group, rollouts in groups.items():
            yield Cell(METRICS[name], group, estimate(METRICS[name], values[rollouts]))


def _counts(frames: Frames, by: str, groups: dict[str, list[str]]) -> Iterable[Counts]:
    ended = frames.rollouts.set_index("rollout")["ended"]
    torn = frames.unfinished["condition"].value_counts().to_dict() if by == "condition" else {}
    for group, rollouts in groups.items():
        how = ended[rollouts].value_counts()
        ways = {k: int(how.get(k, 0)) for k in (*WHOLE, "failed")}
        yield Counts(group, **ways, unfinished=int(torn.get(group, 0)))


def _setting(frames: Frames, by: str) -> tuple[tuple[str, str], ...]:
    """What all rollouts share, and how many values there are of what they do not; of an import, what was read."""
    found = _imported(frames.manifest) if "left_out" in frames.manifest else []
    for column in SETTING:
        values = [str(v) for v in frames.rollouts[column].dropna().unique()]
        one_to_one = frames.rollouts.groupby(by, dropna=False)[column].nunique().max() == 1 and len(values) > 1
        if column == by or not values or (one_to_one and len(values) == frames.rollouts[by].nunique()):
            continue  # nothing to say, or the grouping under another name
        found.append((column.replace("_", " "), values[0] if len(values) == 1 else ", ".join(sorted(values))))
    told = [p for p in frames.rollouts["parameters"] if isinstance(p, dict) and "injection_arm" in p]
    for key in INJECTION if told else ():
        if of_all := sorted({str(p[key]) for p in told if p.get(key) is not None}):
            found.append((key.replace("_", " "), ", ".join(of_all)))
    if told:
        found = [("arm of its own steering" if what == "arm" else what, value) for what, value in found]
    seeds = frames.rollouts.groupby(by, dropna=False).size()
    rounds = frames.rollouts["rounds_done"].dropna()
    problems = {p["problem"] for p in frames.rollouts["parameters"] if isinstance(p, dict) and "problem" in p}
    if problems:
        again = "; asked again and again, so that intervals, which are over rollouts, are too narrow"
        found.append(("problems", f"{len(problems)}{again if seeds.max() > len(problems) else ''}"))
    found.append((f"rollouts per {by}", _span(seeds)))
    found.append(("rounds per rollout", _span(rounds)))
    return tuple(found)


def _imported(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Whose transcripts these are, and what of them is not here: import.json in words."""
    read = f"{said['source']} ({said['kind']}), {said['files']} files"
    return [("imported from", read), *((f"left out or odd: {why}", str(n)) for why, n in said["left_out"].items())]


def _span(values: pd.Series[Any]) -> str:
    if len(values) == 0:
        return "none"
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
