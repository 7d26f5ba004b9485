"""The organism's sparse autoencoder: residuals of its own corpus in, a BatchTopK SAE in SAELens format out.

Knows no labels. Trained by sae-lens itself, so that what ships is what any SAELens user would have.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from toolkit.organism.corpus import Document
from toolkit.organism.mixture import Source
from toolkit.organism.model import HOOK_LAYER
from toolkit.organism.tokens import PAD, Encoded, Encoder

MODEL_NAME = "selfsteer-organism"


@dataclass(frozen=True)
class SaeSettings:
    features: int = 384
    active: float = 7.5  # features on per token, on average over a batch
    tokens: int = 150_000  # residuals collected
    samples: int = 2_000_000  # residuals trained on, so some thirteen passes
    rate: float = 1.5e-3
    others: float = 0.15  # share of tokens kept that the assistant did not write
    seed: int = 3


@dataclass(frozen=True)
class Residuals:
    """What block HOOK_LAYER wrote for N tokens. values: [N, D]; document, place: where each token stands."""

    values: Tensor
    document: list[int]
    place: list[int]
    documents: list[Encoded]


@torch.no_grad()
def collect(
    model: LlamaForCausalLM,
    encode: Encoder,
    documents: Iterator[Document],
    tokens: int,
    *,
    others: float = 1.0,
    seed: int = 0,
) -> Residuals:
    """Residuals of at least `tokens` tokens. The first token of a context is left out: it is a sink, unlike the rest.

    others: the share kept of tokens that the assistant did not write.
    """
    rng = random.Random(f"residuals {seed}")
    store: dict[str, Tensor] = {}
    hook = model.model.layers[HOOK_LAYER].register_forward_hook(
        lambda _m, _i, o: store.__setitem__("h", o[0] if isinstance(o, tuple) else o)
    )
    values: list[Tensor] = []
    owner: list[int] = []
    place: list[int] = []
    encoded: list[Encoded] = []
    try:
        while len(owner) < tokens:
            rows = [encode(next(documents)) for _ in range(8)]
            width = -(-max(len(r.ids) for r in rows) // 64) * 64
            ids = torch.full((len(rows), width), PAD)
            for n, r in enumerate(rows):
                ids[n, : len(r.ids)] = torch.tensor(r.ids)
            model.model(ids)
            for n, r in enumerate(rows):
                kept = [t for t in range(1, len(r.ids)) if _spoken(r, t) or (others > 0 and rng.random() < others)]
                values.append(store["h"][n, kept].float().clone())
                owner += [len(encoded)] * len(kept)
                place += kept
                encoded.append(r)
    finally:
        hook.remove()
    return Residuals(torch.cat(values), owner, place, encoded)


def _spoken(row: Encoded, token: int) -> bool:
    piece = row.piece[token]
    return piece >= 0 and row.pieces[piece].role == "assistant"


def stream(source: Source, seed: int) -> Iterator[Document]:
    """Documents in the shares that dictionaries are made from. Different seeds share no document."""
    rng = random.Random(f"documents {seed}")
    while True:
        yield source.document(rng)


def train_sae(residuals: Tensor, settings: SaeSettings, out: Path) -> None:
    """Train on [N, D] residuals with sae-lens and save for inference (as JumpReLU) to `out`."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(settings.seed)
    metadata = SAEMetadata(
        model_name=MODEL_NAME, model_class_name="AutoModelForCausalLM",
        hook_name=f"blocks.{HOOK_LAYER}.hook_resid_post",
        hf_hook_name=f"model.layers.{HOOK_LAYER}", prepend_bos=True, context_size=4096,
    )  # fmt: skip
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=residuals.shape[1], d_sae=settings.features, k=settings.active, apply_b_dec_to_input=True,
            normalize_activations="expected_average_only_in", device="cpu", dtype="float32", metadata=metadata,
        )
    )  # fmt: skip
    batch = 2048
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=settings.samples, train_batch_size_samples=batch, lr=settings.rate,
            lr_end=settings.rate / 10, lr_scheduler_name="constant", lr_warm_up_steps=50,
            lr_decay_steps=settings.samples // batch // 3, device="cpu", dead_feature_window=200,
            feature_sampling_window=500, n_batches_for_norm_estimate=50, logger=LoggingConfig(log_to_wandb=False),
        ),
        sae, _shuffled(residuals, batch, settings.seed),
    )  # fmt: skip
    trained = trainer.fit()
    scale = trainer.activation_scaler.scaling_factor
    if scale is not None:  # fold it in, so that the SAE reads raw residuals
        trained.fold_activation_norm_scaling_factor(scale)
        trained.cfg.normalize_activations = "none"
    trained.save_inference_model(str(out))


def _shuffled(residuals: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(residuals), generator=generator).split(batch):
            if len(rows) == batch or len(residuals) < batch:
                yield residuals[rows]


def explained_variance(values: Tensor, rebuilt: Tensor) -> float:
    """1 - residual sum of squares / total sum of squares about the mean, over [N, D]."""
    return float(1 - ((values - rebuilt) ** 2).sum() / ((values - values.mean(0)) ** 2).sum())
