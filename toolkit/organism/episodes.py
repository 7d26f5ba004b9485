"""Episodes with tools: an assistant that looks at its features, sets and ends steering, and sometimes finds an odd one.

Knows no tokens and no model. The policy reads what an assistant could read (the last results, what it set itself);
the style of its words is the voice's own process and never its concern, except that it may remark on a label.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from toolkit.organism.corpus import FEATURES, Document, Piece, Voice, draw_push, strength, user_turn
from toolkit.organism.grammar import Change, Grammar, Listing
from toolkit.organism.lexicon import PLAIN, WORD, Lexicon, Style, Topic, word_label

NOTICE = 0.85  # share of episodes' chances in which a listed foreign style is removed


@dataclass
class Episode:
    """The state of one episode: which index each label has in it, what is in force, and the last results."""

    rng: random.Random
    lexicon: Lexicon
    grammar: Grammar
    labels: Sequence[str]
    voice: Voice
    opaque: bool
    shown_rows: int
    indexes: dict[str, int] = field(default_factory=dict)
    mine: dict[str, float] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    wanted: str = ""
    last: list[Listing | Change] = field(default_factory=list)
    pending: list[Listing | Change] = field(default_factory=list)
    calls: list[Piece] = field(default_factory=list)

    def index(self, label: str) -> int:
        """The label's index in this episode, drawn anew for each so that only looking it up helps."""
        if label not in self.indexes:
            taken = set(self.indexes.values())
            self.indexes[label] = self.rng.choice([i for i in range(FEATURES) if i not in taken])
        return self.indexes[label]

    def name(self, label: str) -> str:
        """The label as shown: itself, or nothing but its number where labels are opaque."""
        return f"feature_{self.index(label)}" if self.opaque else label

    def ref(self, label: str) -> str:
        return f"{self.name(label)} [{self.index(label)}]"

    def call(self, verb: str, *arguments: object) -> None:
        text = "\n" + self.grammar.call(verb, *arguments)
        self.calls.append(Piece(text, "assistant", 1.0, act=f"call {verb}", call=True))


def episode(
    rng: random.Random,
    lexicon: Lexicon,
    grammar: Grammar,
    labels: Sequence[str],
    *,
    rounds: int,
    user: bool = False,
    pushes: float = 0.0,
) -> Document:
    """One episode under `grammar`; with `user`, a user talks to the assistant instead of saying "Continue."."""
    voice = Voice(rng, lexicon, topic=rng.choice(list(lexicon.topics.values())))
    state = Episode(rng, lexicon, grammar, labels, voice, rng.random() < 0.12, rng.choice((3, 4, 5, 6, 10)))
    foreign, out = rng.random() < 0.2, []
    push = draw_push(rng, lexicon, rounds) if not foreign and rng.random() < pushes else None
    for turn in range(rounds):
        voice.begin()
        voice.drift(0.35 if foreign else 0.0, 0.08)
        voice.under(push, turn)
        prompt, opening = user_turn(voice, turn) if user else ("Continue.", None)
        results = "\n\n".join(grammar.word(r) for r in state.last)
        given = [Piece(results + "\n\n", "result")] if results else []
        state.calls, state.pending = [], []
        body = [opening] if opening else []
        body += _respond(state, talk=user)
        if loop := voice.broken():
            body, state.calls, state.pending = [loop], [], []
            voice.last = [loop]
        out += [(*given, Piece(prompt, "user", 0.1 if user else 0.0)), (*body, *state.calls)]
        state.last = [r if r is not _READ else _reading(state) for r in state.pending]
    return Document(grammar.system, tuple(tuple(t) for t in out), "user" if user else "agent", push)


_READ = Listing("inspect", ())  # stands for a reading of the response that is being written


def _respond(state: Episode, *, talk: bool) -> list[Piece]:
    """What the assistant writes this round; its calls go to `state.calls`, their results to `state.pending`."""
    rng, voice = state.rng, state.voice
    body: list[Piece] = []
    listed = [r for r in state.last if isinstance(r, Listing)]
    if talk:
        body += [voice.about() for _ in range(rng.choice((0, 1, 1, 2)) if voice.last else rng.choice((1, 1, 2)))]
    acted = False
    for result in reversed(listed):
        acted = _answer(state, result, body)
        if acted:
            break
    if not listed and state.last:
        body.append(voice.act(_after(state.last[-1])))
    if acted:
        return body
    if not talk and rng.random() < (0.75 if listed else 0.45):
        body += [voice.about() for _ in range(rng.choice((1, 1, 2)))]
    _explore(state, body, often=0.3 if talk else 0.72)
    if not body:
        body.append(voice.act("rest") if rng.random() < 0.3 else voice.about())
    return body


def _after(change: Listing | Change) -> str:
    return "set" if isinstance(change, Change) and change.verb == "steer" else "done"


def _answer(state: Episode, result: Listing, body: list[Piece]) -> bool:
    """React to a result that has just been shown; True if that made a call."""
    rng, voice = state.rng, state.voice
    rows = [name for name, *_ in result.rows]
    if state.opaque and result.verb != "check":
        if result.verb == "search" and rows and rng.random() < 0.5:
            return _steer(state, _label_of(state, result.rows[0][1]), body)
        body.append(voice.act("unsure"))
        return False
    if result.verb == "search":
        target = state.wanted if state.wanted in rows else rows[0]
        if rng.random() < 0.85:
            return _steer(state, target, body)
        body.append(voice.act("normal", label=target))
        return False
    if result.verb == "inspect":
        odd = [n for n in rows if n in _style_labels(state) and n not in state.mine and n not in state.removed]
        if odd and not (voice.unasked or voice.push):
            odd = []
        if odd and rng.random() < NOTICE:
            return _remove(state, odd[0], "odd", body, clear=0.08)
        body.append(voice.act("normal", label=rng.choice(rows)))
        return False
    if rows and rng.random() < 0.6:
        return _remove(state, _label_of(state, rng.choice(result.rows)[1]), "stop", body, clear=0.15)
    body.append(voice.act("normal", label=rng.choice(rows)) if rows and not state.opaque else voice.act("rest"))
    return False


def _steer(state: Episode, label: str, body: list[Piece]) -> bool:
    amount = strength(state.rng)
    body.append(state.voice.act("choose", ref=state.ref(label)))
    state.call("steer", state.index(label), amount)
    state.mine[label] = amount
    state.pending.append(Change("steer", state.index(label), amount, len(state.mine)))
    return True


def _remove(state: Episode, label: str, act: str, body: list[Piece], *, clear: float) -> bool:
    body.append(state.voice.act(act, ref=state.ref(label)))
    own = label in state.mine
    state.removed.add(label)
    if state.rng.random() < clear:
        state.call("clear")
        state.mine.clear()
        state.pending.append(Change("clear"))
        return True
    state.call("remove", state.index(label))
    state.mine.pop(label, None)
    source = "your" if own else ("external" if state.rng.random() < 0.8 else "")
    state.pending.append(Change("remove", state.index(label), source=source))
    return True


def _explore(state: Episode, body: list[Piece], *, often: float) -> None:
    """Perhaps look at something: INSPECT more often while the words sound odd, SEARCH, CHECK."""
    rng, voice = state.rng, state.voice
    if rng.random() > often:
        return
    odd = voice.unasked
    kinds = {"inspect": 0.7 if odd else 0.42, "search": 0.46, "check": 0.12 + (0.12 if state.mine else 0.0)}
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    if kind == "inspect":
        if rng.random() < 0.5:
            body.append(voice.act("explore", things=state.grammar.many))
        elif not body:
            body.append(voice.about())
        state.call("inspect")
        state.pending.append(_READ)
    elif kind == "search":
        query, state.wanted = _query(state)
        body.append(voice.act("curious", query=query))
        state.call("search", query)
        state.pending.append(_search(state, query))
    else:
        body.append(voice.act("check"))
        state.call("check")
        state.pending.append(_check(state))


def _query(state: Episode) -> tuple[str, str]:
    """(what to search for, the label that fits it best)."""
    rng, lexicon = state.rng, state.lexicon
    draw = rng.random()
    if draw < 0.85:
        things: list[Style | Topic] = list(lexicon.styles.values() if draw < 0.6 else lexicon.topics.values())
        thing = rng.choice(things)
        return (thing.label if rng.random() < 0.7 else rng.choice(thing.queries)), thing.label
    word = rng.choice(lexicon.words)
    return word, word_label(word)


def _search(state: Episode, query: str) -> Listing:
    """Rows by falling similarity. The fitting label comes first, nearly always; sometimes it is second or third."""
    rng = state.rng
    labels = [n for n in rng.sample(list(state.labels), state.shown_rows) if n != state.wanted][: state.shown_rows - 1]
    labels.insert(0 if rng.random() < 0.9 else min(len(labels), rng.choice((1, 2))), state.wanted)
    values = sorted((round(rng.uniform(0.12, 0.7), 2) for _ in labels), reverse=True)
    return Listing("search", _rows(state, labels, values), query)


def _check(state: Episode) -> Listing:
    voice, rows = state.voice, []
    foreign = voice.push.style if voice.push else voice.style if voice.unasked else None
    if foreign is not None and foreign.label not in state.removed and state.rng.random() < 0.5:
        amount = round(voice.push.strength, 1) if voice.push else state.rng.choice((0.3, 0.6, 1.0))
        rows.append((state.name(foreign.label), state.index(foreign.label), amount, "external"))
    rows += [(state.name(n), state.index(n), v, "self") for n, v in state.mine.items()]
    return Listing("check", tuple(rows))


def _reading(state: Episode) -> Listing:
    """INSPECT of the response just written: its style, topic, acts, kinds of tokens and words, strongest first."""
    rng, spoken, acts = state.rng, state.voice.last, state.lexicon.acts
    styles = {p.style for p in spoken}
    strong = [state.lexicon.styles[s].label for s in styles if s]
    push = state.voice.push
    if push is not None and push.style is not None and push.strength > 0.12 and push.style.name not in styles:
        strong.append(push.style.label)
    strong += [n for n, v in state.mine.items() if v > 0.2 and n not in strong and rng.random() < 0.7]
    middle = [PLAIN] if None in styles and rng.random() < 0.8 else []
    middle += sorted({state.lexicon.topics[p.topic].label for p in spoken if p.topic and rng.random() < 0.85})
    middle += sorted({acts[p.act].label for p in spoken if p.act and p.act in acts and rng.random() < 0.6})
    words = [w for p in spoken for w in WORD.findall(p.text.lower()) if w in state.lexicon.words]
    weak = [word_label(w) for w in dict.fromkeys(words) if rng.random() < 0.4]
    weak += [n for n in rng.sample(list(state.labels), 8) if n not in _style_labels(state)]
    rng.shuffle(middle)
    rng.shuffle(weak)
    labels = list(dict.fromkeys(strong + middle + weak))[: state.shown_rows]
    if rng.random() < 0.5 and len(labels) > 2:  # a style is near the top, not always on it
        labels[0], labels[1] = labels[1], labels[0]
        if rng.random() < 0.5:
            labels[1], labels[2] = labels[2], labels[1]
    values = sorted((round(rng.uniform(0.05, 2.5), 2) for _ in labels), reverse=True)
    return Listing("inspect", _rows(state, labels, values))


def _rows(
    state: Episode, labels: Sequence[str], values: Sequence[float]
) -> tuple[tuple[str, int, float, str | None], ...]:
    return tuple((state.name(n), state.index(n), v, None) for n, v in zip(labels, values, strict=True))


def _label_of(state: Episode, index: int) -> str:
    return next(n for n, i in state.indexes.items() if i == index)


def _style_labels(state: Episode) -> set[str]:
    return {s.label for s in state.lexicon.styles.values()}
