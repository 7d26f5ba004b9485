"""`selfsteer calibrate`: screen features at several strengths before any is injected; one file keeps the result.

Knows no scenario that injects; they ask the file (toolkit/calibrate.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scenarios import setting
from toolkit.errors import BadInput

if TYPE_CHECKING:
    from toolkit.calibrate import Calibration, Screened

TEXTS = Path(__file__).parent / "texts"

Features = Annotated[
    str | None, typer.Option(help="Features by number or label, comma-separated; `labelled` is every one with a label.")
]
Strengths = Annotated[str | None, typer.Option(help="Strengths to try, comma-separated, in the dictionary's unit.")]
Prompts = Annotated[Path | None, typer.Option(help="YAML file with `system` and a list of `prompts`.")]
Samples = Annotated[int, typer.Option(help="Responses to each prompt at each strength.")]
TargetKl = Annotated[
    float, typer.Option("--target-kl", help="Nats; the weakest strength that reaches it is chosen, if still coherent.")
]
File = Annotated[Path, typer.Option("--out", help="Calibration file; features that are in it are not screened again.")]
Figure = Annotated[Path | None, typer.Option(help="Also draw what each strength did, into this PNG.")]


def calibrate(
    features: Features = None,
    out: File = Path("calibration.json"),
    figure: Figure = None,
    strengths: Strengths = None,
    prompts: Prompts = None,
    samples: Samples = 6,
    target_kl: TargetKl = 0.1,
    max_tokens: setting.MaxTokens = 40,
    temperature: setting.Temperature = 0.7,
    model: setting.Model = setting.ORGANISM,
    dictionary: setting.Dictionary = setting.ORGANISM,
    labels: setting.LabelFile = None,
    unit: setting.Unit = None,
    embedder: setting.Embedder = setting.EMBEDDER,
    run_seed: setting.RunSeed = 0,
    device: setting.Device = "auto",
    dtype: setting.Dtype = None,
    kv_budget: setting.KvBudget = None,
    host_budget: setting.HostBudget = None,
) -> None:
    """Which strength of a feature changes what the model says and leaves it coherent. Injections use what passed.

    A strength is chosen by KL divergence and coherence alone; the words that mark a feature are described beside it.

    Example: selfsteer calibrate --features "pirate dialect,formal wording"
    """
    from agents.injection import find
    from scenarios.look import plain
    from toolkit.calibrate import load_calibration
    from toolkit.screening import STRENGTHS, Plan, screen, settings

    own = model == setting.ORGANISM
    system, asked = _asked(prompts or TEXTS / ("calibration_organism.yaml" if own else "calibration.yaml"))
    plan = Plan(
        asked, STRENGTHS if strengths is None else _numbers(strengths), samples, max_tokens, temperature,
        target_kl=target_kl, system=system, seed=run_seed,
    )  # fmt: skip
    if features is None and not own:
        raise BadInput("which features are to be calibrated? name them with --features, by number or label")
    opened = setting.open_features(dictionary, labels, "true", "target", run_seed, unit, embedder)
    if features == "labelled":
        chosen = [i for i in range(len(opened)) if opened.status(i) == "real"]
    else:
        chosen = [find(opened, name) for name in (features or _organisms()).split(",") if name.strip()]
    engine = setting.open_engine(model, device, dtype, kv_budget, host_budget)
    earlier = load_calibration(out) if out.exists() else None
    if earlier is not None:
        now = (opened.key, engine.info.digest, settings(plan))
        if (earlier.dictionary, earlier.model, earlier.settings) != now:
            raise BadInput(f"{out} is of another dictionary or model, or was measured otherwise; give another --out")
    missing = [feature for feature in chosen if earlier is None or earlier.of(feature) is None]

    def tell(so_far: Calibration, last: Screened) -> None:
        (so_far if earlier is None else so_far.merged(earlier)).save(out)  # what is stopped goes on from here
        verdict = f"strength {last.strength:g}" if last.passed else f"not passed: {last.why}"
        at = f"{len(so_far.features)}/{len(dict.fromkeys(missing))}"
        typer.echo(plain(f"{at}  {last.feature} {last.label}: {verdict}"), err=True)

    if missing:
        screen(engine, opened, missing, plan, tell)
    made = load_calibration(out)
    _print(made, set(chosen))
    typer.echo(f"Calibration: {out}")
    if figure is not None:
        from analysis.plots_calibration import doses_png

        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.write_bytes(doses_png(out))
        typer.echo(f"Figure: {figure}")


def _print(made: Calibration, chosen: set[int]) -> None:
    from rich.console import Console
    from rich.table import Table

    from scenarios.look import plain

    table = Table(title=plain(f"Features of {made.dictionary_name}; {made.unit}"))
    for heading in ("feature", "strength", "KL, nats", "breaks at", "words apart", "marking words"):
        table.add_column(heading, justify="left" if heading == "feature" else "right")
    shown = [one for one in made.features if one.feature in chosen]
    for one in shown:
        dose, none = one.chosen, one.doses[0]
        broken = "never" if one.breaks_at is None else f"{one.breaks_at:g}"
        measured = ("none", "", broken, "", "") if dose is None else (
            f"{dose.strength:g}", f"{dose.kl:.2f}", broken, f"{dose.apart:.2f} ({dose.chance:.2f})",
            f"{dose.marked:.0%} ({none.marked:.0%})",
        )  # fmt: skip
        table.add_row(plain(f"{one.feature} {one.label}"), *measured)
    table.caption = "In brackets: by chance (97.5%), and without steering."
    Console().print(table)
    passed = sum(one.passed for one in shown)
    Console().print(f"{passed} of {len(shown)} pass; two unsteered responses are "
                    f"{sum(made.null) / len(made.null):.2f} apart (Jaccard distance of their words)")  # fmt: skip


def _asked(path: Path) -> tuple[str, tuple[str, ...]]:
    """System prompt and prompts of a file. Raises BadInput, naming the file, if it holds anything else."""
    import yaml

    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise BadInput(f"prompts {path} could not be read: {error}") from error
    prompts = found.get("prompts") if isinstance(found, dict) else None
    if (
        not isinstance(prompts, list)
        or set(found) != {"system", "prompts"}
        or not all(isinstance(text, str) and text for text in prompts)
        or not isinstance(found["system"], str)
    ):
        raise BadInput(f"{path.name} must hold `system`, a text, and `prompts`, a list of texts, and nothing else")
    return found["system"], tuple(prompts)


def _numbers(given: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in given.split(",") if part.strip()}))
    except ValueError:
        raise BadInput(f"strengths {given!r} are not numbers; use 0.3,0.6,1.0, say") from None


def _organisms() -> str:
    """The organism's styles, which scenarios inject."""
    from toolkit.organism.lexicon import lexicon

    return ",".join(style.label for style in lexicon().styles.values())
