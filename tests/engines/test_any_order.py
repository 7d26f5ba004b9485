"""Requests in any order, with anything between them, against plain transformers: one pass a question and no memory.

Hypothesis picks what comes next: requests on contexts that share beginnings, polls, cancelling, dictionaries that are
attached on the way, memory that runs out in the middle of a step or of making room. In float64 to rounding; in float32
to the last bit, against the same engine with one request and no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from transformers import AutoModelForCausalLM

from tests.engines.contract import Reference
from tests.engines.test_local import DICTIONARY, TWO_LAYERS, steer
from tests.engines.test_static import traced
from tests.tiny import make_tiny_llama, random_dictionary
from toolkit import randomness
from toolkit.context import Context
from toolkit.engines import memory
from toolkit.engines.base import (
    Completion,
    Failure,
    Generate,
    Read,
    Residuals,
    Sampling,
    Score,
    Scores,
    check_steered,
    run,
)
from toolkit.engines.local import LocalEngine
from toolkit.engines.sampling import draw
from toolkit.engines.static import StaticStep
from toolkit.steering import NO_STEERING, Steering

WINDOW, PLACES, VOCABULARY = 48, 16, 261
LATER = random_dictionary(layers=(1, 3), seed=2)  # attached while others are under way
STEERINGS = [
    NO_STEERING,
    Steering.of(steer(1, 0.0)),
    Steering.of(steer(1, 0.9)),
    Steering.of(steer(1, 0.9), steer(4, -0.8, dictionary=TWO_LAYERS)),
    Steering.of(steer(3, 1.2, "clamp"), steer(5, 0.0, "project_out", TWO_LAYERS)),
]
LATE = Steering.of(steer(2, 1.1, dictionary=LATER), steer(1, 0.9))
OPTIONS = [(((5,),), ((6,),)), (((5,), (6, 7)), ((7, 8, 9),)), (((9, 9, 9, 9), (5, 6)), ((7,),))]


class AnyOrder(RuleBasedStateMachine):
    """One engine that lives through everything; each result is checked when it comes."""

    folder: Path
    reference: Reference
    dtype = "float64"

    @initialize(
        chunk=st.sampled_from([1, 2, 5, 64]),
        rows=st.integers(1, 5),
        keep=st.integers(1, 4),
        budget=st.sampled_from([None, 0, 2, 3]),
        host=st.sampled_from([0, 1, 9]),
        static=st.booleans(),
    )
    def open(self, chunk: int, rows: int, keep: int, budget: int | None, host: int, static: bool) -> None:
        engine = _opened(self.folder, self.dtype)
        lane = engine._store.token_bytes() or 2 * 4 * 2 * 8 * 8
        static = static and self.dtype == "float64"  # compiled loops cannot be traced
        engine._store.budget = None if budget is None else budget * lane * PLACES
        engine._store.host_budget = host * lane * PLACES
        engine.chunk, engine.most_rows, engine.keep_lanes = chunk, rows, keep
        engine._static = StaticStep(engine._forward, traced) if static else None
        self.engine, self.asked, self.late = engine, {}, False
        self.contexts, self.extra = [Context().append([0, 5, 6])], True
        self.shortages: list[str] = []
        _scarce(engine, self.shortages)

    # ------------------------------------------------------------------ what may come next

    def steerings(self) -> list[Steering]:
        return [*STEERINGS, LATE] if self.late else STEERINGS

    @rule(data=st.data(), tokens=st.lists(st.integers(5, 8), min_size=1, max_size=9), fork=st.booleans())
    def go_on(self, data: st.DataObject, tokens: list[int], fork: bool) -> None:
        context = data.draw(st.sampled_from(self.contexts))
        if fork:
            context = context.upto(data.draw(st.integers(1, len(context))))
        longer = context.append(tokens, data.draw(st.sampled_from(self.steerings())))
        self.contexts.append(longer.upto(min(len(longer), WINDOW - 1)))

    @rule(data=st.data())
    def steer_otherwise(self, data: st.DataObject) -> None:
        context = data.draw(st.sampled_from(self.contexts))
        start = data.draw(st.integers(0, len(context)))
        self.contexts.append(context.under(data.draw(st.sampled_from(self.steerings())), start))

    @rule(data=st.data(), most=st.integers(1, 60), hot=st.booleans(), seed=st.integers(0, 99), capture=st.booleans())
    def ask_for_a_response(self, data, most: int, hot: bool, seed: int, capture: bool) -> None:
        context = data.draw(st.sampled_from(self.contexts))
        under = data.draw(st.sampled_from(self.steerings()))
        sampling = Sampling(0.9 if hot else 0.0, 0.8 if seed % 3 else 1.0, min(most, 14), (seed,))
        self.ask(Generate(context, sampling, under, DICTIONARY.key if capture else None, True))

    @rule(data=st.data(), options=st.sampled_from(OPTIONS))
    def ask_for_scores(self, data: st.DataObject, options) -> None:
        whole = data.draw(st.sampled_from(self.contexts))
        context = whole.upto(min(len(whole), WINDOW - 4))
        self.ask(Score(context, options, data.draw(st.sampled_from(self.steerings()))))

    @rule(data=st.data(), layers=st.lists(st.integers(0, 3), min_size=1, max_size=3))
    def ask_for_residuals(self, data: st.DataObject, layers: list[int]) -> None:
        context = data.draw(st.sampled_from(self.contexts))
        places = data.draw(st.lists(st.integers(0, len(context) - 1), min_size=1, max_size=4))
        self.ask(Read(context, tuple(places), tuple(layers)))

    def ask(self, request: Any) -> None:
        self.asked[self.engine.submit(request)] = request

    @rule()
    def poll(self) -> None:
        found = self.engine.poll()
        self.extra = self.late
        assert bool(found) == bool(self.asked)
        for ticket, result in found:
            self.check(self.asked.pop(ticket), result)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.asked)))
        self.engine.cancel(ticket)
        del self.asked[ticket]

    @rule()
    def forget(self) -> None:
        self.engine.forget()

    @rule(rollouts=st.integers(1, 3), tokens=st.integers(1, WINDOW))
    def prepare(self, rollouts: int, tokens: int) -> None:
        self.engine.prepare(rollouts, tokens)

    @precondition(lambda self: not self.late)
    @rule()
    def attach_another(self) -> None:
        try:
            self.engine.attach(LATER)
        except RuntimeError as error:  # memory ran out, which is for the caller to meet: it tries again
            assert memory.ran_out(error)
            self.engine.attach(LATER)
        self.late = self.extra = True  # its canary took a lane, which leaves with the next request

    @precondition(lambda self: self.engine.chunk > 1)  # with less, nothing is left to do without
    @rule(where=st.sampled_from(["before", "after", "draw", "room", "copy"]))
    def memory_runs_out(self, where: str) -> None:
        self.shortages[:] = [where]

    # ------------------------------------------------------------------ what must hold

    def check(self, request: Any, result: Any) -> None:
        assert not isinstance(result, Failure), result.error
        context, under = request.context, getattr(request, "steering", NO_STEERING)
        check_steered(context, result, under if isinstance(result, Completion) else NO_STEERING)
        if isinstance(result, Scores):
            assert result.logprobs == pytest.approx(self.reference.score(request), abs=1e-5)
        elif isinstance(result, Residuals):
            expected = self.reference.run(context)[0][list(request.positions)][:, list(request.layers)]
            torch.testing.assert_close(result.values, expected, rtol=1e-5, atol=1e-5)
        else:
            self.check_completion(request, result)
            self.contexts.append(
                context.append(result.tokens, under, "generated").upto(
                    min(len(context) + len(result.tokens), WINDOW - 1)
                )
            )

    def check_completion(self, request: Generate, result: Completion) -> None:
        context, sampling = request.context, request.sampling
        residuals, logits = self.reference.run(context, result.tokens, request.steering)
        before = logits[len(context) - 1 : -1]
        stream, n = randomness.stream("tokens", *sampling.stream), len(result.tokens)
        settings = [torch.full((n,), one) for one in (sampling.temperature, sampling.top_p)]
        tokens, logprobs = draw(before, *settings, torch.tensor([stream.random() for _ in range(n)]).float())
        assert list(result.tokens) == tokens.tolist()
        assert result.logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)
        assert all(t != 1 for t in result.tokens[:-1])
        room = min(sampling.max_tokens, WINDOW - len(context))
        assert (result.tokens[-1] == 1) == (result.why == "stop") and (n == room or result.why == "stop")
        assert 0 <= result.reused < len(context)
        if request.capture:
            torch.testing.assert_close(result.residuals, residuals[len(context) :, 1], rtol=1e-5, atol=1e-5)

    @invariant()
    def lanes_are_where_they_say(self) -> None:
        if hasattr(self, "engine"):
            store = self.engine._store
            assert [lane.index for lane in store.lanes] == list(range(len(store.lanes)))
            assert sum(lane.busy for lane in store.lanes) == len(self.engine._active)
            assert store.away_bytes() <= store.host_budget
            if store.budget is not None:
                assert self.extra or store.bytes() <= max(store.budget, store.token_bytes() * store.places)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            while self.asked:
                self.poll()
            assert self.engine.poll() == [] and not any(lane.busy for lane in self.engine._store.lanes)


class AnyOrderInFloat32(AnyOrder):
    """Held against the bits of the same request alone."""

    dtype = "float32"
    alone: LocalEngine

    def check(self, request: Any, result: Any) -> None:
        assert not isinstance(result, Failure), result.error
        self.alone._store.away.clear()
        self.alone._store.lanes.clear()
        expected, under = run(self.alone, request), getattr(request, "steering", NO_STEERING)
        check_steered(request.context, result, under if isinstance(result, Completion) else NO_STEERING)
        if isinstance(result, Scores):
            assert result.logprobs == expected.logprobs
        elif isinstance(result, Residuals):
            assert torch.equal(result.values, expected.values)
        else:
            assert (result.tokens, result.why, result.logprobs) == (expected.tokens, expected.why, expected.logprobs)
            assert not request.capture or torch.equal(result.residuals, expected.residuals)


def _opened(folder: Path, dtype: str) -> LocalEngine:
    engine = LocalEngine(str(folder), dtype=dtype, device="cpu", threads=1, say=lambda _: None)
    engine.attach(DICTIONARY)
    engine.attach(TWO_LAYERS)
    return engine


def _scarce(engine: LocalEngine, shortages: list[str]) -> None:
    """Have memory run out once for each place named in `shortages`."""

    def once(where: str) -> None:
        if where in shortages:
            shortages.remove(where)
            raise RuntimeError("DefaultCPUAllocator: not enough memory")

    def failing(function: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            once(before)
            found = function(*args)
            once(after)
            return found

        return call

    engine._forward.run = failing(engine._forward.run, "before", "after")  # type: ignore[method-assign]
    engine._draw = failing(engine._draw, "draw", "draw")  # type: ignore[method-assign]
    engine._store._moved = failing(engine._store._moved, "room", "room")  # type: ignore[method-assign]
    engine._store._copy = failing(engine._store._copy, "copy", "copy")  # type: ignore[method-assign]


@pytest.fixture()
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.engines.memory.PLACES", PLACES)  # so that lanes grow in so short a window
    monkeypatch.setattr("toolkit.engines.jobs.WORTH", 2)  # and requests wait for what another computes
    AnyOrder.folder = make_tiny_llama(tmp_path / "model", window=WINDOW)
    model = AutoModelForCausalLM.from_pretrained(AnyOrder.folder, dtype=torch.float64)
    AnyOrder.reference = Reference(model, (DICTIONARY, TWO_LAYERS, LATER))
    AnyOrderInFloat32.alone = _opened(AnyOrder.folder, "float32")
    AnyOrderInFloat32.alone.attach(LATER)


@pytest.mark.parametrize("kind", [AnyOrder, AnyOrderInFloat32])
def test_whatever_the_order_each_answer_is_its_own(machine: None, kind: type[AnyOrder]) -> None:
    run_state_machine_as_test(kind, settings=settings(max_examples=8, stateful_step_count=30))


@pytest.mark.long
@pytest.mark.parametrize("kind", [AnyOrder, AnyOrderInFloat32])
def test_whatever_the_order_for_longer(machine: None, kind: type[AnyOrder]) -> None:
    run_state_machine_as_test(kind, settings=settings(max_examples=150, stateful_step_count=40))
