"""Servers of plans that die, hang, come back, serve something else or break. The cores are scripted (served.py)."""

from __future__ import annotations

import queue
import socket
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.engines.served import (
    Here,
    Process,
    ScriptedCore,
    answer,
    assert_all_answered,
    finish,
    given_up,
    serving,
    some_plans,
    until,
)
from toolkit.engines import vllm_http
from toolkit.engines.vllm_client import Client
from toolkit.engines.vllm_http import Fleet
from toolkit.engines.vllm_plan import Ask, Plan, Vet
from toolkit.engines.vllm_server import Service
from toolkit.errors import SteeringError, Unreachable

# ------------------------------------------------------------------ servers that are lost


def test_a_server_that_is_killed_loses_nothing() -> None:
    dying, living = Process(steps=10**9), Process()
    fleet, plans = Fleet([dying.url, living.url], "tiny"), some_plans(30)
    try:
        for plan in plans:
            fleet.submit(plan)
        early = fleet.poll()
        dying.kill()
        assert_all_answered({**dict(early), **finish(fleet)}, plans)
    finally:
        dying.kill()
        living.kill()


def test_a_server_that_restarts_is_vetted_and_used_again() -> None:
    first = Process(steps=10**9)
    fleet, plan, vetted = Fleet([first.url], "tiny"), some_plans(1)[0], []
    fleet.vet(lambda ask: vetted.append(1) if not vetted else vetted.append(ask(replace(plan, id="v")).tokens[0]))
    fleet.submit(plan)
    time.sleep(0.2)
    first.kill()
    second = Process(first.port)
    try:
        assert_all_answered(finish(fleet), [plan])
        assert vetted == [1, answer(plan).tokens[0]]
    finally:
        second.kill()


def counting(vetted: list[int]) -> Vet:
    def vet(ask: Ask) -> None:
        vetted.append(ask(Plan("v", (30,))).tokens[0])

    return vet


def test_a_server_that_was_started_anew_between_two_plans_is_vetted_before_the_second() -> None:
    """Nothing was in flight, so nobody has seen it go: what it is now must be known before it computes anything."""
    first, vetted, plans = Process(), [], some_plans(2)
    fleet = Fleet([first.url], "tiny")
    fleet.vet(counting(vetted))
    fleet.submit(plans[0])
    found = finish(fleet)
    first.kill()
    second = Process(first.port)
    try:
        fleet.submit(plans[1])
        assert_all_answered({**found, **finish(fleet)}, plans)
        assert vetted == [30, 30]
    finally:
        second.kill()


def test_a_server_that_was_started_anew_with_another_model_is_not_asked(monkeypatch) -> None:
    monkeypatch.setattr(vllm_http, "LONGEST_WAIT", 0.1)
    first = Process()
    fleet, plan = Fleet([first.url], "tiny"), some_plans(1)[0]
    first.kill()
    second = Process(first.port, name="large")
    try:
        fleet.submit(plan)
        error = given_up(fleet, "serves large")[plan.id]
        assert isinstance(error, Unreachable) and "serves large" in str(error)
    finally:
        second.kill()


def test_a_cancelled_plan_is_no_loss_of_its_server(here: list[Here]) -> None:
    fleet, vetted = Fleet([here[0].url], "tiny"), []
    fleet.vet(counting(vetted))
    for i in range(8):
        fleet.submit(Plan(f"{i}-0", (15,)))
    until(lambda: here[0].core.seen == 9)
    fleet.cancel(*(f"{i}-0" for i in range(8)))
    until(lambda: len(here[0].core.cancelled) == 8)
    plan = Plan("9-0", (30,))
    fleet.submit(plan)
    assert_all_answered(finish(fleet), [plan])
    assert vetted == [30] and fleet._addresses[0].losses == 0


def test_a_plan_that_breaks_every_step_fails_alone(here: list[Here], monkeypatch) -> None:
    """What the plans beside it lose at once is one loss, vetted by one of them, and they come out in the end."""
    monkeypatch.setattr(vllm_http, "LONGEST_WAIT", 0.05)
    fleet, vetted, plans = Fleet([here[0].url], "tiny"), [], some_plans(12)
    fleet.vet(counting(vetted))
    here[0].core.steps = 50
    for plan in plans:
        fleet.submit(plan)
    fleet.submit(Plan("13-0", (13,)))
    found = finish(fleet)
    assert "4 servers were lost" in str(found.pop("13-0"))
    assert_all_answered(found, plans)
    assert len(vetted) <= 1 + 4 and fleet._addresses[0].era == 4


def test_who_hears_of_a_failed_step_finds_another_start() -> None:
    """Who asks again at once must not be vetted under a word that is gone a moment later: that is a second loss."""
    service, heard = Service(ScriptedCore()), []
    before = service.started

    class Ear(queue.Queue):
        def put(self, *given: Any) -> None:
            heard.append(service.started)

    service._orders.put(("1", Plan("1", (13,)), Ear()))
    until(lambda: heard)
    assert len(heard) == 1 and before not in heard


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("token", [16, 17], ids=["never ends", "ends by an error that nobody has foreseen"])
def test_a_server_whose_step_fails_in_another_way_is_left_for_another(here: list[Here], token: int) -> None:
    """Its threads go on to say that they are alive; that must not keep anybody waiting."""
    broken: list[int] = []
    with serving(1, stuck_s=0.3, broken=lambda: broken.append(1)) as bad:
        alone, plan = Fleet([bad[0].url], "tiny", tries=1), Plan("1-0", (token,))
        alone.submit(plan)
        error = finish(alone)["1-0"]
        assert isinstance(error, Unreachable) and "the server's engine" in str(error) and broken
        fleet, plans = Fleet([bad[0].url, here[0].url], "tiny"), some_plans(6)
        for one in plans:
            fleet.submit(one)
        assert_all_answered(finish(fleet), plans)


def test_a_gateway_that_does_not_reach_its_server_is_asked_again(here: list[Here], monkeypatch) -> None:
    handler, asked = here[0].server.RequestHandlerClass, []
    carried = handler.do_POST

    def busy(self: Any) -> None:
        asked.append(1)
        self.send_error(503) if len(asked) == 1 else carried(self)

    monkeypatch.setattr(handler, "do_POST", busy)
    fleet, plans = Fleet([here[0].url], "tiny"), some_plans(1)
    fleet.submit(plans[0])
    assert_all_answered(finish(fleet), plans)
    assert len(asked) == 2


def test_a_server_that_goes_before_steering_was_tried_on_it_is_named() -> None:
    only = Process()
    fleet = Fleet([only.url], "tiny")
    only.kill()
    with pytest.raises(Unreachable, match=f"{only.url} was lost while steering was tried"):
        fleet.vet(counting([]))


def lost_and_back(here: Here, fleet: Fleet, why: str) -> None:
    """A plan's server breaks under it and is then what `here` and `fleet` have been made to be: why it is not used."""
    before = here.core.seen
    fleet.submit(Plan("1-0", (15,)))
    until(lambda: here.core.seen > before)  # else the one that breaks the server may be there and gone before it
    fleet.submit(Plan("2-0", (13,)))
    error = given_up(fleet, why)["1-0"]
    assert isinstance(error, Unreachable) and why in str(error)


def test_a_server_that_comes_back_with_another_model_is_not_used(here: list[Here], monkeypatch) -> None:
    monkeypatch.setattr(vllm_http, "LONGEST_WAIT", 0.1)
    fleet = Fleet([here[0].url], "tiny")
    here[0].core.about["name"] = "large"
    lost_and_back(here[0], fleet, "serves large")
    assert here[0].core.seen <= 2


def test_a_server_that_does_not_pass_its_vetting_is_not_used(here: list[Here], monkeypatch) -> None:
    monkeypatch.setattr(vllm_http, "LONGEST_WAIT", 0.1)
    fleet, calls = Fleet([here[0].url], "tiny"), []

    def hooks_that_die(_ask: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise SteeringError("the canary is dead")

    fleet.vet(hooks_that_die)
    lost_and_back(here[0], fleet, "the canary is dead")
    assert here[0].core.seen <= 2


def test_a_silent_server_is_left_for_another(here: list[Here]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        fleet = Fleet([here[0].url], "tiny")  # which may be slow: it is not what is tried here
        fleet._addresses.append(vllm_http.Address(Client(f"http://127.0.0.1:{mute.getsockname()[1]}", 0.3)))
        plans = some_plans(4)
        for plan in plans:
            fleet.submit(plan)
        assert_all_answered(finish(fleet), plans)


def test_a_slow_server_is_left_for_another(here: list[Here]) -> None:
    here[0].core.steps = 10**9
    fleet, plans = Fleet([one.url for one in here], "tiny", slow_s=0.3), some_plans(6)
    fleet._addresses[1].client = replace(fleet._addresses[1].client, slow_s=None)  # the machine may be slow too
    for plan in plans:
        fleet.submit(plan)
    assert_all_answered(finish(fleet), plans)
    assert here[0].core.seen >= 1


def test_a_broken_step_is_tried_elsewhere_and_not_for_ever(here: list[Here]) -> None:
    fleet = Fleet([one.url for one in here], "tiny", tries=3)
    fleet.submit(Plan("1-0", (13,)))
    error = finish(fleet)["1-0"]
    assert isinstance(error, Unreachable) and "3 servers were lost" in str(error) and "a thirteen came" in str(error)
    assert sum(one.core.seen for one in here) == 3


def test_when_no_server_answers_the_plan_fails_by_name() -> None:
    only = Process()
    fleet = Fleet([only.url], "tiny", patience_s=0.5)
    only.kill()
    fleet.submit(some_plans(1)[0])
    error = finish(fleet)["0-0"]
    assert isinstance(error, Unreachable) and only.url in str(error) and "start them again" in str(error)
