"""The proof that a model comes through an engine's packed passes as it is: they are held against its own pass.

Knows no steering, no requests and no schedule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolkit.engines import kv, loading
from toolkit.errors import Unsupported

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from toolkit.engines.forward import Forward

TOKENS, CUT = 24, 12  # tokens of the proof, and where it is cut into two passes
OTHERS = 16
FINE, COARSE = 1e-3, 0.1  # relative error from which on it is another model: in 32 bits or more, and in fewer
WAY_OUT = "use the nnsight engine for it"


@torch.no_grad()
def plain(model: PreTrainedModel) -> Tensor:
    """Normed residuals [TOKENS, D] as transformers itself computes them, before Forward takes the model over.

    Raises Unsupported for a model whose decoder does not give them, or whose logits are not made of them as here.
    """
    from transformers import PreTrainedModel

    given = torch.tensor([_tokens(model)[:TOKENS]], device=model.device)
    decoder = model.get_decoder()
    found = decoder(given, use_cache=False) if isinstance(decoder, PreTrainedModel) else None
    hidden = getattr(found, "last_hidden_state", None)
    if not isinstance(hidden, Tensor):
        raise Unsupported(f"{type(model).__name__} has no decoder that gives its residuals; {WAY_OUT}")
    own = model(given, use_cache=False).logits[0].float()
    error = float((loading.logits_to_draw_from(model, hidden[0]) - own).norm() / own.norm())
    if not error < (COARSE if hidden.element_size() < 4 else FINE):
        raise Unsupported(
            f"{type(model).__name__} makes its logits in a way of its own: those made of its residuals are off by"
            f" {error:.2g} of their length, so what is drawn and scored would be wrong; no engine here can run it"
        )
    return hidden[0]


@torch.no_grad()
def check(forward: Forward, expected: Tensor) -> None:
    """Hold two passes over halves of the text, behind another text, against `expected`.

    Raises Unsupported where they differ by more than rounding: in models that remember otherwise than by keys and
    values (state spaces, convolutions, linear attention), which packed texts would share, in those that attend more
    than once a block, or by more than a causal mask, and in those whose blocks put out more than one residual a token.
    """
    name = type(forward.model).__name__
    tokens = _tokens(forward.model)
    own, others = tokens[:TOKENS], tokens[TOKENS:]
    a, b = (len(forward.store.lanes) + i for i in range(2))  # behind the others, for a moment
    forward.store.lanes += [kv.Lane(a), kv.Lane(b)]
    try:
        spans = ((a, 0, OTHERS, 0), (b, OTHERS, CUT, 0))
        first = forward([*others, *own[:CUT]], [0] * (OTHERS + CUT), spans, frozenset({0}))
        if forward.captured[0].shape[0] < OTHERS + CUT or forward.captured[0].ndim != 2:
            raise Unsupported(f"the blocks of {name} put out more than one residual a token; no engine here steers it")
        forward.store.lanes[b].extend(own[:CUT], [0] * CUT)
        rest = forward(own[CUT:], [0] * (TOKENS - CUT), ((b, 0, TOKENS - CUT, CUT),))
    except TypeError as error:
        raise Unsupported(f"{name} calls its attention in a way of its own ({error}); {WAY_OUT}") from error
    finally:
        del forward.store.lanes[a:]
    halves = zip((first[OTHERS:], rest), expected.split(CUT), strict=True)
    # of the median token: in few bits, an expert chosen otherwise may change a single one
    off = max(float(((h - e).norm(dim=-1) / e.norm(dim=-1).mean()).median()) for h, e in halves)
    fewer = forward.n_layers - forward.store.layers
    if fewer or not off < (COARSE if expected.element_size() < 4 else FINE):
        raise Unsupported(
            f"{name} computes something that this engine does not: its residuals come out wrong by {off:.2g} of their"
            f" length, and {fewer or 'none'} of {forward.n_layers} layers have no keys and values of their own. It may"
            f" remember by something else, or have a mask of its own; {WAY_OUT}"
        )


def _tokens(model: PreTrainedModel) -> list[int]:
    vocabulary = int(model.config.get_text_config().vocab_size)
    return [(7 * i + 1) % vocabulary for i in range(TOKENS + OTHERS)]
