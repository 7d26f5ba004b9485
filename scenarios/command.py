"""A scenario as a command: carry it out, say what came of it, and end in one line where a user can mend something.

Knows no scenario, and not which commands there are.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from toolkit.errors import BadInput, SelfsteerError

AGENTS_SAYS = "One model in a loop with tools"  # the first words of agents/__init__.py


def as_command(scenario: Callable[..., Any]) -> Callable[..., None]:
    """A scenario as a command: run it, say what came of it."""

    @functools.wraps(scenario)
    def command(**options: Any) -> None:
        finish(carried_out(scenario, options), options["out"])

    return command


def carried_out(scenario: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Run the scenario and say what came of it, also when it is stopped."""
    try:
        outcome = scenario(**options)
    except KeyboardInterrupt:
        begun = (options["out"] / "manifest.json").exists()
        kept = f"; what is whole is kept. Go on with: selfsteer resume {options['out']}"
        typer.echo(f"Stopped{kept if begun else ' before anything was computed; the same command begins it'}", err=True)
        raise typer.Exit(130) from None
    _said(outcome, options["out"])
    return outcome


def finish(outcome: Any, out: Path) -> None:
    """Say what comes next; status 1 if a rollout failed."""
    typer.echo(f"Next: selfsteer report {out}")
    if outcome.failed:
        raise typer.Exit(1)


def _said(outcome: Any, out: Path) -> None:
    ended = ", ".join(f"{n} {how}" for how, n in sorted(outcome.ended.items())) or "nothing new"
    failed = f" ({outcome.failed_before} of them failed)" if outcome.failed_before else ""
    before = f"; {outcome.before} were there before{failed}" if outcome.before else ""
    speed = f"{outcome.tokens:,} tokens in {outcome.wall_s:.1f} s"
    typer.echo(f"{out}: {ended}{before}. {speed}.")


def run_script(scenario: Callable[..., Any]) -> None:
    """A scenario's file run by itself: the same options, the same ending."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(as_command(scenario))
    guarded(alone)


def guarded(call: Callable[[], Any]) -> None:
    """Make the call; an error that a user can mend is one line and status 2, Ctrl-C is status 130."""
    try:
        _own_agents()
        call()
    except SelfsteerError as error:
        if os.environ.get("SELFSTEER_DEBUG"):
            raise
        from toolkit.search import clean

        print(f"selfsteer: {clean(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("selfsteer: stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)


def _own_agents() -> None:
    """openai-agents installs a package of the same name, beside this one or over it. Looks, and does not import it."""
    found = find_spec("agents")
    origin = Path(found.origin) if found is not None and found.origin else Path("nowhere")
    ours = Path(__file__).resolve().parents[1] / "agents" / "__init__.py"
    if origin.resolve() != ours or AGENTS_SAYS not in ours.read_text(encoding="utf-8", errors="replace"):
        raise BadInput(
            f"the package `agents` that Python finds ({origin}) is not selfsteer's; uninstall openai-agents here and"
            " install selfsteer again, or give selfsteer an environment of its own"
        )
