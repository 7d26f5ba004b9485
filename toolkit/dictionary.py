"""A feature dictionary: labelled directions of one model, and how to read activations off a residual.

Three parts make one: `labels` (what features are called and how they are found), `directions` (what steering
adds) and `reader` (what INSPECT measures). SAE latents and mean-difference vectors differ only in these parts.
Controls replace a part: see views.py. Knows no engine, tool or prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from toolkit.labels import Labels, Status
    from toolkit.search import Hit


class Directions(Protocol):
    """What steering writes. L layers are decoder blocks, numbered from 0; a direction acts on a block's output."""

    digest: str
    d_model: int
    layers: tuple[int, ...]
    unit: str  # in words: what strength 1.0 means

    def vectors(self, ids: Sequence[int]) -> Tensor:
        """[n, L, D] float32, the raw direction d_i."""
        ...

    def units(self, ids: Sequence[int]) -> Tensor:
        """[n, L] float32: strength s adds s * unit * d_i."""
        ...

    def activation(self, layer: int, residuals: Tensor, ids: Sequence[int]) -> Tensor:
        """[T, n]: a_i(h) of residuals [T, D] at `layer`, which `clamp` replaces by s * unit."""
        ...

    def input_scale(self, residuals: Tensor) -> Tensor | None:
        """[T, 1]: what a step in the dictionary's own space is multiplied by in residual space; None means 1.

        Not None for an SAE that normalises its input at run time (layer norm, constant norm).
        """
        ...


class Reader(Protocol):
    """What INSPECT measures, at one layer."""

    @property
    def digest(self) -> str: ...

    @property
    def layer(self) -> int: ...

    def encode(self, residuals: Tensor) -> Tensor:
        """[T, F] activations of residuals [T, D]; called on blocks of tokens, never on a whole long response.

        They come on the device of the weights, wherever the residuals are.
        """
        ...

    def move(self, device: torch.device, most: int) -> None:
        """Hold the weights on `device` from now on if they take at most `most` bytes. Nothing else changes."""
        ...


@dataclass(frozen=True)
class FeatureDictionary:
    """Labels, directions and a reader that belong together. Immutable; controls are other dictionaries.

    notes: what a user should know before trusting numbers from it; printed and stored with them.
    """

    name: str
    labels: Labels
    directions: Directions
    reader: Reader
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Content hash of what steering writes; interventions name it, engines attach it."""
        return self.directions.digest

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, feature: int) -> str:
        return self.labels.text(feature)

    def status(self, feature: int) -> Status:
        return self.labels.status(feature)

    def search(self, query: str, k: int) -> list[Hit]:
        """The k features whose labels are nearest in meaning to `query`; ties by id; only labels of status `real`."""
        return self.labels.search(query, k)
