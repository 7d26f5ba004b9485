"""Predictions beside a run: what was expected, as a query and a threshold, written down before the run began.

Knows no page. RUN/predictions.yaml is hashed, and kept, in the manifest when the run starts; what was changed since is
shown as changed.

    predictions:
      - id: labels              unique
        text: Hiding labels lowers detection.
        metric: detected@1      a query as in a file of claims: metric with aggregate, or statistic
        aggregate: difference
        where: {parameters.label_view: "true"}
        against: {parameters.label_view: opaque}
        above: 0                or below: the side of the threshold on which the value is expected
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from analysis.claims import queries
from analysis.claims.file import Definition
from analysis.claims.recompute import Data, estimated
from analysis.frames import Frames
from analysis.stats import Estimate
from toolkit.errors import BadInput

NAME = "predictions.yaml"
WITH_INTERVAL = ("share", "mean", "ratio", "difference", "fold")
OF_RATES = ("share", "difference", "fisher")
Outcome = Literal["hit", "miss", "undecided", "undefined"]
Registered = Literal["before the start", "changed after the start", "added after the start", "removed after the start"]


class Prediction(Definition):
    """One prediction: a query and the side of a threshold on which its value is expected."""

    by: Literal["study", "ours"] = "ours"
    id: str
    text: str
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Prediction:
        if (self.above is None) == (self.below is None):
            raise ValueError("give one of above and below")
        if self.none is not None or self.of is not None or self.expected is not None or self.found is not None:
            raise ValueError("a prediction has a query and a threshold; none, of, expected and found belong to claims")
        if self.metric is not None and self.aggregate in OF_RATES and queries.metric(self.metric).kind != "rate":
            raise ValueError(
                f"aggregate {self.aggregate} needs a yes or no of each rollout, and {self.metric} is none; use mean, "
                "or fold against another group"
            )
        return self

    @property
    def threshold(self) -> float:
        return self.above if self.above is not None else self.below if self.below is not None else math.nan


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    predictions: tuple[Prediction, ...]

    @model_validator(mode="after")
    def _apart(self) -> _File:
        ids = [p.id for p in self.predictions]
        if len(set(ids)) < len(ids):
            raise ValueError("two predictions have the same id")
        return self


@dataclass(frozen=True)
class Foretold:
    """What became of a prediction. outcome: hit, miss, or undecided: the interval crosses the threshold."""

    prediction: Prediction
    registered: Registered
    estimate: Estimate
    outcome: Outcome


def parsed(text: str, name: str = NAME) -> tuple[Prediction, ...]:
    """The predictions of a file. Raises BadInput naming the file and the prediction."""
    try:
        return _File.model_validate(yaml.safe_load(text)).predictions
    except yaml.YAMLError as error:
        raise BadInput(f"{name} cannot be read: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = " > ".join(map(str, first["loc"])) or "the file"
        raise BadInput(f"{name}: {place}: {first['msg']}") from error


def foretold(run: str | Path, frames: Frames) -> list[Foretold]:
    """Every prediction beside a run, with what became of it; those that are there no more stand as they were.

    A file that was not there when the run began was added after the start, all of it.
    """
    path = Path(run) / NAME
    kept = frames.manifest.get("predictions")
    then = {p.id: p for p in parsed(kept["text"], "the manifest")} if kept is not None else {}
    now = {p.id: p for p in parsed(path.read_text(encoding="utf-8"))} if path.exists() else {}
    data = Data(frames, None)
    return [_judged(p, registered, data) for p, registered in _registered(then, now)]


def outcome(prediction: Prediction, found: Estimate) -> Outcome:
    """Hit if the whole interval lies on the predicted side, miss if it lies on the other.

    What has no interval by its nature (a p-value, a total) is decided by its value.
    """
    if math.isnan(found.value):
        return "undefined"
    low, high = (found.value, found.value) if math.isnan(found.low) else (found.low, found.high)
    if math.isnan(found.low) and not _has_none(prediction):
        return "undecided"
    at = prediction.threshold
    sides = (low > at, high < at) if prediction.above is not None else (high < at, low > at)
    return "hit" if sides[0] else "miss" if sides[1] else "undecided"


def _has_none(prediction: Prediction) -> bool:
    return prediction.statistic is not None or prediction.aggregate not in WITH_INTERVAL


def _registered(
    then: Mapping[str, Prediction], now: Mapping[str, Prediction]
) -> Iterator[tuple[Prediction, Registered]]:
    for name, prediction in now.items():
        was = then.get(name)
        if was is None:
            yield prediction, "added after the start"
        else:
            yield prediction, "before the start" if was == prediction else "changed after the start"
    yield from ((was, "removed after the start") for name, was in then.items() if name not in now)


def _judged(prediction: Prediction, registered: Registered, data: Data) -> Foretold:
    found, _ = estimated(data, prediction, prediction.where)
    return Foretold(prediction, registered, found, outcome(prediction, found))


def registration(out: Path) -> dict[str, Any]:
    """For the manifest of a run that begins: the predictions as they stand, and their hash. Raises BadInput for a file
    that holds none.
    """
    path = out / NAME
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    parsed(text)
    return {"predictions": {"sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}}
