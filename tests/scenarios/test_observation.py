"""Observation on a script: what is asked, that nothing can be changed, and which labels are seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.transcript import Call, Response, Turn, read
from scenarios.folder import manifest, path_of
from scenarios.observation import NAME, agents_of, conditions, plans, turns
from scenarios.run import run
from tests.scenarios.telling import conversation, seen_before
from tests.scenarios.test_interference import DICTIONARY, ground, residuals
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import BadInput


def ran(out: Path, scripts: str, views: str = "true", rounds: int = 10) -> dict:
    on = ScriptedEngine(lambda request: "I see.\nINSPECT()\nSTEER(3, +0.4)", residuals=residuals)
    made = conditions(agents_of(plans(scripts, views), ground(on, 1, framing="observer")), rounds, 0, {})
    run(made, 1, on, out, manifest(NAME, {}, made, 1, on), quiet=True, labels=DICTIONARY)
    return {c.name: read(path_of(out, c.name, 0)) for c in made}


@pytest.mark.parametrize("script", ["guided", "free"])
def test_every_word_is_what_a_reviewer_saw(tmp_path: Path, script: str) -> None:
    on = ScriptedEngine(["It is."])
    made = conditions(agents_of(plans(script, "true"), ground(on, 1, framing="observer")), 10, 0, {})
    quiet = ScriptedEngine(lambda request: "It is.", residuals=residuals)
    run(made, 1, quiet, tmp_path, manifest(NAME, {}, made, 1, quiet), quiet=True)
    assert seen_before(f"observation-{script}", conversation(read(path_of(tmp_path, script, 0))))


def test_nothing_can_be_changed(tmp_path: Path) -> None:
    for record in ran(tmp_path, "guided,free").values():
        assert record.start.tools["verbs"] == ["inspect", "search"]
        assert not any(e.steering for e in record.events if isinstance(e, Response))
        calls = [e for e in record.events if isinstance(e, Call)]
        assert {(c.verb, c.outcome) for c in calls} == {("inspect", "ok"), ("steer", "refused")}


def test_guided_ends_with_its_questions_and_free_with_its_rounds() -> None:
    assert [len(list(turns(script, 30))) for script in ("guided", "free")] == [10, 30]
    assert [len(list(turns(script, 2))) for script in ("guided", "free")] == [2, 2]


def test_a_view_is_a_condition_of_its_own(tmp_path: Path) -> None:
    records = ran(tmp_path, "free", "true,opaque", rounds=2)
    shown = {
        n: {r.label for e in record.events if isinstance(e, Call) for r in e.rows} for n, record in records.items()
    }
    assert all(label.startswith("feature_") for label in shown["free_opaque"])
    assert all(label.startswith("thing") for label in shown["free_true"])
    assert len({record.start.framing.system for record in records.values()}) == 1
    assert len([e for e in records["free_true"].events if isinstance(e, Turn)]) == 2


def test_a_script_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="'loose' is unknown; use guided, free"):
        plans("loose", "true")


def test_the_command_runs_on_the_organism(tmp_path: Path) -> None:
    from tests.scenarios.test_cli import call

    done = call("run", "observation", "--seeds", "1", "--rounds", "2", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert {r.parent.name for r in tmp_path.glob("rollouts/*/*.jsonl")} == {"guided", "free"}
