"""The folder that `selfsteer import` writes: import.json and one Parquet file per table, streamed in and read back.

Knows no study: importers hand it rollouts, and analysis.frames.load reads what it wrote.

    OUT/import.json       kind, source, counts, what was left out and why, errors, unfinished, versions
    OUT/labels.json       feature number to label, as far as the files show it
    OUT/<table>.parquet   one per table of analysis/columns.py that has rows; lists and objects as JSON text
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.columns import TABLE, TABLES, Column, Table
from toolkit.errors import BadInput

MANIFEST = "import.json"
LABELS = "labels.json"
VERSION = 1
"""Of the folder's form. A reader refuses another one."""
ROWS_AT_ONCE = 50_000
"""Rows of one table that are held before they are written as a row group."""
ROLLOUTS_AT_ONCE = 500
"""Rollouts whose rows of one table are held: an array of few rows takes many times the memory of its content."""

_ARROW = {
    "string": pa.string(), "Int64": pa.int64(), "Float64": pa.float64(), "boolean": pa.bool_(), "object": pa.string(),
}  # fmt: skip
_PANDAS: dict[pa.DataType, Any] = {
    pa.string(): pd.StringDtype("pyarrow"), pa.int64(): pd.Int64Dtype(), pa.float64(): pd.Float64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}  # fmt: skip


@dataclass
class Survey:
    """What an importer found at a path: files to read, and of the others how many were left out and what is wrong.

    problems: (name, path below the given folder, problem) of what is missing or no such file.
    """

    files: list[Path]
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Rollout:
    """One rollout while an importer fills it: rows of any table, and what the importer left out of it.

    name: `condition/number`, unique in the folder. path: its source file; the import makes it one below the folder
    that was given. labels: by feature number; placeholders: labels that say nothing, kept apart. left_out: counts by
    reason, added up over all files in import.json.
    """

    name: str
    condition: str
    path: str
    rows: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    labels: dict[int, str] = field(default_factory=dict)
    placeholders: dict[int, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, table: str, **values: Any) -> None:
        """One row. What is not named is NA. Raises KeyError on a column that the table has not."""
        self.extend(table, 1, {}, **values)

    def extend(self, table: str, count: int, lists: Mapping[str, Sequence[Any]], **same: Any) -> None:
        """`count` rows: `lists` hold a value per row, `same` holds one value for all of them."""
        columns = self.rows.get(table)
        if columns is None:
            columns = self.rows[table] = {c.name: [] for c in TABLE[table].columns}
        given = {**same, "rollout": self.name}
        if table == "rollouts":
            given["condition"] = self.condition
        if unknown := (given.keys() | lists.keys()) - columns.keys():
            raise KeyError(f"table {table} has no column {', '.join(sorted(unknown))}")
        for name, values in lists.items():
            if len(values) != count:
                raise ValueError(f"{table}.{name} has {len(values)} values for {count} rows")
        for name, column in columns.items():
            column += lists[name] if name in lists else [given.get(name)] * count

    def of(self, table: str, column: str) -> list[Any]:
        """The values that a column has so far."""
        return self.rows[table][column] if table in self.rows else []


class Writer:
    """Writes a folder, rollout by rollout, in bounded memory. Use as a context manager.

    The folder is whole only when `close` has written import.json; until then no reader takes it for an imported one.
    """

    def __init__(self, out: Path, kind: str, source: str) -> None:
        self.out, self.kind, self.source = out, kind, source
        self.rows: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.files = 0
        self.errors: list[dict[str, Any]] = []
        self._ended: Counter[str] = Counter()
        self._unfinished: list[dict[str, Any]] = []
        self._labels: dict[int, str] = {}
        self._placeholders: dict[int, str] = {}
        self._names: set[str] = set()
        self._held: dict[str, list[pa.RecordBatch]] = {}
        self._waiting: Counter[str] = Counter()
        self._files: dict[str, pq.ParquetWriter] = {}

    def __enter__(self) -> Writer:
        if self.out.exists() and any(self.out.iterdir()) and not (self.out / MANIFEST).exists():
            left = {p.name for p in self.out.iterdir()} - {f".{t.name}.parquet" for t in TABLES} - {"report", "claims"}
            if left:
                raise BadInput(f"{self.out} holds other files ({min(left)}); give --out a new folder")
        self.out.mkdir(parents=True, exist_ok=True)
        for old in (MANIFEST, LABELS, *(f"{dot}{t.name}.parquet" for t in TABLES for dot in ("", "."))):
            (self.out / old).unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        for file in self._files.values():
            file.close()

    def add(self, rollout: Rollout) -> None:
        """Take one rollout. Raises BadInput if its name was there before, or a value does not fit its column."""
        if rollout.name in self._names:
            raise BadInput(f"{rollout.path} is a second file for rollout {rollout.name}; keep one of them")
        if len(rollout.of("rollouts", "rollout")) != 1:
            raise BadInput(f"{rollout.path} made {len(rollout.of('rollouts', 'rollout'))} rows of rollouts; it is one")
        rollout.rows["rollouts"]["path"] = [rollout.path]
        arrays = {t: [_array(c, rollout.rows[t][c.name], rollout) for c in TABLE[t].columns] for t in rollout.rows}
        self._names.add(rollout.name)
        self.left_out += rollout.left_out
        for known, found in ((self._labels, rollout.labels), (self._placeholders, rollout.placeholders)):
            for feature, label in found.items():
                known.setdefault(feature, label)
        ended = rollout.of("rollouts", "ended")[0]
        self._ended[str(ended)] += 1
        if ended == "unfinished":
            done = rollout.of("rollouts", "rounds_done")[0]
            row = {"rollout": rollout.name, "condition": rollout.condition, "rounds_done": done, "path": rollout.path}
            self._unfinished.append(row)
        elif ended == "failed":
            problem = rollout.of("rollouts", "error")[0] or "failed"
            self.errors.append({"rollout": rollout.name, "path": rollout.path, "problem": problem})
        for table, columns in arrays.items():
            self._hold(table, columns)

    def damaged(self, name: str, path: str, problem: str) -> None:
        """A file that could not be read; the rest goes on."""
        self.errors.append({"rollout": name, "path": path, "problem": problem})

    def close(self) -> None:
        """Write what is held, then labels.json, and import.json last."""
        for name in list(self._held):
            self._flush(name)
        for name, file in self._files.items():
            file.close()
            (self.out / f".{name}.parquet").replace(self.out / f"{name}.parquet")
        self._files.clear()
        said = {
            "kind": self.kind,
            "form": VERSION,
            "source": self.source,
            "files": self.files,
            "rollouts": dict(self._ended),
            "rows": dict(self.rows),
            "left_out": dict(self.left_out),
            "unfinished": self._unfinished,
            "errors": self.errors,
            "placeholder_labels": {str(k): v for k, v in sorted(self._placeholders.items()) if k not in self._labels},
            "versions": {"python": sys.version.split()[0], "pyarrow": pa.__version__, "pandas": pd.__version__},
        }
        _write(self.out / LABELS, {str(k): v for k, v in sorted(self._labels.items())})
        _write(self.out / MANIFEST, said)

    def _hold(self, table: str, columns: list[pa.Array]) -> None:
        self._held.setdefault(table, []).append(pa.record_batch(columns, schema=_schema(TABLE[table])))
        self.rows[table] += len(columns[0])
        self._waiting[table] += len(columns[0])
        if self._waiting[table] >= ROWS_AT_ONCE or len(self._held[table]) >= ROLLOUTS_AT_ONCE:
            self._flush(table)

    def _flush(self, table: str) -> None:
        batches = self._held.pop(table)
        del self._waiting[table]
        if table not in self._files:
            path = self.out / f".{table}.parquet"
            self._files[table] = pq.ParquetWriter(path, _schema(TABLE[table]), compression="zstd")
        self._files[table].write_table(pa.Table.from_batches(batches))


def manifest(folder: Path) -> Mapping[str, Any]:
    """What import.json says. Raises BadInput if it is damaged or of another form."""
    path = folder / MANIFEST
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        form = said["form"]
        if not all(isinstance(said[key], list) for key in ("unfinished", "errors")):
            raise TypeError("`unfinished` and `errors` are lists")
        if not all(isinstance(said[key], dict) for key in ("rows", "rollouts", "left_out")):
            raise TypeError("`rows`, `rollouts` and `left_out` are objects")
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); import again into a new folder") from error
    if form != VERSION:
        raise BadInput(f"{path} is of form {form!r}, this reads form {VERSION}; import again into a new folder")
    return dict(said)


def table(folder: Path, declared: Table, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """One table of an imported folder, in the declared types; `columns` picks some. A table without rows has no file.

    Raises BadInput if the file is damaged, or has not as many rows as import.json says.
    """
    wanted = [c for c in declared.columns if columns is None or c.name in set(columns)]
    path = folder / f"{declared.name}.parquet"
    try:
        read = pq.read_table(path, columns=[c.name for c in wanted]) if path.exists() else _empty(wanted)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} cannot be read ({error}); import again into a new folder") from error
    if read.num_rows != (rows := manifest(folder)["rows"].get(declared.name, 0)):
        raise BadInput(f"{path} has {read.num_rows:,} of {rows:,} rows; import again into a new folder")
    if read.column_names != [c.name for c in wanted]:
        missing = {c.name for c in wanted} - set(read.column_names)
        raise BadInput(f"{path} has no column {', '.join(sorted(missing))}; import again into a new folder")
    return pd.DataFrame({c.name: _series(c, read.column(c.name)) for c in wanted})


def _empty(wanted: Iterable[Column]) -> pa.Table:
    return pa.table({c.name: pa.array([], _ARROW[c.dtype]) for c in wanted})


def _series(column: Column, values: pa.ChunkedArray) -> pd.Series[Any]:
    if column.dtype == "object":
        made: pd.Series[Any] = pd.Series(index=range(len(values)), dtype=object)
        made[:] = [None if text is None else json.loads(text) for text in values.to_pylist()]
        return made
    typed: pd.Series[Any] = values.to_pandas(types_mapper=_PANDAS.get)
    return typed


def _schema(declared: Table) -> pa.Schema:
    return pa.schema([(c.name, _ARROW[c.dtype]) for c in declared.columns])


def _array(column: Column, values: list[Any], rollout: Rollout) -> pa.Array:
    """Values as Arrow holds them; lone surrogates, which no UTF-8 file can hold, become "?"."""
    if column.dtype == "object":
        values = [None if v is None else json.dumps(v) for v in values]
    try:
        try:
            return pa.array(values, _ARROW[column.dtype])
        except UnicodeEncodeError:
            return pa.array([v.encode("utf-8", "replace").decode() if v else v for v in values], _ARROW[column.dtype])
    except (pa.ArrowException, TypeError, OverflowError, AttributeError) as error:
        raise BadInput(f"{rollout.path}: column {column.name} should be {column.dtype} ({error})") from error


def _write(path: Path, value: object) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8", errors="replace")
    beside.replace(path)
