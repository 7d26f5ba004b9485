"""Framing factorial: every narrative with every theme at every depth of documentation, under free exploration.

Was it the story or the names of the tools? Each factor varies with the others held, so its effect can be told from
theirs. Run as `selfsteer run framing-factorial`. Knows no engine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if __name__ == "__main__":  # run as a file: with the packages beside it, whatever else is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenarios import setting
from scenarios.free_exploration import turns
from scenarios.progress import Outcome
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents.framing import Framing
    from agents.script import Agent
    from scenarios.condition import Condition

NAME = "framing-factorial"
FACTORS = ("narrative", "theme", "depth")
Cell = tuple[str, str, str]

Narratives = Annotated[str, typer.Option(help="Comma-separated framings whose story is told.")]
Themes = Annotated[str, typer.Option(help="Comma-separated themes that name and word the tools.")]
Depths = Annotated[str, typer.Option(help="How much the tools are explained: signatures, lines, mechanics.")]


def framings_of(narratives: str, themes: str, depths: str, limits: setting.Limits) -> dict[Cell, Framing]:
    """A framing for each cell of the design. Raises BadInput for a level that there is not, or that is named twice."""
    from agents.depth import documented

    levels = [_levels(name, given) for name, given in zip(FACTORS, (narratives, themes, depths), strict=True)]
    cells: dict[Cell, Framing] = {}
    for narrative, theme, depth in product(*levels):
        framing = setting.framings_of(f"{narrative}:{theme}", limits)[0]
        cells[narrative, theme, depth] = documented(framing, depth)
    return cells


def conditions(
    agents: Mapping[Cell, Agent], rounds: int, run_seed: int, arm: str, label_view: str, pinned: Mapping[str, str]
) -> list[Condition]:
    """One condition per cell, its levels beside its name."""
    from agents.script import Script
    from scenarios.condition import Condition
    from scenarios.folder import versions

    known = versions()

    def condition(cell: Cell, agent: Agent) -> Condition:
        name = "_".join(cell)
        parameters = {**dict(zip(FACTORS, cell, strict=True)), "rounds": rounds}

        def script(rollout: int) -> Script:
            return Script(
                NAME, name, run_seed, rollout, turns(rounds), parameters, arm, label_view, known, dict(pinned)
            )

        return Condition(name, agent, script, parameters, rounds)

    return [condition(cell, agent) for cell, agent in agents.items()]


def framing_factorial(
    narratives: Narratives = "research,potions,minimal",
    themes: Themes = "research,potions",
    depths: Depths = "signatures,lines",
    seeds: setting.Seeds = 6,
    rounds: setting.Rounds = 6,
    out: setting.Out = Path("runs/framing-factorial"),
    model: setting.Model = setting.ORGANISM,
    dictionary: setting.Dictionary = setting.ORGANISM,
    labels: setting.LabelFile = None,
    label_view: setting.LabelView = "true",
    arm: setting.Arm = "target",
    unit: setting.Unit = None,
    embedder: setting.Embedder = setting.EMBEDDER,
    scope: setting.Scope = None,
    temperature: setting.Temperature = 0.7,
    top_p: setting.TopP = 1.0,
    max_tokens: setting.MaxTokens = 256,
    inspect_k: setting.InspectK = None,
    dose_cap: setting.DoseCap = 2.0,
    exit_tool: setting.ExitTool = False,
    run_seed: setting.RunSeed = 0,
    device: setting.Device = "auto",
    dtype: setting.Dtype = None,
    kv_budget: setting.KvBudget = None,
    host_budget: setting.HostBudget = None,
) -> Outcome:
    """Every story with every set of tool names at every depth of documentation, left to itself.

    The report ends with main effects and interactions of the three factors, with intervals.

    Example: selfsteer run framing-factorial --narratives research,potions --depths lines,mechanics --seeds 30
    """
    options = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items() if k not in setting.MACHINE}
    from scenarios.folder import code_hash, manifest
    from scenarios.run import run

    setting.check_counts(seeds, rounds)
    limits = setting.Limits(temperature, top_p, max_tokens, scope, inspect_k, dose_cap, exit_tool)
    cells = framings_of(narratives, themes, depths, limits)
    features = setting.open_features(dictionary, labels, label_view, arm, run_seed, unit, embedder)
    engine = setting.open_engine(model, device, dtype, kv_budget, host_budget)
    agents = dict(zip(cells, setting.agents_of(list(cells.values()), engine, model, features, limits), strict=True))
    planned = conditions(agents, rounds, run_seed, arm, label_view, {"code": code_hash()})
    return run(planned, seeds, engine, out, manifest(NAME, options, planned, seeds, engine))


def _levels(factor: str, given: str) -> Sequence[str]:
    found = [part.strip() for part in given.split(",") if part.strip()]
    if not found or len(set(found)) != len(found):
        raise BadInput(f"{factor}: {given!r} must name one or more levels, each once, as in research,potions")
    return found


if __name__ == "__main__":
    from scenarios.command import run_script

    run_script(framing_factorial)
