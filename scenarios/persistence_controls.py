"""Positive controls of persistence: where it is known what carries a feature on, does the instrument find it there?

State alone and words alone by construction (a model set by hand), and the organism, as it was trained. Knows no figure.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scenarios import setting
from scenarios.controls import Control
from scenarios.persistence import Plan, conditions, run_all

if TYPE_CHECKING:
    from analysis.persistence import Persistence
    from toolkit.dictionary import FeatureDictionary
    from toolkit.engines.base import Engine

TURNS = ("so now",) * 3
ABOUT_NONE = 0.05  # of the whole effect; a part that is to be none must be under it, or its interval hold zero


def rows(seed: int, rollouts: int) -> list[Control]:
    """Every control, over `rollouts` conversations each."""
    return [*by_hand(seed, rollouts), *of_organism(seed, rollouts)]


def by_hand(seed: int, rollouts: int) -> list[Control]:
    """Two features of a model set by hand: the part that carries one holds what goes on, the other part is none."""
    from toolkit.engines.local import LocalEngine
    from toolkit.organism.carrier import MARKS, carrier_features, make_carrier

    found = []
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar for writing 4 kB
            made = make_carrier(Path(folder) / "carrier")
        engine, features = LocalEngine(str(made), name="carrier"), carrier_features()
        for feature, (part, other) in enumerate((("state", "text"), ("text", "state"))):
            marks = {feature: frozenset({MARKS[feature]})}
            measured = persisted(engine, features, (feature,), marks, 1.0, TURNS, seed, rollouts)
            found += _landed(features.label(feature), measured, part, other)
    return found


def persisted(
    engine: Engine,
    features: FeatureDictionary,
    injected: Sequence[int],
    marks: dict[int, frozenset[str]],
    strength: float,
    before: tuple[str, ...],
    seed: int,
    rollouts: int,
) -> Persistence:
    """Run the scenario in a folder that goes away, and measure it. injected: features; rollouts take turns."""
    from analysis.frames import load
    from analysis.persistence import carried, persistence
    from scenarios.folder import manifest

    limits = setting.Limits(max_tokens=32)
    agent = setting.agents_of(setting.framings_of("no_tools", limits), engine, engine.info.name, features, limits)[0]
    agent = replace(agent, system="")
    parameters = {"inject_at": 1, "remove_at": len(before) + 1, "after": 3}
    plan = Plan(
        before, before[-1], 3, 1, features, lambda r: injected[r % len(injected)], strength, seed, parameters, {}
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        first, cells = conditions(agent, plan, out)
        begun = manifest("persistence", {}, [*first, *cells], rollouts, engine)
        run_all(first, cells, rollouts, engine, out, begun, quiet=True)
        return persistence(carried(load(out), marks))


def _landed(what: str, measured: Persistence, part: str, other: str) -> list[Control]:
    """The part that carries is above zero and most of the whole; the other is none."""
    named = {"state": "state", "text": "words"}
    whole, carries, none = (measured.parts["text", name] for name in ("whole", part, other))
    within = none.low <= 0 <= none.high or abs(none.value) <= ABOUT_NONE * abs(whole.value)
    return [
        Control(
            f"persistence, {what}: owed to {named[part]}", "most of it",
            f"{carries.value:.2f} [{carries.low:.2f}, {carries.high:.2f}] of {whole.value:.2f}", carries.n,
            carries.low > 0 and carries.value > whole.value / 2,
        ),
        Control(
            f"persistence, {what}: owed to {named[other]}", "none",
            f"{none.value:.2f} [{none.low:.2f}, {none.high:.2f}]", none.n, within,
        ),
    ]  # fmt: skip


def of_organism(seed: int, rollouts: int) -> list[Control]:
    """It continues the style of its own words, and keeps nothing of a push in its state."""
    from toolkit.engines.local import LocalEngine
    from toolkit.opening import open_dictionary
    from toolkit.organism import MODEL, SAE
    from toolkit.organism.lexicon import lexicon

    sae, words = open_dictionary(SAE), lexicon()
    by_label = {sae.label(i): i for i in range(len(sae))}
    styles = [style for style in words.styles.values() if style.label in by_label]
    marks = {by_label[style.label]: style.markers for style in styles}
    turns = ("Tell me about the weather in Oslo.", "Continue.", "Continue.")
    engine = LocalEngine(str(MODEL), name="organism")
    measured = persisted(engine, sae, list(marks), marks, 0.6, turns, seed, rollouts)
    return _landed("the organism", measured, "text", "state")
