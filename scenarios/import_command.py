"""`selfsteer import`: transcripts of others become frames that every report, claim and notebook here reads.

Knows no file format; analysis/importers does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MOST_LINES = 8
Source = Annotated[Path, typer.Argument(help="A result file, or a folder of them (folders in it are read too).")]
Out = Annotated[Path, typer.Option(help="Folder for the frames; replaced if it holds an import.")]
Kind = Annotated[str | None, typer.Option(help="Which importer, where a folder holds files of several kinds.")]


def import_transcripts(path: Source, out: Out, kind: Kind = None) -> None:
    """Read transcripts of a published study into the same frames as a run of your own.

    Known are result files of the SAE self-steering study (self_steer_v2_*.json), of the self-medication study, and
    Inspect AI's .eval logs; which it is, the files say. Nothing is guessed: what a file does not record stays
    missing, what is left out is counted, and a damaged file is named while the rest goes on. Afterwards
    `analysis.load(OUT)` gives pandas frames, and every row's rollout names the file that it came from.

    Example: selfsteer import downloads/results --out imported/sae-study
    """
    from analysis.importers import import_folder
    from scenarios.look import plain

    said = import_folder(path, out, kind)
    ended = ", ".join(f"{n} {how}" for how, n in sorted(said["rollouts"].items()))
    typer.echo(f"{out}: {said['kind']}, {said['files']} files, {sum(said['rollouts'].values())} rollouts ({ended})")
    typer.echo("  rows: " + ", ".join(f"{n:,} {table}" for table, n in said["rows"].items()))
    if said["left_out"]:
        typer.echo("left out or odd, and why:")
        for why, n in sorted(said["left_out"].items()):
            typer.echo(f"  {n:>7,} {plain(why)}")
    _listed(
        "broken off, kept and marked unfinished:",
        [f"{u['path']} ({u['rounds_done']} rounds)" for u in said["unfinished"]],
    )
    _listed("not read:", [f"{e['path']}: {e['problem']}" for e in said["errors"]])
    typer.echo(
        f"Next: selfsteer report {out}\n"
        f"      selfsteer claims FILE --data {out}   (FILE: sae_self_steering or self_medication)"
    )


def _listed(title: str, lines: list[str]) -> None:
    from scenarios.look import plain

    if lines:
        typer.echo(title)
    for line in lines[:MOST_LINES]:
        typer.echo(f"  {plain(line)}")
    if len(lines) > MOST_LINES:
        typer.echo(f"  and {len(lines) - MOST_LINES} more, in import.json")
