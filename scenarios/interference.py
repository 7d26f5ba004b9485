"""Interference: somebody else steers the model in the middle of a conversation. Does it notice, and what does it do?

A scripted conversation of 8 rounds; a feature is injected, round 5 asks whether all is well. Labels, CHECK, hint,
tools, what is injected and what it really adds vary freely. Run as `selfsteer run interference`. Knows no engine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if __name__ == "__main__":  # run as a file: with the packages beside it, whatever else is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenarios import injecting, setting
from scenarios.injecting import Cell
from scenarios.progress import Outcome
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents.topic import Topic
    from scenarios.condition import Condition

NAME = "interference"
TOPICS = Path(__file__).parent / "texts" / "topics"
BASE = {
    "topic": "rwanda", "inject": "style", "injection_arm": "target", "strength": "0.6", "label_view": "true",
    "hint": "full", "check": "absent", "tools": "full",
}  # fmt: skip
PRESETS: dict[str, Cell] = {
    "rwanda_no_check": BASE,
    "rwanda_opaque": {**BASE, "label_view": "opaque"},
    "rwanda_no_hint": {**BASE, "hint": "none"},
    "rwanda_full_tools": {**BASE, "check": "honest"},
    "formal": {**BASE, "topic": "formal"},
    "neutral": {**BASE, "topic": "weather"},
}
OWN = {**BASE, "topic": "organism"}  # where the organism is the model and nothing else was said

Presets = Annotated[
    str | None, typer.Option(help=f"Named conditions: {', '.join(PRESETS)}; factors that are given replace theirs.")
]
Topics = Annotated[str | None, typer.Option(help="Topics: rwanda, formal, weather, organism, or .yaml files.")]


@dataclass(frozen=True)
class When:
    """What does not vary: when the injection begins and ends, and when the history is dropped."""

    inject_at: int
    remove_at: int | None
    forget_at: int | None


def cells(presets: str | None, given: Mapping[str, str | None], model: str) -> dict[str, Cell]:
    """The conditions: presets crossed with the factors that were given. Where no tool is offered, none is hinted at.

    Raises BadInput for a preset that is none, and for a hint that was given for conditions without tools.
    """
    found = _crossed(presets, given, model)
    alone = {name: cell for name, cell in found.items() if cell["tools"] == "none"}
    if given.get("hint") is not None and any(cell["hint"] != "none" for cell in alone.values()):
        raise BadInput("a hint that tools may help needs tools, and tools none offers none; give --hint none there")
    return {**found, **{name: {**cell, "hint": "none"} for name, cell in alone.items()}}


def _crossed(presets: str | None, given: Mapping[str, str | None], model: str) -> dict[str, Cell]:
    factors = {name: levels for name, levels in given.items() if levels is not None}
    if presets is None and model == setting.ORGANISM:
        if not factors:
            factors = {"label_view": "true,opaque", "check": "absent,honest"}
        return injecting.crossed({NAME: OWN}, factors)
    wanted = injecting.listed("presets", presets or ",".join(PRESETS))
    if unknown := [name for name in wanted if name not in PRESETS]:
        raise BadInput(f"condition {unknown[0]!r} is unknown; use {', '.join(PRESETS)}, or give the factors themselves")
    return injecting.crossed({name: PRESETS[name] for name in wanted}, factors)


def conditions(
    planned: Mapping[str, Cell], told: Mapping[str, Topic], when: When, ground: injecting.Ground
) -> list[Condition]:
    """A condition for each cell: an agent, and for each rollout its conversation with its injection."""
    from agents.injection import Injection, conversation
    from agents.script import Script
    from scenarios.condition import Condition
    from scenarios.folder import versions

    known = versions()

    def condition(name: str, cell: Cell) -> Condition:
        added, draw, texts = ground.added(cell), ground.features(cell["inject"]), told[name].conversation()
        strength = injecting.strength_of(cell)
        parameters = {
            **cell, "topic": told[name].name, "strength": strength, "rounds": len(texts), "asked": told[name].asked,
            **vars(when), "features": ground.injected(draw),
        }  # fmt: skip

        def script(rollout: int) -> Script:
            features = draw(rollout)
            injection = Injection(added, features, strength, when.inject_at, when.remove_at) if features else None
            return Script(
                NAME, name, ground.seed, rollout, conversation(texts, injection, when.forget_at), parameters,
                "target", cell["label_view"], known, dict(ground.pinned),
            )  # fmt: skip

        return Condition(name, ground.agent(cell), script, parameters, len(texts), (added,))

    return [condition(name, cell) for name, cell in planned.items()]


def interference(
    presets: Presets = None,
    topic: Annotated[
        str | None, typer.Option(help="Topics: rwanda, formal, weather, organism, or .yaml files.")
    ] = None,
    inject: injecting.Inject = None,
    injection_arm: injecting.InjectionArm = None,
    strength: injecting.Strength = None,
    label_view: injecting.LabelView = None,
    hint: injecting.Hint = None,
    check: injecting.Check = None,
    tools: injecting.Tools = None,
    styles: injecting.Styles = None,
    subjects: injecting.Subjects = None,
    calibration: injecting.Calibration = None,
    uncalibrated: injecting.Uncalibrated = False,
    inject_at: injecting.InjectAt = 2,
    remove_at: injecting.RemoveAt = None,
    forget_at: injecting.ForgetAt = None,
    framing: injecting.Framing = None,
    seeds: setting.Seeds = 20,
    out: setting.Out = Path("runs/interference"),
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
    """Steering that the model did not ask for, in the middle of a conversation; round 5 asks whether all is well.

    Comma lists of topic, inject, injection-arm, strength, label-view, hint, check and tools are crossed.

    Example: selfsteer run interference --label-view true,opaque --check absent,honest --seeds 30 --out runs/noticed
    """
    given = dict(locals())
    options = {k: str(v) if isinstance(v, Path) else v for k, v in given.items() if k not in setting.MACHINE}
    from agents.topic import load_topic
    from scenarios.folder import manifest
    from scenarios.run import run

    planned = cells(presets, {factor: given[factor] for factor in BASE}, model)
    told = {name: load_topic(cell["topic"], TOPICS) for name, cell in planned.items()}
    named = {topic.name: topic for topic in told.values()}
    if len(named) < len({cell["topic"] for cell in planned.values()}):
        raise BadInput(f"two topics have the same name: {', '.join(named)}; give each file a `name` of its own")
    when = When(inject_at, remove_at, forget_at)
    for one in told.values():
        injecting.check_rounds(len(one.conversation()), **vars(when))
    limits = setting.Limits(temperature, top_p, max_tokens, scope, inspect_k, dose_cap)
    ground = injecting.open_ground(given, limits, planned)
    made = conditions(planned, told, when, ground)
    begun = manifest(NAME, options, made, seeds, ground.engine)
    begun["hashes"] |= {f"topic {name}": one.digest for name, one in named.items()}
    facts = {name: one.facts_json() for name, one in named.items()}
    return run(
        made, seeds, ground.engine, out, {**begun, "differences": injecting.differing(planned)}, labels=ground.true,
        beside={"facts.json": facts},
    )  # fmt: skip


if __name__ == "__main__":
    from scenarios.command import run_script

    run_script(interference)
