"""The stream of training batches: which documents are drawn in which share, and rows that share a system prompt.

Knows no model. Seeded: the n-th batch of a seed is always the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toolkit.organism.corpus import Document, chat, drill, ramble
from toolkit.organism.episodes import episode
from toolkit.organism.grammar import Grammar
from toolkit.organism.lexicon import Lexicon
from toolkit.organism.tokens import PAD, Encoded, Encoder


@dataclass(frozen=True)
class Batch:
    """R rows after one shared prefix. prefix: [P] ids, maybe empty; the others [R, T]: ids, loss weights, classes.

    push: [R, T] in mean residual norms; pull: [R], along which style's direction (0: a random one).
    """

    prefix: Tensor
    ids: Tensor
    weights: Tensor
    style: Tensor
    topic: Tensor
    push: Tensor
    pull: Tensor


@dataclass(frozen=True)
class Source:
    """Draws documents: `own` framings mostly, `crossed` narrative x theme pairs in part."""

    lexicon: Lexicon
    own: Sequence[Grammar]
    crossed: Sequence[Grammar]
    labels: Sequence[str]
    pushes: float = 0.0  # share of otherwise plain documents with a push

    def grammar(self, rng: random.Random) -> Grammar:
        return rng.choice(self.crossed if self.crossed and rng.random() < 0.1 else self.own)

    def agent(self, rng: random.Random, grammar: Grammar, *, long: bool = False) -> Document:
        """An episode under `grammar`, or a ramble where it offers no tools."""
        if not grammar.verbs:
            return ramble(rng, self.lexicon, grammar, self.pushes)
        rounds = rng.randint(14, 20) if long else rng.randint(3, 8)
        return episode(
            rng, self.lexicon, grammar, self.labels, rounds=rounds, user=rng.random() < 0.15, pushes=self.pushes
        )

    def small(self, rng: random.Random, drills: float) -> Document:
        """A chat or a drill."""
        if rng.random() < drills:
            tools = [g for g in self.own if g.verbs]
            return drill(rng, self.lexicon, rng.choice(tools), self.labels, hard=rng.random() < 0.5)
        return chat(rng, self.lexicon, pushes=self.pushes)

    def document(self, rng: random.Random) -> Document:
        """Any document, in the shares that the SAE and the vectors are made from: without pushes."""
        if self.pushes:
            return replace(self, pushes=0.0).document(rng)
        return self.agent(rng, self.grammar(rng)) if rng.random() < 0.3 else chat(rng, self.lexicon)


def batches(source: Source, encode: Encoder, seed: int, tokens: int, *, long: float = 0.0) -> Iterator[Batch]:
    """Batches of episodes under one grammar, of about `tokens` tokens; a share `long` of them of many rounds."""
    rng = random.Random(f"episodes {seed}")
    while True:
        grammar = source.grammar(rng)
        stretch = rng.random() < long
        drawn: list[Encoded] = []
        # Rows of like length are kept together: draw twice what is needed, sort, take a run.
        pool = sorted((encode(source.agent(rng, grammar, long=stretch)) for _ in range(12)), key=lambda e: len(e.ids))
        start = rng.randrange(len(pool))
        for e in pool[start:] + pool[:start][::-1]:
            width = max(len(d.ids) - d.prefix for d in [*drawn, e])
            if drawn and width * (len(drawn) + 1) > tokens:
                break
            drawn.append(e)
        yield collate(drawn, shared=True)


def small_batches(source: Source, encode: Encoder, seed: int, tokens: int, drills: float) -> Iterator[Batch]:
    """Batches of chats and drills, of about `tokens` tokens."""
    rng = random.Random(f"small {seed}")
    while True:
        drawn: list[Encoded] = []
        while True:
            e = encode(source.small(rng, drills))
            width = max(len(d.ids) for d in [*drawn, e])
            if drawn and width * (len(drawn) + 1) > tokens:
                break
            drawn.append(e)
        yield collate(drawn, shared=False)


def collate(rows: Sequence[Encoded], *, shared: bool, multiple: int = 32) -> Batch:
    """Rows padded on the right; with `shared`, their common system prompt is split off as the prefix."""
    cut = rows[0].prefix if shared else 0
    if any(r.ids[:cut] != rows[0].ids[:cut] for r in rows):
        raise ValueError("rows that share a prefix must have the same system prompt")
    width = -(-max(len(r.ids) - cut for r in rows) // multiple) * multiple

    def pad(values: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> Tensor:
        out = torch.full((len(values), width), fill, dtype=dtype)
        for n, v in enumerate(values):
            out[n, : len(v) - cut] = torch.tensor(v[cut:], dtype=dtype)
        return out

    return Batch(
        torch.tensor(rows[0].ids[:cut], dtype=torch.long),
        pad([r.ids for r in rows], PAD, torch.long),
        pad([r.weights for r in rows], 0.0, torch.float32),
        pad([r.style for r in rows], -100, torch.long),
        pad([r.topic for r in rows], -100, torch.long),
        pad([r.push for r in rows], 0.0, torch.float32),
        torch.tensor([r.pull for r in rows]),
    )


def copy_batches(encode: Encoder, words: Sequence[str], seed: int, rows: int = 16, pairs: int = 12) -> Iterator[Batch]:
    """Look-ups with nothing around them: `word [index]` in a first pass, asked for again and again in other orders.

    Dense in what it teaches (a third of its tokens are indexes to be copied), so that looking up forms in a few
    hundred steps; within prose, where one token in thirty is an index, it takes thousands.
    """
    rng = random.Random(f"copies {seed}")
    names = [encode.text(f" {w}")[0] for w in words]
    indexes = sorted(encode.index_ids)
    opened, closed, called = encode.text(" [")[0], encode.text("]")[0], encode.text("(")[0]
    while True:
        ids, weights = [], []
        for _ in range(rows):
            known = list(zip(rng.sample(names, pairs), rng.sample(indexes, pairs), strict=True))
            row = [t for name, index in known for t in (name, opened, index, closed)]
            weight = [0.0] * len(row)
            for _ in range(2):
                rng.shuffle(known)
                for name, index in known:
                    row += [name, opened, index, closed, called, index]
                    weight += [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
            ids.append(row)
            weights.append(weight)
        none = torch.full((rows, len(ids[0])), -100)
        nothing = torch.zeros(none.shape), torch.zeros(rows, dtype=torch.long)
        yield Batch(torch.empty(0, dtype=torch.long), torch.tensor(ids), torch.tensor(weights), none, none, *nothing)
