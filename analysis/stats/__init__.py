"""Arrays in, an `Estimate(value, low, high, n, how)` out: the only room with intervals and p-values.

Knows no transcript, frame or metric. The unit is the rollout: hand in one number per rollout, or name the clusters.
NaN and None are missing: never counted, they lower n and are reported in `missing`.
"""

from analysis.stats.agreement import cohen_kappa, krippendorff_alpha
from analysis.stats.decay import half_life
from analysis.stats.estimate import Estimate, outcomes
from analysis.stats.pooled import fold, followers, pooled_difference, pooled_share
from analysis.stats.power import (
    Detectable,
    Needed,
    fisher_power,
    minimum_detectable_rate,
    power_of_rates,
    rollouts_needed,
)
from analysis.stats.proportions import (
    benjamini_hochberg,
    clopper_pearson,
    exact_binomial,
    fisher,
    newcombe,
    wilson,
)
from analysis.stats.resampling import cluster_bootstrap, permutation_between, permutation_within, sign_flips
from analysis.stats.survival import Survival, kaplan_meier, logrank
from analysis.stats.trend import mean, spearman

__all__ = [
    "Detectable",
    "Estimate",
    "Needed",
    "Survival",
    "benjamini_hochberg",
    "clopper_pearson",
    "cluster_bootstrap",
    "cohen_kappa",
    "exact_binomial",
    "fisher",
    "fisher_power",
    "fold",
    "followers",
    "half_life",
    "kaplan_meier",
    "krippendorff_alpha",
    "logrank",
    "mean",
    "minimum_detectable_rate",
    "newcombe",
    "outcomes",
    "permutation_between",
    "permutation_within",
    "pooled_difference",
    "pooled_share",
    "power_of_rates",
    "rollouts_needed",
    "sign_flips",
    "spearman",
    "wilson",
]
