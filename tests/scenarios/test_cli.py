"""The command as a user meets it: on the organism, briefly; bad input is one line with the way out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scenarios import cli, folder, free_exploration, setting
from scenarios.command import guarded
from toolkit.errors import BadInput, SelfsteerError

ROOT = Path(__file__).parents[2]
SMALL = ["run", "free-exploration", "--framings", "research,potions:research", "--seeds", "1", "--rounds", "2"]


def call(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "small"
    done = call(*SMALL, "--out", str(out))
    assert done.exit_code == 0, done.output
    return out


def test_a_run_leaves_transcripts_and_says_what_is_next(ran: Path) -> None:
    names = sorted(str(p.relative_to(ran)) for p in ran.glob("rollouts/*/*.jsonl"))
    assert names == ["rollouts/potions x research/0000.jsonl", "rollouts/research/0000.jsonl"]
    manifest = json.loads((ran / "manifest.json").read_text())
    assert manifest["scenario"] == "free-exploration" and manifest["engine"]["batch_invariant"] is True
    start = json.loads((ran / names[1]).read_text().splitlines()[0])
    assert start["tools"]["inspect_k"] == 10 and start["dictionary"]["unit"]


def test_the_same_command_and_resume_go_on_with_it(ran: Path) -> None:
    again = call(*SMALL, "--out", str(ran))
    assert again.exit_code == 0 and "2 were there before" in again.output
    path = ran / "rollouts" / "research" / "0000.jsonl"
    before = path.read_text()
    path.write_text("".join(before.splitlines(keepends=True)[:6]))
    resumed = call("resume", str(ran))
    assert resumed.exit_code == 0, resumed.output
    untimed = lambda text: [{k: v for k, v in json.loads(x).items() if k != "timing"} for x in text.splitlines()]  # noqa: E731
    assert untimed(path.read_text()) == untimed(before)


def test_status_report_search_and_inspect_answer(ran: Path) -> None:
    assert "research" in call("status", str(ran)).output
    reported = call("report", str(ran))
    assert reported.exit_code == 0 and (ran / "report" / "report.html").is_file(), reported.output
    assert "pirate" in call("search", "sea robbers", "-k", "3").output
    by_number, by_label = (call("inspect", "Arr, the rain", "--steer", f"{f}:0.5") for f in ("330", "pirate dialect"))
    assert "mean over" in by_number.output and by_label.output == by_number.output
    assert "selfsteer" in call("version").output


def test_a_report_by_a_column_that_is_none_names_those_there_are(ran: Path) -> None:
    wrong = call("report", str(ran), "--by", "framings").exception
    assert isinstance(wrong, SelfsteerError) and "no column 'framings'; use one of" in str(wrong)
    assert " framing," in str(wrong)


def test_a_report_of_a_folder_that_cannot_be_written_goes_elsewhere(ran: Path, tmp_path: Path) -> None:
    (run := tmp_path / "copy").mkdir()
    (run / "rollouts").symlink_to(ran / "rollouts")
    (run / "report").write_text("in the way")
    wrong = call("report", str(run)).exception
    assert isinstance(wrong, SelfsteerError) and "give another folder with --out" in str(wrong)
    done = call("report", str(run), "--out", str(tmp_path / "else"))
    assert done.exit_code == 0 and (tmp_path / "else" / "report.html").is_file(), done.output


def test_a_narrow_terminal_shows_conditions_whole(ran: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    name = [line.split("│")[1].strip() for line in call("status", str(ran)).output.splitlines() if "│" in line]
    assert "".join(name) == "researchpotionsxresearch"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["run", "free-exploration", "--framings", "reserch"], "research"),
        (["run", "free-exploration", "--framings", ","], "no framing"),
        (["run", "free-exploration", "--framings", "minimal,minimal"], "minimal is named twice"),
        (["search", "sea", "-k", "0"], "at least 1"),
        (["inspect", "x", "-k", "0"], "at least 1"),
        (["run", "free-exploration", "--temperature", "nan"], "temperature"),
        (["run", "free-exploration", "--seeds", "0"], "seeds"),
        (["run", "free-exploration", "--rounds", "0"], "rounds"),
        (["run", "free-exploration", "--dose-cap", "nan"], "dose cap"),
        (["run", "free-exploration", "--kv-budget", "0"], "GiB"),
        (["run", "free-exploration", "--host-budget", "-1"], "host budget -1"),
        (["run", "free-exploration", "--scope", "all"], "onward, whole"),
        (["run", "free-exploration", "--arm", "placebo"], "zero"),
        (["run", "free-exploration", "--label-view", "hidden"], "opaque"),
        (["run", "free-exploration", "--dictionary", "no/such"], "release/id"),
        (["run", "free-exploration", "--labels", "no-such.json"], "no label file"),
        (["run", "free-exploration", "--model", "./nowhere"], "config.json"),
        (["search", " "], "empty"),
        (["inspect", ""], "empty"),
        (["inspect", "x", "--steer", "3"], "12:0.6"),
        (["inspect", "x", "--steer", "9999:0.3"], "0 to 383"),
        (["inspect", "x", "--steer", "pirat dialect:0.3"], "330 pirate dialect"),
        (["inspect", "x", "--model", str(ROOT / "docs")], "config.json"),
        (["run", "interference", "--inject", "pirat dialect"], "330 pirate dialect"),
        (["inspect", "x", "--aggregation", "median"], "mean"),
        (["run", "free-exploration", "--device", "abacus"], "cpu, cuda"),
        (["run", "free-exploration", "--model", "inspect:a/b"], "cannot be steered"),
        (["run", "free-exploration", "--inspect-k", "0"], "at least 1"),
        (["run", "free-exploration", "--max-tokens", "0"], "max_tokens"),
        (["run", "free-exploration", "--unit", "nan"], "positive"),
        (["search", "x", "--unit", "inf"], "positive"),
        (["inspect", "x", "--steer", "3:nan"], "nan"),
        (["status", "nowhere"], "no run"),
        (["resume", "nowhere"], "no run"),
    ],
)
def test_bad_input_is_one_line_that_says_what_would_be_right(tmp_path: Path, arguments, match: str) -> None:
    out = ["--out", str(tmp_path)] if arguments[0] == "run" else []
    done = call(*arguments, *out)
    assert isinstance(done.exception, SelfsteerError), done.output
    assert match in str(done.exception) and "\n" not in str(done.exception)


def test_errors_come_without_a_traceback_and_with_exit_code_2(capsys, monkeypatch) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["status", "nowhere"])
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.startswith("selfsteer: ") and said.count("\n") == 1
    monkeypatch.setenv("SELFSTEER_DEBUG", "1")
    with pytest.raises(SelfsteerError):
        cli.main(["status", "nowhere"])


def test_the_scenario_runs_as_a_file_of_its_own() -> None:
    asked = [sys.executable, "scenarios/free_exploration.py", "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and "--framings" in done.stdout, done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The sources once more, in a folder with an unlucky name, with a word of their own to be told by."""
    copy = tmp_path / "organism" / "copy"
    for package in ("toolkit", "agents", "scenarios", "analysis"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    setting_of_copy = copy / "scenarios" / "setting.py"
    text = setting_of_copy.read_text(encoding="utf-8")
    setting_of_copy.write_text(text.replace("Rollouts of each condition.", "COPY"), encoding="utf-8")
    return copy


def test_a_file_runs_the_checkout_that_it_is_in(checkout: Path) -> None:
    """Also where another checkout is installed, as it is here: else the record would name code that did not run."""
    asked = [sys.executable, str(checkout / "scenarios" / "free_exploration.py"), "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=checkout.parent, check=False)
    assert done.returncode == 0 and "COPY" in done.stdout, done.stderr


def test_the_hash_of_the_code_is_of_the_code_wherever_it_lies(checkout: Path, monkeypatch) -> None:
    def hashed(root: Path) -> str:
        monkeypatch.setattr(folder, "ROOT", root)
        return folder.code_hash.__wrapped__()

    here, there = hashed(ROOT), hashed(checkout)
    assert here != there  # the copy has another word in it
    shutil.copy(ROOT / "scenarios" / "setting.py", checkout / "scenarios" / "setting.py")
    assert hashed(checkout) == here


@pytest.mark.parametrize("where", ["before", "over"])
def test_another_package_called_agents_is_found_out(checkout: Path, where: str) -> None:
    """One that Python finds first, and one whose installation wrote over this one's files; neither is imported."""
    foreign = (checkout.parent if where == "before" else checkout) / "agents" / "__init__.py"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise RuntimeError('imported')\n")
    paths = [str(checkout.parent), str(checkout)]
    code = f"import sys; sys.path[:0] = {paths}; from scenarios import cli; cli.main(['version'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 2 and done.stderr.startswith("selfsteer: the package `agents`"), done.stderr
    assert "openai-agents" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        ({"schema": 1}, "scenario is null"),
        ({"schema": 2}, "schema 1"),
        ({"scenario": "x", "seeds": "3"}, "options is null"),
    ],
)
@pytest.mark.parametrize("command", ["status", "resume"])
def test_a_damaged_manifest_is_one_line(tmp_path: Path, command: str, manifest: dict, match: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, **manifest}))
    done = call(command, str(tmp_path))
    assert isinstance(done.exception, SelfsteerError) and match in str(done.exception)


def test_an_error_is_one_line_and_cannot_command_the_terminal(capsys) -> None:
    def fails() -> None:
        raise SelfsteerError("first \x1b[31mline\nsecond")

    with pytest.raises(SystemExit):
        guarded(fails)
    assert capsys.readouterr().err == "selfsteer: first [31mline second\n"


def test_the_script_is_what_a_reviewer_saw() -> None:
    assert [turn.text for turn in free_exploration.turns(3)] == ["Continue."] * 3


def test_budgets_arrive_in_bytes_and_change_nothing_of_what_a_run_is() -> None:
    on = setting.open_engine("organism", "cpu", kv_budget=0.5, host_budget=0.25)
    assert (on._store.budget, on._store.host_budget) == (2**29, 2**28)  # type: ignore[attr-defined]
    assert setting.open_engine("organism", "cpu", host_budget=0)._store.host_budget == 0  # type: ignore[attr-defined]
    for command in ("free-exploration", "interference", "persistence", "two-models", "sandbox", "observation"):
        shown = call("run", command, "--help").output
        assert "--kv-budget" in shown and "--host-budget" in shown
    assert {"kv_budget", "host_budget"} < set(setting.MACHINE)
    for model, device in (("nnsight:organism", "auto"), ("organism", "vllm")):
        with pytest.raises(BadInput, match="leave out the KV budget and the host budget"):
            setting.open_engine(model, device, host_budget=1.0)


def test_no_arm_and_no_view_changes_what_a_model_is_told() -> None:
    on = setting.open_engine("organism")
    limits = setting.Limits()

    def told(arm: str, view: str) -> list[str]:
        features = setting.open_features("organism", None, view, arm, 0, None)
        every = setting.framings_of(setting.FRAMINGS, limits)
        return [agent.system for agent in setting.agents_of(every, on, "organism", features, limits)]

    true = told("target", "true")
    assert len(set(true)) == 6 and any("a sparse autoencoder" in system for system in true)
    for arm in ("zero", "random", "other"):
        assert told(arm, "true") == true
    for view in ("opaque", "shuffled", "random"):
        assert told("target", view) == true


def test_the_texts_of_a_script_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml"
    for wrong in ("turn: Go on.\nturns: x", "tern: Go on.", "turn: 3", "Go on."):
        path.write_text(wrong)
        with pytest.raises(SelfsteerError, match="must hold the texts turn and nothing else"):
            setting.texts(path, "turn")
    for wrong in ("turn: Go on.\nmany: one", "turn: Go on.\nmany: [1]", "turn: [Go on.]\nmany: [one]"):
        path.write_text(wrong)
        with pytest.raises(SelfsteerError, match="must hold the texts turn, many and nothing else"):
            setting.texts(path, "turn", lists=("many",))


def test_a_stopped_run_says_how_to_go_on_with_what_there_is(monkeypatch, tmp_path: Path) -> None:
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scenarios.run.run", stopped)
    done = call(*SMALL, "--out", str(tmp_path))
    assert done.exit_code == 130 and "before anything was computed; the same command begins" in done.output
    (tmp_path / "manifest.json").write_text("{}")
    done = call(*SMALL, "--out", str(tmp_path))
    assert done.exit_code == 130 and f"selfsteer resume {tmp_path}" in done.output


def test_a_changed_program_is_refused_with_the_way_out(ran: Path, monkeypatch) -> None:
    monkeypatch.setattr("scenarios.folder.code_hash", lambda: "0" * 16)
    done = call(*SMALL, "--out", str(ran))
    assert isinstance(done.exception, SelfsteerError)
    assert "code was" in str(done.exception) and "give another --out" in str(done.exception)


def test_a_slip_in_an_option_shows_before_a_model_loads(monkeypatch, tmp_path: Path) -> None:
    def loads(*_):
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(setting, "open_engine", loads)
    for slip in (["--framings", "reserch"], ["--temperature", "nan"], ["--seeds", "0"], ["--inspect-k", "0"]):
        assert isinstance(call("run", "free-exploration", *slip, "--out", str(tmp_path)).exception, SelfsteerError)


def test_labels_cannot_command_the_terminal(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("index,label\n3,sea \x1b[31mrobbers\x07 [bold]\n", encoding="utf-8")
    shown = call("search", "sea robbers", "--labels", str(labels)).output
    assert "robbers" in shown and "[bold]" in shown and "\x1b[31m" not in shown and "\x07" not in shown


def test_help_teaches() -> None:
    for command in ("demo", "resume", "status", "report", "search", "inspect"):
        shown = call(command, "--help").output
        assert "Example: selfsteer" in shown
