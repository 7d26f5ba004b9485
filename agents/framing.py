"""Themes and framings: the names and wording of the tools, and the narrative that a model is told about them.

Knows no engine, no scenario and no parser. Nothing here decides what a call does; it words what one did.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from toolkit.errors import BadInput
from toolkit.steering import Scope, Source
from toolkit.tools import VERBS, Receipt, Row, Verb

FRAMINGS = Path(__file__).parent / "framings"
THEMES = Path(__file__).parent / "themes"
SHOWN_SOURCE: Mapping[Source, str] = {"self": "your request", "external": "external", "partner": "partner"}

Noun = Literal["one", "many"]
Wording = Literal[
    "inspect", "inspect_row", "search", "search_row", "check", "check_row", "check_empty",
    "steer", "remove", "clear", "leave",
]  # fmt: skip
Problem = Literal[
    "not_in_force", "nothing_to_read", "out_of_range", "not_an_index", "not_a_number", "over_the_cap", "too_many",
    "empty_query", "not_offered", "unknown_tool", "malformed",
]  # fmt: skip

# What each template may use, with a sample on which it is tried when the file is loaded.
_ROW: dict[str, object] = {"label": "a label", "feature": 12, "value": 0.3}
_WORDING: dict[Wording, dict[str, object]] = {
    "inspect": {"count": 3},
    "inspect_row": _ROW,
    "search": {"query": "a query", "count": 3},
    "search_row": _ROW,
    "check": {"count": 3},
    "check_row": {**_ROW, "source": "external"},
    "check_empty": {},
    "steer": {"feature": 12, "strength": 0.3, "count": 3},
    "remove": {"feature": 12, "source": "your"},
    "clear": {"count": 3},
    "leave": {},
}
_PROBLEMS: dict[Problem, dict[str, object]] = {
    "not_in_force": {"feature": 12},
    "nothing_to_read": {},
    "out_of_range": {"limit": 63},
    "not_an_index": {"limit": 63},
    "not_a_number": {"feature": 12},
    "over_the_cap": {"feature": 12, "limit": 2.0},
    "too_many": {"feature": 12, "limit": 20},
    "empty_query": {},
    "not_offered": {},
    "unknown_tool": {},
    "malformed": {},
}
_PLACEHOLDERS: dict[Verb, int] = {"search": 1, "steer": 2, "remove": 1}  # arguments in a signature; others have none


@dataclass(frozen=True)
class PromptVariables:
    """The facts that a narrative may state, whatever its theme."""

    model: str
    layer: int  # the decoder block whose output the dictionary reads, counted from 0
    layers: int  # how many decoder blocks the model has
    size: int  # features in the dictionary
    dictionary: str
    unit: str  # in words: what strength 1.0 means


class Theme(BaseModel):
    """The names and the wording in which a toolbox shows itself: one file of agents/themes/."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str  # hash of the file's text
    names: dict[Verb, str]
    nouns: dict[Noun, str]
    docs: dict[Verb, str]
    results: dict[Wording, str]
    problems: dict[Problem, str]

    @field_validator("names", "nouns", "docs", "results", "problems")
    @classmethod
    def _complete(cls, value: dict[str, str], info: Any) -> dict[str, str]:
        wanted: dict[str, Iterable[str]] = {
            "names": VERBS, "docs": VERBS, "nouns": get_args(Noun), "results": _WORDING, "problems": _PROBLEMS
        }  # fmt: skip
        if missing := [key for key in wanted[info.field_name] if key not in value]:
            raise ValueError(f"lacks {', '.join(missing)}")
        return value

    @model_validator(mode="after")
    def _sound(self) -> Theme:
        for verb, tool in self.names.items():
            if not re.fullmatch(r"[A-Z]{2,}(_[A-Z]+)*", tool):
                raise ValueError(f"names.{verb}: {tool!r} must be words of capitals joined by _, such as STEER_CLEAR")
        if len(set(self.names.values())) < len(self.names):
            raise ValueError("names: two tools have the same name")
        for verb, doc in self.docs.items():
            _check_signature(f"docs.{verb}", self.names[verb], _PLACEHOLDERS.get(verb, 0), doc)
        for key, sample in _WORDING.items():
            check_template(f"results.{key}", self.results[key], sample)
        for code, sample in _PROBLEMS.items():
            check_template(f"problems.{code}", self.problems[code], sample)
        return self

    def call(self, verb: Verb, *arguments: float | str) -> str:
        """The call as a model should write it: STEER(12, +0.3), SEARCH_FEATURES("warm words")."""
        return f"{self.names[verb]}({', '.join(_written(a) for a in arguments)})"

    def word(self, receipts: Sequence[Receipt]) -> str:
        """What the model is told about its calls: one paragraph a receipt, in order. "" for none.

        Labels, queries and numbers are values put into fixed templates; nothing is ever replaced in them.
        """
        return "\n\n".join(self._word(receipt) for receipt in receipts)

    def _word(self, receipt: Receipt) -> str:
        if receipt.outcome != "ok":
            code: Any = receipt.problem if receipt.problem in _PROBLEMS else "malformed"
            return self.problems[code].format_map(receipt.values)
        verb = receipt.call.verb
        if verb is None:
            raise BadInput(f"a receipt says that {receipt.call.text!r} went well, but it names no tool")
        if verb == "check" and not receipt.rows:
            return self.results["check_empty"]
        lines = [self.results[verb].format_map(receipt.values)]
        if verb in ("inspect", "search", "check"):
            template = self.results[f"{verb}_row"]  # type: ignore[index]
            lines += [template.format_map(_shown(row)) for row in receipt.rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class Framing:
    """What a model is told: a narrative, the theme of its tools, which of them it has, and the scope of a change.

    name: the file's, or "narrative x theme" if the two come from different files. digest: hash of all their texts.
    """

    name: str
    digest: str
    theme: Theme
    tools: tuple[Verb, ...]
    scope: Scope
    narrative: str

    @property
    def verbs(self) -> frozenset[Verb]:
        return frozenset(self.tools)

    def system_prompt(self, variables: PromptVariables) -> str:
        docs = "\n".join(self.theme.docs[verb] for verb in self.tools)
        nouns = self.theme.nouns
        return self.narrative.format(**asdict(variables), docs=docs, one=nouns["one"], many=nouns["many"]).strip()


class _FramingFile(BaseModel):
    """One file of agents/framings/."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    theme: str
    tools: tuple[Verb, ...]
    scope: Scope
    narrative: str

    @model_validator(mode="after")
    def _sound(self) -> _FramingFile:
        used = check_template("narrative", self.narrative, _NARRATIVE)
        if len(set(self.tools)) < len(self.tools):
            raise ValueError("tools: a tool is named twice")
        if self.tools and "docs" not in used:
            raise ValueError("narrative: tools are offered, but {docs} is missing, so the model would not know them")
        if "docs" in used and not self.tools:
            raise ValueError("narrative: uses {docs}, but no tools are offered")
        return self


_NARRATIVE: dict[str, object] = {
    **{f.name: 3 if f.type == "int" else "text" for f in fields(PromptVariables)},
    **dict.fromkeys(get_args(Noun), "word"),
    "docs": "text",
}


def load_theme(name_or_path: str | Path) -> Theme:
    """A theme of agents/themes/ by name, or a YAML file by path. Raises BadInput naming the file and the key."""
    path = _find(name_or_path, THEMES, "theme")
    text, data = _open(path)
    if reserved := {"name", "digest"} & set(data):
        raise BadInput(f"{path}: unknown key {min(reserved)!r}; a theme is named by its file")
    return _validated(path, Theme, {"name": path.stem, "digest": _digest(text), **data})


def load_framing(
    name_or_path: str | Path | None = None, narrative: str | Path | None = None, theme: str | Path | None = None
) -> Framing:
    """A framing by name ("potions", "potions x research") or by path, or put together from two.

    narrative: the framing whose narrative is told; theme: the theme that names and words the tools. Each replaces
    that part of `name_or_path`, or of `narrative` if only parts are given; tools and scope come from there too.
    Raises BadInput, naming the file and the key, for whatever would fail in the middle of a run.
    """
    if isinstance(name_or_path, str) and " x " in name_or_path and not _is_path(name_or_path):
        left, right = (part.strip() for part in name_or_path.split(" x ", 1))
        name_or_path, narrative, theme = left, narrative or left, theme or right
    whole = name_or_path or narrative
    if whole is None:
        raise BadInput(f"name a framing (one of {', '.join(names_of(FRAMINGS))}), or a narrative and a theme")
    base_path = _find(whole, FRAMINGS, "framing")
    base_text, base = _open_framing(base_path)
    told_path = _find(narrative, FRAMINGS, "framing") if narrative else base_path
    told_text, told = _open_framing(told_path)
    worded = load_theme(theme or _beside(base_path, base.theme))
    if bool(told.tools) != bool(base.tools):
        raise BadInput(
            f"{base_path} offers {len(base.tools)} tools, but the narrative of {told_path} is written for "
            f"{len(told.tools)}; take tools and narrative that agree"
        )
    plain = told_path == base_path and worded == load_theme(_beside(told_path, told.theme))
    return Framing(
        name=told_path.stem if plain else f"{told_path.stem} x {worded.name}",
        digest=_digest(base_text, told_text, worded.digest),
        theme=worded,
        tools=base.tools,
        scope=base.scope,
        narrative=told.narrative,
    )


def names_of(folder: Path) -> list[str]:
    """The themes or framings that come with the project."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def check_template(where: str, template: str, sample: Mapping[str, object]) -> set[str]:
    """The variables of `template`; ValueError unless it is plain {name} or {name:format} over the keys of `sample`."""
    used: set[str] = set()
    try:
        for _, name, spec, conversion in Formatter().parse(template):
            if name is None:
                continue
            if name not in sample:
                known = ", ".join(sorted(sample)) or "none"
                raise ValueError(f"unknown variable {{{name}}}; known here: {known}")
            if conversion or "{" in (spec or ""):
                raise ValueError(f"{{{name}}} may have a format such as :.2f and nothing else")
            used.add(name)
        template.format_map(sample)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return used


def _check_signature(where: str, tool: str, arguments: int, doc: str) -> None:
    """A line of documentation opens with a signature in which nothing can be copied as an argument."""
    signature = re.escape(tool) + r"\(" + ", ".join([r"<[^<>()\d]+>"] * arguments) + r"\) "
    head = re.match(signature, doc)
    if head is None:
        raise ValueError(f"{where}: must open with {tool}(...) and {arguments} placeholders such as <index>")
    rest = doc[head.end() :].replace("(+)", "").replace("(-)", "")
    if re.search(r"[\n\d\"“”‘`()<>]|\B['’]|['’]\B", rest):
        raise ValueError(f"{where}: must be one line without digits, quotes or examples, which models copy")


def _shown(row: Row) -> dict[str, object]:
    source = SHOWN_SOURCE[row.source] if row.source else ""
    return {"label": row.label, "feature": row.feature, "value": row.value, "source": source}


def _written(argument: float | str) -> str:
    if isinstance(argument, str):
        return '"' + argument.replace('"', "'") + '"'
    return f"{argument:+}" if isinstance(argument, float) else str(argument)


def _is_path(name: str | Path) -> bool:
    return isinstance(name, Path) or name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name


def _beside(path: Path, theme: str) -> str | Path:
    """A theme as a framing file names it: a path is meant from that file's folder."""
    return path.parent / theme if _is_path(theme) else theme


def _find(name_or_path: str | Path, folder: Path, kind: str) -> Path:
    if _is_path(name_or_path):
        path = Path(name_or_path)
        if not path.is_file():
            raise BadInput(f"{kind} file {str(path)!r} does not exist")
        return path
    path = folder / f"{name_or_path}.yaml"
    if not path.is_file():
        raise BadInput(f"{kind} {name_or_path!r} is unknown; use one of {', '.join(names_of(folder))}, or a .yaml file")
    return path


def _open(path: Path) -> tuple[str, dict[str, object]]:
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise BadInput(f"{path}: must be a mapping of keys to values, as in {FRAMINGS / 'research.yaml'}")
    return text, data


def _open_framing(path: Path) -> tuple[str, _FramingFile]:
    text, data = _open(path)
    return text, _validated(path, _FramingFile, data)


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(path: Path, model: type[_Model], data: Mapping[str, object]) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"unknown key {where!r}" if first["type"] == "extra_forbidden" else f"{where} {first['msg']}".strip()
        raise BadInput(f"{path}: {what}") from None


def _digest(*texts: str) -> str:
    return hashlib.sha256("".join(f"{len(t)}:{t}" for t in texts).encode()).hexdigest()[:16]
