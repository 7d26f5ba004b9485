"""What is added to the residual stream, as values: interventions and the immutable sets of them.

Knows no model, no direction and no engine: an intervention names its dictionary by key, and an
engine that has that dictionary attached turns the name into numbers.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from toolkit.errors import BadInput

Mode = Literal["add", "clamp", "project_out"]
Source = Literal["self", "external", "partner"]
Scope = Literal["onward", "whole"]

MODES: tuple[Mode, ...] = get_args(Mode)
SOURCES: tuple[Source, ...] = get_args(Source)
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, order=True)
class Intervention:
    """One feature held at one strength.

    `strength` is in the unit of the dictionary (see `FeatureDictionary.unit`); `dictionary` is that
    dictionary's key, a content hash, so a placebo arm (another dictionary) is another intervention.
    Raises BadInput on a strength that is not a finite number, a feature that is no whole number from 0 on or an unknown
    mode.
    """

    dictionary: str
    feature: int
    strength: float
    mode: Mode = "add"
    source: Source = "self"

    def __post_init__(self) -> None:
        try:  # one spelling of a number, for digests: 12, whatever library it comes from
            object.__setattr__(self, "feature", int(operator.index(self.feature)))
            finite = math.isfinite(self.strength)
        except (TypeError, OverflowError) as error:
            raise BadInput(f"feature {self.feature!r} or strength is no number of its kind: {error}") from None
        if not finite:
            raise BadInput(f"strength {self.strength!r} is not a finite number; give one such as 0.3")
        if self.feature < 0:
            raise BadInput(f"feature {self.feature} is negative; features are numbered from 0")
        if self.mode not in MODES:
            raise BadInput(f"mode {self.mode!r} is unknown; use one of {', '.join(MODES)}")
        if self.source not in SOURCES:
            raise BadInput(f"source {self.source!r} is unknown; use one of {', '.join(SOURCES)}")
        # 1 and 1.0, 0.0 and -0.0 are equal: they must have one spelling too, for digests
        object.__setattr__(self, "strength", float(self.strength) + 0.0)


@dataclass(frozen=True)
class Steering:
    """The immutable set of interventions in force. Order of setting does not matter; equal sets are equal.

    Build with `Steering.of(...)`, which sorts and drops duplicates. Raises BadInput where one feature is clamped or
    projected out more than once, whoever set it.
    """

    interventions: tuple[Intervention, ...] = ()

    def __post_init__(self) -> None:
        if list(self.interventions) != sorted(set(self.interventions)):
            raise BadInput("interventions must be sorted and distinct; build them with Steering.of(...)")
        edits = Counter((i.dictionary, i.feature) for i in self.interventions if i.mode != "add")
        if twice := [feature for (_, feature), n in edits.items() if n > 1]:
            raise BadInput(
                f"feature {twice[0]} is clamped or projected out more than once: it cannot be held at two levels, and"
                " what is projected out twice would be turned round; remove one of them first"
            )

    @classmethod
    def of(cls, *interventions: Intervention) -> Steering:
        return cls(tuple(sorted(set(interventions))))

    def with_(self, *added: Intervention) -> Steering:
        return Steering.of(*self.interventions, *added)

    def without(self, *removed: Intervention) -> Steering:
        gone = set(removed)
        return Steering(tuple(i for i in self.interventions if i not in gone))

    def by(self, source: Source) -> Steering:
        """The part of this steering that `source` set."""
        return Steering(tuple(i for i in self.interventions if i.source == source))

    @cached_property
    def digest(self) -> str:
        """16 hex digits of sha256 over the interventions; equal exactly when the steerings are equal."""
        text = "\n".join(
            f"{i.dictionary}\t{i.feature}\t{i.strength!r}\t{i.mode}\t{i.source}" for i in self.interventions
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[Intervention]:
        return iter(self.interventions)

    def __len__(self) -> int:
        return len(self.interventions)

    def to_json(self) -> list[dict[str, object]]:
        return [
            {
                "dictionary": i.dictionary,
                "feature": i.feature,
                "strength": i.strength,
                "mode": i.mode,
                "source": i.source,
            }
            for i in self.interventions
        ]

    @classmethod
    def from_json(cls, rows: Iterable[dict[str, object]]) -> Steering:
        return cls.of(*(Intervention(**row) for row in rows))  # type: ignore[arg-type]


NO_STEERING = Steering()
