"""Draws in vLLM: each request's own stream of numbers, and the code that draws with them on the local engine.

Knows plans and logits; no steering, hook or residual.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor

from toolkit import randomness
from toolkit.engines.sampling import draw
from toolkit.engines.vllm_plan import NAME, Plan


class Draws(LogitsProcessor):
    """Draws each token from its request's own stream, as toolkit/engines/sampling.py does, and leaves only that one.

    So a seed means the same tokens here as on the local engine. vLLM itself then takes the only token left.
    The n-th token takes the n-th number of the stream, whatever else is computed and however often.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[Plan, list[int], list[float]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _prompt, output in batch_update.added:
            self._rows.pop(index, None)
            data = (params.extra_args or {}).get(NAME)
            plan = None if data is None else Plan.from_bytes(data)
            if plan is not None and plan.temperature > 0:
                uniform = randomness.stream("tokens", *plan.stream).random(plan.most).tolist()
                self._rows[index] = (plan, output, uniform)
        for one, other, how in batch_update.moved:
            a, b = self._rows.pop(one, None), self._rows.pop(other, None)
            if a is not None:
                self._rows[other] = a
            if b is not None and how.name == "SWAP":
                self._rows[one] = b

    def apply(self, logits: Tensor) -> Tensor:
        if not self._rows:
            return logits
        rows = sorted(self._rows)
        some = [self._rows[row] for row in rows]
        settings = [(p.temperature, p.top_p, u[min(len(output), p.most - 1)]) for p, output, u in some]
        numbers = torch.tensor(settings, device=logits.device, dtype=torch.float32)
        at = torch.tensor(rows, device=logits.device)
        temperature, top_p, uniform = numbers.unbind(1)
        tokens, _ = draw(logits[at], temperature, top_p, uniform)
        logits[at] = -torch.inf
        logits[at, tokens] = 0.0
        return logits
