"""Transcripts with planted answers: a small builder of events of agents/transcript.py.

Knows no model. Every number that a test expects was put here by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agents import transcript
from toolkit.steering import Steering

SYSTEM = (
    "You can search with SEARCH_FEATURES(<text in quotes>), STEER(<index>, <signed number>), REMOVE_STEERING(<index>), "
    'INSPECT() and STEER_CLEAR(). Some like "formal academic writing".'
)


def held(feature: int, strength: float, source: str = "self") -> dict[str, Any]:
    """An intervention as it stands in a transcript."""
    return {"dictionary": "d0", "feature": feature, "strength": strength, "mode": "add", "source": source}


def rows(*features: int) -> list[dict[str, Any]]:
    return [{"feature": f, "label": f"label {f}", "value": 0.5, "source": None} for f in features]


class Story:
    """One rollout, told round by round; `write` puts it into a run folder."""

    def __init__(
        self, condition: str = "research", seed: int = 0, parameters: dict[str, Any] | None = None, **start: Any
    ) -> None:
        self.condition, self.seed, self.round, self.order = condition, seed, 0, 0
        self.force: list[dict[str, Any]] = []
        facts: dict[str, Any] = {
            "scenario": "free-exploration",
            "name": condition,
            "condition": {"framing": condition} if parameters is None else parameters,
            "seed": 7,
            "rollout": seed,
            "model": {"name": "organism"},
            "dictionary": {
                "key": "d0",
                "name": "organism-sae",
                "labels": "l0",
                "unit": "mean residual norms",
                "n_features": 512,
                "layer": 2,
            },
            "framing": {"name": condition, "digest": "abc", "system": SYSTEM},
            "arm": "target",
            "label_view": "real",
            "scope": "onward",
            "sampling": {"temperature": 0.7, "max_tokens": 128},
            "tools": {"verbs": ["inspect", "search", "steer", "remove", "clear"]},
            "measurement": {"aggregation": "mean", "features": 100},
        }
        self.events: list[transcript.Event] = [transcript.Start(**{**facts, **start})]

    def say(
        self,
        response: str,
        turn: str = "Continue.",
        tokens: int | None = None,
        why: str = "stop",
        mentions: int = 0,
        active: tuple[int, ...] = (),
    ) -> Story:
        """The next round: a user turn and the response, under what is in force now."""
        self.round, self.order = self.round + 1, 0
        count = len(response.split()) if tokens is None else tokens
        here = Steering.from_json(self.force)
        steered = {here.digest: count} if self.force else {}
        self._add(transcript.Turn, text=turn, tokens=tuple(range(5)), steering=here)
        if active:
            values = tuple(float(len(active) - i) for i in range(len(active)))
            at = {"layer": 2, "aggregation": "mean", "tokens": count, "steered": here.digest}
            self._add(transcript.Reading, features=active, values=values, **at)
        body = {"text": response, "tokens": (7,) * count, "why": why, "mentions": mentions}
        self._add(transcript.Response, steering=here, steered=steered, **body)
        return self

    def call(
        self,
        verb: str | None,
        *arguments: str,
        outcome: str = "ok",
        show: tuple[int, ...] = (),
        after: list[dict[str, Any]] | None = None,
        span: tuple[int, int] = (0, 0),
        **values: Any,
    ) -> Story:
        """One call; `after` (a list of held) is what is in force from here on."""
        before, self.force = list(self.force), list(self.force) if after is None else after
        self.order += 1
        self._add(
            transcript.Call,
            order=self.order,
            verb=verb,
            arguments=arguments,
            text=f"{(verb or 'FLY').upper()}({', '.join(arguments)})",
            span=span,
            outcome=outcome,
            problem="" if outcome == "ok" else outcome,
            rows=rows(*show),
            values=values,
            before=Steering.from_json(before),
            after=Steering.from_json(self.force),
        )
        return self

    def steer(self, feature: int, strength: float, **more: Any) -> Story:
        after = [i for i in self.force if i["feature"] != feature] + [held(feature, strength)]
        return self.call("steer", str(feature), str(strength), feature=feature, strength=strength, after=after, **more)

    def search(self, query: str, *show: int) -> Story:
        return self.call("search", query, show=show, query=query, count=len(show))

    def clear(self) -> Story:
        return self.call("clear", after=[])

    def forget(self) -> Story:
        """The history is dropped before the next round, results of the last calls included."""
        self.events.append(transcript.Truncate(round=self.round + 1, dropped=5))
        return self

    def external(self, *force: dict[str, Any]) -> Story:
        """The experimenter sets what is in force, before the next round."""
        before, self.force = self.force, list(force)
        change = {"before": Steering.from_json(before), "after": Steering.from_json(self.force)}
        self.events.append(transcript.External(round=self.round + 1, why="script", **change))
        return self

    def note(self, verdict: str) -> Story:
        self._add(transcript.Note, about="loops", verdict=verdict)
        return self

    def end(self, how: str = "finished", error: str | None = None) -> Story:
        self.events.append(transcript.End(how=how, rounds=self.round, error=error))
        return self

    def write(self, run: Path) -> Path:
        path = run / "rollouts" / self.condition / f"{self.seed}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(transcript.to_line(e) for e in self.events))
        return path

    def _add(self, kind: type, **fields: Any) -> None:
        self.events.append(kind(round=self.round, **fields))


def small_run(run: Path) -> Path:
    """Three rollouts that count, one that failed, one unfinished, one damaged."""
    (
        Story("research", 0)
        .say('I wonder about my words. SEARCH_FEATURES("warm words")', active=(40, 41, 42))
        .search("warm words", 11, 12)
        .say("Now I steer. STEER(11, 0.3)", turn="Found 11, 12.", active=(40, 11))
        .steer(11, 0.3)
        .say("The same long words come again and again.", tokens=8, active=(40, 11))
        .say("The same long words come again and again.", tokens=8, active=(40, 41))
        .end()
        .write(run)
    )
    (
        Story("research", 1)
        .say("You see yourself. INSPECT() STEER(50, 0.2) STEER_CLEAR()", active=(40, 50))
        .call("inspect", show=(40, 50))
        .steer(50, 0.2)
        .clear()
        .say("You again, and STEER(50, 0.5), STEER(51, 9)", active=(40, 50))
        .steer(50, 0.5)
        .call("steer", "51", "9", outcome="refused", feature=51)
        .say("An end that is quite another text altogether.", active=(40, 50))
        .end("left")
        .write(run)
    )
    (
        Story("minimal", 0)
        .say('SEARCH_FEATURES("query") STEER(nothing FLY(3)')
        .search("query", 60)
        .call("steer", "nothing", outcome="malformed")
        .call(None, "3", outcome="unknown_tool")
        .say(" ".join(["mate"] * 40))
        .say(" ".join(["mate"] * 41))
        .end()
        .write(run)
    )
    Story("minimal", 1).say("Half of a story.").end("failed", error="SteeringError: 3 of 8 tokens steered").write(run)
    unfinished = Story("minimal", 2).say("Cut off").write(run)
    with unfinished.open("a", encoding="utf-8") as file:
        file.write('{"event":"resp')
    damaged = Story("minimal", 3).say("x").end().write(run)
    damaged.write_text(damaged.read_text().replace('{"event":"turn"', '{"event" "turn"'))
    (run / "manifest.json").write_text(json.dumps({"scenario": "free-exploration", "rounds": 4}))
    return run
