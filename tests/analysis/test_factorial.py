"""Main effects and interactions: planted ones come back, and intervals hold as often as they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.factorial import design, effects
from analysis.frames import load
from analysis.summary import summarise
from analysis.tables import tables
from tests.analysis.synthetic import Story
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
    values, levels = planted(1, 4)
    values, levels = pd.concat([values, values[:3]]), pd.concat([levels, levels[:3]])
    found = effects(values, levels)
    for factors in {e.factors for e in found}:
        assert sum(e.estimate.value for e in found if e.factors == factors) == pytest.approx(0.0, abs=1e-9)


def test_intervals_cover_as_often_as_they_say() -> None:
    covered = []
    for seed in range(150):
        story = next(e for e in effects(*planted(seed, 12), order=1, seed=seed) if e.levels == ("potions",))
        covered.append(story.estimate.low <= 1.0 <= story.estimate.high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_an_empty_cell_is_refused_and_missing_values_are_counted() -> None:
    values, levels = planted(0, 2)
    values = values.copy()
    values[0] = np.nan
    assert effects(values, levels)[0].estimate.missing == 1
    values[1] = np.nan
    with pytest.raises(BadInput, match="potions x a"):
        effects(values, levels)


def crossing(run: Path, *cells: tuple[str, str]) -> pd.DataFrame:
    for seed, (story, theme) in enumerate(cells):
        parameters = {"narrative": story, "theme": theme, "rounds": 8}
        Story(f"{story}_{theme}", seed, parameters).say("x").end().write(run)
    return design(load(run))


def test_a_design_is_what_varies_where_every_combination_occurs(tmp_path: Path) -> None:
    whole = crossing(tmp_path / "a", ("r", "r"), ("r", "p"), ("p", "r"), ("p", "p"))
    assert list(whole) == ["narrative", "theme"] and len(whole) == 4
    assert crossing(tmp_path / "b", ("r", "r"), ("r", "p"), ("p", "r")).shape[1] == 0
    assert list(crossing(tmp_path / "c", ("r", "r"), ("r", "p"))) == ["theme"]


def test_what_follows_from_a_factor_is_no_factor(tmp_path: Path) -> None:
    for inject, features in (("style", ["330 pirate"]), ("random", ["7 rain", "9 wind"])):
        for topic, rounds in (("a", 8), ("b", 6)):
            parameters = {"inject": inject, "topic": topic, "rounds": rounds, "asked": rounds - 3, "features": features}
            Story(f"{inject}_{topic}", 0, parameters).say("x").end().write(tmp_path)
    assert list(design(load(tmp_path))) == ["inject", "topic"]


def test_the_report_says_the_effects_that_were_planted(tmp_path: Path) -> None:
    for story in ("r", "p"):
        for theme in ("a", "b"):
            for seed in range(4):
                told = Story(f"{story}_{theme}", seed, {"narrative": story, "theme": theme}).say("x y")
                (told.steer(1, 0.5) if story == "p" else told).say("y").end().write(tmp_path)
    summary = summarise(load(tmp_path))
    steered = {e.levels: e.estimate.value for m, e in summary.effects if m.name == "steered"}
    assert steered["p",] == 0.5 and steered["r",] == -0.5 and steered["p", "a"] == 0
    table = next(t for t in tables(summary) if t.title == "Main effects and interactions")
    assert ("steered itself", "narrative", "p", "50 points [50, 50]", "16") in table.rows
