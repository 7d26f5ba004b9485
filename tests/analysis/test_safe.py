"""Text of a model can neither hide, nor act, nor be lost, in any of the three places where it is printed.

Knows no report.
"""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from analysis import safe

ANY = st.text(st.characters(categories=None) | st.sampled_from("\x1b\x9b\u202e\u2066\u200b\ufeff\u2028<>&\"'|`\ud800"))


@given(ANY)
def test_html_has_no_markup_no_control_and_no_bidi(text):
    made = safe.for_html(text)
    assert not set("<>\"'") & set(made)
    assert not [
        c for c in made if unicodedata.bidirectional(c) in {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI"}
    ]
    assert not [c for c in made if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t"]
    made.encode("utf-8")


@given(ANY)
def test_json_cannot_leave_a_script_element_and_says_the_same(text):
    made = safe.json_for_html({"a": [text]})
    assert not set("<>&\u2028\u2029") & set(made)
    assert json.loads(made)["a"] == [safe.visible(text)]


@given(ANY)
def test_the_terminal_gets_one_printable_line(text):
    made = safe.plain(text)
    assert "\n" not in made and not [c for c in made if unicodedata.category(c)[0] == "C"]
    assert len(safe.plain(text, 10)) <= 10


@given(ANY)
def test_markdown_stays_on_one_line_without_tags_cells_or_links(text):
    made = safe.for_markdown(text)
    assert "\n" not in made and "<" not in made
    for i, character in enumerate(made):
        if character in "|`[]*_":
            slashes = len(made[:i]) - len(made[:i].rstrip("\\"))
            assert slashes % 2 == 1


def test_whole_escape_sequences_go_and_ordinary_text_stays():
    assert safe.plain("a \x1b[31mred\x1b[0m \x1b]0;title\x07 b \x9b1m c") == "a red b c"
    assert safe.visible("Grüße, 你好, é, 👍\n\tnext") == "Grüße, 你好, é, 👍\n\tnext"
    assert safe.visible("a\x00b\u202ec") == "a␀b⟨U+202E⟩c"
    assert safe.for_markdown("plain text, 0.7: fine - really!") == "plain text, 0.7: fine - really!"
    assert safe.for_markdown("1. x") == "1\\. x" and safe.for_markdown("https://x.y") == "https\\://x.y"
