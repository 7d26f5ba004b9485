"""Inside vLLM's workers: adds each token's row at its layer, keeps the residuals that are wanted.

Knows plans (vllm_plan.py) and vLLM; no engine, dictionary or address. It stands beside vllm-lens, whose worker it
extends: from there come the decoder layers by absolute index (also under pipeline parallelism), eager execution and
the model runner that hooks can read. Its own steering is not used, because in 1.3.0
- a steering vector that is given by position is applied at offset 0 of every forward pass when the attention's
  metadata is a dict, as it is in vLLM 0.30: chunks after the first and all generated tokens get the wrong vectors;
- an error in a hook is logged and the token goes on unsteered; here it ends the engine's step;
- vectors are dense in positions, and every steered request computes its whole prompt anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.forward_context import get_forward_context, is_forward_context_available
from vllm_lens._worker_ext import HiddenStatesExtension, _discover_layer_modules

from toolkit.engines.vllm_head import Head
from toolkit.engines.vllm_plan import NAME, Plan, Row, salt

SPARE = 1024  # rows kept although no request is using them; they come again each turn of a conversation
SPARE_BYTES = 2**28  # ... and what they may take, of vectors at many layers for one


@dataclass
class Kept:
    """What one request has come to on this worker: its rows, where they were added, and residuals by position.

    rows: [positions] rows of the worker's tables. added: the plan's row at each position that was computed, else -1.
    held: the rows that were acquired for it, to be released with it. sound: whether its residuals are finite, by step.
    """

    plan: Plan
    plan_rows: NDArray[np.int64]
    rows: NDArray[np.int64]
    added: NDArray[np.int64]
    wanted: NDArray[np.bool_]
    held: list[Row] = field(default_factory=list)
    sound: list[Tensor] = field(default_factory=list)
    salt: str = ""
    residuals: dict[int, list[tuple[NDArray[np.int64], Tensor]]] = field(default_factory=dict)


@dataclass
class Wanted:
    """The tokens of one step whose residuals are kept at one layer, so that they are taken out together.

    takers: request, positions. indices: where they stand in the step; `at` is all of them on the device.
    """

    takers: list[tuple[Kept, NDArray[np.int64]]] = field(default_factory=list)
    indices: list[NDArray[np.int64]] = field(default_factory=list)
    at: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def add(self, kept: Kept, positions: NDArray[np.int64], indices: NDArray[np.int64]) -> None:
        self.takers.append((kept, positions))
        self.indices.append(indices)

    def hand_out(self, layer: int, stream: Tensor) -> None:
        parts = stream.split([len(positions) for _, positions in self.takers])
        for (kept, positions), part in zip(self.takers, parts, strict=True):
            kept.residuals.setdefault(layer, []).append((positions, part))


class Tables:
    """Rows by digest: one [D] vector at each layer that a row has ever acted on; row 0 is zeros.

    projections: of the rows that have any, by layer, directions [N, D] of length 1 that are projected out.
    A row is given up when no request needs it and space is short.
    """

    def __init__(self, owned: Iterable[int], d_model: int, device: torch.device) -> None:
        self.owned, self.d_model, self.device = frozenset(owned), d_model, device
        self.layers: dict[int, Tensor] = {}
        self.projections: dict[int, dict[int, Tensor]] = {}
        self._size = 16
        self._rows: OrderedDict[str, int] = OrderedDict()
        self._users: dict[str, int] = {}
        self._free: list[int] = list(range(15, 0, -1))

    def acquire(self, row: Row) -> int:
        """The place of a row, which is kept until as many calls of release."""
        if not row.digest:
            return 0
        if row.digest not in self._rows:
            place = self._place()
            for layer in self.owned.intersection(row.deltas) - set(self.layers):
                self.layers[layer] = torch.zeros(self._size, self.d_model, device=self.device)
            for layer, table in self.layers.items():
                delta = row.deltas.get(layer)
                table[place] = 0.0 if delta is None else torch.tensor(delta, device=self.device)
            self.projections.pop(place, None)
            if row.projections:
                some = {
                    layer: torch.tensor(row.projections[layer]) for layer in self.owned.intersection(row.projections)
                }
                self.projections[place] = {layer: directions.to(self.device) for layer, directions in some.items()}
            self._rows[row.digest] = place  # known only now that it is written: memory may run out on the way
        self._rows.move_to_end(row.digest)
        self._users[row.digest] = self._users.get(row.digest, 0) + 1
        return self._rows[row.digest]

    def release(self, row: Row) -> None:
        if row.digest:
            self._users[row.digest] -= 1

    def _place(self) -> int:
        spare = min(SPARE, max(16, SPARE_BYTES // (4 * self.d_model * max(1, len(self.layers)))))
        if not self._free and len(self._rows) >= spare:
            for digest in [d for d in self._rows if not self._users[d]][: spare // 2]:
                self._free.append(self._rows.pop(digest))
                del self._users[digest]
        if not self._free:
            self.layers = {layer: torch.cat([table, torch.zeros_like(table)]) for layer, table in self.layers.items()}
            self._free = list(range(2 * self._size - 1, self._size - 1, -1))
            self._size *= 2
        return self._free.pop()


class Hooks:
    """Hooks on one worker's model, and the requests that it has seen."""

    def __init__(self, worker: Any) -> None:
        self.runner = worker.model_runner
        self.model = self.runner.get_model()
        config = worker.model_config
        self.n_layers = int(config.get_total_num_hidden_layers())
        blocks = _discover_layer_modules(worker)
        self.device = self.runner.device
        self.tables = Tables(blocks, int(config.get_hidden_size()), self.device)
        last = blocks.get(self.n_layers - 1)
        self._head = None if last is None else Head(self.model, last)
        # of the workers that share a layer all see the same residuals, and one hands them on
        self._speaks = worker.rank % worker.parallel_config.tensor_parallel_size == 0
        self.requests: dict[str, Kept] = {}
        self._internal: dict[str, Kept | None] = {}
        self._rows: Tensor | None = None
        self._steered = self._live = False
        self._projected: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._astray = torch.zeros((), dtype=torch.bool, device=self.device)
        self._wanted: dict[int, Wanted] = {}
        self._spans: list[tuple[Kept, int, int]] = []
        self._sound = torch.zeros(0, dtype=torch.bool, device=self.device)
        self._overflows = worker.model_config.dtype == torch.float16
        self._last = max(blocks, default=-1)
        self._unsound: set[str] = set()  # salts of requests that overflowed, whose blocks may be in vLLM's cache
        self._fired: set[int] = set()
        self.model.register_forward_pre_hook(self._before, with_kwargs=True)
        self.model.register_forward_hook(self._after)
        for layer, block in blocks.items():
            block.register_forward_hook(self._block(layer))

    def _begin(self, internal: str) -> Kept | None:
        """The request behind vLLM's own id for it; None for one that is not ours."""
        state = self.runner.requests[internal]
        data = (state.sampling_params.extra_args or {}).get(NAME)
        if data is None:
            return None
        plan = Plan.from_bytes(data)
        plan_rows = plan.row_ids()
        wanted = np.zeros(len(plan_rows), np.bool_)
        if plan.layers:
            wanted[list(plan.positions) if plan.positions is not None else slice(len(plan.tokens), None)] = True
        wanted[[at for at, _ in plan.score]] = True
        kept = Kept(plan, plan_rows, np.zeros_like(plan_rows), np.full_like(plan_rows, -1), wanted, salt=salt(plan))
        self.requests[plan.id] = kept
        places = []
        for row in plan.rows:
            places.append(self.tables.acquire(row))
            kept.held.append(row)
        kept.rows[:] = np.array(places)[plan_rows]
        return kept

    def _before(self, _model: object, _args: object, kwargs: dict[str, Any]) -> None:
        """Lay out this step's rows: which token of which request stands where, at which absolute position."""
        self._rows, self._steered, self._projected, self._wanted, self._fired = None, False, {}, {}, set()
        self._spans = []
        self._live = is_forward_context_available() and get_forward_context().attn_metadata is not None
        if not self._live:  # vLLM measures memory and warms up with batches that are nobody's
            return
        batch, starts = self.runner.input_batch, self.runner.query_start_loc.np
        positions = kwargs["positions"]
        if positions.dim() != 1:
            raise RuntimeError("this model has positions of several dimensions; steering cannot be placed in it")
        rows, expected = np.zeros(positions.shape[0], np.int64), np.full(positions.shape[0], -1, np.int64)
        for i, internal in enumerate(batch.req_ids):
            if internal not in self._internal:
                self._internal[internal] = self._begin(internal)
            kept = self._internal[internal]
            if kept is None:
                continue
            first, end = int(starts[i]), int(starts[i + 1])
            begin = self._computed(i)
            stop = min(begin + end - first, len(kept.rows))
            self._spans.append((kept, first, end))
            expected[first:end] = np.arange(begin, begin + end - first)
            rows[first : first + stop - begin] = kept.rows[begin:stop]
            kept.added[begin:stop] = kept.plan_rows[begin:stop]
            where = np.flatnonzero(kept.wanted[begin:stop])
            if len(where):
                for layer in {*kept.plan.layers} | ({self.n_layers - 1} if kept.plan.score else set()):
                    self._wanted.setdefault(layer, Wanted()).add(kept, where + begin, where + first)
        for wanted in self._wanted.values():
            wanted.at = torch.from_numpy(np.concatenate(wanted.indices)).to(self.device)
        ours = torch.from_numpy(expected).to(self.device, non_blocking=True)
        self._astray |= ((ours != positions) & (ours >= 0)).any()
        if self.device.type == "cpu":  # elsewhere when a request is collected, since to look is to wait for the step
            self._check_positions()
        for place in np.unique(rows).tolist() if self.tables.projections else []:
            for layer, directions in self.tables.projections.get(place, {}).items():
                tokens = torch.from_numpy(np.flatnonzero(rows == place)).to(self.device)
                self._projected.setdefault(layer, []).append((tokens, directions))
        self._sound = torch.ones(len(rows), dtype=torch.bool, device=self.device)
        self._steered = bool(rows.any())
        self._rows = torch.from_numpy(rows).to(self.device, non_blocking=True)

    def _check_positions(self) -> None:
        if bool(self._astray):
            self._astray.zero_()
            raise RuntimeError("vLLM computes positions that are not those expected; steering went astray")

    def _computed(self, i: int) -> int:
        """The absolute position of the first token that the i-th request of this step has in it."""
        return int(self.runner.input_batch.num_computed_tokens_cpu[i])

    def _block(self, layer: int) -> Any:
        def after_block(_block: object, _inputs: object, output: Any) -> Any:
            if self._rows is None:
                return None
            self._fired.add(layer)
            hidden, residual = (output[0], output[1]) if isinstance(output, tuple) else (output, None)
            table = self.tables.layers.get(layer)
            if self._steered and table is not None:
                if hidden.shape[0] != len(self._rows):
                    raise RuntimeError(f"layer {layer} has {hidden.shape[0]} tokens, the step {len(self._rows)}")
                # vLLM keeps the residual stream in two parts whose sum it is; adding to one adds to the sum
                change = table.index_select(0, self._rows)
                for where, directions in self._projected.get(layer, ()):
                    part = hidden[where].float() + (0 if residual is None else residual[where].float())
                    change = change.index_add(0, where, part @ directions.T @ directions, alpha=-1)
                hidden = hidden + change.to(hidden.dtype)
                output = (hidden, *output[1:]) if isinstance(output, tuple) else hidden
            if self._overflows or layer == self._last:
                hidden, residual = self._proved(hidden, residual)
                output = (hidden, residual, *output[2:]) if isinstance(output, tuple) else hidden
            if layer in self._wanted:
                wanted = self._wanted[layer]
                stream = hidden.index_select(0, wanted.at)
                wanted.hand_out(layer, stream if residual is None else stream + residual.index_select(0, wanted.at))
            return output

        return after_block

    def _proved(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Both parts of the stream, zero where their sum is not finite; the request that this was of fails.

        Zero, because keys and values that are no numbers come through the masks of whoever has the block next.
        """
        sound = (hidden if residual is None else hidden + residual).isfinite().all(-1)
        self._sound &= sound
        gone = ~sound[:, None]
        return hidden.masked_fill(gone, 0), None if residual is None else residual.masked_fill(gone, 0)

    def _after(self, _model: object, _args: object, _output: object) -> None:
        missed = self.tables.owned - self._fired
        if self._live and missed:
            raise RuntimeError(f"the steering at layer {min(missed)} did not run; start vLLM with enforce_eager")
        for kept, first, end in self._spans:
            kept.sound.append(self._sound[first:end])

    # ------------------------------------------------------------------ what comes back

    def collect(self, name: str) -> dict[str, Any]:
        """What this worker knows of a finished request, which it then forgets."""
        self._check_positions()
        kept = self.requests[name]
        residuals: dict[int, dict[int, Tensor]] = {}
        for layer, parts in kept.residuals.items():
            whole = torch.cat([stream for _, stream in parts]).float().cpu()
            at = np.concatenate([where for where, _ in parts]).tolist()
            residuals[layer] = dict(zip(at, whole, strict=True))  # computed twice after a preemption: the later one
        found = {
            "added": kept.added,
            "sound": self._is_sound(kept),
            "residuals": {
                layer: some for layer, some in residuals.items() if layer in kept.plan.layers and self._speaks
            },
            "scores": self._head.score(kept.plan.score, residuals.get(self.n_layers - 1, {})) if self._head else None,
        }
        self.forget(name)
        return found

    def _is_sound(self, kept: Kept) -> bool:
        """Whether its residuals are finite, and those of the requests from which its blocks may have come."""
        some, cached = [kept], self._overflows and kept.added[0] < 0
        if cached:
            some += [other for other in self.requests.values() if other.salt == kept.salt]
        for one in some:
            one.sound[:] = [torch.cat(one.sound).all()[None]] if one.sound else []
        sound = all(bool(one.sound[0]) for one in some if one.sound) and not (cached and kept.salt in self._unsound)
        if not sound:
            self._unsound.add(kept.salt)
        return sound

    def forget(self, name: str) -> None:
        kept = self.requests.pop(name, None)
        if kept is None:
            return
        self._internal = {k: v for k, v in self._internal.items() if v is not kept}
        for row in kept.held:
            self.tables.release(row)


class SteeringWorker(HiddenStatesExtension):
    """What vLLM mixes into its worker class: the calls that vllm_core.py makes on every worker."""

    def selfsteer_start(self) -> dict[str, int]:
        self.selfsteer_hooks = Hooks(self)
        return {"layers": self.selfsteer_hooks.n_layers, "d_model": self.selfsteer_hooks.tables.d_model}

    def selfsteer_collect(self, names: list[str]) -> list[dict[str, Any]]:
        return [self.selfsteer_hooks.collect(name) for name in names]

    def selfsteer_forget(self, names: list[str]) -> None:
        for name in names:
            self.selfsteer_hooks.forget(name)
