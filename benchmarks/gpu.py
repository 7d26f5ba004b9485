"""Decoding on a GPU: tokens a second, steered and not, and how much of the memory's bandwidth that is.

    python -m benchmarks.gpu --shape llama-3.1-8b

A model of that shape with random weights in bfloat16 and an SAE of 65,536 features. Every step reads the weights, but
for the embedding's, and the kept keys and values of all contexts once. What the memory can give is what its maker says,
where that is known (PEAKS), and is measured in the same run too, by summing numbers; the ratio is of the larger.
A step's time is the difference of two runs that differ in their number of tokens alone, so prefill is not in it; runs
in which a step was captured are thrown away. It takes some minutes, and 20 GB on the disk for a while; results are kept
after each batch size. Where no GPU is, `--shape tiny` shows on a CPU that it runs; on a GPU it has not run yet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.contestants import ours
from benchmarks.run import Row, store, told
from benchmarks.work import Work, random_model
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.local import LocalEngine
from toolkit.engines.memory import token_bytes
from toolkit.opening import open_dictionary

EIGHT = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
SHAPES: dict[str, tuple[str, dict[str, int], int]] = {
    "llama-3.1-8b": (
        "LlamaConfig", {**EIGHT, "intermediate_size": 14_336, "num_hidden_layers": 32, "vocab_size": 128_256}, 65_536,
    ),
    "qwen3-8b": (
        "Qwen3Config", {**EIGHT, "intermediate_size": 12_288, "num_hidden_layers": 36, "vocab_size": 151_936}, 65_536,
    ),
    "tiny": (
        "LlamaConfig",
        {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
         "num_hidden_layers": 2, "vocab_size": 300},
        256,
    ),
}  # fmt: skip
# bytes a second as NVIDIA's data sheets give them, by a part of the device's name; the first that is found
PEAKS = {"H200": 4.8e12, "H100 NVL": 3.9e12, "H100 PCIe": 2.0e12, "H100": 3.35e12, "A100-SXM4-80GB": 2.039e12,
         "A100-SXM4-40GB": 1.555e12, "A100 80GB PCIe": 1.935e12, "L40S": 0.864e12, "L4": 0.3e12}  # fmt: skip
PROMPT = 230
SHORT, LONG = 32, 160  # tokens of the two runs whose difference is LONG - SHORT steps


PAIRS, TRIES = 3, 12  # pairs of runs that count, and how many are made at most until so many count


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second that the device reads: eight sums over `size` bytes at a stretch, the best of five stretches."""
    block, taken = torch.ones(size // 4, device=device), []
    for _ in range(6):
        begun = time.perf_counter()
        found = [block.sum() for _ in range(8)]
        float(found[-1])  # waits for all of them
        taken.append(time.perf_counter() - begun)
    return 8 * size / min(taken[1:])


def step_seconds(engine: LocalEngine, features: FeatureDictionary, batch: int, steered: bool) -> float:
    """Median seconds of a step that adds a token to each of `batch` contexts, over pairs of runs without a capture."""
    engine.forget()
    engine._store.shrink()  # contexts of another batch size leave no lanes, among which these would be scattered
    found: list[float] = []
    for attempt in range(TRIES):
        before, taken = _captures(engine), []
        for tokens in (SHORT, LONG):
            engine.forget()
            work = Work(batch, 1, opening=0, given=PROMPT, generated=tokens)
            taken.append(ours(engine, features, work, steered=steered, inspect="")[0])
        if attempt and _captures(engine) == before:
            found.append((taken[1] - taken[0]) / (LONG - SHORT))
        if len(found) == PAIRS:
            break
    if not found:
        raise SystemExit(
            f"batch {batch}: every one of {TRIES} pairs of runs captured a step anew; nothing was measured"
        )
    return statistics.median(found)


def _captures(engine: LocalEngine) -> int:
    return engine._static.captures if engine._static is not None else 0


def rows(
    engine: LocalEngine,
    features: FeatureDictionary,
    batches: list[int],
    speeds: dict[str, float],
    shape: str,
    name: str,
) -> list[Row]:
    """Measure, print and store as results/NAME. speeds: of the memory, bytes a second, measured and nominal."""
    speed = max(speeds.values())
    embedding = engine.model.get_input_embeddings().weight
    tied = embedding.data_ptr() == engine.model.get_output_embeddings().weight.data_ptr()
    weights = sum(p.nbytes for p in engine.model.parameters()) - (0 if tied else embedding.nbytes)
    made: list[Row] = []
    for batch in sorted(batches):
        steered, plain = (step_seconds(engine, features, batch, on) for on in (True, False))
        context = PROMPT + (SHORT + LONG) // 2
        read = weights + batch * context * token_bytes(engine.model.config, torch.bfloat16)
        made += told(
            [
                {
                    "row": "steered decoding / bandwidth limit",
                    "ratio": read / steered / speed,
                    "target": ">= 0.6" if batch <= 16 else "",
                    "work": f"batch {batch}, {shape}: {batch / steered:,.0f} tokens/s, unsteered {batch / plain:,.0f}",
                    "tokens_per_s": batch / steered,
                    "unsteered_tokens_per_s": batch / plain,
                    "bytes_a_step": read,
                    "step_ms": 1000 * steered,
                    "replayed": engine._static is not None,
                    "bandwidths": speeds,
                },
                {
                    "row": "steered speed / unsteered speed",
                    "ratio": plain / steered,
                    "target": ">= 0.98",
                    "work": f"batch {batch}, {shape}",
                },
            ]
        )
        store(made, name)
    for over in ("last", "mean"):
        whole, inspecting = ours(engine, features, Work(16, 2, opening=0, given=PROMPT), inspect=over)
        share = {"row": f"INSPECT ({over} of the response) / everything", "ratio": inspecting / whole}
        made += told([{**share, "target": "<= 0.03", "work": f"16 x 2, {shape}"}])
    store(made, name)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    options = parser.parse_args()
    import transformers

    os.environ.setdefault("SELFSTEER_CACHE", tempfile.mkdtemp())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, settings, features = SHAPES[options.shape]
    with tempfile.TemporaryDirectory() as folder:
        config = getattr(transformers, kind)(**settings, max_position_embeddings=8192, bos_token_id=0, eos_token_id=1)
        random_model(Path(folder), config, features, device, "bfloat16")
        engine = LocalEngine(folder, device=device, dtype="bfloat16", graphs=not options.eager)
        dictionary = open_dictionary(Path(folder) / "sae")
        engine.attach(dictionary)
        engine.tokenizer.stop_tokens = frozenset()  # type: ignore[misc]  # every response has its full length
        device_name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        speeds = {"measured": bandwidth(engine.device, 1 << (32 if device == "cuda" else 28))}
        if known := [peak for part, peak in PEAKS.items() if part in device_name]:
            speeds["nominal"] = known[0]
        print(
            f"{device_name} reads", *(f"{speed / 1e9:,.0f} GB/s ({how})" for how, speed in speeds.items()), flush=True
        )
        name = f"decoding-{options.shape}-{device_name.replace(' ', '-').lower()}"
        rows(engine, dictionary, options.batches, speeds, options.shape, name + "-eager" * options.eager)


if __name__ == "__main__":
    main()
