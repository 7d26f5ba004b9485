"""Servers of plans that die, hang, come back, serve something else or break. The cores are scripted (served.py)."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

from tests.engines.served import Here, Process, answer, assert_all_answered, finish, some_plans
from toolkit.engines import vllm_http
from toolkit.engines.vllm_http import Fleet
from toolkit.engines.vllm_plan import Plan
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


def lost_and_back(here: Here, fleet: Fleet) -> Exception:
    """What a plan comes to whose server breaks under it and is then what `here` and `fleet` have been made to be."""
    fleet.submit(Plan("1-0", (15,)))
    while not here.core.seen:  # else the one that breaks the server may be there and gone before it
        time.sleep(0.001)
    fleet.submit(Plan("2-0", (13,)))
    error = finish(fleet)["1-0"]
    assert isinstance(error, Unreachable)
    return error


def test_a_server_that_comes_back_with_another_model_is_not_used(here: list[Here], monkeypatch) -> None:
    monkeypatch.setattr(vllm_http, "LONGEST_WAIT", 0.1)
    fleet = Fleet([here[0].url], "tiny", patience_s=1.0)
    here[0].core.about["name"] = "large"
    assert "serves large" in str(lost_and_back(here[0], fleet))
    assert here[0].core.seen <= 2


def test_a_server_that_does_not_pass_its_vetting_is_not_used(here: list[Here], monkeypatch) -> None:
    monkeypatch.setattr(vllm_http, "LONGEST_WAIT", 0.1)
    fleet, calls = Fleet([here[0].url], "tiny", patience_s=1.0), []

    def hooks_that_die(_ask: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise SteeringError("the canary is dead")

    fleet.vet(hooks_that_die)
    assert "the canary is dead" in str(lost_and_back(here[0], fleet))
    assert here[0].core.seen <= 2


def test_a_silent_server_is_left_for_another(here: list[Here]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        fleet = Fleet([here[0].url], "tiny", silence_s=0.3)
        fleet._addresses.append(replace(fleet._addresses[0], url=f"http://127.0.0.1:{mute.getsockname()[1]}"))
        plans = some_plans(4)
        for plan in plans:
            fleet.submit(plan)
        assert_all_answered(finish(fleet), plans)


def test_a_slow_server_is_left_for_another(here: list[Here]) -> None:
    here[0].core.steps = 10**9
    fleet, plans = Fleet([one.url for one in here], "tiny", slow_s=0.3), some_plans(6)
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
