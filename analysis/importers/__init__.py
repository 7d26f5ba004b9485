"""Transcripts of others in: a folder of their files becomes the same frames as a run of our own, as Parquet.

Knows no claim and no statistic. Each importer is one file here that reads one kind of file; store.py writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from analysis.bar import with_bar
from analysis.importers import store
from analysis.importers.store import Rollout, Survey, Writer
from toolkit.errors import BadInput

__all__ = ["IMPORTERS", "import_folder"]

IMPORTERS = {
    "sae-study": "analysis.importers.sae_study",
    "self-medication-facts": "analysis.importers.facts",
    "inspect": "analysis.importers.inspect_logs",
}
"""A kind of file to the module that reads it, imported when it is asked for."""


class Importer(Protocol):
    """What a module in IMPORTERS has. Its docstring's first line says which files it reads."""

    __doc__: str

    def survey(self, path: Path) -> Survey:
        """The files of this kind at `path`, by their names: itself, or those of a folder that are to be read."""

    def looks_like(self, path: Path) -> bool:
        """Does the first file there begin as such a file does?"""

    def read(self, path: Path) -> Iterator[Rollout]:
        """The rollouts of one file. Raises BadInput, in one line, where it is damaged."""


def import_folder(path: str | Path, out: str | Path, kind: str | None = None) -> Mapping[str, Any]:
    """Read a file, or all files of a folder, with the importer that knows them, and write OUT. Returns OUT/import.json.

    A damaged file, or a rollout that fits no frame, is listed in `errors`, and the rest goes on. kind: one of
    IMPORTERS, where several would read it.
    Raises BadInput if none does, or if no file gave a rollout.
    """
    source = Path(path)
    name, importer = _importer(source, kind)
    found = importer.survey(source)
    files = found.files
    top = source if source.is_dir() else source.parent
    if Path(out).resolve() == top.resolve():
        raise BadInput(f"{out} is the folder that is read; give --out another one")
    with Writer(Path(out), name, source.resolve().name) as writer:
        writer.files = len(files)
        writer.left_out += found.left_out
        for problem in found.problems:
            writer.damaged(*problem)
        known = len(files) + sum(found.left_out.values()) + len(found.problems)
        others = sum(p.is_file() for p in source.rglob("*")) - known if source.is_dir() else 0
        if others > 0:
            writer.left_out[f"files of another kind than {name} (not read)"] = others
        for file in with_bar(files, f"reading {name}"):
            shown = file.relative_to(top).as_posix()
            try:
                for rollout in importer.read(file):
                    rollout.path = shown
                    try:
                        writer.add(rollout)
                    except BadInput as error:
                        writer.damaged(rollout.name, shown, str(error))
            except BadInput as error:
                writer.damaged(file.stem, shown, str(error))
        if not writer.rows["rollouts"]:
            first = writer.errors[0]["problem"] if writer.errors else "it gave no rollout"
            tried = len(files) + len(found.problems)
            raise BadInput(f"{path}: none of {tried} files could be read; the first: {first}")
    return store.manifest(Path(out))


def _importer(path: Path, kind: str | None) -> tuple[str, Importer]:
    if not path.exists():
        raise BadInput(f"{path} does not exist; give a file or a folder of transcripts")
    if kind is not None and kind not in IMPORTERS:
        raise BadInput(f"there is no importer {kind!r}; there is {', '.join(IMPORTERS)}")
    modules = {name: cast(Importer, import_module(where)) for name, where in IMPORTERS.items() if kind in (None, name)}
    fitting = {name: module for name, module in modules.items() if module.looks_like(path)}
    if len(fitting) == 1:
        return next(iter(fitting.items()))
    if fitting:
        raise BadInput(f"{path} holds files of several kinds ({', '.join(fitting)}); say which with --kind")
    known = "; ".join(f"{name}: {module.__doc__.splitlines()[0]}" for name, module in modules.items())
    raise BadInput(f"{path} holds nothing that can be imported. What can be: {known}")
