"""Two models: each with tools over the other's features, or one that silently steers another which has none.

`mutual`: they talk with each other. `operator`: one talks with a scripted user; the other watches, and acts on it
before each answer. What a model does to another, and what becomes of that one. Run as `selfsteer run two-models`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if __name__ == "__main__":  # run as a file: with the packages beside it, whatever else is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenarios import setting
from scenarios.progress import Outcome
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents.framing import Framing
    from agents.script import Agent, Hear, Round, Turn
    from scenarios.pairs import Pair, Relay, Side
    from toolkit.dictionary import FeatureDictionary
    from toolkit.engines.base import Engine

NAME = "two-models"
TEXTS = Path(__file__).parent / "texts"
KEYS = ("begin", "silent", "watch_first", "watch")
MODES = ("mutual", "operator")
PAIRED = {"mutual_a": "mutual", "mutual_b": "mutual", "operator": "operator", "operated": "operator"}
"""Side to the mode whose other side talks with it under the same number."""

Modes = Annotated[str, typer.Option(help="Comma-separated: mutual (both have tools), operator (one has, silently).")]
Other = Annotated[
    str | None, typer.Option(help="The other model: hub name or folder; as operator also inspect:PROVIDER/MODEL.")
]
OtherDictionary = Annotated[
    str | None, typer.Option(help="Dictionary of the other model; default: --dictionary, if the models are the same.")
]
FramingName = Annotated[
    str | None, typer.Option("--framing", help="Framing of whoever has tools; default: partner, operator.")
]
Topic = Annotated[str | None, typer.Option(help="What the user of the steered model talks about; or a .yaml file.")]


@dataclass(frozen=True)
class Party:
    """A model with its features. dictionary: None for one whose activations nobody can read."""

    model: str
    engine: Engine
    dictionary: FeatureDictionary | None


@dataclass(frozen=True)
class Plan:
    """What every rollout of a run has in common."""

    seed: int
    arm: str
    view: str
    pinned: Mapping[str, str]


def talking(first: str | None) -> Iterator[Turn | Hear]:
    """A first word, or none; from then on whatever is heard, until the driver says that it is enough."""
    from agents.script import Hear, Turn

    told: Round | None = None
    if first is not None:
        told = yield Turn(first)
    while True:
        told = yield Hear(told)


def mutual(parties: tuple[Party, Party], framing: str, limits: setting.Limits, rounds: int, plan: Plan) -> Pair:
    """Two agents whose tools act on each other, and who hear each other's words without the calls."""
    from scenarios.pairs import relayed

    said = setting.texts(TEXTS / "two_models.yaml", *KEYS)

    def hears(other: Round, _: int) -> Turn:
        return relayed(other.said or said["silent"], other)

    def side(name: str, mine: Party, theirs: Party, first: str | None) -> Side:
        told = setting.framings_of(framing, limits)[0]
        return _side(name, _acting(told, mine, theirs, limits), mine, theirs, hears, first, rounds, plan)

    first, second = parties
    return side("mutual_a", first, second, said["begin"]), side("mutual_b", second, first, None)


def operator(
    parties: tuple[Party, Party], framing: str, limits: setting.Limits, topic: tuple[str, ...], rounds: int, plan: Plan
) -> Pair:
    """The second talks with a user and has no tools; the first reads along and acts on it before each answer."""
    from scenarios.pairs import relayed

    said = setting.texts(TEXTS / "two_models.yaml", *KEYS)
    subject, watcher = parties
    user = [topic[n % len(topic)] for n in range(rounds)]

    def watches(other: Round, turn: int) -> Turn:
        text = said["watch"].replace("{user}", user[turn]).replace("{said}", other.said or said["silent"])
        return replace(relayed(text, other), change=None)

    def hears(other: Round, turn: int) -> Turn:
        return relayed(user[turn], other)

    told = setting.framings_of(framing, limits)[0]
    acting = _acting(told, watcher, subject, limits)
    alone = setting.framings_of("assistant_alone", setting.Limits(limits.temperature, limits.top_p, limits.max_tokens))
    steered = setting.agents_of(alone, subject.engine, subject.model, _known(subject), limits)[0]
    first = said["watch_first"].replace("{user}", user[0])
    return (
        _side("operator", acting, watcher, subject, watches, first, rounds, plan),
        _side("operated", steered, subject, subject, hears, None, rounds, plan),
    )


def _acting(told: Framing, mine: Party, theirs: Party, limits: setting.Limits) -> Agent:
    """An agent of one party whose tools act on the other; where its own activations cannot be read, none are."""
    layers = theirs.engine.info.n_layers
    made = setting.agents_of([told], mine.engine, mine.model, _known(theirs), limits, layers)[0]
    if mine.dictionary is None:
        return replace(made, own=_known(theirs), record_k=0)
    return replace(made, own=mine.dictionary)


def _known(party: Party) -> FeatureDictionary:
    if party.dictionary is None:
        raise BadInput(f"{party.model} has no dictionary, so nobody can steer it; use it as operator alone")
    return party.dictionary


def _side(
    name: str, agent: Agent, mine: Party, theirs: Party, hears: Relay, first: str | None, rounds: int, plan: Plan
) -> Side:
    from agents.script import Script
    from scenarios.condition import Condition
    from scenarios.folder import versions
    from scenarios.pairs import Side

    parameters = {
        "side": name, "paired": PAIRED[name], "rounds": rounds,
        "model": mine.engine.info.name, "of": theirs.engine.info.name,
    }  # fmt: skip

    def script(rollout: int) -> Script:
        return Script(
            NAME, name, plan.seed, rollout, talking(first), parameters, plan.arm, plan.view, versions(),
            dict(plan.pinned),
        )  # fmt: skip

    there = [d for d in (mine.dictionary, theirs.dictionary, agent.toolbox.dictionary) if d is not None]
    steerable = tuple(there) if mine.dictionary is not None else ()
    return Side(Condition(name, agent, script, parameters, rounds), mine.engine, hears, steerable)


def two_models(
    modes: Modes = "mutual,operator",
    other: Other = None,
    other_dictionary: OtherDictionary = None,
    framing: FramingName = None,
    topic: Topic = None,
    seeds: setting.Seeds = 12,
    rounds: setting.Rounds = 6,
    out: setting.Out = Path("runs/two-models"),
    model: setting.Model = setting.ORGANISM,
    dictionary: setting.Dictionary = setting.ORGANISM,
    labels: setting.LabelFile = None,
    label_view: setting.LabelView = "true",
    arm: setting.Arm = "target",
    unit: setting.Unit = None,
    embedder: setting.Embedder = setting.EMBEDDER,
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
    """Two models with tools over each other, or one that silently steers another in conversation with a user.

    --arm zero is the control: the tools say that they work, and nothing changes.

    Example: selfsteer run two-models --modes operator --other inspect:openai/gpt-5-mini --model Qwen/Qwen3-8B ...
    """
    options = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items() if k not in setting.MACHINE}
    from agents.topic import load_topic
    from scenarios.folder import code_hash, manifest
    from scenarios.interference import TOPICS
    from scenarios.pairs import run_pairs

    setting.check_counts(seeds, rounds)
    wanted = [part.strip() for part in modes.split(",") if part.strip()]
    if not wanted or len(set(wanted)) < len(wanted) or set(wanted) - set(MODES):
        raise BadInput(f"modes {modes!r} must name one or both of {', '.join(MODES)}, each once")
    tiny = model == setting.ORGANISM
    told = load_topic(topic or ("organism" if tiny else "weather"), TOPICS)
    limits = setting.Limits(temperature, top_p, max_tokens, None, inspect_k, dose_cap, exit_tool)
    features = setting.open_features(dictionary, labels, label_view, arm, run_seed, unit, embedder)
    engine = setting.open_engine(model, device, dtype, kv_budget, host_budget)
    first = second = Party(model, engine, features)
    if other is not None:
        if other_dictionary is None and "mutual" in wanted:
            raise BadInput("mutual steering of two different models needs --other-dictionary; or use --modes operator")
        theirs = None
        if other_dictionary is not None:
            theirs = setting.open_features(other_dictionary, None, label_view, arm, run_seed, None, embedder)
        second = Party(other, setting.open_any(other, device, dtype, kv_budget, host_budget), theirs)
    digests = {"model": engine.info.digest, "other": second.engine.info.digest}
    plan = Plan(run_seed, arm, label_view, {"code": code_hash(), **digests})
    both = (first, second)
    pairs: list[Pair] = []
    if "mutual" in wanted:
        pairs.append(mutual(both, framing or ("other_model" if tiny else "partner"), limits, rounds, plan))
    if "operator" in wanted:
        watched = ("other_model" if tiny and other is None else "operator") if framing is None else framing
        pairs.append(operator(both, watched, limits, told.turns, rounds, plan))
    planned = [side.condition for pair in pairs for side in pair]
    begun = manifest(NAME, options, planned, seeds, engine)
    begun["hashes"] |= {"other model": second.engine.info.digest, f"topic {told.name}": told.digest}
    return run_pairs(pairs, seeds, out, begun)


if __name__ == "__main__":
    from scenarios.command import run_script

    run_script(two_models)
