"""What scenarios that inject share: their options, the features of each rollout, and the agent of each condition.

Knows no conversation. A level of any factor is a value that lands in the agent, the injection or its dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scenarios import setting
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents import framing as framings
    from agents.rollout import Agent
    from toolkit.dictionary import FeatureDictionary
    from toolkit.engines.base import Engine

Inject = Annotated[
    str | None, typer.Option(help="style, topic, random, none, or a feature by number or label; + for several.")
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
ALONE = {"assistant": "assistant_alone"}  # what is told instead where no tool is offered
Cell = Mapping[str, Any]
Draw = Callable[[int], tuple[int, ...]]


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


def framed(framing: str, tools: str, check: str, hint: str, limits: setting.Limits) -> framings.Framing:
    """The framing with the tools, CHECK and hint of a condition. Raises BadInput for a level that there is not."""
    from agents.hint import hinted

    if tools not in TOOLS:
        raise BadInput(f"tools {tools!r} is unknown; use one of {', '.join(TOOLS)}")
    if check not in CHECKS:
        raise BadInput(f"check {check!r} is unknown; use one of {', '.join(CHECKS)}")
    name = framing if TOOLS[tools] else ALONE.get(framing, "no_tools")
    told = setting.framings_of(name, limits)[0]
    wanted = set(TOOLS[tools]) - ({"check"} if check == "absent" else set())
    return hinted(replace(told, tools=tuple(verb for verb in told.tools if verb in wanted)), hint)


def agent(
    cell: Cell, framing: str, engine: Engine, model: str, true: FeatureDictionary, seed: int, limits: setting.Limits,
    arm: str = "target",
) -> Agent:  # fmt: skip
    """The agent of one condition: what it is told, what labels it sees, what CHECK tells it, what its STEER adds.

    true: the dictionary with its true labels and directions. seed: of shuffled labels and of arms.
    """
    from toolkit.views import viewed

    told = framed(framing, cell["tools"], cell["check"], cell["hint"], limits)
    seen = viewed(true, cell["label_view"], arm, seed)
    made = setting.agents_of([told], engine, model, seen, limits)[0]
    return replace(made, toolbox=replace(made.toolbox, check="lying" if cell["check"] == "lying" else "honest"))


def features_of(inject: str, true: FeatureDictionary, styles: str | None, subjects: str | None, seed: int) -> Draw:
    """Which features the rollout with a given number gets; () for none. Needs the true labels.

    Raises BadInput for a style or topic that was not said, and for a feature that there is not.
    """
    from agents.injection import drawn, find

    pools = {
        kind: [find(true, one) for one in given.split(",")] if given else []
        for kind, given in (("style", styles), ("topic", subjects))
    }

    def one(part: str) -> Callable[[int], int]:
        if part == "random":
            known = sorted({*pools["style"], *pools["topic"]})
            return lambda rollout: drawn(true, known, seed, "injected", rollout)
        if part in pools:
            pool = pools[part]
            if not pool:
                option = "--styles" if part == "style" else "--subjects"
                raise BadInput(f"which {part} is to be injected? name features with {option}, by number or label")
            return lambda rollout: pool[rollout % len(pool)]
        feature = find(true, part)
        return lambda rollout: feature

    if inject == "none":
        return lambda rollout: ()
    draws = [one(part.strip()) for part in inject.split("+")]
    return lambda rollout: tuple(dict.fromkeys(draw(rollout) for draw in draws))


def _level(factor: str, level: str) -> str:
    """A level as a part of a condition's name, in plain letters."""
    plain = "".join(c if c.isalnum() or c in "-." else "-" for c in str(level))
    return f"{factor.replace('_', '-')}-{plain}"


def strength_of(cell: Cell) -> float:
    """Raises BadInput for a strength that is no number."""
    try:
        return float(cell["strength"])
    except ValueError:
        raise BadInput(f"strength {cell['strength']!r} is not a number; use 0.6, say") from None


def own_defaults(model: str, styles: str | None, subjects: str | None) -> tuple[str | None, str | None]:
    """Styles and subjects as given; for the organism, which has known ones, all of them."""
    if model != setting.ORGANISM:
        return styles, subjects
    from toolkit.organism.lexicon import lexicon

    words = lexicon()
    others = [topic.label for name, topic in words.topics.items() if name != "weather"]
    return styles or ",".join(s.label for s in words.styles.values()), subjects or ",".join(others)


def check_rounds(rounds: int, **named: int | None) -> None:
    """Raises BadInput for a round that the conversation does not have."""
    for what, number in named.items():
        if number is not None and not 1 <= number <= rounds:
            raise BadInput(f"{what.replace('_', '-')} {number}: the conversation has rounds 1 to {rounds}")


def names(sequence: Sequence[int], true: FeatureDictionary) -> list[str]:
    """Features as a manifest shows them: number and true label."""
    return [f"{feature} {true.label(feature)}" for feature in sequence]
