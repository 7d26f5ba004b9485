"""Weights laid out once for the CPU's own matrix kernels: faster for few rows, the same bits for any number of them.

Knows no model and no engine: it takes over the `nn.Linear` modules of whatever it is given.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

KINDS = (torch.float32, torch.bfloat16)
LEAST = 1 << 17  # numbers in a weight from which on packing pays; calls of smaller ones cost more than they save


def pack(model: nn.Module, rows: int, most_bytes: int) -> int:
    """Have every linear layer that is not tiny compute from a packed copy of its weights; returns the copies' bytes.

    The general kernels repack the weights at every call when rows are few, and choose by the number of rows, so that
    the last bits of a row depend on its neighbours. The packed ones do neither (oneDNN; measured in
    tests/engines/test_invariance.py). The weights themselves stay where they are, for whoever reads them.
    rows: how many a step usually has. most_bytes: nothing is packed in a model whose copies would take more: a rule
    of the model alone, so that the same model has the same bits on a machine with less memory.
    Returns 0 where nothing was packed: no oneDNN, another device or dtype, a model that is too large.
    """
    found = [m for m in model.modules() if type(m) is nn.Linear and m.weight.numel() >= LEAST]
    usable = torch.backends.mkldnn.is_available() and all(
        m.weight.device.type == "cpu" and m.weight.dtype in KINDS for m in found
    )
    size = sum(m.weight.nbytes for m in found)
    if not usable or not found or size > most_bytes:
        return 0
    for module in found:
        module.forward = _linear(module, rows)  # type: ignore[method-assign,assignment]
    return size


def _linear(module: nn.Linear, rows: int) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), rows)
    bias = None if module.bias is None else module.bias.detach()
    compute = torch.ops.mkldnn._linear_pointwise

    def forward(given: Tensor) -> Tensor:
        found: Tensor = compute(given, weight, bias, "none", [], "")
        return found

    return forward
