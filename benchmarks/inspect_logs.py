"""Inspect .eval logs in: seconds and peak memory of `selfsteer import` beside inspect_ai's dataframes on the same logs.

The logs have the families, counts and sizes of the self-medication study's and no content of it. inspect_ai has
other requirements than this project: it runs in a Python of its own (`make .venv-inspect/ready`), given by --peer, as
`make bench` does where there is one; without one its rows are left out.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.importing import IMPORT, LOAD, Row, measured, store
from tests.analysis.importers.synthetic_inspect import (
    free_play,
    frustrated,
    model_call,
    quiz,
    sample,
    solved,
    write_log,
)

NAMES = ["creative", "focused", "curious", "amused", "anxious", "calm", "lsd", "spice", "proud", "mdma"]
PEER_SAMPLES = """
import sys; from inspect_ai.analysis import SampleColumn, samples_df
columns = [SampleColumn("id", path="id"), SampleColumn("takes", path='store["DrugState:history"]', full=True)]
print(len(samples_df(sys.argv[1], columns=columns, strict=False, quiet=True)[0]), "samples")
"""
PEER_MESSAGES = """
import sys; from inspect_ai.analysis import messages_df
print(len(messages_df(sys.argv[1], strict=False, quiet=True)[0]), "messages")
"""
PEER_SUMMARIES = """
import sys; from inspect_ai.analysis import samples_df
print(len(samples_df(sys.argv[1], strict=False, quiet=True)[0]), "samples, of their summaries alone")
"""
Cell = tuple[str, str, dict[str, Any], int, int, float, Callable[[int], dict[str, Any]]]


def cells(size: str) -> list[Cell]:
    """folder, task, arguments, samples, failed attempts, MB per log, how a sample is made: all logs of one model."""
    found: list[Cell] = []
    for framing in ("drugs", "aids", "vectors"):
        for arm in ("real", "placebo"):
            args = {"framing": framing, "steering_mode_runtime": arm}
            plan = [(NAMES[i % 10], 1.0, i, False) for i in range(6)]
            task = f"fp_{arm}_{framing}"
            found.append(("freeplay", task, args, 60, 0, 2.1, lambda i, f=framing, p=plan: free_play(i, f, p)))
    for v in range(40):
        vector = NAMES[v] if v < len(NAMES) else f"state_{v}"
        for primer in (True, False):
            for dose in (1, 2, 3):
                args = {"drug": vector, "dose": float(dose), "introspection_primer": primer}
                args |= {"steering_mode_runtime": "real", "enable_thinking": True}
                tops = [[(" A", -1.0), ("\tA", -9.0), (" B", -2.0)], [(" C", -1.0)]]
                task = f"calib_{vector}_d{dose}_00"
                made = lambda i, v=vector, d=dose, t=tops: quiz(v, d, i, "B", NAMES, (0.1, 0.2), t)  # noqa: E731
                found.append(("calib", task, args, 10, 0, 0.235, made))
            for arm in ("kv_cached", "placebo"):
                args = {"introspection_primer": primer, "steering_mode_runtime": "real" if arm[0] == "k" else "placebo"}
                task = f"guess_{arm}_{'' if primer else 'no'}primer_{vector}"
                failed = int(size == "32b" and v % 8 != 0) + int(size == "32b" and v % 3 == 0)
                scores = {"guess_accuracy_scorer": (0.5, {}), "kv_cleared_score": (0.0, {"uncached_present": False})}
                found.append(("guess", task, args, 5, failed, 0.1, lambda i, s=scores: sample(f"guess-{i}", scores=s)))
    for condition in ("no_drugs", *(f"{f}_{i}" for f in ("drugs", "aids", "vectors") for i in INTENTS)):
        args = {"condition": condition}
        one = lambda i, c=condition: solved(c, i, 4, 5)  # noqa: E731
        found.append(("gsm8k", f"gsm8k_{condition}", args, 50, int(size == "32b" and condition < "e"), 1.28, one))
        for tone in ("neutral", "aggressive", "disappointed", "sarcastic"):
            for impossible in (True, False):
                if condition == "no_drugs" and impossible:
                    continue
                args = {"drug_condition": condition, "rejection_tone": tone, "use_impossible": impossible}
                task = f"frust_{condition}_{tone}{'_impossible' if impossible else ''}"
                user = lambda i, c=condition: frustrated(c, i, 3.0, [("focused", 1.0, 1, False)])  # noqa: E731
                found.append(("frust", task, args, 25, int(size == "32b" and tone == "neutral"), 0.33, user))
    for n in range(12):
        args = {"condition": f"drugs_{n}"}
        found.append(("ctf", f"ctf_{n}", args, 25, 2 * int(size == "32b"), 0.45, lambda i: sample(f"ctf-{i}")))
    return found


INTENTS = ("neutral", "helpful", "mandatory")


class Prose:
    """Text that compresses like a log's: words of a fixed list, drawn anew; numbers of tokens; one seed."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        letters = "etaoinshrdlucmfwypvbgk"
        self.words = ["".join(self.random.choices(letters, k=self.random.randint(2, 9))) for _ in range(4000)]

    def fill(self, made: dict[str, Any], size: int) -> dict[str, Any]:
        """The sample with messages, projections and events of about `size` bytes packed (a third of them text)."""
        words = max(1, size // 20)
        share = max(1, words // max(1, len(made["messages"])))
        for message in made["messages"]:
            message["content"] += " ".join(self.random.choices(self.words, k=share))
        made["store"]["DrugState:projections"] = [round(self.random.gauss(0, 0.1), 6) for _ in range(size // 20)]
        tokens = [self.random.randrange(150_000) for _ in range(size // 12)]
        text = " ".join(self.random.choices(self.words, k=words // 2))
        for i, message in enumerate(made["messages"]):
            message["id"] = f"{self.random.getrandbits(64)}.{i}"
        for k in range(1, 5):  # each call logs the messages that it was given again, as Inspect's do
            event = model_call(2048, text, ids=tokens[: len(tokens) * k // 4])
            made["events"].append({**event, "input": made["messages"][: len(made["messages"]) * k // 4]})
        return made


def write(folder: Path, logs: int, megabytes: float) -> tuple[int, float]:
    """Logs of both models, at most `logs`, scaled to `megabytes` in all. Returns how many, and how many MB they are."""
    prose, planned = Prose(), [(size, cell) for size in ("8b", "32b") for cell in cells(size)]
    step = max(1, round(sum(1 + c[4] for _, c in planned) / logs))
    planned = planned[::step]
    whole = sum(c[5] * (1 + 0.2 * c[4]) for _, c in planned)
    total, count = 0, 0
    for size, (family, task, args, samples, failed, share, make) in planned:
        for attempt in range(1 + failed):
            wanted = 1e6 * megabytes * share / whole / samples * (1.0 if attempt == failed else 0.2)
            made = [prose.fill(make(i), int(wanted)) for i in range(samples)]
            status = "success" if attempt == failed else "error"
            path = folder / size / family / f"{task}_{args.get('introspection_primer')}_{attempt}.eval"
            write_log(path, made, task, args, f"vllm/Qwen/Qwen3-{size.upper()}", status, f"2026-01-{attempt + 1:02d}")
            total, count = total + path.stat().st_size, count + 1
    return count, total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=1254)
    parser.add_argument("--mb", type=float, default=261.0)
    parser.add_argument("--peer", type=Path, help="a Python with inspect_ai, pandas and pyarrow")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        logs, out = Path(name) / "logs", Path(name) / "out"
        count, written = write(logs, options.logs, options.mb)
        work = f"{count} logs, {written:.0f} MB"
        found = measured(IMPORT, str(logs), str(out))
        rows.append({"row": "selfsteer import, Inspect logs", **found, "target": "<= 90 s", "work": work})
        rows.append({"row": "load() with every table", **measured(LOAD, "", str(out)), "target": "", "work": work})
        if options.peer:
            version = "import inspect_ai; print(inspect_ai.__version__)"
            done = subprocess.run([options.peer, "-c", version], capture_output=True, text=True, check=True)
            for what, code in (("summaries", PEER_SUMMARIES), ("messages", PEER_MESSAGES), ("store", PEER_SAMPLES)):
                took = measured(code, str(logs), python=str(options.peer))
                row = f"inspect_ai {done.stdout.strip()}: {what}"
                rows.append({"row": row, **took, "target": "", "work": work})
        else:
            print("inspect_ai was not measured: give --peer a Python that has it", file=sys.stderr)
    store(rows)


if __name__ == "__main__":
    main()
