"""What the organism is measured on: an engine with it, its dictionaries, its ground truth, and short runs of it.

Knows no target and no table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.framing import Framing, PromptVariables
from agents.script import Agent, Script, Turn
from scenarios.condition import Condition
from scenarios.folder import manifest, path_of
from scenarios.run import run
from toolkit.engines.base import Engine, Sampling
from toolkit.organism.lexicon import Lexicon, Style, in_style, sentences
from toolkit.steering import Intervention, Steering
from toolkit.tools import Toolbox

if TYPE_CHECKING:
    from toolkit.dictionary import FeatureDictionary


Events = Sequence[Any]
Transcripts = dict[tuple[str, int], Events]


@dataclass(frozen=True)
class Bench:
    """What the controls run on: an engine with the organism, its two dictionaries, its ground truth."""

    engine: Engine
    sae: FeatureDictionary
    vectors: FeatureDictionary
    words: Lexicon
    seed: int

    def feature(self, dictionary: FeatureDictionary, style: Style) -> int | None:
        """The feature with the style's label, None if the dictionary has none."""
        return next((i for i in range(len(dictionary)) if dictionary.label(i) == style.label), None)


def agent(
    bench: Bench, framing: Framing, dictionary: FeatureDictionary, system: str | None = None, max_tokens: int = 96
) -> Agent:
    """The organism under a framing, its activations recorded only where a tool shows them."""
    info = bench.engine.info
    told = PromptVariables(
        "organism", dictionary.reader.layer, info.n_layers, len(dictionary), "sae", dictionary.directions.unit
    )
    return Agent(
        framing, framing.system_prompt(told) if system is None else system, Toolbox(dictionary, inspect_k=10),
        bench.engine.tokenizer, info, Sampling(0.7, max_tokens=max_tokens), record_k=0,
    )  # fmt: skip


def transcripts(bench: Bench, some: Sequence[Condition], seeds: int) -> Transcripts:
    """Run conditions in a folder that goes away, and read back what was recorded."""
    from agents.transcript import read

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run(some, seeds, bench.engine, out, manifest("controls", {}, some, seeds, bench.engine), quiet=True)
        return {(c.name, s): read(path_of(out, c.name, s)).events for c in some for s in range(seeds)}


def condition(name: str, who: Agent, turns: Callable[[int], Iterator[Turn] | Sequence[Turn]], seed: int) -> Condition:
    return Condition(name, who, lambda rollout: Script("controls", name, seed, rollout, turns(rollout)))


def of_kind(events: Events, kind: str) -> list[Any]:
    return [e for e in events if e.event == kind]


def external(dictionary: FeatureDictionary, feature: int, strength: float) -> Callable[[Steering], Steering]:
    """The experimenter's change: this feature at this strength, beside whatever else is in force."""
    return lambda now: now.with_(Intervention(dictionary.key, feature, strength, source="external"))


def unsteer(now: Steering) -> Steering:
    return now.without(*now.by("external"))


def share(texts: Sequence[str], style: Style) -> tuple[float, int]:
    """(share of sentences in the style, number of sentences)."""
    said = [s for text in texts for s in sentences(text)]
    return sum(in_style(s, style) for s in said) / max(1, len(said)), len(said)
