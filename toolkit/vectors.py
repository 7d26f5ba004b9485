"""Mean-difference vectors as a feature dictionary: extract from contrastive texts, save, open, GGUF in and out.

Knows no engine: extraction takes a function that reads residuals.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toolkit.dictionary import FeatureDictionary
from toolkit.errors import BadInput
from toolkit.labels import Labels

ReadTexts = Callable[[Sequence[str], Sequence[int]], list[Tensor]]
"""(texts, layers) to one [T, L, D] tensor of residuals a text."""

_DIRECTION = re.compile(r"direction\.([0-9]{1,6})")
SHORTEST = 1e-12  # below which float32 tells no direction from a sum of squares
FORMULA = "mean over tokens of the texts with it, minus mean over tokens of the baseline"


@dataclass(frozen=True)
class Vectors:
    """A library of n vectors over L layers. values: [n, L, D] float32, raw differences.

    norms: mean residual norm at each layer, of which strengths are multiples (`multiple` of them is strength 1.0).
    read_layer: where INSPECT projects. corpora: what each vector was made from: texts, tokens and sha256.
    """

    values: Tensor
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    norms: tuple[float, ...]
    multiple: float
    read_layer: int
    formula: str = FORMULA
    corpora: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", self.values.detach().float().cpu())
        if self.values.dim() != 3:
            raise BadInput(f"values have shape {tuple(self.values.shape)}; give [vectors, layers, d_model]")
        n, layers = self.values.shape[:2]
        if (len(self.labels), len(self.layers), len(self.norms)) != (n, layers, layers):
            raise BadInput(
                f"{n} vectors over {layers} layers need as many labels and norms; got {len(self.labels)} labels,"
                f" {len(self.layers)} layers and {len(self.norms)} norms"
            )
        for what, some in (("label", self.labels), ("layer", self.layers)):
            if twice := [one for one, count in Counter(some).items() if count > 1]:
                raise BadInput(f"{what} {twice[0]!r} is there twice; vectors are told apart by it")
        if not bool(self.values.isfinite().all()):
            raise BadInput("a vector is not finite; extract it again from texts that are not empty")
        lengths = self.values.norm(dim=-1)
        dead = [self.labels[i] for i in (lengths == 0).all(-1).nonzero()[:, 0].tolist()]
        if dead:
            raise BadInput(f"vector {dead[0]!r} is zero; its texts and their baseline are the same")
        for i in ((lengths != 0) & ((lengths < SHORTEST) | lengths.isinf())).any(-1).nonzero()[:, 0].tolist():
            raise BadInput(f"vector {self.labels[i]!r} has lengths {lengths[i].tolist()}; scale it to about 1 first")
        if not all(0 < norm < math.inf for norm in self.norms):
            raise BadInput(f"mean residual norms {self.norms} must be positive numbers; measure them at each layer")
        # what float32 takes for zero or for infinite steers by nothing or by no number
        if not all(1e-30 < self.multiple * norm < 1e30 for norm in self.norms) or self.read_layer not in self.layers:
            raise BadInput(
                f"multiple {self.multiple} must be positive and read layer {self.read_layer} one of {self.layers}"
            )


def extract(
    read: ReadTexts,
    texts: Mapping[str, Sequence[str]],
    baseline: Sequence[str] | Mapping[str, Sequence[str]],
    layers: Sequence[int],
    *,
    skip: int = 1,
    multiple: float = 1.0,
    read_layer: int | None = None,
) -> Vectors:
    """One vector a label: the mean residual of its texts minus that of the baseline (its own, if a mapping).

    skip: tokens left out at the start of each text (the first is the attention sink and unlike all others).
    Marks and Tegmark 2023 and Turner et al. 2023 use this difference; the mean is over tokens, not over texts.
    """
    if skip < 0 or not texts:
        raise BadInput(
            f"skip {skip} of {len(texts)} labels makes no vector; skip 0 tokens or more, and give some texts"
        )
    own = baseline if isinstance(baseline, Mapping) else {}
    shared = None if isinstance(baseline, Mapping) else _mean(read(list(baseline), layers), skip, "the baseline")
    values, norms, corpora = [], [], {}
    for label, some in texts.items():
        if label not in own and shared is None:
            raise BadInput(f"there is no baseline for {label!r}; give one a label, or one list for all")
        mean = _mean(read(list(some), layers), skip, label)
        base = shared if shared is not None else _mean(read(list(own[label]), layers), skip, f"baseline of {label}")
        values.append(mean.mean - base.mean)
        norms.append((mean.norm * mean.tokens + base.norm * base.tokens) / (mean.tokens + base.tokens))
        corpora[label] = {"texts": len(some), "tokens": mean.tokens, "sha256": _sha(some)}
    if isinstance(baseline, Mapping):
        corpora |= {f"baseline of {k}": {"texts": len(v), "sha256": _sha(v)} for k, v in baseline.items()}
    else:
        corpora["baseline"] = {"texts": len(baseline), "sha256": _sha(baseline)}
    mean_norm = torch.stack(norms).mean(0)
    return Vectors(
        torch.stack(values),
        tuple(texts),
        tuple(layers),
        tuple(float(n) for n in mean_norm),
        multiple,
        layers[len(layers) // 2] if read_layer is None else read_layer,
        f"{FORMULA}; the first {skip} tokens of each text left out",
        corpora,
    )


@dataclass(frozen=True)
class _Mean:
    mean: Tensor  # [L, D]
    norm: Tensor  # [L]
    tokens: int


def _mean(residuals: Sequence[Tensor], skip: int, name: str) -> _Mean:
    kept = [r[skip:].double() for r in residuals if len(r) > skip]
    if not kept:
        raise BadInput(f"the texts of {name} have no token left after the first {skip}; give longer ones or skip fewer")
    whole = torch.cat(kept)
    return _Mean(whole.mean(0).float(), whole.norm(dim=-1).mean(0).float(), len(whole))


def _sha(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


# ---------------------------------------------------------------------- as a dictionary


class VectorDirections:
    """Unit directions; strength 1.0 adds `multiple` mean residual norms along them, at each of the layers."""

    def __init__(self, vectors: Vectors) -> None:
        self._norms = torch.tensor(vectors.norms)
        self._step = vectors.multiple
        self._unit_vectors = vectors.values / vectors.values.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        self.d_model = int(vectors.values.shape[-1])
        self.layers = vectors.layers
        each = f" at each of {len(vectors.layers)} layers" if len(vectors.layers) > 1 else ""
        self.unit = f"strength 1.0 is {vectors.multiple:g} times the mean residual norm{each}"
        text = f"{vectors.layers}{vectors.norms}{vectors.multiple}"
        self.digest = hashlib.sha256(text.encode() + self._unit_vectors.numpy().tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._unit_vectors)

    def vectors(self, ids: Sequence[int]) -> Tensor:
        return self._unit_vectors[list(ids)]

    def units(self, ids: Sequence[int]) -> Tensor:
        return (self._step * self._norms).expand(len(ids), -1)

    def activation(self, layer: int, residuals: Tensor, ids: Sequence[int]) -> Tensor:
        """The inner product with the unit direction, in residual units."""
        wide = torch.promote_types(residuals.dtype, torch.float32)
        residuals = residuals.to(wide)
        some = self._unit_vectors[list(ids), self.layers.index(layer)].to(residuals)
        if len(some) == 1:  # a sum a row: the product of a matrix and a vector rounds by how many rows there are
            return (residuals * some).sum(-1, keepdim=True)
        return residuals @ some.T

    def input_scale(self, residuals: Tensor) -> Tensor | None:
        return None


@dataclass(frozen=True)
class VectorReader:
    """Projections at one layer, in the unit of strength: 1.0 is what steering at 1.0 adds."""

    directions: VectorDirections
    layer: int
    digest: str

    def encode(self, residuals: Tensor) -> Tensor:
        everything = range(len(self.directions))
        step = self.directions.units([0])[0, self.directions.layers.index(self.layer)]
        return self.directions.activation(self.layer, residuals.float().cpu(), everything) / step

    def move(self, device: torch.device, most: int) -> None:
        """They are few: a host reads with them in no time."""


def as_dictionary(vectors: Vectors, name: str = "vectors", multiple: float | None = None) -> FeatureDictionary:
    """The library as a feature dictionary; `multiple` overrides what strength 1.0 means."""
    if multiple is not None:
        vectors = replace(vectors, multiple=multiple)
    directions = VectorDirections(vectors)
    labels = Labels.of(dict(enumerate(vectors.labels)), len(vectors.labels))
    return FeatureDictionary(name, labels, directions, VectorReader(directions, vectors.read_layer, directions.digest))


# ---------------------------------------------------------------------- files


def save_vectors(vectors: Vectors, folder: str | Path) -> None:
    """vectors.safetensors and manifest.json, which names the formula, the corpora and the norms."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"vectors": vectors.values.float().contiguous()}, folder / "vectors.safetensors")
    facts = {f.name: getattr(vectors, f.name) for f in fields(vectors) if f.name != "values"}
    lengths = {label: vectors.values[i].norm(dim=-1).tolist() for i, label in enumerate(vectors.labels)}
    text = json.dumps({"format": "selfsteer vectors 1", **facts, "lengths": lengths}, indent=1)
    (folder / "manifest.json").write_text(text + "\n")


def load_vectors(folder: str | Path) -> Vectors:
    """Raises BadInput, naming the file, for anything that `save_vectors` would not have written."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        facts = json.loads((folder / "manifest.json").read_text())
        if facts["format"] != "selfsteer vectors 1":
            raise BadInput(f"{folder} has format {facts['format']!r}, not 'selfsteer vectors 1'")
        values = load_file(folder / "vectors.safetensors")["vectors"]
        for label, value in zip(facts["labels"], values, strict=True):
            told, found = facts["lengths"][label], value.float().norm(dim=-1).tolist()
            if len(told) != len(found) or not all(map(partial(math.isclose, rel_tol=1e-3), told, found)):
                raise BadInput(f"{folder}: {label!r} has lengths {found}, its manifest says {told}; save both again")
        return Vectors(
            values,
            tuple(facts["labels"]),
            tuple(facts["layers"]),
            tuple(facts["norms"]),
            float(facts["multiple"]),
            int(facts["read_layer"]),
            str(facts["formula"]),
            facts["corpora"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadInput(
            f"{folder} is not a library of vectors ({error}); make one with toolkit.vectors.save_vectors"
        ) from error


def save_gguf(vectors: Vectors, path: str | Path, label: str, model: str = "unknown") -> None:
    """One vector as a control vector that llama.cpp and repeng read: `direction.{i}` is added to what block i puts out.

    Blocks are numbered from 0 there as here (llama.cpp: llama_adapter_cvec; repeng: ControlModel). Raises BadInput for
    a label that is none or several have, and for block 0, of which llama.cpp refuses the file.
    """
    import gguf

    if vectors.labels.count(label) != 1:
        raise BadInput(f"{vectors.labels.count(label)} vectors are called {label!r}: {', '.join(vectors.labels)}")
    if 0 in vectors.layers:
        raise BadInput("llama.cpp adds nothing after block 0, so no control vector can hold it; leave that layer out")
    writer = gguf.GGUFWriter(str(path), "controlvector")
    writer.add_string("controlvector.model_hint", model)
    writer.add_uint32("controlvector.layer_count", len(vectors.layers))
    for column, layer in enumerate(vectors.layers):
        writer.add_tensor(f"direction.{layer}", vectors.values[vectors.labels.index(label), column].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_gguf(paths: Sequence[str | Path], norms: Mapping[int, float], multiple: float = 1.0) -> Vectors:
    """Control vectors, one a file, labelled by file name. All must act on the same layers and have the same width.

    `direction.{i}` is added to what block i puts out, as by llama.cpp and repeng. norms: mean residual norm at each
    decoder block (a GGUF file does not know the model's scale). Raises BadInput naming the file.
    """
    import gguf

    found: dict[str, dict[int, np.ndarray]] = {}
    for path in map(Path, paths):
        if path.stem in found:
            raise BadInput(f"two files are called {path.stem}, which is to be the label; rename one")
        try:
            tensors = gguf.GGUFReader(str(path)).tensors
        except (OSError, ValueError, IndexError) as error:
            raise BadInput(f"{path} is not a GGUF file ({error})") from error
        found[path.stem] = one = {}
        for tensor in tensors:
            if block := _DIRECTION.fullmatch(tensor.name):
                if tensor.tensor_type.name not in ("F64", "F32", "F16"):  # others come as bytes
                    raise BadInput(f"{path}: {tensor.name} is {tensor.tensor_type.name}; write it as F32")
                one[int(block[1])] = np.array(tensor.data, np.float32)
    layers = sorted({layer for one in found.values() for layer in one})
    shapes = {values.shape for one in found.values() for values in one.values()}
    for name, one in found.items():
        if sorted(one) != layers or not layers:
            raise BadInput(f"{name} acts on layers {sorted(one)}, the others on {layers}; open them apart")
    if len(shapes) != 1 or len(min(shapes)) != 1:
        raise BadInput(f"directions have shapes {sorted(shapes)}; all must be of one width, that of the model")
    missing = [layer for layer in layers if layer not in norms]
    if missing:
        raise BadInput(f"the mean residual norm of layer {missing[0]} is needed to say what strength 1.0 means")
    values = torch.tensor(np.stack([np.stack([one[layer] for layer in layers]) for one in found.values()]))
    return Vectors(
        values,
        tuple(found),
        tuple(layers),
        tuple(norms[layer] for layer in layers),
        multiple,
        layers[len(layers) // 2],
        "read from GGUF control vectors",
        {name: {"file": f"{name}.gguf"} for name in found},
    )
