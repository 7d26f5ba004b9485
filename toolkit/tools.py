"""INSPECT, SEARCH, STEER, REMOVE, CLEAR, CHECK and LEAVE as plain functions: (toolbox, call) -> (toolbox, receipt).

Knows no wording: a theme turns receipts into text. Nothing that a model writes raises here; every call ends
as exactly one outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from toolkit.search import clean
from toolkit.steering import NO_STEERING, Intervention, Source, Steering

if TYPE_CHECKING:
    from toolkit.dictionary import FeatureDictionary

Verb = Literal["inspect", "search", "check", "steer", "remove", "clear", "leave"]
Outcome = Literal["ok", "malformed", "unknown_tool", "bad_argument", "refused"]
CheckView = Literal["honest", "lying"]

VERBS: tuple[Verb, ...] = get_args(Verb)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Call:
    """One tool call as the parser found it. `verb` is None if no tool of this theme has that name.

    arguments: what stood between the brackets, cut and cleaned, still text. problem: why it is malformed, or "".
    span: character offsets in the response.
    """

    verb: Verb | None
    arguments: tuple[str, ...]
    text: str
    span: tuple[int, int] = (0, 0)
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a result: a feature as it is shown to the model. value: activation, similarity or strength."""

    feature: int
    label: str
    value: float
    source: Source | None = None


@dataclass(frozen=True)
class Receipt:
    """What a call did: exactly one outcome, the data of its result, and the steering before and after it.

    problem: for outcomes other than ok, a short code that the theme words: out_of_range, not_a_number,
    over_the_cap, empty_query, not_in_force, nothing_to_read, wrong_count, unlabelled, not_offered ...
    values: what the wording may use (feature, strength, count, query, limit, source).
    """

    call: Call
    outcome: Outcome
    problem: str = ""
    rows: tuple[Row, ...] = ()
    values: Mapping[str, object] = field(default_factory=dict)
    before: Steering = NO_STEERING
    after: Steering = NO_STEERING


@dataclass(frozen=True)
class Reading:
    """A stated measurement of activations: which tokens, which layer, which aggregation, under which steering.

    features and values: the top features by aggregated activation, highest first, ties by id; only those above 0.
    tokens: how many tokens of the response were measured. steered: digest of the steering they ran under.
    """

    features: tuple[int, ...]
    values: tuple[float, ...]
    layer: int
    aggregation: Literal["last", "mean", "max"]
    tokens: int
    steered: str


@dataclass(frozen=True)
class Toolbox:
    """The verbs bound to one agent's dictionary and steering. A value; `carry_out` returns the next one.

    dictionary: the features as this agent sees them and as its interventions name them (an arm is another one).
    steering: all that is in force, whoever set it. cap: the largest |strength| that STEER accepts.
    most: the largest number of features that the model may hold at once.
    reading: what INSPECT shows; None before the first response.
    check: what CHECK shows: the truth, or (a condition of some studies) that nothing is active.
    """

    dictionary: FeatureDictionary
    verbs: frozenset[Verb] = frozenset(VERBS) - {"leave"}
    steering: Steering = NO_STEERING
    reading: Reading | None = None
    inspect_k: int = 100
    search_k: int = 10
    cap: float = 2.0
    most: int = 20
    check: CheckView = "honest"


def carry_out(toolbox: Toolbox, call: Call) -> tuple[Toolbox, Receipt]:
    """Perform one call on the toolbox. Never raises on anything that a model wrote."""
    if call.problem:
        return toolbox, _receipt(toolbox, call, "malformed", call.problem)
    if call.verb is None:
        return toolbox, _receipt(toolbox, call, "unknown_tool", "unknown_tool")
    if call.verb not in toolbox.verbs:
        return toolbox, _receipt(toolbox, call, "refused", "not_offered")
    wanted = _ARGUMENTS[call.verb]
    if len(call.arguments) != wanted:
        return toolbox, _receipt(toolbox, call, "malformed", "wrong_count", wanted=wanted, given=len(call.arguments))
    after, receipt = _VERBS[call.verb](toolbox, call)
    return after, replace(receipt, before=toolbox.steering, after=after.steering)


def carry_out_all(toolbox: Toolbox, calls: Sequence[Call]) -> tuple[Toolbox, list[Receipt]]:
    """Perform calls in text order: a CLEAR before a STEER leaves the STEER standing."""
    receipts = []
    for call in calls:
        toolbox, receipt = carry_out(toolbox, call)
        receipts.append(receipt)
    return toolbox, receipts


def _inspect(toolbox: Toolbox, call: Call) -> tuple[Toolbox, Receipt]:
    reading = toolbox.reading
    if reading is None:
        return toolbox, _receipt(toolbox, call, "refused", "nothing_to_read")
    shown = list(zip(reading.features, reading.values, strict=True))[: toolbox.inspect_k]
    rows = tuple(Row(f, toolbox.dictionary.label(f), v) for f, v in shown)
    return toolbox, _receipt(toolbox, call, rows=rows, count=len(rows))


def _search(toolbox: Toolbox, call: Call) -> tuple[Toolbox, Receipt]:
    query = clean(call.arguments[0])  # of characters that cannot be seen nothing is left to search for
    if not query:
        return toolbox, _receipt(toolbox, call, "bad_argument", "empty_query")
    hits = toolbox.dictionary.search(query, toolbox.search_k)
    rows = tuple(Row(h.feature, toolbox.dictionary.label(h.feature), h.similarity) for h in hits)
    return toolbox, _receipt(toolbox, call, rows=rows, query=query, count=len(rows))


def _check(toolbox: Toolbox, call: Call) -> tuple[Toolbox, Receipt]:
    shown = NO_STEERING if toolbox.check == "lying" else toolbox.steering
    rows = tuple(Row(i.feature, toolbox.dictionary.label(i.feature), i.strength, i.source) for i in shown)
    return toolbox, _receipt(toolbox, call, rows=rows, count=len(rows))


def _steer(toolbox: Toolbox, call: Call) -> tuple[Toolbox, Receipt]:
    feature, problem = _feature(toolbox, call.arguments[0])
    if feature is None:
        return toolbox, _receipt(toolbox, call, "bad_argument", problem, limit=len(toolbox.dictionary) - 1)
    strength = _number(call.arguments[1])
    if strength is None:
        return toolbox, _receipt(toolbox, call, "bad_argument", "not_a_number", feature=feature)
    if abs(strength) > toolbox.cap:
        return toolbox, _receipt(toolbox, call, "refused", "over_the_cap", feature=feature, limit=toolbox.cap)
    mine = [i for i in toolbox.steering.by("self") if i.feature == feature]
    if not mine and len(toolbox.steering.by("self")) >= toolbox.most:
        return toolbox, _receipt(toolbox, call, "refused", "too_many", feature=feature, limit=toolbox.most)
    new = Intervention(toolbox.dictionary.key, feature, strength, "add", "self")
    steering = toolbox.steering.without(*mine).with_(new)
    count = len(steering.by("self"))
    return replace(toolbox, steering=steering), _receipt(toolbox, call, feature=feature, strength=strength, count=count)


def _remove(toolbox: Toolbox, call: Call) -> tuple[Toolbox, Receipt]:
    feature, problem = _feature(toolbox, call.arguments[0])
    if feature is None:
        return toolbox, _receipt(toolbox, call, "bad_argument", problem, limit=len(toolbox.dictionary) - 1)
    here = [i for i in toolbox.steering if i.feature == feature]
    if not here:
        return toolbox, _receipt(toolbox, call, "refused", "not_in_force", feature=feature)
    sources = sorted({i.source for i in here})
    steering = toolbox.steering.without(*here)
    return replace(toolbox, steering=steering), _receipt(
        toolbox, call, feature=feature, source=" and ".join("your" if s == "self" else s for s in reversed(sources))
    )


def _clear(toolbox: Toolbox, call: Call) -> tuple[Toolbox, Receipt]:
    return replace(toolbox, steering=NO_STEERING), _receipt(toolbox, call, count=len(toolbox.steering))


def _leave(toolbox: Toolbox, call: Call) -> tuple[Toolbox, Receipt]:
    return toolbox, _receipt(toolbox, call)


_VERBS: dict[Verb, Callable[[Toolbox, Call], tuple[Toolbox, Receipt]]] = {
    "inspect": _inspect,
    "search": _search,
    "check": _check,
    "steer": _steer,
    "remove": _remove,
    "clear": _clear,
    "leave": _leave,
}
_ARGUMENTS: dict[Verb, int] = {"inspect": 0, "search": 1, "check": 0, "steer": 2, "remove": 1, "clear": 0, "leave": 0}


def _receipt(
    toolbox: Toolbox,
    call: Call,
    outcome: Outcome = "ok",
    problem: str = "",
    rows: tuple[Row, ...] = (),
    **values: object,
) -> Receipt:
    return Receipt(call, outcome, problem, rows, values, toolbox.steering, toolbox.steering)


def _feature(toolbox: Toolbox, text: str) -> tuple[int | None, str]:
    """A feature index out of what the model wrote, or None and why not."""
    digits = text.strip().removeprefix("#").strip("[]")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 12:
        return None, "not_an_index"
    index = int(digits)
    return (index, "") if index < len(toolbox.dictionary) else (None, "out_of_range")


def _number(text: str) -> float | None:
    """A finite number out of what the model wrote, or None. Python would read 0_3 as 3, which hardly anybody means."""
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
