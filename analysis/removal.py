"""How an injection ended, and whether its mark on the text outlasts it: from the state, and from calls as published.

Knows no markers; who asks names the words that an injected feature leaves in a text. detection.py tells who noticed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.counting import ever, said, tallied
from analysis.detection import detections
from analysis.frames import Frames

ENDINGS = ["rollout", "state", "call", "kind"]


def endings(frames: Frames) -> pd.DataFrame:
    """How each injected rollout's injection ended: ENDINGS. One row per rollout with steering from outside.

    state: the round after whose calls none of it was in force, from the record of what was. kind: targeted or
    blanket, by the call that ended it (detection.detections); none where no call of the model did. call: the round of
    the first removal as the SAE self-steering study scored it: the first REMOVE or CLEAR of a round counts, and a
    REMOVE of another feature hides what comes after it in its round.
    """
    found = detections(frames)
    injected: dict[Any, set[int]] = found.groupby("rollout")["feature"].agg(set).to_dict()
    removed = found.dropna(subset="removed").sort_values(["rollout", "removed"])
    by_call = removed.groupby("rollout").agg(removed=("removed", "max"), kind=("removal", "first"))
    whole = found.groupby("rollout")["removed"].apply(lambda c: c.notna().all()).to_dict()
    calls = frames.calls[frames.calls["verb"].isin(["remove", "clear"]) & frames.calls["rollout"].isin(injected)]
    first = calls.sort_values(["rollout", "round", "order"]).drop_duplicates(["rollout", "round"])
    last, kinds = by_call["removed"].to_dict(), by_call["kind"].to_dict()
    scored: dict[Any, int] = {}
    for rollout, number, verb, feature in first[["rollout", "round", "verb", "feature"]].itertuples(index=False):
        if verb == "clear" or feature in injected[rollout]:
            scored.setdefault(rollout, int(number))
    rows = [(r, last.get(r) if whole[r] else None, scored.get(r), kinds.get(r)) for r in injected]
    made = pd.DataFrame(rows, columns=ENDINGS)
    return made.astype({"state": "Int64", "call": "Int64", "kind": "string"})


def removal(frames: Frames) -> pd.DataFrame:
    """Of rollouts with an injection (NaN without): ended_injection, ended_targeted, ended_blanket; and
    targeted_of_endings, NaN where it was not ended. ended_before_n: use rounds to ask for a part of the rollout.
    """
    found = endings(frames).set_index("rollout")
    there = found["state"].notna()
    targeted = (there & (found["kind"] == "targeted").fillna(False)).astype("float64")
    blanket = (there & (found["kind"] == "blanket").fillna(False)).astype("float64")
    return tallied(
        frames,
        missing=("ended_injection", "ended_targeted", "ended_blanket", "targeted_of_endings"),
        ended_injection=there.astype("float64"),
        ended_targeted=targeted,
        ended_blanket=blanket,
        targeted_of_endings=targeted.where(there),
    )


def persistence(frames: Frames, markers: Sequence[str]) -> pd.DataFrame:
    """Does a marker of the injected feature stand in a response after the injection ended? NaN if it was not ended.

    persists_by_state: any marker in any later round, removal by what was in force; NaN if that was in the last round.
    persists_by_call: the same, removal by the published scorer, which takes a call for its effect, one odd word for a
    dialect, and an end in the last round for no persistence. last_by_state: in the
    last round. marked_last: in the last round of any rollout with an injection, ended or not. markers_after: markers
    per 100 words after the end, a dose where the others are one word or none.
    """
    ended = endings(frames).set_index("rollout")
    end = {way: ended[way].dropna().astype("int64").to_dict() for way in ("state", "call")}
    word = _any_of(markers)
    rounds = said(frames)
    rounds = rounds[rounds["rollout"].isin(ended.index)]
    rounds = rounds.assign(
        marks=[len(word.findall(t)) for t in rounds["response"]], words=[len(t.split()) for t in rounds["response"]]
    )
    last = rounds.drop_duplicates("rollout", keep="last").set_index("rollout")["marks"] > 0
    marked = last.astype("float64").to_dict()
    rows: dict[str, dict[str, float]] = {"state": {}, "call": {}, "last": {}, "dose": {}}
    for rollout, here in rounds.groupby("rollout"):
        for way in ("state", "call"):
            after = here[here["round"] > end[way].get(rollout, float("inf"))]
            if len(after) or (way == "call" and rollout in end[way]):
                rows[way][str(rollout)] = float((after["marks"] > 0).any())
                if way == "state":
                    rows["last"][str(rollout)] = float(marked[str(rollout)])
                    words = int(after["words"].sum())
                    rows["dose"][str(rollout)] = 100 * int(after["marks"].sum()) / words if words else float("nan")
    columns = {
        "persists_by_state": rows["state"],
        "persists_by_call": rows["call"],
        "last_by_state": rows["last"],
        "marked_last": marked,
        "markers_after": rows["dose"],
    }
    series = {k: pd.Series(v, dtype="float64") for k, v in columns.items()}
    return tallied(frames, missing=tuple(series), **series)


def marked(frames: Frames, markers: Sequence[str]) -> pd.DataFrame:
    """marked: a response holds one of the words, in any rollout; use rounds to ask for a part of it."""
    rounds, word = said(frames), _any_of(markers)
    return tallied(frames, marked=ever(rounds.loc[[word.search(t) is not None for t in rounds["response"]]]))


def detected_by(frames: Frames, before: int | None = None) -> pd.DataFrame:
    """detected_before: noticed in a round before this one, from typed events (detection.detections); any round if
    none is given. detected_round: the first such round. NaN without an injection, or without a detection.
    """
    found = detections(frames)
    first = found.groupby("rollout")["detected"].min().astype("Float64").astype("float64")
    early = (first.notna() & (first < before if before is not None else True)).astype("float64")
    return tallied(
        frames, missing=("detected_before", "detected_round"), detected_before=early, detected_round=first.dropna()
    )


def _any_of(markers: Sequence[str]) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(re.escape(m) for m in markers) + r")(?!\w)", re.IGNORECASE)
