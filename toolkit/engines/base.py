"""The contract between a rollout and whatever runs the model: requests in, results out.

Knows no model and no prompt. Everything here is a value; `local.py`, `scripted.py` and others implement `Engine`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from toolkit.context import Context
from toolkit.errors import BadInput, SteeringError, WindowFull
from toolkit.steering import NO_STEERING, Steering

if TYPE_CHECKING:
    import torch

    from toolkit.dictionary import FeatureDictionary
    from toolkit.engines.memory import Forecast

Why = Literal["stop", "length", "window"]  # a stop token came; max_tokens reached; the model's window is full


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `stream` names the counter-based random stream (see toolkit/randomness.py)."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256
    stream: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise BadInput(f"temperature {self.temperature} is out of range; use 0 (greedy) to 100")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top_p {self.top_p} is out of range; use a number above 0, at most 1")
        if self.max_tokens < 1:
            raise BadInput(f"max_tokens {self.max_tokens} is out of range; use at least 1")


@dataclass(frozen=True)
class Generate:
    """Continue `context` by a response whose tokens are computed under `steering`.

    `capture` names the dictionary (by key) whose layer's residuals of the response are wanted.
    """

    context: Context
    sampling: Sampling
    steering: Steering = NO_STEERING
    capture: str | None = None
    logprobs: bool = False


@dataclass(frozen=True)
class Score:
    """Exact log-probabilities of each option after `context`. An option is a tuple of spellings, each token ids."""

    context: Context
    options: tuple[tuple[tuple[int, ...], ...], ...]
    steering: Steering = NO_STEERING  # under which the option's own tokens are computed


@dataclass(frozen=True)
class Read:
    """The residuals (block outputs, after steering) at `positions` of `context` and `layers`."""

    context: Context
    positions: tuple[int, ...]
    layers: tuple[int, ...]


Request = Generate | Score | Read


@dataclass(frozen=True)
class Completion:
    """What came of a Generate.

    tokens: the response, its stop token included. logprobs: one per token, if asked, else None.
    residuals: [T, D] float32 on the CPU, of the response's first T tokens, if asked, else None.
    steered: tokens computed under each steering, counted where steering was applied, over context and response.
    reused: how many of the context's tokens came from kept KV.
    """

    tokens: tuple[int, ...]
    why: Why
    steered: Mapping[Steering, int]
    logprobs: tuple[float, ...] | None = None
    residuals: torch.Tensor | None = None
    reused: int = 0


@dataclass(frozen=True)
class Scores:
    """logprobs: one per option, log-sum-exp over its spellings, natural log; mass: their total probability."""

    logprobs: tuple[float, ...]
    mass: float
    steered: Mapping[Steering, int]


@dataclass(frozen=True)
class Residuals:
    """values: [T, L, D] float32 on the CPU, in the order of the request's positions and layers."""

    values: torch.Tensor
    steered: Mapping[Steering, int]


Result = Completion | Scores | Residuals


@dataclass(frozen=True)
class Failure:
    """A request that could not be carried out. Never a result without steering."""

    error: Exception


@dataclass(frozen=True)
class ModelInfo:
    """What a manifest says about the model behind an engine."""

    name: str
    digest: str
    n_layers: int
    d_model: int
    window: int
    vocabulary: int
    engine: str
    device: str
    dtype: str
    batch_invariant: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)


class Tokenizer(Protocol):
    """Text to ids and back, and the chat wrapping. Messages are tokenised once, when they are appended."""

    def opening(self, system: str, text: str) -> tuple[int, ...]:
        """The system prompt, the first user turn and the header of the reply. An empty `system` means none."""
        ...

    def user_turn(self, text: str, closed: bool) -> tuple[int, ...]:
        """A later user turn and the header of the reply; closes the reply before it unless it closed itself.

        closed: whether the reply before ended by its own stop token (Completion.why == "stop").
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a response, special tokens left out."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Plain text, no special tokens."""
        ...

    def document(self, text: str) -> tuple[int, ...]:
        """Plain text as a context of its own: the model's first token, if it has one, and the text."""
        ...

    @property
    def stop_tokens(self) -> frozenset[int]: ...


class Engine(Protocol):
    """Runs one model over contexts. `submit` returns at once; `poll` works until something has finished.

    poll() returns [] only when nothing is in flight. A request that fails comes back as Failure.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def attach(self, dictionary: FeatureDictionary) -> None:
        """Make a dictionary's features steerable. Raises DictionaryMismatch if it does not fit the model."""
        ...

    def submit(self, request: Request) -> int: ...

    def poll(self) -> list[tuple[int, Result | Failure]]: ...

    def cancel(self, ticket: int) -> None:
        """Forget a request: it never comes back from poll(), and the others go on as if it had never been."""
        ...


def check_request(request: Request, info: ModelInfo) -> None:
    """Raise BadInput or WindowFull for a request that no engine could carry out on this model; engines call it."""
    context = request.context
    if not len(context):
        raise BadInput("the context is empty; append at least one token to it")
    if len(context) >= info.window:
        raise WindowFull(f"the context has {len(context)} tokens, the model's window is {info.window}")
    for token in (min(context.tokens), max(context.tokens)):
        if not 0 <= token < info.vocabulary:
            raise BadInput(f"token {token} is not in the vocabulary of {info.vocabulary}")
    if isinstance(request, Score):
        for number, spellings in enumerate(request.options):
            if not spellings or not all(spellings):
                raise BadInput(f"option {number} has a spelling without tokens; give every option at least one token")
            begun = [s[:n] for s in spellings for n in range(1, len(s))]
            for twice in {s for s, count in Counter((*set(begun), *spellings)).items() if count > 1} & {*spellings}:
                raise BadInput(
                    f"spelling {list(twice)} of option {number} is there twice, or begins another: its probability"
                    " would count twice; leave one of them out"
                )
            if len(context) + max(map(len, spellings)) > info.window:
                raise WindowFull(f"option {number} does not fit behind {len(context)} tokens in {info.window}")
            for token in (t for spelling in spellings for t in spelling if not 0 <= t < info.vocabulary):
                raise BadInput(f"token {token} of option {number} is not in the vocabulary of {info.vocabulary}")
        if not request.options:
            raise BadInput("there are no options to score; give at least one")
    if isinstance(request, Read):
        if not request.positions or not request.layers:
            raise BadInput("nothing is to be read; give at least one position and one layer")
        for position in request.positions:
            if not 0 <= position < len(context):
                raise BadInput(f"position {position} is not in a context of {len(context)} tokens")
        for layer in request.layers:
            if not 0 <= layer < info.n_layers:
                raise BadInput(f"layer {layer} is out of range; the model has layers 0 to {info.n_layers - 1}")


@runtime_checkable
class Foretelling(Protocol):
    """An engine that can say what a run will take of its memory."""

    def prepare(self, rollouts: int, tokens: int) -> Forecast:
        """What `rollouts` abreast of up to `tokens` tokens will take; makes room for as many of them as fit."""
        ...


def check_steered(context: Context, result: Result, response_steering: Steering = NO_STEERING) -> None:
    """Raise SteeringError unless the engine steered exactly the tokens that the plan says.

    The last token of a response may not have been computed yet; everything else must have been.
    """
    plan: Counter[Steering] = Counter(context.steered())
    if isinstance(result, Completion):
        plan[response_steering] += len(result.tokens)
    done = Counter({s: n for s, n in result.steered.items() if n})
    missing = plan - done
    extra = done - plan
    if isinstance(result, Completion) and missing == Counter({response_steering: 1}) and not extra:
        return
    if missing or extra:
        raise SteeringError(
            f"steered tokens differ from the plan: {_count(missing)} missing, {_count(extra)} too many"
            " (by steering digest); the rollout is not what it says it is, so it ends here"
        )


def check_finite(found: torch.Tensor | Sequence[float], what: str) -> None:
    """Raise SteeringError if a number is not finite: a model that overflows says nothing, steered or not."""
    if all(map(math.isfinite, found)) if isinstance(found, Sequence) else bool(found.isfinite().all()):
        return
    raise SteeringError(
        f"{what} are not finite numbers: the model overflows under this steering, or by itself in this dtype; use a"
        " smaller strength, or dtype bfloat16 or float32"
    )


def _count(counts: Mapping[Steering, int]) -> str:
    return ", ".join(f"{n} x {s.digest if len(s) else 'unsteered'}" for s, n in counts.items() if n) or "none"


def read_texts(engine: Engine, texts: Sequence[str], layers: Sequence[int]) -> list[torch.Tensor]:
    """Residuals of plain texts: one [T, L, D] tensor a text, its first token included (see vectors.extract)."""
    contexts = [Context().append(engine.tokenizer.document(text)) for text in texts]
    found = run_all(engine, [Read(c, tuple(range(len(c))), tuple(layers)) for c in contexts])
    return [one.values for one in found if isinstance(one, Residuals)]


def run_all(engine: Engine, requests: Sequence[Request]) -> list[Result]:
    """Carry out requests together and wait for all; results in their order. Raises what the engine raised."""
    tickets = {engine.submit(request): place for place, request in enumerate(requests)}
    found: dict[int, Result] = {}
    try:
        while len(found) < len(requests) and (finished := engine.poll()):
            for ticket, result in finished:
                if isinstance(result, Failure) and ticket in tickets:
                    raise result.error
                if ticket in tickets and not isinstance(result, Failure):
                    found[tickets[ticket]] = result
    finally:  # what nobody waits for any more is not worth computing, and would come to the next who polls
        for ticket, place in tickets.items():
            if place not in found:
                engine.cancel(ticket)
    if len(found) < len(requests):
        raise SteeringError(f"the engine stopped without an answer to {len(requests) - len(found)} requests")
    return [found[place] for place in range(len(requests))]


def run(engine: Engine, request: Request) -> Result:
    """Carry out one request and wait for it; raises what the engine raised."""
    return run_all(engine, [request])[0]
