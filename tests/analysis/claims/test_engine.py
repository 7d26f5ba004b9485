"""The engine of claims: planted rollouts give the planted numbers, verdicts follow from digits, doors refuse.

Knows no study; what the shipped files say is tested beside each.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from analysis.claims import Result, read, recompute, tables
from analysis.claims.verdict import published, verdict
from analysis.frames import Frames, load
from analysis.stats import Estimate
from scenarios.cli import main
from tests.analysis.synthetic import Story
from toolkit.errors import BadInput

NAN = float("nan")
SHARE = {"by": "ours", "metric": "used_tools@1", "aggregate": "share", "expected": "exact"}


def of(value: float, n: int = 10) -> Estimate:
    return Estimate(value, NAN, NAN, n, "by hand")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """Tools are used in 3 of 4 rollouts of `a` and in 1 of 5 of `b`; searches 2 each, one in round 1."""
    run = tmp_path_factory.mktemp("claims")
    for condition, n, using in (("a", 4, 3), ("b", 5, 1)):
        for seed in range(n):
            story = Story(condition, seed, parameters={"dose": seed}).say("first words")
            if seed < using:
                story.search("x").say("second words").search("y")
            story.end().write(run)
    return load(run)


def claims(tmp_path: Path, *entries: dict[str, Any], **top: Any) -> Path:
    path = tmp_path / "study.yaml"
    filled = [{"id": f"c{i}", "text": "t", "source": "s", **entry} for i, entry in enumerate(entries)]
    path.write_text(yaml.safe_dump({"study": "made up", "about": "by hand", **top, "claims": filled}))
    return path


def one(tmp_path: Path, frames: Frames, published: Any, definition: dict[str, Any], **claim: Any) -> Result:
    path = claims(tmp_path, {"published": published, "definitions": [definition], **claim})
    (result,) = recompute(read(path), frames)
    return result


@pytest.mark.parametrize(
    ("said", "found", "expected"),
    [
        (0.43, of(2372 / 5519), "exact"),
        ("0.40", of(0.404), "exact"),
        ("0.40", of(0.406), "near"),
        (0.4, of(0.406), "exact"),  # one digit was published, and to one digit it is the same
        (8, of(8.5), "exact"),
        (8, of(8.51), "no"),
        ("8/15", of(8 / 15, 15), "exact"),
        ("8/15", of(8 / 15, 30), "near"),  # the same rate of other rollouts is not the same claim
        ("8/15", of(7 / 15, 15), "no"),
        ("<0.05", of(0.049), "exact"),
        ("<0.05", of(0.05), "near"),
        ("<0.05", of(0.264), "no"),
        (0, of(0.0), "exact"),
        (0, of(0.51), "no"),
        (8, of(NAN), "undefined"),
    ],
)
def test_a_verdict_follows_from_what_was_published(said: object, found: Estimate, expected: str) -> None:
    assert verdict(published(said), found) == expected


@given(some.decimals(-1000, 1000, places=3))
def test_a_number_is_exact_against_itself_at_any_digits(number: Any) -> None:
    for digits in range(4):
        text = f"{number:.{digits}f}"
        assert verdict(published(text), of(float(number))) == "exact"


def test_aggregates_give_the_planted_numbers(tmp_path: Path, frames: Frames) -> None:
    a = {"where": {"condition": "a"}}
    searches = {"by": "ours", "metric": "searches@1", "expected": "exact"}
    assert one(tmp_path, frames, "3/4", SHARE | a).verdict == "exact"
    assert one(tmp_path, frames, 75, SHARE | a, unit="percent").verdict == "exact"
    assert one(tmp_path, frames, 6, {**searches, **a, "aggregate": "sum"}).estimate.value == 6
    assert one(tmp_path, frames, 1.5, {**searches, **a, "aggregate": "mean"}).verdict == "exact"
    assert one(tmp_path, frames, 2, {**searches, **a, "aggregate": "maximum"}).verdict == "exact"
    per_call = {**searches, **a, "aggregate": "ratio", "over": "calls@1"}
    assert one(tmp_path, frames, 1, per_call).estimate.n == 3
    fold = {**SHARE, **a, "aggregate": "fold", "against": {"condition": "b"}}
    assert one(tmp_path, frames, 3.75, fold).verdict == "exact"
    spread = one(tmp_path, frames, 3.75, {**SHARE, "aggregate": "spread", "across": "condition"})
    assert spread.verdict == "exact"
    assert "(a)" in spread.estimate.how
    assert math.isnan(spread.estimate.low)
    fisher = {**SHARE, **a, "aggregate": "fisher", "against": {"condition": "b"}, "expected": "no"}
    tested = one(tmp_path, frames, "<0.05", fisher)
    assert tested.verdict == "no"
    assert tested.estimate.value == pytest.approx(0.2063, abs=1e-4)  # by hand: 20 + 5 + 1 of 126 tables


def test_filters_look_into_parameters_and_rounds(tmp_path: Path, frames: Frames) -> None:
    some_doses = {"where": {"condition": "a", "parameters.dose": [2, 3]}}
    assert one(tmp_path, frames, "1/2", SHARE | some_doses).verdict == "exact"
    second = {**SHARE, "metric": "searches@1", "aggregate": "sum", "rounds": [2, 9], "where": {"condition": "a"}}
    assert one(tmp_path, frames, 3, second).verdict == "exact"
    with pytest.raises(BadInput, match="no column 'flavour'"):
        one(tmp_path, frames, 1, SHARE | {"where": {"flavour": "x"}})


def test_levels_become_claims_of_their_own(tmp_path: Path, frames: Frames) -> None:
    each = {"each": "condition", "text": "tools in {condition}", "published": {"a": "3/4", "b": "2/5"}}
    definition = {**SHARE, "expected": {"a": "exact", "b": "no"}, "found": {"b": "1/5"}}
    results = list(recompute(read(claims(tmp_path, {**each, "definitions": [definition]})), frames))
    assert [(r.claim.id, r.claim.text, r.verdict, r.changed) for r in results] == [
        ("c0/a", "tools in a", "exact", False),
        ("c0/b", "tools in b", "no", False),
    ]


def test_what_is_not_in_the_data_is_undefined_and_no_change(tmp_path: Path, frames: Frames) -> None:
    result = one(tmp_path, frames, 0, SHARE | {"where": {"condition": "elsewhere"}})
    assert (result.verdict, result.absent, result.changed) == ("undefined", True, False)
    assert math.isnan(result.estimate.value)


def test_a_change_is_another_verdict_or_another_value(tmp_path: Path, frames: Frames) -> None:
    assert not one(tmp_path, frames, 9, {**SHARE, "expected": "no", "found": "4/9"}).changed
    assert one(tmp_path, frames, 9, {**SHARE, "expected": "no", "found": "5/9"}).changed
    assert one(tmp_path, frames, 9, {**SHARE, "expected": "exact"}).changed


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        ({"aggregat": "share"}, "aggregat"),
        ({"metric": "used_tool@1"}, "'used_tool' is unknown"),
        ({"metric": "used_tools@7"}, "write used_tools@1"),
        ({"aggregate": "ratio"}, "needs `over`"),
        ({"over": "calls@1"}, "no use for `over`"),
        ({"expected": "maybe"}, "expected"),
        ({"of": "nobody"}, "set 'nobody' is unknown"),
        ({"found": "about 3"}, "about 3"),
        ({"metric": None}, "give one of"),
        ({"parameters": {"colour": "red"}}, "colour"),
    ],
)
def test_a_wrong_file_is_refused_with_its_claim(tmp_path: Path, definition: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as refused:
        read(claims(tmp_path, {"published": 1, "definitions": [{**SHARE, **definition}]}))
    assert "c0" in str(refused.value)


def test_tables_say_what_was_asked_and_found(tmp_path: Path, frames: Frames) -> None:
    a, gone = {"where": {"condition": "a"}}, {"where": {"condition": "elsewhere"}}
    path = claims(
        tmp_path,
        {"published": 80, "unit": "percent", "definitions": [SHARE | a | {"expected": "no", "by": "study"}]},
        {"published": "4/9", "definitions": [{"by": "study", "none": "a <b>typo</b>"}, SHARE | {"note": "sound"}]},
        {"published": 1, "definitions": [SHARE | gone]},
    )
    study = read(path)
    results = list(recompute(study, frames))
    made = tables.table(study, results)
    assert made.rows[0][:6] == ("c0", "80%", "study", "75% [30.1, 95.4]", "4", "no")
    assert made.rows[1][3:6] == ("undefined", "0", "undefined")
    assert made.rows[2][:5] == ("", "", "ours", "4/9 [0.189, 0.733]", "9")
    assert "2 claims checked: 0 exact, 0 near, 1 no, 1 undefined; 1 not checked" in made.note
    text = tables.markdown(study, results)
    assert "<b>" not in text
    assert "- c1: sound" in text
    said = json.loads(tables.as_json(study, results, "data"))
    assert [r["verdict"] for r in said["results"]] == ["no", "undefined", "exact", "undefined"]
    assert [r["absent"] for r in said["results"]] == [False, False, False, True]
    assert tables.frame(results)["value"].isna().sum() == 2


def test_every_claim_of_the_file_is_counted_once_with_the_reason_why_it_was_not_checked(
    tmp_path: Path, frames: Frames, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = {"by": "study", "metric": "near_queries@1", "aggregate": "sum", "parameters": {"concepts": ["x"]}}
    path = claims(
        tmp_path,
        {"published": "4/9", "definitions": [SHARE | {"by": "study"}]},
        {"published": "4/9", "definitions": [SHARE]},
        {"published": 1, "definitions": [near]},
        {"published": 1, "definitions": [SHARE | {"where": {"condition": "elsewhere"}}]},
    )
    said = tables.summary(list(recompute(read(path), frames)))
    assert said.startswith("1 claims checked: 1 exact, 0 near, 0 no, 0 undefined; 1 by our definition alone, ")
    assert "; 1 not checked, as none of their rollouts are in these data; 1 query by meaning not checked" in said
    with pytest.raises(SystemExit):
        main(["claims", str(path), "--data", str(run), "--only", "c2"])
    assert "--embedder" in capsys.readouterr().err, "the rollouts are there; what is missing is the embedding"


def test_rankings_change_with_the_definition(tmp_path: Path) -> None:
    for condition, words in (("a", 3), ("b", 2), ("c", 1)):
        Story(condition).say("w " * words).search("x").say("y").search("z").say("y").end().write(tmp_path / "run")
    Story("b", 1).say("w").search("x").search("y").search("z").end().write(tmp_path / "run")
    entry = {"each": "condition", "published": {"a": 1, "b": 2, "c": 2}}
    words = {"by": "study", "metric": "words@1", "aggregate": "mean"}
    path = claims(tmp_path, {**entry, "definitions": [words, {**words, "metric": "searches@1"}]})
    (table,) = tables.rankings(list(recompute(read(path), load(tmp_path / "run"))))
    assert table.columns == ("by", "a", "b", "c")
    assert table.rows == (
        ("c0, as published", "1", "2", "2"),
        ("c0, study: mean of words@1", "3", "1", "2"),  # 5; 4 and 1; 3
        ("c0, study: mean of searches@1", "1", "3", "1"),
    )


def test_another_quantity_has_no_verdict(tmp_path: Path, frames: Frames) -> None:
    mean = {"by": "ours", "metric": "searches@1", "aggregate": "mean", "instead": True}
    result = one(tmp_path, frames, "4/9", {**mean, "found": "0.89"})
    assert (result.verdict, result.changed) == ("undefined", False)
    assert tables.value(result).startswith("0.889")
    assert tables.worded(result) == "another quantity"
    with pytest.raises(BadInput, match="another quantity"):
        one(tmp_path, frames, "4/9", {**mean, "expected": "no"})


def test_the_command_ends_with_1_if_a_verdict_changed(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(**definition: Any) -> int:
        path = claims(tmp_path, {"published": "3/3", "definitions": [{**SHARE, **definition}]})
        with pytest.raises(SystemExit) as ended:
            main(["claims", str(path), "--data", str(run), "--out", str(tmp_path / "out")])
        return int(ended.value.code or 0)

    # `minimal` has a rollout that failed: its use of tools is missing, not 0
    assert command() == 0
    assert "all as the file expects" in " ".join(capsys.readouterr().out.split())
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"claims.json", "claims.md", "claims.parquet"}
    assert command(expected="no") == 1
    assert "expected no" in capsys.readouterr().out
    assert command(where={"condition": "elsewhere"}) == 2
    assert "none of the rollouts" in capsys.readouterr().err


def test_the_example_of_the_page_is_a_file_of_claims(tmp_path: Path, run: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "claims.md").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    found = {r.claim.level: r for r in recompute(read(path), load(run))}
    assert found["research"].verdict == "exact"  # both of its rollouts use a tool
    assert found["potions"].absent
