"""Labels for SAE features from the corpus's ground truth: what each token is, and which feature says it best.

Labels are picked on some documents and scored on others. Knows no prompt and no steering.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from toolkit.organism.lexicon import KIND_LABELS, PLAIN, Lexicon, word_label
from toolkit.organism.sae import Residuals

CUTS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)  # a feature is on where its activation is above this share of its largest
SIGNS = {
    ",": "comma",
    ".": "stop",
    "?": "question",
    "(": "open",
    ")": "close",
    ":": "colon",
    "_": "underscore",
    '"': "quote",
}
BRACKETS = {"[": "open", "]": "close", "()": "open"}


@dataclass(frozen=True)
class Label:
    """A feature's label. picked, scored: its F1 where it was chosen and on held-out documents. cut: when it is on."""

    feature: int
    text: str
    picked: float
    scored: float
    cut: float
    frequency: float


def truths(residuals: Residuals, lexicon: Lexicon, tokenizer: PreTrainedTokenizerFast) -> tuple[list[str], Tensor]:
    """(names of attributes, [N, A] bool: which attributes each token has); every name is a label."""
    names = list(lexicon.labels())
    column = {n: i for i, n in enumerate(names)}
    strings = {i: str(tokenizer.decode([i])) for i in range(len(tokenizer))}
    words = set(lexicon.words)
    out = torch.zeros(len(residuals.document), len(names), dtype=torch.bool)
    for n, (owner, place) in enumerate(zip(residuals.document, residuals.place, strict=True)):
        row = residuals.documents[owner]
        piece = row.pieces[row.piece[place]] if row.piece[place] >= 0 else None
        text = strings[row.ids[place]]
        has = _of_token(text, words)
        if piece is None:
            has.append(KIND_LABELS["system"] if place < row.prefix else KIND_LABELS["start"])
        elif piece.role in ("user", "result"):
            has.append(KIND_LABELS[piece.role])
        elif piece.call:
            has.append(KIND_LABELS["call"])
        else:
            has.append(lexicon.styles[piece.style].label if piece.style else PLAIN)
            if piece.act and piece.act in lexicon.acts:
                has.append(lexicon.acts[piece.act].label)
        if piece is not None and piece.topic:
            has.append(lexicon.topics[piece.topic].label)
        out[n, [column[h] for h in has]] = True
    return names, out


def _of_token(text: str, words: set[str]) -> list[str]:
    bare = text.strip(" ")
    if bare.lower() in words:
        return [word_label(bare.lower())]
    if bare.isdigit():
        return [KIND_LABELS["number"]]
    if bare.startswith(".") and bare[1:].isdigit():
        return [KIND_LABELS["decimal"]]
    if bare in SIGNS or bare in BRACKETS:
        return [KIND_LABELS[SIGNS.get(bare) or BRACKETS[bare]]]
    return [KIND_LABELS["newline"]] if text.startswith("\n") else []


def f1_scores(activations: Tensor, truth: Tensor, largest: Tensor, cut: float) -> Tensor:
    """[F, A] F1 of "activation > cut x largest" as a detector of each attribute. activations: [N, F], truth: [N, A]."""
    on = (activations > cut * largest).float()
    true = truth.float()
    hits = on.T @ true
    return 2 * hits / (on.sum(0)[:, None] + true.sum(0)[None]).clamp_min(1)


def assign(
    picking: tuple[Tensor, Tensor],
    scoring: tuple[Tensor, Tensor],
    names: list[str],
    lexicon: Lexicon,
    *,
    floor: float = 0.1,
) -> list[Label]:
    """One label per feature at most and one feature per label, by falling F1; styles and topics choose first.

    picking, scoring: (activations [N, F], truth [N, A]) of separate documents. A feature whose best free label stays
    under `floor` goes without.
    """
    activations, truth = picking
    largest = activations.amax(0).clamp_min(1e-6)
    table = torch.stack([f1_scores(activations, truth, largest, c) for c in CUTS])
    best, cut = table.max(0)
    held = torch.stack([f1_scores(*scoring, largest, c) for c in CUTS])
    first = {s.label for s in lexicon.styles.values()} | {t.label for t in lexicon.topics.values()}
    bonus = torch.tensor([1.0 if n in first else 0.0 for n in names])
    frequency = (activations > 0).float().mean(0)
    ranked = torch.where(best > floor, best + bonus, -1.0)
    out: list[Label] = []
    while float(ranked.max()) > 0:
        feature, attribute = divmod(int(ranked.argmax()), ranked.shape[1])
        where = int(cut[feature, attribute])
        out.append(
            Label(
                feature, names[attribute], float(best[feature, attribute]), float(held[where, feature, attribute]),
                CUTS[where], float(frequency[feature]),
            )
        )  # fmt: skip
        ranked[feature] = ranked[:, attribute] = -1.0
    return sorted(out, key=lambda x: x.feature)
