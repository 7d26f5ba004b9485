"""Problems that a model fails: which are kept, what it is told, and that arms differ by tools and hint alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.framing import PromptVariables, load_framing
from agents.problems import Problem
from agents.script import Agent
from agents.transcript import read
from scenarios.folder import manifest, path_of
from scenarios.run import run
from scenarios.wrong_answers import ARMS, NAME, conditions, selected
from tests.scenarios.driving import DICTIONARY
from tests.scenarios.telling import conversation, seen_before
from toolkit.engines.base import Generate, Sampling
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import BadInput
from toolkit.tools import Toolbox

PROBLEMS = (
    Problem(id="rain", question="How is the rain in Oslo?", accept=("Oslo",)),
    Problem(id="sum", question="What is 2 plus 2?", number=4),
    Problem(id="half", question="What is 7 halves?", number=3.5),
)


def answer(request: Generate) -> str:
    """Right on the sum in every second sample, right on the rain never, right on the half only with a call around."""
    stream = request.sampling.stream
    if stream[1] == "screening":
        return {"rain": "It is wet.", "sum": "It is 4." if stream[3] else "5", "half": "3"}[str(stream[2])]
    return ("STEER(3, +0.4)" if stream[3] == 2 else "It is Oslo.") + " Yes."


def engine() -> ScriptedEngine:
    return ScriptedEngine(answer)


def agents(on: ScriptedEngine) -> dict[str, Agent]:
    variables = PromptVariables("a scripted model", 1, 4, 12, "random directions", "one step")
    made = {}
    for name, (framing, _) in ARMS.items():
        worded = load_framing(framing or "research")
        system = worded.system_prompt(variables)
        made[name] = Agent(worded, system, Toolbox(DICTIONARY), on.tokenizer, on.info, Sampling(), record_k=0)
    return made


def test_kept_are_the_problems_never_answered_right_and_they_are_asked_once(tmp_path: Path) -> None:
    on = engine()
    found = selected(tmp_path, on, agents(on)["alone"], PROBLEMS, 2, 0)
    assert [p.id for p in found] == ["rain", "half"]
    silent = ScriptedEngine([])  # a second time nothing is asked
    assert selected(tmp_path, silent, agents(on)["alone"], PROBLEMS, 2, 0) == found
    with pytest.raises(BadInput, match="another model or seed"):
        selected(tmp_path, on, agents(on)["alone"], PROBLEMS, 2, 1)
    hotter = replace(agents(on)["alone"], sampling=Sampling(temperature=1.5))
    with pytest.raises(BadInput, match="other sampling"):
        selected(tmp_path, on, hotter, PROBLEMS, 2, 0)
    with pytest.raises(BadInput, match="harder"):
        selected(tmp_path / "b", on, agents(on)["alone"], PROBLEMS[1:2], 2, 0)


@pytest.mark.parametrize("name", list(ARMS))
def test_every_word_that_a_model_is_told(tmp_path: Path, name: str) -> None:
    on = engine()
    planned = [c for c in conditions(agents(on), PROBLEMS, 0, "target", "true", {}) if c.name == name]
    run(planned, 2, on, tmp_path, manifest(NAME, {}, planned, 2, on), quiet=True)
    first, second = (read(path_of(tmp_path, name, seed)) for seed in range(2))
    assert (first.start.condition["problem"], second.start.condition["problem"]) == ("rain", "sum")
    assert first.start.condition["accept"] == ["Oslo"] and second.start.condition["number"] == 4
    assert seen_before(f"wrong_answers-{name}", conversation(first))


def test_arms_are_told_the_same_but_for_tools_and_hint(tmp_path: Path) -> None:
    on = engine()
    planned = conditions(agents(on), PROBLEMS, 0, "target", "true", {})
    run(planned, 1, on, tmp_path, manifest(NAME, {}, planned, 1, on), quiet=True)
    said = {
        name: [e.text.split("\n\n")[-1] for e in read(path_of(tmp_path, name, 0)).events if e.event == "turn"]
        for name in ARMS
    }
    assert said["alone"] == said["tools"]
    assert [a == b for a, b in zip(said["tools"], said["nudged"], strict=True)] == [True, False, True]
