"""What training does at the hook layer besides predicting tokens: readers of style and topic, and pushes.

Both are dropped afterwards; the model card says what they do to the organism. Knows no corpus.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.organism.mixture import Batch

NONE_WEIGHT = 0.3  # of "no style" and "no topic" in the auxiliary loss


class Heads(nn.Module):
    """Linear readers of style and topic off a normalised residual: [.., D] to two sets of class scores."""

    def __init__(self, d_model: int, styles: int, topics: int) -> None:
        super().__init__()
        self.style = nn.Linear(d_model, styles + 1)
        self.topic = nn.Linear(d_model, topics + 1)

    def loss(self, residual: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of both readers over the tokens that have a class; "none" is common, so it counts less."""
        h = F.rms_norm(residual.float(), residual.shape[-1:])
        total = h.new_zeros(())
        for head, target in ((self.style, batch.style), (self.topic, batch.topic)):
            known = target >= 0
            if known.any():
                scale = torch.ones(head.out_features)
                scale[0] = NONE_WEIGHT
                total = total + F.cross_entropy(head(h[known]), target[known], weight=scale)
        return total


class Pusher:
    """Adds styles' directions to the residuals at the hook layer, as an experimenter would, where a batch says so.

    A style's direction is the running mean residual of its tokens less that of plain ones: what the mean-difference
    vectors of the finished organism are. Strengths are in running mean residual norms.
    """

    def __init__(self, classes: int, d_model: int, seed: int, keep: float = 0.99) -> None:
        self.sums = torch.zeros(classes, d_model)
        self.counts = torch.zeros(classes)
        self.norm = 0.0
        self.keep = keep
        self.generator = torch.Generator().manual_seed(seed)
        self.residual = torch.zeros(0)
        self.delta: Tensor | None = None

    def __call__(
        self, _module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...] | None:
        """The forward hook."""
        h = output[0] if isinstance(output, tuple) else output
        self.residual = h
        if self.delta is None or self.delta.shape[:2] != h.shape[:2]:
            return None
        pushed = h + self.delta
        return (pushed, *output[1:]) if isinstance(output, tuple) else pushed

    def prepare(self, batch: Batch) -> None:
        """Work out what the next forward pass adds: [R, T, D]; nothing before every style has been seen."""
        self.delta = None
        if not batch.push.any() or float(self.counts.min()) < 20:
            return
        means = self.sums / self.counts[:, None]
        directions = means - means[0]
        rows = directions[batch.pull]
        random_rows = torch.randn(rows.shape, generator=self.generator)
        rows = torch.where((batch.pull == 0)[:, None], random_rows, rows)
        self.delta = self.norm * batch.push[..., None] * F.normalize(rows, dim=-1)[:, None]

    def observe(self, batch: Batch) -> None:
        """Update the running means with the residuals of the pass just made, where nothing was added."""
        h = self.residual.detach().float()
        free = (batch.push == 0) & (batch.weights > 0)
        self.sums *= self.keep
        self.counts *= self.keep
        known = free & (batch.style >= 0)
        self.sums.index_add_(0, batch.style[known], h[known])
        self.counts += torch.bincount(batch.style[known], minlength=len(self.counts)).float()
        if known.any():
            norm = float(h[known].norm(dim=-1).mean())
            self.norm = norm if self.norm == 0 else self.keep * self.norm + (1 - self.keep) * norm
