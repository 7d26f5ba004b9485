"""The figure of a calibration: what each strength of each feature did, up to where coherence breaks.

Reads the file as it is; knows no engine and no rule by which strengths are chosen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.plots import LIGHT, WIDTH_IN, Drawing, Palette
from analysis.safe import plain
from toolkit.errors import BadInput

PANELS = {"kl": "KL from unsteered, nats", "coherent": "coherent responses, %", "marked": "marking words, %"}


def doses_png(path: str | Path) -> bytes:
    """The figure as a PNG. Raises BadInput for a file that holds no screened feature."""
    try:
        whole: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        features = list(whole["features"])
        drawing = Drawing("calibration", "What each strength did", "", lambda palette: _draw(features, palette))
        return drawing.png(LIGHT)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not a calibration ({error}); make one with selfsteer calibrate") from error


def _draw(features: list[dict[str, Any]], palette: Palette) -> Figure:
    if not features:
        raise BadInput("this calibration holds no feature; screen one with selfsteer calibrate --features")
    figure = Figure(figsize=(WIDTH_IN, 2.5))
    axes = figure.subplots(1, len(PANELS))
    for feature in features:
        doses = feature["doses"]
        chosen = feature["strength"]
        for ax, key in zip(axes, PANELS, strict=True):
            scale = 1 if key == "kl" else 100
            at = [dose["strength"] for dose in doses]
            values = [np.nan if dose[key] is None else scale * dose[key] for dose in doses]
            colour = palette.accent if chosen is not None else palette.faint
            ax.plot(at, values, color=colour, lw=0.9, alpha=0.6)
            if chosen is not None:
                ax.plot(chosen, values[at.index(chosen)], "o", ms=3.5, color=palette.second)
    for ax, title in zip(axes, PANELS.values(), strict=True):
        ax.set_title(plain(title), loc="left")
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    figure.supxlabel("strength", fontsize=8.5)
    figure.tight_layout()
    return figure
