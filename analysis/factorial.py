"""Main effects and interactions of crossed factors on a number per rollout, with intervals.

Knows no factor by name: cells of a full crossing in, deviations of their means out. Every cell weighs the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pandas as pd

from analysis.frames import Frames
from analysis.stats import Estimate
from toolkit.errors import BadInput

RESAMPLES = 4000
FOLLOWS = ("features", "rounds", "asked")
"""Parameters that follow from what is injected and from the topic, so that they are no factors of their own."""


@dataclass(frozen=True)
class Effect:
    """One level of a factor, or a pair of levels of two, against what the others would make of it.

    A main effect: mean of the level's cells minus the mean of all. An interaction: mean of the pair's cells minus what
    both main effects add up to. Effects of the levels of one factor sum to 0.
    """

    factors: tuple[str, ...]
    levels: tuple[str, ...]
    estimate: Estimate


def design(frames: Frames) -> pd.DataFrame:
    """What the conditions of a run cross: a column per parameter that varies, a row per rollout that counts.

    No columns unless every combination of the levels occurs. What varies within a condition is no factor.
    """
    here = frames.rollouts[frames.rollouts["rollout"].isin(frames.counted)].set_index("rollout")
    rows = [p if isinstance(p, dict) else {} for p in here["parameters"]]
    levels = pd.DataFrame(rows, index=here.index).map(str, na_action="ignore").dropna(axis=1)
    within = levels.groupby(here["condition"]).nunique().max()
    varying = [str(c) for c in levels if levels[c].nunique() > 1 and within.at[str(c)] == 1]
    factors = [c for c in varying if c not in FOLLOWS]
    varied = levels[factors]
    crossing = np.prod([varied[c].nunique() for c in varied])
    return varied if len(varied.drop_duplicates()) == crossing else varied.iloc[:, :0]


def effects(
    values: pd.Series, design: pd.DataFrame, order: int = 2, level: float = 0.95, seed: int = 0
) -> list[Effect]:
    """All main effects, and interactions of up to `order` factors, of `values` (one per rollout; NaN: missing).

    design: a column per factor, a row per rollout, in the order of `values`. Interval: rollouts resampled within
    their cells, percentile. Raises BadInput unless every combination of levels has a rollout with a value.
    """
    data = design.astype("string").reset_index(drop=True)
    x = pd.Series(np.asarray(values, dtype=float))
    names = list(data.columns)
    levels = [sorted(data[name].dropna().unique()) for name in names]
    shape = tuple(map(len, levels))
    here = x.notna() & data.notna().all(axis=1)
    code = np.zeros(int(here.sum()), dtype=int)
    for name, found in zip(names, levels, strict=True):
        code = code * len(found) + data.loc[here, name].map({v: i for i, v in enumerate(found)}).to_numpy(dtype=int)
    groups = [x[here].to_numpy()[code == cell] for cell in range(int(np.prod(shape)))]
    if empty := [cell for cell, group in zip(product(*levels), groups, strict=True) if not len(group)]:
        raise BadInput(f"no rollout with a value in {' x '.join(empty[0])}; effects need every combination of levels")
    rng = np.random.default_rng(seed)
    drawn = np.stack([g[rng.integers(0, len(g), (RESAMPLES, len(g)))].mean(axis=1) for g in groups], axis=1)
    means = np.concatenate([np.array([[g.mean() for g in groups]]), drawn]).reshape(RESAMPLES + 1, *shape)
    how = (
        f"cells weigh the same; rollouts resampled within cells, percentile {level:.0%}, {RESAMPLES} times, seed {seed}"
    )
    n, missing = int(here.sum()), int((~here).sum())
    made = []
    for size in range(1, order + 1):
        for chosen in combinations(range(len(names)), size):
            deviations = _deviations(means, chosen)
            for place in np.ndindex(*(shape[i] for i in chosen)):
                boot = deviations[(slice(None), *place)]
                low, high = np.quantile(boot[1:], [(1 - level) / 2, (1 + level) / 2])
                if min(len(g) for g in groups) < 2:  # nothing can be resampled in a cell of one
                    low = high = float("nan")
                estimate = Estimate(float(boot[0]), float(low), float(high), n, how, missing)
                which = tuple(levels[i][p] for i, p in zip(chosen, place, strict=True))
                made.append(Effect(tuple(names[i] for i in chosen), which, estimate))
    return made


def _deviations(means: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """[S, levels of the chosen factors]: marginal means of all subsets of `chosen`, with alternating signs.

    means: [S, levels...]. Source: sum-to-zero contrasts of a full factorial, any text on the analysis of variance.
    """
    axes = range(1, means.ndim)
    total = np.zeros(())
    for size in range(len(chosen) + 1):
        for kept in combinations(chosen, size):
            marginal = means.mean(axis=tuple(a for a in axes if a - 1 not in kept), keepdims=True)
            total = total + (-1) ** (len(chosen) - size) * marginal
    return total.squeeze(axis=tuple(a for a in axes if a - 1 not in chosen))
