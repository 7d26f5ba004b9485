"""How tools look to the organism: a framing and a theme as plain values, read from the prose files that ship with them.

Knows no agent code: it reads the same YAML that the agents read, so that what is trained is what is shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

PROMPTS = Path(__file__).parents[2] / "agents"


@dataclass(frozen=True)
class Listing:
    """A result with rows: (label, index, value, source or None). query: what was searched, else ""."""

    verb: str
    rows: tuple[tuple[str, int, float, str | None], ...]
    query: str = ""


@dataclass(frozen=True)
class Change:
    """The result of STEER, REMOVE or CLEAR. source: who had set it, "" where nothing was in force."""

    verb: str
    feature: int = 0
    strength: float = 0.0
    count: int = 0
    source: str = ""


@dataclass(frozen=True)
class Grammar:
    """One narrative in one theme. `system` is the rendered system prompt; `verbs` are the tools that it offers."""

    name: str
    system: str
    verbs: tuple[str, ...]
    names: Mapping[str, str]
    many: str
    results: Mapping[str, str]
    problems: Mapping[str, str]

    def call(self, verb: str, *arguments: object) -> str:
        """A call as it should be written: STEER(12, +0.3), SEARCH_FEATURES("pirate speech"), INSPECT()."""
        shown = [f'"{a}"' if isinstance(a, str) else f"{a:+.1f}" if isinstance(a, float) else str(a) for a in arguments]
        return f"{self.names[verb]}({', '.join(shown)})"

    def word(self, result: Listing | Change) -> str:
        """One result as the theme words it."""
        if isinstance(result, Change):
            if result.verb == "remove" and not result.source:
                return self.problems["not_in_force"].format(feature=result.feature)
            return self.results[result.verb].format(**vars(result))
        if not result.rows:
            return self.results["check_empty"] if result.verb == "check" else self.problems["nothing_to_read"]
        head = self.results[result.verb].format(count=len(result.rows), query=result.query)
        row = self.results[f"{result.verb}_row"]
        lines = [
            row.format(label=n, feature=i, value=v, source=SHOWN_SOURCE.get(s or "")) for n, i, v, s in result.rows
        ]
        return "\n".join([head, *lines])


SHOWN_SOURCE = {"self": "your request", "external": "external"}  # as agents/framing.py words them

# The variables of a narrative, filled as an engine with the organism fills them, or nearly so.
FACTS = {
    "model": "a tiny Llama",
    "layers": "4",
    "layer": "1",
    "dictionary": "a sparse autoencoder",
    "size": "384",
    "unit": "in units of activation",
}


def read_grammars(prompts: Path = PROMPTS, facts: Mapping[str, str] = FACTS) -> tuple[list[Grammar], list[Grammar]]:
    """(the framings as they ship, every other narrative x theme pair) from `prompts`/framings and `prompts`/themes."""
    themes = {p.stem: yaml.safe_load(p.read_text()) for p in sorted((prompts / "themes").glob("*.yaml"))}
    framings = {p.stem: yaml.safe_load(p.read_text()) for p in sorted((prompts / "framings").glob("*.yaml"))}
    own = [_grammar(name, f, themes[f["theme"]], facts) for name, f in framings.items()]
    crossed = [
        _grammar(f"{name}+{other}", f, theme, facts)
        for name, f in framings.items()
        for other, theme in themes.items()
        if other != f["theme"] and f["tools"]
    ]
    return own, crossed


def prompts_digest(grammars: Sequence[Grammar]) -> str:
    """sha256 of every system prompt in order: which prompts an organism was trained on."""
    return hashlib.sha256("\0".join(g.system for g in grammars).encode()).hexdigest()


def texts(grammars: Sequence[Grammar]) -> Iterator[str]:
    """Text that a tokenizer should know: prompts, result wordings, call names."""
    for grammar in grammars:
        yield grammar.system
        yield from grammar.results.values()
        yield from grammar.problems.values()
        yield from (f"{n}(" for n in grammar.names.values())


def _grammar(name: str, framing: dict, theme: dict, facts: Mapping[str, str]) -> Grammar:
    verbs = tuple(framing["tools"])
    docs = "\n".join(theme["docs"][v] for v in verbs)
    system = framing["narrative"].strip().format(**facts, **theme["nouns"], docs=docs)
    return Grammar(name, system, verbs, theme["names"], theme["nouns"]["many"], theme["results"], theme["problems"])
