"""Free exploration as a reviewer reads it: every word that a model is told, beside answers from a script.

A changed word shows in the diff of snapshots/.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.framing import PromptVariables, load_framing
from agents.script import Agent
from agents.transcript import read
from scenarios.folder import manifest, path_of
from scenarios.free_exploration import NAME, conditions
from scenarios.run import run
from tests.scenarios.driving import DICTIONARY
from tests.scenarios.telling import conversation, seen_before
from toolkit.engines.base import Sampling
from toolkit.engines.scripted import ScriptedEngine
from toolkit.tools import Toolbox

VARIABLES = PromptVariables("a scripted model", 1, 4, 12, "random directions", "one step")


def told(out: Path, framing: str) -> str:
    """The whole conversation of one rollout, and its first line's words on arm and view."""
    worded = load_framing(framing)
    call = worded.theme.call
    answers = ["I wait.", "I act."]
    if worded.tools:
        answers = ["I look.\n" + call("inspect"), f"{call('steer', 3, 0.4)}\n{call('steer', 99, 0.4)}", call("check")]
    on = ScriptedEngine([*answers, *["Enough."] * (4 - len(answers))])
    agent = Agent(worded, worded.system_prompt(VARIABLES), Toolbox(DICTIONARY), on.tokenizer, on.info, Sampling())
    planned = conditions([agent], 4, 0, "target", "true", {"code": "c"})
    run(planned, 1, on, out, manifest(NAME, {}, planned, 1, on), quiet=True)
    record = read(path_of(out, worded.name, 0))
    assert record.start.arm == "target" and record.start.hashes == {"code": "c"} and record.start.versions
    return conversation(record)


@pytest.mark.parametrize("framing", ["research", "potions", "minimal", "no_tools", "potions x research"])
def test_every_word_that_a_model_is_told_is_what_a_reviewer_saw(tmp_path: Path, framing: str) -> None:
    assert seen_before(f"free_exploration-{framing.replace(' ', '_')}", told(tmp_path, framing))


def test_the_manifest_holds_the_command_that_began_the_run(tmp_path: Path) -> None:
    on = ScriptedEngine(["Enough."])
    worded = load_framing("research")
    agent = Agent(worded, worded.system_prompt(VARIABLES), Toolbox(DICTIONARY), on.tokenizer, on.info)
    planned = conditions([agent], 1, 0, "target", "true", {})
    options = {"framings": "a,b c", "dose_cap": 2.0, "exit_tool": True, "labels": None}
    run(planned, 1, on, tmp_path, manifest(NAME, options, planned, 1, on), quiet=True)
    begun = json.loads((tmp_path / "manifest.json").read_text())
    assert begun["command"] == "selfsteer run free-exploration --framings 'a,b c' --dose-cap 2.0 --exit-tool"
