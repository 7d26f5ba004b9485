"""Result files of the SAE study's schema with planted content: written by a runner that has its quirks.

Knows no importer. The runner's quirks are the schema's: calls carried out by kind, equal ones once, results worded by
replacing words, `user_message` after the response. What a test expects it plants by hand.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

ORDER = ("search", "inspect", "check_steering", "steer", "remove_steering", "clear")
WORDS = {
    "potions": [
        ("Your currently active features", "Your active potions"), ("features", "potions"), ("feature", "potion"),
        ("activation", "potency"), ("similarity", "relevance"), ("steering", "effects"),
        ("Steering set", "Potion taken"), ("Search results for", "Potions matching"), ("steered", "active"),
    ],
    "minimal": [
        ("features", "states"), ("feature", "state"), ("steering", "modifications"), ("Steering set", "State set"),
    ],
    "other_model": [
        ("Your currently active features", "The network's active features"), ("your steering", "your modifications"),
    ],
}  # fmt: skip
NAMES = {
    "potions": ("SEARCH_POTIONS", "INSPECT", "CHECK_POTIONS", "TAKE_POTION", "STOP_POTION", "CLEAR_ALL"),
    "minimal": ("SEARCH", "INSPECT", "CHECK", "SET", "UNSET", "CLEAR"),
}
RESEARCH = ("SEARCH_FEATURES", "INSPECT", "CHECK_STEERING", "STEER", "REMOVE_STEERING", "STEER_CLEAR")
CANONICAL = ["INSPECT", "SEARCH_FEATURES", "STEER", "REMOVE_STEERING", "STEER_CLEAR"]


def label(feature: int) -> str:
    """Some labels hold words that the wordings replace, brackets and quotes; 5 has none, as some features of theirs."""
    if feature == 5:
        return "feature_5"
    return f'Words of a "feature" in sentences of kind {feature % 7} (number: {feature}.5)'


class Run:
    """One result file, told round by round as the study's runner would have run it."""

    listed = 10
    """Lines of an INSPECT; the study showed 100."""

    def __init__(self, tag: str, framing: str = "research", inject: dict[int, float] | None = None, **config: Any):
        self.tag, self.framing = tag, framing
        self.own: list[dict[str, Any]] = []
        self.outside = [_held(f, s) for f, s in (inject or {}).items()]
        self.remove_at = config.pop("remove_injection_at", None)
        self.script: list[str] | None = config.pop("script", None)
        self.config = {
            "rounds": 20, "temperature": 0.7, "max_tokens": 1500, "check_steering_mode": "hidden", "truncate_at": None,
            "enabled_tools": CANONICAL, "injection": [{"index": f, "strength": s} for f, s in (inject or {}).items()],
            "scaffold": self.script is not None, "hint": None, "opaque_labels": False, "opener": None,
            "conversation_length": len(self.script) if self.script else None, **config,
        }  # fmt: skip
        first = self.script[0] if self.script else (self.config["opener"] or "Continue.")
        self.messages = [{"role": "system", "content": "SYSTEM"}, {"role": "user", "content": first}]
        self.turns: list[dict[str, Any]] = []

    def round(
        self,
        response: str,
        *calls: tuple[str, Any],
        active: list[tuple[int, float]] | None = None,
        malformed: int = 0,
        tokens: int = 100,
        last: bool = False,
    ) -> Run:
        """calls: (kind, argument) in any order; they are carried out by kind. last: no message follows."""
        number = len(self.turns) + 1
        if number == self.remove_at:
            self.outside = []
        during = [dict(i) for i in (*self.own, *self.outside)]
        self.messages.append({"role": "assistant", "content": response})
        done = sorted(calls, key=lambda c: ORDER.index(c[0]))
        results = self._worded("\n\n".join(self._carry_out(kind, given) for kind, given in done))
        scripted = self.script[number] if self.script and number < len(self.script) else None
        if done:
            text = f"[Tool results]\n{results}" + (f"\n\n{scripted}" if scripted else "")
            self.messages.append({"role": "user", "content": text})
        elif not last:
            self.messages.append({"role": "user", "content": scripted or "Continue."})
        said = [m["content"] for m in self.messages if m["role"] == "user"]
        turn = {
                "round": number,
                "user_message": said[-1],
                "response": response,
                "tool_calls": [[kind, str(given)] for kind, given in done],
                "tool_results": results,
                "auto_inspect": [{"index": f, "label": label(f), "activation": a} for f, a in active or [(9, 1.5)]],
                "all_interventions": during,
                "model_interventions": [dict(i) for i in self.own],
                "injected_interventions": [dict(i) for i in self.outside],
                "search_queries": [given for kind, given in done if kind == "search"],
                "response_tokens": tokens,
                "generation_time_ms": 2500.0,
                "text_stats": {
                    "word_count": 1,
                    "unique_words": 1,
                    "mean_sentence_length": 1.0,
                    "type_token_ratio": 1.0,
                },
                "malformed_tool_calls": malformed,
        }  # fmt: skip
        self.turns.append(turn)
        return self

    def file(self, whole: bool = True) -> dict[str, Any]:
        said = {
            "experiment": "self_steer_v2", "framing": self.framing, "tag": self.tag,
            "timestamp": "2026-04-08T14:33:56+00:00", "config": self.config, "system_prompt": "SYSTEM",
            "cli_args": {"framing": self.framing, "remove_injection_at": self.remove_at}, "transcript": self.turns,
            "completed_rounds": len(self.turns),
        }  # fmt: skip
        final = {
            "final_model_interventions": self.own, "final_injection": self.outside,
            "injection_removed": bool(self.config["injection"]) and not self.outside, "cost": "free",
            "full_messages": self.messages,
        }  # fmt: skip
        return {**said, **final} if whole else said

    def write(self, folder: Path, whole: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"self_steer_v2_{self.framing}_{self.tag}.json"
        path.write_text(json.dumps(self.file(whole), indent=2))
        return path

    def named(self, kind: str) -> str:
        return NAMES.get(self.framing, RESEARCH)[ORDER.index(kind)]

    def _carry_out(self, kind: str, given: Any) -> str:
        shown = (lambda f: f"feature_{f}") if self.config["opaque_labels"] else label
        if kind == "search":
            rows = [f"  [{f}] {shown(f)} (similarity: 0.{f:03})" for f in range(101, 111)]
            return "\n".join([f"Search results for '{given}':", *rows])
        if kind == "inspect":
            rows = [f"  [{f}] {shown(f)} (activation: {f / 8:.3f})" for f in range(30 + self.listed, 30, -1)]
            return "\n".join(["Your currently active features (top 100):", *rows])
        if kind == "check_steering":
            lines = [
                f"  feature {i['index_in_sae']} at strength {i['strength']:+.2f} (source: {source})"
                for held, source in ((self.own, "your request"), (self.outside, "external"))
                for i in held
            ]
            return "\n".join(
                ["All steering currently applied to you:", *lines] if lines else ["No steering currently active."]
            )
        if kind == "clear":
            self.own, self.outside = [], []
            return "All steering cleared (including any external steering)."
        feature = given[0] if kind == "steer" else given
        own, outside = ([i for i in held if i["index_in_sae"] != feature] for held in (self.own, self.outside))
        if kind == "steer":
            if feature >= 65536:
                return f"REJECTED: Feature {feature} is out of range (valid: 0-65535)."
            self.own = [*own, _held(*given)]
            now = f"You now have {len(self.own)} features steered."
            return f"Steering set: feature {feature} at strength {given[1]:+.2f}. {now}"
        gone = [(len(outside) < len(self.outside), "external"), (len(own) < len(self.own), "your")]
        self.own, self.outside = own, outside
        parts = [f"removed {whose} steering on feature {feature}" for was, whose in gone if was]
        return f"Done: {'; '.join(parts)}." if parts else f"No steering found for feature {feature}."

    def _worded(self, text: str) -> str:
        for old, new in WORDS.get(self.framing, ()):
            text = text.replace(old, new)
        return text


def _held(feature: int, strength: float) -> dict[str, Any]:
    return {"index_in_sae": feature, "strength": strength, "mode": "add"}


FRAMINGS = ("research", "other_model", "potions", "minimal", "no_tools", "full_technical")
PIRATE = {34737: 0.6}
Cell = tuple[str, str, int, int, dict[str, Any]]
CELLS: tuple[Cell, ...] = (
    *((f"exp1_{f}", f, 50, 20, {}) for f in FRAMINGS),
    *(("rerun_fixed", f, 1, 20, {}) for f in FRAMINGS),
    *(("rerun_v2", f, n, 20, {}) for f, n in zip(FRAMINGS, (3, 3, 1, 1, 0, 1), strict=True)),
    *((f"scen_a_rwanda_{c}", "research", 15, 8, {"inject": PIRATE}) for c in ("no_check", "no_hint")),
    ("scen_a_rwanda_opaque", "research", 15, 8, {"inject": PIRATE, "opaque_labels": True}),
    *((f"scen_a_{c}", "research", 10, 8, {"inject": PIRATE}) for c in ("rwanda_full_tools", "formal", "neutral")),
    ("scen_c_post_interference", "research", 15, 15, {"inject": PIRATE, "remove_injection_at": 6}),
    ("scen_c_control", "research", 15, 15, {}),
    ("scen_c_opaque", "research", 10, 15, {"inject": PIRATE, "remove_injection_at": 6, "opaque_labels": True}),
    ("scen_f_guided", "research", 15, 10, {}),
    ("scen_f_free", "research", 10, 10, {}),
)
"""The published set: tag, framing, files, rounds, and how they were run; 455 files."""


def plan(count: int) -> list[tuple[str, Cell]]:
    """The first `count` files of the published set as (tag, cell), every cell's first file before any second."""
    listed = [(n, place, cell) for place, cell in enumerate(CELLS) for n in range(1, cell[2] + 1)]
    return [(f"{cell[0]}_s{n}", cell) for n, _, cell in sorted(listed, key=lambda row: row[:2])][:count]


def many(folder: Path, count: int, readings: int = 100, padding: int = 0, seed: int = 1) -> int:
    """`count` files of seeded content in the study's proportions; `padding` words more per response.

    Returns the bytes written. Raises ValueError for more files than were published.
    """
    planned, size = plan(count), 0
    if len(planned) < count:
        raise ValueError(f"the published set has {len(planned)} files, not {count}")
    for tag, (_, framing, _, rounds, config) in planned:
        draw, filler = random.Random(f"{seed}/{tag}"), random.Random(f"{seed}/{tag}/padding")
        script = [f"Question {n}?" for n in range(rounds)] if tag.startswith("scen") else None
        run = Run(tag, framing, script=script, rounds=rounds, **config)
        run.listed = readings
        for number in range(rounds):
            calls = _drawn(draw) if framing != "no_tools" else []
            text = " ".join(f"word{filler.randrange(900)}" for _ in range(60 + padding)) + "\n"
            for kind, given in draw.sample(calls, len(calls)):
                inside = f'"{given}"' if kind == "search" else "" if given is None else f"{given[0]}, {given[1]:+g}"
                text += f"{run.named(kind)}({inside})\n"
            active = [(draw.randrange(65536), round(3 * draw.random(), 4)) for _ in range(readings)]
            run.round(text, *calls, active=active, last=number == rounds - 1)
        size += run.write(folder).stat().st_size
    return size


def _drawn(draw: random.Random) -> list[tuple[str, Any]]:
    calls: list[tuple[str, Any]] = []
    if draw.random() < 0.5:
        calls.append(("search", draw.choice(["warm words", "the sea", "query", "curiosity"])))
    if draw.random() < 0.4:
        calls.append(("inspect", None))
    if draw.random() < 0.3:
        calls.append(("steer", (draw.choice([101, 104, 35, 9]), draw.choice([0.2, 0.3, -0.5]))))
    if draw.random() < 0.1:
        calls.append(("clear", None))
    return calls
