"""Metrics of what a model wrote: pronouns, vocabulary, length; frames in, a row per rollout out.

Knows no tool and no interval. Missing (undefined, or a rollout that failed) is NaN, never 0.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd

from analysis import text
from analysis.frames import Frames, per_rollout


def pronouns(frames: Frames, of: Literal["whole", "prose"] = "whole") -> pd.DataFrame:
    """First-person (I my me mine myself) and second-person (you your yours yourself) words per 1,000 words.

    whole: all of a response, as published; prose: without its tool calls. NaN for a rollout without words.
    """
    texts = _responses(frames) if of == "whole" else _prose(frames)
    rows = {}
    for rollout, responses in texts.items():
        total = sum(len(text.words(t)) for t in responses)
        first = sum(len(text.FIRST_PERSON.findall(t)) for t in responses)
        second = sum(len(text.SECOND_PERSON.findall(t)) for t in responses)
        rows[rollout] = {
            "first_person": 1000 * first / total if total else float("nan"),
            "second_person": 1000 * second / total if total else float("nan"),
        }
    return per_rollout(frames, rows)


def vocabulary(frames: Frames) -> pd.DataFrame:
    """Per round: words, distinct words per word (and averaged over 50-word windows), the longest repeated run's share.

    Indexed by rollout and round: the one metric here that is not one number per rollout.
    """
    rounds = frames.rounds[frames.rounds["response"].notna()]
    rows = []
    for rollout, number, response in rounds[["rollout", "round", "response"]].itertuples(index=False):
        tokens = text.words(response)
        rows.append(
            {
                "rollout": rollout,
                "round": number,
                "words": float(len(tokens)),
                "type_token_ratio": len(set(tokens)) / len(tokens) if tokens else float("nan"),
                "moving_ttr": text.moving_ttr(tokens),
                "repeated_share": text.repeated_share(response) if tokens else float("nan"),
            }
        )
    columns = ["rollout", "round", "words", "type_token_ratio", "moving_ttr", "repeated_share"]
    return pd.DataFrame(rows, columns=columns).set_index(["rollout", "round"])


def length(frames: Frames) -> pd.DataFrame:
    """Mean words per response, mean windowed vocabulary richness, and the share of responses cut off at the limit."""
    by_round = vocabulary(frames).groupby(level="rollout")
    why = frames.rounds[frames.rounds["response"].notna()]
    made = pd.DataFrame(
        {
            "words_per_response": by_round["words"].mean(),
            "vocabulary": by_round["moving_ttr"].mean(),
            "cut_off_share": (why["why"] == "length").astype(float).groupby(why["rollout"]).mean(),
        }
    )
    return per_rollout(frames, made.to_dict("index"))


def _responses(frames: Frames) -> dict[str, list[str]]:
    rounds = frames.rounds[frames.rounds["response"].notna()].sort_values(["rollout", "round"])
    found = rounds.groupby("rollout", sort=False)["response"].apply(list).to_dict()
    return {rollout: found.get(rollout, []) for rollout in frames.rollouts["rollout"]}


def _prose(frames: Frames) -> dict[str, list[str]]:
    """The responses with every call cut out of them."""
    spans = {
        (rollout, number): sorted((int(a), int(b)) for a, b in group.dropna())
        for (rollout, number), group in frames.calls.groupby(["rollout", "round"])["span"]
    }
    prose: dict[str, list[str]] = {rollout: [] for rollout in frames.rollouts["rollout"]}
    rounds = frames.rounds[frames.rounds["response"].notna()]
    for rollout, number, response in rounds[["rollout", "round", "response"]].itertuples(index=False):
        kept, at = [], 0
        for low, high in spans.get((rollout, number), ()):
            kept.append(response[at:low])
            at = max(at, high)
        prose[rollout].append(" ".join([*kept, response[at:]]))
    return prose
