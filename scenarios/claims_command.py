"""`selfsteer claims`: the published numbers of a study beside the same numbers recomputed from its transcripts.

Knows no claim and no metric; files of claims name both.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.errors import BadInput

if TYPE_CHECKING:
    from analysis.searches import Embed

File = Annotated[str, typer.Argument(help="A study that ships here, such as sae_self_steering, or a .yaml file.")]
Data = Annotated[Path, typer.Option(help="Folder that `selfsteer import` wrote, or a run.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for claims.json, .md and .parquet; default: claims/NAME in the data folder.")
]
Only = Annotated[str | None, typer.Option(help="Only claims whose identifier begins so, such as degeneration.")]

Embedder = Annotated[
    str | None,
    typer.Option(help="sentence-transformers name or folder, for queries by meaning; without it: not checked."),
]


def claims(file: File, data: Data, out: Out = None, only: Only = None, embedder: Embedder = None) -> None:
    """Recompute every claim of a study: value, interval and n, and whether it is the published number.

    A verdict is exact (to the published digits), near, no, or undefined. The file says which verdict is expected;
    if one differs, the command ends with status 1, so that a definition that drifts is found. Claims about rollouts
    that the data do not hold are not checked, and counted as such.

    Example: selfsteer claims sae_self_steering --data imported/sae-study
    """
    from rich.console import Console
    from rich.table import Table

    from analysis import load
    from analysis.claims import read, recompute, tables
    from analysis.safe import plain

    study = read(file)
    if only is not None:
        kept = tuple(c for c in study.claims if c.id.startswith(only))
        if not kept:
            raise BadInput(f"no claim of {study.name} begins with {only!r}; as {study.claims[0].id} does")
        study = study.model_copy(update={"claims": kept})
    results = list(recompute(study, load(data), _embedding(embedder)))
    if all(r.unembedded for r in results):
        raise BadInput("these claims are queries by meaning; give --embedder")
    if all(r.absent for r in results):
        raise BadInput(f"{data} holds none of the rollouts that {study.name} is about; import its files first")
    made = tables.table(study, results)
    shown = Table(title=plain(made.title))
    for column in made.columns[:-1]:
        shown.add_column(column, overflow="fold")
    for row in made.rows:
        shown.add_row(*map(plain, row[:-1]))
    console = Console()
    console.print(shown)
    for r in (r for r in results if r.changed):
        console.print(
            f"changed: {plain(r.claim.id)}: {plain(tables.value(r))}, {plain(tables.worded(r))}", markup=False
        )
    console.print(made.note, markup=False)
    folder = out or data / "claims" / study.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.json").write_text(tables.as_json(study, results, data.name), encoding="utf-8")
    (folder / "claims.md").write_text(tables.markdown(study, results), encoding="utf-8")
    tables.frame(results).to_parquet(folder / "claims.parquet")
    typer.echo(f"Queries, intervals and notes: {folder / 'claims.md'}")
    if any(r.changed for r in results):
        raise typer.Exit(1)


def _embedding(embedder: str | None) -> Embed | None:
    if embedder is None:
        return None
    from toolkit.search import embed

    return partial(embed, embedder=embedder)
