"""Free exploration: a model gets tools over its own activations, and is told nothing but "Continue."

What does it look at, what does it set, what becomes of its words? Conditions are framings; rollouts differ by seed.
Run as `selfsteer run free-exploration`, or as `python scenarios/free_exploration.py`. Knows no engine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # run as a file: with the packages beside it, whatever else is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenarios import setting
from scenarios.progress import Outcome

if TYPE_CHECKING:
    from agents.script import Agent, Turn
    from scenarios.condition import Condition

NAME = "free-exploration"
TEXT = Path(__file__).parent / "texts" / "free_exploration.yaml"


def turns(rounds: int) -> Iterator[Turn]:
    """The whole script: the same words, round after round."""
    from agents.script import Turn

    text = setting.texts(TEXT, "turn")["turn"]
    for _ in range(rounds):
        yield Turn(text)


def conditions(
    agents: Sequence[Agent], rounds: int, run_seed: int, arm: str, label_view: str, pinned: Mapping[str, str]
) -> list[Condition]:
    """One condition per framing. pinned: hashes of what is in no other field of a transcript, such as the code."""
    from agents.script import Script
    from scenarios.condition import Condition
    from scenarios.folder import versions

    known = versions()

    def condition(agent: Agent) -> Condition:
        name = agent.framing.name
        parameters = {"framing": name, "rounds": rounds}

        def script(rollout: int) -> Script:
            return Script(
                NAME, name, run_seed, rollout, turns(rounds), parameters, arm, label_view, known, dict(pinned)
            )

        return Condition(name, agent, script, parameters, rounds)

    return [condition(agent) for agent in agents]


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
    """A model with tools over its own activations, left to itself.

    Each round says only "Continue."; INSPECT, SEARCH, STEER and the rest act as the framing words them. Every round's
    activations are recorded. Ends with what to look at next.

    Example: selfsteer run free-exploration --framings research,potions --seeds 8 --rounds 20 --out runs/mine
    """
    options = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items() if k not in setting.MACHINE}
    from scenarios.folder import code_hash, manifest
    from scenarios.run import run

    setting.check_counts(seeds, rounds)
    limits = setting.Limits(temperature, top_p, max_tokens, scope, inspect_k, dose_cap, exit_tool)
    told = setting.framings_of(framings, limits)
    features = setting.open_features(dictionary, labels, label_view, arm, run_seed, unit, embedder)
    engine = setting.open_engine(model, device, dtype, kv_budget, host_budget)
    agents = setting.agents_of(told, engine, model, features, limits)
    planned = conditions(agents, rounds, run_seed, arm, label_view, {"code": code_hash()})
    return run(planned, seeds, engine, out, manifest(NAME, options, planned, seeds, engine))


if __name__ == "__main__":
    from scenarios.command import run_script

    run_script(free_exploration)
