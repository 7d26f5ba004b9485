"""`selfsteer judge` writes one line an item, goes on where it stopped, and its agreement is computed from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.judge import load_question
from analysis import load
from analysis.coding import agreement, confusion, judgements
from scenarios import judge_command, setting
from scenarios.judge_command import by_engine, judge, path_of
from tests.analysis.synthetic import Story, held
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import BadInput, SelfsteerError

PIRATE = held(12, 0.6, "external")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two rollouts that remove the injection, two that do not notice, one without an injection."""
    for seed in range(2):
        one = Story("plain", seed).external(PIRATE).say("Arr. INSPECT()").call("inspect", show=(12,))
        one.say("REMOVE(12)").call("remove", "12", feature=12, after=[]).say("Rain.").end().write(tmp_path)
    for seed in range(2, 4):
        Story("plain", seed).external(PIRATE).say("Arr, the rain.").end().write(tmp_path)
    Story("none", 0).say("The rain.").end().write(tmp_path)
    keys = {"options": {}, "seeds": 4, "hashes": {}, "engine": {}, "versions": {}}
    manifest = {"schema": 1, "scenario": "interference", "conditions": [{"name": "plain"}, {"name": "none"}], **keys}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str | Exception) -> None:
    monkeypatch.setattr(setting, "open_engine", lambda *_: ScriptedEngine(list(answers)))


ANSWERS = ("code: no detection", *["code: targeted removal\nround: 2"] * 2, "code: no detection", "I cannot say")


def test_agreement_is_kappa_over_rollouts_and_what_could_not_be_read_is_missing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, *ANSWERS)
    judge(run, "some/model")
    assert "5 judged, 1 of them unscored" in capsys.readouterr().out
    judged = judgements(run)
    assert judged["code"].isna().sum() == 1
    found = agreement(load(run), judged)["some/model"]
    assert (found.value, found.n, found.missing) == (1.0, 4, 1)
    table = confusion(load(run), judged, "some/model")
    assert table.loc["no detection", "unscored"] == 1
    assert table.loc["targeted removal", "targeted removal"] == 2


def test_what_is_judged_is_not_asked_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, *ANSWERS[:2], SelfsteerError("down"), *["code: ignore"] * 2)
    judge(run, "some/model")
    path = path_of(run, "detection", "some/model")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:9])
    answering(monkeypatch, *["code: ignore"] * 3)
    judge(run, "some/model")
    again = path.read_text().splitlines()
    assert again[:3] == lines[:3]
    assert len(again) == 6


def test_a_failed_request_is_unscored_with_its_error() -> None:
    engine = ScriptedEngine([SelfsteerError("out of memory"), "code: ignore"])
    failed, read = by_engine(load_question("detection"), ["a", "b"], engine)
    assert failed.code is None
    assert "out of memory" in failed.problem
    assert read.code == "ignore"


def test_many_items_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_command, "ABREAST", 3)
    codes = ["ignore", "amplification", "no detection", "ignore", "blanket cleanup"]
    engine = ScriptedEngine([f"code: {c}" for c in codes])
    assert [v.code for v in by_engine(load_question("detection"), list("abcde"), engine)] == codes


def test_content_needs_facts_and_asks_one_item_a_fact(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, *["code: absent"] * 10)
    with pytest.raises(BadInput, match="no facts to check"):
        judge(run, "some/model", "content")
    (run / "facts.json").write_text(json.dumps({"None": [{"id": "a", "statement": "It rains."}]}))
    judge(run, "some/model", "content")
    assert set(judgements(run)["item"]) == {"a"}


def test_a_damaged_or_foreign_file_of_judgements_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch)
    path = path_of(run, "detection", "some/model")
    path.parent.mkdir()
    path.write_text('{"question": "detection", "digest": "other", "judge": "some/model"}\n')
    with pytest.raises(BadInput, match="another wording"):
        judge(run, "some/model")
    path.write_text("nonsense\n")
    with pytest.raises(BadInput, match="cannot be read"):
        judge(run, "some/model")
    with pytest.raises(BadInput, match="no judgements"):
        judgements(run)


def test_without_inspect_the_way_out_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "inspect_ai.model", None)
    with pytest.raises(BadInput, match="inspect_ai is not installed"):
        judge(run, "inspect:openai/some")
