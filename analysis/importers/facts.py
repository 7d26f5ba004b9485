"""Extracts of the self-medication study: gzipped JSON lines of names and numbers, one line per sample, no prose.

Knows no Inspect log. The fields are described in the data's own README; what is not there stays NA.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.importers import self_medication as study
from analysis.importers.store import Rollout, Survey
from toolkit.errors import BadInput

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
    except (OSError, EOFError, ValueError):
        return False
    return isinstance(first, dict) and first.keys() >= FIELDS


def read(path: Path) -> Iterator[Rollout]:
    """The rollouts of one extract, named by size, set, task and sample. Raises BadInput, naming a damaged line."""
    size, _, group = path.name.removesuffix(".jsonl.gz").partition("_")
    done = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield rollout(json.loads(line), f"{size}/{group}", f"Qwen3-{size.upper()}", path.name)
                done += 1
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise BadInput(f"{path.name}: line {done + 1} is no sample of an extract ({said})") from error


def rollout(sample: dict[str, Any], group: str, model: str, path: str) -> Rollout:
    """One sample. Raises KeyError, TypeError or ValueError if a field is missing or of another kind."""
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
