"""Problems that the model gets wrong: may it steer itself, does it, and does it help?

First every problem is asked unsteered and without tools, several times; kept are those that the model fails. They are
asked again alone, with tools, and with tools and a hint. Chosen for failing, problems come out better next time by
chance alone: `alone` says by how much. Run as `selfsteer run wrong-answers`. Knows no engine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if __name__ == "__main__":  # run as a file: with the packages beside it, whatever else is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenarios import setting
from scenarios.progress import Outcome
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from agents.problems import Problem, Screened
    from agents.script import Agent, Turn
    from scenarios.condition import Condition
    from toolkit.engines.base import Engine

NAME = "wrong-answers"
TEXTS = Path(__file__).parent / "texts"
KEYS = ("first", "look", "nudge", "last")
ARMS = {"alone": ("no_tools", "look"), "tools": ("", "look"), "nudged": ("", "nudge")}
"""Condition to framing (empty: the one that was chosen) and the text of its second turn."""

ProblemFile = Annotated[
    Path | None, typer.Option("--problems", help="YAML list of id, question, and accept (spellings) or number.")
]
Samples = Annotated[int, typer.Option(help="How often each problem is asked before; kept if never answered right.")]
FramingName = Annotated[str, typer.Option("--framing", help="Framing of the conditions with tools.")]


def turns(problem: Problem, second: str) -> Iterator[Turn]:
    """The problem, another look, the last word: the same number of turns whatever the condition."""
    from agents.script import Turn

    said = setting.texts(TEXTS / "wrong_answers.yaml", *KEYS)
    for key in ("first", second, "last"):
        yield Turn(said[key].replace("{question}", problem.question))


def conditions(
    agents: Mapping[str, Agent],
    problems: Sequence[Problem],
    run_seed: int,
    arm: str,
    view: str,
    pinned: Mapping[str, str],
) -> list[Condition]:
    """One condition per arm of ARMS; rollout n of each is problem n, over and over."""
    from agents.problems import as_parameters, digest
    from agents.script import Script
    from scenarios.condition import Condition
    from scenarios.folder import versions

    known = versions()

    def condition(name: str, second: str, agent: Agent) -> Condition:
        parameters: dict[str, Any] = {"help": name, "problems": digest(problems), "asked": len(problems)}

        def script(rollout: int) -> Script:
            problem = problems[rollout % len(problems)]
            told = {**parameters, **as_parameters(problem)}
            return Script(NAME, name, run_seed, rollout, turns(problem, second), told, arm, view, known, dict(pinned))

        return Condition(name, agent, script, parameters, 3)

    return [condition(name, second, agents[name]) for name, (_, second) in ARMS.items()]


def selected(
    out: Path, engine: Engine, agent: Agent, problems: Sequence[Problem], samples: int, run_seed: int
) -> list[Problem]:
    """The problems that the model never got right; asked once, then read from OUT/problems.json.

    Raises BadInput if it fails none of them.
    """
    from agents.problems import digest
    from scenarios.folder import write_json

    path, sampling = out / "problems.json", agent.sampling
    asked = {
        "problems": digest(problems), "model": engine.info.digest, "samples": samples, "seed": run_seed,
        "sampling": [sampling.temperature, sampling.top_p, sampling.max_tokens],
    }  # fmt: skip
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("asked") != asked:
            raise BadInput(
                f"{path} was made from other problems, another model or seed, or other sampling; give another --out"
            )
        right = found["right"]
    else:
        screened = _screen(engine, agent, problems, samples, run_seed)
        right = {one.problem.id: one.right for one in screened}
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"asked": asked, "right": right})
    failed = [p for p in problems if right[p.id] == 0]
    if not failed:
        raise BadInput(
            f"the model got every one of {len(problems)} problems right at least once in {samples}; give harder ones "
            "with --problems"
        )
    typer.echo(f"{len(failed)} of {len(problems)} problems were never answered right in {samples} attempts.", err=True)
    return failed


def _screen(engine: Engine, agent: Agent, problems: Sequence[Problem], samples: int, seed: int) -> list[Screened]:
    from agents.problems import questions, screened
    from toolkit.engines.base import Completion, run_all

    done = run_all(engine, questions(agent, problems, samples, seed))
    return screened(agent, problems, [one for one in done if isinstance(one, Completion)])


def wrong_answers(
    framing: FramingName = "research",
    problems: ProblemFile = None,
    samples: Samples = 4,
    seeds: setting.Seeds = 24,
    out: setting.Out = Path("runs/wrong-answers"),
    model: setting.Model = setting.ORGANISM,
    dictionary: setting.Dictionary = setting.ORGANISM,
    labels: setting.LabelFile = None,
    label_view: setting.LabelView = "true",
    arm: setting.Arm = "target",
    unit: setting.Unit = None,
    embedder: setting.Embedder = setting.EMBEDDER,
    scope: setting.Scope = None,
    temperature: setting.Temperature = 0.7,
    top_p: setting.TopP = 1.0,
    max_tokens: setting.MaxTokens = 256,
    inspect_k: setting.InspectK = None,
    dose_cap: setting.DoseCap = 2.0,
    exit_tool: setting.ExitTool = False,
    run_seed: setting.RunSeed = 0,
    device: setting.Device = "auto",
    dtype: setting.Dtype = None,
    kv_budget: setting.KvBudget = None,
    host_budget: setting.HostBudget = None,
) -> Outcome:
    """Problems that this model fails: with tools over itself, does it use them, and does it get more of them right?

    Example: selfsteer run wrong-answers --model Qwen/Qwen3-8B --dictionary ... --seeds 60
    """
    options = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items() if k not in setting.MACHINE}
    from agents.problems import load_problems
    from scenarios.folder import code_hash, manifest
    from scenarios.run import run

    setting.check_counts(seeds, 3)
    if samples < 1:
        raise BadInput(f"{samples} samples tell nothing of a problem; use at least 1")
    shipped = TEXTS / ("problems_organism.yaml" if model == setting.ORGANISM else "problems.yaml")
    every = load_problems(problems or shipped)
    limits = setting.Limits(temperature, top_p, max_tokens, scope, inspect_k, dose_cap, exit_tool)
    told = [setting.framings_of(name or framing, limits)[0] for name, _ in ARMS.values()]
    features = setting.open_features(dictionary, labels, label_view, arm, run_seed, unit, embedder)
    engine = setting.open_engine(model, device, dtype, kv_budget, host_budget)
    agents = dict(zip(ARMS, setting.agents_of(told, engine, model, features, limits), strict=True))
    failed = selected(out, engine, agents["alone"], every, samples, run_seed)
    planned = conditions(agents, failed, run_seed, arm, label_view, {"code": code_hash()})
    return run(planned, seeds, engine, out, manifest(NAME, options, planned, seeds, engine))


if __name__ == "__main__":
    from scenarios.command import run_script

    run_script(wrong_answers)
