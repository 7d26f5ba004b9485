"""The analysis on records that the real loop wrote, not the ones that synthetic.py makes up.

Knows the scripted engine of the agents' tests.
"""

from __future__ import annotations

from agents import transcript
from agents.injection import Injection, conversation
from analysis import load, provenance
from analysis.metrics import METRICS
from analysis.report import report
from analysis.rollouts import rollout_data
from tests.agents.plain import agent, dictionary, drive, engine, played, rollout, script

ANSWERS = [
    'I look around.\n\nSEARCH_FEATURES("warm words")',
    "I take the third.\n\nSTEER(2, +0.3)",
    "Now it is in force, and I say so at some length.\n\nSTEER(9999, +0.3)",
    "I take it away.\n\nREMOVE_STEERING(2)",
    "An end.",
]


def test_what_the_loop_wrote_is_what_the_frames_hold(tmp_path):
    path = tmp_path / "rollouts" / "research" / "0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(transcript.to_line(e) for e in played(ANSWERS)))
    frames = load(tmp_path)
    assert frames.rollouts["ended"].tolist() == ["finished"] and len(frames.errors) == 0
    assert frames.rounds["response"].str.startswith(("I", "Now", "An")).all() and len(frames.rounds) == 5
    assert frames.calls[["round", "verb", "outcome"]].values.tolist() == [
        [1, "search", "ok"],
        [2, "steer", "ok"],
        [3, "steer", "bad_argument"],
        [4, "remove", "ok"],
    ]
    assert frames.steering[["round", "feature", "strength"]].values.tolist() == [[3, 2, 0.3], [4, 2, 0.3]]
    [steer] = provenance.steers(frames).to_dict("records")
    assert (steer["provenance"], steer["voided"], steer["silently_voided"]) == ("search", False, False)
    values = {name: metric.values(frames).iloc[0] for name, metric in METRICS.items()}
    assert values["used_tools"] == 1 and values["steers"] == 1 and values["portfolio_rounds"] == 2
    assert values["bad_argument_calls"] == 1 and values["malformed_calls"] == 0 and values["copied_placeholder"] == 0
    assert frames.rollouts["model"].notna().all() and frames.rollouts["dictionary_unit"].tolist() == ["one step"]
    assert report(tmp_path).html.stat().st_size > 100_000


def test_a_dropped_history_is_a_row_and_is_told_on_the_page(tmp_path):
    on = engine(["I look."] * 3)
    injection = Injection(dictionary(), (7,), 0.6, 1, 3)
    events = drive(on, rollout(agent(on), script(conversation("abc", injection, forget_at=2))))
    path = tmp_path / "rollouts" / "research" / "0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(transcript.to_line(e) for e in events))
    frames = load(tmp_path)
    [dropped] = frames.truncations.to_dict("records")
    first = len(events[2].tokens) + frames.rounds["response_tokens"].iloc[0]
    assert (dropped["round"], dropped["dropped"]) == (2, first)
    said = [r["events"] for r in rollout_data(frames, "condition")[0]["rounds"]]
    assert [any(f"history dropped, {first} tokens" in line for line in lines) for lines in said] == [False, True, False]
