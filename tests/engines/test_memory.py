"""Memory is foretold, and too little of it costs time, never tokens; what cannot be done is a clear error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from scenarios import folder
from scenarios.run import run as run_scenario
from tests.engines.contract import everything
from tests.engines.test_local import DICTIONARY, engine_of, random_context, random_steering
from tests.scenarios import driving
from toolkit.context import Context
from toolkit.engines import jobs, loading, memory, sampling
from toolkit.engines.base import Completion, Failure, Generate, Read, Request, Sampling, Score, run
from toolkit.engines.local import LocalEngine
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import OutOfMemory

FORECAST = memory.Forecast(16, 1000, 1 << 12, 10 << 20, 1 << 20, "cpu", free=22 << 30)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_bytes_of_a_token_follow_from_the_configuration(tiny_llama: Path, dtype: str) -> None:
    engine = LocalEngine(str(tiny_llama), dtype=dtype, device="cpu")
    foretold = memory.token_bytes(AutoConfig.from_pretrained(tiny_llama), loading.DTYPES[dtype])
    assert engine._store.token_bytes() == foretold == 2 * 4 * 2 * 8 * loading.DTYPES[dtype].itemsize


@pytest.mark.parametrize(("rollouts", "tokens"), [(1, 20), (5, 60), (9, 256)])
def test_the_kv_foretold_is_the_kv_held(tiny_llama: Path, rollouts: int, tokens: int) -> None:
    engine = engine_of(tiny_llama)
    forecast = engine.prepare(rollouts, tokens)
    everything(engine, [Generate(random_context(s, 2), Sampling(0.8, 1, 9, (s,))) for s in range(rollouts)])
    assert engine._store.bytes() == forecast.kv == -(-5 * rollouts // 4) * 256 * 1024
    assert str(forecast).startswith(f"{rollouts} rollouts x up to {tokens:,} tokens on cpu: KV ")


def test_no_more_is_foretold_than_goes_abreast_and_fits_the_window(tiny_llama: Path) -> None:
    engine = engine_of(tiny_llama, most_rows=3, chunk=8)
    forecast = engine.prepare(50, 10**9)
    assert (forecast.rollouts, forecast.tokens) == (50, engine.info.window)
    assert forecast.step == memory.step_bytes(loading.text_config(engine.model), torch.float64, 3, 8)


@pytest.mark.parametrize(
    ("request_", "most"),
    [
        (Generate(Context().append([1] * 10), Sampling(0, 1, 30)), 40),
        (Generate(Context().append([1] * 10), Sampling(0, 1, 300)), 100),
        (Score(Context().append([1] * 10), (((5,), (6, 7, 8)), ((9,),))), 13),
        (Read(Context().append([1] * 10), (0,), (0,)), 10),
    ],
    ids=["response", "up to the window", "longest spelling", "read"],
)
def test_a_request_is_as_long_as_it_may_become(request_: Request, most: int) -> None:
    assert jobs.longest(request_, 100) == most


def test_weights_are_counted_with_their_packed_copies(tiny_llama: Path, monkeypatch) -> None:
    monkeypatch.setattr("toolkit.engines.packed.LEAST", 0)
    plain, packed = (LocalEngine(str(tiny_llama), dtype=d, device="cpu").prepare(1, 9) for d in ("float64", "float32"))
    assert plain.weights == sum(p.nbytes for p in LocalEngine(str(tiny_llama), dtype="float64").model.parameters())
    assert plain.weights // 2 < packed.weights < plain.weights


def test_a_line_that_says_it_all() -> None:
    assert str(replace(FORECAST, budget=3 << 30)) == (
        "16 rollouts x up to 1,000 tokens on cpu: KV 80 MiB (4.0 KiB a token), a step up to 1.0 MiB, weights 10 MiB;"
        " KV budget 3.0 GiB; 22 GiB free"
    )
    assert "an unknown amount free" in str(replace(FORECAST, free=None))
    assert "2.0 GiB more on the host" in str(replace(FORECAST, host_budget=2 << 30))


@given(free=st.integers(0, 1 << 28), held=st.integers(0, 1 << 24), rollouts=st.integers(1, 80))
def test_as_many_abreast_as_fit_and_never_none(free: int, held: int, rollouts: int) -> None:
    one = replace(FORECAST, free=free, held=held, rollouts=rollouts)
    assert 1 <= one.abreast <= rollouts
    assert one.fits == (one.kv + one.step <= free + held)
    fewer, more = (replace(one, rollouts=n).kv + one.step for n in (one.abreast, one.abreast + 1))
    assert one.abreast == 1 or fewer <= free + held
    assert one.abreast == rollouts or more > free + held
    assert one.fits or f"It does not fit: {one.abreast} rollouts" in str(one)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   1000 kB\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (MEMINFO, 1_024_000),
        ({**MEMINFO, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.stat": "anon 1\n"}, 1_024_000),
        (
            {  # a job inside a job: the outer one has less left, the cache of its files not counted
                **MEMINFO,
                "proc/self/cgroup": "1:cpu:/x\n0::/job_7/step_0\n",
                "sys/fs/cgroup/job_7/step_0/memory.max": "max\n",
                "sys/fs/cgroup/job_7/step_0/memory.current": "10\n",
                "sys/fs/cgroup/job_7/memory.max": "900000\n",
                "sys/fs/cgroup/job_7/memory.current": "500000\n",
                "sys/fs/cgroup/job_7/memory.stat": "anon 400000\ninactive_file 60000\n",
            },
            460_000,
        ),
        (
            {  # a container, version 1: the path is the host's, the limit lies at the top
                **MEMINFO,
                "proc/self/cgroup": "4:memory:/docker/abc\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "700000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "800000\n",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 100001\n",
            },
            1,
        ),
        (
            {  # its limit was lowered under what it has
                **MEMINFO,
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "700000\n",
                "sys/fs/cgroup/memory.current": "800000\n",
            },
            0,
        ),
    ],
    ids=["not Linux", "no groups", "no limit", "version 2", "version 1", "over its limit"],
)
def test_memory_free_is_no_more_than_a_container_or_job_may_have(tmp_path: Path, files, free) -> None:
    assert memory.host_free_bytes(tree(tmp_path, files)) == free


# ---------------------------------------------------------------------- when it runs out


def requests() -> list:
    generates = [
        Generate(random_context(s), Sampling(0.8, 1, 7, ("m", s)), random_steering(s), DICTIONARY.key, True)
        for s in range(6)
    ]
    return [*generates, Score(random_context(7), (((3,), (4, 5)), ((6, 7, 8),))), Read(random_context(8), (0, 3), (1,))]


def outcome(engine: LocalEngine) -> list[str]:
    """All that came of the requests, as text; residuals by their bits."""
    found = everything(engine, requests())
    torch.set_printoptions(precision=17)
    try:
        return [str(replace(one, reused=0) if hasattr(one, "reused") else one) for one in found]
    finally:
        torch.set_printoptions(profile="default")


def scarce(monkeypatch, engine: LocalEngine, runs_out, error: Exception) -> list[int]:
    """Have the model's decoder fail in its middle whenever `runs_out(tokens in the pass, failures so far)`."""
    failures: list[int] = []
    block = loading.decoder_blocks(engine.model)[2]
    plain = block.forward

    def forward(hidden, *args, **kwargs):
        count = engine._forward._attention.pack.count
        if runs_out(count, len(failures)):
            failures.append(count)
            raise error
        return plain(hidden, *args, **kwargs)

    monkeypatch.setattr(block, "forward", forward)
    return failures


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried 1 bytes"),
    MemoryError("Unable to allocate 2.00 GiB for an array"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "torch on a cpu", "numpy", "cublas"])
@pytest.mark.parametrize("most", [40, 5, 1], ids=lambda n: f"{n} tokens a pass")
def test_out_of_memory_costs_time_and_no_token_and_is_said(tiny_llama, monkeypatch, error, most) -> None:
    said: list[str] = []
    expected = outcome(engine_of(tiny_llama, dtype="float32"))
    engine = engine_of(tiny_llama, dtype="float32", say=said.append, host_budget=1 << 20)
    for s in range(20, 24):
        run(engine, Generate(random_context(s), Sampling(0, 1, 2)))  # contexts that wait
    failures = scarce(monkeypatch, engine, lambda count, _: count > most, error)
    assert outcome(engine) == expected
    assert failures and all(count > most for count in failures)
    assert len(said) == len(failures) and all(line.startswith("out of memory on cpu: ") for line in said)
    assert "kept KV of waiting rollouts" in said[0] and len(engine._store.away) >= 4


def test_one_shortage_gives_up_waiting_contexts_only(tiny_llama, monkeypatch) -> None:
    said: list[str] = []
    engine = engine_of(tiny_llama, dtype="float32", say=said.append)
    run(engine, Generate(random_context(20), Sampling(0, 1, 2)))
    scarce(monkeypatch, engine, lambda _, before: before < 1, ERRORS[0])
    assert outcome(engine) == outcome(engine_of(tiny_llama, dtype="float32"))
    assert len(said) == 1 and (engine.most_rows, engine.chunk) == (64, 1024)


def test_a_shortage_long_after_another_is_met_as_the_first_was(tiny_llama, monkeypatch) -> None:
    said: list[str] = []
    engine, short = engine_of(tiny_llama, say=said.append), [False]
    scarce(monkeypatch, engine, lambda *_: short.pop() if short else False, ERRORS[0])
    for s in (20, 21, 22):
        run(engine, Generate(random_context(s), Sampling(0, 1, 3)))
        short.append(True)
    assert len(said) == 2 and all("kept KV of waiting rollouts" in line for line in said)
    assert (engine.most_rows, engine.chunk) == (64, 1024)


def test_a_shortage_while_drawing_takes_no_number_twice(tiny_llama, monkeypatch) -> None:
    said: list[str] = []
    engine = engine_of(tiny_llama, dtype="float32", say=said.append)
    plain, calls = sampling.draw, []

    def draw(*args):
        calls.append(1)
        if len(calls) in (2, 5):
            raise ERRORS[0]
        return plain(*args)

    expected = outcome(engine_of(tiny_llama, dtype="float32"))
    monkeypatch.setattr(sampling, "draw", draw)
    assert outcome(engine) == expected and len(said) == 2


def test_a_shortage_while_starting_loses_no_answer(tiny_llama, monkeypatch) -> None:
    said: list[str] = []
    engine = engine_of(tiny_llama, say=said.append)
    plain, calls = engine._store.acquire, []

    def acquire(*args):
        calls.append(1)
        if len(calls) == 1:
            raise ERRORS[2]
        return plain(*args)

    monkeypatch.setattr(engine._store, "acquire", acquire)
    bad = engine.submit(Read(Context().append([0, 5]), (0,), (99,)))  # no such layer
    good = engine.submit(Generate(Context().append([0, 5, 9]), Sampling(0, 1, 4)))
    finished = dict(engine.poll())
    while more := engine.poll():
        finished |= dict(more)
    assert isinstance(finished[bad], Failure) and isinstance(finished[good], Completion) and said


def test_what_does_not_fit_at_all_is_a_clear_error_and_the_engine_lives_on(tiny_llama, monkeypatch) -> None:
    said: list[str] = []
    engine = engine_of(tiny_llama, say=said.append)
    with monkeypatch.context() as patch:
        scarce(patch, engine, lambda *_: True, ERRORS[0])
        for s in range(2):
            engine.submit(Generate(random_context(s), Sampling(0, 1, 3)))
        failed = [one for _ in range(2) for one in engine.poll()]
    assert len(failed) == 2 and engine.poll() == []
    for _, one in failed:
        assert isinstance(one, Failure) and isinstance(one.error, OutOfMemory)
        assert "does not fit the memory" in str(one.error)
    assert (engine.most_rows, engine.chunk) == (1, 1)
    same = Generate(Context().append([0, 5, 9]), Sampling(0, 1, 4))
    assert run(engine, same).tokens == run(engine_of(tiny_llama), same).tokens


def test_room_that_cannot_be_made_ahead_is_made_as_it_is_needed(tiny_llama: Path, monkeypatch) -> None:
    said: list[str] = []
    engine = engine_of(tiny_llama, dtype="float32", say=said.append)  # in which company changes no bit
    run(engine, Generate(random_context(1), Sampling(0, 1, 3)))
    with monkeypatch.context() as patch:
        scarce_room = iter([ERRORS[0]])
        plain = engine._store._moved

        def moved(*args):
            for error in scarce_room:
                raise error
            return plain(*args)

        patch.setattr(engine._store, "_moved", moved)
        assert engine.prepare(40, 200).rollouts == 40
    assert len(said) == 1 and "no room is made ahead" in said[0]
    assert outcome(engine) == outcome(engine_of(tiny_llama, dtype="float32"))


def test_other_errors_are_not_taken_for_a_shortage(tiny_llama, monkeypatch) -> None:
    said: list[str] = []
    engine = engine_of(tiny_llama, say=said.append)
    scarce(monkeypatch, engine, lambda *_: True, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(engine, Generate(random_context(1), Sampling(0, 1, 3)))
    assert not said


class Small(ScriptedEngine):
    """A scripted engine on a machine with room for two, which counts how many go abreast."""

    abreast = 0

    def prepare(self, rollouts: int, tokens: int) -> memory.Forecast:
        room = 3 * memory.places(tokens) * 1024
        return memory.Forecast(rollouts, tokens, 1024, 0, 0, "paper", free=room)

    def submit(self, request) -> int:
        ticket = super().submit(request)
        self._open = getattr(self, "_open", set()) | {ticket}
        self.abreast = max(self.abreast, len(self._open))
        return ticket

    def poll(self):
        finished = super().poll()
        self._open -= {ticket for ticket, _ in finished}
        return finished


def test_a_run_says_what_it_will_take_and_goes_as_many_abreast_as_fit(tmp_path: Path, capsys) -> None:
    on = Small(driving.answer, residuals=driving.residuals)
    planned = [driving.condition("a", on)]
    about = folder.manifest("test", {"rounds": 4}, planned, 5, on)
    outcome = run_scenario(planned, 5, on, tmp_path / "run", about, abreast=4)
    assert outcome.ended.get("failed", 0) == 0 and on.abreast == 2
    assert "4 rollouts x up to " in (said := capsys.readouterr().err) and "It does not fit: 2 rollouts at once" in said
