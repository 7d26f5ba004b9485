"""Text that a model wrote, made harmless for a terminal, a Markdown file and an HTML page.

Knows no report. Nothing is dropped in HTML and Markdown: what cannot be seen is shown by its name.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
INVISIBLE = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200d\u2028\u2029\u2060-\u2064\u3164\ufeff\uffa0\ufff9-\ufffb"
)
_ODD = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{BIDI}{INVISIBLE}\ud800-\udfff\U000e0000-\U000e007f]")
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|\x9b[0-?]*[ -/]*[@-~]")
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()#|~]|(?<!\w)@|:(?=//)|(?<=www)\.|^[-+=]|(?<=^\d)[.)]")


def visible(text: str) -> str:
    """Control, bidi, zero-width and tag characters and lone surrogates by name: ␛, ⟨U+202E⟩."""
    return _ODD.sub(_name, text.replace("\r\n", "\n"))


def plain(text: str, width: int | None = None) -> str:
    """One line for a terminal: escape sequences dropped whole, then anything that is not printable; cut to `width`."""
    kept = _ODD.sub("", _ESCAPES.sub("", text))
    line = " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in kept).split())
    return line if width is None or len(line) <= width else line[: max(width - 1, 0)] + "…"


def for_html(text: str) -> str:
    """Text or attribute content of an HTML element."""
    return html.escape(visible(text), quote=True)


def for_markdown(text: str) -> str:
    """One line of inline Markdown that means nothing but itself, inside a table cell too."""
    line = " ".join(visible(text).split())
    return _MARKDOWN.sub(r"\\\g<0>", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def json_for_html(value: object) -> str:
    """JSON that may stand inside a <script type="application/json"> element. Strings go through `visible` first."""
    text = json.dumps(_visible_all(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _visible_all(value: object) -> object:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(str(k)): _visible_all(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_visible_all(v) for v in value]
    return value


def _name(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"
