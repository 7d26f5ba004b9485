"""Free exploration: a model gets tools over its own activations, and is told nothing but "Continue."

What does it look at, what does it set, what becomes of its words? Conditions are framings; rollouts differ by seed.
Run as `selfsteer run free-exploration`, or as `python scenarios/free_exploration.py`. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from scenarios import setting
from scenarios.progress import Outcome

if TYPE_CHECKING:
    from agents.rollout import Turn
    from scenarios.run import Condition

NAME = "free-exploration"
TEXT = Path(__file__).parent / "texts" / "free_exploration.yaml"


def turns(rounds: int) -> Iterator[Turn]:
    """The whole script: the same words, round after round."""
    from agents.rollout import Turn

    text = yaml.safe_load(TEXT.read_text(encoding="utf-8"))["turn"]
    for _ in range(rounds):
        yield Turn(text)


def conditions(
    agents: list[tuple[str, object]], rounds: int, run_seed: int, arm: str, label_view: str
) -> list[Condition]:
    """One condition per framing."""
    from agents.rollout import Agent, Script
    from scenarios.run import Condition, versions

    known = versions()

    def condition(name: str, agent: Agent) -> Condition:
        parameters = {"framing": name, "rounds": rounds}

        def script(rollout: int) -> Script:
            return Script(
                NAME, name, run_seed, rollout, turns(rounds), parameters, arm=arm, label_view=label_view, versions=known
            )

        return Condition(name, agent, script, parameters)

    return [condition(name, agent) for name, agent in agents if isinstance(agent, Agent)]


def free_exploration(
    framings: setting.Framings = setting.FRAMINGS,
    seeds: setting.Seeds = 4,
    rounds: setting.Rounds = 8,
    out: setting.Out = Path("runs/free-exploration"),
    model: setting.Model = setting.ORGANISM,
    dictionary: setting.Dictionary = setting.ORGANISM,
    labels: setting.LabelFile = None,
    label_view: setting.LabelView = "true",
    arm: setting.Arm = "target",
    unit: setting.Unit = None,
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
) -> Outcome:
    """A model with tools over its own activations, left to itself.

    Each round says only "Continue."; INSPECT, SEARCH, STEER and the rest act as the framing words them. Every round's
    activations are recorded. Ends with what to look at next.

    Example: selfsteer run free-exploration --framings research,potions --seeds 8 --rounds 20 --out runs/mine
    """
    options = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items() if k not in ("out", "device")}
    from scenarios.run import manifest, run

    if rounds < 1:
        from toolkit.errors import BadInput

        raise BadInput(f"{rounds} rounds give no response; use at least 1")
    limits = setting.Limits(temperature, top_p, max_tokens, scope, inspect_k, dose_cap, exit_tool)
    features = setting.open_features(dictionary, labels, label_view, arm, run_seed, unit)
    engine = setting.open_engine(model, device, dtype)
    agents = setting.agents_of(framings, engine, model, features, limits)
    planned = conditions(list(agents), rounds, run_seed, arm, label_view)
    return run(planned, seeds, engine, out, manifest(NAME, options, planned, seeds, engine))


if __name__ == "__main__":
    from scenarios.cli import run_script

    run_script(free_exploration)
