"""The step that adds one token to each of some lanes, with nothing in it that changes but the contents of buffers.

Such a step can be captured once and replayed: as a CUDA graph on a GPU. Row r of the step is lane r of the store;
steering is a gather by row id like everywhere, so that other steering, rows that leave and rows that join change
buffers and never the step. Knows no requests and no sampling.

Replay as a CUDA graph has never run where this was written, which had no GPU; what was run is the same step traced
into a graph on a CPU (tests/engines/test_static.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from toolkit.engines import memory
from toolkit.engines.attention import Rows
from toolkit.engines.forward import Forward

Body = Callable[..., tuple[Tensor, ...]]
Capture = Callable[[Body, tuple[Tensor, ...]], Callable[[], tuple[Tensor, ...]]]


class StaticStep:
    """Captures the step for each size it meets, and replays it. `captures` counts how often that was.

    A size is rows and keys, both rounded up so that there are few; stores and tables that were allocated anew count as
    another size, since a captured step holds their addresses.
    """

    def __init__(self, forward: Forward, capture: Capture) -> None:
        self.forward, self.captures = forward, 0
        self._capture = capture
        self._kept: dict[tuple[int, int], tuple[tuple[Tensor, ...], Callable[[], tuple[Tensor, ...]]]] = {}
        self._made_of: tuple[object, ...] = ()

    def fits(self, rows: Sequence[int], lanes: Sequence[int], wanted: frozenset[int]) -> bool:
        """Whether the step can do this: a store to write to, no edit that depends on the residual, few idle rows, and
        residuals wanted of layers that it captures."""
        enough = max(lanes) < 2 * len(lanes) and self.forward.store.places > 0
        return enough and wanted <= set(self._layers()) and not self.forward.table.edited(rows)

    def forget(self) -> None:
        """Give up all captured steps and their memory."""
        self._kept = {}

    def __call__(
        self, tokens: Sequence[int], rows: Sequence[int], lanes: Sequence[int], positions: Sequence[int]
    ) -> Tensor:
        """As Forward's call, of one token a lane: normed residuals [T, D] in the order given; captures every layer
        that a dictionary acts on, and the last."""
        store, table = self.forward.store, self.forward.table
        count = min(_size(max(lanes) + 1), store.fit(max(positions) + 1))
        keys = min(memory.places(max(positions) + 1), store.places)
        made_of = (store.generation, table.generation, table.layers)
        if made_of != self._made_of:
            self._kept, self._made_of = {}, made_of
        buffers, replay = self._kept.get((count, keys)) or self._make(count, keys)
        where = torch.tensor(lanes, device=table.device)
        given = torch.tensor([tokens, rows, positions, [1] * len(lanes)], device=table.device)
        for buffer, values in zip(buffers, given, strict=True):
            buffer.zero_()
            buffer[where] = values.to(buffer.dtype)
        hidden, *captured = replay()
        layers = self._layers()
        self.forward.captured = {layer: one[where] for layer, one in zip(layers, captured, strict=True)}
        return hidden[where]

    def _layers(self) -> list[int]:
        return sorted(self.forward.table.layers | {self.forward.n_layers - 1})

    def _make(self, count: int, keys: int) -> tuple[tuple[Tensor, ...], Callable[[], tuple[Tensor, ...]]]:
        device = self.forward.table.device
        buffers = tuple(torch.zeros(count, dtype=kind, device=device) for kind in (*[torch.long] * 3, torch.bool))
        lanes = torch.arange(count, device=device)
        layers = self._layers()

        def body(tokens: Tensor, rows: Tensor, positions: Tensor, active: Tensor) -> tuple[Tensor, ...]:
            pack = Rows(lanes, positions, active, keys)
            hidden = self.forward.run(tokens, rows, positions, pack, (), frozenset(layers))
            return hidden, *(self.forward.captured[layer] for layer in layers)

        self.captures += 1
        self._kept[count, keys] = buffers, self._capture(body, buffers)
        return self._kept[count, keys]


def _size(rows: int) -> int:
    """The next power of two."""
    return 1 << max(0, rows - 1).bit_length()


def cuda_graphs() -> Capture:
    """Captures as CUDA graphs that share their memory: what one replay put out, the next may overwrite."""
    pool = torch.cuda.graph_pool_handle()

    def capture(body: Body, buffers: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
        side = torch.cuda.Stream()  # torch asks for a warm-up, on another stream
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                body(*buffers)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            outputs = body(*buffers)

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return outputs

        return replay

    return capture
