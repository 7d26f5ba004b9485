"""Imported rollouts of which only a part was recorded: what nobody recorded is missing in a report, and never 0."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from analysis import load
from analysis.frames import Frames
from analysis.importers import import_folder
from analysis.metrics import measured
from analysis.summary import summarise
from analysis.tables import found, tables
from tests.analysis.importers.synthetic_inspect import free_play, write_log

REAL = {"framing": "drugs", "steering_mode_runtime": "real"}
TAKES = [("calm", 1.0, 1, False), ("calm", -1.0, 2, False)]


def extract(folder: Path) -> Frames:
    """Two samples: one took twice and was told off by the monitor, of the other the extract lists nothing."""
    (folder / "facts").mkdir()
    with gzip.open(folder / "facts/8b_freeplay.jsonl.gz", "wt") as file:
        for i, (takes, sitter) in enumerate([(TAKES, [3]), ([], [])]):
            line = {"task": "fp_real_drugs", "id": f"p-{i}", "args": REAL, "calls": takes, "first_round": None}
            file.write(json.dumps({**line, "scores": {}, "sitter": sitter, "early": False}) + "\n")
    import_folder(folder / "facts", folder / "out")
    return load(folder / "out")


def test_an_extract_holds_takes_alone_and_says_nothing_of_other_calls_or_of_the_monitor(tmp_path: Path) -> None:
    frames = extract(tmp_path)
    known = measured(frames, ["steered", "steers", "median_strength"])
    assert known["steered"].tolist() == [1.0, 0.0]
    assert known["steers"].tolist() == [2.0, 0.0]
    unknown = ["used_tools", "used_tools_first_round", "tried_tools", "calls", "searches"]
    unknown += ["malformed_calls", "malformed_share", "repeats", "monitor_unhealthy"]
    unknown += ["portfolio_rounds", "voided_steers", "silently_voided_steers", "steers_from_search_share"]
    values = measured(frames, unknown)
    assert values.isna().all(axis=None), values.T
    assert sum(n for _, n in summarise(frames).provenance) == 0, "nobody knows what those STEERs had seen"


def test_a_log_without_the_state_says_nothing_of_what_was_in_force(tmp_path: Path) -> None:
    write_log(tmp_path / "logs/a.eval", [free_play(0, "drugs", TAKES)], "fp_real_drugs", REAL)
    import_folder(tmp_path / "logs", tmp_path / "out")
    frames = load(tmp_path / "out")
    values = measured(frames, ["calls", "used_tools", "portfolio_rounds", "silently_voided_steers", "voided_steers"])
    (row,) = values.to_dict("records")
    assert (row["calls"], row["used_tools"], row["voided_steers"]) == (2.0, 1.0, 0.0)
    assert values[["portfolio_rounds", "silently_voided_steers"]].isna().all(axis=None)


def test_comparisons_without_data_are_counted_apart(tmp_path: Path) -> None:
    (tmp_path / "facts").mkdir()
    with gzip.open(tmp_path / "facts/8b_freeplay.jsonl.gz", "wt") as file:
        for framing in ("drugs", "aids"):
            args = {**REAL, "framing": framing}
            line = {"task": f"fp_real_{framing}", "id": "p-0", "args": args, "calls": [], "first_round": None}
            file.write(json.dumps({**line, "scores": {}, "sitter": [], "early": False}) + "\n")
    import_folder(tmp_path / "facts", tmp_path / "out")
    summary = summarise(load(tmp_path / "out"))
    (line,) = (line for line in found(summary) if "comparison" in line)
    assert line.startswith("Of 1 comparison fixed beforehand, none have"), "steered alone is known"
    assert "3 more have no data" in line
    (table,) = (t for t in tables(summary) if t.title == "Comparisons")
    assert "adjusted over the 1 here that has data" in table.note
