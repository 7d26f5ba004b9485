"""Counter-based random streams: every draw is a function of its name, never of what was drawn before it elsewhere.

Knows nothing of who draws. A name is a tuple such as (run seed, condition, rollout, round, purpose).
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(*name: str | int) -> np.random.Generator:
    """A Philox generator keyed by sha256 of `name`; batch size, order and resuming change no draw.

    Parts are length-prefixed and typed, so ("a", "bc") and ("ab", "c"), and 1 and "1", are different streams.
    """
    text = "".join(f"{type(part).__name__}{len(str(part))}:{part}" for part in name)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
