"""nnsight and the hosts that run its traces, NDIF's or others: access, a model without weights, jobs on the way.

Knows no steering and no request.
"""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolkit.engines.chat import ChatTokenizer
from toolkit.errors import BadInput, Unreachable, Unsupported, first_line

NDIF = "https://api.ndif.us"
TOO_MANY = 429  # HTTP: asked too often, ask again later


@dataclass
class Sent:
    """One trace on a host: nnsight's handle on it, once it was sent, and since when the host has failed to answer."""

    host: str
    patience_s: float
    handle: Any = None
    silent_since: float | None = None

    def answer(self, send: Callable[[], Any]) -> dict[str, Any] | None:
        """Send the trace, or ask for its answer; None while there is none. A silent host is asked again for a while.

        send: sends it and returns nnsight's handle. Raises Unreachable if the host refuses, fails or stays silent.
        """
        import httpx
        from nnsight.intervention.backends.remote import RemoteError
        from zstandard import ZstdError

        try:
            if self.handle is None:
                self.handle, found, known = send(), None, True
            else:
                self.handle.status = None
                found = self.handle()
                known = self.handle.status is not None  # else it answered that there is no such job
        except (RemoteError, httpx.HTTPError) as error:
            cause = error.__cause__ if isinstance(error, RemoteError) else error
            status = cause.response.status_code if isinstance(cause, httpx.HTTPStatusError) else 500
            if cause is None or (status < 500 and status != TOO_MANY):
                raise Unreachable(f"{self.host} did not run the job: {error}") from error
            self._silent(str(error))
            return None
        except (ValueError, ZstdError, pickle.UnpicklingError) as error:  # what came back is no answer of nnsight's
            raise Unreachable(f"{self.host} answered what cannot be read: {error}") from error
        if not known:
            self._silent("it does not know of the job; it may have been started anew")
            return None
        self.silent_since = None
        if found is None:
            return None
        if not isinstance(found, dict) or "answer" not in found:
            raise Unreachable(f"{self.host} ended the job without an answer; look at its log")
        return dict(found["answer"])

    def _silent(self, why: str) -> None:
        """Wait on, for as long as there is patience."""
        self.silent_since = self.silent_since or time.monotonic()
        waited = time.monotonic() - self.silent_since
        if waited > self.patience_s:
            raise Unreachable(f"{self.host} has not answered for {waited:.0f} s: {why}")


def package() -> Any:
    """nnsight itself. Raises Unsupported if it is not installed.

    Importing it gives every object of the process an attribute `save`, which breaks what looks for one (anyio cannot be
    imported after it). Where nobody else has imported nnsight before, that is taken back: nnsight.save(x) remains.
    """
    ours = "nnsight" not in sys.modules
    try:
        import nnsight
        from nnsight._c import unmount
    except ImportError as error:
        raise Unsupported(f"the nnsight engine needs nnsight: pip install 'selfsteer[nnsight]' ({error})") from error
    if ours and unmount is not None and hasattr(object, "save"):
        unmount("save")
    return nnsight


def address(remote: bool | str, config: Any) -> str:
    """The address of a remote host. Raises BadInput if it is NDIF's and there is no key for it."""
    host = remote if isinstance(remote, str) else str(config.API.HOST)
    if host.startswith(NDIF) and not config.API.APIKEY:
        raise BadInput("NDIF wants a key and none is set; get one at https://login.ndif.us and set NDIF_API_KEY to it")
    config.APP.REMOTE_LOGGING = False  # its status lines would run through the progress display
    return host


def shape(name: str, trust_remote_code: bool) -> tuple[Any, ChatTokenizer]:
    """A model without its weights, which stay where it runs, and its tokenizer. Raises BadInput if it has none."""
    from transformers import AutoTokenizer, GenerationConfig

    nnsight = package()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        own = copy.deepcopy(tokenizer)  # nnsight sets padding on the one that it holds
        model = nnsight.TransformersModel(
            name, tokenizer=own, task="text-generation", trust_remote_code=trust_remote_code
        )
        model.to_model_key()  # asks the hub for the name that a host knows it by
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(
            f"model {name} could not be named to a host: {first_line(error)} Give a hub name that this machine"
            " can look up"
        ) from error
    try:
        eos = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:  # a model may come without this file
        eos = model._module.config.eos_token_id
    return model, ChatTokenizer(tokenizer, eos)


def digest(name: str, config: Any) -> str:
    """Of the name and the configuration: a remote model's weights cannot be seen."""
    text = name + json.dumps(config.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
