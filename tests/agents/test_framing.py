"""Themes and framings: what a model is told is a committed file, and nothing in it can be copied as an argument."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agents.framing import FRAMINGS, THEMES, load_framing, load_theme, names_of
from agents.parse import parse, parse_all
from tests.agents.plain import VARIABLES, toolbox
from toolkit.errors import BadInput
from toolkit.steering import Intervention, Steering
from toolkit.tools import VERBS, Call, Receipt, Row, carry_out, carry_out_all

SNAPSHOTS = Path(__file__).parent / "snapshots"
THEME_NAMES = names_of(THEMES)
SHIPPED = [*names_of(FRAMINGS), "potions x research", "research x potions"]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_rendered_prompt_is_the_committed_one(name: str) -> None:
    """Write them anew with SNAPSHOTS=write, and read the diff."""
    shown = load_framing(name).system_prompt(VARIABLES) + "\n"
    path = SNAPSHOTS / f"{name.replace(' ', '_')}.txt"
    if os.environ.get("SNAPSHOTS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", THEME_NAMES)
def test_themes_say_everything(name: str) -> None:
    """Each verb and each outcome is worded, so that no call can end in silence."""
    theme = load_theme(name)
    box = toolbox()
    for verb in VERBS:
        call = Call(verb, ("a",) * {"search": 1, "steer": 2, "remove": 1}.get(verb, 0), "")
        _, receipt = carry_out(replace(box, verbs=frozenset(VERBS)), call)
        assert theme.word([receipt]).strip()
    assert theme.word([]) == ""


@pytest.mark.parametrize("name", THEME_NAMES)
def test_no_signature_holds_what_could_be_copied(name: str) -> None:
    """In the published prompts SEARCH("query") was copied as the query in a third of searches."""
    theme = load_theme(name)
    for verb, doc in theme.docs.items():
        found = parse_all(doc, theme)
        assert not [call for call in found.calls if not call.problem], doc
        signature = doc[: doc.index(")") + 1]
        wanted = {"search": 1, "steer": 2, "remove": 1}.get(verb, 0)
        [call] = parse(signature, theme)
        assert call.verb == verb
        assert call.problem == ("placeholder" if wanted else "")
        assert not any(c.isdigit() or c in "\"'“”" for c in doc.replace("network's", ""))


@pytest.mark.parametrize("name", THEME_NAMES)
@pytest.mark.parametrize("text", ["text in quotes", "<text in quotes>"])
def test_a_copied_placeholder_is_counted_as_one(name: str, text: str) -> None:
    theme = load_theme(name)
    for call in (theme.call("search", text), f"{theme.names['steer']}(<index>, 0.3)"):
        assert [c.problem for c in parse(call, theme)] == ["placeholder"]


@pytest.mark.parametrize(("narrative", "theme"), product(list(names_of(FRAMINGS)), THEME_NAMES))
def test_any_narrative_goes_with_any_theme(narrative: str, theme: str) -> None:
    framing = load_framing(narrative=narrative, theme=theme)
    prompt = framing.system_prompt(VARIABLES)
    assert all((load_theme(theme).docs[verb] in prompt) for verb in framing.tools)
    assert "{" not in prompt
    assert load_framing(framing.name) == framing  # the recorded name finds it again


def test_names_of_combinations() -> None:
    assert load_framing(narrative="potions", theme="research").name == "potions x research"
    assert load_framing("research", narrative="potions").name == "potions x research"
    assert load_framing(narrative="potions", theme="potions").name == "potions"
    names = {load_framing(n).digest for n in SHIPPED}
    assert len(names) == len(SHIPPED)


def test_only_offered_tools_are_described(tmp_path: Path) -> None:
    data = yaml.safe_load((FRAMINGS / "research.yaml").read_text())
    path = _write(tmp_path, {**data, "tools": ["search", "steer"]})
    prompt = load_framing(path).system_prompt(VARIABLES)
    assert "STEER(" in prompt and "INSPECT" not in prompt and "CLEAR" not in prompt


def test_values_with_braces_are_text() -> None:
    odd = replace(VARIABLES, model="{docs}{0}{{", unit="{unknown}")
    assert "{docs}{0}{{" in load_framing("full_technical").system_prompt(odd)


@given(label=st.text(), query=st.text())
def test_labels_are_inserted_as_they_are(label: str, query: str) -> None:
    """The published harness replaced words in finished text, and so in labels and headers."""
    theme = load_theme("potions")
    call = Call("search", (query,), "")
    shown = theme.word([Receipt(call, "ok", rows=(Row(3, label, 0.25),), values={"query": query})])
    assert shown == f'Potions matching "{query}":\n  {label} [3] (relevance: 0.25)'


def test_words_of_a_label_are_never_renamed() -> None:
    theme = load_theme("minimal")
    row = Row(1, "feature steering {value:.2f} {0} {}", 0.5)
    shown = theme.word([Receipt(Call("inspect", (), ""), "ok", rows=(row,), values={"count": 1})])
    assert "feature steering {value:.2f} {0} {} [1] (level: 0.50)" in shown


def test_results_are_apart_and_name_their_source() -> None:
    theme = load_theme("research")
    mine = Intervention("key", 3, 0.5)
    theirs = Intervention("key", 4, 0.5, source="external")
    partner = Intervention("key", 5, 0.5, source="partner")
    box = toolbox(steering=Steering.of(mine, theirs, partner))
    calls = parse("CHECK_STEERING()\nREMOVE_STEERING(3)\nREMOVE_STEERING(4)\nREMOVE_STEERING(9)", theme)
    _, receipts = carry_out_all(box, calls)
    assert theme.word(receipts) == (
        "Steering in force:\n"
        "  thing 3 [3] at strength +0.50 (source: your request)\n"
        "  thing 4 [4] at strength +0.50 (source: external)\n"
        "  thing 5 [5] at strength +0.50 (source: partner)\n\n"
        "Removed your steering of feature 3.\n\n"
        "Removed external steering of feature 4.\n\n"
        "No steering found for feature 9."
    )


@given(st.integers(0, 10**6), st.floats(-9, 9), st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])))
def test_a_canonical_call_is_read_back(feature: int, strength: float, query: str) -> None:
    theme = load_theme("research")
    [steer] = parse(theme.call("steer", feature, strength), theme)
    assert (steer.verb, steer.problem) == ("steer", "")
    assert (int(steer.arguments[0]), float(steer.arguments[1])) == (feature, strength)
    if "<" not in query and "{" not in query and query.strip(".…") != "":
        [search] = parse(theme.call("search", f"a {query} b"), theme)
        assert search.arguments == (f"a {query} b".replace('"', "'"),)


def test_canonical_calls() -> None:
    theme = load_theme("potions")
    assert theme.call("steer", 12, 0.3) == "TAKE_POTION(12, +0.3)"
    assert theme.call("steer", 12, -1.0) == "TAKE_POTION(12, -1.0)"
    assert theme.call("search", "formal") == 'SEARCH_POTIONS("formal")'
    assert theme.call("clear") == "CLEAR_ALL()"


FRAMING_FAULTS = [
    ({"narrative": "{docs} {modle}"}, "unknown variable {modle}"),
    ({"narrative": "{docs} {}"}, "unknown variable {}"),
    ({"narrative": "{docs} {model!r}"}, "{model}"),
    ({"narrative": "{docs} {model.name}"}, "unknown variable {model.name}"),
    ({"narrative": "{docs} {model"}, "narrative"),
    ({"narrative": "{docs} {size:zz}"}, "narrative"),
    ({"narrative": "no tools are named"}, "{docs} is missing"),
    ({"tools": []}, "no tools are offered"),
    ({"tools": ["steer", "steer"]}, "named twice"),
    ({"tools": ["fly"]}, "tools.0"),
    ({"scope": "sometimes"}, "scope"),
    ({"colour": "red"}, "unknown key 'colour'"),
    ({"theme": "nowhere"}, "'nowhere' is unknown"),
    ({"narrative": None}, "narrative"),
]


@pytest.mark.parametrize(("change", "said"), FRAMING_FAULTS)
def test_a_faulty_framing_is_refused_when_it_is_loaded(tmp_path: Path, change: dict, said: str) -> None:
    data = yaml.safe_load((FRAMINGS / "research.yaml").read_text())
    path = _write(tmp_path, {**data, **change})
    with pytest.raises(BadInput) as raised:
        load_framing(path)
    assert said in str(raised.value)
    assert "theme" in change or str(path) in str(raised.value)


THEME_FAULTS = [
    ("names", "steer", "Steer me", "names.steer"),
    ("names", "steer", "INSPECT", "same name"),
    ("docs", "steer", "STEER(12, 0.3) steers.", "placeholders"),
    ("docs", "search", 'SEARCH_FEATURES("query") finds.', "placeholders"),
    ("docs", "search", 'SEARCH_FEATURES(<text>) finds things such as "formal academic writing".', "copy"),
    ("docs", "inspect", "INSPECT() as in STEER(<index>, <number>).", "copy"),
    ("results", "search_row", "{label} {colour}", "unknown variable {colour}"),
    ("results", "steer", "{feature:.2q}", "results.steer"),
    ("problems", "too_many", "{count}", "unknown variable {count}"),
]


@pytest.mark.parametrize(("part", "key", "value", "said"), THEME_FAULTS)
def test_a_faulty_theme_is_refused_when_it_is_loaded(
    tmp_path: Path, part: str, key: str, value: str, said: str
) -> None:
    data = yaml.safe_load((THEMES / "research.yaml").read_text())
    data[part][key] = value
    path = _write(tmp_path, data)
    with pytest.raises(BadInput, match=r"framing\.yaml") as raised:
        load_theme(path)
    assert said in str(raised.value)


@pytest.mark.parametrize("part", ["names", "nouns", "docs", "results", "problems"])
def test_a_theme_lacks_nothing(tmp_path: Path, part: str) -> None:
    data = yaml.safe_load((THEMES / "research.yaml").read_text())
    gone = next(iter(data[part]))
    del data[part][gone]
    with pytest.raises(BadInput, match=f"lacks {gone}"):
        load_theme(_write(tmp_path, data))
    data[part] = {**data[part], gone: "x", "surplus": "x"}
    with pytest.raises(BadInput, match="surplus"):
        load_theme(_write(tmp_path, data))


@pytest.mark.parametrize("text", ["- a\n- b", ": : :", "a: [", "1: 2", ""])
def test_files_that_are_no_framing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"odd\.yaml"):
        load_framing(path)


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(BadInput, match="full_technical, minimal"):
        load_framing("nope")
    with pytest.raises(BadInput, match="network"):
        load_framing("potions x nope")
    with pytest.raises(BadInput, match="does not exist"):
        load_framing("folder/nope.yaml")
    with pytest.raises(BadInput, match="name a framing"):
        load_framing()
    with pytest.raises(BadInput, match="agree"):
        load_framing("research", narrative="no_tools")


def test_the_digest_follows_the_text(tmp_path: Path) -> None:
    data = yaml.safe_load((FRAMINGS / "research.yaml").read_text())
    first = load_framing(_write(tmp_path, data)).digest
    second = load_framing(_write(tmp_path, {**data, "narrative": data["narrative"] + "!"})).digest
    assert first != second


def _write(folder: Path, data: object) -> Path:
    path = folder / "framing.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path
