"""The organism's tokenizer, and documents as token ids with their ground truth.

Whole words over a byte-level alphabet, with a small vocabulary. Every index from 0 to 383 is one token, and so is
every decimal fraction such as ".52", so that copying an index is copying one token. Knows no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toolkit.organism.corpus import FEATURES, Document, Piece
from toolkit.organism.lexicon import Lexicon

SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BEGIN, END, SYSTEM, USER, ASSISTANT = range(len(SPECIAL))
# Words (with their leading space), brackets, fractions, whole numbers, signs, line breaks with a row's indent.
SPLIT = r" ?[A-Za-z']+| ?\[|\.\d{1,2}|\d{1,3}| ?[^\sA-Za-z\d]|\n+(?:  )?|\s"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(texts: Iterable[str], size: int = 1792, pieces: int = 96) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `size` tokens for `texts`: their most frequent words are whole tokens.

    Anything else is spelled with the 256 bytes and the `pieces` most frequent pairs of letters. A unigram model with
    set scores needs no chain of merges for a word, so that a small vocabulary holds many whole words.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(text))
    vocabulary = dict.fromkeys(SPECIAL, -20.0)
    vocabulary |= dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()), -10.0)
    vocabulary |= dict.fromkeys([str(n) for n in range(FEATURES)], -2.0)
    vocabulary |= dict.fromkeys([f".{d}" for d in range(10)] + [f".{d:02d}" for d in range(100)], -2.0)
    pairs = Counter(p for w, c in words.items() for p in pairwise(w) for _ in range(min(c, 20)))
    letters = [a + b for (a, b), _ in sorted(pairs.items(), key=lambda x: (-x[1], x[0])) if (a + b).isalpha()]
    vocabulary = dict.fromkeys(letters[:pieces], -15.0) | vocabulary
    ordered = dict.fromkeys([*SPECIAL, *vocabulary])
    room = size - len(vocabulary)
    whole = [
        w
        for w, _ in sorted(words.items(), key=lambda x: (-x[1], x[0]))
        if w not in vocabulary and not any(c.isdigit() for c in w)
    ]
    scores = [(t, vocabulary[t]) for t in ordered] + [(w, -2.0) for w in whole[:room]]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    pad, begin, end = SPECIAL[:3]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=begin, eos_token=end, model_max_length=4096,
        additional_special_tokens=list(SPECIAL[3:]), clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


@dataclass(frozen=True)
class Encoded:
    """A document as tokens. All but `ids` say something about the token at the same place.

    prefix: how many tokens the system prompt takes, the first token included. style and topic: 0 for none, else
    1 + the place in the lexicon, -100 where no class is asked of the token. push, pull: how strongly which style's
    direction (numbered as in `style`, 0 for a random one) is added to the token's residual. piece: index into `pieces`,
    -1 for markers and the system prompt.
    """

    ids: list[int]
    weights: list[float]
    style: list[int]
    topic: list[int]
    piece: list[int]
    pieces: list[Piece]
    prefix: int
    push: list[float]
    pull: int


class Encoder:
    """Documents to tokens, remembering the tokens of texts that it has seen."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, lexicon: Lexicon, index_weight: float = 3.0) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._memo: dict[str, list[int]] = {}
        self._styles = {n: i + 1 for i, n in enumerate(lexicon.styles)}
        self._topics = {n: i + 1 for i, n in enumerate(lexicon.topics)}
        self.index_ids = {tokenizer.convert_tokens_to_ids(str(n)) for n in range(FEATURES)}
        self._index_weight = index_weight

    def text(self, text: str) -> list[int]:
        """The token ids of a text, without markers."""
        if text not in self._memo:
            if len(self._memo) > 50_000:
                self._memo.clear()
            self._memo[text] = self._backend.encode(text, add_special_tokens=False).ids
        return self._memo[text]

    def __call__(self, document: Document) -> Encoded:
        head = [BEGIN] + ([SYSTEM, *self.text(document.system), END] if document.system else [])
        n = len(head)
        none = [-100] * n
        out = Encoded(head, [0.0] * n, none, [*none], [-1] * n, [], n, [0.0] * n, self._pull(document))
        for n, turn in enumerate(document.turns):
            start = len(out.ids)
            self._add(out, [ASSISTANT if n % 2 else USER], None)
            for piece in turn:
                self._add(out, self.text(piece.text), piece)
            self._add(out, [END], None, weight=float(n % 2))
            acts = document.push is not None and document.push.on(n // 2)
            out.push.extend([document.push.strength if acts and document.push else 0.0] * (len(out.ids) - start))
            if acts:  # a pushed residual says nothing about how style and topic look by nature
                out.style[start:] = out.topic[start:] = [-100] * (len(out.ids) - start)
        return out

    def _pull(self, document: Document) -> int:
        style = document.push.style if document.push else None
        return self._styles[style.name] if style else 0

    def _add(self, out: Encoded, ids: list[int], piece: Piece | None, weight: float = 0.0) -> None:
        style = topic = -100
        weights = [weight] * len(ids)
        if piece is not None:
            # Results hold the labels of styles and topics without being in or about them: no class is asked of them.
            none = -100 if piece.role == "result" else 0
            style, topic = self._styles.get(piece.style or "", none), self._topics.get(piece.topic or "", none)
            heavy = piece.weight * (self._index_weight if piece.role == "assistant" else 1.0)
            weights = [heavy if i in self.index_ids else piece.weight for i in ids]
            out.pieces.append(piece)
        out.ids.extend(ids)
        out.weights.extend(weights)
        out.style.extend([style] * len(ids))
        out.topic.extend([topic] * len(ids))
        out.piece.extend([len(out.pieces) - 1 if piece is not None else -1] * len(ids))
