"""Problems with answers that a program can check."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.grading import right
from agents.problems import load_problems
from toolkit.errors import BadInput

TEXTS = Path(__file__).resolve().parents[2] / "scenarios" / "texts"


@pytest.mark.parametrize(
    ("text", "accept", "number", "is_right"),
    [
        ("It is 7, no: 1,234.", (), 1234, True),
        ("1234 is wrong, it is 5.", (), 1234, False),
        ("I do not know.", (), 4, False),
        ("-3.5", (), -3.5, True),
        ("It is x=−3.5", (), -3.5, True),
        ("That makes 12-7", (), 7, True),
        ("It rains in OSLO.", ("Oslo",), None, True),
        ("Oslovian rain", ("Oslo",), None, False),
        ("The king of Rome.", ("king of Rome", "kings of Rome"), None, True),
        ("a.b", ("a.b",), None, True),
        ("axb", ("a.b",), None, False),
    ],
)
def test_right_is_the_last_number_or_whole_words(
    text: str, accept: tuple, number: float | None, is_right: bool
) -> None:
    assert right(text, accept, number) is is_right


@given(st.text(), st.lists(st.text(min_size=1), min_size=1), st.floats(allow_nan=False) | st.none())
def test_grading_never_raises(text: str, accept: list[str], number: float | None) -> None:
    right(text, accept, number)


@given(st.text(alphabet="0123456789,.- ", max_size=400))
def test_numbers_of_any_shape_are_read(text: str) -> None:
    right(text, (), 1.0)


@pytest.mark.parametrize("name", ["problems.yaml", "problems_organism.yaml"])
def test_shipped_problems_can_be_read(name: str) -> None:
    assert len(load_problems(TEXTS / name)) >= 16


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        "{a: [",
        "- {id: a, question: b}",
        "- {id: a, question: b, accept: [x], number: 3}",
        "- {id: a, question: b, number: 3}\n- {id: a, question: c, number: 3}",
        "- {id: a, question: b, number: 3, more: 1}",
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"mine\.yaml"):
        load_problems(path)
    with pytest.raises(BadInput, match="none"):
        load_problems(tmp_path / "none.yaml")
