"""What the nnsight engine alone promises: jobs on a host, over HTTP as NDIF speaks it, and clear errors."""

from __future__ import annotations

import importlib.util
import io
import json
import linecache
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if importlib.util.find_spec("nnsight") is None:
    pytest.skip("the nnsight engine needs nnsight, which is not installed here", allow_module_level=True)

from typer.testing import CliRunner

from scenarios import cli, setting
from tests.engines import contract
from tests.engines.contract import asked, conversation, everything, steer, style
from tests.tiny import random_dictionary
from toolkit.engines import nnsight_host
from toolkit.engines.base import Failure, Read, Score, check_steered, run
from toolkit.engines.local import LocalEngine
from toolkit.engines.nnsight import NnsightEngine
from toolkit.errors import BadInput, SteeringError, Unreachable, Unsupported
from toolkit.organism import MODEL


class Host:
    """A host that takes jobs as NDIF does: POST /request, GET /response/ID, GET /result/ID. One job at a time.

    away: answers 503. closed: answers 401. garbled: results are not what nnsight sends. failing: jobs end in an error.
    newest: only the last job has finished. forgetful: it was started anew and knows no job. odd: of another version.
    """

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        nnsight = nnsight_host.package()
        module = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.model = nnsight.TransformersModel(module, tokenizer=tokenizer, task="text-generation")
        self.results: dict[str, bytes] = {}
        self.keys: list[str] = []
        self.settle()
        host, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                form = parts(self.headers["Content-Type"], body)
                if host.away or host.closed:
                    return self.send(503 if host.away else 401, b'{"detail": "no such key"}')
                with lock:
                    return self.send(200, json.dumps(host.take(f"job-{len(host.keys)}", form)).encode())

            def do_GET(self) -> None:
                _, kind, number = self.path.split("/")
                if host.away:
                    return self.send(503, b"busy")
                if kind == "result":
                    return self.send(200, b"<html>" if host.garbled else host.results[number])
                if host.failing:
                    answer = {"id": number, "status": "ERROR", "description": "out of memory"}
                elif number not in host.results or host.forgetful:
                    return self.send(404, b"{}")
                elif host.newest and number != f"job-{len(host.keys) - 1}":
                    answer = {"id": number, "status": "RUNNING"}
                else:
                    answer = {"id": number, "status": "COMPLETED", "data": f"{host.address}/result/{number}"}
                return self.send(200, json.dumps(answer).encode())

            def send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def settle(self) -> None:
        self.away = self.closed = self.garbled = self.failing = self.newest = self.forgetful = self.odd = False

    def take(self, number: str, form: dict[str, bytes]) -> dict[str, str]:
        """Run a job as it arrives: the block is compiled from the source that came, against this host's own model."""
        import zstandard
        from nnsight.schema.request import RequestModel
        from nnsight.tracing.tracer import dec, inc

        self.keys.append(json.loads(form["data"])["model_key"])
        lines = dict(linecache.cache)  # a host of its own would not share these with whoever sends
        inc()  # as a trace's own exit does around running it
        try:
            tracer = RequestModel.deserialize(form["blob"], self.model._remoteable_persistent_objects(), compress=True)
            tracer.execute(tracer.info.code)
        finally:
            dec()
            linecache.cache.clear()
            linecache.cache.update(lines)
        buffer = io.BytesIO()
        torch.save({"answer": {} if self.odd else tracer.info.frame.f_locals["answer"]}, buffer)
        self.results[number] = zstandard.ZstdCompressor().compress(buffer.getvalue())
        return {"id": number, "status": "RECEIVED"}


def parts(kind: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form."""
    message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    return {
        str(p.get_param("name", header="content-disposition")): p.get_payload(decode=True)
        for p in message.get_payload()
    }


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    nnsight_host.package()
    from nnsight.modeling.huggingface import _ID_CACHE

    _ID_CACHE[str(MODEL)] = "selfsteer/organism"  # what the hub would say that this folder is called
    host = Host()
    yield host
    host.server.shutdown()
    del _ID_CACHE[str(MODEL)]


@pytest.fixture()
def engine(host: Host) -> NnsightEngine:
    host.settle()
    engine = NnsightEngine(str(MODEL), remote=host.address, poll_s=0.01)
    engine.attach(style())
    return engine


@pytest.fixture(scope="module")
def here() -> NnsightEngine:
    engine = NnsightEngine(str(MODEL), device="cpu", dtype="float32")
    engine.attach(style())
    return engine


def test_a_host_answers_as_this_machine_does(host: Host, engine, here) -> None:
    under = steer(3, 0.8)
    context = conversation().append([50, 51], steer(2, 0.5, "project_out"))
    requests = [
        asked(context, 8, under=under, capture=style().key, logprobs=True),
        asked(context, 8, "s", under=under),
        Score(context, (((5,),), ((6, 7), (8,))), under),
        Read(context, (0, 3), (1, 3)),
    ]
    far, near = everything(engine, requests), everything(here, requests)
    for request, a, b in zip(requests, far, near, strict=True):
        check_steered(context, a, *([under] if hasattr(a, "tokens") else []))
        assert a.steered == b.steered, request
    assert [a.tokens for a in far[:2]] == [b.tokens for b in near[:2]]
    torch.testing.assert_close(far[0].residuals, near[0].residuals, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(far[3].values, near[3].values, rtol=1e-4, atol=1e-3)
    assert far[2].logprobs == pytest.approx(near[2].logprobs, abs=1e-4)
    assert engine.info.device == host.address and "selfsteer/organism" in host.keys[-1]


def test_jobs_are_in_flight_together_and_one_can_be_cancelled(host: Host, engine, here) -> None:
    requests = [asked(conversation(), 4, "many", s) for s in range(4)]
    tickets = [engine.submit(r) for r in requests]
    host.newest = True  # the others are still computing
    assert [t for t, _ in engine.poll()] == [tickets[3]]
    assert sorted(engine._running) == tickets[:3]
    engine.cancel(tickets[2])
    host.newest = False
    found = dict(contract.drain(engine))
    assert sorted(found) == tickets[:2]
    assert [found[t].tokens for t in tickets[:2]] == [r.tokens for r in everything(here, requests[:2])]


def test_a_host_that_comes_back_loses_nothing(host: Host, engine, here) -> None:
    request = asked(conversation(), 4)
    ticket = engine.submit(request)
    host.away = True
    timer = threading.Timer(0.1, lambda: setattr(host, "away", False))
    timer.start()
    assert dict(engine.poll())[ticket].tokens == run(here, request).tokens
    timer.join()


def test_a_host_that_stays_away_fails_the_request_by_name(host: Host, engine) -> None:
    host.away, engine.patience_s = True, 0.1
    with pytest.raises(Unreachable, match="has not answered for"):
        run(engine, asked(conversation(), 4))


def test_patience_is_counted_from_the_last_answer(monkeypatch) -> None:
    import httpx

    clock = [1.0]
    monkeypatch.setattr(nnsight_host, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Handle:
        status: str | None = None
        away = False

        def __call__(self) -> None:
            if self.away:
                raise httpx.ConnectError("refused")
            self.status = "RUNNING"

    job = nnsight_host.Sent("http://host", 10.0, Handle())
    for clock[0], job.handle.away in ((1.0, True), (9.0, True), (10.0, False), (12.0, True), (21.0, True)):
        assert job.answer(lambda: None) is None
    clock[0] = 23.0
    with pytest.raises(Unreachable, match="for 11 s: refused"):
        job.answer(lambda: None)


def test_a_host_that_has_forgotten_the_job_fails_it_by_name(host: Host, engine) -> None:
    """It answers, and that it does not know the job: asked for ever, it would say so for ever."""
    host.forgetful, engine.patience_s = True, 0.1
    with pytest.raises(Unreachable, match="does not know of the job"):
        run(engine, asked(conversation(), 4))


def test_a_host_that_answers_something_else_fails_the_request_and_not_the_run(host: Host, engine) -> None:
    host.odd = True
    with pytest.raises(Unreachable, match="something else than was asked"):
        run(engine, asked(conversation(), 4))


def test_a_job_that_fails_over_there_fails_here(host: Host, engine) -> None:
    host.failing = True
    with pytest.raises(Unreachable, match="out of memory"):
        run(engine, asked(conversation(), 4))
    host.failing = False
    assert run(engine, asked(conversation(), 2)).tokens


def test_a_host_that_wants_another_key_or_answers_nonsense_is_named(host: Host, engine) -> None:
    host.closed = True
    with pytest.raises(Unreachable, match="no such key"):
        run(engine, asked(conversation(), 2))
    host.closed, host.garbled = False, True
    with pytest.raises(Unreachable, match="cannot be read"):
        run(engine, asked(conversation(), 2))


def test_what_a_host_cannot_do_is_refused_and_the_others_go_on(engine) -> None:
    clamped = asked(conversation(), 2, under=steer(3, 0.5, "clamp"))
    good, bad = everything(engine, [asked(conversation(), 2), clamped])
    assert good.tokens
    assert isinstance(bad, Failure) and isinstance(bad.error, Unsupported) and "local engine" in str(bad.error)


def test_ndif_wants_a_key(monkeypatch) -> None:
    nnsight = nnsight_host.package()
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", None)
    monkeypatch.setattr(nnsight.CONFIG.API, "HOST", "https://api.ndif.us")
    with pytest.raises(BadInput, match="NDIF_API_KEY"):
        NnsightEngine("org/model", remote=True)


def test_a_model_that_no_host_can_know_is_refused(tmp_path: Path, tiny_llama: Path) -> None:
    for folder in (tmp_path, tiny_llama):
        with pytest.raises(BadInput, match="hub name"):
            NnsightEngine(str(folder), remote="http://127.0.0.1:9")


def test_a_look_up_that_fails_without_a_word_is_named_by_its_kind(monkeypatch) -> None:
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    with pytest.raises(BadInput, match="could not be named to a host: OSError Give a hub name"):
        nnsight_host.shape("org/model", False)


def test_generation_settings_that_change_what_is_drawn_are_found_out(here) -> None:
    first = run(here, asked(conversation(), 4)).tokens
    here._model._module.generation_config.suppress_tokens = [first[0]]
    try:
        with pytest.raises(SteeringError, match="generation settings"):
            run(here, asked(conversation(), 4))
    finally:
        here._model._module.generation_config.suppress_tokens = None


def test_a_layer_that_steers_only_some_tokens_is_found_out(here, monkeypatch) -> None:
    run_trace = here._run

    def half(one):
        answer = run_trace(one)
        return {**answer, "ran": answer["ran"][:-1]}

    monkeypatch.setattr(here, "_run", half)
    with pytest.raises(SteeringError, match="ran on"):
        run(here, asked(conversation(), 4))


KINDS = {
    "GPT2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "Bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4, "max_position_embeddings": 64},
    "Mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 3, "max_position_embeddings": 64},
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_the_local_engine_cannot_take_run_here(kind: str, tmp_path: Path, tiny_llama: Path) -> None:
    """LayerNorms, ALiBi, no attention at all: residuals, tokens and scores are those of a plain pass."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=261, initializer_range=0.3, bos_token_id=0, eos_token_id=1, pad_token_id=1, **KINDS[kind]
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for file in (*tiny_llama.glob("tokenizer*"), *tiny_llama.glob("*.jinja")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if kind != "GPT2":
        with pytest.raises(Unsupported, match="use the nnsight engine"):
            LocalEngine(str(tmp_path), device="cpu")
    engine = NnsightEngine(str(tmp_path), device="cpu", dtype="float64")
    dictionary = random_dictionary(32, layers=(0, 2))
    engine.attach(dictionary)
    plain = contract.Reference(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64), [dictionary]
    )
    under = steer(3, 0.9, dictionary=dictionary)
    context = contract.random_context(1, dictionaries=(dictionary,)).append([9, 80], under)
    got = run(engine, asked(context, 12, "s", under=under, capture=dictionary.key, logprobs=True))
    check_steered(context, got, under)
    residuals, _ = plain.run(context, got.tokens, under)
    torch.testing.assert_close(
        got.residuals, residuals[len(context) :, 0], rtol=1e-5, atol=1e-6
    )  # Mamba's scan is float32
    before = plain.logprobs(context, got.tokens, under)
    assert got.logprobs == pytest.approx(before[range(len(got.tokens)), got.tokens].tolist(), abs=1e-5)
    scores = Score(context, (((5,),), ((6, 7), (8,))), under)
    assert run(engine, scores).logprobs == pytest.approx(plain.score(scores), abs=1e-6)


def test_a_model_that_makes_its_logits_in_a_way_of_its_own_is_found_out(tmp_path: Path) -> None:
    """Times a number where the same setting of other models is divided by: its scores were once 7.8 nats off."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    sizes = {"vocab_size": 1792, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model("hyperclovax", logits_scaling=4.0, num_attention_heads=4, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="nats from its own"):
        NnsightEngine(str(tmp_path), device="cpu", dtype="float32").attach(style())


def test_settings_of_the_checkpoint_do_not_change_what_is_drawn(here) -> None:
    every = range(4, here.info.vocabulary)  # of which no_repeat_ngram_size would let none come again
    request = asked(conversation().append(every), 8, "s")
    expected = run(here, request).tokens
    settings = here._model._module.generation_config
    before = settings.to_dict()
    settings.update(do_sample=True, temperature=3.0, top_k=2, repetition_penalty=9.0, no_repeat_ngram_size=1)
    settings.update(min_new_tokens=50, num_beams=2, prefill_chunk_size=5)
    try:
        assert run(here, request).tokens == expected
    finally:
        settings.update(**before)


def test_nothing_attached_is_unsteered() -> None:
    engine = NnsightEngine(str(MODEL), device="cpu", dtype="float32")
    assert run(engine, asked(conversation(), 4)).tokens
    with pytest.raises(SteeringError, match="attached"):
        run(engine, asked(conversation(), 4, under=steer(1, 0.5)))


def test_a_bfloat16_model_scores_in_float32(monkeypatch) -> None:
    """Log-probabilities from a bfloat16 head would be quantised to about 1/8 nat; ten options would share values."""
    low = NnsightEngine(str(MODEL), device="cpu", dtype="bfloat16")
    options = tuple(((t,),) for t in range(200, 240))
    got = run(low, Score(conversation(), options))
    assert len({round(x, 6) for x in got.logprobs}) == len(options)


def test_a_model_that_overflows_fails() -> None:
    engine, loud = NnsightEngine(str(MODEL), device="cpu", dtype="float16"), steer(3, 1e5)
    engine.attach(style())
    context = conversation().under(loud, 9)
    bad = [asked(context, 3, under=loud), Read(context, (12,), (3,)), Score(context, (((5,),),))]
    for got in everything(engine, bad):
        assert isinstance(got, Failure) and "not finite" in str(got.error)
    assert run(engine, asked(conversation(), 2)).tokens


def test_nothing_of_this_project_need_be_where_a_trace_runs(monkeypatch) -> None:
    """As if it were installed from an index: nnsight sends the source of what lies in a checkout by itself.

    Source and plain values travel, and no bytecode: a host may run another Python.
    """
    nnsight_host.package()
    monkeypatch.setattr("nnsight.ndif._PULLED_ENV", True)
    monkeypatch.setattr("cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES", set())
    asked_for: list[str] = []

    def find_class(self, module: str, name: str):
        asked_for.append(f"{module}.{name}")
        return pickle.Unpickler.find_class(self, module, name)

    unpickler = "nnsight.intervention.serialization.CustomCloudUnpickler"
    monkeypatch.setattr(f"{unpickler}.find_class", find_class, raising=False)
    engine = NnsightEngine(str(MODEL), remote="local", device="cpu", dtype="float32")
    engine.attach(style())
    assert run(engine, asked(conversation(), 4, "s", under=steer(3, 0.5))).tokens
    assert asked_for and not [n for n in asked_for if n.startswith("toolkit") or "_make_" in n or "CodeType" in n]


def test_an_engine_leaves_the_objects_of_its_process_alone() -> None:
    code = (
        "from toolkit import NnsightEngine; from toolkit.organism import MODEL; import sys;"
        "NnsightEngine(str(MODEL), device='cpu'); assert 'nnsight' in sys.modules; assert not hasattr(object, 'save')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nnsight", None)
    with pytest.raises(Unsupported, match=r"selfsteer\[nnsight\]"):
        NnsightEngine(str(MODEL))


def test_a_whole_run_is_that_of_the_local_engine(tmp_path: Path) -> None:
    """Same command, same seed: every turn, response and reading of free exploration, token for token."""
    events = {}
    for model in ("organism", "nnsight:organism"):
        out = tmp_path / model.replace(":", "-")
        options = ["--model", model, "--out", str(out), *["--framings", "research", "--seeds", "2", "--rounds", "5"]]
        done = CliRunner().invoke(cli.app, ["run", "free-exploration", *options])
        assert done.exit_code == 0, done.output
        files = sorted(out.glob("rollouts/*/*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        events[model] = [
            {k: e.get(k) for k in ("event", "tokens", "steered", "features", "verb", "outcome")} for e in lines
        ]
    assert events["organism"] == events["nnsight:organism"]
    assert any(e["event"] == "response" and len(e["steered"]) > 1 for e in events["organism"])


def test_an_engine_without_kv_refuses_a_budget_for_it() -> None:
    with pytest.raises(BadInput, match="leave out the KV budget"):
        setting.open_engine("nnsight:organism", kv_budget=1.0)
