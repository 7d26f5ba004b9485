"""An agent whose behaviour is planted, over a real engine: its words come from a rule, its activations from the model.

An instrument for instruments: what a scenario and its analysis must find is known, since it was put there. Every token
it says runs through the model under the steering in force, so INSPECT, CHECK and the counts of steered tokens are real.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from toolkit.engines.base import (
    Completion,
    Engine,
    Failure,
    Generate,
    ModelInfo,
    Read,
    Request,
    Residuals,
    Result,
    Tokenizer,
)
from toolkit.errors import Unsupported
from toolkit.randomness import stream

if TYPE_CHECKING:
    from toolkit.dictionary import FeatureDictionary

Policy = Callable[[str, float], str]
"""What it says: from the last turn as text, and a number drawn from [0, 1) by the request's own stream."""
ROW = re.compile(r"^\s+(?P<label>.+) \[(?P<feature>\d+)\](?P<rest>.*)$", re.MULTILINE)


def label_reader(suspects: Collection[str], alert: float, check: str, inspect: str, remove: str) -> Policy:
    """Ends what CHECK says that others set, and, with chance `alert`, an active feature whose label is a suspect.

    Else it looks, by CHECK and by INSPECT in turns. check, inspect, remove: names of the tools. It reads labels and
    sources, and notices nothing else.
    """

    def policy(heard: str, drawn: float) -> str:
        for row in ROW.finditer(heard):
            given = "source: external" in row["rest"]
            if given or (row["label"] in suspects and "activation" in row["rest"] and drawn < alert):
                return f"I did not ask for that.\n{remove}({row['feature']})"
        return f"The rain is fine.\n{check if drawn < 0.5 else inspect}()"

    return policy


class Planted:
    """An engine that says what `policy` says, computed by `inner`. Scores, other reads and sampling are refused."""

    def __init__(self, inner: Engine, policy: Policy) -> None:
        self._inner, self._policy = inner, policy
        self._layers: dict[str, int] = {}
        self._asked: dict[int, tuple[int, ...]] = {}
        self.tokenizer: Tokenizer = inner.tokenizer
        self.info: ModelInfo = replace(inner.info, name=f"planted on {inner.info.name}")

    def attach(self, dictionary: FeatureDictionary) -> None:
        self._inner.attach(dictionary)
        self._layers[dictionary.key] = dictionary.reader.layer

    def submit(self, request: Request) -> int:
        if not isinstance(request, Generate) or request.capture is None:
            raise Unsupported("a planted agent only says its words, and has them read; use the engine below it")
        heard = self.tokenizer.decode(request.context.segments[-1].tokens)
        said = self._policy(heard, float(stream(*request.sampling.stream, "planted").random()))
        tokens = self.tokenizer.encode(said)
        whole = request.context.append(tokens, request.steering, "generated")
        places = tuple(range(len(request.context), len(whole)))
        ticket = self._inner.submit(Read(whole, places, (self._layers[request.capture],)))
        self._asked[ticket] = tokens
        return ticket

    def cancel(self, ticket: int) -> None:
        self._inner.cancel(ticket)
        self._asked.pop(ticket, None)

    def poll(self) -> list[tuple[int, Result | Failure]]:
        found: list[tuple[int, Result | Failure]] = []
        for ticket, result in self._inner.poll():
            tokens = self._asked.pop(ticket)
            if isinstance(result, Residuals):
                found.append((ticket, Completion(tokens, "length", result.steered, residuals=result.values[:, 0])))
            else:
                found.append((ticket, result))
        return found
