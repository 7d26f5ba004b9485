"""The commands that look and run nothing: find features by meaning, see what is active in a text.

Knows no scenario and no result file.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from scenarios import setting
from toolkit.errors import BadInput, SelfsteerError


def search(
    query: Annotated[str, typer.Argument(help="What the feature should be about, in your words.")],
    k: Annotated[int, typer.Option("-k", help="How many to show.")] = 10,
    dictionary: setting.Dictionary = setting.ORGANISM,
    labels: setting.LabelFile = None,
    unit: setting.Unit = None,
    embedder: setting.Embedder = setting.EMBEDDER,
) -> None:
    """Find features of a dictionary by meaning.

    Example: selfsteer search "sea robbers"
    """
    from rich.console import Console
    from rich.table import Table

    _at_least_one(k)
    features = setting.open_features(dictionary, labels, "true", "target", 0, unit, embedder)
    table = Table("feature", "label", "similarity", title=f"{plain(dictionary)}: {len(features)} features")
    for hit in features.search(query, k):
        table.add_row(str(hit.feature), plain(features.label(hit.feature)), f"{hit.similarity:.3f}")
    Console().print(table)


def inspect(
    text: Annotated[str, typer.Argument(help="A text for the model to read.")],
    k: Annotated[int, typer.Option("-k", help="How many features to show.")] = 10,
    steer: Annotated[
        str, typer.Option(help="Steering in force while it reads: feature:strength,... by number or label.")
    ] = "",
    aggregation: Annotated[str, typer.Option(help="Over the tokens: mean, max or last.")] = "mean",
    model: setting.Model = setting.ORGANISM,
    dictionary: setting.Dictionary = setting.ORGANISM,
    labels: setting.LabelFile = None,
    unit: setting.Unit = None,
    device: setting.Device = "auto",
    dtype: setting.Dtype = None,
) -> None:
    """What is active in a model while it reads a text. The first token, where attention rests, is left out.

    Example: selfsteer inspect "Arr, the rain in Oslo" --steer 12:0.6
    """
    from rich.console import Console
    from rich.table import Table

    from toolkit.context import Context
    from toolkit.engines.base import Read, Residuals, run
    from toolkit.reading import measure

    _at_least_one(k)
    features = setting.open_features(dictionary, labels, "true", "target", 0, unit)
    engine = setting.open_engine(model, device, dtype)
    engine.attach(features)
    steering = _steering(steer, features)
    context = Context().append(engine.tokenizer.document(text)).under(steering, start=1) if text else Context()
    if len(context) < 2:
        raise BadInput("the text is empty; give some words to read")
    read = run(engine, Read(context, tuple(range(1, len(context))), (features.reader.layer,)))
    if not isinstance(read, Residuals):
        raise SelfsteerError("the engine did not read")
    reading = measure(features, read.values[:, 0], aggregation, k, steering.digest)  # type: ignore[arg-type]
    table = Table(
        "feature",
        "label",
        "activation",
        title=f"{reading.aggregation} over {reading.tokens} tokens, layer {reading.layer}",
    )
    for feature, value in zip(reading.features, reading.values, strict=True):
        table.add_row(str(feature), plain(features.label(feature)), f"{value:.3f}")
    Console().print(table)


def plain(text: str) -> str:
    """Without what a terminal would obey, and without markup."""
    from rich.markup import escape

    from toolkit.search import clean

    return escape(clean(text))


def _at_least_one(k: int) -> None:
    if k < 1:
        raise BadInput(f"-k {k} would show nothing; use at least 1")


def _steering(text: str, features: Any) -> Any:
    """Steering out of "12:0.6,pirate dialect:-0.3"."""
    from agents.injection import find
    from toolkit.steering import Intervention, Steering

    made = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        feature, _, strength = part.rpartition(":")
        try:
            size = float(strength)
        except ValueError:
            feature = ""
        if not feature.strip():
            raise BadInput(f"steering {part!r} cannot be read; write feature:strength, as 12:0.6")
        made.append(Intervention(features.key, find(features, feature), size, source="external"))
    return Steering.of(*made)
