"""Inspect .eval logs with planted content, of the schema that Inspect 0.3 writes: a zip of zstd members.

Knows no real transcript. Every number that a test expects was put here by hand.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

Take = tuple[str, float, int, bool]
"""name, dose, turn from 0, rejected: as an extract has it."""
NOTHING: Mapping[str, Any] = {}
FILLER = "and then a little more of it, quietly, for as long as it takes to say so. "


def write_log(
    path: Path,
    samples: Sequence[Mapping[str, Any]],
    task: str = "sums",
    args: Mapping[str, Any] = NOTHING,
    model: str = "vllm/Qwen/Qwen3-8B",
    status: str | None = "success",
    created: str = "2026-01-01T00:00:00+00:00",
    task_id: str = "t0",
) -> Path:
    """One log. status None: the log was cut off before it had a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    spec: dict[str, Any] = {
        "eval_id": f"{path.parent.name}/{path.stem}",
        "run_id": "r0",
        "created": created,
        "task": task,
        "task_id": task_id,
        "task_version": 0,
    }
    spec |= {"task_args": dict(args), "model": model, "dataset": {"samples": len(samples)}, "config": {}}
    members: dict[str, Any] = {"_journal/start.json": {"version": 2, "eval": spec, "plan": {}}}
    for at, sample in enumerate(samples):
        messages = [{"id": f"{path.stem}.{at}.{i}", **m} for i, m in enumerate(sample["messages"])]
        whole = {**sample, "messages": messages, "uuid": f"{spec['eval_id']}.{at}"}
        members[f"samples/{sample['id']}_epoch_{sample['epoch']}.json"] = whole
    if status is not None:
        kept = ("id", "uuid", "epoch", "input", "target", "metadata", "scores")
        members["summaries.json"] = [{k: m[k] for k in kept} for n, m in members.items() if n.startswith("samples/")]
        members["header.json"] = {"version": 2, "status": status, "eval": spec, "plan": {}, "results": {}}
    write_zip(path, {name: json.dumps(value).encode() for name, value in members.items()})
    return path


def write_zip(path: Path, members: Mapping[str, bytes], method: int = 93) -> None:
    """A zip whose members are zstd frames, which Python 3.11's zipfile cannot write (or stored, method 0)."""
    body, directory = bytearray(), bytearray()
    for name, content in members.items():
        packed = pa.Codec("zstd").compress(content, asbytes=True) if method == 93 else content
        label, at = name.encode(), len(body)
        facts = struct.pack("<HHHHHIIIHH", 63, 0, method, 0, 33, zlib.crc32(content), len(packed), len(content),
                            len(label), 0)  # fmt: skip
        body += b"PK\x03\x04" + facts + label + packed
        directory += b"PK\x01\x02" + struct.pack("<H", 63) + facts + struct.pack("<HHHII", 0, 0, 0, 0, at) + label
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    path.write_bytes(bytes(body + directory + b"PK\x05\x06" + end))


def sample(
    number: str | int,
    messages: Sequence[Mapping[str, Any]] = (),
    store: Mapping[str, Any] = NOTHING,
    scores: Mapping[str, tuple[Any, Mapping[str, Any]]] = NOTHING,
    events: Sequence[Mapping[str, Any]] = (),
    metadata: Mapping[str, Any] = NOTHING,
    epoch: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """A member of samples/, its keys in Inspect's order."""
    graded = {n: {"value": v, "answer": None, "metadata": dict(m), "history": []} for n, (v, m) in scores.items()}
    made = {"id": number, "epoch": epoch, "input": "Hello.", "target": "", "messages": list(messages), "output": {}}
    made |= {"scores": graded, "metadata": dict(metadata), "store": dict(store), "events": list(events)}
    return {**made, "model_usage": {}, "attachments": {}, **more}


def says(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def calls(text: str, *made: tuple[str, str, Any]) -> dict[str, Any]:
    """An assistant's message with tool calls: (id, function, arguments)."""
    listed = [{"id": i, "function": f, "arguments": a, "type": "function"} for i, f, a in made]
    return says("assistant", text, tool_calls=listed, source="generate")


def answer(to: str, text: str, error: Mapping[str, str] | None = None) -> dict[str, Any]:
    return says("tool", text, tool_call_id=to, error=error)


def model_call(
    max_tokens: int, text: str, tops: Sequence[tuple[str, float]] | None = None, ids: Sequence[int] = ()
) -> dict[str, Any]:
    """An event: one call of the model, with the likeliest tokens of its first where they were asked for."""
    choice: dict[str, Any] = {"message": says("assistant", text), "stop_reason": "stop"}
    if tops is not None:
        listed = [{"token": t, "logprob": lp} for t, lp in tops]
        choice["logprobs"] = {"content": [{"token": "A", "logprob": -1.0, "top_logprobs": listed}]}
    made = {"event": "model", "timestamp": "2026-01-01T00:00:00+00:00", "working_start": 0.0, "model": "m"}
    made |= {"input": [], "tools": [], "tool_choice": "auto", "config": {"max_tokens": max_tokens}}
    return {**made, "output": {"model": "m", "choices": [choice], "metadata": {"prompt_token_ids": list(ids)}}}


def conversation(takes: Sequence[Take], noun: str, turns: int, filler: int = 0) -> list[dict[str, Any]]:
    """A system prompt, then `turns` assistant messages with the takes of their turn, answered."""
    messages = [says("system", "There is no task."), says("user", "Hello.")]
    for turn in range(turns):
        mine = [(f"c{turn}.{i}", *t) for i, t in enumerate(takes) if t[2] == turn]
        made = [(i, f"take_{noun}", {"name": name, "dose": dose}) for i, name, dose, _, _ in mine]
        messages.append(calls(f"Turn {turn}. {FILLER * filler}", *made))
        messages += [answer(i, f"error: no {name}" if bad else f"took {name}") for i, name, _, _, bad in mine]
        if not mine:
            messages.append(says("user", "Go on."))
    return messages


def free_play(
    number: int, framing: str, takes: Sequence[Take], told: Sequence[int] = (), turns: int = 15, filler: int = 0
) -> dict[str, Any]:
    """A rollout of the study's free play; told: turns after which the trip sitter spoke, the second time to end it."""
    history = [
        {"turn": turn, "tool": "take_drug", "args": {"name": name, "dose": dose},
         "result_summary": f"error: no {name}" if bad else f"took {name}", "ts": 0.0}
        for name, dose, turn, bad in takes
    ]  # fmt: skip
    verdicts = [
        {"turn": t, "verdict": "YES", "action": "end" if i else "clear", "reason": "repeats"}
        for i, t in enumerate(told)
    ]
    store = {"DrugState:history": history, "DrugState:trip_sitter_verdicts": verdicts}
    store["DrugState:early_stopped"] = len(told) > 1
    store["DrugState:projections"] = [[0.01 * i for i in range(40)] for _ in range(filler)]
    scores = {"history_logger": (len(history), NOTHING), "lost_in_drugs_judge": (0.0, NOTHING)}
    messages = conversation(takes, framing.removesuffix("s"), turns, filler)
    events = [model_call(2048, FILLER * filler)] * turns
    return sample(f"private-{framing}-{number}", messages, store, scores, events, {"framing": framing})


def quiz(
    vector: str,
    dose: float,
    number: int,
    correct: str,
    pool: Sequence[str],
    stored: tuple[float | None, float | None],
    lists: Sequence[Sequence[tuple[str, float]]],
    filler: int = 0,
) -> dict[str, Any]:
    """A sample of the study's quiz; lists: likeliest tokens of the two one-token calls, in the order of the log."""
    store = {"DrugState:logprob_correct_letter": correct, "DrugState:logprob_letter_pool": list(pool)}
    store["DrugState:history"] = []
    names = ("logprob_cached_score", "logprob_uncached_score")
    scores = {name: (value, NOTHING) for name, value in zip(names, stored, strict=True)}
    scores["kv_cleared_score"] = (0.3, {"uncached_present": True})
    events = [model_call(2048, FILLER * filler), *(model_call(1, "A", tops) for tops in lists)]
    messages = [says("system", "You are under d1."), says("user", "Which letter?"), says("assistant", FILLER * filler)]
    return sample(f"calib-{vector}-d{dose:.2f}-real-{number}", messages, store, scores, events)


def solved(condition: str, number: int, correct: int, attempted: int, takes: Sequence[Take] = ()) -> dict[str, Any]:
    """A rollout of five problems."""
    facts = {"n_total": 5, "n_attempted": attempted, "n_correct": correct, "per_problem": [{"ok": True}]}
    noun = condition.partition("_")[0].removesuffix("s")
    scores = {"gsm8k_accuracy": (correct / 5, facts)}
    return sample(f"gsm8k-{condition}-{number}", conversation(takes, noun, 3), {}, scores)


def frustrated(condition: str, number: int, judged: float, takes: Sequence[Take] = ()) -> dict[str, Any]:
    """A rollout with a user who rejects every answer; the study kept no history of takes here."""
    noun = condition.partition("_")[0].removesuffix("s")
    store = {"FrustrationState:round": 4}
    scores = {"frustration_judge": (judged, NOTHING)}
    return sample(f"frust-{condition}-{number}", conversation(takes, noun, 5), store, scores)
