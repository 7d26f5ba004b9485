"""What the vLLM engine makes of requests, without vLLM: its plans go over the wire and are carried out plainly.

What vLLM itself does with plans is in test_vllm.py, which wants vLLM.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engines import contract
from tests.engines.conftest import Case
from tests.engines.contract import (
    Entry,
    asked,
    conversation,
    everything,
    random_context,
    reference,
    several,
    steer,
    style,
)
from tests.engines.test_contract import assert_close, assert_is_what_plain_transformers_say, read
from toolkit import randomness
from toolkit.engines import loading
from toolkit.engines.base import Failure, Read, Score, check_steered, run
from toolkit.engines.sampling import draw
from toolkit.engines.vllm import VllmEngine
from toolkit.engines.vllm_plan import Outcome, Plan, Row, Vet, received
from toolkit.errors import SteeringError, Unreachable, Unsupported
from toolkit.steering import NO_STEERING, Steering

MODES = ("add", "project_out")


class Plain:
    """Servers (see vllm.py): plain transformers, one pass a token, no KV.

    spoilt: what becomes of a row before it acts. lost: plans over which a server is lost.
    """

    def __init__(self, spoilt: Callable[[Row], Row] = lambda row: row) -> None:
        self.model, self.spoilt = reference().model, spoilt
        self.about: dict[str, Any] = {"name": "organism", "digest": "d", "n_layers": 4, "d_model": 128, "window": 4096}
        self.about |= {"vocabulary": 1792, "device": "cpu", "dtype": "float32", "versions": {}}
        self.plans: list[Plan] = []
        self.lost: set[str] = set()

    def submit(self, plan: Plan) -> None:
        self.plans.append(received(plan.to_bytes(), self.about))

    def poll(self) -> list[tuple[str, Outcome | Exception]]:
        if not self.plans:
            return []
        plan = self.plans.pop()  # not in their order
        return [(plan.id, Unreachable("gone") if plan.id in self.lost else self.carried_out(plan))]

    def cancel(self, *names: str) -> None:
        self.plans = [plan for plan in self.plans if plan.id not in names]

    def vet(self, check: Vet) -> None:
        check(self.carried_out)

    @torch.no_grad()
    def passed(self, plan: Plan, tokens: list[int]) -> tuple[Tensor, Tensor]:
        """Residuals [T, L, D] and logits [T, V]."""
        rows, kept = [self.spoilt(plan.rows[row]) for row in plan.row_ids()[: len(tokens)]], []

        def hook(layer: int) -> Callable[..., object]:
            def after(_module: object, _inputs: object, output: Any) -> object:
                whole = output[0] if isinstance(output, tuple) else output
                steered = whole.clone()
                for t, row in enumerate(rows):
                    steered[0, t] += torch.tensor(row.deltas.get(layer, 0))
                    for direction in torch.tensor(row.projections.get(layer, np.zeros((0, 128), np.float32))):
                        steered[0, t] -= (whole[0, t] @ direction) * direction
                kept.append(steered[0])
                return (steered, *output[1:]) if isinstance(output, tuple) else steered

            return after

        handles = [b.register_forward_hook(hook(i)) for i, b in enumerate(loading.decoder_blocks(self.model))]
        try:
            logits = self.model(torch.tensor([tokens]), use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(kept, 1), logits

    def carried_out(self, plan: Plan) -> Outcome:
        tokens, logprobs = list(plan.tokens), []
        uniform = randomness.stream("tokens", *plan.stream).random(plan.most).tolist()
        for number in uniform:
            if logprobs and tokens[-1] in plan.stops:
                break
            logits = self.passed(plan, tokens)[1][-1:]
            settings = [torch.tensor([one]) for one in (plan.temperature, plan.top_p, number)]
            token, logprob = draw(logits, *settings)
            tokens.append(int(token))
            logprobs.append(float(logprob))
        computed = len(tokens) if plan.through else len(tokens) - 1
        residuals, logits = self.passed(plan, tokens[:computed])
        wanted = range(len(plan.tokens), computed) if plan.positions is None else plan.positions
        scores = torch.log_softmax(logits.double(), -1)
        outcome = Outcome(
            tuple(tokens[len(plan.tokens) :]),
            "stop" if tokens[-1] in plan.stops else "length",
            Counter(plan.row_ids()[:computed].tolist()),
            0,
            tuple(logprobs) if plan.logprobs else None,
            residuals[list(wanted)][:, list(plan.layers)].numpy() if plan.layers else None,
            tuple(tuple(scores[at, list(asked)].tolist()) for at, asked in plan.score),
        )
        return Outcome.from_json(json.loads(json.dumps(outcome.to_json())))


@pytest.fixture
def case() -> Case:
    engine = VllmEngine(Plain(), contract.tokenizer())
    engine.attach(style())
    engine.attach(several())
    return Case("plans", Entry(lambda: engine, lambda: engine, modes=MODES), engine, reference())


def context_of(seed: int) -> Any:
    return random_context(seed, MODES, longest=6)


@pytest.mark.parametrize("seed", range(3))
def test_responses_are_those_of_plain_transformers(case: Case, seed: int) -> None:
    under = context_of(seed + 9).segments[-1].steering
    request = asked(context_of(seed), 6, "s", seed, under=under, capture=style().key, logprobs=True)
    assert_is_what_plain_transformers_say(case, request, run(case.engine, request))


def test_a_response_is_computed_to_its_last_token(case: Case) -> None:
    request = asked(conversation(), 3, under=steer(1, 0.5), capture=style().key)
    got = run(case.engine, request)
    assert len(got.residuals) == len(got.tokens)
    assert sum(got.steered.values()) == len(request.context) + len(got.tokens)


@pytest.mark.parametrize(("room", "why"), [(2, "window"), (3, "length")])
def test_a_response_that_fills_the_window_says_so(room: int, why: str) -> None:
    servers, context = Plain(), conversation()
    servers.about["window"] = len(context) + room
    got = run(VllmEngine(servers, contract.tokenizer()), asked(context, 3))
    assert len(got.tokens) == room and got.why == why


def test_a_plan_says_what_may_come_from_the_cache_and_who_may_have_it(case: Case) -> None:
    """Residuals are not kept with vLLM's cache: what is read of a context is computed anew."""
    servers: Any = case.engine.servers  # type: ignore[attr-defined]
    context = conversation().append([5, 6], steer(1, 0.5)).append([7])
    for request, anew in (
        (asked(context, 3, capture=style().key), [False]),
        (Score(context, (((5,), (6, 7)),)), [False, True]),
        (Read(context, (0,), (1,)), [True]),
    ):
        ticket = case.engine.submit(request)
        assert [plan.anew for plan in servers.plans] == anew
        assert {plan.cuts for plan in servers.plans} == {tuple(np.cumsum([len(s) for s in context.segments]).tolist())}
        case.engine.cancel(ticket)
        assert not servers.plans


def test_scores_are_sums_over_spellings_and_tokens_under_the_options_own_steering(case: Case) -> None:
    options = (((5,), (6,)), ((7, 8, 9),), ((7, 8), (30, 31)))
    for under in (NO_STEERING, steer(2, 0.9)):
        request = Score(context_of(3), options, under)
        got = run(case.engine, request)
        check_steered(request.context, got)
        assert got.logprobs == pytest.approx(case.reference.score(request), abs=2e-4)
        assert got.mass == pytest.approx(sum(np.exp(got.logprobs)))


def test_residuals_are_those_of_a_plain_loop_over_tokens(case: Case) -> None:
    context = context_of(4)
    assert_close(case, read(case, context), case.reference.run(context)[0])


def test_results_come_to_their_own_requests_whatever_the_order_of_plans(case: Case) -> None:
    requests = [asked(context_of(s), 3, "o", s) for s in range(3)] + [Score(context_of(5), (((7, 8),), ((9,),)))]
    for got, request in zip(everything(case.engine, requests), requests, strict=True):
        alone = run(case.engine, request)
        assert got == alone


def test_a_plan_that_is_lost_is_its_requests_failure_and_its_others_are_not_asked(case: Case) -> None:
    servers: Any = case.engine.servers  # type: ignore[attr-defined]
    servers.lost = {f"{case.engine.submit(Score(conversation(), (((5, 6), (7, 8)), ((9,),))))}-2"}
    good = case.engine.submit(asked(conversation(), 2))
    found = dict(contract.drain(case.engine))
    assert len(found) == 2 and found[good].tokens and not servers.plans
    (failed,) = (one for one in found.values() if isinstance(one, Failure))
    assert isinstance(failed.error, Unreachable)


def test_what_needs_an_encoder_is_refused_and_the_others_go_on(case: Case) -> None:
    good = asked(conversation(), 2)
    clamped = asked(conversation(), 2, under=steer(1, 1.0, "clamp"))
    before, refused, after = everything(case.engine, [good, clamped, good])
    assert isinstance(refused, Failure) and isinstance(refused.error, Unsupported)
    assert before.tokens == after.tokens and not case.engine._pending  # type: ignore[attr-defined]


def test_servers_that_do_not_steer_are_found_out() -> None:
    engine = VllmEngine(Plain(lambda row: Row()), contract.tokenizer())
    for _ in range(2):
        with pytest.raises(SteeringError, match="does not reach the logits"):
            engine.attach(style())
    failed = everything(engine, [asked(conversation(), 2, under=Steering.of(*steer(1, 0.5)))])[0]
    assert isinstance(failed, Failure) and "not attached" in str(failed.error)


@pytest.mark.parametrize("off", [0.01, -0.01])
def test_servers_whose_scores_are_not_those_they_draw_from_are_found_out(off: float) -> None:
    servers = Plain()
    plain = servers.carried_out

    def moved(plan: Plan) -> Outcome:
        outcome = plain(plan)
        return replace(outcome, scores=tuple(tuple(one + off for one in some) for some in outcome.scores))

    servers.carried_out = moved  # type: ignore[method-assign]
    with pytest.raises(SteeringError, match="nats from vLLM's own"):
        VllmEngine(servers, contract.tokenizer()).attach(style())


def test_what_is_not_finite_is_no_result(case: Case) -> None:
    servers: Any = case.engine.servers  # type: ignore[attr-defined]
    plain = servers.carried_out
    servers.carried_out = lambda plan: replace(plain(plan), logprobs=(float("nan"),), scores=((float("nan"),),))
    for request in (asked(conversation(), 1, logprobs=True), Score(conversation(), (((5,),),))):
        (failed,) = everything(case.engine, [request])
        assert isinstance(failed, Failure) and "not finite" in str(failed.error)
