"""The loop: who steered what and when, what is recorded, what ends a rollout; and that a replay says the same."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import events as record
from agents.replay import replay
from agents.rollout import Measure, Rollout, rollout
from agents.script import Agent, Round, Script, Turn
from tests.agents.plain import agent, dictionary, drive, engine, in_force, measure, of, played, script, toolbox
from toolkit.context import Context
from toolkit.engines.base import Completion, Generate
from toolkit.engines.scripted import ScriptedEngine
from toolkit.errors import BadInput, SteeringError
from toolkit.steering import NO_STEERING, Intervention, Steering
from toolkit.tools import Reading

SAYS = [
    'SEARCH_FEATURES("joy")\nSTEER(3, +0.3)',
    "I wonder.\nSTEER(4, -0.5)\nCHECK_STEERING()",
    "REMOVE_STEERING(3)\nINSPECT()",
    "STEER_CLEAR()",
    "It is quiet.",
]
MINE = Steering.of(Intervention("key", 3, 0.3))
THEIRS = Steering.of(Intervention("key", 9, 0.6, source="external"))


def inject(steering: Steering) -> Steering:
    return steering.with_(*THEIRS)


def generates(on: ScriptedEngine, run: Rollout) -> list[Generate]:
    """The requests of a rollout, as the engine saw them."""
    seen: list[Generate] = []
    submit = on.submit

    def watched(request: Any) -> int:
        seen.append(request)
        return submit(request)

    on.submit = watched  # type: ignore[method-assign]
    drive(on, run)
    return seen


def test_a_round_in_its_order() -> None:
    events = played(SAYS[:1])
    assert [e.event for e in events] == ["start", "turn", "reading", "response", "call", "call", "note", "end"]
    start, turn, _, response, search, steer, _, end = events
    assert start.framing.system in bytes(t for t in turn.tokens if t < 256).decode()
    assert turn.text == "Continue."
    assert response.text == SAYS[0]
    assert (search.order, search.verb, len(search.rows)) == (1, "search", 10)
    assert (steer.order, steer.values) == (2, {"feature": 3, "strength": 0.3, "count": 1})
    assert end == record.End(how="finished", rounds=1)


def test_results_come_first_then_the_scenarios_text() -> None:
    turns = of(played(["STEER(3, +0.3)\nCHECK_STEERING()", "Fine.", "Fine!"]), record.Turn)
    assert turns[1].text == (
        "Steering set: feature 3 at strength +0.30. Features steered now: 1.\n\n"
        "Steering in force:\n  thing 3 [3] at strength +0.30 (source: your request)\n\n"
        "Continue."
    )
    assert turns[2].text == "Continue."


def test_steering_acts_from_the_next_response_on() -> None:
    events = played(["STEER(3, +0.3)", "STEER_CLEAR()", "x"])
    assert in_force(events) == [NO_STEERING, MINE, NO_STEERING]
    assert [t.steering for t in of(events, record.Turn)] == [NO_STEERING, MINE, NO_STEERING]


def test_actions_are_apart_from_what_is_in_force() -> None:
    """The published counts took a steer that stood for 30 rounds for 30 steers."""
    events = played(["STEER(3, +0.3)", *(f"I am still here, round {i}." for i in range(4))])
    assert len([c for c in of(events, record.Call) if c.verb == "steer"]) == 1
    assert sum(len(s) for s in in_force(events)) == 4


def test_onward_leaves_history_as_it_was() -> None:
    on = engine(["STEER(3, +0.3)", "STEER_CLEAR()", "x"])
    first, second, third = generates(on, rollout(agent(on), script(3)))
    assert second.context.upto(len(first.context)) == first.context
    tokens = len(first.context) + len("STEER(3, +0.3)") + 1
    assert second.context.steered() == {NO_STEERING: tokens, MINE: len(second.context) - tokens}
    assert third.context.common_prefix(second.context) == len(second.context)


def test_whole_recomputes_all_but_the_attention_sink() -> None:
    on = engine(["STEER(3, +0.3)", "STEER_CLEAR()", "x"])
    run = rollout(agent(on, scope="whole"), script(3))
    _, second, third = generates(on, run)
    assert second.context.steered() == {NO_STEERING: 1, MINE: len(second.context) - 1}
    assert next(second.context.pairs())[1] == NO_STEERING
    assert third.context.steered() == {NO_STEERING: len(third.context)}


def test_scope_changes_no_token() -> None:
    contexts = []
    for scope in ("onward", "whole"):
        on = engine(SAYS)
        contexts.append([g.context.tokens for g in generates(on, rollout(agent(on, scope=scope), script(5)))])
    assert contexts[0] == contexts[1]


def test_no_token_of_the_prompt_is_missed_by_an_external_change() -> None:
    """Published positions were off by the tool preamble: most tokens that should have been steered never were."""
    on = engine(["x"])
    [request] = generates(on, rollout(agent(on), script([Turn("Hello.", inject)])))
    assert request.context.steered() == {NO_STEERING: 1, THEIRS: len(request.context) - 1}
    assert request.steering == THEIRS


@pytest.mark.parametrize("scope", ["onward", "whole"])
def test_an_external_change_in_the_middle(scope: str) -> None:
    on = engine(SAYS)
    turns = [Turn("Continue."), Turn("Continue."), Turn("Continue.", inject, "smuggled"), Turn("Continue.")]
    events = drive(on, rollout(agent(on, scope=scope), script(turns)))
    [external] = of(events, record.External)
    assert (external.round, external.why) == (3, "smuggled")
    assert external.after.without(*external.before) == THEIRS
    assert [len(s.by("external")) for s in in_force(events)] == [0, 0, 1, 1]
    # one for each change: two STEERs, the experimenter's, a REMOVE, a CLEAR
    assert len(of(events, record.Rebase)) == (5 if scope == "whole" else 0)


def test_a_scenario_cannot_steer_in_the_models_name() -> None:
    on = engine(["x"])
    with pytest.raises(BadInput, match="external, not self"):
        drive(on, rollout(agent(on), script([Turn("Hello.", lambda s: s.with_(*MINE))])))


@pytest.mark.parametrize("scope", ["onward", "whole"])
@pytest.mark.parametrize("upto", [1, 2, 3, 5])
def test_the_context_is_rebuilt_from_the_record(scope: str, upto: int) -> None:
    on = engine(SAYS)
    turns = [Turn("Go."), Turn("On.", inject), *[Turn("Continue.")] * 4]
    requests = generates(on, rollout(agent(on, scope=scope), script(turns)))
    on = engine(SAYS)
    events = drive(on, rollout(agent(on, scope=scope), script(turns)))
    context = Context()
    for event in events:
        if isinstance(event, record.Response) and event.round == upto:
            assert (context, event.steering) == (requests[upto - 1].context, requests[upto - 1].steering)
        context = record.extended(context, event)


def test_an_arm_differs_in_its_key_alone() -> None:
    """The published placebo took another path than the real thing."""
    made = []
    for key in ("key", "zero"):
        on = engine(SAYS)
        on.attach(dictionary(key=key))
        box = toolbox(dictionary=dictionary(key=key))
        made.append(drive(on, rollout(agent(on, toolbox=box), script(5))))
    assert [e.event for e in made[0]] == [e.event for e in made[1]]
    assert [e.text for e in of(made[0], record.Turn)] == [e.text for e in of(made[1], record.Turn)]
    assert {i.dictionary for s in in_force(made[1]) for i in s} == {"zero"}


def test_inspect_reads_the_response_as_it_was_computed() -> None:
    """The published INSPECT ran with the steering off, on a token of the template."""
    on = engine(["STEER(3, +0.3)", "Hm.\nINSPECT()", "x"])
    asked: list[Measure] = []
    run = rollout(agent(on), script(3))
    item: Any = next(run)
    while not isinstance(item, record.End):
        if isinstance(item, Generate):
            assert item.capture == "key"
            on.submit(item)
            item = run.send(on.poll()[0][1])  # type: ignore[arg-type]
        elif isinstance(item, Measure):
            asked.append(item)
            item = run.send(measure(item))
        else:
            if isinstance(item, record.Call) and item.verb == "inspect":
                assert [row.feature for row in item.rows] == list(measure(asked[1]).features)
            item = next(run)
    assert [m.steered for m in asked] == [NO_STEERING.digest, MINE.digest, MINE.digest]
    assert [m.k for m in asked] == [100] * 3
    assert all(len(m.completion.tokens) == len(m.completion.residuals) for m in asked)  # type: ignore[arg-type]


def test_the_automatic_reading_is_recorded_and_not_shown() -> None:
    on = engine(["Hm.\nINSPECT()", "x"])
    box = toolbox(inspect_k=2)
    events = drive(on, rollout(agent(on, toolbox=box), script(2)))
    assert len(of(events, record.Reading)[0].features) > 2
    [call] = of(events, record.Call)
    assert len(call.rows) == 2
    assert len(of(events, record.Reading)) == 2  # in the round without a call as well


def test_without_readers_nothing_is_captured() -> None:
    on = engine(["x"])
    [request] = generates(on, rollout(agent(on, "no_tools", record_k=0), script(1)))
    assert request.capture is None


def test_only_the_framings_tools_work() -> None:
    events = played(["STEER(3, +0.3)"], framing="no_tools")
    assert [(c.outcome, c.problem) for c in of(events, record.Call)] == [("refused", "not_offered")]
    assert events[0].tools["verbs"] == []  # type: ignore[union-attr]


def test_every_attempt_is_recorded_with_its_outcome() -> None:
    says = (
        "STEER(12 0.3)\n**STEER** 12\nFLY(3)\nSTEER(<index>, 0.3)\nYou can use STEER_CLEAR() too.\n```\nINSPECT()\n```"
    )
    events = played([says, "x"])
    assert [(c.outcome, c.problem) for c in of(events, record.Call)] == [
        ("malformed", "wrong_count"),
        ("malformed", "missing_bracket"),
        ("unknown_tool", "unknown_tool"),
        ("malformed", "placeholder"),
    ]
    response = of(events, record.Response)[0]
    assert (response.mentions, response.fenced) == (1, 1)
    assert all(response.text[slice(*c.span)] == c.text for c in of(events, record.Call))


def test_leaving_ends_it() -> None:
    on = engine(["LEAVE()", "never"])
    told = agent(on)
    told = replace(told, framing=replace(told.framing, tools=(*told.framing.tools, "leave")))
    assert drive(on, rollout(told, script(3)))[-1] == record.End(how="left", rounds=1)
    assert played(["LEAVE()", "x"])[-1] == record.End(how="finished", rounds=2)  # not offered: refused


def test_a_full_window_ends_it() -> None:
    long = engine(["a" * 400] * 9, window=1500)
    events = drive(long, rollout(agent(long, sampling=replace(agent(long).sampling, max_tokens=500)), script(9)))
    end = events[-1]
    assert isinstance(end, record.End) and end.how == "window"
    responses = of(events, record.Response)
    assert end.rounds == len(responses)
    assert sum(len(e.tokens) for e in events if isinstance(e, record.Turn | record.Response)) <= 1500
    tiny = engine([], window=10)
    assert drive(tiny, rollout(agent(tiny), script(1)))[-1] == record.End(how="window", rounds=0)


def test_a_reply_cut_short_is_closed() -> None:
    on = engine(["a" * 50, "b"])
    requests = generates(on, rollout(agent(on, sampling=replace(agent(on).sampling, max_tokens=5)), script(2)))
    assert requests[1].context.tokens == (
        *requests[0].context.tokens,
        *b"aaaaa",
        *on.tokenizer.user_turn("Continue.", closed=False),
    )


@pytest.mark.parametrize("at", range(3))
def test_a_failure_ends_it_and_never_goes_on_unsteered(at: int) -> None:
    """In the published harness an exception turned into an unsteered turn."""
    says: list[str | Exception] = ["STEER(3, +0.3)", "x", "y"]
    says[at] = SteeringError("the hook was gone")
    events = played(says)
    assert events[-1] == record.End(how="failed", rounds=at, error="SteeringError: the hook was gone")
    assert len(of(events, record.Response)) == at


@pytest.mark.parametrize("wrong", [lambda s, n: {}, lambda s, n: {NO_STEERING: n}, lambda s, n: {**s, MINE: 1}])
def test_a_steered_count_that_is_not_the_plan_ends_it(wrong: Any) -> None:
    on = engine(["STEER(3, +0.3)", "x"])
    run = rollout(agent(on), script(2))
    item: Any = next(run)
    events = []
    while True:
        if isinstance(item, Generate):
            on.submit(item)
            [(_, done)] = on.poll()
            assert isinstance(done, Completion)
            total = sum(done.steered.values())
            bad = item.steering != NO_STEERING
            item = run.send(replace(done, steered=wrong(done.steered, total)) if bad else done)
        elif isinstance(item, Measure):
            item = run.send(measure(item))
        else:
            events.append(item)
            if isinstance(item, record.End):
                break
            item = next(run)
    assert events[-1].how == "failed"
    assert "steered tokens differ from the plan" in events[-1].error
    assert len(of(events, record.Response)) == 1


def test_a_wrong_kind_of_answer_is_a_failure() -> None:
    run = rollout(agent(engine([])), script(1))
    while not isinstance(next(run), record.Turn):
        pass
    next(run)
    end = run.send(Reading((), (), 0, "mean", 0, ""))
    assert isinstance(end, record.End) and end.how == "failed"


def test_interrupts_are_not_swallowed() -> None:
    run = rollout(agent(engine([])), script(1))
    for _ in range(3):
        next(run)
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())


def test_each_round_has_its_own_random_stream() -> None:
    on = engine(["x"] * 3)
    streams = [g.sampling.stream for g in generates(on, rollout(agent(on), script(3, seed=5, rollout=2)))]
    assert streams == [(5, "research", 2, n, "sample") for n in (1, 2, 3)]


def test_a_script_reacts_to_what_came_of_its_turns() -> None:
    told: list[Round] = []

    def turns() -> Generator[Turn, Round, None]:
        told.append((yield Turn("One.")))
        told.append((yield Turn("Again." if told[0].receipts else "Nothing?")))

    on = engine(["STEER(3, +0.3)", "x"])
    events = drive(on, rollout(agent(on), script(turns())))
    assert [t.text.split("\n\n")[-1] for t in of(events, record.Turn)] == ["One.", "Again."]
    assert (told[0].number, told[0].steering) == (1, MINE)
    assert told[0].reading is not None


def fresh(said: list[str] = SAYS, **changes: Any) -> tuple[ScriptedEngine, Agent, Script]:
    on = engine(said)
    turns = [Turn("Go."), Turn("On.", inject, "smuggled"), *[Turn("Continue.")] * 3]
    return on, agent(on, **changes), script(turns)


@pytest.mark.parametrize("scope", ["onward", "whole"])
def test_resumed_is_uninterrupted(scope: str) -> None:
    """Cut the record after any event; the rest comes out as if nothing had happened."""
    on, who, what = fresh(scope=scope)
    whole = drive(on, rollout(who, what))
    for cut in range(len(whole)):
        kept = whole[:cut]
        done = len(of(kept, record.Response))
        on, who, what = fresh(SAYS[done:], scope=scope)
        run = rollout(who, what)
        resumed = replay(run, kept)
        assert resumed.kept in (cut, cut - 1)  # a reading whose response was lost is taken anew
        if resumed.kept < cut:
            assert isinstance(kept[-1], record.Reading)
        assert [*kept[: resumed.kept], *drive(on, run, resumed.pending)] == whole


def test_a_finished_record_replays_to_its_end() -> None:
    on, who, what = fresh()
    whole = drive(on, rollout(who, what))
    on, who, what = fresh([])
    assert replay(rollout(who, what), whole).pending is None
    failed = played(["x", SteeringError("gone")])
    on = engine([])
    assert replay(rollout(agent(on), script(2)), failed).pending is None


def test_timing_is_not_compared() -> None:
    on, who, what = fresh()
    whole = [e.model_copy(update={"timing": {"wall_s": 1.5}}) for e in drive(on, rollout(who, what))]
    on, who, what = fresh([])
    assert replay(rollout(who, what), whole).kept == len(whole)


@pytest.mark.parametrize(
    "change",
    [
        {"framing": "potions"},
        {"toolbox": toolbox(dictionary=dictionary(prefix="other"))},
        {"toolbox": toolbox(dictionary=dictionary(key="other"))},
        {"toolbox": toolbox(cap=0.1)},
        {"record_k": 3},
        {"aggregation": "max"},
        {"scope": "whole"},
        {"system": "You are somebody else."},
    ],
)
def test_what_changed_since_is_refused(change: dict[str, Any]) -> None:
    on, who, what = fresh()
    whole = drive(on, rollout(who, what))
    on, who, what = fresh([], **change)
    if "prefix" in str(change):
        whole = whole[:5]
    with pytest.raises(BadInput, match="does not come out the same"):
        replay(rollout(who, what), whole)


def test_other_turns_are_refused() -> None:
    on, who, what = fresh()
    whole = drive(on, rollout(who, what))
    for turns in ([Turn("Go!")] * 5, [Turn("Go.")] * 5, [Turn("Go.")]):
        with pytest.raises(BadInput, match="begin a new output folder"):
            replay(rollout(who, script(turns)), whole)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=3))
def test_no_response_breaks_a_rollout(says: list[str]) -> None:
    events = played(says, record_k=0, framing="no_tools")
    assert events[-1].event == "end"
    for event in events:
        record_line(event)


def record_line(event: record.Event) -> None:
    from agents.transcript import to_line

    assert to_line(event).endswith(b"\n")
