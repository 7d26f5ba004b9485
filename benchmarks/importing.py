"""Importing published transcripts: seconds and peak memory, each step in a process of its own, on made-up files.

Files have the schema and the size of the published set and no content of it. `make bench` prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.analysis.importers.synthetic_sae_study import many, plan

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
WORD_BYTES = 16
"""Of a word of a response in a file: it is there twice, in the transcript and in the messages."""
Row = dict[str, object]
PARSE = (
    "import json, pathlib, sys; [json.loads(p.read_bytes()) for p in sorted(pathlib.Path(sys.argv[1]).rglob('*.json'))]"
)
IMPORT = "import sys; from analysis.importers import import_folder; import_folder(sys.argv[1], sys.argv[2])"
CLAIMS = (
    "import sys; from analysis import load; from analysis.claims import read, recompute;"
    " print(len(list(recompute(read('sae_self_steering'), load(sys.argv[2])))), 'claims')"
)
LOAD = "import sys; from analysis import load; f = load(sys.argv[2]); [f.tables[t] for t in f.tables]"


def measured(code: str, *arguments: str, python: str = sys.executable) -> Row:
    """Seconds by the clock and of work, and peak resident GB, of one Python process; its start included."""
    begun = time.perf_counter()
    process = subprocess.Popen([python, "-c", code, *arguments], cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{code!r} failed with {process.returncode}")
    seconds = {"seconds": time.perf_counter() - begun, "cpu_seconds": used.ru_utime + used.ru_stime}
    return {**seconds, "peak_gb": used.ru_maxrss * 1024 / 1e9}


def sae_study(folder: Path, files: int, megabytes: float) -> list[Row]:
    """Import and load `files` result files of about `megabytes` in all."""
    written = many(folder / "results", files) / 1e6
    if written < megabytes:
        rounds = sum(cell[3] for _, cell in plan(files))
        written = (
            many(folder / "results", files, padding=round((megabytes - written) * 1e6 / rounds / WORD_BYTES)) / 1e6
        )
    work = f"{files} files, {written:.0f} MB"
    rows = []
    for name, code, target in (
        ("only parsing the JSON", PARSE, ""),
        ("selfsteer import, SAE study", IMPORT, "<= 40 s, 1.5 GB"),
        ("load() with every table", LOAD, ""),
        ("every claim of the study, from Parquet", CLAIMS, "<= 15 s"),
    ):
        found = measured(code, str(folder / "results"), str(folder / "out"))
        rows.append({"row": name, **found, "target": target, "work": work})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=455)
    parser.add_argument("--mb", type=float, default=285.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = sae_study(Path(folder), options.files, options.mb)
    store(rows)


def store(rows: list[Row]) -> None:
    columns = ("what", "seconds", "CPU seconds", "peak GB", "target", "work")
    table = Table(*columns, title=f"{os.cpu_count()} cores, one process")
    for row in rows:
        numbers = (f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{row['peak_gb']:.2f}")
        table.add_row(str(row["row"]), *numbers, str(row["target"]), str(row["work"]))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"importing-{time.strftime('%Y-%m-%d-%H%M%S')}.json"
    facts = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    path.write_text(json.dumps({**facts, "python": platform.python_version(), "rows": rows}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
