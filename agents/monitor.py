"""A health monitor: does this response loop, or repeat the one before it? Deterministic, and the same for every arm.

Knows no model, no steering and no scenario: it sees texts. Its verdict has three values, and a monitor that fails is
`failed`, never healthy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agents.events import Health
from toolkit.wording import UNSPACED

FEW_WORDS = 24  # shorter responses say too little to call them a loop
NGRAM = 4  # words
LOOPING = 0.5  # share of n-grams in a response that stood in it before
RUN = 8  # equal words or characters on end that no prose has
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_STUCK = re.compile(r"(\S)\1{39,}")


@dataclass(frozen=True)
class Verdict:
    """What a monitor found, and in a few words why."""

    health: Health
    why: str = ""


Monitor = Callable[[str, Sequence[str]], Verdict]


def repetition(text: str) -> float:
    """The share of word 4-grams of `text` that repeat an earlier one of it; 0.0 below 24 words.

    In scripts without spaces, as Chinese, each character is a word: what loops there is one word else.
    """
    words = _WORD.findall(text)
    if len(words) < FEW_WORDS:
        return 0.0
    seen = Counter(tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1))
    return 1 - len(seen) / seen.total()


def health(text: str, earlier: Sequence[str] = ()) -> Verdict:
    """Unhealthy: empty, a loop within the response, or word for word the response before. `earlier`: oldest first."""
    words = text.split()
    if not any(c.isprintable() and not c.isspace() for c in text):  # what nobody can see is nothing
        return Verdict("unhealthy", "empty response")
    if _longest_run(words) >= RUN or _STUCK.search(text):
        return Verdict("unhealthy", "one word or character over and over")
    if (share := repetition(text)) > LOOPING:
        return Verdict("unhealthy", f"{share:.0%} of its phrases repeat earlier ones")
    if earlier and words == earlier[-1].split():
        return Verdict("unhealthy", "the same as the response before")
    return Verdict("healthy")


def judged(monitor: Monitor, text: str, earlier: Sequence[str]) -> Verdict:
    """The monitor's verdict, or `failed` and what it raised."""
    try:
        return monitor(text, earlier)
    except Exception as error:  # noqa: BLE001  whatever a monitor raises is recorded as its failure
        return Verdict("failed", f"{type(error).__name__}: {error}")


def _longest_run(words: Sequence[str]) -> int:
    longest = run = 0
    before = None
    for word in words:
        run = run + 1 if word == before else 1
        before = word
        longest = max(longest, run)
    return longest
