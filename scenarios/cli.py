"""The command `selfsteer`. Heavy libraries are imported inside commands, so that --help answers at once.

Knows no scenario's insides.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from inspect import signature as signature_of
from pathlib import Path
from typing import Annotated, Any

import typer

from scenarios import setting
from scenarios.calibrate_command import calibrate
from scenarios.claims_command import claims
from scenarios.controls_command import controls
from scenarios.framing_factorial import framing_factorial
from scenarios.free_exploration import free_exploration
from scenarios.import_command import import_transcripts
from scenarios.interference import interference
from scenarios.judge_command import judge
from scenarios.look import inspect, plain, search
from scenarios.observation import observation
from scenarios.persistence import persistence
from scenarios.power_command import power
from scenarios.sandbox import sandbox
from scenarios.two_models import two_models
from scenarios.wrong_answers import wrong_answers
from toolkit.errors import BadInput, SelfsteerError

AGENTS_SAYS = "One model in a loop with tools"  # the first words of agents/__init__.py

app = typer.Typer(
    name="selfsteer",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Hand a language model tools over its own activations, and run controlled experiments on what it does.

    Start with `selfsteer demo`: a small model that ships here steers itself, and its report is a page for your
    browser. Then `selfsteer run free-exploration --help`.""",
)
scenarios = typer.Typer(
    no_args_is_help=True, help="Run a scenario. The same command on the same folder goes on with it."
)
app.add_typer(scenarios, name="run")


@app.command()
def demo(out: setting.Out = Path("runs/demo"), seeds: setting.Seeds = 4) -> None:
    """A small model steers itself: four framings, a few seeds, and a report. Under a minute.

    Example: selfsteer demo
    """
    chosen = {"framings": "research,potions,minimal,no_tools", "seeds": seeds, "rounds": 8}
    outcome = _run(free_exploration, {**chosen, "out": out})
    written = _report(out)
    typer.echo(
        f"\nReport: {written}  (open it in a browser; every rollout is in there)\n"
        "Try next:\n"
        '  selfsteer search "sea robbers"            find features by meaning\n'
        '  selfsteer inspect "Arr, the rain in Oslo"  what is active in a text\n'
        "  selfsteer run free-exploration --arm zero --out runs/placebo   the same, with steering that does nothing\n"
        "  selfsteer run free-exploration --help     your own model and dictionary"
    )
    if outcome.failed:
        raise typer.Exit(1)


@app.command()
def resume(run: Annotated[Path, typer.Argument(help="Folder of a run that was interrupted.")]) -> None:
    """Go on with a run where it stopped, under the options that its manifest holds.

    Example: selfsteer resume runs/mine
    """
    from scenarios.folder import read_manifest

    manifest = read_manifest(run)
    scenario = SCENARIOS.get(manifest["scenario"])
    if scenario is None:
        raise BadInput(f"{run} is of scenario {manifest['scenario']!r}; there is {', '.join(SCENARIOS)}")
    options = {**manifest["options"], "device": manifest["engine"]["device"]}
    if unknown := options.keys() - signature_of(scenario).parameters.keys():
        raise BadInput(f"{run} was begun with options that there are no more: {', '.join(sorted(unknown))}")
    _finish(_run(scenario, {**options, "out": run}), run)


@app.command()
def status(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """How far a run is: finished, unfinished and failed rollouts of each condition.

    Example: selfsteer status runs/mine
    """
    from collections import Counter

    from rich.console import Console
    from rich.table import Column, Table

    from agents.transcript import read
    from scenarios.folder import path_of, read_manifest

    manifest = read_manifest(run)
    columns = ("finished", "failed", "unfinished", "not begun")
    table = Table(Column("condition", overflow="fold"), *columns, title=plain(f"{manifest['scenario']} in {run}"))
    for condition in manifest["conditions"]:
        counts: Counter[str] = Counter()
        for seed in range(manifest["seeds"]):
            path = path_of(run, condition["name"], seed)
            if not path.exists() or not path.stat().st_size:
                counts["not begun"] += 1
                continue
            end = read(path).end
            counts["unfinished" if end is None else "failed" if end.how == "failed" else "finished"] += 1
        table.add_row(plain(condition["name"]), *(str(counts[c]) for c in columns))
    Console().print(table)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    by: Annotated[str, typer.Option(help="The column that tells groups apart.")] = "condition",
    out: Annotated[Path | None, typer.Option(help="Folder for the files; default: report in the run.")] = None,
) -> None:
    """Tables in the terminal, report.md with figures, and one HTML page with every rollout.

    Example: selfsteer report runs/mine
    """
    typer.echo(f"\nReport: {_report(run, by, out)}")


app.command()(search)
app.command()(inspect)
app.command()(power)
app.command()(judge)
app.command()(calibrate)
app.command()(controls)
app.command("import")(import_transcripts)
app.command()(claims)


@app.command()
def version() -> None:
    """Versions of everything that acts on a run."""
    from scenarios.folder import code_hash, commit, versions

    for name, found in {**versions(), "commit": commit(), "code": code_hash()}.items():
        typer.echo(f"{name:24}{found}")


# ---------------------------------------------------------------------- between commands


def _run_and_say(scenario: Callable[..., Any]) -> Callable[..., None]:
    """A scenario as a command: run it, say what came of it."""

    @functools.wraps(scenario)
    def command(**options: Any) -> None:
        _finish(_run(scenario, options), options["out"])

    return command


SCENARIOS: dict[str, Callable[..., Any]] = {
    "free-exploration": free_exploration,
    "framing-factorial": framing_factorial,
    "interference": interference,
    "persistence": persistence,
    "sandbox": sandbox,
    "observation": observation,
    "two-models": two_models,
    "wrong-answers": wrong_answers,
}
for _name, _scenario in SCENARIOS.items():
    scenarios.command(_name)(_run_and_say(_scenario))


def _run(scenario: Callable[..., Any], options: dict[str, Any]) -> Any:
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


def _finish(outcome: Any, out: Path) -> None:
    typer.echo(f"Next: selfsteer report {out}")
    if outcome.failed:
        raise typer.Exit(1)


def _said(outcome: Any, out: Path) -> None:
    ended = ", ".join(f"{n} {how}" for how, n in sorted(outcome.ended.items())) or "nothing new"
    failed = f" ({outcome.failed_before} of them failed)" if outcome.failed_before else ""
    before = f"; {outcome.before} were there before{failed}" if outcome.before else ""
    speed = f"{outcome.tokens:,} tokens in {outcome.wall_s:.1f} s"
    typer.echo(f"{out}: {ended}{before}. {speed}.")


def _report(run: Path, by: str = "condition", out: Path | None = None) -> Path:
    from analysis.report import print_summary
    from analysis.report import report as written

    paths = written(run, out, by)
    print_summary(paths.summary)
    return paths.html


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


def main(arguments: list[str] | None = None) -> None:
    """Run the command; errors that users can mend are one line."""
    _guarded(lambda: app(arguments, standalone_mode=True))


def run_script(scenario: Callable[..., Any]) -> None:
    """A scenario's file run by itself: the same options, the same ending."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(_run_and_say(scenario))
    _guarded(alone)


def _guarded(call: Callable[[], Any]) -> None:
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


if __name__ == "__main__":
    main()
