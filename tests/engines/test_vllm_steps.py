"""The vLLM engine for real when a step fails, is interrupted or is joined by others: what is left must be right."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.engines import contract
from tests.engines.contract import asked, conversation, everything, steer, style
from tests.engines.real_vllm import MODES, error_of, hooks_of, long_conversation, opened, real
from toolkit.engines import vllm_core
from toolkit.engines.base import Failure, Read, Score, check_steered, run
from toolkit.engines.vllm import VllmEngine
from toolkit.errors import SteeringError
from toolkit.steering import NO_STEERING


@pytest.fixture
def engine(vllm_here: VllmEngine) -> VllmEngine:
    return vllm_here


@real
def test_an_error_inside_a_hook_ends_the_step_and_the_engine_goes_on(engine: VllmEngine, monkeypatch) -> None:
    def fails(self: Any, *_: Any) -> None:
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(type(hooks_of(engine).tables), "acquire", fails)
    both = everything(engine, [asked(conversation(), 3), asked(conversation(), 3, under=steer(3, 0.5))])
    assert all(isinstance(one, Failure) and "out of memory, say" in str(one.error) for one in both)
    monkeypatch.undo()
    assert contract.vllm_is_idle(engine)
    request = asked(conversation(), 3, under=steer(3, 0.5), logprobs=True)
    assert error_of(request, run(engine, request)) < 1e-3


@real
def test_a_row_that_could_not_be_written_is_not_taken_for_one_that_was(engine: VllmEngine, monkeypatch) -> None:
    """Memory that ran out while a steering was put into the tables: asked again, it must steer."""
    tables, under, write, room = hooks_of(engine).tables, steer(3, 0.61803), torch.tensor, [1]

    def full(*some: Any, **more: Any) -> torch.Tensor:
        if not room:
            raise RuntimeError("out of memory, say")
        room.pop()
        return write(*some, **more)

    request = asked(conversation(), 1, under=under, logprobs=True)
    request = replace(request, context=request.context.under(steer(4, 0.61803), 0, 3).under(under, 3))
    monkeypatch.setattr("toolkit.engines.vllm_worker.torch.tensor", full)
    failed = everything(engine, [request])[0]
    assert isinstance(failed, Failure) and "out of memory, say" in str(failed.error)
    monkeypatch.setattr("toolkit.engines.vllm_worker.torch.tensor", write)
    assert error_of(request, run(engine, request)) < 1e-3
    assert not any(tables._users.values())


@real
def test_blocks_of_a_step_that_failed_are_not_reused(engine: VllmEngine) -> None:
    """vLLM enters blocks into its cache when it plans a step, before their keys and values are there."""
    request = asked(long_conversation("Failed"), 2, logprobs=True)
    steps = []

    def fails(*_: Any) -> None:
        steps.append(1)
        if len(steps) == 4:
            raise RuntimeError("in the fourth chunk, at the second layer")

    handle = hooks_of(engine).model.model.layers[1].register_forward_pre_hook(fails)
    failed = everything(engine, [request])[0]
    handle.remove()
    assert isinstance(failed, Failure) and "fourth chunk" in str(failed.error)
    assert error_of(request, run(engine, request)) < 1e-3


@real
def test_an_interrupted_step_fails_what_was_in_it_and_the_engine_goes_on(engine: VllmEngine) -> None:
    """Ctrl-C in a notebook, in the middle of a forward pass: half of a step's tokens have no keys and values."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    request = asked(conversation(), 6, under=steer(3, 0.5), logprobs=True)
    tickets = [engine.submit(request) for _ in range(2)]
    block = hooks_of(engine).model.model.layers[2]
    handle = block.register_forward_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.poll()
    handle.remove()
    left = dict(engine.poll())
    assert sorted(left) == tickets and all("not finished" in str(one.error) for one in left.values())
    assert engine.poll() == [] and contract.vllm_is_idle(engine)
    assert error_of(request, run(engine, request)) < 1e-3


@real
@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_a_draw_that_fails_leaves_an_engine_that_draws(engine: VllmEngine, monkeypatch, kind: type) -> None:
    from toolkit.engines import vllm_draws

    def fails(*_: Any) -> None:
        raise kind("in a draw")

    monkeypatch.setattr(vllm_draws, "draw", fails)
    request = asked(conversation(), 4, "draws", logprobs=True)
    engine.submit(request)
    with contextlib.suppress(KeyboardInterrupt):
        engine.poll()
    engine.poll()
    monkeypatch.undo()
    assert contract.vllm_is_idle(engine)
    assert error_of(request, run(engine, request)) < 1e-3


@real
def test_a_dictionary_may_be_attached_while_requests_are_in_flight(engine: VllmEngine) -> None:
    requests = [asked(conversation(f"Flight {i}."), 3, "flight", i) for i in range(6)]
    tickets = [engine.submit(request) for request in requests]
    known, engine._table._edits = engine._table._edits, {}  # the layers are tried once more
    engine.attach(style())
    engine._table._edits = known
    found = {}
    while some := engine.poll():
        found.update(some)
    assert sorted(found) == tickets
    assert [found[t].tokens for t in tickets] == [run(engine, request).tokens for request in requests]


@real
def test_a_response_that_vllm_ends_itself_is_no_response(engine: VllmEngine, monkeypatch) -> None:
    take = vllm_core.Running.take

    def ended(self: Any, output: Any) -> bool:
        over = take(self, output)
        self.end = None
        return over or len(self.tokens) == 2

    monkeypatch.setattr(vllm_core.Running, "take", ended)
    with pytest.raises(SteeringError, match="after 2 tokens"):
        run(engine, asked(conversation(), 5))


@real
@pytest.mark.parametrize("bound", ["SPARE", "SPARE_BYTES"])
def test_rows_are_given_up_and_made_again(engine: VllmEngine, monkeypatch, bound: str) -> None:
    """More steerings than rows are kept for: each still runs under its own."""
    from toolkit.engines import vllm_worker

    monkeypatch.setattr(vllm_worker, bound, 8)
    room = hooks_of(engine).tables._size  # what other tests have left in it goes only when its place is needed
    for turn in range(60):
        under = steer(turn % 10, 0.3 + 0.01 * turn, MODES[turn % 3 == 0])
        request = asked(conversation(), 1, under=under, logprobs=True)
        request = replace(request, context=request.context.under(under))
        got = run(engine, request)
        check_steered(request.context, got, under)
        assert error_of(request, got) < 1e-3
    assert len(hooks_of(engine).tables._rows) <= max(64, room)


@real
def test_a_model_that_overflows_fails_and_leaves_nothing_to_the_next() -> None:
    """In float16: keys and values that were no numbers once came through the masks of whoever had the block next."""
    engine = opened(dtype="float16", num_gpu_blocks_override=24, max_model_len=256)
    good = asked(conversation("Good."), 4, capture=style().key)
    expected, loud = run(engine, good), steer(3, 1e5)
    for i in range(6):
        text = long_conversation(f"Loud {i}")
        bad = [asked(text, 4, under=loud), Read(text.under(loud, 9), (0,), (0,)), Score(text, (((5, 6),),), loud)][
            i % 3
        ]
        failed, beside = everything(engine, [bad, good])
        assert isinstance(failed, Failure) and "not finite" in str(failed.error)
        assert beside.tokens == expected.tokens
    again = asked(
        long_conversation("Loud again", loud), 2
    )  # all that overflowed may come from the cache the second time
    for request in (again, replace(again, context=again.context.under(NO_STEERING, 96))):
        for _ in range(2):
            (failed,) = everything(engine, [request])
            assert isinstance(failed, Failure) and "not finite" in str(failed.error)
    for i in range(8):
        request = asked(long_conversation(f"Next {i}"), 2, logprobs=True)
        assert error_of(request, run(engine, request)) < 0.05
    assert contract.vllm_is_idle(engine)
