"""Any model that Inspect AI reaches, as an engine that only talks: text of a conversation in, text out.

Nothing can be steered, read or scored in such a model: what asks for it is refused. Knows no provider; keys, retries
and rate limits are Inspect's. Extra: pip install 'selfsteer[inspect]'.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit.engines.base import (
    Completion,
    Failure,
    Generate,
    ModelInfo,
    Request,
    Result,
    Tokenizer,
    Why,
    check_request,
)
from toolkit.engines.scripted import ASSISTANT, END, OPENING, USER, ByteTokenizer
from toolkit.errors import BadInput, SelfsteerError, SteeringError, Unsupported
from toolkit.randomness import stream
from toolkit.steering import NO_STEERING

if TYPE_CHECKING:
    from toolkit.dictionary import FeatureDictionary

ABREAST = 32
ENDS: dict[str, Why] = {"max_tokens": "length", "model_length": "window"}  # else it stopped by itself
ROLES = {OPENING: "system", USER: "user", ASSISTANT: "assistant"}


class InspectEngine:
    """A model by its Inspect name, such as openai/gpt-5-mini. Raises BadInput if Inspect or the provider is not there.

    Tokens are bytes and marks around turns, so that a context holds the conversation exactly; the provider's own
    tokens are never seen. A seed goes along with each request, but nobody promises that it is kept.
    """

    def __init__(self, name: str, **arguments: Any) -> None:
        try:
            from inspect_ai.model import get_model
        except ImportError as error:
            raise BadInput("inspect_ai is not installed; pip install 'selfsteer[inspect]'") from error
        try:
            self._model: Any = get_model(name, **arguments)
        except (ValueError, ImportError, RuntimeError) as error:
            raise BadInput(f"Inspect has no model {name!r}: {error}") from error
        self.tokenizer: Tokenizer = ByteTokenizer()
        self.info = ModelInfo(
            name=f"inspect:{name}",
            digest=hashlib.sha256(name.encode()).hexdigest()[:16],
            n_layers=0,
            d_model=0,
            window=1_000_000,
            vocabulary=260,
            engine="inspect",
            device="remote",
            dtype="unknown",
            batch_invariant=False,
        )
        self._waiting: list[tuple[int, Request]] = []
        self._tickets = 0

    def attach(self, dictionary: FeatureDictionary) -> None:
        raise Unsupported(f"{self.info.name} cannot be steered or read; use the local engine for {dictionary.name}")

    def submit(self, request: Request) -> int:
        self._tickets += 1
        self._waiting.append((self._tickets, request))
        return self._tickets

    def cancel(self, ticket: int) -> None:
        self._waiting = [(t, r) for t, r in self._waiting if t != ticket]

    def poll(self) -> list[tuple[int, Result | Failure]]:
        """Up to ABREAST requests at once; returns when all of them are answered."""
        now, self._waiting = self._waiting[:ABREAST], self._waiting[ABREAST:]
        return asyncio.run(self._all(now)) if now else []

    async def _all(self, asked: Sequence[tuple[int, Request]]) -> list[tuple[int, Result | Failure]]:
        answers = await asyncio.gather(*(self._one(request) for _, request in asked), return_exceptions=True)
        found: list[tuple[int, Result | Failure]] = []
        for (ticket, _), answer in zip(asked, answers, strict=True):
            if isinstance(answer, Completion):
                found.append((ticket, answer))
            elif isinstance(answer, Exception):
                found.append((ticket, Failure(answer)))
            elif isinstance(answer, BaseException):  # stopped by the user: nobody waits for the rest
                raise answer
        return found

    async def _one(self, request: Request) -> Completion:
        if not isinstance(request, Generate) or request.capture is not None or request.logprobs:
            raise Unsupported(f"{self.info.name} only answers in words; use the local engine to read, score or capture")
        if len(request.steering) or any(len(steering) for steering in request.context.steered()):
            raise SteeringError(f"{self.info.name} cannot be steered; use the local engine")
        check_request(request, self.info)
        from inspect_ai.model import GenerateConfig

        sampling = request.sampling
        seed = int(stream(*sampling.stream).integers(2**31))
        config = GenerateConfig(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens, seed=seed
        )
        answered = await self._model.generate(messages(request.context.tokens), config=config)
        if answered.error:
            raise SelfsteerError(f"{self.info.name}: {answered.error}")
        if answered.stop_reason == "content_filter":
            raise SelfsteerError(f"{self.info.name} said something that its provider withholds; it is no whole answer")
        tokens = (*self.tokenizer.encode(answered.completion), END)
        steered = {**request.context.steered()}
        steered[NO_STEERING] = steered.get(NO_STEERING, 0) + len(tokens)
        return Completion(tokens, ENDS.get(answered.stop_reason, "stop"), steered)


def messages(tokens: Sequence[int]) -> list[Any]:
    """The conversation that tokens of a ByteTokenizer hold, as Inspect's messages, without the open reply."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return [kinds[role](content=text) for role, text in turns(tokens)]


def turns(tokens: Sequence[int]) -> list[tuple[str, str]]:
    """(role, text) of each turn that is closed or has text; an empty system prompt is none."""
    found: list[tuple[str, bytearray]] = []
    for token in tokens:
        if token in ROLES:
            found.append((ROLES[token], bytearray()))
        elif token < 256 and found:
            found[-1][1].append(token)
    if found and found[-1] == ("assistant", bytearray()):
        found.pop()
    return [(role, text.decode(errors="replace")) for role, text in found if role != "system" or text]
