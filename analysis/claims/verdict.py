"""A number as it was published, and whether a recomputed one is the same: exact, near, no, or undefined.

Knows no transcript. How many digits were published is part of what was published.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

from analysis.stats import Estimate

Verdict = Literal["exact", "near", "no", "undefined"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NEAR = 0.05
"""A recomputed value is near if it is off by at most this share of the published one; a file can say otherwise."""
_OF = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")
_BOUND = re.compile(r"\s*([<>])\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Published:
    """One of: a number with so many digits after the point; k of n rollouts (`of`); a bound (`bound` is < or >)."""

    text: str
    value: float
    digits: int = 0
    of: tuple[int, int] | None = None
    bound: Literal["<", ">"] | None = None


def published(text: object) -> Published:
    """Read what a file says was published: 8, 37.7, "0.40" (its digits count), "8/15", "<0.05". Raises ValueError."""
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise ValueError(f"a published value is a number, 'k/n' or '<bound'; found {text!r}")
    said = str(text)
    if found := _OF.fullmatch(said):
        k, n = int(found[1]), int(found[2])
        if not 0 <= k <= n or n == 0:
            raise ValueError(f"{said} is no part of a whole")
        return Published(said, k / n, of=(k, n))
    if found := _BOUND.fullmatch(said):
        return Published(said, float(found[2]), bound="<" if found[1] == "<" else ">")
    if _NUMBER.fullmatch(said):
        exponent = Decimal(said.strip()).as_tuple().exponent
        return Published(said, float(said), digits=max(0, -int(exponent)))
    raise ValueError(f"a published value is a number, 'k/n' or '<bound'; found {said!r}")


def verdict(claimed: Published, found: Estimate, scale: float = 1.0, near: float = NEAR) -> Verdict:
    """Is the estimate what was published? scale: of the published unit (100 where percent were published).

    exact: it rounds to the published digits; for k of n, both are equal; for a bound, it holds.
    """
    value = found.value * scale
    if math.isnan(value):
        return "undefined"
    if claimed.of is not None:
        k, n = claimed.of
        return _graded(n == found.n and abs(found.value * n - k) < 1e-6, found.value, claimed.value, near)
    if claimed.bound is not None:
        holds = value < claimed.value if claimed.bound == "<" else value > claimed.value
        return _graded(holds, value, claimed.value, near)
    half = 0.5 * 10.0**-claimed.digits
    return _graded(abs(value - claimed.value) <= half * (1 + 1e-9) + 1e-12, value, claimed.value, near)


def _graded(exact: bool, value: float, claimed: float, near: float) -> Verdict:
    return "exact" if exact else "near" if abs(value - claimed) <= near * abs(claimed) * (1 + 1e-9) else "no"
