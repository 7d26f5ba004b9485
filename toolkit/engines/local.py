"""The local engine: any Hugging Face causal language model in this process, many contexts at once.

Each step packs the new tokens of all active requests one after another, whatever their lengths and steering; rows
join and leave between steps. Knows no prompts, tools or files.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toolkit.dictionary import FeatureDictionary
from toolkit.engines import jobs, kv, loading, packed, sampling, table
from toolkit.engines.base import Failure, Generate, ModelInfo, Request, Result
from toolkit.engines.jobs import Job
from toolkit.errors import BadInput, SelfsteerError, SteeringError, Unsupported

SMALL = 5_000_000  # parameters under which a second thread costs more than it brings
PACKED = 4 * 2**30  # bytes of linear weights up to which a CPU keeps a second, packed copy of them


class LocalEngine:
    """Runs a model over contexts with steering by token; see toolkit/engines/base.py for the contract.

    model: a hub name or a folder. most_rows: requests computed together. chunk: new tokens a step, so that a long
    prompt does not stall the rest. keep_lanes: contexts whose KV is kept between rounds, least recently used go first;
    kv_budget: bytes that they may take (default: no limit), which changes time and never tokens.
    name: what records call the model; default: the hub name, or the folder's.
    threads: of torch, in the whole process, on a CPU; default: one for a small model, which more only slow down.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str | None = None,
        most_rows: int = 64,
        chunk: int = 1024,
        keep_lanes: int = 256,
        kv_budget: int | None = None,
        threads: int | None = None,
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.device = loading.pick_device(device)
        if dtype is not None and dtype not in loading.DTYPES:
            raise BadInput(f"dtype {dtype!r} is unknown; use one of {', '.join(loading.DTYPES)}")
        kind = loading.DTYPES[dtype or ("float32" if self.device.type == "cpu" else "bfloat16")]
        self.model, self.tokenizer = loading.load(model, self.device, kind, trust_remote_code)
        if self.device.type == "cpu":
            small = sum(p.numel() for p in self.model.parameters()) < SMALL
            torch.set_num_threads(threads or (1 if small else torch.get_num_threads()))
            packed.pack(self.model, 16, PACKED)
        self.most_rows, self.chunk, self.keep_lanes = most_rows, chunk, keep_lanes
        config = loading.text_config(self.model)
        self.info = ModelInfo(
            name=name or (Path(model).name if Path(model).is_dir() else model),
            digest=loading.digest(self.model),
            n_layers=config.num_hidden_layers,
            d_model=config.hidden_size,
            window=config.max_position_embeddings,
            vocabulary=config.vocab_size,
            engine="local",
            device=str(self.device),
            dtype=str(kind).removeprefix("torch."),
            batch_invariant=False,
        )
        self._store = kv.KVStore(kv_budget)
        # few rows take other matrix kernels than many, whose last bits differ: a pack is never smaller than this
        self._floor = max(16, 8 * torch.get_num_threads()) if self.device.type == "cpu" else 1
        wide = kind if kind == torch.float64 else torch.float32
        self._table = table.SteeringTable(self.info.n_layers, self.info.d_model, self.device, wide, self._floor)
        self._pack: kv.Packed | None = None
        self._rows = torch.zeros(0, dtype=torch.long)
        self._present: tuple[int, ...] = ()
        self._fired: set[int] = set()
        self._captured: dict[int, Tensor] = {}
        self._wanted: frozenset[int] = frozenset()
        self._waiting: deque[tuple[int, Request]] = deque()
        self._active: list[Job] = []
        self._uniform: dict[int, np.random.Generator | None] = {}
        self._tickets = 0
        self.tokens_computed = 0
        self._take_over_attention()
        if self.device.type == "cpu":
            self.info = replace(self.info, batch_invariant=self._same_bits_in_company())

    # ------------------------------------------------------------------ the contract

    @torch.no_grad()
    def attach(self, dictionary: FeatureDictionary) -> None:
        """Make a dictionary steerable; raises DictionaryMismatch if it does not fit, SteeringError if a canary dies."""
        known = self._table.layers
        self._table.attach(dictionary)
        for layer in self._table.layers - known:
            self._check_canary(layer)

    def submit(self, request: Request) -> int:
        self._tickets += 1
        self._waiting.append((self._tickets, request))
        return self._tickets

    def cancel(self, ticket: int) -> None:
        """Forget a request; the others go on."""
        self._waiting = deque((t, r) for t, r in self._waiting if t != ticket)
        for job in [j for j in self._active if j.ticket == ticket]:
            self._drop(job)

    def forget(self) -> None:
        """Give up all kept KV that no request is using; the memory stays reserved for what comes."""
        self._store.forget()

    @torch.no_grad()
    def poll(self) -> list[tuple[int, Result | Failure]]:
        """Work until something has finished; [] only when nothing is in flight."""
        finished: list[tuple[int, Result | Failure]] = []
        while not finished and (self._waiting or self._active):
            finished += self._admit()
            if not self._active:
                continue
            step = self._next_step()
            try:
                self._compute(step)
            except (SelfsteerError, RuntimeError) as error:  # torch's own errors are the step's requests' failures
                for job, _ in step:
                    finished.append((job.ticket, Failure(error)))
                    self._drop(job)
                continue
            for job, _ in step:
                finished += self._advance(job)
        return finished

    # ------------------------------------------------------------------ one step

    def _admit(self) -> list[tuple[int, Failure]]:
        """Start waiting requests while there is room; those that cannot be carried out come back at once."""
        failed = []
        while self._waiting and len(self._active) < self.most_rows:
            ticket, request = self._waiting.popleft()
            stops = self.tokenizer.stop_tokens
            try:
                job = jobs.start(ticket, request, self.info, self._table, self._store, stops, self.keep_lanes)
            except SelfsteerError as error:
                failed.append((ticket, Failure(error)))
                continue
            self._active.append(job)
            self._uniform[ticket] = jobs.draws(request)
        return failed

    def _next_step(self) -> list[tuple[Job, int]]:
        """Jobs and how many of their new tokens to compute: all that add one token, then spans up to the chunk."""
        step = []
        room = self.chunk
        for job in sorted(self._active, key=lambda job: job.span.left):
            count = min(job.span.left, room)
            if count:
                step.append((job, count))
                room -= count
        return step

    def _compute(self, step: list[tuple[Job, int]]) -> None:
        tokens: list[int] = []
        rows: list[int] = []
        lanes: list[int] = []
        positions: list[int] = []
        spans = []
        for job, count in step:
            span, begin = job.span, job.lane.length
            spans.append((job.lane.index, len(tokens), count, begin))
            tokens += span.tokens[span.done : span.done + count]
            rows += span.rows[span.done : span.done + count]
            lanes += [job.lane.index] * count
            positions += range(begin, begin + count)
        self._wanted = frozenset(layer for job, _ in step for layer in job.span.layers)
        if any("logits" in job.span.want for job, _ in step):
            self._wanted |= {self.info.n_layers - 1}
        hidden = self._forward(tokens, rows, lanes, positions, tuple(spans))
        self._collect(step, spans, rows, hidden)

    def _forward(
        self,
        tokens: list[int],
        rows: list[int],
        lanes: list[int],
        positions: list[int],
        spans: tuple[tuple[int, int, int, int], ...],
    ) -> Tensor:
        """Normed residuals [T, D] of packed tokens; raises SteeringError if a layer's steering did not run."""
        padding = [0] * max(0, self._floor - len(tokens))
        whole = torch.tensor(
            [tokens + padding, rows + padding, lanes + padding, positions + padding], device=self.device
        )
        count = len(tokens)
        self._rows, self._present = whole[1], table.distinct(rows)
        self._pack = kv.Packed(whole[2, :count], whole[3, :count], spans)
        self._fired = set()
        self._captured = {}
        hidden: Tensor = self.model.get_decoder()(
            input_ids=whole[:1], position_ids=whole[3:4], use_cache=False
        ).last_hidden_state
        missed = self._table.layers - self._fired
        if missed:
            raise SteeringError(f"the steering at layer {min(missed)} did not run in this model; nothing was recorded")
        self.tokens_computed += len(tokens)
        return hidden[0, :count]

    def _collect(
        self,
        step: list[tuple[Job, int]],
        spans: list[tuple[int, int, int, int]],
        rows: list[int],
        hidden: Tensor,
    ) -> None:
        """Hand each job its residuals and logits, and draw the tokens of all that want one."""
        drawing: list[tuple[Job, int]] = []
        for (job, count), (_, first, _, _) in zip(step, spans, strict=True):
            span, end = job.span, first + count
            for layer in span.layers:
                span.residuals.setdefault(layer, []).append(self._captured[layer][first:end])
            job.lane.extend(span.tokens[span.done : span.done + count], span.rows[span.done : span.done + count])
            job.applied.update(rows[first:end])
            span.done += count
            if span.want == "all logits" or (span.want == "last logits" and not span.left):
                begin = first if span.want == "all logits" else end - 1
                span.logits.append(loading.exact_logits(self.model, self._captured[self.info.n_layers - 1][begin:end]))
            elif span.want == "draw" and not span.left:
                drawing.append((job, end - 1))
        if drawing:
            self._draw(drawing, hidden)

    def _draw(self, drawing: list[tuple[Job, int]], hidden: Tensor) -> None:
        wanted = [at for _, at in drawing] + [0] * max(0, self._floor - len(drawing))
        logits = loading.logits_to_draw_from(self.model, hidden[wanted])[: len(drawing)]
        settings = []
        for job, _ in drawing:
            uniform = self._uniform[job.ticket]
            if uniform is None or not isinstance(job.request, Generate):
                raise TypeError("only a Generate draws tokens")
            settings.append((job.request.sampling.temperature, job.request.sampling.top_p, uniform.random()))
        numbers = torch.tensor(settings, device=self.device, dtype=torch.float32)
        tokens, logprobs = sampling.draw(logits, *numbers.unbind(1))
        for (job, _), token, logprob in zip(drawing, tokens.tolist(), logprobs.tolist(), strict=True):
            job.span.drawn = (token, logprob)

    def _advance(self, job: Job) -> list[tuple[int, Result]]:
        """Ask the job's work for its next span once the present one is computed; its result when there is none."""
        if job.span.left:
            return []
        try:
            job.span = next(job.work)
        except StopIteration as end:
            self._drop(job)
            return [(job.ticket, end.value)]
        return []

    def _drop(self, job: Job) -> None:
        self._active.remove(job)
        del self._uniform[job.ticket]
        self._store.release(job.lane)

    # ------------------------------------------------------------------ the model's insides

    def _take_over_attention(self) -> None:
        """Register this engine's attention and a hook on every block. Raises Unsupported if the model has no seam."""
        from transformers import AttentionInterface

        if not getattr(type(self.model), "_supports_attention_backend", False):
            raise Unsupported(
                f"{type(self.model).__name__} does not let its attention be replaced; use the nnsight engine for it"
            )
        name = f"selfsteer_{id(self)}"
        AttentionInterface.register(name, kv.as_attention_function(self._store, lambda: self._pack))
        self.model.set_attn_implementation(name)
        for layer, block in enumerate(loading.decoder_blocks(self.model)):
            block.register_forward_hook(self._hook(layer))

    def _hook(self, layer: int):  # type: ignore[no-untyped-def]
        def after_block(_block: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
            hidden = output[0] if isinstance(output, tuple) else output
            if layer in self._table.layers:
                hidden = self._table.apply(layer, hidden[0], self._rows, self._present).unsqueeze(0)
                self._fired.add(layer)
            if layer in self._wanted:
                self._captured[layer] = hidden[0]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return after_block

    @torch.no_grad()
    def _same_bits_in_company(self) -> bool:
        """Whether some tokens come out with the same bits alone and in two chunks behind others' (see kv.attend)."""
        lanes = [kv.Lane(len(self._store.lanes) + i) for i in range(3)]
        self._store.lanes += lanes
        tokens = [(7 * i + 1) % self.info.vocabulary for i in range(40)]
        own, others = tokens[:8], tokens[8:]
        a, b, c = (lane.index for lane in lanes)
        alone = self._forward(own, [0] * 8, [a] * 8, list(range(8)), ((a, 0, 8, 0),))
        crowd = ((b, 0, 32, 0), (c, 32, 5, 0))
        first = self._forward(others + own[:5], [0] * 37, [b] * 32 + [c] * 5, [*range(32), *range(5)], crowd)
        rest = self._forward(own[5:], [0] * 3, [c] * 3, [5, 6, 7], ((c, 0, 3, 5),))
        return torch.equal(alone, torch.cat([first[32:], rest]))

    def _check_canary(self, layer: int) -> None:
        """Steer a known direction at `layer` and see that the logits move; raises SteeringError if they do not."""
        lane = kv.Lane(len(self._store.lanes), busy=True)
        self._store.lanes.append(lane)
        token = min(self.tokenizer.stop_tokens, default=0)
        self._wanted = frozenset({layer})
        seen = []
        for row in (0, table.CANARY):
            hidden = self._forward([token], [row], [lane.index], [0], ((lane.index, 0, 1, 0),))
            seen.append(loading.logits_to_draw_from(self.model, hidden))
            if row == 0:
                residual = self._captured[layer][0].to(self._table.dtype)
                # the residual turned by a quarter: as long as it, and in another direction whatever it is
                turned = torch.cat([residual[1::2], -residual[::2]])[: len(residual)]
                self._table.set_canary(layer, turned)
        self._store.release(lane)
        if not bool((seen[0] - seen[1]).abs().max() > 1e-4):
            raise SteeringError(f"steering layer {layer} does not reach the logits of this model; nothing was run")
