"""Values that JSON allows and no runner writes, in every kind of file: read, or refused in one line, and counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from analysis import load
from analysis.importers import import_folder
from tests.analysis.importers.synthetic_inspect import calls, free_play, sample, says, write_log
from tests.analysis.importers.synthetic_sae_study import Run
from toolkit.errors import BadInput

REAL = {"framing": "drugs", "steering_mode_runtime": "real"}
HUGE = 10**400
LINE: dict[str, Any] = {"task": "fp_real_drugs", "args": REAL, "calls": [["calm", 1.0, 1, False]], "first_round": 1}
LINE |= {"scores": {"history_logger": [1, {}]}, "sitter": [], "early": False}


def extract(folder: Path, *lines: object, cut: int | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path = folder / "8b_freeplay.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode())[:cut])
    return folder


def test_a_damaged_line_of_an_extract_is_counted_and_the_lines_after_it_are_read(tmp_path: Path) -> None:
    good = [{**LINE, "id": f"p-{i}"} for i in range(3)]
    logs = extract(
        tmp_path / "in", good[0], "{", good[1], {**good[1], "id": "x", "calls": [["calm", HUGE, 1, False]]}, good[2]
    )
    said = import_folder(logs, tmp_path / "out")
    assert said["rollouts"] == {"finished": 3}
    (error,) = said["errors"]
    assert "2 of 5 lines are no samples" in error["problem"]
    assert "line 2" in error["problem"]
    assert "\n" not in error["problem"]


def test_an_extract_that_breaks_off_says_after_which_line(tmp_path: Path) -> None:
    whole = [{**LINE, "id": f"p-{i}", "noise": "%040x" % (i * 0x9E3779B97F4A7C15F39CC0605CEDC834)} for i in range(400)]
    said = import_folder(extract(tmp_path / "in", *whole, cut=-4000), tmp_path / "out")
    (error,) = said["errors"]
    kept = said["rollouts"]["finished"]
    assert 0 < kept < 400
    assert f"breaks off after line {kept}" in error["problem"]


def test_a_corrupted_extract_is_one_line(tmp_path: Path) -> None:
    folder = extract(tmp_path / "in", *({**LINE, "id": f"p-{i}", "noise": "%x" % (7**i)} for i in range(300)))
    (path,) = folder.iterdir()
    spoiled = bytearray(path.read_bytes())
    spoiled[len(spoiled) // 2 : len(spoiled) // 2 + 40] = b"\xff" * 40
    path.write_bytes(bytes(spoiled))
    said = import_folder(folder, tmp_path / "out")
    (error,) = said["errors"]
    assert "breaks off" in error["problem"] or "no samples" in error["problem"]


def test_a_sample_whose_values_fit_no_column_is_left_out_and_the_samples_after_it_are_read(tmp_path: Path) -> None:
    odd = free_play(1, "drugs", [("calm", 1.0, 10**30, False)])
    write_log(
        tmp_path / "in/a.eval", [free_play(0, "drugs", []), odd, free_play(2, "drugs", [])], "fp_real_drugs", REAL
    )
    said = import_folder(tmp_path / "in", tmp_path / "out")
    assert said["rollouts"] == {"finished": 2}
    (error,) = said["errors"]
    assert error["rollout"].endswith("private-drugs-1")
    assert load(tmp_path / "out").rollouts["number"].tolist() == ["private-drugs-0", "private-drugs-2"]


@pytest.mark.parametrize("content", [3, 0.5, True, {"a": 1}])
def test_a_message_that_is_no_text_is_a_sample_that_failed(tmp_path: Path, content: object) -> None:
    bad = sample("bad", [{"role": "user", "content": content}, says("assistant", "Yes.")])
    write_log(tmp_path / "in/a.eval", [bad, sample("good", [says("assistant", "Yes.")])])
    said = import_folder(tmp_path / "in", tmp_path / "out")
    assert said["rollouts"] == {"failed": 1, "finished": 1}
    assert "content" in said["errors"][0]["problem"]


@pytest.mark.parametrize("value", [HUGE, float("inf"), float("-inf"), float("nan")])
def test_a_score_that_is_no_finite_number_is_missing(tmp_path: Path, value: float) -> None:
    write_log(
        tmp_path / "in/a.eval", [sample("s", [says("assistant", "Yes.")], scores={"judge": (value, {"k": value})})]
    )
    import_folder(tmp_path / "in", tmp_path / "out")
    scores = load(tmp_path / "out").scores
    assert scores["value"].isna().all()


@pytest.mark.parametrize("errors", [HUGE, float("inf"), float("nan"), -3, "x", 10**9])
def test_a_count_of_monitor_errors_that_cannot_be_is_no_flood_of_rows(tmp_path: Path, errors: object) -> None:
    one = free_play(0, "drugs", [("calm", 1.0, 0, False)])
    one["store"]["DrugState:trip_sitter_errors"] = errors
    write_log(tmp_path / "in/a.eval", [one], "fp_real_drugs", REAL)
    import_folder(tmp_path / "in", tmp_path / "out")
    assert len(load(tmp_path / "out").notes) <= 1


def test_a_dose_of_any_size_is_read_or_missing(tmp_path: Path) -> None:
    said = [says("user", "Hello."), calls("I take.", ("1", "take_drug", {"name": "calm", "dose": HUGE}))]
    write_log(
        tmp_path / "in/a.eval",
        [sample("f", said)],
        "frust_drugs_neutral_sarcastic",
        {"drug_condition": "drugs_neutral"},
    )
    import_folder(tmp_path / "in", tmp_path / "out")
    assert load(tmp_path / "out").calls["strength"].isna().all()


@pytest.mark.parametrize(("key", "value"), [("index_in_sae", "\ud800"), ("index_in_sae", 1.5), ("strength", None)])
def test_an_intervention_that_is_none_is_a_damaged_file(tmp_path: Path, key: str, value: object) -> None:
    for tag in ("exp1_research_s1", "exp1_research_s2"):
        run = Run(tag).round("STEER(101, +0.3)", ("steer", (101, 0.3))).round("Words.", last=True)
        if tag.endswith("2"):
            run.turns[0]["model_interventions"][0][key] = value
        run.write(tmp_path / "in")
    said = import_folder(tmp_path / "in", tmp_path / "out")
    assert said["rollouts"] == {"finished": 1}
    (error,) = said["errors"]
    assert "an intervention is a feature and a strength" in error["problem"]


def test_where_nothing_can_be_read_the_files_that_were_tried_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / f"in/{name}.eval").write_bytes(b"PK\x03\x04junk")
    with pytest.raises(BadInput, match=r"none of 2 files could be read; the first: a\.eval is not"):
        import_folder(tmp_path / "in", tmp_path / "out")
