"""What the local engine alone promises: the same numbers whatever is kept, cut or given up, and how it fails.

All in float64. That it agrees with plain transformers is in test_contract.py; that bits agree, in test_invariance.py.
"""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests.engines import contract
from tests.engines.contract import everything
from tests.tiny import make_tiny_llama, random_dictionary
from toolkit.context import Context
from toolkit.engines import jobs, loading
from toolkit.engines.base import Failure, Generate, Read, Sampling, Score, check_steered, run
from toolkit.engines.local import LocalEngine
from toolkit.errors import BadInput, OutOfMemory, SteeringError
from toolkit.steering import NO_STEERING, Intervention, Steering

DICTIONARY = random_dictionary(layers=(1,))
TWO_LAYERS = random_dictionary(layers=(0, 2), seed=1)


def engine_of(folder: Path, **options: object) -> LocalEngine:
    engine = LocalEngine(str(folder), **{"dtype": "float64", "device": "cpu", **options})  # type: ignore[arg-type]
    engine.attach(DICTIONARY)
    engine.attach(TWO_LAYERS)
    return engine


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> LocalEngine:
    return engine_of(tiny_llama)


def steer(feature: int, strength: float, mode: str = "add", dictionary=DICTIONARY) -> Intervention:
    return Intervention(dictionary.key, feature, strength, mode, "self")  # type: ignore[arg-type]


def random_context(seed: int, segments: int = 4) -> Context:
    return contract.random_context(seed, dictionaries=(DICTIONARY, TWO_LAYERS), segments=segments)


def random_steering(seed: int) -> Steering:
    return random_context(seed + 1000, 1).segments[-1].steering


def read_all(engine: LocalEngine, context: Context) -> torch.Tensor:
    result = run(engine, Read(context, tuple(range(len(context))), (0, 1, 2, 3)))
    check_steered(context, result)
    return result.values


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("options", [{"chunk": 3}, {"chunk": 1}, {"most_rows": 2}, {"keep_lanes": 1}, {"kv_budget": 1}])
def test_chunks_rows_and_kept_lanes_change_nothing(tiny_llama: Path, engine, options) -> None:
    requests = [
        Generate(random_context(s), Sampling(0.7, 1, 8, ("c", s)), random_steering(s), DICTIONARY.key) for s in range(5)
    ]
    for a, b in zip(everything(engine, requests), everything(engine_of(tiny_llama, **options), requests), strict=True):
        assert a.tokens == b.tokens
        close(a.residuals, b.residuals)


def test_a_long_prompt_does_not_stall_the_rest(tiny_llama: Path) -> None:
    engine = engine_of(tiny_llama, chunk=8)
    engine.submit(Generate(Context().append([0, *range(5, 205)]), Sampling(0, 1, 2)))
    short = engine.submit(Generate(Context().append([0, 7]), Sampling(0, 1, 4)))
    assert [ticket for ticket, _ in engine.poll()] == [short]
    assert engine.tokens_computed <= 8 * 6


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=6))
def test_cached_is_recomputed_whatever_was_asked_before(tiny_llama: Path, steps) -> None:
    """Rounds, forks and re-steerings on one engine; each answer equals that of an engine without memory."""
    shared = _kept_engine(tiny_llama)
    context = Context().append([0, 5, 6, 7])
    for seed, whole, feature in steps:
        under = Steering.of(steer(feature, 0.5))
        request = Generate(context, Sampling(0.7, 1, 4, ("k", seed)), under, DICTIONARY.key)
        kept = run(shared, request)
        check_steered(context, kept, under)
        fresh = run(_fresh_engine(tiny_llama), request)
        assert kept.tokens == fresh.tokens
        close(kept.residuals, fresh.residuals)
        context = context.append(kept.tokens, under, "generated").append([3, 10 + seed])
        if whole:
            context = context.under(under, start=1)
        if seed == 5:
            context = context.upto(len(context) // 2 + 1)


def test_kv_is_reused_for_equal_pairs_and_for_nothing_else(tiny_llama: Path) -> None:
    engine = engine_of(tiny_llama)
    a, b = Steering.of(steer(1, 0.5)), Steering.of(steer(1, 0.6))
    context = Context().append([0, 5, 6, 7, 8], a)
    run(engine, Generate(context, Sampling(0, 1, 3), a))
    assert run(engine, Generate(context.append([9, 9]), Sampling(0, 1, 3), a)).reused == 5
    assert run(engine, Generate(context.under(b).append([9, 9]), Sampling(0, 1, 3), a)).reused == 0
    assert run(engine, Generate(context.under(b, start=3).append([9, 9]), Sampling(0, 1, 3), a)).reused == 3
    assert run(engine, Generate(context.swap(2, [77]).append([9]), Sampling(0, 1, 3), a)).reused == 2
    # the branches of a score are cut off again
    longer = context.append([9, 9], b)
    run(engine, Score(longer, (((5,), (6,)), ((7, 8, 9),), ((7, 8), (30, 31))), a))
    assert run(engine, Generate(longer.append([4]), Sampling(0, 1, 2))).reused == len(longer)


def test_a_score_leaves_its_lane_to_whoever_goes_on(tiny_llama: Path) -> None:
    engine, context = engine_of(tiny_llama), Context().append([0, 5, 6, 7, 8])
    run(engine, Score(context, (((5,),), ((6, 7, 8, 9),))))
    assert run(engine, Generate(context.append([4]), Sampling(0, 1, 2))).reused == 5
    assert len(engine._store.lanes) == 1


def test_a_budget_gives_up_the_least_recently_used_and_returns_its_memory(tiny_llama: Path) -> None:
    free = engine_of(tiny_llama)
    for s in range(12):
        run(free, Generate(random_context(s), Sampling(0, 1, 4)))
    lane = 2 * 4 * 2 * 256 * 8 * 8  # keys and values, layers, heads, places, head width, bytes of float64
    tight = engine_of(tiny_llama, kv_budget=4 * lane)
    kept = [run(tight, Generate(random_context(s), Sampling(0, 1, 4))) for s in range(12)]
    assert tight._store.bytes() <= 4 * lane < free._store.bytes()
    assert len(tight._store.lanes) <= 4
    again = random_context(11).append(kept[11].tokens).append([5])
    assert run(tight, Generate(again, Sampling(0, 1, 2))).reused >= len(random_context(11))
    assert run(tight, Generate(random_context(0).append([5]), Sampling(0, 1, 2))).reused <= 1
    assert run(free, Generate(random_context(0).append([5]), Sampling(0, 1, 2))).reused == len(random_context(0))


def test_a_zero_vector_changes_no_bit(tiny_llama: Path) -> None:
    engine = engine_of(tiny_llama, dtype="float32")
    context = Context().append([0, 9, 80, 41, 7, 66])
    nothing = Steering.of(steer(3, 0.0), steer(4, 0.0, dictionary=TWO_LAYERS))
    plain = run(engine, Generate(context, Sampling(0.7, 1, 20, ("z",)), NO_STEERING, DICTIONARY.key, True))
    zero = run(engine, Generate(context.under(nothing), Sampling(0.7, 1, 20, ("z",)), nothing, DICTIONARY.key, True))
    assert plain.tokens == zero.tokens and plain.logprobs == zero.logprobs
    assert torch.equal(plain.residuals, zero.residuals)
    options = tuple(((t,),) for t in range(50))
    assert run(engine, Score(context, options)).logprobs == run(engine, Score(context.under(nothing), options)).logprobs


def test_twice_half_is_once_whole(engine) -> None:
    context = Context().append([0, 9, 80, 41, 7])
    halves = Steering.of(steer(3, 0.4), Intervention(DICTIONARY.key, 3, 0.4, "add", "external"))
    close(read_all(engine, context.under(halves)), read_all(engine, context.under(Steering.of(steer(3, 0.8)))))


def test_onward_and_whole_differ_and_clamp_sets_what_it_says(engine) -> None:
    context = Context().append([0, 9, 80, 41, 7])
    under = Steering.of(steer(3, 0.8, "clamp"))
    onward, whole = context.append([9], under), context.append([9]).under(under, start=1)
    assert not torch.allclose(read_all(engine, onward)[-1], read_all(engine, whole)[-1])
    active = DICTIONARY.directions.activation(1, read_all(engine, whole)[1:, 1], [3])
    torch.testing.assert_close(active, torch.full_like(active, 0.8 * 4.0), rtol=1e-6, atol=0)


# ------------------------------------------------------------------ guards


def test_a_model_whose_blocks_lose_their_hooks_is_found_out(tiny_llama: Path) -> None:
    engine = LocalEngine(str(tiny_llama), dtype="float64", device="cpu")
    for block in loading.decoder_blocks(engine.model):
        block._forward_hooks.clear()
    with pytest.raises(SteeringError, match="did not run"):
        engine.attach(DICTIONARY)


def test_a_models_digest_is_the_same_in_every_folder_and_another_for_other_weights(tmp_path: Path) -> None:
    a, b, other = (make_tiny_llama(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    first, second, third = (LocalEngine(str(folder)).info.digest for folder in (a, b, other))
    assert first == second != third


def test_a_stop_token_without_an_embedding_is_no_dead_canary(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "padded", layers=2)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.get_input_embeddings().weight.data[1] = 0  # as trained models have it where a stop token is padding too
    model.save_pretrained(folder)
    engine = LocalEngine(str(folder), device="cpu")
    engine.attach(random_dictionary(layers=(0,)))


@pytest.mark.parametrize("option", ["most_rows", "chunk"])
def test_an_engine_that_could_do_nothing_is_refused(tiny_llama: Path, option: str) -> None:
    with pytest.raises(BadInput, match=f"{option} is 0"):
        engine_of(tiny_llama, **{option: 0})


def test_an_engine_that_is_gone_holds_no_memory(tiny_llama: Path) -> None:
    engine = engine_of(tiny_llama)
    run(engine, Generate(Context().append([0, 1]), Sampling(0, 1, 2)))
    held = [weakref.ref(part) for part in (engine._store, engine.model)]
    del engine
    gc.collect()
    assert [part() for part in held] == [None, None]


def test_an_unknown_model_says_what_to_give() -> None:
    with pytest.raises(BadInput, match="Give a folder"):
        LocalEngine("no-such-organisation/no-such-model")


def test_another_width_works(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "wide", layers=2, d_model=48)
    engine = LocalEngine(str(folder), device="cpu")
    engine.attach(random_dictionary(d_model=48, layers=(0,)))
    assert run(engine, Generate(Context().append([0, 1]), Sampling(0, 1, 2))).tokens


# ------------------------------------------------------------------ what is not finite

LOUD = Steering.of(steer(1, 1e5))  # beyond float16


@pytest.mark.parametrize(
    "asked",
    [
        Generate(Context().append([0, 7, 9] * 7, LOUD), Sampling(0.7, 1, 6, ("n",)), capture=DICTIONARY.key),
        Generate(Context().append([0, 7, 9] * 7), Sampling(0.7, 1, 1, ("n",)), LOUD),  # only its last token is
        Generate(Context().append([0, 7, 9] * 7), Sampling(0, 1, 6), LOUD),
        Score(Context().append([0, 7, 9] * 7, LOUD), (((3,),), ((4,),))),
        Score(Context().append([0, 7, 9] * 7), (((3, 4, 5),), ((4,),)), LOUD),
        Read(Context().append([0, 7]).append([9] * 20, LOUD), (0,), (0,)),
    ],
    ids=["generate", "last token", "greedy", "score", "option", "read"],
)
def test_a_model_that_overflows_fails_and_leaves_nothing_to_the_next(tiny_llama: Path, asked) -> None:
    good = Generate(Context().append([0, 5, 3, 8]), Sampling(0.7, 1, 6, ("g",)), capture=DICTIONARY.key, logprobs=True)
    expected = run(engine_of(tiny_llama, dtype="float16"), good)
    engine = engine_of(tiny_llama, dtype="float16", keep_lanes=1)
    failed, beside = everything(engine, [asked, good])
    assert isinstance(failed, Failure) and isinstance(failed.error, SteeringError)
    assert "not finite" in str(failed.error) and beside.tokens == expected.tokens
    for place in range(2):  # whichever lane it takes
        after = run(engine, Generate(good.context.swap(2, [9 + place]), good.sampling, capture=DICTIONARY.key))
        assert bool(after.residuals.isfinite().all())
    engine.forget()
    assert run(engine, good).logprobs == pytest.approx(expected.logprobs, abs=0.02)


def test_one_cancelled_before_it_was_found_out_leaves_nothing_either(tiny_llama: Path) -> None:
    engine = engine_of(tiny_llama, dtype="float16", keep_lanes=1, chunk=5)
    loud = engine.submit(Generate(Context().append([0, 7, 9] * 7, LOUD), Sampling(0, 1, 6)))
    engine.submit(Generate(Context().append([0]), Sampling(0, 1, 1)))
    engine.poll()
    engine.cancel(loud)
    assert run(engine, Score(Context().append([0, 5, 3, 8]), (((3,),),))).mass > 0


def test_a_step_that_fails_leaves_nothing_that_is_not_finite_to_the_next(tiny_llama: Path, monkeypatch) -> None:
    engine = engine_of(tiny_llama, dtype="float16", keep_lanes=1)
    good = Generate(Context().append([0, 5, 3, 8]), Sampling(0, 1, 6), logprobs=True)
    expected = run(engine, good).tokens
    engine.forget()

    def fail(*_: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_draw", fail)  # its keys and values are written by then
        (failed,) = everything(engine, [Generate(Context().append([0, 7, 9] * 7, LOUD), Sampling(0, 1, 6))])
    assert isinstance(failed, Failure) and "shapes" in str(failed.error)
    assert all(bool(store.isfinite().all()) for store in engine._store._stores())
    assert run(engine, good).tokens == expected


def test_what_one_request_comes_to_grief_over_is_its_failure_alone(tiny_llama: Path, monkeypatch) -> None:
    engine, read = engine_of(tiny_llama), Read(Context().append([0, 5, 9]), (1,), (3,))
    good = Generate(Context().append([0, 8, 9]), Sampling(0, 1, 4), capture=DICTIONARY.key)
    expected, plain = run(engine, good).tokens, jobs.Span.kept

    def kept(span, layer):
        if span.want == "nothing" and 3 in span.layers and len(span.tokens) > 1:
            raise MemoryError("no room for what was read")
        return plain(span, layer)

    monkeypatch.setattr(jobs.Span, "kept", kept)
    other, failed, same = everything(engine, [good, read, good])
    assert isinstance(failed, Failure) and isinstance(failed.error, OutOfMemory)
    assert other.tokens == same.tokens == expected and engine.poll() == []
    assert contract.local_is_idle(engine)


def test_a_row_that_was_half_filled_when_memory_ran_out_is_empty_for_the_next(tiny_llama: Path, monkeypatch) -> None:
    engine = engine_of(tiny_llama)
    plain, calls = engine._table._put, []

    def put(*args):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory")
        plain(*args)

    monkeypatch.setattr(engine._table, "_put", put)
    with pytest.raises(RuntimeError):
        engine._table.row(Steering.of(steer(1, 3.0, dictionary=TWO_LAYERS)))  # layer 0 is filled, layer 2 is not
    context = Context().append([0, 5, 6, 7], Steering.of(steer(2, 0.5)))
    close(read_all(engine, context), read_all(engine_of(tiny_llama), context))


# ------------------------------------------------------------------ helpers

_ENGINES: dict[str, LocalEngine] = {}


def _kept_engine(folder: Path) -> LocalEngine:
    """One engine that lives through all examples: its memory is whatever came before."""
    return _ENGINES.setdefault("kept", engine_of(folder))


def _fresh_engine(folder: Path) -> LocalEngine:
    """The same weights with an empty memory."""
    engine = _ENGINES.setdefault("fresh", engine_of(folder))
    engine._store.lanes.clear()
    return engine
