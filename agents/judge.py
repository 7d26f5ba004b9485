"""A second coder: a model reads a transcript, blind to its condition, and gives one code of a closed list.

Knows no engine and no file of results. What the judge answers is untrusted text: what cannot be read is unscored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from agents.transcript import Response, Transcript, Turn
from toolkit.context import Context
from toolkit.engines.base import Completion, Generate, Result, Sampling, Tokenizer
from toolkit.errors import BadInput

QUESTIONS = Path(__file__).parent / "questions"
FIELDS = {"rollout": {"rounds"}, "fact": {"rounds", "fact"}}
_CODE = re.compile(r"^\W*code\W*:\W*([^\n]{1,80}?)\W*$", re.IGNORECASE | re.MULTILINE)
_ROUND = re.compile(r"^\W*round\W*:\W*(\d{1,6}|none)\b", re.IGNORECASE | re.MULTILINE)


class Question(BaseModel):
    """What a judge is asked, out of one file of agents/questions/. per: one answer a rollout, or one a fact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str
    version: int
    codes: tuple[str, ...]
    per: Literal["rollout", "fact"]
    instructions: str
    item: str
    answer: str

    @field_validator("codes")
    @classmethod
    def _told_apart(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(codes)) != len(codes) or len(codes) < 2 or any(c != c.strip().lower() for c in codes):
            raise ValueError("codes are two or more different words in small letters")
        return codes


@dataclass(frozen=True)
class Verdict:
    """What a judge said about one item. code: one of the question's, or None: unscored, and why in `problem`."""

    code: str | None
    round: int | None
    problem: str
    text: str


def load_question(name: str) -> Question:
    """The question of that name. Raises BadInput naming those that there are, or what is wrong with its file."""
    path = QUESTIONS / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in QUESTIONS.glob("*.yaml")))
        raise BadInput(f"there is no question {name!r}; use one of {there}")
    text = path.read_text(encoding="utf-8")
    try:
        return Question(name=name, digest=hashlib.sha256(text.encode()).hexdigest()[:16], **yaml.safe_load(text))
    except (ValidationError, TypeError, yaml.YAMLError) as error:
        raise BadInput(f"{path.name} is no question: {error}") from error


def asked(question: Question, transcript: Transcript, fact: str = "") -> str:
    """The whole prompt for one item. It holds what was said and nothing of condition, framing, arm or steering.

    User turns carry tool results as the model saw them, so labels show where the model was shown labels.
    """
    fields = {"rounds": _rounds(transcript, turns=question.per == "rollout"), "fact": fact}
    wanted = {key: fields[key] for key in FIELDS[question.per]}
    return "\n\n".join((question.instructions.strip(), _filled(question.item, wanted).strip(), question.answer.strip()))


def verdict(question: Question, text: str) -> Verdict:
    """Read a judge's answer; the last code in it counts. Never raises: what is no code of the question is unscored."""
    found = _CODE.findall(text)
    if not found:
        return Verdict(None, None, "no line with a code", text)
    code = " ".join(found[-1].lower().split())
    if code not in question.codes:
        return Verdict(None, None, f"{code!r} is no code of {question.name}", text)
    rounds = _ROUND.findall(text)
    number = int(rounds[-1]) if rounds and rounds[-1].isdigit() else None
    return Verdict(code, number, "", text)


Judging = Generator[Generate, Result, Verdict]


def judging(question: Question, prompt: str, tokenizer: Tokenizer, window: int, most_tokens: int = 64) -> Judging:
    """Ask one item of a model behind an engine: yields the request, is sent its Completion, returns the verdict.

    Greedy. A prompt that does not fit the judge's window is unscored, not cut: a cut one would be another item.
    """
    context = Context().append(tokenizer.opening("", prompt))
    if len(context) + most_tokens > window:
        return Verdict(None, None, f"{len(context)} tokens do not fit the judge's window of {window}", "")
    completion = yield Generate(context, Sampling(temperature=0.0, max_tokens=most_tokens))
    if not isinstance(completion, Completion):
        return Verdict(None, None, f"the judge's engine answered with {type(completion).__name__}", "")
    return verdict(question, tokenizer.decode(completion.tokens))


def items(
    question: Question, transcripts: Iterable[Transcript], facts: Callable[[Transcript], Mapping[str, str]]
) -> list[tuple[Transcript, str, str]]:
    """(transcript, item, fact): what is to be judged. The item is "" for a question per rollout, else a fact's id."""
    if question.per == "rollout":
        return [(t, "", "") for t in transcripts]
    return [(t, name, text) for t in transcripts for name, text in facts(t).items()]


def _rounds(transcript: Transcript, turns: bool) -> str:
    parts = []
    for event in transcript.events:
        if isinstance(event, Turn) and turns:
            parts.append(f"[round {event.round}] user:\n{_quoted(event.text)}")
        elif isinstance(event, Response):
            parts.append(f"[round {event.round}] assistant:\n{_quoted(event.text)}")
    return "\n\n".join(parts)


def _quoted(text: str) -> str:
    """Each line behind a mark, so that no line of a transcript can pass for one of ours."""
    return "\n".join(f"| {line}" for line in text.splitlines())


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Put in by name, once: braces in a transcript stay what they are."""
    return re.sub(r"\{(\w+)\}", lambda m: values[m[1]], template)
