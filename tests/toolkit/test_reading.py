"""INSPECT's measurement against the plain one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import random_dictionary
from toolkit.errors import BadInput, SteeringError
from toolkit.reading import measure

TRUE = random_dictionary(n=12)
PLAIN = {"mean": lambda a: a.mean(0), "max": lambda a: a.amax(0), "last": lambda a: a[-1]}


@given(st.integers(1, 200), st.integers(1, 20), st.sampled_from(list(PLAIN)))
def test_blocks_are_the_whole(tokens: int, k: int, how) -> None:
    residuals = torch.randn(tokens, 32, generator=torch.Generator().manual_seed(tokens))
    reading = measure(TRUE, residuals, how, k, "digest")
    plain = PLAIN[how](TRUE.reader.encode(residuals))
    expected = [i for i in plain.argsort(descending=True).tolist() if plain[i] > 0][:k]
    assert list(reading.features) == expected
    assert reading.values == pytest.approx([float(plain[i]) for i in expected], abs=1e-5)
    assert (reading.layer, reading.aggregation, reading.steered) == (1, how, "digest")
    assert reading.tokens == (1 if how == "last" else tokens)


class Equal:
    layer, digest = 1, "equal"

    def encode(self, residuals):
        return torch.tensor([0.0, 2.0, 1.0, 2.0, -1.0]).expand(len(residuals), -1)


def test_ties_go_by_id_and_what_is_not_active_is_not_shown() -> None:
    assert measure(replace(TRUE, reader=Equal()), torch.zeros(3, 32), "mean", 9, "").features == (1, 3, 2)


class Counting:
    layer, digest = 1, "counting"
    largest = 0

    def encode(self, residuals):
        Counting.largest = max(Counting.largest, len(residuals))
        return torch.zeros(len(residuals), 5)


def test_activations_of_a_long_response_are_never_held_at_once() -> None:
    measure(replace(TRUE, reader=Counting()), torch.zeros(1000, 32), "mean", 9, "")
    assert 0 < Counting.largest <= 64


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(BadInput, match="no token"):
        measure(TRUE, torch.zeros(0, 32), "mean", 3, "")
    with pytest.raises(BadInput, match="median"):
        measure(TRUE, torch.zeros(2, 32), "median", 3, "")  # type: ignore[arg-type]


@pytest.mark.parametrize("how", PLAIN)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_an_error_and_crowds_out_nothing(how, broken: float) -> None:
    residuals = torch.randn(70, 32, generator=torch.Generator().manual_seed(0))
    residuals[-1, 3] = broken
    with pytest.raises(SteeringError, match="activations of dictionary random are not finite"):
        measure(TRUE, residuals, how, 3, "")
