"""How far a run is and what it came to: a bar in a terminal, lines elsewhere.

Knows no engine and no rollout.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

LINE_EVERY_S = 10.0


@dataclass
class Outcome:
    """What a run came to: rollouts by how they ended, those that were there before, and the cost."""

    ended: dict[str, int] = field(default_factory=dict)
    before: int = 0
    failed_before: int = 0
    tokens: int = 0
    wall_s: float = 0.0

    @property
    def failed(self) -> int:
        """Rollouts of the whole run that failed, in this call or an earlier one."""
        return self.ended.get("failed", 0) + self.failed_before


class Progress:
    """Counts, and shows them. Use as a context manager."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self.total, self.quiet = total, quiet
        self.done: Counter[str] = Counter()
        self.tokens = self.responses = 0
        self._begun = self._said = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._begun = self._said = time.perf_counter()
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("rollouts"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("run", total=self.total, speed="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and self._said > self._begun:
            print(self.line(), file=sys.stderr)

    def responded(self, tokens: int) -> None:
        self.responses += 1
        self.tokens += tokens
        self._show()

    def ended(self, how: str) -> None:
        self.done[how] += 1
        self._show()

    def line(self) -> str:
        failed = f", {self.done['failed']} failed" if self.done["failed"] else ""
        return f"{self.done.total()} of {self.total} rollouts{failed}, {self._speed()}"

    def _speed(self) -> str:
        elapsed = max(time.perf_counter() - self._begun, 1e-6)
        return f"{self.responses} responses, {self.tokens / elapsed:,.0f} tokens/s"

    def _show(self) -> None:
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done.total(), speed=self._speed())
        elif not self.quiet and now - self._said > LINE_EVERY_S:
            self._said = now
            print(self.line(), file=sys.stderr, flush=True)
