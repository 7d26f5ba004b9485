"""Measures of one text, or of two: likeness, loops, pronouns, vocabulary.

Knows no rollout and no frame; responses.py says which texts are measured.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+")
FIRST_PERSON = re.compile(r"\b(?:i|my|me|mine|myself)\b", re.IGNORECASE)
SECOND_PERSON = re.compile(r"\b(?:you|your|yours|yourself)\b", re.IGNORECASE)
Codes = NDArray[np.uint64]
_BASE, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def same_index_share(first: str, second: str, over: str = "shorter") -> float:
    """Share of indexes at which both texts have the same character, over the length of the shorter or longer one.

    Breaks under a shift by one character: that is the published definition, kept because it was published.
    """
    length = (min if over == "shorter" else max)(len(first), len(second))
    n = min(len(first), len(second))
    a, b = (np.frombuffer(t[:n].encode("utf-32-le", "surrogatepass"), dtype=np.uint32) for t in (first, second))
    return float(np.count_nonzero(a == b)) / length if length else 0.0


def ratio_above(text: str, other: str, threshold: float) -> bool:
    """Is difflib's SequenceMatcher(None, text, other).ratio() above the threshold? Its cheap upper bounds go first."""
    matcher = difflib.SequenceMatcher(None, text, other)
    return matcher.real_quick_ratio() > threshold and matcher.quick_ratio() > threshold and matcher.ratio() > threshold


def longest_repeat(tokens: Sequence[str]) -> int:
    """The length of the longest run of words that occurs twice; the two may overlap, so a loop of period p gives n - p.

    Binary search over the length, windows compared by a rolling hash and then word by word.
    """
    known: dict[str, int] = {}
    codes = np.array([known.setdefault(t, len(known)) for t in tokens], dtype=np.uint64)
    low, high = 0, len(codes) - 1
    powers, prefix = _hashes(codes)
    while low < high:
        middle = (low + high + 1) // 2
        if _has_repeat(codes, powers, prefix, middle):
            low = middle
        else:
            high = middle - 1
    return max(low, 0)


def repeated_share(text: str) -> float:
    """The longest repeated run of words as a share of all words; 0 for an empty text."""
    tokens = words(text)
    return longest_repeat(tokens) / len(tokens) if tokens else 0.0


def moving_ttr(tokens: Sequence[str], window: int = 50) -> float:
    """Distinct words per word, averaged over all windows (Covington & McFall 2010), so that length matters little.

    A text shorter than the window is one window; NaN for no words.
    """
    if not tokens:
        return float("nan")
    span = min(window, len(tokens))
    counts: dict[str, int] = {}
    total = 0
    for i, token in enumerate(tokens):
        counts[token] = counts.get(token, 0) + 1
        if i >= span:
            old = tokens[i - span]
            counts[old] -= 1
            if not counts[old]:
                del counts[old]
        if i >= span - 1:
            total += len(counts)
    return total / span / (len(tokens) - span + 1)


def _hashes(codes: Codes) -> tuple[Codes, Codes]:
    """Powers of the base and prefix hashes, modulo 2 ** 64."""
    powers, prefix = [1], [0]
    for code in codes.tolist():
        powers.append(powers[-1] * _BASE & _MASK)
        prefix.append((prefix[-1] * _BASE + code + 1) & _MASK)
    return np.array(powers, dtype=np.uint64), np.array(prefix, dtype=np.uint64)


def _has_repeat(codes: Codes, powers: Codes, prefix: Codes, length: int) -> bool:
    with np.errstate(over="ignore"):
        windows = prefix[length:] - prefix[:-length] * powers[length]
    order = np.argsort(windows, kind="stable")
    twins = np.flatnonzero(windows[order][1:] == windows[order][:-1])
    for i in twins:
        a, b = order[i], order[i + 1]
        if np.array_equal(codes[a : a + length], codes[b : b + length]):
            return True
    return False
