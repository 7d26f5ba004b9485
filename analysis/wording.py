"""Counts of words that a study counted: pronouns, words, single words said over and over, and how texts change.

Knows no tool. Words are what stands between white space, as the SAE self-steering study counted them; responses.py
has the metrics of reports, on words without punctuation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from analysis import text
from analysis.counting import ever, said, tallied, times
from analysis.frames import Frames
from analysis.responses import vocabulary
from analysis.stats import Estimate, mean

FIRST = ("i", "my", "me", "mine", "myself")
SECOND = ("you", "your", "yours", "yourself")


def word_counts(frames: Frames) -> pd.DataFrame:
    """Words, responses, first and second person as counts; second_person_share of all words; more_second_than_first.

    Pronouns as published by the SAE self-steering study: I my me mine myself, you your yours yourself, whole words,
    case ignored, over all of a response. Its counts are of the text with tool calls in it, and pooled over rollouts
    of very different length; `pronouns` gives a rate per rollout instead.
    """
    rounds = said(frames)
    bags = [Counter(text.words(t)) for t in rounds["response"]]
    made = rounds.assign(
        words=[len(t.split()) for t in rounds["response"]],
        first=[sum(bag[w] for w in FIRST) for bag in bags],
        second=[sum(bag[w] for w in SECOND) for bag in bags],
    )
    sums = made.groupby("rollout")[["words", "first", "second"]].sum()
    return tallied(
        frames,
        missing=("second_person_share", "more_second_than_first"),
        words=sums["words"],
        responses=times(rounds),
        first_person_words=sums["first"],
        second_person_words=sums["second"],
        second_person_share=sums["second"] / sums["words"].where(sums["words"] > 0),
        more_second_than_first=(sums["second"] > sums["first"]).astype("float64"),
    )


def containing(frames: Frames, texts: Sequence[str]) -> pd.DataFrame:
    """contains_all: one response of the rollout holds every one of the texts, case ignored."""
    rounds = said(frames)
    lower = rounds["response"].str.lower()
    found = pd.Series(True, index=rounds.index)
    for wanted in texts:
        found &= lower.str.contains(wanted.lower(), regex=False).astype(bool)
    return tallied(frames, contains_all=ever(rounds[found]))


def one_word(frames: Frames, word: str, share: float = 0.9) -> pd.DataFrame:
    """word_most: how often a single response says the word at most; word_rounds: responses of which it is a share."""
    rounds = said(frames)
    rounds = rounds[rounds["response"].str.contains(word, case=False, regex=False).astype(bool)]
    tokens = [text.words(t) for t in rounds["response"]]
    count = pd.Series([t.count(word.lower()) for t in tokens], index=rounds.index, dtype="float64")
    total = pd.Series([len(t) for t in tokens], index=rounds.index, dtype="float64")
    full = rounds[(count > 0) & (count >= share * total)]
    return tallied(frames, word_most=count.groupby(rounds["rollout"]).max(), word_rounds=times(full))


def over_rounds(frames: Frames, by: str = "condition", column: str = "words") -> pd.DataFrame:
    """How length or richness goes over the rounds: by, round, value, low, high, n of the mean over rollouts.

    column: words, type_token_ratio, moving_ttr or repeated_share of responses.vocabulary.
    """
    table = vocabulary(frames)[column].reset_index()
    table = table[table["rollout"].isin(frames.counted)]
    groups = frames.rollouts.set_index("rollout")[by]
    rows = []
    for (group, number), here in table.groupby([table["rollout"].map(groups), "round"]):
        found: Estimate = mean(here[column], floor=0.0)
        row = {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
        rows.append({by: group, "round": number, **row})
    return pd.DataFrame(rows, columns=[by, "round", "value", "low", "high", "n"])
