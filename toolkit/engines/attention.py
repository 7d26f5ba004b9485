"""Attention of packed new tokens over their own lanes: what is computed together, and on which thread.

Knows no steering, no sampling and no requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from toolkit.engines.kv import KVStore
from toolkit.errors import Unsupported

KEY_MULTIPLE = 16  # keys are padded to a multiple of this, so that a kernel's tail never depends on the neighbours
SPLIT = 64  # tokens of a long span that share a call on a CPU: later ones need more keys
TOGETHER = 8  # one-token spans that share a call on a CPU: several threads, and lanes of unlike lengths, gain by less
PARALLEL = 1 << 18  # numbers of keys and values to go through from which on a second thread pays

Span = tuple[int, int, int, int]  # lane, first index in the pack, count of tokens, position of the first


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


@dataclass(frozen=True)
class Packed:
    """The new tokens of one forward pass, of several lanes one after another; padding may follow them.

    lanes, positions: [T], where each key goes. Pieces are planned once a pass, for each window size.
    """

    lanes: Tensor
    positions: Tensor
    spans: tuple[Span, ...]
    active: None = None  # all are
    _plans: dict[tuple[int | None, int], list[Piece]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(count for _, _, count, _ in self.spans)

    @property
    def longest(self) -> int:
        return max(start + count for _, _, count, start in self.spans)

    def pieces(self, window: int | None, capacity: int) -> list[Piece]:
        """How the pass is divided into calls. window: sliding window in tokens. capacity: places of a lane."""
        known = self._plans.get((window, capacity))
        if known is None:
            known = self._plans[window, capacity] = list(_plan(self.spans, window, capacity, self.lanes.device))
        return known


def _plan(spans: Sequence[Span], window: int | None, capacity: int, device: torch.device) -> Iterator[Piece]:
    """Spans that add one token share calls; longer ones go one by one over their own keys.

    On a CPU every token is a query of its own even in a long span, over keys padded to a fixed multiple: then its
    result has the same bits in any company, chunk or batch (measured in tests/engines/test_invariance.py).
    """

    def piece(first: int, ends: range | list[int], lanes: range | int | Tensor) -> Piece:
        length = min(-(-max(ends) // KEY_MULTIPLE) * KEY_MULTIPLE, capacity)
        ends_ = torch.tensor(ends, device=device)[:, None]
        at = torch.arange(length, device=device)
        mask = at < ends_
        return Piece(first, len(ends), lanes, length, mask & (at >= ends_ - window) if window else mask)

    cpu = device.type == "cpu"
    for run in _runs([span for span in spans if span[2] == 1], cpu):
        ends = [start + 1 for _, _, _, start in run]
        lanes = [lane for lane, _, _, _ in run]
        beside = range(lanes[0], lanes[0] + len(lanes))
        yield piece(run[0][1], ends, beside if lanes == list(beside) else torch.tensor(lanes, device=device))
    for lane, first, count, start in spans:
        if count == 1:
            continue
        step = SPLIT if cpu else count
        for at in range(0, count, step):
            yield piece(first + at, range(start + at + 1, start + min(at + step, count) + 1), lane)


def _runs(spans: list[Span], cpu: bool) -> Iterator[list[Span]]:
    """One-token spans that follow one another in the pack; on a CPU, whose lanes stand side by side too, so that
    their keys are a view: copying keys costs more there than another call does, on a GPU it is the other way round."""
    run: list[Span] = []
    for span in spans:
        beside = run and span[1] == run[-1][1] + 1 and (not cpu or span[0] == run[-1][0] + 1)
        if run and (not beside or (cpu and len(run) == TOGETHER)):
            yield run
            run = []
        run.append(span)
    if run:
        yield run


@dataclass(frozen=True)
class Rows:
    """A pass whose row r adds one token to lane r, where `active`. Nothing of it depends on what the tensors hold.

    positions, active: [R]. keys: places of each lane that are looked at.
    """

    lanes: Tensor
    positions: Tensor
    active: Tensor
    keys: int
    _plans: dict[int | None, list[Piece]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.lanes)

    @property
    def longest(self) -> int:
        return self.keys

    def pieces(self, window: int | None, capacity: int) -> list[Piece]:
        """One call for all rows, whose keys are a view, masked."""
        if window not in self._plans:
            at = torch.arange(self.keys, device=self.lanes.device)
            mask = at <= self.positions[:, None]
            if window:
                mask = mask & (at > self.positions[:, None] - window)
            self._plans[window] = [Piece(0, self.count, range(self.count), self.keys, mask)]
        return self._plans[window]


class Attention:
    """Writes a pass's keys and values into the store and attends over it. `pack` is the pass being computed.

    threads: on a CPU, over which calls are dealt out. A single call always runs on one thread, since kernels split
    keys over threads in pieces that depend on how many keys there are.
    """

    def __init__(self, store: KVStore, threads: int) -> None:
        self.store, self.threads = store, threads
        self.pack: Packed | Rows | None = None
        self._pool = ThreadPoolExecutor(threads - 1, "attention", _alone) if threads > 1 else None

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
        out = query.new_zeros(query.shape[1], query.shape[0], values.shape[-1])
        pieces = pack.pieces(window, keys.shape[2])
        calls = [partial(_attend, one, query, keys, values, scaling, softcap, out) for one in pieces]
        if query.device.type != "cpu":
            for call in calls:
                call()
        else:
            sizes = [one.count * one.length * keys.shape[1] * keys.shape[3] for one in pieces]
            self._deal(calls, sizes)
        return out

    def _deal(self, calls: Sequence[Callable[[], None]], sizes: list[int]) -> None:
        """Carry out calls on this thread and the pool's, largest first, to whoever has least to do."""
        if self._pool is None or len(calls) == 1 or sum(sizes) < PARALLEL:
            with one_thread():
                _each(calls)
            return
        shares: list[list[Callable[[], None]]] = [[] for _ in range(self.threads)]
        loads = [0] * self.threads
        for size, number in sorted(((size, number) for number, size in enumerate(sizes)), reverse=True):
            least = loads.index(min(loads))
            shares[least].append(calls[number])
            loads[least] += size
        waiting = [self._pool.submit(_each, share) for share in shares[1:] if share]
        with one_thread():
            _each(shares[0])
        for one in waiting:
            one.result()


def _each(calls: Sequence[Callable[[], None]]) -> None:
    with torch.no_grad():  # a thread of its own has a mode of its own
        for call in calls:
            call()


def _alone() -> None:
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _attend(
    piece: Piece, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, softcap: float | None, out: Tensor
) -> None:
    """One call: writes [count, Hq, hd] into `out`.

    Heads that share keys become queries of the same head, so keys are neither repeated nor read more than once.
    """
    first, last, heads = piece.first, piece.first + piece.count, keys.shape[1]
    shared = query.shape[0] // heads
    asked = query[:, first:last]
    if isinstance(piece.lanes, int) and query.device.type != "cpu":  # [1, H, G x n, hd]
        rows = asked.reshape(1, heads, shared * piece.count, -1)
        k, v = (store[piece.lanes : piece.lanes + 1, :, : piece.length] for store in (keys, values))
        found = _attention(rows, k, v, piece.mask.repeat(shared, 1), scaling, softcap)
        out[first:last] = found.reshape(query.shape[0], piece.count, -1).transpose(0, 1)
        return
    rows = asked.transpose(0, 1).unflatten(1, (heads, shared))  # [n, H, G, hd]
    if isinstance(piece.lanes, int):
        many = (piece.count, -1, -1, -1)
        k, v = (store[piece.lanes : piece.lanes + 1, :, : piece.length].expand(many) for store in (keys, values))
    elif isinstance(piece.lanes, range):
        k, v = (store[piece.lanes.start : piece.lanes.stop, :, : piece.length] for store in (keys, values))
    else:
        k, v = (store[piece.lanes, :, : piece.length] for store in (keys, values))
    found = _attention(rows, k, v, piece.mask[:, None, None], scaling, softcap)
    out[first:last] = found.flatten(1, 2)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None, softcap: float | None
) -> Tensor:
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, float("-inf"))
    return torch.softmax(scores.float(), -1).to(query.dtype) @ value


def as_attention_function(attention: Attention) -> Any:
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
