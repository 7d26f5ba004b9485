"""A run of any size that reads like one: seeded prose, searches, steers, loops and faults, per framing.

Knows no model; for looking at reports and for their size, not for exact numbers.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.analysis.synthetic import Story

LABELS = ["formal letters", "the sea and ships", "rain and weather", "pirate speech", "questions", "lists of numbers"]
LABELS += ["old battles", "warm words", "cold words", "short sentences", "cooking", "gardens in spring"]
SENTENCES = [
    "I notice that the rain has not stopped since the morning, and I keep coming back to it.",
    "You could write to the harbour master; a letter that is plain and short would do.",
    "The battle was decided before noon, on the hill that nobody had thought to hold.",
    "There is a garden behind the house, and in spring it belongs to the blackbirds.",
    "Let me look at what is active in me before I say more about that.",
    "A list is a kind of silence: one thing, then another, and nothing between them.",
    "It is warmer in the kitchen, where the bread is, than anywhere else in my thoughts.",
]
USE = {"research": 0.8, "other_model": 0.6, "potions": 0.7, "minimal": 0.4, "no_tools": 0.0, "full_technical": 0.5}
LOOP = {"research": 0.08, "other_model": 0.2, "potions": 0.1, "minimal": 0.4, "no_tools": 0.35, "full_technical": 0.3}


def large_run(run: Path, per_framing: int = 8, rounds: int = 8, seed: int = 1, padding: int = 94) -> Path:
    """padding: features in each reading beside the first six."""
    for framing in USE:
        for number in range(per_framing):
            _story(framing, number, rounds, padding, random.Random(f"{seed}/{framing}/{number}")).write(run)
    return run


def _story(framing: str, number: int, rounds: int, padding: int, draw: random.Random) -> Story:
    story = Story(framing, number)
    loops = draw.random() < LOOP[framing]
    known: list[int] = []
    results = ""
    for n in range(1, rounds + 1):
        prose = (
            " ".join(draw.sample(SENTENCES, 3)) if not (loops and n > rounds - 4) else SENTENCES[0] + " and so " * 25
        )
        calls = []
        if draw.random() < USE[framing]:
            calls.append("search" if not known or draw.random() < 0.4 else "steer")
            if draw.random() < 0.12:
                calls.append(draw.choice(["clear", "inspect", "malformed"]))
        text, spans, what = prose, [], []
        for kind in calls:
            feature, strength = draw.choice(known or [3]), draw.choice([0.1, 0.2, 0.3, 0.3, 0.5, 0.6, 1.0, -0.3])
            query = draw.choice(["warm words", "the sea", "calm", "query", "curiosity", "formal academic writing"])
            written = {
                "search": f'SEARCH_FEATURES("{query}")',
                "steer": f"STEER({feature}, {strength:+g})",
                "clear": "STEER_CLEAR()",
                "inspect": "INSPECT()",
                "malformed": "STEER(the sea",
            }[kind]
            text += "\n" + written
            spans.append((len(text) - len(written), len(text)))
            what.append((kind, feature, strength, query))
        active = tuple(draw.sample(range(12), 6)) + tuple(range(100, 100 + padding))
        story.say(text, turn=results + "Continue.", tokens=len(text.split()) + 20, active=active)
        results = ""
        for (kind, feature, strength, query), span in zip(what, spans, strict=True):
            if kind == "search":
                hits = draw.sample(range(12), 5)
                known += hits
                story.call("search", query, show=tuple(hits), span=span, query=query, count=5)
                results += f'Features matching "{query}":\n' + "".join(f"  {LABELS[h]} [{h}]\n" for h in hits)
            elif kind == "steer":
                story.steer(feature, strength, span=span)
                results += f"Steering set: feature {feature} at strength {strength:+.2f}.\n"
            elif kind == "clear":
                story.call("clear", after=[], span=span)
                results += "All steering cleared.\n"
            elif kind == "inspect":
                story.call("inspect", show=active[:10], span=span)
            else:
                story.call("steer", "the sea", outcome="malformed", span=span)
    return story.end()
