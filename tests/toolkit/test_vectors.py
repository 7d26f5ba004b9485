"""Mean-difference vectors: planted directions come back, files survive, nonsense is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toolkit.errors import BadInput
from toolkit.opening import open_dictionary
from toolkit.reading import measure
from toolkit.vectors import Vectors, as_dictionary, extract, load_gguf, load_vectors, save_gguf, save_vectors

D = 16
PLANTED = {"warm": torch.eye(D)[2] * 3.0, "cold": torch.eye(D)[5] * -2.0}


def read(texts, layers):
    """Noise of mean zero over ten tokens, plus a planted direction for each planted word; a huge first token."""
    out = []
    for text in texts:
        noise = torch.randn(10, len(layers), D, generator=torch.Generator().manual_seed(len(text)))
        noise = noise - noise[1:].mean(0)
        for word, direction in PLANTED.items():
            if word in text:
                noise[1:] += direction * torch.tensor([1.0 + layer for layer in layers])[:, None]
        noise[0] = 1000.0
        out.append(noise)
    return out


def made(**changes) -> Vectors:
    return extract(read, {w: [f"{w} tea", f"so {w}"] for w in PLANTED}, ["tea", "so it is"], [1, 3], **changes)


def test_planted_directions_come_back() -> None:
    vectors = made()
    for row, direction in enumerate(PLANTED.values()):
        torch.testing.assert_close(vectors.values[row], torch.stack([2 * direction, 4 * direction]), atol=1e-5, rtol=0)
    assert vectors.corpora["warm"]["tokens"] == 18 and len(vectors.corpora["baseline"]["sha256"]) == 64


def test_a_baseline_of_its_own_and_skipped_tokens() -> None:
    own = extract(read, {"warm": ["warm tea"]}, {"warm": ["cold tea"]}, [1])
    torch.testing.assert_close(own.values[0, 0], 2 * (PLANTED["warm"] - PLANTED["cold"]), atol=1e-4, rtol=0)
    with pytest.raises(BadInput, match="zero"):
        extract(read, {"a": ["tea"]}, ["tea"], [1])
    with pytest.raises(BadInput, match="skip fewer"):
        made(skip=10)
    with pytest.raises(BadInput, match="no baseline"):
        extract(read, {"warm": ["warm"], "b": ["cold"]}, {"warm": ["x"]}, [1])


def test_strength_one_adds_the_stated_multiple_of_the_mean_norm() -> None:
    vectors = made(multiple=1.5)
    directions = as_dictionary(vectors).directions
    steps = directions.units([0, 1])[..., None] * directions.vectors([0, 1])
    torch.testing.assert_close(steps.norm(dim=-1), 1.5 * torch.tensor(vectors.norms).expand(2, -1))
    assert "1.5 times" in directions.unit
    assert as_dictionary(vectors, multiple=2.0).key != as_dictionary(vectors).key


def test_reading_is_in_the_unit_of_strength() -> None:
    dictionary = as_dictionary(made(), "styles")
    step = dictionary.directions.units([1])[0, 1] * dictionary.directions.vectors([1])[0, 1]
    reading = measure(dictionary, step.expand(4, -1) * 0.7, "mean", 5, "")
    assert reading.features[0] == 1 and reading.values[0] == pytest.approx(0.7, abs=1e-5)
    assert reading.layer == 3 and dictionary.label(1) == "cold"


def test_files_survive_and_open_through_the_one_door(tmp_path: Path) -> None:
    vectors = made()
    save_vectors(vectors, tmp_path)
    again = load_vectors(tmp_path)
    assert torch.equal(again.values, vectors.values) and again.labels == vectors.labels and again.norms == vectors.norms
    assert open_dictionary(tmp_path).key == as_dictionary(vectors).key
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert "minus mean" in manifest["formula"] and manifest["corpora"]["warm"]["sha256"]


def test_gguf_there_and_back(tmp_path: Path) -> None:
    vectors = made()
    for label in vectors.labels:
        save_gguf(vectors, tmp_path / f"{label}.gguf", label)
    again = load_gguf([tmp_path / "warm.gguf", tmp_path / "cold.gguf"], {1: vectors.norms[0], 3: vectors.norms[1]})
    assert torch.equal(again.values, vectors.values) and again.layers == (1, 3) and again.labels == ("warm", "cold")
    with pytest.raises(BadInput, match="norm of layer 3"):
        load_gguf([tmp_path / "warm.gguf"], {1: 2.0})
    (tmp_path / "bad.gguf").write_text("not that")
    with pytest.raises(BadInput, match=r"bad\.gguf is not"):
        load_gguf([tmp_path / "bad.gguf"], {})


def test_a_direction_is_numbered_by_the_block_after_which_llama_cpp_and_repeng_add_it(tmp_path: Path) -> None:
    import gguf

    vectors = made()
    save_gguf(vectors, tmp_path / "warm.gguf", "warm")
    names = [tensor.name for tensor in gguf.GGUFReader(str(tmp_path / "warm.gguf")).tensors]
    assert names == ["direction.1", "direction.3"] and vectors.layers == (1, 3)
    with pytest.raises(BadInput, match="block 0"):
        save_gguf(extract(read, {"warm": ["warm"]}, ["tea"], [0, 1]), tmp_path / "first.gguf", "warm")
    with pytest.raises(BadInput, match="0 vectors are called 'tepid'"):
        save_gguf(vectors, tmp_path / "none.gguf", "tepid")


def test_control_vectors_that_cannot_be_told_apart_or_read_are_refused(tmp_path: Path) -> None:
    import gguf
    import numpy as np

    def write(path: Path, **tensors) -> Path:
        path.parent.mkdir(exist_ok=True)
        writer = gguf.GGUFWriter(str(path), "controlvector")
        for name, (values, kind) in tensors.items():
            writer.add_tensor(name.replace("_", "."), values, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    plain = gguf.GGMLQuantizationType.F32
    here = write(tmp_path / "a" / "calm.gguf", direction_1=(np.ones(4, np.float32), plain))
    there = write(tmp_path / "b" / "calm.gguf", direction_1=(np.zeros(4, np.float32) + 2, plain))
    with pytest.raises(BadInput, match="two files are called calm"):
        load_gguf([here, there], {1: 1.0})
    half = np.ones(4, np.uint16).view(np.uint8)
    short = write(tmp_path / "short.gguf", direction_1=(half, gguf.GGMLQuantizationType.BF16))
    with pytest.raises(BadInput, match="BF16"):
        load_gguf([short], {1: 1.0})
    wide = write(tmp_path / "wide.gguf", direction_1=(np.ones(6, np.float32), plain))
    with pytest.raises(BadInput, match="one width"):
        load_gguf([here, wide], {1: 1.0})


def test_damaged_libraries_are_refused_by_name(tmp_path: Path) -> None:
    save_vectors(made(), tmp_path)
    (tmp_path / "vectors.safetensors").write_bytes(b"short")
    with pytest.raises(BadInput, match="not a library"):
        load_vectors(tmp_path)
    with pytest.raises(BadInput, match="finite"):
        Vectors(torch.full((1, 1, 4), float("nan")), ("a",), (0,), (1.0,), 1.0, 0)
    with pytest.raises(BadInput, match="as many labels"):
        Vectors(torch.ones(2, 1, 4), ("a",), (0,), (1.0,), 1.0, 0)


def one(values=None, labels=("a", "b"), layers=(0, 1), norms=(1.0, 1.0), multiple=1.0) -> Vectors:
    return Vectors(torch.ones(2, 2, 4) if values is None else values, labels, layers, norms, multiple, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norms": (1.0, 0.0)}, "must be positive"),
        ({"norms": (1.0, -1.0)}, "must be positive"),
        ({"norms": (1.0, float("nan"))}, "must be positive"),
        ({"multiple": float("inf")}, "must be positive"),
        ({"multiple": float("nan")}, "must be positive"),
        ({"multiple": 1e-50}, "must be positive"),
        ({"multiple": 1e39}, "must be positive"),
        ({"values": torch.ones(2, 2, 4) * 1e30}, "scale it"),
        ({"values": torch.ones(2, 2, 4) * 1e-20}, "scale it"),
        ({"values": torch.ones(2, 2)}, "shape"),
        ({"labels": ("a", "a")}, "'a' is there twice"),
        ({"layers": (1, 1)}, "1 is there twice"),
    ],
)
def test_vectors_that_would_steer_by_nothing_or_the_wrong_way_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        one(**changes)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e15])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_directions_have_length_one_whatever_the_vectors_size_and_type(size: float, kind: torch.dtype) -> None:
    directions = as_dictionary(one((torch.ones(2, 2, 4) * size).to(kind))).directions
    torch.testing.assert_close(directions.vectors([0, 1]), torch.full((2, 2, 4), 0.5))
    assert "at each of 2 layers" in directions.unit


def test_a_library_whose_two_files_differ_is_refused(tmp_path: Path) -> None:
    vectors = made()
    save_vectors(vectors, tmp_path)
    manifest = (tmp_path / "manifest.json").read_text()
    save_vectors(replace(vectors, values=vectors.values.flip(0)), tmp_path)
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(BadInput, match="its manifest says"):
        load_vectors(tmp_path)
    with pytest.raises(BadInput, match="skip -1"):
        made(skip=-1)
