"""A small run with planted answers, loaded once.

Knows what synthetic.py planted and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.frames import Frames, load
from tests.analysis.synthetic import small_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def frames(run: Path) -> Frames:
    return load(run)
