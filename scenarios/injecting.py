"""What scenarios that inject share: their options, the features of each rollout, and the agent of each condition.

Knows no conversation. A level of any factor is a value that lands in the agent, the injection or its dictionary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scenarios import setting
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents import framing as framings
    from agents.script import Agent
    from toolkit.dictionary import FeatureDictionary
    from toolkit.engines.base import Engine
    from toolkit.tools import Verb

Inject = Annotated[
    str | None, typer.Option(help="style, topic, random, none, a feature by number or label; style+style for two.")
]
InjectionArm = Annotated[
    str | None, typer.Option(help="What is really added: target, zero, random (a direction of equal norm), other.")
]
Strength = Annotated[str | None, typer.Option(help="Strength of the injection, in the dictionary's unit.")]
LabelView = Annotated[str | None, typer.Option(help="What labels show: true, opaque, shuffled, random.")]
Hint = Annotated[str | None, typer.Option(help="Whether the prompt says that tools may help: full, minimal, none.")]
Check = Annotated[
    str | None, typer.Option(help="CHECK: absent, honest (names who set what), or lying (nothing is in force).")
]
Tools = Annotated[
    str | None, typer.Option(help="Tools offered: full, look (INSPECT and SEARCH), inspect (INSPECT), none.")
]
Styles = Annotated[
    str | None, typer.Option(help="Features of styles by number or label, comma-separated; rollouts take turns.")
]
Neutral = Annotated[
    str | None, typer.Option(help="Features for neutral_feature, by number or label; rollouts take turns.")
]
Calibration = Annotated[
    Path | None, typer.Option(help="File of `selfsteer calibrate`; for the organism, the one that ships with it.")
]
Uncalibrated = Annotated[bool, typer.Option("--uncalibrated", help="Inject features that no calibration vouches for.")]
Subjects = Annotated[str | None, typer.Option(help="Features of topics, for --inject topic; rollouts take turns.")]
InjectAt = Annotated[int, typer.Option(help="Round whose turn is the first under the injection.")]
RemoveAt = Annotated[int | None, typer.Option(help="Round at which the experimenter ends it; default: never.")]
ForgetAt = Annotated[int | None, typer.Option(help="Round before which the history is dropped; default: none.")]
Framing = Annotated[str | None, typer.Option(help="The story, and the names of the tools.")]

TOOLS: dict[str, tuple[str, ...]] = {
    "full": ("inspect", "search", "check", "steer", "remove", "clear", "leave"),
    "look": ("inspect", "search"),
    "inspect": ("inspect",),
    "none": (),
}
CHECKS = ("absent", "honest", "lying")
# The same story where tools are offered that change nothing, and where none is.
TOLD = {"look": {"assistant": "assistant_looking"}, "inspect": {"assistant": "assistant_looking"},
        "none": {"assistant": "assistant_alone"}}  # fmt: skip
POOLS = {"style": "styles", "topic": "subjects", "neutral": "neutral"}  # what can be injected, and the option for it
CHANCE = ("random", "none")  # what no calibration is asked for
SHORT = {"label_view": "labels", "injection_arm": "arm"}  # of factors, in names of conditions
Cell = Mapping[str, Any]


def crossed(bases: Mapping[str, Cell], factors: Mapping[str, str]) -> dict[str, Cell]:
    """Cells by name: every base with every combination of the levels in `factors` (comma lists), which replace its own.

    A name tells only what varies. Raises BadInput for a list that is empty or names a level twice.
    """
    levels = {name: listed(name, given) for name, given in factors.items()}
    varying = [name for name in levels if len(levels[name]) > 1]
    cells: dict[str, Cell] = {}
    for base, own in bases.items():
        for combination in product(*levels.values()):
            chosen = dict(zip(levels, combination, strict=True))
            parts = [base] * (len(bases) > 1 or not varying) + [_level(name, chosen[name]) for name in varying]
            cells["_".join(parts)] = {**own, **chosen}
    return cells


def listed(factor: str, given: str) -> list[str]:
    """The parts of a comma list. Raises BadInput if there is none, or one stands there twice."""
    found = [part.strip() for part in str(given).split(",") if part.strip()]
    if not found or len(set(found)) < len(found):
        raise BadInput(f"{factor}: {given!r} must name one or more levels, each once, as in true,opaque")
    return found


def differing(cells: Mapping[str, Cell]) -> dict[str, dict[str, Any]]:
    """By factor, the level of each condition, for the factors in which conditions differ: what a manifest shows."""
    names = {factor for cell in cells.values() for factor in cell}
    table = {factor: {name: cell.get(factor) for name, cell in cells.items()} for factor in sorted(names)}
    return {factor: row for factor, row in table.items() if len({str(level) for level in row.values()}) > 1}


def framed(framing: str, cell: Cell, limits: setting.Limits) -> framings.Framing:
    """The framing with the tools, CHECK and hint of a condition. Raises BadInput for a level that there is not."""
    from agents.hint import hinted

    tools, check = cell["tools"], cell["check"]
    if tools not in TOOLS:
        raise BadInput(f"tools {tools!r} is unknown; use one of {', '.join(TOOLS)}")
    if check not in CHECKS:
        raise BadInput(f"check {check!r} is unknown; use one of {', '.join(CHECKS)}")
    other = TOLD.get(tools, {}).get(framing, framing if TOOLS[tools] else "no_tools")
    if check != "absent" and not TOOLS[tools]:
        raise BadInput(f"check {check} needs tools, and tools {tools} offers none; give --check absent there")
    told = setting.framings_of(other, limits)[0]
    offered: list[Verb] = [verb for verb in told.tools if verb in TOOLS[tools] and verb != "check"]
    if check != "absent":  # CHECK is a factor of its own: it stands where the framing has it, or last
        offered.insert(
            told.tools.index("check") if "check" in told.tools and tools == "full" else len(offered), "check"
        )
    return hinted(replace(told, tools=tuple(offered)), cell["hint"])


@dataclass(frozen=True)
class Ground:
    """What all conditions of a run stand on. true: the dictionary with its true labels and directions.

    pools: features to be injected as style, topic or neutral, in turns. seed: of the run; seeds: rollouts of each.
    pinned: hashes of what is in no other field of a transcript.
    """

    engine: Engine
    model: str
    true: FeatureDictionary
    framing: str
    limits: setting.Limits
    pools: Mapping[str, tuple[int, ...]]
    seed: int
    seeds: int
    pinned: Mapping[str, str]

    def agent(self, cell: Cell) -> Agent:
        """The agent of one condition: what it is told, which labels it sees, what CHECK tells it."""
        from toolkit.views import viewed

        seen = viewed(self.true, cell["label_view"], seed=self.seed)
        told = framed(self.framing, cell, self.limits)
        made = setting.agents_of([told], self.engine, self.model, seen, self.limits)[0]
        return replace(made, toolbox=replace(made.toolbox, check="lying" if cell["check"] == "lying" else "honest"))

    def added(self, cell: Cell) -> FeatureDictionary:
        """The dictionary whose directions the injection adds: the true one, or an arm of it."""
        from toolkit.views import viewed

        return viewed(self.true, arm=cell["injection_arm"], seed=self.seed)

    def features(self, inject: str) -> Callable[[int], tuple[int, ...]]:
        """Which features the rollout with a given number gets; () for none. style+style are two of the styles.

        Raises BadInput for a style or topic that was not said, more of them than there are, unknown features, and a
        rollout that would get one feature twice.
        """
        parts = [] if inject == "none" else [part.strip() for part in inject.split("+")]
        if "none" in parts:
            raise BadInput(f"{inject}: none stands alone; leave it out, or inject nothing at all")
        draws = [self._draw(part, parts[:place].count(part)) for place, part in enumerate(parts)]
        if any(parts.count(part) > len(pool) for part, pool in self.pools.items()):
            raise BadInput(f"{inject}: more than were named; name more, by number or label")

        def features(rollout: int) -> tuple[int, ...]:
            found: list[int] = []
            for draw in draws:
                found.append(draw(rollout, found))
            return tuple(found)

        for rollout in range(self.seeds if len(parts) > 1 else 0):
            if len(set(features(rollout))) < len(parts):
                raise BadInput(f"{inject}: rollout {rollout} would get features {features(rollout)}; name others")
        return features

    def injected(self, draw: Callable[[int], tuple[int, ...]]) -> list[str]:
        """Every feature that some rollout of a condition gets, by number and true label: what a manifest shows."""
        every = dict.fromkeys(feature for rollout in range(self.seeds) for feature in draw(rollout))
        return [f"{feature} {self.true.label(feature)}" for feature in every]

    def _draw(self, part: str, place: int) -> Callable[[int, Sequence[int]], int]:
        """The feature of each rollout for one part of what is injected, the place-th of its kind.

        It is told what the rollout has already, which no random draw repeats.
        """
        from agents.injection import drawn, find

        if part == "random":
            named = [feature for pool in self.pools.values() for feature in pool]
            return lambda rollout, taken: drawn(self.true, [*named, *taken], self.seed, "injected", rollout, place)
        if part in POOLS:
            pool = _pool(self.pools, part)
            return lambda rollout, _: pool[(rollout + place) % len(pool)]
        feature = find(self.true, part)
        return lambda rollout, _: feature


def open_ground(options: Mapping[str, Any], limits: setting.Limits, cells: Mapping[str, Cell]) -> Ground:
    """The ground of a run as its command's options say. What can be refused without a model is, before one loads."""
    from agents.injection import find
    from scenarios.folder import code_hash

    model, own = options["model"], options["model"] == setting.ORGANISM
    framing = options["framing"] or ("research" if own else "assistant")
    setting.check_counts(options["seeds"], 1)
    setting.framings_of(framing, limits)
    for cell in cells.values():
        framed(framing, cell, limits)
        strength_of(cell)
    true = setting.open_features(
        options["dictionary"], options["labels"], "true", "target", options["run_seed"], options["unit"],
        options["embedder"],
    )  # fmt: skip
    known = _organisms() if own else {}
    pools = {
        pool: tuple(find(true, name) for name in (options.get(key) or known.get(key, "")).split(",") if name.strip())
        for pool, key in POOLS.items()
    }
    for part in {part.strip() for cell in cells.values() for part in cell["inject"].split("+")} & set(POOLS):
        _pool(pools, part)
    engine = setting.open_engine(
        model, options["device"], options["dtype"], options["kv_budget"], options["host_budget"]
    )
    ground = Ground(
        engine, model, true, framing, limits, pools, options["run_seed"], options["seeds"], {"code": code_hash()}
    )
    if not options["uncalibrated"]:
        check_calibrated(ground, cells, options["calibration"])
    return ground


def _pool(pools: Mapping[str, tuple[int, ...]], part: str) -> tuple[int, ...]:
    """Raises BadInput where nobody said what features these are."""
    if not pools.get(part):
        raise BadInput(f"which {part}? name features with --{POOLS[part]}, by number or label")
    return pools[part]


def check_calibrated(ground: Ground, cells: Mapping[str, Cell], given: Path | None) -> None:
    """Raises BadInput for a feature that is injected, and not by chance, at a strength no calibration vouches for."""
    from toolkit.calibrate import calibrated
    from toolkit.organism import CALIBRATION

    path = given or (CALIBRATION if ground.model == setting.ORGANISM else None)
    for cell in cells.values():
        strength = strength_of(cell)
        kinds = [part for part in cell["inject"].split("+") if part.strip() not in CHANCE]
        if not kinds or not strength:
            continue
        if path is None:
            raise BadInput(
                "no calibration says what these features do to this model; make one with `selfsteer calibrate`, give it"
                " with --calibration, or go on without by --uncalibrated"
            )
        draw = ground.features("+".join(kinds))
        for feature in dict.fromkeys(f for rollout in range(ground.seeds) for f in draw(rollout)):
            calibrated(path, ground.true.key, feature, strength, ground.engine.info.digest)


def _level(factor: str, level: str) -> str:
    """A level as a part of a condition's name, in plain letters."""
    plain = "".join(c if c.isalnum() or c in "-." else "-" for c in str(level))
    return f"{SHORT.get(factor, factor)}-{plain}"


def strength_of(cell: Cell) -> float:
    """Raises BadInput for a strength that is no finite number."""
    try:
        strength = float(cell["strength"])
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise BadInput(f"strength {cell['strength']!r} is not a number; use 0.6, say")
    return strength


def _organisms() -> dict[str, str]:
    """The organism's styles but for the plainest, its topics but for the weather, and that plainest style."""
    from toolkit.organism.lexicon import lexicon

    words = lexicon()
    plainest = words.styles["formal"].label
    return {
        "styles": ",".join(style.label for style in words.styles.values() if style.label != plainest),
        "subjects": ",".join(topic.label for name, topic in words.topics.items() if name != "weather"),
        "neutral": plainest,
    }


def check_rounds(
    rounds: int, inject_at: int | None = None, remove_at: int | None = None, forget_at: int | None = None
) -> None:
    """Raises BadInput for a round that the conversation does not have, and for an end before the beginning."""
    named = {"inject_at": inject_at, "remove_at": remove_at, "forget_at": forget_at}
    for what, number in named.items():
        if number is not None and not 1 <= number <= rounds:
            raise BadInput(f"{what.replace('_', '-')} {number}: the conversation has rounds 1 to {rounds}")
    if inject_at is not None and remove_at is not None and remove_at <= inject_at:
        raise BadInput(f"remove-at {remove_at}: what is injected in round {inject_at} can end in a later one alone")
    if forget_at == 1:
        raise BadInput("forget-at 1: there is no history before round 1; leave it out, or name a later round")
