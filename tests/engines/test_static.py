"""The step that a GPU replays: traced into a graph here, where nothing but buffers may change between replays.

A trace records the operations of one call and none of its Python: what a row's token, steering, position or presence
decided in Python would be frozen at the first call's, and come out wrong at the next.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.engines.contract import everything
from tests.engines.recorded import Cuda
from tests.engines.test_local import DICTIONARY, TWO_LAYERS, engine_of, steer
from toolkit.context import Context
from toolkit.engines import fused
from toolkit.engines.base import Completion, Generate, Sampling, Score, check_steered, run
from toolkit.engines.forward import Forward
from toolkit.engines.local import LocalEngine
from toolkit.engines.static import StaticStep, cuda_graphs
from toolkit.steering import Steering


def traced(body, buffers):
    """Stands for a CUDA graph: the operations on the buffers, replayed without the Python that led to them."""
    graph = make_fx(body)(*buffers)

    def replay():
        with torch.no_grad():
            return graph(*buffers)

    return replay


def static_engine(folder: Path, capture=traced, **options) -> LocalEngine:
    engine = engine_of(folder, **options)
    engine._static = StaticStep(engine._forward, capture)
    return engine


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    monkeypatch.setattr(torch, "cuda", found := Cuda())
    return found


def adding(seed: int) -> Steering:
    return Steering.of(steer(seed % 12, 0.9), steer(seed % 7, -0.6, dictionary=TWO_LAYERS))


def requests(n: int, more: int = 0) -> list:
    """Of unlike lengths and steerings, so that rows leave and join; one scores. more: for other steerings."""
    asked = []
    for s in range(n):
        context = Context().append([0, 5 + s]).append([9 + s, 80, 41 + s][: 1 + s % 3], adding(s + more)).append([7])
        sampling = Sampling(0.8, 1, 3 + (5 * s) % 11, ("st", s))
        asked.append(Generate(context, sampling, adding(s + more + 1), DICTIONARY.key, True))
    return [*asked, Score(Context().append([0, 9, 8]), (((3,), (4, 5)), ((6, 7, 8),)), adding(2))]


def alike(one, other) -> None:
    assert type(one) is type(other)
    if isinstance(one, Completion):
        assert one.tokens == other.tokens and one.steered == other.steered
        torch.testing.assert_close(one.residuals, other.residuals, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=1e-5, atol=1e-6)
    else:
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)


@pytest.mark.parametrize("options", [{"most_rows": 4}, {"chunk": 2, "kv_budget": 1}], ids=str)
def test_replayed_is_eager(tiny_llama: Path, options) -> None:
    engine, asked = static_engine(tiny_llama, **options), requests(20)  # more steerings than the table has at first
    plain = everything(engine_of(tiny_llama, **options), asked)
    for request, one, other in zip(asked, everything(engine, asked), plain, strict=True):
        alike(one, other)
        check_steered(request.context, one, request.steering if isinstance(one, Completion) else Steering.of())
    assert engine._static.captures


def test_other_steering_rows_that_leave_and_rows_that_join_capture_nothing_anew(tiny_llama: Path) -> None:
    engine = static_engine(tiny_llama, most_rows=4)
    for s in range(15):
        engine._table.row(adding(s))  # the table has grown to its size
    for more in (0, 3, 6):
        everything(engine, requests(8, more))
    assert engine._static.captures <= 3 * 3  # four rows, two, one; as they lie in the store


def test_what_a_table_row_cannot_say_runs_eagerly(tiny_llama: Path) -> None:
    engine = static_engine(tiny_llama)
    clamped = Steering.of(steer(3, 1.0, "clamp"))
    request = Generate(Context().append([0, 9, 8]), Sampling(0.8, 1, 6, ("e",)), clamped, DICTIONARY.key, True)
    alike(run(engine, request), run(engine_of(tiny_llama), request))
    assert engine._static.captures == 0


def test_rows_that_add_a_token_and_long_prompts_take_turns(tiny_llama: Path) -> None:
    engine = static_engine(tiny_llama, chunk=8)
    going = engine.submit(Generate(Context().append([0]), Sampling(0.8, 1, 60, ("t",))))
    prompt = engine.submit(Generate(Context().append([0, *range(5, 85)]), Sampling(0, 1, 1)))
    assert [ticket for ticket, _ in engine.poll()] == [prompt]
    assert 10 < engine.tokens_computed - 81 < 30 and engine._static.captures
    assert [ticket for ticket, _ in engine.poll()] == [going]


def test_lanes_that_are_not_in_the_step_keep_what_they_hold(tiny_llama: Path) -> None:
    engine = static_engine(tiny_llama)
    first = Generate(Context().append([0, 9, 8, 7]), Sampling(0.8, 1, 3, ("a",)), adding(1))
    other = Generate(Context().append([0, 19, 28]), Sampling(0.8, 1, 9, ("b",)), adding(2))
    done = run(engine, first)
    lane = engine._store.lanes[0]
    before = [store[lane.index, :, : lane.length].clone() for store in engine._store._stores()]
    everything(engine, [other, Generate(Context().append([0, 33]), Sampling(0.8, 1, 9, ("c",)))])
    assert all(
        torch.equal(a, store[lane.index, :, : lane.length])
        for a, store in zip(before, engine._store._stores(), strict=True)
    )
    again = Generate(first.context.append(done.tokens, adding(1), "generated").append([5]), Sampling(0, 1, 3))
    result = run(engine, again)
    assert result.reused >= len(first.context) and result.tokens == run(engine_of(tiny_llama), again).tokens


def test_a_model_that_cannot_be_captured_is_said_and_runs_eagerly(tiny_llama: Path) -> None:
    said: list[str] = []
    engine = static_engine(tiny_llama, say=said.append)

    def refuse(body, buffers):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    engine._static = StaticStep(engine._forward, refuse)
    request = requests(1)[0]
    alike(run(engine, request), run(engine_of(tiny_llama), request))
    assert engine._static is None and len(said) == 1
    assert "cannot be captured (operation not permitted when stream is capturing)" in said[0]


def test_stores_that_were_allocated_anew_are_captured_anew(tiny_llama: Path) -> None:
    engine, plain = static_engine(tiny_llama), engine_of(tiny_llama)
    for seed in (1, 2):  # the same sizes twice, in other memory
        request = Generate(Context().append([0, 9, 8, seed]), Sampling(0.8, 1, 6, ("n", seed)), adding(seed))
        engine._store.shrink()
        assert run(engine, request).tokens == run(plain, request).tokens


@pytest.mark.parametrize("options", [{"most_rows": 4}, {"keep_lanes": 99}, {"chunk": 2, "kv_budget": 1}], ids=str)
def test_a_cuda_graph_is_eager(tiny_llama: Path, cuda: Cuda, options) -> None:
    """The eager passes between are what makes a replay fail that reads what nobody holds."""
    said: list[str] = []
    engine = static_engine(tiny_llama, cuda_graphs(torch.device("cpu")), say=said.append, **options)
    plain = engine_of(tiny_llama, **options)
    for more in range(3):  # the second and third find lanes in use, the table grows
        asked = requests(7, more=9 * more)
        for one, other in zip(everything(engine, asked), everything(plain, asked), strict=True):
            alike(one, other)
    assert not said and engine._static.captures
    assert len(cuda.streams) == 1 and cuda.now == "the default stream" and cuda.mode == 0


def test_graphs_that_are_all_gone_leave_no_memory_to_capture_into(tiny_llama: Path, cuda: Cuda) -> None:
    said: list[str] = []
    engine = static_engine(tiny_llama, cuda_graphs(torch.device("cpu")), say=said.append)
    for seed in (1, 2):
        run(engine, Generate(Context().append([0, 9, 8, seed]), Sampling(0.8, 1, 6, ("n", seed)), adding(seed)))
        engine._static.forget()
    assert engine._static.captures == 2 and not said and not any(cuda.in_use.values())


def test_lanes_far_from_the_first_are_replayed_too(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, plain = static_engine(tiny_llama), engine_of(tiny_llama)
    contexts = [Context().append([0, 9, 8, s]) for s in range(11)]
    everything(engine, [Generate(c, Sampling(0.8, 1, 3, ("f", s))) for s, c in enumerate(contexts)])
    asked = [
        Generate(contexts[s].append([5]), Sampling(0.8, 1, 6, ("g", s)), adding(s), DICTIONARY.key) for s in (3, 7, 10)
    ]
    expected = everything(plain, asked)
    monkeypatch.setattr(Forward, "__call__", lambda *_: pytest.fail("a step ran eagerly"))
    for one, other in zip(everything(engine, asked), expected, strict=True):
        assert one.tokens == other.tokens
        torch.testing.assert_close(one.residuals, other.residuals, rtol=1e-9, atol=1e-10)


def test_a_capture_that_fails_leaves_the_stream_as_it_was(tiny_llama: Path, cuda: Cuda) -> None:
    capture = cuda_graphs(torch.device("cpu"))
    buffer = torch.ones(2)
    with pytest.raises(RuntimeError, match="capturing: _local_scalar_dense"):
        capture(lambda x: (x * float(x.sum()),), (buffer,))
    assert cuda.now == "the default stream"


def test_norms_by_one_kernel_are_transformers_norms_and_a_copy_has_its_own_weight(tiny_llama: Path) -> None:
    engine, plain = static_engine(tiny_llama), engine_of(tiny_llama)
    for norm in (part for part in engine.model.modules() if isinstance(part, LlamaRMSNorm)):
        norm.weight.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0))
    plain.model.load_state_dict(engine.model.state_dict())
    fused.norms_at_once(engine.model)
    ran: list[int] = []
    for part in engine.model.modules():
        part.register_forward_hook(lambda part, *_: ran.append(part.forward.__func__ is fused._at_once))
    one, other = (run(engine_, requests(1)[0]) for engine_ in (engine, plain))
    assert one.tokens == other.tokens
    torch.testing.assert_close(one.residuals, other.residuals, rtol=1e-3, atol=1e-3)  # transformers' are in float32
    assert sum(ran) >= 9 and norm.forward.__func__ is fused._at_once
    copied = copy.deepcopy(norm).to(torch.float32)
    copied.weight.fill_(0.0)
    assert not copied(torch.ones(1, 32)).any() and norm(torch.ones(1, 32, dtype=torch.float64)).any()
