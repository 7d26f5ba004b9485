"""The steering table: one row of deltas a steering, gathered by each token's row id and added at its layer.

Row 0 is all zeros (no steering), row 1 is the canary. Knows no tokens, caches or requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.dictionary import Directions, FeatureDictionary
from toolkit.errors import DictionaryMismatch, SteeringError, Unsupported
from toolkit.steering import NO_STEERING, Steering

CANARY = 1


@dataclass(frozen=True)
class Edit:
    """A clamp or a projection: it depends on the residual, so it cannot be a table row.

    column: the place of this layer among the dictionary's. level: s * unit, the activation that clamp sets.
    """

    mode: str
    directions: Directions
    feature: int
    column: int
    level: float


class SteeringTable:
    """Interns steerings to rows and adds their deltas. Grows with the number of distinct steerings, never with tokens.

    dtype: of the rows; float32 unless the model itself computes in float64. floor: rows that edits are padded to.
    """

    def __init__(self, n_layers: int, d_model: int, device: torch.device, dtype: torch.dtype, floor: int = 1) -> None:
        self.floor = floor
        self.n_layers, self.d_model, self.device, self.dtype = n_layers, d_model, device, dtype
        self.steerings: list[Steering | None] = [NO_STEERING, None]
        self._rows: dict[Steering, int] = {NO_STEERING: 0}
        self._dictionaries: dict[str, FeatureDictionary] = {}
        # (layer, "") holds deltas in residual space, (layer, dictionary key) those in the space of a dictionary
        # that normalises its input, whose size in residual space depends on the token
        self._deltas: dict[tuple[int, str], Tensor] = {}
        self._edits: dict[int, dict[int, list[Edit]]] = {}
        self.generation = 0  # counts the times that tables were allocated anew

    @property
    def layers(self) -> frozenset[int]:
        """The layers at which something may be added."""
        return frozenset(self._edits)

    @contextmanager
    def attaching(self, dictionary: FeatureDictionary) -> Iterator[list[int]]:
        """Attach a dictionary; the layers that are new with it, in order, for a canary each. Where the block raises,
        it is taken back, so that the next try is no less of one. Raises DictionaryMismatch as `attach` does."""
        known, proven = self.layers, False
        self.attach(dictionary)
        new = sorted(self.layers - known)
        try:
            yield new
            proven = True
        finally:
            if new and not proven:
                del self._dictionaries[dictionary.key]
                for layer in new:
                    del self._edits[layer], self._deltas[layer, ""]
                self.generation += 1

    def attach(self, dictionary: FeatureDictionary) -> None:
        """Raises DictionaryMismatch if its width or layers do not fit the model, or if one that is attached differs
        from it in the layer that it reads alone."""
        directions = dictionary.directions
        if directions.d_model != self.d_model:
            raise DictionaryMismatch(
                f"dictionary {dictionary.name} has directions of width {directions.d_model}, the model's residual"
                f" stream has {self.d_model}; open the dictionary that was trained on this model"
            )
        acts = (*directions.layers, dictionary.reader.layer)
        outside = [layer for layer in acts if not 0 <= layer < self.n_layers]
        if outside:
            raise DictionaryMismatch(
                f"dictionary {dictionary.name} acts on layer {outside[0]}, the model has 0 to {self.n_layers - 1}"
            )
        known = self._dictionaries.setdefault(dictionary.key, dictionary)
        if known.reader.layer != dictionary.reader.layer:
            raise DictionaryMismatch(
                f"dictionary {dictionary.name} steers as {known.name} does and reads layer {dictionary.reader.layer},"
                f" not {known.reader.layer}; INSPECT could not tell them apart, so use an engine for each"
            )
        for layer in directions.layers:
            if layer not in self._edits:
                self._deltas[layer, ""] = self._empty()
                self._edits[layer] = {}
                self.generation += 1

    def dictionary(self, key: str) -> FeatureDictionary:
        try:
            return self._dictionaries[key]
        except KeyError:
            raise SteeringError(f"dictionary {key} is not attached; call engine.attach(dictionary) first") from None

    def row(self, steering: Steering) -> int:
        """The row of a steering, made on first use. Raises SteeringError if a part of it cannot be applied."""
        known = self._rows.get(steering)
        if known is not None:
            return known
        row = len(self.steerings)
        sums: dict[tuple[int, str], Tensor] = {}
        edits: dict[int, list[Edit]] = {}
        for i in steering:
            directions = self.dictionary(i.dictionary).directions
            if not i.feature < len(self.dictionary(i.dictionary)):
                raise SteeringError(f"feature {i.feature} is not in dictionary {i.dictionary}; see its length")
            vectors = directions.vectors([i.feature])[0].to(self.device, self.dtype)
            levels = directions.units([i.feature])[0].to(self.device, self.dtype) * i.strength
            if not (bool(vectors.isfinite().all()) and bool(levels.isfinite().all())):
                raise SteeringError(
                    f"feature {i.feature} of dictionary {i.dictionary} has a direction that is not finite"
                )
            scaled = directions.input_scale(vectors[:1]) is not None
            for column, layer in enumerate(directions.layers):
                if i.mode == "add":
                    place = (layer, i.dictionary if scaled else "")
                    sums[place] = sums.get(place, 0) + levels[column] * vectors[column]
                else:
                    edit = Edit(i.mode, directions, i.feature, column, float(levels[column]))
                    edits.setdefault(layer, []).append(edit)
        self._reserve(row)
        for table in self._deltas.values():
            table[row] = 0  # memory may have run out when this row was first filled, for another steering
        for (layer, key), delta in sums.items():
            self._put(layer, key, row, delta)
        for layer, at_layer in edits.items():
            self._edits[layer][row] = at_layer
        self.steerings.append(steering)
        self._rows[steering] = row
        return row

    def edited(self, rows: Iterable[int]) -> bool:
        """Whether a row among these has a part that is no table row, but depends on the residual."""
        return any(row in edited for edited in self._edits.values() for row in rows)

    def counts(self, applied: Mapping[int, int]) -> dict[Steering, int]:
        """Numbers of tokens by row, as numbers of tokens by steering."""
        return {s: n for row, n in applied.items() if (s := self.steerings[row]) is not None}

    def set_canary(self, layer: int, residual: Tensor) -> None:
        """Fill row 1 at one layer and empty it at the others, for the check that steering reaches the logits.

        residual: [D], of the token that the canary will be added to.
        """
        turned = quarter_turn(residual.to(self.device, self.dtype))
        for one in self.layers:
            self._put(one, "", CANARY, torch.zeros_like(turned) if one != layer else turned)

    def apply(self, layer: int, hidden: Tensor, rows: Tensor, present: Iterable[int]) -> Tensor:
        """h' for block outputs [T, D] at `layer`; rows [T] on the device; present: the distinct rows among them.

        Every part is computed from the h that came in, and the parts add up, so order does not matter.
        """
        change = self._deltas[layer, ""].index_select(0, rows)
        for (at, key), table in self._deltas.items():
            if at == layer and key:
                scale = self._dictionaries[key].directions.input_scale(hidden)
                if scale is None:
                    raise SteeringError(f"dictionary {key} stopped scaling its input; steering would be wrong")
                change = change + table.index_select(0, rows) * scale.to(change.dtype)
        for row in present:
            for edit in self._edits[layer].get(row, ()):
                where = (rows == row).nonzero()[:, 0]
                # padded like the pack itself: matrix kernels for few rows round differently
                few = torch.nn.functional.pad(hidden[where], (0, 0, 0, max(0, self.floor - len(where))))
                change = change.index_add(0, where, _edited(edit, layer, few, change.dtype)[: len(where)])
        return hidden + change.to(hidden.dtype)

    def portable(self, rows: Sequence[int]) -> dict[int, tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
        """What `rows` do, as tensors alone, for a machine without dictionaries. On the CPU, by layer.

        A layer has deltas [R, D], one for each of `rows`, and directions [D] of length 1, each with which of `rows` it
        is projected out of, [R] of 0 and 1. Raises Unsupported for what depends on an encoder or on the token.
        """
        found: dict[int, tuple[Tensor, list[tuple[Tensor, Tensor]]]] = {}
        for layer in sorted(self.layers):
            if any(at == layer and key and bool(table[list(rows)].any()) for (at, key), table in self._deltas.items()):
                raise Unsupported(
                    "a dictionary that normalises its input scales steering by the token, which this engine cannot; use"
                    " the local engine"
                )
            projections = []
            for place, row in enumerate(rows):
                for edit in self._edits[layer].get(row, ()):
                    if edit.mode != "project_out":
                        raise Unsupported(
                            f"mode {edit.mode} needs the dictionary's encoder beside the model, which a remote one does"
                            " not have; use add or project_out, or the local engine"
                        )
                    vector = edit.directions.vectors([edit.feature])[0, edit.column].to(self.dtype)
                    on = torch.zeros(len(rows), dtype=self.dtype)
                    on[place] = 1
                    projections.append((vector / vector.norm().clamp_min(1e-15), on))
            found[layer] = self._deltas[layer, ""][list(rows)].cpu(), projections
        return found

    def _put(self, layer: int, key: str, row: int, delta: Tensor) -> None:
        if (layer, key) not in self._deltas:
            self._deltas[layer, key] = self._empty()
            self.generation += 1
        self._reserve(row)
        self._deltas[layer, key][row] = delta

    def _reserve(self, row: int) -> None:
        """Make all tables at least row + 1 long, by doubling."""
        for place, table in self._deltas.items():
            if row >= len(table):
                grown = table.new_zeros(max(2 * len(table), row + 1), self.d_model)
                grown[: len(table)] = table
                self._deltas[place] = grown
                self.generation += 1

    def _empty(self) -> Tensor:
        few = 16 if self.device.type == "cpu" else 1024  # a captured step holds the table's address: it seldom grows
        return torch.zeros(max(few, len(self.steerings) + 1), self.d_model, device=self.device, dtype=self.dtype)


def _edited(edit: Edit, layer: int, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """[t, D]: what a clamp or a projection adds to residuals [t, D]."""
    vector = edit.directions.vectors([edit.feature])[0, edit.column].to(hidden.device, dtype)
    if edit.mode == "project_out":
        # a sum a row: the product of a matrix and a vector rounds by how many rows there are
        inner = (hidden.to(dtype) * vector).sum(-1, keepdim=True)
        return -inner / vector.square().sum().clamp_min(1e-30) * vector
    active = edit.directions.activation(layer, hidden, [edit.feature]).to(dtype)
    step = (edit.level - active) * vector
    scale = edit.directions.input_scale(hidden)
    return step if scale is None else step * scale.to(dtype)


def quarter_turn(residual: Tensor) -> Tensor:
    """What a canary adds to a residual [D]: as long as that, and at a right angle to it, whatever it is.

    A multiple of the residual could vanish in the norm behind it. Of an odd D the last number is left at 0.
    """
    half = len(residual) // 2
    turned = torch.zeros_like(residual)
    turned[:half], turned[half : 2 * half] = -residual[half : 2 * half], residual[:half]
    return turned


def distinct(rows: Sequence[int]) -> tuple[int, ...]:
    """The distinct rows of a pack, for `apply`."""
    return tuple(dict.fromkeys(rows))
