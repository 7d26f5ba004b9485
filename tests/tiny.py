"""Tiny models and dictionaries with random weights, made from configurations; no download, no mocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toolkit.dictionary import FeatureDictionary
from toolkit.labels import Labels

CHAT = (
    "{% for m in messages %}{% if loop.first %}<|bos|>{% endif %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tiny_llama(folder: Path, layers: int = 4, d_model: int = 32, window: int = 256, seed: int = 0) -> Path:
    """A random Llama whose attention matters (large initial weights), with a byte-level chat tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*special, *letters])}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|bos|>", eos_token="<|end|>")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=d_model,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=window,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=1,
        )
    ).save_pretrained(folder)
    return folder


class RandomDirections:
    """n random unit directions at some layers; strength 1 adds `unit` times one. Activation: the inner product."""

    unit = "one step"

    def __init__(self, n: int, d_model: int, layers: Sequence[int], unit: float = 4.0, seed: int = 0) -> None:
        drawn = torch.randn(n, len(layers), d_model, generator=torch.Generator().manual_seed(seed))
        self._vectors = drawn / drawn.norm(dim=-1, keepdim=True)
        self._unit = unit
        self.d_model, self.layers = d_model, tuple(layers)
        self.digest = f"random-{n}-{d_model}-{self.layers}-{unit}-{seed}"

    def vectors(self, ids: Sequence[int]) -> Tensor:
        return self._vectors[list(ids)]

    def units(self, ids: Sequence[int]) -> Tensor:
        return torch.full((len(ids), len(self.layers)), self._unit)

    def activation(self, layer: int, residuals: Tensor, ids: Sequence[int]) -> Tensor:
        some = self._vectors[list(ids), self.layers.index(layer)].to(residuals.dtype)
        return (residuals * some).sum(-1, keepdim=True) if len(some) == 1 else residuals @ some.T

    def input_scale(self, residuals: Tensor) -> Tensor | None:
        return None


@dataclass(frozen=True)
class ProjectionReader:
    directions: RandomDirections
    layer: int
    digest: str = "projection"

    def encode(self, residuals: Tensor) -> Tensor:
        return self.directions.activation(self.layer, residuals, range(len(self.directions._vectors)))

    def move(self, device: torch.device, most: int) -> None: ...


def random_dictionary(
    d_model: int = 32, layers: Sequence[int] = (1,), n: int = 12, unit: float = 4.0, seed: int = 0
) -> FeatureDictionary:
    directions = RandomDirections(n, d_model, layers, unit, seed)
    labels = Labels.of({i: f"thing number {i} of some" for i in range(n)})
    return FeatureDictionary("random", labels, directions, ProjectionReader(directions, layers[0]))
