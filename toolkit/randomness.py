"""Counter-based random streams: every draw is a function of its name, never of what was drawn before it elsewhere.

Knows nothing of who draws. A name is a tuple such as (run seed, condition, rollout, round, purpose).
"""

from __future__ import annotations

import hashlib

import numpy as np

from toolkit.errors import BadInput


def stream(*name: str | int) -> np.random.Generator:
    """A Philox generator keyed by sha256 of `name`; batch size, order and resuming change no draw.

    Parts are length-prefixed and typed, so ("a", "bc") and ("ab", "c"), and 1 and "1", are different streams. A number
    of NumPy names the stream that Python's equal number does.
    """
    plain = [part.item() if isinstance(part, np.generic) else part for part in name]
    text = "".join(f"{type(part).__name__}{len(str(part))}:{part}" for part in plain)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def cycle(n: int, *name: str | int) -> np.ndarray:
    """A random permutation [n] that is one single cycle, so that nothing keeps its place (Sattolo 1986).

    Raises BadInput for fewer than two.
    """
    if n < 2:
        raise BadInput(f"a dictionary of {n} features has no other feature to take; use another arm or view")
    order = stream(*name).permutation(n)
    following = np.empty(n, np.int64)
    following[order] = np.roll(order, -1)
    return following
