"""The command `selfsteer`. Heavy libraries are imported inside commands, so that --help answers at once.

Knows no scenario's insides.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature as signature_of
from pathlib import Path
from typing import Annotated, Any

import typer

from scenarios import setting
from scenarios.calibrate_command import calibrate
from scenarios.claims_command import claims
from scenarios.command import as_command, carried_out, finish, guarded
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
from toolkit.errors import BadInput

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
    outcome = carried_out(free_exploration, {**chosen, "out": out})
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
    finish(carried_out(scenario, {**options, "out": run}), run)


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
    scenarios.command(_name)(as_command(_scenario))


def _report(run: Path, by: str = "condition", out: Path | None = None) -> Path:
    from analysis.report import print_summary
    from analysis.report import report as written

    paths = written(run, out, by)
    print_summary(paths.summary)
    return paths.html


def main(arguments: list[str] | None = None) -> None:
    """Run the command; errors that users can mend are one line."""
    guarded(lambda: app(arguments, standalone_mode=True))


if __name__ == "__main__":
    main()
