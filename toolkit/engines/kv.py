"""Kept keys and values, one lane a context: on the device, moved to the host, or gone and computed again.

A lane remembers which (token, steering row) pair each of its keys was computed from; that memory is the only thing
that reuse looks at. Knows no steering, no sampling, no requests and no attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from toolkit.engines import memory

STALE = 6  # times the number of lanes: acquired and released so often since, a lane is taken to be out of use


@dataclass(eq=False)
class Lane:
    """One context's keys and values: `length` of them, computed from `tokens` under table rows `rows`.

    index: its place in the device's stores; -1 on the host. parked: its keys and values there, one [H, T, hd] a store.
    longest: tokens that whoever has it now will have come to.
    """

    index: int
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    rows: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    length: int = 0
    busy: bool = False
    last_used: int = 0
    longest: int = 0
    parked: tuple[Tensor, ...] = ()

    @property
    def parked_bytes(self) -> int:
        return sum(one.nbytes for one in self.parked)

    def common_prefix(self, tokens: np.ndarray, rows: np.ndarray) -> int:
        """Leading (token, row) pairs of a context whose keys are here."""
        return common_prefix(self.tokens[: self.length], self.rows[: self.length], tokens, rows)

    def extend(self, tokens: Sequence[int] | np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
        """Remember what the keys just written came from."""
        end = self.length + len(tokens)
        while end > len(self.tokens):
            self.tokens = np.concatenate([self.tokens, np.zeros_like(self.tokens)])
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        self.tokens[self.length : end] = tokens
        self.rows[self.length : end] = rows
        self.length = end


def common_prefix(tokens: np.ndarray, rows: np.ndarray, other: np.ndarray, other_rows: np.ndarray) -> int:
    """Leading positions at which both the token and the steering row are equal."""
    n = min(len(tokens), len(other))
    unequal = (tokens[:n] != other[:n]) | (rows[:n] != other_rows[:n])
    return int(unequal.argmax()) if unequal.any() else n


class KVStore:
    """Lanes of keys and values per layer, [S lanes, H heads, places, head width]; more are made as they are needed.

    budget: bytes that lanes may take on the device before idle ones, least recently used first, leave it; lanes of
    requests under way stay. host_budget: bytes that those which left may take on the host; past it the least recently
    used are gone and will be computed again. Budgets change time, never tokens.
    """

    def __init__(self, budget: int | None = None, host_budget: int = 0) -> None:
        self.budget, self.host_budget = budget, host_budget
        self.lanes: list[Lane] = []
        self.away: list[Lane] = []
        self.generation = 0  # counts the times that stores were allocated anew
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._reserved = (0, 0)
        self._clock = 0

    # ------------------------------------------------------------------ whose lane

    def acquire(self, tokens: np.ndarray, rows: np.ndarray, most: int, longest: int, keep: int) -> tuple[Lane, int]:
        """A busy lane for this context, holding its longest equal prefix of at most `most` tokens; and that length.

        An idle lane that the context merely continues is taken over; one that it leaves half-way is copied, so that
        its own context can still go on. longest: tokens that the lane will hold in the end. keep: the number of lanes
        to hold before idle ones, least recently used first, are used for others.
        """
        self._clock += 1
        keep = min(keep, self.affordable(longest))
        self._give_up(keep)
        best, shared = self._best(tokens, rows, most)
        if best is not None and not best.busy and best.index >= 0 and shared >= best.length - 1:
            lane = best
        else:
            lane = self._place(keep)
            if best is not None and best is not lane and shared:
                self._copy(best, lane, shared)
                if best in self.away and shared >= best.length - 1:
                    self.away.remove(best)
        lane.length, lane.busy, lane.last_used, lane.longest = shared, True, self._clock, longest
        return lane, shared

    def kept(self, tokens: np.ndarray, rows: np.ndarray, most: int) -> int:
        """The length of the longest equal prefix of at most `most` tokens that a lane holds."""
        return self._best(tokens, rows, most)[1]

    def _best(self, tokens: np.ndarray, rows: np.ndarray, most: int) -> tuple[Lane | None, int]:
        """The lane with the longest equal prefix: among equals one that is idle, and on the device before the host."""
        best, shared = None, 0
        for lane in (*self.lanes, *self.away):
            common = min(lane.common_prefix(tokens, rows), most)
            if common > shared or (common == shared and common and best is not None and best.busy and not lane.busy):
                best, shared = lane, common
        return best, shared

    def _place(self, keep: int) -> Lane:
        """An empty lane, else a new one while there are fewer than `keep`, else the idle one least recently used, else
        a new one. Beyond what was reserved, an idle one that nobody came back to for long goes before a new one."""
        idle = [lane for lane in self.lanes if not lane.busy]
        if idle:
            lane = min(idle, key=lambda one: (one.length > 0, one.last_used))
            stale = self._clock - lane.last_used > STALE * len(self.lanes) and 0 < self._reserved[0] <= len(self.lanes)
            if not lane.length or stale or len(self.lanes) >= keep:
                self._park(lane)
                return lane
        self.lanes.append(Lane(len(self.lanes)))
        return self.lanes[-1]

    def room(self, longest: int) -> bool:
        """Whether one more request of `longest` tokens keeps to the budget; always true while none is under way."""
        return sum(lane.busy for lane in self.lanes) < self.affordable(longest)

    def affordable(self, longest: int) -> int:
        """How many lanes fit the budget, if they are to hold `longest` tokens each. At least one."""
        token = self.token_bytes()
        if self.budget is None or not token:
            return 1 << 30
        longest = max(longest, *(lane.longest for lane in self.lanes if lane.busy), 1)
        return max(1, self.budget // (token * max(memory.places(longest), self._most_places())))

    def release(self, lane: Lane) -> None:
        """Leave a lane, with what it holds, to whoever comes; its place among the last used counts from now."""
        self._clock += 1
        lane.busy, lane.last_used = False, self._clock

    def wipe(self, lane: Lane) -> None:
        """Zero what a lane holds: what is not finite would come through the mask of whoever has the lane next."""
        lane.length = 0
        for store in self._stores():
            store[lane.index : lane.index + 1] = 0

    def forget(self) -> None:
        """Empty every idle lane."""
        self.away.clear()
        for lane in self.lanes:
            if not lane.busy:
                lane.length = 0

    # ------------------------------------------------------------------ leaving the device

    def shrink(self) -> int:
        """Have every idle lane leave the device and return its memory; how many bytes that was."""
        before = self.bytes()
        self._reserved = (0, 0)
        self._give_up(0)
        self._shape(len(self.lanes), memory.places(max((lane.length for lane in self.lanes), default=0)))
        return before - self.bytes()

    def _give_up(self, keep: int) -> None:
        """Have idle lanes leave until `keep` are left, and return their memory if there is a budget."""
        idle = sorted((lane for lane in self.lanes if not lane.busy), key=lambda lane: lane.last_used)
        for lane in idle[: max(0, len(self.lanes) - keep)]:
            self._park(lane)
            last = self.lanes.pop()
            if last is not lane:  # the last lane moves into the free place
                for store in self._stores():
                    if last.index < store.shape[0]:
                        store[lane.index, :, : last.length] = store[last.index, :, : last.length]
                last.index = lane.index
                self.lanes[last.index] = last
        most = max(keep, len(self.lanes))
        if self.budget is not None and self._lanes() > most:
            self._shape(most, self._most_places())

    def _park(self, lane: Lane) -> None:
        """Move what an idle lane holds to the host, where it may crowd out what was used less recently."""
        size = lane.length * self.token_bytes()
        if not size or size > self.host_budget:
            return
        while sum(one.parked_bytes for one in self.away) + size > self.host_budget:
            self.away.remove(min(self.away, key=lambda one: one.last_used))
        parked = tuple(_to_host(store[lane.index, :, : lane.length]) for store in self._stores())
        tokens, rows = lane.tokens[: lane.length].copy(), lane.rows[: lane.length].copy()
        self.away.append(Lane(-1, tokens, rows, lane.length, last_used=lane.last_used, parked=parked))

    # ------------------------------------------------------------------ the stores

    def reserve(self, lanes: int, tokens: int) -> None:
        """Make room for so many lanes of so many tokens at once, as far as the budget goes. From now on there are more
        lanes only while more contexts than that are in use."""
        self._reserved = (min(lanes, self.affordable(tokens)), memory.places(tokens))
        self._give_up(self.affordable(tokens))
        if self._keys:
            self._shape(max(len(self.lanes), self._reserved[0]), max(self._most_places(), self._reserved[1]))

    def bytes(self) -> int:
        """What the stores take on the device, used or not."""
        return sum(t.nbytes for t in self._stores())

    def away_bytes(self) -> int:
        """What lanes that left the device take on the host."""
        return sum(lane.parked_bytes for lane in self.away)

    def token_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers; 0 before anything was computed."""
        return sum(store.shape[1] * store.shape[3] * store.element_size() for store in self._stores())

    @property
    def layers(self) -> int:
        """Layers that wrote here."""
        return len(self._keys)

    @property
    def places(self) -> int:
        """Tokens that every lane has room for, at every layer."""
        return min((store.shape[2] for store in self._stores()), default=0)

    def fit(self, longest: int) -> int:
        """Make room for every lane, of so many tokens, ahead of a write; how many lanes there then is room for."""
        for stores in (self._keys, self._values):
            for layer, store in stores.items():
                if len(self.lanes) > store.shape[0] or longest > store.shape[2]:
                    stores[layer] = self._grown(store, longest)
        return self._lanes()

    def stores(
        self, layer: int, longest: int, like: Tensor, key: tuple[int, int], value: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The layer's keys and values, with room for every lane, of so many tokens.

        key, value: their heads and head width. like: a tensor of their device and dtype.
        """
        for stores, (heads, width) in ((self._keys, key), (self._values, value)):
            store = stores.get(layer)
            if store is None:
                store = _zeros((0, heads, 0, width), like)
            if len(self.lanes) > store.shape[0] or longest > store.shape[2]:
                stores[layer] = self._grown(store, longest)
        return self._keys[layer], self._values[layer]

    def write(
        self,
        layer: int,
        key: Tensor,
        value: Tensor,
        lanes: Tensor,
        positions: Tensor,
        longest: int,
        active: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Put keys and values [H, T, hd] at `positions` of `lanes`; returns the layer's whole stores.

        active: [T], whether a token is there at all; where it is not, what the place held stays.
        """
        stores = self.stores(layer, longest, key, *((one.shape[0], one.shape[2]) for one in (key, value)))
        for store, new in zip(stores, (key, value), strict=True):
            rows = new.transpose(0, 1)
            if active is not None:
                rows = torch.where(active[:, None, None], rows, store[lanes, :, positions])
            store[lanes, :, positions] = rows
        return stores

    def _grown(self, store: Tensor, longest: int) -> Tensor:
        lanes, capacity = store.shape[0], store.shape[2]
        wanted = max(capacity, self._reserved[1], memory.places(longest))
        # room for twice as many, unless that would break the budget
        most = max(len(self.lanes), self.affordable(wanted))
        more = lanes if len(self.lanes) <= lanes else min(max(len(self.lanes), 2 * lanes, self._reserved[0]), most)
        return self._moved(store, more, wanted)

    def _shape(self, lanes: int, capacity: int) -> None:
        """Give every store this many lanes and places."""
        for stores in (self._keys, self._values):
            for layer, store in stores.items():
                if (lanes, capacity) != (store.shape[0], store.shape[2]):
                    stores[layer] = self._moved(store, lanes, capacity)

    def _moved(self, store: Tensor, lanes: int, capacity: int) -> Tensor:
        """A store of another size [lanes, H, capacity, hd] that holds what the lanes held."""
        self.generation += 1
        moved = _zeros((lanes, store.shape[1], capacity, store.shape[3]), store)
        for lane in self.lanes[: min(lanes, store.shape[0])]:
            moved[lane.index, :, : lane.length] = store[lane.index, :, : lane.length]
        return moved

    def _copy(self, source: Lane, target: Lane, length: int) -> None:
        target.length = 0
        if target.index >= self._lanes() or length > self.places:
            wanted = min(max(len(self.lanes), 2 * self._lanes()), max(len(self.lanes), self.affordable(length)))
            self._shape(wanted, max(self._most_places(), memory.places(length)))
        for number, store in enumerate(self._stores()):
            held = source.parked[number] if source.parked else store[source.index]
            store[target.index, :, :length] = held[:, :length]
        target.extend(source.tokens[:length], source.rows[:length])  # last, since memory may run out before

    def _stores(self) -> tuple[Tensor, ...]:
        return (*self._keys.values(), *self._values.values())

    def _lanes(self) -> int:
        return min((store.shape[0] for store in self._stores()), default=0)

    def _most_places(self) -> int:
        """At the layer with the most: they differ after memory ran out on the way from one to the next."""
        return max((store.shape[2] for store in self._stores()), default=0)


def _zeros(shape: tuple[int, int, int, int], like: Tensor) -> Tensor:
    """Zeros, since a masked key must still be a finite number. On a CPU pages are taken when first written to."""
    if like.device.type != "cpu" or not all(shape):
        return like.new_zeros(shape)
    count = int(np.prod(shape)) * like.element_size()
    return torch.from_numpy(np.zeros(count, np.uint8)).view(like.dtype).view(shape)


def _to_host(held: Tensor) -> Tensor:
    """A copy in the host's memory, pinned where it comes from a GPU, so that it goes back without a detour."""
    copy = torch.empty(held.shape, dtype=held.dtype, pin_memory=held.device.type == "cuda")
    return copy.copy_(held)
