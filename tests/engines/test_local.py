"""The local engine against plain transformers, and against itself computed in other ways. All in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests.tiny import make_tiny_llama, random_dictionary
from toolkit.context import Context
from toolkit.engines import loading
from toolkit.engines.base import Completion, Failure, Generate, Read, Sampling, Score, check_steered, read_texts, run
from toolkit.engines.local import LocalEngine
from toolkit.errors import BadInput, DictionaryMismatch, SteeringError, WindowFull
from toolkit.steering import NO_STEERING, Intervention, Steering

DICTIONARY = random_dictionary(layers=(1,))
TWO_LAYERS = random_dictionary(layers=(0, 2), seed=1)
MODES = ("add", "clamp", "project_out")


def engine_of(folder: Path, **options: object) -> LocalEngine:
    engine = LocalEngine(str(folder), **{"dtype": "float64", "device": "cpu", **options})  # type: ignore[arg-type]
    engine.attach(DICTIONARY)
    engine.attach(TWO_LAYERS)
    return engine


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> LocalEngine:
    return engine_of(tiny_llama)


@pytest.fixture(scope="module")
def reference(tiny_llama: Path):
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float64)


def steer(feature: int, strength: float, mode: str = "add", dictionary=DICTIONARY) -> Intervention:
    return Intervention(dictionary.key, feature, strength, mode, "self")  # type: ignore[arg-type]


def random_context(seed: int, segments: int = 4, longest: int = 12) -> Context:
    """Segments of random tokens, each under another steering of random modes, strengths and layers."""
    rng = np.random.default_rng(seed)
    context = Context().append([0])
    for _ in range(segments):
        some = [
            steer(
                int(rng.integers(12)),
                float(rng.normal()),
                str(rng.choice(MODES)),
                TWO_LAYERS if rng.random() < 0.4 else DICTIONARY,
            )
            for _ in range(rng.integers(0, 3))
        ]
        context = context.append(rng.integers(2, 200, rng.integers(1, longest)).tolist(), Steering.of(*some))
    return context


def naive(model, context: Context, tail: tuple[int, ...] = (), under: Steering = NO_STEERING):
    """Residuals [T, L, D] after steering and logits [T, V]: one plain forward pass, a Python loop over tokens."""
    pairs = [*context.pairs(), *((t, under) for t in tail)]
    dictionaries = {d.key: d for d in (DICTIONARY, TWO_LAYERS)}
    kept: dict[int, torch.Tensor] = {}

    def hook(layer: int):
        def after(_module, _inputs, output):
            whole = output[0] if isinstance(output, tuple) else output
            steered = whole.clone()
            for t, (_, steering) in enumerate(pairs):
                h = whole[0, t]
                for i in steering:
                    directions = dictionaries[i.dictionary].directions
                    if layer not in directions.layers:
                        continue
                    at = directions.layers.index(layer)
                    d = directions.vectors([i.feature])[0, at].double()
                    level = i.strength * float(directions.units([i.feature])[0, at])
                    if i.mode == "add":
                        steered[0, t] += level * d
                    elif i.mode == "clamp":
                        steered[0, t] += (level - h @ d) * d
                    else:
                        steered[0, t] -= (h @ d) / (d @ d) * d
            kept[layer] = steered[0]
            return (steered, *output[1:]) if isinstance(output, tuple) else steered

        return after

    handles = [b.register_forward_hook(hook(i)) for i, b in enumerate(loading.decoder_blocks(model))]
    try:
        with torch.no_grad():
            logits = model(torch.tensor([[t for t, _ in pairs]])).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([kept[i] for i in range(len(handles))], 1), logits


def read_all(engine: LocalEngine, context: Context) -> torch.Tensor:
    result = run(engine, Read(context, tuple(range(len(context))), (0, 1, 2, 3)))
    check_steered(context, result)
    return result.values


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
def test_residuals_are_those_of_a_plain_loop_over_tokens(engine, reference, seed: int) -> None:
    context = random_context(seed)
    close(read_all(engine, context), naive(reference, context)[0])


def test_unsteered_greedy_tokens_are_those_of_transformers_generate(engine, reference) -> None:
    context = Context().append([0, 9, 80, 41, 7])
    theirs = reference.generate(torch.tensor([context.tokens]), max_new_tokens=20, do_sample=False)[0, 5:].tolist()
    assert list(run(engine, Generate(context, Sampling(0, 1, 20))).tokens) == theirs


@pytest.mark.parametrize("seed", range(4))
def test_generated_residuals_and_logprobs_are_those_of_a_plain_pass(engine, reference, seed: int) -> None:
    context, under = random_context(seed), Steering.of(steer(seed, 0.7), steer(5, -0.4, "clamp", TWO_LAYERS))
    got = run(engine, Generate(context, Sampling(0.7, 1, 12, ("s", seed)), under, DICTIONARY.key, logprobs=True))
    check_steered(context, got, under)
    residuals, logits = naive(reference, context, got.tokens, under)
    close(got.residuals, residuals[len(context) :, 1])
    logprobs = torch.log_softmax(logits, -1)[torch.arange(len(context) - 1, len(context) + len(got.tokens) - 1)]
    torch.testing.assert_close(
        torch.tensor(got.logprobs),
        logprobs.gather(1, torch.tensor(got.tokens)[:, None])[:, 0].float(),
        rtol=1e-5,
        atol=1e-5,
    )


def test_batched_is_alone(tiny_llama: Path) -> None:
    requests = [
        Generate(
            random_context(s, 1 + s % 5), Sampling(0.7, 0.9, 5 + s, ("batch", s)), random_steering(s), DICTIONARY.key
        )
        for s in range(9)
    ]
    together = everything(engine_of(tiny_llama), requests)
    for request, one in zip(requests, together, strict=True):
        alone = run(engine_of(tiny_llama), request)
        assert alone.tokens == one.tokens
        close(alone.residuals, one.residuals)


@pytest.mark.parametrize("options", [{"chunk": 3}, {"chunk": 1}, {"most_rows": 2}, {"keep_lanes": 1}, {"kv_budget": 1}])
def test_chunks_rows_and_kept_lanes_change_nothing(tiny_llama: Path, engine, options) -> None:
    requests = [
        Generate(random_context(s), Sampling(0.7, 1, 8, ("c", s)), random_steering(s), DICTIONARY.key) for s in range(5)
    ]
    for a, b in zip(everything(engine, requests), everything(engine_of(tiny_llama, **options), requests), strict=True):
        assert a.tokens == b.tokens
        close(a.residuals, b.residuals)


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


def test_a_vector_and_its_opposite_are_nothing(engine) -> None:
    context = Context().append([0, 9, 80, 41, 7])
    both = Steering.of(steer(3, 0.8), Intervention(DICTIONARY.key, 3, -0.8, "add", "external"))
    close(read_all(engine, context.under(both)), read_all(engine, context))


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


def test_residuals_of_texts_come_in_their_order(engine) -> None:
    texts = ["warm tea", "a much longer text about the weather", "x"]
    read = read_texts(engine, texts, (1, 3))
    for text, values in zip(texts, read, strict=True):
        context = Context().append(engine.tokenizer.document(text))
        close(values, read_all(engine, context)[:, [1, 3]])
        assert context.tokens[0] == 0


def test_scores_are_exact_sums_over_spellings_and_tokens(engine, reference) -> None:
    context, under = random_context(3), Steering.of(steer(2, 0.5))
    options = (((5,), (6,)), ((7, 8, 9),), ((7, 8), (30, 31)))
    got = run(engine, Score(context, options, under))
    check_steered(context, got)

    def spelled(tokens: tuple[int, ...]) -> torch.Tensor:
        logprobs = torch.log_softmax(naive(reference, context, tokens, under)[1], -1)
        return sum(logprobs[len(context) - 1 + i, t] for i, t in enumerate(tokens))

    expected = [float(torch.logsumexp(torch.stack([spelled(s) for s in option]), 0)) for option in options]
    assert got.logprobs == pytest.approx(expected, abs=1e-9)
    assert got.mass == pytest.approx(sum(np.exp(expected)))
    assert run(engine, Generate(context.append([4]), Sampling(0, 1, 2))).reused == len(context)


def test_every_token_of_the_vocabulary_as_an_option_has_mass_one(engine) -> None:
    options = tuple(((t,),) for t in range(engine.info.vocabulary))
    assert run(engine, Score(random_context(1), options)).mass == pytest.approx(1.0, abs=1e-9)


def test_cancelled_requests_leave_the_others_as_they_were(tiny_llama: Path) -> None:
    requests = [Generate(random_context(s), Sampling(0.7, 1, 20, ("x", s)), random_steering(s)) for s in range(4)]
    engine = engine_of(tiny_llama, chunk=8)
    tickets = [engine.submit(r) for r in requests]
    engine.cancel(tickets[1])
    results = dict(drain(engine))
    assert tickets[1] not in results
    for ticket, request in zip(tickets, requests, strict=True):
        if ticket != tickets[1]:
            assert results[ticket].tokens == run(engine_of(tiny_llama), request).tokens


# ------------------------------------------------------------------ guards


def test_an_engine_that_runs_unsteered_is_found_out(tiny_llama: Path) -> None:
    engine = LocalEngine(str(tiny_llama), dtype="float64", device="cpu")
    for block in loading.decoder_blocks(engine.model):
        block._forward_hooks.clear()
    with pytest.raises(SteeringError, match="did not run"):
        engine.attach(DICTIONARY)


def test_steering_that_does_not_reach_the_logits_is_found_out(tiny_llama: Path, monkeypatch) -> None:
    engine = LocalEngine(str(tiny_llama), dtype="float64", device="cpu")
    monkeypatch.setattr(engine._table, "apply", lambda layer, hidden, rows, present: hidden)
    with pytest.raises(SteeringError, match="does not reach the logits"):
        engine.attach(DICTIONARY)


def test_a_steered_count_that_differs_from_the_plan_is_an_error(engine) -> None:
    under = Steering.of(steer(1, 0.5))
    context = Context().append([0, 5, 6], under)
    got = run(engine, Generate(context, Sampling(0, 1, 3), NO_STEERING))
    with pytest.raises(SteeringError, match="differ from the plan"):
        check_steered(context.under(NO_STEERING), got)
    with pytest.raises(SteeringError, match="differ from the plan"):
        check_steered(context, got, under)


def test_a_dictionary_that_does_not_fit_is_refused(engine) -> None:
    with pytest.raises(DictionaryMismatch, match="width 16"):
        engine.attach(random_dictionary(d_model=16))
    with pytest.raises(DictionaryMismatch, match="layer 4"):
        engine.attach(random_dictionary(layers=(4,)))


@pytest.mark.parametrize(
    ("request_", "error", "match"),
    [
        (Generate(Context(), Sampling()), BadInput, "empty"),
        (Generate(Context().append([0] * 256), Sampling()), WindowFull, "window is 256"),
        (Generate(Context().append([10_000]), Sampling()), BadInput, "vocabulary"),
        (
            Generate(Context().append([0]), Sampling(), Steering.of(Intervention("?", 1, 0.3))),
            SteeringError,
            "attached",
        ),
        (Generate(Context().append([0]), Sampling(), Steering.of(steer(99, 0.3))), SteeringError, "99"),
        (Score(Context().append([0]), (((),),)), BadInput, "without tokens"),
        (Read(Context().append([0]), (1,), (0,)), BadInput, "position 1"),
        (Read(Context().append([0]), (0,), (9,)), BadInput, "layer 9"),
    ],
)
def test_requests_that_cannot_be_carried_out_come_back_as_failures(engine, request_, error, match) -> None:
    good = engine.submit(Generate(Context().append([0, 4]), Sampling(0, 1, 2)))
    bad = engine.submit(request_)
    results = dict(drain(engine))
    assert isinstance(results[bad], Failure) and isinstance(results[bad].error, error)
    assert match in str(results[bad].error)
    assert isinstance(results[good], Completion)


def test_a_response_stops_at_the_window(tiny_llama: Path) -> None:
    got = run(engine_of(tiny_llama), Generate(Context().append([0] * 250), Sampling(0.7, 1, 100, ("w",))))
    assert got.why in ("window", "stop") and len(got.tokens) <= 6


def test_an_unknown_model_says_what_to_give() -> None:
    with pytest.raises(BadInput, match="Give a folder"):
        LocalEngine("no-such-organisation/no-such-model")


def test_another_width_works(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "wide", layers=2, d_model=48)
    engine = LocalEngine(str(folder), device="cpu")
    engine.attach(random_dictionary(d_model=48, layers=(0,)))
    assert run(engine, Generate(Context().append([0, 1]), Sampling(0, 1, 2))).tokens


# ------------------------------------------------------------------ helpers


def random_steering(seed: int) -> Steering:
    return random_context(seed + 1000, 1).segments[-1].steering


def drain(engine: LocalEngine):
    while finished := engine.poll():
        yield from finished


def everything(engine: LocalEngine, requests) -> list[Completion]:
    tickets = [engine.submit(r) for r in requests]
    results = dict(drain(engine))
    return [results[t] for t in tickets]


_ENGINES: dict[str, LocalEngine] = {}


def _kept_engine(folder: Path) -> LocalEngine:
    """One engine that lives through all examples: its memory is whatever came before."""
    return _ENGINES.setdefault("kept", engine_of(folder))


def _fresh_engine(folder: Path) -> LocalEngine:
    """The same weights with an empty memory."""
    engine = _ENGINES.setdefault("fresh", engine_of(folder))
    engine._store.lanes.clear()
    return engine
