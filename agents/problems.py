"""Problems with answers that a program can check, and which of them a model fails: texts in, requests out.

Knows no scenario and no engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from agents.grading import right
from agents.parse import parse_all, prose
from agents.script import Agent
from toolkit.context import Context
from toolkit.engines.base import Completion, Generate
from toolkit.errors import BadInput


class Problem(BaseModel):
    """One question. Right: its answer ends with `number`, or has one of `accept` as whole words (see grading.right)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    accept: tuple[str, ...] = ()
    number: float | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Problem:
        if bool(self.accept) == (self.number is not None):
            raise ValueError(f"problem {self.id} needs either accept or number")
        return self


@dataclass(frozen=True)
class Screened:
    """How often a model was right on a problem, unsteered and without tools."""

    problem: Problem
    right: int
    samples: int


def load_problems(path: Path) -> tuple[Problem, ...]:
    """Problems from a YAML list. Raises BadInput naming the file and what is wrong with it."""
    try:
        found = TypeAdapter(tuple[Problem, ...]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} holds no problems ({error}); a problem is id, question, and accept or number"
        ) from error
    names = [p.id for p in found]
    if not names or len(set(names)) != len(names):
        raise BadInput(f"{path} must hold at least one problem, each under its own id")
    return found


def digest(problems: Sequence[Problem]) -> str:
    """Hash of the problems' contents."""
    text = json.dumps([p.model_dump() for p in problems], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def questions(agent: Agent, problems: Sequence[Problem], samples: int, seed: int) -> list[Generate]:
    """Every problem `samples` times, unsteered. Streams are named by problem: a longer list changes no other's answers.

    agent: one whose framing offers no tools; its sampling is the run's.
    """
    made = []
    for problem in problems:
        context = Context().append(agent.tokenizer.opening(agent.system, problem.question))
        for sample in range(samples):
            stream = (seed, "screening", problem.id, sample, "sample")
            made.append(Generate(context, replace(agent.sampling, stream=stream)))
    return made


def screened(agent: Agent, problems: Sequence[Problem], answers: Sequence[Completion]) -> list[Screened]:
    """How often each was answered right; `answers` in the order of `questions`."""
    samples = len(answers) // len(problems)
    made = []
    for place, problem in enumerate(problems):
        texts = [agent.tokenizer.decode(a.tokens) for a in answers[place * samples : (place + 1) * samples]]
        said = [prose(text, parse_all(text, agent.framing.theme).calls) for text in texts]
        good = sum(right(text, problem.accept, problem.number) for text in said)
        made.append(Screened(problem, good, samples))
    return made


def as_parameters(problem: Problem) -> dict[str, Any]:
    """What a transcript's first line says of the problem, so that its answers can be checked from the file alone."""
    return {"problem": problem.id, "accept": list(problem.accept), "number": problem.number}
