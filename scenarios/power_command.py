"""`selfsteer power`: how many seeds a condition needs before an effect worth finding can be found.

Knows no engine: rates in, numbers of rollouts out; a pilot run can give the rate to start from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.errors import BadInput

EFFECTS = (0.1, 0.2, 0.3, 0.4, 0.5)

Run = Annotated[Path | None, typer.Argument(help="A pilot run, to take the rate from; or give --base.")]
Metric = Annotated[str, typer.Option(help="Which rate of the pilot run: detected, steered, used_tools, ...")]
Condition = Annotated[str | None, typer.Option(help="Which condition of the pilot run to start from.")]
Base = Annotated[float | None, typer.Option(help="The rate in the first group, 0 to 1, if there is no pilot run.")]
Effect = Annotated[
    float | None, typer.Option(help="The difference worth finding, such as -0.3; default: a table of some.")
]
Power = Annotated[float, typer.Option(help="The chance of finding it.")]
Alpha = Annotated[float, typer.Option(help="The two-sided level; divide it by the number of comparisons you plan.")]


def power(
    run: Run = None,
    metric: Metric = "detected",
    condition: Condition = None,
    base: Base = None,
    effect: Effect = None,
    power: Power = 0.8,
    alpha: Alpha = 0.05,
) -> None:
    """How many seeds each of two conditions needs, so that Fisher's test finds a difference of rates.

    From a pilot run: the rate and both ends of its interval, since a pilot knows its own rate badly.

    Example: selfsteer power --base 0.5 --effect -0.3
    """
    from rich.console import Console
    from rich.table import Table

    bases = _bases(run, metric, condition, base)
    effects = (effect,) if effect is not None else tuple(e for step in EFFECTS for e in (-step, step))
    table = Table(
        "rate in one condition",
        "in the other",
        "seeds for each",
        "by",
        title=f"Seeds needed for power {power:.0%} at a two-sided level of {alpha:g}",
    )
    for name, rate in bases:
        for change in effects:
            other = round(rate + change, 6)
            if not 0 <= other <= 1:
                if effect is not None and len(bases) == 1:
                    raise BadInput(f"a rate of {rate:.0%} cannot change by {change:+.0%}; give another --effect")
                continue
            table.add_row(name, f"{other:.0%}", *_needed(rate, other, power, alpha))
    Console().print(table)


def _needed(rate: float, other: float, power: float, alpha: float) -> tuple[str, str]:
    from analysis import stats

    try:
        found = stats.rollouts_needed(rate, other, power, alpha)
    except ValueError as error:
        raise BadInput(str(error)) from error
    return f"{found.rollouts:,}", found.how.rpartition(", ")[2]


def _bases(run: Path | None, metric: str, condition: str | None, base: float | None) -> list[tuple[str, float]]:
    """Each rate to start from, named."""
    if (run is None) == (base is None):
        raise BadInput("give a pilot run or --base, one of the two; as in: selfsteer power --base 0.5")
    if base is not None:
        if not 0 <= base <= 1:
            raise BadInput(f"base rate {base:g} is outside 0 to 1; 0.5 is half of the rollouts")
        return [(f"{base:.0%}", base)]
    from analysis import load
    from analysis.metrics import METRICS
    from analysis.stats import wilson

    frames = load(run)  # type: ignore[arg-type]
    if metric not in METRICS or METRICS[metric].kind != "rate":
        rates = ", ".join(m.name for m in METRICS.values() if m.kind == "rate")
        raise BadInput(f"{metric!r} is no rate; use one of {rates}")
    there = sorted(set(frames.rollouts["condition"].dropna()))
    if condition is None and len(there) > 1:
        raise BadInput(f"{run} has conditions {', '.join(there)}; name one with --condition")
    found = wilson(METRICS[metric].values(frames.where(condition=condition or there[0])))
    if found.n == 0:
        raise BadInput(f"{metric} is missing in every rollout of {condition or there[0]}; give --base")
    ends = {f"{found.value:.0%} found": found.value, f"{found.low:.0%} low end": found.low}
    ends[f"{found.high:.0%} high end"] = found.high
    return list(ends.items())
