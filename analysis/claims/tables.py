"""Recomputed claims as a table: for a screen, for Markdown, and as rows for other programs.

Knows no screen. Texts of claim files are ours; they are made safe all the same by whoever prints them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis import safe
from analysis.claims.file import Study
from analysis.claims.recompute import Result
from analysis.claims.verdict import VERDICTS, Verdict
from analysis.words import Table

COLUMNS = ("claim", "published", "by", "recomputed", "n", "verdict", "query")


def table(study: Study, results: Sequence[Result]) -> Table:
    """One row per definition; a claim with several is named in its first row. Absent ones are left out."""
    rows, last = [], ""
    for r in (r for r in results if not r.absent):
        first = r.claim.id != last
        last = r.claim.id
        said = r.claim.published.text + ("%" if r.claim.unit == "percent" and not r.claim.published.of else "")
        rows.append((
            r.claim.id if first else "", said if first else "", r.definition.by, value(r), str(r.estimate.n), worded(r),
            query(r),
        ))  # fmt: skip
    return Table(f"Claims of {study.study}", COLUMNS, tuple(rows), summary(results))


def rankings(results: Sequence[Result]) -> list[Table]:
    """How the groups of a column rank, 1 the lowest, by every definition that has a value for three or more of them.

    Ties share the lower rank. A claim of the kind "A is worst" holds if it does in every row. Groups that the data do
    not hold, or that a definition leaves undefined, have no rank.
    """
    shares: dict[str, dict[str, dict[str, float]]] = {}
    for r in results:
        if r.claim.each is None or r.claim.level is None or r.absent:
            continue
        family = r.claim.id.removesuffix(f"/{r.claim.level}")
        rows = shares.setdefault(r.claim.each, {})
        rows.setdefault(f"{family}, as published", {})[r.claim.level] = r.claim.published.value
        if not math.isnan(r.estimate.value):
            rows.setdefault(f"{family}, {r.definition.by}: {_name(r)}", {})[r.claim.level] = r.estimate.value
    made = []
    for each, rows in shares.items():
        levels = list(dict.fromkeys(level for row in rows.values() for level in row))
        ranked = []
        for name, row in rows.items():
            if len(row) >= 3:
                ranks = pd.Series(row).rank(method="min")
                ranked.append((name, *(f"{ranks[level]:.0f}" if level in row else "" for level in levels)))
        if ranked:
            made.append(Table(f"How each {each} ranks, 1 the lowest", ("by", *levels), tuple(ranked)))
    return made


def summary(results: Sequence[Result]) -> str:
    """How many claims stand, each by the best of its study's own definitions; and what was not checked or changed."""
    best: dict[str, Verdict] = {}
    for r in results:
        if not r.absent and r.definition.by == "study":
            rank = VERDICTS.index
            best[r.claim.id] = min(best.get(r.claim.id, "undefined"), r.verdict, key=rank)
    counts = Counter(best.values())
    text = f"{len(best)} claims checked: " + ", ".join(f"{counts[v]} {v}" for v in VERDICTS)
    checked = {r.claim.id for r in results if not r.absent}
    ours = len(checked - best.keys())
    text += f"; {ours} by our definition alone, of which no verdict is counted" if ours else ""
    absent = {r.claim.id for r in results if not r.unembedded} - checked
    text += f"; {len(absent)} not checked, as none of their rollouts are in these data" if absent else ""
    meant = sum(r.unembedded for r in results)
    text += f"; {meant} quer{'y' if meant == 1 else 'ies'} by meaning not checked without --embedder" if meant else ""
    changed = sum(r.changed for r in results)
    return text + (f"; {changed} results are not what the file expects." if changed else "; all as the file expects.")


def value(r: Result) -> str:
    """The recomputed value in the published unit, with its interval."""
    e, scale = r.estimate, r.claim.scale
    if math.isnan(e.value):
        return "undefined"
    unit = "%" if r.claim.unit == "percent" else ""
    text = f"{_digits(e.value * scale, r)}{unit}"
    if r.claim.published.of is not None and r.definition.aggregate == "share":
        text = f"{round(e.value * e.n)}/{e.n}"
    if math.isnan(e.low) or math.isnan(e.high):
        return text
    return f"{text} [{_digits(e.low * scale, r)}, {_digits(e.high * scale, r)}]"


def worded(r: Result) -> str:
    if r.definition.instead:
        return "another quantity" + (", another value than before" if r.changed else "")
    if r.expected is not None and r.verdict != r.expected:
        return f"{r.verdict}, expected {r.expected}"
    return f"{r.verdict}, another value than before" if r.changed else r.verdict


def query(r: Result) -> str:
    """The definition in words: what it computes, over which rollouts."""
    d = r.definition
    if d.none is not None:
        return f"no query gives it: {d.none}"
    parts = [_name(r), *(f"{k}={v}" for k, v in d.parameters.items())]
    parts += [f"over {d.over}"] if d.over else []
    parts += [f"across {d.across}"] if d.across else []
    parts += [f"rounds {d.rounds[0]} to {d.rounds[1]}"] if d.rounds else []
    parts += [f"{k} = {v}" for k, v in r.filters.items()]
    parts += ["against " + ", ".join(f"{k} = {v}" for k, v in d.against.items())] if d.against else []
    return "; ".join(map(str, parts))


def _name(r: Result) -> str:
    return r.definition.statistic or f"{r.definition.aggregate} of {r.definition.metric}"


def markdown(study: Study, results: Sequence[Result]) -> str:
    made = table(study, results)
    lines = [f"# {safe.for_markdown(made.title)}", "", safe.for_markdown(" ".join(study.about.split())), ""]
    lines += [safe.for_markdown(made.note), "", f"| {' | '.join(made.columns)} |", "|" + "---|" * len(made.columns)]
    lines += ["| " + " | ".join(safe.for_markdown(cell) for cell in row) + " |" for row in made.rows]
    for ranking in rankings(results):
        lines += ["", f"## {safe.for_markdown(ranking.title)}", "", f"| {' | '.join(ranking.columns)} |"]
        lines += ["|" + "---|" * len(ranking.columns)]
        lines += ["| " + " | ".join(safe.for_markdown(cell) for cell in row) + " |" for row in ranking.rows]
    notes = [(r.claim.id, r.definition.note) for r in results if r.definition.note and not r.absent]
    seen = list(dict.fromkeys((claim.partition("/")[0], note) for claim, note in notes))
    lines += ["", "## Notes", ""] if seen else []
    lines += [f"- {safe.for_markdown(claim)}: {safe.for_markdown(' '.join(note.split()))}" for claim, note in seen]
    return "\n".join(lines) + "\n"


def rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """One flat row per definition, absent ones too; a missing number is None."""
    return [
        {
            "claim": r.claim.id,
            "text": r.claim.text,
            "source": r.claim.source,
            "published": r.claim.published.text,
            "unit": r.claim.unit,
            "by": r.definition.by,
            "query": query(r),
            **{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(r.estimate).items()},
            "verdict": r.verdict,
            "expected": r.expected,
            "absent": r.absent,
            "changed": r.changed,
            "note": " ".join(r.definition.note.split()),
        }
        for r in results
    ]


def frame(results: Iterable[Result]) -> pd.DataFrame:
    made = pd.DataFrame(rows(results))
    numbers = ["value", "low", "high", "p"]
    return made.astype(dict.fromkeys(numbers, "Float64")) if len(made) else made


def as_json(study: Study, results: Sequence[Result], data: str) -> str:
    said = {"study": study.study, "claims": study.name, "data": data, "summary": summary(results)}
    finite = [{k: v if not isinstance(v, float) or math.isfinite(v) else str(v) for k, v in row.items()}
              for row in rows(results)]  # fmt: skip
    return json.dumps({**said, "results": finite}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _digits(x: float, r: Result) -> str:
    """A digit more than was published, and at least three that count; whole numbers whole."""
    if math.isinf(x) or x == round(x):
        return f"{x:,.0f}"
    leading = 2 - math.floor(math.log10(abs(x)))
    return f"{x:,.{min(max(r.claim.published.digits + 1, leading, 0), 9)}f}"
