"""Has a rollout ended in repetition? Six definitions, and how the ranking of groups changes with the definition.

Knows no tool and no interval. Too few responses to ask is NaN, never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from analysis import text
from analysis.counting import said
from analysis.frames import Frames, per_rollout

ALIKE = 0.8
"""Two texts more alike than this count as repeated, in the published definition and in difflib's."""
LOOPS = 0.5
"""A response loops if its longest repeated run of words is more than this share of it, and it has LOOP_WORDS."""
LOOP_WORDS = 20
SHORTEST = 20
"""Characters below which the published definition calls no pair of responses alike."""
DEFINITIONS = ("same_index", "difflib", "equal", "last_five", "loop")


def degeneration(frames: Frames) -> pd.DataFrame:
    """Five definitions, as degenerate_<name>. The SAE self-steering study uses the first four in one repository.

    same_index: its headline. The last two responses, both of 20 characters or more, have the same character at the
    same index over more than 80% of the shorter. One character more at the front of one of them makes it 0.
    difflib: ratio(last, one before) over 0.8. Not symmetric: the other order gives other counts.
    equal: identical. last_five: of the four adjacent pairs among the last five, two or more are the same at 85% of
    the indexes of the longer; shifts break it too. loop: ours. The last response repeats itself, whatever the one
    before: its longest repeated run of words is over half of it.
    """
    rows = {}
    for rollout, responses in _responses(frames).items():
        last, pair = responses[-1:], responses[-2:]
        row = dict.fromkeys(DEFINITIONS, float("nan"))
        if last:
            row["loop"] = float(len(text.words(last[0])) >= LOOP_WORDS and text.repeated_share(last[0]) > LOOPS)
        if len(pair) == 2:
            before, final = pair
            long_enough = min(len(before), len(final)) >= SHORTEST
            row["same_index"] = float(long_enough and text.same_index_share(before, final) > ALIKE)
            row["difflib"] = float(text.ratio_above(final, before, ALIKE))
            row["equal"] = float(bool(final) and before == final)
            row["last_five"] = _last_five(responses[-5:])
        rows[rollout] = {f"degenerate_{k}": v for k, v in row.items()}
    return per_rollout(frames, rows)


def any_cause(frames: Frames) -> pd.DataFrame:
    """degenerate_any_cause: the broadest definition of the SAE self-steering study; any one of five signs.

    The last five responses have under 30 words on average, or under one distinct word in ten on average; three of
    them begin with the same 200 characters; five of all begin with the same 150; the second half has under 20 words on
    average. Short answers are no degeneration, so that this counts taciturn rollouts as broken.
    """
    rows = {}
    for rollout, responses in _responses(frames).items():
        texts = [r.strip() for r in responses]
        late = [text.words(t) for t in texts[min(len(texts) // 2, max(len(texts) - 5, 0)) :]]
        last, half = late[-5:], [len(w) for w in late[-(len(texts) - len(texts) // 2) :]]
        found = bool(texts) and (
            sum(map(len, last)) / len(last) < 30
            or sum(len(set(w)) / max(len(w), 1) for w in last) / len(last) < 0.10
            or _most_alike([t[:200] for t in texts[-5:]]) >= 3
            or _most_alike([t[:150] for t in texts]) >= 5
            or sum(half) / len(half) < 20
        )
        rows[rollout] = {"degenerate_any_cause": float(found) if texts else float("nan")}
    return per_rollout(frames, rows)


def rankings(frames: Frames, by: str = "framing") -> pd.DataFrame:
    """Share of degenerate rollouts by group (rows) and definition (columns), and `rank_<definition>`, 1 the healthiest.

    Groups with the same share share a rank. A claim that one group is worst holds if it does in every column.
    """
    whole = degeneration(frames).join(any_cause(frames)).rename(columns=lambda c: c.removeprefix("degenerate_"))
    shares = whole.groupby(frames.rollouts.set_index("rollout")[by]).mean()
    return shares.join(shares.rank(method="min").add_prefix("rank_"))


def _most_alike(texts: Sequence[str]) -> int:
    """How many of the texts are the same, at most."""
    return max(Counter(texts).values())


def _last_five(responses: Sequence[str]) -> float:
    """At least two of the adjacent pairs alike over the longer one, as published; NaN with under three responses."""
    if len(responses) < 3:
        return float("nan")
    pairs = pairwise(responses)
    return float(sum(text.same_index_share(a, b, "longer") >= 0.85 for a, b in pairs) >= 2)


def _responses(frames: Frames) -> dict[str, list[str]]:
    found = said(frames).groupby("rollout", sort=False)["response"].apply(list).to_dict()
    return {rollout: found.get(rollout, []) for rollout in frames.rollouts["rollout"]}
