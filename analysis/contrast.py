"""Two rounds of the same rollouts held against each other: which features were more active in one than in the other?

Knows no question that was asked. What one rollout's reading left out because its list was full is missing, not 0.
"""

from __future__ import annotations

import math

import pandas as pd

from analysis import stats
from analysis.frames import Frames
from analysis.words import Table, p_value

COLUMNS = ["feature", "label", "difference", "low", "high", "n", "missing", "p", "p_adjusted"]
MOST = 10
GUIDED = {
    "true against false": (1, 2),
    "with feeling against dry": (4, 5),
}  # rounds of scenarios/texts/observation.yaml


def contrast(frames: Frames, first: int, second: int) -> pd.DataFrame:
    """One row per feature: mean over rollouts of its activation in round `first` minus that in round `second`.

    A feature that a list of all active ones leaves out had activation 0. Features that are listed in fewer than half
    of the rollouts' pairs are left out, which is decided without looking at which of the two rounds listed them.
    p: sign flips over rollouts; p_adjusted: Benjamini-Hochberg over the features of this table. Largest p last.
    """
    counted = set(frames.counted)
    readings = frames.activations[frames.activations["rollout"].isin(counted)]
    readings = readings[readings["round"].isin((first, second))]
    listed = readings.groupby(["rollout", "round"]).size().unstack()
    if first not in listed or second not in listed:
        return pd.DataFrame(columns=COLUMNS)
    both = listed.dropna().index
    full = frames.activations.groupby(["rollout", "round"]).size().max()
    table = readings[readings["rollout"].isin(both)].pivot(
        index="rollout", columns=["feature", "round"], values="value"
    )
    seen = readings[readings["rollout"].isin(both)].groupby("feature")["rollout"].nunique()
    rows = []
    for feature in sorted(int(f) for f in seen[seen >= len(both) / 2].index):
        sides = []
        for number in (first, second):
            values = table.get((feature, number), pd.Series(float("nan"), index=both)).astype("float64")
            sides.append(values.mask(values.isna() & (listed.loc[both, number] < full), 0.0))
        e = stats.sign_flips(sides[0] - sides[1])
        rows.append([feature, frames.labels.get(feature, ""), e.value, e.low, e.high, e.n, e.missing, e.p])
    made = pd.DataFrame(rows, columns=COLUMNS[:-1])
    made["p_adjusted"] = stats.benjamini_hochberg(made["p"])
    return made.sort_values(["p", "feature"], ignore_index=True)


def contrasts(frames: Frames, by: str = "condition") -> tuple[Table, ...]:
    """For runs of guided observation: the features that differ most between the rounds that are to be compared."""
    guided = [
        r
        for r, p in frames.rollouts[["rollout", "parameters"]].itertuples(index=False)
        if isinstance(p, dict) and p.get("script") == "guided"
    ]
    if not guided:
        return ()
    made = []
    mine = frames.rollouts[frames.rollouts["rollout"].isin(guided)]
    for name, (first, second) in GUIDED.items():
        rows: list[tuple[str, ...]] = []
        for group in sorted(mine[by].astype("string").fillna("(none)").unique()):
            found = contrast(frames.where(**{by: group}), first, second)
            for one in found.head(MOST).to_dict("records"):
                interval = "" if math.isnan(one["low"]) else f" [{one['low']:+.2f}, {one['high']:+.2f}]"
                about = f"{one['label'] or '-'} [{one['feature']}]"
                chances = p_value(one["p"]), p_value(one["p_adjusted"])
                rows.append((group, about, f"{one['difference']:+.2f}{interval}", *chances, str(one["n"])))
            if len(found) == 0:
                rows.append((group, "no pair of readings", "", "", "", "0"))
        note = (
            f"Activation in round {first} minus round {second} of the same rollout: mean and Student t 95% interval "
            "over n rollouts; p by sign flips, adjusted (Benjamini-Hochberg) over the features that at least half of a "
            f"group's rollouts list; the {MOST} smallest. Missing where a full list left the feature out. The "
            "rounds differ in what went before them as well."
        )
        made.append(
            Table(f"Activations: {name}", (by, "feature", "difference", "p", "p adjusted", "n"), tuple(rows), note)
        )
    return tuple(made)
