"""A small run on the scripted engine, for the tests of this room; also run as a process of its own, to be killed."""

from __future__ import annotations

import itertools
import sys
import threading
from pathlib import Path
from typing import Any

from agents.framing import PromptVariables, load_framing
from agents.script import Agent, Script, Turn
from scenarios.condition import Condition
from scenarios.folder import manifest
from scenarios.run import run
from tests.tiny import random_dictionary
from toolkit.engines.base import Generate, Sampling
from toolkit.engines.scripted import ScriptedEngine
from toolkit.steering import Intervention
from toolkit.tools import Toolbox

DICTIONARY = random_dictionary(d_model=8)
ANSWERS = (
    "I look.\nINSPECT()",
    "STEER(3, +0.4)",
    "Hm.",
    "REMOVE_STEERING(3)\nSTEER(5, +0.2)",
    "STEER_CLEAR()",
    "Enough.",
)


def answer(request: Generate) -> str:
    """Depends on the request alone: the stream names rollout and round."""
    *_, rollout, number, _ = request.sampling.stream
    return ANSWERS[(int(rollout) + int(number)) % len(ANSWERS)]


def residuals(request: Generate, tokens: tuple[int, ...]) -> Any:
    import torch

    seed = hash(tokens) % 2**31 + len(request.context)
    return torch.randn(len(tokens), 8, generator=torch.Generator().manual_seed(seed))


def engine(how=answer, **options: Any) -> ScriptedEngine:
    return ScriptedEngine(how, residuals=residuals, **options)


def condition(name: str, on: ScriptedEngine, rounds: int = 4, framing: str = "research") -> Condition:
    worded = load_framing(framing)
    system = worded.system_prompt(PromptVariables("scripted", 1, 4, 12, "random directions", "one step"))
    agent = Agent(worded, system, Toolbox(DICTIONARY), on.tokenizer, on.info, Sampling(max_tokens=64))

    def external(steering):
        return steering.with_(Intervention(DICTIONARY.key, 7, 0.6, source="external"))

    def script(rollout: int) -> Script:
        turns = [Turn("Continue.", change=external if number == 2 else None) for number in range(rounds)]
        return Script("test", name, 0, rollout, turns)

    return Condition(name, agent, script, {"rounds": rounds}, rounds)


def do(out: Path, seeds: int = 3, on: ScriptedEngine | None = None, abreast: int = 8, rounds: int = 4):
    on = on or engine()
    planned = [condition(name, on, rounds) for name in ("a", "b")]
    return run(
        planned, seeds, on, out, manifest("test", {"rounds": rounds}, planned, seeds, on), abreast=abreast, quiet=True
    )


if __name__ == "__main__":
    asked = itertools.count()

    def half_way(request: Generate) -> str:
        if next(asked) == 20:  # of 36: every rollout has begun and none has ended
            print("half way", flush=True)
            threading.Event().wait()
        return answer(request)

    do(Path(sys.argv[1]), on=engine(half_way), rounds=6)
