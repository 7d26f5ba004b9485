"""The README's Python runs as it stands there, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    plain, steered = done.stdout.strip().split("\n0.6 ")
    assert plain.startswith("0.0 ") and steered


def test_links_and_tests_that_documents_name_exist() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
        for path in re.findall(r"`((?:toolkit|agents|scenarios|analysis|tests)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", README):
        assert f"def {name}(" in sources, f"the README names {name}"


def test_the_page_of_columns_is_the_table_that_makes_them() -> None:
    from analysis.columns import columns_markdown

    assert (ROOT / "docs" / "frames.md").read_text(encoding="utf-8").endswith(f"{columns_markdown().rstrip()}\n")
