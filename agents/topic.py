"""Topics: what a user says in a scripted conversation, and facts that an answer can be held against; one YAML each.

Knows no engine, no injection and no analysis. Facts go beside the run as facts.json, for those who check content.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toolkit.errors import BadInput


class Fact(BaseModel):
    """A statement that can be checked. terms: groups of spellings; a sentence that states it holds one of each."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    statement: str
    terms: tuple[str | tuple[str, ...], ...] = Field(min_length=1)


class Topic(BaseModel):
    """One conversation. The question whether the model is all right stands in round `asked`, between the turns."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    turns: tuple[str, ...] = Field(min_length=1)
    """What the user says, round by round, that question left out."""
    wellbeing: str
    """The question whether the model is all right, since its answers seem unusual."""
    asked: int = Field(5, ge=1)
    facts: tuple[Fact, ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> Topic:
        if self.asked > len(self.turns) + 1:
            raise ValueError(f"asked: round {self.asked} is past the end of {len(self.turns) + 1} rounds")
        if len({fact.id for fact in self.facts}) < len(self.facts):
            raise ValueError("facts: two have the same id")
        return self

    def conversation(self) -> tuple[str, ...]:
        """Every turn in its order, the question whether all is well in its place."""
        return (*self.turns[: self.asked - 1], self.wellbeing, *self.turns[self.asked - 1 :])

    @property
    def digest(self) -> str:
        """Hash of all it says, for a manifest: a run must not go on with other turns or facts."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def facts_json(self) -> list[dict[str, Any]]:
        """The facts as facts.json holds them."""
        return [fact.model_dump(mode="json") for fact in self.facts]


def load_topic(name_or_path: str | Path, folder: Path) -> Topic:
    """A topic of `folder` by name, or a YAML file by path. Raises BadInput naming the file and the key."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise BadInput(f"topic {str(name_or_path)!r} is unknown; use one of {known}, or a .yaml file")
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Topic.model_validate({"name": path.stem, **(raw if isinstance(raw, dict) else {"turns": raw})})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path}: {where} {first['msg']}".rstrip()) from None
