"""vLLM as an engine: the contract of base.py over plans, which one vLLM in this process or several servers carry out.

Knows steering, dictionaries and requests; of vLLM only that its servers take plans (vllm_plan.py). What it adds to
residuals is the local engine's own table, row by row. clamp is refused: it needs the dictionary beside the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from toolkit.context import Context
from toolkit.dictionary import FeatureDictionary
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
    Tokenizer,
    check_finite,
    check_request,
)
from toolkit.engines.table import SteeringTable, quarter_turn
from toolkit.engines.vllm_plan import Ask, Outcome, Plan, Row, Vet
from toolkit.errors import SelfsteerError, SteeringError
from toolkit.steering import NO_STEERING, Steering


class Servers(Protocol):
    """What carries out plans: vllm_core.Core in this process, or vllm_http.Fleet over HTTP."""

    about: dict[str, Any]

    def submit(self, plan: Plan) -> None: ...

    def poll(self) -> list[tuple[str, Outcome | Exception]]: ...

    def cancel(self, *names: str) -> None: ...

    def vet(self, check: Vet) -> None:
        """Hold every server to a check, also one that comes back later."""
        ...


@dataclass
class Pending:
    """A request on its way: its plans' answers so far, in their order."""

    request: Request
    steerings: tuple[Steering, ...]
    plans: tuple[Plan, ...]
    outcomes: dict[str, Outcome] = field(default_factory=dict)


class VllmEngine:
    """See toolkit/engines/base.py for the contract. Open with `in_process` or `over_http`."""

    def __init__(self, servers: Servers, tokenizer: Tokenizer) -> None:
        self.servers, self.tokenizer = servers, tokenizer
        about = servers.about
        self.info = ModelInfo(
            name=about["name"],
            digest=about["digest"],
            n_layers=about["n_layers"],
            d_model=about["d_model"],
            window=about["window"],
            vocabulary=about["vocabulary"],
            engine="vllm",
            device=about["device"],
            dtype=about["dtype"],
            batch_invariant=False,
            versions=about["versions"],
        )
        self._table = SteeringTable(self.info.n_layers, self.info.d_model, torch.device("cpu"), torch.float32)
        self._rows: dict[Steering, Row] = {NO_STEERING: Row()}
        self._pending: dict[int, Pending] = {}
        self._failed: list[tuple[int, Failure]] = []
        self._tickets = self._canaries = 0

    # ------------------------------------------------------------------ the contract

    def attach(self, dictionary: FeatureDictionary) -> None:
        """Make a dictionary steerable; raises DictionaryMismatch if it does not fit, SteeringError if a canary dies or
        logits are not made of the residuals, Unreachable if a server is lost over it."""
        with self._table.attaching(dictionary) as layers:
            for layer in layers:
                self.servers.vet(partial(self._canary, layer))

    def submit(self, request: Request) -> int:
        self._tickets += 1
        ticket = self._tickets
        try:
            pending = self._planned(ticket, request)
            self._pending[ticket] = pending
            for plan in pending.plans:
                self.servers.submit(plan)
        except SelfsteerError as error:
            self.cancel(ticket)
            self._failed.append((ticket, Failure(error)))
        return ticket

    def cancel(self, ticket: int) -> None:
        """Forget a request; the others go on."""
        self._failed = [(t, failure) for t, failure in self._failed if t != ticket]
        pending = self._pending.pop(ticket, None)
        if pending is not None:
            self.servers.cancel(*(plan.id for plan in pending.plans))

    def poll(self) -> list[tuple[int, Result | Failure]]:
        """Wait until something has finished; [] only when nothing is in flight."""
        finished: list[tuple[int, Result | Failure]] = [*self._failed]
        self._failed = []
        while not finished and self._pending:
            answers = self.servers.poll()
            if not answers:  # a step that was interrupted, say
                lost = SteeringError("the step that this request was in was not finished; ask again")
                finished = [(ticket, Failure(lost)) for ticket in self._pending]
                self._pending = {}
            for name, answer in answers:
                ticket = int(name.split("-")[0])
                pending = self._pending.get(ticket)
                if pending is None:
                    continue
                if isinstance(answer, Exception):
                    self.cancel(ticket)
                    finished.append((ticket, Failure(answer)))
                    continue
                pending.outcomes[name] = answer
                if len(pending.outcomes) == len(pending.plans):
                    del self._pending[ticket]
                    try:
                        finished.append((ticket, self._result(pending)))
                    except SteeringError as error:
                        finished.append((ticket, Failure(error)))
        return finished

    # ------------------------------------------------------------------ requests as plans

    def _planned(self, ticket: int, request: Request) -> Pending:
        check_request(request, self.info)
        context = request.context
        after = NO_STEERING if isinstance(request, Read) else request.steering
        steerings = tuple(dict.fromkeys([NO_STEERING, *(s.steering for s in context.segments), after]))
        rows = tuple(self._row(s) for s in steerings)
        base = Plan(f"{ticket}-0", context.tokens, rows, _runs(context, steerings), steerings.index(after))
        base = replace(base, cuts=tuple(accumulate(map(len, context.segments))))
        if isinstance(request, Generate):
            sampling = request.sampling
            layers: tuple[int, ...] = ()
            if request.capture is not None:
                layers = (self._table.dictionary(request.capture).reader.layer,)
            plan = replace(
                base,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                most=min(sampling.max_tokens, self.info.window - len(context)),
                stream=sampling.stream,
                stops=tuple(sorted(self.tokenizer.stop_tokens)),
                through=True,
                logprobs=request.logprobs,
                layers=layers,
            )
            return Pending(request, steerings, (plan,))
        if isinstance(request, Read):
            plan = replace(base, layers=request.layers, positions=request.positions, anew=True)
            return Pending(request, steerings, (plan,))
        return Pending(request, steerings, tuple(_scoring(base, request, steerings.index(after))))

    def _row(self, steering: Steering) -> Row:
        """What a steering does, as numbers. Raises SteeringError or Unsupported as SteeringTable does."""
        if steering not in self._rows:
            parts = self._table.portable([self._table.row(steering)])
            gone = {layer: [direction for direction, _ in pairs] for layer, (_, pairs) in parts.items() if pairs}
            self._rows[steering] = Row(
                {layer: deltas[0].numpy() for layer, (deltas, _) in parts.items()},
                {layer: torch.stack(directions).numpy() for layer, directions in gone.items()},
            )
        return self._rows[steering]

    # ------------------------------------------------------------------ outcomes as results

    def _result(self, pending: Pending) -> Result:
        request, first = pending.request, pending.outcomes[pending.plans[0].id]
        steered = {pending.steerings[row]: n for row, n in first.counts.items() if n}
        for outcome in pending.outcomes.values():
            check_finite([*(outcome.logprobs or ()), *(x for asked in outcome.scores for x in asked)], "logits")
        if isinstance(request, Generate):
            full = first.why == "length" and len(first.tokens) < request.sampling.max_tokens
            return Completion(
                first.tokens,
                "window" if full else first.why,
                steered,
                first.logprobs,
                None if first.residuals is None else torch.tensor(first.residuals[:, 0]),
                first.reused,
            )
        if isinstance(request, Read):  # vLLM draws a token after every prompt; not computed, it is not counted either
            return Residuals(torch.tensor(first.residuals), steered)
        return _scores(request, pending, steered)

    def _canary(self, layer: int, ask: Ask) -> None:
        """Steer a known direction at `layer` and see that the logits move; raises SteeringError if they do not."""
        self._canaries += 1
        # not a stop token: that may be padding too, whose embedding is zero and has no direction to turn from
        token = self.tokenizer.document("Hello")[-1]
        name, wanted = f"0-canary-{self._canaries}", ((0, tuple(range(self.info.vocabulary))),)
        plain = Plan(name, (token,), logprobs=True, layers=(layer,), positions=(0,), score=wanted, anew=True)
        before = ask(plain)
        if before.residuals is None or before.logprobs is None:
            raise SteeringError(f"layer {layer} of this model cannot be read; nothing was run")
        # made from the residuals that are read, so a block whose output is not what it was taken for shows here
        scores, drawn = np.array(before.scores[0]), before.tokens[0]
        apart = max(abs(scores[drawn] - before.logprobs[0]), scores.max() - scores[drawn])
        if not apart < (1e-3 if self.info.dtype == "float32" else 0.25):
            raise SteeringError(
                f"log-probabilities made from the residuals of this model are {apart:.2g} nats from vLLM's own: its"
                " residual stream or its head is not what it is taken for; use the local or the nnsight engine"
            )
        turned = quarter_turn(torch.tensor(before.residuals[0, 0])).numpy()
        rows = (Row(), Row({layer: turned}))
        after = ask(replace(plain, id=f"{name}-steered", rows=rows, runs=((0, 1, 1),)))
        if not np.abs(np.array(after.scores[0]) - scores).max() > 1e-4:
            raise SteeringError(f"steering layer {layer} does not reach the logits of this model; nothing was run")


def _runs(context: Context, steerings: Sequence[Steering]) -> tuple[tuple[int, int, int], ...]:
    """(start, length, place among `steerings`) of each steered segment."""
    runs, start = [], 0
    for segment in context.segments:
        if len(segment.steering):
            runs.append((start, len(segment), steerings.index(segment.steering)))
        start += len(segment)
    return tuple(runs)


def _scoring(base: Plan, request: Score, row: int) -> list[Plan]:
    """One plan for all first tokens, and one for each longer spelling, whose tokens but the last run under `row`."""
    spellings = [s for option in request.options for s in option]
    end = len(base.tokens)
    firsts = tuple(sorted({s[0] for s in spellings}))
    plans = [replace(base, score=((end - 1, firsts),))]
    for i, longer in enumerate(dict.fromkeys(s for s in spellings if len(s) > 1)):
        head = longer[:-1]
        runs = (*base.runs, (end, len(head), row)) if row else base.runs
        wanted = tuple((end + at, (token,)) for at, token in enumerate(longer[1:]))
        name = f"{base.id.split('-')[0]}-{i + 1}"
        plans.append(replace(base, id=name, tokens=(*base.tokens, *head), runs=runs, score=wanted, anew=True))
    return plans


def _scores(request: Score, pending: Pending, steered: Mapping[Steering, int]) -> Scores:
    """Log-sum-exp over spellings; one of several tokens is its first plan's part and its own plan's."""
    first = dict(zip(pending.plans[0].score[0][1], pending.outcomes[pending.plans[0].id].scores[0], strict=True))
    end = len(request.context)
    longer: dict[tuple[int, ...], float] = {}
    for plan in pending.plans[1:]:
        tokens = (*plan.tokens[end:], plan.score[-1][1][0])
        longer[tokens] = sum(score[0] for score in pending.outcomes[plan.id].scores)
    sums = []
    for spellings in request.options:
        parts = [first[s[0]] + longer.get(s, 0.0) for s in spellings]
        top = max(parts)
        sums.append(top + math.log(sum(math.exp(part - top) for part in parts)))
    return Scores(tuple(sums), math.fsum(math.exp(s) for s in sums), steered)


def tokenizer_of(model: str) -> Tokenizer:
    """The model's own tokenizer and stop tokens, without its weights."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from toolkit.engines.chat import ChatTokenizer

    try:
        eos = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # transformers makes one from the configuration then, as the local engine's model has it
        eos = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model)).eos_token_id
    return ChatTokenizer(AutoTokenizer.from_pretrained(model), eos)


def in_process(model: str, **options: Any) -> VllmEngine:
    """vLLM in this process; options are vllm_core.Core's."""
    from toolkit.engines.vllm_core import Core

    core = Core(model, **options)
    return VllmEngine(core, tokenizer_of(model))


def over_http(addresses: Sequence[str], model: str, *, name: str | None = None, **options: Any) -> VllmEngine:
    """Servers of `model`, of which only the tokenizer is opened here; options are vllm_http.Fleet's.

    name: what the servers call it; default: the hub name, or the folder's.
    """
    from toolkit.engines.vllm_http import Fleet

    called = name or (Path(model).name if Path(model).is_dir() else model)
    return VllmEngine(Fleet(addresses, called, **options), tokenizer_of(model))
