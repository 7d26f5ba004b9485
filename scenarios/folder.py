"""The folder of a run: who may write it, what it was begun with, and whether that still holds.

A run is manifest.json, labels.json and rollouts/CONDITION/SEED.jsonl. Knows no engine at work and no rollout's insides.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenarios.condition import Condition
from toolkit.dictionary import FeatureDictionary
from toolkit.errors import BadInput, SelfsteerError

if TYPE_CHECKING:
    from toolkit.engines.base import Engine

PACKAGES = ("torch", "transformers", "sae-lens", "sentence-transformers", "faiss-cpu", "pydantic", "numpy", "numba")
ROOT = Path(__file__).parents[1]
KINDS: dict[str, type] = {
    "scenario": str, "options": dict, "seeds": int, "conditions": list, "hashes": dict, "engine": dict,
    "versions": dict,
}  # fmt: skip


def path_of(out: Path, condition: str, seed: int) -> Path:
    return out / "rollouts" / condition.replace("/", "_") / f"{seed:04d}.jsonl"


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
    """Write the manifest of a new run, with the predictions that lie beside it, or hold an old one against it.

    Raises BadInput naming what differs.
    """
    path = out / "manifest.json"
    if not path.exists():
        if any(out.glob("rollouts/*/*.jsonl")):
            raise BadInput(f"{out} holds rollouts but no manifest.json; give another folder with --out")
        if (out / "labels.json").exists():
            raise BadInput(f"{out} holds a labels.json that no run wrote; give another folder with --out")
        write_json(path, {**manifest, **_foretold(out), "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        return
    old = read_manifest(out)
    for part, way in (
        ("options", "this folder holds a run with other options; give another --out"),
        ("conditions", "this folder holds a run with other conditions; give another --out"),
        (
            "hashes",
            "it changed since this run began, so its rollouts must not be mixed; go back to it, or give another --out",
        ),
        ("engine", "this run was begun on another engine, device or precision; give another --out"),
        ("versions", "other libraries can give other numbers; install those, or give another --out"),
    ):
        differing = differences(_flat(old.get(part)), _flat(json.loads(json.dumps(manifest.get(part)))))
        if differing:
            raise BadInput(f"{out}: {'; '.join(differing)}: {way}")


def _foretold(out: Path) -> dict[str, Any]:
    """What a predictions.yaml in the folder says, so that nobody can change it later unseen."""
    if not (out / "predictions.yaml").exists():
        return {}
    from analysis.claims.predictions import registration

    return registration(out)


def _flat(part: Any) -> dict[str, Any]:
    """A part of a manifest as one mapping; each parameter of a condition beside the condition's name."""
    if isinstance(part, list):
        return {f"{one['name']}: {key}": value for one in part for key, value in one.items()}
    return dict(part or {})


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a run. Raises BadInput if there is none, or it does not hold what every manifest holds."""
    path = out / "manifest.json"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{out} is no run: it has no manifest.json") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}); restore it, or give another --out") from error
    if not isinstance(whole, dict) or whole.get("schema") != 1:
        raise BadInput(f"{path} is not a manifest of schema 1; it was written by another version")
    for key, kind in KINDS.items():
        if not isinstance(whole.get(key), kind):
            raise BadInput(f"{path} was damaged or edited: {key} is {_short(whole.get(key))}; restore it")
    if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in whole["conditions"]):
        raise BadInput(f"{path} was damaged or edited: a condition has no name; restore it")
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
    """All that must be equal for a run to go on, and what readers want besides.

    The first: options, conditions, hashes, engine, versions. Seeds are no part of it beyond what the options say.
    """
    dictionary = conditions[0].agent.toolbox.dictionary
    return {
        "schema": 1,
        "scenario": scenario,
        "command": command(scenario, options),
        "options": dict(options),
        "seeds": seeds,
        "conditions": [_described(c) for c in conditions],
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
        "versions": versions(),
        "commit": commit(),
    }


def _described(condition: Condition) -> dict[str, Any]:
    """All that acts on a condition's rollouts and is a number or a name: consent, limits, sampling, measurement."""
    agent = condition.agent
    framing, box, sampling = agent.framing, agent.toolbox, agent.sampling
    return {
        "name": condition.name,
        "framing": framing.name,
        "scope": framing.scope,
        "tools": list(framing.tools),
        "exit tool": "leave" in framing.tools,
        "dose cap": box.cap,
        "most features at once": box.most,
        "inspect_k": box.inspect_k,
        "search_k": box.search_k,
        "check": box.check,
        "steering at the start": box.steering.to_json(),
        "sampling": {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens},
        "measurement": {"aggregation": agent.aggregation, "recorded": agent.record_k},
        "parameters": dict(condition.parameters),
    }


def command(scenario: str, options: Mapping[str, Any]) -> str:
    """The line that begins such a run."""
    given = {f"--{name.replace('_', '-')}": value for name, value in options.items() if value is not None}
    parts = ["selfsteer", "run", scenario]
    for option, value in given.items():
        if value is not False:
            parts += [option] if value is True else [option, str(value)]
    return shlex.join(parts)


def hashes(conditions: Sequence[Condition], engine: Engine) -> dict[str, str]:
    """Code, model, dictionary, labels, and the prompt of every condition."""
    dictionaries = [d for c in conditions for d in (c.agent.toolbox.dictionary, *c.also)]
    return {
        "code": code_hash(),
        "model": engine.info.digest,
        "dictionary": " ".join(dict.fromkeys(d.key for d in dictionaries)),
        "reader": " ".join(dict.fromkeys(d.reader.digest for d in dictionaries)),
        "labels": " ".join(dict.fromkeys(d.labels.digest for d in dictionaries)),
        **{f"prompt of {c.name}": f"{c.agent.framing.digest} {_sha(c.agent.system)}" for c in conditions},
    }


@cache
def code_hash() -> str:
    """Of every source and prompt file that acts on a rollout (analysis acts on none), as this process found them."""
    sha = hashlib.sha256()
    for package in ("toolkit", "agents", "scenarios"):
        for path in sorted((ROOT / package).rglob("*")):
            inside = path.relative_to(ROOT)
            if path.suffix in (".py", ".yaml") and "organism" not in inside.parts:
                sha.update(f"{inside.as_posix()}\0".encode() + path.read_bytes())
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
    write_json(out / "labels.json", {str(i): dictionary.label(i) for i in range(len(dictionary))})


def write_json(path: Path, whole: Mapping[str, Any]) -> None:
    """Write beside and rename: the file is whole or not there."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SelfsteerError(
            f"{path} could not be written ({error.strerror}); make room, or give another --out"
        ) from error


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
