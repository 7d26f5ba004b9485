"""Logits to tokens, row by row: each row has its own temperature, cut-off and uniform draw.

Knows no model. A token is a function of its row's logits and its row's draw alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

By = tuple[Tensor, Tensor, Tensor, tuple[bool, bool, bool]]


def ahead(settings: list[tuple[float, float, float]], device: torch.device) -> By:
    """Temperature, top_p and uniform number of each row, as `draw` takes them, on the device before the logits are:
    whatever is copied there later waits for these."""
    numbers = torch.tensor(settings, dtype=torch.float32).view(-1, 3)
    sampled = numbers[:, 0] > 0
    known = bool(sampled.all()), bool(sampled.any()), bool((numbers[:, 1] < 1).any())
    temperature, top_p, uniform = numbers.to(device).unbind(1)
    return temperature, top_p, uniform, known


def draw(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    uniform: Tensor,
    known: tuple[bool, bool, bool] | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens [R] and their log-probabilities [R] under the model itself (temperature 1, no cut-off).

    logits: [R, V]; temperature, top_p, uniform: [R]. Temperature 0 takes the largest logit, the lowest id on ties.
    Otherwise the token is where the cumulated probability first exceeds the draw: one uniform number a token.
    known: whether all, and any, temperatures are above 0, and any top_p below 1; to look it up is to wait for a GPU.
    """
    logits = logits.float()
    sampled = temperature > 0
    warm, some, cut = known or (bool(sampled.all()), bool(sampled.any()), bool((top_p < 1).any()))
    # over a large vocabulary each of these takes as long as the other: only what is asked for
    greedy = torch.zeros_like(temperature, dtype=torch.long) if warm else logits.argmax(-1)
    tokens = greedy
    if some:
        probabilities = torch.softmax(logits / temperature.clamp_min(1e-6)[:, None], -1)
        if cut:
            probabilities = _nucleus(probabilities, top_p)
        cumulated = probabilities.cumsum(-1)
        # the last bit of the sum is not 1 in floating point: the draw is scaled to what the sum really is
        target = (uniform[:, None] * cumulated[:, -1:]).clamp_max(cumulated[:, -1:] * (1 - 1e-7))
        found = torch.searchsorted(cumulated, target, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
        tokens = torch.where(sampled, found, greedy)
    return tokens, torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]


def _nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Zero outside the smallest set of most likely tokens whose probability reaches top_p (Holtzman et al. 2020)."""
    ordered, index = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    # sums are rounded: what top_p 1 keeps must not hang on whether a neighbour has another
    kept = torch.where((before < top_p[:, None]) | (top_p[:, None] >= 1), ordered, torch.zeros_like(ordered))
    return torch.zeros_like(probabilities).scatter(-1, index, kept)
