"""Laws of contexts and steerings, for any tokens and any steering."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from toolkit.context import Context
from toolkit.errors import BadInput
from toolkit.steering import NO_STEERING, Intervention, Steering

interventions = st.builds(
    Intervention,
    dictionary=st.sampled_from(["a", "b"]),
    feature=st.integers(0, 3),
    strength=st.sampled_from([-0.5, 0.0, -0.0, 0.3, 1.0, 1]),
    mode=st.sampled_from(["add", "clamp", "project_out"]),
    source=st.sampled_from(["self", "external", "partner"]),
)


def possible(some) -> bool:
    """Whether no feature is clamped or projected out twice."""
    edited = [(i.dictionary, i.feature) for i in set(some) if i.mode != "add"]
    return len(edited) == len(set(edited))


steerings = st.lists(interventions, max_size=3).filter(possible).map(lambda some: Steering.of(*some))
segments = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=4), steerings, st.sampled_from(["given", "generated"])), max_size=5
)


def build(parts) -> Context:
    context = Context()
    for tokens, steering, author in parts:
        context = context.append(tokens, steering, author)
    return context


contexts = segments.map(build)


@given(contexts, segments)
def test_appending_keeps_the_whole_prefix(context: Context, more) -> None:
    longer = context
    for tokens, steering, author in more:
        longer = longer.append(tokens, steering, author)
    assert context.common_prefix(longer) == len(context)
    assert longer.upto(len(context)).digest == context.digest


@given(contexts, contexts)
def test_common_prefix_is_the_longest_run_of_equal_pairs(one: Context, other: Context) -> None:
    a, b = list(one.pairs()), list(other.pairs())
    n = one.common_prefix(other)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


@given(contexts, contexts)
def test_digests_are_equal_exactly_when_the_pairs_are(one: Context, other: Context) -> None:
    assert (one.digest == other.digest) == (list(one.pairs()) == list(other.pairs()))


@given(steerings, steerings)
def test_equal_steerings_have_equal_digests_and_records(one: Steering, other: Steering) -> None:
    assert (one == other) == (one.digest == other.digest) == (one.to_json() == other.to_json())
    assert all(type(row["strength"]) is float for row in one.to_json())


@given(segments)
def test_how_a_context_is_cut_does_not_matter(parts) -> None:
    token_by_token = [([token], steering, author) for tokens, steering, author in parts for token in tokens]
    assert build(parts).digest == build(token_by_token).digest


@given(contexts, steerings, st.data())
def test_other_steering_keeps_the_tokens_and_leaves_the_rest_alone(context: Context, steering: Steering, data) -> None:
    start = data.draw(st.integers(0, len(context)))
    stop = data.draw(st.integers(start, len(context)))
    changed = context.under(steering, start, stop)
    assert changed.tokens == context.tokens
    pairs, before = list(changed.pairs()), list(context.pairs())
    assert pairs[:start] == before[:start] and pairs[stop:] == before[stop:]
    assert all(s == steering for _, s in pairs[start:stop])
    assert context.under(NO_STEERING).steered().keys() <= {NO_STEERING}


@given(contexts, st.data())
def test_swapped_tokens_keep_the_steering_of_those_they_replace(context: Context, data) -> None:
    start = data.draw(st.integers(0, len(context)))
    new = data.draw(st.lists(st.integers(10, 19), max_size=len(context) - start))
    swapped = context.swap(start, new, "given")
    assert [s for _, s in swapped.pairs()] == [s for _, s in context.pairs()]
    assert swapped.tokens == (*context.tokens[:start], *new, *context.tokens[start + len(new) :])
    assert all(s.author == "given" for s in swapped.segments if set(s.tokens) & set(new))


@given(contexts)
def test_counts_of_steered_tokens_add_up(context: Context) -> None:
    assert sum(context.steered().values()) == len(context) == len(context.tokens)


@given(st.lists(interventions, max_size=4).filter(possible), st.randoms())
def test_order_and_repetition_of_interventions_do_not_matter(some: list[Intervention], random) -> None:
    shuffled = [*some, *some]
    random.shuffle(shuffled)
    assert Steering.of(*shuffled) == Steering.of(*some)
    assert hash(Steering.of(*shuffled)) == hash(Steering.of(*some))
    assert Steering.of(*shuffled).digest == Steering.of(*some).digest


@given(steerings, steerings)
def test_steering_digests_are_equal_exactly_when_the_steerings_are(one: Steering, other: Steering) -> None:
    assert (one.digest == other.digest) == (one == other)


@given(steerings)
def test_steering_survives_json(steering: Steering) -> None:
    assert Steering.from_json(steering.to_json()) == steering


@given(steerings, interventions)
def test_with_then_without_is_nothing(steering: Steering, one: Intervention) -> None:
    assume(possible([*steering, one]))
    assert steering.with_(one).without(one) == steering.without(one)


@given(st.lists(interventions, max_size=4))
def test_a_feature_is_clamped_or_projected_out_once_at_most(some: list[Intervention]) -> None:
    """Two levels would add up to a third, and two projections turn the direction round."""
    if possible(some):
        Steering.of(*some)
    else:
        with pytest.raises(BadInput, match="more than once"):
            Steering.of(*some)


@pytest.mark.parametrize(
    ("field", "value"), [("strength", float("nan")), ("strength", float("inf")), ("feature", -1), ("mode", "multiply")]
)
def test_an_intervention_that_means_nothing_is_refused(field: str, value: object) -> None:
    with pytest.raises(BadInput, match=str(value) if field != "strength" else "finite"):
        Intervention(**{"dictionary": "a", "feature": 1, "strength": 0.3, field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("feature", "strength"), [(1.5, 0.3), (1.0, 0.3), ("1", 0.3), (1, "0.3"), (1, 10**400)])
def test_numbers_of_another_kind_are_refused(feature: object, strength: object) -> None:
    with pytest.raises(BadInput, match="no number of its kind"):
        Intervention("a", feature, strength)  # type: ignore[arg-type]


def test_a_feature_numbered_by_numpy_or_torch_is_the_same_intervention() -> None:
    plain = Steering.of(Intervention("a", 5, 0.5))
    for five in (np.int64(5), np.array([5])[0], torch.tensor(5)):
        other = Steering.of(Intervention("a", five, np.float32(0.5)))
        assert other == plain and other.digest == plain.digest
        assert json.dumps(other.to_json()) == json.dumps(plain.to_json())


def test_a_swap_past_the_end_is_refused() -> None:
    with pytest.raises(BadInput, match="do not fit"):
        Context().append([1, 2]).swap(1, [3, 4])
