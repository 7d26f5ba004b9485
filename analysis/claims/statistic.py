"""An estimate that a claim can name, for what is no number per rollout: transitions, gaps, permutation tests.

Knows no claim and no study.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from analysis.stats import Estimate


@dataclass(frozen=True)
class Statistic:
    """An estimate from the frames of the rollouts that were picked: measure(frames, **parameters). Where a claim
    compares, measure(frames, other frames, **parameters). Undefined is NaN, never 0."""

    name: str
    version: int
    meaning: str
    measure: Callable[..., Estimate]
