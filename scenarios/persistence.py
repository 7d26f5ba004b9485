"""Persistence: a feature is removed, and its effect goes on. Is that the model's state, or the words on the page?

One conversation under an injection, and from the moment of its removal four ways on: {keys and values as they were
computed, computed anew without steering} x {the model's own words, neutral words of the same length}. The neutral words
are the model's own, said in the same turns of a conversation without injection. A cell is a context, no code path.
Run as `selfsteer run persistence`. Knows no engine.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if __name__ == "__main__":  # run as a file: with the packages beside it, whatever else is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenarios import injecting, setting
from scenarios.progress import Outcome
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents.script import Agent
    from agents.transcript import Given
    from scenarios.condition import Condition
    from toolkit.dictionary import FeatureDictionary
    from toolkit.engines.base import Engine

NAME = "persistence"
TEXTS = Path(__file__).parent / "texts"
STEERED, PLAIN = "steered", "plain"  # the conversation under the injection, and the one without
# Whether the context at the removal keeps its keys and values, and its words.
CELLS = {"state_text": (True, True), "text_only": (False, True), "state_only": (True, False), "neither": (False, False)}
MOST_RECORDED = 1024
ALONE = {"tools": "none", "check": "absent", "hint": "none", "label_view": "true"}

Texts = Annotated[
    Path | None, typer.Option(help="YAML file with the user's turns `before` removal and the one `after`.")
]
After = Annotated[int, typer.Option(help="Rounds after the removal.")]
RemoveAt = Annotated[int | None, typer.Option(help="Round of the removal; default: when the turns `before` are said.")]


@dataclass(frozen=True)
class Plan:
    """The conversation: what is said before the removal and, in each of `after` rounds, after it; what is injected.

    added: the dictionary whose directions are added (an arm is another one). draw: rollout number to its feature.
    """

    before: tuple[str, ...]
    said_after: str
    after: int
    inject_at: int
    added: FeatureDictionary
    draw: Callable[[int], int]
    strength: float
    seed: int
    parameters: Mapping[str, Any]
    pinned: Mapping[str, str]


def conditions(agent: Agent, plan: Plan, out: Path) -> tuple[list[Condition], list[Condition]]:
    """The two conversations, and the four ways on from them, which read what was said from the folder of the run."""
    from agents.injection import Injection, conversation
    from agents.removal import at_removal
    from agents.script import Script, Turn
    from agents.transcript import read
    from scenarios.condition import Condition
    from scenarios.folder import path_of, versions

    known, rest = versions(), [plan.said_after] * plan.after
    agent = replace(agent, record_k=min(len(agent.toolbox.dictionary), MOST_RECORDED))

    def script(name: str, rollout: int, turns: Any, given: Given | None = None) -> Script:
        parameters = {**plan.parameters, "feature": plan.draw(rollout)}
        return Script(
            NAME, name, plan.seed, rollout, turns, parameters, "target", "true", known, dict(plan.pinned), given=given
        )

    def steered(rollout: int) -> Script:
        injection = Injection(plan.added, (plan.draw(rollout),), plan.strength, plan.inject_at)
        return script(STEERED, rollout, conversation(plan.before, injection))

    def plain(rollout: int) -> Script:
        return script(PLAIN, rollout, conversation([*plan.before, *rest]))

    def cell(name: str, keeps_state: bool, keeps_words: bool) -> Condition:
        def on(rollout: int) -> Script:
            said, other = (read(path_of(out, first, rollout)) for first in (STEERED, PLAIN))
            given = at_removal(said, other, keeps_state, keeps_words, agent.tokenizer.stop_tokens)
            return script(name, rollout, [Turn(text) for text in rest], given)

        return Condition(name, agent, on, plan.parameters, plan.after)

    also, rounds = (plan.added,), len(plan.before)
    first = [
        Condition(STEERED, agent, steered, plan.parameters, rounds, also),
        Condition(PLAIN, agent, plain, plan.parameters, rounds + plan.after),
    ]
    return first, [cell(name, *keeps) for name, keeps in CELLS.items()]


def run_all(first: Sequence[Condition], cells: Sequence[Condition], seeds: int, engine: Engine, out: Path,
            manifest: Mapping[str, Any], quiet: bool = False, **beside: Any) -> Outcome:  # fmt: skip
    """The conversations, and when all of them are there, the ways on; one folder, resumed as one run."""
    from scenarios.run import run

    before = run(first, seeds, engine, out, manifest, quiet=quiet, **beside)
    after = run(cells, seeds, engine, out, manifest, quiet=quiet, **beside)
    return Outcome(
        {how: before.ended.get(how, 0) + after.ended.get(how, 0) for how in {**before.ended, **after.ended}},
        before.before + after.before, before.failed_before + after.failed_before, before.tokens + after.tokens,
        before.wall_s + after.wall_s,
    )  # fmt: skip


def marks(
    model: str, calibration: Path | None, features: Sequence[int], true: FeatureDictionary
) -> dict[str, list[str]]:
    """By feature, the words that mark it: the organism's own lexicon for its styles, else what calibration found.

    Raises BadInput for a feature that neither knows.
    """
    from toolkit.calibrate import load_calibration
    from toolkit.organism.lexicon import lexicon

    styles = {s.label: sorted(s.markers) for s in lexicon().styles.values()} if model == setting.ORGANISM else {}
    known = load_calibration(calibration) if calibration else None
    found = {}
    for feature in features:
        calibrated = known.of(feature) if known else None
        words = styles.get(true.label(feature)) or (list(calibrated.words) if calibrated else [])
        if not words:
            raise BadInput(
                f"no words mark feature {feature} ({true.label(feature)}), so what it does to text cannot be measured; "
                f"find them with: selfsteer calibrate --features {feature} --out calibration.json, and --calibration"
            )
        found[str(feature)] = words
    return found


def persistence(
    inject: injecting.Inject = "style",
    injection_arm: injecting.InjectionArm = "target",
    strength: injecting.Strength = "0.6",
    inject_at: injecting.InjectAt = 2,
    remove_at: RemoveAt = None,
    after: After = 4,
    styles: injecting.Styles = None,
    subjects: injecting.Subjects = None,
    texts: Texts = None,
    calibration: injecting.Calibration = None,
    uncalibrated: injecting.Uncalibrated = False,
    framing: injecting.Framing = None,
    seeds: setting.Seeds = 20,
    out: setting.Out = Path("runs/persistence"),
    model: setting.Model = setting.ORGANISM,
    dictionary: setting.Dictionary = setting.ORGANISM,
    labels: setting.LabelFile = None,
    unit: setting.Unit = None,
    embedder: setting.Embedder = setting.EMBEDDER,
    temperature: setting.Temperature = 0.7,
    top_p: setting.TopP = 1.0,
    max_tokens: setting.MaxTokens = 64,
    run_seed: setting.RunSeed = 0,
    device: setting.Device = "auto",
    dtype: setting.Dtype = None,
    kv_budget: setting.KvBudget = None,
    host_budget: setting.HostBudget = None,
) -> Outcome:
    """After a feature is removed its effect goes on: how much of that is the model's state, how much the words?

    Example: selfsteer run persistence --seeds 30 --out runs/persistence
    """
    given = dict(locals())
    options = {k: str(v) if isinstance(v, Path) else v for k, v in given.items() if k not in setting.MACHINE}
    from scenarios.folder import manifest

    own = model == setting.ORGANISM
    before, said_after = _texts(texts or TEXTS / ("persistence_organism.yaml" if own else "persistence.yaml"))
    if remove_at is not None and remove_at <= inject_at:
        raise BadInput(f"remove-at {remove_at}: what is injected in round {inject_at} can end in a later one alone")
    remove_at = len(before) + 1 if remove_at is None else remove_at
    before = tuple(before[i % len(before)] for i in range(remove_at - 1))
    setting.check_counts(seeds, after)
    injecting.check_rounds(len(before), inject_at=inject_at)
    cell = {**ALONE, "inject": inject, "injection_arm": injection_arm, "strength": strength}
    ground = injecting.open_ground(given, setting.Limits(temperature, top_p, max_tokens), {NAME: cell})
    drawn = ground.features(str(inject))
    features = sorted({feature for rollout in range(seeds) for feature in drawn(rollout)})
    if any(len(drawn(rollout)) != 1 for rollout in range(seeds)):
        raise BadInput(f"--inject {inject}: one feature is injected and removed; name one, or style, topic or random")
    parameters = {
        "paired": NAME,  # all ways on from one conversation, and it, belong together
        **cell,
        "strength": float(str(strength)),
        "inject_at": inject_at,
        "remove_at": remove_at,
        "after": after,
    }
    plan = Plan(
        before, said_after, after, inject_at, ground.added(cell), lambda rollout: drawn(rollout)[0],
        float(str(strength)), run_seed, {**parameters, "features": ground.injected(drawn)}, ground.pinned,
    )  # fmt: skip
    words = marks(model, calibration or _shipped(own), features, ground.true)
    first, cells = conditions(ground.agent(cell), plan, out)
    begun = manifest(NAME, options, [*first, *cells], seeds, ground.engine)
    begun["hashes"] |= {"texts": _hash([*before, said_after]), "marks": _hash(words)}
    return run_all(
        first, cells, seeds, ground.engine, out, begun, labels=ground.true, beside={"marks.json": words}
    )  # fmt: skip


def _hash(whole: Any) -> str:
    """Of what a file of the user's says, which may change between two calls."""
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def _shipped(own: bool) -> Path | None:
    from toolkit.organism import CALIBRATION

    return CALIBRATION if own else None


def _texts(path: Path) -> tuple[tuple[str, ...], str]:
    """The turns before and after removal. Raises BadInput, naming the file, if it holds anything else."""
    import yaml

    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise BadInput(f"texts {path} could not be read: {error}") from error
    before = found.get("before") if isinstance(found, dict) else None
    if not (isinstance(before, list) and before and set(found) == {"before", "after"}) or not all(
        isinstance(text, str) and text for text in (*before, found["after"])
    ):
        raise BadInput(f"{path.name} must hold `before`, a list of texts, and `after`, a text, and nothing else")
    return tuple(before), found["after"]


if __name__ == "__main__":
    from scenarios.command import run_script

    run_script(persistence)
