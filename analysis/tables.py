"""A summary as tables of words: the one wording that terminal, Markdown and HTML share.

Knows no markup. Cells may hold text of a model (labels): whoever prints them makes them safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from analysis import findings
from analysis.chosen import AFTER, AFTER_SHARES, ANSWERS, CITED, CONTENT, INJECTED, WROTE
from analysis.stats import minimum_detectable_rate
from analysis.summary import MOST_COMPARED, Cell, Summary
from analysis.words import SHORT, Table, number, p_value, rate

__all__ = ["asked", "found", "tables"]

TOOL_RATES = ("used_tools", "used_tools_first_round", "steered", "copied_placeholder")
TOOL_NUMBERS = (
    "calls",
    "steers",
    "searches",
    "median_strength",
    "malformed_share",
    "repeats",
    "steers_from_search_share",
)
TEXT_NUMBERS = ("first_person", "second_person", "words_per_response", "vocabulary", "cut_off_share")
STATE_NUMBERS = ("steers", "portfolio_rounds", "voided_steers", "silently_voided_steers")


def tables(summary: Summary) -> list[Table]:
    """Every table of the report, in its order."""
    degeneration = tuple(c.metric.name for c in summary.rates if c.metric.name.startswith("degenerate"))
    monitors = tuple(c.metric.name for c in summary.rates if c.metric.name.startswith("monitor"))
    made = [
        findings.predictions(summary),
        *summary.own,
        _rollouts(summary),
        _cells(summary, "Tool use", TOOL_RATES, summary.rates),
        _cells(summary, "Degeneration, by definition", (*dict.fromkeys(degeneration), *monitors[:1]), summary.rates),
        _cells(summary, "Calls per rollout", TOOL_NUMBERS, summary.numbers),
        _cells(summary, "Actions and state per rollout", STATE_NUMBERS, summary.numbers),
        _cells(summary, "Text", TEXT_NUMBERS, summary.numbers),
        _cells(summary, "Features cited", CITED, summary.numbers),
        _cells(summary, "Results that the model wrote itself", WROTE, summary.rates),
        _cells(summary, "Noticing what was injected", INJECTED, summary.rates),
        _cells(summary, "Back to what was injected", AFTER, summary.rates),
        _cells(summary, "What was searched for in the sandbox", AFTER_SHARES, summary.numbers),
        _cells(summary, "Answers to problems", ANSWERS, summary.rates),
        findings.categories(summary),
        _cells(summary, "What was said of the facts", CONTENT, summary.numbers),
        findings.agreement(summary),
        findings.effects(summary),
        _comparisons(summary),
        _provenance(summary),
        _overlap(summary),
    ]
    return [t for t in made if t.rows]


def asked(summary: Summary) -> list[tuple[str, str]]:
    """The setting of the run as pairs of words."""
    return [*summary.setting, *((f"filter {i + 1}", f) for i, f in enumerate(summary.filters))]


def found(summary: Summary) -> list[str]:
    """What was found, in sentences that are made from the tables."""
    counted = sum(c.counted for c in summary.counts)
    failed = sum(c.failed for c in summary.counts)
    lost = [f"{n} {what}" for n, what in ((failed, "failed"), (summary.unfinished, "unfinished")) if n]
    lines = [
        f"{counted} rollouts in {len(summary.groups)} {summary.by}{'s' * (len(summary.groups) != 1)}; "
        + (f"{' and '.join(lost)}, in no rate and listed apart." if lost else "none failed, none is unfinished.")
    ]
    lines += findings.foretold(summary)
    if len(summary.groups) > MOST_COMPARED:
        lines.append(
            f"{len(summary.groups)} groups are too many to compare each with each (over {MOST_COMPARED}): "
            "`selfsteer report --by scenario`, or by another column, makes larger ones."
        )
    if summary.comparisons:
        small = [c for c in summary.comparisons if c.p_adjusted < 0.05]
        tested = _tested(summary)
        without = len(summary.comparisons) - tested
        lines.append(
            f"Of {tested} comparison{'s' * (tested != 1)} fixed beforehand, {len(small) or 'none'} "
            f"{'has' if len(small) == 1 else 'have'} an adjusted p below 0.05 (Fisher exact, Benjamini-Hochberg)"
            + (f"; {without} more have no data." if without else ".")
        )
    steers = sum(n for _, n in summary.provenance)
    if steers:
        by = dict(summary.provenance)
        lines.append(
            f"Of {steers} STEER calls, {by['search']} named a feature seen before in SEARCH alone, "
            f"{by['inspect']} in INSPECT alone, {by['both']} in both, {by['neither']} in neither."
        )
    return lines


def _rollouts(summary: Summary) -> Table:
    columns = (summary.by, "finished", "left", "window full", "stopped", "failed", "unfinished")
    rows = tuple(
        (c.group, *map(str, (c.finished, c.left, c.window, c.stopped, c.failed, c.unfinished))) for c in summary.counts
    )
    note = "Failed and unfinished rollouts are in no rate. Stopped: ended by the script as unhealthy; counted."
    if summary.unfinished > sum(c.unfinished for c in summary.counts):
        note += f" Unfinished files in all: {summary.unfinished}."
    return Table("Rollouts", columns, rows, note)


def _cells(summary: Summary, title: str, wanted: Iterable[str], cells: Iterable[Cell]) -> Table:
    names = list(wanted)
    known = {(c.metric.name, c.group): c for c in cells}
    names = [n for n in names if any((n, g) in known for g in summary.groups)]
    if not names or not summary.groups:
        return Table(title, (), ())
    sizes = {g: max(known[n, g].estimate.n + known[n, g].estimate.missing for n in names) for g in summary.groups}
    rows = tuple((g, str(sizes[g]), *(_worded(known[n, g]) for n in names)) for g in summary.groups)
    first = [known[n, summary.groups[0]] for n in names]
    how = "; ".join(dict.fromkeys(c.estimate.how for c in first))
    what = "; ".join(
        f"{SHORT.get(c.metric.name, c.metric.name)} ({c.metric.identifier}): {c.metric.meaning}" for c in first
    )
    note = f"{what}. Intervals: {how}, over n rollouts; (k of n) where values are missing."
    return Table(title, (summary.by, "n", *(SHORT.get(n, n) for n in names)), rows, note)


def _comparisons(summary: Summary) -> Table:
    order = sorted(summary.comparisons, key=lambda c: (math.isnan(c.fisher.p), c.fisher.p))
    rows = tuple(
        (
            SHORT.get(c.metric.name, c.metric.name),
            f"{c.first} - {c.second}",
            rate(c.difference).replace("%", " points", 1),
            p_value(c.fisher.p),
            p_value(c.p_adjusted),
            str(c.fisher.n),
        )
        for c in order
    )
    tested = _tested(summary)
    note = (
        "Difference of rates with Newcombe's hybrid score 95% interval; Fisher's exact test, two-sided; "
        f"p adjusted over the {tested} here that {'has' if tested == 1 else 'have'} data (Benjamini-Hochberg). "
        f"{_detectable(summary)}"
    )
    return Table("Comparisons", ("rate", "groups", "difference", "p", "p adjusted", "n"), rows, note)


def _tested(summary: Summary) -> int:
    """Comparisons with a p: of two groups that both have data."""
    return sum(not math.isnan(c.fisher.p) for c in summary.comparisons)


def _detectable(summary: Summary) -> str:
    """What the smallest two groups could have told apart, so that no difference is not read as equality."""
    sizes = sorted(c.counted for c in summary.counts)[:2]
    if len(sizes) < 2 or not sizes[0]:
        return ""
    found = minimum_detectable_rate(0.5, *sizes)
    reach = "no rate at all" if math.isnan(found.higher) else f"only {found.higher:.0%} or more"
    return (
        f"For scale: beside 50% in {sizes[0]} rollouts, {sizes[1]} rollouts would tell {reach} apart with 80% power, "
        "unadjusted (normal approximation)."
    )


def _provenance(summary: Summary) -> Table:
    total = sum(n for _, n in summary.provenance)
    rows = tuple((k, str(n), f"{n / total:.0%}") for k, n in summary.provenance) if total else ()
    note = f"Of {total} STEER calls carried out: where the feature had been shown in results of earlier turns."
    return Table("Where steered features came from", ("seen in", "calls", "share"), rows, note)


def _overlap(summary: Summary) -> Table:
    o, rows = summary.overlap, []
    for i in range(min(10, max(len(o.active), len(o.steered)))):
        row = [str(i + 1)]
        for table in (o.active, o.steered):
            line = table.iloc[i] if i < len(table) else None
            row += ["", ""] if line is None else [f"{line['label'] or '-'} [{line['feature']}]", str(line["rollouts"])]
        rows.append(tuple(row))
    shared = str(o.shared_low) if o.shared_low == o.shared_high else f"{o.shared_low} to {o.shared_high}"
    note = (
        f"By rollouts; first 10 of {o.k}. The lists of {o.k} share {shared} features; for the last places "
        f"{o.ties_active} active and {o.ties_steered} steered features tie."
    )
    columns = ("", "most active", "rollouts", "most steered", "rollouts")
    return Table("Most active against most steered", columns, tuple(rows), note)


def _worded(cell: Cell) -> str:
    """The estimate of a cell; where values are missing, with how many of how many rollouts it rests on."""
    text = number(cell.estimate) if cell.metric.kind == "number" else rate(cell.estimate)
    e = cell.estimate
    return f"{text} ({e.n} of {e.n + e.missing})" if e.missing else text
