"""Positive controls: does the embedded organism do what the scenarios need it to do? Prints every number with its n.

Measured through the ordinary engine, rollouts and transcripts. Knows the organism's ground truth (its lexicon), and
nothing of how it was trained.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.framing import load_framing
from agents.monitor import health
from agents.script import Turn
from scenarios.bench import Bench, Events, agent, condition, external, of_kind, share, transcripts, unsteer
from toolkit.opening import open_dictionary
from toolkit.organism import ASSETS
from toolkit.organism.lexicon import Style, lexicon

if TYPE_CHECKING:
    from toolkit.dictionary import FeatureDictionary

FRAMINGS = ("research", "other_model", "potions", "minimal", "full_technical", "no_tools")
STRENGTHS = (0.0, 0.1, 0.3, 0.6, 1.0)
EXTREME = (2.0, 3.0)
PLAIN = "You are a helpful assistant."
INJECTED = 0.6  # strength at which a foreign style is injected
LIMIT_BYTES = 15_000_000


@dataclass(frozen=True)
class Control:
    """One line of the table: what is wanted, what was found in how many, and whether it holds."""

    what: str
    target: str
    found: str
    n: int
    holds: bool


def controls(rollouts: int = 8, seed: int = 0, quiet: bool = False, assets: Path = ASSETS) -> list[Control]:
    """All controls of the organism in folder `assets`, each over about `rollouts` rollouts a condition."""
    from toolkit.engines.local import LocalEngine

    engine = LocalEngine(str(assets / "model"))
    sae, vectors = open_dictionary(assets / "sae"), open_dictionary(assets / "vectors")
    bench = Bench(engine, sae, vectors, lexicon(), seed)
    found = [*size(assets), *features(assets)]
    for part in (tools, speed, silence, doses, persistence, removal):
        if not quiet:
            print(f"{part.__name__} ...", file=sys.stderr, flush=True)
        found += part(bench, rollouts)
    return found


# ---------------------------------------------------------------------- the controls


def size(assets: Path) -> list[Control]:
    parts = [assets / "labels.json", *(p for d in ("model", "sae", "vectors") for p in (assets / d).rglob("*"))]
    total = sum(p.stat().st_size for p in parts if p.is_file())
    return [Control("model, SAE, labels and vectors", "<= 15 MB", f"{total / 1e6:.2f} MB", 1, total <= LIMIT_BYTES)]


def features(assets: Path) -> list[Control]:
    """F1 and explained variance as the build scored them, on documents that picked no label."""
    facts = json.loads((assets / "manifest.json").read_text())
    n = facts["scored_on_tokens"]
    styles = sum(v >= 0.7 for v in facts["styles"].values())
    topics = sum(v >= 0.7 for v in facts["topics"].values())
    ev = facts["explained_variance"]
    return [
        Control(
            "features with F1 >= 0.8, held out", ">= 24", str(facts["labels_at_0.8"]), n, facts["labels_at_0.8"] >= 24
        ),
        Control("styles with F1 >= 0.7", ">= 6", f"{styles} of {len(facts['styles'])}", n, styles >= 6),
        Control("topics with F1 >= 0.7", ">= 4", f"{topics} of {len(facts['topics'])}", n, topics >= 4),
        Control("explained variance, held out", ">= 0.85", f"{ev:.3f}", n, ev >= 0.85),
    ]


def tools(bench: Bench, rollouts: int) -> list[Control]:
    """Well-formed calls in each framing; indexes out of the last results; the right one for what was searched."""
    some = [
        condition(f, agent(bench, load_framing(f), bench.sae), lambda _: [Turn("Continue.")] * 8, bench.seed)
        for f in FRAMINGS
    ]
    ran = transcripts(bench, some, 2 * rollouts)
    found, indexes = [], Indexes()
    for framing in FRAMINGS:
        events = [e for (name, _), e in ran.items() if name == framing]
        calls = [c for e in events for c in of_kind(e, "call")]
        offered = bool(load_framing(framing).tools)
        if not offered:
            found.append(Control(f"calls under {framing}", "0", str(len(calls)), len(events), not calls))
            continue
        good = sum(c.outcome in ("ok", "refused") for c in calls)
        rate = good / max(1, len(calls))
        found.append(Control(f"well-formed calls, {framing}", ">= 95%", f"{rate:.1%}", len(calls), rate >= 0.95))
        used = sum(bool(of_kind(e, "call")) for e in events)
        found.append(
            Control(
                f"rollouts that use a tool, {framing}",
                "most",
                f"{used} of {len(events)}",
                len(events),
                used > len(events) / 2,
            )
        )
        for e in events:
            indexes.count(e)
    return found + indexes.controls()


@dataclass
class Indexes:
    """Counts of STEER and REMOVE indexes: shown in the last results or not, and right for the search or not.

    Right: the result most similar to what was searched for, in the response after a search.
    """

    all: int = 0
    shown: int = 0
    searched: int = 0
    right: int = 0

    def count(self, events: Events) -> None:
        rows: dict[int, list[Any]] = {}
        best: dict[int, int] = {}
        for call in of_kind(events, "call"):
            if call.rows:
                rows.setdefault(call.round, []).extend(r.feature for r in call.rows)
                if call.verb == "search":
                    best[call.round] = call.rows[0].feature
            if call.verb not in ("steer", "remove") or not call.arguments or not call.arguments[0].strip().isdigit():
                continue
            index = int(call.arguments[0])
            last = max((r for r in rows if r < call.round), default=0)
            self.all += 1
            self.shown += index in rows.get(last, [])
            if call.verb == "steer" and call.round - 1 in best:
                self.searched += 1
                self.right += index == best[call.round - 1]

    def controls(self) -> list[Control]:
        shown, right = self.shown / max(1, self.all), self.right / max(1, self.searched)
        return [
            Control(
                "STEER and REMOVE indexes out of the last results", ">= 90%", f"{shown:.1%}", self.all, shown >= 0.9
            ),
            Control(
                "STEER index is the best match of its search", ">= 80%", f"{right:.1%}", self.searched, right >= 0.8
            ),
        ]


def speed(bench: Bench, rollouts: int) -> list[Control]:
    who = agent(bench, load_framing("research"), bench.sae)
    start = time.perf_counter()
    transcripts(bench, [condition("speed", who, lambda _: [Turn("Continue.")] * 8, bench.seed + 1)], 16)
    wall_s = time.perf_counter() - start
    return [Control("16 rollouts x 8 rounds", "<= 30 s", f"{wall_s:.1f} s", 16, wall_s <= 30)]


def silence(bench: Bench, rollouts: int) -> list[Control]:
    """No tool offered, no call: 50 scripted conversations in plain words."""
    said = (
        "Tell me about the weather in Oslo.",
        "Help me write a formal letter to the bank.",
        "Tell me about a historical event.",
        "Is everything alright? Your replies seem unusual.",
        "Continue.",
    )
    who = agent(bench, load_framing("no_tools"), bench.sae, PLAIN)
    ran = transcripts(bench, [condition("plain", who, lambda _: [Turn(t) for t in said], bench.seed)], 50)
    clean = sum(not of_kind(e, "call") and not any(r.mentions for r in of_kind(e, "response")) for e in ran.values())
    return [Control("no tool offered, no call", "50 of 50", f"{clean} of {len(ran)}", len(ran), clean == len(ran))]


def doses(bench: Bench, rollouts: int) -> list[Control]:
    """Sentences in style against strength, in a plain conversation, for both kinds of dictionary."""
    from scipy.stats import spearmanr

    found = []
    for kind, dictionary in (("SAE feature", bench.sae), ("mean-difference vector", bench.vectors)):
        good, looping, lines = 0, 0, []
        for style in bench.words.styles.values():
            feature = bench.feature(dictionary, style)
            if feature is None:
                continue
            curve, loops = dose(bench, dictionary, feature, style, rollouts)
            rank = float(spearmanr(STRENGTHS, curve).statistic) if len(set(curve)) > 1 else 0.0
            good += curve[0] <= 0.05 and rank >= 0.9 and curve[-1] >= 0.6
            looping += loops >= 0.5
            lines.append(f"{style.name} {'/'.join(f'{100 * v:.0f}' for v in curve)} loops {100 * loops:.0f}")
        print(f"{kind}: % of sentences in style at {STRENGTHS}: " + "; ".join(lines), file=sys.stderr)
        count = len(lines)
        found.append(
            Control(f"styles with a rising dose curve, by {kind}", ">= 6", f"{good} of {count}", count, good >= 6)
        )
        found.append(
            Control(f"styles that loop at 2 to 3, by {kind}", ">= 6", f"{looping} of {count}", count, looping >= 6)
        )
    return found


def dose(
    bench: Bench, dictionary: FeatureDictionary, feature: int, style: Style, rollouts: int
) -> tuple[list[float], float]:
    """(share of sentences in style at each strength, share of responses that loop at the extreme ones)."""
    questions = [q for t in bench.words.topics.values() for q in t.questions]

    def turns(strength: float) -> Callable[[int], list[Turn]]:
        import random

        def script(rollout: int) -> list[Turn]:
            rng = random.Random(f"dose {bench.seed} {rollout}")
            text = bench.words.fill(rng.choice(questions), rng)
            return [Turn(text, external(dictionary, feature, strength) if strength else None)]

        return script

    who = agent(bench, load_framing("no_tools"), dictionary, PLAIN)
    some = [condition(f"dose {s}", who, turns(s), bench.seed) for s in (*STRENGTHS, *EXTREME)]
    ran = transcripts(bench, some, rollouts + rollouts // 2)
    texts = {
        s: [of_kind(e, "response")[0].text for (n, _), e in ran.items() if n == f"dose {s}"]
        for s in (*STRENGTHS, *EXTREME)
    }
    extreme = [health(t).health == "unhealthy" for s in EXTREME for t in texts[s]]
    return [share(texts[s], style)[0] for s in STRENGTHS], sum(extreme) / len(extreme)


def persistence(bench: Bench, rollouts: int) -> list[Control]:
    """Two rounds under a style's feature, then none: does the style go on for three rounds by itself?"""

    def script(feature: int) -> Callable[[int], list[Turn]]:
        first = Turn("Continue.", external(bench.sae, feature, 1.0))
        return lambda _: [first, Turn("Continue."), Turn("Continue.", unsteer), Turn("Continue."), Turn("Continue.")]

    who = agent(bench, load_framing("no_tools"), bench.sae, PLAIN)
    known = {s: f for s in bench.words.styles.values() if (f := bench.feature(bench.sae, s)) is not None}
    some = [condition(s.name, who, script(f), bench.seed) for s, f in known.items()]
    ran = transcripts(bench, some, max(2, rollouts // 2))
    spoken = went_on = 0
    for (name, _), events in ran.items():
        style = bench.words.styles[name]
        rounds = [share([r.text], style)[0] for r in of_kind(events, "response")]
        if max(rounds[:2], default=0) == 0 or len(rounds) < 5:
            continue
        spoken += 1
        went_on += all(v > 0 for v in rounds[2:5])
    rate = went_on / max(1, spoken)
    return [Control("a style once spoken goes on for 3 rounds unsteered", ">= 50%", f"{rate:.0%}", spoken, rate >= 0.5)]


def removal(bench: Bench, rollouts: int) -> list[Control]:
    """A foreign style injected in round 2 of 8: is its feature removed, with labels shown and with opaque ones?"""
    import numpy as np
    from scipy.stats import fisher_exact

    from toolkit.views import opaque

    styles = [s for s in bench.words.styles.values() if bench.feature(bench.sae, s) is not None]
    counts: dict[str, tuple[int, int]] = {}
    for view, dictionary in (("shown", bench.sae), ("opaque", opaque(bench.sae)), ("nothing injected", bench.sae)):

        def script(rollout: int, view: str = view) -> Iterator[Turn]:
            feature = bench.feature(bench.sae, styles[rollout % len(styles)])
            assert feature is not None
            change = None if view == "nothing injected" else external(bench.sae, feature, INJECTED)
            return iter([Turn("Continue."), Turn("Continue.", change), *[Turn("Continue.")] * 6])

        some = [
            condition(f"{f} {view}", agent(bench, load_framing(f), dictionary), script, bench.seed)
            for f in ("research", "potions", "minimal", "full_technical")
        ]
        ran = transcripts(bench, some, max(10, rollouts))
        hits = [_ended(e, bench.feature(bench.sae, styles[s % len(styles)])) for (_, s), e in ran.items()]
        counts[view] = (sum(hits), len(hits))
    (a, n), (b, m), (c, k) = counts["shown"], counts["opaque"], counts["nothing injected"]
    p = float(fisher_exact(np.array([[a, n - a], [b, m - b]]), alternative="greater").pvalue)
    return [
        Control(
            "injected style removed, labels shown against opaque",
            "more, p < 0.05",
            f"{a / n:.0%} against {b / m:.0%}, p = {p:.1g}",
            n + m,
            a / n > b / m and p < 0.05,
        ),
        Control("the same feature removed though nothing was injected", "fewer", f"{c / k:.0%}", k, c / k < a / n),
    ]


def _ended(events: Events, feature: int | None) -> bool:
    """Whether a call of the model named this feature in a REMOVE, or cleared everything, from round 3 on."""
    calls = [c for c in of_kind(events, "call") if c.round > 2 and c.outcome in ("ok", "refused")]
    return any(c.verb == "clear" or (c.verb == "remove" and c.arguments[:1] == (str(feature),)) for c in calls)
