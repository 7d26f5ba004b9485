"""What goes to a vLLM server and what comes back: token ids, runs of steering, and the rows that the runs name.

Knows no vLLM, model or dictionary. A plan holds everything that its request needs, so a server keeps nothing between
requests, and one that was started anew carries out any plan.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import BadInput

Floats = NDArray[np.float32]
LARGEST = 2**30  # bytes of one plan
NAME = "selfsteer"  # under which a plan stands in the extra arguments of a request to vLLM


@dataclass(frozen=True)
class Row:
    """One steering: what it adds at which layer, [D] float32. No layer: nothing, which is row 0.

    projections: directions of length 1, [N, D], that are projected out at some of these layers; all parts are computed
    from the residual that came in, and add up.
    """

    deltas: Mapping[int, Floats] = field(default_factory=dict)
    projections: Mapping[int, Floats] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Of the numbers themselves: a server outlives the runs whose rows it keeps, and their names for them."""
        sha = hashlib.sha256()
        for part in (self.deltas, self.projections):
            for layer, numbers in sorted(part.items()):
                sha.update(f"{layer}{numbers.shape}".encode() + numbers.tobytes())
            sha.update(b"|")
        return sha.hexdigest()[:32] if self.deltas else ""


@dataclass(frozen=True)
class Plan:
    """One request for a server.

    runs: (start, length, row) of the prompt's steered tokens, in absolute positions; rows[0] is no steering.
    after: the row of generated tokens. stream: names the draws (toolkit/randomness.py). stops: token ids that end it.
    layers, positions: whose residuals come back; positions None means the response's.
    score: (position, tokens): log-probabilities of these tokens after that position.
    anew: compute every token of the prompt, whatever the cache holds, since residuals are not kept with it.
    cuts: where the prompt's segments end, by which a server is found that may hold the keys and values of some.
    """

    id: str
    tokens: tuple[int, ...]
    rows: tuple[Row, ...] = (Row(),)
    runs: tuple[tuple[int, int, int], ...] = ()
    after: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    most: int = 1
    stream: tuple[str | int, ...] = ()
    stops: tuple[int, ...] = ()
    through: bool = False
    logprobs: bool = False
    layers: tuple[int, ...] = ()
    positions: tuple[int, ...] | None = None
    score: tuple[tuple[int, tuple[int, ...]], ...] = ()
    anew: bool = False
    cuts: tuple[int, ...] = ()

    def row_ids(self) -> NDArray[np.int64]:
        """The row of every position: the prompt's from the runs, then `after` for all that may be generated."""
        rows = np.full(len(self.tokens) + self.most, self.after, np.int64)
        rows[: len(self.tokens)] = 0
        for start, length, row in self.runs:
            rows[start : start + length] = row
        return rows

    def to_bytes(self) -> bytes:
        plain = {name: value for name, value in vars(self).items() if name != "rows"}
        rows = [
            [{at: pack(v) for at, v in part.items()} for part in (row.deltas, row.projections)] for row in self.rows
        ]
        return json.dumps({**plain, "rows": rows}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Raises what Python does for what is no plan; `received` is for bytes from elsewhere."""
        found: dict[str, Any] = json.loads(data)
        rows = []
        for deltas, projections in found.pop("rows"):
            added = {int(layer): unpack(some) for layer, some in deltas.items()}
            width = {layer: len(some) for layer, some in added.items()}
            gone = {int(layer): unpack(some).reshape(-1, width[int(layer)]) for layer, some in projections.items()}
            rows.append(Row(added, gone))
        for name in ("tokens", "stream", "stops", "layers", "cuts"):
            found[name] = tuple(found[name])
        found["runs"] = tuple((start, length, row) for start, length, row in found["runs"])
        found["positions"] = None if found["positions"] is None else tuple(found["positions"])
        found["score"] = tuple((at, tuple(tokens)) for at, tokens in found["score"])
        return cls(rows=tuple(rows), **found)


@dataclass(frozen=True)
class Outcome:
    """What came of a plan.

    counts: tokens computed under each row, counted where the row was added. reused: tokens that came from the cache;
    they ran under the plan's rows when they were computed, which the salt sees to, and are among the counts.
    residuals: [T, L, D] float32, in the plan's order. scores: one list for each entry of the plan's `score`.
    """

    tokens: tuple[int, ...]
    why: Literal["stop", "length"]
    counts: Mapping[int, int]
    reused: int = 0
    logprobs: tuple[float, ...] | None = None
    residuals: Floats | None = None
    scores: tuple[tuple[float, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        residuals = None if self.residuals is None else [list(self.residuals.shape), pack(self.residuals)]
        return {**vars(self), "residuals": residuals}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Outcome:
        shape_and_data = found["residuals"]
        return replace(
            cls(**found),
            tokens=tuple(found["tokens"]),
            counts={int(row): int(n) for row, n in found["counts"].items()},
            logprobs=None if found["logprobs"] is None else tuple(found["logprobs"]),
            residuals=None if shape_and_data is None else unpack(shape_and_data[1]).reshape(shape_and_data[0]),
            scores=tuple(tuple(some) for some in found["scores"]),
        )


def received(data: bytes, about: Mapping[str, Any]) -> Plan:
    """A plan from the wire, fit to be carried out by the model that `about` describes.

    Raises BadInput for any other: inside vLLM it would break the step, and with it everybody else's plans.
    """
    try:
        plan = Plan.from_bytes(data)
        wrong = [name for name, right in _demands(plan, about) if not right]
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise BadInput(f"this is no plan ({error!r:.200}); are both sides the same version of selfsteer?") from error
    if wrong:
        raise BadInput(f"a plan's {wrong[0]} cannot be right for {about['name']}; both sides must be of one version")
    return plan


@cache
def code() -> str:
    """Hash of the sources by which tokens are drawn and steered: a run and its servers must have the same."""
    here = Path(__file__).parent
    ours = (here / f"vllm_{name}.py" for name in ("core", "draws", "head", "plan", "worker"))
    files = [here.parent / "randomness.py", here / "sampling.py", *ours]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _demands(plan: Plan, about: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    size, layers, width = len(plan.tokens), range(about["n_layers"]), about["d_model"]
    rows, places, words = range(len(plan.rows)), range(size), range(about["vocabulary"])
    yield "id", isinstance(plan.id, str)
    yield "tokens", size > 0 and _within(plan.tokens, words)
    yield "most", _within((plan.most,), range(1, about["window"] - size + 1))
    deltas = [(layer, delta) for row in plan.rows for layer, delta in row.deltas.items()]
    yield "rows", bool(rows) and not plan.rows[0].deltas and _within((layer for layer, _ in deltas), layers)
    yield "deltas", all(len(delta) == width and bool(np.isfinite(delta).all()) for _, delta in deltas)
    yield "projections", all(bool(np.isfinite(some).all()) for row in plan.rows for some in row.projections.values())
    yield (
        "runs",
        _within((row for _, _, row in plan.runs), rows)
        and all(
            _within((start,), places) and _within((length,), range(1, size - start + 1))
            for start, length, _ in plan.runs
        ),
    )
    yield "after", _within((plan.after,), rows)
    numbers = (plan.temperature, plan.top_p)
    yield "sampling", all(type(x) in (int, float) for x in numbers) and 0 <= numbers[0] <= 100 and 0 < numbers[1] <= 1
    yield "stream", all(type(name) in (int, str) for name in plan.stream)
    yield "stops", all(type(token) is int for token in plan.stops)
    yield "layers", _within(plan.layers, layers)
    yield "positions", _within(plan.positions or (), places)
    yield "score", all(_within((at,), places) and _within(tokens, words) for at, tokens in plan.score)
    yield "switches", all(type(switch) is bool for switch in (plan.through, plan.logprobs, plan.anew))


def _within(numbers: Iterable[Any], allowed: range) -> bool:
    return all(type(number) is int and number in allowed for number in numbers)


Ask = Callable[[Plan], Outcome]
Vet = Callable[[Ask], None]
"""What every server is held to: given a way to carry out a plan, it raises a SelfsteerError or is content."""


def salt(plan: Plan) -> str:
    """vLLM's `cache_salt`: a digest of where the steering changes and to what, from the first token to the last.

    vLLM finds kept blocks by their tokens and the salt of their request, and writes a request's blocks under the same.
    Two plans with one salt have the same steering at every position that both have, so equal tokens make equal blocks;
    two with different salts share nothing. A salt holds no lengths behind the last change: the turns of a conversation
    whose steering stays as it is share one, and go on from each other's blocks. A change of steering costs one prefill
    of the whole context. No steering at all is the empty salt, shared by everybody.
    """
    digests = [row.digest for row in plan.rows]
    rows = np.array([digests.index(digest) for digest in digests])[plan.row_ids()]
    starts = [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist()]
    changes = [(start, plan.rows[rows[start]].digest) for start in starts]
    if changes == [(0, "")]:
        return ""
    return hashlib.sha256(json.dumps(changes).encode()).hexdigest()[:32]


def pack(values: Floats) -> str:
    return base64.b64encode(np.ascontiguousarray(values, np.float32).tobytes()).decode()


def unpack(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), np.float32)
