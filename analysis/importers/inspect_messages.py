"""The messages of an Inspect sample as rounds and tool calls with typed outcomes.

Knows no study: which tool steers is for others to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel


class Written(NamedTuple):
    """A tool call: its row of `calls`, its arguments by name, and what it was answered (None: nothing)."""

    row: dict[str, Any]
    given: Mapping[str, Any]
    answer: str | None


class ToolCall(BaseModel):
    id: str = ""
    function: str
    arguments: Any = None
    parse_error: str | None = None


class ToolError(BaseModel):
    type: str = "unknown"
    message: str = ""


class Message(BaseModel):
    role: str
    content: str | list[Any] | None = ""
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    error: ToolError | None = None

    @property
    def text(self) -> str:
        """What was said; reasoning, images and the like are left out."""
        if isinstance(self.content, str):
            return self.content
        parts = [p for p in self.content or () if isinstance(p, dict) and p.get("type") == "text"]
        return "\n".join(str(p.get("text", "")) for p in parts)


def conversation(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[Written]]:
    """Rows of `rounds`, and the calls in them. A round is a message of the assistant; its turn is what went before."""
    rounds: list[dict[str, Any]] = []
    calls: list[Written] = []
    said: list[str] = []
    answers = {m.tool_call_id: m for m in messages if m.role == "tool" and m.tool_call_id}
    for message in messages:
        if message.role == "assistant":
            rounds.append({"round": len(rounds) + 1, "turn": "\n\n".join(said) or None, "response": message.text})
            said = []
            for order, call in enumerate(message.tool_calls or (), 1):
                answer = answers.get(call.id)
                calls.append(_written(len(rounds), order, call, answer))
                if answer is not None:
                    rounds[-1]["results"] = "\n\n".join(filter(None, (rounds[-1].get("results"), answer.text)))
        elif message.role != "system":
            said.append(message.text)
    return rounds, calls


def _written(round: int, order: int, call: ToolCall, answer: Message | None) -> Written:
    outcome, problem = _outcome(call, answer)
    given = call.arguments if isinstance(call.arguments, dict) else {}
    row = {
        "round": round,
        "order": order,
        "verb": call.function,
        "outcome": outcome,
        "problem": problem,
        "text": f"{call.function}({json.dumps(call.arguments, ensure_ascii=False)})",
        "arguments": [str(v) for v in given.values()],
    }
    return Written(row, given, None if answer is None else answer.text)


def _outcome(call: ToolCall, answer: Message | None) -> tuple[str | None, str]:
    """What came of a call, as far as the log says: without an answer nothing is known, and it is NA."""
    if call.parse_error:
        return "malformed", "not_parsed"
    if answer is None:
        return None, "no_answer"
    if answer.error is None:
        return "ok", ""
    if answer.error.type == "parsing":
        missing = re.search(r"\btool\b.*\bnot found\b", answer.error.message, re.IGNORECASE)
        return ("unknown_tool", "no_such_tool") if missing else ("bad_argument", "not_accepted")
    return "refused", answer.error.type
