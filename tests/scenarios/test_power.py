"""`selfsteer power` says how many seeds are needed, and refuses what cannot be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.power_command import power
from tests.analysis.synthetic import small_run
from toolkit.errors import BadInput


def test_from_a_rate_it_prints_what_the_statistic_says(capsys: pytest.CaptureFixture[str]) -> None:
    power(base=0.5, effect=-0.4)
    assert "23" in capsys.readouterr().out


def test_from_a_pilot_run_it_starts_at_the_rate_and_both_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    power(small_run(tmp_path), metric="used_tools", condition="research", effect=-0.3)
    out = capsys.readouterr().out
    assert "100% found" in out
    assert "34% low end" in out  # Wilson: 2 of 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give a pilot run or --base"),
        ({"base": 1.5}, "outside 0 to 1"),
        ({"base": 0.2, "effect": -0.5}, "cannot change by"),
        ({"base": 0.2, "effect": 0.0}, "different rates"),
        ({"base": 0.2, "effect": 0.5, "power": 1.0}, "alpha"),
    ],
)
def test_bad_questions_get_one_line(options: dict[str, float], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        power(**options)  # type: ignore[arg-type]


def test_a_pilot_run_needs_a_rate_and_a_condition(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    with pytest.raises(BadInput, match="is no rate"):
        power(run, metric="calls")
    with pytest.raises(BadInput, match="name one with --condition"):
        power(run, metric="used_tools")
    with pytest.raises(BadInput, match="missing in every rollout"):
        power(run, metric="detected", condition="research")
