"""`selfsteer controls`: positive controls as a table, each number beside its target.

Knows no control; controls.py has those of the organism, scenario_controls.py those of the scenarios.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def controls(
    scenarios: Annotated[
        bool, typer.Option("--scenarios", help="Controls of the scenarios instead of those of the organism.")
    ] = False,
    rollouts: Annotated[
        int | None, typer.Option(help="Rollouts a condition: 16 for the organism (some take twice), 30 for scenarios.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every rollout; the organism's units were chosen on 0, 3 and 7.")] = 11,
    organism: Annotated[Path | None, typer.Option(help="Folder of another build of the organism.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a number misses its target.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON to this file.")] = None,
) -> None:
    """Measure whether instruments find what was planted: every number beside its target, with its n.

    Example: selfsteer controls --scenarios
    """
    from rich.console import Console
    from rich.table import Table

    from toolkit.errors import BadInput
    from toolkit.organism import ASSETS

    if scenarios:
        from scenarios.scenario_controls import scenario_controls

        if organism is not None:
            raise BadInput("--scenarios runs on the organism that ships; leave --organism out")
        found = scenario_controls(rollouts or 30, seed)
    else:
        from scenarios.controls import controls as of_organism

        found = of_organism(rollouts or 16, seed, assets=organism or ASSETS)
    table = Table(title="Do scenarios find what is there?" if scenarios else "Does the organism do what is needed?")
    for heading in ("number", "target", "measured", "n", ""):
        table.add_column(heading, justify="right" if heading == "n" else "left")
    for c in found:
        table.add_row(c.what, c.target, c.found, str(c.n), "[green]holds[/]" if c.holds else "[red]misses[/]")
    Console().print(table)
    if out is not None:
        out.write_text(json.dumps([vars(c) for c in found], indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(int(strict and not all(c.holds for c in found)))
