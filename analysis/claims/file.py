"""The form of a file of claims, and its door: each published number, and the queries that recompute it.

Knows no transcript. A file is read whole or refused: unknown keys, sets, metrics and verdicts are errors.

    study: which study; about: what its data are and where they lie; near: tolerance of the verdict `near` (0.05)
    sets:                       rollouts by name, so that claims need not repeat them
      exp1: {condition: [a, b]}
    claims:
      - id: degeneration        unique
        text: one line, in our words; {framing} stands for the level where `each` is used
        source: where it was published
        published: 8            a number (its digits count), "8/15", "<0.05"; or a value per level of `each`
        unit: percent           percent, thousand and hours (of seconds) scale; any other word is only printed
        each: framing           one claim per level of this column of rollouts: degeneration/research, ...
        of: exp1                a set; where: {column: value or list} more filters; both can stand at a definition too
        definitions:
          - by: study           study: as its authors defined it, as far as that is known; ours: what we would use
            metric: degenerate_same_index@1       a row per rollout; with aggregate, parameters, over, against
            aggregate: share
            expected: exact     the verdict to be found, or one per level; none where nobody has computed it yet
            found: "4/50"       optional: what was found when the file was written, digits count; or one per level
            note: what is wrong with it, or right
            instead: true       another quantity that answers the question better: shown beside it, no verdict
          - {by: ours, statistic: NAME@VERSION, parameters: {...}, expected: no}     an Estimate straight from frames
          - {by: study, none: why nothing in the data gives this number}             always undefined
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from analysis.claims import aggregates, queries
from analysis.claims.verdict import NEAR, Published, Verdict, published
from toolkit.errors import BadInput

FOLDER = Path(__file__).parent
SCALES = {"percent": 100.0, "thousand": 1e-3, "hours": 1 / 3600}
"""Units of published values by what metrics give; any other unit is only printed."""
Scalar = str | int | float | bool
Filters = dict[str, Scalar | list[Scalar]]
Levels = dict[str, Any]


class Definition(BaseModel):
    """One way to compute a claimed number.

    where, against: filters on columns of rollouts; `facts.x` and `parameters.x` look into those columns. against: the
    other group of a comparison, by what differs from `where`. rounds: first and last round that count. cut_off:
    whether rollouts that broke off count like others (`counted`, as studies do) or are missing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    by: Literal["study", "ours"]
    metric: str | None = None
    statistic: str | None = None
    none: str | None = None
    aggregate: str | None = None
    over: str | None = None
    over_parameters: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)
    of: str | None = None
    where: Filters = Field(default_factory=dict)
    against: Filters = Field(default_factory=dict)
    across: str | None = None
    rounds: tuple[int, int] | None = None
    cut_off: Literal["counted", "missing"] = "counted"
    expected: Verdict | dict[str, Verdict] | None = None
    found: Scalar | dict[str, Scalar] | None = None
    note: str = ""
    instead: bool = False

    @field_validator("expected", "found", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        """YAML reads a bare `no` as false."""
        if isinstance(value, dict):
            return {str(k): "no" if v is False else v for k, v in value.items()}
        return "no" if value is False else value

    @model_validator(mode="after")
    def _one_query(self) -> Definition:
        given = [k for k in ("metric", "statistic", "none") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError("give one of metric, statistic and none")
        if (self.none is not None or self.instead) and self.expected not in (None, "undefined"):
            raise ValueError("what no query gives, or what is another quantity, has no verdict; leave `expected` out")
        if self.none is not None:
            return self
        if self.metric is not None:
            if self.aggregate not in aggregates.AGGREGATES:
                raise ValueError(
                    f"aggregate {self.aggregate!r} is unknown; use one of {', '.join(aggregates.AGGREGATES)}"
                )
            needs = aggregates.AGGREGATES[self.aggregate].needs
            for key in ("over", "against", "across"):
                if (key in needs) and not getattr(self, key):
                    raise ValueError(f"aggregate {self.aggregate} needs `{key}`")
                if getattr(self, key) and key not in aggregates.AGGREGATES[self.aggregate].takes:
                    raise ValueError(f"aggregate {self.aggregate} has no use for `{key}`")
            queries.fits(queries.metric(self.metric), 1, self.parameters)
            if self.over is not None:
                queries.fits(queries.metric(self.over), 1, self.over_parameters)
        elif self.statistic is not None:
            queries.fits(queries.statistic(self.statistic), 2 if self.against else 1, self.parameters)
            if self.aggregate or self.over or self.across:
                raise ValueError("aggregate, over and across belong to a metric; a statistic is an estimate already")
        return self

    def expects(self, level: str | None) -> Verdict | None:
        """The verdict that the file foretells, if it does."""
        return self.expected[level or ""] if isinstance(self.expected, dict) else self.expected

    def was(self, level: str | None) -> Published | None:
        """What was found when the file was written, if it says so."""
        text = self.found.get(level or "") if isinstance(self.found, dict) else self.found
        return None if text is None else published(text)


class _Claim(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    text: str
    source: str
    published: Scalar | dict[str, Scalar]
    unit: str = ""
    near: float | None = None
    each: str | None = None
    of: str | None = None
    where: Filters = Field(default_factory=dict)
    definitions: list[Definition]

    @model_validator(mode="after")
    def _levels(self) -> _Claim:
        if isinstance(self.published, dict) != (self.each is not None):
            raise ValueError("a value per level needs `each`, and `each` a value per level")
        levels = set(self.published) if isinstance(self.published, dict) else set[str]()
        for value in self.published.values() if isinstance(self.published, dict) else [self.published]:
            published(value)
        for d in self.definitions:
            if isinstance(d.expected, dict) and set(d.expected) != levels:
                raise ValueError(f"expected verdicts for {sorted(d.expected)}, published values for {sorted(levels)}")
            if isinstance(d.found, dict) and set(d.found) - levels:
                raise ValueError(f"found values for {sorted(set(d.found) - levels)}, which were not published")
            for level in levels or {""}:
                d.was(level)
        if not self.definitions:
            raise ValueError("a claim without definitions recomputes nothing; say `none: why` at least")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    study: str
    about: str
    near: float = NEAR
    sets: dict[str, Filters] = Field(default_factory=dict)
    claims: list[_Claim]

    @model_validator(mode="after")
    def _known(self) -> _File:
        ids = [c.id for c in self.claims]
        if twice := {i for i in ids if ids.count(i) > 1}:
            raise ValueError(f"claim {min(twice)} stands twice")
        for c in self.claims:
            for name in (c.of, *(d.of for d in c.definitions)):
                if name is not None and name not in self.sets:
                    raise ValueError(f"claim {c.id}: set {name!r} is unknown; the file has {', '.join(self.sets)}")
        return self


class Claim(BaseModel):
    """One published number: a claim of the file at one level."""

    model_config = ConfigDict(frozen=True)
    id: str
    text: str
    source: str
    published: Published
    unit: str
    near: float
    each: str | None
    level: str | None
    definitions: tuple[Definition, ...]
    filters: tuple[Mapping[str, Any], ...]
    """Of each definition: set, claim, level and definition in one."""

    @property
    def scale(self) -> float:
        return SCALES.get(self.unit, 1.0)


class Study(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: str
    study: str
    about: str
    claims: tuple[Claim, ...]


def read(name_or_path: str | Path) -> Study:
    """The claims of a file, one per published number. A bare name is a study that ships here. Raises BadInput."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
        if not path.exists():
            there = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
            raise BadInput(f"no claims of {str(name_or_path)!r} ship here; use one of {there}, or a .yaml file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        file = _File.model_validate(data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path.name} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path.name}: {_place(data, first['loc'])}: {first['msg']}") from error
    return Study(name=path.stem, study=file.study, about=file.about, claims=tuple(_claims(file)))


def _claims(file: _File) -> Iterator[Claim]:
    for c in file.claims:
        levels: Levels = c.published if isinstance(c.published, dict) else {"": c.published}
        for level, value in levels.items():
            here = {c.each: level} if c.each else {}
            filters = tuple(
                {**file.sets.get(d.of or c.of or "", {}), **c.where, **here, **d.where} for d in c.definitions
            )
            yield Claim(
                id=f"{c.id}/{level}" if c.each else c.id,
                text=c.text.replace(f"{{{c.each}}}", level) if c.each else c.text,
                source=c.source,
                published=published(value),
                unit=c.unit,
                near=file.near if c.near is None else c.near,
                each=c.each,
                level=level if c.each else None,
                definitions=tuple(c.definitions),
                filters=filters,
            )


def _place(data: Any, location: tuple[int | str, ...]) -> str:
    """Where in the file, with the claim by its id rather than its number."""
    words: list[str] = []
    for key in location:
        there = key in data if isinstance(data, dict) else isinstance(data, list) and isinstance(key, int)
        data = data[key] if there else None
        words.append(str(data["id"]) if isinstance(data, dict) and "id" in data else str(key))
    return " > ".join(words) or "the file"
