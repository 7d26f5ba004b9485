"""The scripted engine keeps the part of the contract that needs no weights: counts, refusals, order, cancelling."""

from __future__ import annotations

import pytest

from tests.engines.contract import drain, everything
from tests.tiny import random_dictionary
from toolkit.context import Context
from toolkit.engines.base import Failure, Generate, Read, Sampling, Score, check_steered, run, run_all
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import BadInput, SteeringError, Unsupported, WindowFull
from toolkit.steering import Intervention, Steering

DICTIONARY = random_dictionary(8)
UNDER = Steering.of(Intervention(DICTIONARY.key, 1, 0.5))
ONE = Context().append([1, 2])


def engine_of(*answers: str | Exception, window: int = 100) -> ScriptedEngine:
    engine = ScriptedEngine(answers or (lambda request: str(request.sampling.stream)), window=window)
    engine.attach(DICTIONARY)
    return engine


def test_steered_counts_are_those_of_the_plan() -> None:
    context = ONE.append([3, 4, 5], UNDER)
    got = run(engine_of("hello"), Generate(context, Sampling(), UNDER, capture=DICTIONARY.key))
    check_steered(context, got, UNDER)
    assert len(got.residuals) == len(got.tokens) == 6
    check_steered(context, run(engine_of(), Read(context, (0, 4), (1,))))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Generate(Context(), Sampling()), BadInput),
        (Generate(Context().append([1] * 100), Sampling()), WindowFull),
        (Generate(ONE, Sampling(), Steering.of(Intervention("?", 1, 0.3))), SteeringError),
        (Generate(ONE.append([5], Steering.of(Intervention("?", 1, 0.3))), Sampling()), SteeringError),
        (Generate(ONE, Sampling(), capture="?"), SteeringError),
        (Read(ONE, (2,), (0,)), BadInput),
        (Read(ONE, (0,), (9,)), BadInput),
        (Score(ONE, (((),),)), BadInput),
        (Score(ONE, (((5,),),)), Unsupported),
    ],
)
def test_what_cannot_be_carried_out_fails_by_name_and_the_others_go_on(request_, error) -> None:
    good = Generate(ONE, Sampling(stream=("good",)))
    before, bad, after = everything(engine_of(), [good, request_, good])
    assert isinstance(bad, Failure) and type(bad.error) is error
    assert before == after


def test_a_cancelled_request_never_comes_back_and_takes_no_answer() -> None:
    engine = engine_of("first", "second")
    tickets = [engine.submit(Generate(ONE, Sampling())) for _ in range(3)]
    engine.cancel(tickets[0])
    engine.cancel(1000)
    results = dict(drain(engine))
    assert {t: engine.tokenizer.decode(r.tokens) for t, r in results.items()} == {
        tickets[1]: "first",
        tickets[2]: "second",
    }
    assert engine.poll() == []


def test_a_response_stops_at_the_window_and_at_most_tokens() -> None:
    assert run(engine_of("a long answer", window=6), Generate(ONE, Sampling())).why == "window"
    got = run(engine_of("a long answer"), Generate(ONE, Sampling(max_tokens=3)))
    assert got.why == "length" and len(got.tokens) == 3


def test_what_was_asked_beside_a_failure_is_not_left_to_the_next_who_polls() -> None:
    engine = engine_of("one", SteeringError("no"), "three")
    with pytest.raises(SteeringError, match="no"):
        run_all(engine, [Generate(ONE, Sampling())] * 3)
    assert engine.poll() == []
    other = engine.submit(Generate(Context(), Sampling()))  # of somebody else, and fails
    assert run(engine, Read(ONE, (0,), (1,))).values.shape == (1, 1, 8)
    assert other and engine.poll() == []
