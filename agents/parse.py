"""Tool calls in what a model wrote: text in, calls in text order out, each well formed or with the reason why not.

Knows no dictionary and no state; whether an index exists or a strength is allowed is the toolbox's business.

What is a call. NAME(...) in capitals, if nothing but bullets, markup or a finished clause ("Let me look:") stands
before it on its line, and nothing but markup, punctuation, a comment or the next call after it. Markup round any
part, spaces, curly or missing quotes, unicode signs, #12 and [12], and named arguments in any order are read as meant.

What is an attempt, reported as a Call with a `problem`: missing_bracket, wrong_count, placeholder (an argument copied
from the signature), trailing_text (the line begins with the call and goes on as prose). Nothing of it is carried out.

What is neither, and only counted: mentions (a call inside a sentence, in a line quoted with >, or in a thought
between <think> and </think>) and calls in code fences. A prompt asks for calls on lines of their own; whoever writes
"you can use STEER_CLEAR()" has not made one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from agents.framing import Theme
from toolkit.tools import Call, Verb

LONGEST = 500  # characters between the brackets of one call; what is longer has no closing bracket

_NAME = r"[A-Za-z](?:[A-Za-z0-9_]|\\_)*+"  # a model that writes markdown may escape the underscore
_CANDIDATE = re.compile(rf"(?<![A-Za-z0-9_\\])_{{0,3}}+({_NAME})([ \t*_`]*+)\(")
_BARE = re.compile(rf"[^A-Za-z0-9]*+(?:\d{{1,3}}[.)][^A-Za-z0-9]*+)?({_NAME})[ \t*`]*+([:=]?)[ \t*`]*+")
_FENCE = re.compile(r"[ \t>]*+(`{3,}+|~{3,}+)(.*)")
_BULLET = re.compile(r"^\s*+\d{1,3}[.)]")
_TAG = re.compile(r"</?[A-Za-z_]{1,20}>")
_GLUE = re.compile(r"(?:[\s*_`,;.&|/+→>-]|and\b|then\b)*+")
_BRACKET = re.compile("[()]")
_SEPARATOR = re.compile("[,;]")
_KEYWORD = re.compile(r"([A-Za-z_]{1,20})\s*[=:]\s*")
_NAMES_INDEX = re.compile(r"(?:.*_)?(?:index|idx|id|feature|latent|potion|state)")
_NAMES_STRENGTH = re.compile(
    r"(?:.*_)?(?:strength|amount|value|dose|level|by|intensity|weight|magnitude|scale|coeff\w*)"
)
_INDEX = re.compile(r"(?:#\s*)?\[?\s*#?\s*(\d+)\s*\]?")
_PLACEHOLDER = re.compile(r"<[^<>]*>|\{[^{}]*\}|\.\.\.|…")
_SIGNS = str.maketrans("−–—‒﹣－＋﹢", "------++")
_OPENING: Mapping[str, str] = {'"': '"”“', "“": '”"“', "„": '”“"', "'": "'’", "‘": "’'", "`": "`'", "«": "»"}
_QUOTES = "\"“”„'‘’`«»"
_ARITY: Mapping[Verb | None, int] = {"search": 1, "steer": 2, "remove": 1}

_Left = Literal["start", "clause", "word"]
_Right = Literal["end", "sentence", "comment", "note", "word"]


@dataclass(frozen=True)
class Parsed:
    """All that looks like a call. calls: in text order. fenced, mentions: how many of this theme's names, with a
    bracket after them, stood in code fences, and in sentences, quotations and thoughts; none of these is a call."""

    calls: tuple[Call, ...] = ()
    fenced: int = 0
    mentions: int = 0


def parse(text: str, theme: Theme) -> list[Call]:
    """The calls and malformed attempts of `text`, in text order. Never raises; time is linear in the length."""
    return list(parse_all(text, theme).calls)


def parse_all(text: str, theme: Theme) -> Parsed:
    """As `parse`, with the numbers of fenced and mentioned calls, which would otherwise look like silence."""
    verbs: dict[str, Verb] = {name: verb for verb, name in theme.names.items()}
    samples = {_bare(s) for doc in theme.docs.values() for s in re.findall(r"<([^<>]*)>", doc)}
    answer = text.rfind("</think>")
    answer = 0 if answer < 0 else answer + len("</think>")
    thought = text.find("<think>", answer)
    calls: list[Call] = []
    fenced = mentions = position = 0
    fence = ""
    for line in (*text[:answer].splitlines(keepends=True), *text[answer:].splitlines(keepends=True)):
        if position == answer:  # what a thought left open ends with it
            fence = ""
        if line.isspace():
            position += len(line)
            continue
        found = [_tagged(call, samples) for call in _scan(line, verbs)]
        named = sum(call.verb is not None for call in found)
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
            fenced += named
        elif mark and (mark[1][0] == "~" or "`" not in mark[2]):
            fence = mark[1]
            fenced += named
        elif position < answer or 0 <= thought <= position or line.lstrip().startswith(">"):
            mentions += named
        else:
            judged = [call for call in _judged(line, found, verbs) if call is not None]
            mentions += max(0, named - sum(call.verb is not None for call in judged))
            calls += [_moved(call, position) for call in judged]
        position += len(line)
    return Parsed(tuple(calls), fenced, mentions)


def prose(text: str, calls: Iterable[Call]) -> str:
    """`text` without the calls in it."""
    kept, at = [], 0
    for low, high in sorted(call.span for call in calls):
        kept.append(text[at:low])
        at = max(at, high)
    return "".join([*kept, text[at:]]).strip()


def _scan(line: str, verbs: Mapping[str, Verb]) -> list[Call]:
    """Every NAME( of the line with what follows, wherever it stands."""
    found, at = [], 0
    while match := _CANDIDATE.search(line, at):
        at = match.end()
        name = match[1].replace("\\", "").rstrip("_")
        verb = verbs.get(name) or (verbs.get(name.upper()) if not match[2] else None)
        if verb is None and (match[2] or len(name) < 3 or not name.isupper()):
            continue
        arguments, at, problem = _arguments(line, at, verb)
        if not problem and verb is not None and len(arguments) != _ARITY.get(verb, 0):
            problem = "wrong_count"
        found.append(Call(verb, arguments, line[match.start(1) : at], (match.start(1), at), problem))
    return found


def _arguments(line: str, at: int, verb: Verb | None) -> tuple[tuple[str, ...], int, str]:
    """What stands between the bracket before `at` and its partner: (arguments, end of the call, problem)."""
    if verb == "search":
        return _query(line[at : at + LONGEST], at)
    bracket = _BRACKET.search(line, at, at + LONGEST)
    if bracket is None:
        return (), at + len(line[at : at + LONGEST].rstrip()), "missing_bracket"
    if bracket[0] == "(":
        return (), at, "missing_bracket"
    written = _SEPARATOR.split(line[at : bracket.start()])
    parts = [_cleaned(part) for part in written]
    if verb == "steer" and len(parts) == 2:
        kinds = [_kind(part) for part in written]
        if kinds[0] == kinds[1] != "":
            return tuple(parts), bracket.end(), "wrong_count"
        if kinds[0] == "strength" or kinds[1] == "index":
            parts.reverse()
    if verb in ("steer", "remove") and (index := _INDEX.fullmatch(parts[0])):
        parts[0] = index[1]
    return tuple(part for part in parts if part), bracket.end(), ""


def _query(window: str, at: int) -> tuple[tuple[str, ...], int, str]:
    """The one argument of a search: in quotes of any kind, or in none."""
    keyword = re.match(r"\s*+(?:[a-z_]{1,20}\s*=\s*)?(?=([\"'“‘`„«]?))", window)
    begin, quote = (keyword.end(), keyword[1]) if keyword else (0, "")
    if quote:
        close = f"[{re.escape(_OPENING[quote])}]"
        first = re.compile(close).search(window, begin + 1)
        if first and re.compile(r"\s*,").match(window, first.end()) and (end := window.find(")", first.end())) >= 0:
            return (), at + end + 1, "wrong_count"
        if last := re.compile(close + r"[*_]*\s*\)").search(window, begin + 1):
            return _one(window[begin + 1 : last.start()]), at + last.end(), ""
    depth = 1
    for bracket in _BRACKET.finditer(window):
        depth += 1 if bracket[0] == "(" else -1
        if not depth:
            return _one(window[begin : bracket.start()].strip(_QUOTES + " \t*")), at + bracket.end(), ""
    return (), at + len(window.rstrip()), "missing_bracket"


def _one(query: str) -> tuple[str, ...]:
    # "" between quotes is an argument: the toolbox answers that the query is empty.
    return (query.strip(),)


def _cleaned(part: str) -> str:
    part = part.strip().strip(_QUOTES + "* \t").translate(_SIGNS)
    if keyword := _KEYWORD.match(part):
        part = part[keyword.end() :]
    return re.sub(r"^([+-])\s+", r"\1", part.strip(_QUOTES + "* \t"))


def _kind(part: str) -> str:
    """Which of two arguments its name says it is: "index", "strength", or "" without a name or with another."""
    keyword = _KEYWORD.match(part.strip().strip(_QUOTES + "* \t"))
    name = keyword[1].casefold() if keyword else ""
    return "index" if _NAMES_INDEX.fullmatch(name) else "strength" if _NAMES_STRENGTH.fullmatch(name) else ""


def _bare(argument: str) -> str:
    return argument.strip("<>{}[] " + _QUOTES).casefold()


def _tagged(call: Call, samples: Iterable[str]) -> Call:
    """The call with problem "placeholder" if an argument of it was copied out of a signature."""
    copied = any(_PLACEHOLDER.fullmatch(a) or _bare(a) in samples for a in call.arguments)
    return replace(call, problem="placeholder") if copied else call


def _judged(line: str, found: list[Call], verbs: Mapping[str, Verb]) -> list[Call | None]:
    """Each candidate of a line as the call or attempt that it is, or None: a mention."""
    if not found:
        return [_without_bracket(line, verbs)]
    edges = [0, *(edge for call in found for edge in call.span), len(line)]
    texts = [line[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    glued = [bool(_GLUE.fullmatch(text.casefold())) for text in texts]
    lefts: list[_Left] = [_left(text) for text in texts[:-1]]
    rights: list[_Right] = [_right(text) for text in texts[1:]]
    for i in range(1, len(found)):
        if glued[i]:
            lefts[i] = lefts[i - 1]
    for i in range(len(found) - 2, -1, -1):
        if glued[i + 1]:
            rights[i] = rights[i + 1]
    recited = any(call.problem == "placeholder" for call in found)
    judged = []
    for call, left, right in zip(found, lefts, rights, strict=True):
        verdict = _verdict(call, left, right)
        judged.append(None if recited and verdict is not None and not verdict.problem else verdict)
    return judged


def _verdict(call: Call, left: _Left, right: _Right) -> Call | None:
    stands = right in ("end", "comment") or (right == "note" and bool(call.arguments))
    if call.verb is None or not call.text.split("(")[0].isupper():
        return call if left == "start" and right == "end" else None
    if left == "word":
        return None
    if stands or (left == "start" and (right == "sentence" or call.problem)):
        return call
    return replace(call, problem="trailing_text") if left == "start" else None


def _left(text: str) -> _Left:
    """What stands before a call: nothing but bullets and markup, a finished clause, or the middle of a sentence."""
    rest = _TAG.sub("", _BULLET.sub("", text))
    if not any(c.isalnum() or c in "\"“”„'‘’" for c in rest):
        return "start"
    ended = rest.rstrip(" \t*_`")
    return "clause" if ended.endswith(tuple(".!?:;…—–→>)]")) and not ended.endswith(("e.g.", "i.e.")) else "word"


def _right(text: str) -> _Right:
    """What stands after a call."""
    rest = _TAG.sub("", text).lstrip(" \t*_`])}")
    if rest.startswith(("#", "//", "<!--")):
        return "comment"
    if not any(c.isalnum() or c in "\"“”„'‘’?" for c in rest):
        return "end"
    if re.match(r"[.!;]\s", rest):
        return "sentence"
    return "note" if rest.startswith(("-", "–", "—", "→", "(", ":", "=>")) else "word"


def _without_bracket(line: str, verbs: Mapping[str, Verb]) -> Call | None:
    """**STEER** 12 +0.3, SEARCH: warmth, INSPECT alone on a line: meant as a call, and not one."""
    match = _BARE.match(line)
    name = match[1].replace("\\", "").rstrip("_") if match else ""
    if match is None or name not in verbs or set(line[: match.start(1)]) & set('"“”„‘’>'):
        return None
    rest = line[match.end() :].strip()
    if rest and not match[2] and not re.match(r"[-+−–\d#<\[{\"“'‘.]\s*\S", rest):
        return None
    start, end = match.start(1), len(line.rstrip())
    return Call(verbs[name], (), line[start:end], (start, end), "missing_bracket")


def _moved(call: Call, by: int) -> Call:
    return replace(call, span=(call.span[0] + by, call.span[1] + by))
