"""The report of one run: tables in the terminal, report.md with PNGs, and report.html, all from one summary.

Knows no statistic: summary.py makes the numbers, tables.py the words, plots.py the figures, page.py the page.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from analysis.claims.kept import kept
from analysis.claims.predictions import foretold
from analysis.coding import judgements
from analysis.contrast import contrasts
from analysis.findings import orders
from analysis.frames import load
from analysis.page import Pictured, pages
from analysis.persistence import of_run
from analysis.persistence import tables as remaining
from analysis.plots import drawings
from analysis.plots_injected import injected_drawings
from analysis.plots_persistence import persistence_drawings
from analysis.rollouts import labels_shown, rollout_data
from analysis.safe import for_markdown, plain
from analysis.summary import Summary, summarise
from analysis.tables import asked, found, tables
from analysis.words import Table
from toolkit.errors import BadInput

MOST_ROWS = 12
"""Rows of one table in the terminal; files have them all."""


@dataclass(frozen=True)
class ReportPaths:
    """What was written, and the summary that it says. pages: report.html first, more where it grew large."""

    pages: tuple[Path, ...]
    markdown: Path
    figures: tuple[Path, ...]
    summary: Summary

    @property
    def html(self) -> Path:
        return self.pages[0]


def report(run_dir: str | Path, out: str | Path | None = None, by: str = "condition") -> ReportPaths:
    """Read the run and write RUN/report/ (or `out`): report.html, report.md and one PNG per figure.

    Files are replaced whole. Raises BadInput if the folder holds no transcript, or nothing can be written.
    """
    frames = load(run_dir)
    judged = judgements(run_dir)
    remained = of_run(run_dir, frames)
    summary = summarise(
        frames, by=by, judged=judged if len(judged) else None, predictions=foretold(run_dir, frames),
        own=(*(remaining(remained) if remained else ()), *contrasts(frames, by), *orders(frames), *kept(run_dir)),
    )  # fmt: skip
    folder = Path(out) if out is not None else Path(run_dir) / "report"
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    first = persistence_drawings(remained, summary) if remained else []
    pictures = [Pictured.of(d) for d in (*first, *injected_drawings(frames, summary), *drawings(frames, summary))]
    figures = tuple(_write(folder / f"{p.drawing.name}.png", p.light) for p in pictures)
    markdown = _write(folder / "report.md", _markdown(summary, pictures).encode("utf-8", "replace"))
    data = rollout_data(frames, by)
    made = pages(summary, pictures, data, labels_shown(frames, data))
    written = tuple(_write(folder / name, html.encode("utf-8", "replace")) for name, html in made.items())
    for old in set(folder.glob("report-*.html")) - set(written):
        old.unlink()
    return ReportPaths(written, markdown, figures, summary)


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """The tables in the terminal. Text of models loses control characters and escape sequences."""
    console = console or Console()
    for line in found(summary):
        console.print(Text(plain(line)))
    for table in tables(summary):
        console.print()
        console.print(_rich(table))
        if len(table.rows) > MOST_ROWS:
            console.print(
                Text(f"{len(table.rows) - MOST_ROWS} more rows are in report.md and report.html.", style="dim")
            )
        console.print(Text(plain(table.note), style="dim"))
    for rollout, problem in summary.errors:
        console.print(Text(f"{plain(rollout)}: {plain(problem, 200)}", style="red"))


def _rich(table: Table) -> RichTable:
    made = RichTable(title=Text(plain(table.title), style="bold"), title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(table.columns):
        made.add_column(Text(plain(column)), overflow="fold", style="bold" if i == 0 else "")
    for row in table.rows[:MOST_ROWS]:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def _markdown(summary: Summary, pictures: list[Pictured]) -> str:
    lines = [f"# Report of {for_markdown(summary.run)}", ""]
    lines += [f"- {for_markdown(k)}: {for_markdown(v)}" for k, v in asked(summary)]
    lines += ["", "## What was found", "", *(f"{for_markdown(line)}\n" for line in found(summary))]
    for picture in pictures:
        drawing = picture.drawing
        lines += [f"![{for_markdown(drawing.title)}]({drawing.name}.png)", "", for_markdown(drawing.caption), ""]
    for table in tables(summary):
        lines += [
            f"## {for_markdown(table.title)}",
            "",
            _row(table.columns),
            _row(["---"] * len(table.columns), safe=True),
        ]
        lines += [_row(row) for row in table.rows]
        lines += ["", for_markdown(table.note), ""]
    if summary.errors:
        lines += ["## Problems", "", *(f"- {for_markdown(r)}: {for_markdown(p)}" for r, p in summary.errors), ""]
    return "\n".join(lines)


def _row(cells: tuple[str, ...] | list[str], safe: bool = False) -> str:
    return "| " + " | ".join(c if safe else for_markdown(c) for c in cells) + " |"


def _write(path: Path, data: bytes) -> Path:
    """Write beside the place and move there, so that a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with _writing(path):
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
    return path


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into an error with the way out."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}); give another folder with --out") from error
