"""The nnsight engine: models that the local engine cannot run, in this process or on NDIF, through nnsight's traces.

Knows no prompts, tools or files. A request is one trace (a Score: one more for each longer spelling). Nothing is kept
between requests, so every context is computed anew: slower than the local engine, and for where that one cannot go.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.dictionary import FeatureDictionary
from toolkit.engines import loading, nnsight_host, nnsight_work, table
from toolkit.engines.base import Failure, ModelInfo, Request, Residuals, Result
from toolkit.engines.nnsight_work import Pass, Work
from toolkit.errors import BadInput, SelfsteerError, SteeringError, Unreachable, Unsupported


@dataclass
class Job:
    """A request on its way: the trace that it waits for and, if that runs remotely, where it is."""

    ticket: int
    work: Work
    now: Pass
    sent: nnsight_host.Sent | None


class NnsightEngine:
    """Runs a model over contexts with steering by token; see toolkit/engines/base.py for the contract.

    model: a hub name or a folder. remote: False, True for NDIF (or the host in NDIF_HOST), the address of a host, or
    "local", which sends every trace through nnsight's serialisation and runs it here. NDIF wants a key, NDIF_API_KEY.
    most_jobs: remote jobs in flight. poll_s: seconds between looks at them. patience_s: how long a host may be silent.
    name: what records call the model; default: the hub name, or the folder's.
    Remotely, clamp and dictionaries that normalise their input are Unsupported: they need an encoder beside the model.
    """

    def __init__(
        self,
        model: str,
        *,
        remote: bool | str = False,
        device: str = "auto",
        dtype: str | None = None,
        most_jobs: int = 16,
        poll_s: float = 1.0,
        patience_s: float = 300.0,
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        nnsight = nnsight_host.package()
        from toolkit.engines import nnsight_trace  # imports nnsight

        if dtype is not None and dtype not in loading.DTYPES:
            raise BadInput(f"dtype {dtype!r} is unknown; use one of {', '.join(loading.DTYPES)}")
        self._traces = nnsight_trace
        self._how: dict[str, Any] = {"remote": remote} if remote else {}
        self._far = bool(remote) and remote != "local"
        self.most_jobs, self.poll_s, self.patience_s = most_jobs if self._far else 1, poll_s, patience_s
        for shipped in ("toolkit.engines.nnsight_trace", "toolkit.engines.sampling") if remote else ():
            nnsight.register(shipped)
        self.device = torch.device("cpu") if self._far else loading.pick_device(device)
        if self._far:
            self._how["blocking"] = False
            where = nnsight_host.address(remote, nnsight.CONFIG)
            self._model, self.tokenizer = nnsight_host.shape(model, trust_remote_code)
        else:
            where = str(self.device)
            kind = loading.DTYPES[dtype or ("float32" if self.device.type == "cpu" else "bfloat16")]
            module, self.tokenizer = loading.load(model, self.device, kind, trust_remote_code)
            own = copy.deepcopy(self.tokenizer._tokenizer)  # nnsight sets padding on the one that it holds
            self._model = nnsight.TransformersModel(module, tokenizer=own, task="text-generation")
        module = self._model._module
        config = loading.text_config(module)
        kind = next(module.parameters()).dtype
        self.info = ModelInfo(
            name=name or (Path(model).name if Path(model).is_dir() else model),
            digest=nnsight_host.digest(model, config) if self._far else loading.digest(module),
            n_layers=config.num_hidden_layers,
            d_model=config.hidden_size,
            window=loading.window(module),
            vocabulary=config.vocab_size,
            engine="nnsight-remote" if remote else "nnsight",
            device=where,
            dtype=str(kind).removeprefix("torch."),
            batch_invariant=not self._far and self.device.type == "cpu",  # requests never share a step
            versions={"nnsight": nnsight.__version__},
        )
        self._layout = _layout(module, nnsight_trace)
        wide = kind if kind == torch.float64 else torch.float32
        self._table = table.SteeringTable(self.info.n_layers, self.info.d_model, self.device, wide)
        self._waiting: deque[tuple[int, Request]] = deque()
        self._running: dict[int, Job] = {}
        self._tickets = 0

    # ------------------------------------------------------------------ the contract

    def attach(self, dictionary: FeatureDictionary) -> None:
        """Make a dictionary steerable; raises DictionaryMismatch if it does not fit, SteeringError if a canary dies,
        Unsupported if the model makes its logits otherwise than from its residuals, Unreachable if a host is away."""
        with self._table.attaching(dictionary) as layers:
            for layer in layers:
                self._check_canary(layer)

    def submit(self, request: Request) -> int:
        self._tickets += 1
        self._waiting.append((self._tickets, request))
        return self._tickets

    def cancel(self, ticket: int) -> None:
        """Forget a request. A remote job that has begun runs to its end there, and nobody fetches what it found."""
        self._waiting = deque((t, r) for t, r in self._waiting if t != ticket)
        self._running.pop(ticket, None)

    def poll(self) -> list[tuple[int, Result | Failure]]:
        """Work until something has finished; [] only when nothing is in flight."""
        finished: list[tuple[int, Result | Failure]] = []
        stops = frozenset(self.tokenizer.stop_tokens)
        while not finished and (self._waiting or self._running):
            while self._waiting and len(self._running) < self.most_jobs:
                ticket, request = self._waiting.popleft()
                try:
                    work = nnsight_work.start(request, self.info, self._table, stops)
                    self._running[ticket] = Job(ticket, work, next(work), self._sent())
                except SelfsteerError as error:
                    finished.append((ticket, Failure(error)))
            for job in list(self._running.values()):
                result = self._move(job)
                if result is not None:
                    del self._running[job.ticket]
                    finished.append((job.ticket, result))
            if self._far and self._running and not finished:
                time.sleep(self.poll_s)
        return finished

    # ------------------------------------------------------------------ traces

    def _move(self, job: Job) -> Result | Failure | None:
        """Begin, look after or go on with a job; its result, or None if it is still under way."""
        from nnsight.intervention.interleaver import OutOfOrderError

        try:
            answer = self._run(job.now) if job.sent is None else job.sent.answer(lambda: self._run(job.now))
            if answer is None:
                return None
            nnsight_work.check(job.now, answer, self._table.layers)
            job.now, job.sent = job.work.send(answer), self._sent()
        except StopIteration as end:
            done: Result = end.value
            return done
        except (SelfsteerError, RuntimeError, OutOfOrderError) as error:
            return Failure(error)
        except (LookupError, TypeError, ValueError) as error:
            if not self._far:
                raise
            return Failure(Unreachable(f"{self.info.device} answered something else than was asked: {error!r}"))
        return None

    def _sent(self) -> nnsight_host.Sent | None:
        return nnsight_host.Sent(self.info.device, self.patience_s) if self._far else None

    def _run(self, one: Pass) -> Any:
        """The answer of a trace, or for a remote one nnsight's handle on it."""
        steer, rows = self._steer(one.rows)
        trace, layers = getattr(self._traces, one.trace), sorted(self._table.layers)
        with torch.no_grad():
            return trace(self._model, self._layout, one.ids, rows, steer, layers, how=self._how, **one.arguments)

    def _steer(self, rows: tuple[int, ...]) -> tuple[Any, list[int]]:
        """What steers in a trace, and the rows in its numbering: the table itself here, tensors where they are sent."""
        if self._how:
            present = table.distinct(rows)
            return self._traces.table_steer(self._table.portable(present)), [present.index(row) for row in rows]
        return lambda layer, h, ids: self._table.apply(layer, h, ids, table.distinct(ids.tolist())), list(rows)

    def _check_canary(self, layer: int) -> None:
        """Steer a known direction at `layer` and see that the logits move; raises SteeringError if they do not."""
        ids = self.tokenizer.opening("", "Hello")  # a single token may be padding, which has no residual to turn
        last = len(ids) - 1
        asked = [(last, t) for t in range(min(64, self.info.vocabulary))]
        plain = self._at_once(nnsight_work.look(ids, (0,) * len(ids), (layer,), (last,), asked))
        apart = np.abs(np.subtract(plain["logprobs"], plain["own"])).max()
        if not apart < (1e-3 if self.info.dtype in ("float32", "float64") else 0.25):
            raise Unsupported(
                f"log-probabilities made from the residuals of this model are {apart:.2g} nats from its own, so scores"
                " would be wrong; nothing was run"
            )
        self._table.set_canary(layer, plain["residuals"][0, 0])
        turned = self._at_once(nnsight_work.look(ids, (*(0,) * last, table.CANARY), (layer,), (last,), asked))
        if not np.abs(np.subtract(plain["logprobs"], turned["logprobs"])).max() > 1e-4:
            raise SteeringError(f"steering layer {layer} does not reach the logits of this model; nothing was run")

    def _at_once(self, one: Pass) -> dict[str, Any]:
        """Run a trace and wait for it."""

        def work() -> Work:
            answers.append((yield one))
            return Residuals(torch.empty(0), {})

        answers: list[dict[str, Any]] = []
        generator = work()
        job = Job(0, generator, next(generator), self._sent())
        while (result := self._move(job)) is None:
            time.sleep(self.poll_s if self._far else 0)
        if isinstance(result, Failure):
            raise result.error
        return answers[0]


def _layout(module: Any, traces: Any) -> Any:
    names = {id(part): name for name, part in module.named_modules()}
    blocks: nn.ModuleList = loading.decoder_blocks(module)
    scale, cap = loading.logit_scale_and_cap(module)
    return traces.Layout(
        blocks=tuple(names[id(block)] for block in blocks),
        norm=names[id(loading.final_norm(module))],
        head=names[id(module.get_output_embeddings())],
        scale=scale,
        cap=cap,
    )
