"""Requests that begin alike compute their beginning once; nothing but time tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.contract import everything
from tests.engines.test_local import DICTIONARY, engine_of, random_steering, steer
from toolkit.context import Context
from toolkit.engines.base import Completion, Failure, Generate, Read, Request, Sampling, Score, run
from toolkit.engines.local import LocalEngine
from toolkit.steering import NO_STEERING, Steering

PROMPT = [3 + 7 * i % 250 for i in range(100)]


def alike(n: int, under: Steering = NO_STEERING) -> list[Request]:
    contexts = [Context().append(PROMPT, under).append([9 + i, 5, 6], random_steering(i)) for i in range(n)]
    asked: list[Request] = [
        Generate(context, Sampling(0.8, 1, 5, ("a", i)), random_steering(i + 1), DICTIONARY.key, True)
        for i, context in enumerate(contexts)
    ]
    return [*asked, Score(contexts[0], (((7,),), ((8, 9),)), NO_STEERING), Read(contexts[1], (101,), (2,))]


@pytest.fixture()
def engine(tiny_llama: Path):
    return lambda **options: engine_of(tiny_llama, dtype="float32", **options)


@pytest.mark.parametrize("options", [{}, {"chunk": 30}, {"most_rows": 3}, {"kv_budget": 1}], ids=str)
def test_a_common_beginning_is_computed_once_and_changes_no_bit(engine, options) -> None:
    together: LocalEngine = engine(**options)
    before = together.tokens_computed
    found = everything(together, alike(6))
    computed = together.tokens_computed - before
    for request, one in zip(alike(6), found, strict=True):
        alone = run(engine(), request)
        if isinstance(one, Completion):
            assert (one.tokens, one.logprobs, one.steered) == (alone.tokens, alone.logprobs, alone.steered)
        else:
            assert repr(one) == repr(alone)
    if "kv_budget" not in options:  # under which one request after the other has all of the memory
        assert 100 + 8 * 3 <= computed < 3 * 100  # and not 8 * 103


def test_under_other_steering_it_is_another_beginning(engine) -> None:
    together = engine()
    contexts = [Context().append(PROMPT, Steering.of(steer(i, 0.5))) for i in range(4)]
    before = together.tokens_computed
    everything(together, [Generate(context, Sampling(0, 1, 1, ()), NO_STEERING) for context in contexts])
    assert together.tokens_computed - before == 4 * (100 + 1)


def test_what_waits_for_one_that_is_cancelled_goes_on_alone(engine) -> None:
    patient = engine(chunk=10)
    requests = alike(3)
    tickets = [patient.submit(one) for one in requests]
    patient.submit(Generate(Context().append([4]), Sampling(0, 1, 1, ()), NO_STEERING))  # waits for nobody
    assert len(patient.poll()) == 1
    patient.cancel(tickets[0])
    found = {}
    while len(found) < len(requests) - 1:
        found.update(patient.poll())
    assert sorted(found) == tickets[1:]
    assert not any(isinstance(one, Failure) for one in found.values())
    assert found[tickets[1]].tokens == run(engine(), requests[1]).tokens


def test_who_cannot_be_started_fails_and_not_who_waits_before_it(engine, monkeypatch) -> None:
    one = engine(chunk=10)
    plain = one._store.acquire

    def acquire(tokens, *rest):
        if tokens[0] == 250:
            raise RuntimeError("no lane for this one")
        return plain(tokens, *rest)

    monkeypatch.setattr(one._store, "acquire", acquire)
    odd = Generate(Context().append([250, 5]), Sampling(0, 1, 2), NO_STEERING)
    first, waits, failed = everything(one, [*alike(2)[:2], odd])
    assert isinstance(failed, Failure) and "no lane for this one" in str(failed.error)
    assert isinstance(first, Completion) and isinstance(waits, Completion)
