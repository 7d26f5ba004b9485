"""One number per rollout each, from its texts and its calls: frames in, a frame indexed by rollout out.

Knows no interval and no condition: summary.py compares. METRICS names each number with its version and meaning;
a definition that changes gets another version. Missing (undefined, or a rollout that failed) is NaN, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis import provenance, text
from analysis.frames import Frames

ALIKE = 0.8
"""Two texts more alike than this count as repeated, in the published definition and in difflib's."""
LOOPS = 0.5
"""A response loops if its longest repeated run of words is more than this share of it, and it has LOOP_WORDS."""
LOOP_WORDS = 20
SHORTEST = 20
"""Characters below which the published definition calls no pair of responses alike."""
PLACEHOLDERS = frozenset(
    {"query", "your query", "search query", "text in quotes", "index", "feature index", "signed number", "placeholder"}
    | {"...", "…"}
)
"""Arguments that no model means, beside what stands in the signatures of its own prompt and anything in <brackets>."""
FAULTS = ("malformed", "unknown_tool", "bad_argument")
_SIGNATURE = re.compile(r"\b([A-Z]{2,}(?:_[A-Z]+)*)\(([^()\n]*)\)")


@dataclass(frozen=True)
class Metric:
    """A number that can be computed for a rollout. kind: a yes/no, whose mean is a rate; a
    share between 0 and 1; or a number of at least 0."""

    name: str
    version: int
    kind: Literal["rate", "share", "number"]
    meaning: str
    measure: Callable[[Frames], pd.DataFrame]

    @property
    def identifier(self) -> str:
        return f"{self.name}@{self.version}"

    def values(self, frames: Frames) -> pd.Series[float]:
        """One float per rollout of `frames.rollouts`, in its order; NaN where it is missing."""
        return measured(frames, [self.name])[self.name]


def measured(frames: Frames, names: Iterable[str]) -> pd.DataFrame:
    """One column per metric, one row per rollout; metrics of one family are computed together."""
    wanted = [METRICS[name] for name in names]
    families = {measure: measure(frames) for measure in {m.measure for m in wanted}}
    columns = {m.name: families[m.measure].get(m.name) for m in wanted}  # no rollouts, no columns
    return pd.DataFrame(columns, index=pd.Index(frames.rollouts["rollout"], name="rollout")).astype("float64")


def degeneration(frames: Frames) -> pd.DataFrame:
    """Has the rollout ended in repetition? Five definitions; NaN with too few responses to ask.

    same_index is the published one. Rankings of conditions depend on the definition: show more than one.
    """
    rows = {}
    for rollout, responses in _responses(frames).items():
        last, pair = responses[-1:], responses[-2:]
        row = dict.fromkeys(("same_index", "difflib", "equal", "last_five", "loop"), float("nan"))
        if last:
            row["loop"] = float(len(text.words(last[0])) >= LOOP_WORDS and text.repeated_share(last[0]) > LOOPS)
        if len(pair) == 2:
            before, final = pair
            long_enough = min(len(before), len(final)) >= SHORTEST
            row["same_index"] = float(long_enough and text.same_index_share(before, final) > ALIKE)
            row["difflib"] = float(text.ratio_above(final, before, ALIKE))
            row["equal"] = float(bool(final) and before == final)
            row["last_five"] = _last_five(responses[-5:])
        rows[rollout] = {f"degenerate_{k}": v for k, v in row.items()}
    return _per_rollout(frames, rows)


def tool_use(frames: Frames) -> pd.DataFrame:
    """Did the model use a tool: ever, and in its first round; did it try one; how many calls, steers and searches?

    used: a call that was carried out. tried: a call of any outcome. The published rates mixed these.
    """
    calls, rows = frames.calls, {}
    for rollout, mine in _each(frames, calls):
        ok = mine[mine["outcome"] == "ok"]
        rows[rollout] = {
            "used_tools": float(len(ok) > 0),
            "used_tools_first_round": float((ok["round"] == 1).any()),
            "tried_tools": float(len(mine) > 0),
            "calls": float(len(mine)),
            "steers": float((ok["verb"] == "steer").sum()),
            "searches": float((ok["verb"] == "search").sum()),
            "steered": float((ok["verb"] == "steer").any()),
            "median_strength": _number(ok.loc[ok["verb"] == "steer", "strength"].abs().median()),
        }
    return _per_rollout(frames, rows)


def calls_by_round(frames: Frames) -> pd.DataFrame:
    """Per round with a response: calls written (`tried`) and carried out (`calls`), of the rollouts that count.

    Columns rollout, round, tried, calls. A round without a call has 0: it was seen to have none.
    """
    rounds = frames.rounds[frames.rounds["response"].notna() & frames.rounds["rollout"].isin(frames.counted)]
    keys = ["rollout", "round"]
    tried = frames.calls.groupby(keys).size().rename("tried").reset_index()
    ok = frames.calls[frames.calls["outcome"] == "ok"].groupby(keys).size().rename("calls").reset_index()
    made = rounds[keys].merge(tried, how="left", on=keys).merge(ok, how="left", on=keys)
    return made.fillna({"tried": 0, "calls": 0}).astype({"tried": "float64", "calls": "float64"})


def call_faults(frames: Frames) -> pd.DataFrame:
    """What went wrong with calls: each fault by itself, as a count and as a share of the attempts of the rollout.

    repeats: a well-formed call equal to an earlier one of its response (no fault: counted apart).
    prose_mentions: calls within sentences or quotations, as the parser counted them; they are not carried out.
    Shares are NaN for a rollout without attempts.
    """
    mentions = frames.rounds.groupby("rollout")["mentions"].sum(min_count=1)
    rows = {}
    for rollout, mine in _each(frames, frames.calls):
        outcome, attempts = mine["outcome"], len(mine)
        written = mine.assign(arguments=mine["arguments"].map(_written))
        formed = written[~outcome.isin(["malformed", "unknown_tool"])]
        faults = {f"{kind}_calls": float((outcome == kind).sum()) for kind in FAULTS}
        rows[rollout] = {
            **faults,
            "malformed_share": faults["malformed_calls"] / attempts if attempts else float("nan"),
            "repeats": float(formed.duplicated(["round", "verb", "arguments"]).sum()),
            "prose_mentions": _number(mentions.get(rollout)),
        }
    return _per_rollout(frames, rows)


def monitored(frames: Frames) -> pd.DataFrame:
    """Did a monitor ever find the rollout unhealthy? NaN without verdicts, or if none is and a monitor failed."""
    rows = {}
    for rollout, mine in _each(frames, frames.notes):
        verdicts = set(mine["verdict"])
        known = "unhealthy" in verdicts or (bool(verdicts) and "failed" not in verdicts)
        rows[rollout] = {"monitor_unhealthy": float("unhealthy" in verdicts) if known else float("nan")}
    return _per_rollout(frames, rows)


def placeholder_copies(frames: Frames) -> pd.DataFrame:
    """Calls whose argument was copied from the prompt: a signature's placeholder, or a phrase that it quotes.

    A share of the calls with an argument, and whether it ever happened; NaN without such calls.
    """
    prompts = dict(zip(frames.rollouts["rollout"], frames.rollouts["system"], strict=True))
    rows = {}
    for rollout, mine in _each(frames, frames.calls):
        copied = copies(mine, prompts.get(rollout))
        asked = int(mine["arguments"].map(bool).sum()) if len(mine) else 0
        rows[rollout] = {
            "copied_placeholder": float(copied.any()) if asked else float("nan"),
            "copied_share": float(copied.sum()) / asked if asked else float("nan"),
        }
    return _per_rollout(frames, rows)


def pronouns(frames: Frames, of: Literal["whole", "prose"] = "whole") -> pd.DataFrame:
    """First-person (I my me mine myself) and second-person (you your yours yourself) words per 1,000 words.

    whole: all of a response, as published; prose: without its tool calls. NaN for a rollout without words.
    """
    texts = _responses(frames) if of == "whole" else _prose(frames)
    rows = {}
    for rollout, responses in texts.items():
        total = sum(len(text.words(t)) for t in responses)
        first = sum(len(text.FIRST_PERSON.findall(t)) for t in responses)
        second = sum(len(text.SECOND_PERSON.findall(t)) for t in responses)
        rows[rollout] = {
            "first_person": 1000 * first / total if total else float("nan"),
            "second_person": 1000 * second / total if total else float("nan"),
        }
    return _per_rollout(frames, rows)


def vocabulary(frames: Frames) -> pd.DataFrame:
    """Per round: words, distinct words per word (and averaged over 50-word windows), the longest repeated run's share.

    Indexed by rollout and round: the one metric here that is not one number per rollout.
    """
    rounds = frames.rounds[frames.rounds["response"].notna()]
    rows = []
    for rollout, number, response in rounds[["rollout", "round", "response"]].itertuples(index=False):
        tokens = text.words(response)
        rows.append(
            {
                "rollout": rollout,
                "round": number,
                "words": float(len(tokens)),
                "type_token_ratio": len(set(tokens)) / len(tokens) if tokens else float("nan"),
                "moving_ttr": text.moving_ttr(tokens),
                "repeated_share": text.repeated_share(response) if tokens else float("nan"),
            }
        )
    columns = ["rollout", "round", "words", "type_token_ratio", "moving_ttr", "repeated_share"]
    return pd.DataFrame(rows, columns=columns).set_index(["rollout", "round"])


def length(frames: Frames) -> pd.DataFrame:
    """Mean words per response, mean windowed vocabulary richness, and the share of responses cut off at the limit."""
    by_round = vocabulary(frames).groupby(level="rollout")
    why = frames.rounds[frames.rounds["response"].notna()]
    made = pd.DataFrame(
        {
            "words_per_response": by_round["words"].mean(),
            "vocabulary": by_round["moving_ttr"].mean(),
            "cut_off_share": (why["why"] == "length").astype(float).groupby(why["rollout"]).mean(),
        }
    )
    return _per_rollout(frames, made.to_dict("index"))


def copies(calls: pd.DataFrame, prompt: object) -> pd.Series[bool]:
    """Which calls have an argument that stands in the prompt as a placeholder or in quotation marks."""
    known = set(PLACEHOLDERS)
    if isinstance(prompt, str):
        known |= {_bare(part) for _, inside in _SIGNATURE.findall(prompt) for part in inside.split(",")}
        known |= {_bare(quoted) for quoted in re.findall(r"[\"“]([^\"”\n]{3,80})[\"”]", prompt)}
    known.discard("")
    found = [
        any(
            _bare(str(part)) in known or re.fullmatch(r"<[^<>]+>", str(part).strip()) is not None
            for part in parts or ()
        )
        for parts in calls["arguments"]
    ]
    return pd.Series(found, index=calls.index, dtype=bool)


def _last_five(responses: Sequence[str]) -> float:
    """At least two of the adjacent pairs alike over the longer one, as published; NaN with under three responses."""
    if len(responses) < 3:
        return float("nan")
    pairs = pairwise(responses)
    return float(sum(text.same_index_share(a, b, "longer") >= 0.85 for a, b in pairs) >= 2)


def _responses(frames: Frames) -> dict[str, list[str]]:
    rounds = frames.rounds[frames.rounds["response"].notna()].sort_values(["rollout", "round"])
    found = rounds.groupby("rollout", sort=False)["response"].apply(list).to_dict()
    return {rollout: found.get(rollout, []) for rollout in frames.rollouts["rollout"]}


def _prose(frames: Frames) -> dict[str, list[str]]:
    """The responses with every call cut out of them."""
    spans = {
        (rollout, number): sorted((int(a), int(b)) for a, b in group.dropna())
        for (rollout, number), group in frames.calls.groupby(["rollout", "round"])["span"]
    }
    prose: dict[str, list[str]] = {rollout: [] for rollout in frames.rollouts["rollout"]}
    rounds = frames.rounds[frames.rounds["response"].notna()]
    for rollout, number, response in rounds[["rollout", "round", "response"]].itertuples(index=False):
        kept, at = [], 0
        for low, high in spans.get((rollout, number), ()):
            kept.append(response[at:low])
            at = max(at, high)
        prose[rollout].append(" ".join([*kept, response[at:]]))
    return prose


def _each(frames: Frames, table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(rollout, its rows) for every rollout, those without rows too."""
    groups = dict(iter(table.groupby("rollout", sort=False)))
    return [(rollout, groups.get(rollout, table.iloc[:0])) for rollout in frames.rollouts["rollout"]]


def _per_rollout(frames: Frames, rows: Mapping[Any, Mapping[Any, float]]) -> pd.DataFrame:
    """A frame with a row per rollout; those that failed are NaN throughout."""
    made: pd.DataFrame = pd.DataFrame.from_dict(dict(rows), orient="index")
    made = made.reindex(frames.rollouts["rollout"]).astype("float64").rename_axis("rollout")
    made[~made.index.isin(frames.counted)] = np.nan
    return made


def _number(value: Any) -> float:
    return float("nan") if value is None or value is pd.NA else float(value)


def _bare(part: str) -> str:
    return part.strip().strip("\"'`<>[]{}“”").strip().lower()


def _written(arguments: object) -> str:
    return "\x1f".join(" ".join(str(a).lower().split()) for a in arguments) if isinstance(arguments, list) else ""


def _provenance(frames: Frames) -> pd.DataFrame:
    return _per_rollout(frames, provenance.per_rollout(frames))


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("used_tools", 1, "rate", "a tool call was carried out", tool_use),
        Metric("used_tools_first_round", 1, "rate", "a tool call was carried out in round 1", tool_use),
        Metric("tried_tools", 1, "rate", "a tool call was written, whatever came of it", tool_use),
        Metric("steered", 1, "rate", "the model set at least one steering itself", tool_use),
        Metric("calls", 1, "number", "tool calls written", tool_use),
        Metric("steers", 1, "number", "STEER calls carried out: actions, not rounds in force", tool_use),
        Metric("median_strength", 1, "number", "median size of the strengths it set, sign left out", tool_use),
        Metric("searches", 1, "number", "SEARCH calls carried out", tool_use),
        Metric("degenerate_same_index", 1, "rate", "last two responses equal at over 80% of indexes", degeneration),
        Metric("degenerate_difflib", 1, "rate", "last two responses over 80% alike by difflib", degeneration),
        Metric("degenerate_equal", 1, "rate", "last two responses identical", degeneration),
        Metric("degenerate_last_five", 1, "rate", "two of the last four adjacent pairs alike", degeneration),
        Metric("degenerate_loop", 1, "rate", "last response: longest repeated run over half of it", degeneration),
        Metric("malformed_calls", 1, "number", "calls that could not be read", call_faults),
        Metric("unknown_tool_calls", 1, "number", "calls of a tool that does not exist", call_faults),
        Metric("bad_argument_calls", 1, "number", "well-formed calls with an impossible argument", call_faults),
        Metric("malformed_share", 1, "share", "malformed calls per call written", call_faults),
        Metric("repeats", 1, "number", "calls equal to an earlier one of the same response", call_faults),
        Metric("prose_mentions", 1, "number", "calls within sentences or quotations", call_faults),
        Metric("copied_placeholder", 1, "rate", "an argument was copied from the prompt", placeholder_copies),
        Metric("copied_share", 1, "share", "calls with an argument copied from the prompt", placeholder_copies),
        Metric("monitor_unhealthy", 1, "rate", "a monitor found a round unhealthy", monitored),
        Metric("first_person", 1, "number", "I, my, me, mine, myself per 1,000 words", pronouns),
        Metric("second_person", 1, "number", "you, your, yours, yourself per 1,000 words", pronouns),
        Metric("words_per_response", 1, "number", "words per response", length),
        Metric("vocabulary", 1, "share", "distinct words per word, 50-word windows", length),
        Metric("cut_off_share", 1, "share", "responses cut off at the token limit", length),
        Metric("portfolio_rounds", 1, "number", "sum over rounds of own features in force: state", _provenance),
        Metric("voided_steers", 1, "number", "STEERs undone by a later call of their response", _provenance),
        Metric("silently_voided_steers", 1, "number", "STEERs reported ok, not in force, never undone", _provenance),
        Metric("steers_from_search_share", 1, "share", "STEERs of a feature seen before only in SEARCH", _provenance),
    )
}
