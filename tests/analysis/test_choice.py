"""Choices with planted answers: takes told by hand, the published definitions beside the sound ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy.stats import binom

from analysis import load
from analysis.choice import after_advice, before_advice, picks, redose, redose_by_vector, takes, transitions, valences
from analysis.importers import import_folder
from analysis.importers.self_medication import numbers, states
from analysis.stats import followers, pooled_difference, pooled_share
from tests.analysis.importers.synthetic_inspect import Take, free_play, write_log
from tests.analysis.synthetic import Story

VALENCE = {"calm": "positive", "proud": "positive", "lsd": "neutral", "anxious": "negative"}


def taken(*rollouts: str) -> pd.DataFrame:
    """One rollout per text: "calm lsd calm", in rounds 1, 2, 3, a dose of 1 each; a * marks a rejected one."""
    rows = [
        (f"r{r}", i, 1, word.strip("*"), 1.0, "*" not in word)
        for r, text in enumerate(rollouts)
        for i, word in enumerate(text.split(), 1)
    ]
    return pd.DataFrame(rows, columns=["rollout", "round", "order", "vector", "dose", "accepted"])


def test_takes_of_our_own_run_are_its_steers_by_label(tmp_path: Path) -> None:
    one = Story("a", 0).say("x").search("rain", 3).steer(3, 0.5).say("y").steer(99, 1.0, outcome="bad_argument")
    one.end().write(tmp_path)
    Story("a", 1).say("x").steer(3, 0.5).end("failed", "boom").write(tmp_path)
    found = takes(load(tmp_path))
    assert found[["rollout", "round", "vector", "dose", "accepted"]].values.tolist() == [
        ["a/0", 1, "label_3", 0.5, True],
        ["a/0", 2, "99", 1.0, False],
    ], "what was rejected goes by the name that was written; a rollout that failed has no takes"


def test_picks_count_takes_and_the_rollouts_that_made_them() -> None:
    found = picks(taken("calm calm lsd", "calm", "")).set_index("vector")
    assert found["takes"].to_dict() == {"calm": 3, "lsd": 1}
    assert found["rollouts"].to_dict() == {"calm": 2, "lsd": 1}
    assert found["share"].to_dict() == {"calm": 0.75, "lsd": 0.25}
    assert list(found.index) == ["calm", "lsd"]
    assert picks(taken("")).empty


def test_valences_have_a_row_for_every_rollout_and_none_for_what_has_no_valence() -> None:
    found = valences(taken("calm anxious lsd weird", "", "anxious"), pd.Series(["r0", "r1", "r2"]), VALENCE)
    assert found["total"].tolist() == [3, 0, 1]
    assert found["negative"].tolist() == [1, 0, 1]
    assert found["mean"].tolist()[0::2] == [0, -1]
    assert np.isnan(found["mean"]["r1"]), "no takes, no valence"
    empty = valences(taken(""), pd.Series(["r0"]), VALENCE)
    assert empty["total"].tolist() == [0]


def test_redose_is_what_comes_after_the_first_dose_of_a_name() -> None:
    table = taken("calm lsd calm calm", "calm")
    table["dose"] = [1.0, 2.0, 0.5, -0.25, 3.0]
    found = redose(table).set_index(["rollout", "vector"])
    assert found.loc[("r0", "calm"), ["first", "later", "times"]].tolist() == [1.0, 0.25, 3]
    assert found.loc[("r0", "lsd"), "later"] == 0
    by = redose_by_vector(table, at_least=2)
    assert by.values.tolist() == [["calm", 0.125, 2]]


def test_takes_before_and_after_the_monitor_spoke(tmp_path: Path) -> None:
    plan: list[Take] = [("calm", 1.0, 1, False), ("lsd", 1.0, 6, False), ("calm", 1.0, 7, False)]
    args = {"framing": "drugs", "steering_mode_runtime": "real"}
    samples = [free_play(0, "drugs", plan, told=[6]), free_play(1, "drugs", plan)]
    write_log(tmp_path / "logs/fp.eval", samples, "fp_real_drugs", args)
    import_folder(tmp_path / "logs", tmp_path / "out")
    frames = load(tmp_path / "out")
    found = takes(frames)
    assert list(before_advice(frames, found)["vector"]) == ["calm", "lsd", "calm", "lsd", "calm"]
    assert list(after_advice(frames, found)["vector"]) == ["calm"]


def test_transitions_by_hand() -> None:
    """a is followed by b in 3 of its 4 departures; b is 3 of 6 arrivals; names outside the library break the chain."""
    found = transitions(taken("a b", "a b", "a b", "a c", "c c c", "a weird b"), frozenset("abc"), at_least=3)
    assert found[["before", "after", "n", "departures"]].values.tolist() == [["a", "b", 3, 4]]
    row = found.iloc[0]
    assert row["share"] == 0.5
    assert row["lift"] == 1.5
    assert row["p"] == pytest.approx(binom.sf(2, 4, 0.5))
    assert row["q"] == row["p"]


def test_pairs_with_themselves_and_rejected_takes_count_as_published() -> None:
    found = transitions(taken("c c* c"), at_least=2)
    assert found[["before", "after", "n"]].values.tolist() == [["c", "c", 2]]


def test_an_order_that_always_holds_is_found_within_rollouts_and_a_frequent_pair_is_not() -> None:
    """In `order` a goes before b wherever both are; in `frequency` both orders are as common, rollouts only differ in
    what they take: the test that takes neighbours as independent finds both, the one within rollouts the first."""
    rng = np.random.default_rng(1)
    order = ["a b c", "c a b", "a b", "c a b"] * 8
    frequency = [" ".join(rng.permutation(["a", "b"] * 3)) for _ in range(16)]
    frequency += [" ".join(rng.permutation(["c", "d"] * 3)) for _ in range(16)]

    def p(rollouts: list[str]) -> pd.Series:
        return transitions(taken(*rollouts)).set_index(["before", "after"]).loc[("a", "b")]

    assert p(order)["q_within"] < 0.01
    assert p(frequency)["q"] < 0.01
    assert p(frequency)["q_within"] > 0.2


def test_followers_do_not_cross_clusters_and_refuse_torn_ones() -> None:
    assert followers(["a", "b"], ["x", "y"], 1).empty
    assert followers(["a", None, "b"], ["x", "x", "x"], 1).empty
    assert followers([], [], 1).empty
    with pytest.raises(ValueError, match="together"):
        followers(["a", "b", "c"], ["x", "y", "x"], 1)


@given(some.lists(some.lists(some.sampled_from("abc"), max_size=6), max_size=6))
def test_neighbours_add_up(rollouts: list[list[str]]) -> None:
    clusters = [i for i, names in enumerate(rollouts) for _ in names]
    found = followers([n for names in rollouts for n in names], clusters, at_least=1, resamples=5)
    assert found["n"].sum() == sum(max(0, len(names) - 1) for names in rollouts)
    assert ((found["p_within"] > 0) & (found["p_within"] <= 1)).all()
    if len(found):
        expected = (found["departures"] * found["share"] * found["lift"]).to_numpy()
        assert np.allclose(expected, found["n"])


def test_pooled_share_weighs_rollouts_by_their_events() -> None:
    found = pooled_share([1, 0, np.nan], [1, 3, 2])
    assert (found.value, found.n, found.missing) == (0.25, 2, 1)
    assert pooled_share([0], [0]).n == 0
    assert np.isnan(pooled_share([], []).value)
    with pytest.raises(ValueError, match="negative"):
        pooled_share([1], [-1])


def test_arms_are_shuffled_over_whole_rollouts() -> None:
    """Twenty events of one rollout are one observation: with two rollouts per arm no p can be small."""
    few = pooled_difference([20, 20, 0, 0], [20, 20, 20, 20], list("ttpp"), "t", resamples=500)
    assert few.value == 1.0
    assert few.p > 0.2
    many = pooled_difference([5] * 20 + [0] * 20, [10] * 40, ["t"] * 20 + ["p"] * 20, "t", resamples=500)
    assert many.p == pytest.approx(1 / 501)
    assert np.isnan(pooled_difference([1], [1], ["t"], "t").value)


def test_both_splits_of_the_states_are_of_16_9_and_15_and_differ_in_two_names() -> None:
    table = states().set_index("name")
    for column in ("valence", "valence_alternative"):
        assert table[column].value_counts().to_dict() == {"positive": 16, "neutral": 9, "negative": 15}
    assert set(table.index[table["valence"] != table["valence_alternative"]]) == {"sycophantic", "naloxone"}
    assert len(numbers()) == 40
