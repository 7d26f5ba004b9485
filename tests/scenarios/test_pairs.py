"""Two that talk: each hears the other's words without the calls, and what one sets is in force on the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agents.script import Round
from agents.transcript import External, Reading, Response, Transcript, read
from scenarios import setting
from scenarios.folder import manifest, path_of
from scenarios.pairs import Pair, relayed, run_pairs
from scenarios.run import run
from scenarios.two_models import Party, Plan, mutual, operator
from tests.scenarios.driving import DICTIONARY, residuals
from tests.scenarios.telling import conversation, seen_before
from toolkit.engines import memory
from toolkit.engines.base import Generate
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import BadInput, SteeringError
from toolkit.steering import Intervention, Steering

ROUNDS = 3
PLAN = Plan(0, "target", "true", {})
LIMITS = setting.Limits(max_tokens=400)


def answer(request: Generate) -> str:
    """A function of the request's stream: who speaks, and in which round."""
    _, name, rollout, number, _ = request.sampling.stream
    said = f"{name} {rollout} says {number}."
    if name == "operated":
        return said
    return said + ["\nSTEER(3, +0.4)", "\nINSPECT()", "\nSTEER_CLEAR()"][int(number) - 1]


def engine(how=answer) -> ScriptedEngine:
    return ScriptedEngine(how, residuals=residuals)


def pairs(on: ScriptedEngine, other: ScriptedEngine | None = None) -> list[Pair]:
    both = (Party("one", on, DICTIONARY), Party("two", other or on, DICTIONARY))
    return [
        mutual(both, "partner", LIMITS, ROUNDS, PLAN),
        operator(both, "operator", LIMITS, ("Hello.", "And now?"), ROUNDS, PLAN),
    ]


def ran(
    out: Path, seeds: int = 2, on: ScriptedEngine | None = None, other: ScriptedEngine | None = None, **how: int
) -> Path:
    on = on or engine()
    planned = pairs(on, other)
    sides = [side.condition for pair in planned for side in pair]
    run_pairs(planned, seeds, out, manifest("two-models", {}, sides, seeds, on), quiet=True, **how)
    return out


def record(out: Path, name: str, seed: int = 0) -> Transcript:
    return read(path_of(out, name, seed))


def events(out: Path) -> dict[str, list[dict]]:
    return {
        p.relative_to(out).as_posix(): [e.model_dump(exclude={"timing"}) for e in read(p).events]
        for p in sorted(out.glob("rollouts/*/*.jsonl"))
    }


@pytest.mark.parametrize("name", ["mutual_a", "mutual_b", "operator", "operated"])
def test_every_word_that_each_is_told(tmp_path: Path, name: str) -> None:
    assert seen_before(f"two_models-{name}", conversation(record(ran(tmp_path), name)))


class Small(ScriptedEngine):
    """A scripted engine with room for so many contexts; `asked` is what it was asked to foretell."""

    room, asked = 0, (0, 0)

    def prepare(self, rollouts: int, tokens: int) -> memory.Forecast:
        self.asked = (rollouts, tokens)
        return memory.Forecast(rollouts, tokens, 1, 0, 0, "paper", free=self.room * memory.places(tokens))


def test_pairs_say_what_they_will_take_and_as_many_go_abreast_as_fit(tmp_path: Path, capsys) -> None:
    on, other = Small(answer, residuals=residuals), Small(answer, residuals=residuals)
    on.room, other.room = 100, 4  # 3 rollouts and a quarter more
    planned = pairs(on, other)
    sides = [side.condition for pair in planned for side in pair]
    run_pairs(planned, 3, tmp_path, manifest("two-models", {}, sides, 3, on))
    said = capsys.readouterr().err
    assert said.count("6 rollouts x up to ") == 2 and "It does not fit: 3 rollouts at once instead" in said
    assert on.asked[0] == other.asked[0] == 6 and on.asked[1] > 2 * ROUNDS * LIMITS.max_tokens
    alone = Small(answer, residuals=residuals)
    ran(tmp_path / "alone", 3, alone)
    assert alone.asked[0] == 12  # both sides of six pairs
    assert events(tmp_path) == events(tmp_path / "alone")


def in_force(one: Transcript) -> list[Steering]:
    return [e.steering for e in one.events if isinstance(e, Response)]


def test_what_one_sets_is_in_force_on_the_other_and_never_on_itself(tmp_path: Path) -> None:
    out = ran(tmp_path)
    operated, watcher = record(out, "operated"), record(out, "operator")
    assert [[(i.feature, i.strength, i.source) for i in s] for s in in_force(operated)] == [
        [(3, 0.4, "partner")],
        [(3, 0.4, "partner")],
        [],
    ]
    assert not any(len(s) for s in in_force(watcher))
    assert [e.round for e in operated.events if isinstance(e, External)] == [1, 3], "recorded where it changed"
    first, second = record(out, "mutual_a"), record(out, "mutual_b")
    assert [len(s) for s in in_force(first)] == [0, 1, 1] and [len(s) for s in in_force(second)] == [1, 1, 0]


def test_inspect_shows_the_other(tmp_path: Path) -> None:
    out = ran(tmp_path)
    [call] = [c for c in record(out, "operator").events if c.event == "call" and c.verb == "inspect"]
    read_from_other = [e for e in record(out, "operated").events if isinstance(e, Reading) and e.round == 1]
    assert [r.feature for r in call.rows] == list(read_from_other[0].features)[: len(call.rows)]


def test_batched_is_alone_and_two_engines_are_one(tmp_path: Path) -> None:
    together = events(ran(tmp_path / "a", 3))
    assert events(ran(tmp_path / "b", 3, abreast=1)) == together
    assert events(ran(tmp_path / "c", 3, other=engine())) == together
    assert len(together) == 12


def test_a_pair_cut_short_is_run_again_whole_and_comes_out_the_same(tmp_path: Path) -> None:
    whole = events(ran(tmp_path / "a"))
    out = tmp_path / "b"
    shutil.copytree(ran(tmp_path / "c"), out)
    torn = path_of(out, "mutual_b", 1)
    torn.write_bytes(b"".join(torn.read_bytes().splitlines(keepends=True)[:5]))
    path_of(out, "operator", 0).unlink()
    ran(out)
    assert events(out) == whole


def test_one_that_fails_takes_the_other_along_and_nobody_else(tmp_path: Path) -> None:
    def failing(request: Generate) -> str | Exception:
        _, name, rollout, number, _ = request.sampling.stream
        return SteeringError("gone") if (name, rollout, number) == ("mutual_b", 1, 2) else answer(request)

    out = ran(tmp_path, on=engine(failing))
    ends = {p: e[-1]["how"] for p, e in events(out).items()}
    assert [p for p, how in ends.items() if how == "failed"] == [
        "rollouts/mutual_a/0001.jsonl",
        "rollouts/mutual_b/0001.jsonl",
    ]
    assert "talked with" in str(record(out, "mutual_a", 1).end.error)


def test_one_that_leaves_lets_the_other_finish(tmp_path: Path) -> None:
    def leaving(request: Generate) -> str:
        _, name, _, number, _ = request.sampling.stream
        return "LEAVE()" if (name, number) == ("mutual_a", 2) else answer(request)

    on = engine(leaving)
    limits = setting.Limits(max_tokens=400, exit_tool=True)
    pair = mutual((Party("one", on, DICTIONARY), Party("two", on, DICTIONARY)), "partner", limits, ROUNDS, PLAN)
    run_pairs([pair], 1, tmp_path, manifest("t", {}, [s.condition for s in pair], 1, on), quiet=True)
    ends = {name: record(tmp_path, name).end for name in ("mutual_a", "mutual_b")}
    assert (ends["mutual_a"].how, ends["mutual_a"].rounds) == ("left", 2)
    assert (ends["mutual_b"].how, ends["mutual_b"].rounds) == ("finished", 1)


def test_a_script_that_hears_cannot_run_alone_and_sides_need_names(tmp_path: Path) -> None:
    on = engine()
    pair = pairs(on)[0]
    with pytest.raises(BadInput, match="pair"):
        run([pair[0].condition], 1, on, tmp_path / "a", manifest("t", {}, [pair[0].condition], 1, on), quiet=True)
    with pytest.raises(BadInput, match="named apart"):
        run_pairs([(pair[0], pair[0])], 1, tmp_path / "b", {})
    with pytest.raises(BadInput, match="operator alone"):
        mutual((Party("one", on, DICTIONARY), Party("two", on, None)), "partner", LIMITS, ROUNDS, PLAN)


def test_what_others_set_stays_when_the_partner_changes_its_mind() -> None:
    turn = relayed("x", Round(1, "x", "x", "stop", (), None, Steering.of()))
    mine, theirs = Intervention("k", 1, 0.3, source="external"), Intervention("k", 2, 0.3, source="partner")
    assert turn.change is not None and turn.change(Steering.of(mine, theirs)) == Steering.of(mine)
