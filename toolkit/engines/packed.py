"""Weights laid out once for the CPU's own matrix kernels: faster for few rows, the same bits for any number of them.

Knows no model and no engine: it takes over the `nn.Linear` modules of whatever it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

KINDS = (torch.float32, torch.bfloat16)
Linear = Callable[[Tensor], Tensor]
LEAST = 1 << 17  # numbers in a weight from which on packing pays; calls of smaller ones cost more than they save


def plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer computes its weight and bias and no more: one that is quantised or has an adapter does not."""
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter


def copies(model: nn.Module) -> int:
    """Bytes that the model's linear layers take once more, if all of them are packed."""
    return sum(m.weight.nbytes for m in model.modules() if plain(m))


def pack(model: nn.Module, rows: int, done: Collection[nn.Module] = ()) -> int:
    """Have every linear layer that is not tiny compute from a packed copy of its weights; returns the copies' bytes.

    The general kernels repack the weights at every call when rows are few, and choose by the number of rows, so that
    the last bits of a row depend on its neighbours. The packed ones do neither (oneDNN; measured in
    tests/engines/test_invariance.py). The weights themselves stay where they are, for whoever reads them.
    rows: how many a step usually has. done: layers that have a copy already.
    """
    found = [m for m in model.modules() if plain(m) and m not in done and _pays(m.weight)]
    for module in found:
        module.forward = linear(module.weight, module.bias, rows)  # type: ignore[method-assign,assignment]
    return sum(m.weight.nbytes for m in found)


def side_by_side(layers: Sequence[nn.Linear], rows: int) -> Linear:
    """One linear layer whose outputs are those of several, side by side."""
    weight = torch.cat([one.weight.detach() for one in layers])
    biases = [one.bias.detach() for one in layers if one.bias is not None]
    return linear(weight, torch.cat(biases) if biases else None, rows)


def linear(weight: Tensor, bias: Tensor | None, rows: int) -> Linear:
    """x @ weight.T + bias [out], from a packed copy of the weight [out, in] if that pays."""
    given = None if bias is None else bias.detach()
    if not _pays(weight):
        return partial(nn.functional.linear, weight=weight.detach(), bias=given)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    compute = torch.ops.mkldnn._linear_pointwise

    def forward(x: Tensor) -> Tensor:
        found: Tensor = compute(x, laid_out, given, "none", [], "")
        return found

    return forward


def _pays(weight: Tensor) -> bool:
    """Whether the packed kernels take this weight, and are faster for it."""
    usable = torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype in KINDS
    return usable and weight.numel() >= LEAST
