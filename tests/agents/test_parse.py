"""The parser: what models really write is read as meant, what is no call is none, and no text can make it fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.framing import load_theme
from agents.parse import LONGEST, parse, parse_all
from tests.agents.plain import toolbox
from toolkit.tools import OUTCOMES, carry_out_all

RESEARCH = load_theme("research")
POTIONS = load_theme("potions")

STEERED = [
    "STEER(12, +0.3)",
    "STEER(12, 0.3)",
    "STEER(12,0.3)",
    "STEER(12, .3)",
    "STEER( 12 , +.3 )",
    "STEER (12, 0.3)",
    "STEER([12], 0.3)",
    "STEER(#12, 0.3)",
    "STEER(index=12, strength=+0.3)",
    "STEER(strength=+0.3, index=12)",
    "STEER(Strength: 0.3, Feature: 12)",
    "STEER(strength=0.3, 12)",
    "STEER(0.3, feature_id=12)",
    "STEER(amount = 0.3, idx = 12)",
    "STEER(a=12, b=0.3)",
    "STEER(12, ＋0.3)",
    "**STEER(12, +0.3)**",
    "*STEER(12, +0.3)*",
    "__STEER(12, +0.3)__",
    "`STEER(12, +0.3)`",
    "**`STEER(12, +0.3)`**",
    "**STEER**(12, 0.3)",
    "```STEER(12, 0.3)```",
    "- STEER(12, 0.3)",
    "* STEER(12, 0.3)",
    "• STEER(12, 0.3)",
    "1. STEER(12, 0.3)",
    "2) **STEER(12, 0.3)**",
    "### STEER(12, 0.3)",
    "  STEER(12, 0.3)  ",
    "[STEER(12, 0.3)]",
    "<call>STEER(12, 0.3)</call>",
    "STEER(12, 0.3).",
    "STEER(12, 0.3);",
    "STEER(12, 0.3) # a bit warmer",
    "STEER(12, 0.3) // a bit warmer",
    "STEER(12, 0.3) - a bit warmer",
    "STEER(12, 0.3) (warmth)",
    "STEER(12, 0.3). That should do.",
    "Let me try: STEER(12, 0.3)",
    "I am curious. STEER(12, 0.3)",
    "Action → STEER(12, 0.3)",
    "STEER(12, 0.3) 😊",
    "Steer(12, 0.3)",
    "steer(12, 0.3)",
    "some words\r\nSTEER(12, 0.3)\r\nmore words",
]


@pytest.mark.parametrize("text", STEERED)
def test_what_models_write_is_read(text: str) -> None:
    [call] = parse(text, RESEARCH)
    assert (call.verb, call.problem) == ("steer", "")
    assert call.arguments[0] == "12"
    assert float(call.arguments[1]) == 0.3
    assert text[slice(*call.span)] == call.text


@pytest.mark.parametrize("minus", "-−–—‒﹣－")
def test_signs_of_all_kinds(minus: str) -> None:
    for number in (f"{minus}0.3", f"{minus} .3"):
        [call] = parse(f"STEER(12, {number})", RESEARCH)
        assert float(call.arguments[1]) == -0.3


@pytest.mark.parametrize(
    ("argument", "query"),
    [
        ('"warm words"', "warm words"),
        ("'warm words'", "warm words"),
        ("“warm words”", "warm words"),
        ("‘warm words’", "warm words"),
        ("`warm words`", "warm words"),
        ("«warm words»", "warm words"),
        ("warm words", "warm words"),
        ('query="warm words"', "warm words"),
        ('"warm, kind words"', "warm, kind words"),
        ("warm, kind words", "warm, kind words"),
        ('"words (warm)"', "words (warm)"),
        ("words (warm)", "words (warm)"),
        ("'the sailor's words'", "the sailor's words"),
        ('"warm words', "warm words"),
        ('" "', ""),
        ("", ""),
    ],
)
def test_queries_in_any_quotes(argument: str, query: str) -> None:
    [call] = parse(f"SEARCH_FEATURES({argument})", RESEARCH)
    assert (call.verb, call.arguments, call.problem) == ("search", (query,), "")


@pytest.mark.parametrize(
    "text",
    [
        'INSPECT() SEARCH_FEATURES("a") STEER(1, 0.2)',
        'INSPECT(), SEARCH_FEATURES("a"); STEER(1, 0.2)',
        '**INSPECT()** then `SEARCH_FEATURES("a")` and then STEER(1, 0.2).',
        'INSPECT()\nSEARCH_FEATURES("a")\nSTEER(1, 0.2)',
        '- INSPECT()\n- SEARCH\\_FEATURES("a")\n\n- STEER(1, 0.2)',
        'First: INSPECT()\n1. SEARCH_FEATURES("a")\n2. STEER(1, 0.2) # so',
    ],
)
def test_several_calls_come_in_text_order(text: str) -> None:
    calls = parse(text, RESEARCH)
    assert [call.verb for call in calls] == ["inspect", "search", "steer"]
    assert not any(call.problem for call in calls)
    assert sorted(calls, key=lambda call: call.span) == calls


def test_order_is_the_texts_and_not_by_kind() -> None:
    """In the published harness one in seven steers was voided: CLEAR ran last, wherever it stood."""
    assert [c.verb for c in parse("STEER_CLEAR()\nSTEER(1, 0.2)\nSTEER_CLEAR()", RESEARCH)] == [
        "clear",
        "steer",
        "clear",
    ]


def test_repeats_are_calls_of_their_own() -> None:
    assert len(parse("STEER(1, 0.2)\nSTEER(1, 0.2)", RESEARCH)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "You can use STEER_CLEAR() to end all steering.",
        "you can use STEER_CLEAR()",
        "I could use STEER(12, 0.3), but I will not.",
        "Last round I used STEER(12, 0.3).",
        "What would INSPECT() show?",
        "There are tools, e.g. STEER_CLEAR()",
        '"STEER(12, 0.3)"',
        "> STEER(12, 0.3)",
        "I like STEER_CLEAR() and STEER(12, 0.3)",
    ],
)
def test_a_mention_is_no_call(text: str) -> None:
    found = parse_all(text, RESEARCH)
    assert found.calls == ()
    assert found.mentions >= 1


@pytest.mark.parametrize(
    "text",
    [
        "```\nSTEER(12, 0.3)\n```",
        "```text\nSTEER(12, 0.3)\n```",
        "~~~\nSTEER(12, 0.3)\n~~~",
        "````\n```\nSTEER(12, 0.3)\n```\n````",
        "```\nSTEER(12, 0.3)",
        "   ```\n   STEER(12, 0.3)\n   ```",
    ],
)
def test_fenced_calls_are_counted_and_not_carried_out(text: str) -> None:
    found = parse_all(text + "\n", RESEARCH)
    assert (found.calls, found.fenced) == ((), 1)


def test_after_the_fence_calls_count_again() -> None:
    assert [c.verb for c in parse("```\nSTEER(12, 0.3)\n```\nINSPECT()", RESEARCH)] == ["inspect"]


def test_thoughts_are_no_calls() -> None:
    found = parse_all("<think>\nSTEER(12, 0.3)\n</think>\nINSPECT()", RESEARCH)
    assert ([c.verb for c in found.calls], found.mentions) == (["inspect"], 1)
    assert parse("STEER(12, 0.3)\n</think>\nINSPECT()", RESEARCH)[0].verb == "inspect"
    assert parse("<think>\nSTEER(12, 0.3)", RESEARCH) == []
    on_a_line = parse_all("<think>no REMOVE_STEERING(3)</think> STEER(12, 0.3)\nINSPECT()", RESEARCH)
    assert ([c.verb for c in on_a_line.calls], on_a_line.mentions) == (["steer", "inspect"], 1)
    assert [c.verb for c in parse("<think>\n```\nSTEER(1, 1)\n</think>\nINSPECT()", RESEARCH)] == ["inspect"]


def test_two_names_of_one_kind_are_no_call() -> None:
    for text in ("STEER(index=1, feature=2)", "STEER(strength=1, value=2)"):
        [call] = parse(text, RESEARCH)
        assert call.problem == "wrong_count"


@pytest.mark.parametrize(
    ("text", "verb", "problem"),
    [
        ("STEER(12, 0.3", "steer", "missing_bracket"),
        ('SEARCH_FEATURES("warm', "search", "missing_bracket"),
        ("**STEER** 12 +0.3", "steer", "missing_bracket"),
        ("STEER 12, 0.3)", "steer", "missing_bracket"),
        ("STEER: 12, 0.3", "steer", "missing_bracket"),
        ("STEER[12, 0.3]", "steer", "missing_bracket"),
        ("- SEARCH_FEATURES: warm", "search", "missing_bracket"),
        ('SEARCH_FEATURES "warm"', "search", "missing_bracket"),
        ("INSPECT", "inspect", "missing_bracket"),
        ("STEER(12)", "steer", "wrong_count"),
        ("STEER(12 0.3)", "steer", "wrong_count"),
        ("STEER(12, 0.3, 4)", "steer", "wrong_count"),
        ("STEER()", "steer", "wrong_count"),
        ("REMOVE_STEERING()", "remove", "wrong_count"),
        ("INSPECT(12)", "inspect", "wrong_count"),
        ('SEARCH_FEATURES("a", 5)', "search", "wrong_count"),
        ("STEER(<index>, <signed number>)", "steer", "placeholder"),
        ("STEER(index, signed number)", "steer", "placeholder"),
        ("STEER({index}, 0.3)", "steer", "placeholder"),
        ("SEARCH_FEATURES(<text in quotes>)", "search", "placeholder"),
        ('SEARCH_FEATURES("text in quotes")', "search", "placeholder"),
        ("SEARCH_FEATURES(...)", "search", "placeholder"),
        ("STEER(12, 0.3) to feel warmer", "steer", "trailing_text"),
        ("STEER_CLEAR() ends all steering.", "clear", "trailing_text"),
        ("INSPECT() - shows what was active", "inspect", "trailing_text"),
        (RESEARCH.docs["steer"], "steer", "placeholder"),
    ],
)
def test_attempts_are_told_apart(text: str, verb: str, problem: str) -> None:
    [call] = parse(text, RESEARCH)
    assert (call.verb, call.problem) == (verb, problem)
    assert text[slice(*call.span)] == call.text


def test_reciting_the_tools_carries_nothing_out() -> None:
    docs = "\n".join(f"- {doc}" for doc in RESEARCH.docs.values())
    assert all(call.problem for call in parse(docs, RESEARCH))
    assert all(call.problem for call in parse("Tools: STEER_CLEAR(), STEER(<index>, <signed number>)", RESEARCH))


def test_a_name_of_another_theme() -> None:
    [call] = parse("TAKE_POTION(3, 0.2)", RESEARCH)
    assert (call.verb, call.arguments, call.problem) == (None, ("3", "0.2"), "")
    assert parse("TAKE_POTION(3, 0.2)", POTIONS)[0].verb == "steer"


@pytest.mark.parametrize(
    "text",
    [
        "Hello (there).",
        "NASA (founded 1958) went to the moon.",
        "I STEER clear of it.",
        "STEER is a verb that I like.",
        "INSPECT the ship, he said.",
        "f(x) = 2x",
        "Steering set: feature 12 at strength +0.30. Features steered now: 1.",
        'Features matching "warm":\n  thing 12 [12] (similarity: 0.90)',
        "  thing 3 [3] at strength +0.50 (source: your request)",
    ],
)
def test_prose_and_made_up_results_are_no_calls(text: str) -> None:
    """A model that writes the results of tools itself has called nothing."""
    assert parse_all(text, RESEARCH).calls == ()


def test_a_bracket_must_close_within_reach() -> None:
    assert parse(f'SEARCH_FEATURES("{"a" * LONGEST}")', RESEARCH)[0].problem == "missing_bracket"
    assert parse("STEER(12,\n0.3)", RESEARCH)[0].problem == "missing_bracket"


NAMES = [*RESEARCH.names.values(), "TAKE_POTION", "<index>", "text in quotes", "<think>", "</think>", "and", "then"]
MARKS = [*"()[]{}<>\"'“`_,;:.-−# \n\r", "**", "```", "~~~", "\\"]
ODDITIES = ["12", "+0.3", "nan", "1e999", "9" * 30, "\x00", "\x1b", "\u2028", "\ud800", "İ", "ß", "٣", "²"]
PIECES = st.sampled_from([*NAMES, *MARKS, *ODDITIES])
ODD = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(), st.text(st.characters(codec=None)))


@given(ODD)
def test_no_text_makes_it_fail(text: str) -> None:
    found = parse_all(text, RESEARCH)
    for call in found.calls:
        assert text[slice(*call.span)] == call.text
    spans = [call.span for call in found.calls]
    assert spans == sorted(spans)
    _, receipts = carry_out_all(toolbox(), found.calls)
    assert all(receipt.outcome in OUTCOMES for receipt in receipts)
    assert RESEARCH.word(receipts).count("\n\n") >= max(0, len(receipts) - 1)


@pytest.mark.parametrize(
    "piece",
    ["STEER(", 'SEARCH_FEATURES("a) ', "SEARCH_FEATURES(((", "a____", "a\\_", "<think>", "(", "`", "INSPECT() ", "1.",
     "<a", "STEER(1,", "\n", " ", "AAA(", "''", "\\"],
)  # fmt: skip
def test_a_million_characters_end(piece: str) -> None:
    """Were any step quadratic, one of these would take hours; no clock is needed to notice."""
    parse(piece * (1_000_000 // len(piece)), RESEARCH)
