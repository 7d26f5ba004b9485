"""The vLLM engine for real, on several workers and over HTTP: as one worker in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engines.contract import asked, conversation, everything, random_context, several, steer, style
from tests.engines.real_vllm import ROOT, real
from toolkit.engines import vllm_http
from toolkit.engines.base import Failure, Generate, Read, Score
from toolkit.engines.vllm import VllmEngine, over_http
from toolkit.errors import BadInput
from toolkit.organism import MODEL


@pytest.fixture
def engine(vllm_here: VllmEngine) -> VllmEngine:
    return vllm_here


# ------------------------------------------------------------------ two workers

# a container or a job may have others than the first two
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
TWO_WORKERS = """
import sys
from tests.engines.real_vllm import compare_with_local, in_process, MODEL, SETTINGS

def give_buffers(worker):
    # vLLM's CPU runner forgets them: without, a second stage fails on its first step, steered or not
    runner = worker.model_runner
    kind = {"batch_size": runner.max_num_tokens, "dtype": runner.model_config.dtype, "device": runner.device}
    runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(**kind)
    return sorted(worker.selfsteer_hooks.tables.owned)

if __name__ == "__main__":
    engine = in_process(str(MODEL), **SETTINGS, **{sys.argv[1]: 2})
    layers = engine.servers.engine.collective_rpc(give_buffers)
    assert layers == ([[0, 1], [2, 3]] if sys.argv[1] == "pipeline_parallel" else [[0, 1, 2, 3]] * 2), layers
    compare_with_local(engine)
    print("alike")
"""


@real
@pytest.mark.skipif(len(CORES) < 2, reason="two workers need two cores")
@pytest.mark.parametrize("how", ["tensor_parallel", "pipeline_parallel"])
def test_two_workers_steer_as_one(tmp_path: Path, how: str) -> None:
    """Each has half of every layer, or all of half of the layers, which it must know by their absolute numbers."""
    script = tmp_path / "two_workers.py"
    script.write_text(TWO_WORKERS)
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": f"{CORES[0]}|{CORES[1]}", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, script, how], env=environment, capture_output=True, text=True)
    assert "alike" in ended.stdout, ended.stderr[-3000:]


# ------------------------------------------------------------------ over HTTP, for real


@pytest.fixture(scope="module")
def servers() -> Iterator[list[tuple[subprocess.Popen, str]]]:
    """Two processes that serve the organism."""
    command = [sys.executable, "-m", "toolkit.engines.vllm_server", "--model", "organism", "--port", "0"]
    options = ["--dtype", "float32", "--option", "block_size=32", "--option", "max_num_seqs=8"]
    processes = [subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = []
    for process in processes:
        line = next(line for line in process.stdout if line.startswith("serving"))
        found.append((process, line.split()[-1]))
    yield found
    for process in processes:
        process.kill()
        process.wait()


@real
def test_served_is_in_process_and_a_killed_server_loses_nothing(engine: VllmEngine, servers) -> None:
    with pytest.raises(BadInput, match="serves organism, not some-llama"):
        vllm_http.Fleet([servers[0][1]], "some-llama")
    remote = over_http([url for _, url in servers], str(MODEL), name="organism")
    assert remote.info.digest == engine.info.digest
    remote.attach(style())
    remote.attach(several())
    requests: list[Any] = [
        asked(random_context(i, ("add",)), 60, "http", i, under=steer(i % 10, 0.5), capture=style().key)
        for i in range(12)
    ]
    requests += [Read(random_context(3, ("add",)), (0, 2), (1, 3)), Score(conversation(), (((5,),), ((6, 7),)))]
    expected = everything(engine, requests)
    tickets = [remote.submit(request) for request in requests]
    found = dict(remote.poll())
    servers[0][0].kill()
    while some := remote.poll():
        found.update(some)
    for ticket, request, there in zip(tickets, requests, expected, strict=True):
        here = found[ticket]
        assert not isinstance(here, Failure), here
        assert here.steered == there.steered
        if isinstance(request, Generate):
            assert here.tokens == there.tokens
            torch.testing.assert_close(here.residuals, there.residuals, rtol=1e-4, atol=1e-3)
        elif isinstance(request, Read):
            torch.testing.assert_close(here.values, there.values, rtol=1e-4, atol=1e-3)
        else:
            assert here.logprobs == pytest.approx(there.logprobs, abs=1e-4)
