"""Mean-difference vectors of the organism's styles: mean residual in a style minus mean residual of plain speech.

Knows no SAE.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.organism.lexicon import PLAIN, Lexicon
from toolkit.organism.model import HOOK_LAYER
from toolkit.vectors import Vectors

FORMULA = "mean over tokens of sentences in the style, minus mean over tokens of plain sentences, in the corpus"


def mean_differences(
    values: Tensor, truth: Tensor, names: list[str], lexicon: Lexicon, *, norm: float, multiple: float
) -> Vectors:
    """One vector a style. values: [N, D] residuals; truth: [N, A], which of `names` holds of each token.

    norm: mean norm of the residuals at the layer, of which strength 1.0 adds `multiple`.
    """
    column = {n: i for i, n in enumerate(names)}
    chosen = {s.label: truth[:, column[s.label]] for s in lexicon.styles.values()}
    plain = truth[:, column[PLAIN]]
    means = torch.stack([values[here].mean(0) for here in chosen.values()])
    return Vectors(
        (means - values[plain].mean(0))[:, None],
        labels=tuple(chosen),
        layers=(HOOK_LAYER,),
        norms=(norm,),
        multiple=multiple,
        read_layer=HOOK_LAYER,
        formula=FORMULA,
        corpora={label: {"tokens": int(here.sum())} for label, here in {**chosen, "baseline": plain}.items()},
    )
