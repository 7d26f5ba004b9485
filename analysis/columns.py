"""Every column of every frame, declared: its name, where in the transcript it comes from, its type, what it means.

Knows no files: frames.py fills what is declared here, and the documentation is printed from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["string", "Int64", "Float64", "boolean", "object"]


@dataclass(frozen=True)
class Column:
    """path: `event.key.key`; `[]` after a list walks it, one row per element (lists of one table walk in step);
    `|len` takes the length of a list or text; `[].#` is the place in the list, from 1. A path that is not there is NA.
    `imported` stands for what only imported folders have (analysis/importers): NA in every run of our own.
    """

    name: str
    path: str
    dtype: Dtype
    meaning: str


@dataclass(frozen=True)
class Table:
    """One frame. rows: the event that makes a row (`rollout` and `round` gather the events of one of these)."""

    name: str
    rows: str
    meaning: str
    columns: tuple[Column, ...]


KEY = Column("rollout", "file.rollout", "string", "which rollout: condition/seed, the path of its file")
IN_ROUND = Column("round", "row.round", "Int64", "round of the rollout, from 1")


def _columns(*rows: tuple[str, str, Dtype, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


ROLLOUT_COLUMNS = (
    KEY,
    *_columns(
        ("condition", "file.condition", "string", "folder of the rollout: one condition of the run"),
        ("path", "file.path", "string", "the file that it was read from, below the folder that was given"),
        ("seed", "start.seed", "Int64", "seed of the run"),
        ("number", "start.rollout", "string", "which rollout of its condition"),
        ("parameters", "start.condition", "object", "the parameters of its condition"),
        ("scenario", "start.scenario", "string", "the script that was run"),
        ("framing", "start.framing.name", "string", "narrative, theme and tools offered"),
        ("framing_digest", "start.framing.digest", "string", "hash of the framing's text"),
        ("arm", "start.arm", "string", "what the steering really was: target, zero, random, other, none"),
        ("label_view", "start.label_view", "string", "how labels were shown: real, opaque, shuffled, random"),
        ("scope", "start.scope", "string", "which tokens a change of steering touches: onward or whole"),
        ("acts_on", "start.tools.act on", "string", "what its tools act on: itself or another model"),
        ("model", "start.model.name", "string", "the model that was run"),
        ("dictionary", "start.dictionary.name", "string", "the feature dictionary"),
        ("dictionary_unit", "start.dictionary.unit", "string", "what strength 1.0 means"),
        ("dictionary_labels", "start.dictionary.labels", "string", "hash of the labels as the agent sees them"),
        ("n_features", "start.dictionary.n_features", "Int64", "features in the dictionary"),
        ("layer", "start.dictionary.layer", "Int64", "decoder block at which features are read and steered"),
        ("temperature", "start.sampling.temperature", "Float64", "sampling temperature"),
        ("max_tokens", "start.sampling.max_tokens", "Int64", "most tokens of one response"),
        ("verbs", "start.tools.verbs", "object", "tools offered"),
        ("system", "start.framing.system", "string", "the system prompt as rendered"),
        ("ended", "end.how", "string", "finished, left, window (full), stopped (unhealthy), failed, or unfinished"),
        ("rounds_done", "end.rounds", "Int64", "rounds with a response"),
        ("error", "end.error", "string", "what went wrong, if it failed"),
        ("superseded", "imported.superseded", "boolean", "its authors replaced it by a later run"),
        ("begun", "imported.begun", "string", "when it was run, as its file says"),
        ("facts", "imported.facts", "object", "what else its file says of the whole rollout, by name"),
    ),
)
TABLES = (
    Table("rollouts", "rollout", "One row per rollout that has a last line.", ROLLOUT_COLUMNS),
    Table(
        "rounds",
        "round",
        "One row per round: what was said to the model and what it answered.",
        (
            KEY,
            IN_ROUND,
            *_columns(
                ("turn", "turn.text", "string", "the user turn: results of the last calls, or what the script says"),
                ("turn_tokens", "turn.tokens|len", "Int64", "tokens of the turn, template included"),
                ("turn_steering", "turn.steering", "object", "interventions under which the turn was computed"),
                ("response", "response.text", "string", "what the model generated"),
                ("response_tokens", "response.tokens|len", "Int64", "tokens generated"),
                ("why", "response.why", "string", "why it stopped: stop, length (cut off), window (no room left)"),
                ("in_force", "response.steering|len", "Int64", "interventions in force during it, any source"),
                ("steering", "response.steering", "object", "the interventions themselves, as recorded"),
                ("steered", "response.steered", "object", "tokens that the engine computed, by digest of the steering"),
                ("fenced", "response.fenced", "Int64", "calls in code fences: not carried out"),
                ("mentions", "response.mentions", "Int64", "calls within sentences or quotations: not carried out"),
                ("malformed_counter", "imported.malformed", "Int64", "malformed calls as the study's runner counted"),
                ("wall_s", "imported.wall_s", "Float64", "seconds that generating took, as recorded"),
                ("results", "imported.results", "string", "results of this round's calls, all in one text"),
                ("portfolio", "imported.portfolio", "object", "interventions after this round's calls, as recorded"),
                ("facts", "imported.facts", "object", "what else the file says of the round, by name"),
            ),
        ),
    ),
    Table(
        "calls",
        "call",
        "One row per tool call that the model wrote, in the order of carrying out (in our own runs: of the text): its "
        "actions, whatever came of them.",
        (
            KEY,
            IN_ROUND,
            *_columns(
                ("order", "call.order", "Int64", "place among the calls of its response, from 1, as carried out"),
                ("text_order", "call.order", "Int64", "place among the calls in the text, where it is known"),
                ("verb", "call.verb", "string", "which tool; NA if no tool has the name that was written"),
                ("outcome", "call.outcome", "string", "ok, malformed, unknown_tool, bad_argument or refused"),
                ("problem", "call.problem", "string", "why it is not ok, as a short code"),
                ("text", "call.text", "string", "the call as written"),
                ("arguments", "call.arguments", "object", "what stood between the brackets, as a list of texts"),
                ("span", "call.span", "object", "character offsets in the response"),
                ("feature", "call.values.feature", "Int64", "the feature that was named, if it is one"),
                ("strength", "call.values.strength", "Float64", "the strength that was set, in dictionary_unit"),
                ("query", "call.values.query", "string", "what was searched for"),
                ("before", "call.before", "object", "interventions in force before the call"),
                ("after", "call.after", "object", "interventions in force after the call"),
            ),
        ),
    ),
    Table(
        "shown",
        "call",
        "One row per line of a tool result: what the model was shown, in the turn after the call.",
        (
            KEY,
            IN_ROUND,
            *_columns(
                ("order", "call.order", "Int64", "place of the call among the calls of its response"),
                ("verb", "call.verb", "string", "which tool showed it"),
                ("feature", "call.rows[].feature", "Int64", "the feature shown"),
                ("label", "call.rows[].label", "string", "its label as this agent sees it"),
                ("value", "call.rows[].value", "Float64", "activation, similarity (search) or strength (check)"),
                ("source", "call.rows[].source", "string", "who set it (check)"),
            ),
        ),
    ),
    Table(
        "activations",
        "reading",
        "One row per feature and round: the automatic INSPECT after each response, recorded and not shown.",
        (
            KEY,
            IN_ROUND,
            *_columns(
                ("rank", "reading.features[].#", "Int64", "place by activation, from 1"),
                ("feature", "reading.features[]", "Int64", "the feature"),
                ("value", "reading.values[]", "Float64", "its aggregated activation, above 0"),
                ("layer", "reading.layer", "Int64", "decoder block"),
                ("aggregation", "reading.aggregation", "string", "how tokens were aggregated: last, mean, max"),
                ("tokens", "reading.tokens", "Int64", "tokens measured"),
            ),
        ),
    ),
    Table(
        "steering",
        "response",
        "One row per round and intervention in force while the response was generated: the state, not an action.",
        (
            KEY,
            IN_ROUND,
            *_columns(
                ("feature", "response.steering[].feature", "Int64", "the feature steered"),
                ("strength", "response.steering[].strength", "Float64", "its strength, in dictionary_unit"),
                ("mode", "response.steering[].mode", "string", "add, clamp or project_out"),
                ("source", "response.steering[].source", "string", "self (the model's call), external or partner"),
                ("dictionary_key", "response.steering[].dictionary", "string", "hash of the dictionary that acts"),
            ),
        ),
    ),
    Table(
        "externals",
        "external",
        "One row per change of steering by the experimenter, before the turn of its round.",
        (
            KEY,
            IN_ROUND,
            *_columns(
                ("before", "external.before", "object", "interventions in force before"),
                ("after", "external.after", "object", "interventions in force after"),
                ("why", "external.why", "string", "the script's reason"),
            ),
        ),
    ),
    Table(
        "rebases",
        "rebase",
        "One row per recomputation of the context so far under another steering (scope `whole`).",
        (
            KEY,
            IN_ROUND,
            *_columns(
                ("start", "rebase.start", "Int64", "first position that changed"),
                ("steering", "rebase.steering", "object", "the interventions that it runs under from there"),
            ),
        ),
    ),
    Table(
        "truncations",
        "truncate",
        "One row per time that the history was dropped, before the turn of its round; steering stays in force.",
        (KEY, IN_ROUND, *_columns(("dropped", "truncate.dropped", "Int64", "tokens that the context held"))),
    ),
    Table(
        "notes",
        "note",
        "One row per verdict of a monitor or judge.",
        (
            KEY,
            IN_ROUND,
            *_columns(
                ("about", "note.about", "string", "which monitor"),
                ("verdict", "note.verdict", "string", "healthy, unhealthy, or failed: the monitor itself failed"),
                ("text", "note.text", "string", "its words"),
            ),
        ),
    ),
    Table(
        "scores",
        "imported",
        "One row per value that a scorer of the study gave a rollout.",
        (
            KEY,
            *_columns(
                ("scorer", "imported.scorer", "string", "the scorer's name"),
                ("key", "imported.key", "string", "which of its values"),
                ("value", "imported.value", "Float64", "the value; NA where the scorer gave none"),
            ),
        ),
    ),
    Table(
        "quizzes",
        "imported",
        "One row per question put to a model about the vector that steered it, and what it answered.",
        (
            KEY,
            *_columns(
                ("vector", "imported.vector", "string", "the vector that was written in"),
                ("dose", "imported.dose", "Float64", "its nominal strength"),
                ("primer", "imported.primer", "boolean", "whether an explanation went before the question"),
                ("correct", "imported.correct", "string", "letter of the right option"),
                ("pool", "imported.pool", "object", "names of the options, in the order of their letters"),
                ("reading", "imported.reading", "string", "cached (steered state kept) or uncached (text alone)"),
                ("stored", "imported.stored", "Float64", "probability of the right option, as published"),
                ("tops", "imported.tops", "object", "[token, log-probability] of the likeliest next tokens"),
            ),
        ),
    ),
)
TABLE = {table.name: table for table in TABLES}


def columns_markdown() -> str:
    """The documentation of all frames, from the tables above."""
    parts = []
    for table in TABLES:
        lines = [f"## {table.name}", "", table.meaning, "", "| column | type | meaning | from |", "|---|---|---|---|"]
        lines += [f"| {c.name} | {c.dtype} | {c.meaning} | {_source(c)} |" for c in table.columns]
        parts.append("\n".join(lines))
    parts.append(
        "Missing is NA and never 0. A file without a last line is in `unfinished` alone; an imported one that breaks "
        "off is in `unfinished` and, with `ended` = unfinished, in the other frames too: those who published it "
        "counted it."
    )
    return "\n\n".join(parts) + "\n"


def _source(column: Column) -> str:
    return "imported folders alone" if column.path.startswith("imported") else f"`{column.path.replace('|', ' → ')}`"
