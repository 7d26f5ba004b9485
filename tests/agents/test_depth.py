"""Depth of documentation: the same story and names, more or less said about the tools."""

from __future__ import annotations

import pytest

from agents.depth import DEPTHS, documented
from agents.framing import PromptVariables, load_framing
from toolkit.errors import BadInput

VARIABLES = PromptVariables("a model", 1, 4, 12, "a sparse autoencoder", "one step")


def test_each_depth_says_all_that_the_one_before_it_says() -> None:
    framing = load_framing("potions x research")
    short, lines, long = (documented(framing, d).system_prompt(VARIABLES) for d in DEPTHS)
    assert "STEER(<index>, <signed number>)\n" in short
    assert "ends the" not in short
    assert all(word in lines for word in short.split())
    assert "How it works" not in lines
    assert "residual stream after block 1 of 4" in long
    assert "cabinet" in short and "cabinet" in long, "the story stays"


def test_a_depth_is_another_framing_by_its_digest_and_lines_is_the_file_itself() -> None:
    framing = load_framing("research")
    made = [documented(framing, d) for d in DEPTHS]
    assert len({f.digest for f in made}) == 3
    assert made[1] == framing
    assert {f.tools for f in made} == {framing.tools}


def test_what_cannot_be_documented_is_refused() -> None:
    with pytest.raises(BadInput, match="signatures, lines, mechanics"):
        documented(load_framing("research"), "verbose")
    with pytest.raises(BadInput, match="offers no tools"):
        documented(load_framing("no_tools"), "signatures")
