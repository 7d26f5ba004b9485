"""On a CPU in float32 a rollout has the same bits in any company: batch, chunk, order, kept or recomputed KV."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engines.contract import everything, reference
from tests.engines.test_local import DICTIONARY, engine_of, random_context, random_steering, read_all
from tests.engines.test_models import folder_of
from toolkit.context import Context
from toolkit.engines.base import Completion, Generate, Sampling, run
from toolkit.engines.loading import exact_logits
from toolkit.steering import MODES, Intervention, Mode, Steering
from toolkit.vectors import Vectors, as_dictionary


@pytest.fixture(params=[(1, False), (2, False), (2, True)], ids=["one thread", "two threads", "packed"])
def threads(request, monkeypatch):
    """On so many threads, the weights of small layers packed or not; every attention is dealt out."""
    monkeypatch.setattr("toolkit.engines.attention.PARALLEL", 0)
    if request.param[1]:
        monkeypatch.setattr("toolkit.engines.packed.LEAST", 0)
    before = torch.get_num_threads()
    yield request.param[0]
    torch.set_num_threads(before)


@pytest.fixture()
def fresh(tiny_llama: Path, threads: int):
    """Makes engines without memory, in float32."""
    return lambda **options: engine_of(tiny_llama, dtype="float32", threads=threads, **options)


def requests(n: int) -> list[Generate]:
    return [
        Generate(
            random_context(s, 1 + s % 5),
            Sampling(0.8, 1, 4 + s % 17, ("b", s)),
            random_steering(s),
            DICTIONARY.key,
            True,
        )
        for s in range(n)
    ]


def same_bits(one: Completion, other: Completion) -> bool:
    return one.tokens == other.tokens and one.logprobs == other.logprobs and torch.equal(one.residuals, other.residuals)


def test_batch_1_8_and_32_give_the_same_bits(fresh) -> None:
    asked = requests(32)
    together = everything(fresh(), asked)
    eight = [one for i in range(0, 32, 8) for one in everything(fresh(), asked[i : i + 8])]
    single = fresh()
    assert all(same_bits(a, b) for a, b in zip(together, eight, strict=True))
    assert all(same_bits(a, run(single, r)) for a, r in zip(together, asked, strict=True))


@pytest.mark.parametrize(
    "options", [{"chunk": 5}, {"most_rows": 3}, {"keep_lanes": 1}, {"chunk": 1}, {"kv_budget": 1, "most_rows": 2}]
)
def test_chunks_and_kept_lanes_change_no_bit(fresh, options) -> None:
    asked = requests(8)
    plain = everything(fresh(), asked)
    other = everything(fresh(**options), asked)
    assert all(same_bits(a, b) for a, b in zip(plain, other, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_long_spans_under_one_steering_have_the_bits_of_short_ones(fresh, mode: Mode) -> None:
    """A clamp and a projection are inner products, and those of a matrix and a vector round by how many rows it has."""
    drawn = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0))
    vectors = as_dictionary(Vectors(drawn, ("a", "b", "c"), (0, 2), (9.0, 9.0), 1.0, 2))
    under = Steering.of(Intervention(vectors.key, 1, 0.8, mode), Intervention(vectors.key, 2, -0.5, mode))
    asked = [
        Generate(
            Context().append([0, *range(5 + n, 66 + n)], under), Sampling(0.8, 1, 5, (n,)), under, vectors.key, True
        )
        for n in range(2)
    ]

    def ran(**options: int) -> list[Completion]:
        engine = fresh(**options)
        engine.attach(vectors)
        return everything(engine, asked)

    whole = ran()
    for options in ({"chunk": 7}, {"chunk": 29}, {"chunk": 30, "most_rows": 1}):
        assert all(same_bits(a, b) for a, b in zip(whole, ran(**options), strict=True))


def test_kept_kv_and_kv_recomputed_from_the_transcript_have_the_same_bits(fresh) -> None:
    kept, rounds = fresh(), []
    for s in range(4):
        context = random_context(s)
        for turn in range(3):
            under = random_steering(s + turn)
            request = Generate(context, Sampling(0.8, 1, 9, (s, turn)), under, DICTIONARY.key, True)
            rounds.append((request, run(kept, request)))
            context = context.append(rounds[-1][1].tokens, under, "generated").append([3, 7, 9])
    assert rounds[1][1].reused > 0
    for request, before in rounds:
        assert same_bits(before, run(fresh(), request))


@pytest.mark.parametrize("of", [1, 3])
@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh", "gelu", "gelu_new", "quick_gelu"])
def test_no_activation_tells_how_many_tokens_a_step_has(tiny_llama: Path, tmp_path: Path, activation, of) -> None:
    """torch computes the numbers left over by registers otherwise than the rest; each thread leaves some."""
    shape = {"hidden_act": activation, "intermediate_size": 90 if of == 1 else 352}
    folder = folder_of("olmo", shape, tiny_llama, tmp_path / "model")
    before = torch.get_num_threads()
    try:
        one, other = (engine_of(folder, dtype="float32", threads=of, chunk=n) for n in (1024, 33))
        context = Context().append([(7 * i + 1) % 250 for i in range(200)])
        assert torch.equal(read_all(one, context), read_all(other, context))
    finally:
        torch.set_num_threads(before)


def test_the_engine_says_whether_it_is_invariant(fresh, monkeypatch) -> None:
    assert fresh().info.batch_invariant
    monkeypatch.setattr("toolkit.engines.packed.pack", lambda *_: 0)
    monkeypatch.setattr("toolkit.engines.forward.max", min, raising=False)
    assert not fresh().info.batch_invariant


def test_scores_do_not_tell_how_many_tokens_were_computed_together() -> None:
    model = reference().model
    residuals = torch.randn(40, 128, generator=torch.Generator().manual_seed(0))
    whole = exact_logits(model, residuals)
    for count in (1, 2, 3, 5, 17, 33):
        assert torch.equal(exact_logits(model, residuals[:count]), whole[:count])
