"""The transcripts of one run, or of an imported folder, as tidy pandas frames, from the declared table of columns.

Knows no metric and no engine. A rollout of ours without a last line is listed in `unfinished` and is in no other frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from agents import transcript
from analysis.bar import with_bar
from analysis.columns import TABLE, TABLES, Column, Table, columns_markdown
from analysis.importers import store
from toolkit.errors import BadInput

__all__ = ["Frames", "columns_markdown", "each_rollout", "load", "per_rollout"]

Event = dict[str, Any]
WHOLE = ("finished", "left", "window", "stopped")
"""Endings after which a rollout counts; after `failed` every metric of it is missing. `stopped` counts: the script
ended it because it was unhealthy, and leaving such rollouts out would make the rest look healthy."""
UNFINISHED = ["rollout", "condition", "rounds_done", "path"]
ERRORS = ["rollout", "path", "problem"]


class Tables(Mapping[str, pd.DataFrame]):
    """The frames by name, each made when it is first asked for: one large table is not read for the sake of another."""

    def __init__(self, make: Callable[[str], pd.DataFrame]) -> None:
        self._make, self._made = make, dict[str, pd.DataFrame]()

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._made:
            if name not in TABLE:
                raise KeyError(name)
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(TABLE)

    def __len__(self) -> int:
        return len(TABLE)


class _Frame:
    """An attribute of Frames that is the table of the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, frames: Frames, owner: type) -> pd.DataFrame:
        return frames.tables[self.name]


@dataclass(frozen=True)
class Frames:
    """The frames of analysis/columns.py, and what stands beside them.

    unfinished: rollout, condition, rounds_done, path of files without a last line. errors: rollout, path, problem
    of files that could not be read, and of rollouts that say that they failed. filters: what `where` kept.
    labels: by feature, from RUN/labels.json where the run wrote one, else as they were shown to the model.
    manifest: of a run, its manifest.json; of an imported folder, its import.json. facts: by topic, from RUN/facts.json.
    """

    run: str
    manifest: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    unfinished: pd.DataFrame
    errors: pd.DataFrame
    filters: tuple[str, ...] = ()
    labels: Mapping[int, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    rollouts = _Frame()
    rounds = _Frame()
    calls = _Frame()
    shown = _Frame()
    activations = _Frame()
    steering = _Frame()
    externals = _Frame()
    rebases = _Frame()
    truncations = _Frame()
    notes = _Frame()
    scores = _Frame()
    quizzes = _Frame()

    def where(self, **equal: object) -> Frames:
        """Only the rollouts whose columns have these values; `filters` says so in every caption.

        Raises BadInput on a column that rollouts do not have.
        """
        keep = pd.Series(True, index=self.rollouts.index)
        for column, value in equal.items():
            if column not in self.rollouts:
                raise BadInput(f"rollouts have no column {column!r}; they have {', '.join(map(str, self.rollouts))}")
            keep &= (self.rollouts[column] == value).fillna(False).astype(bool)
        ids = set(self.rollouts.loc[keep, "rollout"])
        cut = Tables(lambda name: _only(self.tables[name], ids))
        return replace(self, tables=cut, filters=(*self.filters, *(f"{c} = {v}" for c, v in equal.items())))

    @property
    def counted(self) -> list[str]:
        """The rollouts that ended in a way that counts."""
        return [str(r) for r in self.rollouts.loc[self.rollouts["ended"].isin(WHOLE), "rollout"]]


def load(run_dir: str | Path) -> Frames:
    """Read RUN/manifest.json and RUN/rollouts/*/*.jsonl, or a folder that `selfsteer import` wrote.

    A bar shows after two seconds. Tables of an imported folder are read when they are first used. Raises BadInput if
    the folder holds no transcript.
    """
    run = Path(run_dir)
    if (run / store.MANIFEST).exists():
        return _imported(run)
    paths = sorted((run / "rollouts").glob("**/*.jsonl"), key=_in_order)
    if not paths:
        raise BadInput(f"{run} holds no transcripts; give a run folder, with rollouts/<condition>/<seed>.jsonl in it")
    gathered: dict[str, dict[str, list[Any]]] = {t.name: {c.name: [] for c in t.columns} for t in TABLES}
    unfinished: list[Event] = []
    errors: list[Event] = []
    labels: dict[int, str] = {}
    for path in with_bar(paths, "reading transcripts"):
        name = path.relative_to(run / "rollouts").with_suffix("").as_posix()
        file = {"rollout": name, "condition": name.rpartition("/")[0], "path": path.relative_to(run).as_posix()}
        events, problem = _events(path)
        if problem:
            errors.append({"rollout": name, "path": file["path"], "problem": problem.replace(str(path), file["path"])})
        elif not events or events[-1]["event"] != "end":
            done = sum(e["event"] == "response" for e in events)
            unfinished.append({**{k: file[k] for k in ("rollout", "condition", "path")}, "rounds_done": done})
        else:
            _gather(file, events, gathered)
            _learn_labels(events, labels)
            if events[-1].get("error"):
                errors.append({"rollout": name, "path": file["path"], "problem": events[-1]["error"]})
    return Frames(
        run=run.name or str(run.resolve().name),
        manifest=_json(run / "manifest.json"),
        tables={t.name: _frame(t, gathered[t.name]) for t in TABLES},
        unfinished=pd.DataFrame(unfinished, columns=UNFINISHED),
        errors=pd.DataFrame(errors, columns=ERRORS),
        labels={**labels, **{int(k): str(v) for k, v in _json(run / "labels.json").items()}},
        facts=_json(run / "facts.json"),
    )


def _imported(folder: Path) -> Frames:
    said = store.manifest(folder)
    return Frames(
        run=str(said["source"]),
        manifest=said,
        tables=Tables(lambda name: store.table(folder, TABLE[name])),
        unfinished=pd.DataFrame(said["unfinished"], columns=UNFINISHED),
        errors=pd.DataFrame(said["errors"], columns=ERRORS),
        labels={int(k): str(v) for k, v in _json(folder / store.LABELS).items()},
    )


def each_rollout(frames: Frames, table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(rollout, its rows) for every rollout, those without rows too."""
    groups = dict(iter(table.groupby("rollout", sort=False)))
    return [(rollout, groups.get(rollout, table.iloc[:0])) for rollout in frames.rollouts["rollout"]]


def per_rollout(frames: Frames, rows: Mapping[Any, Mapping[Any, float]]) -> pd.DataFrame:
    """A frame with a row per rollout; those that failed are NaN throughout."""
    made: pd.DataFrame = pd.DataFrame.from_dict(dict(rows), orient="index")
    made = made.reindex(frames.rollouts["rollout"]).astype("float64").rename_axis("rollout")
    made[~made.index.isin(frames.counted)] = float("nan")
    return made


def _events(path: Path) -> tuple[list[Event], str]:
    """The events of one file as plain data, and what is wrong with it. A torn last line is unfinished, not wrong."""
    try:
        return [event.model_dump() for event in transcript.read(path).events], ""
    except BadInput as error:
        return [], str(error)


def _gather(file: Event, events: Sequence[Event], gathered: dict[str, dict[str, list[Any]]]) -> None:
    start, end = events[0], events[-1]
    by_round: dict[int, dict[str, Event]] = {}
    for event in events:
        if event["event"] in ("turn", "response"):
            by_round.setdefault(int(event["round"]), {})[event["event"]] = event
    for table in TABLES:
        if table.rows == "rollout":
            scopes: Iterable[dict[str, Event]] = [{"start": start, "end": end}]
        elif table.rows == "round":
            scopes = [{**found, "row": {"round": r}} for r, found in sorted(by_round.items())]
        else:
            scopes = [{table.rows: e, "row": {"round": e.get("round")}} for e in events if e["event"] == table.rows]
        into = gathered[table.name]
        for scope in scopes:
            _add_rows(table, {**scope, "file": file}, into)


def _add_rows(table: Table, scope: Mapping[str, Event], into: dict[str, list[Any]]) -> None:
    walked = {c.name: _walk(c.path, scope) for c in table.columns if "[]" in c.path}
    lengths = {len(v) for v in walked.values() if v is not None}
    if len(lengths) > 1:
        raise BadInput(f"lists of {table.name} that belong together differ in length: {sorted(lengths)}")
    count = (lengths.pop() if lengths else 0) if walked else 1
    for column in table.columns:
        if column.name in walked:
            into[column.name] += walked[column.name] or [None] * count
        else:
            into[column.name] += [_value(column.path, scope)] * count


def _value(path: str, scope: Mapping[str, Any]) -> Any:
    path, _, step = path.partition("|")
    value: Any = scope
    for key in path.split("."):
        if not isinstance(value, Mapping) or value.get(key) is None:
            return None
        value = value[key]
    return len(value) if step == "len" else value


def _walk(path: str, scope: Mapping[str, Any]) -> list[Any] | None:
    head, _, tail = path.partition("[]")
    items = _value(head, scope)
    if items is None:
        return None
    if tail == ".#":
        return list(range(1, len(items) + 1))
    return [_value(tail[1:], item) for item in items] if tail else list(items)


def _frame(table: Table, values: Mapping[str, list[Any]]) -> pd.DataFrame:
    return pd.DataFrame({c.name: _typed(c, values[c.name]) for c in table.columns})


def _typed(column: Column, values: list[Any]) -> Any:
    if column.dtype == "object":
        made = pd.Series(index=range(len(values)), dtype=object)
        made[:] = values
        return made
    try:
        return pd.array([pd.NA if v is None else v for v in values], dtype=column.dtype)
    except (TypeError, ValueError) as error:
        odd = next((v for v in values if v is not None and not isinstance(v, int | float | str)), error)
        raise BadInput(f"column {column.name} ({column.path}) should be {column.dtype}; found {odd!r}") from error


def _learn_labels(events: Iterable[Event], labels: dict[int, str]) -> None:
    """Labels as they were shown or recorded, for readings that name features by number alone."""
    for event in events:
        if event["event"] == "call":
            for row in event.get("rows") or ():
                labels.setdefault(int(row["feature"]), str(row["label"]))


def _only(frame: pd.DataFrame, ids: set[str]) -> pd.DataFrame:
    return frame[frame["rollout"].isin(ids)].reset_index(drop=True)


def _json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file beside the rollouts; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON ({error}); restore it or move it away") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} should hold a JSON object; it holds a {type(value).__name__}")
    return value


def _in_order(path: Path) -> tuple[str, int, str]:
    return (path.parent.as_posix(), int(path.stem) if path.stem.isdigit() else -1, path.stem)
