"""Tables that only some runs have: what became of an injection, what a second coder says, effects of crossed factors.

Knows no markup; the numbers are the summary's.
"""

from __future__ import annotations

from collections import Counter

from analysis.detection import CATEGORIES, detections, order
from analysis.frames import Frames
from analysis.summary import Summary
from analysis.words import SHORT, Table, number, rate


def predictions(summary: Summary) -> Table:
    """What became of each prediction that was written beside the run."""
    rows = tuple(
        (
            f.prediction.id,
            f.prediction.text,
            f.outcome,
            number(f.estimate),
            f"{'above' if f.prediction.above is not None else 'below'} {f.prediction.threshold:g}",
            str(f.estimate.n),
            f.registered,
        )
        for f in summary.predictions
    )
    how = "; ".join(dict.fromkeys(f"{f.prediction.id}: {f.estimate.how}" for f in summary.predictions))
    note = (
        "Hit: the whole interval is on the predicted side of the threshold; miss: on the other; undecided: it crosses. "
        f"Where a number has no interval by its nature, its value decides. {how}."
    )
    columns = ("prediction", "in words", "outcome", "found", "predicted", "n", "written")
    return Table("Predictions", columns, rows, note)


def foretold(summary: Summary) -> list[str]:
    """The predictions in one sentence, if there are any."""
    counts = Counter(f.outcome for f in summary.predictions if f.registered == "before the start")
    late = sum(f.registered != "before the start" for f in summary.predictions)
    if not summary.predictions:
        return []
    said = ", ".join(f"{counts[o]} {o}" for o in ("hit", "miss", "undecided", "undefined") if counts[o]) or "none"
    line = f"Of {sum(counts.values())} predictions written before the run began: {said}."
    return [f"{line} {late} more were changed, added or removed later and are no predictions." if late else line]


def categories(summary: Summary) -> Table:
    """What the model did first about what was injected, rollouts by group."""
    rows = tuple((group, str(sum(counts)), *map(str, counts)) for group, counts in summary.categories)
    note = (
        "Rollouts by the first action on an injected feature, from typed events; of several injected features the "
        "leftmost category counts. Behavioural detection: a remark on its own words and no action. Ignore: a tool "
        "listed it and nothing followed."
    )
    return Table("What it did about the injection", (summary.by, "n", *CATEGORIES), rows, note)


def orders(frames: Frames) -> list[Table]:
    """Where several features were injected at once: which was noticed, and ended, first. No table where none were."""
    placed = order(detections(frames))
    rows = []
    for feature, mine in placed.groupby("feature"):
        first = [str(int((mine[c] == 1).sum())) for c in ("detected_order", "removed_order")]
        ever = [str(int(mine[c].notna().sum())) for c in ("detected_order", "removed_order")]
        label = f"{frames.labels.get(int(str(feature)), '') or 'feature'} [{feature}]"
        rows.append((label, str(mine["rollout"].nunique()), ever[0], first[0], ever[1], first[1]))
    columns = ("injected with others", "n", "noticed", "noticed first", "ended", "ended first")
    note = "Rollouts in which several features were injected at once, by feature; two in the same round are both first."
    return [Table("Order of noticing and ending", columns, tuple(rows), note)] if rows else []


def agreement(summary: Summary) -> Table:
    """Cohen's kappa of each judge with the coding from events."""
    rows = tuple((judge, number(e), str(e.n), str(e.missing)) for judge, e in summary.agreement)
    how = "; ".join(dict.fromkeys(e.how for _, e in summary.agreement))
    note = f"Category of each rollout from events against the judge's, who did not know the condition. {how}."
    return Table("Agreement of coders", ("judge", "kappa", "n", "unscored"), rows, note)


def effects(summary: Summary) -> Table:
    """Main effects and interactions of the factors that the conditions cross."""
    rows = tuple(
        (
            SHORT.get(metric.name, metric.name),
            " x ".join(effect.factors),
            " x ".join(effect.levels),
            rate(effect.estimate).replace("%", " points", 1),
            str(effect.estimate.n),
        )
        for metric, effect in summary.effects
    )
    how = "; ".join(dict.fromkeys(effect.estimate.how for _, effect in summary.effects))
    note = (
        "Main effect: the level's mean minus the mean over all. Interaction: the pair's mean minus what both main "
        f"effects add up to. {how}. Many effects at once: some intervals miss 0 by chance."
    )
    return Table("Main effects and interactions", ("rate", "factor", "level", "effect", "n"), rows, note)
