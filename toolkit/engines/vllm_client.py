"""One server of plans (vllm_server.py), asked over HTTP.

Knows plans and outcomes; of other servers, of what was lost and of trying again it knows nothing.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from toolkit import errors
from toolkit.engines.vllm_plan import LARGEST, Outcome, Plan
from toolkit.errors import BadInput, SelfsteerError, Unreachable

SAME = ("name", "digest", "n_layers", "d_model", "window", "vocabulary", "dtype", "versions", "code")
KINDS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SelfsteerError)
}


@dataclass
class Trip:
    """A plan on its way: the socket that it waits on, and whether nobody wants it any more."""

    plan: Plan
    sock: socket.socket | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


class NotTaken(ConnectionError):
    """A server that is there and has not taken the plan."""


class StepFailed(Unreachable):
    """A server that says that its engine has failed at this plan, or at another one beside it."""


@dataclass(frozen=True)
class Client:
    """The way to one server. silence_s, slow_s: see Fleet."""

    url: str
    silence_s: float
    slow_s: float | None = None

    def ask(self, started: str, trip: Trip) -> Outcome:
        """Carry out a plan on one server, if it is still the one that was started under this word.

        Raises ConnectionError if it did not take the plan, Unreachable if it was lost over it, and what the server
        raised, which no other server would do otherwise.
        """
        data = trip.plan.to_bytes()
        if len(data) > LARGEST:
            raise BadInput(
                f"a request takes {len(data)} bytes, a server {LARGEST}; steer at fewer layers, or more rarely"
            )
        connection = self._connection()
        try:
            try:
                connection.connect()
                trip.sock = connection.sock
                if trip.cancelled.is_set():
                    raise Unreachable("nobody waits for this request any more")
                connection.request("POST", "/plan", data, {"If-Match": started})
            except OSError as error:
                raise ConnectionError(f"it does not answer ({error})") from error
            found = self._answer(connection)
        finally:
            connection.close()
        try:
            if "error" not in found:
                return Outcome.from_json(found["outcome"])
            kind, message = str(found["error"]["kind"]), f"{self.url}: {found['error']['message']}"
        except (KeyError, TypeError, ValueError) as error:
            raise Unreachable(f"its answer is none of a selfsteer server of this version ({error!r})") from error
        raise {**KINDS, "Unreachable": StepFailed}.get(kind, errors.SteeringError)(message)

    def _answer(self, connection: http.client.HTTPConnection) -> dict[str, Any]:
        """The JSON that a server sends in its own time; blanks before it say that the server is alive."""
        began, parts = time.monotonic(), []
        try:
            response = connection.getresponse()
            if response.status == http.HTTPStatus.PRECONDITION_FAILED:
                raise NotTaken("it was started anew")
            if response.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:  # a proxy that does not reach it, say
                raise NotTaken(f"it answers {response.status} {response.reason}")
            if response.status != http.HTTPStatus.OK:
                raise BadInput(f"the server refused it: {response.status} {response.reason}; is it a selfsteer server?")
            while part := response.read1(2**20):
                parts.append(part)
                if self.slow_s is not None and time.monotonic() - began > self.slow_s:
                    raise Unreachable(f"it has worked at one request for {self.slow_s:g} s")
            found = json.loads(b"".join(parts))
            if not isinstance(found, dict):
                raise ValueError("no object")
            return found
        except NotTaken:
            raise
        except TimeoutError as error:
            raise Unreachable(f"it has been silent for {self.silence_s:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"its answer broke off ({type(error).__name__})") from error

    def about(self) -> dict[str, Any]:
        """Raises Unreachable if it does not answer."""
        connection = self._connection()
        try:
            connection.request("GET", "/about")
            about = self._answer(connection)
            if lacking := {*SAME, "started"} - set(about):
                raise BadInput(f"{self.url} does not say its {min(lacking)}; is it a selfsteer server of this version?")
            return about
        except OSError as error:
            raise Unreachable(
                f"the server {self.url} does not answer ({error}); start it with"
                " `python -m toolkit.engines.vllm_server`, or leave it out"
            ) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(str(parts.hostname), parts.port, timeout=self.silence_s)


def checked(address: str) -> str:
    """Raises BadInput for what is no address of a server."""
    parts = urlsplit(address if "//" in address else f"http://{address}")
    try:
        right = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port or 1)
            and not parts.path.strip("/")
        )
    except ValueError:  # a port that is no number, or too large
        right = False
    if not right:
        raise BadInput(f"{address!r} is no address of a server; use one such as http://127.0.0.1:8000")
    return parts.geturl().rstrip("/")
