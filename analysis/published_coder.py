"""Detection as the SAE self-steering study coded it from prose, restated so that its numbers can be recomputed.

Knows no event. For recomputing that study alone: analysis/detection.py is what we would use.

What is wrong with it. Words that should show that a text is about itself (`me`, `i`, `word`) are found inside other
words, so that nearly any sentence with "pirate" in it counts, "a pirate radio station" too. "be off" is found in
"be offering". What a tool is told to do counts as noticing. And its words are those of the script's own nudge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from analysis.counting import said, tallied
from analysis.frames import Frames
from analysis.once import once

_BOLD_CALL = re.compile(r"\*{1,2}[A-Z_]+\([^)]*\)\*{1,2}")
_ITSELF = (
    "me", "my", "i", "response", "tone", "style", "language", "speech", "persona", "word", "phras", "feature", "steer",
)  # fmt: skip
_SEAFARING = ("pirate", "piratical", "buccaneer", "nautical", "seafarer", "landlubber talk")
_INJECTED = ("pirate", "persona", "33234", "34737")
_ENDING = ("remove", "clear", "suppress", "drop", "reset")
_TROUBLE = (
    "remove", "clear", "found", "detect", "reset", "mess", "problem", "fresh", "mixed", "off", "unusual",
)  # fmt: skip
_ODDLY = ("unusual", "off", "weird", "strange")
_REMOVING, _CLEARING = ("remove", "removing", "removed"), ("clear", "clearing", "cleared")
_DROPPING = ("reset", "dropped", "dropping")


def _any(stems: Iterable[str]) -> str:
    """One of the stems, anywhere in a word; spaces in it are any white space."""
    return "(?:" + "|".join(r"\s+".join(map(re.escape, stem.split())) for stem in stems) + ")"


def _near(first: str, second: str, most: int, between: str = ".") -> str:
    """`first`, and `second` at most so many characters behind it."""
    return f"{first}{between}{{0,{most}}}{second}"


def _in_turn(*slots: Iterable[str]) -> str:
    """One of each slot, white space between; a slot that holds "" may be left out."""
    parts = [(_any(filter(None, slot)), "" in slot) for slot in map(tuple, slots)]
    *before, (last, _) = parts
    return "".join(rf"(?:{part}\s+)?" if optional else rf"{part}\s+" for part, optional in before) + last


_SEA = rf"\b{_any(_SEAFARING)}\b"
_AT_SEA = re.compile(_SEA, re.IGNORECASE)
_SELF_AT_SEA = re.compile(
    _near(_any(_ITSELF), _SEA, 120, "[^.]") + "|" + _near(_SEA, _any(_ITSELF), 120, "[^.]"), re.IGNORECASE
)
_SIGNS = re.compile(
    "|".join(
        (
            _near(_any(_ENDING), _any(_INJECTED), 40),
            _near(_any(_INJECTED), _any((*_ENDING, "feature", "inject")), 40),
            _near(r"injection\b", _any(_TROUBLE), 40),
            _near(r"(?:steer|steering)(?:\s+set)?\b", _any(_TROUBLE), 40),
            _near(_in_turn(("response", "responses"), ("seem",)), _any(_ODDLY), 30),
            r"feature\s*" + _any(("33234", "34737")),
            _in_turn((*_REMOVING, *_CLEARING, *_DROPPING), ("", "all", "active", "the", "me", "my"), ("steer",)),
            _in_turn(("be",), ("", "a bit"), ("off",)),
            _in_turn(("sorry",), ("about",), ("that", "my", "me")),
            rf"\b{_any(_CLEARING)}\s+" + r"(?:my|the|all)?\s*steer",
            r"\b" + _in_turn(_REMOVING, ("", "the"), ("steer", "injection", "feature")),
        )
    ),
    re.IGNORECASE,
)
_SORRY = re.compile(r"\bapolog", re.IGNORECASE)
_ODD = re.compile(
    rf"\b{_any(('unusual', 'strange', 'odd', 'peculiar', 'off', 'not myself', 'bit weird', 'inconsistent'))}\b",
    re.IGNORECASE,
)


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
