"""The figure of a persistence run: how strongly each way on carries the feature, by rounds since the removal.

Knows no page. Draws nothing that is not in a Persistence.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.persistence import CELLS, MEASURES, Level, Persistence
from analysis.plots import WIDTH_IN, Drawing, Palette, filtered
from analysis.summary import Summary


def persistence_drawings(found: Persistence, summary: Summary) -> list[Drawing]:
    """One panel a measure, one line a way on; the conversation under steering before them."""
    levels = [one for one in found.levels if one.after is not None]
    how = next((one.estimate.how for one in levels), "")
    n = max((one.estimate.n for one in levels), default=0)
    caption = (
        "Share of words that mark the feature and its own activation, by round since the removal (round 0 is the last "
        "response under steering): means and intervals "
        f"({how}). Colour: the words at the removal are the model's own (dark orange) or neutral ones (blue). Filled "
        "points, solid lines: keys and values as computed under steering; open, dashed: computed anew without. Grey: "
        f"never injected. Activation before the removal holds what the steering adds. n = {n} conversations. "
        f"{filtered(summary)}"
    )

    def draw(palette: Palette) -> Figure:
        styles = {
            "state_text": (palette.accent, "-", palette.accent), "text_only": (palette.accent, "--", "none"),
            "state_only": (palette.second, "-", palette.second), "neither": (palette.second, "--", "none"),
            "steered": (palette.ink, "-", palette.ink), "plain": (palette.faint, ":", "none"),
        }  # fmt: skip
        figure = Figure(figsize=(WIDTH_IN, 2.6))
        axes = figure.subplots(1, len(MEASURES))
        for ax, (measure, named) in zip(axes, MEASURES.items(), strict=True):
            for place, (condition, (colour, line, face)) in enumerate(styles.items()):
                shown = sorted((o for o in levels if (o.measure, o.condition) == (measure, condition)), key=_round)
                at = [_round(one) + 0.06 * (place - 2) for one in shown]
                values = [one.estimate.value for one in shown]
                ax.vlines(at, [o.estimate.low for o in shown], [o.estimate.high for o in shown], color=colour, lw=1.2)
                told = CELLS.get(condition, {"steered": "under steering", "plain": "never injected"}.get(condition))
                ax.plot(at, values, line, marker="o", ms=3.5, color=colour, mfc=face, lw=1.2, label=told)
            ax.axvline(0.5, color=palette.line, lw=0.8)
            ax.set_title(named, loc="left")
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
            ax.xaxis.set_major_locator(MaxNLocator(9, integer=True))
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="lower center", ncols=6, frameon=False, fontsize=7, handlelength=1.6)
        figure.supxlabel("rounds since the removal", fontsize=8.5, y=0.09)
        figure.tight_layout(rect=(0, 0.1, 1, 1))
        return figure

    return [Drawing("persistence", "What goes on after the removal", caption, draw)]


def _round(level: Level) -> int:
    return level.after or 0
