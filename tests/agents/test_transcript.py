"""The record on disk: what is written is read back, whole or not at all, and a finished one is never touched."""

from __future__ import annotations

import contextlib
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import events as record
from agents.events import extended
from agents.rollout import rollout
from agents.script import Turn
from agents.transcript import append, difference, keep, read, to_line, with_timing
from tests.agents.plain import agent, drive, engine, script
from toolkit.context import Context
from toolkit.errors import BadInput, SelfsteerError
from toolkit.steering import MODES, NO_STEERING, SOURCES, Intervention, Steering

SAYS = ["STEER(3, +0.3)", 'SEARCH_FEATURES("joy")\nFLY(1)', "STEER_CLEAR()\nCHECK_STEERING()"]


def events(scope: str = "onward") -> list[record.Event]:
    on = engine(SAYS)
    theirs = Intervention("key", 9, 0.6, source="external")
    turns = [Turn("Go."), Turn("On.", lambda s: s.with_(theirs), "smuggled"), Turn("Continue.")]
    return drive(on, rollout(agent(on, scope=scope, logprobs=True), script(turns)))


def write(path: Path, what: list[record.Event]) -> Path:
    for event in what:
        append(path, event)
    return path


@pytest.mark.parametrize("scope", ["onward", "whole"])
def test_what_is_written_is_read(tmp_path: Path, scope: str) -> None:
    made = events(scope)
    found = read(write(tmp_path / "0.jsonl", made))
    assert list(found.events) == made
    assert (found.torn, found.rounds, found.end) == (False, 3, made[-1])
    assert found.start == made[0]


@pytest.mark.parametrize("scope", ["onward", "whole"])
def test_the_context_comes_back_from_the_file(tmp_path: Path, scope: str) -> None:
    made = events(scope)
    found = read(write(tmp_path / "0.jsonl", made))
    for upto in (1, 2, 3, None):
        context = Context()
        for event in made:
            if upto is None or getattr(event, "round", 0) <= upto:
                context = extended(context, event)
        assert found.context(upto) == context
        assert found.context(upto).digest == context.digest
    assert {s.author for s in found.context().segments} == {"given", "generated"}


def test_lines_are_plain_json_with_steering_in_the_open(tmp_path: Path) -> None:
    path = write(tmp_path / "0.jsonl", events())
    lines = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    assert lines[0]["event"] == "start" and lines[0]["schema_version"] == 1
    [response] = [line for line in lines if line["event"] == "response" and line["round"] == 2]
    assert {(i["feature"], i["strength"], i["source"]) for i in response["steering"]} == {
        (3, 0.3, "self"),
        (9, 0.6, "external"),
    }
    assert lines[-1] == {"event": "end", "how": "finished", "rounds": 3}


def test_cut_anywhere_the_whole_lines_are_kept(tmp_path: Path) -> None:
    made = events()
    data = b"".join(to_line(e) for e in made)
    path = tmp_path / "0.jsonl"
    edges = [len(b"".join(to_line(e) for e in made[:n])) for n in range(len(made) + 1)]
    for cut in {*range(0, len(data), 97), *edges, *(e - 1 for e in edges[1:]), *(e + 1 for e in edges[:-1])}:
        path.write_bytes(data[:cut])
        found = read(path)
        whole = sum(
            edge <= cut or edge - 1 == cut for edge in edges[1:]
        )  # a line that lacks its newline alone is whole
        assert list(found.events) == made[:whole]
        assert found.torn == (cut not in edges and cut + 1 not in edges)
        assert (found.end is None) == (whole < len(made))


def test_a_cut_record_is_mended_before_it_grows(tmp_path: Path) -> None:
    made = events()
    path = tmp_path / "0.jsonl"
    for cut in (5, 1, 40):
        path.write_bytes(b"".join(to_line(e) for e in made)[:-cut])
        found = read(path)
        if found.end:
            continue
        with pytest.raises(BadInput, match="cut off"):
            append(path, made[-1])
        keep(found, len(found.events))
        append(path, made[-1])
        assert list(read(path).events) == made
    path.write_bytes(to_line(made[0]) + to_line(made[1])[:-1])  # whole but for its newline
    keep(read(path), 2)
    append(path, made[2])
    assert list(read(path).events) == made[:3]


def test_keeping_fewer_drops_the_rest(tmp_path: Path) -> None:
    made = events()[:-1]
    path = write(tmp_path / "0.jsonl", made)
    keep(read(path), 3)
    assert list(read(path).events) == made[:3]
    keep(read(path), 0)
    assert not path.exists()


def test_a_finished_record_is_never_touched(tmp_path: Path) -> None:
    made = events()
    path = write(tmp_path / "0.jsonl", made)
    before = path.read_bytes()
    with pytest.raises(BadInput, match="finished"):
        keep(read(path), 3)
    with pytest.raises(BadInput, match="never written over"):
        append(path, made[0])
    assert path.read_bytes() == before


def test_a_record_begins_with_its_start(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        append(tmp_path / "1.jsonl", events()[1])


def _without(line: bytes, key: str) -> bytes:
    data = json.loads(line)
    del data[key]
    return json.dumps(data).encode() + b"\n"


def _with(line: bytes, **change: Any) -> bytes:
    return json.dumps({**json.loads(line), **change}).encode() + b"\n"


def _held(**change: Any) -> dict[str, Any]:
    return {"dictionary": "key", "feature": 1, "strength": 0.5, **change}


def _reading(**change: Any) -> bytes:
    facts = {"event": "reading", "round": 1, "layer": 2, "aggregation": "mean", "tokens": 3, "steered": "x"}
    return json.dumps({**facts, **change}).encode() + b"\n"


DAMAGE = [
    (lambda ls: [ls[0], ls[1][:20] + b"\n", *ls[2:]], 2, "not JSON"),
    (lambda ls: [ls[0], b"\n", *ls[1:]], 2, "not JSON"),
    (lambda ls: [ls[0], b"\xff\xfe\n", *ls[1:]], 2, "not JSON"),
    (lambda ls: [ls[0], b"[" * 100_000 + b"\n", *ls[1:]], 2, "not JSON"),
    (lambda ls: [ls[0], b"3\n", *ls[1:]], 2, "not an event"),
    (lambda ls: [ls[0], b"{}\n", *ls[1:]], 2, "not an event"),
    (lambda ls: [ls[0], _with(ls[1], event="dream"), *ls[2:]], 2, "not an event"),
    (lambda ls: [ls[0], _with(ls[1], surplus=1), *ls[2:]], 2, "surplus"),
    (lambda ls: [ls[0], _without(ls[1], "tokens"), *ls[2:]], 2, "tokens"),
    (lambda ls: [ls[0], _with(ls[1], steering=[{"feature": 1}]), *ls[2:]], 2, "steering"),
    (lambda ls: [ls[0], _with(ls[1], steering=7), *ls[2:]], 2, "steering"),
    (lambda ls: [ls[0], ls[1].replace(b'"round":1', b'"round":NaN'), *ls[2:]], 2, "not JSON"),
    (lambda ls: [ls[0], ls[1].replace(b'"round":1', b'"round":1e999'), *ls[2:]], 2, "not JSON"),
    (lambda ls: [ls[0], _with(ls[1], steering=[_held(strength=10**400)]), *ls[2:]], 2, "int too large"),
    (lambda ls: [ls[0], _with(ls[1], steering=[_held(feature=1.5)]), *ls[2:]], 2, "feature 1.5"),
    (lambda ls: [ls[0], ls[1], _reading(features=[1, 2], values=[0.5]), *ls[2:]], 3, "2 features have 1 values"),
    (lambda ls: ls[1:], 1, "begins with its one start"),
    (lambda ls: [ls[0], *ls], 2, "begins with its one start"),
    (lambda ls: [*ls, ls[1]], None, "after the end"),
    (lambda ls: [_with(ls[0], schema_version=2), *ls[1:]], 1, "schema version 2 is not 1"),
    (lambda ls: [_without(ls[0], "seed"), *ls[1:]], 1, "seed"),
]


@pytest.mark.parametrize(("damage", "line", "said"), DAMAGE)
def test_any_other_damage_names_its_line(tmp_path: Path, damage: Any, line: int | None, said: str) -> None:
    lines = [to_line(e) for e in events()]
    path = tmp_path / "0.jsonl"
    path.write_bytes(b"".join(damage(lines)))
    with pytest.raises(BadInput) as raised:
        read(path)
    assert f"0.jsonl, line {line or len(lines) + 1}:" in str(raised.value)
    assert said in str(raised.value)


@given(st.binary(max_size=200), st.integers(0, 10**6))
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, odd: bytes, at: int) -> None:
    data = b"".join(to_line(e) for e in _SHORT)
    at %= len(data)
    path = tmp_path_factory.mktemp("odd") / "0.jsonl"
    path.write_bytes(data[:at] + odd + data[at:])
    with contextlib.suppress(BadInput):
        read(path)


_SHORT = [*events()[:1], record.Note(round=1, about="health", verdict="healthy"), record.End(how="finished", rounds=0)]


def test_nothing_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="could not be read"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    found = read(tmp_path / "empty.jsonl")
    assert (found.events, found.end) == ((), None)
    with pytest.raises(BadInput, match="no whole line"):
        _ = found.start


def test_a_full_disk_leaves_whole_lines_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system takes half of a line and then no more."""
    made = events()
    path = write(tmp_path / "0.jsonl", made[:3])
    before = path.read_bytes()

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 20

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, self.left = self.file.write(data[: self.left]), 0
            return taken

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    with monkeypatch.context() as patch:
        patch.setattr("agents.transcript.open", lambda *a, **k: Full(open(*a, **k)), raising=False)  # noqa: SIM115
        with pytest.raises(SelfsteerError, match=r"No space left on device.*make room"):
            append(path, made[3])
    assert path.read_bytes() == before
    append(path, made[3])
    assert list(read(path).events) == made[:4]


def test_a_folder_that_is_not_there_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(SelfsteerError, match="could not be written"):
        append(tmp_path / "none" / "0.jsonl", events()[0])


def test_numbers_that_are_none_are_refused() -> None:
    bad = {"layer": 1, "aggregation": "mean", "tokens": 1, "steered": "", "features": (1,), "values": (float("inf"),)}
    with pytest.raises(BadInput, match="finite"):
        to_line(record.Reading(round=1, **bad))


STEERINGS = st.lists(
    st.builds(
        Intervention,
        st.text("abc", max_size=3),
        st.integers(0, 99),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(MODES),
        st.sampled_from(SOURCES),
    ),
    max_size=4,
    unique_by=lambda one: (one.dictionary, one.feature),  # none is clamped or projected out twice
).map(lambda found: Steering.of(*found))
TEXTS = st.text(st.characters(codec=None))


@given(STEERINGS, TEXTS, st.lists(st.integers(0, 10**6), max_size=9))
def test_any_turn_survives_the_way_there_and_back(
    tmp_path_factory: pytest.TempPathFactory, steering: Steering, text: str, tokens: list[int]
) -> None:
    path = tmp_path_factory.mktemp("turns") / "0.jsonl"
    turn = record.Turn(round=1, text=text, tokens=tuple(tokens), steering=steering)
    write(path, [_SHORT[0], turn])
    assert read(path).events[1] == turn
    assert len(turn.text) == len(text)  # a lone surrogate becomes one character, so spans still fit


def test_differences_are_said_in_words() -> None:
    turn = record.Turn(round=1, text="a", tokens=(1,), steering=NO_STEERING)
    assert difference(turn, with_timing(turn, wall_s=3.0)) == ""
    assert difference(turn, turn.model_copy(update={"text": "b"})) == 'text is "a" in the record and "b" now'
    assert with_timing(with_timing(turn, reused=2), wall_s=0.5).timing == {"reused": 2, "wall_s": 0.5}


def test_each_field_is_documented() -> None:
    plain = {"event", "schema_version", "scenario", "seed", "name", "label_view", "feature", "label", "value", "source"}
    plain |= {"versions", "model", "dictionary", "framing", "scope", "before", "after", "why", "text", "steering"}
    plain |= {"layer", "aggregation", "logprobs", "outcome", "about", "verdict", "how", "error", "n_features", "digest"}
    kinds = (record.Start, record.Turn, record.Reading, record.Response, record.Call, record.End, record.Rebase)
    for kind in (*kinds, record.Truncate):
        for name, field in kind.model_fields.items():
            assert field.description or name in plain, f"{kind.__name__}.{name}"
