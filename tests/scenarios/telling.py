"""What a reviewer reads: a rollout's conversation as text, held against snapshots/.

After a wanted change: SNAPSHOTS=write pytest, and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

from agents.transcript import External, Response, Transcript, Turn

SNAPSHOTS = Path(__file__).parent / "snapshots"


def conversation(record: Transcript) -> str:
    """Every word that the model was told, and what it said, with what the experimenter did between."""
    lines = [f"SYSTEM\n{record.start.framing.system}"]
    for event in record.events:
        if isinstance(event, Turn | Response):
            lines.append(f"{'USER' if isinstance(event, Turn) else 'MODEL'} {event.round}\n{event.text}")
        elif isinstance(event, External):
            lines.append(f"EXPERIMENTER {event.round}\n{event.why}: {event.after.to_json()}")
    return "\n\n".join(lines) + "\n"


def seen_before(name: str, text: str) -> bool:
    """Is `text` what snapshots/NAME.txt holds? SNAPSHOTS=write renews the file first."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("SNAPSHOTS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return text == path.read_text(encoding="utf-8")
