"""The local engine: any Hugging Face causal language model in this process, many contexts at once.

Each step packs the new tokens of all active requests one after another, whatever their lengths and steering; rows
join and leave between steps. Knows no prompts, tools or files.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from toolkit import randomness
from toolkit.dictionary import FeatureDictionary
from toolkit.engines import kv, loading, sampling, table
from toolkit.engines.base import (
    Completion,
    Failure,
    Generate,
    ModelInfo,
    Read,
    Request,
    Residuals,
    Result,
    Score,
    Scores,
    Why,
)
from toolkit.errors import BadInput, SelfsteerError, SteeringError, Unsupported, WindowFull
from toolkit.steering import Steering


@dataclass
class Span:
    """New tokens of one request, what is wanted of them, and what has come of it so far.

    want: the token drawn after the last one, the logits after each, or nothing. layers: whose residuals to keep.
    """

    tokens: Sequence[int]
    rows: Sequence[int]
    want: Literal["nothing", "draw", "logits"]
    layers: tuple[int, ...] = ()
    done: int = 0
    logits: list[Tensor] = field(default_factory=list)
    residuals: dict[int, list[Tensor]] = field(default_factory=dict)
    drawn: tuple[int, float] = (-1, float("nan"))


Work = Generator[Span, None, Result]


@dataclass
class Job:
    """A request on its way: its lane, the work that says what to compute next, and the span being computed."""

    ticket: int
    request: Request
    lane: kv.Lane
    work: Work | None = None
    span: Span | None = None
    uniform: np.random.Generator | None = None
    applied: Counter[int] = field(default_factory=Counter)


class LocalEngine:
    """Runs a model over contexts with steering by token; see toolkit/engines/base.py for the contract.

    model: a hub name or a folder. most_rows: requests computed together. chunk: new tokens a step, so that a long
    prompt does not stall the rest. keep_lanes: contexts whose KV is kept between rounds, least recently used go first.
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
        trust_remote_code: bool = False,
    ) -> None:
        self.device = loading.pick_device(device)
        if dtype is not None and dtype not in loading.DTYPES:
            raise BadInput(f"dtype {dtype!r} is unknown; use one of {', '.join(loading.DTYPES)}")
        kind = loading.DTYPES[dtype or ("float32" if self.device.type == "cpu" else "bfloat16")]
        self.model, self.tokenizer = loading.load(model, self.device, kind, trust_remote_code)
        self.most_rows, self.chunk, self.keep_lanes = most_rows, chunk, keep_lanes
        config = loading.text_config(self.model)
        self.info = ModelInfo(
            name=model,
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
        self._store = kv.KVStore()
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
        self._tickets = 0
        self._last = self.info.n_layers - 1
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

    # ------------------------------------------------------------------ requests as spans of new tokens

    def _admit(self) -> list[tuple[int, Failure]]:
        failed = []
        while self._waiting and len(self._active) < self.most_rows:
            ticket, request = self._waiting.popleft()
            try:
                job = self._start(ticket, request)
            except SelfsteerError as error:
                failed.append((ticket, Failure(error)))
                continue
            self._active.append(job)
        return failed

    def _start(self, ticket: int, request: Request) -> Job:
        context = request.context
        if not len(context):
            raise BadInput("the context is empty; append at least one token to it")
        if len(context) >= self.info.window:
            raise WindowFull(f"the context has {len(context)} tokens, the model's window is {self.info.window}")
        tokens = np.fromiter(context.tokens, np.int64, len(context))
        if tokens.min() < 0 or tokens.max() >= self.info.vocabulary:
            raise BadInput(f"token {tokens.max()} is not in the vocabulary of {self.info.vocabulary}")
        rows = np.concatenate([np.full(len(s), self._table.row(s.steering), np.int64) for s in context.segments])
        # the last token is always computed anew, since its logits are wanted; residuals are not kept, so a Read
        # computes everything from the first wanted position on
        most = len(context) - 1
        if isinstance(request, Read):
            _check_read(request, len(context), self.info.n_layers)
            most = min(request.positions, default=most)
        lane, reused = self._store.acquire(tokens, rows, most, self.keep_lanes)
        job = Job(ticket, request, lane)
        job.applied.update(lane.rows[:reused].tolist())
        rest = tokens[reused:].tolist(), rows[reused:].tolist(), reused
        if isinstance(request, Generate):
            job.work = self._generate(job, request, *rest)
        elif isinstance(request, Score):
            job.work = self._score(job, request, *rest)
        else:
            job.work = self._read(job, request, *rest)
        job.span = next(job.work)
        return job

    def _generate(self, job: Job, request: Generate, tokens: list[int], rows: list[int], reused: int) -> Work:
        row = self._table.row(request.steering)
        layers = () if request.capture is None else (self._table.dictionary(request.capture).reader.layer,)
        job.uniform = randomness.stream("tokens", *request.sampling.stream)
        room = min(request.sampling.max_tokens, self.info.window - len(request.context))
        response: list[int] = []
        logprobs: list[float] = []
        residuals: list[Tensor] = []
        why: Why = "length" if room == request.sampling.max_tokens else "window"
        span = Span(tokens, rows, "draw")
        while True:
            yield span
            residuals += span.residuals.get(layers[0], []) if layers and response else []
            if len(response) == room or (response and response[-1] in self.tokenizer.stop_tokens):
                break
            token, logprob = span.drawn
            response.append(token)
            logprobs.append(logprob)
            if token in self.tokenizer.stop_tokens:
                why = "stop"
            # the last token is computed too: its KV is part of the context, its residual part of the response
            last = why == "stop" or len(response) == room
            span = Span([token], [row], "nothing" if last else "draw", layers)
        return Completion(
            tuple(response),
            why,
            self._steered(job),
            tuple(logprobs) if request.logprobs else None,
            _kept(residuals) if layers else None,
            reused,
        )

    def _score(self, job: Job, request: Score, tokens: list[int], rows: list[int], reused: int) -> Work:
        for number, spellings in enumerate(request.options):
            if not spellings or not all(spellings):
                raise BadInput(f"option {number} has a spelling without tokens; give every option at least one token")
        span = Span(tokens, rows, "logits")
        yield span
        after_context = torch.log_softmax(span.logits[-1][-1:].double().cpu(), -1)
        job_steered = self._steered(job)
        row = self._table.row(request.steering)
        sums = []
        for spellings in request.options:
            parts = []
            for spelling in spellings:
                logprobs = after_context
                if len(spelling) > 1:
                    branch = Span(spelling[:-1], [row] * (len(spelling) - 1), "logits")
                    job.lane.length = len(request.context)
                    yield branch
                    logprobs = torch.cat(
                        [after_context, torch.log_softmax(torch.cat(branch.logits).double().cpu(), -1)]
                    )
                parts.append(logprobs[torch.arange(len(spelling)), torch.tensor(spelling)].sum())
            sums.append(float(torch.logsumexp(torch.stack(parts), 0)))
        job.lane.length = len(request.context)
        return Scores(tuple(sums), float(np.exp(sums).sum()), job_steered)

    def _read(self, job: Job, request: Read, tokens: list[int], rows: list[int], reused: int) -> Work:
        span = Span(tokens, rows, "nothing", request.layers)
        yield span
        at = torch.tensor([p - reused for p in request.positions], dtype=torch.long)
        read = [_kept(span.residuals[layer])[at] for layer in request.layers]
        return Residuals(torch.stack(read, 1), self._steered(job))

    def _steered(self, job: Job) -> dict[Steering, int]:
        return {s: n for row, n in job.applied.items() if (s := self._table.steerings[row]) is not None}

    # ------------------------------------------------------------------ one step

    def _next_step(self) -> list[tuple[Job, int]]:
        """Jobs and how many of their new tokens to compute: all that add one token, then spans up to the chunk."""
        step = []
        room = self.chunk
        for job in sorted(self._active, key=_left):
            count = min(_left(job), room)
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
            span = _span(job)
            start = job.lane.length
            spans.append((job.lane.index, len(tokens), count, start))
            tokens += span.tokens[span.done : span.done + count]
            rows += span.rows[span.done : span.done + count]
            lanes += [job.lane.index] * count
            positions += range(start, start + count)
        self._wanted = frozenset(layer for job, _ in step for layer in _span(job).layers)
        if any(_span(job).want == "logits" for job, _ in step):
            self._wanted |= {self._last}
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
        draws: list[tuple[Job, int]] = []
        for (job, count), (_, first, _, _) in zip(step, spans, strict=True):
            span = _span(job)
            for layer in span.layers:
                span.residuals.setdefault(layer, []).append(self._captured[layer][first : first + count])
            job.lane.extend(span.tokens[span.done : span.done + count], span.rows[span.done : span.done + count])
            job.applied.update(rows[first : first + count])
            span.done += count
            if span.want == "logits":
                span.logits.append(loading.exact_logits(self.model, self._captured[self._last][first : first + count]))
            elif span.want == "draw" and span.done == len(span.tokens):
                draws.append((job, first + count - 1))
        if draws:
            self._draw(draws, hidden)

    def _draw(self, draws: list[tuple[Job, int]], hidden: Tensor) -> None:
        wanted = [at for _, at in draws] + [0] * max(0, self._floor - len(draws))
        logits = loading.logits_to_draw_from(self.model, hidden[wanted])[: len(draws)]
        settings = []
        for job, _ in draws:
            if not isinstance(job.request, Generate) or job.uniform is None:
                raise TypeError("only a Generate draws tokens")
            how = job.request.sampling
            settings.append((how.temperature, how.top_p, job.uniform.random()))
        numbers = torch.tensor(settings, device=self.device, dtype=torch.float32)
        tokens, logprobs = sampling.draw(logits, *numbers.unbind(1))
        for (job, _), token, logprob in zip(draws, tokens.tolist(), logprobs.tolist(), strict=True):
            _span(job).drawn = (token, logprob)

    def _advance(self, job: Job) -> list[tuple[int, Result | Failure]]:
        """Ask the job's work for its next span once the present one is computed; its result when there is none."""
        if _left(job) or job.work is None:
            return []
        try:
            job.span = next(job.work)
        except StopIteration as end:
            self._drop(job)
            return [(job.ticket, end.value)]
        except SelfsteerError as error:
            self._drop(job)
            return [(job.ticket, Failure(error))]
        return []

    def _drop(self, job: Job) -> None:
        self._active.remove(job)
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


def _kept(residuals: list[Tensor]) -> Tensor:
    """[T, D] on the CPU: float32, or float64 from a float64 model."""
    whole = torch.cat(residuals).cpu()
    return whole if whole.dtype == torch.float64 else whole.float()


def _left(job: Job) -> int:
    span = _span(job)
    return len(span.tokens) - span.done


def _span(job: Job) -> Span:
    if job.span is None:
        raise TypeError("the job has not started")
    return job.span


def _check_read(request: Read, tokens: int, layers: int) -> None:
    for position in request.positions:
        if not 0 <= position < tokens:
            raise BadInput(f"position {position} is not in a context of {tokens} tokens")
    for layer in request.layers:
        if not 0 <= layer < layers:
            raise BadInput(f"layer {layer} is out of range; the model has layers 0 to {layers - 1}")
