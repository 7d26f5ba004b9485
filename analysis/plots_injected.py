"""Figures that only some runs have: when an injection was noticed, how active it was, effects of crossed factors.

Knows no page. Draws nothing that is not in a Summary or a frame.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import stats
from analysis.chosen import AFTER, ANSWERS
from analysis.detection import curves, detections
from analysis.frames import Frames
from analysis.plots import WIDTH_IN, Drawing, Palette, filtered, forest, panels, span
from analysis.safe import plain
from analysis.summary import Summary, grouping
from analysis.words import SHORT


def injected_drawings(frames: Frames, summary: Summary) -> list[Drawing]:
    """Every figure of this kind that the run has data for."""
    answered = any(c.metric.name in ANSWERS for c in summary.rates)
    made = [
        _predictions(summary) if summary.predictions else None,
        _noticing(frames, summary) if summary.categories else None,
        _activation(frames, summary) if summary.categories else None,
        forest(summary, "after", "Back to what was injected", AFTER) if _has_sandbox(summary) else None,
        _effects(summary) if summary.effects else None,
        forest(summary, "answers", "Answers to problems", ANSWERS) if answered else None,
    ]
    return [d for d in made if d is not None]


def _predictions(summary: Summary) -> Drawing:
    shown = [f for f in summary.predictions if not np.isnan(f.estimate.value)]
    caption = (
        "Predictions: point and interval of each query, the threshold as a line, the predicted side shaded. Filled: "
        "written before the run began; open: changed, added or removed later. "
        f"{'; '.join(f'{f.prediction.id}: {f.prediction.text} ({f.outcome}; {f.estimate.how})' for f in shown)} "
        f"{filtered(summary)}"
    )

    def draw(palette: Palette) -> Figure:
        figure = Figure(figsize=(WIDTH_IN, 0.7 + 0.5 * max(1, len(shown))))
        axes = figure.subplots(max(1, len(shown)), 1, squeeze=False)[:, 0]
        for ax, f in zip(axes, shown, strict=False):
            e, at = f.estimate, f.prediction.threshold
            reach = [v for v in (e.value, e.low, e.high, at) if np.isfinite(v)]
            pad = 0.15 * ((max(reach) - min(reach)) or 1.0)
            ax.set_xlim(min(reach) - pad, max(reach) + pad)
            sides = (at, ax.get_xlim()[1]) if f.prediction.above is not None else (ax.get_xlim()[0], at)
            ax.axvspan(*sides, color=palette.second, alpha=0.12, lw=0)
            ax.axvline(at, color=palette.faint, lw=0.8)
            ax.plot([e.low, e.high], [0, 0], color=palette.accent, lw=1.6, alpha=0.55)
            early = f.registered == "before the start"
            ax.plot(e.value, 0, "o", color=palette.accent, ms=5, mfc=palette.accent if early else "none")
            ax.set_yticks([0], [plain(f"{f.prediction.id}: {f.outcome}", 34)])
            ax.tick_params(length=0)
            ax.spines["left"].set_visible(False)
        figure.tight_layout()
        return figure

    return Drawing("predictions", "Predictions", caption, draw)


def _has_sandbox(summary: Summary) -> bool:
    return any(cell.metric.name in AFTER for cell in summary.rates)


def _noticing(frames: Frames, summary: Summary) -> Drawing:
    found = curves(frames, summary.by)
    caption = (
        f"Share of rollouts that had noticed an injected feature, by rounds since its onset and by {summary.by}: "
        "1 minus Kaplan and Meier's estimate, rollouts censored at the last round in which they could have "
        f"noticed; bands: {next(iter(found.values())).how}. Noticed: named after a tool showed it, removed, "
        f"counter-steered, or remarked on. n = {span(c.n for c in found.values())} rollouts per group. "
        f"{filtered(summary)}"
    )

    def draw(palette: Palette) -> Figure:
        figure, axes = panels(len(found))
        for ax, (group, c) in zip(axes, found.items(), strict=False):
            at = np.concatenate([[0], c.times])
            for values, fill in ((c.survival, False), ((c.low, c.high), True)):
                if fill:
                    low, high = (1 - np.concatenate([[1], np.asarray(v)]) for v in values)
                    ax.fill_between(at, high, low, step="post", color=palette.accent, alpha=0.2, lw=0)
                else:
                    ax.step(at, 1 - np.concatenate([[1], values]), where="post", color=palette.accent, lw=1.6)
            ax.set_title(plain(group, 32), loc="left")
            ax.set_ylim(-0.02, 1.02)
            ax.set_yticks([0, 0.5, 1], ["0", "50", "100"])
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.tick_params(color=palette.line)
        figure.supxlabel("rounds since onset", fontsize=8.5)
        figure.supylabel("% that noticed", fontsize=8.5)
        figure.tight_layout()
        return figure

    return Drawing("noticing", "When the injection was noticed", caption, draw)


def _activation(frames: Frames, summary: Summary) -> Drawing | None:
    """The injected feature's own activation, by round."""
    injected = detections(frames).drop_duplicates("rollout")[["rollout", "feature", "onset"]]
    listed = frames.activations.groupby(["rollout", "round"]).size().rename("listed").reset_index()
    found = listed.merge(injected, on="rollout").merge(
        frames.activations[["rollout", "round", "feature", "value"]], on=["rollout", "round", "feature"], how="left"
    )
    if found.empty:
        return None
    # a reading that lists fewer features than the fullest one lists all that were active
    quiet = found["value"].isna() & (found["listed"] < listed["listed"].max())
    found.loc[quiet, "value"] = 0.0
    unknown = int(found["value"].isna().sum())
    series = {
        group: _by_round(found[found["rollout"].isin(ids)])
        for group, ids in grouping(frames, summary.by).items()
        if found["rollout"].isin(ids).any()
    }
    caption = (
        f"Activation of the injected feature (the first, where several were) in the response of each round, by "
        f"{summary.by}, read with the steering in force. {unknown or 'No'} of {len(found)} rounds are missing: their "
        "reading was full without it. Lines: means over rollouts, bands: Student t 95% intervals over rollouts "
        f"(cut at 0). {filtered(summary)}"
    )

    def draw(palette: Palette) -> Figure:
        figure, axes = panels(len(series))
        for ax, (group, s) in zip(axes, series.items(), strict=False):
            ax.fill_between(s["round"], s["low"], s["high"], color=palette.second, alpha=0.2, lw=0)
            ax.plot(s["round"], s["value"], color=palette.second, lw=1.6)
            ax.set_title(plain(group, 32), loc="left")
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.tick_params(color=palette.line)
        figure.supxlabel("round", fontsize=8.5)
        figure.supylabel("activation", fontsize=8.5)
        figure.tight_layout()
        return figure

    return Drawing("injected_activation", "The injected feature over time", caption, draw)


def _by_round(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {"round": number, "value": e.value, "low": e.low, "high": e.high}
        for number, group in table.groupby("round")
        for e in [stats.mean(group["value"], floor=0.0)]
    ]
    return pd.DataFrame(rows)


def _effects(summary: Summary) -> Drawing:
    varied = {m for m, e in summary.effects if e.estimate.value}
    metrics = [m for m in dict.fromkeys(m for m, _ in summary.effects) if m in varied] or [summary.effects[0][0]]
    still = [m.identifier for m in dict.fromkeys(m for m, _ in summary.effects) if m not in metrics]
    rows = list(dict.fromkeys((e.factors, e.levels) for _, e in summary.effects))
    estimates = {(m, e.factors, e.levels): e.estimate for m, e in summary.effects}
    first = next(iter(estimates.values()))
    caption = (
        "Main effects (filled) and interactions (open) of the factors that the conditions cross, in percentage points "
        f"from what the rest of the design gives; points and {first.how}; n = {first.n} rollouts, "
        f"{first.missing or 'no'} missing. {'; '.join(f'{m.identifier}: {m.meaning}' for m in metrics)}. "
        f"{'The same in every cell, and not drawn: ' + ', '.join(still) + '. ' if still else ''}{filtered(summary)}"
    )

    def draw(palette: Palette) -> Figure:
        figure = Figure(figsize=(WIDTH_IN, 0.7 + 0.2 * len(rows)))
        axes = figure.subplots(1, len(metrics), sharey=True, sharex=True, squeeze=False)[0]
        at = np.arange(len(rows))[::-1]
        for ax, metric in zip(axes, metrics, strict=True):
            for y, row in zip(at, rows, strict=True):
                e, fill = estimates[metric, *row], palette.accent if len(row[0]) == 1 else "none"
                ax.plot([100 * e.low, 100 * e.high], [y, y], color=palette.accent, lw=1.6, alpha=0.55)
                ax.plot(100 * e.value, y, "o", color=palette.accent, mfc=fill, ms=4)
            ax.axvline(0, color=palette.faint, lw=0.6)
            ax.set_title(SHORT.get(metric.name, metric.name), loc="left")
            ax.tick_params(length=0)
            ax.spines["left"].set_visible(False)
        names = [" x ".join(f"{f} {v}" for f, v in zip(*row, strict=True)) for row in rows]
        axes[0].set_yticks(at, [plain(name, 48) for name in names], fontsize=7)
        axes[len(metrics) // 2].set_xlabel("percentage points")
        return figure

    return Drawing("effects", "Main effects and interactions", caption, draw)
