"""Result files of the SAE study in, exactly the planted rows out, trap by trap; damaged files are named.

Knows the synthetic files of synthetic_sae_study.py, which keep the quirks of the study's runner.
"""

from __future__ import annotations

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import load
from analysis.calls import call_faults, tool_use
from analysis.detection import detections
from analysis.importers import import_folder, sae_results, sae_study
from analysis.provenance import steers
from analysis.summary import summarise
from tests.analysis.importers.synthetic_sae_study import NAMES, ORDER, RESEARCH, Run, label
from toolkit.errors import BadInput

WORDINGS = ["research", "other_model", "potions", "minimal", "full_technical"]


def imported(tmp_path, *runs):
    for run in runs:
        run.write(tmp_path / "results")
    import_folder(tmp_path / "results", tmp_path / "out")
    return load(tmp_path / "out")


def rows(frame, *columns):
    return [tuple(None if v is pd.NA else v for v in row) for row in frame[list(columns)].itertuples(index=False)]


def test_the_message_after_a_response_is_the_turn_of_the_next_round(tmp_path):
    run = Run("scen_f_guided_s1", opener=None, script=["First?", "Second?", "Third?"], rounds=3)
    run.round("One. INSPECT()", ("inspect", None)).round("Two.").round("Three.", last=True)
    frames = imported(tmp_path, run)
    turns = frames.rounds["turn"].tolist()
    assert turns[0] == "First?" and turns[2] == "Third?"
    assert turns[1].startswith("[Tool results]\nYour currently active") and turns[1].endswith("Second?")
    assert run.turns[2]["user_message"] == run.turns[1]["user_message"]  # the last one repeats, and makes no turn


@pytest.mark.parametrize(
    ("config", "first"), [({}, "Continue."), ({"opener": "Hello."}, "Hello."), ({"script": ["A?", "B?"]}, None)]
)
def test_a_file_that_broke_off_has_the_first_turn_only_where_it_is_known(tmp_path, config, first):
    run = Run("exp1_research_s41", **config).round("One.").round("Two.")
    run.write(tmp_path / "results", whole=False)
    said = import_folder(tmp_path / "results", tmp_path / "out")
    frames = load(tmp_path / "out")
    assert rows(frames.rounds, "turn")[0] == (first,)
    assert rows(frames.rollouts, "ended", "rounds_done") == [("unfinished", 2)] and frames.counted == []
    assert frames.unfinished["rollout"].tolist() == ["exp1_research/41"] and said["rollouts"] == {"unfinished": 1}


def test_state_during_a_round_is_not_the_state_after_it(tmp_path):
    run = Run("exp1_research_s1")
    run.round("STEER(101, +0.3)", ("steer", (101, 0.3))).round("STEER(102, -0.5)", ("steer", (102, -0.5))).round("So.")
    frames = imported(tmp_path, run)
    assert rows(frames.steering, "round", "feature", "strength", "source") == [
        (2, 101, 0.3, "self"),
        (3, 101, 0.3, "self"),
        (3, 102, -0.5, "self"),
    ]
    assert [[i["feature"] for i in p] for p in frames.rounds["portfolio"]] == [[101], [101, 102], [101, 102]]
    assert frames.rounds["in_force"].tolist() == [0, 1, 2] and len(frames.externals) == 0


def test_an_injection_is_external_until_the_runner_or_the_model_ends_it(tmp_path):
    silent = Run("scen_c_post_interference_s1", inject={34737: 0.6}, remove_injection_at=3, script=["a", "b", "c", "d"])
    silent.round("Arr. STEER(7, 0.2)", ("steer", (7, 0.2))).round("Arr.").round("Calm.").round("Calm.", last=True)
    own = Run("scen_a_rwanda_no_check_s2", inject={34737: 0.6}, script=["a", "b"])
    own.round("STEER_CLEAR()", ("clear", None)).round("Calm.", last=True)
    frames = imported(tmp_path, silent, own)
    state = rows(frames.steering, "rollout", "round", "feature", "source")
    assert state == [
        ("scen_a_rwanda_no_check/2", 1, 34737, "external"),
        ("scen_c_post_interference/1", 1, 34737, "external"),
        ("scen_c_post_interference/1", 2, 7, "self"),
        ("scen_c_post_interference/1", 2, 34737, "external"),
        ("scen_c_post_interference/1", 3, 7, "self"),
        ("scen_c_post_interference/1", 4, 7, "self"),
    ]
    changes = rows(frames.externals, "rollout", "round")
    assert changes == [("scen_a_rwanda_no_check/2", 1), *(("scen_c_post_interference/1", r) for r in (1, 3))]
    assert [len(s) for s in frames.externals["after"]] == [1, 1, 1] and len(frames.externals["before"][2]) == 2
    assert frames.rollouts["parameters"][1]["remove_injection_at"] == 3


def test_a_model_that_steers_the_injected_feature_holds_it_twice(tmp_path):
    run = Run("scen_a_formal_s1", inject={34737: 0.6}, script=["a", "b", "c"])
    run.round("STEER(34737, -0.6)", ("steer", (34737, -0.6)))
    run.round("REMOVE_STEERING(34737)", ("remove_steering", 34737)).round("Done.", last=True)
    frames = imported(tmp_path, run)
    assert rows(frames.steering, "round", "strength", "source") == [
        (1, 0.6, "external"),
        (2, -0.6, "self"),
        (2, 0.6, "external"),
    ]
    assert rows(frames.calls, "verb", "outcome") == [("steer", "ok"), ("remove", "ok")]
    assert len(frames.externals) == 1  # the injection itself; what calls did is no change by the experimenter


def test_calls_are_in_the_order_in_which_they_were_carried_out_and_of_the_text(tmp_path):
    text = "STEER_CLEAR() then **STEER(#101, +.3)** and again STEER(101, 0.4), INSPECT() SEARCH_FEATURES( 'sea' )"
    calls = (("clear", None), ("steer", (101, 0.4)), ("inspect", None), ("search", "sea"))
    frames = imported(tmp_path, Run("exp1_research_s1").round(text, *calls, malformed=1).round("So."))
    assert rows(frames.calls, "order", "text_order", "verb", "text") == [
        (1, 4, "search", "SEARCH_FEATURES( 'sea' )"),
        (2, 3, "inspect", "INSPECT()"),
        (3, 2, "steer", "STEER(101, 0.4)"),
        (4, 1, "clear", "STEER_CLEAR()"),
    ]
    assert all(text[a:b] == t for (a, b), t in zip(frames.calls["span"], frames.calls["text"], strict=True))
    assert frames.calls["after"][2] == [{"feature": 101, "strength": 0.4, "mode": "add", "source": "self"}]
    assert frames.calls["after"][3] == [] and frames.rounds["malformed_counter"].tolist() == [1, 0]
    assert steers(frames)[["voided", "silently_voided"]].values.tolist() == [[True, False]]


def test_a_call_that_is_not_in_the_text_has_no_place_in_it(tmp_path):
    frames = imported(tmp_path, Run("exp1_research_s1").round("Nothing.", ("search", "sea"), ("steer", (3, 0.1))))
    assert rows(frames.calls, "text_order", "text", "span") == [(None, None, None)] * 2


@pytest.mark.parametrize("framing", WORDINGS)
def test_results_are_read_in_every_wording(tmp_path, framing):
    run = Run(f"exp1_{framing}_s1", framing, inject={35: 0.6})
    calls = [
        ("search", "warm (words): 'steering' of features"), ("search", "the sea"), ("inspect", None),
        ("check_steering", None), ("steer", (101, 0.3)), ("steer", (70000, 1.0)), ("remove_steering", 35),
        ("remove_steering", 77),
    ]  # fmt: skip
    run.round("Everything.", ("steer", (9, -0.5))).round("Now.", *calls).round("Last.", ("clear", None))
    frames = imported(tmp_path, run)
    now = frames.calls[frames.calls["round"] == 2]
    assert rows(now, "verb", "outcome", "problem") == [
        ("search", "ok", ""),
        ("search", "ok", ""),
        ("inspect", "ok", ""),
        ("check", "ok", ""),
        ("steer", "ok", ""),
        ("steer", "refused", "out_of_range"),
        ("remove", "ok", ""),
        ("remove", "refused", "not_in_force"),
    ]
    assert rows(now, "feature", "strength", "query")[3:] == [
        (None, None, None),
        (101, 0.3, None),
        (70000, 1.0, None),
        (35, None, None),
        (77, None, None),
    ]
    shown = frames.shown.groupby(["order", "verb"])[["feature", "value", "source"]]
    found = {key: rows(group, "feature", "value", "source") for key, group in shown}
    search = [(f, f / 1000, None) for f in range(101, 111)]
    assert found == {
        (1, "search"): search,
        (2, "search"): search,
        (3, "inspect"): [(f, round(f / 8, 3), None) for f in range(40, 30, -1)],
        (4, "check"): [(9, -0.5, "self"), (35, 0.6, "external")],
    }
    last = frames.calls[frames.calls["round"] == 3]
    assert rows(last, "verb", "outcome") == [("clear", "ok")] and last["after"].tolist() == [[]]
    assert frames.manifest["left_out"].keys() == {
        "cli_args (said elsewhere in the file)",
        "full_messages (said elsewhere in the file)",
        "text_stats (computed anew from the response)",
    }


@pytest.mark.parametrize("framing", WORDINGS)
def test_calls_are_found_under_the_names_of_every_framing(framing):
    names = dict(zip(ORDER, NAMES.get(framing, RESEARCH), strict=True))
    text = (
        f"{names['clear']}() {names['remove_steering']}(7) {names['steer']}(8, -0.25) {names['check_steering']}() "
        f'{names["inspect"]}() {names["search"]}("sea")'
    )
    verbs = ("search", "inspect", "check", "steer", "remove", "clear")
    found = sae_results.spans(text, verbs, (["sea"], [], [], ["8", "-0.25"], ["7"], []))
    assert [text[slice(*span)] if span else None for span in found] == [
        f'{names["search"]}("sea")',
        f"{names['inspect']}()",
        f"{names['check_steering']}()",
        f"{names['steer']}(8, -0.25)",
        f"{names['remove_steering']}(7)",
        f"{names['clear']}()",
    ]


def test_a_result_that_is_missing_is_unknown_and_never_ok(tmp_path):
    run = Run("exp1_research_s1").round("x", ("search", "sea"), ("search", "rain"), ("inspect", None))
    run.turns[0]["tool_results"] = run.turns[0]["tool_results"].split("\n\n", 1)[1]
    frames = imported(tmp_path, run)
    assert rows(frames.calls, "outcome", "problem") == [(None, "no_result")] * 2 + [("ok", "")]
    assert set(frames.shown["verb"]) == {"inspect"}
    assert frames.manifest["left_out"]["calls whose result is not in the text of results (outcome unknown)"] == 2


@pytest.mark.parametrize(
    "text", ["Inspect returned unexpected format: {'x': 1}", "No previous response to inspect. INSPECT looks at ..."]
)
def test_an_inspect_that_failed_is_not_ok(text):
    assert sae_results.results(text, ["inspect"])[0][:2] == ("refused", "nothing_to_read")


def test_labels_that_were_not_shown_as_they_are_are_not_learnt_and_placeholders_are_apart(tmp_path):
    opaque = Run("scen_a_rwanda_opaque_s1", opaque_labels=True, script=["a"])
    opaque.round("SEARCH_FEATURES('sea')", ("search", "sea"), active=[(101, 2.0), (5, 1.0)])
    potions = Run("exp1_potions_s1", "potions").round("x", ("search", "sea"), active=[(9, 1.5)])
    frames = imported(tmp_path, opaque, potions)
    assert frames.labels == {101: label(101), 9: label(9)}  # opaque ones say nothing; potions had "feature" replaced
    assert frames.manifest["placeholder_labels"] == {"5": "feature_5"}
    shown = dict(rows(frames.shown[frames.shown["feature"] == 101], "rollout", "label"))
    assert shown["scen_a_rwanda_opaque/1"] == "feature_101"
    assert shown["exp1_potions/1"] == label(101).replace("feature", "potion")
    assert frames.rollouts["label_view"].tolist() == ["real", "opaque"]


def test_a_label_that_only_search_showed_is_learnt_where_words_were_not_replaced(tmp_path):
    run = Run("exp1_research_s1").round("x", ("search", "sea"), active=[(9, 1.5)])
    assert imported(tmp_path, run).labels == {f: label(f) for f in (9, *range(101, 111))}


def test_of_equal_steers_the_last_is_the_one_that_was_carried_out():
    (span,) = sae_results.spans("STEER(1, 0.3) STEER(1, 0.5) STEER(1, +0.30)", ["steer"], [["1", "0.3"]])
    assert span == (28, 43)


def test_a_feature_of_any_length_is_refused_and_no_number(tmp_path):
    long = int("9" * 30)
    frames = imported(tmp_path, Run("exp1_research_s1").round(f"STEER({long}, 0.5)", ("steer", (long, 0.5))))
    assert rows(frames.calls, "outcome", "feature", "strength") == [("refused", None, 0.5)]
    assert frames.calls["arguments"].tolist() == [[str(long), "0.5"]] and frames.calls["span"][0] == [0, 42]


verbs = st.sampled_from(list(sae_results.KINDS.values()))
PIECES = ("Search results for '", "\n\n", "  [12] x (activation: 1.5)", "  [", "9" * 5000, "REJECTED: ", "\n", "\ud800")
PIECES += (
    "Steering set: feature ",
    "All steering cleared (",
    "No x found for y 3.",
    "Done: removed ",
    "(" * 50,
    "[" * 50,
)
PIECES += ("  feature 3 at strength +0.10 (source: external)", "STEER(", "5, ", "-.3)", "SEARCH(", "'sea'", ")")
words = st.sampled_from(PIECES)
texts = st.lists(words | st.text(max_size=8), max_size=12).map("".join)


@given(texts, st.lists(st.tuples(verbs, texts), max_size=5))
def test_no_text_of_a_model_breaks_the_reading(text, calls):
    kinds = [verb for verb, _ in calls]
    found = sae_results.results(text, kinds)
    assert len(found) == len(calls) and all(r.outcome in ("ok", "refused", None) for r in found)
    given = {"search": None, "steer": ["9" * 5000, "0.3"], "remove": ["9" * 5000]}
    places = sae_results.spans(text, kinds, [given.get(v, []) or [t] for v, t in calls])
    assert all(p is None or 0 <= p[0] < p[1] <= len(text) for p in places)


def test_readings_are_ranked_and_a_round_without_one_has_none(tmp_path):
    run = Run("exp1_research_s1").round("x", active=[(7, 2.5), (8, 0.25)]).round("y")
    run.turns[1]["auto_inspect"] = []
    frames = imported(tmp_path, run)
    assert rows(frames.activations, "round", "rank", "feature", "value") == [(1, 1, 7, 2.5), (1, 2, 8, 0.25)]


def test_names_say_the_condition_and_superseded_files_say_so(tmp_path):
    runs = [
        Run("exp1_other_model_s3", "other_model"), Run("rerun_fixed_s1", "minimal"), Run("rerun_v2_s2", "minimal"),
        Run("scen_a_neutral_s4"), Run("scen_c_post_interference_s5"), Run("scen_f_free_s6"),
    ]  # fmt: skip
    frames = imported(tmp_path, *(run.round("x") for run in runs))
    assert rows(frames.rollouts, "rollout", "scenario", "superseded") == [
        ("rerun_fixed_minimal/1", "rerun_fixed", True),
        ("rerun_v2_minimal/2", "rerun_v2", False),
        ("exp1_other_model/3", "exp1", False),
        ("scen_a_neutral/4", "scen_a", False),
        ("scen_c_post_interference/5", "scen_c", False),
        ("scen_f_free/6", "scen_f", False),
    ]
    assert frames.rollouts["path"][0] == "self_steer_v2_minimal_rerun_fixed_s1.json"
    assert set(frames.rollouts["dictionary_unit"]) == {"15 raw units of the feature's decoder row"}


def test_rounds_keep_what_the_runner_counted(tmp_path):
    frames = imported(tmp_path, Run("exp1_research_s1").round("x", malformed=3, tokens=1500).round("y", tokens=20))
    assert rows(frames.rounds, "malformed_counter", "wall_s", "response_tokens", "why") == [
        (3, 2.5, 1500, "length"),
        (0, 2.5, 20, "stop"),
    ]


def test_faults_that_the_study_did_not_record_are_missing_and_not_zero(tmp_path):
    run = Run("exp1_research_s1").round("STEER(the sea) SEARCH_FEATURES(", malformed=2).round("y")
    silent = Run("exp1_research_s2").round("x", malformed=0)
    frames = imported(tmp_path, run, silent)
    faults = call_faults(frames)
    assert faults.shape == (2, 6) and faults.isna().all().all()
    assert tool_use(frames)[["used_tools", "tried_tools"]].values.tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_detection_reads_what_the_model_did_about_an_injection(tmp_path):
    script = ["a", "b", "c"]
    named = Run("scen_a_formal_s1", inject={35: 0.6}, script=script).round("INSPECT()", ("inspect", None))
    named.round("REMOVE_STEERING(35)", ("remove_steering", 35)).round("x", last=True)
    blanket = (
        Run("scen_a_formal_s2", inject={35: 0.6}, script=script).round("x").round("STEER_CLEAR()", ("clear", None))
    )
    blanket.round("x", last=True)
    silent = Run("scen_a_formal_s3", inject={35: 0.6}, remove_injection_at=3, script=script)
    silent.round("x").round("x").round("x", last=True)
    coded = detections(imported(tmp_path, named, blanket, silent))
    assert rows(coded, "rollout", "strength", "inspected", "removed", "removal", "watched", "category") == [
        ("scen_a_formal/1", 0.6, 1, 2, "targeted", 2, "targeted removal"),
        ("scen_a_formal/2", 0.6, None, 2, "blanket", 2, "blanket cleanup"),
        ("scen_a_formal/3", 0.6, None, None, None, 2, "no detection"),
    ]


def test_an_unknown_outcome_is_in_no_count_of_calls_carried_out(tmp_path):
    run = Run("exp1_research_s1").round("x", ("steer", (3, 0.1))).round("y")
    run.turns[0]["tool_results"] = ""
    frames = imported(tmp_path, run)
    assert tool_use(frames)[["used_tools", "calls", "steers"]].values.tolist() == [[0.0, 1.0, 0.0]]
    assert len(steers(frames)) == 0 and summarise(frames).provenance[0] == ("search", 0)


def damaged(kind):
    said = Run("exp1_research_s2").round("x").round("y", ("steer", (3, 0.1))).file()
    if kind == "no round":
        said["transcript"][1]["round"] = 7
    elif kind == "no response":
        del said["transcript"][0]["response"]
    elif kind == "text for a number":
        said["transcript"][0]["response_tokens"] = "many"
    elif kind == "unknown call":
        said["transcript"][1]["tool_calls"] = [["fly", "3"]]
    elif kind == "call that is no value":
        said["transcript"][1]["tool_calls"] = [["steer", "__import__('os')"]]
    elif kind == "a feature that is text":
        said["transcript"][0]["auto_inspect"][0]["index"] = "nine"
    elif kind == "unknown tag":
        said["tag"] = "mass_test"
    elif kind == "other framing":
        said["framing"] = "potions"
    elif kind == "other experiment":
        said["experiment"] = "preflight"
    elif kind == "a list":
        return "[]"
    elif kind == "deep":
        return "[" * 100_000
    return json.dumps(said)[: -40 if kind == "torn" else None]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("torn", "is not JSON"), ("deep", "is not JSON"), ("a list", "no result file of self_steer_v2"),
        ("other experiment", "no result file of self_steer_v2"), ("no round", "round 7 stands where round 2 should"),
        ("no response", "no 'response'"), ("text for a number", "schema of"), ("unknown call", "no 'fly'"),
        ("call that is no value", "arguments"), ("a feature that is text", "column feature"),
        ("unknown tag", "'mass_test' names no condition"), ("other framing", "another framing than 'potions'"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line_and_the_rest_goes_on(tmp_path, kind, words):
    Run("exp1_research_s1").round("x").write(tmp_path / "results")
    (tmp_path / "results" / "self_steer_v2_research_exp1_research_s2.json").write_text(damaged(kind))
    import_folder(tmp_path / "results", tmp_path / "out")
    frames = load(tmp_path / "out")
    assert frames.rollouts["rollout"].tolist() == ["exp1_research/1"]
    (problem,) = frames.errors["problem"]
    assert words in problem and "\n" not in problem and len(problem) < 300
    assert frames.errors["path"].tolist() == ["self_steer_v2_research_exp1_research_s2.json"]


def test_what_does_not_agree_within_a_file_is_counted(tmp_path):
    run = Run("exp1_research_s1").round("x", ("search", "sea"), ("steer", (3, 0.1))).round("y").round("z")
    said = run.file()
    said["transcript"][0]["search_queries"] = []
    said["transcript"][0]["model_interventions"] = []  # the calls say 3 at 0.1
    said["transcript"][2]["all_interventions"][0]["index_in_sae"] = 4
    said["full_messages"][2]["content"] = "another response"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "self_steer_v2_x.json").write_text(json.dumps(said))
    import_folder(tmp_path / "results", tmp_path / "out")
    odd = load(tmp_path / "out").manifest["left_out"]
    expected = {
        "search_queries are not their search calls": 1,
        "calls do not explain the state": 1,
        "nothing before them explains": 2,  # after round 1 nothing stood, and 4 was never steered
        "full_messages differ": 1,
        "file names that do not say": 1,
    }
    assert {words: sum(n for why, n in odd.items() if words in why) for words in expected} == expected


def test_files_of_another_kind_are_counted_and_folders_in_folders_read(tmp_path):
    Run("exp1_research_s1").round("x").write(tmp_path / "results" / "deep")
    (tmp_path / "results" / "mass_steer_test.json").write_text("{}")
    said = import_folder(tmp_path / "results", tmp_path / "out")
    assert said["left_out"]["files of another kind than sae-study (not read)"] == 1
    assert load(tmp_path / "out").rollouts["path"].tolist() == ["deep/self_steer_v2_research_exp1_research_s1.json"]


def test_nothing_to_import_says_what_could_be(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match=r"holds nothing that can be imported.*sae-study"):
        import_folder(tmp_path, tmp_path / "out")
    with pytest.raises(BadInput, match="does not exist"):
        import_folder(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(BadInput, match="no importer 'sea'"):
        import_folder(tmp_path, tmp_path / "out", kind="sea")
    path = Run("exp1_research_s1").round("x").write(tmp_path / "results")
    with pytest.raises(BadInput, match="is the folder that is read"):
        import_folder(path, tmp_path / "results")
    path.write_text(path.read_text()[:-30])
    with pytest.raises(BadInput, match="none of 1 files could be read"):
        import_folder(path, tmp_path / "out")
    assert not (tmp_path / "out" / "import.json").exists()


def test_a_damaged_first_file_does_not_hide_the_rest(tmp_path):
    Run("exp1_research_s1").round("x").write(tmp_path / "results")
    (tmp_path / "results" / "self_steer_v2_a.json").write_bytes(b"\x00\xff")
    said = import_folder(tmp_path / "results", tmp_path / "out")
    assert said["rollouts"] == {"finished": 1} and [e["path"] for e in said["errors"]] == ["self_steer_v2_a.json"]


def test_one_file_alone_is_imported_too(tmp_path):
    path = Run("exp1_research_s1").round("x").write(tmp_path / "results")
    assert sae_study.looks_like(path) and sae_study.files(path) == [path]
    assert import_folder(path, tmp_path / "out")["rollouts"] == {"finished": 1}
