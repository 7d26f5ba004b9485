"""How much a model is told about its tools, apart from the story and the names: three depths of any framing.

Knows no engine and no scenario. A depth is a framing made from a framing; its digest says so.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import yaml

from agents.framing import Framing
from toolkit.errors import BadInput

Depth = Literal["signatures", "lines", "mechanics"]
DEPTHS: tuple[Depth, ...] = get_args(Depth)
TEXTS = Path(__file__).with_name("depths.yaml")


def documented(framing: Framing, depth: str) -> Framing:
    """The framing with its tools documented by signatures alone, by a line each (as its file has it), or by a line
    each and a paragraph on what steering does. Raises BadInput for another depth, or a framing without tools.
    """
    if depth not in DEPTHS:
        raise BadInput(f"documentation depth {depth!r} is unknown; use one of {', '.join(DEPTHS)}")
    if not framing.tools:
        raise BadInput(f"framing {framing.name} offers no tools, so there is nothing to document; leave it out")
    theme, narrative = framing.theme, framing.narrative
    if depth == "lines":
        return framing
    if depth == "signatures":
        docs = {verb: doc[: doc.index(") ") + 1] for verb, doc in theme.docs.items()}
        theme = theme.model_copy(update={"docs": docs})
    else:
        narrative = narrative.replace("{docs}", "{docs}\n\n" + _texts()["mechanics"].strip())
    told = hashlib.sha256("\0".join((framing.digest, depth, TEXTS.read_text(encoding="utf-8"))).encode())
    return replace(framing, theme=theme, narrative=narrative, digest=told.hexdigest()[:16])


def _texts() -> dict[str, str]:
    found = yaml.safe_load(TEXTS.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or set(found) != {"mechanics"}:
        raise BadInput(f"{TEXTS.name} must hold the text mechanics and nothing else")
    return found
