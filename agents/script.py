"""What a rollout is made of: an agent with its tools, and a script of what is said to it. Values that do nothing.

Knows no loop, no driver and no scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from agents import events as record
from agents.framing import Framing
from agents.monitor import Monitor, health
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.base import ModelInfo, Sampling, Tokenizer, Why
from toolkit.steering import Steering
from toolkit.tools import Reading, Receipt, Toolbox

Aggregation = Literal["last", "mean", "max"]


@dataclass(frozen=True)
class Agent:
    """One model with its tools. Everything about it that acts on a rollout is recorded in the start event.

    system: the rendered prompt of `framing`. toolbox: dictionary, limits and the steering at the start; its verbs are
    the framing's, and so is the scope of a change. record_k: features of the automatic reading (0: none).
    own: the dictionary of its own activations, where its tools act on another model; None: they act on itself.
    """

    framing: Framing
    system: str
    toolbox: Toolbox
    tokenizer: Tokenizer
    model: ModelInfo
    sampling: Sampling = field(default_factory=Sampling)
    aggregation: Aggregation = "mean"
    record_k: int = 100
    logprobs: bool = False
    monitor: Monitor = health
    own: FeatureDictionary | None = None


@dataclass(frozen=True)
class Turn:
    """What the scenario says next; `change` is the experimenter's own steering, in force from this turn on.

    forget: the history is dropped before it, results of the last calls included; the system prompt is told anew.
    reading: what INSPECT shows after it, where the tools act on another model.
    """

    text: str
    change: Callable[[Steering], Steering] | None = None
    why: str = ""
    forget: bool = False
    reading: Reading | None = None


@dataclass(frozen=True)
class Round:
    """What a script is told after each round, so that it can react. said: the text without its calls.

    steering: what its tools hold, in itself or in another.
    """

    number: int
    text: str
    said: str
    why: Why
    receipts: tuple[Receipt, ...]
    reading: Reading | None
    steering: Steering


@dataclass(frozen=True)
class Hear:
    """The next turn is what another says: in the place of a Turn, a script's turns may hold a Hear with what came last.

    told: the round that the script was told last, for the other to hear; None before the first.
    """

    told: Round | None = None


@dataclass(frozen=True)
class Script:
    """What one rollout is: its name in the run, what it was made from, and its turns.

    turns: an iterable of Turn (or Hear), or a generator that yields them and is sent the Round that came of each;
    either must be a function of what it is sent, or replaying tells. seed, name, rollout: the run's seed, the
    condition, which one.
    stop_when_unhealthy: end after so many unhealthy rounds on end. given: the conversation before the first turn, made
    beforehand; None: the first turn opens it.
    """

    scenario: str
    name: str
    seed: int
    rollout: int | str
    turns: Iterable[Turn | Hear]
    condition: dict[str, Any] = field(default_factory=dict)
    arm: str = "target"
    label_view: str = "real"
    versions: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    stop_when_unhealthy: int | None = None
    given: record.Given | None = None
