"""Which strength of a feature steers a model visibly and leaves it coherent: screened once, kept in a file, asked for.

Knows no scenario, and nothing that a scenario reports: KL divergence and coherence choose the strength; the words that
mark the feature are only described.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit.errors import BadInput

FORMAT = "selfsteer calibration 1"
DISTANCE = 0.20  # Jaccard distance of word sets from which a difference is visible (self-steering study, section 3)


@dataclass(frozen=True)
class Dose:
    """What one strength of one feature did. Strength is in the dictionary's unit.

    kl: nats, mean KL(unsteered || steered) of next-token distributions over the whole vocabulary, along unsteered text.
    coherent: share of responses that keep the rule (toolkit.wording.COHERENT).
    distances: for each prompt, Jaccard distance of word sets between the greedy responses, steered and not.
    apart, chance: that distance between all words of the sampled responses, steered and not, and the upper end of what
    it is when they are relabelled at random: what two unsteered groups would show.
    visible: over DISTANCE on at least 4 of 5 prompts, and apart by more than chance.
    marked: share of words that mark the feature, in responses that did not choose those words.
    activation: the feature's mean activation over responses as computed; reread: over the same text, unsteered.
    """

    strength: float
    kl: float
    coherent: float
    distances: tuple[float, ...]
    apart: float
    chance: float
    visible: bool
    marked: float = math.nan
    activation: float = math.nan
    reread: float = math.nan


@dataclass(frozen=True)
class Screened:
    """One feature: the strength that was chosen for it, or why none was. doses: weakest first, the unsteered one too.

    breaks_at: the weakest strength at which coherence broke; None if it never did. words: what marks it.
    """

    feature: int
    label: str
    strength: float | None
    why: str
    breaks_at: float | None
    words: tuple[str, ...]
    doses: tuple[Dose, ...]

    @property
    def passed(self) -> bool:
        return self.strength is not None

    @property
    def chosen(self) -> Dose | None:
        """What the chosen strength did."""
        return next((d for d in self.doses if d.strength == self.strength), None)


@dataclass(frozen=True)
class Calibration:
    """Features of one dictionary screened on one model.

    dictionary: its key; a calibration holds for no other. model: digest of the model. unit: what strength 1.0 means.
    null: for each prompt, the mean distance of two unsteered responses to it. settings: how it was measured.
    """

    dictionary: str
    dictionary_name: str
    unit: str
    model: str
    model_name: str
    null: tuple[float, ...]
    features: tuple[Screened, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def of(self, feature: int) -> Screened | None:
        return next((s for s in self.features if s.feature == feature), None)

    def merged(self, earlier: Calibration) -> Calibration:
        """This one with the features of an earlier one that it has not. Raises BadInput if they are not comparable."""
        for name in ("dictionary", "model", "settings"):
            if getattr(self, name) != getattr(earlier, name):
                raise BadInput(f"the two calibrations differ in {name}; write this one to a file of its own")
        kept = {s.feature: s for s in (*earlier.features, *self.features)}
        return Calibration(**{**_fields(self), "features": tuple(kept[i] for i in sorted(kept))})

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all; NaN becomes null."""
        whole = {"format": FORMAT, **_without_nan(asdict(self))}
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        part.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, target)


def load_calibration(path: str | Path) -> Calibration:
    """Raises BadInput for a file that is not there or is no calibration."""
    target = Path(path)
    try:
        raw = json.loads(target.read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT:
            raise ValueError(f"not {FORMAT!r}")
        features = tuple(_screened(row) for row in raw.pop("features"))
        return Calibration(**{**raw, "null": tuple(raw["null"]), "features": features})
    except OSError as error:
        raise BadInput(f"calibration {target} could not be read ({error.strerror}); {_make(target)}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{target} is not a calibration of this version ({error}); {_make(target)}") from error


def calibrated(
    path: str | Path, dictionary: str, feature: int, strength: float | None = None, model: str | None = None
) -> float:
    """The strength to inject `feature` at: `strength` if it was found coherent, or the chosen one if None is asked for.

    dictionary: its key, of the true directions whatever the arm. model: digest, checked if given. Strength 0 needs no
    calibration, since it adds nothing. Raises BadInput for a feature that was not screened or did not pass, and for
    a strength that is outside of what was found coherent.
    """
    if strength == 0:
        return 0.0
    known = load_calibration(path)
    way_out = f"{_make(path, feature)}, or go on without by --uncalibrated (it is recorded)"
    if known.dictionary != dictionary:
        raise BadInput(f"{path} calibrates dictionary {known.dictionary} and this one is {dictionary}; {way_out}")
    if model is not None and known.model != model:
        raise BadInput(f"{path} was measured on model {known.model} and this one is {model}; {way_out}")
    found = known.of(feature)
    if found is None:
        raise BadInput(f"feature {feature} is not calibrated in {path}; {way_out}")
    if found.strength is None:
        raise BadInput(f"feature {feature} ({found.label}) did not pass calibration: {found.why}; inject another one")
    if strength is None:
        return found.strength
    steered = [d.strength for d in found.doses if d.strength > 0]
    below = [s for s in steered if found.breaks_at is None or s < found.breaks_at]
    if not math.isfinite(strength) or not min(steered) <= strength <= max(below):
        raise BadInput(
            f"strength {strength:g} of feature {feature} is outside of what was found coherent, {min(steered):g} to "
            f"{max(below):g}; use the calibrated {found.strength:g}, or calibrate more strengths with --strengths"
        )
    return strength


def _make(path: str | Path, feature: int | None = None) -> str:
    which = "" if feature is None else f" --features {feature}"
    return f"make one with: selfsteer calibrate{which} --out {path}"


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _screened(row: Mapping[str, Any]) -> Screened:
    doses = tuple(Dose(**_values(dose)) for dose in row["doses"])
    return Screened(**{**row, "words": tuple(row["words"]), "doses": doses})


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's null is NaN again, its lists tuples."""
    return {k: math.nan if v is None else tuple(v) if isinstance(v, list) else v for k, v in row.items()}


def _without_nan(value: Any) -> Any:
    """NaN as None, floats to 6 digits: what another machine's arithmetic may differ by is not kept."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return [_without_nan(v) for v in value] if isinstance(value, list | tuple) else value
