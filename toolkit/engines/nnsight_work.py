"""Requests as traces for the nnsight engine: generators that yield passes and return the result.

Knows no model and no host; the engine runs each pass, here or elsewhere, and resumes the generator with its answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit import randomness
from toolkit.engines.base import (
    Completion,
    Generate,
    ModelInfo,
    Read,
    Request,
    Residuals,
    Result,
    Score,
    Scores,
    Why,
    check_finite,
    check_request,
)
from toolkit.engines.table import SteeringTable
from toolkit.errors import SteeringError


@dataclass(frozen=True)
class Pass:
    """One trace to run: `respond` or `look` of nnsight_trace.py, over these ids and table rows, with these arguments.

    A `respond` has one row more than ids: that of all tokens after them.
    """

    trace: str
    ids: tuple[int, ...]
    rows: tuple[int, ...]
    arguments: Mapping[str, Any]


Work = Generator[Pass, dict[str, Any], Result]


def start(request: Request, info: ModelInfo, table: SteeringTable, stops: frozenset[int]) -> Work:
    """Check a request and begin its work. Raises BadInput, WindowFull or SteeringError."""
    check_request(request, info)
    rows = tuple(row for s in request.context.segments for row in [table.row(s.steering)] * len(s))
    if isinstance(request, Read):
        return read(request, rows, table)
    after = table.row(request.steering)
    if isinstance(request, Score):
        return score(request, rows, after, table)
    layer = None if request.capture is None else table.dictionary(request.capture).reader.layer
    return generate(request, rows, after, layer, info.window, stops, table)


def generate(
    request: Generate,
    rows: tuple[int, ...],
    after: int,
    layer: int | None,
    window: int,
    stops: frozenset[int],
    table: SteeringTable,
) -> Work:
    """One trace; its draws are made beforehand, from the stream that the request names."""
    sampling, context = request.sampling, request.context
    room = min(sampling.max_tokens, window - len(context))
    stream = randomness.stream("tokens", *sampling.stream)
    draws = (sampling.temperature, sampling.top_p, [stream.random() for _ in range(room)])
    answer = yield Pass("respond", context.tokens, (*rows, after), {"kept": layer, "draws": draws, "stops": stops})
    tokens = tuple(answer["tokens"])
    why: Why = "length" if room == sampling.max_tokens else "window"
    return Completion(
        tokens,
        "stop" if tokens[-1] in stops else why,
        table.counts(Counter((*rows, *[after] * len(tokens)))),
        tuple(answer["logprobs"]) if request.logprobs else None,
        None if layer is None else on_cpu(torch.cat(answer["residuals"])),
    )


def score(request: Score, rows: tuple[int, ...], after: int, table: SteeringTable) -> Work:
    """One trace for all first tokens, and one for each longer spelling."""
    ids, end = request.context.tokens, len(request.context) - 1
    first = sorted({spelling[0] for spellings in request.options for spelling in spellings})
    answer = yield look(ids, rows, asked=[(end, token) for token in first])
    begun = dict(zip(first, answer["logprobs"], strict=True))
    sums = []
    for spellings in request.options:
        parts = []
        for head, *rest in spellings:
            total = begun[head]
            if rest:
                branch = (head, *rest[:-1])
                asked = [(end + 1 + i, token) for i, token in enumerate(rest)]
                answer = yield look((*ids, *branch), (*rows, *[after] * len(branch)), asked=asked)
                total += sum(answer["logprobs"])
            parts.append(total)
        sums.append(float(np.logaddexp.reduce(parts)))
    check_finite(sums, "logits")
    return Scores(tuple(sums), float(np.exp(sums).sum()), table.counts(Counter(rows)))


def read(request: Read, rows: tuple[int, ...], table: SteeringTable) -> Work:
    """One trace over the whole context."""
    answer = yield look(request.context.tokens, rows, kept=request.layers, positions=request.positions)
    return Residuals(on_cpu(answer["residuals"]), table.counts(Counter(rows)))


def look(
    ids: tuple[int, ...],
    rows: tuple[int, ...],
    kept: Sequence[int] = (),
    positions: Sequence[int] = (),
    asked: Sequence[tuple[int, int]] = (),
) -> Pass:
    """A pass over a context for residuals, for log-probabilities, or for both; arguments as in nnsight_trace.look."""
    return Pass("look", ids, rows, {"kept": kept, "positions": positions, "asked": asked})


def check(one: Pass, answer: Mapping[str, Any], layers: frozenset[int]) -> None:
    """Raise SteeringError unless the model was given these tokens alone, all steered at each layer, and is finite.

    The engine asks this of every answer before its work goes on, so a result's counts are those of the plan.
    """
    check_finite(answer["logprobs"], "logits")  # from which generate would take another token than was drawn
    expected = [*one.ids, *answer.get("tokens", ())]
    if list(answer["entered"]) != expected:
        raise SteeringError(
            f"the model was given {len(answer['entered'])} tokens that are not the {len(expected)} of the plan; its"
            " generation settings change what is drawn, so nothing was recorded"
        )
    ran: Counter[int] = Counter()
    for layer, count in answer["ran"]:
        ran[layer] += count
    for layer in layers:
        if ran[layer] != len(expected):
            raise SteeringError(f"the steering at layer {layer} ran on {ran[layer]} of {len(expected)} tokens")


def on_cpu(residuals: Tensor) -> Tensor:
    """The same shape, float32, or float64 from a float64 model. Raises SteeringError if a residual is not finite."""
    whole = residuals.cpu() if residuals.dtype == torch.float64 else residuals.cpu().float()
    check_finite(whole, "residuals")
    return whole
