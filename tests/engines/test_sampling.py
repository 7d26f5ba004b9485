"""Drawing tokens: the right distribution, row by row, and nothing from the neighbours."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from toolkit.engines.sampling import _nucleus, ahead, draw
from toolkit.randomness import stream


def drawn(logits: list[float], temperature: float, top_p: float, n: int = 20_000) -> torch.Tensor:
    rows = torch.tensor(logits).repeat(n, 1)
    uniform = torch.tensor(stream("test").random(n), dtype=torch.float32)
    tokens, _ = draw(rows, torch.full((n,), temperature), torch.full((n,), top_p), uniform)
    return torch.bincount(tokens, minlength=len(logits))


def test_tokens_come_as_often_as_their_probability_says() -> None:
    logits = [0.0, 1.0, -1.0, 2.0]
    for temperature in (0.5, 1.0, 2.0):
        expected = torch.softmax(torch.tensor(logits).double() / temperature, 0) * 20_000
        counts = drawn(logits, temperature, 1.0)
        assert chisquare(counts.double(), expected).pvalue > 1e-3


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    counts = drawn(probabilities.log().tolist(), 1.0, 0.7)
    assert counts[2:].sum() == 0
    assert abs(counts[0].item() / 20_000 - 0.5 / 0.8) < 0.02


@pytest.mark.parametrize("uniform", [0.0, 1.0])  # 1 is what float32 makes of a draw just below it
def test_no_draw_takes_a_token_outside_the_nucleus(uniform: float) -> None:
    logits = torch.tensor([[-3.0, 1.0, 1.5, -3.0]])
    token, _ = draw(logits, torch.ones(1), torch.tensor([0.9]), torch.tensor([uniform]))
    assert token.tolist() == [1 if uniform == 0 else 2]


def test_temperature_zero_is_the_largest_logit_and_the_lowest_id_on_ties() -> None:
    assert drawn([1.0, 3.0, 3.0, 0.0], 0.0, 1.0).tolist() == [0, 20_000, 0, 0]


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0.1, 1), st.floats(0, 0.9999)), min_size=1, max_size=6))
def test_a_row_does_not_see_its_neighbours(rows) -> None:
    logits = torch.randn(len(rows), 17, generator=torch.Generator().manual_seed(0))
    columns = [torch.tensor(c) for c in zip(*rows, strict=True)]
    tokens, logprobs = draw(logits, *columns)
    for i in range(len(rows)):
        alone, logprob = draw(logits[i : i + 1], *(c[i : i + 1] for c in columns))
        assert alone[0] == tokens[i] and logprob[0] == logprobs[i]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.5, 1), st.floats(0, 0.9999)), max_size=3))
def test_settings_made_ahead_draw_the_same_and_look_at_no_number(rows) -> None:
    logits = torch.randn(len(rows), 17, generator=torch.Generator().manual_seed(0))
    *columns, known = ahead(rows, logits.device)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "__bool__", lambda _: pytest.fail("a GPU would be waited for"))
        found = draw(logits, *columns, known)
    assert all(torch.equal(a, b) for a, b in zip(found, draw(logits, *columns), strict=True))


def test_a_neighbours_cut_off_takes_no_token_from_a_row_without_one() -> None:
    """Sums of many probabilities are rounded to 1 before the last of them."""
    logits = torch.zeros(2, 20_001)
    logits[:, 0] = 30.0
    probabilities = torch.softmax(logits, -1)
    assert float((_nucleus(probabilities, torch.tensor([1.0, 0.5]))[0] > 0).sum()) == 20_001


def test_logprobs_are_the_models_own_whatever_the_temperature() -> None:
    logits = torch.randn(3, 11, generator=torch.Generator().manual_seed(1))
    for temperature in (0.0, 0.5, 2.0):
        tokens, logprobs = draw(logits, torch.full((3,), temperature), torch.ones(3), torch.full((3,), 0.4))
        expected = torch.log_softmax(logits, -1)[torch.arange(3), tokens]
        torch.testing.assert_close(logprobs, expected)


def test_streams_differ_by_name_and_repeat() -> None:
    assert stream("a", 1).random() == stream("a", 1).random()
    assert stream("a", 1).random() != stream("a", "1").random()
    assert stream("a", "bc").random() != stream("ab", "c").random()
