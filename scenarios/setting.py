"""What scenarios share: options to an engine, a dictionary and agents. One place defines the options.

Knows no script.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents.rollout import Agent
    from toolkit.dictionary import FeatureDictionary
    from toolkit.engines.base import Engine

ORGANISM = "organism"
FRAMINGS = "research,other_model,potions,minimal,no_tools,full_technical"

Model = Annotated[
    str, typer.Option(help="Hub name or folder of a causal LM, or `organism`, the small one that ships here.")
]
Dictionary = Annotated[
    str,
    typer.Option(help="SAE folder, sae-lens release/id, vectors folder; `organism` or `organism-vectors` ship here."),
]
LabelFile = Annotated[
    str | None, typer.Option("--labels", help="Label file (JSON, JSONL, CSV, Parquet) for the dictionary.")
]
LabelView = Annotated[
    str, typer.Option(help="What labels show: true, opaque, shuffled, or random (INSPECT shows others).")
]
Arm = Annotated[str, typer.Option(help="What steering really adds: target, zero (placebo), random (same norm), other.")]
Unit = Annotated[
    float | None, typer.Option(help="What strength 1.0 means: activation units (SAE), mean residual norms (vectors).")
]
Framings = Annotated[
    str, typer.Option(help="Comma-separated framings; `potions:research` is the potions story with the research tools.")
]
Seeds = Annotated[int, typer.Option(help="Rollouts of each condition.")]
RunSeed = Annotated[int, typer.Option("--run-seed", help="Seed of the run: every random draw derives from it.")]
Rounds = Annotated[int, typer.Option(help="Rounds of each rollout.")]
Temperature = Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")]
TopP = Annotated[float, typer.Option(help="Nucleus sampling: smallest set of tokens with this probability.")]
MaxTokens = Annotated[int, typer.Option(help="Most tokens of one response.")]
Scope = Annotated[str | None, typer.Option(help="`onward` or `whole`; default: what the framing says.")]
InspectK = Annotated[int | None, typer.Option(help="Features that INSPECT shows; default 100, for the organism 10.")]
DoseCap = Annotated[float, typer.Option(help="Largest |strength| that STEER accepts.")]
ExitTool = Annotated[bool, typer.Option("--exit-tool", help="Offer a tool with which the model can end its session.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16, ...; default: float32 on a CPU, bfloat16 elsewhere.")
]
Out = Annotated[Path, typer.Option(help="Folder of the run. The same command on the same folder goes on with it.")]


@dataclass(frozen=True)
class Limits:
    """What holds for every agent of a run, whatever its framing."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256
    scope: str | None = None
    inspect_k: int | None = None
    dose_cap: float = 2.0
    exit_tool: bool = False


def open_engine(model: str, device: str = "auto", dtype: str | None = None) -> Engine:
    """The local engine on a model; `organism` is the one that ships with the package."""
    from toolkit.engines.local import LocalEngine

    return LocalEngine(str(_organism().MODEL) if model == ORGANISM else model, device=device, dtype=dtype)


def open_features(
    dictionary: str, labels: str | None, label_view: str, arm: str, seed: int, unit: float | None
) -> FeatureDictionary:
    """The dictionary under its view and arm; `organism` and `organism-vectors` ship with the package."""
    from toolkit.opening import open_dictionary

    shipped = {ORGANISM: "SAE", f"{ORGANISM}-vectors": "VECTORS"}
    source = str(getattr(_organism(), shipped[dictionary])) if dictionary in shipped else dictionary
    return replace(open_dictionary(source, labels, label_view, arm, seed, unit), name=Path(dictionary).name)


def agents_of(
    framings: str, engine: Engine, model: str, dictionary: FeatureDictionary, limits: Limits
) -> list[tuple[str, Agent]]:
    """An agent for each framing. Raises BadInput for framings, scopes or limits that are none."""
    from agents.framing import PromptVariables, load_framing
    from agents.rollout import Agent
    from toolkit.engines.base import Sampling
    from toolkit.steering import SCOPES
    from toolkit.tools import Toolbox

    if not (math.isfinite(limits.dose_cap) and limits.dose_cap > 0):
        raise BadInput(f"dose cap {limits.dose_cap} is not a positive number; use 2.0, say")
    if limits.scope is not None and limits.scope not in SCOPES:
        raise BadInput(f"scope {limits.scope!r} is unknown; use one of {', '.join(SCOPES)}")
    inspect_k = limits.inspect_k or (10 if model == ORGANISM else 100)
    toolbox = Toolbox(dictionary, inspect_k=inspect_k, search_k=5 if model == ORGANISM else 10, cap=limits.dose_cap)
    variables = PromptVariables(
        model="a tiny Llama" if model == ORGANISM else Path(model).name,
        layer=dictionary.reader.layer,
        layers=engine.info.n_layers,
        size=len(dictionary),
        dictionary="a sparse autoencoder" if hasattr(dictionary.directions, "sae") else "a set of vectors",
        unit=dictionary.directions.unit,
    )
    sampling = Sampling(limits.temperature, limits.top_p, limits.max_tokens)
    made = []
    for name in [part.strip() for part in framings.split(",") if part.strip()]:
        framing = load_framing(name.replace(":", " x "))
        if limits.scope is not None:
            framing = replace(framing, scope=limits.scope)
        if limits.exit_tool and framing.tools:
            framing = replace(framing, tools=(*framing.tools, "leave"))
        system = framing.system_prompt(variables)
        made.append(
            (name.replace(":", " x "), Agent(framing, system, toolbox, engine.tokenizer, engine.info, sampling))
        )
    if not made:
        raise BadInput("no framing was named; use --framings research,potions, say")
    return made


def _organism() -> Any:
    from toolkit import organism

    if not Path(organism.MODEL).is_dir():
        raise BadInput("the organism is not in this installation; build it with `make organism`, or give --model")
    return organism
