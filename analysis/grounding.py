"""Do the features that a response cites come from results? And did the model write results itself?

Knows no label. A citation is grounded only if an INSPECT or SEARCH of an earlier round showed the feature.
"""

from __future__ import annotations

import re

import pandas as pd

from analysis.counting import ever, said, tallied
from analysis.frames import Frames

CITED = ["rollout", "round", "feature", "shown_before", "shown_ever"]
_RESULT_LINE = re.compile(
    r"^\W{0,4}(?:\w+ ){0,2}#?\[?\d{1,5}\]?\b.*"
    r"\b(?:activation|potency|similarity|relevance)s?\W{0,3}\s*[:=]\s*\W?\d+\.\d+",
    re.IGNORECASE | re.MULTILINE,
)
"""A number, and in the same line a measure with a decimal value: how results of every theme show a feature."""


def citations(frames: Frames, digits: tuple[int, int] = (1, 5)) -> pd.DataFrame:
    """Features that responses cite as [123] or #123, once per response: CITED.

    digits: how many a cited index has. shown_before: INSPECT or SEARCH showed it in an earlier round, so that the
    model could know it. shown_ever: any call of the rollout showed or named it, later ones too, or a recorded text of
    results lists it.
    """
    number = re.compile(rf"[\[#](\d{{{digits[0]},{digits[1]}}})(?!\d)")
    rows = [
        (rollout, n, int(found))
        for rollout, n, response in said(frames).itertuples(index=False)
        for found in dict.fromkeys(number.findall(response))
    ]
    made = pd.DataFrame(rows, columns=CITED[:3]).astype({"rollout": "object", "round": "int64", "feature": "int64"})
    shown = frames.shown[frames.shown["rollout"].isin(made["rollout"]) & frames.shown["feature"].isin(made["feature"])]
    read = shown[shown["verb"].isin(["inspect", "search"])]
    named = frames.calls[frames.calls["feature"].isin(made["feature"])]
    anywhere = set(_pairs(shown)) | set(_pairs(named)) | _listed(frames, set(made["rollout"]))
    first = read.groupby(["rollout", "feature"])["round"].min().to_dict()
    pairs = list(zip(made["rollout"], made["feature"], strict=True))
    made["shown_before"] = [first.get(p, n) < n for p, n in zip(pairs, made["round"], strict=True)]
    made["shown_ever"] = [p in anywhere for p in pairs]
    return made


def grounded(frames: Frames, digits: tuple[int, int] = (1, 5)) -> pd.DataFrame:
    """cited: distinct citations per response, summed; cited_shown_ever and cited_shown_before of them; grounded_share:
    shown before per cited (NaN where nothing was cited).

    The SAE self-steering study counts indexes of three digits or more and accepts results of later rounds, so that
    an index which the model made up, and then looked at, counts as grounded.
    """
    found = citations(frames, digits)
    by = found.groupby("rollout")
    cited = by.size().astype("float64")
    before = by["shown_before"].sum().astype("float64")
    return tallied(
        frames,
        missing=("grounded_share",),
        cited=cited,
        cited_shown_ever=by["shown_ever"].sum().astype("float64"),
        cited_shown_before=before,
        grounded_share=before / cited,
    )


def confabulated(frames: Frames) -> pd.DataFrame:
    """wrote_results: a response holds a line worded like a line of a result (a feature's number and a decimal measure);
    wrote_results_first: before any result had arrived, so that nothing can have been copied.
    """
    rounds = said(frames)
    lines = rounds.loc[[_RESULT_LINE.search(r) is not None for r in rounds["response"]]]
    first = frames.shown.groupby("rollout")["round"].min()
    arrived = lines["rollout"].map(first)
    early = lines[(arrived.isna() | (lines["round"] <= arrived)).astype(bool)]
    return tallied(frames, wrote_results=ever(lines), wrote_results_first=ever(early))


def _listed(frames: Frames, rollouts: set[str]) -> set[tuple[str, int]]:
    """Features listed in the texts of results, where only those were recorded and a line may belong to no call."""
    rounds = frames.rounds[frames.rounds["results"].notna() & frames.rounds["rollout"].isin(rollouts)]
    return {
        (str(r), int(found))
        for r, results in rounds[["rollout", "results"]].itertuples(index=False)
        for found in re.findall(r"\[(\d{1,6})\]", results)
    }


def _pairs(table: pd.DataFrame) -> list[tuple[str, int]]:
    return [(str(r), int(f)) for r, f in table[["rollout", "feature"]].drop_duplicates().itertuples(index=False)]
