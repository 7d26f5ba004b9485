"""The command that screens features: what is in its file stays, what was measured otherwise is kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios import calibrate_command
from scenarios.calibrate_command import calibrate
from toolkit.calibrate import calibrated, load_calibration
from toolkit.errors import BadInput


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "prompts.yaml"
    path.write_text('system: ""\nprompts: ["Tell me about the weather in Oslo.", "How do I cook soup?"]\n')
    return path


def screened(out: Path, prompts: Path, features: str, **options) -> None:
    small = {"strengths": "1.2,3", "samples": 4, "max_tokens": 24, "prompts": prompts}
    calibrate(**{"features": features, "out": out, **small, **options})


def test_a_file_grows_by_what_it_has_not(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "calibration.json"
    screened(out, prompts, "pirate dialect")
    first = load_calibration(out)
    assert [one.label for one in first.features] == ["pirate dialect"]
    capsys.readouterr()
    screened(out, prompts, "pirate dialect,a comma", figure=tmp_path / "figures" / "doses.png")
    said = capsys.readouterr()
    assert "1/1" in said.err and "pirate" not in said.err  # was not screened again
    both = load_calibration(out)
    assert {one.label for one in both.features} == {"pirate dialect", "a comma"}
    pirate = first.features[0].feature
    assert repr(both.of(pirate)) == repr(first.features[0])
    assert (tmp_path / "figures" / "doses.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BadInput, match="measured otherwise"):
        screened(out, prompts, "pirate dialect", samples=5)
    with pytest.raises(BadInput, match="not calibrated"):
        calibrated(out, both.dictionary, 5)


def test_prompts_and_strengths_that_are_none_are_refused(tmp_path: Path, prompts: Path) -> None:
    for text in ("", "system: x", 'system: x\nprompts: []\nmore: "y"', "prompts: [a]", "system: x\nprompts: [1]"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(BadInput, match="must hold"):
            screened(tmp_path / "out.json", tmp_path / "bad.yaml", "5")
    with pytest.raises(BadInput, match="not numbers"):
        screened(tmp_path / "out.json", prompts, "5", strengths="much")
    with pytest.raises(BadInput, match="which features"):
        screened(tmp_path / "out.json", prompts, None, model="some/model")  # type: ignore[arg-type]


def test_the_prompts_that_ship_can_be_read() -> None:
    for name in ("calibration.yaml", "calibration_organism.yaml"):
        system, asked = calibrate_command._asked(calibrate_command.TEXTS / name)
        assert system and len(set(asked)) == 5
