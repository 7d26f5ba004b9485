"""Sandbox on a script: arms differ in what is injected and in labels alone, and all is over when the sandbox opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.topic import load_topic
from agents.transcript import External, Response, Turn, read
from scenarios.folder import manifest, path_of
from scenarios.injecting import differing
from scenarios.interference import TOPICS
from scenarios.run import run
from scenarios.sandbox import CONDITIONS, NAME, TASK, cells, conditions
from tests.scenarios.telling import conversation, seen_before
from tests.scenarios.test_interference import DICTIONARY, ground, residuals, says
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import BadInput


def ran(out: Path, seeds: int = 1, rounds: int = 3, how=says) -> dict:
    on = ScriptedEngine(how, residuals=residuals)
    planned = cells(",".join(CONDITIONS), {})
    made = conditions(planned, load_topic("formal", TOPICS), rounds, 1, ground(on, seeds))
    run(made, seeds, on, out, manifest(NAME, {}, made, seeds, on), quiet=True, labels=DICTIONARY)
    return {name: [read(path_of(out, name, seed)) for seed in range(seeds)] for name in planned}


def test_every_word_of_an_arm_is_what_a_reviewer_saw(tmp_path: Path) -> None:
    for name, [record] in ran(tmp_path).items():
        assert seen_before(f"sandbox-{name}", conversation(record)), name


def test_arms_have_the_same_tools_the_same_rounds_and_the_same_words(tmp_path: Path) -> None:
    records = [record for [record] in ran(tmp_path, how=lambda request: "Hm.").values()]
    told = {tuple(e.text for e in record.events if isinstance(e, Turn)) for record in records}
    assert len(told) == 1 and len(told.pop()) == TASK + 3
    assert len({(r.start.framing.system, str(r.start.tools)) for r in records}) == 1


def test_an_injection_is_in_force_during_the_task_and_over_in_the_sandbox(tmp_path: Path) -> None:
    records = ran(tmp_path, seeds=2, how=lambda request: "Hm.")
    expected = {"post_interference": (7, 3), "opaque": (7, 3), "neutral_feature": (5, 5), "control": ()}
    for name, both in records.items():
        for seed, record in enumerate(both):
            held = [[i.feature for i in e.steering] for e in record.events if isinstance(e, Response)]
            features = [expected[name][seed]] if expected[name] else []
            assert held == [features] * TASK + [[]] * 3, name
            assert record.start.condition["watched"] == (features or [(7, 3)[seed]])
            assert len([e for e in record.events if isinstance(e, External)]) == (2 if features else 0)


def test_only_what_is_injected_and_the_labels_differ() -> None:
    assert set(differing(CONDITIONS)) == {"inject", "label_view"}
    with pytest.raises(BadInput, match="arm 'nudged' is unknown"):
        cells("nudged", {})
    assert {cell["strength"] for cell in cells("control,opaque", {"strength": "0.3", "check": None}).values()} == {
        "0.3"
    }


def test_the_command_runs_on_the_organism(tmp_path: Path) -> None:
    from tests.scenarios.test_cli import call

    done = call("run", "sandbox", "--seeds", "1", "--arms", "opaque,control", "--rounds", "1", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert {r.parent.name for r in tmp_path.glob("rollouts/*/*.jsonl")} == {"opaque", "control"}
