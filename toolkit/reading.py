"""INSPECT's measurement: activations of a response, aggregated over its tokens, the strongest first.

Knows no engine: residuals come in as they were captured. Never holds more than a block of tokens x F activations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from toolkit.engines.base import check_finite
from toolkit.errors import BadInput
from toolkit.tools import Reading

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.dictionary import FeatureDictionary

Aggregation = Literal["last", "mean", "max"]
BLOCK = 64


def measure(
    dictionary: FeatureDictionary, residuals: Tensor, aggregation: Aggregation, k: int, steered: str
) -> Reading:
    """The k strongest features of residuals [T, D], those above 0, ties by id.

    steered: digest of the steering under which the tokens ran, recorded with the numbers.
    Raises BadInput if there is no token to measure or the aggregation is unknown, SteeringError if an activation is
    not a finite number: it would stand before all that are.
    """
    import torch

    if aggregation not in get_args(Aggregation):
        raise BadInput(f"aggregation {aggregation!r} is unknown; use one of {', '.join(get_args(Aggregation))}")
    if not len(residuals):
        raise BadInput("there is no token to measure; a response has at least one")
    whole: Tensor | None = None
    for block in residuals[-1:].split(1) if aggregation == "last" else residuals.split(BLOCK):
        active = dictionary.reader.encode(block).float()
        part = active.amax(0) if aggregation == "max" else active.sum(0)
        whole = part if whole is None else torch.maximum(whole, part) if aggregation == "max" else whole + part
    if whole is None:
        raise BadInput("there is no token to measure; a response has at least one")
    values = (whole / len(residuals) if aggregation == "mean" else whole).cpu()
    check_finite(values, f"activations of dictionary {dictionary.name}")
    # a stable sort keeps ids in order among equals
    order = torch.sort(values, descending=True, stable=True)
    strongest = zip(order.indices[:k].tolist(), order.values[:k].tolist(), strict=True)
    kept = [(feature, value) for feature, value in strongest if value > 0]
    return Reading(
        features=tuple(feature for feature, _ in kept),
        values=tuple(value for _, value in kept),
        layer=dictionary.reader.layer,
        aggregation=aggregation,
        tokens=1 if aggregation == "last" else len(residuals),
        steered=steered,
    )
