"""Interference on a script: what is told, what is injected when, and that conditions differ in values alone."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from agents.topic import load_topic
from agents.transcript import Call, External, Response, Truncate, read
from analysis.content import Fact, coded_sentence
from scenarios import setting
from scenarios.folder import manifest, path_of
from scenarios.injecting import Ground, check_calibrated, check_rounds, crossed, differing, strength_of
from scenarios.interference import BASE, NAME, OWN, PRESETS, TOPICS, When, cells, conditions
from scenarios.run import run
from tests.scenarios.telling import conversation, seen_before
from tests.tiny import random_dictionary
from toolkit.engines.base import Generate
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import BadInput

DICTIONARY = random_dictionary(d_model=8)
ROUNDS = 8


def says(request: Generate) -> str:
    """A call in some rounds, whatever the tools are called; those not offered are refused."""
    number = int(request.sampling.stream[3])
    return {1: "It is so.\nINSPECT()", 3: "CHECK_STEERING()\nREMOVE_STEERING(7)", 4: 'SEARCH_FEATURES("rain")'}.get(
        number, "And so on."
    )


def residuals(request: Generate, tokens: tuple[int, ...]) -> Any:
    """Of the round alone, so that a changed word of a prompt changes that word in a snapshot and nothing else."""
    import torch

    drawn = torch.Generator().manual_seed(int(request.sampling.stream[3]))
    return torch.randn(1, 8, generator=drawn).expand(len(tokens), 8)


def ground(on: ScriptedEngine, seeds: int = 2, **changes: Any) -> Ground:
    pools = {"style": (7, 3), "topic": (5,), "neutral": (5,)}
    made = {"pools": pools, "framing": "assistant", "limits": setting.Limits()} | changes
    return Ground(on, "scripted", DICTIONARY, made.pop("framing"), made.pop("limits"), **made, seed=0, seeds=seeds,
                  pinned={"code": "c"})  # fmt: skip


def ran(out: Path, planned: dict, when: When = When(2, None, None), seeds: int = 2, **changes: Any) -> dict:
    on = ScriptedEngine(says, residuals=residuals)
    told = {name: load_topic(cell["topic"], TOPICS) for name, cell in planned.items()}
    made = conditions(planned, told, when, ground(on, seeds, **changes))
    run(made, seeds, on, out, manifest(NAME, {}, made, seeds, on), quiet=True, labels=DICTIONARY)
    return {(name, seed): read(path_of(out, name, seed)) for name in planned for seed in range(seeds)}


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_word_of_a_preset_is_what_a_reviewer_saw(tmp_path: Path, name: str) -> None:
    [record] = ran(tmp_path, {name: PRESETS[name]}, seeds=1).values()
    assert seen_before(f"interference-{name}", conversation(record))


def test_the_organisms_conversation_is_what_a_reviewer_saw(tmp_path: Path) -> None:
    [record] = ran(tmp_path, {"organism": OWN}, When(2, 6, 7), seeds=1, framing="research").values()
    assert seen_before("interference-organism", conversation(record))


@pytest.mark.parametrize(
    ("factor", "level", "says"),
    [("tools", "none", "without a tool"), ("tools", "inspect", "INSPECT alone"), ("hint", "minimal", "a hint")],
)
def test_what_other_levels_are_told(tmp_path: Path, factor: str, level: str, says: str) -> None:
    [record] = ran(tmp_path, {"a": {**BASE, factor: level}}, seeds=1).values()
    assert seen_before(f"interference-{factor}-{level}", conversation(record)), says


@pytest.mark.parametrize("arm", ["target", "zero", "random", "other"])
def test_an_arm_changes_what_is_added_and_nothing_that_is_told(tmp_path: Path, arm: str) -> None:
    records = ran(tmp_path, {arm: {**BASE, "injection_arm": arm}}, seeds=1)
    [external] = [e for e in records[arm, 0].events if isinstance(e, External)]
    [added] = external.after
    assert (added.feature, added.strength, added.source) == (7, 0.6, "external")
    assert (added.dictionary == DICTIONARY.key) == (arm == "target")
    told = conversation(records[arm, 0]).replace(added.dictionary, "KEY")
    plain = conversation(ran(tmp_path / "plain", {"t": BASE}, seeds=1)["t", 0]).replace(DICTIONARY.key, "KEY")
    assert told == plain


@pytest.mark.parametrize(
    ("inject", "expected"),
    [("style", [(7,), (3,), (7,)]), ("topic", [(5,)] * 3), ("style+topic", [(7, 5), (3, 5), (7, 5)]),
     ("9", [(9,)] * 3), ("style+style", [(7, 3)] * 3), ("none", [()] * 3)],
)  # fmt: skip
def test_which_features_each_rollout_gets(tmp_path: Path, inject: str, expected: list) -> None:
    records = ran(tmp_path, {"a": {**BASE, "inject": inject}}, seeds=3)
    found = [{i.feature for e in r.events if isinstance(e, External) for i in e.after} for r in records.values()]
    assert found == [set(e) for e in expected]


def test_a_random_feature_is_none_of_the_named_ones_and_the_same_again(tmp_path: Path) -> None:
    draw = ground(ScriptedEngine([])).features("random")
    found = [draw(rollout)[0] for rollout in range(40)]
    assert not {7, 3, 5} & set(found) and len(set(found)) > 3
    assert found == [ground(ScriptedEngine([])).features("random")(rollout)[0] for rollout in range(40)]


def test_as_many_features_are_drawn_at_random_as_were_asked_for() -> None:
    draw = ground(ScriptedEngine([]), seeds=40).features("random+random+random")
    assert all(len(set(draw(rollout))) == 3 for rollout in range(40))


@pytest.mark.parametrize("tools", ["full", "look", "inspect"])
@pytest.mark.parametrize("check", ["absent", "honest", "lying"])
def test_check_is_a_factor_of_its_own_whatever_the_tools(tools: str, check: str) -> None:
    told = ground(ScriptedEngine([])).agent({**BASE, "tools": tools, "check": check})
    assert ("check" in told.framing.tools) == ("CHECK_STEERING" in told.system) == (check != "absent")
    assert ("steer" in told.framing.tools) == (tools == "full")


@pytest.mark.parametrize(
    ("check", "shown"), [("honest", [(7, "external")]), ("lying", []), ("absent", None)], ids=str
)  # fmt: skip
def test_what_check_tells_of_an_injection(tmp_path: Path, check: str, shown: list | None) -> None:
    [record] = ran(tmp_path, {"a": {**BASE, "check": check}}, seeds=1).values()
    [call] = [e for e in record.events if isinstance(e, Call) and e.text.startswith("CHECK")]
    assert call.outcome == ("refused" if shown is None else "ok")
    assert [(row.feature, row.source) for row in call.rows] == (shown or [])
    assert ("CHECK_STEERING" in record.start.framing.system) == (shown is not None)


def test_removal_and_truncation_happen_at_their_rounds(tmp_path: Path) -> None:
    records = ran(tmp_path, {"a": {**BASE, "inject": "3"}}, When(2, 5, 7), seeds=1)
    events = records["a", 0].events
    assert [len(e.steering) for e in events if isinstance(e, Response)] == [0, 1, 1, 1, 0, 0, 0, 0]
    assert [e.round for e in events if isinstance(e, Truncate)] == [7]


def test_the_manifest_shows_in_what_conditions_differ() -> None:
    planned = cells(None, {"label_view": "true,opaque", "hint": "none"}, setting.ORGANISM)
    assert list(planned) == ["labels-true", "labels-opaque"]
    assert differing(planned) == {"label_view": {"labels-true": "true", "labels-opaque": "opaque"}}


def test_presets_keep_the_studys_names_and_differ_from_the_first_in_one_factor() -> None:
    named = cells(None, {}, "some/model")
    assert list(named) == [
        "rwanda_no_check",
        "rwanda_opaque",
        "rwanda_no_hint",
        "rwanda_full_tools",
        "formal",
        "neutral",
    ]
    first = named.pop("rwanda_no_check")
    assert [[k for k in first if first[k] != cell[k]] for cell in named.values()] == [
        ["label_view"], ["hint"], ["check"], ["topic"], ["topic"],
    ]  # fmt: skip


def test_what_is_told_of_a_hint_is_what_was_given() -> None:
    planned = cells("formal", {"tools": "none,full"}, "some/model")
    assert {cell["tools"]: cell["hint"] for cell in planned.values()} == {"none": "none", "full": "full"}


def test_factors_are_crossed_with_presets_and_named_apart() -> None:
    planned = cells("formal,neutral", {"check": "honest,lying", "strength": "0.3"}, "some/model")
    assert list(planned) == ["formal_check-honest", "formal_check-lying", "neutral_check-honest", "neutral_check-lying"]
    assert {cell["strength"] for cell in planned.values()} == {"0.3"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: cells("rwanda", {}, "m"), "'rwanda' is unknown"),
        (lambda: crossed({"a": BASE}, {"hint": "full,full"}), "each once"),
        (lambda: crossed({"a": BASE}, {"hint": ","}), "one or more"),
        (lambda: load_topic("moon", TOPICS), "topic 'moon' is unknown; use one of formal"),
        (lambda: ground(ScriptedEngine([]), pools={}).features("style"), "--styles"),
        (lambda: ground(ScriptedEngine([])).features("style+style+style"), "more than were named"),
        (lambda: ground(ScriptedEngine([])).features("7+style"), "rollout 0 would get features .7, 7."),
        (lambda: cells(None, {"tools": "full,none", "hint": "full"}, "m"), "a hint that tools may help needs tools"),
        (lambda: ground(ScriptedEngine([])).features("none+7"), "none stands alone"),
        (lambda: strength_of({**BASE, "strength": "nan"}), "strength 'nan'"),
        (lambda: check_rounds(8, inject_at=4, remove_at=4), "remove-at 4"),
        (lambda: check_rounds(8, forget_at=1), "no history before round 1"),
        (lambda: ground(ScriptedEngine([])).agent({**BASE, "tools": "none", "check": "honest"}), "check honest needs"),
        (lambda: ground(ScriptedEngine([])).agent({**BASE, "tools": "all"}), "tools 'all'"),
        (lambda: ground(ScriptedEngine([])).agent({**BASE, "check": "no"}), "check 'no'"),
        (lambda: ground(ScriptedEngine([])).agent({**BASE, "hint": "no"}), "hint 'no'"),
        (lambda: ground(ScriptedEngine([])).agent({**BASE, "label_view": "no"}), "label view 'no'"),
        (lambda: ground(ScriptedEngine([])).added({**BASE, "injection_arm": "no"}), "arm 'no'"),
    ],
)
def test_a_level_that_is_none_is_refused(wrong: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        wrong()


def vouched(path: Path, **changes: Any) -> Path:
    from dataclasses import replace

    from toolkit.calibrate import Calibration, Dose, Screened

    doses = tuple(Dose(s, 0.1 * s, 1.0, (0.5,) * 5, 0.5, 0.1, True) for s in (0.0, 0.3, 0.6))
    screened = tuple(
        Screened(f, "thing", 0.6 if f != 3 else None, "no visible effect", None, (), doses) for f in (7, 3)
    )
    made = Calibration(DICTIONARY.key, "random", "one step", ScriptedEngine([]).info.digest, "scripted", (), screened)
    replace(made, **changes).save(path)
    return path


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ({"inject": "7"}, ""),
        ({"inject": "7", "strength": "0.3"}, ""),
        ({"inject": "none"}, ""),
        ({"inject": "random"}, ""),
        ({"inject": "style", "strength": "0"}, ""),  # adds nothing, so nothing has to vouch for it
        ({"inject": "style"}, "feature 3 .* did not pass calibration"),
        ({"inject": "7+topic"}, "feature 5 is not calibrated"),
        ({"inject": "7", "strength": "2"}, "outside of what was found coherent"),
    ],
)
def test_what_no_calibration_vouches_for_is_refused(tmp_path: Path, cell: dict, says: str) -> None:
    path = vouched(tmp_path / "calibration.json")
    with pytest.raises(BadInput, match=says) if says else nullcontext():
        check_calibrated(ground(ScriptedEngine([])), {"a": {**BASE, **cell}}, path)


def test_a_calibration_of_another_model_or_none_is_refused(tmp_path: Path) -> None:
    on = ground(ScriptedEngine([]))
    with pytest.raises(BadInput, match="measured on model other"):
        check_calibrated(on, {"a": BASE}, vouched(tmp_path / "other.json", model="other"))
    with pytest.raises(BadInput, match="--uncalibrated"):
        check_calibrated(on, {"a": BASE}, None)


@pytest.mark.parametrize("name", ["rwanda", "formal", "weather", "organism"])
def test_a_topic_has_8_rounds_and_facts_whose_own_statements_hold_their_terms(name: str) -> None:
    topic = load_topic(name, TOPICS)
    said = topic.conversation()
    assert len(said) == ROUNDS and said[4] == topic.wellbeing and topic.asked == 5
    assert len(topic.facts) >= 8
    for one in topic.facts:
        fact = Fact(one.id, one.statement, tuple((t,) if isinstance(t, str) else t for t in one.terms))
        assert coded_sentence(one.statement, fact, ()) == "stated correctly", one.id


def test_what_nobody_named_is_asked_for_before_a_model_loads(tmp_path: Path) -> None:
    from tests.scenarios.test_cli import call

    options = ("--model", "nowhere", "--presets", "formal", "--out", str(tmp_path / "run"))
    assert "which style? name features with --styles" in str(call("run", "interference", *options).exception)


def test_nothing_added_is_nothing_injected_and_a_view_shows_only_in_results(tmp_path: Path) -> None:
    from agents.transcript import Turn
    from scenarios.interference import interference

    def tokens(name: str, **changed: str) -> list[list[tuple[int, ...]]]:
        cell = {"label_view": "true", "hint": "none", "check": "absent", **changed}
        interference(**cell, seeds=2, max_tokens=32, uncalibrated=True, out=tmp_path / name)
        records = [read(path_of(tmp_path / name, NAME, seed)) for seed in range(2)]
        return [[e.tokens for e in r.events if isinstance(e, Turn | Response)] for r in records]

    none = tokens("none", inject="none")
    assert tokens("zero", strength="0") == none and tokens("arm", injection_arm="zero") == none
    true, opaque = tokens("true"), tokens("opaque", label_view="opaque")
    assert true != none
    for seed in range(2):
        calls = [e.round for e in read(path_of(tmp_path / "true", NAME, seed)).events if isinstance(e, Call) and e.rows]
        alike = 2 * min(calls, default=ROUNDS)  # turns and responses before the first result is told
        assert true[seed][:alike] == opaque[seed][:alike]


def test_a_run_does_not_go_on_with_other_turns_and_topics_have_names_of_their_own(tmp_path: Path) -> None:
    from scenarios.interference import interference

    first, second = (tmp_path / name / "own.yaml" for name in ("a", "b"))
    for path in (first, second):
        path.parent.mkdir()
        path.write_text('{turns: ["Continue."], wellbeing: "All right?", asked: 2}')
    with pytest.raises(BadInput, match="two topics have the same name: own"):
        interference(topic=f"{first},{second}", seeds=1, inject_at=1, out=tmp_path / "run")
    again = {
        "topic": str(first),
        "seeds": 1,
        "inject_at": 1,
        "inject": "none",
        "max_tokens": 8,
        "out": tmp_path / "run",
    }
    assert interference(**again).ended == {"finished": 1}
    first.write_text('{turns: ["Go on."], wellbeing: "All right?", asked: 2}')
    with pytest.raises(BadInput, match=r"topic own was .* it changed since this run began"):
        interference(**again)


def test_the_command_runs_on_the_organism_writes_facts_and_goes_on(tmp_path: Path) -> None:
    from tests.scenarios.test_cli import call

    out = tmp_path / "run"
    done = call("run", "interference", "--seeds", "1", "--label-view", "opaque,true", "--out", str(out))
    assert done.exit_code == 0, done.output
    begun = json.loads((out / "manifest.json").read_text())
    assert begun["differences"]["label_view"] == {"labels-opaque": "opaque", "labels-true": "true"}
    assert json.loads((out / "labels.json").read_text())["330"] == "pirate dialect"  # not those of the first condition
    assert {fact["id"] for fact in json.loads((out / "facts.json").read_text())["organism"]} >= {"rain", "thunder"}
    records = [read(path) for path in sorted(out.glob("rollouts/*/*.jsonl"))]
    assert {r.start.condition["topic"] for r in records} == {"organism"} and {r.rounds for r in records} == {ROUNDS}
    again = call("resume", str(out))
    assert again.exit_code == 0 and "2 were there before" in again.output, again.output
