"""What the tests of the real vLLM share: how it is opened on the organism, and how wrong an answer is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engines import contract
from tests.engines.contract import asked, conversation, everything, random_context, random_steering, several, style
from toolkit.context import Context
from toolkit.engines.base import Completion, Generate, Read, Score
from toolkit.engines.vllm import VllmEngine, in_process
from toolkit.organism import MODEL
from toolkit.steering import NO_STEERING, Mode, Steering

HERE = importlib.util.find_spec("vllm") is not None and importlib.util.find_spec("vllm_lens") is not None
real = pytest.mark.skipif(not HERE, reason="vLLM and vllm-lens are not installed here; run `make test-vllm`")
ROOT = Path(__file__).parents[2]
MODES: tuple[Mode, ...] = ("add", "project_out")
SETTINGS = {"name": "organism", "dtype": "float32", "max_num_batched_tokens": 24, "max_num_seqs": 8, "block_size": 32}


def opened(**options: Any) -> VllmEngine:
    engine = in_process(str(MODEL), **{**SETTINGS, **options})
    engine.attach(style())
    engine.attach(several())
    return engine


def hooks_of(engine: VllmEngine) -> Any:
    return engine.servers.engine.collective_rpc(lambda worker: worker.selfsteer_hooks)[0]


LONG = " ".join(["The sea is wide and grey today, and the boats are far out."] * 6)


def long_conversation(word: str, steering: Steering = NO_STEERING) -> Context:
    """More than a chunk and more than two blocks of tokens, and no other test's: `word` stands early."""
    context = conversation(f"{word}. {LONG}", steering)
    assert len(context) > 3 * SETTINGS["block_size"]
    return context


def logprobs(request: Generate, tokens: tuple[int, ...]) -> torch.Tensor:
    before = contract.reference().logprobs(request.context, tokens, request.steering)
    return before.gather(1, torch.tensor(tokens)[:, None])[:, 0]


def error_of(request: Generate, got: Completion) -> float:
    """How far the log-probabilities that came with a response are from plain transformers', in nats."""
    return float((torch.tensor(got.logprobs) - logprobs(request, got.tokens)).abs().max())


def compare_with_local(engine: VllmEngine) -> None:
    """Generate, Read and Score on both engines: the same tokens and counts, and numbers to numerical precision."""
    local = contract.local(dtype="float32")
    requests: list[Any] = []
    for seed in range(4):
        context = random_context(seed, MODES)
        under = random_steering(np.random.default_rng(seed), MODES, (style(), several()))
        requests.append(asked(context, 12, "two", seed, under=under, capture=style().key))
        requests += [Read(context, (0, 3), (0, 3)), Score(context, (((5,), (6,)), ((7, 8, 9),)), under)]
    for one in (engine, local):
        one.attach(style())
        one.attach(several())
    for request, here, there in zip(requests, everything(engine, requests), everything(local, requests), strict=True):
        assert here.steered == there.steered
        if isinstance(request, Generate):
            assert here.tokens == there.tokens
            torch.testing.assert_close(here.residuals, there.residuals, rtol=1e-4, atol=1e-3)
        elif isinstance(request, Read):
            torch.testing.assert_close(here.values, there.values, rtol=1e-4, atol=1e-3)
        else:
            assert here.logprobs == pytest.approx(there.logprobs, abs=1e-4)
