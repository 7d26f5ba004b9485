"""A report says which published claims were recomputed on its data, and how they came out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.claims.kept import COLUMNS, kept
from analysis.report import report
from tests.analysis.synthetic import Story
from toolkit.errors import BadInput


def test_verdicts_of_what_was_checked_are_counted_and_in_the_report(tmp_path: Path) -> None:
    assert kept(tmp_path) == []
    folder = tmp_path / "claims" / "study"
    folder.mkdir(parents=True)
    rows = [("exact", False, False), ("no", False, True), ("exact", False, False), ("undefined", True, False)]
    results = [{"verdict": v, "absent": a, "changed": c} for v, a, c in rows]
    (folder / "claims.json").write_text(json.dumps({"results": results}))
    [table] = kept(tmp_path)
    assert dict(zip(COLUMNS, table.rows[0], strict=True)) == {
        "claims of": "study", "exact": "2", "near": "0", "no": "1", "undefined": "0", "not as the file expects": "1",
    }  # fmt: skip
    Story("a").say("x").end().write(tmp_path)
    assert "Published claims, recomputed" in report(tmp_path).markdown.read_text()


@pytest.mark.parametrize("text", ["[", "{}", '{"results": [1]}', '{"results": [{}]}'])
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "claims" / "study"
    folder.mkdir(parents=True)
    (folder / "claims.json").write_text(text)
    with pytest.raises(BadInput, match=r"claims\.json"):
        kept(tmp_path)
