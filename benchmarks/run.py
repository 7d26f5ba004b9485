"""One table: every row a ratio from one run, contestants in turn, the first turn thrown away, medians of the rest.

`make bench` prints it and stores it with machine, versions and commit in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import hook_loop, ours, published
from benchmarks.work import Work, random_llama
from scenarios.folder import commit, versions
from toolkit import organism
from toolkit.context import Context
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.base import Completion, Generate, Sampling, run, run_all
from toolkit.engines.local import LocalEngine
from toolkit.opening import open_dictionary
from toolkit.search import LabelIndex

RESULTS = Path(__file__).parent / "results"
Row = dict[str, object]


def ratio(name: str, one: Callable[[], float], other: Callable[[], float], repeats: int, **facts: object) -> Row:
    """Median of other / one over paired turns, each of which goes first in its turn, after one of each to warm up."""
    one(), other()
    pairs = [(one(), other()) if i % 2 else (other(), one())[::-1] for i in range(repeats)]
    return {
        "row": name,
        "ratio": statistics.median(b / a for a, b in pairs),
        "spread": [min(b / a for a, b in pairs), max(b / a for a, b in pairs)],
        "one_s": statistics.median(a for a, _ in pairs),
        "other_s": statistics.median(b for _, b in pairs),
        "repeats": repeats,
        **facts,
    }


def fresh(engine: LocalEngine, call: Callable[[], float]) -> Callable[[], float]:
    """Forget all kept KV first, so that a repeat is not a re-run of what is already known."""

    def timed() -> float:
        engine.forget()
        return call()

    return timed


def exploration(
    name: str, engine: LocalEngine, features: FeatureDictionary, repeats: int, rounds: int, timed: int
) -> list[Row]:
    """Free exploration beside the published loop, of which `timed` rollouts are run: it takes them one after the other,
    all of one length, so that 16 of them take 16 times as long as one."""
    work, some = Work(16, rounds), Work(timed, rounds)
    mine = fresh(engine, lambda: ours(engine, features, work)[0])
    facts = {"tokens": work.tokens, "work": f"16 rollouts x {rounds} rounds, {name}"}
    theirs = lambda: published(engine, features, some) * 16 / timed  # noqa: E731
    beside = {**facts, "target": {8: ">= 10", 20: ">= 20"}.get(rounds, ""), "published_rollouts_timed": timed}
    rows = [ratio("published loop / ours", mine, theirs, repeats, **beside)]
    if rounds <= 8:  # it feeds the history anew, too
        hooked = lambda: hook_loop(engine, features, work)  # noqa: E731
        rows.append(ratio("transformers generate with one hook / ours", mine, hooked, repeats, **facts))
    return rows


def steering_cost(name: str, engine: LocalEngine, features: FeatureDictionary, repeats: int) -> list[Row]:
    """A ratio near 1 drowns in noise unless turns are short and many: five times the repeats."""
    rows = []
    for batch in (1, 8, 32):
        work = Work(batch, 1, opening=50, generated=60)
        steered = fresh(engine, lambda w=work: ours(engine, features, w, inspect="")[0])  # type: ignore[misc]
        plain = fresh(engine, lambda w=work: ours(engine, features, w, steered=False, inspect="")[0])  # type: ignore[misc]
        row = ratio(
            "steered speed / unsteered speed",
            steered,
            plain,
            5 * repeats,
            target=">= 0.98",
            work=f"batch {batch}, {name}",
        )
        rows.append({**row, "tokens_per_s": work.tokens / float(str(row["one_s"]))})
    return rows


def growth(name: str, engine: LocalEngine, features: FeatureDictionary, repeats: int) -> Row:
    short, long = (fresh(engine, lambda r=r: ours(engine, features, Work(4, r))[0]) for r in (20, 40))  # type: ignore[misc]
    return ratio("40 rounds / 20 rounds", short, long, repeats, target="<= 2.4", work=f"4 rollouts, {name}")


def inspect_share(name: str, engine: LocalEngine, features: FeatureDictionary, repeats: int, over: str) -> Row:
    shares = []
    for _ in range(repeats + 1):
        engine.forget()
        whole, inspecting = ours(engine, features, Work(16, 8), inspect=over)
        shares.append(inspecting / whole)
    return {
        "row": f"INSPECT ({over} of the response) / everything",
        "ratio": statistics.median(shares[1:]),
        "spread": [min(shares[1:]), max(shares[1:])],
        "target": "<= 0.03",
        "work": f"16 x 8, {name}",
    }


def identical(name: str, engine: LocalEngine, features: FeatureDictionary) -> Row:
    """Share of 16 rollouts whose tokens are the same alone and with the 15 others; 1 where a device is invariant."""
    work = Work(16, 1, generated=100)
    asked = []
    for rollout, turns in enumerate(work.prompts(engine.info.vocabulary)):
        steering = work.steering(features, rollout, 0)
        context = Context().append(work.start(engine.info.vocabulary)).append(turns[0], steering)
        asked.append(Generate(context, Sampling(0.7, 1.0, work.generated, ("identical", rollout)), steering))
    engine.forget()
    together = run_all(engine, asked)
    same = 0
    for request, found in zip(asked, together, strict=True):
        engine.forget()
        alone = run(engine, request)
        same += isinstance(alone, Completion) and isinstance(found, Completion) and alone.tokens == found.tokens
    share, wanted = same / len(asked), ">= 1" if engine.info.batch_invariant else ""
    return {"row": "rollouts identical alone and among 16", "ratio": share, "target": wanted, "work": name}


def label_index(count: int) -> Row:
    """Seconds to open a kept index of `count` labels and to answer a query; random vectors stand for a model's."""
    import numpy as np

    from toolkit import search

    texts = [f"label number {i}" for i in range(count)]
    real, vectors = search.embed, np.random.default_rng(0).standard_normal((count, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    search.embed = lambda asked, _embedder="": vectors[: len(asked)]
    try:
        begun = time.perf_counter()
        LabelIndex(texts).search("x", 10)
        built = time.perf_counter() - begun
        begun = time.perf_counter()
        index = LabelIndex(texts)
        index.search("x", 10)
        opened = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(10):
            index.search("x", 10)
        asked = (time.perf_counter() - begun) / 10
    finally:
        search.embed = real
    return {
        "row": "kept label index: open and first query, s",
        "ratio": opened,
        "query_s": asked,
        "build_s_without_embedding": built,
        "work": f"{count:,} labels; a query {1000 * asked:.0f} ms; building, without embedding, {built:.1f} s",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, nargs="*", default=[8, 20])
    parser.add_argument("--large", action="store_true", help="also a random 31M-parameter Llama with 16,384 features")
    options = parser.parse_args()
    os.environ.setdefault("SELFSTEER_CACHE", tempfile.mkdtemp())
    rows: list[Row] = []
    models = {"organism": (str(organism.MODEL), str(organism.SAE), 16)}
    if options.large:
        folder = Path(tempfile.mkdtemp())
        random_llama(folder, 512, 8, 1536)
        models["random 31M"] = (str(folder), str(folder / "sae"), 1)
    for name, (model, sae, timed) in models.items():
        engine, features = LocalEngine(model, device="cpu"), open_dictionary(sae)
        engine.attach(features)
        engine.tokenizer.stop_tokens = frozenset()  # type: ignore[misc]  # every response has its full length
        given = (name, engine, features, options.repeats)
        for rounds in options.rounds:
            rows += told(exploration(*given, rounds, timed))
        rows += told(steering_cost(*given))
        rows += told([growth(*given)])
        rows += told([inspect_share(*given, over) for over in ("last", "mean")])
        rows += told([identical(name, engine, features)])
        store(rows, "engine")
    rows += [label_index(65_536), label_index(1_000_000)]
    store(rows, "engine")


def told(rows: list[Row]) -> list[Row]:
    """The same rows, printed as they come: a benchmark takes long."""
    for row in rows:
        print(f"{row['row']}: {row['ratio']:.3g} ({row['work']})", flush=True)
    return rows


def store(rows: list[Row], name: str) -> None:
    """Print the table, and keep it as results/NAME-MACHINE.json with machine, versions, commit and load."""
    table = Table(
        "what", "ratio", "lowest to highest", "target", "work", title=f"{torch.get_num_threads()} torch threads"
    )
    for row in rows:
        low, high = row.get("spread", ["", ""])  # type: ignore[misc]
        spread = f"{low:.2f} to {high:.2f}" if row.get("spread") else ""
        table.add_row(str(row["row"]), f"{row['ratio']:.3g}", spread, str(row.get("target", "")), str(row["work"]))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    machine = platform.processor() or platform.machine()
    facts = {
        "machine": machine,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "versions": versions(),
    }
    path = RESULTS / f"{name}-{machine}-{os.cpu_count()}-cores.json"
    path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    print(f"load {os.getloadavg()[0]:.1f}; {path}")


if __name__ == "__main__":
    main()
