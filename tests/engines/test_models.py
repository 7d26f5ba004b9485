"""Models other than Llamas: each comes out as transformers computes it, or is refused before anything is computed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.engines.contract import everything
from tests.tiny import random_dictionary
from toolkit.context import Context
from toolkit.engines import loading, proof
from toolkit.engines.base import Generate, Read, Sampling, Score
from toolkit.engines.local import LocalEngine
from toolkit.errors import Unsupported

SMALL: dict[str, Any] = {
    "vocab_size": 261, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8}
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_group": 1,
    "topk_group": 1, "n_routed_experts": 4, "n_shared_experts": 1, "num_key_value_heads": 4, **EXPERTS,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4,
    "original_max_position_embeddings": 32,
}  # fmt: skip
SCALED = {"embedding_multiplier": 12.0, "attention_multiplier": 0.1, "residual_multiplier": 0.2, "logits_scaling": 8.0}
CAPPED = {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "num_local_experts": 2, "num_experts_per_tok": 1}
NARROW = {"sliding_window": 8}

EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "tied embeddings": ("llama", {"tie_word_embeddings": True}),
    "sliding window": ("mistral", NARROW),
    "sliding in some layers": ("qwen2", {"use_sliding_window": True, "max_window_layers": 2, **NARROW}),
    "two soft caps": ("gemma2", {**CAPPED, **NARROW}),
    "two ropes": ("gemma3_text", {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"] * 2, **NARROW}),
    "scaled logits": ("granite", SCALED),
    "parallel blocks": ("cohere2", {"logit_scale": 0.25, **NARROW}),
    "learned positions and biases": ("gpt2", GPT2),
    "norms after": ("olmo2", {}),
    "experts": ("qwen3_moe", {"num_experts": 4, **EXPERTS}),
    "values narrower than keys": ("deepseek_v3", {"first_k_dense_replace": 2, **LATENT}),
    "other turns beyond 32 tokens": ("phi3", {"original_max_position_embeddings": 32, "rope_parameters": LONGROPE}),
}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "convolutions": ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}, "2 of 4 layers"),
    "state spaces": ("granitemoehybrid", {"layer_types": ["mamba", "attention"] * 2, **MAMBA}, "2 of 4 layers"),
    "logits times a number": ("hyperclovax", {"logits_scaling": 4.0}, "makes its logits in a way of its own"),
    "recurrences": ("recurrent_gemma", {"attention_window_size": 8}, "of 4 layers"),
    "attention twice a block": ("diffllama", {}, "come out wrong"),
    "a mask of its own": ("doge", {}, "in a way of its own"),
    "several streams": (
        "gemma3n_text",
        {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 261, "head_dim": 8,
         "laurel_rank": 4, "layer_types": ["full_attention"] * 4, "activation_sparsity_pattern": None},
        "more than one residual",
    ),
    "chunks": ("llama4_text", {"num_local_experts": 2, "intermediate_size_mlp": 64, "head_dim": 8}, "no decoder"),
}  # fmt: skip


def folder_of(kind: str, options: dict[str, Any], tiny_llama: Path, folder: Path) -> Path:
    """A random model of a kind, with the tiny Llama's tokenizer. Norms and biases are random too, so that they tell."""
    shutil.copytree(tiny_llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **options}))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", EXACT)
def test_it_comes_out_as_transformers_computes_it(tiny_llama: Path, tmp_path: Path, name: str) -> None:
    """Several texts at once in small chunks, longer than a sliding window, against each alone with no memory at all."""
    folder = folder_of(*EXACT[name], tiny_llama, tmp_path / "model")
    engine = LocalEngine(str(folder), dtype="float32", device="cpu", chunk=7)
    engine.attach(random_dictionary(layers=(1,)))
    drawn = torch.Generator().manual_seed(1)
    lengths = [min(n, engine.info.window - 6) for n in (5, 40, 23)]
    texts = [torch.randint(5, 261, (n,), generator=drawn).tolist() for n in lengths]
    contexts = [Context().append(text) for text in texts]
    vocabulary = tuple(((t,),) for t in range(261))
    found = everything(
        engine,
        [Score(c, vocabulary) for c in contexts]
        + [Read(c, tuple(range(len(c))), (0, 1, 2)) for c in contexts]
        + [Generate(c, Sampling(0, 1, 5), logprobs=True) for c in contexts],
    )
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    for i, text in enumerate(texts):
        with torch.no_grad():
            whole = plain(torch.tensor([text]), use_cache=False, output_hidden_states=True)
            after = plain(torch.tensor([[*text, *found[6 + i].tokens]]), use_cache=False).logits[0, len(text) - 1 :]
        close = {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(torch.tensor(found[i].logprobs), torch.log_softmax(whole.logits[0, -1], -1), **close)
        residuals = torch.stack([whole.hidden_states[layer + 1][0] for layer in (0, 1, 2)], 1)
        torch.testing.assert_close(found[3 + i].values, residuals, **close)
        logprobs = torch.log_softmax(after, -1)[torch.arange(len(after) - 1), torch.tensor(found[6 + i].tokens)]
        torch.testing.assert_close(torch.tensor(found[6 + i].logprobs), logprobs, **close)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_this_engine_would_compute_wrongly_is_refused(tiny_llama, tmp_path, name: str, dtype: str) -> None:
    kind, options, why = REFUSED[name]
    folder = folder_of(kind, options, tiny_llama, tmp_path / "model")
    with pytest.raises(Unsupported, match=why):
        LocalEngine(str(folder), dtype=dtype, device="cpu")


def test_blocks_are_those_of_the_text_and_not_of_as_many_for_images() -> None:
    image = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        "gemma3", text_config={**SMALL, "head_dim": 8}, vision_config={**image, "image_size": 28, "patch_size": 14}
    )
    model = AutoModelForCausalLM.from_config(config)
    assert loading.decoder_blocks(model) is model.get_decoder().layers


def test_no_context_is_longer_than_positions_turn_alike(tiny_llama: Path, tmp_path: Path) -> None:
    kind, options = EXACT["other turns beyond 32 tokens"]
    engine = LocalEngine(str(folder_of(kind, options, tiny_llama, tmp_path / "model")), device="cpu")
    assert engine.info.window == 32


def test_the_proof_leaves_no_trace_and_can_fail(tiny_llama: Path) -> None:
    engine = LocalEngine(str(tiny_llama), device="cpu")
    assert not engine._store.lanes and not engine._store.bytes() and engine.tokens_computed == 0
    expected = proof.plain(AutoModelForCausalLM.from_pretrained(tiny_llama))
    proof.check(engine._forward, expected)
    with pytest.raises(Unsupported, match="come out wrong"):
        proof.check(engine._forward, expected.flip(0))
