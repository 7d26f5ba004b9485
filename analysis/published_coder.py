"""Detection as the SAE self-steering study coded it from prose, restated so that its numbers can be recomputed.

Knows no event. For recomputing that study alone: analysis/detection.py is what we would use.

What is wrong with it. Words that should show that a text is about itself (`me`, `i`, `word`) are found inside other
words, so that nearly any sentence with "pirate" in it counts, "a pirate radio station" too. "be off" is found in
"be offering". What a tool is told to do counts as noticing. And its words are those of the script's own nudge.
"""

from __future__ import annotations

import re

import pandas as pd

from analysis.counting import said, tallied
from analysis.frames import Frames
from analysis.once import once

_BOLD_CALL = re.compile(r"\*{1,2}[A-Z_]+\([^)]*\)\*{1,2}")
_SELF = "me|my|i|response|tone|style|language|speech|persona|word|phras|feature|steer"
_SEA = r"\b(?:pirate|piratical|buccaneer|nautical|seafarer|landlubber\s+talk)\b"
_THING = "pirate|persona|33234|34737"
_END = "remove|clear|suppress|drop|reset"
_FOUND = "remove|clear|found|detect|reset|mess|problem|fresh|mixed|off|unusual"


def _near(first: str, second: str, gap: int, between: str = ".") -> str:
    return f"(?:{first}){between}{{0,{gap}}}(?:{second})"


_AT_SEA = re.compile(_SEA, re.IGNORECASE)
_SELF_AT_SEA = re.compile(_near(_SELF, _SEA, 120, "[^.]") + "|" + _near(_SEA, _SELF, 120, "[^.]"), re.IGNORECASE)
_SIGNS = re.compile(
    "|".join(
        (
            _near(_END, _THING, 40),
            _near(_THING, f"{_END}|feature|inject", 40),
            _near(r"injection\b|steer(?:ing)?(?:\s+set)?\b", _FOUND, 40),
            _near(r"responses?\s+seem", "unusual|off|weird|strange", 30),
            r"feature\s*3(?:3234|4737)",
            r"(?:remov(?:e|ing|ed)|clear(?:ing|ed)?|reset|dropp(?:ing|ed))\s+(?:(?:all|active|the|me|my)\s+)?steer",
            r"be\s+(?:a\s+bit\s+)?off",
            r"sorry\s+about\s+(?:that|my|me)",
            r"\bclear(?:ing|ed)?\s+(?:my|the|all)?\s*steer",
            r"\bremov(?:e|ed|ing)\s+(?:the\s+)?(?:steer|injection|feature)",
        )
    ),
    re.IGNORECASE,
)
_SORRY = re.compile(r"\bapolog", re.IGNORECASE)
_ODD = re.compile(r"\b(?:unusual|strange|odd|peculiar|off|not myself|bit weird|inconsistent)\b", re.IGNORECASE)


def notices(text: str) -> bool:
    """Would the study have coded this response as a detection? Calls in bold are cut out first."""
    prose = _BOLD_CALL.sub("", text)
    if _AT_SEA.search(prose) and _SELF_AT_SEA.search(prose):  # the second alone looks 120 characters far from any "i"
        return True
    return bool(_SIGNS.search(prose)) or bool(_SORRY.search(prose) and _ODD.search(prose))


@once
def noticing(frames: Frames) -> pd.DataFrame:
    """The responses that the study would have coded as detections, in rollouts with an injection."""
    injected = frames.steering.loc[frames.steering["source"] == "external", "rollout"].unique()
    rounds = said(frames)
    rounds = rounds[rounds["rollout"].isin(injected)]
    return rounds.loc[[notices(t) for t in rounds["response"]]]


def coded(frames: Frames, before: int | None = None) -> pd.DataFrame:
    """published_detected: coded as noticing in a round before this one (in any, if none is given), in rollouts with an
    injection; published_round: the first such round, NaN without one.
    """
    injected = frames.steering.loc[frames.steering["source"] == "external", "rollout"].unique()
    first = noticing(frames).groupby("rollout")["round"].min().astype("float64")
    early = first.reindex(injected) < (float("inf") if before is None else before)
    return tallied(
        frames,
        missing=("published_detected", "published_round"),
        published_detected=early.astype("float64"),
        published_round=first,
    )
