"""Claims held against transcripts: every definition recomputed, with its interval and verdict.

Knows no file format and no screen. One metric is computed once for all claims that use it, however they filter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.bar import with_bar
from analysis.claims import aggregates, exploring, queries
from analysis.claims.aggregates import Sample
from analysis.claims.file import Claim, Definition, Study
from analysis.claims.verdict import Verdict, verdict
from analysis.frames import Frames, Tables
from analysis.metrics import Metric
from analysis.searches import Embed
from analysis.stats import Estimate
from toolkit.errors import BadInput

UNEMBEDDED = "needs an embedding of queries, and none was given"
Family = tuple[Callable[..., pd.DataFrame], str]


@dataclass(frozen=True)
class Result:
    """One definition of one claim.

    absent: none of its rollouts are in the data, or (unembedded) it asks by meaning and there is no embedding, so that
    it was not checked at all.
    changed: the verdict is not the expected one, or the value not the one that the file says was found.
    """

    claim: Claim
    definition: Definition
    filters: Mapping[str, Any]
    estimate: Estimate
    verdict: Verdict
    absent: bool

    @property
    def unembedded(self) -> bool:
        return self.absent and self.estimate.how == UNEMBEDDED

    @property
    def expected(self) -> Verdict | None:
        return self.definition.expects(self.claim.level)

    @property
    def changed(self) -> bool:
        if self.absent:
            return False
        was = self.definition.was(self.claim.level)
        moved = was is not None and verdict(was, self.estimate, self.claim.scale) != "exact"
        return (self.expected is not None and self.verdict != self.expected) or moved


def recompute(study: Study, frames: Frames, embed: Embed | None = None) -> Iterator[Result]:
    """Every definition of every claim, in the order of the file. Raises BadInput on a filter of no such column.

    embed: texts to unit vectors, for queries by meaning; without it they are undefined and count as not checked.
    """
    data = Data(frames, embed)
    for claim in study.claims:
        for definition, filters in zip(claim.definitions, claim.filters, strict=True):
            data.expect(definition, filters)
    for claim in with_bar(study.claims, "recomputing claims"):
        for definition, filters in zip(claim.definitions, claim.filters, strict=True):
            estimate, absent = estimated(data, definition, filters)
            same = verdict(claim.published, estimate, claim.scale, claim.near)
            found: Verdict = "undefined" if definition.instead else same
            yield Result(claim, definition, filters, estimate, found, absent)


def estimated(data: Data, d: Definition, filters: Mapping[str, Any]) -> tuple[Estimate, bool]:
    """What a definition comes to in these data, and whether none of its rollouts are there."""
    nan = float("nan")
    if d.none is not None:
        return Estimate(nan, nan, nan, 0, d.none), not data.picked(filters)
    first = data.picked(filters)
    second = data.picked({**filters, **d.against}) if d.against else []
    if not first or (d.against and not second):
        return Estimate(nan, nan, nan, 0, "no such rollouts in these data"), True
    if data.embed is None and (d.metric or "").partition("@")[0] in exploring.EMBEDS:
        return Estimate(nan, nan, nan, 0, UNEMBEDDED), True
    if d.statistic is not None:
        of = queries.statistic(d.statistic).measure
        groups = [data.only(ids, d.rounds, d.cut_off) for ids in ((first, second) if d.against else (first,))]
        return of(*groups, **d.parameters), False
    assert d.metric is not None
    assert d.aggregate is not None
    both = [*first, *second]
    values = data.values(queries.metric(d.metric), d.parameters, d.rounds, d.cut_off, both)
    over = data.values(queries.metric(d.over), d.over_parameters, d.rounds, d.cut_off, both) if d.over else None
    groups_of = data.column(d.across) if d.across else None

    def sample(ids: list[str]) -> Sample:
        return Sample(
            values.reindex(ids),
            None if over is None else over.reindex(ids),
            None if groups_of is None else groups_of.reindex(ids),
        )

    return aggregates.AGGREGATES[d.aggregate].of(sample(first), sample(second)), False


class Data:
    """The frames, and what has been computed from them so far."""

    def __init__(self, frames: Frames, embed: Embed | None) -> None:
        self.frames, self.embed = frames, embed
        self._columns: dict[str, pd.Series[Any]] = {}
        self._families: dict[Family, pd.DataFrame] = {}
        self._expected: dict[Family, set[str]] = {}
        self._some: dict[tuple[frozenset[str], object, str], Frames] = {}
        self._only: tuple[object, Frames] | None = None
        self._cut: dict[tuple[tuple[int, int] | None, str], Frames] = {}

    def picked(self, filters: Mapping[str, Any]) -> list[str]:
        """The rollouts that a definition is about."""
        keep = pd.Series(True, index=self.frames.rollouts["rollout"])
        for column, wanted in filters.items():
            keep &= self.column(column).isin(wanted if isinstance(wanted, list) else [wanted])
        return [str(r) for r in keep.index[keep]]

    def column(self, name: str) -> pd.Series[Any]:
        """A column of rollouts by rollout; `facts.x` and `parameters.x` look inside."""
        if name not in self._columns:
            self._columns[name] = self._read(name)
        return self._columns[name]

    def _read(self, name: str) -> pd.Series[Any]:
        rollouts = self.frames.rollouts
        outer, _, inner = name.partition(".")
        if outer not in rollouts or (inner and outer not in ("facts", "parameters")):
            raise BadInput(f"rollouts have no column {name!r}; they have {', '.join(map(str, rollouts))}")
        values = [v.get(inner) if isinstance(v, dict) else None for v in rollouts[outer]] if inner else rollouts[outer]
        return pd.Series(list(values), index=rollouts["rollout"], dtype=object)

    def expect(self, d: Definition, filters: Mapping[str, Any]) -> None:
        """Says what will be asked: a metric is then computed once, for the rollouts of all that ask and no others."""
        ids = {*self.picked(filters), *(self.picked({**filters, **d.against}) if d.against else ())}
        for name, parameters in ((d.metric, d.parameters), (d.over, d.over_parameters)):
            if name is not None:
                self._expected.setdefault(_family(queries.metric(name), parameters, d.rounds, d.cut_off), set()).update(
                    ids
                )

    def values(
        self,
        metric: Metric,
        parameters: Mapping[str, Any],
        rounds: tuple[int, int] | None,
        cut_off: str,
        ids: Iterable[str],
    ) -> pd.Series[float]:
        """The metric of these rollouts at least."""
        key = _family(metric, parameters, rounds, cut_off)
        expected = self._expected.setdefault(key, set())
        if key not in self._families or not expected.issuperset(ids):
            expected.update(ids)
            embed = {"embed": self.embed} if metric.name in exploring.EMBEDS else {}
            frames = self._of(frozenset(expected), rounds, cut_off)
            self._families[key] = metric.measure(frames, **parameters, **embed)
        return self._families[key][metric.name]

    def _of(self, ids: frozenset[str], rounds: tuple[int, int] | None, cut_off: str) -> Frames:
        """The frames of these rollouts for a metric: `activations` keeps the others too, as cutting it costs more than
        it saves, and a metric has a row per rollout of `rollouts` whatever else there is."""
        key = (ids, rounds, cut_off)
        if key not in self._some:
            frames = self._frames(rounds, cut_off)

            def table(name: str) -> pd.DataFrame:
                whole = frames.tables[name]
                return whole if name == "activations" else _rows(whole, whole["rollout"].isin(ids))

            self._some[key] = replace(frames, tables=Tables(table))
        return self._some[key]

    def only(self, ids: list[str], rounds: tuple[int, int] | None, cut_off: str) -> Frames:
        """The frames of these rollouts. Claims about the same ones come after each other, so that the last is kept."""
        key = (tuple(ids), rounds, cut_off)
        if self._only is None or self._only[0] != key:
            frames, kept = self._frames(rounds, cut_off), set(ids)

            def table(name: str) -> pd.DataFrame:
                return _rows(frames.tables[name], frames.tables[name]["rollout"].isin(kept))

            self._only = (key, replace(frames, tables=Tables(table)))
        return self._only[1]

    def _frames(self, rounds: tuple[int, int] | None, cut_off: str) -> Frames:
        """The frames with only these rounds, and with rollouts that broke off counted or not."""
        if (rounds, cut_off) not in self._cut:
            frames = self.frames

            def table(name: str) -> pd.DataFrame:
                whole = frames.tables[name]
                if name == "rollouts" and cut_off == "counted":
                    return whole.assign(ended=whole["ended"].replace("unfinished", "stopped"))
                if rounds is None or "round" not in whole:
                    return whole
                return _rows(whole, whole["round"].between(*rounds))

            self._cut[(rounds, cut_off)] = replace(frames, tables=Tables(table))
        return self._cut[(rounds, cut_off)]


def _family(metric: Metric, parameters: Mapping[str, Any], rounds: tuple[int, int] | None, cut_off: str) -> Family:
    """Metrics that are computed together."""
    return metric.measure, json.dumps([dict(parameters), rounds, cut_off], sort_keys=True)


def _rows(table: pd.DataFrame, keep: pd.Series[Any]) -> pd.DataFrame:
    return table[keep.fillna(False).astype(bool)].reset_index(drop=True)
