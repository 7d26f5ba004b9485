"""The local engine: any Hugging Face causal language model in this process, many contexts at once.

Each step packs the new tokens of all active requests one after another, whatever their lengths and steering; rows
join and leave between steps. Knows no prompts, tools or files.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from toolkit.dictionary import FeatureDictionary
from toolkit.engines import fused, jobs, kv, loading, memory, packed, proof, sampling, table
from toolkit.engines.attention import Placed
from toolkit.engines.base import Failure, ModelInfo, Request, Result
from toolkit.engines.forward import Forward
from toolkit.engines.jobs import Job
from toolkit.engines.static import StaticStep, cuda_graphs
from toolkit.errors import BadInput, SelfsteerError, first_line

SMALL = 5_000_000  # parameters under which a second thread costs more than it brings, but for attention
THREADS = torch.get_num_threads()  # what this process was started with; engines change the number for all of it
PACKED = 4 * 2**30  # bytes of linear weights up to which a CPU keeps a second, packed copy of them
STEP = 16  # tokens that a step usually has, on a CPU
SHORT = 64  # tokens a step under which an engine out of memory takes fewer rows before fewer tokens


class LocalEngine:
    """Runs a model over contexts with steering by token; see toolkit/engines/base.py for the contract.

    model: a hub name or a folder. device: as torch names it, or auto; dtype: one of loading.DTYPES, by default float32
    on a CPU and bfloat16 elsewhere. most_rows: requests computed together. chunk: new tokens a step, so that a long
    prompt does not stall the rest. keep_lanes: contexts whose KV is kept between rounds, least recently used go first;
    kv_budget: bytes that they may take on the device (default: no limit); host_budget: bytes that those which left
    the device may take in the host's memory (default: a quarter of what is free there, none for a CPU). Budgets
    change time and never tokens. graphs: on a GPU, replay the step that adds a token to each row as a CUDA graph (see
    static.py). name: what records call the model; default: the hub name, or the folder's.
    threads: of torch, in the whole process, on a CPU; default: as many as the process was started with, but for a
    small model only in attention, since more slow down the rest of it.
    say: where a line goes when the engine does with less memory, or without captured steps; default: standard error.
    Raises BadInput for what cannot be opened, Unsupported for a model that it would compute wrongly (see proof.py).
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
        host_budget: int | None = None,
        threads: int | None = None,
        graphs: bool = True,
        name: str | None = None,
        trust_remote_code: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.device = loading.pick_device(device)
        if dtype is not None and dtype not in loading.DTYPES:
            raise BadInput(f"dtype {dtype!r} is unknown; use one of {', '.join(loading.DTYPES)}")
        for option, value in {"most_rows": most_rows, "chunk": chunk}.items():
            if value < 1:
                raise BadInput(f"{option} is {value}, with which nothing is ever computed; use 1 or more")
        cpu = self.device.type == "cpu"
        kind = loading.DTYPES[dtype or ("float32" if cpu else "bfloat16")]
        self.model, self.tokenizer = loading.load(model, self.device, kind, trust_remote_code)
        self._weights = sum(p.nbytes for p in self.model.parameters())
        if cpu:
            small = sum(p.numel() for p in self.model.parameters()) < SMALL
            torch.set_num_threads(threads or (1 if small else THREADS))
        self.most_rows, self.chunk, self.keep_lanes = most_rows, chunk, keep_lanes
        config = loading.text_config(self.model)
        self.info = ModelInfo(
            name=name or (Path(model).name if Path(model).is_dir() else model),
            digest=loading.digest(self.model),
            n_layers=config.num_hidden_layers,
            d_model=config.hidden_size,
            window=loading.window(self.model),
            vocabulary=config.vocab_size,
            engine="local",
            device=str(self.device),
            dtype=str(kind).removeprefix("torch."),
            batch_invariant=False,
        )
        if host_budget is None:
            host_budget = 0 if cpu else (memory.host_free_bytes() or 0) // 4
        self._store = kv.KVStore(kv_budget, host_budget)
        # few rows take other matrix kernels than many, whose last bits differ: a pack is never smaller than this
        floor = max(16, 8 * torch.get_num_threads()) if cpu else 1
        wide = kind if kind == torch.float64 else torch.float32
        self._table = table.SteeringTable(self.info.n_layers, self.info.d_model, self.device, wide, floor)
        expected = proof.plain(self.model)
        self._forward = Forward(self.model, self._store, self._table, floor, (threads or THREADS) if cpu else 1)
        graphs = graphs and self.device.type == "cuda"
        self._static = StaticStep(self._forward, cuda_graphs(self.device)) if graphs else None
        self._short = False  # whether the last step was of one-token spans only
        self._waiting: deque[tuple[int, Request]] = deque()
        self._active: list[Job] = []
        self._tickets = 0
        self._shortages = 0  # failed tries to compute a step since the last that went well
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self.tokens_computed = 0
        if cpu and kind == torch.float32:
            fused.activate_by_row(self.model)
        if self.device.type == "cuda":
            fused.norms_at_once(self.model)
        proof.check(self._forward, expected)
        if cpu and packed.copies(self.model) <= PACKED:  # a rule of the model alone: it has the same bits anywhere
            beside = self._forward.take_over(STEP) if kind == torch.float32 else set()
            self._weights += sum(one.weight.nbytes for one in beside) + packed.pack(self.model, STEP, beside)
        if cpu and kind == torch.float32:  # other dtypes are computed by torch, whose bits depend on the batch
            self.info = replace(self.info, batch_invariant=self._forward.same_bits_in_company(self.info.vocabulary))
        self._store.shrink()

    # ------------------------------------------------------------------ the contract

    @torch.no_grad()
    def attach(self, dictionary: FeatureDictionary) -> None:
        """Make a dictionary steerable; raises DictionaryMismatch if it does not fit, SteeringError if a canary dies."""
        with self._table.attaching(dictionary) as layers:
            dictionary.reader.move(self.device, memory.for_an_encoder(self.device))
            for layer in layers:
                # not a stop token: that may be padding too, whose embedding is zero and has no direction to turn from
                self._forward.check_canary(layer, self.tokenizer.document("Hello")[-1])

    def submit(self, request: Request) -> int:
        self._tickets += 1
        self._waiting.append((self._tickets, request))
        return self._tickets

    def cancel(self, ticket: int) -> None:
        """Forget a request; the others go on."""
        self._waiting = deque((t, r) for t, r in self._waiting if t != ticket)
        for job in [j for j in self._active if j.ticket == ticket]:
            self._drop(job, spoilt=True)  # nobody has looked yet at what it left there

    def forget(self) -> None:
        """Give up all kept KV that no request is using; the memory stays reserved for what comes."""
        self._store.forget()

    def prepare(self, rollouts: int, tokens: int) -> memory.Forecast:
        """What `rollouts` abreast of up to `tokens` tokens will take; makes room for as many of them as fit."""
        config, kind = loading.text_config(self.model), loading.DTYPES[self.info.dtype]
        forecast = memory.Forecast(
            rollouts,
            min(tokens, self.info.window),
            self._store.token_bytes() or memory.token_bytes(config, kind),
            self._weights,
            memory.step_bytes(config, kind, min(rollouts, self.most_rows), self.chunk),
            self.info.device,
            0 if self.device.type == "cpu" else self._store.bytes(),  # pages that nobody wrote take no room on a CPU
            self._store.budget,
            self._store.host_budget,
            memory.free_bytes(self.device),
        )
        try:
            self._store.reserve(memory.lanes(forecast.abreast), forecast.tokens)
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            self._store.shrink()
            self._said("no room is made ahead, but as it is needed")
        return forecast

    @torch.no_grad()
    def poll(self) -> list[tuple[int, Result | Failure]]:
        """Work until something has finished; [] only when nothing is in flight."""
        finished: list[tuple[int, Result | Failure]] = []
        while not finished and (self._waiting or self._active):
            step: list[tuple[Job, int]] = []
            try:
                self._admit(finished)
                step = self._next_step()
                if step:
                    self._compute(step)
            except (SelfsteerError, RuntimeError, MemoryError) as error:
                short = memory.ran_out(error)
                if short and self._back_off():
                    continue
                failure = Failure(memory.shortage(error) if short else error)
                if not step and self._waiting:  # not even started
                    finished.append((self._waiting.popleft()[0], failure))
                for job, _ in step:  # torch's own errors are the step's requests' failures
                    finished.append((job.ticket, failure))
                    self._drop(job, spoilt=True)
                continue
            self._shortages = 0
            for job, _ in step:
                finished += self._advance(job)
        return finished

    # ------------------------------------------------------------------ one step

    def _admit(self, finished: list[tuple[int, Result | Failure]]) -> None:
        """Start waiting requests while there is room, but for those whose beginning is about to be computed; those that
        cannot be carried out are finished at once. On another error the one at fault is the first that waits."""
        for one in list(islice(self._waiting, self.most_rows - len(self._active))):
            ticket, request = one
            if not self._store.room(jobs.longest(request, self.info.window)):
                break
            given = (self.info, self._table, self._store, self.tokenizer.stop_tokens, self.keep_lanes, self._active)
            try:
                job = jobs.start(ticket, request, *given)
            except SelfsteerError as error:
                finished.append((ticket, Failure(error)))
            except (RuntimeError, MemoryError):
                self._waiting.remove(one)
                self._waiting.appendleft(one)
                raise
            else:
                if job is None:
                    continue
                self._active.append(job)
            self._waiting.remove(one)

    def _next_step(self) -> list[tuple[Job, int]]:
        """Jobs and how many of their new tokens to compute: all that add one token, then spans up to the chunk.

        With a captured step, which adds one token a row, the two kinds take turns."""
        step = []
        room = self.chunk
        going = sorted(self._active, key=lambda job: (job.span.left, job.lane.index))
        if self._static is not None and going and going[0].span.left == 1 < going[-1].span.left:
            self._short = not self._short
            going = [job for job in going if (job.span.left == 1) == self._short]
        for job in going:
            count = min(job.span.left, room)
            if count:
                step.append((job, count))
                room -= count
        return step

    def _compute(self, step: list[tuple[Job, int]]) -> None:
        """One pass and what it brings. No job changes before all is computed, so that a step can be tried again."""
        tokens: list[int] = []
        rows: list[int] = []
        spans: list[Placed] = []
        for job, count in step:
            span = job.span
            spans.append((job.lane.index, len(tokens), count, job.lane.length))
            tokens += span.tokens[span.done : span.done + count]
            rows += span.rows[span.done : span.done + count]
        layers = frozenset(layer for job, _ in step for layer in job.span.layers)
        scored = any("logits" in job.span.want for job, _ in step)
        drawing = [
            (job, first + count - 1)
            for (job, count), (_, first, _, _) in zip(step, spans, strict=True)
            if job.span.want == "draw" and count == job.span.left
        ]
        # before the pass: whatever goes to a GPU after it waits for it
        by = sampling.ahead([jobs.draw_by(job) for job, _ in drawing], self.device)
        wanted = [at for _, at in drawing] + [0] * max(0, self._forward.floor - len(drawing))
        at = torch.tensor(wanted, device=self.device, dtype=torch.long)
        hidden = self._pass(tokens, rows, spans, layers | {self.info.n_layers - 1} if scored else layers)
        self.tokens_computed += len(tokens)
        logits = [self._logits(job, count, first) for (job, count), (_, first, _, _) in zip(step, spans, strict=True)]
        drawn = self._draw(hidden[at], by) if drawing else []
        kept = {layer: self._forward.captured[layer].cpu() for layer in layers}  # at once, not row by row
        for (job, count), (_, first, _, _), found in zip(step, spans, logits, strict=True):
            span, end = job.span, first + count
            for layer in span.layers:
                span.residuals.setdefault(layer, []).append(kept[layer][first:end].clone())
            span.logits += found
            job.lane.extend(tokens[first:end], rows[first:end])
            job.applied.update(rows[first:end])
            span.done += count
        for (job, _), one in zip(drawing, drawn, strict=True):
            job.span.drawn, job.uniform = one, None

    def _pass(self, tokens: list[int], rows: list[int], spans: list[Placed], wanted: frozenset[int]) -> Tensor:
        """Normed residuals of the step's tokens: by the captured step if there is one that can, else eagerly."""
        lanes = [lane for lane, _, _, _ in spans]
        if self._static is not None and len(tokens) == len(spans) and self._static.fits(rows, wanted):
            try:
                return self._static(tokens, rows, lanes, [start for _, _, _, start in spans])
            except RuntimeError as error:
                if memory.ran_out(error):
                    raise
                self._static = None
                why = first_line(error)
                self._say(f"{self.info.name} cannot be captured ({why}); it runs eagerly, and slower")
        return self._forward(tokens, rows, spans, wanted)

    def _logits(self, job: Job, count: int, first: int) -> list[Tensor]:
        """Exact logits of the tokens from `first` on, as far as the job's span wants them."""
        want, end = job.span.want, first + count
        if want == "all logits" or (want == "last logits" and count == job.span.left):
            begin = first if want == "all logits" else end - 1
            last = self._forward.captured[self.info.n_layers - 1]
            return [loading.exact_logits(self.model, last[begin:end])]
        return []

    def _draw(self, residuals: Tensor, by: sampling.By) -> list[tuple[int, float]]:
        """Token and log-probability of each row, drawn from its residual; there may be more residuals than rows."""
        logits = loading.logits_to_draw_from(self.model, residuals)[: len(by[0])]
        tokens, logprobs = sampling.draw(logits, *by)
        return list(zip(tokens.tolist(), logprobs.tolist(), strict=True))

    def _advance(self, job: Job) -> list[tuple[int, Result | Failure]]:
        """Ask the job's work for its next span once the present one is computed; its result when there is none."""
        if job.span.left:
            return []
        try:
            job.span = next(job.work)
        except StopIteration as end:
            self._drop(job)
            return [(job.ticket, end.value)]
        except (SelfsteerError, RuntimeError, MemoryError) as error:  # what came of it is no result: it fails alone
            self._drop(job, spoilt=True)
            return [(job.ticket, Failure(memory.shortage(error) if memory.ran_out(error) else error))]
        return []

    def _drop(self, job: Job, spoilt: bool = False) -> None:
        self._active.remove(job)
        if spoilt:
            self._store.wipe(job.lane)
        self._store.release(job.lane)

    # ------------------------------------------------------------------ too little memory

    def _back_off(self) -> bool:
        """Make do with less memory: first without waiting contexts, then in shorter steps, then with fewer requests
        at once, which start anew later and come to the same tokens. False when nothing is left to do without."""
        self._shortages += 1
        try:
            freed = self._store.shrink()
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            freed = 0
        if self._static is not None:
            self._static.forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if freed and self._shortages == 1:
            return self._said(f"kept KV of waiting rollouts, {memory.size(freed)}, left the device")
        if self.chunk > SHORT or (len(self._active) < 2 and self.chunk > 1):
            self.chunk //= 2
            return self._said(f"{self.chunk} tokens a step from now on")
        if len(self._active) > 1:
            self.most_rows = len(self._active) // 2
            for job in sorted(self._active, key=lambda job: -job.ticket)[: -self.most_rows]:
                self._drop(job)
                self._waiting.appendleft((job.ticket, job.request))
            return self._said(f"{self.most_rows} requests at once from now on; the others wait")
        return False

    def _said(self, what: str) -> bool:
        self._say(f"out of memory on {self.info.device}: {what}")
        return True
