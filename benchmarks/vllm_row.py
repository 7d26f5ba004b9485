"""vLLM with this engine against vllm-lens' own steering and against no steering, each in a process of its own.

    .venv-vllm/bin/python -m benchmarks.vllm_row

Concurrent rollouts, each under another steering, on a random Llama (4 layers, d_model 256); 200 prompt tokens, all
different, and 128 new ones. Contestants take turns, the first turn of each is thrown away, medians of the rest. The
local engine is held against the same in benchmarks/run.py; this venv has it too, so it is a row here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT, NEW, D_MODEL, LAYERS, VOCABULARY = 200, 128, 256, 4, 8192
CONTESTANTS = (
    "vllm, ours, steered",
    "vllm, ours, unsteered",
    "vllm-lens, steered",
    "vllm, unsteered",
    "local, steered",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--contestants", type=int, default=len(CONTESTANTS), help="so many of them, from the first")
    parser.add_argument("--alone", nargs=2, metavar=("CONTESTANT", "MODEL"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        print("RATE", json.dumps(alone(*chosen.alone, rollouts=chosen.rollouts)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS[: chosen.contestants]}
        for turn in range(chosen.turns):
            for name, some in rates.items():
                some.append(in_a_process(name, folder, chosen.rollouts))
                print(f"turn {turn + 1}: {name} {some[-1]:,.0f}", flush=True)
    print(f"{chosen.rollouts} rollouts, {PROMPT} tokens in, {NEW} out, {os.cpu_count()} cores, {chosen.turns} turns")
    lens = statistics.median(rates["vllm-lens, steered"])
    for name, some in rates.items():
        middle = statistics.median(some)
        spread = f"{min(some):,.0f} to {max(some):,.0f}"
        print(f"{name:24} {middle:8,.0f} tokens/s {middle / lens:6.2f} of vllm-lens   {spread}")


def in_a_process(name: str, model: str, rollouts: int) -> float:
    command = [sys.executable, "-m", "benchmarks.vllm_row", "--rollouts", str(rollouts), "--alone", name, model]
    # threads that wait by spinning take the core from those that work
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("RATE ")]
    if not lines:
        raise SystemExit(f"{name} did not end well:\n{ended.stderr[-2000:]}")
    return float(json.loads(lines[0].removeprefix("RATE ")))


def make_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=D_MODEL, intermediate_size=4 * D_MODEL, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<|bos|>": 0, "<|end|>": 1, "<|unk|>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<|unk|>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|bos|>", eos_token="<|end|>").save_pretrained(folder)


def prompts(rollouts: int, turn: int) -> list[list[int]]:
    import numpy as np

    rng = np.random.default_rng(turn)
    return [rng.integers(3, VOCABULARY, PROMPT).tolist() for _ in range(rollouts)]


def alone(name: str, model: str, rollouts: int) -> float:
    """Tokens generated in a second, after one turn that warms up."""
    turn = lens_turn(model, rollouts, steered="lens" in name) if "ours" not in name and "local" not in name else None
    if turn is None:
        turn = own_turn(name, model, rollouts)
    turn(0)
    begun = time.perf_counter()
    turn(1)
    return rollouts * NEW / (time.perf_counter() - begun)


def directions(rollouts: int) -> Any:
    import torch

    return torch.randn(rollouts, D_MODEL, generator=torch.Generator().manual_seed(0))


def own_turn(name: str, model: str, rollouts: int) -> Any:
    from toolkit.context import Context
    from toolkit.engines.base import Completion, Generate, Sampling, run_all
    from toolkit.steering import NO_STEERING, Intervention, Steering
    from toolkit.vectors import Vectors, as_dictionary

    given = directions(rollouts)
    labels = tuple(f"thing {i}" for i in range(rollouts))
    dictionary = as_dictionary(Vectors(given[:, None], labels, (LAYERS // 2,), (16.0,), 0.05, LAYERS // 2))
    engine: Any
    if name.startswith("local"):
        from toolkit.engines.local import LocalEngine

        engine = LocalEngine(model, device="cpu", dtype="float32", threads=os.cpu_count())
    else:
        from toolkit.engines.vllm import in_process

        engine = in_process(model, dtype="float32", max_num_seqs=rollouts)
    engine.attach(dictionary)
    engine.tokenizer.stop_tokens = frozenset()

    def turn(number: int) -> None:
        asked = []
        for i, prompt in enumerate(prompts(rollouts, number)):
            under = NO_STEERING
            if "unsteered" not in name:
                under = Steering.of(Intervention(dictionary.key, i, 1.0))
            asked.append(Generate(Context().append(prompt, under), Sampling(0.0, 1.0, NEW), under))
        for found in run_all(engine, asked):
            if not isinstance(found, Completion) or len(found.tokens) != NEW:
                raise TypeError("a response is missing or short")

    return turn


def lens_turn(model: str, rollouts: int, steered: bool) -> Any:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import LLM, SamplingParams
    from vllm_lens import SteeringVector

    given = directions(rollouts)
    engine = LLM(model, dtype="float32", enforce_eager=True, max_num_seqs=rollouts, async_scheduling=False, seed=0)

    def turn(number: int) -> None:
        settings = []
        for i in range(rollouts):
            vector = SteeringVector(activations=0.05 * given[i : i + 1], layer_indices=[LAYERS // 2])
            extra = {"apply_steering_vectors": [vector]} if steered else None
            settings.append(SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, extra_args=extra))
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts(rollouts, number)]
        for found in engine.generate(inputs, settings, use_tqdm=False):
            if len(found.outputs[0].token_ids) != NEW:
                raise TypeError("a response is missing or short")

    return turn


if __name__ == "__main__":
    main()
