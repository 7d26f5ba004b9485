"""`selfsteer import` as a user meets it: what was read, left out and why, what next; then a report of what came in.

Knows the synthetic files of the SAE study.
"""

from __future__ import annotations

from typer.testing import CliRunner

from analysis.frames import load
from benchmarks.importing import sae_study
from scenarios import cli
from tests.analysis.importers.synthetic_sae_study import Run, many
from toolkit.errors import BadInput


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_import_says_what_came_of_it_and_a_report_reads_it(tmp_path):
    results, out = tmp_path / "results", tmp_path / "out"
    many(results, 5, readings=6)
    Run("exp1_research_s41").round("You.\x1b[2J").write(results, whole=False)
    odd = Run("scen_a_rwanda_opaque_s1", inject={34737: 0.6}, script=["a", "b"], opaque_labels=True)
    odd.round("STEER_CLEAR() <script>alert(1)</script>", ("clear", None)).round("x", last=True).write(results)
    (results / "self_steer_v2_torn\x1b[2J.json").write_text('{"experiment": "self_steer_v2", ')
    (results / "other.json").write_text("{}")
    said = call("import", results, "--out", out)
    assert said.exit_code == 0, said.output
    for words in (
        "sae-study, 8 files, 7 rollouts (6 finished, 1 unfinished)",
        "1 files of another kind than sae-study (not read)",
        "self_steer_v2_research_exp1_research_s41.json (1 rounds)",
        "is not JSON",
        f"Next: selfsteer report {out}",
    ):
        assert words in said.output.replace("\n", " ") or words in said.output, words
    assert "\x1b" not in said.output
    reported = call("report", out)
    assert reported.exit_code == 0, reported.output
    told = (out / "report" / "report.md").read_text().replace("\\", "")
    assert "imported from: results (sae-study), 8 files" in told and "- left out or odd: files of another kind" in told
    page = (out / "report" / "report.html").read_text()
    assert "exp1_research/41" in page and "<script>alert" not in page and "tokens known" in page
    again = call("import", results, "--out", out)  # the report folder within is no reason to refuse
    assert again.exit_code == 0, again.output


def test_a_folder_without_transcripts_is_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    done = call("import", tmp_path, "--out", tmp_path / "out")
    assert isinstance(done.exception, BadInput) and "holds nothing that can be imported" in str(done.exception)
    assert "\n" not in str(done.exception)


def test_the_benchmark_runs(tmp_path):
    rows = sae_study(tmp_path, 2, 0.1)
    assert [r["row"] for r in rows][1] == "selfsteer import, SAE study" and len(load(tmp_path / "out").rollouts) == 2
