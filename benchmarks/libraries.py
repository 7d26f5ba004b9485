"""Concurrent rollouts, each under a steering of its own: this engine beside the libraries that people would use.

    python -m benchmarks.libraries            (make bench runs it)

R rollouts of 200 prompt tokens and 128 new ones, on a random Llama (4 layers, d_model 256), SAE of 16,384 features. A
library that can give the rows of a batch different vectors runs them in one batch; one that holds one vector at a time
(steering-vectors) runs them one after the other. vllm-lens lives in its own venv: vllm_row.py.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants import hooked, ours, plain_copy
from benchmarks.run import Row, fresh, ratio, store, told
from benchmarks.work import Work, random_llama
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.local import LocalEngine
from toolkit.opening import open_dictionary

PROMPT, NEW = 200, 128
GENERATE = {"do_sample": True, "top_k": 0, "temperature": 0.7, "pad_token_id": 0}
Contestant = Callable[[LocalEngine, FeatureDictionary, Work], float]


def parts(engine: LocalEngine, features: FeatureDictionary, work: Work) -> tuple[Any, int, Tensor, Tensor]:
    """A plain copy of the model, the layer, prompts [R, T] and deltas [R, 1, D] of the same work."""
    prompts = torch.tensor([turns[0] for turns in work.prompts(engine.info.vocabulary)])
    layer = features.reader.layer
    rows = [
        sum(features.directions.vectors([i.feature])[0, 0] * i.strength for i in work.steering(features, r, 0))
        for r in range(work.rollouts)
    ]
    return plain_copy(engine), layer, prompts, torch.stack(rows)[:, None]  # type: ignore[arg-type]


def long(prompts: Tensor) -> dict[str, Any]:
    return {**GENERATE, "max_new_tokens": NEW, "min_new_tokens": NEW, "attention_mask": torch.ones_like(prompts)}


@torch.no_grad()
def hook(engine: LocalEngine, features: FeatureDictionary, work: Work) -> float:
    """transformers `generate` with a hook that adds a vector to each row."""
    model, layer, prompts, deltas = parts(engine, features, work)
    begun = time.perf_counter()
    with hooked(model, layer, lambda hidden: hidden + deltas):
        model.generate(prompts, **long(prompts))
    return time.perf_counter() - begun


@torch.no_grad()
def saelens(engine: LocalEngine, features: FeatureDictionary, work: Work) -> float:
    """The SAE spliced into every forward pass with its error term, latents of each row raised."""
    model, layer, prompts, _ = parts(engine, features, work)
    sae = features.reader.sae  # type: ignore[attr-defined]
    raised = torch.zeros(work.rollouts, 1, int(sae.cfg.d_sae))
    for row in range(work.rollouts):
        for i in work.steering(features, row, 0):
            raised[row, 0, i.feature] += i.strength * float(features.directions.units([i.feature])[0, 0])

    def spliced(hidden: Tensor) -> Tensor:
        active = sae.encode(hidden)
        error = hidden - sae.decode(active)
        return sae.decode(active + raised) + error

    begun = time.perf_counter()
    with hooked(model, layer, spliced):
        model.generate(prompts, **long(prompts))
    return time.perf_counter() - begun


@torch.no_grad()
def steering_vectors(engine: LocalEngine, features: FeatureDictionary, work: Work) -> float:
    """steering-vectors: one vector is applied to a model at a time."""
    from steering_vectors import SteeringVector

    model, layer, prompts, deltas = parts(engine, features, work)
    begun = time.perf_counter()
    for row in range(work.rollouts):
        with SteeringVector({layer: deltas[row, 0]}).apply(model):
            model.generate(prompts[row : row + 1], **long(prompts[row : row + 1]))
    return time.perf_counter() - begun


@torch.no_grad()
def repeng(engine: LocalEngine, features: FeatureDictionary, work: Work) -> float:
    """repeng: a control is a tensor on a layer, so the rows of a batch can have their own."""
    from repeng import ControlModel

    model, layer, prompts, deltas = parts(engine, features, work)
    control = ControlModel(model, [layer])
    begun = time.perf_counter()
    control.set_raw_control({layer: deltas})
    control.generate(prompts, **long(prompts))
    return time.perf_counter() - begun


@torch.no_grad()
def nnsight(engine: LocalEngine, features: FeatureDictionary, work: Work) -> float:
    """nnsight: an intervention on the layer's output in every step."""
    from nnsight import LanguageModel

    model, layer, prompts, deltas = parts(engine, features, work)
    wrapped = LanguageModel(model, tokenizer=engine.tokenizer._tokenizer)  # type: ignore[attr-defined]
    begun = time.perf_counter()
    with wrapped.generate(prompts, **long(prompts)) as tracer:
        for _ in tracer.iter[:]:
            wrapped.model.layers[layer].output = wrapped.model.layers[layer].output + deltas
    return time.perf_counter() - begun


CONTESTANTS: dict[str, tuple[Contestant, str]] = {
    "transformers generate with a hook": (hook, "transformers"),
    "SAELens spliced, with error term": (saelens, "sae_lens"),
    "steering-vectors": (steering_vectors, "steering_vectors"),
    "repeng": (repeng, "repeng"),
    "nnsight": (nnsight, "nnsight"),
}


def rows(repeats: int, batches: tuple[int, ...] = (1, 8, 32)) -> list[Row]:
    """One row a contestant and batch: its time over this engine's, on the same work in the same run."""
    made: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        random_llama(Path(folder), 256, 4, 1024)
        engine, features = LocalEngine(folder, device="cpu"), open_dictionary(Path(folder) / "sae")
        engine.attach(features)
        engine.tokenizer.stop_tokens = frozenset()  # type: ignore[misc]  # every response has its full length
        for name, (contestant, package) in CONTESTANTS.items():
            try:
                importlib.import_module(package)
            except (ImportError, AttributeError) as error:  # repeng 0.4 asks numpy for what numpy 2 has not
                print(f"{name}: {package} cannot be used here ({error})")
                continue
            for batch in batches:
                work = Work(batch, 1, opening=0, given=PROMPT, generated=NEW)
                mine = fresh(engine, lambda w=work: ours(engine, features, w, inspect="")[0])  # type: ignore[misc]
                theirs = lambda w=work, c=contestant: c(engine, features, w)  # type: ignore[misc]  # noqa: E731
                [row] = told([ratio(f"{name} / ours", mine, theirs, repeats, work=f"{batch} rollouts, random 4 x 256")])
                speeds = {who: work.tokens / float(str(row[f"{who}_s"])) for who in ("one", "other")}
                made.append({**row, "tokens_per_s": speeds["one"], "their_tokens_per_s": speeds["other"]})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    options = parser.parse_args()
    os.environ.setdefault("SELFSTEER_CACHE", tempfile.mkdtemp())
    store(rows(options.repeats, tuple(options.batches)), "libraries")


if __name__ == "__main__":
    main()
