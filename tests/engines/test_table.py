"""The steering table by itself: rows, sums, and what a canary adds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.test_local import DICTIONARY, TWO_LAYERS, steer
from tests.tiny import random_dictionary
from toolkit.engines.table import CANARY, SteeringTable, quarter_turn
from toolkit.errors import SteeringError
from toolkit.steering import MODES, NO_STEERING, Steering

D_MODEL = DICTIONARY.directions.d_model


def table_of(*dictionaries, floor: int = 1) -> SteeringTable:
    table = SteeringTable(4, D_MODEL, torch.device("cpu"), torch.float64, floor)
    for dictionary in dictionaries or (DICTIONARY, TWO_LAYERS):
        table.attach(dictionary)
    return table


def hidden(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, D_MODEL, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=9))
def test_a_canary_is_as_long_as_the_residual_and_at_a_right_angle_to_it(numbers: list[float]) -> None:
    residual = torch.tensor(numbers, dtype=torch.float64)
    turned, even = quarter_turn(residual), len(residual) // 2 * 2
    assert float(turned @ residual) == pytest.approx(0, abs=1e-9)
    assert float(turned.norm()) == pytest.approx(float(residual[:even].norm()))


def test_a_canary_acts_at_one_layer_alone() -> None:
    table, before = table_of(), hidden(1)
    for layer in (0, 2, 1):
        table.set_canary(layer, before[0])
        rows = torch.tensor([CANARY])
        changed = {at for at in table.layers if not torch.equal(table.apply(at, before, rows, (CANARY,)), before)}
        assert changed == {layer}


def test_equal_steerings_share_a_row_and_none_is_row_0() -> None:
    table = table_of()
    assert table.row(NO_STEERING) == 0
    assert table.row(Steering.of(steer(1, 0.5))) == table.row(Steering.of(steer(1, 0.5)))
    assert table.row(Steering.of(steer(1, 0.6))) != table.row(Steering.of(steer(1, 0.5)))


@pytest.mark.parametrize("mode", MODES)
def test_each_token_gets_its_own_row_whatever_else_is_in_the_pack(mode: str) -> None:
    table, before = table_of(floor=4), hidden(7)
    some = [Steering.of(steer(i, 0.5 + i, mode), steer(i, 0.3, dictionary=TWO_LAYERS)) for i in range(3)]
    rows = [table.row(one) for one in (*some, NO_STEERING, *some)]
    for layer in (0, 1, 2):
        whole = table.apply(layer, before, torch.tensor(rows), tuple({*rows}))
        for at, row in enumerate(rows):
            alone = table.apply(layer, before[at : at + 1], torch.tensor([row]), (row,))
            torch.testing.assert_close(whole[at : at + 1], alone, rtol=1e-12, atol=1e-12)


def test_what_is_projected_out_is_gone_however_long_the_direction_is() -> None:
    """Rows of an SAE's decoder need not be of length 1."""
    long = random_dictionary(seed=9)
    long.directions._vectors *= 6
    table, before = table_of(long), hidden(4)
    row = table.row(Steering.of(steer(1, 1.0, "project_out", long)))
    after = table.apply(1, before, torch.full((4,), row), (row,))
    direction = long.directions.vectors([1])[0, 0].double()
    torch.testing.assert_close(after @ direction, torch.zeros(4).double())
    torch.testing.assert_close(after, before - (before @ direction)[:, None] * direction / 36)
    deltas, [(unit, on)] = table.portable([0, row])[1]
    torch.testing.assert_close(unit, direction / 6)
    assert not deltas.any() and on.tolist() == [0, 1]


def test_parts_add_up_from_the_residual_that_came_in() -> None:
    """A clamp that comes after an addition sets the activation that there was before it."""
    table, before = table_of(), hidden(3)
    parts = [steer(1, 2.0), steer(2, 1.0, "clamp"), steer(3, 0.0, "project_out")]
    change = torch.zeros_like(before)
    for part in parts:
        row = table.row(Steering.of(part))
        change += table.apply(1, before, torch.full((3,), row), (row,)) - before
    row = table.row(Steering.of(*parts))
    torch.testing.assert_close(table.apply(1, before, torch.full((3,), row), (row,)), before + change)


def test_more_steerings_than_there_was_room_for_keep_what_they_add() -> None:
    table, before = table_of(), hidden(1)
    some = [Steering.of(steer(i % 12, 0.1 * (1 + i))) for i in range(40)]
    rows = [table.row(one) for one in some]
    fresh = table_of()
    for one, row in zip(reversed(some), reversed(rows), strict=True):
        other = fresh.row(one)
        here = table.apply(1, before, torch.tensor([row]), (row,))
        assert torch.equal(here, fresh.apply(1, before, torch.tensor([other]), (other,)))
        assert not torch.equal(here, before)


def test_allocated_anew_is_counted_and_filled_anew_is_not() -> None:
    """A captured step holds the addresses of the tables."""
    table = table_of()
    before, addresses = table.generation, {at: one.data_ptr() for at, one in table._deltas.items()}
    for i in range(5):
        table.row(Steering.of(steer(i, 0.5)))
    assert table.generation == before and addresses == {at: one.data_ptr() for at, one in table._deltas.items()}
    for i in range(40):
        table.row(Steering.of(steer(i % 12, 1 + 0.1 * i)))
    assert table.generation > before


def test_a_dictionary_whose_canary_died_is_taken_back_and_the_others_stay() -> None:
    table, later = table_of(), random_dictionary(layers=(1, 3), seed=2)
    known = table.row(Steering.of(steer(1, 0.5)))
    with pytest.raises(SteeringError, match="dead"), table.attaching(later) as new:
        assert new == [3]
        raise SteeringError("dead")
    assert table.layers == {0, 1, 2} and table.row(Steering.of(steer(1, 0.5))) == known
    with pytest.raises(SteeringError, match="not attached"):
        table.row(Steering.of(steer(1, 0.5, dictionary=later)))
    with table.attaching(later) as new:
        assert new == [3]
    with table.attaching(later) as new:
        assert new == []
    assert table.row(Steering.of(steer(1, 0.5, dictionary=later)))


def test_counts_by_row_are_counts_by_steering_and_the_canary_is_nobodys() -> None:
    table = table_of()
    under = Steering.of(steer(1, 0.5))
    assert table.counts({0: 3, CANARY: 1, table.row(under): 2}) == {NO_STEERING: 3, under: 2}
