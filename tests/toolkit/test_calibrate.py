from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.calibrate import Calibration, Dose, Screened, calibrated, load_calibration
from toolkit.errors import BadInput


def dose(strength: float, coherent: float = 1.0) -> Dose:
    return Dose(strength, strength, coherent, (0.5, 0.25), 0.5, 0.25, True, marked=0.125, reread=2.5)


PASSED = Screened(7, "pirates", 0.5, "", 2.0, ("arr",), (dose(0), dose(0.25), dose(0.5), dose(1), dose(2, 0.5)))
FAILED = Screened(8, "commas", None, "nothing visible", None, (), (dose(0), dose(1)))
WHOLE = Calibration("key", "sae", "1 norm", "model", "tiny", (0.5, 0.5), (PASSED, FAILED), {"seed": 0})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    WHOLE.save(tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


def test_what_is_saved_comes_back(path: Path) -> None:
    again = load_calibration(path)
    assert math.isnan(again.features[0].doses[0].activation)
    again.save(path)
    assert repr(load_calibration(path)) == repr(again) == repr(WHOLE)


def test_a_calibrated_feature_has_its_strength_and_others_within_what_was_coherent(path: Path) -> None:
    assert calibrated(path, "key", 7) == 0.5
    assert calibrated(path, "key", 7, 0.3, "model") == 0.3
    assert calibrated(path, "key", 7, 1.0) == 1.0


def test_strength_zero_needs_no_calibration(tmp_path: Path) -> None:
    assert calibrated(tmp_path / "none.json", "key", 3, 0) == 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("key", 9), "not calibrated"),
        (("key", 8), "nothing visible"),
        (("other", 7), "dictionary key"),
        (("key", 7, 0.5, "another"), "measured on model model"),
        (("key", 7, 2.0), "0.25 to 1;"),
        (("key", 7, 1.5), "0.25 to 1;"),
        (("key", 7, -0.5), "0.25 to 1;"),
        (("key", 7, math.nan), "0.25 to 1;"),
    ],
)
def test_whatever_was_not_calibrated_is_refused_with_a_way_out(path: Path, asked: tuple, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        calibrated(path, *asked)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="selfsteer calibrate"):
        load_calibration(tmp_path / "none.json")
    for text in ("{", "[]", "{}", '{"format": "selfsteer calibration 1"}', '{"format": "other"}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(BadInput, match="not a calibration"):
            load_calibration(tmp_path / "bad.json")


def test_features_of_an_earlier_calibration_are_kept_and_the_later_one_wins() -> None:
    later = replace(WHOLE, features=(replace(PASSED, strength=1.0), replace(FAILED, feature=2)))
    merged = later.merged(WHOLE)
    assert [(s.feature, s.strength) for s in merged.features] == [(2, None), (7, 1.0), (8, None)]
    with pytest.raises(BadInput, match="settings"):
        later.merged(replace(WHOLE, settings={"seed": 1}))


def test_the_shipped_calibration_is_of_the_shipped_organism_wherever_it_lies(tmp_path: Path) -> None:
    import shutil

    from toolkit.engines.local import LocalEngine
    from toolkit.opening import open_dictionary
    from toolkit.organism import CALIBRATION, MODEL, SAE
    from toolkit.organism.lexicon import lexicon

    shutil.copytree(MODEL, tmp_path / "elsewhere")
    digest = LocalEngine(str(tmp_path / "elsewhere")).info.digest
    sae = open_dictionary(SAE)
    styles = {style.label for style in lexicon().styles.values()}
    features = [i for i in range(len(sae)) if sae.label(i) in styles]
    assert len(features) == len(styles)
    for feature in features:
        assert 0 < calibrated(CALIBRATION, sae.key, feature, model=digest) <= 1
