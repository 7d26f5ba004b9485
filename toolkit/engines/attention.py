"""Attention of packed new tokens over their own lanes: by a kernel on a CPU in float32, by torch elsewhere.

Knows no steering, no sampling and no requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from toolkit.engines import kernels
from toolkit.engines.kv import KVStore
from toolkit.errors import Unsupported

ALIGNED = 16  # keys of a piece are a multiple of this (places of a lane are, too): kernels want masks aligned
PARALLEL = 1 << 20  # numbers of keys and values to go through from which on waking a second thread pays
UNLIMITED = 1 << 62  # a window that is none

Placed = tuple[int, int, int, int]  # a span in the pack: lane, first index, count of tokens, position of the first


@dataclass(frozen=True)
class Piece:
    """Tokens of the pack that share a call, `count` from `first` on.

    lanes: the lane of each, side by side from the first on (a range), or one lane that all of them look into (an
    int), or any (a tensor, whose keys are copied). length: keys that are looked at. mask: [count, length].
    """

    first: int
    count: int
    lanes: range | int | Tensor
    length: int
    mask: Tensor
    _added: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def added(self, dtype: torch.dtype) -> Tensor:
        """The mask as what is added to scores: made once a pass, where torch would make it once a layer."""
        if dtype not in self._added:
            self._added[dtype] = torch.zeros_like(self.mask, dtype=dtype).masked_fill(~self.mask, float("-inf"))
        return self._added[dtype]


@dataclass(frozen=True)
class Packed:
    """The new tokens of one forward pass, of several lanes one after another; padding may follow them.

    lanes, positions: [T], where each key goes. Pieces are planned once a pass, for each window size.
    """

    lanes: Tensor
    positions: Tensor
    spans: tuple[Placed, ...]
    active: None = None  # all are
    _plans: dict[int | None, list[Piece]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(count for _, _, count, _ in self.spans)

    @property
    def longest(self) -> int:
        return max(start + count for _, _, count, start in self.spans)

    @property
    def looked_at(self) -> int:
        """Keys that all queries look at, counted for each of them."""
        return sum(count * start + count * (count + 1) // 2 for _, _, count, start in self.spans)

    def pieces(self, window: int | None) -> list[Piece]:
        """How the pass is divided into calls. window: sliding window in tokens."""
        if window not in self._plans:
            self._plans[window] = list(_plan(self.spans, window, self.lanes.device))
        return self._plans[window]


def _plan(spans: Sequence[Placed], window: int | None, device: torch.device) -> Iterator[Piece]:
    """Spans that add one token share calls; longer ones go one by one over their own keys."""

    def piece(first: int, ends: range | list[int], lanes: int | Tensor) -> Piece:
        length = -(-max(ends) // ALIGNED) * ALIGNED
        ends_ = torch.tensor(ends, device=device)[:, None]
        at = torch.arange(length, device=device)
        mask = at < ends_
        return Piece(first, len(ends), lanes, length, mask & (at >= ends_ - window) if window else mask)

    for run in _runs([span for span in spans if span[2] == 1]):
        lanes = torch.tensor([lane for lane, _, _, _ in run], device=device)
        yield piece(run[0][1], [start + 1 for _, _, _, start in run], lanes)
    for lane, first, count, start in spans:
        if count > 1:
            yield piece(first, range(start + 1, start + count + 1), lane)


def _runs(spans: list[Placed]) -> Iterator[list[Placed]]:
    """One-token spans that follow one another in the pack."""
    run: list[Placed] = []
    for span in spans:
        if run and span[1] != run[-1][1] + 1:
            yield run
            run = []
        run.append(span)
    if run:
        yield run


@dataclass(frozen=True)
class Rows:
    """A pass that adds one token to each of some lanes. Nothing of it depends on what the tensors hold.

    lanes, positions: [R]. active: [R], which rows are there; None if all are. keys: places of each lane that are looked
    at. together: whether row r's lane is lane r, so that keys need not be copied.
    """

    lanes: Tensor
    positions: Tensor
    active: Tensor | None
    keys: int
    together: bool
    _plans: dict[int | None, list[Piece]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.lanes)

    @property
    def longest(self) -> int:
        return self.keys

    def pieces(self, window: int | None) -> list[Piece]:
        """One call for all rows, masked."""
        if window not in self._plans:
            at = torch.arange(self.keys, device=self.lanes.device)
            mask = at <= self.positions[:, None]
            if window:
                mask = mask & (at > self.positions[:, None] - window)
            lanes = range(self.count) if self.together else self.lanes
            self._plans[window] = [Piece(0, self.count, lanes, self.keys, mask)]
        return self._plans[window]


class Attention:
    """Writes a pass's keys and values into the store and attends over it. `pack` is the pass being computed.

    threads: over which the kernel's work is dealt out, on a CPU.
    """

    def __init__(self, store: KVStore, threads: int) -> None:
        self.store, self.threads = store, threads
        self.pack: Packed | Rows | None = None
        self._pool = ThreadPoolExecutor(threads - 1, "attention") if threads > 1 else None

    def __call__(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Packed queries [Hq, T, hd] over their own lanes; returns [T, Hq, hd], zeros for padding.

        softcap: scores are squashed to +-softcap by tanh (Gemma 2).
        """
        pack = self.pack
        if pack is None:
            raise TypeError("attention is computed for a pack only")
        count = pack.count
        keys, values = self.store.write(
            layer, key[:, :count], value[:, :count], pack.lanes, pack.positions, pack.longest, pack.active
        )
        if isinstance(pack, Packed) and kernels.usable(query):
            return self._by_kernel(pack, query.transpose(0, 1), keys, values, scaling, window, softcap)
        out = query.new_zeros(query.shape[1], query.shape[0], values.shape[-1])
        for piece in pack.pieces(window):
            _attend(piece, query, keys, values, scaling, softcap, out)
        return out

    def rotated(
        self,
        layer: int,
        mixed: Tensor,
        heads: tuple[int, int],
        rotation: tuple[Tensor, Tensor],
        scaling: float,
    ) -> Tensor:
        """The same by kernels alone, of queries, keys and values side by side [T, (Hq + 2 H) hd], not yet rotated.

        heads: Hq, H. rotation: cosines and sines [T, hd], of rotary positions by halves. Returns [T, Hq, hd].
        """
        pack = self.pack
        if not isinstance(pack, Packed):
            raise TypeError("kernels work on packs of tokens only")
        width = rotation[0].shape[-1]
        shape = (heads[1], width)
        keys, values = self.store.stores(layer, pack.longest, mixed, shape, shape)
        query = mixed.new_zeros(len(mixed), heads[0], width)
        arrays = (mixed, *rotation, pack.lanes, pack.positions, query, keys, values)
        kernels.rotate(*(one.numpy() for one in arrays))
        return self._by_kernel(pack, query, keys, values, scaling, None, None)

    def _by_kernel(
        self,
        pack: Packed,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Every query [T, Hq, hd] of every head is a row of its own; this thread and the pool's take equal shares."""
        out = query.new_zeros(*query.shape[:2], values.shape[-1])
        arrays = (query.contiguous(), keys, values, pack.lanes, pack.positions, out)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        given = (*(one.numpy() for one in arrays), scale, window or UNLIMITED, softcap or 0.0)
        rows = pack.count * query.shape[1]
        if self._pool is None or pack.looked_at * keys.shape[1] * keys.shape[3] < PARALLEL:
            kernels.attend(*given, 0, rows)
            return out
        edges = [rows * share // self.threads for share in range(self.threads + 1)]
        first, *others = pairwise(edges)
        waiting = [self._pool.submit(kernels.attend, *given, *one) for one in others]
        kernels.attend(*given, *first)
        for one in waiting:
            one.result()
        return out


def _attend(
    piece: Piece, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, softcap: float | None, out: Tensor
) -> None:
    """One call: writes [count, Hq, hd] into `out`.

    Heads that share keys become queries of the same head, so keys are neither repeated nor read more than once.
    """
    first, last, heads = piece.first, piece.first + piece.count, keys.shape[1]
    shared = query.shape[0] // heads
    asked = query[:, first:last]
    if isinstance(piece.lanes, int):  # [1, H, G x n, hd]
        rows = asked.reshape(1, heads, shared * piece.count, -1)
        k, v = (store[piece.lanes : piece.lanes + 1, :, : piece.length] for store in (keys, values))
        found = _attention(rows, k, v, piece.mask.repeat(shared, 1), scaling, softcap)
        out[first:last] = found.reshape(query.shape[0], piece.count, -1).transpose(0, 1)
        return
    rows = asked.transpose(0, 1).unflatten(1, (heads, shared))  # [n, H, G, hd]
    lanes = slice(piece.lanes.start, piece.lanes.stop) if isinstance(piece.lanes, range) else piece.lanes
    k, v = (store[lanes, :, : piece.length] for store in (keys, values))
    mask = piece.added(query.dtype) if softcap is None else piece.mask
    found = _attention(rows, k, v, mask[:, None, None], scaling, softcap)
    out[first:last] = found.flatten(1, 2)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None, softcap: float | None
) -> Tensor:
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, float("-inf"))
    return torch.softmax(scores.float(), -1).to(query.dtype) @ value


def as_attention_function(attention: Callable[..., Tensor]) -> Any:
    """An attention function for transformers' AttentionInterface.

    It keeps the keys itself, so the model is called without a cache of its own. Raises Unsupported for models whose
    attention has parts that this one lacks.
    """

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, scaling: float | None = None, **extra: Any
    ) -> tuple[Tensor, None]:
        if extra.get("s_aux") is not None or extra.get("position_bias") is not None:
            raise Unsupported("this model's attention has sinks or position biases; use another engine for it")
        window = extra.get("sliding_window") or None
        out = attention(module.layer_idx, query[0], key[0], value[0], scaling, window, extra.get("softcap"))
        return out.unsqueeze(0), None

    return attend
