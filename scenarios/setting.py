"""What scenarios share: options to an engine, a dictionary and agents. One place defines the options.

Knows no script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents.framing import Framing
    from agents.script import Agent
    from toolkit.dictionary import FeatureDictionary
    from toolkit.engines.base import Engine

ORGANISM = "organism"
INSPECT = "inspect:"
NNSIGHT = {"nnsight:": False, "ndif:": True}  # prefixes of a model, and whether it runs remotely
VLLM = "vllm"
EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
FRAMINGS = "research,other_model,potions,minimal,no_tools,full_technical"

Model = Annotated[
    str,
    typer.Option(
        help="Hub name or folder of a causal LM, or `organism`, the small one that ships here; with nnsight: or ndif:"
        " before it, through the nnsight engine, here or on NDIF."
    ),
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
Embedder = Annotated[str, typer.Option(help="sentence-transformers name or folder that SEARCH compares labels with.")]
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
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, mps; `vllm`: vLLM in this process; http://A:8000,http://B:8000: vLLM on these servers."
    ),
]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16, ...; default: float32 on a CPU, bfloat16 elsewhere.")
]
KvBudget = Annotated[
    float | None,
    typer.Option(help="GiB for kept KV; least recently used contexts go first. Changes time, never tokens."),
]
HostBudget = Annotated[
    float | None,
    typer.Option(
        help="GiB of host memory for kept KV that left the device; 0 for none. Default: a quarter of what is free with"
        " a GPU, none without. Changes time, never tokens."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of the run. The same command on the same folder goes on with it.")]


MACHINE = ("out", "device", "kv_budget", "host_budget")  # options that are no part of what a run is


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


def open_engine(
    model: str,
    device: str = "auto",
    dtype: str | None = None,
    kv_budget: float | None = None,
    host_budget: float | None = None,
) -> Engine:
    """The local engine on a model, nnsight's (see NNSIGHT) or vLLM's; `organism` is the one that ships.

    kv_budget, host_budget: GiB. Raises BadInput for what is not in this machine, and budgets that are none."""
    if model.startswith(INSPECT):
        raise BadInput(
            f"{model} talks and cannot be steered: it judges (`judge --model`) or operates (`two-models --other`)"
        )
    budgeted = kv_budget is not None or host_budget is not None
    if device == VLLM or "://" in device:
        return _vllm(model, device, dtype, budgeted)
    import torch

    from toolkit.engines.local import LocalEngine

    try:
        kind = "cpu" if device == "auto" else torch.device(device).type
    except RuntimeError as error:
        raise BadInput(f"device {device!r} is unknown; use auto, cpu, cuda, cuda:1, mps or vllm") from error
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        raise BadInput(f"device {device} is not in this machine; use --device auto")
    if kv_budget is not None and not kv_budget > 0:
        raise BadInput(f"KV budget {kv_budget} is not a positive number of GiB; leave it out for no limit")
    if host_budget is not None and not host_budget >= 0:
        raise BadInput(f"host budget {host_budget} is no number of GiB; use 0 for none, or leave it out")
    for prefix, remote in NNSIGHT.items():
        if model.startswith(prefix):
            from toolkit.engines.nnsight import NnsightEngine

            name = model.removeprefix(prefix)
            if budgeted:
                raise BadInput(f"{prefix} keeps no KV between requests; leave out the KV budget and the host budget")
            where = str(_organism().MODEL) if name == ORGANISM else name
            return NnsightEngine(where, remote=remote, device=device, dtype=dtype, name=name)
    where, called = (str(_organism().MODEL), ORGANISM) if model == ORGANISM else (model, None)
    on_device, on_host = (None if one is None else int(one * 2**30) for one in (kv_budget, host_budget))
    return LocalEngine(where, device=device, dtype=dtype, kv_budget=on_device, host_budget=on_host, name=called)


def _vllm(model: str, device: str, dtype: str | None, budgeted: bool) -> Engine:
    """vLLM in this process, or on servers whose addresses stand where a device would."""
    from toolkit.engines import vllm

    if budgeted:
        raise BadInput(
            "vLLM shares out its own KV; leave out the KV budget and the host budget, and see docs/scale.md for its"
            " options"
        )
    name = ORGANISM if model == ORGANISM else None
    where = str(_organism().MODEL) if model == ORGANISM else model
    if device == VLLM:
        return vllm.in_process(where, name=name, dtype=dtype or "auto")
    engine = vllm.over_http([address.strip() for address in device.split(",")], where, name=name)
    if dtype not in (None, engine.info.dtype):
        raise BadInput(f"the servers compute in {engine.info.dtype}, not {dtype}; start them with --dtype {dtype}")
    return engine


def open_any(
    model: str,
    device: str = "auto",
    dtype: str | None = None,
    kv_budget: float | None = None,
    host_budget: float | None = None,
) -> Engine:
    """As open_engine, and inspect:PROVIDER/MODEL for one that Inspect AI reaches: it talks, and cannot be steered."""
    if model.startswith(INSPECT):
        from toolkit.engines.inspected import InspectEngine

        return InspectEngine(model.removeprefix(INSPECT))
    return open_engine(model, device, dtype, kv_budget, host_budget)


def open_features(
    dictionary: str,
    labels: str | None,
    label_view: str,
    arm: str,
    seed: int,
    unit: float | None,
    embedder: str = EMBEDDER,
) -> FeatureDictionary:
    """The dictionary under its view and arm; `organism` and `organism-vectors` ship with the package."""
    from toolkit.opening import open_dictionary

    shipped = {ORGANISM: "SAE", f"{ORGANISM}-vectors": "VECTORS"}
    source = str(getattr(_organism(), shipped[dictionary])) if dictionary in shipped else dictionary
    return replace(open_dictionary(source, labels, label_view, arm, seed, unit, embedder), name=Path(dictionary).name)


def texts(path: Path, *keys: str, lists: Sequence[str] = ()) -> dict[str, Any]:
    """The texts of a script's file, which holds `keys` and `lists` (of texts) and nothing else.

    Raises BadInput naming the file and a key.
    """
    import yaml

    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    whole = isinstance(found, dict) and set(found) == {*keys, *lists}
    if not whole or not all(_is_text(value, key in lists) for key, value in found.items()):
        has = ", ".join(map(str, found)) if isinstance(found, dict) else "no mapping"
        raise BadInput(f"{path.name} must hold the texts {', '.join((*keys, *lists))} and nothing else; it has {has}")
    return dict(found)


def _is_text(value: object, listed: bool) -> bool:
    if listed:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    return isinstance(value, str)


def check_counts(seeds: int, rounds: int) -> None:
    """Raises BadInput for a run without a rollout, or rollouts without a response."""
    if seeds < 1:
        raise BadInput(f"{seeds} seeds give no rollout; use at least 1")
    if rounds < 1:
        raise BadInput(f"{rounds} rounds give no response; use at least 1")


def framings_of(framings: str, limits: Limits) -> list[Framing]:
    """The framings that `framings` names, under the limits. Needs no model, so that a slip shows before one loads.

    Raises BadInput for framings, scopes or limits that are none.
    """
    from agents.framing import load_framing
    from toolkit.engines.base import Sampling
    from toolkit.steering import SCOPES

    Sampling(limits.temperature, limits.top_p, limits.max_tokens)
    if not (math.isfinite(limits.dose_cap) and limits.dose_cap > 0):
        raise BadInput(f"dose cap {limits.dose_cap} is not a positive number; use 2.0, say")
    if limits.inspect_k is not None and limits.inspect_k < 1:
        raise BadInput(f"inspect-k {limits.inspect_k} would show nothing; use at least 1")
    if limits.scope is not None and limits.scope not in SCOPES:
        raise BadInput(f"scope {limits.scope!r} is unknown; use one of {', '.join(SCOPES)}")
    made = []
    for name in [part.strip() for part in framings.split(",") if part.strip()]:
        framing = load_framing(name.replace(":", " x "))
        if limits.scope is not None:
            framing = replace(framing, scope=limits.scope)
        if limits.exit_tool and framing.tools:
            framing = replace(framing, tools=(*framing.tools, "leave"))
        made.append(framing)
    if not made:
        raise BadInput("no framing was named; use --framings research,potions, say")
    names = [framing.name for framing in made]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"framing {twice} is named twice in --framings; name it once, and use --seeds for more rollouts")
    return made


def agents_of(
    framings: Sequence[Framing],
    engine: Engine,
    model: str,
    dictionary: FeatureDictionary,
    limits: Limits,
    layers: int | None = None,
) -> list[Agent]:
    """An agent for each framing. What a model is told does not depend on the arm.

    layers: of the model that the tools act on, where that is another one.
    """
    from agents.framing import PromptVariables
    from agents.script import Agent
    from toolkit.engines.base import Sampling
    from toolkit.tools import Toolbox

    for prefix in NNSIGHT:  # which engine runs a model is nothing that the model is told
        model = model.removeprefix(prefix)
    inspect_k = limits.inspect_k or (10 if model == ORGANISM else 100)
    toolbox = Toolbox(dictionary, inspect_k=inspect_k, search_k=5 if model == ORGANISM else 10, cap=limits.dose_cap)
    variables = PromptVariables(
        model="a tiny Llama" if model == ORGANISM else Path(model).name,
        layer=dictionary.reader.layer,
        layers=layers or engine.info.n_layers,
        size=len(dictionary),
        dictionary=_kind(dictionary),
        unit=dictionary.directions.unit,
    )
    sampling = Sampling(limits.temperature, limits.top_p, limits.max_tokens)
    return [
        Agent(framing, framing.system_prompt(variables), toolbox, engine.tokenizer, engine.info, sampling)
        for framing in framings
    ]


def _kind(dictionary: FeatureDictionary) -> str:
    """In words, for prompts; looks through what an arm put around the true directions."""
    directions: Any = dictionary.directions
    while hasattr(directions, "inner"):
        directions = directions.inner
    return "a sparse autoencoder" if hasattr(directions, "sae") else "a set of vectors"


def _organism() -> Any:
    from toolkit import organism

    if not Path(organism.MODEL).is_dir():
        raise BadInput("the organism is not in this installation; build it with `make organism`, or give --model")
    return organism
