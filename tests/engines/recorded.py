"""torch.cuda's graphs, as far as a captured step uses them, played on a CPU under the rules that a GPU holds them to.

A capture records operations and the tensors they work on; a replay does the same operations in the same memory. Tensors
from outside are not kept alive by it, the host may not look at a number nor give one, the memory of graphs that are all
gone cannot be captured into, and what fails within a capture leaves the capture's stream set (torch 2.13).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

LOOKED = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "masked_select")
MEMORIES = itertools.count(1)


class Cuda:
    """What stands for torch.cuda. `in_use`: the number of living graphs of each memory."""

    def __init__(self) -> None:
        self.in_use: dict[int, int] = {}
        self.now: object = "the default stream"
        self.streams: list[object] = []
        self.mode: str | int = 0
        self.CUDAGraph = lambda: Graph(self)
        self.current_stream = lambda *_: SimpleNamespace(wait_stream=lambda other: None, name=self.now)

    def Stream(self) -> Any:
        self.streams.append(SimpleNamespace(wait_stream=lambda other: None))
        return self.streams[-1]

    @contextmanager
    def device(self, _device: object) -> Iterator[None]:
        yield

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(
        self, graph: Graph, pool: int | None = None, stream: object = None, capture_error_mode: str = ""
    ) -> Iterator[None]:
        assert pool is None or self.in_use[pool] > 0, "INTERNAL ASSERT: it->second->use_count > 0"
        before, self.now = self.now, stream
        graph.memory = next(MEMORIES) if pool is None else pool
        with graph.recording:
            yield
        self.now = before
        self.in_use[graph.memory] = self.in_use.get(graph.memory, 0) + 1
        weakref.finalize(graph, self.gone, graph.memory)

    def gone(self, memory: int) -> None:
        self.in_use[memory] -= 1

    def get_sync_debug_mode(self) -> str | int:
        return self.mode

    def set_sync_debug_mode(self, mode: str | int) -> None:
        self.mode = mode


class Graph:
    def __init__(self, cuda: Cuda) -> None:
        self.recording, self.memory = Recording(), 0

    def pool(self) -> int:
        return self.memory

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, before in self.recording.done:
            given, named = tree_map_only(weakref.ref, _living, (args, kwargs))
            now = tree_leaves(operation(*given, **named))
            for old, new in zip(before, now, strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operations with their tensors: those made on the way are kept, with what they hold; others are not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[tuple[Any, Any, Any, list[Any]]] = []
        self._inside: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        if name in LOOKED:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        found = operation(*args, **(kwargs or {}))
        given = tree_map_only(torch.Tensor, self._reference, (args, kwargs or {}))
        results = tree_leaves(found)
        self._inside.update(id(one) for one in results if isinstance(one, torch.Tensor))
        self.done.append((operation, *given, results))
        return found

    def _reference(self, tensor: torch.Tensor) -> Any:
        return tensor if id(tensor) in self._inside else weakref.ref(tensor)


def _living(reference: weakref.ref[torch.Tensor]) -> torch.Tensor:
    tensor = reference()
    assert tensor is not None, "a replay reads memory that its owner has given back"
    return tensor
