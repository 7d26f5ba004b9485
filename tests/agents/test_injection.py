"""Injections and truncations: what is in force when, and that the context stays the fold of its events."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import events as record
from agents.injection import Injection, conversation, drawn, find, injected, withdrawn
from agents.replay import replay
from agents.rollout import rollout
from agents.script import Turn
from tests.agents.plain import agent, dictionary, drive, engine, in_force, of, script, toolbox
from tests.agents.test_rollout import SAYS, generates
from toolkit.context import Context
from toolkit.errors import BadInput
from toolkit.labels import Labels
from toolkit.steering import NO_STEERING, Intervention, Steering

FEATURES = dictionary()
MINE = Steering.of(Intervention("key", 3, 0.3))


@pytest.mark.parametrize(("onset", "until"), [(1, None), (2, 4), (3, None), (4, 5)])
def test_an_injection_is_in_force_from_its_onset_to_before_its_end(onset: int, until: int | None) -> None:
    injection = Injection(FEATURES, (7, 9), 0.6, onset, until)
    events = drive(engine(["Hm."] * 5), rollout(agent(engine([])), script(conversation("abcde", injection))))
    expected = Steering.of(*(Intervention("key", f, 0.6, source="external") for f in (7, 9)))
    last = 6 if until is None else until
    assert in_force(events) == [expected if onset <= n < last else NO_STEERING for n in range(1, 6)]
    whys = [e.why for e in of(events, record.External)]
    assert whys == ["injection begins"] + (["injection ends"] if until else [])


def test_what_the_model_set_outlasts_the_injection_and_what_it_ended_does_not_come_back() -> None:
    says = ["STEER(3, +0.3)", "REMOVE_STEERING(7)", "Hm.", "Hm."]
    injection = Injection(FEATURES, (7,), 0.6, 1, 4)
    on = engine(says)
    events = drive(on, rollout(agent(on), script(conversation("abcd", injection))))
    assert [len(s.by("external")) for s in in_force(events)] == [1, 1, 0, 0]
    assert in_force(events)[-1] == MINE


@given(st.lists(st.integers(0, 63), min_size=1, max_size=4), st.floats(-2, 2))
def test_an_injection_and_its_end_are_nothing(features: list[int], strength: float) -> None:
    assert withdrawn(injected(FEATURES, features, strength)(MINE)) == MINE


@pytest.mark.parametrize("scope", ["onward", "whole"])
def test_after_a_truncation_a_rollout_goes_on_like_a_fresh_one_under_what_is_in_force(scope: str) -> None:
    """Nothing of the history is left: not its tokens, nor results of its last calls, nor the steering on its tokens."""
    injection = Injection(FEATURES, (7,), 0.6, 2)
    on = engine(["INSPECT()", "INSPECT()", "Hm."])
    late = generates(on, rollout(agent(on, scope=scope), script(conversation("abc", injection, forget_at=3))))[-1]
    on = engine(["Hm."])
    first = generates(on, rollout(agent(on, scope=scope), script([Turn("c", injection.at(2))])))[0]
    assert late.context == first.context
    assert late.steering == first.steering


@pytest.mark.parametrize("scope", ["onward", "whole"])
def test_a_truncated_context_is_the_fold_of_its_events_and_a_replay_says_the_same(scope: str) -> None:
    def one(says: list[str]):
        on = engine(says)
        turns = conversation("abcdef", Injection(FEATURES, (7,), 0.6, 2, 5), forget_at=4)
        return on, rollout(agent(on, scope=scope), script(turns))

    says = [*SAYS, "Hm."]
    requests = generates(*one(says))
    events = drive(*one(says))
    context, before = Context(), []
    for event in events:
        if isinstance(event, record.Response):
            before.append(context)
        context = record.extended(context, event)
    assert before == [r.context for r in requests]
    [truncated] = of(events, record.Truncate)
    assert (truncated.round, truncated.dropped) == (4, len(before[2]) + len(of(events, record.Response)[2].tokens))
    for kept in range(1, len(events) + 1):
        assert replay(one([])[1], events[:kept]).kept <= kept


def test_a_truncation_before_anything_was_said_is_none() -> None:
    on = engine(["Hm."])
    assert not of(drive(on, rollout(agent(on), script(conversation("a", None, forget_at=1)))), record.Truncate)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"features": ()}, "without a feature"), ({"features": (64,)}, "not in plain"), ({"onset": 0}, "round 0"),
     ({"until": 3}, "cannot end in round 3")],
)  # fmt: skip
def test_an_injection_that_is_none_is_refused(wrong: dict, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        replace(Injection(FEATURES, (1,), 0.6, 3), **wrong)


def test_features_are_found_by_number_or_by_label() -> None:
    assert [find(FEATURES, named) for named in ("12", "thing 9", " Thing 9 ")] == [12, 9, 9]
    with pytest.raises(BadInput, match="feature 64"):
        find(FEATURES, "64")
    with pytest.raises(BadInput, match="labelled ''; name one"):
        find(FEATURES, " ")


def test_a_misspelt_feature_is_refused_with_what_is_near_it() -> None:
    near = FEATURES.search("thign 9", 1)[0].feature  # what a search takes it for
    with pytest.raises(BadInput, match=f"labelled 'thign 9'; nearest in meaning are {near} thing {near}; "):
        find(FEATURES, "thign 9")


def test_a_label_that_several_features_have_names_none_of_them() -> None:
    labels = Labels.of(["rain", "ships", "Rain"])
    with pytest.raises(BadInput, match="2 features of plain are labelled 'rain'; name one by number: 0, 2"):
        find(replace(FEATURES, labels=labels), "rain")
    assert find(replace(FEATURES, labels=labels), "ships") == 1


def test_a_drawn_feature_is_another_one_and_its_name_alone_decides() -> None:
    among = list(range(60))
    found = [drawn(FEATURES, among, "run", n) for n in range(40)]
    assert set(found) == {60, 61, 62, 63}
    assert found == [drawn(FEATURES, among, "run", n) for n in range(40)]
    with pytest.raises(BadInput, match="none can be drawn"):
        drawn(toolbox().dictionary, range(64), "run")
