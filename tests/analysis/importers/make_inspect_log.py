"""Makes inspect.eval, a log that Inspect itself wrote: its mock model says what stands here. Run in `.venv-inspect`:

    .venv-inspect/bin/python tests/analysis/importers/make_inspect_log.py

Knows nothing of this project; test_inspect_logs.py reads what it made.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes, match
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, tool

MODEL = "mockllm/model"


@tool
def add() -> Tool:
    async def execute(x: int, y: int) -> str:
        """Add two numbers.

        Args:
            x: one
            y: two
        """
        return str(x + y)

    return execute


def said(text: str = "", function: str = "", **arguments: Any) -> ModelOutput:
    """An answer with a call or without; with its usage, or Inspect would fetch a tokenizer to count."""
    calling = ModelOutput.for_tool_call(MODEL, function, arguments, content=text) if function else None
    made = calling or ModelOutput.from_content(MODEL, text)
    made.usage = ModelUsage(input_tokens=5, output_tokens=5, total_tokens=10)
    return made


def main() -> None:
    calls = [said("Let me add.", "add", x=1, y=1), said("", "add", x="a"), said("", "subtract", x=1)]
    answers = [*calls, said("The answer is 2.")] * 4
    samples = [Sample(input="What is 1 + 1?", target="2", id="a"), Sample(input="What is 1 + 2?", target="3", id=7)]
    task = Task(
        name="sums", dataset=samples, solver=[use_tools(add()), generate()], scorer=[match(), includes()], epochs=2
    )
    with tempfile.TemporaryDirectory() as folder:
        eval(task, model=get_model(MODEL, custom_outputs=answers), log_dir=folder, display="none", max_samples=1)
        (log,) = Path(folder).glob("*.eval")
        log.replace(Path(__file__).with_name("inspect.eval"))


if __name__ == "__main__":
    main()
