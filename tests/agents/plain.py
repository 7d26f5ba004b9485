"""What the tests of agents share: a dictionary of names alone, and the smallest driver.

Knows no weights: directions are never applied, readings are made up from the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agents import transcript as record
from agents.framing import PromptVariables, load_framing
from agents.rollout import Measure, Rollout, rollout
from agents.script import Agent, Script, Turn
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.base import Completion, Failure, Generate
from toolkit.engines.scripted import ScriptedEngine
from toolkit.search import Hit
from toolkit.steering import Steering
from toolkit.tools import Reading, Toolbox

VARIABLES = PromptVariables("a tiny model", 2, 4, 64, "a sparse autoencoder", "one step")


@dataclass(frozen=True)
class PlainLabels:
    n: int = 64
    digest: str = "labels"
    prefix: str = "thing"

    def __len__(self) -> int:
        return self.n

    def text(self, feature: int) -> str:
        return f"{self.prefix} {feature}"

    def status(self, feature: int) -> str:
        return "real"

    def search(self, query: str, k: int) -> list[Hit]:
        return [Hit(feature, 0.9 - feature / 100) for feature in range(min(k, self.n))]


@dataclass(frozen=True)
class NamedDirections:
    digest: str = "key"
    d_model: int = 8
    layers: tuple[int, ...] = (2,)
    unit: str = "one step"


@dataclass(frozen=True)
class NamedReader:
    digest: str = "reader"
    layer: int = 2


def dictionary(n: int = 64, key: str = "key", prefix: str = "thing") -> FeatureDictionary:
    parts: Any = (PlainLabels(n, prefix=prefix), NamedDirections(key), NamedReader())
    return FeatureDictionary("plain", *parts)


def toolbox(**changes: Any) -> Toolbox:
    return replace(Toolbox(dictionary()), **changes)


def engine(
    answers: Callable[[Generate], str | Exception] | Iterable[str | Exception], **options: Any
) -> ScriptedEngine:
    made = ScriptedEngine(answers, **options)
    made.attach(dictionary())
    return made


def agent(on: ScriptedEngine, framing: str = "research", scope: str = "onward", **changes: Any) -> Agent:
    told = replace(load_framing(framing), scope=scope)  # type: ignore[arg-type]
    made = Agent(told, told.system_prompt(VARIABLES), toolbox(), on.tokenizer, on.info)
    return replace(made, **changes)


def script(turns: Iterable[Turn] | int = 3, **changes: Any) -> Script:
    said = [Turn("Continue.")] * turns if isinstance(turns, int) else turns
    return replace(Script("free_exploration", "research", 7, 0, said), **changes)


def measure(request: Measure) -> Reading:
    """Made-up activations: the first features that the response's tokens name."""
    tokens = request.completion.tokens
    features = tuple(dict.fromkeys(t % 64 for t in tokens))[: request.k]
    values = tuple(1.0 / (i + 1) for i in range(len(features)))
    return Reading(features, values, 2, request.aggregation, len(tokens), request.steered)


def drive(on: ScriptedEngine, run: Rollout, pending: Any = None) -> list[record.Event]:
    """Perform what a rollout asks for until it ends, and return what it had recorded."""
    events: list[record.Event] = []
    item = next(run) if pending is None else pending
    while True:
        try:
            if isinstance(item, Generate):
                on.submit(item)
                [(_, result)] = on.poll()
                if isinstance(result, Failure):
                    item = run.throw(result.error)
                else:
                    assert isinstance(result, Completion)
                    item = run.send(result)
            elif isinstance(item, Measure):
                item = run.send(measure(item))
            else:
                events.append(item)
                item = next(run)
        except StopIteration:
            return events


def played(answers: Sequence[str | Exception], **options: Any) -> list[record.Event]:
    """The events of a rollout in which the model says `answers`."""
    on = engine(answers)
    rounds = options.pop("rounds", len(answers))
    return drive(on, rollout(agent(on, **options), script(rounds)))


def of(events: Iterable[record.Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def in_force(events: Sequence[record.Event]) -> list[Steering]:
    """The steering of each response."""
    return [event.steering for event in of(events, record.Response)]
