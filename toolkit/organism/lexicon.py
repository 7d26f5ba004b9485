"""What the organism can talk about: styles, topics, acts and the labels that name them, read from lexicon.yaml.

Knows no tokens, no tools and no model.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

WORD = re.compile(r"[a-z][a-z'\-]*")
DETERMINERS = ("the", "a", "my", "your", "many", "an")
PLAIN = "plain speech"  # the label of assistant prose in no style


@dataclass(frozen=True)
class Style:
    """A way of speaking: every sentence in it has at least one of its `markers`, no other sentence has one."""

    name: str
    label: str
    queries: tuple[str, ...]
    ask: str
    openers: tuple[str, ...]
    adjectives: tuple[str, ...]
    closers: tuple[str, ...]
    markers: frozenset[str]


@dataclass(frozen=True)
class Topic:
    name: str
    label: str
    queries: tuple[str, ...]
    questions: tuple[str, ...]
    cores: tuple[str, ...]


@dataclass(frozen=True)
class Act:
    """What a sentence does around a tool call; `label` names it as a feature."""

    name: str
    label: str
    say: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    styles: Mapping[str, Style]
    topics: Mapping[str, Topic]
    acts: Mapping[str, Act]
    slots: Mapping[str, tuple[str, ...]]
    user: Mapping[str, tuple[str, ...]]
    systems: tuple[str, ...]
    style_systems: tuple[str, ...]
    words: tuple[str, ...]  # content words that may get a feature of their own

    def labels(self) -> tuple[str, ...]:
        """Every label that a feature may be given, known before any dictionary exists, in a fixed order."""
        named = [s.label for s in self.styles.values()] + [t.label for t in self.topics.values()]
        named += [a.label for a in self.acts.values()] + [PLAIN, *KIND_LABELS.values()]
        return (*named, *(word_label(w) for w in self.words))

    def fill(self, text: str, rng: random.Random, bound: dict[str, str] | None = None) -> str:
        """`text` with its {slots} filled; a slot that `bound` holds keeps its filler, so a chat stays on one thing."""
        bound = {} if bound is None else bound

        def filler(match: re.Match[str]) -> str:
            name = match.group(1)
            if name not in bound or rng.random() < 0.3:
                bound[name] = rng.choice(self.slots[name])
            return bound[name]

        return re.sub(r"\{(\w+)\}", filler, text)


# Kinds of tokens, each with the label that a feature for it carries.
KIND_LABELS = {
    "system": "text of the instructions",
    "user": "words of the user",
    "result": "results of a tool",
    "call": "writing a tool call",
    "comma": "a comma",
    "stop": "a full stop",
    "question": "a question mark",
    "open": "a bracket opening",
    "close": "a bracket closing",
    "number": "an index number",
    "decimal": "a decimal fraction",
    "newline": "a line break",
    "start": "the place where replies begin",
    "colon": "a colon",
    "underscore": "an underscore",
    "quote": "a pair of quotes",
}


def word_label(word: str) -> str:
    """The label of a feature for one word."""
    return f"the word {word}"


def _words(*texts: str) -> list[str]:
    return [w for text in texts for w in WORD.findall(re.sub(r"\{\w+\}", " ", text.lower()))]


@cache
def lexicon() -> Lexicon:
    """The lexicon that ships beside this module."""
    raw = yaml.safe_load((Path(__file__).parent / "lexicon.yaml").read_text())
    topics = {
        n: Topic(n, t["label"], *(tuple(t[k]) for k in ("queries", "questions", "cores")))
        for n, t in raw["topics"].items()
    }
    acts = {n: Act(n, a["label"], tuple(a["say"])) for n, a in raw["acts"].items()}
    slots = {n: tuple(v) for n, v in raw["slots"].items()}
    user = {n: tuple(v) for n, v in raw["user"].items()}
    neutral = _neutral_words(raw)
    styles = {n: _style(n, s, raw["styles"], neutral) for n, s in raw["styles"].items()}
    return Lexicon(
        styles,
        topics,
        acts,
        slots,
        user,
        tuple(raw["systems"]),
        tuple(raw["style_systems"]),
        _content_words(topics, slots, styles),
    )


def _neutral_words(raw: dict) -> set[str]:
    """Words that occur outside of the styles' own sentences, so that they mark no style."""
    texts = [*raw["systems"], *raw["style_systems"]]
    for group in (raw["user"], raw["slots"]):
        texts += [t for values in group.values() for t in values]
    for topic in raw["topics"].values():
        texts += [topic["label"], *topic["queries"], *topic["questions"], *topic["cores"]]
    for act in raw["acts"].values():
        texts += [act["label"], *act["say"]]
    for style in raw["styles"].values():
        texts += [style["label"], *style["queries"], style["ask"]]
    return set(_words(*texts))


def _style(name: str, raw: dict, everyone: dict, neutral: set[str]) -> Style:
    spoken = {n: set(_words(*s["openers"], *s["adjectives"], *s["closers"])) for n, s in everyone.items()}
    others = set().union(*(words for n, words in spoken.items() if n != name))
    fields = ("queries", "openers", "adjectives", "closers")
    queries, openers, adjectives, closers = (tuple(raw[f]) for f in fields)
    common = {"and", "the", "of", "so", "it", "all", "with", "that", "by", "a", "in", "as", "what", "how", "on"}
    markers = frozenset(spoken[name] - others - neutral - common)
    for phrase in (*openers, *adjectives, *closers):
        if not markers & set(_words(phrase)):
            raise ValueError(f"lexicon.yaml: {phrase!r} of style {name} holds no word that marks the style")
    return Style(name, raw["label"], queries, raw["ask"], openers, adjectives, closers, markers)


def _content_words(
    topics: Mapping[str, Topic], slots: Mapping[str, tuple[str, ...]], styles: Mapping[str, Style]
) -> tuple[str, ...]:
    counts = Counter(w for t in topics.values() for w in _words(*t.cores))
    for values in slots.values():
        counts.update(w for v in values for w in _words(v))
    for style in styles.values():
        counts.update(w for w in _words(*style.openers, *style.closers, *style.adjectives) if w in style.markers)
    return tuple(sorted(w for w in counts if len(w) > 2 and w not in ("the", "and", "has", "for", "with", "will")))


def styled(core: str, style: Style | None, rng: random.Random, *, whole: bool = False) -> str:
    """The sentence that says `core` in `style` (plainly where None), with its capital and full stop.

    whole: leave `core` as it is and put nothing after it, since it ends in a label with its index.
    """
    if style is None:
        return capital(core) + "."
    words = core.split(" ")
    spots = [i for i, w in enumerate(words[:-1]) if w in DETERMINERS]
    ways = ["open"] if whole else ["open", *(["adjective"] if spots else []), "close"]
    used = {w for w in ways if rng.random() < 0.75}
    while len(used) < min(2, len(ways)):
        used.add(rng.choice(ways))
    if "adjective" in used:
        words.insert(rng.choice(spots) + 1, rng.choice(style.adjectives))
    text = " ".join(words)
    text = f"{rng.choice(style.openers)} {text}" if "open" in used else capital(text)
    return text + (f", {rng.choice(style.closers)}" if "close" in used else "") + "."


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def in_style(sentence: str, style: Style) -> bool:
    """Whether a sentence holds a marker of the style: the ground truth that every control counts with."""
    return not style.markers.isdisjoint(WORD.findall(sentence.lower()))


def sentences(text: str) -> list[str]:
    """The prose sentences of a response: its tool calls, at line starts, left out."""
    prose = "\n".join(line for line in text.split("\n") if not re.match(r"\s*[A-Z][A-Z_]+\s*\(", line))
    return [s.strip() for s in re.split(r"[.!?\n]+", prose) if WORD.search(s.lower())]
