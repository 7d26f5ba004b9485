"""A context is an append-only list of segments: tokens, who wrote them, and the steering in force on each.

Knows no text, no model and no cache. `KV = f(context)` is a pure function; engines memoise it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

from toolkit.errors import BadInput
from toolkit.steering import NO_STEERING, Steering

Author = Literal["given", "generated"]


@dataclass(frozen=True)
class Segment:
    """Token ids with one author and the one steering under which their keys and values are computed."""

    tokens: tuple[int, ...]
    steering: Steering = NO_STEERING
    author: Author = "given"

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Context:
    """The tokens of one conversation, each with its steering. A value: every method returns another one.

    Two contexts hold the same keys and values exactly when their (token, steering) pairs are equal;
    how they are cut into segments and who wrote them makes no difference to that.
    """

    segments: tuple[Segment, ...] = ()

    def append(self, tokens: Iterable[int], steering: Steering = NO_STEERING, author: Author = "given") -> Context:
        """The context with `tokens` after it, computed under `steering`. No tokens, no new segment."""
        segment = Segment(tuple(tokens), steering, author)
        return Context((*self.segments, segment)) if segment.tokens else self

    def under(self, steering: Steering, start: int = 0, stop: int | None = None) -> Context:
        """The same tokens, with tokens `start` to `stop` computed under `steering`: unsteer, re-steer, `whole`."""
        return self._mapped(start, stop, lambda s: replace(s, steering=steering))

    def swap(self, start: int, tokens: Iterable[int], author: Author = "given") -> Context:
        """Other tokens from position `start` on, each keeping the steering of the one that it replaces.

        Raises BadInput if they would run past the end.
        """
        new = tuple(tokens)
        if start < 0 or start + len(new) > len(self):
            raise BadInput(f"{len(new)} tokens from position {start} do not fit a context of {len(self)} tokens")
        parts, taken = [], 0
        for segment, inside in self._cut(start, start + len(new)):
            if inside:
                words = new[taken : taken + len(segment)]
                taken += len(segment)
                segment = Segment(words, segment.steering, author)
            parts.append(segment)
        return Context(tuple(parts))

    def upto(self, stop: int) -> Context:
        """The first `stop` tokens."""
        return Context(tuple(s for s, inside in self._cut(0, stop) if inside))

    def pairs(self) -> Iterator[tuple[int, Steering]]:
        """Each token with its steering, in order."""
        return ((token, s.steering) for s in self.segments for token in s.tokens)

    def common_prefix(self, other: Context) -> int:
        """The number of leading tokens at which both (token, steering) pairs are equal."""
        count = 0
        for mine, theirs in zip(self.pairs(), other.pairs(), strict=False):
            if mine != theirs:
                break
            count += 1
        return count

    def steered(self) -> Counter[Steering]:
        """How many tokens are to be computed under which steering (NO_STEERING included)."""
        counts: Counter[Steering] = Counter()
        for segment in self.segments:
            counts[segment.steering] += len(segment)
        return counts

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for s in self.segments for token in s.tokens)

    @cached_property
    def digest(self) -> str:
        """Hash of the (token, steering) pairs; equal exactly when the pairs are equal."""
        sha = hashlib.sha256()
        run: Steering | None = None
        for token, steering in self.pairs():
            if steering != run:
                sha.update(f"|{steering.digest}|".encode())
                run = steering
            sha.update(f"{token},".encode())
        return sha.hexdigest()

    def __len__(self) -> int:
        return sum(len(s) for s in self.segments)

    def to_json(self) -> list[dict[str, object]]:
        return [{"tokens": list(s.tokens), "steering": s.steering.to_json(), "author": s.author} for s in self.segments]

    def _mapped(self, start: int, stop: int | None, change) -> Context:  # type: ignore[no-untyped-def]
        end = len(self) if stop is None else stop
        return Context(tuple(change(s) if inside else s for s, inside in self._cut(start, end)))

    def _cut(self, start: int, stop: int) -> Iterator[tuple[Segment, bool]]:
        """The segments, cut at `start` and `stop`, each with whether it lies between them."""
        if not 0 <= start <= stop <= len(self):
            raise BadInput(f"span {start}:{stop} does not lie in a context of {len(self)} tokens")
        position = 0
        for segment in self.segments:
            edges = sorted({0, len(segment), *(e - position for e in (start, stop) if 0 < e - position < len(segment))})
            for low, high in pairwise(edges):
                inside = start <= position + low and position + high <= stop
                yield replace(segment, tokens=segment.tokens[low:high]), inside
            position += len(segment)
