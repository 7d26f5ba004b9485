"""What steering does to words: how far two texts differ, whether a text is still one, which words mark a feature.

Knows no model and no feature. All of it is counting, so it says nothing about meaning.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

FEWEST = 5  # distinct words that an answer of more than a few words has
RUN = 6  # equal words on end that no prose has
NGRAM = 4  # words
LOOPING = 0.5  # share of n-grams of a text that stood in it before
FEW_WORDS = 24  # shorter texts say too little to call them a loop
RARE = 3  # a word must be said so often under steering to count as marking it
OFTENER = 3.0  # and so many times as often as without
MOST = 30  # words that mark a feature, at most

COHERENT = (
    f"not empty; no word {RUN} times on end; at most {LOOPING:.0%} of its word {NGRAM}-grams stood in it before "
    f"(from {FEW_WORDS} words on); at least {FEWEST} distinct words (from {2 * FEWEST} words on)"
)
# scripts that put no space between words, of which each character counts as one: Thai to Khmer, kana, Han
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LETTERS = rf"[^\W\d_{UNSPACED}]+"
_WORD = re.compile(rf"{_LETTERS}(?:['’-]{_LETTERS})*|(?![\W\d_])[{UNSPACED}]")


def words(text: str) -> list[str]:
    """Lower-case words, without digits and punctuation; in scripts without spaces, each character."""
    return _WORD.findall(text.lower())


def distance(one: str, other: str) -> float:
    """Jaccard distance of the two sets of lower-case words: 0 the same, 1 none in common; 0 if both are empty."""
    a, b = set(words(one)), set(words(other))
    return 1 - len(a & b) / len(a | b) if a | b else 0.0


def coherent(text: str) -> bool:
    """Whether `text` keeps the rule that COHERENT states. Ordinary prose does; loops and stutters do not."""
    said = words(text)
    if not said or any(len(set(said[i : i + RUN])) == 1 for i in range(len(said) - RUN + 1)):
        return False
    if len(said) >= 2 * FEWEST and len(set(said)) < FEWEST:
        return False
    if len(said) < FEW_WORDS:
        return True
    grams = [tuple(said[i : i + NGRAM]) for i in range(len(said) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) <= LOOPING


def marking(steered: Sequence[str], plain: Sequence[str]) -> tuple[str, ...]:
    """The words that mark steering: said at least RARE times and OFTENER times as often as in `plain`, at most MOST.

    Rates are per word with half a count added to each, so that a word never said without steering has one.
    Strongest first, by the log-likelihood ratio of the two counts (Dunning 1993); ties in alphabetical order.
    """
    with_, without = Counter(w for t in steered for w in words(t)), Counter(w for t in plain for w in words(t))
    n, m = with_.total(), without.total()
    if not n or not m:
        return ()
    oftener = {w: (c + 0.5) / n / ((without[w] + 0.5) / m) for w, c in with_.items() if c >= RARE}
    kept = [w for w, ratio in oftener.items() if ratio >= OFTENER]
    return tuple(sorted(kept, key=lambda w: (-_likelihood(with_[w], n, without[w], m), w))[:MOST])


def share(texts: Sequence[str], marks: Sequence[str]) -> float:
    """The share of all words of `texts` that are among `marks`; NaN if there is no word."""
    said = [w for t in texts for w in words(t)]
    known = frozenset(marks)
    return sum(w in known for w in said) / len(said) if said else math.nan


def _likelihood(c: int, n: int, d: int, m: int) -> float:
    """Twice the log-likelihood ratio of c of n against d of m."""
    pooled = (c + d) / (n + m)
    parts = ((c, n * pooled), (d, m * pooled), (n - c, n * (1 - pooled)), (m - d, m * (1 - pooled)))
    return 2 * sum(seen * math.log(seen / expected) for seen, expected in parts if seen)
