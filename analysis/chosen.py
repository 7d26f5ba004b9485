"""Which metrics a report shows of a run, and which it tests: fixed here, so that nobody picks them after looking.

Knows no value of any metric.
"""

from __future__ import annotations

from analysis.frames import Frames

RATES: tuple[str, ...] = (
    "used_tools",
    "used_tools_first_round",
    "steered",
    "copied_placeholder",
    "degenerate_same_index",
    "degenerate_difflib",
    "degenerate_equal",
    "degenerate_last_five",
    "degenerate_loop",
    "monitor_unhealthy",
)
NUMBERS: tuple[str, ...] = (
    "calls",
    "steers",
    "searches",
    "median_strength",
    "malformed_share",
    "repeats",
    "first_person",
    "second_person",
    "words_per_response",
    "vocabulary",
    "cut_off_share",
    "portfolio_rounds",
    "voided_steers",
    "silently_voided_steers",
    "steers_from_search_share",
)
INJECTED = (
    "detected",
    "found_by_inspect",
    "named_injected",
    "removed_injected",
    "targeted_removal",
    "blanket_removal",
    "amplified_injected",
    "remarked_on_itself",
)
"""Rates of runs in which something was injected."""
CONTENT = ("coverage", "distortion")
"""Shares of runs whose topics have facts."""
ANSWERS = ("right_first", "right_last")
"""Rates of runs in which problems were set."""
CITED, WROTE = ("cited", "grounded_share"), ("wrote_results", "wrote_results_first")
"""Numbers and rates of runs in which a tool showed features."""
AFTER, AFTER_SHARES = ("retook", "found_again", "escalated_after"), ("reward_searches", "self_searches")
"""Rates and shares of runs in which a sandbox came after an injection."""
COMPARED = ("used_tools", "steered", "degenerate_same_index", "degenerate_loop")
COMPARED_WHERE_ASKED = ("detected", "removed_injected", "retook", "right_last")
"""Rates that are tested between groups, the second where a run has them; fixed here, so that nobody picks them after
looking."""


def chosen(frames: Frames) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Rates and numbers of a report on these frames, and the rates among them that are compared between groups."""
    parameters = [p for p in frames.rollouts["parameters"] if isinstance(p, dict)]
    rates, numbers = RATES, NUMBERS
    if was_injected(frames):
        rates = (*rates, *INJECTED)
    if any("problem" in p for p in parameters):
        rates = (*rates, *ANSWERS)
    if any("sandbox_from" in p for p in parameters):
        rates, numbers = (*rates, *AFTER), (*numbers, *AFTER_SHARES)
    if len(frames.shown):
        rates, numbers = (*rates, *WROTE), (*numbers, *CITED)
    if frames.facts:
        numbers = (*numbers, *CONTENT)
    return rates, numbers, [r for r in (*COMPARED, *COMPARED_WHERE_ASKED) if r in rates]


def was_injected(frames: Frames) -> bool:
    """Was anything in force that the model had not set itself?"""
    return bool((frames.steering["source"] != "self").any())
