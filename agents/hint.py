"""Whether a model is told that its tools may help: a full hint, a minimal one or none, after any framing.

Knows no engine and no scenario. A hint is a framing made from a framing; its digest says so.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import yaml

from agents.framing import Framing
from toolkit.errors import BadInput

Hint = Literal["full", "minimal", "none"]
HINTS: tuple[Hint, ...] = get_args(Hint)
TEXTS = Path(__file__).with_name("hints.yaml")


def hinted(framing: Framing, hint: str) -> Framing:
    """The framing with a hint at the end of its narrative; "none" leaves it as it is, and so do framings without tools.

    Raises BadInput for a hint that is none of HINTS.
    """
    if hint not in HINTS:
        raise BadInput(f"hint {hint!r} is unknown; use one of {', '.join(HINTS)}")
    if hint == "none" or not framing.tools:
        return framing
    text = _texts()[hint].strip()
    digest = hashlib.sha256("\0".join((framing.digest, hint, text)).encode()).hexdigest()[:16]
    return replace(framing, narrative=f"{framing.narrative.rstrip()}\n\n{text}\n", digest=digest)


def _texts() -> dict[str, str]:
    found = yaml.safe_load(TEXTS.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or set(found) != set(HINTS) - {"none"}:
        raise BadInput(f"{TEXTS.name} must hold the hints full and minimal and nothing else")
    return found
