"""Label files of every kind, whole and damaged; what is not a label is never shown as one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import BadInput
from toolkit.labels import Labels, clean, counts, opaque, read_labels, shuffled

TRUE = {0: "pirate dialect", 2: "weather and climate", 3: "FILTERED_BY_GOODFIRE"}


def rows(path: Path, index=str) -> str:
    return "\n".join(json.dumps({"index": index(i), "description": t, "typeName": "x"}) for i, t in TRUE.items())


def written(folder: Path, kind: str) -> Path:
    path = folder / f"labels.{kind}"
    if kind == "json":
        path.write_text(json.dumps({str(i): t for i, t in TRUE.items()}))
    elif kind == "list.json":
        path.write_text(json.dumps([{"index_in_sae": i, "label": t} for i, t in TRUE.items()]))
    elif kind == "jsonl":
        path.write_text(rows(path))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(rows(path).encode()))
    else:
        frame = pd.DataFrame({"index": list(TRUE), "label": list(TRUE.values())})
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["json", "list.json", "jsonl", "jsonl.gz", "csv", "parquet"])
def test_every_reader_gives_the_same_labels(tmp_path: Path, kind: str) -> None:
    labels = read_labels(written(tmp_path, kind), 5)
    assert labels == Labels.of(TRUE, 5)
    assert labels.statuses == ("real", "missing", "real", "filtered", "missing")
    assert labels.shown[1] == "unlabelled feature 1" and labels.shown[3] == "filtered feature 3"
    assert counts(labels.statuses) == {"real": 2, "filtered": 1, "missing": 2}


def test_neuronpedia_batches_are_read_in_the_order_of_their_numbers_and_the_first_counts(tmp_path: Path) -> None:
    for batch, text in ((10, "third"), (2, "first"), (3, "second")):
        row = json.dumps({"index": "1", "description": text})
        (tmp_path / f"batch-{batch}.jsonl.gz").write_bytes(gzip.compress(row.encode()))
    assert read_labels(tmp_path, 2).text(1) == "first"


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.json", b"{", "whole"),
        ("a.json", b'"label"', "should hold"),
        ("a.json", b'[{"index": 1}]', "index_in_sae"),
        ("a.json", b'{"0": "a", "0": "b"}', "two labels"),
        ("a.json", b'{"7": "a"}', "outside the dictionary of 5"),
        ("a.json", b'{"-1": "a"}', "whole number"),
        ("a.json", b'{"0": "\xff"}', "UTF-8"),
        ("a.json", b"{}", "no label"),
        ("a.jsonl", b'{"index": "0"}', "description"),
        ("a.jsonl", b"[1]", "description"),
        ("a.jsonl.gz", gzip.compress(b'{"index": "0", "description": "a"}' * 99)[:-9], "whole"),
        ("a.csv", b"feature,label\n0,a", "index and label are needed"),
        ("a.parquet", b"not parquet", "Parquet"),
        ("a.txt", b"0 a", "one of"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=match):
        read_labels(tmp_path / name, 5)


def test_no_file_and_an_empty_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no label file"):
        read_labels(tmp_path / "nowhere.json", 5)
    with pytest.raises(BadInput, match="batch-N"):
        read_labels(tmp_path, 5)


@pytest.mark.parametrize(
    "text", ["", " ", "None", "placeholder", "n/a", "feature 12", "latent_7", "123", "Unlabeled", "-"]
)
def test_placeholders_are_missing_not_labels(text: str) -> None:
    labels = Labels.of({0: text}, 1)
    assert labels.statuses == ("missing",) and labels.meanings == ("",)


@given(st.text(max_size=30))
def test_a_label_is_one_line_that_shows_itself(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.isprintable() and "\n" not in cleaned and clean(cleaned) == cleaned
    shown = Labels.of({0: text}, 1).text(0)
    assert shown.strip() and shown.isprintable()


@given(st.integers(0, 100))
def test_shuffled_labels_are_one_permutation(seed: int) -> None:
    labels = Labels.of({i: f"thing number {i} of some" for i in range(9)}, 12)
    other = shuffled(labels, seed)
    pairs = sorted(zip(labels.shown, labels.statuses, labels.meanings, strict=True))
    assert sorted(zip(other.shown, other.statuses, other.meanings, strict=True)) == pairs
    assert shuffled(labels, seed) == other


def test_opaque_shows_numbers_and_keeps_meanings() -> None:
    labels = Labels.of(TRUE, 5)
    assert opaque(labels).shown == tuple(f"feature_{i}" for i in range(5))
    assert opaque(labels).meanings == labels.meanings and opaque(labels).digest != labels.digest


def test_features_that_are_not_there_are_refused() -> None:
    with pytest.raises(BadInput, match="numbered 0 to 4"):
        Labels.of(TRUE, 5).text(5)
    with pytest.raises(BadInput, match="outside the dictionary of 2"):
        Labels.of(TRUE, 2)


def test_65536_labels_open_without_an_index(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({str(i): f"words about subject {i}" for i in range(65_536)}))
    labels = read_labels(path, 65_536)
    assert len(labels) == 65_536 and not labels._index
