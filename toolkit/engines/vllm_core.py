"""vLLM in this process: plans in, outcomes out, many at once.

Knows vLLM and plans; no dictionary, steering value or address. vllm.py puts the engine contract in front of it, here
or across vllm_server.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.engines.base import check_finite
from toolkit.engines.vllm_plan import NAME, Floats, Outcome, Plan, Vet, code, salt
from toolkit.errors import BadInput, SelfsteerError, SteeringError, Unsupported

WORKER = "toolkit.engines.vllm_worker.SteeringWorker"
DRAWS = "toolkit.engines.vllm_draws:Draws"
OURS = {  # what a server may not be told otherwise; an external cache, for one, knows no salts
    *("async_scheduling", "data_parallel_size", "generation_config", "kv_transfer_config", "logits_processors"),
    *("logprobs_mode", "override_generation_config", "speculative_config", "worker_extension_cls"),
}


@dataclass
class Running:
    """A plan in vLLM: what was drawn so far, and where the response ends, once that is known.

    vLLM is not told what ends it: it would stop before the last token is computed.
    """

    plan: Plan
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end: int | None = None
    reused: int = 0

    def take(self, output: Any) -> bool:
        """Add what a step has brought; whether all that is wanted has been computed."""
        new, plan = output.outputs[0], self.plan
        self.reused = int(output.num_cached_tokens or 0)
        for token in new.token_ids:
            self.tokens.append(int(token))
            if self.end is None and (token in plan.stops or len(self.tokens) == plan.most):
                self.end = len(self.tokens)
        if plan.logprobs:
            self.logprobs += [float(step[t].logprob) for step, t in zip(new.logprobs, new.token_ids, strict=True)]
        over = self.end is not None and (len(self.tokens) > self.end or not plan.through)
        return over or bool(output.finished)


class Core:
    """One vLLM engine with selfsteer's hooks on every worker.

    model: hub name or folder. name: what records call it. dtype: as vLLM takes it. tensor_parallel, pipeline_parallel:
    GPUs that share each layer, and groups of layers. options: anything else that vLLM's EngineArgs take.
    Raises Unsupported if vLLM or the vllm-lens plugin is missing.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        dtype: str = "auto",
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        **options: Any,
    ) -> None:
        needed = {"vllm": "vllm", "vllm_lens": "vllm-lens"}
        for module, package in needed.items():
            if importlib.util.find_spec(module) is None:
                raise Unsupported(
                    f"the vLLM engine steers through the plugin vllm-lens, and {package} is not installed here; see"
                    " docs/scale.md for what to install, or use the local engine (--device auto)"
                )
        # the scheduler stays in this process, so that one that dies is an error here and not a silence
        if wrong := OURS.intersection(options):
            raise BadInput(
                f"vLLM's option {min(wrong)} would change what is drawn, or what it is drawn from; leave it out"
            )
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        settings: dict[str, Any] = {
            "enable_prefix_caching": True,
            "enforce_eager": True,  # compiled and captured graphs skip hooks
            "async_scheduling": False,  # a step ahead of its own tokens could not take the n-th draw
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # what is drawn is what was asked for, not what the model's makers advise
            "disable_log_stats": True,
            "worker_extension_cls": WORKER,
            "logits_processors": [DRAWS],
            "tensor_parallel_size": tensor_parallel,
            "pipeline_parallel_size": pipeline_parallel,
            "seed": 0,
        }
        self.engine = LLMEngine.from_engine_args(EngineArgs(model=model, dtype=dtype, **{**settings, **options}))
        config = self.engine.vllm_config.model_config
        try:
            found = self.engine.collective_rpc("selfsteer_start")
        except RuntimeError as error:
            raise Unsupported(f"steering does not find its way in {model}: {error}; use the local engine") from error
        self.about: dict[str, Any] = {
            "name": name or (Path(model).name if Path(model).is_dir() else model),
            "model": config.model,
            "digest": digest(config.model, config.revision),
            "n_layers": found[0]["layers"],
            "d_model": found[0]["d_model"],
            "window": int(config.max_model_len),
            "vocabulary": int(config.get_vocab_size()),
            "device": str(self.engine.vllm_config.device_config.device),
            "dtype": str(config.dtype).removeprefix("torch."),
            "code": code(),
            "versions": {name: _version(name) for name in ("vllm", "vllm-cpu", "vllm-lens", "torch") if _version(name)},
        }
        self.broken = False
        self._unsound: set[str] = set()  # salts under which a request overflowed: their blocks are not read again
        self._running: dict[str, Running] = {}
        self._others: list[tuple[str, Outcome | Exception]] = []  # what finished while the engine was vetted

    def submit(self, plan: Plan) -> None:
        """Raises SelfsteerError if vLLM does not take it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if self.broken:
            raise SteeringError("a step of vLLM has failed, and what it left behind could not be cleared; open it anew")
        key = salt(plan)
        params = SamplingParams(
            temperature=0.0,  # vllm_draws.Draws draws
            max_tokens=min(plan.most + plan.through, self.about["window"] - len(plan.tokens)),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            logprobs=0 if plan.logprobs else None,
            extra_args={NAME: plan.to_bytes()},
            skip_reading_prefix_cache=plan.anew or key in self._unsound,
        )
        prompt: dict[str, Any] = {"prompt_token_ids": list(plan.tokens)}
        if key:
            prompt["cache_salt"] = key
        try:
            self.engine.add_request(plan.id, prompt, params)
        except ValueError as error:
            raise BadInput(f"vLLM does not take this request: {error}") from error
        self._running[plan.id] = Running(plan)

    def poll(self) -> list[tuple[str, Outcome | Exception]]:
        """Work until something has finished; [] only when nothing is in flight. A broken step fails all plans."""
        found, self._others = self._others, []
        while self._running and not found:
            waiting = list(self._running)
            try:
                found = self.step()
            except SteeringError as error:
                return [(name, error) for name in waiting]
        return found

    def step(self) -> list[tuple[str, Outcome | Exception]]:
        """One step of vLLM and what it has finished.

        Raises SteeringError if the step failed. However it was left, by Ctrl-C too, all plans are forgotten then: which
        of their tokens were computed, and steered, cannot be told.
        """
        whole = False
        try:
            over = [self._running[o.request_id] for o in self.engine.step() if self._running[o.request_id].take(o)]
            found = self._finished(over) if over else []
            whole = True
            return found
        except (RuntimeError, ValueError, LookupError, AttributeError, TypeError, OSError) as error:
            raise SteeringError(f"vLLM's step failed: {error}") from error
        finally:
            if not whole:
                self._give_up()

    def _give_up(self) -> None:
        """Forget all plans and the cache: vLLM enters blocks into it when it plans a step, before they are computed."""
        names, self._running = list(self._running), {}
        try:
            self.engine.abort_request(names)
            self.engine.collective_rpc("selfsteer_forget", args=(names,))
            self.broken = not self.engine.reset_prefix_cache()
        except (RuntimeError, OSError):  # its workers are gone
            self.broken = True

    def vet(self, check: Vet) -> None:
        """Hold this engine to a check, beside what is in flight. Raises what the check raises."""

        def ask(plan: Plan) -> Outcome:
            others: list[tuple[str, Outcome | Exception]] = []
            self.submit(plan)
            try:
                while found := self.poll():
                    others += [(name, one) for name, one in found if name != plan.id]
                    for one in (one for name, one in found if name == plan.id):
                        if isinstance(one, Exception):
                            raise one
                        return one
                raise SteeringError("vLLM has no answer to the request by which its steering was to be tried")
            finally:
                self._others = [*others, *self._others]

        check(ask)

    def cancel(self, *names: str) -> None:
        """Forget plans; they never come back from poll()."""
        self._others = [(name, found) for name, found in self._others if name not in names]
        known = [name for name in names if self._running.pop(name, None) is not None]
        if known:
            self.engine.abort_request(known)
            self.engine.collective_rpc("selfsteer_forget", args=(known,))

    def _finished(self, over: Sequence[Running]) -> list[tuple[str, Outcome | Exception]]:
        names = [running.plan.id for running in over]
        self.engine.abort_request(names)
        workers = self.engine.collective_rpc("selfsteer_collect", args=(names,))
        found: list[tuple[str, Outcome | Exception]] = []
        for i, running in enumerate(over):
            del self._running[running.plan.id]
            if not all(worker[i]["sound"] for worker in workers):
                self._unsound.add(salt(running.plan))
            try:
                found.append((running.plan.id, outcome(running, [worker[i] for worker in workers])))
            except SelfsteerError as error:
                found.append((running.plan.id, error))
        return found


def outcome(running: Running, workers: Sequence[Mapping[str, Any]]) -> Outcome:
    """What was drawn and what the workers kept, as one. Raises SteeringError if that is not one whole."""
    plan, added = running.plan, workers[0]["added"]
    if running.end is None:
        raise SteeringError(f"vLLM ended a request after {len(running.tokens)} tokens, before it was over")
    if any(not np.array_equal(added, other["added"]) for other in workers[1:]):
        raise SteeringError("the workers of this server did not steer the same tokens; restart it")
    if not all(worker["sound"] for worker in workers):
        check_finite([math.nan], "residuals")
    tokens = tuple(running.tokens[: running.end])
    planned = plan.row_ids()
    # what came from the cache was computed under the rows of this plan, or it would have another salt
    cached = (added < 0) & (np.arange(len(added)) < running.reused)
    done = np.where(cached, planned, added)[: len(plan.tokens) + len(tokens)]
    return Outcome(
        tokens,
        "stop" if tokens and tokens[-1] in plan.stops else "length",
        dict(Counter(done[done >= 0].tolist())),
        running.reused,
        tuple(running.logprobs[: running.end]) if plan.logprobs else None,
        _residuals(plan, workers, done) if plan.layers else None,
        _scores(plan, workers),
    )


def _residuals(plan: Plan, workers: Sequence[Mapping[str, Any]], done: NDArray[np.int64]) -> Floats:
    """[T, L, D]: each layer from the stage that has it; of a response, the tokens that were computed."""
    layers: dict[int, dict[int, Any]] = {}
    for worker in workers:
        for layer, some in worker["residuals"].items():
            layers.setdefault(layer, some)
    first = len(plan.tokens)
    positions = plan.positions
    if positions is None:  # at the end of the window, the last one was drawn and not computed
        positions = tuple(range(first, len(done) - (done[-1] < 0)))
    try:
        rows = [np.stack([layers[layer][p].numpy() for layer in plan.layers]) for p in positions]
    except KeyError as error:
        raise SteeringError(f"vLLM did not compute the residual at {error}, which was to be read") from error
    return np.stack(rows) if rows else np.zeros((0, len(plan.layers), 1), np.float32)


def _scores(plan: Plan, workers: Sequence[Mapping[str, Any]]) -> tuple[tuple[float, ...], ...]:
    """Log-probabilities from the parts of the vocabulary that the last stage's workers hold."""
    parts = [worker["scores"] for worker in workers if worker["scores"] is not None]
    found = []
    for i, (_, tokens) in enumerate(plan.score):
        top = max(part[i][0] for part in parts)
        total = top + math.log(sum(math.exp(part[i][0] - top) for part in parts))
        logits = {t: value for part in parts for t, value in part[i][1].items()}
        found.append(tuple(logits[t] - total for t in tokens))
    return tuple(found)


def digest(model: str, revision: str | None = None) -> str:
    """Hash of a checkpoint's configuration and weights: names, shapes, up to 4,096 evenly spaced values of each tensor.

    From the files, so it differs from the local engine's, which hashes what transformers makes of them. Raises
    Unsupported if they are no safetensors.
    """
    from safetensors import safe_open

    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Unsupported(
            f"model {model} has no safetensors, by which its weights could be told from others; convert it"
        )
    for file in files:
        with safe_open(file, "pt") as weights:
            for key in sorted(weights.keys()):
                flat = weights.get_tensor(key).reshape(-1)
                sha.update(f"{key}{flat.numel()}".encode())
                sha.update(flat[:: max(1, flat.numel() // 4096)].float().numpy().tobytes())
    return sha.hexdigest()[:16]


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
