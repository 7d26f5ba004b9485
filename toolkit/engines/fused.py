"""Parts of a model taken over by kernels, in float32 on a CPU: norms, gated MLPs and attention with rotary positions.

What a small model's step takes is mostly the calling of many small operations; these are few. Knows no requests and no
schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.engines import kernels, packed
from toolkit.engines.attention import Attention

TRANSFORMERS = "transformers."
CLOSE = 1e-3  # how far residuals may move, over their root mean square; rounding moves them by far less


def take_over(model: nn.Module, attention: Attention, rows: int, residuals: Callable[[], Tensor]) -> set[nn.Linear]:
    """Take over all parts of the classes below; returns the linear layers that are computed side by side since.

    rows: how many a step usually has. residuals: computes some tokens by the whole model. A kind of part after which
    they differ is given back: then this transformers computes something else under that name.
    """
    done: set[nn.Linear] = set()
    for kind, take in KINDS.items():
        before = residuals()
        parts = [part for part in model.modules() if _is(part, kind)]
        beside = [take(part, attention, rows) for part in parts]
        if not (residuals() - before).abs().max() <= CLOSE * before.square().mean().sqrt():
            for part in parts:
                del part.forward  # what its class does is there again
        else:
            done.update(*beside)
    return done


def activate_by_row(model: nn.Module) -> None:
    """Have a kernel compute the activations below: torch's last bits tell how many tokens are computed together."""
    for part in model.modules():
        if (shape := ACTIVATIONS.get(type(part).__name__)) and type(part).__module__.startswith(
            ("torch.", TRANSFORMERS)
        ):
            part.forward = partial(_activated, *shape)


def norms_at_once(model: nn.Module) -> None:
    """Have torch compute norms by one kernel each, on a GPU, where transformers' own take eight. In 16 bits it
    rounds once less."""
    for part in model.modules():
        if _is(part, NORMS):
            part.forward = MethodType(_at_once, part)  # a method, so that a copy's is the copy's


def _at_once(part: Any, hidden_states: Tensor) -> Any:
    if hidden_states.dtype != part.weight.dtype:
        return type(part).forward(part, hidden_states)
    return nn.functional.rms_norm(hidden_states, part.weight.shape, part.weight, part.variance_epsilon)


def _activated(slope: float, bend: float, x: Tensor) -> Tensor:
    given = x.contiguous()
    out = torch.empty_like(given)
    kernels.activate(given.flatten(0, -2).numpy(), slope, bend, out.flatten(0, -2).numpy())
    return out


def _is(part: nn.Module, kind: tuple[str, ...]) -> bool:
    """Whether a part is of one of these classes, of transformers itself: code from elsewhere may bear the name. What is
    in it must be plain too: the proof may not see how little an adapter adds."""
    named = type(part).__name__ in kind and type(part).__module__.startswith(TRANSFORMERS + "models.")
    return named and all(packed.plain(m) for name, m in part.named_children() if name.endswith("_proj"))


def _norm(part: Any, _attention: Attention, _rows: int) -> list[nn.Linear]:
    weight, epsilon = part.weight.detach().numpy(), float(part.variance_epsilon)

    def forward(hidden_states: Tensor) -> Tensor:
        given = hidden_states.contiguous()
        out = torch.empty_like(given)
        kernels.norm(given.view(-1, len(weight)).numpy(), weight, epsilon, out.view(-1, len(weight)).numpy())
        return out

    part.forward = forward
    return []


def _gated(part: Any, _attention: Attention, rows: int) -> list[nn.Linear]:
    beside = [part.gate_proj, part.up_proj]
    both = packed.side_by_side(beside, rows)

    def forward(x: Tensor) -> Any:
        mixed = both(x)
        out = mixed.new_empty(*mixed.shape[:-1], mixed.shape[-1] // 2)
        kernels.gate(mixed.flatten(0, -2).numpy(), out.flatten(0, -2).numpy())
        return part.down_proj(out)

    part.forward = forward
    return beside


def _rotary(part: Any, attention: Attention, rows: int) -> list[nn.Linear]:
    beside = [part.q_proj, part.k_proj, part.v_proj]
    mixed = packed.side_by_side(beside, rows)
    heads = (part.q_proj.out_features // part.head_dim, part.k_proj.out_features // part.head_dim)

    def forward(hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: object) -> tuple[Any, None]:
        cosine, sine = position_embeddings
        out = attention.rotated(part.layer_idx, mixed(hidden_states[0]), heads, (cosine[0], sine[0]), part.scaling)
        return part.o_proj(out.flatten(1))[None], None

    part.forward = forward
    return beside


NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")

# classes with the same forward, which is known; each is given another, and names the linear layers it lays out anew
KINDS: dict[tuple[str, ...], Callable[[Any, Attention, int], list[nn.Linear]]] = {
    NORMS: _norm,
    ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"): _gated,
    ("LlamaAttention",): _rotary,
}

# activations that are x sigmoid(slope (x + bend x^3))
ACTIVATIONS = {
    "SiLU": (1.0, 0.0),
    "SiLUActivation": (1.0, 0.0),
    "QuickGELUActivation": (1.702, 0.0),
    "GELUTanh": (math.sqrt(8 / math.pi), 0.044715),
}
