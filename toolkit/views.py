"""Controls as dictionaries: functions from a dictionary to one that differs in exactly one part.

Arms replace what steering adds; label views replace what features are called; `random_features` replaces what
INSPECT measures. The model is told the same, the same code runs. Knows no engine or scenario.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from toolkit import labels as label_views
from toolkit.dictionary import Directions, FeatureDictionary, Reader
from toolkit.errors import BadInput
from toolkit.randomness import cycle, stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# ---------------------------------------------------------------------- arms: what steering really adds


def zeroed(dictionary: FeatureDictionary, seed: int = 0) -> FeatureDictionary:
    """Placebo: every direction is zero. Everything else, INSPECT included, stays true."""
    return replace(dictionary, directions=_Zeroed(dictionary.directions))


def scrambled(dictionary: FeatureDictionary, seed: int = 0) -> FeatureDictionary:
    """Every direction becomes a random one of equal norm, drawn anew for each feature and layer."""
    return replace(dictionary, directions=_Scrambled(dictionary.directions, seed))


def permuted(dictionary: FeatureDictionary, seed: int = 0) -> FeatureDictionary:
    """Every feature steers with another feature's direction and unit; none keeps its own."""
    return replace(dictionary, directions=_Permuted(dictionary.directions, cycle(len(dictionary), "cycle", seed), seed))


# ---------------------------------------------------------------------- views: what the model is shown


def opaque(dictionary: FeatureDictionary, seed: int = 0) -> FeatureDictionary:
    """Labels are shown as feature_12; SEARCH still finds by true meaning."""
    return replace(dictionary, labels=label_views.opaque(dictionary.labels))


def shuffled(dictionary: FeatureDictionary, seed: int = 0) -> FeatureDictionary:
    """One permutation of the labels over the features, the same for INSPECT and SEARCH; none keeps its own. Steering
    acts on true ids."""
    return replace(dictionary, labels=label_views.shuffled(dictionary.labels, seed))


def random_features(dictionary: FeatureDictionary, seed: int = 0) -> FeatureDictionary:
    """INSPECT shows other features with the true values: one fixed permutation of the reading; steering is true.

    It is another permutation than that of `permuted`: with the same one, both together would be a dictionary whose
    reading and steering agree, under other labels.
    """
    moved = cycle(len(dictionary), "cycle of readings", seed)
    return replace(dictionary, reader=_PermutedReader(dictionary.reader, moved, seed))


View = Callable[[FeatureDictionary, int], FeatureDictionary]
ARMS: dict[str, View] = {
    "target": lambda dictionary, seed: dictionary,
    "zero": zeroed,
    "random": scrambled,
    "other": permuted,
}
VIEWS: dict[str, View] = {
    "true": lambda dictionary, seed: dictionary,
    "opaque": opaque,
    "shuffled": shuffled,
    "random": random_features,
}


def viewed(
    dictionary: FeatureDictionary, label_view: str = "true", arm: str = "target", seed: int = 0
) -> FeatureDictionary:
    """The dictionary under a named view and arm. Raises BadInput for names that are none."""
    for kind, name, table in (("label view", label_view, VIEWS), ("arm", arm, ARMS)):
        if name not in table:
            raise BadInput(f"{kind} {name!r} is unknown; use one of {', '.join(table)}")
    return ARMS[arm](VIEWS[label_view](dictionary, seed), seed)


# ---------------------------------------------------------------------- parts


class _Wrapped:
    """Directions that leave everything as it is; the arms below each replace one method."""

    def __init__(self, inner: Directions, name: str) -> None:
        self.inner = inner
        self.d_model, self.layers, self.unit = inner.d_model, inner.layers, inner.unit
        self.digest = hashlib.sha256(f"{name} {inner.digest}".encode()).hexdigest()[:16]

    def vectors(self, ids: Sequence[int]) -> Tensor:
        return self.inner.vectors(ids)

    def units(self, ids: Sequence[int]) -> Tensor:
        return self.inner.units(ids)

    def activation(self, layer: int, residuals: Tensor, ids: Sequence[int]) -> Tensor:
        return self.inner.activation(layer, residuals, ids)

    def input_scale(self, residuals: Tensor) -> Tensor | None:
        return self.inner.input_scale(residuals)


class _Zeroed(_Wrapped):
    def __init__(self, inner: Directions) -> None:
        super().__init__(inner, "zero")

    def vectors(self, ids: Sequence[int]) -> Tensor:
        return self.inner.vectors(ids) * 0.0


class _Scrambled(_Wrapped):
    def __init__(self, inner: Directions, seed: int) -> None:
        super().__init__(inner, f"random {seed}")
        self.seed = seed

    def vectors(self, ids: Sequence[int]) -> Tensor:
        true = self.inner.vectors(ids)
        drawn = [
            stream("scrambled", self.seed, int(i), layer).normal(size=self.d_model)
            for i in ids
            for layer in self.layers
        ]
        random = true.new_tensor(np.array(drawn)).reshape(true.shape)
        return random / random.norm(dim=-1, keepdim=True) * true.norm(dim=-1, keepdim=True)


class _Permuted(_Wrapped):
    def __init__(self, inner: Directions, cycle: np.ndarray, seed: int) -> None:
        super().__init__(inner, f"other {seed}")
        self.cycle = cycle

    def _others(self, ids: Sequence[int]) -> list[int]:
        return [int(self.cycle[i]) for i in ids]

    def vectors(self, ids: Sequence[int]) -> Tensor:
        return self.inner.vectors(self._others(ids))

    def units(self, ids: Sequence[int]) -> Tensor:
        return self.inner.units(self._others(ids))

    def activation(self, layer: int, residuals: Tensor, ids: Sequence[int]) -> Tensor:
        return self.inner.activation(layer, residuals, self._others(ids))


@dataclass(frozen=True, eq=False)
class _PermutedReader:
    inner: Reader
    cycle: np.ndarray
    seed: int

    @property
    def layer(self) -> int:
        return self.inner.layer

    @property
    def digest(self) -> str:
        return f"{self.inner.digest}-readings-{self.seed}"

    def encode(self, residuals: Tensor) -> Tensor:
        return self.inner.encode(residuals)[:, self.cycle.tolist()]

    def move(self, device: torch.device, most: int) -> None:
        self.inner.move(device, most)
