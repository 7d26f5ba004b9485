"""Contestants of the benchmarks do the same work; nothing is timed here."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

import benchmarks.run
from benchmarks import gpu
from benchmarks.contestants import _generate, hook_loop, ours, plain_copy, published
from benchmarks.work import Work, random_llama, random_model
from toolkit.context import Context
from toolkit.engines.base import Generate, Sampling, run
from toolkit.engines.local import LocalEngine
from toolkit.opening import open_dictionary


def test_every_contestant_runs_and_a_copy_of_the_model_is_the_model(tmp_path: Path) -> None:
    random_llama(tmp_path, 64, 2, 128, vocabulary=300, features=96)
    engine, features = LocalEngine(str(tmp_path), device="cpu"), open_dictionary(tmp_path / "sae")
    engine.attach(features)
    engine.tokenizer.stop_tokens = frozenset()  # type: ignore[misc]
    work = Work(2, 2, opening=6, given=3, generated=4, inspect_k=5)
    before = engine.tokens_computed
    seconds, inspecting = ours(engine, features, work)
    # each round's new tokens are computed once: nothing of the history is fed anew
    assert engine.tokens_computed - before <= 2 * (6 + 2 * 3 + 2 * 4) and 0 < inspecting < seconds
    assert published(engine, features, work) > 0 and hook_loop(engine, features, work) > 0
    prompt = work.prompts(300)[0][0]
    greedy = run(engine, Generate(Context().append(prompt), Sampling(0, 1, 1)))
    logits = plain_copy(engine)(torch.tensor([prompt])).logits[0, -1]
    assert greedy.tokens[0] == int(logits.argmax())
    assert len(_generate(plain_copy(engine), prompt, 3)) == len(prompt) + 3


def test_decoding_is_measured_for_every_shape_that_can_be_made(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "SHORT", 2)
    monkeypatch.setattr(gpu, "LONG", 6)
    for kind, settings, _ in gpu.SHAPES.values():
        assert getattr(transformers, kind)(**settings).num_hidden_layers > 1
    kind, settings, features = gpu.SHAPES["tiny"]
    random_model(tmp_path, getattr(transformers, kind)(**settings, bos_token_id=0, eos_token_id=1), features)
    engine, dictionary = LocalEngine(str(tmp_path), device="cpu", dtype="bfloat16"), open_dictionary(tmp_path / "sae")
    engine.attach(dictionary)
    engine.tokenizer.stop_tokens = frozenset()  # type: ignore[misc]
    monkeypatch.setattr(benchmarks.run, "RESULTS", tmp_path)
    found = gpu.rows(engine, dictionary, [2], {"nominal": 1e12}, "tiny", "decoding-tiny")
    (kept,) = tmp_path.glob("decoding-tiny-*.json")
    assert json.loads(kept.read_text())["rows"] == found
    read = found[0]["bytes_a_step"] - 2 * (gpu.PROMPT + 4) * 2 * 2 * 2 * 16 * 2
    assert read == sum(p.nbytes for n, p in engine.model.named_parameters() if "embed" not in n)
