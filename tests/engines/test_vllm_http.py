"""Plans over HTTP: servers that die, hang, come back, serve something else or break. No vLLM: the cores are scripted.

What is served over HTTP for real is tested in test_vllm.py.
"""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.engines import vllm_http
from toolkit.engines.vllm_http import Fleet, checked
from toolkit.engines.vllm_plan import Outcome, Plan, Row, salt
from toolkit.engines.vllm_server import Server, serve
from toolkit.errors import BadInput, SteeringError, Unreachable, Unsupported

ROOT = Path(__file__).parents[2]
ABOUT = {"name": "tiny", "model": "/tiny", "digest": "d", "n_layers": 2, "d_model": 4, "window": 99, "vocabulary": 97}
ABOUT |= {"dtype": "float32", "versions": {}}


def answer(plan: Plan) -> Outcome:
    """What every scripted core makes of a plan: a function of the plan alone."""
    start = sum(plan.tokens) + sum(len(row.digest) for row in plan.rows)
    tokens = tuple((start + i) % 97 for i in range(plan.most))
    counts = Counter(plan.row_ids()[: len(plan.tokens)].tolist())
    residuals = np.full((1, 1, 4), start, np.float32) if plan.layers else None
    return Outcome(tokens, "length", dict(counts), residuals=residuals)


class ScriptedCore:
    """Takes `steps` steps for a plan. A plan of token 13 breaks the step, one of 14 is refused, 15 never ends."""

    def __init__(self, steps: int = 2, name: str = "tiny") -> None:
        self.about = {**ABOUT, "name": name}
        self.steps, self.left, self.plans = steps, {}, {}
        self.cancelled: list[str] = []
        self.seen = 0

    def submit(self, plan: Plan) -> None:
        if plan.tokens[0] == 14:
            raise Unsupported("no fourteens here")
        self.seen += 1
        self.plans[plan.id], self.left[plan.id] = plan, self.steps

    def step(self) -> list[tuple[str, Outcome | Exception]]:
        time.sleep(0.001)
        if any(plan.tokens[0] == 13 for plan in self.plans.values()):
            self.plans, self.left = {}, {}
            raise SteeringError("a thirteen came")
        for name in self.left:
            self.left[name] -= self.plans[name].tokens[0] != 15
        done = [name for name, left in self.left.items() if not left]
        for name in done:
            del self.left[name]
        return [(name, answer(self.plans.pop(name))) for name in done]

    def cancel(self, *names: str) -> None:
        for name in names:
            self.cancelled.append(name)
            del self.plans[name], self.left[name]


@dataclass
class Here:
    """A server in this process, on a free port."""

    core: ScriptedCore
    server: Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def here() -> Iterator[list[Here]]:
    """Two servers in this process."""
    both = []
    for _ in range(2):
        core = ScriptedCore()
        both.append(Here(core, serve(core, "127.0.0.1", 0, beat_s=0.05)))
        threading.Thread(target=both[-1].server.serve_forever, args=(0.01,), daemon=True).start()
    yield both
    for one in both:
        one.server.shutdown()
        one.server.server_close()


ALONE = """
import sys
from tests.engines.test_vllm_http import ScriptedCore
from toolkit.engines.vllm_server import serve
server = serve(ScriptedCore(int(sys.argv[2]), sys.argv[3]), "127.0.0.1", int(sys.argv[1]), beat_s=0.05)
print(server.server_port, flush=True)
server.serve_forever(0.01)
"""


class Process:
    """A server in a process of its own, which can be killed."""

    def __init__(self, port: int = 0, steps: int = 2, name: str = "tiny") -> None:
        command = [sys.executable, "-c", ALONE, str(port), str(steps), name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def some_plans(n: int, most: int = 3) -> list[Plan]:
    return [
        Plan(f"{i}-0", (20 + i, 5), (Row(), Row(f"s{i}", {1: np.ones(4, np.float32)})), most=most) for i in range(n)
    ]


def finish(fleet: Fleet) -> dict[str, Outcome | Exception]:
    found = {}
    while some := fleet.poll():
        found.update(some)
    return found


def assert_all_answered(found: dict[str, Outcome | Exception], plans: list[Plan]) -> None:
    assert sorted(found) == sorted(plan.id for plan in plans)
    for plan in plans:
        got = found[plan.id]
        assert isinstance(got, Outcome), got
        assert (got.tokens, got.counts) == (answer(plan).tokens, answer(plan).counts)


# ------------------------------------------------------------------ all is well


def test_plans_are_shared_out_and_each_gets_its_own_answer(here: list[Here]) -> None:
    fleet, plans = Fleet([one.url for one in here], "tiny"), some_plans(40)
    for plan in plans:
        fleet.submit(plan)
    assert_all_answered(finish(fleet), plans)
    assert min(one.core.seen for one in here) >= 10
    assert fleet.poll() == []


def test_two_clients_with_the_same_names_do_not_meet(here: list[Here]) -> None:
    first, second = (Fleet([here[0].url], "tiny") for _ in range(2))
    mine, yours = Plan("1-0", (30,), most=2), Plan("1-0", (60,), most=2)
    first.submit(mine)
    second.submit(yours)
    assert_all_answered(finish(first), [mine])
    assert_all_answered(finish(second), [yours])


def test_a_conversation_stays_with_the_server_that_holds_it(here: list[Here]) -> None:
    fleet = Fleet([one.url for one in here], "tiny")
    tokens, cuts = (40, 41), (2,)
    for turn in range(6):
        plan = Plan(f"{turn}-0", tokens, most=2, cuts=cuts)
        fleet.submit(plan)
        got = finish(fleet)[plan.id]
        tokens, cuts = (*tokens, *got.tokens, 7), (*cuts, len(tokens) + 2, len(tokens) + 3)
    assert sorted(one.core.seen for one in here) == [0, 6]


def test_residuals_come_back_as_they_were(here: list[Here]) -> None:
    fleet = Fleet([here[0].url], "tiny")
    fleet.submit(Plan("1-0", (30,), layers=(1,), positions=(0,)))
    np.testing.assert_array_equal(finish(fleet)["1-0"].residuals, np.full((1, 1, 4), 30, np.float32))


def test_what_a_server_refuses_is_said_as_it_said_it_and_not_asked_again(here: list[Here]) -> None:
    fleet = Fleet([one.url for one in here], "tiny")
    fleet.submit(Plan("1-0", (14,)))
    error = finish(fleet)["1-0"]
    assert isinstance(error, Unsupported) and "no fourteens" in str(error)


def test_a_cancelled_plan_is_cancelled_on_its_server(here: list[Here]) -> None:
    fleet = Fleet([here[0].url], "tiny")
    fleet.submit(Plan("1-0", (15,)))
    other = Plan("2-0", (30,))
    fleet.submit(other)
    assert [name for name, _ in fleet.poll()] == ["2-0"]
    fleet.cancel("1-0", "unknown")
    assert fleet.poll() == []
    until = time.monotonic() + 10
    while not here[0].core.cancelled and time.monotonic() < until:
        time.sleep(0.01)
    assert here[0].core.cancelled and not here[0].core.plans


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


# ------------------------------------------------------------------ refused at the start


def test_a_server_of_another_model_is_refused(here: list[Here]) -> None:
    with pytest.raises(BadInput, match="serves tiny, not llama"):
        Fleet([here[0].url], "llama")


@pytest.mark.parametrize("key", ["digest", "dtype", "versions", "window"])
def test_servers_that_differ_are_refused(here: list[Here], key: str) -> None:
    here[1].core.about[key] = "other"
    with pytest.raises(BadInput, match=f"with {key} other.*must be alike"):
        Fleet([one.url for one in here], "tiny")


def test_a_server_that_is_not_there_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port} does not answer"):
        Fleet([f"http://127.0.0.1:{port}"], "tiny")


def test_a_web_server_that_is_not_ours_is_refused() -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(BadInput, match="is it a selfsteer server"):
            Fleet([f"127.0.0.1:{other.server_port}"], "tiny")
        other.shutdown()


def test_addresses() -> None:
    assert checked("node7:8000") == "http://node7:8000"
    assert checked("https://node7/") == "https://node7"
    for wrong in ("", "ftp://node7", "http://"):
        with pytest.raises(BadInput, match="no address"):
            checked(wrong)
    with pytest.raises(BadInput, match="no server was named"):
        Fleet([], "tiny")


@pytest.mark.parametrize(
    ("path", "body", "status"), [("/plan", b"{}", 400), ("/plan", b"\xff", 400), ("/x", b"{}", 404)]
)
def test_what_is_no_plan_is_refused_and_the_server_lives(here: list[Here], path: str, body: bytes, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", here[0].server.server_port, timeout=10)
    connection.request("POST", path, body)
    assert connection.getresponse().status == status
    connection.close()
    fleet, plans = Fleet([here[0].url], "tiny"), some_plans(1)
    fleet.submit(plans[0])
    assert_all_answered(finish(fleet), plans)


# ------------------------------------------------------------------ plans as bytes, and their salts


def row(digest: str) -> Row:
    return Row(digest, {0: np.full(3, len(digest), np.float32)} if digest else {})


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    digests = ["", *sorted(draw(st.sets(st.sampled_from(["a", "b", "c"]))))]
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    runs, start = [], 0
    for length in lengths:
        if place := draw(st.integers(0, len(digests) - 1)):
            runs.append((start, length, place))
        start += length
    return Plan(
        draw(st.text(max_size=3)),
        tuple(range(start)),
        tuple(map(row, digests)),
        tuple(runs),
        draw(st.integers(0, len(digests) - 1)),
        most=draw(st.integers(1, 4)),
        stream=tuple(draw(st.lists(st.one_of(st.integers(), st.text(max_size=2)), max_size=2))),
        positions=draw(st.one_of(st.none(), st.just((0,)))),
        score=((0, (1, 2)),) if draw(st.booleans()) else (),
    )


def digests(plan: Plan) -> list[str]:
    return [plan.rows[row].digest for row in plan.row_ids()]


@given(plans())
def test_a_plan_survives_the_wire(plan: Plan) -> None:
    again = Plan.from_bytes(plan.to_bytes())
    assert replace(again, rows=()) == replace(plan, rows=())
    assert [r.digest for r in again.rows] == [r.digest for r in plan.rows]
    for one, other in zip(again.rows, plan.rows, strict=True):
        assert {k: v.tolist() for k, v in one.deltas.items()} == {k: v.tolist() for k, v in other.deltas.items()}


def test_an_outcome_survives_the_wire() -> None:
    residuals = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    whole = Outcome((1, 2), "stop", {0: 3, 1: 2}, 1, (-0.1, -0.2), residuals, ((-1.0,), (-2.0, -3.0)))
    again = Outcome.from_json(json.loads(json.dumps(whole.to_json())))
    np.testing.assert_array_equal(again.residuals, residuals)
    assert replace(again, residuals=None) == replace(whole, residuals=None)


@given(plans(), plans())
def test_one_salt_means_one_steering_wherever_both_have_a_token(one: Plan, other: Plan) -> None:
    agree = all(a == b for a, b in zip(digests(one), digests(other), strict=False))
    if salt(one) == salt(other):
        assert agree
    if digests(one) == digests(other):
        assert salt(one) == salt(other)


@given(plans())
def test_a_conversation_whose_steering_stays_keeps_its_salt(plan: Plan) -> None:
    response, end = tuple(range(plan.most)), len(plan.tokens)
    runs = (*plan.runs, (end, plan.most + 2, plan.after)) if plan.after else plan.runs
    later = replace(plan, tokens=(*plan.tokens, *response, 7, 8), runs=runs)
    assert salt(later) == salt(plan)


def test_no_steering_has_no_salt() -> None:
    assert salt(Plan("1", (1, 2, 3), (Row(), row("a")), most=5)) == ""
    assert salt(Plan("1", (1, 2, 3), (Row(), row("a")), ((0, 1, 1),), most=5)) != ""
