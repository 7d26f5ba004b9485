"""Servers whose cores are scripted, for the tests of what carries plans over HTTP: in this process, or killable."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.engines.vllm_http import Fleet
from toolkit.engines.vllm_plan import Outcome, Plan, Row, code
from toolkit.engines.vllm_server import Server, serve
from toolkit.errors import SteeringError, Unsupported

ROOT = Path(__file__).parents[2]
ABOUT = {"name": "tiny", "model": "/tiny", "digest": "d", "n_layers": 2, "d_model": 4, "window": 99, "vocabulary": 97}
ABOUT |= {"dtype": "float32", "versions": {}, "code": code()}


def answer(plan: Plan) -> Outcome:
    """What every scripted core makes of a plan: a function of the plan alone."""
    start = sum(plan.tokens) + sum(len(row.digest) for row in plan.rows)
    tokens = tuple((start + i) % 97 for i in range(plan.most))
    counts = Counter(plan.row_ids()[: len(plan.tokens)].tolist())
    residuals = np.full((1, 1, 4), start, np.float32) if plan.layers else None
    return Outcome(tokens, "length", dict(counts), residuals=residuals)


class ScriptedCore:
    """Takes `steps` steps for a plan. A plan of token 13 breaks the step, one of 14 is refused, 15 never ends.

    With one of token 16 a step does not end, with one of 17 it ends by an error that nobody has foreseen. While
    `going` is not set, no step ends.
    """

    def __init__(self, steps: int = 2, name: str = "tiny") -> None:
        self.about = {**ABOUT, "name": name}
        self.steps, self.left, self.plans = steps, {}, {}
        self.cancelled: list[str] = []
        self.seen = 0
        self.released, self.going = threading.Event(), threading.Event()
        self.going.set()

    def submit(self, plan: Plan) -> None:
        if plan.tokens[0] == 14:
            raise Unsupported("no fourteens here")
        self.seen += 1
        self.plans[plan.id], self.left[plan.id] = plan, self.steps

    def step(self) -> list[tuple[str, Outcome | Exception]]:
        time.sleep(0.001)
        self.going.wait()
        if any(plan.tokens[0] == 13 for plan in self.plans.values()):
            self.plans, self.left = {}, {}
            raise SteeringError("a thirteen came")
        if any(plan.tokens[0] == 16 for plan in self.plans.values()):
            self.released.wait()
        if any(plan.tokens[0] == 17 for plan in self.plans.values()):
            raise AttributeError("a seventeen came")
        for name in self.left:
            self.left[name] -= self.plans[name].tokens[0] != 15
        done = [name for name, left in self.left.items() if not left]
        for name in done:
            del self.left[name]
        return [(name, answer(self.plans.pop(name))) for name in done]

    def cancel(self, *names: str) -> None:
        for name in names:
            del self.plans[name], self.left[name]
            self.cancelled.append(name)  # last: who waits for it looks at the plans next


@dataclass
class Here:
    """A server in this process, on a free port."""

    core: ScriptedCore
    server: Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@contextlib.contextmanager
def serving(number: int, **options: Any) -> Iterator[list[Here]]:
    """Servers in this process; options are `serve`'s."""
    some = []
    for _ in range(number):
        core = ScriptedCore()
        some.append(Here(core, serve(core, "127.0.0.1", 0, **{"beat_s": 0.05, **options})))
        threading.Thread(target=some[-1].server.serve_forever, args=(0.01,), daemon=True).start()
    yield some
    for one in some:
        one.core.released.set()
        one.core.going.set()
        one.server.shutdown()
        one.server.server_close()


ALONE = """
import sys
from tests.engines.served import ScriptedCore
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


def until(true: Callable[[], object]) -> None:
    """Wait for what must come, and not for a time in which it should. Fails after a minute without it."""
    last = time.monotonic() + 60
    while not true():
        assert time.monotonic() < last, "it has not come in a minute"
        time.sleep(0.001)


def some_plans(n: int, most: int = 3) -> list[Plan]:
    return [Plan(f"{i}-0", (20 + i, 5), (Row(), Row({1: np.full(4, i, np.float32)})), most=most) for i in range(n)]


def given_up(fleet: Fleet, why: str) -> dict[str, Outcome | Exception]:
    """What comes back of a fleet that loses its patience once it has found out this of a server, however late."""
    until(lambda: any(why in address.why for address in fleet._addresses))
    fleet.patience_s = 0.0
    return finish(fleet)


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
