"""The arrows of the house: who may import whom, read off the source. And no room outgrows its job."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("toolkit", "agents", "scenarios", "analysis")
MAY_IMPORT = {
    "toolkit": ("toolkit",),
    "agents": ("agents", "toolkit"),
    "analysis": ("analysis", "agents.transcript", "agents.grading", "toolkit.errors"),
    "scenarios": OURS,
}
# agents know values of the toolkit, never a model, an engine that runs one, or where dictionaries come from
AGENTS_MAY_NOT = ("toolkit.engines", "toolkit.organism", "toolkit.opening")
AGENTS_MAY = ("toolkit.engines.base",)
FILES = [p for package in OURS for p in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively; packages are imported by their names"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def is_of(name: str, home: str) -> bool:
    return name == home or name.startswith(f"{home}.")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        if name.split(".")[0] in OURS:
            assert any(is_of(name, home) for home in MAY_IMPORT[package]), f"{path} imports {name}"
        if package in ("agents", "analysis"):
            assert name.split(".")[0] not in ("torch", "transformers", "sae_lens"), f"{path} imports {name}"
        if package == "agents":
            barred = any(is_of(name, home) for home in AGENTS_MAY_NOT)
            assert not barred or any(is_of(name, home) for home in AGENTS_MAY), f"{path} imports {name}"


def test_no_file_comes_back_to_itself() -> None:
    """Not by late imports either, nor by those for type checkers: what needs each other is one thing or has a third."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
    # `from a.b import c` names the file a/b/c.py or something in a/b.py; a package's own file only hands names on
    files = {name: {n if n in names else n.rpartition(".")[0] for n in imports(p)} for name, p in names.items()}
    left = {n: found & names.keys() - {n} for n, found in files.items() if names[n].name != "__init__.py"}
    while free := {n for n, found in left.items() if not found & left.keys()}:
        left = {n: found for n, found in left.items() if n not in free}
    assert not left, f"these import each other, or what does: {', '.join(sorted(left))}"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("toolkit", ("torch", "transformers", "numpy")),
        ("scenarios.cli", ("torch", "transformers", "pandas", "matplotlib", "sae_lens", "sentence_transformers")),
        ("agents.rollout", ("torch", "transformers", "pandas")),
        ("analysis.report", ("torch", "transformers")),
    ],
)
def test_what_an_import_costs(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not done.stdout.split(), f"{module} imports {done.stdout}"


def test_no_file_has_two_jobs() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > 360} == {}


def test_nothing_in_the_repository_names_this_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False, cwd=ROOT).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".cff") and path != Path(__file__):
            text = path.read_text(encoding="utf-8")
            for trace in ("/work" + "/main", "/root" + "/", "/tmp" + "/lead"):
                assert trace not in text, f"{name} names {trace}"


def test_every_data_file_of_a_package_is_installed_with_it() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    listed = subprocess.run(["git", "ls-files", *OURS], capture_output=True, text=True, check=False, cwd=ROOT).stdout
    shipped = {
        path
        for package, globs in declared.items()
        for g in globs
        for path in (ROOT / package.replace(".", "/")).glob(g)
    }
    data = [ROOT / name for name in listed.splitlines() if not name.endswith(".py")]
    assert [str(p.relative_to(ROOT)) for p in data if p not in shipped] == []


def test_whatever_is_tracked_is_in_a_source_archive() -> None:
    """Packages and their data are there by themselves, and so are the README, the licence and pyproject.toml."""
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False, cwd=ROOT).stdout.split()
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    named = {word for line in manifest if line.startswith(("include ", "graft ")) for word in line.split()[1:]}
    there = {*OURS, *named, "README.md", "LICENSE", "pyproject.toml", "MANIFEST.in", ".gitignore"}
    assert {name.split("/")[0] for name in tracked} - there == set()


def test_type_checkers_of_users_are_told_that_there_are_types() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in OURS)
