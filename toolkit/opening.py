"""One door to every kind of feature dictionary, for the command line and notebooks.

Knows no engine.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from toolkit.dictionary import FeatureDictionary
from toolkit.errors import BadInput
from toolkit.labels import read_labels
from toolkit.search import DEFAULT_EMBEDDER
from toolkit.views import viewed

PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle"}


def open_dictionary(
    source: str | Path,
    labels: str | Path | None = None,
    label_view: str = "true",
    arm: str = "target",
    seed: int = 0,
    unit: float | None = None,
    embedder: str = DEFAULT_EMBEDDER,
) -> FeatureDictionary:
    """Open an SAE (folder with cfg.json, or "release/id" of sae-lens) or vectors (folder with manifest.json).

    labels: a label file; default: labels.json beside the SAE's cfg.json, or beside its folder if no other SAE is there.
    label_view: true, opaque, shuffled or random. arm: target, zero, random or other. seed: of views and arms.
    unit: what strength 1.0 means: feature-activation units for an SAE, mean residual norms for vectors.
    embedder: a sentence-transformers name or path, which SEARCH compares labels with.
    Raises BadInput, DictionaryMismatch or Unsupported with the way out.
    """
    if unit is not None and not (math.isfinite(unit) and unit > 0):
        raise BadInput(f"unit {unit:g} is not a positive number; give one, or none for what the dictionary says")
    folder = Path(source)
    if folder.suffix.lower() in PICKLES:
        raise BadInput(
            f"{source} may hold a pickle, which runs code when it is opened; convert it to safetensors first"
        )
    if (folder / "manifest.json").is_file() and (folder / "vectors.safetensors").is_file():
        from toolkit.vectors import as_dictionary, load_vectors

        dictionary = as_dictionary(load_vectors(folder), str(source), unit)
    else:
        from toolkit.sae import open_sae

        dictionary = open_sae(source, unit=unit)
    found = _labels_of(folder) if labels is None else Path(labels)
    if found is not None:
        dictionary = replace(dictionary, labels=read_labels(found, len(dictionary), embedder))
    elif dictionary.labels.embedder != embedder:
        dictionary = replace(dictionary, labels=replace(dictionary.labels, embedder=embedder, _index=[]))
    return viewed(dictionary, label_view, arm, seed)


def _labels_of(folder: Path) -> Path | None:
    """Raises BadInput where the file beside the folder may be that of another SAE there."""
    if not (folder / "cfg.json").is_file():
        return None
    if (folder / "labels.json").is_file():
        return folder / "labels.json"
    beside = folder.absolute().parent / "labels.json"
    if not beside.is_file():
        return None
    for other in sorted(beside.parent.glob("*/sae_weights.safetensors")):
        if not other.parent.samefile(folder):
            raise BadInput(
                f"{beside} may be that of {folder.name} or of {other.parent.name}; name the labels that are meant"
                " (--labels), or put each file into its folder"
            )
    return beside
