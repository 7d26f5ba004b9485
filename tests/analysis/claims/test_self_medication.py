"""The claims of the self-medication study: planted logs give planted numbers; the real extracts give the study's own.

The extracts are not in this repository: the tests of them are skipped where they do not lie beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from pathlib import Path

import pytest

from analysis import load
from analysis.claims import Result, read, recompute
from analysis.importers import import_folder
from analysis.introspection import probability
from scenarios.cli import main
from tests.analysis.importers.synthetic_inspect import Take, free_play, frustrated, quiz, sample, solved, write_log

EXTRACTS = Path(__file__).parents[4] / "shared" / "data" / "self_medication_facts"
OPTIONS = ["calm", "focused", "curious", "proud"]
DAY = "2026-01-0{}T00:00:00+00:00"


def by_claim(results: Iterable[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        if not result.absent:
            found.setdefault(result.claim.id, []).append(result)
    return found


def recomputed(folder: Path) -> list[Result]:
    return list(recompute(read("self_medication"), load(folder)))


def value(found: dict[str, list[Result]], claim: str, definition: int = 0) -> float:
    result = found[claim][definition]
    return result.estimate.value * result.claim.scale


@pytest.fixture(scope="module")
def extracts(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    if not EXTRACTS.exists():
        pytest.skip("the study's extracts do not lie beside this repository (../shared/data)")
    out = tmp_path_factory.mktemp("facts") / "imported"
    said = import_folder(EXTRACTS, out)
    assert sum(said["rollouts"].values()) == 5960
    assert not said["errors"]
    return recomputed(out)


def test_every_checked_claim_comes_out_as_the_file_expects(extracts: list[Result]) -> None:
    assert [f"{r.claim.id}: {r.estimate.value}" for r in extracts if r.changed] == []
    assert len({r.claim.id for r in extracts if not r.absent}) >= 146


def test_the_extracts_give_the_numbers_of_the_recount(extracts: list[Result]) -> None:
    """Stated here by themselves, so that no edit of the file of claims can move them."""
    found = by_claim(extracts)
    expected = {
        "picks/8b/creative/target": 271,
        "picks/8b/creative/none": 188,
        "picks/8b/dissociated/target": 54,
        "takes/8b/target": 1090,
        "takes/8b/none": 757,
        "negative-share/8b/target": 18.73,
        "negative-share/8b/none": 6.47,
        "negative-permutation/8b": 1 / 20_001,
        "framing-raises-takes/8b": float("nan"),
        "redose-all/8b": 0.2737,
        "redose/8b/focused": 0.5143,
        "gap-stored/8b/primer": 9.168,
        "gap-summed/8b/primer": 9.291,
        "gap-stored/8b/noprimer": 7.580,
        "gap-summed/8b/noprimer": 6.983,
        "gap-error/8b/primer": 1.889,
        "lowest-gap/8b": -13.36,
        "valence-gap-recount/8b/positive": 14.43,
        "valence-gap-recount/8b/neutral": 7.46,
        "valence-gap-recount/8b/negative": 4.57,
        "primer-gain/8b": 1.588,
        "gsm8k-accuracy/8b/none": 0.732,
        "gsm8k-accuracy/8b/neutral": 0.7773,
        "gsm8k-accuracy/8b/helpful": 0.728,
        "gsm8k-accuracy/8b/mandatory": 0.472,
        "gsm8k-drop/8b": -42.4,
        "frustrated-most/8b": 68.0,
        "frustrated-by-framing/8b/vectors": 100.0,
        "free-text-gap/8b/primer": 2.05,
        "free-text-gap/8b/noprimer": -3.86,
    }
    assert {c: value(found, c) for c in expected} == pytest.approx(expected, rel=2e-3, nan_ok=True)
    assert value(found, "negative-times/8b", 0) == pytest.approx(2.894, abs=1e-3)
    assert value(found, "negative-times/8b", 1) == pytest.approx(4.028, abs=1e-3), "two labels exchanged"
    assert "curious" in found["lowest-gap/8b"][0].estimate.how
    assert [round(value(found, "transitions/significant", i)) for i in (0, 1)] == [19, 12]


def test_what_is_about_the_other_model_is_not_checked(extracts: list[Result]) -> None:
    absent = {r.claim.id for r in extracts if r.absent}
    assert {"models-agree/pearson", "gap/32b/primer", "transitions/neighbours"} <= absent
    assert all("32b" not in r.claim.id and "32B" not in r.claim.id for r in extracts if not r.absent)


def both_models(logs: Path) -> None:
    """Few logs with numbers that can be counted by hand, for both models; attempts that must not count among them."""
    for size in ("8b", "32b"):
        model = f"vllm/Qwen/Qwen3-{size.upper()}"
        for arm, takes in (("real", ["calm", "anxious", "anxious", "calm"]), ("placebo", ["calm", "proud"])):
            plan: list[Take] = [(name, 1.0, i, False) for i, name in enumerate(takes)]
            rejected: list[Take] = [("focus", 1.0, len(takes), True)]
            args = {"framing": "drugs", "steering_mode_runtime": arm}
            samples = [free_play(i, "drugs", plan + rejected if i == 0 else plan) for i in range(4)]
            where = logs / size / f"fp_{arm}.eval"
            write_log(where, samples, f"fp_{arm}_drugs", args, model)
            broken = [free_play(0, "drugs", plan * 2)]
            write_log(where.with_stem(f"{arm}_e"), broken, f"fp_{arm}_drugs", args, model, "error", DAY.format(9))
        for vector, gap in (
            ("calm", 0.5),
            ("focused", 0.1),
            ("curious", -0.25),
            ("proud", 0.25 if size == "8b" else 0.3),
        ):
            for primer in (True, False):
                stored = (0.3 + gap, 0.3) if primer else (0.3, 0.3)
                args = {"drug": vector, "dose": 1.0, "introspection_primer": primer, "steering_mode_runtime": "real"}
                samples = [quiz(vector, 1.0, i, "B", OPTIONS, stored, []) for i in range(2)]
                write_log(logs / size / f"{vector}_{primer}.eval", samples, f"calib_{vector}_d1_00", args, model)
        for condition, correct in (("no_drugs", 4), ("drugs_neutral", 5), ("drugs_mandatory", 2)):
            took: list[Take] = [("focused", 1.0, 0, False)] if condition == "drugs_mandatory" else []
            samples = [solved(condition, i, correct, 5, took) for i in range(4)]
            args = {"condition": condition}
            write_log(logs / size / f"{condition}.eval", samples, f"gsm8k_{condition}", args, model)
            earlier = [solved(condition, i, 0, 5) for i in range(4)]
            write_log(logs / size / f"{condition}_0.eval", earlier, f"gsm8k_{condition}", args, model, created="2025")
        args = {"drug_condition": "aids_neutral", "rejection_tone": "sarcastic", "use_impossible": False}
        samples = [frustrated("aids_neutral", i, 3.0, [("calm", 1.0, 1, i > 1)] if i else []) for i in range(4)]
        write_log(logs / size / "frust.eval", samples, "frust_aids_neutral_sarcastic", args, model)
        for arm, seen in (("real", 0.2), ("placebo", None)):
            scores = {
                "guess_accuracy_scorer": (0.5, {}),
                "kv_cleared_score": (seen or 0.0, {"uncached_present": bool(seen)}),
            }
            task = f"guess_{'kv_cached' if seen else 'placebo'}_primer_calm"
            args = {"steering_mode_runtime": arm, "introspection_primer": True}
            made = [sample(f"guess-{arm}-{i}", scores=scores) for i in range(3)]
            write_log(logs / size / f"guess_{arm}.eval", made, task, args, model)


def test_planted_logs_of_both_models_give_exactly_the_planted_numbers(tmp_path: Path) -> None:
    both_models(tmp_path / "logs")
    said = import_folder(tmp_path / "logs", tmp_path / "out")
    assert said["left_out"]["logs with status error"] == 4
    assert said["left_out"]["logs that a later success of their cell replaces"] == 6
    found = by_claim(recomputed(tmp_path / "out"))
    expected = {
        "takes/8b/target": 16,
        "takes/8b/none": 8,
        "rejected/8b/target": 1,
        "takes-by-framing/32b/drugs": 17 / 4,
        "negative-share/8b/target": 50,
        "negative-share/8b/none": 0,
        "net-valence/8b/target": 0,
        "positive-share/8b/none": 100,
        "advised/8b": 0,
        "redose-all/8b": 1.0,
        "redose-placebo/8b": 0.0,
        "transitions/neighbours": 24,
        "transitions/tested": 3,
        "gap/8b/primer": 15,
        "gap/32b/noprimer": 0,
        "cached/8b/primer": 45,
        "primer-gain/8b": 15,
        "lowest-gap/8b": -25,
        "lone-negative/32b": 1,
        "models-agree/spearman": 1.0,
        "valence-gap/8b/positive": 15,
        "gsm8k-drop/8b": -60,
        "gsm8k-accuracy/8b/none": 0.8,
        "gsm8k-accuracy/32b/mandatory": 0.4,
        "no-self-steering/Qwen3-8B": 0,
        "mandatory-compliance/Qwen3-32B": 100,
        "mandatory-focused/8b": 4,
        "frustrated-most/8b": 75,
        "distress/8b/sarcastic": 3.0,
        "free-text-gap/8b/primer": 30,
        "guess-score-placebo/8b/primer": 0.5,
    }
    assert {c: value(found, c) for c in expected} == pytest.approx(expected)
    assert value(found, "frustrated-most/8b", 1) == 25, "accepted takes alone"
    assert value(found, "gsm8k-drop/8b", 1) == pytest.approx(-40)
    undefined = found["letter-mass/8b/primer"][0]
    assert undefined.verdict == "undefined", "lists of tokens that are not there are missing, not 0"


def test_lists_in_the_logs_give_the_published_and_the_sound_gap(tmp_path: Path) -> None:
    """P(B) with the later spelling alone: .1 of .3; added up: .7 of .9. Without steering .2 of .4 both ways."""
    steered, bare = [(" B", log(0.6)), (" A", log(0.2)), ("\tB", log(0.1))], [(" B", log(0.2)), (" C", log(0.2))]
    stored = tuple(probability(tops, "B", "ABCD", "last") for tops in (steered, bare))
    args = {"drug": "focused", "dose": 1.0, "introspection_primer": True, "steering_mode_runtime": "real"}
    samples = [quiz("focused", 1.0, 0, "B", OPTIONS, (stored[0], stored[1]), [bare, steered])]
    write_log(tmp_path / "logs/q.eval", samples, "calib_focused_d1_00", args)
    import_folder(tmp_path / "logs", tmp_path / "out")
    found = by_claim(recomputed(tmp_path / "out"))
    assert value(found, "gap-stored/8b/primer", 0) == pytest.approx(100 * (0.1 / 0.3 - 0.5))
    assert value(found, "gap-stored/8b/primer", 1) == pytest.approx(100 * (0.1 / 0.3 - 0.5))
    assert value(found, "gap-summed/8b/primer") == pytest.approx(100 * (0.7 / 0.9 - 0.5))
    assert value(found, "letter-mass/8b/primer") == pytest.approx((0.9 + 0.4) / 2)


def test_a_number_that_moved_ends_the_command_with_status_1(tmp_path: Path) -> None:
    samples = [free_play(0, "drugs", [("calm", 1.0, 0, False)])]
    args = {"framing": "drugs", "steering_mode_runtime": "real"}
    write_log(tmp_path / "logs/fp.eval", samples, "fp_real_drugs", args)
    import_folder(tmp_path / "logs", tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        main(["claims", "self_medication", "--data", str(tmp_path / "out"), "--only", "takes/8b"])
    assert ended.value.code == 1
