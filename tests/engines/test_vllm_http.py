"""Plans over HTTP: shared out, refused, and what is no plan. No vLLM: the cores are scripted (served.py).

Servers that are lost are in test_vllm_lost.py; what is served over HTTP for real is in test_vllm.py.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.served import ABOUT, Here, assert_all_answered, finish, some_plans, until
from toolkit.engines import vllm_client, vllm_http
from toolkit.engines.vllm_client import checked
from toolkit.engines.vllm_http import Fleet
from toolkit.engines.vllm_plan import LARGEST, Outcome, Plan, Row, pack, received
from toolkit.errors import BadInput, Unreachable, Unsupported

# ------------------------------------------------------------------ all is well


def test_plans_are_shared_out_and_each_gets_its_own_answer(here: list[Here]) -> None:
    fleet, plans = Fleet([one.url for one in here], "tiny"), some_plans(40)
    for one in here:
        one.core.going.clear()
    for plan in plans:
        fleet.submit(plan)
    until(lambda: sum(address.busy for address in fleet._addresses) == 40)
    for one in here:
        one.core.going.set()
    assert_all_answered(finish(fleet), plans)
    assert [one.core.seen for one in here] == [20, 20]
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


def test_of_servers_that_hold_parts_of_a_conversation_the_one_with_most_is_asked(here: list[Here]) -> None:
    fleet = Fleet([one.url for one in here], "tiny")
    for address, tokens in zip(fleet._addresses, [(40, 41), (40, 41, 42)], strict=True):
        fleet._settle(address, Plan("1-0", tokens), Outcome((), "stop", {}))
    found = fleet._home(Plan("2-0", (40, 41, 42, 43), cuts=(2, 3, 4)))
    assert found is not None and found[0] is fleet._addresses[1]


def test_of_more_turns_than_are_remembered_the_oldest_are_forgotten(here: list[Here], monkeypatch) -> None:
    monkeypatch.setattr(vllm_http, "REMEMBERED", 3)
    fleet = Fleet([here[0].url], "tiny")
    for token in range(9):
        fleet._settle(fleet._addresses[0], Plan("1-0", (token,)), Outcome((), "stop", {}))
    assert list(fleet._homes) == [vllm_http.keys((token,), (1,))[0] for token in (6, 7, 8)]


def test_what_was_cancelled_does_not_answer_for_another_of_its_name(here: list[Here]) -> None:
    fleet = Fleet([here[0].url], "tiny")
    fleet.submit(Plan("1-0", (15,)))
    until(lambda: here[0].core.seen == 1)
    fleet.cancel("1-0")
    until(lambda: fleet._done.qsize() == 1)
    plan = Plan("1-0", (30,), most=2)
    fleet.submit(plan)
    assert_all_answered(finish(fleet), [plan])


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
    until(lambda: here[0].core.seen == 2)
    fleet.cancel("1-0", "unknown")
    assert fleet.poll() == []
    until(lambda: here[0].core.cancelled)
    assert not here[0].core.plans


# ------------------------------------------------------------------ refused at the start


def test_a_server_of_another_model_is_refused(here: list[Here]) -> None:
    with pytest.raises(BadInput, match="serves tiny, not llama"):
        Fleet([here[0].url], "llama")


def test_a_server_of_another_version_of_selfsteer_is_refused(here: list[Here]) -> None:
    here[0].core.about["code"] = "older"
    with pytest.raises(BadInput, match="another version of selfsteer"):
        Fleet([here[0].url], "tiny")


@pytest.mark.parametrize("key", ["digest", "dtype", "versions", "window"])
def test_servers_that_differ_are_refused(here: list[Here], key: str) -> None:
    here[1].core.about[key] = "other"
    with pytest.raises(BadInput, match=f"with {key} other.*must be alike"):
        Fleet([one.url for one in here], "tiny")


def test_a_server_that_is_not_there_is_refused() -> None:
    with socket.socket() as deaf:  # bound and not listening: nobody else can take the port meanwhile
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
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
    for wrong in ("", "ftp://node7", "http://", "node7:99999", "node7:x", "http://node7/models"):
        with pytest.raises(BadInput, match="no address"):
            checked(wrong)
    with pytest.raises(BadInput, match="no server was named"):
        Fleet([], "tiny")


def posted(here: Here, path: str, body: bytes, size: int | None = None) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", here.server.server_port, timeout=60)
    connection.request("GET", "/about")
    started = json.loads(connection.getresponse().read())["started"]
    connection.close()
    connection.request("POST", path, body, {"If-Match": started, "Content-Length": str(size or len(body))})
    response = connection.getresponse()
    found = json.loads(response.read()) if response.status == 200 else {}
    connection.close()
    return response.status, found


PLAN = Plan(
    "1-0", (20, 5), (Row(), Row({1: np.ones(4, np.float32)})), ((0, 1, 1),), stream=("a", 1), score=((0, (3,)),)
)
WRONG: list[dict[str, Any]] = [
    {"tokens": [], "runs": [], "score": []},
    {"tokens": ["20"]},
    {"tokens": [97]},
    {"tokens": [1.0]},
    {"most": 98},
    {"most": 0},
    {"after": 2},
    {"runs": [[0, 3, 1]]},
    {"runs": [[0, 1, 2]]},
    {"runs": [[-1, 1, 1]]},
    {"runs": [[1, 2, 1]]},
    {"rows": []},
    {"rows": [{}]},
    {"rows": [[{"1": pack(np.ones(4))}, {}], [{"1": pack(np.ones(4))}, {}]]},
    {"rows": [[{}, {}], [{"2": pack(np.ones(4))}, {}]]},
    {"rows": [[{}, {}], [{"1": pack(np.ones(3))}, {}]]},
    {"rows": [[{}, {}], [{"1": pack(np.full(4, np.nan))}, {}]]},
    {"rows": [[{}, {}], [{"1": "gASVBQAAAAAAAABLAS4="}, {}]]},
    {"rows": [[{}, {}], [{"1": pack(np.ones(4))}, {"1": pack(np.ones(6))}]]},
    {"rows": [[{}, {}], [{"1": pack(np.ones(4))}, {"0": pack(np.ones(4))}]]},
    {"rows": [[{}, {}], [{"1": pack(np.ones(4))}, {"1": pack(np.full(4, np.nan))}]]},
    {"stops": ["20"]},
    {"layers": [2]},
    {"positions": [2]},
    {"score": [[2, [3]]]},
    {"score": [[0, [97]]]},
    {"temperature": "hot"},
    {"temperature": float("nan")},
    {"top_p": 0},
    {"stream": [None]},
    {"anew": "yes"},
    {"unknown": 1},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_plan_that_would_break_the_step_of_others_is_refused(here: list[Here], wrong: dict[str, Any]) -> None:
    status, found = posted(here[0], "/plan", json.dumps({**json.loads(PLAN.to_bytes()), **wrong}).encode())
    assert status == 200 and found["error"]["kind"] == "BadInput" and "version" in found["error"]["message"]
    assert not here[0].core.seen


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2), st.lists, max_leaves=4
)


@given(st.sampled_from([*vars(PLAN)]), ANYTHING)
def test_nothing_that_comes_over_the_wire_is_more_than_a_plan_or_bad_input(name: str, value: Any) -> None:
    with contextlib.suppress(BadInput):
        plan = received(json.dumps({**json.loads(PLAN.to_bytes()), name: value}).encode(), ABOUT)
        assert plan.row_ids().max() < len(plan.rows) and len(plan.row_ids()) <= ABOUT["window"]


@pytest.mark.parametrize("body", [b"{}", b"\xff", b"[]", b"7", b"[" * 10_000, b"\x80\x04K\x01."])
def test_what_is_no_plan_is_refused_and_the_server_lives(here: list[Here], body: bytes) -> None:
    status, found = posted(here[0], "/plan", body)
    assert status == 200 and "this is no plan" in found["error"]["message"]
    fleet, plans = Fleet([here[0].url], "tiny"), some_plans(1)
    fleet.submit(plans[0])
    assert_all_answered(finish(fleet), plans)


def test_other_requests_are_refused(here: list[Here]) -> None:
    assert posted(here[0], "/x", b"{}")[0] == 404
    assert posted(here[0], "/plan", b"{}", LARGEST + 1)[0] == 413


def test_a_request_that_no_server_takes_is_refused_where_it_is_made(here: list[Here], monkeypatch) -> None:
    monkeypatch.setattr(vllm_client, "LARGEST", 100)
    fleet = Fleet([here[0].url], "tiny")
    fleet.submit(PLAN)
    error = finish(fleet)[PLAN.id]
    assert isinstance(error, BadInput) and "steer at fewer layers" in str(error)


@pytest.mark.parametrize(
    "said", [b"[1]", b"{}", b'{"error": {}}', b'{"outcome": {"tokens": [1]}}', b'{"outcome": 3}', b'{"outcome": {"tok']
)
def test_an_answer_that_is_none_is_a_lost_server(here: list[Here], monkeypatch, said: bytes) -> None:
    def says(self: Any) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._begin()
        self.wfile.write(said)

    monkeypatch.setattr(here[0].server.RequestHandlerClass, "do_POST", says)
    fleet = Fleet([here[0].url], "tiny", tries=1)
    fleet.submit(PLAN)
    assert isinstance(finish(fleet)[PLAN.id], Unreachable)
