"""Kept KV under budgets: where it lies changes time and never tokens; least recently used goes first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.contract import everything
from tests.engines.test_local import DICTIONARY, engine_of, random_context, random_steering
from toolkit.engines.base import Generate, Sampling
from toolkit.engines.kv import KVStore, Lane
from toolkit.engines.local import LocalEngine

LAYERS, HEADS, WIDTH = 2, 2, 4
TOKEN = 2 * LAYERS * HEADS * WIDTH * 4  # bytes of float32 keys and values


def filled(store: KVStore, tokens: list[int], keep: int = 99, most: int = 10_000) -> tuple[Lane, int]:
    """A context of these tokens, acquired and written; the key of token t is t everywhere."""
    array = np.array(tokens)
    lane, reused = store.acquire(array, np.zeros_like(array), most, len(tokens), keep)
    new = tokens[reused:]
    if new:
        key = torch.tensor(new, dtype=torch.float32)[None, :, None].expand(HEADS, len(new), WIDTH)
        lanes, at = torch.full((len(new),), lane.index), torch.arange(reused, len(tokens))
        for layer in range(LAYERS):
            store.write(layer, key + layer, -key, lanes, at, len(tokens))
        lane.extend(new, [0] * len(new))
    return lane, reused


def held(store: KVStore, lane: Lane) -> list[float]:
    """The lane's tokens as its keys and values have them. All stores must agree."""
    found = [store._keys[layer][lane.index, :, : lane.length] - layer for layer in range(LAYERS)]
    found += [-store._values[layer][lane.index, :, : lane.length] for layer in range(LAYERS)]
    for one in found:
        assert torch.equal(one, found[0][:1, :, :1].expand_as(one))
    return found[0][0, :, 0].tolist()


def test_what_left_for_the_host_comes_back_as_it_was() -> None:
    store = KVStore(budget=256 * TOKEN, host_budget=10_000)
    first = list(range(1, 30))
    lane, _ = filled(store, first)
    store.release(lane)
    lane, _ = filled(store, [50, 51])
    store.release(lane)
    assert [one.length for one in store.away] == [29] and store.away_bytes() == 29 * TOKEN
    lane, reused = filled(store, [*first, 99])
    assert reused == 29 and held(store, lane) == [*first, 99]
    assert [one.length for one in store.away] == [2]  # it moved, and the other left for it
    assert store.bytes() <= 256 * TOKEN


def test_a_context_left_half_way_on_the_host_stays_there_too() -> None:
    store = KVStore(budget=256 * TOKEN, host_budget=10_000)
    for tokens in ([1, 2, 3, 4, 5, 6], [50]):
        store.release(filled(store, tokens)[0])
    lane, reused = filled(store, [1, 2, 3, 9])
    assert reused == 3 and held(store, lane) == [1, 2, 3, 9]
    store.release(lane)
    lane, reused = filled(store, [1, 2, 3, 4, 5, 6, 7])
    assert reused == 6 and held(store, lane) == [1, 2, 3, 4, 5, 6, 7]


def test_a_context_that_is_asked_again_moves_off_the_host_but_for_its_last_token() -> None:
    """That one is always computed anew, since its logits are wanted."""
    store = KVStore(budget=256 * TOKEN, host_budget=10_000)
    for tokens in ([1, 2, 3], [50]):
        store.release(filled(store, tokens)[0])
    assert filled(store, [1, 2, 3], most=2)[1] == 2
    assert [one.tokens.tolist() for one in store.away] == [[50]]


def test_of_lanes_that_hold_the_same_an_idle_one_is_taken_over() -> None:
    store = KVStore()
    busy = filled(store, [1, 2, 3])[0]
    idle = filled(store, [1, 2, 3, 4])[0]
    store.release(idle)
    assert filled(store, [1, 2, 3, 9]) == (idle, 3)
    assert held(store, busy) == [1, 2, 3] and len(store.lanes) == 2


def test_the_least_recently_used_leaves_first_and_is_gone_first() -> None:
    store = KVStore(budget=256 * TOKEN, host_budget=20 * TOKEN)
    for start in (100, 200, 300, 400):  # ten tokens each: one on the device, two on the host, one gone
        store.release(filled(store, list(range(start, start + 10)))[0])
    assert [int(one.tokens[0]) for one in store.away] == [200, 300]
    assert filled(store, list(range(100, 111)))[1] == 0
    assert store.away_bytes() <= 20 * TOKEN


def test_of_more_than_the_budget_holds_the_last_used_stay() -> None:
    store = KVStore(host_budget=10_000)
    busy = [filled(store, [n, n + 1])[0] for n in (10, 20, 30)]
    for lane in busy:
        store.release(lane)
    store.budget = 2 * 256 * TOKEN
    filled(store, [90])
    assert sorted(int(one.tokens[0]) for one in store.lanes) == [30, 90]
    assert [int(one.tokens[0]) for one in store.away] == [10, 20]


def test_what_was_reserved_suffices_for_contexts_that_come_and_go() -> None:
    """Four rollouts abreast, of five rounds each and then another in its place: lanes stay near four."""
    store = KVStore()
    store.reserve(5, 20)
    contexts = [[n] for n in range(4)]
    for turn in range(60):
        for place in range(4):
            if (turn + place) % 5 == 0:
                contexts[place] = [1000 + 10 * turn + place]
            contexts[place] = [*contexts[place], turn]
            lane, reused = filled(store, contexts[place], keep=256)
            assert reused == (len(contexts[place]) - 1 if len(contexts[place]) > 2 else 0)
            store.release(lane)
    assert len(store.lanes) <= 12


@pytest.mark.parametrize("branches", [2, 3])
def test_contexts_that_are_all_in_use_are_all_kept(branches: int) -> None:
    store = KVStore()
    store.reserve(5, 20)
    contexts = [[n] for n in range(4 * branches)]
    for turn in range(8):
        for place, context in enumerate(contexts):
            contexts[place] = [*context, turn]
            lane, reused = filled(store, contexts[place], keep=256)
            assert reused == (turn and turn + 1)
            store.release(lane)
    assert len(store.lanes) == 4 * branches


@pytest.mark.parametrize("reserved", [0, 5])
def test_a_context_that_comes_back_late_is_still_there_while_there_is_room(reserved: int) -> None:
    store = KVStore()
    if reserved:
        store.reserve(reserved, 20)
    store.release(filled(store, [1, 2])[0])
    for turn in range(30):
        store.release(filled(store, [50, *range(turn)])[0])
    store.release(filled(store, [90])[0])
    assert filled(store, [1, 2, 3])[1] == 2


def test_last_used_is_when_it_was_released() -> None:
    store = KVStore(host_budget=10_000)
    early, late = filled(store, [1, 2])[0], filled(store, [5, 6])[0]
    store.release(late)
    store.release(early)
    store.budget = 2 * 256 * TOKEN
    filled(store, [90])
    assert [int(one.tokens[0]) for one in store.away] == [5]


def test_what_memory_ran_out_under_is_not_reserved_again() -> None:
    store = KVStore()
    store.reserve(8, 600)
    store.release(filled(store, [1, 2])[0])
    assert store.bytes() == 8 * 768 * TOKEN
    store.shrink()
    filled(store, [1, 2])
    assert store.bytes() == 256 * TOKEN


def test_what_is_forgotten_is_gone_from_the_host_too_but_for_what_is_under_way() -> None:
    store = KVStore(budget=256 * TOKEN, host_budget=10_000)
    for tokens in ([1, 2, 3], [20, 21]):
        store.release(filled(store, tokens)[0])
    busy = filled(store, [7, 8])[0]
    assert store.away
    store.forget()
    assert not store.away and held(store, busy) == [7, 8]
    assert filled(store, [1, 2, 3, 4])[1] == 0 and filled(store, [7, 8, 9])[1] == 2


def test_what_does_not_fit_the_host_crowds_out_nothing() -> None:
    store = KVStore(budget=256 * TOKEN, host_budget=10 * TOKEN)
    for tokens in ([1, 2, 3], list(range(20, 40)), [7]):
        store.release(filled(store, tokens)[0])
    assert [one.length for one in store.away] == [3]


def test_lanes_of_requests_under_way_never_leave() -> None:
    store = KVStore(budget=256 * TOKEN, host_budget=10_000)
    busy = [filled(store, [n, n + 1, n + 2])[0] for n in (10, 20, 30)]
    assert not store.room(3) and not store.away
    store.shrink()
    assert [held(store, lane) for lane in busy] == [[n, n + 1, n + 2] for n in (10, 20, 30)]


def test_shrinking_leaves_what_is_under_way_and_moves_the_rest() -> None:
    store = KVStore(host_budget=10_000)
    lanes = [filled(store, list(range(n, n + 5)))[0] for n in (10, 20, 30, 40)]
    for lane in (lanes[0], lanes[2]):
        store.release(lane)
    before = store.bytes()
    assert store.shrink() == before - 2 * 256 * TOKEN == before - store.bytes()
    assert held(store, lanes[1]) == list(range(20, 25)) and held(store, lanes[3]) == list(range(40, 45))
    assert sorted(int(one.tokens[0]) for one in store.away) == [10, 30]


@settings(max_examples=60)
@given(
    contexts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=25),
    budget=st.sampled_from([None, 1, 3 * 256 * TOKEN]),
    host=st.integers(0, 20),
    keep=st.integers(1, 4),
)
def test_a_lane_holds_what_its_context_says_whatever_came_before(contexts, budget, host, keep) -> None:
    store = KVStore(budget, host * TOKEN)
    under_way: list[Lane] = []
    for number, tokens in enumerate(contexts):
        lane, _ = filled(store, tokens, keep, len(tokens) - 1)
        assert held(store, lane) == tokens
        assert [one.index for one in store.lanes] == list(range(len(store.lanes)))
        assert store.away_bytes() <= host * TOKEN
        under_way.append(lane)
        if number % 3:
            store.release(under_way.pop(0))
        for one in under_way:
            assert held(store, one) == one.tokens[: one.length].tolist()


def rounds(engine: LocalEngine, rollouts: int = 4, turns: int = 3) -> list[tuple]:
    """What some rollouts come to, taken up again in an order of their own each round."""
    contexts = [random_context(s, 3) for s in range(rollouts)]
    seen = []
    for turn in range(turns):
        order = np.random.default_rng(turn).permutation(rollouts).tolist()
        asked = [
            Generate(contexts[s], Sampling(0.8, 1, 5, (s, turn)), random_steering(s + turn), DICTIONARY.key, True)
            for s in order
        ]
        for s, done in zip(order, everything(engine, asked), strict=True):
            seen.append((s, turn, done.tokens, done.logprobs, done.residuals.sum().item()))
            contexts[s] = contexts[s].append(done.tokens, random_steering(s + turn), "generated").append([3, s])
    return sorted(seen)


@pytest.fixture(scope="module")
def unlimited(tiny_llama: Path):
    engine = engine_of(tiny_llama, dtype="float32", threads=1)
    lane = 256 * engine._store.token_bytes()
    return rounds(engine), engine.tokens_computed, lane


@settings(max_examples=12)
@given(lanes=st.integers(0, 5), host=st.sampled_from([0, 0.1, 0.3, 5]), rows=st.integers(1, 4))
def test_a_budget_changes_time_never_tokens(tiny_llama: Path, unlimited, lanes, host, rows) -> None:
    expected, _, lane = unlimited
    engine = engine_of(
        tiny_llama, dtype="float32", threads=1, kv_budget=lanes * lane, host_budget=int(host * lane), most_rows=rows
    )
    assert rounds(engine) == expected
    assert engine._store.bytes() <= max(1, lanes) * lane and engine._store.away_bytes() <= host * lane


def test_the_host_saves_what_a_small_device_would_compute_again(tiny_llama: Path, unlimited) -> None:
    expected, least, lane = unlimited
    computed = []
    for host in (0, 5 * lane):
        engine = engine_of(tiny_llama, dtype="float32", threads=1, kv_budget=lane, host_budget=host)
        assert rounds(engine) == expected
        computed.append(engine.tokens_computed)
    assert computed[1] <= least < computed[0]


# ---------------------------------------------------------------------- memory that runs out, budgets that hold


def test_a_copy_that_found_no_room_leaves_an_empty_lane(monkeypatch) -> None:
    """Otherwise its lane would claim keys that nobody wrote, and hand them to the next of the same beginning."""
    store = KVStore(host_budget=10_000)
    store.release(filled(store, [1, 2, 3, 4])[0])
    with monkeypatch.context() as patch:
        patch.setattr(store, "_moved", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError):
            filled(store, [1, 2, 9, 9])
    assert [lane.length for lane in store.lanes] == [4, 0]
    store.shrink()
    lane, _ = filled(store, [1, 2, 9, 9])
    assert held(store, lane) == [1, 2, 9, 9]


def test_a_long_context_comes_back_from_the_host_into_a_store_that_has_become_short() -> None:
    store = KVStore(host_budget=10_000 * TOKEN)
    long = list(range(1, 301))
    store.release(filled(store, long)[0])
    busy = filled(store, [900, 901])[0]
    store.shrink()  # only the short one is left
    store.release(filled(store, [910, 911])[0])
    store.release(filled(store, [920, 921])[0])
    lane, reused = filled(store, [*long, 5])
    assert reused == 300 and held(store, lane) == [*long, 5] and held(store, busy) == [900, 901]


@pytest.mark.parametrize(("budget", "lanes"), [(None, 4), (3, 3)])
def test_room_is_made_for_twice_as_many_unless_that_breaks_the_budget(budget: int | None, lanes: int) -> None:
    store = KVStore(None if budget is None else budget * 256 * TOKEN)
    busy = [filled(store, [n, n + 1])[0] for n in (10, 20, 30)]
    assert store.bytes() == lanes * 256 * TOKEN
    assert [held(store, lane) for lane in busy] == [[n, n + 1] for n in (10, 20, 30)]


def test_what_is_reserved_keeps_to_the_budget() -> None:
    store = KVStore(budget=4 * 256 * TOKEN, host_budget=10_000)
    for n in (10, 20, 30, 40):
        store.release(filled(store, [n, n + 1])[0])
    store.reserve(1, 400)
    assert store.bytes() <= store.budget and len(store.away) == 2


def test_a_request_that_has_yet_to_grow_is_counted_as_long_as_it_will_be() -> None:
    """Two lanes of 256 tokens fit, but not beside one that is under way to 512."""
    store = KVStore(budget=2 * 256 * TOKEN)
    store.release(filled(store, [1, 2])[0])
    tokens = np.arange(10)
    store.acquire(tokens, 0 * tokens, 9, 500, 99)
    assert not store.room(100)
