"""Observation: a model can INSPECT and SEARCH and change nothing. What does it look at, and what does it make of it?

`guided` asks for something true, something false and a comparison; `free` asks for nothing. Run as `selfsteer run
observation`. Knows no engine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if __name__ == "__main__":  # run as a file: with the packages beside it, whatever else is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenarios import injecting, setting
from scenarios.progress import Outcome
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents.script import Agent, Turn
    from scenarios.condition import Condition

NAME = "observation"
TEXT = Path(__file__).parent / "texts" / "observation.yaml"
SCRIPTS = ("guided", "free")
Plan = tuple[str, str]  # a script and a view of the labels

Scripts = Annotated[str, typer.Option(help="guided, free, or both.")]
LabelViews = Annotated[str, typer.Option(help="What labels show, comma-separated: true, opaque, shuffled, random.")]
Story = Annotated[
    str, typer.Option("--framing", help="The story, and the names of the tools; it offers no other tools.")
]


def turns(script: str, rounds: int) -> Iterator[Turn]:
    """The turns of `guided` or `free`, at most `rounds`; guided ends when its questions do."""
    from agents.script import Turn

    said = setting.texts(TEXT, "opening", "turn", lists=("guided",))
    free = (said["opening"], *[said["turn"]] * (rounds - 1))
    yield from (Turn(text) for text in (said["guided"] if script == "guided" else free)[:rounds])


def plans(scripts: str, label_views: str) -> list[Plan]:
    """Every script under every view of the labels. Raises BadInput for a script that is none."""
    wanted = injecting.listed("scripts", scripts)
    if unknown := [name for name in wanted if name not in SCRIPTS]:
        raise BadInput(f"script {unknown[0]!r} is unknown; use {', '.join(SCRIPTS)}")
    return [(script, view) for script in wanted for view in injecting.listed("label-view", label_views)]


def conditions(agents: Mapping[Plan, Agent], rounds: int, run_seed: int, pinned: Mapping[str, str]) -> list[Condition]:
    """A condition for each script and view; the view is in the name where there are several."""
    from agents.script import Script
    from scenarios.condition import Condition
    from scenarios.folder import versions

    known, several = versions(), len({view for _, view in agents}) > 1

    def condition(plan: Plan, agent: Agent) -> Condition:
        script, view = plan
        name = f"{script}_{view}" if several else script
        count = len(list(turns(script, rounds)))
        parameters = {"script": script, "label_view": view, "rounds": count}

        def one(rollout: int) -> Script:
            said = turns(script, rounds)
            return Script(NAME, name, run_seed, rollout, said, parameters, "none", view, known, dict(pinned))

        return Condition(name, agent, one, parameters, count)

    return [condition(plan, agent) for plan, agent in agents.items()]


def agents_of(planned: Sequence[Plan], ground: injecting.Ground) -> dict[Plan, Agent]:
    """An agent for each plan: they differ in the labels that they see."""
    cell = {"tools": "look", "check": "absent", "hint": "none"}
    return {plan: ground.agent({**cell, "label_view": plan[1]}) for plan in planned}


def observation(
    scripts: Scripts = "guided,free",
    label_view: LabelViews = "true",
    framing: Story = "observer",
    seeds: setting.Seeds = 15,
    rounds: setting.Rounds = 10,
    out: setting.Out = Path("runs/observation"),
    model: setting.Model = setting.ORGANISM,
    dictionary: setting.Dictionary = setting.ORGANISM,
    labels: setting.LabelFile = None,
    unit: setting.Unit = None,
    embedder: setting.Embedder = setting.EMBEDDER,
    scope: setting.Scope = None,
    temperature: setting.Temperature = 0.7,
    top_p: setting.TopP = 1.0,
    max_tokens: setting.MaxTokens = 256,
    inspect_k: setting.InspectK = None,
    run_seed: setting.RunSeed = 0,
    device: setting.Device = "auto",
    dtype: setting.Dtype = None,
    kv_budget: setting.KvBudget = None,
    host_budget: setting.HostBudget = None,
) -> Outcome:
    """A model that can look at its activations and not change them, guided by questions or left to itself.

    Example: selfsteer run observation --scripts free --label-view true,shuffled --seeds 30 --out runs/looking
    """
    given = dict(locals())
    options = {k: str(v) if isinstance(v, Path) else v for k, v in given.items() if k not in setting.MACHINE}
    from scenarios.folder import manifest
    from scenarios.run import run

    setting.check_counts(seeds, rounds)
    planned = plans(scripts, label_view)
    limits = setting.Limits(temperature, top_p, max_tokens, scope, inspect_k)
    ground = injecting.open_ground({**given, "uncalibrated": True}, limits, {})
    made = conditions(agents_of(planned, ground), rounds, run_seed, ground.pinned)
    return run(made, seeds, ground.engine, out, manifest(NAME, options, made, seeds, ground.engine), labels=ground.true)


if __name__ == "__main__":
    from scenarios.command import run_script

    run_script(observation)
