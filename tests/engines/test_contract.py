"""The suite that every engine passes on the organism, against plain transformers: exact, canary, refusals, cancelling.

contract.py says how an engine joins. What only one engine promises (bits, budgets, servers) is in its own file.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engines import contract
from tests.engines.conftest import Case, entry_or_skip
from tests.engines.contract import asked, conversation, drain, everything, several, steer, style
from tests.tiny import random_dictionary
from toolkit import randomness
from toolkit.context import Context
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
    read_texts,
    run,
)
from toolkit.engines.sampling import _nucleus
from toolkit.errors import BadInput, DictionaryMismatch, SteeringError, Unsupported, WindowFull
from toolkit.steering import MODES, NO_STEERING, Intervention, Steering

LAYERS = (0, 1, 2, 3)
TOGETHER = 6
BORDER = 1e-5


def some_context(case: Case, seed: int) -> Context:
    return contract.random_context(seed, case.entry.modes)


def some_steering(case: Case, seed: int) -> Steering:
    return contract.random_steering(np.random.default_rng(seed + 1000), case.entry.modes, (style(), several()))


def read(case: Case, context: Context) -> Tensor:
    result = run(case.engine, Read(context, tuple(range(len(context))), LAYERS))
    assert isinstance(result, Residuals)
    check_steered(context, result)
    return result.values


def assert_close(case: Case, got: Tensor, expected: Tensor) -> None:
    """Within the engine's tolerance, relative to how long residuals are."""
    assert got.shape == expected.shape
    error = (got.double() - expected.double()).norm(dim=-1) / expected.double().norm(dim=-1).mean()
    assert float(error.max()) < case.entry.tolerance


def assert_is_what_plain_transformers_say(case: Case, request: Generate, got: Completion) -> None:
    """Counts, tokens, log-probabilities and residuals of a completion, all from one pass over its own tokens.

    Greedy tokens must have the highest log-probability; among equals, within the tolerance, any will do. Drawn tokens
    are those of the request's stream.
    """
    check_steered(request.context, got, request.steering)
    sampling, tolerance = request.sampling, case.entry.tolerance * 10
    before = case.reference.logprobs(request.context, got.tokens, request.steering)
    own = before.gather(1, torch.tensor(got.tokens)[:, None])[:, 0]
    if sampling.temperature == 0:
        assert float((before.max(-1).values - own).max()) <= tolerance
    elif case.entry.our_draws:
        stream = randomness.stream("tokens", *sampling.stream)
        uniforms = torch.tensor([stream.random() for _ in got.tokens], dtype=torch.float64)
        probabilities = _nucleus((before / sampling.temperature).softmax(-1), torch.full((1,), sampling.top_p))
        up_to = probabilities.cumsum(-1)
        upper = up_to.gather(1, torch.tensor(got.tokens)[:, None])[:, 0]
        lower = upper - probabilities.gather(1, torch.tensor(got.tokens)[:, None])[:, 0]
        # a draw on the border between two tokens may fall to either: engines cumulate float32 probabilities
        assert bool(((lower - BORDER <= uniforms * up_to[:, -1]) & (uniforms * up_to[:, -1] <= upper + BORDER)).all())
    stops = [t in contract.tokenizer().stop_tokens for t in got.tokens]
    assert not any(stops[:-1])
    assert got.why == ("stop" if stops[-1] else "length" if len(stops) == sampling.max_tokens else "window")
    assert 0 <= got.reused < len(request.context)
    if request.logprobs:
        torch.testing.assert_close(torch.tensor(got.logprobs).double(), own, rtol=1e-6, atol=max(tolerance, 1e-5))
    if request.capture is not None:
        assert len(got.residuals) >= len(got.tokens) - 1
        residuals = case.reference.run(request.context, got.tokens, request.steering)[0][len(request.context) :, 1]
        assert_close(case, got.residuals, residuals[: len(got.residuals)])


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize("seed", range(4))
def test_residuals_are_those_of_a_plain_loop_over_tokens(case: Case, seed: int) -> None:
    context = some_context(case, seed)
    assert_close(case, read(case, context), case.reference.run(context)[0])


@pytest.mark.parametrize("seed", range(4))
def test_responses_are_those_of_plain_transformers(case: Case, seed: int) -> None:
    under = some_steering(case, seed)
    for request in (
        asked(some_context(case, seed), 12, under=under, capture=style().key, logprobs=True),
        asked(some_context(case, seed), 12, "s", seed, under=under, capture=style().key, logprobs=True),
    ):
        assert_is_what_plain_transformers_say(case, request, run(case.engine, request))


def test_tokens_of_a_conversation_are_those_of_transformers_generate(case: Case) -> None:
    context = conversation()
    whole = case.reference.model.generate(torch.tensor([context.tokens]), max_new_tokens=20, do_sample=False)
    got = run(case.engine, asked(context, 20))
    assert list(got.tokens) == whole[0, len(context) :].tolist()
    assert got.logprobs is None and got.residuals is None


def test_steering_changes_the_text_and_the_nucleus_is_kept(case: Case) -> None:
    loud = asked(conversation(), 12, under=steer(3, 1.0))
    assert run(case.engine, loud).tokens != run(case.engine, replace(loud, steering=NO_STEERING)).tokens
    narrow = Generate(conversation(), Sampling(1.5, 0.6, 12, ("narrow",)), steer(3, 0.5))
    assert_is_what_plain_transformers_say(case, narrow, run(case.engine, narrow))


def test_a_zero_vector_is_unsteered(case: Case) -> None:
    nothing = steer(3, 0.0).with_(*steer(4, 0.0, dictionary=several()))
    plain = asked(conversation(), 16, "z", capture=style().key, logprobs=True)
    zero = replace(plain, context=conversation(steering=nothing), steering=nothing)
    a, b = run(case.engine, plain), run(case.engine, zero)
    check_steered(zero.context, b, nothing)
    assert a.tokens == b.tokens
    assert a.logprobs == pytest.approx(b.logprobs, abs=case.entry.tolerance)
    assert_close(case, a.residuals, b.residuals)


def test_a_vector_and_its_opposite_are_nothing(case: Case) -> None:
    both = Steering.of(
        *(Intervention(d.key, 3, s, "add", "external") for d in (style(), several()) for s in (0.8, -0.8))
    )
    context = some_context(case, 5).under(NO_STEERING)
    assert_close(case, read(case, context.under(both)), read(case, context))


def test_batched_is_alone(case: Case) -> None:
    requests = [
        asked(some_context(case, s), 4 + 3 * s, "batch", s, under=some_steering(case, s), capture=style().key)
        for s in range(TOGETHER)
    ]
    requests += [Read(some_context(case, 9), (0, 3, 1), (2, 0)), Score(some_context(case, 8), (((5,),), ((6, 7),)))]
    for request, got in zip(requests, everything(case.engine, requests), strict=True):
        alone = run(case.engine, request)
        assert got.steered == alone.steered
        if isinstance(request, Generate):
            assert got.tokens == alone.tokens
            assert_close(case, got.residuals, alone.residuals)
        elif isinstance(request, Read):
            assert_close(case, got.values, alone.values)
        else:
            assert got.logprobs == pytest.approx(alone.logprobs, abs=case.entry.tolerance * 10)


@pytest.mark.parametrize("seed", range(3))
def test_what_was_asked_before_changes_nothing(case: Case, seed: int) -> None:
    """Rounds, other steering after the fact, swaps and forks: prefixes are there to be reused, rightly or wrongly."""
    context, a, b = conversation(), steer(seed, 0.9), some_steering(case, seed)
    for turn in range(3):
        request = asked(context, 6, "k", seed, turn, under=a, capture=style().key, logprobs=True)
        got = run(case.engine, request)
        assert_is_what_plain_transformers_say(case, request, got)
        context = context.append(got.tokens, a, "generated").append(contract.tokenizer().user_turn("Go on.", True), b)
    third = len(context) // 3
    for fork in (
        context.under(NO_STEERING),
        context.under(a),
        context.under(b, start=third, stop=2 * third),
        context.swap(third, [77, 78]),
        context.upto(2 * third).append([50], b),
        context,
    ):
        request = asked(fork, 3, under=a, capture=style().key, logprobs=True)
        assert_is_what_plain_transformers_say(case, request, run(case.engine, request))
    computed_anew = Context(context.under(b).segments)
    assert_close(case, read(case, context.under(b)), case.reference.run(computed_anew)[0])


def test_scores_are_exact_sums_over_spellings_and_tokens(case: Case) -> None:
    options = (((5,), (6,)), ((7, 8, 9),), ((7, 8), (30, 31)))
    for context, under in ((some_context(case, 3), steer(2, 0.5)), (conversation(), NO_STEERING)):
        request = Score(context, options, under)
        got = run(case.engine, request)
        check_steered(context, got)
        expected = case.reference.score(request)
        assert got.logprobs == pytest.approx(expected, abs=case.entry.tolerance * 10)
        assert got.mass == pytest.approx(sum(np.exp(expected)), rel=1e-3)


def test_every_token_of_the_vocabulary_as_an_option_has_mass_one(case: Case) -> None:
    options = tuple(((t,),) for t in range(case.engine.info.vocabulary))
    got = run(case.engine, Score(some_context(case, 1), options))
    assert isinstance(got, Scores)
    assert got.mass == pytest.approx(1.0, abs=case.entry.tolerance)


def test_positions_and_layers_come_in_the_order_of_the_request(case: Case) -> None:
    context = some_context(case, 2)
    got = run(case.engine, Read(context, (3, 0, 2), (2, 0)))
    assert got.values.dtype in (torch.float32, torch.float64)
    assert_close(case, got.values, case.reference.run(context)[0][[3, 0, 2]][:, [2, 0]])


def test_residuals_of_texts_come_in_their_order(case: Case) -> None:
    texts = ["warm tea", "a much longer text about the weather", "x"]
    for text, values in zip(texts, read_texts(case.engine, texts, (1, 3)), strict=True):
        context = Context().append(contract.tokenizer().document(text))
        assert_close(case, values, case.reference.run(context)[0][:, [1, 3]])


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_exact_or_refused(case: Case, mode: str) -> None:
    under = steer(3, 0.7, mode, several())
    request = asked(conversation(), 5, under=under, capture=style().key, logprobs=True)
    if mode in case.entry.modes:
        assert_is_what_plain_transformers_say(case, request, run(case.engine, request))
    else:
        with pytest.raises(Unsupported, match=mode):
            run(case.engine, request)


# ------------------------------------------------------------------ what it says of itself


def test_it_says_what_runs(case: Case) -> None:
    info = case.engine.info
    assert (info.n_layers, info.d_model, info.window, info.vocabulary) == (4, 128, 4096, 1792)
    assert info.dtype == case.entry.dtype and info.engine and info.digest and info.device


def test_texts_become_the_same_tokens(case: Case) -> None:
    one, other = case.engine.tokenizer, contract.tokenizer()
    assert one.opening("Be brief.", "Hello") == other.opening("Be brief.", "Hello")
    assert one.user_turn("Continue.", False) == other.user_turn("Continue.", False)
    assert one.document("warm tea") == other.document("warm tea")
    assert one.stop_tokens == other.stop_tokens


# ------------------------------------------------------------------ canary and counts


@pytest.mark.parametrize("name", contract.ENGINES)
def test_an_engine_that_runs_unsteered_is_found_out(name: str) -> None:
    engine = entry_or_skip(name).broken()
    for _ in range(2):  # who tries again is told again
        with pytest.raises(SteeringError, match=r"logits|did not run"):
            engine.attach(style())
    (got,) = everything(engine, [asked(conversation(), 2, under=steer(3, 1.0))])
    assert isinstance(got, Failure) and "not attached" in str(got.error)


def test_a_steered_count_that_differs_from_the_plan_is_an_error(case: Case) -> None:
    under = steer(1, 0.5)
    context = conversation(steering=under)
    got = run(case.engine, asked(context, 3))
    check_steered(context, got)
    with pytest.raises(SteeringError, match="differ from the plan"):
        check_steered(context.under(NO_STEERING), got)
    with pytest.raises(SteeringError, match="differ from the plan"):
        check_steered(context, got, under)


# ------------------------------------------------------------------ refusals


def test_a_dictionary_that_does_not_fit_is_refused(case: Case) -> None:
    with pytest.raises(DictionaryMismatch, match="width 16"):
        case.engine.attach(random_dictionary(d_model=16))
    with pytest.raises(DictionaryMismatch, match="layer 4"):
        case.engine.attach(random_dictionary(128, layers=(4,)))
    inside = random_dictionary(128, layers=(1,), seed=5)
    with pytest.raises(DictionaryMismatch, match="layer 9"):
        case.engine.attach(replace(inside, reader=replace(inside.reader, layer=9)))


def test_a_dictionary_that_reads_another_layer_is_not_taken_for_one_that_is_attached(case: Case) -> None:
    known = contract.style()
    with pytest.raises(DictionaryMismatch, match="use an engine for each"):
        case.engine.attach(replace(known, reader=replace(known.reader, layer=known.reader.layer - 1)))
    case.engine.attach(known)


ONE = Context().append([1])
UNKNOWN = Steering.of(Intervention("?", 1, 0.3))


@pytest.mark.parametrize(
    ("request_", "error", "match"),
    [
        (Generate(Context(), Sampling()), BadInput, "empty"),
        (Generate(Context().append([1] * 4096), Sampling()), WindowFull, "window is 4096"),
        (Generate(Context().append([10_000]), Sampling()), BadInput, "vocabulary"),
        (Generate(ONE, Sampling(), UNKNOWN), SteeringError, "attached"),
        (Generate(ONE.append([5], UNKNOWN), Sampling()), SteeringError, "attached"),
        (Generate(ONE, Sampling(), capture="?"), SteeringError, "attached"),
        (Generate(ONE, Sampling(), steer(99, 0.3)), SteeringError, "99"),
        (Score(ONE, (((5,), ()),)), BadInput, "without tokens"),
        (Score(ONE, ()), BadInput, "no options"),
        (Score(ONE, (((5,), (9_999,)),)), BadInput, "9999"),
        (Score(ONE, (((5,),), ((6, 7), (8,), (6, 7)))), BadInput, "[6, 7] of option 1 is there twice"),
        (Score(ONE, (((5, 6), (5,)),)), BadInput, "begins another"),
        (Score(Context().append([1] * 4090), (((5,) * 9,),)), WindowFull, "does not fit"),
        (Score(ONE, (((5,),),), UNKNOWN), SteeringError, "attached"),
        (Read(ONE, (1,), (0,)), BadInput, "position 1"),
        (Read(ONE, (0,), (9,)), BadInput, "layer 9"),
        (Read(ONE, (0,), ()), BadInput, "at least one"),
    ],
)
def test_what_cannot_be_carried_out_fails_by_name_and_the_others_go_on(case: Case, request_, error, match) -> None:
    good = asked(conversation(), 2)
    before, bad, after = everything(case.engine, [good, request_, good])
    assert isinstance(bad, Failure) and isinstance(bad.error, error)
    assert match in str(bad.error)
    assert isinstance(before, Completion) and before.tokens == after.tokens
    assert case.entry.idle(case.engine)


def test_an_unknown_mode_never_becomes_a_request() -> None:
    with pytest.raises(BadInput, match="'rotate' is unknown; use one of add, clamp, project_out"):
        Intervention(style().key, 1, 0.5, "rotate")  # type: ignore[arg-type]


def test_a_response_stops_at_the_window(case: Case) -> None:
    long = Context().append([1, *[300 + i % 700 for i in range(4092)]])
    got = run(case.engine, asked(long, 100))
    assert len(got.tokens) <= 3
    assert got.why == ("stop" if got.tokens[-1] in contract.tokenizer().stop_tokens else "window")


# ------------------------------------------------------------------ cancelling


def test_cancelled_before_it_began(case: Case) -> None:
    requests = [asked(some_context(case, s), 10, "x", s, under=some_steering(case, s)) for s in range(4)]
    alone = [run(case.engine, r).tokens for r in requests]
    tickets = [case.engine.submit(r) for r in requests]
    case.engine.cancel(tickets[1])
    results = dict(drain(case.engine))
    assert sorted(results) == [tickets[0], tickets[2], tickets[3]]
    assert [results[t].tokens for t in sorted(results)] == [alone[0], alone[2], alone[3]]
    assert case.entry.idle(case.engine)


def test_cancelled_on_the_way_it_leaves_the_others_as_they_were(case: Case) -> None:
    short, long = asked(conversation(), 1), [asked(some_context(case, s), 40, "w", s) for s in range(3)]
    alone = [run(case.engine, r).tokens for r in long]
    first, *tickets = [case.engine.submit(r) for r in (short, *long)]
    results = {}
    while first not in results:
        results.update(case.engine.poll())
    case.engine.cancel(tickets[1])
    results.update(drain(case.engine))
    assert tickets[1] not in results
    assert [results[tickets[i]].tokens for i in (0, 2)] == [alone[0], alone[2]]
    assert case.engine.poll() == []
    assert case.entry.idle(case.engine)


def test_cancelling_what_is_not_there_is_nothing(case: Case) -> None:
    ticket = case.engine.submit(asked(conversation(), 2))
    case.engine.cancel(ticket + 1000)
    assert [t for t, _ in drain(case.engine)] == [ticket]
    case.engine.cancel(ticket)
    assert math.isfinite(run(case.engine, Score(ONE, (((5,),),))).logprobs[0])
