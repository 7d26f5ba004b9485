"""What a run is made of: its conditions. Knows no folder, no engine and no order in which rollouts go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.script import Agent, Script
from toolkit.dictionary import FeatureDictionary


@dataclass(frozen=True)
class Condition:
    """A scenario with its parameters: an agent, and the script of the rollout with a given number.

    parameters: whatever tells this condition from others, for the manifest and for each transcript's first line.
    rounds: how many a rollout has at most, for the time left. also: dictionaries whose directions the experimenter
    adds, beside the agent's own.
    """

    name: str
    agent: Agent
    script: Callable[[int], Script]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 1
    also: tuple[FeatureDictionary, ...] = ()
