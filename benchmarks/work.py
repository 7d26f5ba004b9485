"""The work that every contestant does: so many rollouts of so many rounds, of fixed lengths, steered anew each round.

Knows no contestant. Tokens are drawn at random; responses never stop early, so all compute the same number of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.dictionary import FeatureDictionary
from toolkit.steering import Intervention, Steering


@dataclass(frozen=True)
class Work:
    """R rollouts x rounds: an unsteered opening, then each round `given` tokens in and `generated` out.

    inspect_k: features that an INSPECT lists.
    """

    rollouts: int
    rounds: int
    opening: int = 200
    given: int = 30
    generated: int = 40
    inspect_k: int = 100

    @property
    def tokens(self) -> int:
        """Generated in all."""
        return self.rollouts * self.rounds * self.generated

    def start(self, vocabulary: int) -> list[int]:
        """The opening: the same tokens for all rollouts, unsteered, as a prompt that tells of the tools is."""
        return np.random.default_rng(0).integers(3, vocabulary, self.opening).tolist()

    def prompts(self, vocabulary: int) -> list[list[list[int]]]:
        """Per rollout and round the tokens that come in after the opening."""
        rng = np.random.default_rng(1)
        return rng.integers(3, vocabulary, (self.rollouts, self.rounds, self.given)).tolist()

    def steering(self, dictionary: FeatureDictionary, rollout: int, number: int) -> Steering:
        """Two features, others in every rollout and round; strength small enough to leave the text alive."""
        some = (rollout * 7 + number, rollout * 11 + 3 * number + 1)
        return Steering.of(*(Intervention(dictionary.key, i % len(dictionary), 0.1) for i in some))


def random_llama(
    folder: Path, d_model: int, layers: int, mlp: int, vocabulary: int = 8192, features: int = 16_384
) -> None:
    """A Llama with random weights and a random TopK SAE on its middle layer, in the ordinary formats."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=d_model, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=d_model // 64, num_key_value_heads=d_model // 64, max_position_embeddings=8192,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    random_model(folder, config, features)


def random_model(folder: Path, config: Any, features: int, device: str = "cpu", dtype: str = "float32") -> None:
    """A model of a transformers configuration with random weights, a tokenizer of words, and an SAE in folder/sae."""
    import json

    import torch
    from sae_lens.registry import get_sae_class
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    with torch.device(device):
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
    words = {"<|bos|>": 0, "<|end|>": 1, "<|unk|>": 2} | {f"w{i}": i for i in range(3, config.vocab_size)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<|unk|>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|bos|>", eos_token="<|end|>").save_pretrained(folder)
    sae_class, config_class = get_sae_class("topk")
    settings = config_class(d_in=config.hidden_size, d_sae=features, k=32, dtype=dtype)
    settings.metadata.hook_name = f"blocks.{config.num_hidden_layers // 2}.hook_resid_post"
    sae_class(settings).save_model(folder / "sae")
    (folder / "sae" / "selfsteer.json").write_text(json.dumps({"unit": {"activation": 1.0}}))
