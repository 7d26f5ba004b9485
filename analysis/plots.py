"""Figures of one run, each with a caption made from the query that made it; PNGs, for light and for dark pages.

Knows no page. Draws nothing that is not in a Summary or a frame; text of a model is shown only as labels.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import stats
from analysis.calls import calls_by_round
from analysis.frames import Frames
from analysis.safe import plain
from analysis.summary import Summary, grouping
from analysis.words import SHORT

DPI = 150
WIDTH_IN = 7.2
RATE_PANELS = ("used_tools", "used_tools_first_round", "steered", "degenerate_same_index")
DEGENERATE_PANELS = (
    "degenerate_same_index",
    "degenerate_difflib",
    "degenerate_equal",
    "degenerate_last_five",
    "degenerate_loop",
)
TITLES = {
    "used_tools": "used a tool",
    "used_tools_first_round": "used a tool\nin round 1",
    "steered": "steered itself",
    "degenerate_same_index": "same character\nat same index",
    "degenerate_difflib": "difflib ratio",
    "degenerate_equal": "identical",
    "degenerate_last_five": "pairs in\nthe last five",
    "degenerate_loop": "loop within\nlast response",
}


@dataclass(frozen=True)
class Palette:
    """The colours of one appearance."""

    ink: str
    faint: str
    line: str
    accent: str
    second: str


LIGHT = Palette(ink="#22252b", faint="#6b7078", line="#d9d9d4", accent="#b4471f", second="#2b5d8a")
DARK = Palette(ink="#e6e4de", faint="#9a9c9f", line="#3a3d42", accent="#f08a5d", second="#7db4e0")


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn in any palette."""

    name: str
    title: str
    caption: str
    draw: Callable[[Palette], Figure]

    def png(self, palette: Palette) -> bytes:
        """The figure as a PNG with a transparent ground, or white in light, so that a paper can use it."""
        style: dict[Any, Any] = {
            "font.family": "sans-serif",
            "font.size": 8.5,
            "text.color": palette.ink,
            "axes.labelcolor": palette.ink,
            "axes.edgecolor": palette.line,
            "axes.titlesize": 8.5,
            "xtick.color": palette.faint,
            "ytick.color": palette.ink,
            "axes.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.parse_math": False,
        }
        with matplotlib.rc_context(style):
            figure = self.draw(palette)
            data = io.BytesIO()
            figure.savefig(data, dpi=DPI, facecolor="white" if palette is LIGHT else "none", bbox_inches="tight")
        return data.getvalue()


def drawings(frames: Frames, summary: Summary) -> list[Drawing]:
    """Every figure that the run has data for, in the order of the report."""
    if not summary.groups:
        return []
    whole = set(frames.counted)
    groups = {group: [r for r in ids if r in whole] for group, ids in grouping(frames, summary.by).items()}
    made = [
        forest(summary, "rates", "Tool use and degeneration", RATE_PANELS),
        forest(summary, "degeneration", "Degeneration, by definition", DEGENERATE_PANELS),
        _calls_by_round(frames, summary, groups),
        _strengths(frames, summary, groups),
        _active_and_steered(summary),
    ]
    return [d for d in made if d is not None]


def forest(summary: Summary, name: str, title: str, metrics: Sequence[str]) -> Drawing:
    """Rates with their intervals, a panel for each metric and a row for each group."""
    cells = [c for c in summary.rates if c.metric.name in metrics]
    what = "; ".join(f"{c.metric.identifier}: {c.metric.meaning}" for c in cells if c.group == summary.groups[0])
    sizes = {c.estimate.n for c in cells}
    missing = sum(c.estimate.missing for c in cells)
    caption = (
        f"{title} by {summary.by}. Points are shares of rollouts, bars {cells[0].estimate.how} intervals; "
        f"n = {span(sizes)} rollouts per group, {missing or 'no'} missing values. {_sentence(what)} "
        f"{filtered(summary)}"
    )

    def draw(palette: Palette) -> Figure:
        figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.27 * len(summary.groups)))
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        at = np.arange(len(summary.groups))[::-1]
        for ax, metric in zip(axes, metrics, strict=True):
            found = [summary.cell(metric, group) for group in summary.groups]
            _intervals(ax, at, found, palette)
            ax.set_title(TITLES.get(metric, SHORT.get(metric, metric)), color=palette.ink, loc="left")
            ax.set_xlim(-0.03, 1.03)
            ax.set_xticks([0, 0.5, 1], ["0", "50", "100"])
        axes[0].set_yticks(at, [plain(g, 28) for g in summary.groups])
        axes[0].set_ylim(-0.6, len(at) - 0.4)
        figure.supxlabel("% of rollouts", fontsize=8.5, y=-0.02 - 0.2 / len(at))
        figure.subplots_adjust(wspace=0.14)
        return figure

    return Drawing(name, title, caption, draw)


def _intervals(ax: Axes, at: Any, found: Sequence[stats.Estimate], palette: Palette) -> None:
    for y, e in zip(at, found, strict=True):
        ax.axhline(y, color=palette.line, lw=0.6, zorder=0)
        if np.isnan(e.value):
            ax.text(0.5, y, "no data", ha="center", va="center", color=palette.faint, fontsize=7)
            continue
        ax.plot([e.low, e.high], [y, y], color=palette.accent, lw=1.6, solid_capstyle="round", alpha=0.55)
        ax.plot(e.value, y, "o", color=palette.accent, ms=4.5)
    ax.tick_params(length=0)
    ax.spines["left"].set_visible(False)


def _calls_by_round(frames: Frames, summary: Summary, groups: dict[str, list[str]]) -> Drawing | None:
    per_round = calls_by_round(frames)
    if len(frames.calls) == 0 or len(per_round) == 0:
        return None
    series = {g: _by_round(per_round[per_round["rollout"].isin(ids)]) for g, ids in groups.items()}
    caption = (
        f"Tool calls carried out per round, by {summary.by}. Lines are means over the rollouts that reached the round, "
        f"bands Student t 95% intervals over rollouts (cut at 0; none where all are equal); "
        f"n = {span(len(i) for i in groups.values())} rollouts per group. {filtered(summary)}"
    )

    def draw(palette: Palette) -> Figure:
        figure, axes = panels(len(series))
        top = max((s[["value", "high"]].max().max() for s in series.values() if len(s)), default=1.0)
        for ax, (group, s) in zip(axes, series.items(), strict=False):
            ax.fill_between(s["round"], s["low"], s["high"], color=palette.accent, alpha=0.2, lw=0)
            ax.plot(s["round"], s["value"], color=palette.accent, lw=1.6)
            ax.set_title(plain(group, 32), loc="left")
            ax.set_ylim(0, max(top, 0.5) * 1.05)
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.tick_params(color=palette.line)
        figure.supxlabel("round", fontsize=8.5)
        figure.supylabel("calls per rollout", fontsize=8.5)
        figure.tight_layout()
        return figure

    return Drawing("calls_by_round", "Tool calls by round", caption, draw)


def _by_round(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {"round": number, "value": e.value, "low": e.low, "high": e.high}
        for number, group in table.groupby("round")
        for e in [stats.mean(group["calls"], floor=0.0)]
    ]
    return pd.DataFrame(rows, columns=["round", "value", "low", "high"], dtype="float64")


def _strengths(frames: Frames, summary: Summary, groups: dict[str, list[str]]) -> Drawing | None:
    chosen = frames.calls[(frames.calls["outcome"] == "ok") & (frames.calls["verb"] == "steer")]
    chosen = chosen[chosen["strength"].notna() & chosen["rollout"].isin([r for ids in groups.values() for r in ids])]
    if len(chosen) == 0:
        return None
    unit = dict(summary.setting).get("dictionary unit", "unit not recorded")
    caption = (
        f"Strengths that the model chose, by {summary.by}: one point per STEER call carried out (an action, not a "
        f"round in force), {len(chosen)} calls of {chosen['rollout'].nunique()} rollouts; bars: medians of calls. "
        f"Calls of one rollout are not independent; no interval is given. Unit: {plain(unit)}. {filtered(summary)}"
    )
    values = {g: chosen.loc[chosen["rollout"].isin(ids), "strength"].to_numpy(float) for g, ids in groups.items()}

    def draw(palette: Palette) -> Figure:
        figure = Figure(figsize=(WIDTH_IN, 0.8 + 0.3 * len(values)))
        ax = figure.subplots()
        at = np.arange(len(values))[::-1]
        spread = np.random.default_rng(0)
        for y, points in zip(at, values.values(), strict=True):
            ax.axhline(y, color=palette.line, lw=0.6, zorder=0)
            ax.plot(
                points,
                y + spread.uniform(-0.22, 0.22, len(points)),
                "o",
                color=palette.second,
                ms=4.5,
                alpha=0.5,
                mew=0,
            )
            if len(points):
                ax.plot([np.median(points)] * 2, [y - 0.3, y + 0.3], color=palette.accent, lw=2)
        ax.axvline(0, color=palette.faint, lw=0.6)
        ax.set_yticks(at, [f"{plain(g, 28)}  ({len(v)})" for g, v in values.items()])
        ax.set_xlabel("strength")
        ax.tick_params(length=0)
        ax.spines["left"].set_visible(False)
        return figure

    return Drawing("strengths", "Strengths chosen", caption, draw)


def _active_and_steered(summary: Summary) -> Drawing | None:
    found = summary.overlap
    if len(found.active) == 0 and len(found.steered) == 0:
        return None
    shared = (
        str(found.shared_low) if found.shared_low == found.shared_high else f"{found.shared_low} to {found.shared_high}"
    )
    both = set(found.active["feature"]) & set(found.steered["feature"])
    shown = 12
    caption = (
        f"Most active against most steered features, by the number of rollouts in which a feature was in the automatic "
        f"INSPECT or was steered by a call of the model. The two lists of {found.k} share {shared} features "
        f"(a range where ties for the last places, {found.ties_active} active and {found.ties_steered} steered, can be "
        f"broken in several ways). Up to {shown} are drawn, ties by number; filled: in both lists. {filtered(summary)}"
    )

    def draw(palette: Palette) -> Figure:
        rows = min(shown, max(len(found.active), len(found.steered)))
        figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.24 * rows))
        for ax, table, title in zip(
            figure.subplots(1, 2), (found.active, found.steered), ("most active", "most steered"), strict=True
        ):
            top = table.head(shown)
            at = np.arange(rows)[::-1][: len(top)]
            shared_here = [int(f) in both for f in top["feature"]]
            for y, count, filled in zip(at, top["rollouts"], shared_here, strict=True):
                colour = palette.accent if filled else palette.line
                ax.barh(y, count, height=0.62, color=colour)
            names = [
                f"{plain(label, 30) or 'feature'} [{f}]" for label, f in zip(top["label"], top["feature"], strict=True)
            ]
            ax.set_yticks(at, names, fontsize=7.5)
            ax.set_ylim(-0.6, rows - 0.4)
            ax.set_title(title, loc="left")
            ax.set_xlabel("rollouts")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.tick_params(length=0)
            ax.spines["left"].set_visible(False)
        figure.tight_layout()
        return figure

    return Drawing("active_and_steered", "Most active against most steered", caption, draw)


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """`count` axes in rows of three, all with the same scales."""
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH_IN, 0.6 + 1.35 * rows))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes


def span(sizes: Iterable[int]) -> str:
    """Sizes of groups in words: one number, or from the smallest to the largest."""
    known = sorted(set(sizes))
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def filtered(summary: Summary) -> str:
    """The end of a caption: which run, and what was left out."""
    return f"Run {summary.run}; filters: {', '.join(summary.filters) or 'none'}."


def _sentence(text: str) -> str:
    return textwrap.shorten(text, 600) + "."
