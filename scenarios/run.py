"""The composition root: conditions x seeds onto one engine, all at once; what happened goes to disk as it happens.

A run is a folder: manifest.json, labels.json and rollouts/CONDITION/SEED.jsonl. The same call on the same folder goes
on where it stopped: finished rollouts are left alone, unfinished ones are replayed from their record and continued.
Knows no scenario: a condition brings an agent and a script.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agents.replay import replay
from agents.rollout import Agent, Measure, Rollout, Script, Yielded, rollout
from agents.transcript import End, append, keep, read, with_timing
from scenarios.progress import Outcome, Progress
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.base import Completion, Engine, Failure, Generate
from toolkit.errors import BadInput, SelfsteerError
from toolkit.reading import measure
from toolkit.tools import Reading

ABREAST = 64
PACKAGES = ("torch", "transformers", "sae-lens", "sentence-transformers", "faiss-cpu", "pydantic", "numpy")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Condition:
    """A scenario with its parameters: an agent, and the script of the rollout with a given number.

    parameters: whatever tells this condition from others, for the manifest and for each transcript's first line.
    """

    name: str
    agent: Agent
    script: Callable[[int], Script]
    parameters: Mapping[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------------- the run


def run(
    conditions: Sequence[Condition],
    seeds: int,
    engine: Engine,
    out: Path,
    manifest: Mapping[str, Any],
    *,
    abreast: int = ABREAST,
    quiet: bool = False,
) -> Outcome:
    """Run every condition `seeds` times into `out`, `abreast` rollouts at once. Raises BadInput for a folder of another
    run, or of this one under changed code, model, dictionary or prompts."""
    if seeds < 1:
        raise BadInput(f"{seeds} seeds give no rollout; use at least 1")
    names = [c.name for c in conditions]
    if len(set(names)) != len(names) or not names:
        raise BadInput(f"conditions must be named apart and there must be one; got {', '.join(names) or 'none'}")
    with locked(out):
        begin(out, manifest)
        for condition in conditions:
            engine.attach(condition.agent.toolbox.dictionary)
        write_labels(out, conditions[0].agent.toolbox.dictionary)
        waiting = [(c, seed) for seed in range(seeds) for c in conditions]
        progress = Progress(len(waiting), quiet)
        outcome = Outcome()
        begun = time.perf_counter()
        with progress:
            _drive(iter(waiting), engine, out, abreast, progress, outcome)
        outcome.tokens, outcome.wall_s = progress.tokens, time.perf_counter() - begun
    return outcome


def path_of(out: Path, condition: str, seed: int) -> Path:
    return out / "rollouts" / condition.replace("/", "_") / f"{seed:04d}.jsonl"


def _drive(
    waiting: Iterator[tuple[Condition, int]],
    engine: Engine,
    out: Path,
    abreast: int,
    progress: Progress,
    outcome: Outcome,
) -> None:
    """Keep the engine full: start a rollout for every one that ends, resume whichever is answered."""
    asked: dict[int, _Live] = {}

    def settle(live: _Live, yielded: Yielded | None) -> bool:
        """Write events and measure until an engine request stands; True if the rollout goes on."""
        request = live.upto_request(yielded)
        if request is None:
            outcome.ended[live.how] = outcome.ended.get(live.how, 0) + 1
            progress.ended(live.how)
            return False
        asked[engine.submit(request)] = live
        return True

    def start() -> None:
        while len(asked) < abreast:
            following = next(waiting, None)
            if following is None:
                return
            live = _Live(path_of(out, following[0].name, following[1]))
            if live.ended is not None:
                outcome.before += 1
                outcome.failed_before += live.ended.how == "failed"
                progress.ended("before")
                continue
            settle(live, live.begin(rollout(following[0].agent, following[0].script(following[1]))))

    start()
    while asked:
        finished = engine.poll()
        if not finished:
            raise SelfsteerError(f"the engine lost {len(asked)} requests; run the same command again to go on")
        for ticket, result in finished:
            live = asked.pop(ticket, None)
            if live is None:
                continue
            if isinstance(result, Completion):
                progress.responded(len(result.tokens))
            settle(live, live.answer(result if isinstance(result, Completion | Failure) else _odd(result)))
        start()


class _Live:
    """One rollout on its way, and the file that holds its record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.how = "unfinished"
        self._rollout: Rollout | None = None
        self._asked_at = 0.0
        self._wall_s = 0.0
        self._record = read(path) if path.exists() and path.stat().st_size else None
        self.ended = self._record.end if self._record is not None else None

    def begin(self, one: Rollout) -> Yielded | None:
        """Bring a fresh rollout to where its record stops; without a record, to its first wish."""
        self._rollout = one
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._record is None or not self._record.events:
            self.path.unlink(missing_ok=True)
            return next(one)
        resumed = replay(one, self._record.events)
        keep(self._record, resumed.kept)
        return resumed.pending

    def upto_request(self, yielded: Yielded | None) -> Generate | None:
        while yielded is not None:
            if isinstance(yielded, Generate):
                self._asked_at = time.perf_counter()
                return yielded
            if isinstance(yielded, Measure):
                try:
                    reading = _measured(yielded)
                except (SelfsteerError, RuntimeError) as error:  # the rollout ends as failed, the others go on
                    yielded = self._throw(error)
                else:
                    yielded = self._send(reading)
                continue
            if yielded.event == "response":
                yielded = with_timing(yielded, wall_s=round(self._wall_s, 4))
            append(self.path, yielded)
            if isinstance(yielded, End):
                self.how = yielded.how
            yielded = self._send(None)
        return None

    def answer(self, result: Completion | Failure) -> Yielded | None:
        self._wall_s = time.perf_counter() - self._asked_at
        if isinstance(result, Completion):
            return self._send(result)
        return self._throw(result.error)

    def _throw(self, error: Exception) -> Yielded | None:
        if self._rollout is None:
            raise SelfsteerError("a rollout was answered before it began")
        return self._rollout.throw(error)

    def _send(self, answer: Completion | Reading | None) -> Yielded | None:
        if self._rollout is None:
            raise SelfsteerError("a rollout was answered before it began")
        try:
            return self._rollout.send(answer)
        except StopIteration:
            return None


def _measured(wish: Measure) -> Reading:
    residuals = wish.completion.residuals
    if residuals is None:
        raise SelfsteerError("the engine gave no residuals to measure; use an engine that captures them")
    return measure(wish.dictionary, residuals, wish.aggregation, wish.k, wish.steered)


def _odd(result: object) -> Failure:
    return Failure(SelfsteerError(f"a Generate was answered by {type(result).__name__}"))


# ---------------------------------------------------------------------- the folder


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Only one process writes a run. The lock goes with the process, however it ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise BadInput(f"{out} cannot be written ({error.strerror}); give another folder with --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"{out} is being written by another process; wait for it, or give another --out") from error
        yield


def begin(out: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a new run, or hold an old one against it. Raises BadInput naming what differs."""
    path = out / "manifest.json"
    if not path.exists():
        if any(out.glob("rollouts/*/*.jsonl")):
            raise BadInput(f"{out} holds rollouts but no manifest.json; give another folder with --out")
        _write(path, {**manifest, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        return
    old = read_manifest(out)
    for part, way in (
        ("options", "this folder holds a run with other options; give another --out"),
        (
            "hashes",
            "it changed since this run began, so its rollouts must not be mixed; go back to it, or give another --out",
        ),
        ("engine", "this run was begun on another engine, device or precision; give another --out"),
        ("versions", "other libraries can give other numbers; install those, or give another --out"),
    ):
        differing = differences(old.get(part, {}), json.loads(json.dumps(manifest.get(part, {}))))
        if differing:
            raise BadInput(f"{out}: {'; '.join(differing)}: {way}")


def read_manifest(out: Path) -> dict[str, Any]:
    path = out / "manifest.json"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{out} is no run: it has no manifest.json") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}); restore it, or give another --out") from error
    if not isinstance(whole, dict) or whole.get("schema") != 1:
        raise BadInput(f"{path} is not a manifest of schema 1; it was written by another version")
    return whole


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One phrase for every key whose values differ."""
    keys = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    return [f"{k} was {_short(old.get(k))} and is now {_short(new.get(k))}" for k in keys]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def manifest(
    scenario: str, options: Mapping[str, Any], conditions: Sequence[Condition], seeds: int, engine: Engine
) -> dict[str, Any]:
    """All that must be equal for a run to go on (options, hashes, engine, versions), and what readers want besides."""
    dictionary = conditions[0].agent.toolbox.dictionary
    return {
        "schema": 1,
        "scenario": scenario,
        "options": dict(options),
        "seeds": seeds,
        "conditions": [
            {"name": c.name, "framing": c.agent.framing.name, "scope": c.agent.framing.scope, **c.parameters}
            for c in conditions
        ],
        "hashes": hashes(conditions, engine),
        "engine": {k: v for k, v in asdict(engine.info).items() if k != "versions"},
        "dictionary": {
            "name": dictionary.name,
            "features": len(dictionary),
            "unit": dictionary.directions.unit,
            "layers": list(dictionary.directions.layers),
            "read at layer": dictionary.reader.layer,
            "notes": list(dictionary.notes),
        },
        "limits": {
            "dose cap": conditions[0].agent.toolbox.cap,
            "most features at once": conditions[0].agent.toolbox.most,
        },
        "versions": versions(),
        "commit": commit(),
    }


def hashes(conditions: Sequence[Condition], engine: Engine) -> dict[str, str]:
    """Code, model, dictionary, labels, and the prompt of every condition."""
    dictionaries = [c.agent.toolbox.dictionary for c in conditions]
    return {
        "code": code_hash(),
        "model": engine.info.digest,
        "dictionary": " ".join(dict.fromkeys(d.key for d in dictionaries)),
        "reader": " ".join(dict.fromkeys(d.reader.digest for d in dictionaries)),
        "labels": " ".join(dict.fromkeys(d.labels.digest for d in dictionaries)),
        **{f"prompt of {c.name}": f"{c.agent.framing.digest} {_sha(c.agent.system)}" for c in conditions},
    }


def code_hash() -> str:
    """Of every source and prompt file that acts on a rollout (analysis acts on none)."""
    sha = hashlib.sha256()
    for package in ("toolkit", "agents", "scenarios"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".yaml") and "organism" not in path.parts:
                sha.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of this package and of what it stands on."""
    found = {}
    for name in ("selfsteer", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The commit of this checkout; "none" for an installed package. What runs is told by the code's hash."""
    if not (ROOT / ".git").exists():
        return "none"
    try:
        asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def write_labels(out: Path, dictionary: FeatureDictionary) -> None:
    """labels.json: what each feature was called in this run; a report names those that were only recorded by it."""
    _write(out / "labels.json", {str(i): dictionary.label(i) for i in range(len(dictionary))})


def _write(path: Path, whole: Mapping[str, Any]) -> None:
    """Write beside and rename: the file is whole or not there."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise SelfsteerError(
            f"{path} could not be written ({error.strerror}); make room, or give another --out"
        ) from error


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
