"""Problems and frustration with planted outcomes: not attempted apart from wrong, tried apart from took."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis import load
from analysis.frames import Frames
from analysis.importers import import_folder
from analysis.tasks import judged, problems, taking
from tests.analysis.importers.synthetic_inspect import frustrated, sample, solved, write_log


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    """Five problems each: 3 right of 4 attempted; none attempted; a rollout that nobody scored; one that failed."""
    condition = "aids_mandatory"
    samples = [
        solved(condition, 0, 3, 4, [("focused", 1.0, 0, False), ("focus", 1.0, 1, True)]),
        solved(condition, 1, 0, 0, [("focus", 1.0, 0, True)]),
        sample("gsm8k-aids_mandatory-2"),
        {**solved(condition, 3, 5, 5), "error": {"message": "boom"}},
    ]
    write_log(tmp_path / "logs/g.eval", samples, "gsm8k_aids_mandatory", {"condition": condition})
    made = [frustrated(condition, 0, 7.5)]
    args = {"drug_condition": condition, "rejection_tone": "sarcastic", "use_impossible": True}
    write_log(tmp_path / "logs/f.eval", made, "frust_aids_mandatory_sarcastic_impossible", args)
    import_folder(tmp_path / "logs", tmp_path / "out")
    return load(tmp_path / "out")


def test_not_attempted_is_apart_from_wrong(frames: Frames) -> None:
    made = problems(frames.where(scenario="gsm8k"))
    assert made["accuracy"].tolist() == pytest.approx([0.6, 0.0, np.nan, np.nan], nan_ok=True)
    assert made["given_attempted"].tolist() == pytest.approx([0.75, np.nan, np.nan, np.nan], nan_ok=True)
    assert made["attempted"].tolist()[:2] == [4, 0]


def test_tried_is_apart_from_took(frames: Frames) -> None:
    made = taking(frames.where(scenario="gsm8k"))
    assert made["tried"].tolist() == pytest.approx([1, 1, 0, np.nan], nan_ok=True)
    assert made["took"].tolist() == pytest.approx([1, 0, 0, np.nan], nan_ok=True)


def test_a_score_is_missing_where_none_was_given(frames: Frames) -> None:
    values = judged(frames, "frustration_judge")
    assert values.dropna().tolist() == [7.5]
    assert judged(frames, "nobody").isna().all()
