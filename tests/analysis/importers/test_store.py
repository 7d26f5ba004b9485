"""What goes into an imported folder comes out of `load`: same values and types, missing is NA; so does a run of ours.

Knows no study: rows are made up here.
"""

from __future__ import annotations

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis import load
from analysis.columns import TABLE, TABLES
from analysis.importers import store
from analysis.importers.store import Rollout, Writer
from toolkit.errors import BadInput


def rollout(number: int = 1, ended: str = "finished", **values) -> Rollout:
    made = Rollout(f"calm/{number}", "calm", f"logs/{number}.json")
    made.add("rollouts", number=str(number), ended=ended, rounds_done=2, **values)
    made.add("rounds", round=1, response="One \udc80 word.", steering=[{"feature": 3, "strength": 0.5}])
    made.add("rounds", round=2, response="Two.")
    made.extend("activations", 3, {"feature": [7, 8, 9], "value": [3.0, 2.0, 1.0], "rank": [1, 2, 3]}, round=1)
    made.labels[7] = "rain"
    made.left_out["images"] += 2
    return made


def written(out, *rollouts, kind="made-up"):
    with Writer(out, kind, "somewhere") as writer:
        for one in rollouts:
            writer.add(one)
    return out


def test_what_goes_in_comes_out(tmp_path):
    frames = load(written(tmp_path / "x", rollout(1), rollout(2, facts={"a": [1, None]})))
    for table in TABLES:
        frame = getattr(frames, table.name)
        assert {c: str(t) for c, t in frame.dtypes.items()} == {c.name: c.dtype for c in table.columns}, table.name
    assert frames.rollouts[["rollout", "condition", "path"]].values.tolist() == [
        ["calm/1", "calm", "logs/1.json"],
        ["calm/2", "calm", "logs/2.json"],
    ]
    assert frames.rollouts["facts"].tolist() == [None, {"a": [1, None]}]
    assert frames.rounds["response"].tolist() == ["One ? word.", "Two."] * 2
    assert frames.rounds["steering"][0] == [{"feature": 3, "strength": 0.5}] and frames.rounds["steering"][1] is None
    assert frames.activations[["rollout", "feature", "value"]].values.tolist()[3:] == [
        ["calm/2", 7, 3.0],
        ["calm/2", 8, 2.0],
        ["calm/2", 9, 1.0],
    ]
    assert frames.activations["layer"].isna().all() and len(frames.calls) == 0
    assert frames.labels == {7: "rain"} and frames.counted == ["calm/1", "calm/2"]
    assert frames.manifest["left_out"] == {"images": 4} and frames.manifest["rows"]["rounds"] == 4


def test_an_imported_frame_is_the_frame_of_the_run_it_was_made_from(frames, tmp_path):
    """Every table of a run of our own, put through the store, is the same table."""
    with Writer(tmp_path / "x", "copy", frames.run) as writer:
        for name, condition, path in frames.rollouts[["rollout", "condition", "path"]].values.tolist():
            one = Rollout(name, condition, path)
            for table in TABLES:
                rows = getattr(frames, table.name)
                rows = rows[rows["rollout"] == name].drop(columns=["rollout", "condition", "path"], errors="ignore")
                lists = {c: [None if v is pd.NA else v for v in rows[c].tolist()] for c in rows}
                one.extend(table.name, len(rows), lists)
            writer.add(one)
    again = load(tmp_path / "x")
    for table in TABLES:
        first, second = getattr(frames, table.name).copy(), getattr(again, table.name)
        for column in [c.name for c in table.columns if c.dtype == "object"]:
            plain = [json.loads(json.dumps(v)) for v in first[column]]  # a tuple comes back as a list
            first[column] = pd.Series(plain, dtype=object)
        for column in [c.name for c in table.columns if c.dtype == "string"]:
            assert isinstance(second[column].dtype, pd.StringDtype)
            first[column] = first[column].astype(second[column].dtype)  # before pandas 3 in Python's memory or Arrow's
        pd.testing.assert_frame_equal(first, second, obj=table.name)


def test_tables_are_read_when_first_used(tmp_path):
    folder = written(tmp_path / "x", rollout())
    frames = load(folder)
    cut = frames.where(condition="calm")
    (folder / "activations.parquet").write_bytes(b"PAR1 not at all")
    assert len(cut.rounds) == 2 and cut.filters == ("condition = calm",)
    with pytest.raises(BadInput, match=r"activations\.parquet cannot be read"):
        _ = cut.activations


def test_rows_leave_memory_while_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROWS_AT_ONCE", 4)
    folder = written(tmp_path / "x", *(rollout(n) for n in range(5)))
    import pyarrow.parquet as pq

    assert pq.ParquetFile(folder / "activations.parquet").num_row_groups == 3  # 6 + 6 + 3 rows
    assert load(folder).activations["value"].tolist() == [3.0, 2.0, 1.0] * 5


def test_unfinished_and_failed_are_named_and_kept(tmp_path):
    with Writer(tmp_path / "x", "made-up", "somewhere") as writer:
        writer.add(rollout(1, ended="unfinished"))
        writer.add(rollout(2, ended="failed", error="lost"))
        writer.damaged("3", "logs/3.json", "not JSON")
    frames = load(tmp_path / "x")
    assert frames.unfinished.values.tolist() == [["calm/1", "calm", 2, "logs/1.json"]]
    assert frames.errors.values.tolist() == [["calm/2", "logs/2.json", "lost"], ["3", "logs/3.json", "not JSON"]]
    assert frames.rollouts["ended"].tolist() == ["unfinished", "failed"] and frames.counted == []


def test_a_value_of_another_type_is_named_and_nothing_of_its_rollout_is_written(tmp_path):
    bad = rollout(2)
    bad.add("calls", round=1, feature="seven")
    with Writer(tmp_path / "x", "made-up", "somewhere") as writer:
        writer.add(rollout(1))
        with pytest.raises(BadInput, match=r"logs/2.json: column feature should be Int64 .*seven"):
            writer.add(bad)
    assert load(tmp_path / "x").rounds["rollout"].unique().tolist() == ["calm/1"]


def test_what_cannot_be_is_refused(tmp_path):
    one = rollout()
    with pytest.raises(KeyError, match="no column colour"):
        one.add("calls", colour="red")
    with pytest.raises(ValueError, match="1 values for 2 rows"):
        one.extend("calls", 2, {"verb": ["steer"]})
    with Writer(tmp_path / "x", "made-up", "somewhere") as writer:
        writer.add(one)
        with pytest.raises(BadInput, match="second file for rollout calm/1"):
            writer.add(rollout())
        with pytest.raises(BadInput, match="made 0 rows of rollouts"):
            writer.add(Rollout("calm/9", "calm", "9.json"))


def test_an_import_that_broke_off_is_no_folder_to_read(tmp_path):
    with pytest.raises(RuntimeError), Writer(tmp_path / "x", "made-up", "somewhere") as writer:
        writer.add(rollout())
        raise RuntimeError
    with pytest.raises(BadInput, match="holds no transcripts"):
        load(tmp_path / "x")
    assert load(written(tmp_path / "x", rollout())).counted == ["calm/1"]  # and the same command does it anew


def test_a_folder_of_other_files_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"holds other files \(thesis.txt\)"):
        written(tmp_path, rollout())
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("text", ["{", '{"form": 99, "unfinished": [], "errors": []}', '{"form": 1}', "[]"])
def test_a_damaged_folder_says_so_in_one_line(tmp_path, text):
    folder = written(tmp_path / "x", rollout())
    (folder / store.MANIFEST).write_text(text)
    with pytest.raises(BadInput, match="import again"):
        load(folder)
    assert json.loads((folder / store.LABELS).read_text()) == {"7": "rain"}


@pytest.mark.parametrize("harm", ["gone", "shorter"])
def test_a_table_that_is_not_whole_is_no_table_without_rows(tmp_path, harm):
    folder = written(tmp_path / "x", rollout())
    path = folder / "rounds.parquet"
    whole = pq.read_table(path)
    path.unlink()
    if harm == "shorter":
        pq.write_table(whole.slice(1), path)
    with pytest.raises(BadInput, match=r"rounds.parquet has \d+ of \d+ rows; import again"):
        load(folder).tables["rounds"]


def test_some_columns_alone(tmp_path):
    folder = written(tmp_path / "x", rollout())
    assert list(store.table(folder, TABLE["rounds"], ["round", "rollout"])) == ["rollout", "round"]
