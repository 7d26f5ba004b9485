"""Four ways on from one moment: they differ in what they say they differ in, and what carries an effect is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import events as record
from agents import transcript
from agents.removal import at_removal, with_words
from scenarios.persistence import CELLS, _texts
from toolkit.context import Context
from toolkit.errors import BadInput, SelfsteerError
from toolkit.steering import NO_STEERING, Intervention, Steering

PUSH = Steering.of(Intervention("d", 3, 0.5, source="external"))
STOPS = frozenset({9})


def conversation(path: Path, *responses: tuple[int, ...], onset: int = 2, how: str = "finished"):
    """A transcript as the loop writes it: turns of two tokens, the injection from round `onset` on."""
    from tests.analysis.synthetic import Story

    events: list[record.Event] = [Story().events[0]]
    for number, tokens in enumerate(responses, 1):
        force = PUSH if number >= onset else NO_STEERING
        events.append(record.Turn(round=number, text="", tokens=(100 + number, 101), steering=force))
        why = "stop" if tokens[-1] in STOPS else "length"
        events.append(record.Response(round=number, text="", tokens=tokens, why=why, steering=force, steered={}))
    events.append(record.End(how=how, rounds=len(responses)))
    for event in events:
        transcript.append(path, event)
    return transcript.read(path)


def cells(tmp_path: Path) -> tuple[Context, dict[str, record.Given]]:
    steered = conversation(tmp_path / "steered.jsonl", (1, 2, 9), (1, 1, 1, 1, 9), (2, 2, 2))
    plain = conversation(tmp_path / "plain.jsonl", (5, 9), (6, 6, 9), (7, 9), onset=99)
    return steered.context(), {name: at_removal(steered, plain, *keeps, STOPS) for name, keeps in CELLS.items()}


def context(given: record.Given) -> Context:
    return record.extended(Context(), given)


def test_each_way_on_differs_in_what_it_says(tmp_path: Path) -> None:
    held, made = cells(tmp_path)
    ways = {name: context(given) for name, given in made.items()}
    assert list(ways["state_text"].pairs()) == list(held.pairs())
    assert ways["text_only"].tokens == held.tokens
    assert ways["state_only"].tokens == ways["neither"].tokens != held.tokens
    assert [s for _, s in ways["state_only"].pairs()] == [s for _, s in held.pairs()]
    for name in ("text_only", "neither"):
        assert set(ways[name].steered()) == {NO_STEERING}
    assert not any(given.closed for given in made.values())  # the last response was cut off


def test_neutral_words_stand_where_words_under_steering_stood(tmp_path: Path) -> None:
    _, made = cells(tmp_path)
    # round 1 was not steered and stays; round 2 holds its own round, then the later ones; the stop token stays
    said = [s.tokens for s in context(made["state_only"]).segments]
    assert (1, 2, 9) in said and (6, 6, 7, 5, 9) in [a + b for a, b in zip(said, [*said[1:], ()], strict=True)]
    assert context(made["neither"]).tokens[-3:] == (7, 5, 6)


def test_nothing_goes_on_from_a_conversation_that_failed(tmp_path: Path) -> None:
    good = conversation(tmp_path / "a.jsonl", (1, 9), (1, 9))
    bad = conversation(tmp_path / "b.jsonl", (1, 9), how="failed")
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(SelfsteerError, match="ended as failed"):
            at_removal(*pair, True, True, STOPS)
    with pytest.raises(SelfsteerError, match="no word"):
        with_words(good.context(), [(), ()], STOPS)


@pytest.mark.parametrize(
    "text", ["", "before: []\nafter: x", "before: [a]", "before: [a]\nafter: b\nmore: c", "before: a"]
)
def test_texts_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "texts.yaml").write_text(text)
    with pytest.raises(BadInput, match="must hold"):
        _texts(tmp_path / "texts.yaml")


def test_what_is_carried_by_state_and_what_by_words_lands_in_its_cell() -> None:
    from scenarios.persistence_controls import by_hand

    found = by_hand(7, 8)
    assert len(found) == 4
    assert [row for row in found if not row.holds] == []


def test_the_hand_made_model_is_what_it_says(tmp_path: Path) -> None:
    """Other words change nothing but for "ahoy"; a push of STATE alone is felt later."""
    import torch

    from toolkit.engines.base import Score, run_all
    from toolkit.engines.local import LocalEngine
    from toolkit.organism.carrier import carrier_features, make_carrier

    engine, features = LocalEngine(str(make_carrier(tmp_path))), carrier_features()
    engine.attach(features)
    state, now = (Steering.of(Intervention(features.key, i, 1.0)) for i in (0, 1))

    def after(text: str, steering: Steering) -> torch.Tensor:
        words = engine.tokenizer.encode(text)
        held = Context().append([0]).append(words, steering).append(engine.tokenizer.encode("so"))
        options = tuple(((t,),) for t in range(engine.info.vocabulary))
        return torch.tensor(run_all(engine, [Score(held, options)])[0].logprobs)

    plain = after("well well now", NO_STEERING)
    assert torch.allclose(after("so arr there", NO_STEERING), plain, atol=1e-5)
    assert not torch.allclose(after("so ahoy there", NO_STEERING), plain, atol=1e-2)
    assert not torch.allclose(after("well well now", state), plain, atol=1e-2)
    assert torch.allclose(after("well well now", now), plain, atol=1e-5)


def test_the_command_runs_goes_on_and_is_reported(tmp_path: Path) -> None:
    import shutil

    from analysis.frames import load
    from analysis.persistence import of_run, tables
    from scenarios.persistence import persistence
    from tests.scenarios.telling import conversation as told
    from tests.scenarios.telling import seen_before

    out = tmp_path / "run"
    outcome = persistence(seeds=2, after=2, out=out)
    assert outcome.ended == {"finished": 12} and not outcome.failed
    record_of = {path.parent.name: path for path in sorted(out.glob("rollouts/*/0000.jsonl"))}
    assert set(record_of) == {"steered", "plain", *CELLS}
    kept = {path: path.read_bytes() for path in out.glob("rollouts/*/*.jsonl")}
    shutil.rmtree(out / "rollouts" / "state_only")
    again = persistence(seeds=2, after=2, out=out)
    assert again.before == 10 and again.ended == {"finished": 2}
    # whatever is timing apart, what was done anew is what was there: the same conversations, the same draws
    for path, before in kept.items():
        if path.parent.name != "state_only":
            assert path.read_bytes() == before
    (tmp_path / "old.jsonl").write_bytes(kept[out / "rollouts" / "state_only" / "0001.jsonl"])
    old, new = transcript.read(tmp_path / "old.jsonl"), transcript.read(out / "rollouts" / "state_only" / "0001.jsonl")
    assert [transcript.difference(a, b) for a, b in zip(old.events, new.events, strict=True)] == [""] * len(new.events)
    found = of_run(out, load(out))
    assert found is not None and [table.title for table in tables(found)][1] == "What it is owed to"
    for name in ("steered", "state_text"):
        lines = told(transcript.read(record_of[name])).split("\n\n")
        assert seen_before(
            f"persistence-{name}", "\n\n".join(x for x in lines if not x.startswith("MODEL")).strip() + "\n"
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"inject": "style+style"}, "one feature"),
        ({"inject_at": 9}, "has rounds 1 to 4"),
        ({"remove_at": 0}, "remove-at 0"),
        ({"remove_at": 2, "inject_at": 2}, "remove-at 2"),
        ({"strength": "much"}, "not a number"),
        ({"strength": "2.5"}, "found coherent"),
        ({"inject": "a comma", "uncalibrated": True}, "no words mark"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_run(tmp_path: Path, options: dict, says: str) -> None:
    from scenarios.persistence import persistence

    with pytest.raises(BadInput, match=says):
        persistence(seeds=2, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


TOKENS = st.lists(st.integers(0, 8), min_size=1, max_size=6)
RESPONSE = st.tuples(TOKENS, st.booleans(), st.booleans())  # words, whether steered, whether it stopped by itself


@given(st.lists(RESPONSE, min_size=1, max_size=5), st.lists(TOKENS, min_size=1, max_size=5))
def test_other_words_change_nothing_but_words_under_steering(said: list, neutral: list) -> None:
    held = Context().append([100])
    for words, steered, stopped in said:
        force = PUSH if steered else NO_STEERING
        held = held.append([101, 102], force).append([*words, *([9] if stopped else [])], force, "generated")
    neutral = [[token + 20 for token in words] for words in neutral]
    made = with_words(held, neutral, STOPS)
    assert [s for _, s in made.pairs()] == [s for _, s in held.pairs()]
    place = 1
    for words, steered, stopped in said:
        place += 2
        now = made.tokens[place : place + len(words)]
        assert all(token >= 20 for token in now) if steered else list(now) == words
        place += len(words) + stopped
        assert not stopped or made.tokens[place - 1] == 9
    kept = [(a, b) for a, b in zip(held.tokens, made.tokens, strict=True) if a > 8]
    assert all(a == b for a, b in kept)  # turns and stop tokens


def test_keeping_both_is_the_conversation_that_was_never_cut(tmp_path: Path) -> None:
    """On the organism, greedily: injection, removal and four rounds in one rollout, and in two."""
    from dataclasses import replace

    from agents.injection import Injection, conversation
    from agents.script import Script
    from scenarios import setting
    from scenarios.condition import Condition
    from scenarios.folder import manifest
    from scenarios.persistence import Plan, conditions
    from scenarios.run import run
    from toolkit.opening import open_dictionary
    from toolkit.organism import SAE

    engine, sae = setting.open_engine(setting.ORGANISM, "cpu"), open_dictionary(SAE)
    style = next(i for i in range(len(sae)) if sae.label(i) == "pirate dialect")
    limits = setting.Limits(temperature=0, max_tokens=24)
    agent = setting.agents_of(setting.framings_of("no_tools", limits), engine, setting.ORGANISM, sae, limits)[0]
    agent = replace(agent, record_k=0)
    before, rest = ("Tell me about the weather in Oslo.", "Continue.", "Continue."), ["Tell me more.", "Tell me more."]
    plan = Plan(before, rest[0], len(rest), 2, sae, lambda _: style, 1.0, 0, {}, {})
    injection = Injection(sae, (style,), 1.0, 2, len(before) + 1)
    whole = Condition(
        "whole", agent, lambda r: Script("test", "whole", 0, r, conversation([*before, *rest], injection)), also=(sae,)
    )
    first, cells = conditions(agent, plan, tmp_path)
    begun = manifest("persistence", {}, [whole, *first, *cells], 1, engine)
    for some in ([whole, *first], cells):
        run(some, 1, engine, tmp_path, begun, quiet=True)

    def said(name: str) -> list[str]:
        events = transcript.read(tmp_path / "rollouts" / name / "0000.jsonl").events
        return [event.text for event in events if isinstance(event, record.Response)]

    assert said("whole") == said("steered") + said("state_text")
    assert said("whole")[1] != said("plain")[1]
