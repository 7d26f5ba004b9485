"""Plans as bytes, and the salts under which vLLM keeps their blocks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from toolkit.engines.vllm_plan import Outcome, Plan, Row, salt


def row(digest: str) -> Row:
    if not digest:
        return Row()
    gone = {0: np.ones((2, 3), np.float32)} if digest == "c" else {}
    return Row({0: np.full(3, ord(digest), np.float32)}, gone)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    digests = ["", *sorted(draw(st.sets(st.sampled_from(["a", "b", "c"]))))]
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    runs, start = [], 0
    for length in lengths:
        if place := draw(st.integers(0, len(digests) - 1)):
            runs.append((start, length, place))
        start += length
    return Plan(
        draw(st.text(max_size=3)),
        tuple(range(start)),
        tuple(map(row, digests)),
        tuple(runs),
        draw(st.integers(0, len(digests) - 1)),
        most=draw(st.integers(1, 4)),
        stream=tuple(draw(st.lists(st.one_of(st.integers(), st.text(max_size=2)), max_size=2))),
        positions=draw(st.one_of(st.none(), st.just((0,)))),
        score=((0, (1, 2)),) if draw(st.booleans()) else (),
    )


def digests(plan: Plan) -> list[str]:
    return [plan.rows[row].digest for row in plan.row_ids()]


@given(plans())
def test_a_plan_survives_the_wire(plan: Plan) -> None:
    again = Plan.from_bytes(plan.to_bytes())
    assert replace(again, rows=()) == replace(plan, rows=())
    assert [r.digest for r in again.rows] == [r.digest for r in plan.rows]
    for one, other in zip(again.rows, plan.rows, strict=True):
        assert {k: v.tolist() for k, v in one.deltas.items()} == {k: v.tolist() for k, v in other.deltas.items()}
        assert one.projections.keys() == other.projections.keys()
        assert all(one.projections[k].shape == v.shape for k, v in other.projections.items())


def test_an_outcome_survives_the_wire() -> None:
    residuals = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    whole = Outcome((1, 2), "stop", {0: 3, 1: 2}, 1, (-0.1, -0.2), residuals, ((-1.0,), (-2.0, -3.0)))
    again = Outcome.from_json(json.loads(json.dumps(whole.to_json())))
    np.testing.assert_array_equal(again.residuals, residuals)
    assert replace(again, residuals=None) == replace(whole, residuals=None)


@given(plans(), plans())
def test_one_salt_means_one_steering_wherever_both_have_a_token(one: Plan, other: Plan) -> None:
    agree = all(a == b for a, b in zip(digests(one), digests(other), strict=False))
    if salt(one) == salt(other):
        assert agree
    if digests(one) == digests(other):
        assert salt(one) == salt(other)


@given(plans())
def test_a_conversation_whose_steering_stays_keeps_its_salt(plan: Plan) -> None:
    response, end = tuple(range(plan.most)), len(plan.tokens)
    runs = (*plan.runs, (end, plan.most + 2, plan.after)) if plan.after else plan.runs
    later = replace(plan, tokens=(*plan.tokens, *response, 7, 8), runs=runs)
    assert salt(later) == salt(plan)


def test_rows_are_told_apart_by_their_numbers() -> None:
    ones, twos = np.ones(4, np.float32), np.full((1, 4), 2, np.float32)
    rows = [Row(), Row({1: ones}), Row({2: ones}), Row({1: 2 * ones}), Row({1: ones}, {1: twos}), Row({1: 0 * ones})]
    assert len({one.digest for one in rows}) == len(rows)
    assert Row({1: ones.copy()}).digest == rows[1].digest


def test_no_steering_has_no_salt() -> None:
    assert salt(Plan("1", (1, 2, 3), (Row(), row("a")), most=5)) == ""
    assert salt(Plan("1", (1, 2, 3), (Row(), row("a")), ((0, 1, 1),), most=5)) != ""
