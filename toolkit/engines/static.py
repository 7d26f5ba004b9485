"""The step that adds one token to each of some lanes, with nothing in it that changes but the contents of buffers.

Such a step can be captured once and replayed: as a CUDA graph on a GPU. Steering is a gather by row id like everywhere,
so that other steering, rows that leave and rows that join change buffers and never the step. Knows no requests and no
sampling.

Replay as a CUDA graph has never run where this was written, which had no GPU; what was run is the same step traced
into a graph on a CPU, and one recorded under the rules of such graphs (tests/engines/test_static.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal
from weakref import WeakSet

import torch
from torch import Tensor

from toolkit.engines import memory
from toolkit.engines.attention import Rows
from toolkit.engines.forward import Forward

Body = Callable[..., tuple[Tensor, ...]]
Capture = Callable[[Body, tuple[Tensor, ...]], Callable[[], tuple[Tensor, ...]]]
Layout = Literal["all", "some", "any"]  # rows are lanes 0 to n - 1; or some of few more; or any lanes, copied


class StaticStep:
    """Captures the step for each size it meets, and replays it. `captures` counts how often that was.

    A size is rows and keys, both rounded up so that there are few, and how the rows lie in the store; stores and tables
    that were allocated anew count as another size, since a captured step holds their addresses.
    """

    def __init__(self, forward: Forward, capture: Capture) -> None:
        self.forward, self.captures = forward, 0
        self._capture = capture
        self._kept: dict[tuple[Layout, int, int], tuple[Tensor, Callable[[], tuple[Tensor, ...]]]] = {}
        self._made_of: tuple[object, ...] = ()

    def fits(self, rows: Sequence[int], wanted: frozenset[int]) -> bool:
        """Whether the step can do this: a store to write to, no edit that depends on the residual, and residuals wanted
        of layers that it captures."""
        return self.forward.store.places > 0 and wanted <= set(self._layers()) and not self.forward.table.edited(rows)

    def forget(self) -> None:
        """Give up all captured steps and their memory."""
        self._kept = {}

    def __call__(
        self, tokens: Sequence[int], rows: Sequence[int], lanes: Sequence[int], positions: Sequence[int]
    ) -> Tensor:
        """As Forward's call, of one token a lane: normed residuals [T, D] in the order given; captures every layer
        that a dictionary acts on, and the last. All of it may be overwritten by the next call."""
        store, table = self.forward.store, self.forward.table
        room, longest = store.fit(max(positions) + 1), max(positions) + 1
        layout, count = _layout(lanes, room)
        keys = min(_keys(longest), store.places)
        made_of = (store.generation, table.generation, table.layers)
        if made_of != self._made_of:
            self._kept, self._made_of = {}, made_of
        given = list(zip(tokens, rows, lanes, positions, [1] * len(lanes), strict=True))
        at: list[int] | slice = slice(len(lanes))
        if layout == "any":  # the first again in place of none: the same is written twice
            given += [given[0]] * (count - len(lanes))
        elif layout == "some":
            by_lane = {one[2]: one for one in given}
            given, at = [by_lane.get(lane, (0, 0, lane, 0, 0)) for lane in range(count)], list(lanes)
        values = torch.tensor([*zip(*given, strict=True)])
        buffer, replay = self._kept.get((layout, count, keys), (None, None))
        if buffer is None or replay is None:
            buffer, replay = self._make(layout, keys, values.to(table.device, copy=True))
        else:
            buffer.copy_(values)
        index = torch.tensor(at, device=table.device) if isinstance(at, list) else at
        hidden, *captured = replay()
        self.forward.captured = {layer: one[index] for layer, one in zip(self._layers(), captured, strict=True)}
        return hidden[index]

    def _layers(self) -> list[int]:
        return sorted(self.forward.table.layers | {self.forward.n_layers - 1})

    def _make(self, layout: Layout, keys: int, buffer: Tensor) -> tuple[Tensor, Callable[[], tuple[Tensor, ...]]]:
        """buffer: [5, R] tokens, rows, lanes, positions and whether a row is there, of the step that is to be replayed
        first: a capture runs it too, and that writes keys and values."""
        layers = self._layers()

        def body(buffer: Tensor) -> tuple[Tensor, ...]:
            tokens, rows, lanes, positions, there = buffer.unbind()
            pack = Rows(lanes, positions, there.bool() if layout == "some" else None, keys, layout != "any")
            hidden = self.forward.run(tokens, rows, positions, pack, (), frozenset(layers))
            return hidden, *(self.forward.captured[layer] for layer in layers)

        self.captures += 1
        made = buffer, self._capture(body, (buffer,))
        self._kept[layout, buffer.shape[1], keys] = made
        return made


def _layout(lanes: Sequence[int], room: int) -> tuple[Layout, int]:
    """How the rows of a step lie in a store with room for so many lanes, and how many rows the step has.

    Keys and values are read where they are, if most of the first lanes have a row; otherwise they are copied."""
    count, most = _size(len(lanes)), min(_size(max(lanes) + 1), room)
    if list(lanes) == list(range(most)):
        return "all", most
    return ("some", most) if most <= 2 * len(lanes) else ("any", count)


def _size(rows: int) -> int:
    """The next power of two."""
    return 1 << max(0, rows - 1).bit_length()


def _keys(tokens: int) -> int:
    """Places to look at for so many tokens: at most a quarter too many from 1,024 on, since each size is a capture."""
    step = max(memory.PLACES, _size(tokens) // 8)
    return -(-tokens // step) * step


def cuda_graphs(device: torch.device) -> Capture:
    """Captures as CUDA graphs that share their memory: what one replay put out, the next may overwrite."""
    graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
    streams: list[torch.cuda.Stream] = []

    def capture(body: Body, buffers: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
        with torch.cuda.device(device):  # of all that is current: capturing another device's stream captures nothing
            first = not streams
            if first:
                streams.append(torch.cuda.Stream())  # one for all: each has its own workspace for matrix products
            before, side = torch.cuda.current_stream(), streams[0]
            side.wait_stream(before)
            graph = torch.cuda.CUDAGraph()
            # the memory of graphs that are all gone is refused by torch, so it cannot be named once for ever
            pool = next((one.pool() for one in graphs), None)
            with torch.cuda.stream(side):  # again around torch's own: where a capture fails, that leaves its stream set
                body(*buffers)  # torch asks for a warm-up, on another stream
                if first:
                    _without_waiting(body, buffers)
                with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                    outputs = body(*buffers)
            before.wait_stream(side)
            graphs.add(graph)

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return outputs

        return replay

    return capture


def _without_waiting(body: Body, buffers: tuple[Tensor, ...]) -> None:
    """Raise RuntimeError if the host waits for the device in it: found before a capture, which it would break in a way
    that torch's allocator does not get over."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        body(*buffers)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
