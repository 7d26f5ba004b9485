"""Each control differs from the true dictionary in exactly what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import random_dictionary
from toolkit.errors import BadInput
from toolkit.views import ARMS, VIEWS, permuted, random_features, scrambled, shuffled, viewed, zeroed

TRUE = random_dictionary(layers=(0, 2), n=12)
RESIDUALS = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
EVERY = list(range(12))
# of seed 5: what a published run drew must be drawn again
PERMUTED = [5, 3, 6, 11, 9, 2, 10, 8, 0, 7, 1, 4]
READINGS = [4, 11, 6, 5, 1, 8, 9, 0, 2, 10, 7, 3]
LABELS = [5, 8, 1, 9, 11, 4, 7, 10, 3, 6, 0, 2]
RANDOM = [0.0309239, -0.0831000, -0.1624634, -0.0552231]


def test_arms_keep_labels_and_reading() -> None:
    for arm in ARMS.values():
        other = arm(TRUE, 3)
        assert other.labels is TRUE.labels and other.reader is TRUE.reader
        assert other.directions.layers == TRUE.directions.layers and other.directions.unit == TRUE.directions.unit


def test_arms_have_keys_of_their_own_and_seeds_tell_them_apart() -> None:
    keys = [
        TRUE.key,
        zeroed(TRUE).key,
        scrambled(TRUE, 1).key,
        scrambled(TRUE, 2).key,
        permuted(TRUE, 1).key,
        permuted(TRUE, 2).key,
    ]
    assert len(set(keys)) == len(keys)
    assert scrambled(TRUE, 1).key == scrambled(TRUE, 1).key


def test_zero_is_zero() -> None:
    assert not zeroed(TRUE).directions.vectors(EVERY).any()


@given(st.integers(0, 50), st.lists(st.integers(0, 11), min_size=1, max_size=5))
def test_random_directions_have_the_true_norms_and_do_not_depend_on_what_else_is_asked(
    seed: int, ids: list[int]
) -> None:
    directions = scrambled(TRUE, seed).directions
    got, true = directions.vectors(ids), TRUE.directions.vectors(ids)
    torch.testing.assert_close(got.norm(dim=-1), true.norm(dim=-1))
    assert not torch.allclose(got, true)
    for place, feature in enumerate(ids):
        assert torch.equal(got[place], directions.vectors([feature])[0])


@given(st.integers(0, 200))
def test_no_feature_keeps_its_own_direction(seed: int) -> None:
    got, true = permuted(TRUE, seed).directions.vectors(EVERY), TRUE.directions.vectors(EVERY)
    owners = [next(j for j in EVERY if torch.equal(got[i], true[j])) for i in EVERY]
    assert sorted(owners) == EVERY and all(i != j for i, j in zip(EVERY, owners, strict=True))


def test_random_features_show_true_values_under_other_ids() -> None:
    other = random_features(TRUE, 4)
    got, true = other.reader.encode(RESIDUALS), TRUE.reader.encode(RESIDUALS)
    assert other.key == TRUE.key and not torch.allclose(got, true)
    torch.testing.assert_close(got.sort(-1).values, true.sort(-1).values)


@given(st.integers(0, 200))
def test_a_random_reading_and_other_directions_do_not_agree_with_each_other(seed: int) -> None:
    both = viewed(TRUE, "random", "other", seed)
    shown = [both.reader.encode(TRUE.directions.vectors([i])[:, 0])[0] for i in EVERY]
    own = [TRUE.reader.encode(TRUE.directions.vectors([i])[:, 0])[0] for i in EVERY]
    reads = [next(j for j in EVERY if all(shown[i][feature] == own[i][j] for i in EVERY)) for feature in EVERY]
    got, true = both.directions.vectors(EVERY), TRUE.directions.vectors(EVERY)
    writes = [next(j for j in EVERY if torch.equal(got[i], true[j])) for i in EVERY]
    assert sorted(reads) == sorted(writes) == EVERY and reads != writes


@given(st.integers(0, 200), st.integers(2, 9))
def test_no_feature_keeps_its_own_label(seed: int, size: int) -> None:
    true = random_dictionary(n=size)
    labels = shuffled(true, seed).labels
    assert sorted(labels.shown) == sorted(true.labels.shown)
    assert all(labels.text(i) != true.label(i) for i in range(size))


def test_a_control_is_the_same_on_every_machine_and_with_every_numpy() -> None:
    assert [int(i) for i in permuted(TRUE, 5).directions.cycle] == PERMUTED  # type: ignore[attr-defined]
    assert [int(i) for i in random_features(TRUE, 5).reader.cycle] == READINGS  # type: ignore[attr-defined]
    assert [int(shuffled(TRUE, 5).label(i).split()[2]) for i in EVERY] == LABELS
    drawn = scrambled(TRUE, 5).directions.vectors([7])[0, 1]
    assert (drawn[:4] / drawn.norm()).tolist() == pytest.approx(RANDOM, abs=1e-6)


def test_a_feature_numbered_by_numpy_is_the_same_feature() -> None:
    directions = scrambled(TRUE, 3).directions
    assert torch.equal(directions.vectors(np.arange(12)), directions.vectors(EVERY))
    assert directions.vectors([]).shape == TRUE.directions.vectors([]).shape


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(BadInput, match="true, opaque, shuffled, random"):
        viewed(TRUE, label_view="hidden")
    with pytest.raises(BadInput, match="target, zero, random, other"):
        viewed(TRUE, arm="placebo")
    assert viewed(TRUE) == TRUE and set(VIEWS) == {"true", "opaque", "shuffled", "random"}
    with pytest.raises(BadInput, match="no other feature"):
        permuted(random_dictionary(n=1))
