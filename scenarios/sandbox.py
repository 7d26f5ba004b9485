"""Sandbox: five rounds of a task, perhaps under a smuggled feature, which then is gone; and after that, free rounds.

Does the model go back to what it was under? A neutral feature as the earlier injection tells "this one mattered" from
"whatever came last is taken again". Run as `selfsteer run sandbox`. Knows no engine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if __name__ == "__main__":  # run as a file: with the packages beside it, whatever else is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenarios import injecting, setting
from scenarios.injecting import Cell
from scenarios.interference import TOPICS
from scenarios.progress import Outcome
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents.topic import Topic
    from scenarios.condition import Condition

NAME = "sandbox"
TEXT = Path(__file__).parent / "texts" / "sandbox.yaml"
TASK = 5  # rounds of the task, before the sandbox
# Arms differ in what is injected and in labels alone: the same tools, the same rounds.
BASE = {
    "inject": "style", "injection_arm": "target", "strength": "0.6", "label_view": "true", "hint": "none",
    "check": "honest", "tools": "full",
}  # fmt: skip
CONDITIONS: dict[str, Cell] = {
    "post_interference": BASE,
    "control": {**BASE, "inject": "none"},
    "opaque": {**BASE, "label_view": "opaque"},
    "neutral_feature": {**BASE, "inject": "neutral"},
}

ARMS = ",".join(CONDITIONS)
Arms = Annotated[str, typer.Option(help=f"Which of {ARMS}.")]
SandboxRounds = Annotated[int, typer.Option(help="Free rounds after the task.")]
Task = Annotated[
    str | None, typer.Option(help="Topic of the task: formal, weather, rwanda, organism, or a .yaml file.")
]


def turns(topic: Topic, rounds: int) -> tuple[str, ...]:
    """The first turns of the topic, without its question whether all is well; the opening; then the same words."""
    said = setting.texts(TEXT, "opening", "turn")
    if len(topic.turns) < TASK:
        raise BadInput(f"topic {topic.name} has {len(topic.turns)} turns; the task takes {TASK}")
    return (*topic.turns[:TASK], said["opening"], *[said["turn"]] * (rounds - 1))


def cells(wanted: str, given: Mapping[str, str | None]) -> dict[str, Cell]:
    """The conditions by name, under what was given for all of them. Raises BadInput for one that is none."""
    chosen = injecting.listed("arms", wanted)
    if unknown := [name for name in chosen if name not in CONDITIONS]:
        raise BadInput(f"arm {unknown[0]!r} is unknown; use {', '.join(CONDITIONS)}")
    return {name: {**CONDITIONS[name], **{k: v for k, v in given.items() if v is not None}} for name in chosen}


def conditions(
    planned: Mapping[str, Cell], topic: Topic, rounds: int, inject_at: int, ground: injecting.Ground
) -> list[Condition]:
    """A condition for each cell; the injection is over when the sandbox opens."""
    from agents.injection import Injection, conversation
    from agents.script import Script
    from scenarios.condition import Condition
    from scenarios.folder import versions

    known, texts = versions(), turns(topic, rounds)

    def condition(name: str, cell: Cell) -> Condition:
        added, draw, strength = ground.added(cell), ground.features(cell["inject"]), injecting.strength_of(cell)
        others = ground.features(BASE["inject"])
        parameters = {
            **cell, "topic": topic.name, "strength": strength, "rounds": len(texts), "sandbox_from": TASK + 1,
            "inject_at": inject_at, "remove_at": TASK + 1, "features": ground.injected(draw),
        }  # fmt: skip

        def script(rollout: int) -> Script:
            features = draw(rollout)
            watched = list(features or others(rollout))  # in the control: what the other arms inject in this rollout
            injection = Injection(added, features, strength, inject_at, TASK + 1) if features else None
            return Script(
                NAME, name, ground.seed, rollout, conversation(texts, injection),
                {**parameters, "watched": watched}, "target", cell["label_view"], known, dict(ground.pinned),
            )  # fmt: skip

        return Condition(name, ground.agent(cell), script, parameters, len(texts), (added,))

    return [condition(name, cell) for name, cell in planned.items()]


def sandbox(
    arms: Arms = ARMS,
    topic: Task = None,
    injection_arm: injecting.InjectionArm = None,
    strength: injecting.Strength = None,
    hint: injecting.Hint = None,
    check: injecting.Check = None,
    styles: injecting.Styles = None,
    neutral: injecting.Neutral = None,
    calibration: injecting.Calibration = None,
    uncalibrated: injecting.Uncalibrated = False,
    inject_at: injecting.InjectAt = 1,
    rounds: SandboxRounds = 10,
    framing: injecting.Framing = None,
    seeds: setting.Seeds = 15,
    out: setting.Out = Path("runs/sandbox"),
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
    dose_cap: setting.DoseCap = 2.0,
    run_seed: setting.RunSeed = 0,
    device: setting.Device = "auto",
    dtype: setting.Dtype = None,
    kv_budget: setting.KvBudget = None,
    host_budget: setting.HostBudget = None,
) -> Outcome:
    """Five rounds of a task under a feature that is then taken away, and free rounds after that.

    Every arm has the same tools and as many free rounds; neutral_feature injects one that matters to nobody.

    Example: selfsteer run sandbox --seeds 30 --rounds 10 --out runs/after
    """
    given = dict(locals())
    options = {k: str(v) if isinstance(v, Path) else v for k, v in given.items() if k not in setting.MACHINE}
    from agents.topic import load_topic
    from scenarios.folder import manifest
    from scenarios.run import run

    setting.check_counts(seeds, rounds)
    injecting.check_rounds(TASK, inject_at=inject_at)
    factors = ("injection_arm", "strength", "hint", "check")
    planned = cells(arms, {factor: given[factor] for factor in factors})
    task = load_topic(topic or ("organism" if model == setting.ORGANISM else "formal"), TOPICS)
    limits = setting.Limits(temperature, top_p, max_tokens, scope, inspect_k, dose_cap)
    ground = injecting.open_ground(given, limits, planned)
    made = conditions(planned, task, rounds, inject_at, ground)
    begun = {**manifest(NAME, options, made, seeds, ground.engine), "differences": injecting.differing(planned)}
    begun["hashes"] |= {f"topic {task.name}": task.digest}
    facts = {task.name: task.facts_json()}
    return run(made, seeds, ground.engine, out, begun, labels=ground.true, beside={"facts.json": facts})


if __name__ == "__main__":
    from scenarios.command import run_script

    run_script(sandbox)
