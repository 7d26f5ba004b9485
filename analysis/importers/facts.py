"""Extracts of the self-medication study: gzipped JSON lines of names and numbers, one line per sample, no prose.

Knows no Inspect log. The fields are described in the data's own README; what is not there stays NA.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.importers import self_medication as study
from analysis.importers.store import Rollout, Survey
from toolkit.errors import BadInput

DAMAGED = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""What a line that is no sample raises while it is read."""
FIELDS = {"task", "id", "args", "calls", "scores", "sitter"}


def files(path: Path) -> list[Path]:
    """The extracts at `path`: itself, or those of a folder."""
    return sorted(path.glob("*.jsonl.gz")) if path.is_dir() else [path]


def survey(path: Path) -> Survey:
    """All of them are read."""
    return Survey(files(path))


def looks_like(path: Path) -> bool:
    """Is this a file, or a folder of files, whose first line has the fields of an extract?"""
    found = files(path)
    if not found or not found[0].name.endswith(".jsonl.gz"):
        return False
    try:
        with gzip.open(found[0], "rt", encoding="utf-8") as lines:
            first = json.loads(lines.readline())
    except (OSError, EOFError, ValueError, zlib.error, RecursionError):
        return False
    return isinstance(first, dict) and first.keys() >= FIELDS


def read(path: Path) -> Iterator[Rollout]:
    """The rollouts of one extract, named by size, set, task and sample.

    A damaged line is left out, and the rest goes on; BadInput comes last and counts them, or says where the file ends.
    """
    size, _, group = path.name.removesuffix(".jsonl.gz").partition("_")
    done, damaged, first = 0, 0, ""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for done, line in enumerate(lines, 1):
                try:
                    made = rollout(json.loads(line), f"{size}/{group}", f"Qwen3-{size.upper()}", path.name)
                except DAMAGED as error:
                    damaged += 1
                    first = first or f"line {done} ({type(error).__name__}: {str(error)[:200]})"
                else:
                    yield made
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        more = f"; {damaged} lines before are no samples, the first: {first}" if damaged else ""
        raise BadInput(f"{path.name} breaks off after line {done} ({error}){more}") from error
    if damaged:
        raise BadInput(f"{path.name}: {damaged} of {done} lines are no samples of an extract; the first, {first}")


def rollout(sample: dict[str, Any], group: str, model: str, path: str) -> Rollout:
    """One sample. Raises one of DAMAGED if a field is missing or of another kind."""
    task, args = sample["task"], sample["args"]
    condition = f"{group}/{task}"
    made = Rollout(f"{condition}/{sample['id']}", condition, path)
    cell = study.cell(task, args, model)
    shown = cell["parameters"].get("vector")
    orders = Counter[int]()
    for written, dose, turn, rejected in sample["calls"]:
        orders[turn] += 1
        study.take(made, turn + 1, orders[turn], written, dose, rejected, shown if written == "d1" else None)
    for turn in sample["sitter"]:
        study.monitor(made, turn + 1, "unhealthy")
    for scorer, (value, metadata) in sample["scores"].items():
        study.score(made, scorer, value, metadata)
    if "L" in sample:
        study.quiz(made, args, sample["L"], sample["pool"], (sample["c"], sample["u"]), sample["top"])
    facts = {"first_round": sample["first_round"]}
    ended = "stopped" if sample["early"] else "finished"
    made.add("rollouts", number=str(sample["id"]), ended=ended, facts=facts, **cell)
    return made
