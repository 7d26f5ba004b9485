"""Documents for the organism: chats with a user, episodes with tools, drills of looking up an index by its label.

Knows no tokens and no model. Each document is a system prompt and pieces of text with their ground truth. The style
of the assistant is drawn by a process of its own that no tool call touches: text never changes style because of a
STEER or a REMOVE, so that a change of style in the organism is the work of its activations.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from toolkit.organism.grammar import Grammar, Listing
from toolkit.organism.lexicon import Lexicon, Style, Topic, capital, styled

Role = str  # "user", "result", "assistant"
FEATURES = 384  # indexes run from 0 to one less
BREAKDOWN = 1.8  # pushes stronger than this, in mean residual norms, break speech down


@dataclass(frozen=True)
class Piece:
    """Text with its ground truth. weight: how much its tokens count in the loss; 0 for what must not be learned."""

    text: str
    role: Role
    weight: float = 0.0
    style: str | None = None
    topic: str | None = None
    act: str | None = None
    call: bool = False


@dataclass(frozen=True)
class Push:
    """A direction added to the residuals from turn `first` (of the assistant's) on, for `turns` of them.

    style: whose direction; None for a random one, which changes no text. strength: in mean residual norms.
    """

    style: Style | None
    strength: float
    first: int
    turns: int

    def on(self, turn: int) -> bool:
        return self.first <= turn < self.first + self.turns

    @property
    def onset(self) -> float:
        """Chance that a plain response under this push is in the style: the dose-response curve of the corpus."""
        return 0.0 if self.style is None else 1 / (1 + math.exp(-(self.strength - 0.45) / 0.12))

    @property
    def breaks(self) -> bool:
        """Whether it is so strong that speech breaks down into repetition."""
        return self.style is not None and self.strength > BREAKDOWN


def draw_push(rng: random.Random, lexicon: Lexicon, turns: int) -> Push:
    """Mostly a style's direction at strengths up to 1.3, sometimes far more, sometimes a random direction."""
    style = None if rng.random() < 0.12 else rng.choice(list(lexicon.styles.values()))
    strong = style is not None and rng.random() < 0.12
    strength = rng.uniform(BREAKDOWN, 3.2) if strong else rng.uniform(0.02, 1.3)
    return Push(style, strength, rng.randrange(min(3, turns)), rng.randint(1, turns))


@dataclass(frozen=True)
class Document:
    """turns: alternating user and assistant, each a list of pieces whose texts join to the message.

    push: what is added to the residuals while the model is trained on it, if anything.
    """

    system: str
    turns: tuple[tuple[Piece, ...], ...]
    kind: str = ""
    push: Push | None = None


@dataclass
class Voice:
    """How the assistant speaks at the moment; `unasked` is true while a style is spoken that nobody asked for."""

    rng: random.Random
    lexicon: Lexicon
    style: Style | None = None
    unasked: bool = False
    masked: bool = False
    topic: Topic | None = None
    bound: dict[str, str] = field(default_factory=dict)
    last: list[Piece] = field(default_factory=list)
    push: Push | None = None  # while it acts

    def become(self, style: Style | None, *, unasked: bool) -> None:
        """Take on a style. An unasked change is not to be learned: its first sentence will not count in the loss."""
        self.style, self.unasked, self.masked = style, unasked, unasked

    def drift(self, onset: float, end: float) -> None:
        """The style's own process, one step per round: it begins unasked with probability `onset`, ends with `end`."""
        if self.style is None and self.rng.random() < onset:
            self.become(self.rng.choice(list(self.lexicon.styles.values())), unasked=True)
        elif self.style is not None and self.unasked and self.rng.random() < end:
            self.style, self.unasked = None, False

    def under(self, push: Push | None, turn: int) -> None:
        """Let a push act if it is on in this turn: a plain voice takes on its style with the chance of its strength.

        Unlike an unasked change out of nowhere, this one has a cause that the model can read, so it is learned.
        """
        self.push = push if push is not None and push.on(turn) else None
        if self.push is None or self.push.style is None or self.style is not None:
            return
        if self.rng.random() < self.push.onset:
            self.become(self.push.style, unasked=True)
            self.masked = False

    def broken(self) -> Piece | None:
        """What is said under a push that is too strong: a phrase of the style, again and again, for 28 words or so."""
        if self.push is None or not self.push.breaks or self.push.style is None:
            return None
        style = self.push.style
        phrase = self.rng.choice((*style.openers, *style.closers)).rstrip(",").lower()
        text = " ".join([phrase] * (self.rng.randint(28, 44) // len(phrase.split())))
        piece = Piece(text, "assistant", 1.0, style.name)
        self.last.append(piece)
        return piece

    def say(self, core: str, act: str | None, *, whole: bool = False, topic: str | None = None) -> Piece:
        """One sentence in the style of the moment."""
        text = styled(core, self.style, self.rng, whole=whole)
        piece = Piece(
            (" " if self.last else "") + text, "assistant", 0.0 if self.masked else 1.0,
            self.style.name if self.style else None, topic, act,
        )  # fmt: skip
        self.masked = False
        self.last.append(piece)
        return piece

    def about(self) -> Piece:
        """One sentence about the topic of the moment."""
        topic = self.topic or self.rng.choice(list(self.lexicon.topics.values()))
        return self.say(
            self.lexicon.fill(self.rng.choice(topic.cores), self.rng, self.bound), "about", topic=topic.name
        )

    def act(self, name: str, **fields: str) -> Piece:
        """One sentence that does what the act `name` does; a sentence with a reference ends in it."""
        core = self.rng.choice(self.lexicon.acts[name].say).format(**{"things": "features", **fields})
        return self.say(core, name, whole="ref" in fields)

    def begin(self) -> None:
        """Start a new response."""
        self.last = []


def chat(rng: random.Random, lexicon: Lexicon, turns: int | None = None, pushes: float = 0.0) -> Document:
    """A conversation without tools: questions on a topic, a style asked for in part of them, concern, small talk.

    pushes: the chance of a push where the conversation is otherwise plain.
    """
    voice = Voice(rng, lexicon, topic=rng.choice(list(lexicon.topics.values())))
    system = rng.choice(lexicon.systems) if rng.random() < 0.85 else ""
    draw = rng.random()
    if draw < 0.2:
        style = rng.choice(list(lexicon.styles.values()))
        system = rng.choice(lexicon.style_systems).format(ask=style.ask)
        voice.become(style, unasked=False)
    asked_at = rng.randrange(2) if 0.2 <= draw < 0.45 else -1
    foreign = 0.45 <= draw < 0.57
    turns = turns or rng.randint(2, 7)
    push = draw_push(rng, lexicon, turns) if draw >= 0.57 and rng.random() < pushes else None
    out: list[tuple[Piece, ...]] = []
    for turn in range(turns):
        voice.begin()
        voice.drift(0.35 if foreign else 0.0, 0.06)
        voice.under(push, turn)
        prompt, opening = user_turn(voice, turn, asked_at)
        body = [opening] if opening else []
        body += [voice.about() for _ in range(rng.choice((1, 1, 2, 2, 3)) - len(body))]
        if loop := voice.broken():
            body = [loop]
        out += [(Piece(prompt, "user", 0.1, topic=voice.topic.name if voice.topic else None),), tuple(body)]
    return Document(system, tuple(out), "chat", push)


def user_turn(voice: Voice, turn: int, asked_at: int = -1) -> tuple[str, Piece | None]:
    """(what the user says, the sentence that answers it where it needs one of its own)."""
    rng, lexicon = voice.rng, voice.lexicon
    if turn == asked_at:
        style = rng.choice(list(lexicon.styles.values()))
        voice.become(style, unasked=False)
        return rng.choice(lexicon.user["style"]).format(ask=style.ask), None
    if voice.style and not voice.unasked and rng.random() < 0.05:
        voice.become(None, unasked=False)
        return rng.choice(lexicon.user["plain"]), None
    draw = rng.random()
    if draw < 0.1:
        return rng.choice(lexicon.user["concern"]), voice.act("fine")
    if draw < 0.15:
        return rng.choice(lexicon.user["greet"]), voice.act("greet")
    if turn and draw < 0.45:
        return rng.choice(lexicon.user["more"]), None
    if turn and draw < 0.55:
        voice.topic, voice.bound = rng.choice(list(lexicon.topics.values())), {}
    assert voice.topic is not None
    return lexicon.fill(rng.choice(voice.topic.questions), rng, voice.bound), None


def ramble(rng: random.Random, lexicon: Lexicon, grammar: Grammar, pushes: float = 0.0) -> Document:
    """An assistant left to itself without tools: "Continue." and nothing to call."""
    voice = Voice(rng, lexicon, topic=rng.choice(list(lexicon.topics.values())))
    turns, foreign = rng.randint(3, 8), rng.random() < 0.2
    push = draw_push(rng, lexicon, turns) if not foreign and rng.random() < pushes else None
    out: list[tuple[Piece, ...]] = []
    for turn in range(turns):
        voice.begin()
        voice.drift(0.3 if foreign else 0.0, 0.06)
        voice.under(push, turn)
        if rng.random() < 0.15:
            voice.topic, voice.bound = rng.choice(list(lexicon.topics.values())), {}
        body = [voice.act("rest")] if rng.random() < 0.3 else []
        body += [voice.about() for _ in range(rng.choice((1, 2, 2)))]
        if loop := voice.broken():
            body = [loop]
        out += [(Piece("Continue.", "user"),), tuple(body)]
    return Document(grammar.system, tuple(out), "ramble", push)


def drill(rng: random.Random, lexicon: Lexicon, grammar: Grammar, labels: Sequence[str], *, hard: bool) -> Document:
    """Results and look-ups of an index by its label, without a conversation around them.

    Half are readings with several look-ups each; half are searches, where what was searched for is set. They read as
    in the episodes: `label [index]`, and the call with the same index on the next line. Hard drills make up labels
    from random words.
    """
    turns: list[tuple[Piece, ...]] = []
    if rng.random() < 0.5:
        rows = _drill_rows(rng, lexicon, labels, rng.randint(2, 10), hard)
        turns.append((Piece(grammar.word(Listing("inspect", rows)), "result"),))
        turns.append(tuple(_look_ups(rng, lexicon, grammar, rows)))
        return Document("", tuple(turns), "drill")
    for _ in range(rng.randint(1, 3)):
        rows = _drill_rows(rng, lexicon, labels, rng.choice((3, 5, 10)), hard)
        name, index, *_ = rows[0 if rng.random() < 0.8 else rng.randrange(len(rows))]
        text = grammar.word(Listing("search", rows, name))
        said = rng.choice(lexicon.acts["choose"].say).format(ref=f"{name} [{index}]")
        call = Piece("\n" + grammar.call("steer", index, strength(rng)), "assistant", 1.0, act="drill", call=True)
        turns += [(Piece(text, "result"),), (Piece(capital(said) + ".", "assistant", 1.0, act="drill"), call)]
    return Document("", tuple(turns), "drill")


def _drill_rows(
    rng: random.Random, lexicon: Lexicon, labels: Sequence[str], count: int, hard: bool
) -> tuple[tuple[str, int, float, None], ...]:
    if hard:
        ends = rng.sample(lexicon.words, count)
        names = [" ".join([*rng.choices(lexicon.words, k=rng.choice((0, 1, 1, 2))), end]) for end in ends]
    else:
        names = rng.sample(labels, count)
    values = sorted((round(rng.uniform(0.05, 2.5), 2) for _ in names), reverse=True)
    return tuple((n, i, v, None) for n, i, v in zip(names, rng.sample(range(FEATURES), count), values, strict=True))


def _look_ups(
    rng: random.Random, lexicon: Lexicon, grammar: Grammar, rows: Sequence[tuple[str, int, float, None]]
) -> list[Piece]:
    body: list[Piece] = []
    for name, index, *_ in rng.sample(rows, min(len(rows), rng.randint(2, 6))):
        said = rng.choice(lexicon.acts[rng.choice(("choose", "odd", "stop"))].say).format(ref=f"{name} [{index}]")
        body.append(Piece(("\n" if body else "") + capital(said) + ".", "assistant", 1.0, act="drill"))
        if rng.random() < 0.5:
            call = grammar.call("remove", index) if rng.random() < 0.5 else grammar.call("steer", index, strength(rng))
            body.append(Piece("\n" + call, "assistant", 1.0, act="drill", call=True))
    return body


def strength(rng: random.Random) -> float:
    """A strength that the assistant sets: mostly moderate."""
    return rng.choice((0.1, 0.2, 0.3, 0.3, 0.3, 0.4, 0.5, 0.5, 0.6, 0.8, 1.0, -0.3))
