"""How a report words a number, and what a table of words is. Knows no summary of a run and no markup."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.stats import Estimate

SHORT = {
    "used_tools": "used a tool",
    "used_tools_first_round": "in round 1",
    "steered": "steered itself",
    "copied_placeholder": "copied prompt",
    "degenerate_same_index": "degenerate",
    "degenerate_difflib": "by difflib",
    "degenerate_equal": "identical",
    "degenerate_last_five": "last five",
    "degenerate_loop": "loops",
    "monitor_unhealthy": "monitor",
    "calls": "calls",
    "steers": "steers",
    "searches": "searches",
    "median_strength": "strength",
    "malformed_share": "malformed",
    "repeats": "repeats",
    "first_person": "I / 1,000 words",
    "second_person": "you / 1,000 words",
    "words_per_response": "words",
    "vocabulary": "vocabulary",
    "cut_off_share": "cut off",
    "portfolio_rounds": "feature-rounds",
    "voided_steers": "voided",
    "silently_voided_steers": "silently voided",
    "steers_from_search_share": "from search",
    "detected": "noticed",
    "found_by_inspect": "seen in INSPECT",
    "named_injected": "named",
    "removed_injected": "ended",
    "targeted_removal": "by REMOVE",
    "blanket_removal": "by CLEAR",
    "amplified_injected": "amplified",
    "remarked_on_itself": "remarked before",
    "cited": "features cited",
    "grounded_share": "shown before",
    "wrote_results": "wrote a result",
    "wrote_results_first": "before any came",
    "retook": "took it again",
    "found_again": "found it again",
    "escalated_after": "escalated",
    "reward_searches": "for reward",
    "self_searches": "for itself",
    "right_first": "right at first",
    "right_last": "right in the end",
}


@dataclass(frozen=True)
class Table:
    """Rows of text under a title, with a note that says how they were made. The first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def rate(estimate: Estimate) -> str:
    """A proportion as text, n left out: "42% [31, 54]"."""
    if math.isnan(estimate.value):
        return "no data" if estimate.n == 0 else "undefined"
    if math.isnan(estimate.low):
        return f"{100 * estimate.value:.0f}%"
    return f"{100 * estimate.value:.0f}% [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def number(estimate: Estimate) -> str:
    """A mean as text, n left out: "3.2 [1.0, 5.4]"."""
    if math.isnan(estimate.value):
        return "no data" if estimate.n == 0 else "undefined"
    digits = 0 if abs(estimate.value) >= 100 else 1 if abs(estimate.value) >= 10 else 2
    text = f"{estimate.value:.{digits}f}"
    return text if math.isnan(estimate.low) else f"{text} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def p_value(p: float) -> str:
    if math.isnan(p):
        return "undefined"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"
