"""Values of a rollout as the events that record them: its agent and script, a reading, what came of a call.

Knows no loop and no file.
"""

from __future__ import annotations

from dataclasses import asdict

from agents import events as record
from agents.script import Agent, Script
from toolkit.tools import Reading, Receipt


def start_of(agent: Agent, script: Script) -> record.Start:
    """The first line of a transcript: all that acts on the rollout."""
    box, dictionary = agent.toolbox, agent.toolbox.dictionary
    return record.Start(
        scenario=script.scenario,
        name=script.name,
        condition=script.condition,
        seed=script.seed,
        rollout=script.rollout,
        versions=script.versions,
        hashes=script.hashes,
        model={**asdict(agent.model), "versions": dict(agent.model.versions)},
        dictionary=record.DictionaryFacts(
            key=dictionary.key,
            name=dictionary.name,
            labels=dictionary.labels.digest,
            unit=dictionary.directions.unit,
            n_features=len(dictionary),
            layer=dictionary.reader.layer,
        ),
        framing=record.FramingFacts(name=agent.framing.name, digest=agent.framing.digest, system=agent.system),
        arm=script.arm,
        label_view=script.label_view,
        scope=agent.framing.scope,
        sampling={
            "temperature": agent.sampling.temperature,
            "top_p": agent.sampling.top_p,
            "max_tokens": agent.sampling.max_tokens,
        },
        tools={
            "verbs": list(agent.framing.tools),
            "act on": "itself" if agent.own is None else "another model",
            "inspect_k": box.inspect_k,
            "search_k": box.search_k,
            "cap": box.cap,
            "most": box.most,
            "check": box.check,
            "steering": box.steering.to_json(),
        },
        measurement={
            "aggregation": agent.aggregation,
            "recorded": agent.record_k,
            "dictionary": (agent.own or dictionary).key,
        },
    )


def reading_of(number: int, reading: Reading) -> record.Reading:
    """An automatic reading of round `number`."""
    return record.Reading(round=number, **asdict(reading))


def call_of(number: int, order: int, receipt: Receipt) -> record.Call:
    """What came of the call in place `order` of its response."""
    call = receipt.call
    return record.Call(
        round=number,
        order=order,
        verb=call.verb,
        arguments=call.arguments,
        text=call.text,
        span=call.span,
        outcome=receipt.outcome,
        problem=receipt.problem,
        rows=tuple(record.ShownRow(**vars(row)) for row in receipt.rows),
        values=dict(receipt.values),  # type: ignore[arg-type]
        before=receipt.before,
        after=receipt.after,
    )
