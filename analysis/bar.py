"""A progress bar over anything that goes one by one and takes longer than two seconds; none in less, none in a file.

Knows nothing of what it counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
SILENT_S = 2.0
"""Work that is shorter than this shows no bar."""


def with_bar(items: Sequence[T], words: str) -> Iterator[T]:
    """The items in their order; after two seconds a bar on the terminal's error stream says how far they are."""
    began, bar, task = time.monotonic(), None, None
    try:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - began > SILENT_S:
                shape = TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
                bar = Progress(*shape, transient=True, console=Console(stderr=True))
                task = bar.add_task("", total=len(items), completed=done)
                bar.start()
            if bar is not None and task is not None:
                bar.update(task, completed=done)
            yield item
    finally:
        if bar is not None:
            bar.stop()
