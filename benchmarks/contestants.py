"""The contestants: this engine, the published harness's loop written anew, and transformers with a hook.

Each does all of a Work and returns seconds. The published loop is re-created from its description (batch 1, the whole
history fed anew every round, the SAE's encoder and decoder in every forward pass, a second full pass for INSPECT).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.work import Work
from toolkit.context import Context
from toolkit.dictionary import FeatureDictionary
from toolkit.engines import loading
from toolkit.engines.base import Completion, Failure, Generate, Sampling
from toolkit.engines.local import LocalEngine
from toolkit.reading import measure
from toolkit.steering import NO_STEERING

Edit = Callable[[Tensor], Tensor]


def ours(
    engine: LocalEngine, dictionary: FeatureDictionary, work: Work, *, steered: bool = True, inspect: str = "last"
) -> tuple[float, float]:
    """(seconds of everything, of which INSPECT's measurement) on this engine, all rollouts at once.

    inspect: over which of the response's tokens: the last (as the published loop does), their mean, their max, or "".
    """
    prompts = work.prompts(engine.info.vocabulary)
    contexts = [Context().append(work.start(engine.info.vocabulary)) for _ in prompts]
    rounds = [0] * len(prompts)
    asked: dict[int, int] = {}
    inspecting = 0.0

    def under(rollout: int) -> Any:
        return work.steering(dictionary, rollout, rounds[rollout]) if steered else NO_STEERING

    def ask(rollout: int) -> None:
        contexts[rollout] = contexts[rollout].append(prompts[rollout][rounds[rollout]], under(rollout))
        sampling = Sampling(0.7, 1.0, work.generated, ("bench", rollout, rounds[rollout]))
        key = dictionary.key if inspect else None
        asked[engine.submit(Generate(contexts[rollout], sampling, under(rollout), key))] = rollout

    begun = time.perf_counter()
    for rollout in range(len(prompts)):
        ask(rollout)
    while asked:
        for ticket, result in engine.poll():
            rollout = asked.pop(ticket)
            if isinstance(result, Failure):
                raise result.error
            if not isinstance(result, Completion):
                raise TypeError(f"a Generate was answered by {type(result).__name__}")
            if result.residuals is not None:
                at = time.perf_counter()
                measure(dictionary, result.residuals, inspect, work.inspect_k, "")
                inspecting += time.perf_counter() - at
            contexts[rollout] = contexts[rollout].append(result.tokens, under(rollout), "generated")
            rounds[rollout] += 1
            if rounds[rollout] < work.rounds:
                ask(rollout)
    return time.perf_counter() - begun, inspecting


@torch.no_grad()
def published(engine: LocalEngine, dictionary: FeatureDictionary, work: Work) -> float:
    """The published loop on a plain copy of the same model."""
    model, sae, layer = plain_copy(engine), dictionary.reader.sae, dictionary.reader.layer  # type: ignore[attr-defined]
    prompts = work.prompts(engine.info.vocabulary)
    begun = time.perf_counter()
    for rollout, turns in enumerate(prompts):
        history = work.start(engine.info.vocabulary)
        for number, turn in enumerate(turns):
            history += turn
            added = {i.feature: i.strength * float(dictionary.directions.units([i.feature])[0, 0])
                     for i in work.steering(dictionary, rollout, number)}  # fmt: skip

            def spliced(hidden: Tensor, added: dict[int, float] = added) -> Tensor:
                active = sae.encode(hidden)
                error = hidden - sae.decode(active)
                for feature, level in added.items():
                    active[..., feature] += level
                return sae.decode(active) + error

            with hooked(model, layer, spliced):
                history = _generate(model, history, work.generated)
            seen: list[Tensor] = []
            with hooked(model, layer, lambda hidden, seen=seen: seen.append(hidden) or hidden):  # type: ignore[misc]
                model(torch.tensor([history]), logits_to_keep=1)
            sae.encode(seen[0][0, -1:]).topk(min(work.inspect_k, sae.cfg.d_sae))
    return time.perf_counter() - begun


@torch.no_grad()
def hook_loop(engine: LocalEngine, dictionary: FeatureDictionary, work: Work) -> float:
    """transformers `generate` with a hook that adds one vector: all rollouts in one batch, one steering for all,
    the history fed anew every round. It cannot steer rows or tokens apart; its work is the lighter for it."""
    model, layer = plain_copy(engine), dictionary.reader.layer
    rounds = list(zip(*work.prompts(engine.info.vocabulary), strict=True))
    histories = torch.tensor([work.start(engine.info.vocabulary)] * work.rollouts)
    begun = time.perf_counter()
    for number, turns in enumerate(rounds):
        steering = work.steering(dictionary, 0, number)
        step = torch.stack([dictionary.directions.vectors([i.feature])[0, 0] * i.strength for i in steering]).sum(0)
        histories = torch.cat([histories, torch.tensor(turns)], 1)
        with hooked(model, layer, lambda hidden, step=step: hidden + step):  # type: ignore[misc]
            histories = model.generate(
                histories, max_new_tokens=work.generated, min_new_tokens=work.generated, do_sample=True, top_k=0,
                temperature=0.7, attention_mask=torch.ones_like(histories), pad_token_id=0,
            )  # fmt: skip
    return time.perf_counter() - begun


def plain_copy(engine: LocalEngine) -> Any:
    """The same weights in a model of its own, untouched by the engine."""
    fresh = type(engine.model)(type(engine.model.config)(**_settings(engine)))
    fresh.load_state_dict(engine.model.state_dict())
    return fresh.eval().requires_grad_(False)


def _settings(engine: LocalEngine) -> dict[str, Any]:
    settings = engine.model.config.to_dict()
    return {k: v for k, v in settings.items() if not k.startswith("_attn") and k != "model_type"}


def _generate(model: Any, history: list[int], count: int) -> list[int]:
    cache, feed = None, torch.tensor([history])
    out = list(history)
    for _ in range(count):
        done = model(feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = done.past_key_values
        token = int(torch.multinomial(torch.softmax(done.logits[0, -1].float() / 0.7, -1), 1))
        out.append(token)
        feed = torch.tensor([[token]])
    return out


@contextmanager
def hooked(model: Any, layer: int, edit: Edit) -> Iterator[None]:
    def after(_block: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    handle = loading.decoder_blocks(model)[layer].register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
