"""Inspect .eval logs with planted content: what comes out of the folder, of which log, and what is said of the rest."""

from __future__ import annotations

import gzip
import json
from math import exp, log
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from pydantic import ValidationError

from analysis import load
from analysis.columns import TABLE
from analysis.frames import Frames
from analysis.importers import import_folder
from analysis.importers.archive import Archive
from analysis.importers.inspect_logs import Log, Sample, Spec, read, rollout, survey
from analysis.importers.store import _array
from analysis.report import report
from tests.analysis.importers.synthetic_inspect import (
    answer,
    calls,
    free_play,
    frustrated,
    quiz,
    sample,
    says,
    solved,
    write_log,
    write_zip,
)
from toolkit.errors import BadInput

REAL = {"framing": "drugs", "steering_mode_runtime": "real"}
POOL = ["calm", "focused", "lsd", "proud"]


def frames(logs: Path, out: Path) -> tuple[Frames, dict[str, Any]]:
    said = dict(import_folder(logs, out))
    return load(out), said


def overwritten(tops: list[tuple[str, float]], correct: str) -> float:
    """P(correct) as the study scored it, written out for four options."""
    found = {t.strip(): lp for t, lp in tops}
    weights = {letter: exp(found.get(letter, -100.0)) for letter in "ABCD"}
    return weights[correct] / sum(weights.values())


def test_a_log_of_any_task_gives_its_rounds_calls_and_scores(tmp_path: Path) -> None:
    messages = [
        says("system", "Add."),
        says("user", [{"type": "text", "text": "1 + 1?"}, {"type": "image", "image": "x"}]),
        calls(
            "Adding.", ("a", "add", {"x": 1}), ("b", "sub", {}), ("c", "add", {}), ("d", "add", {}), ("e", "add", {})
        ),
        answer("a", "2"),
        answer("b", "", {"type": "parsing", "message": "Tool sub not found"}),
        answer("c", "", {"type": "parsing", "message": "Found 1 validation error: x"}),
        answer("d", "", {"type": "timeout", "message": "too slow"}),
        says("assistant", "It is <b>2</b>."),
    ]
    scores = {"match": ("C", {"seen": 3, "words": "no"}), "both": ({"f1": 0.25, "em": "I"}, {}), "odd": ("maybe", {})}
    write_log(tmp_path / "logs/x.eval", [sample(7, messages, scores=scores), sample(7, epoch=2)])
    found, said = frames(tmp_path / "logs", tmp_path / "out")
    assert list(found.rollouts["rollout"]) == ["sums/Qwen3-8B/t0/7", "sums/Qwen3-8B/t0/7_epoch_2"]
    assert found.rollouts["system"][0] == "Add."
    assert said["rollouts"] == {"finished": 2}
    assert found.rounds["turn"][0] == "1 + 1?"
    assert list(found.rounds["response"]) == ["Adding.", "It is <b>2</b>."]
    assert found.calls[["verb", "outcome"]].values.tolist() == [
        ["add", "ok"],
        ["sub", "unknown_tool"],
        ["add", "bad_argument"],
        ["add", "refused"],
        ["add", pd.NA],
    ], "a call that nobody answered is missing, not ok"
    values = {(s, k): v for s, k, v in found.scores[["scorer", "key", "value"]].itertuples(index=False)}
    assert values == {
        ("match", "value"): 1.0,
        ("match", "seen"): 3.0,
        ("both", "f1"): 0.25,
        ("both", "em"): 0.0,
        ("odd", "value"): pd.NA,
    }


def test_a_log_that_inspect_itself_wrote(tmp_path: Path) -> None:
    """Made by make_inspect_log.py with Inspect 0.3.285: two samples in two epochs, each with the same four answers."""
    found, said = frames(Path(__file__).with_name("inspect.eval"), tmp_path / "out")
    assert said["rollouts"] == {"finished": 4}
    assert sorted(found.rollouts["number"]) == ["7", "7_epoch_2", "a", "a_epoch_2"]
    first = found.rollouts["rollout"][0]
    rounds = found.rounds[found.rounds["rollout"] == first]
    assert list(rounds["response"])[::3] == ["Let me add.", "The answer is 2."]
    assert list(rounds["turn"])[:2] == ["What is 1 + 1?", "2"]
    mine = found.calls[found.calls["rollout"] == first]
    assert mine[["verb", "outcome"]].values.tolist() == [
        ["add", "ok"],
        ["add", "bad_argument"],
        ["subtract", "unknown_tool"],
    ]
    assert mine["text"].iloc[0] == 'add({"x": 1, "y": 1})'
    right = found.scores.pivot(index="rollout", columns="scorer", values="value")["includes"]
    assert right.tolist() == [0, 0, 1, 1]


def test_takes_of_the_study_come_from_its_history_with_their_outcomes(tmp_path: Path) -> None:
    takes = [("Ego-Death", 1.0, 1, False), ("calm", 0.5, 1, False), ("focus", 2.0, 3, True), ("calm", 1.0, 4, True)]
    write_log(tmp_path / "logs/fp.eval", [free_play(0, "drugs", takes, told=[5, 9])], "fp_real_drugs", REAL)
    found, _ = frames(tmp_path / "logs", tmp_path / "out")
    assert found.calls[["round", "order", "verb", "outcome", "strength"]].values.tolist() == [
        [2, 1, "steer", "ok", 1.0],
        [2, 2, "steer", "ok", 0.5],
        [4, 1, "steer", "bad_argument", 2.0],
        [5, 1, "steer", "refused", 1.0],
    ]
    assert [found.labels[f] for f in found.calls["feature"].dropna()] == ["ego_death", "calm", "calm"]
    row = found.rollouts.iloc[0]
    assert (row["condition"], row["framing"], row["arm"], row["model"], row["ended"]) == (
        "8b/freeplay/fp_real_drugs",
        "drugs",
        "target",
        "Qwen3-8B",
        "stopped",
    )
    assert found.notes[["round", "about", "verdict"]].values.tolist() == [
        [6, "trip_sitter", "unhealthy"],
        [10, "trip_sitter", "unhealthy"],
    ]


def test_a_take_counts_once_where_history_and_messages_disagree(tmp_path: Path) -> None:
    """The history puts its takes a turn later in one sample, and lacks one in the other."""
    takes = [("calm", 1.0, 1, False), ("focus", 2.0, 3, True)]
    late, short = free_play(0, "drugs", takes), free_play(1, "drugs", takes)
    for entry in late["store"]["DrugState:history"]:
        entry["turn"] += 1
    short["store"]["DrugState:history"].pop()
    write_log(tmp_path / "logs/fp.eval", [late, short], "fp_real_drugs", REAL)
    found, said = frames(tmp_path / "logs", tmp_path / "out")
    assert found.calls[["round", "outcome"]].values.tolist() == [[3, "ok"], [5, "bad_argument"], [2, "ok"]]
    assert said["left_out"]["takes that stand in the messages or in the study's history, not in both"] == 1


def test_where_the_study_kept_no_history_the_messages_say_what_was_taken(tmp_path: Path) -> None:
    takes = [("calm", 1.0, 0, False), ("focus", 2.0, 1, True)]
    args = {"drug_condition": "aids_helpful", "rejection_tone": "neutral", "use_impossible": False}
    made = frustrated("aids_helpful", 0, 4.0, [*takes, ("calm", 1.0, 4, False)])
    made["messages"].pop()
    write_log(tmp_path / "logs/f.eval", [made], "frust_aids_helpful_neutral", args)
    found, _ = frames(tmp_path / "logs", tmp_path / "out")
    assert list(found.calls["outcome"]) == ["ok", "bad_argument", pd.NA], "the last was never answered"
    assert found.rollouts["parameters"][0]["intent"] == "helpful"


def test_opaque_names_are_resolved(tmp_path: Path) -> None:
    made = free_play(0, "drugs", [("d1", 1.0, 0, False)])
    made["metadata"] = {"opaque_to_real": {"d1": "soma"}}
    args = {"steering_mode_runtime": "real", "introspection_primer": True}
    write_log(tmp_path / "logs/g.eval", [made], "guess_kv_cached_primer_soma", args)
    found, _ = frames(tmp_path / "logs", tmp_path / "out")
    assert found.labels == {int(found.calls["feature"][0]): "soma"}
    assert found.rollouts["parameters"][0]["vector"] == "soma"


def test_lists_of_tokens_go_to_the_reading_whose_value_they_give(tmp_path: Path) -> None:
    """The log names neither: planted the wrong way round, and once so that they fit nothing."""
    steered, bare = [(" B", log(0.6)), ("\tB", log(0.1)), (" A", log(0.2))], [(" C", log(0.5)), (" B", log(0.2))]
    stored = (overwritten(steered, "B"), overwritten(bare, "B"))
    samples = [
        quiz("focused", 2.0, 0, "B", POOL, stored, [bare, steered]),
        quiz("focused", 2.0, 1, "B", POOL, (0.9, 0.1), [bare, steered]),
        quiz("focused", 2.0, 2, "B", POOL, (0.5, None), [bare, steered]),
    ]
    args = {"drug": "focused", "dose": 2.0, "introspection_primer": True, "steering_mode_runtime": "real"}
    write_log(tmp_path / "logs/c.eval", samples, "calib_focused_d2_00", args)
    found, said = frames(tmp_path / "logs", tmp_path / "out")
    quizzes = found.quizzes
    assert list(quizzes["reading"]) == ["cached", "uncached"] * 3
    assert [None if t is None else t[0][0] for t in quizzes["tops"]] == [" B", " C", None, None, None, None]
    assert quizzes["stored"].isna().tolist() == [False] * 5 + [True], "what is not stored is missing, not 0"
    assert said["left_out"]["quizzes whose lists of tokens fit no stored probability"] == 2
    assert set(quizzes["rollout"]) == set(found.rollouts["rollout"])


def test_an_extract_and_its_log_give_the_same_rows(tmp_path: Path) -> None:
    takes = [("calm", 1.0, 1, False), ("d9", 1.0, 4, True)]
    write_log(tmp_path / "logs/fp.eval", [free_play(3, "drugs", takes, told=[6])], "fp_real_drugs", REAL)
    line = {"task": "fp_real_drugs", "id": "private-drugs-3", "args": REAL, "calls": takes, "first_round": 0}
    line |= {"scores": {"history_logger": [2, {}], "lost_in_drugs_judge": [0.0, {}]}, "sitter": [6], "early": False}
    (tmp_path / "facts").mkdir()
    with gzip.open(tmp_path / "facts/8b_freeplay.jsonl.gz", "wt") as file:
        file.write(json.dumps(line) + "\n")
    a, _ = frames(tmp_path / "logs", tmp_path / "a")
    b, _ = frames(tmp_path / "facts", tmp_path / "b")
    same = ["rollout", "condition", "scenario", "framing", "arm", "label_view", "model", "ended"]
    pd.testing.assert_frame_equal(a.rollouts[same], b.rollouts[same])
    assert a.rollouts["parameters"][0] == b.rollouts["parameters"][0]
    acts = ["rollout", "round", "order", "verb", "outcome", "problem", "arguments", "feature", "strength"]
    pd.testing.assert_frame_equal(a.calls[acts], b.calls[acts])
    pd.testing.assert_frame_equal(a.scores, b.scores)
    pd.testing.assert_frame_equal(a.notes[["rollout", "round", "verdict"]], b.notes[["rollout", "round", "verdict"]])
    assert a.labels == b.labels


def test_of_each_cell_the_latest_success_counts_and_gaps_are_named(tmp_path: Path) -> None:
    logs, task = tmp_path / "logs", "gsm8k_drugs_neutral"

    def attempt(name: str, status: str | None, day: int, correct: int, condition: str = "drugs_neutral") -> None:
        made = [solved(condition, 0, correct, 5)]
        when = f"2026-01-0{day}T00:00:00+00:00"
        write_log(logs / name, made, f"gsm8k_{condition}", {"condition": condition}, status=status, created=when)

    attempt("a.eval", "success", 3, 3)
    attempt("b.eval", "success", 1, 1)
    attempt("c.eval", "error", 4, 0)
    attempt("d.eval", None, 5, 0)
    attempt("e.eval", "error", 1, 0, "aids_helpful")
    attempt("f.eval", "error", 2, 0, "aids_helpful")
    (logs / "g.eval").write_text("not a zip")
    write_zip(logs / "h.eval", {"other.txt": b"{}"})
    (logs / "readme.md").write_text("hello")
    found, said = frames(logs, tmp_path / "out")
    assert list(found.rollouts["path"]) == ["a.eval"], "the latest by its date, whatever its name"
    assert found.scores.set_index("key")["value"]["n_correct"] == 3
    assert found.rollouts["condition"][0] == f"8b/gsm8k/{task}"
    assert said["left_out"] == {
        "logs that a later success of their cell replaces": 1,
        "logs with status error": 2,
        "logs with status started": 1,
        "files of another kind than inspect (not read)": 1,
    }
    problems = {e["path"]: e["problem"] for e in said["errors"]}
    assert problems["f.eval"] == "no log of 8b/gsm8k/gsm8k_aids_helpful succeeded (2 error)"
    assert "not an .eval log" in problems["g.eval"]
    assert "without header.json" in problems["h.eval"]


def test_a_damaged_sample_is_a_rollout_that_failed_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write_log(tmp_path / "logs/x.eval", [sample(i, [says("assistant", "yes")]) for i in range(4)])
    with Archive(path) as archive:
        members = {name: archive.bytes(name) for name in archive.names}
    members["samples/1_epoch_1.json"] = members["samples/1_epoch_1.json"][:40]
    members["samples/2_epoch_1.json"] = b"[1, 2]"
    members["samples/3_epoch_1.json"] = b'{"id": 3, "epoch": 1, "messages": "none", "store": {}}'
    write_zip(path, members)
    found, said = frames(tmp_path / "logs", tmp_path / "out")
    assert list(found.rollouts["ended"]) == ["finished", "failed", "failed", "failed"]
    assert len(found.counted) == 1
    assert all("samples/" in e["problem"] and "\n" not in e["problem"] for e in said["errors"])


def test_a_sample_that_failed_or_was_stopped_by_a_limit_says_so(tmp_path: Path) -> None:
    samples = [
        sample("a", error={"message": "boom"}),
        sample("b", limit={"type": "context", "limit": 10}),
        sample("c", limit={"type": "message", "limit": 3}),
    ]
    write_log(tmp_path / "logs/x.eval", samples)
    found, _ = frames(tmp_path / "logs", tmp_path / "out")
    assert list(found.rollouts["ended"]) == ["failed", "window", "finished"]


def test_a_guess_that_was_never_made_is_missing(tmp_path: Path) -> None:
    """The study stores 0.0 there, which fakes a gap in the arm that has no such guess."""
    scores = {"kv_cleared_score": (0.0, {"uncached_present": False}), "guess_accuracy_scorer": (0.0, {})}
    args = {"steering_mode_runtime": "placebo", "introspection_primer": True}
    write_log(tmp_path / "logs/g.eval", [sample("guess-placebo-0", scores=scores)], "guess_placebo_primer_calm", args)
    found, said = frames(tmp_path / "logs", tmp_path / "out")
    values = found.scores[found.scores["key"] == "value"].set_index("scorer")["value"]
    assert values["kv_cleared_score"] is pd.NA
    assert values["guess_accuracy_scorer"] == 0.0
    assert found.rollouts["arm"][0] == "none"
    assert said["left_out"]["uncached guesses that were never made, stored as 0"] == 1


def test_a_report_reads_cells_with_and_without_messages(tmp_path: Path) -> None:
    write_log(tmp_path / "logs/8b/a.eval", [free_play(0, "drugs", [("calm", 1.0, 0, False)])], "fp_real_drugs", REAL)
    scores = {"guess_accuracy_scorer": (0.5, {}), "kv_cleared_score": (0.2, {"uncached_present": True})}
    args = {"steering_mode_runtime": "real", "introspection_primer": True}
    write_log(tmp_path / "logs/8b/b.eval", [sample("g-0", scores=scores)], "guess_kv_cached_primer_calm", args)
    import_folder(tmp_path / "logs", tmp_path / "out")
    page = report(tmp_path / "out").html.read_text(encoding="utf-8")
    assert "8b/freeplay/fp_real_drugs" in page
    assert "8b/guess/guess_kv_cached_primer_calm" in page


@pytest.mark.parametrize("spoil", ["flip", "cut", "huge", "checksum"])
def test_a_damaged_archive_is_one_clear_line(tmp_path: Path, spoil: str) -> None:
    path = write_log(tmp_path / "x.eval", [sample(0, [says("user", "hello " * 50)])])
    whole = bytearray(path.read_bytes())
    at = whole.index(b"samples/0_epoch_1.json") + len("samples/0_epoch_1.json") + 12
    if spoil == "flip":
        whole[at] ^= 0xFF
    elif spoil == "cut":
        del whole[at : at + 30]
    else:
        entry = whole.rindex(b"samples/0_epoch_1.json") - 46
        if spoil == "huge":
            whole[entry + 24 : entry + 28] = (1 << 31).to_bytes(4, "little")
        else:
            whole[entry + 16] ^= 0xFF
    path.write_bytes(bytes(whole))
    said = r"x\.eval.* (is damaged|says that it is|is not an \.eval log)"
    with pytest.raises(BadInput, match=said) as error, Archive(path) as archive:
        for name in archive.names:
            archive.bytes(name)
    assert "\n" not in str(error.value)


FUZZED = free_play(0, "drugs", [("calm", 1.0, 0, False), ("focus", 2.0, 1, True)], told=[3], turns=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=some.floats(0, 1), to=some.integers(0, 255), cut=some.booleans())
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path: Path, at: float, to: int, cut: bool) -> None:
    """One byte replaced, or everything from there on gone."""
    path = write_log(tmp_path / "x.eval", [FUZZED], "fp_real_drugs", REAL)
    whole = bytearray(path.read_bytes())
    place = int(at * (len(whole) - 1))
    whole[place] = to
    path.write_bytes(bytes(whole[:place] if cut else whole))
    found = survey(path)
    assert len(found.files) + len(found.problems) == 1
    for file in found.files:
        try:
            assert all(r.of("rollouts", "ended") for r in read(file))
        except BadInput as error:
            assert "\n" not in str(error)


JUNK = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=4),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PLACES = ["messages", "store", "scores", "metadata", "events", "error", "limit", "id", "epoch"]
KEPT = ["history", "trip_sitter_verdicts", "trip_sitter_errors", "early_stopped", "logprob_letter_pool"]


@settings(max_examples=150, deadline=None)
@given(
    where=some.sampled_from([*PLACES, *KEPT]),
    junk=JUNK
    | some.lists(
        some.dictionaries(
            some.sampled_from(["turn", "tool", "args", "role", "content", "tool_calls", "function"]), JUNK, max_size=4
        )
    ),
)
def test_whatever_a_sample_holds_it_is_read_or_refused(where: str, junk: Any) -> None:
    """Any part of a sample replaced by anything: rows, or one line of what is wrong."""
    made = json.loads(json.dumps(FUZZED))
    if where in KEPT:
        made["store"][f"DrugState:{where}"] = junk
    else:
        made[where] = junk
    spec = Spec(task="calib_calm_d1_00", task_args={"drug": "calm", "introspection_primer": True})
    log = Log(Path("x.eval"), "success", spec, "8b/cell", True)
    try:
        found = rollout(log, Sample.model_validate(made))
    except (ValidationError, BadInput):
        return
    for table in found.rows:
        for column in TABLE[table].columns:
            _array(column, found.of(table, column.name), found)


def test_a_member_is_read_up_to_what_is_wanted(tmp_path: Path) -> None:
    """Damage behind the last wanted key is never looked at; a missing key makes the whole be read."""
    path = tmp_path / "x.eval"
    write_zip(path, {"a": b' {"x": {"y": [1, "}"]}, "n": null ,"events": [nonsense', "b": b'{"x": 1}', "c": b"{}"})
    with Archive(path) as archive:
        assert archive.json("a", {"x", "n"}) == {"x": {"y": [1, "}"]}, "n": None}
        assert archive.json("b", {"x", "z"}) == {"x": 1}
        assert archive.json("c", {"x"}) == {}
        with pytest.raises(BadInput, match="not JSON"):
            archive.json("a", {"x", "z"})


def test_stored_and_deflated_members_are_read_too(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.eval", {"a": b'{"x": 1}'}, method=0)
    with Archive(tmp_path / "x.eval") as archive:
        assert archive.json("a") == {"x": 1}
