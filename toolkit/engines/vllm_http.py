"""Several servers (vllm_server.py) as one: plans go to addresses, and to another one when an address is lost.

Knows plans, outcomes and addresses; no vLLM, steering value or dictionary. A conversation stays with the server that
holds its keys and values, as long as that answers. A lost server costs what it was computing and its cache, no result.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.engines.vllm_client import SAME, Client, StepFailed, Trip, checked
from toolkit.engines.vllm_plan import Outcome, Plan, Vet, code
from toolkit.errors import BadInput, SelfsteerError, Unreachable

REMEMBERED = 65_536  # turns of conversations whose server is remembered
LONGEST_WAIT = 30.0  # seconds until a server that is down is asked again


@dataclass
class Address:
    """One server. busy: plans that it is working at. losses: in a row; each doubles the wait until down_until.

    why: what went wrong last, "" while all is well; a server is vetted anew, by one plan's thread, before it is used
    again. started: the word of the start that was vetted; the server takes no plan that names another one.
    era: how often it was lost, so that all the plans that notice one loss count as one.
    """

    client: Client
    started: str = ""
    busy: int = 0
    losses: int = 0
    down_until: float = 0.0
    why: str = ""
    era: int = 0
    vetting: bool = False

    @property
    def url(self) -> str:
        return self.client.url


class Fleet:
    """Servers of one model. Raises Unreachable for one that does not answer at the start, BadInput for another model.

    silence_s: how long a server may send nothing, not even that it is alive, before it counts as lost.
    slow_s: how long one server may work at one plan before it is asked elsewhere; None for as long as it likes.
    patience_s: how long a plan waits while no server answers. tries: servers that may be lost over one plan.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        model: str,
        *,
        silence_s: float = 30.0,
        slow_s: float | None = None,
        patience_s: float = 600.0,
        tries: int = 4,
    ) -> None:
        if not addresses:
            raise BadInput("no server was named; give at least one address such as http://127.0.0.1:8000")
        self.patience_s, self.tries = patience_s, tries
        self._addresses = [Address(Client(checked(a), silence_s, slow_s)) for a in addresses]
        self.about = self._addresses[0].client.about()
        if model != self.about["name"]:
            raise BadInput(
                f"{self._addresses[0].url} serves {self.about['name']}, not {model}; start a server of {model}, or name"
                " the model that is served"
            )
        if self.about["code"] != code():
            raise BadInput(
                f"{self._addresses[0].url} runs another version of selfsteer than this one ({self.about['code']}, not"
                f" {code()}), and may draw or steer otherwise; bring both to the same one and start it again"
            )
        for address in self._addresses:
            address.started = self._check_same(address)
        self._lock, self._suspects = threading.Condition(), threading.Lock()
        self._trips: dict[str, Trip] = {}
        self._done: queue.Queue[tuple[str, Trip, Outcome | Exception]] = queue.Queue()
        self._homes: dict[bytes, Address] = {}
        self._vets: list[Vet] = []

    # ------------------------------------------------------------------ plans in, outcomes out

    def submit(self, plan: Plan) -> None:
        trip = Trip(plan)
        self._trips[plan.id] = trip
        # a thread that waits must not keep a process alive that has been interrupted
        threading.Thread(target=self._travel, args=(trip,), daemon=True).start()

    def poll(self) -> list[tuple[str, Outcome | Exception]]:
        """Wait until something has come back; [] only when nothing is on its way."""
        while self._trips:
            name, trip, found = self._done.get()
            if self._trips.get(name) is trip:
                del self._trips[name]
                return [(name, found)]
        return []

    def cancel(self, *names: str) -> None:
        """Forget plans; their servers notice that nobody waits any more."""
        for name in names:
            trip = self._trips.pop(name, None)
            if trip is None:
                continue
            trip.cancelled.set()
            if trip.sock is not None:
                with contextlib.suppress(OSError):  # it may have come to its end in this moment
                    trip.sock.shutdown(socket.SHUT_RDWR)

    def vet(self, check: Vet) -> None:
        """Hold every server to a check, now and whenever it comes back from being lost. Raises what the check raises.

        check: takes a function that carries out one plan.
        """
        for address in self._addresses:
            try:
                check(lambda plan, at=address: at.client.ask(at.started, Trip(plan)))  # type: ignore[misc]
            except (Unreachable, ConnectionError) as error:
                raise Unreachable(f"{address.url} was lost while steering was tried on it: {error}") from error
        self._vets.append(check)

    # ------------------------------------------------------------------ on the way

    def _travel(self, trip: Trip) -> None:
        """Put what comes of a plan among the done, whatever comes of it."""
        found: Outcome | Exception = SelfsteerError("a defect in selfsteer; the traceback before this says where")
        try:
            found = self._carried(trip)
        except SelfsteerError as error:
            found = error
        finally:
            self._done.put((trip.plan.id, trip, found))

    def _carried(self, trip: Trip) -> Outcome:
        """Find a server for a plan, and another when that one is lost. Raises Unreachable when there is none left."""
        waiting, lost, broken = time.monotonic(), 0, 0
        while not trip.cancelled.is_set():
            if time.monotonic() - waiting > self.patience_s:
                raise Unreachable(f"no server has answered for {self.patience_s:g} s: {self._reasons()}")
            if lost >= self.tries:
                raise Unreachable(f"{lost} servers were lost over one request: {self._reasons()}")
            # of plans that were twice in a step that failed, one may be why: they go one by one
            with self._suspects if broken >= 2 else contextlib.nullcontext():
                outcome = self._tried(trip)
            if isinstance(outcome, Outcome):
                return outcome
            if isinstance(outcome, Unreachable):
                waiting, lost, broken = time.monotonic(), lost + 1, broken + isinstance(outcome, StepFailed)
        raise Unreachable("nobody waits for this request any more")

    def _tried(self, trip: Trip) -> Outcome | Unreachable | None:
        """The outcome of a plan, or how a server was lost over it, or None if no server has taken it."""
        found = self._home(trip.plan)
        if found is None:
            return None
        address, era, vetting = found
        try:
            if vetting:
                self._welcome(address)
            outcome = address.client.ask(address.started, trip)
            self._settle(address, trip.plan, outcome)
            return outcome
        except (Unreachable, ConnectionError) as error:
            if not trip.cancelled.is_set():  # else it was this side that hung up
                self._lose(address, era, str(error))
            return error if isinstance(error, Unreachable) else None
        finally:
            with self._lock:
                address.busy -= 1
                address.vetting = address.vetting and not vetting

    def _home(self, plan: Plan) -> tuple[Address, int, bool] | None:
        """The server of this conversation, else the least busy one; None, after a moment, if all are down.

        With it its era, and whether it was lost: then this plan, and no other, sees whether it is what it was.
        """
        with self._lock:
            now = time.monotonic()
            up = [a for a in self._addresses if a.down_until <= now and not a.vetting]
            if not up:
                soonest = min((a.down_until for a in self._addresses if not a.vetting), default=now + 1)
                self._lock.wait(min(1.0, max(0.01, soonest - now)))
                return None
            known = (self._homes.get(key) for key in reversed(keys(plan.tokens, plan.cuts)))
            address = next((a for a in known if a in up), None) or min(up, key=lambda a: a.busy)
            address.busy += 1
            address.vetting = bool(address.why)
            return address, address.era, address.vetting

    def _welcome(self, address: Address) -> None:
        """See that a server that was lost is what it was. Raises ConnectionError if it is not, or not yet."""
        try:
            started = self._check_same(address)
            for check in list(self._vets):
                check(lambda plan: address.client.ask(started, Trip(plan)))
        except SelfsteerError as error:
            raise ConnectionError(str(error)) from error
        with self._lock:
            address.started, address.why, address.losses, address.vetting = started, "", 0, False
            self._lock.notify_all()

    def _lose(self, address: Address, era: int, why: str) -> None:
        """Leave a server alone for a while; `era` says which loss this is, which others may have noticed too."""
        with self._lock:
            if era != address.era:
                return
            address.era += 1
            address.losses += 1
            address.why = why or "it was lost"
            address.down_until = time.monotonic() + min(LONGEST_WAIT, 0.25 * 2**address.losses)

    def _settle(self, address: Address, plan: Plan, outcome: Outcome) -> None:
        """Remember where this conversation's keys and values are."""
        tokens = (*plan.tokens, *outcome.tokens)
        with self._lock:
            self._homes[keys(tokens, (len(tokens),))[0]] = address
            if len(self._homes) > REMEMBERED:
                del self._homes[next(iter(self._homes))]

    def _reasons(self) -> str:
        said = [f"{a.url}: {a.why}" for a in self._addresses if a.why]
        return "; ".join(said or ["nothing is known of why"]) + "; start them again and resume the run"

    def _check_same(self, address: Address) -> str:
        """The word of this start. Raises BadInput if a server is not the same as the first one was at the start."""
        about = address.client.about()
        for key in SAME:
            if about[key] != self.about[key]:
                raise BadInput(
                    f"{address.url} serves {about['name']} with {key} {about[key]}, the first server"
                    f" {self.about['name']} with {self.about[key]}; the servers of one run must be alike"
                )
        return str(about["started"])


def keys(tokens: Sequence[int], cuts: Sequence[int]) -> list[bytes]:
    """Hashes of the tokens up to each cut."""
    sha, whole, found, last = hashlib.sha256(), np.array(tokens, np.int64), [], 0
    for cut in cuts:
        sha.update(whole[last:cut].tobytes())
        found.append(sha.digest())
        last = cut
    return found
