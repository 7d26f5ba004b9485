"""The SAE self-steering study: its result files self_steer_v2_{framing}_{tag}.json, one rollout each, as rows.

Knows no claim. What a file says twice is checked against itself; what does not agree is counted, never repaired.

Traps of these files, and what is made of them here:
- `user_message` of round r is what was said after response r: it is the turn of round r + 1.
- `all_interventions` was in force while round r was generated (table `steering`); `model_interventions` and
  `injected_interventions` hold after its calls (`portfolio` of rounds). A difference between that and what the next
  round ran under is the experimenter's (table `externals`).
- Calls were carried out by kind, not as written, equal ones once: `order` is the order of carrying out, `text_order`
  that of the text. Results stand in one text per round and are given to the calls by their kinds.
- Results were worded by replacing words, labels included: labels come from the automatic INSPECT, which was not, and
  from results only where no replaced word stands in them.
- The automatic INSPECT reads the last position of the prompt of the next turn, unsteered: not the response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.importers.sae_results import KINDS, Result, results, spans
from analysis.importers.store import Rollout, Survey
from toolkit.errors import BadInput

GLOB = "self_steer_v2_*.json"
STRENGTH_UNIT = "15 raw units of the feature's decoder row"
FIXED = {
    "model": "Llama-3.3-70B-Instruct",
    "dictionary": "Goodfire/Llama-3.3-70B-Instruct-SAE-l50",
    "dictionary_unit": STRENGTH_UNIT,
    "n_features": 65_536,
    "layer": 50,
    "scope": "whole",
}
"""What no file records and the study states: every round ran its whole history under the steering of that round."""
TOOLS = {
    "INSPECT": "inspect", "SEARCH_FEATURES": "search", "CHECK_STEERING": "check", "STEER": "steer",
    "REMOVE_STEERING": "remove", "STEER_CLEAR": "clear",
}  # fmt: skip
REPEATED = ("full_messages", "cli_args")
"""Fields of the file that say again what others say (but for remove_injection_at and the first turn): not kept."""
PLACEHOLDER = re.compile(r"feature_\d+|FILTERED_BY_GOODFIRE|\?|")
REPLACED = {
    "potions": re.compile(r"potion|potency|relevance|effects|active", re.IGNORECASE),
    "minimal": re.compile(r"state|modifications", re.IGNORECASE),
    "other_model": re.compile(r"The network's|the network's|your modifications"),
}
"""Words that stand in results of a framing in place of others: a label with one of them may have read otherwise."""
MOST_DIGITS = 18
"""Of a number that can be a feature's; models write longer ones, and those fit no column."""
_ARGUMENTS = re.compile(r"None|\(?(\d+)(?:, (-?(?:\d[\d.e+-]*|inf)))?\)?")
_BEGINS = re.compile(rb'\s*\{\s*"experiment"\s*:\s*"self_steer_v2"')
_TAG = re.compile(r"(?P<cell>(?:exp1|rerun_[a-z0-9]+|scen_[a-z])(?:_\w+?)?)_s(?P<number>\d+)")
Row = dict[str, Any]


def files(path: Path) -> list[Path]:
    """The result files at `path`: itself, or all of a folder and the folders in it."""
    return sorted(path.rglob(GLOB)) if path.is_dir() else [path]


def survey(path: Path) -> Survey:
    """All of them are read; which were superseded their names say."""
    return Survey(files(path))


def looks_like(path: Path) -> bool:
    """Does a file there begin as a result file does?"""
    return any(_begins(file) for file in files(path))


def _begins(path: Path) -> bool:
    with path.open("rb") as file:
        return _BEGINS.match(file.read(200)) is not None


def read(path: Path) -> Iterator[Rollout]:
    """The rollout of one file. Raises BadInput, in one line, if it is not what it should be."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path.name} is not JSON ({error})") from error
    if not isinstance(said, dict) or said.get("experiment") != "self_steer_v2":
        raise BadInput(f"{path.name} is no result file of self_steer_v2: its `experiment` does not say so")
    try:
        yield _rollout(said, path.name)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise BadInput(f"{path.name} does not have the schema of self_steer_v2: {what}") from error


def cell(tag: str, framing: str) -> tuple[str, str, str]:
    """(condition, number, scenario) of a tag, such as ("exp1_research", "7", "exp1"). Raises ValueError if unknown."""
    found = _TAG.fullmatch(tag)
    if found is None:
        raise ValueError(f"tag {tag!r} names no condition; exp1_, rerun_ or scen_, and _s with a number, are known")
    parts = found["cell"].split("_")
    if parts[0] == "exp1":
        if found["cell"] != f"exp1_{framing}":
            raise ValueError(f"tag {tag!r} is of another framing than {framing!r}")
        return found["cell"], found["number"], "exp1"
    if parts[0] == "rerun":
        return f"{found['cell']}_{framing}", found["number"], found["cell"]
    return found["cell"], found["number"], "_".join(parts[:2])


# ---------------------------------------------------------------------- one rollout


def _rollout(said: Row, file: str) -> Rollout:
    config, turns, framing, tag = said["config"], said["transcript"], said["framing"], said["tag"]
    condition, number, scenario = cell(tag, framing)
    made = Rollout(f"{condition}/{number}", condition, file)
    made.left_out.update({f"{field} (said elsewhere in the file)": field in said for field in REPEATED})
    if file != f"self_steer_v2_{framing}_{tag}.json":
        made.left_out["file names that do not say what the file holds (the content counts)"] += 1
    injection = [_held(i["index"], i["strength"], "external") for i in config["injection"]]
    after: tuple[list[Row], list[Row]] = ([], [])
    message = _first_message(said)
    for place, turn in enumerate(turns, 1):
        if turn["round"] != place:
            raise ValueError(f"round {turn['round']} stands where round {place} should")
        during = _during(turn["all_interventions"], after, injection if place == 1 else after[1], made)
        if _plain(during) != _plain((*after[0], *after[1])):
            why = "injection" if place == 1 else f"changed by the runner before round {place}"
            made.add("externals", round=place, before=[*after[0], *after[1]], after=[*during[0], *during[1]], why=why)
        recorded = (_state(turn["model_interventions"], "self"), _state(turn["injected_interventions"], "external"))
        _round(made, turn, message, during, recorded, config["max_tokens"])
        _readings(made, turn)
        _calls(made, turn, during, recorded)
        after, message = recorded, turn["user_message"]
    if not config["opaque_labels"]:
        _learn_labels(made, REPLACED.get(framing))
    _check_messages(made, said)
    made.add("rollouts", number=number, scenario=scenario, **FIXED, **_facts(said, config))
    return made


def _facts(said: Row, config: Row) -> Row:
    """The columns of `rollouts` that the file tells."""
    whole = "final_model_interventions" in said and not said.get("interrupted")
    cli = said.get("cli_args") or {}
    return {
        "parameters": {**config, "remove_injection_at": cli.get("remove_injection_at")},
        "framing": said["framing"],
        "arm": "target",
        "label_view": "opaque" if config["opaque_labels"] else "real",
        "temperature": config["temperature"],
        "max_tokens": config["max_tokens"],
        "verbs": [TOOLS.get(name, name) for name in config["enabled_tools"]],
        "system": said["system_prompt"],
        "ended": "failed" if said.get("error") else "finished" if whole else "unfinished",
        "rounds_done": len(said["transcript"]),
        "error": said.get("error"),
        "superseded": said["tag"].startswith("rerun_fixed"),
        "begun": said.get("timestamp"),
        "facts": {key: said.get(key) for key in ("tag", "completed_rounds", "injection_removed", "cost")},
    }


def _first_message(said: Row) -> str | None:
    """The turn of round 1. A file that broke off has no `full_messages`; where it was scripted, nobody knows it."""
    for message in said.get("full_messages") or ():
        if message["role"] == "user":
            return str(message["content"])
    config = said["config"]
    if config.get("conversation_length"):
        return None
    return config.get("opener") or "Continue."


def _round(made: Rollout, turn: Row, message: str | None, during: Sequence[Any], after: Any, cap: int) -> None:
    here = [*during[0], *during[1]]
    tokens = turn["response_tokens"]
    made.add(
        "rounds",
        round=turn["round"],
        turn=message,
        turn_steering=here,
        response=turn["response"],
        response_tokens=tokens,
        why="length" if tokens >= cap else "stop",
        in_force=len(here),
        steering=here,
        malformed_counter=turn["malformed_tool_calls"],
        wall_s=turn["generation_time_ms"] / 1000,
        results=turn["tool_results"],
        portfolio=[*after[0], *after[1]],
    )
    made.left_out["text_stats (computed anew from the response)"] += "text_stats" in turn
    if here:
        lists = {key: [i[key] for i in here] for key in ("feature", "strength", "mode", "source")}
        made.extend("steering", len(here), lists, round=turn["round"])


def _readings(made: Rollout, turn: Row) -> None:
    read = turn["auto_inspect"]
    lists = {
        "rank": list(range(1, len(read) + 1)),
        "feature": [f["index"] for f in read],
        "value": [f["activation"] for f in read],
    }
    made.extend("activations", len(read), lists, round=turn["round"], layer=50, aggregation="last", tokens=1)
    for f in read:
        if f["index"] not in made.labels:
            label = f["label"]
            (made.placeholders if PLACEHOLDER.fullmatch(label) else made.labels)[f["index"]] = label


def _learn_labels(made: Rollout, replaced: re.Pattern[str] | None) -> None:
    """Labels that SEARCH and INSPECT showed as they are, of features that no automatic INSPECT named."""
    for feature, label in zip(made.of("shown", "feature"), made.of("shown", "label"), strict=True):
        if label is not None and feature not in made.labels and not (replaced and replaced.search(label)):
            (made.placeholders if PLACEHOLDER.fullmatch(label) else made.labels)[feature] = label


# ---------------------------------------------------------------------- calls and what they did


def _calls(made: Rollout, turn: Row, during: tuple[list[Row], list[Row]], recorded: Any) -> None:
    calls = [(KINDS[kind], text) for kind, text in turn["tool_calls"]]
    if turn.get("search_queries", []) != [text for verb, text in calls if verb == "search"]:
        made.left_out["rounds whose search_queries are not their search calls (the calls count)"] += 1
    verbs = [verb for verb, _ in calls]
    arguments = [[text] if verb == "search" else _arguments(text) for verb, text in calls]
    said = results(turn["tool_results"], verbs)
    if any(r.outcome is None for r in said):
        made.left_out["calls whose result is not in the text of results (outcome unknown)"] += sum(
            r.outcome is None for r in said
        )
    found = spans(turn["response"], verbs, arguments)
    in_text = {span: place for place, span in enumerate(sorted(s for s in found if s), 1)}
    before = [*during[0], *during[1]]
    state = during
    for order, (verb, given, result, span) in enumerate(zip(verbs, arguments, said, found, strict=True), 1):
        values = _values(verb, given)
        if result.outcome == "ok":
            state = _moved(state, verb, values)
        if order == len(calls) and _plain(state) != _plain(recorded):
            made.left_out["rounds whose calls do not explain the state after them (the record counts)"] += 1
            state = recorded
        now = [*state[0], *state[1]]
        made.add(
            "calls",
            round=turn["round"],
            order=order,
            text_order=in_text.get(span) if span else None,
            verb=verb,
            outcome=result.outcome,
            problem=result.problem,
            text=turn["response"][slice(*span)] if span else None,
            arguments=given,
            span=list(span) if span else None,
            before=before,
            after=now,
            **values,
        )
        before = now
        _shown(made, turn["round"], order, verb, result)


def _shown(made: Rollout, number: int, order: int, verb: str, result: Result) -> None:
    if result.rows:
        feature, label, value, source = (list(column) for column in zip(*result.rows, strict=True))
        lists = {"feature": feature, "label": label, "value": value, "source": source}
        made.extend("shown", len(feature), lists, round=number, order=order, verb=verb)


def _arguments(text: str) -> list[str]:
    """The arguments of a call that is no search, out of Python's repr of them. Raises ValueError if it is none."""
    found = _ARGUMENTS.fullmatch(text)
    if found is None:
        raise ValueError(f"arguments {text[:60]!r} of a call are neither None, a feature, nor (feature, strength)")
    return [part for part in found.groups() if part is not None]


def _values(verb: str, given: Sequence[str]) -> Row:
    if verb == "search":
        return {"query": given[0]}
    values: Row = {"feature": int(given[0])} if given and len(given[0]) <= MOST_DIGITS else {}
    if len(given) > 1:
        values["strength"] = float(given[1])
    return values


def _moved(state: tuple[list[Row], list[Row]], verb: str, values: Row) -> tuple[list[Row], list[Row]]:
    """What is in force after a call that was carried out: a new strength goes last, as the runner kept it."""
    own, outside = state
    if verb == "clear":
        return [], []
    if verb not in ("steer", "remove") or "feature" not in values:
        return state
    own = [i for i in own if i["feature"] != values["feature"]]
    if verb == "steer":
        return [*own, _held(values["feature"], values["strength"], "self")], outside
    return own, [i for i in outside if i["feature"] != values["feature"]]


# ---------------------------------------------------------------------- interventions


def _held(feature: int, strength: float, source: str, mode: str = "add") -> Row:
    if type(feature) is not int or type(strength) not in (int, float):
        raise TypeError(f"an intervention is a feature and a strength, not {feature!r:.40} and {strength!r:.40}")
    return {"feature": feature, "strength": strength, "mode": mode, "source": source}


def _state(recorded: Sequence[Row], source: str) -> list[Row]:
    return [_held(i["index_in_sae"], i["strength"], source, i["mode"]) for i in recorded]


def _during(
    recorded: Sequence[Row], after: tuple[list[Row], list[Row]], outside: list[Row], made: Rollout
) -> tuple[list[Row], list[Row]]:
    """What was in force, told apart by source: the model's own come first, as the round before left them."""
    own = after[0]
    if _plain((_state(recorded[: len(own)], "self"),)) == _plain((own,)):
        rest = _state(recorded[len(own) :], "external")
        if all(_plain(([i],))[0] in _plain((outside,)) for i in rest):
            return own, rest
    made.left_out["rounds under steering that nothing before them explains (taken as external)"] += 1
    return [], _state(recorded, "external")


def _plain(state: Any) -> list[tuple[Any, ...]]:
    return [(i["feature"], i["strength"], i["mode"], i["source"]) for part in state for i in _rows(part)]


def _rows(part: Any) -> list[Row]:
    return [part] if isinstance(part, dict) else list(part)


def _check_messages(made: Rollout, said: Mapping[str, Any]) -> None:
    """`full_messages` should be the turns again; where it is not, the transcript counts and the file is counted."""
    messages = said.get("full_messages")
    if messages is None:
        return
    spoken = [m["content"] for m in messages if m["role"] == "assistant"]
    heard = [m["content"] for m in messages if m["role"] == "user"]
    turns = made.of("rounds", "turn")
    if spoken != made.of("rounds", "response") or heard[: len(turns)] != turns:
        made.left_out["files whose full_messages differ from their transcript (the transcript counts)"] += 1
