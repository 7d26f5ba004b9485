"""Results and calls of the SAE self-steering study as its texts hold them: which result is whose, rows, outcomes.

Knows no file. The study worded results per framing by replacing words; every wording is read by the same shapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

KINDS = {
    "search": "search", "inspect": "inspect", "check_steering": "check", "steer": "steer", "remove_steering": "remove",
    "clear": "clear",
}  # fmt: skip
Shown = tuple[int, str | None, float, str | None]


class Result(NamedTuple):
    """outcome: ok or refused, None if the text does not say. rows: feature, label, value, source (CHECK)."""

    outcome: str | None
    problem: str = ""
    rows: tuple[Shown, ...] = ()


# How a result of each kind begins, in any wording: features are also potions and states, steering effects,
# modifications; the study replaced whole words and left the frames of the sentences.
_BEGINS = {
    "search": r"(?:Search results for|Potions matching) '",
    "inspect": r"(?:Your|The network's)(?: currently)? active \w+ \(top \d+\):|Inspect returned |No previous response",
    "check": r"All \w+ currently applied to you:|No \w+ currently active\.",
    "steer": r"\w+ (?:set|taken): \w+ \d+ at strength|REJECTED: ",
    "remove": r"Done: removed |No \w+ found for \w+ \d+\.",
    "clear": r"All \w+ cleared \(",
}
_BEGIN = re.compile(r"(?:\A|\n\n)(?:" + "|".join(f"(?P<{verb}>{shape})" for verb, shape in _BEGINS.items()) + ")")
_LISTED = re.compile(r"^  \[(\d{1,18})\] (.*) \([a-z]+: (-?\d+\.\d+)\)$", re.MULTILINE)
_APPLIED = re.compile(r"^  \w+ (\d{1,18}) at strength ([+-]\d+\.\d+) \(source: (external|your \w+)\)$", re.MULTILINE)

_NAMES = {
    "search": r"SEARCH(?:_?FEATURES|_POTIONS)?",
    "inspect": r"INSPECT",
    "check": r"CHECK(?:_STEERING|_POTIONS)?",
    "steer": r"(?:STEER|TAKE_POTION|SET)",
    "remove": r"(?:REMOVE_?STEERING|STOP_POTION|UNSET)",
    "clear": r"(?:STEER_?CLEAR|CLEAR_ALL|(?i:CLEAR))",
}
_STEER = re.compile(_NAMES["steer"] + r"\(\s*#?(\d+),\s*([-+]?\d*\.?\d+)\)")
_REMOVE = re.compile(_NAMES["remove"] + r"\(\s*#?(\d+)\)")
_PLAIN = {verb: re.compile(_NAMES[verb] + r"\(\)") for verb in ("inspect", "check", "clear")}


def results(text: str, verbs: Sequence[str]) -> list[Result]:
    """The result of each call, out of the one text that holds them all in the order of carrying out.

    Given to the calls in order if there is one of the right kind for each; where a kind has more or fewer results than
    calls, its calls have none: which is whose cannot be told.
    """
    begins = list(_BEGIN.finditer(text))
    blocks: dict[str, list[str]] = {}
    for at, begin in enumerate(begins):
        end = begins[at + 1].start() if at + 1 < len(begins) else len(text)
        blocks.setdefault(str(begin.lastgroup), []).append(text[begin.start() : end])
    whole = {verb: iter(found) for verb, found in blocks.items() if len(found) == verbs.count(verb)}
    return [_result(verb, next(whole[verb])) if verb in whole else Result(None, "no_result") for verb in verbs]


def spans(response: str, verbs: Sequence[str], arguments: Sequence[Sequence[str]]) -> list[tuple[int, int] | None]:
    """Where each call stands in the response, None where it is not found. Of equal ones the first; of several STEER of
    one feature the last, since that was the one carried out."""
    steers = list(_STEER.finditer(response)) if "steer" in verbs else []
    removes = list(_REMOVE.finditer(response)) if "remove" in verbs else []
    return [_span(response, verb, given, steers, removes) for verb, given in zip(verbs, arguments, strict=True)]


def _span(
    response: str, verb: str, given: Sequence[str], steers: list[Any], removes: list[Any]
) -> tuple[int, int] | None:
    found: re.Match[str] | None = None
    if verb == "steer":
        same = (m for m in steers if _number(m[1]) == _number(given[0]) and float(m[2]) == float(given[1]))
        found = max(same, key=lambda m: m.start(), default=None)
    elif verb == "remove":
        found = next((m for m in removes if _number(m[1]) == _number(given[0])), None)
    elif verb == "search":
        if given[0] in response:
            query = rf"\(\s*[\"']*{re.escape(given[0])}[\"']*\s*\)"
            found = re.search(_NAMES["search"] + query, response)
    else:
        found = _PLAIN[verb].search(response)
    return found.span() if found else None


def _result(verb: str, text: str) -> Result:
    text = text.lstrip("\n")
    if verb in ("search", "inspect"):
        if not text.startswith(("Inspect returned", "No previous")):
            return Result("ok", "", tuple((int(f), label, float(v), None) for f, label, v in _LISTED.findall(text)))
        return Result("refused", "nothing_to_read")
    if verb == "check":
        rows = _APPLIED.findall(text)
        return Result("ok", "", tuple((int(f), None, float(v), _source(s)) for f, v, s in rows))
    if text.startswith("REJECTED"):
        return Result("refused", "out_of_range")
    if verb == "remove" and text.startswith("No "):
        return Result("refused", "not_in_force")
    return Result("ok")


def _number(digits: str) -> str:
    """A number as written, without what does not count; of any length, which int() is not."""
    return digits.lstrip("0") or "0"


def _source(words: str) -> str:
    return "external" if words == "external" else "self"
