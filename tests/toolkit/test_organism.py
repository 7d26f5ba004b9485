"""The organism's recipe: its corpus says what it promises, its tokens line up, and every stage runs in miniature."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch

from toolkit.organism.corpus import FEATURES, Document, chat, drill
from toolkit.organism.episodes import episode
from toolkit.organism.grammar import Grammar, read_grammars
from toolkit.organism.lexicon import in_style, lexicon, sentences, styled
from toolkit.organism.mixture import Source, batches, copy_batches, small_batches
from toolkit.organism.tokens import Encoder

WORDS = lexicon()
OWN, CROSSED = read_grammars()
TOOLS = [g for g in OWN if g.verbs]


def said(document: Document) -> list[str]:
    """The assistant's messages."""
    return ["".join(p.text for p in turn) for turn in document.turns[1::2]]


def an_episode(seed: int, grammar: Grammar | None = None, rounds: int = 8) -> Document:
    rng = random.Random(seed)
    return episode(rng, WORDS, grammar or rng.choice(TOOLS), WORDS.labels(), rounds=rounds)


def test_labels_are_distinct_and_end_in_words_of_their_own() -> None:
    labels = WORDS.labels()
    assert len(set(labels)) == len(labels)
    named = [n for n in labels if not n.startswith("the word ")]
    assert len({n.split()[-1] for n in named}) == len(named)


@pytest.mark.parametrize("style", WORDS.styles.values(), ids=lambda s: s.name)
def test_a_styled_sentence_is_in_its_style_alone(style) -> None:  # type: ignore[no-untyped-def]
    rng = random.Random(1)
    for topic in WORDS.topics.values():
        for core in topic.cores:
            text = styled(WORDS.fill(core, rng), style, rng)
            assert [s.name for s in WORDS.styles.values() if in_style(text, s)] == [style.name]
            assert not any(in_style(styled(WORDS.fill(core, rng), None, rng), s) for s in WORDS.styles.values())


def test_plain_chats_and_acts_are_in_no_style() -> None:
    for seed in range(60):
        for turn in chat(random.Random(seed), WORDS).turns[1::2]:
            for piece in turn:
                spoken = [s.name for s in WORDS.styles.values() if in_style(piece.text, s)]
                assert spoken == ([piece.style] if piece.style else [])


def test_style_changes_as_often_after_a_steer_or_a_remove_as_at_other_times() -> None:
    """The style process sees no tool call: over many rounds, changes after one are no more frequent than elsewhere."""
    counts = {True: [0, 0], False: [0, 0]}
    for seed in range(500):
        document = an_episode(seed, rounds=10)
        before: tuple[str | None, bool] | None = None
        for turn in document.turns[1::2]:
            style = next((p.style for p in turn if not p.call), None)
            changed_state = any(p.act in ("call steer", "call remove", "call clear") for p in turn)
            if before is not None and before[0] is not None:
                counts[before[1]][0] += style != before[0]
                counts[before[1]][1] += 1
            before = (style, changed_state)
    rates = {after: changed / total for after, (changed, total) in counts.items()}
    assert counts[True][1] > 150
    assert abs(rates[True] - rates[False]) < 0.06, rates


def test_an_unasked_style_begins_outside_of_the_loss() -> None:
    for seed in range(200):
        previous = None
        for turn in an_episode(seed).turns[1::2]:
            prose = [p for p in turn if not p.call]
            if prose[0].style is not None and previous is None:
                assert prose[0].weight == 0.0
            previous = prose[-1].style


def test_every_index_in_a_call_was_in_the_last_results_under_its_label() -> None:
    for seed in range(300):
        document = an_episode(seed)
        for given, answer in zip(document.turns[0::2], document.turns[1::2], strict=True):
            results = "".join(p.text for p in given)
            prose = "".join(p.text for p in answer if not p.call)
            for call in (p for p in answer if p.act in ("call steer", "call remove")):
                match = re.search(r"\((\d+)", call.text)
                assert match is not None and f"[{match.group(1)}] " in results
                assert f"[{match.group(1)}]" in prose


def test_without_tools_there_is_no_call() -> None:
    silent = next(g for g in OWN if not g.verbs)
    source = Source(WORDS, OWN, CROSSED, WORDS.labels())
    for seed in range(40):
        rng = random.Random(seed)
        for text in said(source.agent(rng, silent)) + said(chat(rng, WORDS)):
            assert not re.search(r"[A-Z]{3,}[A-Z_]*\(", text)


def test_sentences_leave_calls_out() -> None:
    assert sentences('I am curious. Let me look!\nSEARCH("x. y")') == ["I am curious", "Let me look"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    from toolkit.organism.build import tokenizer_for

    return Encoder(tokenizer_for(Source(WORDS, OWN, CROSSED, WORDS.labels()), 150), WORDS)


def test_pieces_tokenise_as_the_whole_message_does(encoder: Encoder) -> None:
    for seed in range(60):
        rng = random.Random(seed)
        for document in (an_episode(seed), chat(rng, WORDS), drill(rng, WORDS, TOOLS[0], WORDS.labels(), hard=True)):
            for turn in document.turns:
                joint = encoder.text("".join(p.text for p in turn))
                assert [i for p in turn for i in encoder.text(p.text)] == joint


def test_every_index_and_fraction_is_one_token(encoder: Encoder) -> None:
    assert all(len(encoder.text(str(n))) == 1 for n in range(FEATURES))
    assert len(encoder.text(" [12] (activation: 0.52)")) == 10  # [ 12 ] ( word : space 0 .52 )


def test_batches_are_a_function_of_their_seed(encoder: Encoder) -> None:
    source = Source(WORDS, OWN, CROSSED, WORDS.labels())
    for make in (
        lambda seed: batches(source, encoder, seed, 1500),
        lambda seed: small_batches(source, encoder, seed, 800, 0.5),
        lambda seed: copy_batches(encoder, WORDS.words, seed),
    ):
        first, again, other = next(make(1)), next(make(1)), next(make(2))
        assert torch.equal(first.ids, again.ids) and torch.equal(first.weights, again.weights)
        assert first.ids.shape != other.ids.shape or not torch.equal(first.ids, other.ids)


def test_a_shared_prefix_changes_no_hidden_state(encoder: Encoder) -> None:
    from toolkit.organism.mixture import collate
    from toolkit.organism.model import build_model
    from toolkit.organism.train import forward

    model = build_model(encoder_size(encoder), 0, d_model=64, layers=2, mlp=64).double()
    rows = [encoder(an_episode(seed, TOOLS[0], rounds=2)) for seed in (1, 2, 3)]
    with torch.no_grad():
        shared = forward(model, collate(rows, shared=True))
        for n, row in enumerate(rows):
            alone = model.model(torch.tensor([row.ids])).last_hidden_state[0, row.prefix :]
            assert torch.allclose(shared[n, : len(alone)], alone, atol=1e-9)


def encoder_size(encoder: Encoder) -> int:
    return int(encoder._backend.get_vocab_size())


def test_set_heads_look_up_an_index_before_any_training(encoder: Encoder) -> None:
    """Block 1, head 0 attends, from a later `label [`, to the index that stood after the label before."""
    from toolkit.organism.model import build_model

    model = build_model(encoder_size(encoder), 0)
    model.set_attn_implementation("eager")
    words = random.Random(0).sample(WORDS.words, 8)
    ids = [1] + [t for n, w in enumerate(words) for t in encoder.text(f" {w} [{n + 40}]")]
    ids += encoder.text(f" {words[3]} [")
    with torch.no_grad():
        attention = model(torch.tensor([ids]), output_attentions=True).attentions[1][0, 0, -1]
    assert int(attention.argmax()) == 1 + 3 * 4 + 2


def test_miniature_rebuilds_every_stage(tmp_path: Path) -> None:
    """Model, tokenizer, SAE, labels and vectors from nothing, opened through the ordinary doors."""
    from sae_lens import SAE
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from toolkit.opening import open_dictionary
    from toolkit.organism.build import MINIATURE, build

    manifest = build(tmp_path, MINIATURE)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    sae = SAE.load_from_disk(str(tmp_path / "sae"))
    assert sae.cfg.d_in == model.config.hidden_size
    assert sae.cfg.metadata.hook_name == f"blocks.{manifest['hook_layer']}.hook_resid_post"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello."}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "<|begin|><|user|>Hello.<|end|><|assistant|>"
    assert len(open_dictionary(tmp_path / "sae")) == MINIATURE.sae.features
    vectors = open_dictionary(tmp_path / "vectors")
    assert {vectors.label(i) for i in range(len(vectors))} == {s.label for s in WORDS.styles.values()}
