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
    """Counts, and shows them. Use as a context manager.

    rounds: how many rounds all rollouts together may have. Rollouts go abreast and end together, so the bar and the
    time left count rounds; a rollout that ends early has had all of its own.
    """

    def __init__(self, total: int, rounds: int, quiet: bool = False) -> None:
        self.total, self.rounds, self.quiet = total, rounds, quiet
        self._spared = 0
        self.done: Counter[str] = Counter()
        self.tokens = self.responses = 0
        self._begun = self._said = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._begun = self._said = time.perf_counter()
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(BarColumn(), TextColumn("{task.fields[line]}"), console=Console(stderr=True))
            self._task = self._bar.add_task("run", total=self.rounds, line="")
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

    def spare(self, rounds: int) -> None:
        """These need not be computed in this call: an unfinished rollout had them already."""
        self._spared += rounds

    def ended(self, how: str, spared: int = 0) -> None:
        """A rollout is over; `spared` of its rounds need not be computed in this call."""
        self.done[how] += 1
        self._spared += spared
        self._show()

    def line(self) -> str:
        failed = f", {self.done['failed']} failed" if self.done["failed"] else ""
        elapsed = max(time.perf_counter() - self._begun, 1e-6)
        return (
            f"{self.done.total()} of {self.total} rollouts{failed}, {self.responses} rounds,"
            f" {self.tokens / elapsed:,.0f} tokens/s{self._left(elapsed)}"
        )

    def _left(self, elapsed: float) -> str:
        rounds_left = self.rounds - self._spared - self.responses
        if not self.responses or rounds_left <= 0:
            return ""
        minutes, seconds = divmod(round(rounds_left * elapsed / self.responses), 60)
        return f", at most {minutes}:{seconds:02d} left"

    def _show(self) -> None:
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.responses + self._spared, line=self.line())
        elif not self.quiet and now - self._said > LINE_EVERY_S:
            self._said = now
            print(self.line(), file=sys.stderr, flush=True)
