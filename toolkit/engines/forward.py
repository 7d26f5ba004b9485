"""One pass of packed tokens through a Hugging Face model: this engine's attention and a steering hook on every block.

Knows no requests, no sampling and no schedule.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolkit.engines import attention, fused, kv, loading, table
from toolkit.errors import SteeringError, Unsupported

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Forward:
    """Computes passes over lanes of a store under rows of a table. Takes the model over: nobody else may run it.

    floor: the fewest tokens that a pass has, padding included. threads: of torch, on a CPU.
    Raises Unsupported if the model has no seam for its attention.
    """

    def __init__(
        self, model: PreTrainedModel, store: kv.KVStore, steerings: table.SteeringTable, floor: int, threads: int
    ) -> None:
        from transformers import AttentionInterface

        if not getattr(type(model), "_supports_attention_backend", False):
            raise Unsupported(
                f"{type(model).__name__} does not let its attention be replaced; use the nnsight engine for it"
            )
        self.model, self.store, self.table, self.floor = model, store, steerings, floor
        self.n_layers = len(loading.decoder_blocks(model))
        self.captured: dict[int, Tensor] = {}
        self._attention = attention.Attention(store, threads)
        self._rows = torch.zeros(0, dtype=torch.long)
        self._present: tuple[int, ...] = ()
        self._wanted: frozenset[int] = frozenset()
        self._fired: set[int] = set()
        name = f"selfsteer_{id(self)}"
        ours: Any = weakref.ref(self._attention)  # transformers never forgets it, and it has all the kept KV
        AttentionInterface.register(name, attention.as_attention_function(lambda *given: ours()(*given)))
        model.set_attn_implementation(name)
        for layer, block in enumerate(loading.decoder_blocks(model)):
            block.register_forward_hook(self._hook(layer))

    def __call__(
        self,
        tokens: Sequence[int],
        rows: Sequence[int],
        spans: Sequence[attention.Placed],
        wanted: frozenset[int] = frozenset(),
    ) -> Tensor:
        """Normed residuals [T, D] of packed tokens; `captured` then holds [T, D] of each wanted layer.

        Keys and values go to the places that the spans name; a pass that is computed twice writes the same twice.
        Raises SteeringError if a layer's steering did not run.
        """
        device = self.table.device
        padding = [0] * max(0, self.floor - len(tokens))
        lanes = [lane for lane, _, count, _ in spans for _ in range(count)]
        positions = [at for _, _, count, start in spans for at in range(start, start + count)]
        whole = torch.tensor([[*one, *padding] for one in (tokens, rows, lanes, positions)], device=device)
        count = len(tokens)
        pack = attention.Packed(whole[2, :count], whole[3, :count], tuple(spans))
        return self.run(whole[0], whole[1], whole[3], pack, table.distinct(rows), wanted)[:count]

    def run(
        self,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor,
        pack: attention.Packed | attention.Rows,
        present: tuple[int, ...],
        wanted: frozenset[int],
    ) -> Tensor:
        """The pass itself, of tensors [T], padding included. present: the distinct rows, for edits."""
        self._rows, self._present, self._attention.pack = rows, present, pack
        self._wanted, self._fired, self.captured = wanted, set(), {}
        hidden: Tensor = self.model.get_decoder()(
            input_ids=tokens[None], position_ids=positions[None], use_cache=False
        ).last_hidden_state
        missed = self.table.layers - self._fired
        if missed:
            raise SteeringError(f"the steering at layer {min(missed)} did not run in this model; nothing was recorded")
        return hidden[0]

    def _hook(self, layer: int) -> Any:
        def after_block(_block: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
            hidden = output[0] if isinstance(output, tuple) else output
            if layer in self.table.layers:
                hidden = self.table.apply(layer, hidden[0], self._rows, self._present).unsqueeze(0)
                self._fired.add(layer)
            if layer in self._wanted:
                self.captured[layer] = hidden[0]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return after_block

    # ------------------------------------------------------------------ what a pass must be able to do

    @torch.no_grad()
    def take_over(self, rows: int) -> set[nn.Linear]:
        """Have kernels compute what they can (see fused.py). rows: how many a step usually has."""

        def residuals() -> Tensor:
            lane = kv.Lane(len(self.store.lanes))
            self.store.lanes.append(lane)
            tokens = [i % loading.text_config(self.model).vocab_size for i in range(1, 33)]
            hidden = self(tokens, [0] * 32, ((lane.index, 0, 32, 0),))
            del self.store.lanes[lane.index]
            return hidden

        return fused.take_over(self.model, self._attention, rows, residuals)

    @torch.no_grad()
    def same_bits_in_company(self, vocabulary: int) -> bool:
        """Whether some tokens come out with the same bits alone and in two chunks behind others' (see attention).

        This and the canary use lanes behind the others for a moment, and leave no trace."""
        lanes = [kv.Lane(len(self.store.lanes) + i) for i in range(3)]
        self.store.lanes += lanes
        tokens = [(7 * i + 1) % vocabulary for i in range(40)]
        own, others = tokens[:8], tokens[8:]
        a, b, c = (lane.index for lane in lanes)
        alone = self(own, [0] * 8, ((a, 0, 8, 0),))
        first = self(others + own[:5], [0] * 37, ((b, 0, 32, 0), (c, 32, 5, 0)))
        rest = self(own[5:], [0] * 3, ((c, 0, 3, 5),))
        del self.store.lanes[a:]
        return torch.equal(alone, torch.cat([first[32:], rest]))

    @torch.no_grad()
    def check_canary(self, layer: int, token: int) -> None:
        """Steer a known direction at `layer` and see that the logits move; raises SteeringError if they do not."""
        lane = kv.Lane(len(self.store.lanes), busy=True)
        self.store.lanes.append(lane)
        seen = []
        try:
            for row in (0, table.CANARY):
                hidden = self([token], [row], ((lane.index, 0, 1, 0),), frozenset({layer}))
                seen.append(loading.logits_to_draw_from(self.model, hidden))
                if row == 0:
                    self.table.set_canary(layer, self.captured[layer][0])
        finally:
            del self.store.lanes[lane.index]
        if not bool((seen[0] - seen[1]).abs().max() > 1e-4):
            raise SteeringError(f"steering layer {layer} does not reach the logits of this model; nothing was run")
