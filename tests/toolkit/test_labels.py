"""Label files of every kind, whole and damaged; what is not a label is never shown as one."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import BadInput
from toolkit.labels import Labels, counts, opaque, read_labels, shuffled
from toolkit.search import clean

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


def test_of_several_explanations_the_first_that_says_something_counts(tmp_path: Path) -> None:
    told = [("1", None), ("0", "zero"), ("1", " "), ("1", "one"), ("0", "other"), ("1", "later")]
    path = tmp_path / "EXPLANATIONS.JSONL"  # the ending counts in capitals too
    path.write_text("\n\n".join(json.dumps({"index": i, "description": t}) for i, t in told))
    assert read_labels(path, 2).shown == ("zero", "one")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_status_that_is_stated_counts_before_the_text(tmp_path: Path, kind: str) -> None:
    stated = [("2024", "real"), ("secret", "filtered"), ("noise", "missing"), ("rain", None), (None, "real")]
    frame = pd.DataFrame([(i, *pair) for i, pair in enumerate(stated)], columns=["index", "label", "status"])
    path = tmp_path / f"labels.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    labels = read_labels(path, 5)
    assert labels.statuses == ("real", "filtered", "missing", "real", "missing")
    assert labels.meanings == ("2024", "", "", "rain", "")
    assert labels.shown[1:] == ("filtered feature 1", "unlabelled feature 2", "rain", "unlabelled feature 4")


def test_a_byte_order_mark_and_quoted_commas_are_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfindex, label\r\n0,"rain, and snow"\r\n\r\n1,sun\r\n')
    assert read_labels(tmp_path / "a.csv", 2).shown == ("rain, and snow", "sun")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"0": "rain"}')
    assert read_labels(tmp_path / "a.json", 1).shown == ("rain",)


def packed(garble: bool) -> bytes:
    rows = [json.dumps({"index": str(i), "description": f"words about subject {i}"}) for i in range(5)]
    data = gzip.compress("\n".join(rows).encode(), mtime=0)
    return data[:10] + b"\xff" + data[11:] if garble else data  # the first byte after the header names the coding


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
        ("a.json", b'{"0": null, "0": "b"}', "row 2: feature 0 has two labels"),
        ("a.json", b'{"0": "a", "1": {"label": "b"}}', "row 2: label .* is not a text"),
        ("a.json", b'[{"index_in_sae": 0.5, "label": "a"}]', "row 1: index 0.5 is not a whole number"),
        ("a.json", b'[{"index_in_sae": true, "label": "a"}]', "whole number"),
        ("a.json", b"[" * 100_000, "cannot be read"),
        ("a.json", b'{"' + b"9" * 5000 + b'": "a"}', "after row 1"),
        ("a.jsonl", b'{"index": "0", "description": "a"}\n{"index', "after row 1"),
        ("a.jsonl", b'{"index": "0"}', "description"),
        ("a.jsonl", b"[1]", "description"),
        ("a.jsonl.gz", gzip.compress(b'{"index": "0", "description": "a"}' * 99, mtime=0)[:-9], "whole"),
        ("a.jsonl.gz", packed(garble=True), "cannot be read"),
        ("a.csv", b"feature,label\n0,a", "index and label are needed"),
        ("a.csv", b"", "columns none"),
        ("a.csv", b"index,label,label\n0,a,b", "two columns label"),
        ("a.csv", b"index,label\n0,a\n1,b,c", "row 2: 3 cells under 2 columns"),
        ("a.csv", b'index,label\n0,"a\n1,b', "cannot be read"),
        ("a.csv", b"index,label\n0,a\n0,b", "row 2: feature 0 has two labels"),
        ("a.csv", b"index,label\n5,a", "row 1: index 5 is outside the dictionary of 5"),
        ("a.csv", b"index,label\n0,\xff", "UTF-8"),
        ("a.csv", b"index,label,status\n0,a,good", "row 1: status 'good' is unknown; use real, filtered, missing"),
        ("a.parquet", b"not parquet", "Parquet"),
        ("a.txt", b"0 a", "one of"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=match) as caught:
        read_labels(tmp_path / name, 5)
    assert name in str(caught.value)


def test_what_is_damaged_above_is_read_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(packed(garble=False))
    assert read_labels(tmp_path / "a.jsonl.gz", 5).statuses == ("real",) * 5


@given(st.binary(max_size=60), st.sampled_from(["json", "jsonl", "jsonl.gz", "csv", "parquet"]))
def test_no_bytes_raise_anything_but_bad_input(tmp_path_factory, content: bytes, kind: str) -> None:
    path = tmp_path_factory.mktemp("any") / f"labels.{kind}"
    path.write_bytes(content)
    try:
        assert len(read_labels(path, 3)) == 3
    except BadInput as error:
        assert path.name in str(error)


def test_no_file_and_an_empty_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no label file"):
        read_labels(tmp_path / "nowhere.json", 5)
    with pytest.raises(BadInput, match="batch-N"):
        read_labels(tmp_path, 5)


PLACEHOLDERS = ["", " ", "None", "placeholder", "n/a", "feature 12", "latent_7", "123", "Unlabeled", "-", "\u200b"]


@pytest.mark.parametrize("text", [*PLACEHOLDERS, "[placeholder 3]", "unlabelled feature 12"])
def test_placeholders_are_missing_not_labels(text: str) -> None:
    labels = Labels.of({0: text}, 1)
    assert (labels.statuses, labels.meanings, labels.shown) == (("missing",), ("",), ("unlabelled feature 0",))


@pytest.mark.parametrize(
    "text", ["FILTERED", "FILTERED_BY_GOODFIRE", "[FILTERED]", "FILTERED: harm", "filtered", "filtered feature 12"]
)
def test_filtered_labels_are_not_shown(text: str) -> None:
    labels = Labels.of({0: text}, 1)
    assert (labels.statuses, labels.meanings, labels.shown) == (("filtered",), ("",), ("filtered feature 0",))


NEARLY = ["filtered water", "Filtered by sand", "placeholder text in templates", "unlabeled data in statistics"]


@pytest.mark.parametrize("text", [*NEARLY, "unknown persons", "feature films", "12 angry men", "nano technology"])
def test_labels_that_only_begin_like_a_placeholder_are_labels(text: str) -> None:
    labels = Labels.of({0: text}, 1)
    assert (labels.statuses, labels.meanings, labels.shown) == (("real",), (text,), (text,))


def test_what_splits_lines_or_turns_the_reading_is_cleaned() -> None:
    assert clean("a\nb\r\tc\x0bd\x85e\u2028f") == "a b c d e f"
    assert clean("\u202eevil\u2066 \x1b[31mred\x00\u200b") == "evil [31mred"


@given(st.text(max_size=30))
def test_a_label_is_one_line_that_shows_itself(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.isprintable() and "\n" not in cleaned and clean(cleaned) == cleaned
    shown = Labels.of({0: text}, 1).text(0)
    assert shown.strip() and shown.isprintable()


def test_explanations_of_two_saes_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    facts = [{"modelId": "m", "layer": f"{i}-res", "index": str(i), "description": f"words {i}"} for i in (0, 0, 1)]
    path.write_text("\n".join(map(json.dumps, facts[:2])))
    assert read_labels(path, 3).text(0) == "words 0"
    path.write_text("\n".join(map(json.dumps, facts)))
    with pytest.raises(BadInput, match="row 3 is of SAE"):
        read_labels(path, 3)


@given(st.integers(0, 100))
def test_shuffled_labels_are_one_permutation(seed: int) -> None:
    labels = Labels.of({i: f"thing number {i} of some" for i in range(9)} | {9: "FILTERED"}, 12)
    other = shuffled(labels, seed)
    assert sorted(zip(other.statuses, other.meanings, strict=True)) == sorted(
        zip(labels.statuses, labels.meanings, strict=True)
    )
    for i in range(12):
        stand_in = {"missing": f"unlabelled feature {i}", "filtered": f"filtered feature {i}"}
        assert other.text(i) == stand_in.get(other.status(i), other.meanings[i])
    assert shuffled(labels, seed) == other


def test_seeds_shuffle_differently_and_views_compose_in_either_order() -> None:
    labels = Labels.of({i: f"thing number {i} of some" for i in range(20)}, 22)
    assert len({shuffled(labels, seed).digest for seed in range(5)} | {labels.digest}) == 6
    assert shuffled(opaque(labels), 3) == opaque(shuffled(labels, 3))


def test_opaque_shows_numbers_and_keeps_meanings() -> None:
    labels = Labels.of(TRUE, 5)
    assert opaque(labels).shown == tuple(f"feature_{i}" for i in range(5))
    assert opaque(labels).meanings == labels.meanings and opaque(labels).digest != labels.digest


def test_features_that_are_not_there_are_refused() -> None:
    with pytest.raises(BadInput, match="numbered 0 to 4"):
        Labels.of(TRUE, 5).text(5)
    with pytest.raises(BadInput, match="outside the dictionary of 2"):
        Labels.of(TRUE, 2)
    with pytest.raises(BadInput, match="numbered 0 to 4"):
        Labels.of(TRUE, 5).status(-1)
    with pytest.raises(BadInput, match="2 labels are listed for 3"):
        Labels.of(["a", "b"], 3)


@given(st.lists(st.sampled_from(["rain", "snow", "", "FILTERED", "12"]), min_size=1, max_size=6))
def test_digests_are_equal_exactly_when_labels_are(texts: list[str]) -> None:
    labels, longer = Labels.of(texts), Labels.of([*texts, "rain"])
    assert Labels.of(list(texts)).digest == labels.digest != longer.digest
    assert Labels.of(texts, embedder="another").digest != labels.digest


def test_reading_labels_imports_no_embedder(tmp_path: Path) -> None:
    path = written(tmp_path, "json")
    code = (
        "import sys; from toolkit.labels import read_labels, shuffled; import toolkit.search;"
        f"shuffled(read_labels({str(path)!r}, 5), 1).text(0);"
        "assert not {'torch', 'faiss', 'sentence_transformers', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_65536_labels_open_without_an_index(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({str(i): f"words about subject {i}" for i in range(65_536)}))
    labels = read_labels(path, 65_536)
    assert len(labels) == 65_536 and not labels._index
