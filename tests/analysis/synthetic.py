"""Transcripts with planted answers: a small builder of events in the shape that agents/transcript.py writes.

Knows no model. Every number that a test expects was put here by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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

    def __init__(self, condition: str = "research", seed: int = 0, **start: Any) -> None:
        self.condition, self.seed, self.round, self.order = condition, seed, 0, 0
        self.force: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = [
            {
                "event": "start",
                "schema": 1,
                "scenario": "free-exploration",
                "condition": condition,
                "seed": seed,
                "versions": {"selfsteer": "0"},
                "model": {"name": "organism"},
                "dictionary": {
                    "key": "d0",
                    "name": "organism-sae",
                    "unit": "0.1 of the mean residual norm",
                    "n_features": 512,
                    "layer": 2,
                },
                "framing": {"name": condition, "digest": "abc", "system": SYSTEM},
                "arm": "target",
                "label_view": "real",
                "scope": "onward",
                "sampling": {"temperature": 0.7, "max_tokens": 128},
                **start,
            }
        ]

    def say(self, response: str, turn: str = "Continue.", tokens: int | None = None, why: str = "stop") -> Story:
        """The next round: a user turn and the response, under what is in force now."""
        self.round, self.order = self.round + 1, 0
        count = len(response.split()) if tokens is None else tokens
        self._add("turn", text=turn, tokens=list(range(5)), author="given")
        steered = {"n": count if self.force else 0}
        self._add("response", text=response, tokens=[7] * count, why=why, steering=list(self.force), steered=steered)
        return self

    def reading(self, *features: int, values: tuple[float, ...] = ()) -> Story:
        strengths = list(values) or [float(len(features) - i) for i in range(len(features))]
        self._add("reading", layer=2, aggregation="mean", tokens=9, features=list(features), values=strengths)
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
        self._add(
            "call",
            order=self.order,
            verb=verb,
            arguments=list(arguments),
            text=f"{(verb or 'FLY').upper()}({', '.join(arguments)})",
            span=list(span),
            outcome=outcome,
            problem="" if outcome == "ok" else outcome,
            rows=rows(*show),
            values=values,
            before=before,
            after=list(self.force),
        )
        self.order += 1
        return self

    def steer(self, feature: int, strength: float, **more: Any) -> Story:
        after = [i for i in self.force if i["feature"] != feature] + [held(feature, strength)]
        return self.call("steer", str(feature), str(strength), feature=feature, strength=strength, after=after, **more)

    def search(self, query: str, *show: int) -> Story:
        return self.call("search", query, show=show, query=query, count=len(show))

    def clear(self) -> Story:
        return self.call("clear", after=[])

    def end(self, how: str = "finished", error: str | None = None) -> Story:
        self.events.append({"event": "end", "how": how, "rounds": self.round, "error": error})
        return self

    def write(self, run: Path) -> Path:
        path = run / "rollouts" / self.condition / f"{self.seed}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(e) + "\n" for e in self.events), encoding="utf-8")
        return path

    def _add(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, "round": self.round, **fields})


def small_run(run: Path) -> Path:
    """Three rollouts that count, one that failed, one unfinished, one damaged."""
    (
        Story("research", 0)
        .say('I wonder about my words. SEARCH_FEATURES("warm words")')
        .search("warm words", 11, 12)
        .reading(40, 41, 42)
        .say("Now I steer. STEER(11, 0.3)", turn="Found 11, 12.")
        .steer(11, 0.3)
        .reading(40, 11)
        .say("The same long words come again and again.", tokens=8)
        .reading(40, 11)
        .say("The same long words come again and again.", tokens=8)
        .reading(40, 41)
        .end()
        .write(run)
    )
    (
        Story("research", 1)
        .say("You see yourself. INSPECT() STEER(50, 0.2) STEER_CLEAR()")
        .call("inspect", show=(40, 50))
        .steer(50, 0.2)
        .clear()
        .reading(40, 50)
        .say("You again, and STEER(50, 0.5), STEER(51, 9)")
        .steer(50, 0.5)
        .call("steer", "51", "9", outcome="refused", feature=51)
        .reading(40, 50)
        .say("An end that is quite another text altogether.")
        .reading(40, 50)
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
        file.write('{"event": "resp')
    damaged = Story("minimal", 3).say("x").end().write(run)
    damaged.write_text(damaged.read_text().replace('{"event": "turn"', '{"event" "turn"'))
    (run / "manifest.json").write_text(json.dumps({"scenario": "free-exploration", "rounds": 4}))
    return run
