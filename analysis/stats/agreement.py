"""Do two or more coders agree? Cohen's kappa and Krippendorff's alpha.

Knows nothing of what was coded: codes are any values, None or NaN where a coder gave none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from analysis.stats.estimate import NAN, Estimate, Floats, undefined

Level = Literal["nominal", "ordinal", "interval"]


def cohen_kappa(first: Iterable[Any], second: Iterable[Any], level: float = 0.95) -> Estimate:
    """Unweighted kappa of two coders, with the large-sample interval of Fleiss, Cohen & Everitt (1969).

    n: units that both coded; missing: units that only one of them, or neither, coded.
    """
    pairs = pd.DataFrame({"a": list(first), "b": list(second)})
    both = pairs.dropna()
    how, missing, n = f"Cohen's kappa, Fleiss-Cohen-Everitt {level:.0%}", len(pairs) - len(both), len(both)
    if n == 0:
        return undefined(how, 0, missing)
    codes, kinds = pd.factorize(pd.concat([both["a"], both["b"]]))
    p = np.zeros((len(kinds), len(kinds)))
    np.add.at(p, (codes[:n], codes[n:]), 1 / n)
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed, chance = float(np.trace(p)), float(rows @ columns)
    if chance >= 1 - 1e-12:
        return undefined(f"{how}: both coders used one and the same code throughout", n, missing)
    kappa = (observed - chance) / (1 - chance)
    diagonal = float((np.diag(p) * (1 - (rows + columns) * (1 - kappa)) ** 2).sum())
    marginal = (columns[:, None] + rows[None, :]) ** 2
    off = (1 - kappa) ** 2 * float((p * marginal).sum() - (np.diag(p) * np.diag(marginal)).sum())
    variance = (diagonal + off - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    half = float(scipy_stats.norm.ppf((1 + level) / 2)) * float(np.sqrt(max(variance, 0.0)))
    return Estimate(kappa, max(kappa - half, -1.0), min(kappa + half, 1.0), n, how, missing)


def krippendorff_alpha(
    ratings: Sequence[Sequence[Any]],
    scale: Level = "nominal",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Krippendorff's alpha; ratings[coder][unit], holes allowed. Interval: bootstrap over units, percentile.

    n: units with at least two ratings; missing: units with fewer. Ordinal and interval scales need numbers.
    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).
    """
    table = pd.DataFrame([list(row) for row in ratings]).T
    how = f"Krippendorff's alpha, {scale}; bootstrap of units, percentile {level:.0%}, {resamples} resamples"
    paired = table[table.notna().sum(axis=1) >= 2]
    n, missing = len(paired), len(table) - len(paired)
    if n == 0:
        return undefined(how, 0, missing)
    flat = paired.to_numpy(dtype=object).ravel()
    codes, kinds = pd.factorize(flat, sort=scale != "nominal")
    counts = np.zeros((n, len(kinds)))
    unit = np.repeat(np.arange(n), paired.shape[1])
    np.add.at(counts, (unit[codes >= 0], codes[codes >= 0]), 1)
    size = counts.sum(axis=1)
    pairs = (counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(kinds))) / (size - 1)[
        :, None, None
    ]
    value = float(_alpha(pairs.sum(axis=0)[None], kinds, scale)[0])
    if np.isnan(value):
        return undefined(f"{how}: all ratings are equal", n, missing)
    drawn = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=resamples)
    null = _alpha(np.einsum("ru,ucd->rcd", drawn.astype(float), pairs, optimize=True), kinds, scale)
    null = null[~np.isnan(null)]
    low, high = np.quantile(null, [(1 - level) / 2, (1 + level) / 2]) if n > 1 and len(null) else (NAN, NAN)
    return Estimate(value, float(low), float(high), n, how, missing)


def _alpha(coincidences: Floats, kinds: Any, scale: Level) -> Floats:
    """Alpha of each coincidence matrix (R, K, K); NaN where there is no variation."""
    margins = coincidences.sum(axis=2)
    total = margins.sum(axis=1)
    if scale == "ordinal":
        before = np.cumsum(margins, axis=1)
        middle = before - margins / 2
        distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    elif scale == "interval":
        value = np.asarray(kinds, dtype=float)
        distance = ((value[:, None] - value[None, :]) ** 2)[None]
    else:
        distance = (1 - np.eye(len(kinds)))[None]
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = (margins[:, :, None] * margins[:, None, :] * distance).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan)
