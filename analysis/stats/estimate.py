"""The one answer that every statistic gives, and how arrays with holes become numbers.

Knows no method: each method names itself in `how`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, and what it rests on.

    value, low, high: NaN where undefined (no data, or a test that has no interval). n: independent units counted
    (rollouts, or clusters where `how` says so). missing: values that were handed in and could not be counted.
    how: the method, level included. p: two-sided p-value unless `how` says otherwise; NaN where none was asked for.
    """

    value: float
    low: float
    high: float
    n: int
    how: str
    missing: int = 0
    p: float = NAN

    def percent(self) -> str:
        """The estimate of a proportion as text: "42% [31, 54], n = 60"."""
        if np.isnan(self.value):
            return "no data" if self.n == 0 else "undefined"
        gone = f", {self.missing} missing" if self.missing else ""
        return f"{100 * self.value:.0f}% [{100 * self.low:.0f}, {100 * self.high:.0f}], n = {self.n}{gone}"


def undefined(how: str, n: int = 0, missing: int = 0) -> Estimate:
    """The estimate of something that the data do not define."""
    return Estimate(NAN, NAN, NAN, n, how, missing)


def numbers(values: Iterable[Any]) -> Floats:
    """Any array of numbers or booleans as float64; None, NaN and NA become NaN."""
    if isinstance(values, pd.Series):
        values = values.array
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return values.astype(np.float64)
    return np.array([NAN if v is None or v is pd.NA else float(v) for v in values], dtype=np.float64)


def present(values: Iterable[Any]) -> tuple[Floats, int]:
    """The values that are there, and how many are not."""
    array = numbers(values)
    gone = np.isnan(array)
    return array[~gone], int(gone.sum())


def binary(values: Iterable[Any]) -> tuple[int, int, int]:
    """(successes, n, missing) of an array of 0, 1 and missing. Raises ValueError on any other value."""
    array, missing = present(values)
    odd = array[(array != 0) & (array != 1)]
    if len(odd):
        raise ValueError(f"a proportion needs 0, 1 or missing per rollout; found {odd[0]!r}")
    return int(array.sum()), len(array), missing


def outcomes(successes: int, n: int, missing: int = 0) -> Floats:
    """The array that has this many successes out of n: for published counts, whose rollouts nobody has."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n} is impossible")
    return np.array([1.0] * successes + [0.0] * (n - successes) + [NAN] * missing)
