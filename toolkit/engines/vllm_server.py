"""A server of one vLLM engine: `python -m toolkit.engines.vllm_server --model NAME --port 8000`.

Knows plans and outcomes; no steering value, dictionary or conversation. It is not `vllm serve`, because that answers
with text: its reply has no room for how many tokens were steered or for the residuals of the response, and vllm-lens'
own reply holds those of every token and forbids the prefix cache. The engine, and with it every guard, is the same
code as in one process (vllm_core.py); this file only carries bytes.

    GET  /about   what is served: model, digest, sizes, versions, and `started`, another word each time it is started
    POST /plan    one plan as JSON; answers with spaces while it works, then {"outcome": ...} or {"error": ...}.
                  Its header If-Match says which start it is for; after another one, 412 and nothing is computed
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from toolkit import errors
from toolkit.engines.vllm_plan import LARGEST, Outcome, Plan, received

BROKEN = 3  # the exit status of a server whose engine failed; start it again
STUCK_S = 600.0  # a step that takes longer is not believed to end


class Steps(Protocol):
    """What is served: vllm_core.Core."""

    about: dict[str, Any]

    def submit(self, plan: Plan) -> None: ...

    def step(self) -> list[tuple[str, Outcome | Exception]]: ...

    def cancel(self, *names: str) -> None: ...


class Service:
    """One thread that steps the engine, and many that wait for their plan's outcome. New plans join between steps.

    broken: called when a step has failed, or has not ended after stuck_s seconds. What was in flight is then lost here
    and sent elsewhere by those who asked.
    """

    def __init__(self, core: Steps, broken: Any = lambda: None, stuck_s: float = STUCK_S) -> None:
        self.core, self.broken, self.stuck_s = core, broken, stuck_s
        self.started = secrets.token_hex(8)
        self._stepping_since: float | None = None
        self._orders: queue.Queue[tuple[str, Plan | None, queue.Queue[Outcome | Exception]]] = queue.Queue()
        self._waiting: dict[str, queue.Queue[Outcome | Exception]] = {}
        self._count, self._lock = 0, threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, plan: Plan) -> tuple[str, queue.Queue[Outcome | Exception]]:
        """Its name here, under which two clients' plans are apart, and where its outcome will be put."""
        with self._lock:
            self._count += 1
            name = str(self._count)
        answer: queue.Queue[Outcome | Exception] = queue.Queue()
        self._orders.put((name, replace(plan, id=name), answer))
        return name, answer

    def cancel(self, name: str) -> None:
        self._orders.put((name, None, queue.Queue()))

    @property
    def about(self) -> dict[str, Any]:
        return {**self.core.about, "started": self.started}

    def failed(self) -> str:
        """Why nothing more is to be expected of the engine; "" while it is at work."""
        since = self._stepping_since
        if not self._thread.is_alive():
            return "the server's engine ended by an error of its own; its log says which"
        if since is not None and time.monotonic() - since > self.stuck_s:
            return f"the server's engine has been at one step for more than {self.stuck_s:g} s"
        return ""

    def _run(self) -> None:
        try:
            while True:
                self._take()
                self._step()
        finally:  # an error that nobody has foreseen: without this, those who wait would do so for ever
            self.broken()

    def _step(self) -> None:
        self._stepping_since = time.monotonic()
        try:
            for name, found in self.core.step():
                self._waiting.pop(name).put(found)
        except errors.SteeringError as error:
            self.started = secrets.token_hex(8)  # before anybody hears: who asks again asks what this is now
            for answer in self._waiting.values():
                answer.put(errors.Unreachable(str(error)))
            self._waiting = {}
            self.broken()
        finally:
            self._stepping_since = None

    def _take(self) -> None:
        """Take all orders that are there; wait for one if there is nothing else to do."""
        while not self._waiting or not self._orders.empty():
            name, plan, answer = self._orders.get()
            if plan is None:
                if self._waiting.pop(name, None) is not None:
                    self.core.cancel(name)
                continue
            try:
                self.core.submit(plan)
            except errors.SelfsteerError as error:
                answer.put(error)
            else:
                self._waiting[name] = answer


def handler(service: Service, beat_s: float) -> type[BaseHTTPRequestHandler]:
    """What answers requests over HTTP, as the top of this file says, for one service. beat_s: as in `serve`."""

    class Handler(BaseHTTPRequestHandler):
        """One request a connection. Its end is the end of the answer, and half an answer is none."""

        timeout = 60  # seconds that a client may be silent in the middle of a request

        def do_GET(self) -> None:
            if self.path != "/about":
                self.send_error(404)
                return
            self._begin()
            self.wfile.write(json.dumps(service.about).encode())

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if self.path != "/plan" or not size.isdigit() or int(size) > LARGEST:
                self.send_error(404 if self.path != "/plan" else 413)
                return
            data = self.rfile.read(int(size))
            if self.headers.get("If-Match") != service.started:
                self.send_error(412)
                return
            self._begin()
            try:
                name, answer = service.submit(received(data, service.about))
            except errors.BadInput as error:
                self.wfile.write(json.dumps(reply(error)).encode())
                return
            try:
                found = self._wait(answer)
                self.wfile.write(json.dumps(reply(found)).encode())
            except OSError:  # whoever asked is gone
                service.cancel(name)

        def _begin(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()

        def _wait(self, answer: queue.Queue[Outcome | Exception]) -> Outcome | Exception:
            while True:
                try:
                    return answer.get(timeout=beat_s)
                except queue.Empty:
                    if why := service.failed():
                        service.broken()
                        return errors.Unreachable(why)
                    self.wfile.write(b" ")  # alive and at work; blanks before JSON mean nothing
                    self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def reply(found: Outcome | Exception) -> dict[str, Any]:
    """The JSON of an answer; an error by the name of its class, which vllm_client.py turns back into it."""
    if isinstance(found, Outcome):
        return {"outcome": found.to_json()}
    return {"error": {"kind": type(found).__name__, "message": str(found)}}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # as many rollouts may ask in the same moment


def serve(
    core: Steps, host: str, port: int, beat_s: float = 5.0, broken: Any = None, stuck_s: float = STUCK_S
) -> Server:
    """A server on an address, not yet running; port 0 takes a free one. `serve_forever()` runs it.

    beat_s: how often it says that it is alive. broken, stuck_s: see Service.
    """
    return Server((host, port), handler(Service(core, broken or (lambda: None), stuck_s), beat_s))


def main(arguments: Sequence[str] | None = None) -> None:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m toolkit.engines.vllm_server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="hub name or folder; `organism`, the small one that ships here")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; nobody is asked who they are")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs that share each layer")
    parser.add_argument("--pipeline-parallel", type=int, default=1, help="groups of layers, each on its own GPUs")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=JSON", help="any of vLLM's EngineArgs, repeated"
    )
    chosen = parser.parse_args(arguments)
    from toolkit import organism
    from toolkit.engines.vllm_core import Core

    options = {name: json.loads(value) for name, _, value in (o.partition("=") for o in chosen.option)}
    core = Core(
        str(organism.MODEL) if chosen.model == "organism" else chosen.model,
        name="organism" if chosen.model == "organism" else None,
        dtype=chosen.dtype,
        tensor_parallel=chosen.tensor_parallel,
        pipeline_parallel=chosen.pipeline_parallel,
        **options,
    )
    # after a broken step the engine's memory is not to be trusted: those who wait get their answer, then it is over
    server = serve(core, chosen.host, chosen.port, broken=lambda: threading.Timer(1.0, os._exit, (BROKEN,)).start())
    print(f"serving {core.about['name']} at http://{chosen.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
