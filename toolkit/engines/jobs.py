"""Requests as work for the local engine: a generator that yields spans of new tokens and returns the result.

Knows no model and no batch; the engine computes each span, in pieces if it likes, and resumes the generator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

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
from toolkit.engines.kv import KVStore, Lane, common_prefix
from toolkit.engines.table import SteeringTable
from toolkit.steering import Steering

WORTH = 16  # tokens that another request is about to compute from which on it is worth to wait for them


@dataclass
class Span:
    """New tokens of one request, what is wanted of them, and what has come of it so far.

    want: the token drawn after the last one, the logits after the last one or after each, or nothing.
    layers: whose residuals to keep, on the CPU. done: how many tokens have been computed.
    """

    tokens: Sequence[int]
    rows: Sequence[int]
    want: Literal["nothing", "draw", "last logits", "all logits"]
    layers: tuple[int, ...] = ()
    done: int = 0
    logits: list[Tensor] = field(default_factory=list)
    residuals: dict[int, list[Tensor]] = field(default_factory=dict)
    drawn: tuple[int, float] = (-1, float("nan"))

    @property
    def left(self) -> int:
        return len(self.tokens) - self.done

    def logprobs(self) -> Tensor:
        """Log-probabilities [t, V] of the t logits that were wanted, float64 on the CPU."""
        return torch.log_softmax(torch.cat([part.cpu() for part in self.logits]).double(), -1)

    def kept(self, layer: int) -> Tensor:
        """Residuals [T, D] of the computed tokens at one of `layers`; raises as `joined` does."""
        return joined(self.residuals[layer], layer)


def joined(parts: Sequence[Tensor], layer: int) -> Tensor:
    """[T, D], float32, or float64 from a float64 model. Raises SteeringError if a residual is not finite."""
    whole = torch.cat(list(parts))
    check_finite(whole, f"residuals at layer {layer}")
    return whole if whole.dtype == torch.float64 else whole.float()


Work = Generator[Span, None, Result]
Steered = Callable[[], dict[Steering, int]]  # tokens computed under each steering so far


@dataclass
class Job:
    """A request on its way: its lane, its work, the span being computed, and how many tokens ran under which row.

    tokens, rows: of its context, computed or not. draws: uniform numbers for a Generate's tokens. uniform: the next of
    them, once it was taken and until it was used.
    """

    ticket: int
    request: Request
    lane: Lane
    tokens: np.ndarray
    rows: np.ndarray
    applied: Counter[int]
    work: Work
    span: Span
    draws: np.random.Generator | None
    uniform: float | None = None


def start(
    ticket: int,
    request: Request,
    info: ModelInfo,
    table: SteeringTable,
    store: KVStore,
    stops: frozenset[int],
    keep_lanes: int,
    others: Sequence[Job],
) -> Job | None:
    """Check a request, give it the lane with its longest kept prefix, and begin its work.

    None while one of `others` is about to compute what it begins with, as do rollouts that start together from the same
    prompt: to wait for that is sooner than to compute it as well.
    Raises BadInput, WindowFull or SteeringError before any lane is taken.
    """
    context = request.context
    check_request(request, info)
    tokens = np.fromiter(context.tokens, np.int64, len(context))
    rows = np.concatenate([np.full(len(s), table.row(s.steering), np.int64) for s in context.segments])
    # the last token is always computed anew, since its logits are wanted; residuals are not kept, so a Read
    # computes everything from the first wanted position on
    most = min(request.positions, default=len(context) - 1) if isinstance(request, Read) else len(context) - 1
    after = 0 if isinstance(request, Read) else table.row(request.steering)
    layer = _capture_layer(request, table)
    last = info.n_layers - 1
    coming = [min(common_prefix(job.tokens, job.rows, tokens, rows), most) for job in others if job.span.left > 1]
    if coming and max(coming) >= store.kept(tokens, rows, most) + WORTH:
        return None
    lane, reused = store.acquire(tokens, rows, most, longest(request, info.window), keep_lanes)
    applied = Counter(lane.rows[:reused].tolist())
    rest = tokens[reused:].tolist(), rows[reused:].tolist()
    steered = partial(table.counts, applied)
    if isinstance(request, Generate):
        work = generate(request, *rest, after, layer, last, reused, info.window, stops, steered)
    elif isinstance(request, Score):
        work = score(request, *rest, after, lane, steered)
    else:
        work = read(request, *rest, last, reused, steered)
    return Job(ticket, request, lane, tokens, rows, applied, work, next(work), _draws(request))


def generate(
    request: Generate,
    tokens: list[int],
    rows: list[int],
    row: int,
    layer: int | None,
    last: int,
    reused: int,
    window: int,
    stops: frozenset[int],
    steered: Steered,
) -> Work:
    """The context's new tokens in one span, then one token a span; the last token is computed too, since its KV is
    part of the context and its residual part of the response; whether it is finite, its `last` layer tells."""
    room = min(request.sampling.max_tokens, window - len(request.context))
    why: Why = "length" if room == request.sampling.max_tokens else "window"
    layers = () if layer is None else (layer,)
    response: list[int] = []
    logprobs: list[float] = []
    residuals: list[Tensor] = []
    span = Span(tokens, rows, "draw")
    while span.want == "draw":
        yield span
        if response and layers:
            residuals += span.residuals[layers[0]]
        token, logprob = span.drawn
        check_finite([logprob], "logits")
        response.append(token)
        logprobs.append(logprob)
        why = "stop" if token in stops else why
        ended = token in stops or len(response) == room
        span = Span([token], [row], "nothing" if ended else "draw", (*layers, last) if ended else layers)
    yield span
    span.kept(last)
    if layers:
        residuals += span.residuals[layers[0]]
    return Completion(
        tuple(response),
        why,
        steered(),
        tuple(logprobs) if request.logprobs else None,
        joined(residuals, layers[0]) if layers else None,
        reused,
    )


def score(request: Score, tokens: list[int], rows: list[int], row: int, lane: Lane, steered: Steered) -> Work:
    """The context, then each longer spelling as a branch that is cut off again. Sums are exact, in float64."""
    context = len(request.context)
    span = Span(tokens, rows, "last logits")
    yield span
    first, counts = span.logprobs(), steered()
    if all(len(spellings) == len(spellings[0]) == 1 for spellings in request.options):  # such as a whole vocabulary
        found = first[0, torch.tensor([spellings[0][0] for spellings in request.options])]
        check_finite(found, "logits")
        return Scores(tuple(found.tolist()), float(found.exp().sum()), counts)
    sums = []
    for spellings in request.options:
        parts = []
        for spelling in spellings:
            logprobs = first
            if len(spelling) > 1:
                branch = Span(spelling[:-1], [row] * (len(spelling) - 1), "all logits")
                lane.length = context
                yield branch
                logprobs = torch.cat([first, branch.logprobs()])
            parts.append(logprobs[torch.arange(len(spelling)), torch.tensor(spelling)].sum())
        sums.append(float(torch.logsumexp(torch.stack(parts), 0)))
    lane.length = context
    check_finite(sums, "logits")
    return Scores(tuple(sums), float(np.exp(sums).sum()), counts)


def read(request: Read, tokens: list[int], rows: list[int], last: int, reused: int, steered: Steered) -> Work:
    """What was not reused in one span; whether it is finite, its `last` layer tells, whichever layers are wanted."""
    span = Span(tokens, rows, "nothing", tuple(dict.fromkeys((*request.layers, last))))
    yield span
    span.kept(last)
    at = torch.tensor([p - reused for p in request.positions], dtype=torch.long)
    return Residuals(torch.stack([span.kept(layer)[at] for layer in request.layers], 1), steered())


def _draws(request: Request) -> np.random.Generator | None:
    """The uniform draws of a Generate, from the stream that it names; None for other requests."""
    return randomness.stream("tokens", *request.sampling.stream) if isinstance(request, Generate) else None


def draw_by(job: Job) -> tuple[float, float, float]:
    """Temperature, top_p and the uniform number of the next token; the number is kept until it is used."""
    if job.draws is None or not isinstance(job.request, Generate):
        raise TypeError("only a Generate draws tokens")
    job.uniform = job.draws.random() if job.uniform is None else job.uniform
    return job.request.sampling.temperature, job.request.sampling.top_p, job.uniform


def longest(request: Request, window: int) -> int:
    """Tokens that the request's lane will hold at most."""
    more = 0
    if isinstance(request, Generate):
        more = request.sampling.max_tokens
    elif isinstance(request, Score):
        more = max((len(s) for spellings in request.options for s in spellings), default=0)
    return min(window, len(request.context) + more)


def _capture_layer(request: Request, table: SteeringTable) -> int | None:
    """The layer whose residuals a Generate wants. Raises SteeringError if its dictionary is not attached."""
    if not isinstance(request, Generate) or request.capture is None:
        return None
    return table.dictionary(request.capture).reader.layer
