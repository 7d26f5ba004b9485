"""The organism's model: a tiny Llama, with three attention heads that start out looking things up.

Knows no corpus.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from toolkit.organism.tokens import BEGIN, END, PAD

ROTARY_BASE = 1e6  # slow enough that half of a head's pairs hardly turn over a result list
HOOK_LAYER = 1  # the decoder block whose output the SAE and the vectors are made from


def build_model(
    vocabulary: int, seed: int, *, d_model: int = 128, layers: int = 4, mlp: int = 384, heads: int = 4
) -> LlamaForCausalLM:
    """A fresh model, float32, with its looking-up heads set."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=d_model, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=4096, tie_word_embeddings=True,
        attention_bias=True, rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE}, rms_norm_eps=1e-5,
        bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        set_lookup(model)
    return model


def set_lookup(model: LlamaForCausalLM) -> None:
    """Set three heads so that looking up an index by its label works, weakly, before any training.

    A result shows `label [index]`, so at a later `label [` the wanted token is the one whose second predecessor is
    the label's last word. In block 0, head 0 carries every token's predecessor and head 1 its second predecessor;
    in block 1, head 0 matches the first of the query with the second of the keys and copies the token found.
    Training finds such heads too (induction), but late; it is free to change them.
    """
    width = model.config.hidden_size // model.config.num_attention_heads
    d_model = model.config.hidden_size
    # Disjoint orthonormal directions to write predecessors in, and to carry the copied token in.
    basis = torch.linalg.qr(torch.randn(d_model, d_model)).Q
    carried = torch.randn(width, d_model) / d_model**0.5
    places = (basis[:, :width], basis[:, width : 2 * width])
    first = model.model.layers[0].self_attn
    for head, (back, place) in enumerate(zip((1, 2), places, strict=True)):
        look_back(model, layer=0, head=head, back=back)
        rows = slice(head * width, (head + 1) * width)
        first.v_proj.weight[rows] = carried
        first.o_proj.weight[:, rows] = 0.04 * place
    second = model.model.layers[1].self_attn
    rows = slice(0, width)
    # Rotary pairs that turn slowly: they match over the length of a result list.
    slow = (torch.arange(width) % (width // 2) >= width // 4).float()[:, None]
    second.q_proj.weight[rows] = 1.6 * slow * places[0].T
    second.k_proj.weight[rows] = 1.6 * slow * places[1].T
    copied = basis[:, 2 * width : 3 * width]
    second.v_proj.weight[rows] = 0.5 * copied.T
    second.o_proj.weight[:, rows] = 0.1 * copied


def look_back(model: LlamaForCausalLM, *, layer: int, head: int, back: int, gain: float = 6.0) -> None:
    """Set a head so that every token attends to the token `back` places before it, whatever the tokens are.

    Induction (copying what followed an earlier occurrence) needs such heads and is slow to find them; the index of
    a label stands two tokens after its last word. With rotary embeddings a constant query q and key k score
    R(p) q . R(p - back) k, which is largest where q = R(-back) k.
    """
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    angle = -back / ROTARY_BASE ** (torch.arange(0, width, 2).float() / width)
    rows = slice(head * width, (head + 1) * width)
    attention = model.model.layers[layer].self_attn
    with torch.no_grad():
        attention.q_proj.weight[rows] *= 0.05
        attention.k_proj.weight[rows] *= 0.05
        attention.k_proj.bias[rows] = torch.cat([torch.full((width // 2,), gain), torch.zeros(width // 2)])
        attention.q_proj.bias[rows] = gain * torch.cat([torch.cos(angle), torch.sin(angle)])
