"""Inspect .eval logs in: messages, tool calls with typed outcomes and scores of any log; the self-medication study's.

Knows no frame and no Parquet. Of each cell (task, model, arguments) the latest log that succeeded counts; what was
left out is counted, and a cell that never succeeded is named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from analysis.bar import with_bar
from analysis.importers import self_medication as study
from analysis.importers import self_medication_store as kept
from analysis.importers.archive import Archive
from analysis.importers.inspect_messages import Message, conversation
from analysis.importers.store import Rollout, Survey
from toolkit.errors import BadInput

SAMPLE = re.compile(r"samples/.+\.json\Z")
KEYS = {"id", "epoch", "messages", "scores", "metadata", "store", "error", "limit"}
"""What is read of a sample; its events only where a quiz needs them."""
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's letters for correct, partial, incorrect and no answer, as its own metrics count them."""


class Spec(BaseModel):
    """`eval` of a log's header."""

    task: str
    task_id: str = ""
    task_args: dict[str, Any] = {}
    model: str = ""
    created: str = ""

    @property
    def name(self) -> str:
        """The task without the package that it is from."""
        return self.task.rpartition("/")[2]


class Header(BaseModel):
    """header.json; a log that was cut off has only _journal/start.json, without a status."""

    status: str = "started"
    eval: Spec


class Score(BaseModel):
    value: Any = None
    metadata: dict[str, Any] | None = None


class Problem(BaseModel):
    message: str = ""


class Limit(BaseModel):
    type: str


class Sample(BaseModel):
    """One member of samples/."""

    id: int | str
    epoch: int = 1
    messages: list[Message] = []
    scores: dict[str, Score] | None = None
    metadata: dict[str, Any] = {}
    store: dict[str, Any] = {}
    events: list[dict[str, Any]] = Field(default=[])
    error: Problem | None = None
    limit: Limit | None = None


@dataclass(frozen=True)
class Log:
    """One log by its header. cell: the condition of its rollouts, the same for every attempt at it."""

    path: Path
    status: str
    spec: Spec
    cell: str
    of_study: bool


def files(path: Path) -> list[Path]:
    """The logs at `path`: itself, or those anywhere below a folder."""
    return sorted(path.rglob("*.eval")) if path.is_dir() else [path]


def looks_like(path: Path) -> bool:
    """Is this an .eval file, or a folder with some below it?"""
    return path.suffix == ".eval" if path.is_file() else next(path.rglob("*.eval"), None) is not None


def header(path: Path) -> Log:
    """The log at `path`. Raises BadInput if it is none."""
    with Archive(path) as archive:
        member = "header.json" if "header.json" in archive.names else "_journal/start.json"
        if member not in archive.names:
            raise BadInput(f"{path.name} is a zip without header.json: no .eval log")
        try:
            found = Header.model_validate(archive.json(member, {"status", "eval"}))
        except ValidationError as error:
            raise BadInput(f"{path.name}: {member} is not a log's header ({_first(error)})") from error
    spec = found.eval
    status = found.status if member == "header.json" else "started"
    mine = study.is_cell(spec.name, spec.task_args)
    cell = study.condition(spec.name, spec.task_args, _model(spec, path)) if mine else _generic_cell(spec)
    return Log(path, status, spec, cell, mine)


def survey(path: Path) -> Survey:
    """The log to read of each cell: the latest that succeeded. The others are counted; a cell without one is a problem.

    A success that ran before, an error and a log that broke off would all count the same rollouts again.
    """
    made, cells = Survey([]), dict[str, list[Log]]()
    for each in with_bar(files(path), "looking at logs"):
        name = each.relative_to(path).as_posix() if path.is_dir() else each.name
        try:
            log = header(each)
        except BadInput as error:
            made.problems.append((each.stem, name, str(error)))
            continue
        cells.setdefault(log.cell, []).append(log)
    for cell, attempts in cells.items():
        done = sorted((a for a in attempts if a.status == "success"), key=lambda a: (a.spec.created, a.path))
        spare = [a for a in attempts if a not in done]
        if done:
            made.files.append(done[-1].path)
            made.left_out["logs that a later success of their cell replaces"] += len(done) - 1
        else:
            tally = ", ".join(f"{n} {status}" for status, n in Counter(a.status for a in attempts).items())
            name = spare[-1].path.relative_to(path).as_posix() if path.is_dir() else path.name
            made.problems.append((cell, name, f"no log of {cell} succeeded ({tally})"))
            spare.pop()
        for log in spare:
            made.left_out[f"logs with status {log.status}"] += 1
    made.left_out += Counter()  # without zeros
    made.files.sort()
    return made


def read(path: Path) -> Iterator[Rollout]:
    """The rollouts of one log; a sample that cannot be read is one that failed. Raises BadInput for a whole log."""
    log = header(path)
    keys = KEYS | {"events"} if log.of_study and study.has_quiz(log.spec.name) else KEYS
    with Archive(path) as archive:
        for member in (name for name in archive.names if SAMPLE.match(name)):
            try:
                yield rollout(log, Sample.model_validate(archive.json(member, keys)))
            except ValidationError as error:
                yield _failed(log, member, f"{path.name}: {member} is no sample ({_first(error)})")
            except BadInput as error:
                yield _failed(log, member, str(error))


def rollout(log: Log, sample: Sample) -> Rollout:
    """One sample as rows. Raises BadInput if a part of it cannot be what it says."""
    number = str(sample.id) if sample.epoch == 1 else f"{sample.id}_epoch_{sample.epoch}"
    made = Rollout(f"{log.cell}/{number}", log.cell, log.path.name)
    rounds, calls = conversation(sample.messages)
    if log.of_study:
        kept.fill(made, sample.store, sample.metadata, calls)
    else:
        for call in calls:
            made.add("calls", **call.row)
    for row in rounds:
        made.add("rounds", **row)
    for scorer, score in (sample.scores or {}).items():
        _score(made, scorer, score, log.of_study)
    if log.of_study and study.has_quiz(log.spec.name):
        values = {name: score.value for name, score in (sample.scores or {}).items()}
        kept.quiz(made, log.spec.task_args, sample.store, values, sample.events)
    left = any(call.row["verb"] == "end_session" and call.row["outcome"] == "ok" for call in calls)
    how = kept.ending(sample.store, left) if log.of_study else "finished"
    if sample.limit is not None and sample.limit.type == "context":
        how = "window"
    made.add(
        "rollouts",
        number=number,
        ended="failed" if sample.error is not None else how,
        error=sample.error.message if sample.error is not None else None,
        system="\n\n".join(m.text for m in sample.messages if m.role == "system") or None,
        rounds_done=len(rounds),
        begun=log.spec.created or None,
        facts={"limit": sample.limit.type} if sample.limit is not None else None,
        **_columns(log),
    )
    return made


def _score(made: Rollout, scorer: str, score: Score, of_study: bool) -> None:
    metadata = score.metadata or {}
    if of_study:
        study.score(made, scorer, score.value, metadata)
        return
    values = score.value if isinstance(score.value, dict) else {"value": score.value}
    for key, value in values.items():
        made.add(
            "scores",
            scorer=scorer,
            key=str(key),
            value=GRADES.get(value) if isinstance(value, str) else study.number(value),
        )
    for key, value in metadata.items():
        if key not in values and study.number(value) is not None:
            made.add("scores", scorer=scorer, key=key, value=study.number(value))


def _model(spec: Spec, path: Path) -> str:
    """The study's models differ in size: it stands in the model's name, or in a folder that its logs lie in."""
    size = study.size(spec.model) or study.size(" ".join(path.parts[-4:-1]))
    return f"Qwen3-{size.upper()}" if size else spec.model.rpartition("/")[2]


def _failed(log: Log, member: str, problem: str) -> Rollout:
    """The sample of a member that cannot be read, by the name of the member: all of it is missing."""
    number = Path(member).stem.removesuffix("_epoch_1")
    made = Rollout(f"{log.cell}/{number}", log.cell, log.path.name)
    made.add("rollouts", number=number, ended="failed", error=problem, **_columns(log))
    return made


def _columns(log: Log) -> dict[str, Any]:
    spec = log.spec
    if log.of_study:
        return study.cell(spec.name, spec.task_args, _model(spec, log.path))
    return {"scenario": spec.task, "model": spec.model, "parameters": spec.task_args}


def _generic_cell(spec: Spec) -> str:
    return "/".join(part for part in (spec.task, spec.model.rpartition("/")[2], spec.task_id) if part)


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc'])) or 'top'}: {found['msg']}"
