"""The notebook in docs runs as it stands there, from a run to a figure."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest

from tests.analysis.synthetic import Story, held

NOTEBOOK = Path(__file__).parents[1] / "docs" / "from_run_to_figure.ipynb"


def a_run(out: Path) -> None:
    """Two conditions of two rollouts with a feature injected in round 2; in one it is noticed and removed."""
    for condition in ("labels-opaque", "labels-true"):
        for seed in range(2):
            told = Story(condition, seed).say("Rain.").external(held(12, 0.6, "external")).say("INSPECT()")
            told.call("inspect", show=(12,)).say("REMOVE_STEERING(12)")
            if condition == "labels-true":
                told.call("remove", "12", feature=12, after=[])
            told.say("Rain.").end().write(out)


def test_every_cell_runs_and_the_last_one_is_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("agg")
    a_run(tmp_path / "runs" / "interference")
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    known: dict[str, object] = {}
    for code in codes:
        exec(compile(code, NOTEBOOK.name, "exec"), known)
    assert len(codes) == 5
    figure = known["figure"]
    assert isinstance(figure, matplotlib.figure.Figure) and len(figure.axes[0].lines) == 2
