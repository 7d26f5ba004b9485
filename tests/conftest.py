"""What several test rooms share: a tiny random Llama, and hypothesis settings."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# threads that wait by spinning take the core from the process that they wait for
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ["COLUMNS"] = "80"  # tests read what is printed: as wide, and as plain, whoever starts them

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TERMINAL_WIDTH", "SELFSTEER_DEBUG"):
    os.environ.pop(name, None)
settings.register_profile("selfsteer", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.register_profile("ci", settings.get_profile("selfsteer"), derandomize=True)
# examples are new ones each time, but where a change lands: what fails there must be what the change did
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "selfsteer"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-layer Llama (d_model 32, grouped heads, window 256) and a byte tokenizer."""
    from tests.tiny import make_tiny_llama

    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")
