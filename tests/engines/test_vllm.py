"""The vLLM engine for real, on a CPU: each known trap with its guard, and with the guard taken away.

Runs in the venv of `make test-vllm`; what every engine promises is in test_contract.py. Several workers and servers are
in test_vllm_workers.py, other models in test_vllm_models.py; servers that need no vLLM in test_vllm_http.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engines import contract
from tests.engines.contract import (
    asked,
    conversation,
    everything,
    random_context,
    random_steering,
    several,
    steer,
    style,
)
from tests.engines.real_vllm import LONG, MODES, ROOT, SETTINGS, error_of, hooks_of, long_conversation, opened, real
from toolkit.engines import vllm_core
from toolkit.engines.base import Completion, Engine, Generate, Read, Sampling, Score, check_steered, run
from toolkit.engines.local import LocalEngine
from toolkit.engines.vllm import VllmEngine, in_process, tokenizer_of
from toolkit.errors import BadInput, SteeringError, Unsupported
from toolkit.organism import MODEL
from toolkit.steering import NO_STEERING, Steering


@pytest.fixture
def engine(vllm_here: VllmEngine) -> VllmEngine:
    return vllm_here


@pytest.fixture(scope="module")
def local() -> Engine:
    engine = contract.local(dtype="float32")
    engine.attach(style())
    engine.attach(several())
    return engine


# ------------------------------------------------------------------ the same as the local engine


@real
def test_greedy_and_drawn_tokens_are_those_of_the_local_engine(engine: VllmEngine, local: Engine) -> None:
    requests = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        context = random_context(seed, MODES, segments=5, longest=30)
        under = random_steering(rng, MODES, (style(), several()))
        requests.append(asked(context, 16, under=under, capture=style().key))
        requests.append(Generate(context, Sampling(0.9, 0.8, 16, ("same", seed)), under, style().key))
    both = everything(engine, requests), everything(local, requests)
    for request, here, there in zip(requests, *both, strict=True):
        assert (here.tokens, here.why, here.steered) == (there.tokens, there.why, there.steered)
        assert here.residuals.shape == there.residuals.shape  # the last token's too
        torch.testing.assert_close(here.residuals, there.residuals, rtol=1e-4, atol=1e-3)


@real
def test_every_token_is_drawn_from_its_own_number_of_the_stream(engine: VllmEngine, monkeypatch) -> None:
    """Alone, in a batch that rows join and leave, and again: the n-th token takes the n-th number."""
    requests = [asked(conversation(f"Number {i}."), 4 + 5 * i, "draw", i) for i in range(6)]
    together = [got.tokens for got in everything(engine, requests)]
    assert together == [run(engine, request).tokens for request in reversed(requests)][::-1]
    other = replace(requests[5], sampling=replace(requests[5].sampling, stream=("draw", 6)))
    assert run(engine, other).tokens != together[5]


# ------------------------------------------------------------------ trap: steered blocks in the prefix cache


def poisoned(engine: VllmEngine, word: str) -> tuple[Completion, float]:
    """What an unsteered request gets after a steered one of the same tokens, and how wrong it is."""
    run(engine, asked(long_conversation(word, steer(3, 1.0)), 4, under=steer(3, 1.0)))
    plain = asked(long_conversation(word), 4, logprobs=True)
    got = run(engine, plain)
    return got, error_of(plain, got)


@real
def test_steered_blocks_are_not_shared_with_the_unsteered(engine: VllmEngine, monkeypatch) -> None:
    got, error = poisoned(engine, "Guarded")
    assert got.reused < SETTINGS["block_size"] and error < 1e-3


@real
def test_without_the_salt_they_would_be(engine: VllmEngine, monkeypatch) -> None:
    monkeypatch.setattr(vllm_core, "salt", lambda plan: "")
    got, error = poisoned(engine, "Unguarded")
    assert got.reused >= SETTINGS["block_size"] and error > 0.1


@real
def test_equal_steering_shares_and_any_other_does_not(engine: VllmEngine) -> None:
    a, b = steer(3, 0.5), steer(3, 0.25)
    context = long_conversation("Sharing", a)
    third = len(context) // 3
    others = [context.under(b), context.under(NO_STEERING), context.under(b, third), context.under(b, 0, third)]
    first = run(engine, asked(context, 4, under=a))
    assert first.reused < SETTINGS["block_size"]
    assert run(engine, asked(context, 4, under=a)).reused >= 2 * SETTINGS["block_size"]
    for other in others:
        request = asked(other, 4, under=a, logprobs=True)
        got = run(engine, request)
        assert got.reused == 0 and error_of(request, got) < 1e-3
        check_steered(other, got, a)


@real
@pytest.mark.parametrize("under", [NO_STEERING, steer(3, 0.5)], ids=["unsteered", "steered"])
def test_the_turns_of_a_conversation_go_on_from_each_other(engine: VllmEngine, under: Steering) -> None:
    context = long_conversation(f"Turns{len(under)}", under)
    for _ in range(3):
        request = asked(context, 40, under=under, logprobs=True)
        got = run(engine, request)
        assert error_of(request, got) < 1e-3
        before = len(context)
        context = context.append(got.tokens, under, "generated")
        context = context.append(contract.tokenizer().user_turn("Go on.", got.why == "stop"), under)
        again = run(engine, asked(context, 2, under=under))
        assert again.reused >= before // SETTINGS["block_size"] * SETTINGS["block_size"]


# ------------------------------------------------------------------ trap: positions under chunks and preemption


@real
def test_a_prompt_in_chunks_is_steered_at_absolute_positions(engine: VllmEngine) -> None:
    context = long_conversation("Chunks")
    assert len(context) > 4 * SETTINGS["max_num_batched_tokens"]
    for start in range(0, len(context), 31):
        context = context.under(steer(start // 31, 0.8), start, min(start + 17, len(context)))
    got = run(engine, Read(context, tuple(range(len(context))), (0, 3)))
    check_steered(context, got)
    expected = contract.reference().run(context)[0][:, [0, 3]]
    assert float((got.values - expected).norm(dim=-1).max() / expected.norm(dim=-1).mean()) < 2e-5


LENS = """
import torch
from tests.engines import contract
from tests.engines.contract import conversation, steer, style
from toolkit.organism import MODEL
from vllm import LLM, SamplingParams
from vllm_lens import SteeringVector

if __name__ == "__main__":
    context = conversation().under(steer(3, 1.0), 0, 4)
    directions = style().directions
    layer = directions.layers[0]
    vector = (directions.vectors([3])[0, 0] * directions.units([3])[0, 0]).expand(1, 4, -1)
    extra = {"apply_steering_vectors": [SteeringVector(activations=vector, layer_indices=[layer])]}
    extra["output_residual_stream"] = [layer]
    settings = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, extra_args=extra)
    engine = LLM(str(MODEL), dtype="float32", max_model_len=512)
    output = engine.generate([{"prompt_token_ids": list(context.tokens)}], settings)[0]
    got = output.activations["residual_stream"][0]
    expected = contract.reference().run(context, tuple(output.outputs[0].token_ids))[0][: len(got), layer]
    error = (got - expected).norm(dim=-1) / expected.norm(dim=-1).mean()
    print("errors", float(error[: len(context)].max()) < 1e-4, float(error[len(context) :].max()) > 0.5)
"""


@real
def test_the_plugins_own_positions_go_astray(tmp_path: Path) -> None:
    """Why vllm_worker.py does not use them: steering of the first four tokens reaches every generated one.

    If this fails, vllm-lens has mended it, and its steering by position is worth another look.
    """
    script = tmp_path / "lens.py"
    script.write_text(LENS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert "errors True True" in ended.stdout, ended.stderr[-3000:]


@real
def test_positions_that_are_not_vllms_own_end_the_step(engine: VllmEngine, monkeypatch) -> None:
    monkeypatch.setattr(type(hooks_of(engine)), "_computed", lambda self, i: 0)
    with pytest.raises(SteeringError, match="computes positions"):
        run(engine, asked(long_conversation("Relative", steer(3, 0.5)), 2))
    monkeypatch.undo()
    assert contract.vllm_is_idle(engine)
    assert isinstance(run(engine, asked(conversation(), 2)), Completion)


@real
def test_preempted_requests_come_out_as_if_they_had_not_been(monkeypatch) -> None:
    engine = opened(num_gpu_blocks_override=8, max_model_len=128)
    scheduler = engine.servers.engine.engine_core.engine_core.scheduler
    preempt, preempted = scheduler._preempt_request, []
    monkeypatch.setattr(
        scheduler, "_preempt_request", lambda request, *a, **k: (preempted.append(request), preempt(request, *a, **k))
    )
    requests = []
    for i in range(6):  # prompts that end just before a block does: all want one more in the same moment
        context = conversation(f"Preempted {i}. {LONG}", steer(i, 0.6)).upto(60).under(NO_STEERING, 20 + i, 40)
        requests.append(asked(context, 40, "p", i, under=steer(i, 0.4), capture=style().key))
    got = everything(engine, requests)
    assert preempted, "nothing was preempted; give the engine fewer blocks"
    for request, one in zip(requests, got, strict=True):
        check_steered(request.context, one, request.steering)
        alone = run(engine, request)
        assert one.tokens == alone.tokens
        torch.testing.assert_close(one.residuals, alone.residuals, rtol=1e-4, atol=1e-3)


# ------------------------------------------------------------------ trap: an engine that runs unsteered


@real
def test_a_layer_whose_hook_does_not_run_ends_the_step(engine: VllmEngine, monkeypatch) -> None:
    """As under CUDA graphs or torch.compile, where the blocks run and their hooks do not."""
    hooks = hooks_of(engine)
    block = hooks.model.model.layers[1]
    monkeypatch.setattr(block, "_forward_hooks", type(block._forward_hooks)())
    with pytest.raises(SteeringError, match="layer 1 did not run"):
        run(engine, asked(conversation(), 2))
    monkeypatch.undo()
    assert isinstance(run(engine, asked(conversation(), 2)), Completion)


@real
def test_hooks_that_do_not_run_at_all_are_missed_in_the_counts(engine: VllmEngine, monkeypatch) -> None:
    """As when a captured graph is replayed: not even the model's own hook runs, so no token was counted as steered."""
    hooks = hooks_of(engine)
    for module in (hooks.model, *hooks.model.model.layers):
        monkeypatch.setattr(module, "_forward_hooks", type(module._forward_hooks)())
        monkeypatch.setattr(module, "_forward_pre_hooks", type(module._forward_pre_hooks)())
    with pytest.raises(SteeringError):
        run(engine, asked(conversation(), 2))


@pytest.mark.parametrize("option", ["async_scheduling", "logprobs_mode", "kv_transfer_config", "speculative_config"])
def test_options_that_would_change_what_is_drawn_are_refused(monkeypatch, option: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(BadInput, match=option):
        in_process(str(MODEL), **{option: None})


def test_weights_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """Else two models with one configuration would be one to a manifest, and to servers that must be alike."""
    shutil.copy(MODEL / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    with pytest.raises(Unsupported, match="no safetensors"):
        vllm_core.digest(str(tmp_path))
    assert len(vllm_core.digest(str(MODEL))) == 16


def test_stop_tokens_are_those_of_the_local_engine(tmp_path: Path) -> None:
    """Also of a model whose stop tokens stand in its configuration alone, beside its tokenizer's."""
    folder = shutil.copytree(MODEL, tmp_path / "model")
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [2, 77]}))
    assert tokenizer_of(str(folder)).stop_tokens == LocalEngine(str(folder), device="cpu").tokenizer.stop_tokens


COMPILED = """
from tests.engines.real_vllm import SETTINGS, MODEL, in_process, style
engine = in_process(str(MODEL), **SETTINGS, enforce_eager=False, compilation_config={"backend": "eager"})
assert not engine.servers.engine.vllm_config.model_config.enforce_eager
engine.attach(style())
"""


@real
def test_a_compiled_engine_is_found_out_at_the_start() -> None:
    """vLLM compiled for real, in a process whose vllm-lens does not forbid it: its canary dies."""
    environment = {**os.environ, "VLLM_LENS_DISABLE": "1"}
    ended = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "SteeringError" in ended.stderr and "did not run" in ended.stderr


@pytest.mark.parametrize("gone", ["vllm", "vllm_lens"])
def test_a_missing_package_is_refused(monkeypatch, gone: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == gone else object())
    with pytest.raises(Unsupported, match=f"{gone.replace('_', '-')} is not installed.*--device auto"):
        in_process(str(MODEL))


# ------------------------------------------------------------------ rows


@real
def test_scores_of_a_bfloat16_model_are_not_rounded_to_bfloat16() -> None:
    """A bfloat16 head would round logits to eighths; the norm and the head run in float32, and all options sum to 1."""
    engine = opened(dtype="bfloat16")
    options = tuple(((t,),) for t in range(engine.info.vocabulary))
    got = run(engine, Score(conversation(), options))
    assert got.mass == pytest.approx(1.0, abs=1e-6)
    last = run(engine, Read(conversation(), (len(conversation()) - 1,), (3,))).values[0, 0]
    model = contract.reference().model
    logits = torch.nn.functional.linear(model.model.norm(last), model.lm_head.weight.bfloat16().float())
    expected = torch.log_softmax(logits.detach().double(), -1)
    assert float((torch.tensor(got.logprobs) - expected).abs().max()) < 0.02
