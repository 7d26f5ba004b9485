"""vLLM with this engine and the local engine, beside vllm-lens' own steering and no steering.

    .venv-vllm/bin/python -m benchmarks.vllm_row            (make bench runs it where that venv is)

Concurrent rollouts, each under another steering, on a random Llama (4 layers, d_model 256); 200 prompt tokens, all
different, and 128 new ones. Each contestant has a process of its own, which waits while the others work; they take
turns, the first turn of each is thrown away. Ratios are of turns that followed one another, medians of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

PROMPT, NEW, D_MODEL, LAYERS, VOCABULARY = 200, 128, 256, 4, 8192
LENS = "vllm-lens, steered"
CONTESTANTS = (LENS, "vllm, unsteered", "local, steered", "vllm, ours, steered", "vllm, ours, unsteered")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--turns", type=int, default=4, help="of each contestant, the first of which warms up")
    parser.add_argument("--alone", nargs=3, metavar=("CONTESTANT", "MODEL", "MOST"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        name, model, most = chosen.alone
        take_turns(name, model, int(most))
        return
    from benchmarks.run import store, told

    rows = []
    with ExitStack() as open_ones:
        folder = open_ones.enter_context(tempfile.TemporaryDirectory())
        make_model(Path(folder))
        waiting = {name: open_ones.enter_context(begun(name, folder, max(chosen.rollouts))) for name in CONTESTANTS}
        for rollouts in chosen.rollouts:
            turns = [{n: turn(p, n, number, rollouts) for n, p in waiting.items()} for number in range(chosen.turns)]
            rows += told([row(name, rollouts, turns[1:]) for name in CONTESTANTS])
    store(rows, "vllm")


def row(name: str, rollouts: int, turns: list[dict[str, float]]) -> dict[str, object]:
    """turns: seconds by contestant."""
    ratios = [seconds[LENS] / seconds[name] for seconds in turns]
    speed = rollouts * NEW / statistics.median(seconds[name] for seconds in turns)
    return {
        "row": f"speed of {name} / {LENS}",
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "target": ">= 1" if rollouts == 32 and name == "local, steered" else "",
        "work": f"{rollouts} rollouts, {speed:,.0f} tokens/s",
        "tokens_per_s": speed,
        "repeats": len(turns),
    }


def begun(name: str, model: str, most: int) -> subprocess.Popen[str]:
    """A contestant's process, for up to `most` rollouts at once; what it says beside its times is kept in a file."""
    command = [sys.executable, "-m", "benchmarks.vllm_row", "--alone", name, model, str(most)]
    # threads that wait by spinning take the core from those that work
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with open(log(model, name), "w") as errors:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )


def log(model: str, name: str) -> Path:
    return Path(model) / f"{name}.log"


def turn(process: subprocess.Popen[str], name: str, number: int, rollouts: int) -> float:
    """Seconds of one turn."""
    if process.stdin is None or process.stdout is None:
        raise TypeError("a contestant is spoken to through pipes")
    process.stdin.write(f"{number} {rollouts}\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("SECONDS "):
            return float(line.removeprefix("SECONDS "))
    raise SystemExit(f"{name} did not end well:\n{log(str(process.args[-2]), name).read_text()[-2000:]}")  # type: ignore[index]


def take_turns(name: str, model: str, most: int) -> None:
    """A contestant: answers each line `number rollouts` with the seconds that the turn took, until there are none."""
    work = lens(model, most, name == LENS) if name in (LENS, "vllm, unsteered") else own(name, model, most)
    for line in sys.stdin:
        number, rollouts = map(int, line.split())
        at = time.perf_counter()
        work(number, rollouts)
        print("SECONDS", time.perf_counter() - at, flush=True)


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


def prompts(rollouts: int, number: int) -> list[list[int]]:
    """Of a turn, shared with no other turn: no contestant may know what begins them."""
    import numpy as np

    rng = np.random.default_rng((number, rollouts))
    return [rng.integers(3, VOCABULARY, PROMPT).tolist() for _ in range(rollouts)]


def directions(rollouts: int) -> Any:
    import torch

    return torch.randn(rollouts, D_MODEL, generator=torch.Generator().manual_seed(0))


def own(name: str, model: str, most: int) -> Any:
    from toolkit.context import Context
    from toolkit.engines.base import Completion, Generate, Sampling, run_all
    from toolkit.steering import NO_STEERING, Intervention, Steering
    from toolkit.vectors import Vectors, as_dictionary

    given = directions(most)
    labels = tuple(f"thing {i}" for i in range(most))
    dictionary = as_dictionary(Vectors(given[:, None], labels, (LAYERS // 2,), (16.0,), 0.05, LAYERS // 2))
    engine: Any
    if name.startswith("local"):
        from toolkit.engines.local import LocalEngine

        engine = LocalEngine(model, device="cpu", dtype="float32", threads=os.cpu_count())
    else:
        from toolkit.engines.vllm import in_process

        engine = in_process(model, dtype="float32", max_num_seqs=most)
    engine.attach(dictionary)
    engine.tokenizer.stop_tokens = frozenset()

    def turn(number: int, rollouts: int) -> None:
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


def lens(model: str, most: int, steered: bool) -> Any:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import LLM, SamplingParams
    from vllm_lens import SteeringVector

    given = directions(most)
    engine = LLM(model, dtype="float32", enforce_eager=True, max_num_seqs=most, async_scheduling=False, seed=0)

    def turn(number: int, rollouts: int) -> None:
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
