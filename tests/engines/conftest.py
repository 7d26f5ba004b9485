"""One opened engine a kind for the whole suite; those whose package is missing are skipped and say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.engines import contract
from tests.engines.contract import ENGINES, Entry, Reference
from tests.engines.real_vllm import opened
from tests.engines.served import Here, serving
from toolkit.engines.base import Engine
from toolkit.engines.vllm import VllmEngine


@dataclass(frozen=True)
class Case:
    """An engine with both dictionaries attached, what it says of itself, and what it is held against."""

    name: str
    entry: Entry
    engine: Engine
    reference: Reference


def entry_or_skip(name: str) -> Entry:
    entry = ENGINES[name]
    if gone := contract.missing(entry):
        pytest.skip(f"the {name} engine needs {', '.join(gone)}, which is not installed here")
    return entry


@pytest.fixture(scope="session", params=ENGINES)
def case(request: pytest.FixtureRequest) -> Case:
    entry = entry_or_skip(request.param)
    engine = entry.open()
    engine.attach(contract.style())
    engine.attach(contract.several())
    return Case(request.param, entry, engine, contract.reference(entry.dtype))


@pytest.fixture
def here() -> Iterator[list[Here]]:
    """Two servers of plans in this process."""
    with serving(2) as both:
        yield both


@pytest.fixture(scope="session")
def vllm_here() -> VllmEngine:
    """vLLM in this process, with small chunks, blocks and batches. Only in tests that vLLM is there for."""
    return opened()
