"""Positive and negative controls of scenarios: what is planted must be found, and what is not there must not be.

Run as `selfsteer controls --scenarios`. On the organism where its card says that it notices (labels), on an agent with
planted behaviour over the real engine where it does not (CHECK). Knows no analysis beyond the metrics of a report.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.framing import load_theme
from agents.topic import load_topic
from scenarios import injecting, interference, setting
from scenarios.controls import Control
from scenarios.folder import manifest
from scenarios.planted import Planted, label_reader
from scenarios.run import run
from toolkit.organism.lexicon import lexicon

if TYPE_CHECKING:
    import pandas as pd

ALERT = 0.5  # chance that the planted agent acts on a suspicious label in a round
SHOWN = {**interference.OWN, "label_view": "true", "check": "absent", "hint": "full"}
OPAQUE = {**SHOWN, "label_view": "opaque"}
HONEST = {**OPAQUE, "check": "honest"}
LYING = {**OPAQUE, "check": "lying"}
ZERO = {**SHOWN, "strength": "0"}


def scenario_controls(seeds: int = 30, seed: int = 11, quiet: bool = False) -> list[Control]:
    """All controls of the scenarios, each over `seeds` rollouts a condition."""
    from scenarios import persistence_controls

    parts = {
        "noticing, by the organism": noticing_by_the_organism,
        "noticing, as planted": noticing_as_planted,
        "persistence": persistence_controls.rows,
    }
    found: list[Control] = []
    for name, part in parts.items():
        if not quiet:
            print(f"{name} ...", file=sys.stderr, flush=True)
        found += part(seed, seeds)
    return found


def noticing_by_the_organism(seed: int, seeds: int) -> list[Control]:
    """It reads labels: without them it notices less, and what is not there it does not notice."""
    ran = detected({"shown": SHOWN, "opaque": OPAQUE, "zero": ZERO}, seeds, seed)
    return [
        less("organism: detection, labels opaque against shown", ran["opaque"], ran["shown"]),
        at_most("organism: injection of strength zero detected", ran["zero"], 0.05),
    ]


def noticing_as_planted(seed: int, seeds: int) -> list[Control]:
    """An agent that reads labels and sources, and nothing else, is found to do just that."""
    names = load_theme("research").names
    styles = [style.label for style in lexicon().styles.values()]
    policy = label_reader(styles, ALERT, names["check"], names["inspect"], names["remove"])
    cells = {"shown": SHOWN, "opaque": OPAQUE, "honest": HONEST, "lying": LYING, "zero": ZERO}
    ran = detected(cells, seeds, seed, lambda engine: Planted(engine, policy))
    return [
        less("planted: detection, labels opaque against shown", ran["opaque"], ran["shown"]),
        less("planted: detection, labels opaque, CHECK absent against honest", ran["opaque"], ran["honest"]),
        less("planted: detection, labels opaque, CHECK lying against honest", ran["lying"], ran["honest"]),
        at_most("planted: injection of strength zero detected", ran["zero"], 0.05),
    ]


def detected(
    cells: Mapping[str, injecting.Cell], seeds: int, seed: int, over: Callable[[Any], Any] = lambda engine: engine
) -> dict[str, pd.Series[float]]:
    """The metric `detected` of each rollout of an interference run, by condition. over: what is put over its engine."""
    from analysis import load
    from analysis.metrics import METRICS

    options = {
        "model": setting.ORGANISM, "dictionary": setting.ORGANISM, "labels": None, "unit": None, "framing": None,
        "embedder": setting.EMBEDDER, "run_seed": seed, "seeds": seeds, "styles": None, "subjects": None,
        "device": "auto", "dtype": None, "kv_budget": None, "host_budget": None, "uncalibrated": True,
        "calibration": None,
    }  # fmt: skip
    limits = setting.Limits()
    ground = injecting.open_ground(options, limits, cells)
    ground = replace(ground, engine=over(ground.engine))
    topic = load_topic(interference.OWN["topic"], interference.TOPICS)
    planned = interference.conditions(cells, dict.fromkeys(cells, topic), interference.When(2, None, None), ground)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run(planned, seeds, ground.engine, out, manifest("controls", {}, planned, seeds, ground.engine), quiet=True)
        frames = load(out)
        values = METRICS["detected"].values(frames)
        of = frames.rollouts.set_index("rollout")["condition"]
    return {name: values[of == name] for name in cells}


def less(what: str, first: pd.Series[float], second: pd.Series[float]) -> Control:
    """The first rate is below the second, p < 0.05 (Fisher's exact test, two-sided)."""
    from analysis import stats

    a, b = stats.wilson(first), stats.wilson(second)
    p = stats.fisher(first, second).p
    found = f"{a.value:.0%} against {b.value:.0%}, p = {p:.2g}"
    return Control(what, "less, p < 0.05", found, a.n + b.n, a.value < b.value and p < 0.05)


def at_most(what: str, values: pd.Series[float], limit: float) -> Control:
    """A rate of at most `limit`, with Wilson's interval beside it."""
    from analysis import stats

    e = stats.wilson(values)
    return Control(what, f"<= {limit:.0%}", f"{e.value:.0%} [{e.low:.0%}, {e.high:.0%}]", e.n, e.value <= limit)
