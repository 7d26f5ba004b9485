"""Kept keys and values, one lane a context, and attention of packed new tokens over their lanes.

A lane remembers which (token, steering row) pair each of its keys was computed from; that memory is the only thing
that reuse looks at. Knows no steering, no sampling and no requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from toolkit.errors import Unsupported


@dataclass
class Lane:
    """One context's keys and values: `length` of them, computed from `tokens` under table rows `rows`."""

    index: int
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    rows: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    length: int = 0
    busy: bool = False
    last_used: int = 0

    def common_prefix(self, tokens: np.ndarray, rows: np.ndarray) -> int:
        """Leading positions at which both the token and the steering row are equal."""
        n = min(self.length, len(tokens))
        unequal = (self.tokens[:n] != tokens[:n]) | (self.rows[:n] != rows[:n])
        return int(unequal.argmax()) if unequal.any() else n

    def extend(self, tokens: Sequence[int], rows: Sequence[int]) -> None:
        """Remember what the keys just written came from."""
        end = self.length + len(tokens)
        while end > len(self.tokens):
            self.tokens = np.concatenate([self.tokens, np.zeros_like(self.tokens)])
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        self.tokens[self.length : end] = tokens
        self.rows[self.length : end] = rows
        self.length = end


Span = tuple[int, int, int, int]  # lane, first index in the pack, count of tokens, position of the first


@dataclass(frozen=True)
class Packed:
    """The new tokens of one forward pass, of several lanes one after another; padding may follow them.

    lanes, positions: [T], where each key goes.
    """

    lanes: Tensor
    positions: Tensor
    spans: tuple[Span, ...]


class KVStore:
    """Lanes of keys and values per layer, [S lanes, H heads, capacity, head dim], grown by doubling.

    budget: bytes that lanes may take before idle ones, least recently used first, are given up and their memory
    returned; lanes of requests under way are never given up. A budget changes time, never tokens.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.lanes: list[Lane] = []
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._clock = 0

    def acquire(self, tokens: np.ndarray, rows: np.ndarray, most: int, longest: int, keep: int) -> tuple[Lane, int]:
        """A busy lane for this context, holding its longest equal prefix of at most `most` tokens; and that length.

        An idle lane that the context merely continues is taken over; one that it leaves half-way is copied, so that
        its own context can still go on. longest: tokens that the lane will hold in the end. keep: the number of lanes
        to hold before idle ones, least recently used first, are used for others.
        """
        self._clock += 1
        keep = min(keep, self._affordable(longest))
        self._give_up(keep)
        idle = [lane for lane in self.lanes if not lane.busy]
        best, shared = None, 0
        for lane in self.lanes:
            common = min(lane.common_prefix(tokens, rows), most)
            if common > shared or (common == shared and common and best is not None and best.busy and not lane.busy):
                best, shared = lane, common
        if best is not None and not best.busy and shared >= best.length - 1:
            lane = best
        elif len(self.lanes) < keep or not idle:
            lane = Lane(len(self.lanes))
            self.lanes.append(lane)
        else:
            lane = min(idle, key=lambda one: one.last_used)
        if best is not None and lane is not best and shared:
            self._copy(best, lane, shared)
        lane.length, lane.busy, lane.last_used = shared, True, self._clock
        return lane, shared

    def _affordable(self, longest: int) -> int:
        """How many lanes fit the budget, if they are to hold `longest` tokens each. At least one."""
        stores = (*self._keys.values(), *self._values.values())
        if self.budget is None or not stores:
            return 1 << 30
        token = sum(store[0, :, :1].numel() * store.element_size() for store in stores)
        return max(1, self.budget // (token * max(_capacity(longest), stores[0].shape[2])))

    def _give_up(self, keep: int) -> None:
        """Drop idle lanes until `keep` are left, and return the memory of those dropped."""
        idle = sorted((lane for lane in self.lanes if not lane.busy), key=lambda lane: lane.last_used)
        for lane in idle[: max(0, len(self.lanes) - keep)]:
            last = self.lanes.pop()
            if last is not lane:  # the last lane moves into the free place
                for store in (*self._keys.values(), *self._values.values()):
                    if last.index < store.shape[0]:
                        store[lane.index] = store[last.index]
                last.index = lane.index
                self.lanes[last.index] = last
        for stores in (self._keys, self._values):
            for layer, store in stores.items():
                if self.budget is not None and store.shape[0] > max(keep, len(self.lanes)):
                    stores[layer] = store[: max(keep, len(self.lanes))].clone()

    def release(self, lane: Lane) -> None:
        self._clock += 1
        lane.busy, lane.last_used = False, self._clock

    def forget(self) -> None:
        """Empty every idle lane."""
        for lane in self.lanes:
            if not lane.busy:
                lane.length = 0

    def bytes(self) -> int:
        return sum(t.nbytes for t in (*self._keys.values(), *self._values.values()))

    def write(self, layer: int, key: Tensor, value: Tensor, pack: Packed) -> tuple[Tensor, Tensor]:
        """Put keys and values [H, T, hd] in their places; returns the layer's whole stores."""
        longest = max(start + count for _, _, count, start in pack.spans)
        for stores, new in ((self._keys, key), (self._values, value)):
            stores[layer] = self._grown(stores.get(layer), new, longest)
            stores[layer][pack.lanes, :, pack.positions] = new.transpose(0, 1)
        return self._keys[layer], self._values[layer]

    def _grown(self, store: Tensor | None, new: Tensor, longest: int) -> Tensor:
        lanes, capacity = (0, 256) if store is None else (store.shape[0], store.shape[2])
        if store is not None and len(self.lanes) <= lanes and longest <= capacity:
            return store
        capacity = max(capacity, _capacity(longest))
        # room for twice as many, unless that would break the budget
        most = max(len(self.lanes), self._affordable(capacity))
        wanted = lanes if len(self.lanes) <= lanes else min(max(len(self.lanes), 2 * lanes), most)
        grown = new.new_zeros(wanted, new.shape[0], capacity, new.shape[2])
        if store is not None:
            grown[:lanes, :, : store.shape[2]] = store
        return grown

    def _copy(self, source: Lane, target: Lane, length: int) -> None:
        target.length = 0
        target.extend(source.tokens[:length].tolist(), source.rows[:length].tolist())
        for stores in (self._keys, self._values):
            for layer, store in stores.items():
                if target.index >= store.shape[0]:
                    stores[layer] = store = self._grown(store, store[0], store.shape[2])
                store[target.index, :, :length] = store[source.index, :, :length]


def _capacity(longest: int) -> int:
    """Places that a lane of `longest` tokens gets: a power of two, from 256 on."""
    return max(256, 1 << max(0, longest - 1).bit_length())


def attend(
    store: KVStore,
    pack: Packed,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attention of packed queries [Hq, T, hd] over their own lanes; returns [T, Hq, hd], zeros for padding.

    Spans that add one token share one masked call; longer ones go one by one over their own keys. On a CPU every
    token is a query of its own even in a long span, over keys padded to a fixed multiple and on one thread: then its
    result has the same bits in any company, chunk or batch (measured in tests/engines/test_invariance.py).
    window: sliding window in tokens. softcap: scores are squashed to +-softcap by tanh (Gemma 2).
    """
    count = sum(n for _, _, n, _ in pack.spans)
    keys, values = store.write(layer, key[:, :count], value[:, :count], pack)
    out = query.new_zeros(query.shape[1], query.shape[0], values.shape[-1])
    alone = query.device.type == "cpu"
    with _one_thread() if alone else nullcontext():
        for run in _runs([span for span in pack.spans if span[2] == 1], views=alone):
            where = torch.tensor([first for _, first, _, _ in run], device=query.device)
            ends = torch.tensor([start + 1 for _, _, _, start in run], device=query.device)
            length = _padded(max(start for _, _, _, start in run) + 1, keys)
            lanes = [lane for lane, _, _, _ in run]
            rows = query[:, where].transpose(0, 1).unsqueeze(2)  # [R, Hq, 1, hd]
            mask = _mask(ends, length, window)[:, None, None]
            k, v = _lanes(keys, lanes, length), _lanes(values, lanes, length)
            out[where] = _attention(rows, k, v, mask, scaling, softcap).squeeze(2)
        for lane, first, n, start in pack.spans:
            if n == 1:
                continue
            ends = torch.arange(start + 1, start + n + 1, device=query.device)
            length = _padded(start + n, keys)
            mask = _mask(ends, length, window)
            k, v = keys[lane : lane + 1, :, :length], values[lane : lane + 1, :, :length]
            span = query[:, first : first + n]
            if alone:
                many = (n, -1, -1, -1)
                found = _attention(
                    span.transpose(0, 1).unsqueeze(2),
                    k.expand(many),
                    v.expand(many),
                    mask[:, None, None],
                    scaling,
                    softcap,
                ).squeeze(2)
            else:
                found = _attention(span[None], k, v, mask, scaling, softcap)[0].transpose(0, 1)
            out[first : first + n] = found
    return out


KEY_MULTIPLE = 16  # keys are padded to a multiple of this, so that a kernel's tail never depends on the neighbours


def _padded(length: int, store: Tensor) -> int:
    return min(-(-length // KEY_MULTIPLE) * KEY_MULTIPLE, store.shape[2])


def _mask(ends: Tensor, length: int, window: int | None) -> Tensor:
    """[n, length]: which keys each query may see; its own position is ends - 1."""
    at = torch.arange(length, device=ends.device)
    mask = at < ends[:, None]
    return mask & (at >= ends[:, None] - window) if window else mask


@contextmanager
def _one_thread() -> Iterator[None]:
    """Attention kernels split keys over threads, in pieces that depend on how many keys there are."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _runs(spans: list[Span], views: bool) -> list[list[Span]]:
    """Spans whose lanes stand side by side, so that their keys are a view; or all in one, whose keys are a copy.

    On a CPU copying keys costs more than another call does; on a GPU it is the other way round.
    """
    if not views:
        return [spans] if spans else []
    runs: list[list[Span]] = []
    for span in sorted(spans):
        if runs and span[0] == runs[-1][-1][0] + 1:
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


def _lanes(store: Tensor, lanes: list[int], longest: int) -> Tensor:
    """[R, H, longest, hd]: a view when the lanes stand side by side, else a copy."""
    if lanes == list(range(lanes[0], lanes[0] + len(lanes))):
        return store[lanes[0] : lanes[0] + len(lanes), :, :longest]
    return store[torch.tensor(lanes, device=store.device), :, :longest]


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None, softcap: float | None
) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=grouped)
    if grouped:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, float("-inf"))
    return torch.softmax(scores.float(), -1).to(query.dtype) @ value


def as_attention_function(store: KVStore, current: Any) -> Any:
    """An attention function for transformers' AttentionInterface; `current()` gives the pack being computed.

    It keeps the keys itself, so the model is called without a cache of its own. Raises Unsupported for models whose
    attention has parts that this one lacks.
    """

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, scaling: float | None = None, **extra: Any
    ) -> tuple[Tensor, None]:
        if extra.get("s_aux") is not None or extra.get("position_bias") is not None:
            raise Unsupported("this model's attention has sinks or position biases; use another engine for it")
        window = extra.get("sliding_window") or None
        out = attend(
            store, current(), module.layer_idx, query[0], key[0], value[0], scaling, window, extra.get("softcap")
        )
        return out.unsqueeze(0), None

    return attention
