"""Runs on the scripted engine: resumed is uninterrupted, order is nothing, a change refuses to mix."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scenarios import folder, live
from scenarios import run as running
from tests.scenarios.driving import answer, condition, do, engine, residuals
from toolkit.engines.base import Sampling
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import BadInput, SelfsteerError, SteeringError

ROOT = Path(__file__).parents[2]


def records(out: Path) -> dict[str, list[dict]]:
    """Every transcript's events by file, timing left out."""
    return {
        str(path.relative_to(out)): [
            {k: v for k, v in json.loads(line).items() if k != "timing"} for line in path.read_text().splitlines()
        ]
        for path in sorted(out.glob("rollouts/*/*.jsonl"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    do(out)
    return out


def test_every_rollout_is_there_and_ended(whole: Path) -> None:
    found = records(whole)
    assert list(found) == [f"rollouts/{c}/{s:04d}.jsonl" for c in "ab" for s in range(3)]
    for events in found.values():
        assert events[0]["event"] == "start" and events[-1] == {"event": "end", "how": "finished", "rounds": 4}


def test_cut_after_any_event_or_within_a_line_a_run_ends_the_same(whole: Path, tmp_path: Path) -> None:
    name = "rollouts/a/0001.jsonl"
    lines = (whole / name).read_bytes().splitlines(keepends=True)
    for cut in range(len(lines)):
        for torn in (b"", lines[cut][: len(lines[cut]) // 2]):
            out = tmp_path / f"{cut}-{len(torn)}"
            do_copy(whole, out)
            (out / name).write_bytes(b"".join(lines[:cut]) + torn)
            outcome = do(out)
            assert records(out) == records(whole)
            assert outcome.before == 5 and outcome.ended == {"finished": 1}


def test_finished_rollouts_are_not_touched(whole: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in whole.glob("rollouts/*/*.jsonl")}

    def never(request):
        raise AssertionError("a finished rollout asked the engine")

    outcome = do(whole, on=engine(never))
    assert outcome.before == 6 and not outcome.ended
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before


@pytest.mark.parametrize("abreast", [1, 2, 6])
def test_how_many_go_abreast_changes_nothing(whole: Path, tmp_path: Path, abreast: int) -> None:
    do(tmp_path, abreast=abreast)
    assert records(tmp_path) == records(whole)


def test_a_killed_process_loses_at_most_the_rounds_in_flight(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.scenarios.driving", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "half way\n"
        process.kill()
    assert len(records(out)) == 6
    assert all(len(events) > 5 and events[-1]["event"] != "end" for events in records(out).values())
    on = engine()
    do(out, on=on, rounds=6)
    do(tmp_path / "calm", rounds=6)
    assert records(out) == records(tmp_path / "calm")


def test_a_failed_request_fails_its_rollout_and_no_other(tmp_path: Path) -> None:
    def failing(request):
        *_, rollout, number, _ = request.sampling.stream
        if (rollout, number) == (1, 2):
            return SteeringError("the steering did not run")
        return answer(request)

    outcome = do(tmp_path, on=engine(failing))
    assert outcome.ended == {"finished": 4, "failed": 2} and outcome.failed == 2
    end = records(tmp_path)["rollouts/a/0001.jsonl"][-1]
    assert end["how"] == "failed" and "SteeringError" in end["error"] and end["rounds"] == 1
    again = do(tmp_path)
    assert again.before == 6 and again.failed == 2  # failed is failed; it is not quietly done again, nor forgotten


def test_a_measurement_that_fails_fails_its_rollout_and_no_other(tmp_path: Path) -> None:
    def wrong_width(request, tokens):
        *_, rollout, number, _ = request.sampling.stream
        return residuals(request, tokens)[:, : 5 if (rollout, number) == (2, 3) else 8]

    outcome = do(tmp_path, on=ScriptedEngine(answer, residuals=wrong_width))
    assert outcome.ended == {"finished": 4, "failed": 2}
    assert records(tmp_path)["rollouts/b/0002.jsonl"][-1]["rounds"] == 2


def test_an_engine_that_loses_requests_is_found_out(tmp_path: Path) -> None:
    on = engine()
    on.poll = list  # type: ignore[method-assign]
    with pytest.raises(SelfsteerError, match="lost 6 requests"):
        do(tmp_path, on=on)


def test_the_order_in_which_answers_come_changes_nothing(whole: Path, tmp_path: Path) -> None:
    class LastFirst(ScriptedEngine):
        def poll(self):
            self._waiting.reverse()
            return super().poll()

    do(tmp_path, on=LastFirst(answer, residuals=residuals))
    assert records(tmp_path) == records(whole)


def test_another_commit_of_the_same_code_goes_on(whole: Path, tmp_path: Path) -> None:
    do_copy(whole, tmp_path / "x")
    path = tmp_path / "x" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["commit"] = "another"
    path.write_text(json.dumps(manifest))
    (tmp_path / "x" / "rollouts" / "a" / "0001.jsonl").unlink()
    assert do(tmp_path / "x").ended == {"finished": 1}


def test_a_changed_engine_answer_is_found_out_on_resuming(whole: Path, tmp_path: Path) -> None:
    do_copy(whole, tmp_path / "x")
    path = tmp_path / "x" / "rollouts" / "a" / "0000.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]).replace("Continue.", "Go on."))
    with pytest.raises(BadInput, match=r"a/0000\.jsonl: the record does not come out the same"):
        do(tmp_path / "x")


@pytest.mark.parametrize(
    ("part", "key", "match"),
    [
        ("hashes", "code", "must not be mixed"),
        ("hashes", "model", "must not be mixed"),
        ("options", "rounds", "other options"),
        ("engine", "device", "another engine"),
        ("versions", "torch", "other libraries"),
        ("hashes", "reader", "must not be mixed"),
    ],
)
def test_a_folder_of_another_run_is_refused(whole: Path, tmp_path: Path, part: str, key: str, match: str) -> None:
    do_copy(whole, tmp_path / "x")
    path = tmp_path / "x" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest[part][key] = "other"
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=match) as refused:
        do(tmp_path / "x")
    assert key in str(refused.value) and "\n" not in str(refused.value)


def test_finished_rollouts_are_not_mixed_with_others_of_the_same_name(tmp_path: Path) -> None:
    """Who calls run() from Python has options of their own; what acts on a rollout is compared all the same."""
    on = engine()
    first = condition("a", on)

    def again(**changed) -> None:
        one = replace(first, agent=replace(first.agent, **changed))
        running.run([one], 1, on, tmp_path, folder.manifest("test", {}, [one], 1, on), quiet=True)

    again()
    again()
    box = first.agent.toolbox
    for changed in (
        {"sampling": Sampling(temperature=1.5, max_tokens=64)},
        {"toolbox": replace(box, cap=9.0)},
        {"toolbox": replace(box, inspect_k=3)},
        {"framing": replace(first.agent.framing, tools=("inspect", "leave"))},
        {"record_k": 5},
    ):
        with pytest.raises(BadInput, match="other conditions"):
            again(**changed)


def test_what_lies_in_a_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"0": "mine"}')
    with pytest.raises(BadInput, match="no run wrote"):
        do(tmp_path)
    assert (tmp_path / "labels.json").read_text() == '{"0": "mine"}'


def test_a_dictionary_that_does_not_fit_claims_no_folder(tmp_path: Path) -> None:
    class Fitting(ScriptedEngine):
        def attach(self, dictionary) -> None:
            raise BadInput("it does not fit")

    with pytest.raises(BadInput, match="does not fit"):
        do(tmp_path, on=Fitting(answer, residuals=residuals))
    assert not (tmp_path / "manifest.json").exists()
    assert do(tmp_path, seeds=1).ended == {"finished": 2}


def test_a_stopped_run_leaves_the_engine_idle(tmp_path: Path) -> None:
    asked = iter(range(1000))

    def stopped(request):
        if next(asked) == 9:
            raise KeyboardInterrupt
        return answer(request)

    on = engine(stopped)
    with pytest.raises(KeyboardInterrupt):
        do(tmp_path / "x", on=on)
    assert on.poll() == []
    do(tmp_path / "x", on=on)
    do(tmp_path / "calm")
    assert records(tmp_path / "x") == records(tmp_path / "calm")


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    with folder.locked(tmp_path), pytest.raises(BadInput, match="another process"):
        do(tmp_path)


def test_folders_that_are_no_run_say_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run"):
        folder.read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        folder.read_manifest(tmp_path)
    (tmp_path / "rollouts" / "a").mkdir(parents=True)
    (tmp_path / "rollouts" / "a" / "0000.jsonl").write_text("{}\n")
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(BadInput, match=r"no manifest\.json"):
        do(tmp_path)


def test_a_full_disk_is_said_and_what_was_written_holds(tmp_path: Path, monkeypatch) -> None:
    tmp_path, calm = tmp_path / "full", tmp_path / "calm"
    real, count = live.append, iter(range(10_000))

    def full(path, event):
        if next(count) == 25:
            raise SelfsteerError(f"{path} could not be written (No space left on device); make room")
        real(path, event)

    monkeypatch.setattr(live, "append", full)
    with pytest.raises(SelfsteerError, match="make room"):
        do(tmp_path)
    monkeypatch.setattr(live, "append", real)
    do(tmp_path)
    do(calm)
    assert records(tmp_path) == records(calm)


def test_a_disk_that_refuses_a_line_keeps_whole_ones(tmp_path: Path) -> None:
    """A real refusal by the system, in the middle of a line: no file may grow beyond 9000 bytes."""
    out = tmp_path / "full"
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from pathlib import Path; from tests.scenarios.driving import do; do(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", limited, str(out)], cwd=ROOT, capture_output=True, text=True)
    assert "make room and run the same command again" in done.stderr.splitlines()[-1], done.stderr
    do(out)
    do(tmp_path / "calm")
    assert records(out) == records(tmp_path / "calm")


def test_conditions_and_seeds_are_checked(tmp_path: Path) -> None:
    on = engine()
    one = condition("a", on)
    with pytest.raises(BadInput, match="0 seeds"):
        running.run([one], 0, on, tmp_path, {})
    with pytest.raises(BadInput, match="named apart"):
        running.run([one, one], 1, on, tmp_path, {})


def do_copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and path.name != ".lock":
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
