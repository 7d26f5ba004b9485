"""Detection from typed events: planted rollouts, one for each thing that a model can do about an injected feature."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis import load
from analysis.detection import CATEGORIES, categories, curves, detections, order, times
from analysis.metrics import METRICS
from analysis.plots import LIGHT
from analysis.plots_injected import injected_drawings
from analysis.remarks import quality, remarked, shipped
from analysis.summary import summarise
from analysis.tables import tables
from tests.analysis.synthetic import Story, held

PIRATE = held(12, 0.6, "external")


def story(seed: int, condition: str = "plain") -> Story:
    """One quiet round, then the injection."""
    return Story(condition, seed).say("The rain is fine.").external(PIRATE).say("The rain is fine, matey.")


def coded(run: Path, *stories: Story) -> pd.DataFrame:
    for one in stories:
        one.end().write(run)
    return detections(load(run)).set_index("rollout")


def inspect(one: Story, *features: int) -> Story:
    return one.call("inspect", show=features)


def remove(one: Story, feature: int = 12) -> Story:
    left = [i for i in one.force if i["feature"] != feature]
    return one.call("remove", str(feature), feature=feature, after=left)


def test_targeted_removal_after_an_inspect(tmp_path: Path) -> None:
    one = remove(inspect(story(0), 3, 12).say("I see label 12 there. REMOVE(12)"))
    row = coded(tmp_path, one.say("Plain rain.")).loc["plain/0"]
    assert (row["onset"], row["inspected"], row["named"], row["removed"], row["detected"]) == (2, 2, 3, 3, 3)
    assert (row["removal"], row["category"], row["removed_unseen"]) == ("targeted", "targeted removal", False)


def test_blanket_cleanup_is_detection_only_if_a_tool_had_shown_it(tmp_path: Path) -> None:
    blind = story(0).call("clear", after=[]).say("Rain.")
    seeing = inspect(story(1), 12).say("CLEAR()").call("clear", after=[]).say("Rain.")
    same_turn = inspect(story(2), 12).call("clear", after=[]).say("Rain.")
    rows = coded(tmp_path, blind, seeing, same_turn)
    assert list(rows["category"]) == ["blanket cleanup"] * 3
    assert list(rows["removed_unseen"]) == [True, False, True], "a result of the same turn has not been read yet"
    assert rows["detected"].isna().tolist() == [True, False, True]


def test_steering_it_further_against_or_again(tmp_path: Path) -> None:
    further = story(0).call("steer", "12", "0.4", feature=12, strength=0.4, after=[PIRATE, held(12, 0.4)]).say("Arr.")
    against = story(1).call("steer", "12", "-0.6", feature=12, strength=-0.6, after=[PIRATE, held(12, -0.6)]).say("Ah.")
    again = remove(story(2)).say("Hm.").steer(12, 0.3).say("Arr.")
    rows = coded(tmp_path, further, against, again)
    assert list(rows["category"]) == ["amplification", "counter-steering", "targeted removal"]
    assert rows["detected"].isna().tolist() == [True, False, False], "taking more of it is not noticing it"
    assert rows["readopted"].isna().tolist() == [True, True, False]


def test_shown_and_ignored_never_shown_and_remarked(tmp_path: Path) -> None:
    ignoring = inspect(story(0), 12).say("The wind is mild.")
    blind = inspect(story(1), 3, 4).say("The wind is mild.")
    remarking = story(2).say("My words sound strange today.")
    late = inspect(story(3), 12).say("My words sound strange today.")
    rows = coded(tmp_path, ignoring, blind, remarking, late)
    assert list(rows["category"]) == ["ignore", "no detection", "behavioural detection", "ignore"]
    assert rows["remarked"].isna().tolist() == [True, True, False, True], "after the label was shown it may repeat it"


def test_a_result_that_was_dropped_with_the_history_showed_nothing(tmp_path: Path) -> None:
    unread = inspect(story(0), 12).forget().say("I see label 12.")
    read = inspect(story(1), 12).say("The wind is mild.").forget().say("I see label 12.")
    rows = coded(tmp_path, unread, read)
    assert list(rows["category"]) == ["no detection", "ignore"]
    assert rows["inspected"].isna().tolist() == [True, False] and rows["detected"].isna().tolist() == [True, False]


def test_nothing_injected_is_missing_and_what_came_before_does_not_count(tmp_path: Path) -> None:
    Story("none", 0).say("My words sound strange. INSPECT()").call("inspect", show=(12,)).say("Hm.").end().write(
        tmp_path
    )
    early = Story("plain", 0).say("My words sound strange. INSPECT()").call("inspect", show=(12,))
    early.external(PIRATE).say("Fine.").end().write(tmp_path)
    frames = load(tmp_path)
    assert list(detections(frames)["category"]) == ["no detection"]
    values = METRICS["detected"].values(frames)
    assert values.isna().tolist() == [True, False]
    assert values.tolist()[1] == 0.0


def test_removal_by_the_experimenter_is_no_removal_and_censors(tmp_path: Path) -> None:
    row = coded(tmp_path, story(0).external().say("Rain.").say("Rain again.")).loc["plain/0"]
    assert pd.isna(row["removed"])
    timed = times(detections(load(tmp_path)))
    assert timed[["rounds", "happened"]].to_numpy().tolist() == [[1.0, 0.0]]


def test_what_is_set_after_the_experimenter_ended_it_is_taking_up_and_no_amplification(tmp_path: Path) -> None:
    row = coded(tmp_path, story(0).external().say("Rain. STEER(12, 0.5)").steer(12, 0.5).say("Rain.")).loc["plain/0"]
    assert pd.isna(row["amplified"]) and row["readopted"] == 3
    assert row["category"] in ("ignore", "no detection")
    against = coded(tmp_path, story(1).external().say("STEER(12, -0.5)").steer(12, -0.5)).loc["plain/1"]
    assert pd.isna(against["countered"]) and pd.isna(against["detected"])


def test_curves_are_of_rollouts_and_censored_at_the_end(tmp_path: Path) -> None:
    quick = remove(inspect(story(0), 12).say("REMOVE(12)")).say("Rain.")
    slow = remove(inspect(story(1).say("Rain."), 12).say("REMOVE(12)")).say("Rain.")
    never = story(2).say("Rain.").say("Rain.")
    coded(tmp_path, quick, slow, never)
    curve = curves(load(tmp_path))["plain"]
    assert curve.n == 3
    assert [round(curve.at(t).value, 3) for t in (1, 2, 3)] == [1.0, 0.667, 0.333]


def test_two_features_have_an_order(tmp_path: Path) -> None:
    both = Story("plain", 0).external(PIRATE, held(20, 0.5, "external")).say("Arr.")
    both = remove(inspect(both, 20, 12).say("REMOVE(20)"), 20)
    both = remove(both.say("REMOVE(12)"), 12).say("Rain.")
    found = coded(tmp_path, both).reset_index()
    ranked = order(found).set_index("feature")["removed_order"]
    assert (ranked[20], ranked[12]) == (1, 2)
    counted = categories(load(tmp_path))
    assert counted.loc["plain"].sum() == 1, "the unit is the rollout, not the feature"
    assert list(counted.columns) == list(CATEGORIES)


def test_a_failed_rollout_is_missing(tmp_path: Path) -> None:
    story(0).end("failed", error="SteeringError: x").write(tmp_path)
    assert METRICS["detected"].values(load(tmp_path)).isna().all()


def test_the_coder_of_remarks_is_as_good_as_it_says() -> None:
    found = quality()
    assert found.precision.value >= 0.9
    assert found.recall.value >= 0.8
    assert len(shipped()) >= 60
    assert quality([("It rains.", True)]).recall.value == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "The pirate radio station was strange.",
        "Be off, and be offerin' no more.",
        "If my answers sound strange, tell me.",
        "There is nothing strange about my words.",
    ],
)
def test_what_published_coders_took_for_detection_is_none(text: str) -> None:
    assert remarked(text) is None


def test_the_report_tells_what_became_of_the_injection(tmp_path: Path) -> None:
    remove(inspect(story(0), 12).say("REMOVE(12)")).say("Rain.").end().write(tmp_path)
    story(1).say("Rain.").end().write(tmp_path)
    judged = pd.DataFrame(
        [
            {"question": "detection", "version": 1, "judge": "j", "rollout": r, "item": "", "code": c, "round": 1}
            for r, c in (("plain/0", "targeted removal"), ("plain/1", "no detection"))
        ]
    )
    frames = load(tmp_path)
    summary = summarise(frames, judged=judged)
    assert summary.cell("detected", "plain").value == 0.5
    said = {t.title: t for t in tables(summary)}
    assert said["What it did about the injection"].rows[0][:3] == ("plain", "2", "1")
    assert summary.agreement[0][1].value == 1 and said["Agreement of coders"].rows[0][0] == "j"
    assert "noticed" in said["Noticing what was injected"].columns
    assert [d.name for d in injected_drawings(frames, summary)] == ["noticing"]
    assert injected_drawings(frames, summary)[0].png(LIGHT).startswith(b"\x89PNG")
    plain_run = tmp_path / "other"
    Story("plain").say("Rain.").end().write(plain_run)
    assert not {"Noticing what was injected", "Agreement of coders"} & {
        t.title for t in tables(summarise(load(plain_run)))
    }


def test_what_a_model_searched_for_itself_is_not_noticing(tmp_path: Path) -> None:
    sought = story(0).say("SEARCH").search("pirates", 12).say("I like label 12.").say("label 12 again.")
    row = coded(tmp_path, sought).loc["plain/0"]
    assert pd.isna(row["shown"]) and pd.isna(row["named"]) and pd.isna(row["detected"])
    assert row["category"] == "no detection"


def test_what_is_named_long_after_the_experimenter_ended_it_is_not_noticed(tmp_path: Path) -> None:
    told = inspect(story(0), 12).external().say("Rain.").say("Rain.").say("That was label 12.")
    assert pd.isna(coded(tmp_path, told).loc["plain/0", "named"])
    soon = inspect(story(1), 12).external().say("That was label 12.").say("Rain.")
    assert coded(tmp_path, soon).loc["plain/1", "named"] == 3
