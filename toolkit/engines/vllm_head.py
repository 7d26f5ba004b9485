"""Scores in vLLM: the model's own final norm and head, in float32, on residuals of its last layer.

Knows vLLM's modules; no steering, request or hook on a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.logits_processor import LogitsProcessor

NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")


class Head:
    """The final norm and head of the model on this worker, which has its last block.

    Raises RuntimeError if the norm is not found.
    """

    def __init__(self, model: torch.nn.Module, last: torch.nn.Module) -> None:
        names = {id(part): name for name, part in model.named_modules()}
        beside = model.get_submodule(names[id(last)].rsplit(".", 2)[0])
        norms = [norm for name in NORMS if (norm := getattr(beside, name, None)) is not None]
        if not norms:
            raise RuntimeError(f"{type(model).__name__} has no final norm by a name that is known: {', '.join(NORMS)}")
        self._norm: torch.nn.Module = norms[0]
        self._logits: tuple[Any, Any, Any] | None = None
        for part in model.modules():
            if isinstance(part, LogitsProcessor):
                part.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, processor: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What the model itself makes logits with: its head, or its embedding, and perhaps a bias."""
        bias = args[2] if len(args) > 2 else kwargs.get("embedding_bias")
        self._logits = (processor, args[0] if args else kwargs["lm_head"], bias)

    def score(
        self, wanted: Sequence[tuple[int, Sequence[int]]], residuals: Mapping[int, Tensor]
    ) -> list[tuple[float, dict[int, float]]]:
        """For each (position, tokens) the log-sum-exp of this worker's part of the vocabulary, and its tokens' logits.

        residuals: [D] after the last block, by position. In float32 from the final norm on, as
        toolkit/engines/loading.py has it.
        """
        if not wanted:
            return []
        if self._logits is None:
            raise RuntimeError("this model makes its logits in a way of its own, which cannot be made again")
        scaling, head, bias = self._logits
        shard = head.shard_indices
        first, size = shard.org_vocab_start_index, shard.org_vocab_end_index - shard.org_vocab_start_index
        found = []
        for at, tokens in wanted:
            normed = _in_float32(self._norm, residuals[at].to(head.weight.device)[None])
            logits = torch.cat([normed @ w.float().T for w in head.weight[:size].split(16_384)], -1)
            logits = logits if bias is None else logits + bias[:size].float()
            logits = logits if scaling.soft_cap is None else torch.tanh(logits / scaling.soft_cap) * scaling.soft_cap
            values = (logits * scaling.scale)[0].detach().double().cpu()
            here = {token: float(values[token - first]) for token in set(tokens) if 0 <= token - first < size}
            found.append((float(torch.logsumexp(values, 0)), here))
        return found


def _in_float32(norm: torch.nn.Module, residual: Tensor) -> Tensor:
    """A norm's own arithmetic with its weights in float32, which one pass borrows."""
    kept = {name: parameter.data for name, parameter in norm.named_parameters()}
    try:
        for parameter in norm.parameters():
            parameter.data = parameter.data.float()
        found = norm(residual)
    finally:
        for name, parameter in norm.named_parameters():
            parameter.data = kept[name]
    normed: Tensor = found[0] if isinstance(found, tuple) else found
    return normed
