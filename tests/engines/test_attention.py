"""Attention by torch, as a GPU and other dtypes have it: each token over its own lane, however packs are cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.engines.attention import Attention, Packed
from toolkit.engines.kv import KVStore, Lane

HEADS, SHARED, WIDTH = 2, 3, 4
Spans = list[tuple[int, int]]  # (position of the first token, count) in each lane


def attended(spans: Spans, window: int | None, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, Hq, hd] as the engine has it and query by query."""
    drawn = torch.Generator().manual_seed(0)
    places = max(start + count for start, count in spans)
    keys, values = (3 * torch.randn(len(spans), HEADS, places, WIDTH, generator=drawn).double() for _ in range(2))
    store, placed, expected = KVStore(), [], []
    store.lanes += [Lane(i) for i in range(len(spans))]
    at = [(lane, p) for lane, (start, count) in enumerate(spans) for p in range(start, start + count)]
    for lane, (start, count) in enumerate(spans):
        placed.append((lane, sum(n for _, _, n, _ in placed), count, start))
        past = torch.arange(start)
        store.write(0, keys[lane][:, :start], values[lane][:, :start], torch.full_like(past, lane), past, places)
    lanes, positions = (torch.tensor(one) for one in zip(*at, strict=True))
    query = torch.randn(HEADS * SHARED, len(at), WIDTH, generator=drawn).double()
    attention = Attention(store, 1)
    attention.pack = Packed(lanes, positions, tuple(placed))
    new = [torch.stack([one[lane, :, p] for lane, p in at], 1) for one in (keys, values)]
    got = attention(0, query, *new, 0.5, window, softcap)
    for t, (lane, p) in enumerate(at):
        seen = slice(max(0, p + 1 - window) if window else 0, p + 1)
        for head in range(HEADS * SHARED):
            scores = 0.5 * keys[lane, head // SHARED, seen] @ query[head, t]
            scores = softcap * torch.tanh(scores / softcap) if softcap else scores
            expected.append(torch.softmax(scores, 0) @ values[lane, head // SHARED, seen])
    return got, torch.stack(expected).view(len(at), HEADS * SHARED, WIDTH)


@given(
    spans=st.lists(st.tuples(st.integers(0, 20), st.sampled_from([1, 1, 2, 5])), min_size=1, max_size=5),
    window=st.sampled_from([None, 3, 17]),
    softcap=st.sampled_from([None, 2.0]),
)
def test_each_token_sees_its_own_lane_up_to_itself(spans: Spans, window: int | None, softcap: float | None) -> None:
    got, expected = attended(spans, window, softcap)
    close = 1e-5 if softcap else 1e-9  # with a cap the softmax is in float32, as transformers has it
    torch.testing.assert_close(got, expected, rtol=close, atol=close)


@pytest.mark.parametrize("spans", [[(5, 1), (0, 4), (7, 1)], [(0, 2), (3, 1)]], ids=str)
def test_spans_of_one_token_share_a_call_only_where_they_follow_one_another(spans: Spans) -> None:
    """The last of a step is cut to one token when there is room for no more."""
    got, expected = attended(spans, None, None)
    torch.testing.assert_close(got, expected)
