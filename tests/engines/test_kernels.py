"""Compiled loops compute what torch computes, and each row by itself."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types
from torch.nn.functional import silu

from toolkit.engines import fused, kernels
from toolkit.errors import Unsupported


def twice(x: float) -> float:
    return 2 * x


def test_loops_run_where_nothing_can_be_kept(monkeypatch) -> None:
    """On a disk that is full, and with no folder to write to."""

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert kernels.compiled(twice)(3.0) == 6
    monkeypatch.setattr("numba.core.caching._CacheLocator.ensure_cache_path", full)
    assert kernels.compiled(twice)(3.0) == 6


def test_where_nothing_is_compiled_a_loop_says_so(monkeypatch) -> None:
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    with pytest.raises(Unsupported, match="unset it"):
        kernels.compiled(twice)(3.0)


def test_what_two_processes_keep_at_once_is_not_taken_for_each_other(monkeypatch, tmp_path: Path) -> None:
    """The second has looked before the first had written, and writes its index first and its code last."""
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    file = "numba.core.caching.IndexDataCacheFile"
    with monkeypatch.context() as at_once:
        at_once.setattr(f"{file}._load_index", lambda _: {})
        assert kernels.compiled(twice)(1.5) == 3
        at_once.setattr(f"{file}._save_index", lambda *_: None)
        assert kernels.compiled(twice)(2) == 4
    third = kernels.compiled(twice)
    assert third(1.5) == 3 and third.stats.cache_hits and third.signatures == [(types.float64,)]


def numbers(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def attended(query, keys, values, lanes, positions, scale, window=1 << 62, cap=0.0, first=0, last=None) -> np.ndarray:
    out = np.full((*query.shape[:2], values.shape[3]), np.float32(7))
    last = len(lanes) * query.shape[1] if last is None else last
    kernels.attend(query, keys, values, lanes, positions, out, scale, window, cap, first, last)
    return out


def naive(query, keys, values, lanes, positions, scale, window=1 << 62, cap=0.0) -> np.ndarray:
    """In float64, query by query."""
    out = np.zeros((*query.shape[:2], values.shape[3]))
    for t, (lane, end) in enumerate(zip(lanes, positions + 1, strict=True)):
        for head in range(query.shape[1]):
            kept = head // (query.shape[1] // keys.shape[1])
            seen = slice(max(0, end - window), end)
            scores = keys[lane, kept, seen].astype(float) @ query[t, head].astype(float) * scale
            scores = cap * np.tanh(scores / cap) if cap else scores
            weights = np.exp(scores - scores.max())
            out[t, head] = weights @ values[lane, kept, seen].astype(float) / weights.sum()
    return out


problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "tokens": st.integers(1, 9),
        "heads": st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
        "width": st.sampled_from([2, 8, 20, 32, 64]),
        "wide": st.sampled_from([4, 16, 70]),
        "scale": st.sampled_from([0.1, 1.0, 20.0]),
        "window": st.sampled_from([1, 3, 17, 1 << 62]),
        "cap": st.sampled_from([0.0, 5.0]),
    }
)


def made(seed, tokens, heads, width, wide, scale, window, cap) -> tuple:
    rng = np.random.default_rng(seed)
    stores = (numbers(rng, 3, heads[1], 70, width), numbers(rng, 3, heads[1], 70, wide))
    lanes, positions = rng.integers(0, 3, tokens), rng.integers(0, 70, tokens)
    return numbers(rng, tokens, heads[0], width), *stores, lanes, positions, scale * width**-0.5, window, cap


@settings(deadline=None, max_examples=60)
@given(problems)
def test_attention_is_naive_attention(problem) -> None:
    asked = made(**problem)
    np.testing.assert_allclose(attended(*asked), naive(*asked), rtol=0, atol=3e-5)


@settings(deadline=None, max_examples=60)
@given(problems)
def test_a_query_has_the_same_bits_alone_and_in_any_share(problem) -> None:
    query, keys, values, lanes, positions, *rest = made(**problem)
    together = attended(query, keys, values, lanes, positions, *rest)
    for t in range(len(query)):
        alone = attended(query[t : t + 1], keys, values, lanes[t : t + 1], positions[t : t + 1], *rest)
        assert np.array_equal(alone[0], together[t])
    rows = query.shape[0] * query.shape[1]
    cut = min(3, rows)
    shares = [
        attended(query, keys, values, lanes, positions, *rest, first=a, last=b) for a, b in ((0, cut), (cut, rows))
    ]
    joined = np.where(shares[0] == 7, shares[1], shares[0])
    assert np.array_equal(joined, together)


def test_places_past_a_query_are_not_looked_at() -> None:
    asked = made(1, 4, (4, 2), 8, 8, 1.0, 1 << 62, 0.0)
    before = attended(*asked)
    for lane in range(3):
        for store in asked[1:3]:
            store[lane, :, 1 + max(asked[4][asked[3] == lane], default=-1) :] = np.nan
    assert np.array_equal(attended(*asked), before)


def test_what_is_not_finite_stays_visible() -> None:
    asked = made(1, 4, (4, 4), 8, 8, 1.0, 1 << 62, 0.0)
    asked[0][2, 1, 3] = np.nan
    found = attended(*asked)
    assert np.isnan(found[2, 1]).all()
    assert np.isfinite(np.delete(found.reshape(16, -1), 9, 0)).all()
    assert np.isnan(kernels_norm(np.array([[np.inf, 1.0], [1, 2]], np.float32))[0]).any()


@pytest.mark.parametrize("where", range(53))
def test_a_single_key_that_is_not_a_number_is_visible(where: int) -> None:
    query, keys, values, lanes, _, *rest = made(1, 1, (4, 4), 8, 8, 1.0, 1 << 62, 0.0)
    keys[:, :, where, 3] = np.nan
    for end, visible in ((52, True), (where - 1, False)):
        if end >= 0:
            found = attended(query, keys, values, lanes, np.array([end]), *rest)
            assert np.isnan(found).all() == np.isnan(found).any() == visible


@pytest.mark.parametrize("far", [-1e4, -200.0, -np.inf])
def test_a_key_far_below_the_best_weighs_nothing(far: float) -> None:
    keys, values = (np.zeros((1, 1, 9, 2), np.float32) for _ in range(2))
    keys[0, 0, :8], values[0, 0, :8] = far, 3e38
    query, lanes, positions = np.ones((1, 1, 2), np.float32), np.zeros(1, np.int64), np.array([8])
    assert not attended(query, keys, values, lanes, positions, 0.5).any()


def test_gates_are_finite_where_torchs_are() -> None:
    both = np.array([[-1e20, 1e20], [-100, 1e37], [1e20, 1e18]], np.float32)
    out = np.empty((3, 1), np.float32)
    kernels.gate(both, out)
    a, b = torch.from_numpy(both).split(1, 1)
    np.testing.assert_allclose(out, (silu(a) * b).numpy(), rtol=3e-6, atol=1e-3)


def kernels_norm(rows: np.ndarray) -> np.ndarray:
    out = np.empty_like(rows)
    kernels.norm(rows, np.ones(rows.shape[1], np.float32), 1e-6, out)
    return out


@pytest.mark.parametrize("width", [3, 16, 100])
def test_norms_and_gates_are_torchs(width: int) -> None:
    rng = np.random.default_rng(width)
    rows, weight = numbers(rng, 5, width, scale=3), numbers(rng, width)
    out = np.empty_like(rows)
    kernels.norm(rows, weight, 1e-5, out)
    there = torch.nn.functional.rms_norm(torch.from_numpy(rows), (width,), torch.from_numpy(weight), 1e-5)
    np.testing.assert_allclose(out, there.numpy(), rtol=3e-6, atol=1e-6)
    both, gated = numbers(rng, 5, 2 * width, scale=20), np.empty((5, width), np.float32)
    kernels.gate(both, gated)
    a, b = torch.from_numpy(both).split(width, 1)
    np.testing.assert_allclose(gated, (silu(a) * b).numpy(), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["silu", "quick_gelu", "gelu_pytorch_tanh"])
def test_activations_are_transformers(name: str) -> None:
    from transformers.activations import ACT2FN

    module = ACT2FN[name]
    given = torch.from_numpy(numbers(np.random.default_rng(0), 2, 5, 37, scale=20))
    given[0, 0, :4] = torch.tensor([float("nan"), 0.0, 1e15, -1e15])
    there = module(given)
    fused.activate_by_row(module)
    np.testing.assert_allclose(module(given), there, rtol=3e-6, atol=1e-6)
    np.testing.assert_array_equal(module(given.transpose(0, 1)), module(given).transpose(0, 1))
    assert torch.equal(module(given[1:]), module(given)[1:])


def test_turned_queries_and_keys_are_transformers() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    rng = np.random.default_rng(0)
    tokens, asked, kept, width = 5, 4, 2, 8
    mixed = numbers(rng, tokens, (asked + 2 * kept) * width)
    angles = np.tile(rng.uniform(0, 6, (tokens, width // 2)), 2)
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    lanes, positions = np.array([0, 0, 2, 1, 1]), np.array([3, 4, 0, 8, 9])
    query = np.zeros((tokens, asked, width), np.float32)
    stores = [np.zeros((3, kept, 10, width), np.float32) for _ in range(2)]
    kernels.rotate(mixed, cosine, sine, lanes, positions, query, *stores)
    parts = torch.from_numpy(mixed).view(1, tokens, -1, width).transpose(1, 2)
    q, k = apply_rotary_pos_emb(
        parts[:, :asked], parts[:, asked:-kept], *(torch.from_numpy(one)[None] for one in (cosine, sine))
    )
    np.testing.assert_allclose(query, q[0].transpose(0, 1).numpy(), atol=1e-6)
    for store, there in zip(stores, (k, parts[:, -kept:]), strict=True):
        np.testing.assert_allclose(store[lanes, :, positions], there[0].transpose(0, 1).numpy(), atol=1e-6)
        assert np.count_nonzero(store) == tokens * kept * width
