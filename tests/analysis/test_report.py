"""The report says what the summary says, in three forms, and text of a model can do nothing in any of them.

Knows the page from outside: its HTML, and its DOM where a Chromium is at hand.
"""

from __future__ import annotations

import html
import html.parser
import io
import json
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from analysis import page, safe
from analysis.frames import load
from analysis.report import print_summary, report
from analysis.rollouts import labels_shown, rollout_data
from analysis.summary import summarise
from tests.analysis.large import large_run
from tests.analysis.synthetic import Story

RAN = "the-script-ran"
EVIL = (
    f"<script>document.title='{RAN}'</script></script><script>document.title='{RAN}'</script>"
    f"<img src=x onerror=\"document.title='{RAN}'\"><a href=\"javascript:document.title='{RAN}'\">x</a>"
    f"<!--<script> --> ]]> {{{{data}}}} \u202egnorts\u202c \u2028 \u2029 \x1b[31mred\x1b[0m \x1b]0;{RAN}\x07 \x07 "
    "\x9b31m \ufeff\u200b | pipe `tick` [link](javascript:alert(1)) \U000e0041 end"
)


@pytest.fixture(scope="module")
def evil_run(tmp_path_factory):
    """Everything that a model or a label could say is EVIL, and so is the name of the folder's condition."""
    run = tmp_path_factory.mktemp("evil")
    story = Story("research", 0, framing={"name": EVIL, "digest": "x", "system": EVIL}, arm=EVIL, label_view=EVIL)
    story.say(EVIL, turn=EVIL, active=(1, 2)).search(EVIL, 1, 2).call("steer", EVIL, outcome="malformed", span=(0, 9))
    story.events[-2] = story.events[-2].model_copy(
        update={"rows": tuple(r.model_copy(update={"label": EVIL}) for r in story.events[-2].rows)}
    )
    story.steer(1, 0.5).say(EVIL, turn=EVIL, active=(1,)).note("healthy").end().write(run)
    Story("research", 1).say(EVIL).end("failed", error=EVIL).write(run)
    return run


@pytest.fixture(scope="module")
def evil(evil_run):
    return report(evil_run)


class Tags(html.parser.HTMLParser):
    """Tags, attributes and the data element of a page, as a browser would cut it."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.data, self.inside = [], [], "", False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = ("id", "data") in attrs

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.data += data if self.inside else ""


def test_evil_text_adds_no_tag_and_no_attribute(evil, run, tmp_path):
    seen = []
    for pages in (evil.pages, report(run, tmp_path).pages):
        tags = Tags()
        tags.feed(pages[0].read_text("utf-8"))
        seen.append((tags.tags.count("script"), {n for n, _ in tags.attributes}))
        assert not {"a", "iframe", "object", "form"} & set(tags.tags)
        assert tags.tags.count("img") == tags.tags.count("figure")
        assert not [n for n, v in tags.attributes if n.startswith("on") or "javascript" in (v or "")]
    assert seen[0] == seen[1] and seen[0][0] == 2


def test_the_data_cannot_leave_its_element_and_still_says_everything(evil):
    tags = Tags()
    tags.feed(evil.html.read_text("utf-8"))
    assert not set("<>&\u2028\u2029\u202e\x1b\x9b") & set(tags.data)
    first = json.loads(tags.data)["rollouts"][0]["rounds"][0]
    said = "".join(p if isinstance(p, str) else p[0] for p in first["parts"])
    assert said == safe.visible(EVIL) and f"<script>document.title='{RAN}'" in said
    assert "⟨U+202E⟩" in said and "␛[31m" in said and "{{data}}" in said


def test_nothing_odd_is_in_any_file(evil):
    for path in (*evil.pages, evil.markdown):
        text = path.read_text("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\u200b\ufeff]", text)
    markdown = evil.markdown.read_text("utf-8")
    assert "<" not in markdown.replace("&lt;", "") and "](javascript" not in markdown


def test_the_page_asks_nothing_of_the_network(evil):
    text = evil.html.read_text("utf-8")
    assert "default-src 'none'" in text and not re.findall(r"(?:src|href|srcset)=\"(?!data:)", text)
    assert not re.findall(r"https?://", text.split('id="data"')[0])


def test_no_escape_sequence_reaches_the_terminal(evil):
    console = Console(record=True, width=120, force_terminal=True, color_system=None, file=io.StringIO())
    print_summary(evil.summary, console)
    text = console.export_text(clear=False)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]", text)
    assert "[31m" not in text and "[link]" in text  # rich's own markup is not read either


def test_three_forms_say_the_same(run, tmp_path):
    made = report(run, tmp_path)
    console = Console(record=True, width=200, file=io.StringIO())
    print_summary(made.summary, console)
    terminal, markdown = console.export_text(), made.markdown.read_text("utf-8")
    page_text = made.html.read_text("utf-8")
    assert "50% [9, 91]" in terminal and "50% [9, 91]" in page_text and "50% \\[9, 91\\]" in markdown
    assert "1 failed and 1 unfinished" in terminal and "SteeringError" in terminal
    assert {p.name for p in made.figures} >= {"rates.png", "degeneration.png", "strengths.png"}
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in made.figures)


def test_captions_come_from_their_query(run, tmp_path):
    from analysis.plots import drawings

    frames = load(run).where(condition="research")
    captions = {d.name: d.caption for d in drawings(frames, summarise(frames))}
    assert "n = 2 rollouts per group" in captions["rates"] and "filters: condition = research" in captions["rates"]
    assert "Wilson 95%" in captions["rates"] and "2 calls of 2 rollouts" not in captions["strengths"]
    assert "3 calls of 2 rollouts" in captions["strengths"]


def test_hundreds_of_rollouts_are_a_few_megabytes_and_more_go_on_another_page(tmp_path, monkeypatch):
    frames = load(large_run(tmp_path, per_framing=50, rounds=4, padding=14))
    summary, data = summarise(frames), rollout_data(frames, "condition")
    assert len(summary.groups) == 6 and sum(c.counted for c in summary.counts) == 300
    whole = page.pages(summary, [], data, labels_shown(frames, data))
    assert list(whole) == ["report.html"] and len(whole["report.html"].encode()) < 3_000_000
    monkeypatch.setattr(page, "PAGE_BYTES", 500_000)
    cut = page.pages(summary, [], data, {})
    ids = [r["id"] for text in cut.values() for r in _data(text)["rollouts"]]
    assert len(cut) > 1 and len(ids) == len(set(ids)) == 300
    assert all(name in cut["report.html"] for name in list(cut)[1:])


def test_pages_of_an_earlier_report_are_removed(run, tmp_path):
    (tmp_path / "report-2.html").write_text("old")
    report(run, tmp_path)
    assert [p.name for p in tmp_path.glob("*.html")] == ["report.html"]


def test_a_run_of_which_nothing_is_finished_yet_says_so(tmp_path):
    Story("research", 0).say("just begun").write(tmp_path)
    made = report(tmp_path)
    assert made.summary.unfinished == 1 and made.summary.groups == () and not made.figures
    assert "0 rollouts in 0 conditions; 1 unfinished" in made.html.read_text("utf-8")


def test_labels_of_the_run_name_features_that_were_never_shown(tmp_path):
    Story("research", 0).say("x", active=(77,)).end().write(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps({"77": "a label from the dictionary"}))
    assert "a label from the dictionary" in report(tmp_path).html.read_text("utf-8")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_browser_renders_it_and_runs_nothing_of_it(evil_run, evil, tmp_path, monkeypatch):
    dom = _dom(evil.html, tmp_path / "1")
    assert f"<title>{RAN}" not in dom and dom.count('class="round"') == 2 and "⟨U+202E⟩" in dom
    # and it would, without the escaping and the policy
    monkeypatch.setattr(page, "json_for_html", lambda value: json.dumps(value))
    naive = report(evil_run, tmp_path / "naive").html
    naive.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", naive.read_text("utf-8")), "utf-8")
    assert f"<title>{RAN}" in _dom(naive, tmp_path / "2")


DRIVER = """
const seen = {};
const ids = () => [...document.querySelectorAll("#list button > span:first-child")].map((e) => e.textContent);
const open = () => document.querySelector("#rollout h3").textContent;
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
seen.all = ids(); seen.first = open();
press("j"); seen.next = open(); press("k"); seen.back = open();
document.querySelectorAll("#list button")[2].click(); seen.clicked = open();
seen.strip = document.querySelectorAll("#rollout .strip button").length;
document.querySelectorAll("#filters button")[1].click(); seen.filtered = ids();
const box = document.getElementById("search");
box.value = "YOURSELF"; box.dispatchEvent(new Event("input"));
setTimeout(() => { seen.found = ids(); seen.marks = document.querySelectorAll("mark").length;
  document.title = JSON.stringify(seen); }, 600);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_reader_can_open_filter_and_search(run, tmp_path):
    path = report(run, tmp_path / "report").html
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text("utf-8"))
    path.write_text(text.replace("</body>", f"<script>{DRIVER}</script></body>"), "utf-8")
    title = re.search(r"<title>(.*?)</title>", _dom(path, tmp_path / "profile"), re.DOTALL)
    seen = json.loads(html.unescape(title[1]))
    assert seen["all"] == ["minimal/0", "minimal/1", "research/0", "research/1"]
    assert (seen["first"], seen["next"], seen["back"]) == ("minimal/0", "minimal/1", "minimal/0")
    assert seen["clicked"] == "research/0" and seen["strip"] == 8  # a turn and a response in each of four rounds
    assert seen["filtered"] == ["research/0", "research/1"]
    assert seen["found"] == ["research/1"] and seen["marks"] == 1


def _data(text):
    tags = Tags()
    tags.feed(text)
    return json.loads(tags.data)


def _dom(path, profile):
    """The document as it stands when its scripts have run."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --virtual-time-budget=3000 --dump-dom"
    flags += " --disable-dev-shm-usage"  # which a container has little of
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
