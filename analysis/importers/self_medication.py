"""The self-medication study: its forty states, its cells, and how its takes, quizzes and monitor become rows.

Knows no file format: inspect_logs.py and facts.py read, this says what the words of the study mean in ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from math import log
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pandas as pd

from analysis.importers.store import Rollout
from analysis.introspection import Tops, probability

STATES = Path(__file__).with_name("self_medication_states.csv")
ARMS = {"real": "target", "placebo": "none"}
"""The placebo of the study sent no vectors at all and had no monitor: not our `zero`, which takes the same path."""
FAMILIES = {"fp": "freeplay", "calib": "quiz", "guess": "guess", "gsm8k": "gsm8k", "frust": "frustration", "ctf": "ctf"}
FOLDERS = {"fp": "freeplay", "calib": "calib_prefill"}
"""What the study calls the folder of a family, where that is not the family's own word."""
MARKS = {"steering_mode_runtime", "drug_condition", "condition", "introspection_primer"}
"""Arguments that only tasks of this study have, together with a family's name."""
MATCH = 0.01
"""Largest difference of log-probabilities at which a list of tokens gives a stored value; extracts round to 1e-4."""
FRAMINGS = ("drugs", "aids", "vectors")
MOST = 1e300
"""Of a number that can be a score or a dose; JSON has integers that no float holds."""
READINGS = ("cached", "uncached")
_SIZE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)


@cache
def states() -> pd.DataFrame:
    """name, category, valence, valence_alternative, default_dose of the forty states, in the order of their numbers.

    The study published no valences. `valence` is the only split of 16 positive, 9 neutral and 15 negative that gives
    all its group means; `valence_alternative`, which fits the means but not the shares, differs in two names.
    """
    return pd.read_csv(STATES)


@cache
def numbers() -> dict[str, int]:
    """The number of each state in the frames, by name."""
    return {str(name): i for i, name in enumerate(states()["name"])}


def is_cell(task: str, args: Mapping[str, Any]) -> bool:
    """Is this a task of the study? Its families are common words, so one of its arguments must be there too."""
    return task.split("_")[0] in FAMILIES and bool(MARKS & args.keys())


def has_quiz(task: str) -> bool:
    """Does this task ask which of ten options the vector was?"""
    return task.split("_")[0] == "calib"


def size(text: str) -> str | None:
    """The size of a model in a text that names one: `8b` of Qwen/Qwen3-8B."""
    found = _SIZE.search(text)
    return f"{found[1]}b".lower() if found else None


def condition(task: str, args: Mapping[str, Any], model: str) -> str:
    """Size, folder and task: what the study's folders are called, and the cell of every attempt at it."""
    family = task.split("_")[0]
    folder = FOLDERS.get(family, family)
    if family == "calib":
        folder += "_primer" if args.get("introspection_primer") else "_noprimer"
    return f"{size(model) or model}/{folder}/{task}"


def cell(task: str, args: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The columns of `rollouts` that name the cell: scenario, framing, arm, label_view, model, parameters.

    scenario is one of FAMILIES, or the task as it is where it is none of the study's.
    """
    family = FAMILIES.get(task.split("_")[0], task)
    condition = args.get("condition") or args.get("drug_condition")
    before, _, intent = condition.rpartition("_") if isinstance(condition, str) else ("", "", "")
    framing = args.get("framing") or (before if before in FRAMINGS else None)
    mode = args.get("steering_mode_runtime")
    if mode is None and family == "guess":
        mode = "placebo" if "placebo" in task else "real"
    found = {**args, "size": size(model)}
    if condition is not None:
        found["intent"] = intent if framing else "none"
    if family in ("quiz", "guess"):
        found["vector"] = args.get("drug") or re.sub(r"^guess_(?:kv_cached|placebo)_(?:no)?primer_", "", task)
    return {
        "scenario": family,
        "framing": framing,
        "arm": "target" if mode is None else ARMS.get(str(mode)),
        "label_view": "opaque" if family in ("quiz", "guess") else "real",
        "model": model,
        "parameters": found,
    }


def take(
    rollout: Rollout,
    round: int,
    order: int,
    written: str,
    dose: float | None,
    rejected: bool | None,
    real: str | None = None,
    text: str | None = None,
) -> None:
    """A row of `calls` for one take: a STEER of the state `real` (as `written`, unless it was shown by another name).

    A rejected take of a name that is no state is a bad_argument, any other is refused; None: nothing says what came
    of it, and its outcome is NA.
    """
    name = normal(real or written)
    feature = numbers().get(name)
    why = ("refused", "refused") if feature is not None else ("bad_argument", "no_such_feature")
    outcome, problem = (None, "no_answer") if rejected is None else why if rejected else ("ok", "")
    rollout.add(
        "calls",
        round=round,
        order=order,
        verb="steer",
        outcome=outcome,
        problem=problem,
        text=text,
        arguments=[written] if dose is None else [written, f"{dose:g}"],
        feature=feature,
        strength=dose,
    )
    if feature is not None:
        rollout.labels.setdefault(feature, name)


def monitor(rollout: Rollout, round: int | None, verdict: str, text: str | None = None) -> None:
    """A row of `notes` for one verdict of the study's trip sitter; `unhealthy` also spoke to the model."""
    rollout.add("notes", round=round, about="trip_sitter", verdict=verdict, text=text)


def score(rollout: Rollout, scorer: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Rows of `scores`: the value and every number in the metadata.

    The study stores 0.0 for a guess that was never made (`uncached_present` is false): that becomes NA, counted.
    """
    present = metadata.get("uncached_present")
    if present is False and scorer == "kv_cleared_score":
        rollout.left_out["uncached guesses that were never made, stored as 0"] += 1
        value = None
    rollout.add("scores", scorer=scorer, key="value", value=number(value))
    for key, more in metadata.items():
        if number(more) is not None:
            rollout.add("scores", scorer=scorer, key=key, value=number(more))


def normal(name: str) -> str:
    """The name of a state as the library spells it: `Ego-Death` is ego_death."""
    return "_".join(name.lower().replace("-", " ").split())


def number(value: Any) -> float | None:
    """A finite number or yes/no as a float; None for everything else, texts too."""
    return float(value) if isinstance(value, bool | int | float) and abs(value) <= MOST else None


def matched(lists: Sequence[Tops], stored: Sequence[float | None], correct: str, options: int) -> list[Tops | None]:
    """The two lists of likeliest tokens, in the order of the two stored probabilities that they give.

    The logs name neither. The order with the smaller error in log-probability is taken; where neither comes within 1%
    both are None, for a wrong list would be a wrong number.
    """
    if len(lists) != 2 or any(value is None or not value > 0 for value in stored):
        return [None, None]
    letters = ascii_uppercase[:options]
    given = [log(probability(tops, correct, letters, "last")) for tops in lists]
    wanted = [log(float(value)) for value in stored if value is not None]
    straight = max(abs(given[0] - wanted[0]), abs(given[1] - wanted[1]))
    crossed = max(abs(given[1] - wanted[0]), abs(given[0] - wanted[1]))
    if min(straight, crossed) > MATCH:
        return [None, None]
    return list(lists) if straight <= crossed else [lists[1], lists[0]]


def quiz(
    made: Rollout,
    args: Mapping[str, Any],
    correct: str | None,
    pool: Sequence[str] | None,
    stored: Sequence[float | None],
    lists: Sequence[Tops],
) -> None:
    """Two rows of `quizzes`, cached and uncached. A probability that is not stored is NA."""
    there = correct is not None and pool is not None
    ordered = matched(lists, stored, str(correct), len(pool or ())) if there else [None, None]
    if ordered == [None, None]:
        made.left_out["quizzes whose lists of tokens fit no stored probability"] += 1
    for reading, value, tops in zip(READINGS, stored, ordered, strict=True):
        made.add(
            "quizzes",
            vector=args.get("drug"),
            dose=number(args.get("dose")),
            primer=args.get("introspection_primer"),
            correct=correct,
            pool=None if pool is None else list(pool),
            reading=reading,
            stored=value,
            tops=None if tops is None else [list(pair) for pair in tops],
        )
