"""Mean-difference vectors of the organism's styles: mean residual in a style minus mean residual of plain speech.

Knows no SAE.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from toolkit.organism.lexicon import PLAIN, Lexicon
from toolkit.organism.model import HOOK_LAYER


def mean_differences(values: Tensor, truth: Tensor, names: list[str], lexicon: Lexicon) -> dict[str, Tensor]:
    """{label: [D]} for every style. values [N, D] residuals, truth [N, A] which of `names` holds of each token."""
    column = {n: i for i, n in enumerate(names)}
    plain = values[truth[:, column[PLAIN]]].mean(0)
    return {s.label: values[truth[:, column[s.label]]].mean(0) - plain for s in lexicon.styles.values()}


def save_vectors(vectors: dict[str, Tensor], norm: float, tokens: int, out: Path) -> None:
    """`out`/vectors.safetensors with one [1, D] tensor per label, and `out`/vectors.json that says what they are.

    norm: mean norm of the residuals at the layer, of which strengths are multiples.
    """
    out.mkdir(parents=True, exist_ok=True)
    save_file({label: v[None].contiguous() for label, v in vectors.items()}, out / "vectors.safetensors")
    facts = {
        "formula": "mean over tokens of sentences in the style, less mean over tokens of plain sentences",
        "layers": [HOOK_LAYER],
        "mean_residual_norm": {str(HOOK_LAYER): norm},
        "tokens": tokens,
        "norms": {label: round(float(v.norm()), 4) for label, v in vectors.items()},
    }
    (out / "vectors.json").write_text(json.dumps(facts, indent=1) + "\n")


def load_vectors(folder: Path) -> dict[str, Tensor]:
    """{label: [1, D]} as saved."""
    from safetensors.torch import load_file

    return load_file(folder / "vectors.safetensors")
