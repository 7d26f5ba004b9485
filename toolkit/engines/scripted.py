"""The shortest example of an engine, and the double that tests use: it answers from a script instead of a model.

Knows no weights. It keeps the whole contract: tokens in, tokens out, steering counted, failures handed back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from toolkit.engines.base import (
    Completion,
    Failure,
    Generate,
    ModelInfo,
    Read,
    Request,
    Residuals,
    Result,
    Score,
    Tokenizer,
    Why,
    check_request,
)
from toolkit.errors import SelfsteerError, SteeringError, Unsupported
from toolkit.steering import Steering

if TYPE_CHECKING:
    import torch

    from toolkit.dictionary import FeatureDictionary

OPENING, USER, ASSISTANT, END = 256, 257, 258, 259


class ByteTokenizer:
    """One token a byte, and four marks around turns; any text survives the way there and back."""

    stop_tokens = frozenset({END})

    def opening(self, system: str, text: str) -> tuple[int, ...]:
        return (OPENING, *self.encode(system), END, *self.user_turn(text, closed=True))

    def user_turn(self, text: str, closed: bool) -> tuple[int, ...]:
        return (*(() if closed else (END,)), USER, *self.encode(text), END, ASSISTANT)

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(t for t in tokens if t < 256).decode(errors="replace")

    def document(self, text: str) -> tuple[int, ...]:
        return (OPENING, *self.encode(text))

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode(errors="replace"))


class ScriptedEngine:
    """Answers each Generate by `answer(request)`: a text, or an exception, which comes back as a Failure.

    answer: a function, or a sequence of answers used up in order of submission; running out is a Failure.
    residuals: from response tokens to [T, D] float32 (default: zeros), for those who read activations.
    """

    def __init__(
        self,
        answer: Callable[[Generate], str | Exception] | Iterable[str | Exception],
        *,
        d_model: int = 8,
        n_layers: int = 4,
        window: int = 1_000_000,
        residuals: Callable[[Generate, tuple[int, ...]], torch.Tensor] | None = None,
    ) -> None:
        self.tokenizer: Tokenizer = ByteTokenizer()
        self.info = ModelInfo(
            name="scripted",
            digest="scripted",
            n_layers=n_layers,
            d_model=d_model,
            window=window,
            vocabulary=260,
            engine="scripted",
            device="none",
            dtype="none",
            batch_invariant=True,
        )
        self._answer = answer if callable(answer) else _in_order(iter(answer))
        self._residuals = residuals
        self._attached: set[str] = set()
        self._waiting: list[tuple[int, Request]] = []
        self._tickets = 0

    def attach(self, dictionary: FeatureDictionary) -> None:
        self._attached.add(dictionary.key)

    def submit(self, request: Request) -> int:
        self._tickets += 1
        self._waiting.append((self._tickets, request))
        return self._tickets

    def cancel(self, ticket: int) -> None:
        self._waiting = [(t, r) for t, r in self._waiting if t != ticket]

    def poll(self) -> list[tuple[int, Result | Failure]]:
        if not self._waiting:
            return []
        ticket, request = self._waiting.pop(0)
        try:
            return [(ticket, self._carry_out(request))]
        except SelfsteerError as error:
            return [(ticket, Failure(error))]

    def _carry_out(self, request: Request) -> Result:
        check_request(request, self.info)
        self._must_be_attached(request.context.steered())
        if isinstance(request, Score):
            raise Unsupported("the scripted engine has no logits to score options with; use the local engine")
        if isinstance(request, Read):
            values = _zeros(len(request.positions), len(request.layers), self.info.d_model)
            return Residuals(values, dict(request.context.steered()))
        self._must_be_attached([request.steering])
        if request.capture is not None and request.capture not in self._attached:
            raise SteeringError(f"dictionary {request.capture} is not attached; call engine.attach(dictionary)")
        answer = self._answer(request)
        if isinstance(answer, Exception):
            raise answer
        tokens: tuple[int, ...] = (*self.tokenizer.encode(answer), END)
        room = min(request.sampling.max_tokens, self.info.window - len(request.context))
        why: Why = "stop" if len(tokens) <= room else "length" if room == request.sampling.max_tokens else "window"
        tokens = tokens[:room]
        steered: Counter[Steering] = Counter(request.context.steered())
        steered[request.steering] += len(tokens)
        residuals = None
        if request.capture is not None:
            make = self._residuals
            residuals = make(request, tokens) if make else _zeros(len(tokens), self.info.d_model)
        return Completion(tokens, why, dict(steered), residuals=residuals)

    def _must_be_attached(self, steerings: Iterable[Steering]) -> None:
        for steering in steerings:
            for i in steering:
                if i.dictionary not in self._attached:
                    raise SteeringError(f"dictionary {i.dictionary} is not attached; call engine.attach(dictionary)")


def _in_order(answers: Iterator[str | Exception]) -> Callable[[Generate], str | Exception]:
    return lambda _request: next(answers, SteeringError("the script has no more answers; give the engine more"))


def _zeros(*shape: int) -> torch.Tensor:
    import torch

    return torch.zeros(*shape)
