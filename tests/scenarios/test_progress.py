"""Progress as it is printed where there is no terminal."""

from __future__ import annotations

from scenarios import progress as module
from scenarios.progress import Progress


def test_a_line_counts_rollouts_rounds_speed_and_time_left(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    with Progress(total=4, rounds=40, quiet=True) as shown:
        shown.ended("before", 10)
        for _ in range(10):
            shown.responded(50)
        now[0] = 5.0
        assert shown.line() == "1 of 4 rollouts, 10 rounds, 100 tokens/s, at most 0:10 left"
        shown.ended("failed", 0)
        shown.ended("left", 20)
        assert shown.line() == "3 of 4 rollouts, 1 failed, 10 rounds, 100 tokens/s"


def test_rounds_that_a_record_held_are_not_waited_for(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    with Progress(total=1, rounds=20, quiet=True) as shown:
        shown.spare(15)
        shown.responded(10)
        now[0] = 2.0
        assert shown.line() == "0 of 1 rollouts, 1 rounds, 5 tokens/s, at most 0:08 left"
