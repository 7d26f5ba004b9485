"""`selfsteer judge`: a model codes the rollouts of a run a second time, blind; answers go beside the run.

Knows no scenario. Transcripts are not touched; what is already judged is not asked again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scenarios import setting
from toolkit.errors import BadInput, SelfsteerError

if TYPE_CHECKING:
    from agents.judge import Question, Verdict
    from agents.transcript import Transcript
    from toolkit.engines.base import Engine

ABREAST = 32

Run = Annotated[Path, typer.Argument(help="Folder of a run.")]
Judge = Annotated[
    str,
    typer.Option("--model", help="Hub name or folder of the judging model, or inspect:PROVIDER/MODEL for Inspect's."),
]
About = Annotated[str, typer.Option("--question", help="detection (one code a rollout) or content (one a fact).")]


def judge(run: Run, model: Judge, question: About = "detection", device: setting.Device = "auto") -> None:
    """A second coder for a run: a model that reads each rollout blind to its condition and gives one code.

    `selfsteer report` then prints how far it agrees with the coding from events (Cohen's kappa). The organism cannot
    judge; use a model that can read, or any that Inspect AI reaches (pip install 'selfsteer[inspect]').

    Example: selfsteer judge runs/interference --model Qwen/Qwen3-8B
    """
    from agents.judge import asked, items, load_question
    from agents.transcript import read
    from scenarios.folder import locked, read_manifest

    read_manifest(run)
    about = load_question(question)
    facts = _facts(run) if about.per == "fact" else {}
    transcripts = [t for t in map(read, sorted(run.glob("rollouts/*/*.jsonl"))) if t.end and t.end.how != "failed"]
    path = path_of(run, question, model)
    with locked(run / "judgements"):
        known = _known(path, about, model)
        wanted = items(about, transcripts, lambda t: facts.get(str(t.start.condition.get("topic")), {}))
        wanted = [(t, item, fact) for t, item, fact in wanted if (_name(run, t), item) not in known]
        unscored = 0
        prompts = [asked(about, t, fact) for t, _, fact in wanted]
        verdicts = by_engine(about, prompts, setting.open_any(model, device)) if wanted else iter(())
        with path.open("a", encoding="utf-8") as file:
            if not path.stat().st_size:
                _line(file, {"question": about.name, "version": about.version, "digest": about.digest, "judge": model})
            for (transcript, item, _), verdict in zip(wanted, verdicts, strict=True):
                unscored += verdict.code is None
                found = {"code": verdict.code, "round": verdict.round, "problem": verdict.problem, "text": verdict.text}
                _line(file, {"rollout": _name(run, transcript), "item": item, **found})
    typer.echo(f"{path}: {len(wanted)} judged, {unscored} of them unscored; {len(known)} were there before.")
    typer.echo(f"Next: selfsteer report {run}")


def path_of(run: Path, question: str, model: str) -> Path:
    safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in model)
    return run / "judgements" / f"{question}--{safe}.jsonl"


def _name(run: Path, transcript: Transcript) -> str:
    return transcript.path.relative_to(run / "rollouts").with_suffix("").as_posix()


def _line(file: Any, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()


def _known(path: Path, question: Question, model: str) -> set[tuple[str, str]]:
    """What the file already holds. Raises BadInput if it was made with another question or judge."""
    if not path.exists() or not path.stat().st_size:
        return set()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if not lines[-1].endswith("\n"):  # stopped while it was written: that item is asked again
        path.write_text("".join(lines[:-1]), encoding="utf-8")
        return _known(path, question, model)
    try:
        head, *rows = [json.loads(line) for line in lines]
        same = (head["digest"], head["judge"]) == (question.digest, model)
        if same:
            return {(row["rollout"], row["item"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); move it away, and everything is judged anew") from error
    raise BadInput(f"{path} was judged with another wording of {question.name}; move it away to judge anew")


def _facts(run: Path) -> dict[str, dict[str, str]]:
    """Statements by topic and fact, as the run wrote them. Raises BadInput for a run without facts."""
    path = run / "facts.json"
    if not path.exists():
        raise BadInput(f"{run} has no facts to check; content is judged for runs of scenarios with a topic")
    topics = json.loads(path.read_text(encoding="utf-8"))
    return {topic: {fact["id"]: fact["statement"] for fact in facts} for topic, facts in topics.items()}


# ---------------------------------------------------------------------- who answers


def by_engine(question: Question, prompts: list[str], engine: Engine) -> Iterator[Verdict]:
    """Verdicts in the order of the prompts, many asked at once. A request that fails is unscored, with its error."""
    from agents.judge import Verdict, judging
    from toolkit.engines.base import Failure

    for begin in range(0, len(prompts), ABREAST):
        found: dict[int, Verdict] = {}
        waiting: dict[int, tuple[int, Any]] = {}
        for place, prompt in enumerate(prompts[begin : begin + ABREAST]):
            one = judging(question, prompt, engine.tokenizer, engine.info.window)
            try:
                waiting[engine.submit(next(one))] = (place, one)
            except StopIteration as over:
                found[place] = over.value
        while waiting:
            finished = engine.poll()
            if not finished:
                raise SelfsteerError(f"the judge's engine lost {len(waiting)} requests; run the same command again")
            for ticket, result in finished:
                place, one = waiting.pop(ticket)
                if isinstance(result, Failure):
                    found[place] = Verdict(None, None, f"{type(result.error).__name__}: {result.error}", "")
                    continue
                try:
                    one.send(result)
                except StopIteration as over:
                    found[place] = over.value
        yield from (found[place] for place in sorted(found))
