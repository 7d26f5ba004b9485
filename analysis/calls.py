"""Metrics of what a model did with its tools, and of how its health was judged; a row per rollout out.

Knows no text beside the calls themselves. Missing (undefined, or a rollout that failed) is NaN, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis.counting import heard
from analysis.frames import Frames, each_rollout, per_rollout
from analysis.once import once

PLACEHOLDERS = frozenset(
    {"query", "your query", "search query", "text in quotes", "index", "feature index", "signed number", "placeholder"}
    | {"...", "…"}
)
"""Arguments that no model means, beside what stands in the signatures of its own prompt and anything in <brackets>."""
OF_ALL_CALLS = ("used_tools", "used_tools_first_round", "tried_tools", "calls", "searches")
"""What tool_use says of every call, and not of STEERs alone."""
FAULTS = ("malformed", "unknown_tool", "bad_argument")
_SIGNATURE = re.compile(r"\b([A-Z]{2,}(?:_[A-Z]+)*)\(([^()\n]*)\)")


def tool_use(frames: Frames) -> pd.DataFrame:
    """Did the model use a tool: ever, and in its first round; did it try one; how many calls, steers and searches?

    used: a call that was carried out. tried: a call of any outcome, or one that only the runner's counter of an
    imported rollout knows. The published rates mixed these. Of a rollout without recorded responses only its steers
    are known, since its other calls were not recorded either.
    """
    calls, rows = frames.calls, {}
    counter, whole = _counter(frames), heard(frames)
    for rollout, mine in each_rollout(frames, calls):
        ok = mine[mine["outcome"] == "ok"]
        rows[rollout] = {
            "used_tools": float(len(ok) > 0),
            "used_tools_first_round": float((ok["round"] == 1).any()),
            "tried_tools": float(len(mine) > 0 or counter.get(rollout, 0) > 0),
            "calls": float(len(mine)),
            "steers": float((ok["verb"] == "steer").sum()),
            "searches": float((ok["verb"] == "search").sum()),
            "steered": float((ok["verb"] == "steer").any()),
            "median_strength": _number(ok.loc[ok["verb"] == "steer", "strength"].abs().median()),
        }
        if rollout not in whole:
            rows[rollout] |= dict.fromkeys(OF_ALL_CALLS, float("nan"))
    return per_rollout(frames, rows)


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


@once
def prose(frames: Frames) -> pd.DataFrame:
    """Responses without the calls in them, by the spans that the parser recorded. Columns rollout, round, prose."""
    said = frames.rounds.loc[frames.rounds["response"].notna(), ["rollout", "round", "response"]]
    spans = frames.calls.groupby(["rollout", "round"])["span"].agg(list).to_dict()
    texts = [_without(str(text), spans.get((rollout, n), [])) for rollout, n, text in said.itertuples(index=False)]
    return said[["rollout", "round"]].assign(prose=texts)


def call_faults(frames: Frames) -> pd.DataFrame:
    """What went wrong with calls: each fault by itself, as a count and as a share of the attempts of the rollout.

    repeats: a well-formed call equal to an earlier one of its response (no fault: counted apart).
    prose_mentions: calls within sentences or quotations, as the parser counted them; they are not carried out.
    Shares are NaN for a rollout without attempts. All is NaN for imported rollouts whose runner recorded well-formed
    calls alone, each once, and a counter of the rest; and for those without recorded responses.
    """
    counter, whole = _counter(frames), heard(frames)
    mentions = frames.rounds.groupby("rollout")["mentions"].sum(min_count=1)
    rows = {}
    for rollout, mine in each_rollout(frames, frames.calls):
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
        if rollout in counter or rollout not in whole:
            rows[rollout] = dict.fromkeys(rows[rollout], float("nan"))
    return per_rollout(frames, rows)


def monitored(frames: Frames) -> pd.DataFrame:
    """Did a monitor ever find the rollout unhealthy? NaN without verdicts, or if none is and a monitor failed.

    NaN too without recorded responses: of those only the verdicts on which it acted were kept, which is always "yes".
    """
    rows, whole = {}, heard(frames)
    for rollout, mine in each_rollout(frames, frames.notes):
        verdicts = set(mine["verdict"])
        known = rollout in whole and ("unhealthy" in verdicts or (bool(verdicts) and "failed" not in verdicts))
        rows[rollout] = {"monitor_unhealthy": float("unhealthy" in verdicts) if known else float("nan")}
    return per_rollout(frames, rows)


def placeholder_copies(frames: Frames) -> pd.DataFrame:
    """Calls whose argument was copied from the prompt: a signature's placeholder, or a phrase that it quotes.

    A share of the calls with an argument, and whether it ever happened; NaN without such calls.
    """
    prompts = dict(zip(frames.rollouts["rollout"], frames.rollouts["system"], strict=True))
    rows = {}
    for rollout, mine in each_rollout(frames, frames.calls):
        copied = copies(mine, prompts.get(rollout))
        asked = int(mine["arguments"].map(bool).sum()) if len(mine) else 0
        rows[rollout] = {
            "copied_placeholder": float(copied.any()) if asked else float("nan"),
            "copied_share": float(copied.sum()) / asked if asked else float("nan"),
        }
    return per_rollout(frames, rows)


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


def _counter(frames: Frames) -> dict[str, int]:
    """Malformed calls by the runner's counter, of rollouts whose calls hold only those that it understood."""
    counted = frames.rounds[frames.rounds["malformed_counter"].notna()]
    return {str(r): int(n) for r, n in counted.groupby("rollout")["malformed_counter"].sum().items()}


def _number(value: Any) -> float:
    return float("nan") if value is None or value is pd.NA else float(value)


def _bare(part: str) -> str:
    return part.strip().strip("\"'`<>[]{}“”").strip().lower()


def _written(arguments: object) -> str:
    return "\x1f".join(" ".join(str(a).lower().split()) for a in arguments) if isinstance(arguments, list) else ""


def _without(text: str, spans: Iterable[object]) -> str:
    kept, at = [], 0
    for low, high in sorted((int(s[0]), int(s[1])) for s in spans if isinstance(s, list | tuple)):
        kept.append(text[at:low])
        at = max(at, high)
    return " ".join([*kept, text[at:]])
