"""Main effects and interactions: planted ones come back, and intervals hold as often as they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.factorial import effects, factors_of
from toolkit.errors import BadInput

LEVELS = (("potions", "research"), ("a", "b", "c"))


def planted(seed: int, per_cell: int, noise: float = 1.0) -> tuple[pd.Series, pd.DataFrame]:
    """Story adds 1 against -1, theme b adds 0.5 (others -0.25), and both together 0.3 in one corner's pattern."""
    rng = np.random.default_rng(seed)
    rows = []
    for story in LEVELS[0]:
        for theme in LEVELS[1]:
            mean = (1 if story == "potions" else -1) + (0.5 if theme == "b" else -0.25)
            mean += 0.3 * (1 if story == "potions" else -1) * {"a": 1, "b": 0, "c": -1}[theme]
            rows += [(story, theme, mean + noise * rng.standard_normal()) for _ in range(per_cell)]
    table = pd.DataFrame(rows, columns=["narrative", "theme", "value"])
    return table["value"], table[["narrative", "theme"]]


def test_without_noise_the_planted_effects_come_back_exactly() -> None:
    found = {(e.factors, e.levels): e.estimate.value for e in effects(*planted(0, 2, noise=0.0))}
    assert found[("narrative",), ("potions",)] == pytest.approx(1.0)
    assert found[("theme",), ("b",)] == pytest.approx(0.5)
    assert found[("narrative", "theme"), ("potions", "a")] == pytest.approx(0.3)
    assert found[("narrative", "theme"), ("research", "a")] == pytest.approx(-0.3)
    assert len(found) == 2 + 3 + 6


def test_effects_of_a_factor_sum_to_zero_and_unequal_cells_weigh_the_same() -> None:
    values, design = planted(1, 4)
    values, design = pd.concat([values, values[:3]]), pd.concat([design, design[:3]])
    found = effects(values, design)
    for factors in {e.factors for e in found}:
        assert sum(e.estimate.value for e in found if e.factors == factors) == pytest.approx(0.0, abs=1e-9)


def test_intervals_cover_as_often_as_they_say() -> None:
    covered = []
    for seed in range(150):
        story = next(e for e in effects(*planted(seed, 12), order=1, seed=seed) if e.levels == ("potions",))
        covered.append(story.estimate.low <= 1.0 <= story.estimate.high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_an_empty_cell_is_refused_and_missing_values_are_counted() -> None:
    values, design = planted(0, 2)
    values = values.copy()
    values[0] = np.nan
    assert effects(values, design)[0].estimate.missing == 1
    values[1] = np.nan
    with pytest.raises(BadInput, match="potions x a"):
        effects(values, design)


def test_only_what_varies_is_a_factor() -> None:
    table = pd.DataFrame({"narrative": ["a", "b"], "rounds": [8, 8], "theme": ["x", None]})
    assert factors_of(table) == ["narrative"]
