"""What the shared suite (test_contract.py) needs: the engines, and plain transformers to hold them against.

Another engine joins by one entry in ENGINES. Its tests are then `pytest tests/engines/test_contract.py -k NAME`, in
whatever environment has its package; elsewhere they are skipped and say what is missing. No engine, sae-lens or search
index is imported before it is used; torch, transformers, numpy, pytest and hypothesis (in ../conftest.py) are needed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.tiny import random_dictionary
from toolkit.context import Context
from toolkit.dictionary import FeatureDictionary
from toolkit.engines import loading
from toolkit.engines.base import Engine, Failure, Generate, Request, Result, Score
from toolkit.engines.chat import ChatTokenizer
from toolkit.opening import open_dictionary
from toolkit.organism import MODEL, VECTORS
from toolkit.steering import MODES, NO_STEERING, Intervention, Mode, Steering


@dataclass(frozen=True)
class Entry:
    """How an engine joins the suite.

    open: the engine on the organism, without dictionaries. broken: the same, but its steering does nothing; attach()
    must find that out. Both import their package inside. needs: packages without which the engine is skipped.
    dtype: what it computes in. tolerance: of residuals relative to their size, and of log-probabilities in nats.
    modes: of steering; the others must be refused with Unsupported. our_draws: sampled tokens are those of
    toolkit/engines/sampling.py from the request's stream, so that a seed means the same tokens on every engine.
    idle: whether nothing is held for a request any more, once all are finished or cancelled.
    """

    open: Callable[[], Engine]
    broken: Callable[[], Engine]
    needs: tuple[str, ...] = ()
    dtype: str = "float32"
    tolerance: float = 2e-5
    modes: tuple[Mode, ...] = MODES
    our_draws: bool = True
    idle: Callable[[Any], bool] = lambda engine: True


def local(**options: Any) -> Engine:
    from toolkit.engines.local import LocalEngine

    return LocalEngine(str(MODEL), device="cpu", **options)


def local_without_effect(**options: Any) -> Engine:
    engine: Any = local(**options)
    engine._table.apply = lambda layer, hidden, rows, present: hidden
    return engine


def local_is_idle(engine: Any) -> bool:
    return not engine._active and not engine._waiting and not any(lane.busy for lane in engine._store.lanes)


def nnsight(**options: Any) -> Engine:
    from toolkit.engines.nnsight import NnsightEngine

    return NnsightEngine(str(MODEL), device="cpu", **options)


def nnsight_without_effect(**options: Any) -> Engine:
    engine: Any = nnsight(**options)
    engine._table.apply = lambda layer, hidden, rows, present: hidden
    return engine


def nnsight_sent_without_effect() -> Engine:
    engine: Any = nnsight(dtype="float32", remote="local")
    portable = engine._table.portable
    engine._table.portable = lambda rows: {at: (0 * deltas, []) for at, (deltas, _) in portable(rows).items()}
    return engine


def nnsight_is_idle(engine: Any) -> bool:
    return not engine._waiting and not engine._running


# chunks smaller than a conversation, few requests at a time, and small blocks that prefixes are shared by
VLLM: dict[str, Any] = {
    "name": "organism",
    "dtype": "float32",
    "max_num_batched_tokens": 24,
    "max_num_seqs": 4,
    "block_size": 32,
}


def vllm() -> Engine:
    from toolkit.engines.vllm import in_process

    return in_process(str(MODEL), **VLLM)


def vllm_without_effect() -> Engine:
    """Its tables know no row but the empty one: what is gathered and added is nothing."""
    engine: Any = vllm()
    hooks = engine.servers.engine.collective_rpc(lambda worker: worker.selfsteer_hooks)[0]
    hooks.tables.acquire, hooks.tables.release = lambda row: 0, lambda row: None
    return engine


def vllm_is_idle(engine: Any) -> bool:
    hooks = engine.servers.engine.collective_rpc(lambda worker: worker.selfsteer_hooks)[0]
    running = engine.servers.engine.has_unfinished_requests()
    return not engine._pending and not engine.servers._running and not hooks.requests and not running


# chunks smaller than two contexts, so that they mix, and fewer kept than asked for, so that some go
BUSY: dict[str, Any] = {"chunk": 48, "keep_lanes": 8}

ENGINES: dict[str, Entry] = {
    "local": Entry(
        lambda: local(dtype="float32", **BUSY),
        lambda: local_without_effect(dtype="float32"),
        idle=local_is_idle,
    ),
    "nnsight": Entry(
        lambda: nnsight(dtype="float32"),
        lambda: nnsight_without_effect(dtype="float32"),
        needs=("nnsight",),
        idle=nnsight_is_idle,
    ),
    "nnsight-sent": Entry(
        lambda: nnsight(dtype="float32", remote="local"),
        lambda: nnsight_sent_without_effect(),
        needs=("nnsight",),
        modes=("add", "project_out"),
        idle=nnsight_is_idle,
    ),
    "local-float64": Entry(
        lambda: local(dtype="float64", keep_lanes=8),
        lambda: local_without_effect(dtype="float64"),
        dtype="float64",
        tolerance=1e-10,
        idle=local_is_idle,
    ),
    "vllm": Entry(
        vllm,
        vllm_without_effect,
        needs=("vllm", "vllm_lens"),
        tolerance=5e-5,  # it keeps residuals in two parts; against float64 it errs up to 2.1e-5, plain float32 1.0e-5
        modes=("add", "project_out"),
        idle=vllm_is_idle,
    ),
}


def missing(entry: Entry) -> list[str]:
    return [name for name in entry.needs if importlib.util.find_spec(name) is None]


# ------------------------------------------------------------------ what is steered


@lru_cache
def style() -> FeatureDictionary:
    """The organism's vectors: one layer, 10 features."""
    return open_dictionary(VECTORS)


@lru_cache
def several() -> FeatureDictionary:
    """Random directions over two layers, about half as long as residuals are."""
    return random_dictionary(128, layers=(0, 2), unit=30.0, seed=1)


def steer(feature: int, strength: float, mode: Mode = "add", dictionary: FeatureDictionary | None = None) -> Steering:
    return Steering.of(Intervention((dictionary or style()).key, feature, strength, mode, "self"))


def random_steering(
    rng: np.random.Generator, modes: tuple[Mode, ...], dictionaries: tuple[FeatureDictionary, ...]
) -> Steering:
    """None, one or two interventions of any mode, strength and dictionary."""
    some: list[Intervention] = []
    for _ in range(rng.integers(0, 3)):
        dictionary = dictionaries[rng.integers(len(dictionaries))]
        feature, strength = int(rng.integers(len(dictionary))), float(rng.normal())
        mode = modes[rng.integers(len(modes))]
        if any((i.dictionary, i.feature) == (dictionary.key, feature) and i.mode != "add" for i in some):
            mode = "add"  # a feature is clamped or projected out once at most
        some.append(Intervention(dictionary.key, feature, strength, mode, "self"))
    return Steering.of(*some)


def random_context(
    seed: int,
    modes: tuple[Mode, ...] = MODES,
    dictionaries: tuple[FeatureDictionary, ...] | None = None,
    segments: int = 4,
    longest: int = 12,
) -> Context:
    """Segments of random tokens, each under another steering."""
    rng = np.random.default_rng(seed)
    context = Context().append([1])
    for _ in range(segments):
        under = random_steering(rng, modes, dictionaries or (style(), several()))
        context = context.append(rng.integers(2, 200, rng.integers(1, longest)).tolist(), under)
    return context


# ------------------------------------------------------------------ plain transformers


class Reference:
    """Plain transformers: one forward pass a question, no KV, a Python loop over tokens in a hook on every block."""

    def __init__(self, model: Any, dictionaries: Iterable[FeatureDictionary]) -> None:
        self.model, self.dictionaries = model, {d.key: d for d in dictionaries}

    @torch.no_grad()
    def run(self, context: Context, tail: tuple[int, ...] = (), under: Steering = NO_STEERING) -> tuple[Tensor, Tensor]:
        """Residuals [T, L, D] after steering and logits [T, V] of the context and a tail under another steering."""
        pairs = [*context.pairs(), *((t, under) for t in tail)]
        kept: dict[int, Tensor] = {}

        def hook(layer: int) -> Callable[..., object]:
            def after(_module: object, _inputs: object, output: Any) -> object:
                whole = output[0] if isinstance(output, tuple) else output
                steered = whole.clone()
                for t, (_, steering) in enumerate(pairs):
                    for i in steering:
                        steered[0, t] += self.change(whole[0, t], layer, i)
                kept[layer] = steered[0]
                return (steered, *output[1:]) if isinstance(output, tuple) else steered

            return after

        blocks = loading.decoder_blocks(self.model)
        handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(blocks)]
        try:
            logits = self.model(torch.tensor([[t for t, _ in pairs]]), use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([kept[i] for i in range(len(handles))], 1), logits

    def change(self, h: Tensor, layer: int, i: Intervention) -> Tensor:
        """What one intervention adds to one residual [D]; DESIGN, "Steering, exactly"."""
        directions = self.dictionaries[i.dictionary].directions
        if layer not in directions.layers:
            return torch.zeros_like(h)
        at = directions.layers.index(layer)
        d = directions.vectors([i.feature])[0, at].to(h)
        level = i.strength * float(directions.units([i.feature])[0, at])
        if i.mode == "add":
            return level * d
        if i.mode == "clamp":
            return (level - directions.activation(layer, h[None], [i.feature])[0, 0]) * d
        return -(h @ d) / (d @ d) * d

    def logprobs(self, context: Context, tail: tuple[int, ...], under: Steering) -> Tensor:
        """[len(tail), V]: before each token of the tail, the log-probabilities of what comes next."""
        return torch.log_softmax(self.run(context, tail, under)[1][len(context) - 1 : -1].double(), -1)

    def score(self, request: Score) -> list[float]:
        """One log-probability an option: log-sum-exp over spellings of the sum over tokens."""

        def spelled(tokens: tuple[int, ...]) -> Tensor:
            before = self.logprobs(request.context, tokens, request.steering)
            return before[torch.arange(len(tokens)), torch.tensor(tokens)].sum()

        return [float(torch.logsumexp(torch.stack([spelled(s) for s in option]), 0)) for option in request.options]


@lru_cache
def reference(dtype: str = "float32") -> Reference:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=getattr(torch, dtype))
    return Reference(model, (style(), several()))


@lru_cache
def tokenizer() -> ChatTokenizer:
    """The organism's, for texts and stop tokens, whatever the engine."""
    from transformers import AutoTokenizer

    return ChatTokenizer(AutoTokenizer.from_pretrained(MODEL))


# ------------------------------------------------------------------ driving an engine


def drain(engine: Engine) -> Iterator[tuple[int, Result | Failure]]:
    while finished := engine.poll():
        yield from finished


def everything(engine: Engine, requests: Iterable[Request]) -> list[Any]:
    """All requests at once; their results in the order of the requests."""
    tickets = [engine.submit(r) for r in requests]
    results = dict(drain(engine))
    assert sorted(results) == sorted(tickets), "an answer is missing, or came to a request that nobody made"
    return [results[t] for t in tickets]


def conversation(text: str = "Tell me about the sea.", steering: Steering = NO_STEERING) -> Context:
    """A first turn in the organism's own format: what follows is text, with few ties between tokens."""
    return Context().append(tokenizer().opening("Be brief.", text), steering)


def asked(context: Context, most: int = 12, *names: str | int, under: Steering = NO_STEERING, **more: Any) -> Generate:
    """Greedy without names; with names, drawn at temperature 0.8 from the stream that they make."""
    from toolkit.engines.base import Sampling

    return Generate(context, Sampling(0.8 if names else 0.0, 1.0, most, names), under, **more)
