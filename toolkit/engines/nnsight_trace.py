"""The two traces of the nnsight engine: a response, and one pass over a context. Their source is what travels.

Knows no steering, dictionary or request: token ids, row ids and tensors alone. What a block calls is in this module or
in sampling.py, which are sent along by source, so that nothing of this project need be installed where the model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import nnsight
import torch
from torch import Tensor

from toolkit.engines.sampling import draw

Steer = Callable[[int, Tensor, Tensor], Tensor]
"""(layer, block output [T, D], row id of each token [T]) to the steered block output [T, D]."""

NEUTRAL = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "eos_token_id": None,
    "use_cache": True,
}
"""Settings of `generate` under which it takes the token with the largest logit and nothing else, and never stops."""


class Layout(TypedDict):
    """Where a model keeps what a trace touches, as paths of modules; scale and cap: of its logits (see loading.py).

    A dict, because classes would travel as bytecode, which another Python could not read.
    """

    blocks: tuple[str, ...]
    norm: str
    head: str
    scale: float
    cap: float | None


def table_steer(tables: dict[int, tuple[Tensor, list[tuple[Tensor, Tensor]]]]) -> Steer:
    """The steering of SteeringTable.portable, as a function that can be sent."""

    def steer(layer: int, hidden: Tensor, rows: Tensor) -> Tensor:
        deltas, projections = tables[layer]
        wide = hidden.to(deltas.dtype)
        change = deltas.to(hidden.device)[rows]
        for direction, on in projections:
            direction = direction.to(hidden.device)
            change = change - (wide @ direction * on.to(hidden.device)[rows])[:, None] * direction
        return hidden + change.to(hidden.dtype)

    return steer


def respond(
    model: Any,
    layout: Layout,
    ids: Sequence[int],
    rows: Sequence[int],
    steer: Steer,
    layers: Sequence[int],
    kept: int | None,
    draws: tuple[float, float, list[float]],
    stops: frozenset[int],
    how: dict[str, Any],
) -> Any:
    """Continue `ids` until a stop token or until the draws are used up; each drawn token is computed too.

    rows: of the context's tokens, then the one of all tokens after it. layers: where `steer` acts. kept: the layer
    whose residuals of the response are wanted. draws: temperature, top_p, one uniform number a token. how: `remote` and
    the like for nnsight. Returns tokens, logprobs, residuals, `entered` (ids that the model was given, in order) and
    `ran` ((layer, tokens) wherever steering was applied); for a remote trace that does not block, its backend.
    """
    blocks, head = layout["blocks"], len(ids)
    last = len(blocks) - 1 if kept is None else kept
    hooked = sorted({*layers, last})
    temperature, top_p, uniforms = draws
    tokens = torch.tensor([ids])
    row_ids = torch.tensor(rows)
    room = len(uniforms)
    answer: Any = None
    # the block is not run here: nnsight takes its source, and runs it beside the model
    with model.generate(tokens, max_new_tokens=room + 1, **NEUTRAL, **how) as tracer:
        answer = nnsight.save({"tokens": [], "logprobs": [], "residuals": [], "entered": [], "ran": []})
        for _ in tracer.iter[:]:
            at = len(answer["entered"])
            answer["entered"] += model.inputs[1]["input_ids"][0].tolist()
            end = len(answer["entered"])
            for layer in hooked:
                block = model.get(blocks[layer])
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                if layer in layers:
                    here = row_ids[[min(p, head) for p in range(at, end)]].to(hidden.device)
                    hidden = steer(layer, hidden[0], here).unsqueeze(0)
                    block.output = (hidden, *output[1:]) if isinstance(output, tuple) else hidden
                    answer["ran"].append((layer, hidden.shape[1]))
                if layer == kept and end > head:
                    answer["residuals"].append(hidden[0, max(0, head - at) :].detach().cpu())
            drawn = answer["tokens"]
            if end < head:
                continue  # a prompt that the model takes in pieces
            if len(drawn) == room or (drawn and drawn[-1] in stops):
                tracer.stop()
            logits = model.output.logits
            one = torch.tensor([temperature, top_p, uniforms[len(drawn)]], dtype=torch.float32, device=logits.device)
            token, logprob = draw(logits[:, -1], *one.split(1))
            drawn.append(int(token))
            answer["logprobs"].append(float(logprob))
            logits[0, -1, int(token)] = torch.finfo(logits.dtype).max
    return answer if answer is not None else tracer.backend


def look(
    model: Any,
    layout: Layout,
    ids: Sequence[int],
    rows: Sequence[int],
    steer: Steer,
    layers: Sequence[int],
    kept: Sequence[int],
    positions: Sequence[int],
    asked: Sequence[tuple[int, int]],
    how: dict[str, Any],
) -> Any:
    """One pass over `ids`, without KV.

    kept, positions: layers and places whose residuals are wanted. asked: (place, token) pairs whose log-probability is
    wanted. Returns residuals [T, L, D], logprobs (one for each of `asked`), own (the same from the model's own
    logits, in its own precision), entered and ran, as `respond` does.
    """
    blocks, last = layout["blocks"], len(layout["blocks"]) - 1
    hooked = sorted({*layers, *kept, *([last] if asked else [])})
    tokens = torch.tensor([ids])
    row_ids = torch.tensor(rows)
    places = sorted({place for place, _ in asked})
    answer: Any = None
    with model.trace(tokens, use_cache=False, **how) as tracer:
        answer = nnsight.save({"residuals": [], "logprobs": [], "own": [], "entered": [], "ran": []})
        answer["entered"] += model.inputs[1]["input_ids"][0].tolist()
        residuals = {}
        for layer in hooked:
            block = model.get(blocks[layer])
            output = block.output
            hidden = output[0] if isinstance(output, tuple) else output
            if layer in layers:
                hidden = steer(layer, hidden[0], row_ids.to(hidden.device)).unsqueeze(0)
                block.output = (hidden, *output[1:]) if isinstance(output, tuple) else hidden
                answer["ran"].append((layer, hidden.shape[1]))
            residuals[layer] = hidden[0].detach()
        if kept:
            answer["residuals"] = torch.stack([residuals[layer][list(positions)].cpu() for layer in kept], 1)
        if asked:
            logprobs = exact_logprobs(
                model.get(layout["norm"]), model.get(layout["head"]), residuals[last][places], layout
            )
            at = [places.index(place) for place, _ in asked]
            answer["logprobs"] = logprobs[at, [token for _, token in asked]].tolist()
            own = torch.log_softmax(model.output.logits[0, places].detach().cpu().double(), -1)
            answer["own"] = own[at, [token for _, token in asked]].tolist()
    return answer if answer is not None else tracer.backend


def exact_logprobs(norm: Any, head: Any, residuals: Tensor, layout: Layout) -> Tensor:
    """[T, V] float64 on the CPU from the last block's residuals [T, D], at least float32 from the final norm on.

    As loading.exact_logits, but on modules that nnsight has wrapped, which cannot be copied.
    """
    wide = torch.float64 if residuals.dtype == torch.float64 else torch.float32
    if isinstance(norm._module, torch.nn.LayerNorm):
        weight, bias = (None if p is None else p.to(wide) for p in (norm.weight, norm.bias))
        normed = torch.nn.functional.layer_norm(residuals.to(wide), norm.normalized_shape, weight, bias, norm.eps)
    else:
        normed = norm(residuals.to(wide))
    if normed.dtype != wide:
        raise TypeError(f"the final norm gives {normed.dtype} for {wide}; scores from it would be rounded")
    logits = torch.cat([normed @ weight.to(wide).T for weight in head.weight.split(16_384)], -1)
    bias = getattr(head, "bias", None)
    logits = (logits if bias is None else logits + bias.to(wide)) * layout["scale"]
    logits = layout["cap"] * torch.tanh(logits / layout["cap"]) if layout["cap"] else logits
    return torch.log_softmax(logits.detach().cpu().double(), -1)
