"""Peak memory against rollouts, rounds and features; each point is a process of its own, read at its end.

    python -m benchmarks.memory               (make bench runs it)

A random Llama (4 layers, d_model 256), `rollouts` at once, 200 tokens of opening, 30 in and 40 out a round.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.run import Row, store

POINTS = (
    (8, 8, 16_384), (16, 8, 16_384), (32, 8, 16_384),
    (16, 4, 16_384), (16, 16, 16_384),
    (16, 8, 4_096), (16, 8, 65_536),
)  # fmt: skip


def alone(rollouts: int, rounds: int, features: int) -> None:
    """Do the work of one point in this process; print megabytes before it and at its peak, and of kept KV."""
    from benchmarks.contestants import ours
    from benchmarks.work import Work, random_llama
    from toolkit.engines.local import LocalEngine
    from toolkit.opening import open_dictionary

    with tempfile.TemporaryDirectory() as folder:
        random_llama(Path(folder), 256, 4, 1024, features=features)
        engine, dictionary = LocalEngine(folder, device="cpu"), open_dictionary(Path(folder) / "sae")
        engine.attach(dictionary)
        engine.tokenizer.stop_tokens = frozenset()  # type: ignore[misc]  # every response has its full length
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ours(engine, dictionary, Work(rollouts, rounds))
    print("MB", before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--point", type=int, nargs=3, metavar=("ROLLOUTS", "ROUNDS", "FEATURES"))
    options = parser.parse_args()
    os.environ.setdefault("SELFSTEER_CACHE", tempfile.mkdtemp())
    if options.point:
        alone(*options.point)
        return
    rows: list[Row] = []
    for point in POINTS:
        command = [sys.executable, "-m", "benchmarks.memory", "--point", *map(str, point)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        before, peak = map(float, said.rsplit("MB", 1)[1].split())
        work = (
            f"{point[0]} rollouts x {point[1]} rounds, {point[2]:,} features; {before:,.0f} MB before the first token"
        )
        rows.append({"row": "peak memory, MB", "ratio": peak, "before": before, "work": work})
    store(rows, "memory")


if __name__ == "__main__":
    main()
