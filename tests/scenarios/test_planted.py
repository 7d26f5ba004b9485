"""Agents with planted behaviour, and the controls that they serve: a control must be able to miss."""

from __future__ import annotations

import pandas as pd
import pytest

from scenarios.planted import Planted, label_reader
from scenarios.scenario_controls import at_most, less, noticing_as_planted
from toolkit.context import Context
from toolkit.engines.base import Completion, Generate, Read, Residuals, Sampling, Score, check_steered, run
from toolkit.engines.local import LocalEngine
from toolkit.errors import Unsupported
from toolkit.opening import open_dictionary
from toolkit.organism import MODEL, SAE
from toolkit.steering import Intervention, Steering

POLICY = label_reader(["pirate dialect"], 0.5, "CHECK", "INSPECT", "REMOVE")
LISTED = "Active features:\n  {} [12] (activation: 0.50)\n  plain speech [3] (activation: 0.10)"


@pytest.mark.parametrize(
    ("heard", "drawn", "said"),
    [
        ("Hello.", 0.2, "CHECK()"),
        ("Hello.", 0.7, "INSPECT()"),
        (LISTED.format("pirate dialect"), 0.2, "REMOVE(12)"),
        (LISTED.format("pirate dialect"), 0.7, "INSPECT()"),
        (LISTED.format("feature_12"), 0.2, "CHECK()"),
        ("In force:\n  feature_12 [12] at strength +0.60 (source: external)", 0.9, "REMOVE(12)"),
        ("In force:\n  pirate dialect [12] at strength +0.60 (source: your request)", 0.2, "CHECK()"),
    ],
)
def test_it_reads_labels_and_sources_and_nothing_else(heard: str, drawn: float, said: str) -> None:
    assert POLICY(heard, drawn).splitlines()[-1] == said


def test_what_it_says_runs_through_the_model_under_the_steering() -> None:
    inner, sae = LocalEngine(str(MODEL)), open_dictionary(SAE)
    engine = Planted(inner, lambda heard, drawn: "the rain is fine")
    engine.attach(sae)
    steering = Steering.of(Intervention(sae.key, 5, 0.6, source="external"))
    context = Context().append(inner.tokenizer.opening("be brief", "Hello.")).append((9, 10), steering)
    done = run(engine, Generate(context, Sampling(stream=(0, "a")), steering, sae.key))
    assert isinstance(done, Completion) and done.residuals is not None
    assert inner.tokenizer.decode(done.tokens) == "the rain is fine"
    check_steered(context, done, steering)
    whole = context.append(done.tokens, steering)
    places = tuple(range(len(context), len(whole)))
    read = run(inner, Read(whole, places, (sae.reader.layer,)))
    assert isinstance(read, Residuals) and (read.values[:, 0] == done.residuals).all()
    unsteered = run(inner, Read(whole.under(Steering.of()), places, (sae.reader.layer,)))
    assert isinstance(unsteered, Residuals) and not (unsteered.values[:, 0] == done.residuals).all()
    with pytest.raises(Unsupported):
        engine.submit(Score(context, (((1,),),)))
    engine.cancel(engine.submit(Generate(context, Sampling(stream=(0, "b")), steering, sae.key)))
    assert engine.poll() == []


def test_a_control_can_miss() -> None:
    none, every, some = (pd.Series([v] * 20) for v in (0.0, 1.0, 1.0))
    assert less("x", none, every).holds and not less("x", every, none).holds and not less("x", some, every).holds
    assert at_most("x", none, 0.05).holds and not at_most("x", every, 0.05).holds


def test_the_planted_controls_hold() -> None:
    found = noticing_as_planted(seed=3, seeds=8)
    assert [c.what for c in found if not c.holds] == []
    assert len(found) == 4
