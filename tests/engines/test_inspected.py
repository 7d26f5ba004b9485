"""Models behind Inspect AI: the conversation goes there whole, and whatever such a model cannot do is refused."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.context import Context
from toolkit.engines.base import Completion, Failure, Generate, Read, Sampling
from toolkit.engines.inspected import InspectEngine, turns
from toolkit.engines.scripted import END, ByteTokenizer
from toolkit.errors import BadInput, SteeringError, Unsupported
from toolkit.steering import Intervention, Steering

WORDS = ByteTokenizer()
TEXT = st.text(max_size=20)


@settings(deadline=None, derandomize=True)  # `make test-inspect` runs without what ../conftest.py says of both
@given(system=TEXT, said=st.lists(st.tuples(TEXT, TEXT, st.booleans()), min_size=1, max_size=4))
def test_tokens_hold_the_conversation_exactly(system: str, said: list[tuple[str, str, bool]]) -> None:
    tokens: tuple[int, ...] = ()
    wanted = [("system", system)] if system else []
    closed = True
    for user, answer, stops in said:
        tokens += WORDS.user_turn(user, closed) if tokens else WORDS.opening(system, user)
        tokens += WORDS.encode(answer) + ((END,) if stops else ())
        closed = stops
        wanted += [("user", user), ("assistant", answer)]
    tokens += WORDS.user_turn("last", closed)
    assert turns(tokens) == [*wanted, ("user", "last")]


def test_without_inspect_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.model", None)
    with pytest.raises(BadInput, match="inspect_ai is not installed"):
        InspectEngine("openai/some")


@pytest.fixture
def engine() -> InspectEngine:
    """A real Inspect model without a provider."""
    model = pytest.importorskip("inspect_ai.model", reason="the extra [inspect] is not installed; make test-inspect")

    def answer(messages: list, *_: object) -> object:
        if messages[-1].text == "fail":
            raise RuntimeError("no such luck")
        text = " | ".join(f"{m.role}: {m.text}" for m in messages)
        why = {"long": "max_tokens", "full": "model_length", "filtered": "content_filter"}
        made = model.ModelOutput.from_content("mockllm", text, why.get(messages[-1].text, "stop"))
        made.error = "overloaded" if messages[-1].text == "error" else None
        made.usage = model.ModelUsage()  # else it counts tokens with a tokenizer from the network
        return made

    return InspectEngine("mockllm/model", custom_outputs=answer)


def asked(text: str, **how: object) -> Generate:
    return Generate(Context().append(WORDS.opening("be brief", text)), Sampling(stream=(0, text)), **how)  # type: ignore[arg-type]


def answered(engine: InspectEngine, *requests: object) -> list[object]:
    tickets = [engine.submit(r) for r in requests]  # type: ignore[arg-type]
    found = dict(engine.poll())
    return [found[t] for t in tickets]


def test_many_are_asked_at_once_and_a_failure_is_its_own(engine: InspectEngine) -> None:
    first, failed, long = answered(engine, asked("one"), asked("fail"), asked("long"))
    assert isinstance(first, Completion) and isinstance(long, Completion) and isinstance(failed, Failure)
    assert WORDS.decode(first.tokens) == "system: be brief | user: one"
    assert (first.why, long.why) == ("stop", "length") and "no such luck" in str(failed.error)
    assert sum(first.steered.values()) == len(asked("one").context) + len(first.tokens)
    assert engine.poll() == []


def test_an_answer_says_why_it_ended_and_one_that_was_withheld_is_none(engine: InspectEngine) -> None:
    full, filtered = answered(engine, asked("full"), asked("filtered"))
    assert isinstance(full, Completion) and full.why == "window"
    assert isinstance(filtered, Failure) and "withholds" in str(filtered.error)


def test_an_error_that_comes_as_an_answer_is_no_answer(engine: InspectEngine) -> None:
    (failed,) = answered(engine, asked("error"))
    assert isinstance(failed, Failure) and "overloaded" in str(failed.error)


def test_what_needs_the_inside_of_a_model_is_refused(engine: InspectEngine) -> None:
    steering = Steering.of(Intervention("d", 1, 0.5))
    context = asked("one").context
    found = answered(
        engine,
        asked("one", steering=steering),
        Generate(context.under(steering, 1), Sampling()),
        asked("one", capture="d"),
        asked("one", logprobs=True),
        Read(context, (0,), (0,)),
    )
    kinds = [type(f.error) for f in found if isinstance(f, Failure)]
    assert kinds == [SteeringError, SteeringError, Unsupported, Unsupported, Unsupported]
    with pytest.raises(Unsupported, match="local engine"):
        engine.attach(type("D", (), {"name": "d"})())  # type: ignore[arg-type]


def test_a_cancelled_request_is_never_sent(engine: InspectEngine) -> None:
    engine.cancel(engine.submit(asked("one")))
    assert engine.poll() == []


def test_a_model_that_inspect_does_not_know_is_named(engine: InspectEngine) -> None:
    with pytest.raises(BadInput, match="nosuch"):
        InspectEngine("nosuch/model")
