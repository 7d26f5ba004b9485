"""What was said, not which words fell: each fact of a topic in each response, stated, distorted or absent; no judge.

A deterministic second opinion beside `selfsteer judge --question content`. It knows facts as groups of terms, and
the words that mark an injected feature; it does not understand a sentence, and says "absent" where a judge may not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.calls import prose
from analysis.frames import Frames, per_rollout
from analysis.text import words
from toolkit.errors import BadInput

Code = Literal["stated correctly", "distorted", "absent"]
COLUMNS = ["rollout", "round", "fact", "code", "sentence"]
SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
CHUNK = re.compile(r"[,;:()\"“”–—]|\s-\s")
NUMBER = re.compile(r"\d[\d,.]*\d|\d")
NEAR_WORDS = 2
"""A marker so close to a term of the fact, in the same part of the sentence, stands in a place where facts stand."""
MARKED_Z, MARKED_COUNT, PRIOR = 1.96, 3, 0.1


@dataclass(frozen=True)
class Fact:
    """A checkable statement. terms: groups of spellings; a sentence states the fact if it holds one of each group."""

    id: str
    statement: str
    terms: tuple[tuple[str, ...], ...]


def facts_of(raw: Mapping[str, Any]) -> dict[str, tuple[Fact, ...]]:
    """The facts of each topic, from a run's facts.json. Raises BadInput for a file that is none.

    A fact is {"id", "statement", "terms": [spelling or [spelling, ...], ...]}.
    """
    try:
        return {
            str(topic): tuple(
                Fact(
                    str(one["id"]),
                    str(one["statement"]),
                    tuple((t,) if isinstance(t, str) else tuple(map(str, t)) for t in one["terms"]),
                )
                for one in facts
            )
            for topic, facts in raw.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"facts.json holds no facts ({type(error).__name__}: {error}); restore it") from error


def coded_sentence(sentence: str, fact: Fact, markers: Collection[str]) -> Code:
    """One sentence against one fact.

    Distorted: it holds every term, and a marker within NEAR_WORDS words of a term or between two, not set off by
    punctuation; or it holds every term but the last, which is a number, and holds another number in its place. A word
    of the fact's own statement is no marker: it is not foreign there.
    """
    foreign = set(markers) - set(words(fact.statement))
    *others, last = fact.terms
    places = [_places(sentence, group) for group in fact.terms]
    if all(places):
        return (
            "distorted" if _in_slot(sentence, [p for group in places for p in group], foreign) else "stated correctly"
        )
    numeric = all(NUMBER.fullmatch(spelling) for spelling in last)
    if numeric and others and all(places[:-1]) and NUMBER.search(sentence):
        return "distorted"
    return "absent"


def sentences(frames: Frames, markers: Mapping[int, Collection[str]] | None = None) -> pd.DataFrame:
    """Every sentence that is about a fact of its rollout's topic. Columns COLUMNS; absent ones are left out.

    markers: by feature (default: marking(frames)); those of the features injected in a rollout apply in all its
    rounds. The topic is in the parameters of the condition.
    """
    facts = facts_of(frames.facts)
    markers = marking(frames) if markers is None else markers
    injected = frames.steering[frames.steering["source"] != "self"]
    features = injected.groupby("rollout")["feature"].unique().to_dict()
    topics = {r: _topic(p) for r, p in frames.rollouts[["rollout", "parameters"]].itertuples(index=False)}
    rows: list[tuple[str, int, str, str, str]] = []
    for rollout, number, text in prose(frames).itertuples(index=False):
        about = facts.get(topics.get(rollout, ""), ())
        marked = {w for f in features.get(rollout, ()) for w in markers.get(int(f), ())}
        for sentence in SENTENCE.findall(text) if about else ():
            for fact in about:
                code = coded_sentence(sentence, fact, marked)
                if code != "absent":
                    rows.append((rollout, number, fact.id, code, sentence.strip()))
    return pd.DataFrame(rows, columns=COLUMNS)


def content(frames: Frames, markers: Mapping[int, Collection[str]] | None = None) -> pd.DataFrame:
    """Per rollout: share of its topic's facts stated correctly (coverage), and share distorted (distortion).

    Apart: a fact can be both, in two sentences. NaN where the topic has no facts; where no words are known to mark
    what was injected, whether a fact was distorted, and so whether it was stated correctly, is not known either: NaN.
    """
    markers = marking(frames) if markers is None else markers
    facts, found = facts_of(frames.facts), sentences(frames, markers)
    injected = frames.steering[(frames.steering["source"] != "self") & (frames.steering["strength"] != 0)]
    unknown = set(injected.loc[~injected["feature"].isin(list(markers)), "rollout"])
    rows = {}
    for rollout, parameters in frames.rollouts[["rollout", "parameters"]].itertuples(index=False):
        about = facts.get(_topic(parameters), ())
        if about:
            mine = found[found["rollout"] == rollout]
            ways = (("coverage", "stated correctly"), ("distortion", "distorted"))
            shares = {n: mine.loc[mine["code"] == c, "fact"].nunique() / len(about) for n, c in ways}
            rows[rollout] = dict.fromkeys(shares, float("nan")) if rollout in unknown else shares
    return per_rollout(frames, rows)


def marking(frames: Frames) -> dict[int, frozenset[str]]:
    """Words over-represented in responses under an injected feature, by feature, against responses under none of it.

    Responses are held against others to the same round of the same topic alone: what is talked about changes from round
    to round. A feature is left out if there are none, or it was injected in a single rollout. Log-odds ratio with an
    informative Dirichlet prior (PRIOR times the pooled counts), z above MARKED_Z, at least MARKED_COUNT uses, in at
    least two rollouts. Source: Monroe, Colaresi and Quinn 2008, "Fightin' Words", section 3.5. Made from the run
    itself: good for reading, not as a test.
    """
    topics = {r: _topic(p) for r, p in frames.rollouts[["rollout", "parameters"]].itertuples(index=False)}
    outside = frames.steering[(frames.steering["source"] != "self") & (frames.steering["strength"] != 0)]
    under = {int(str(f)): set(zip(g["rollout"], g["round"], strict=True)) for f, g in outside.groupby("feature")}
    here = frames.rounds[frames.rounds["response"].notna()]
    said = {(r, n): words(text) for r, n, text in here[["rollout", "round", "response"]].itertuples(index=False)}
    made = {}
    for feature, at in under.items():
        turns = [{(topics[r], n) for r, n in said if ((r, n) in at) is marked} for marked in (True, False)]
        alike = {key: list(said[key]) for key in said if (topics[key[0]], key[1]) in turns[0] & turns[1]}
        by_rollout: dict[str, list[str]] = {}
        for (rollout, number), spoken in alike.items():
            if (rollout, number) in at:
                by_rollout.setdefault(rollout, []).extend(spoken)
        if len(by_rollout) > 1:
            marked = Counter(word for spoken in by_rollout.values() for word in spoken)
            plain = Counter(word for key, spoken in alike.items() if key not in at for word in spoken)
            shared = Counter(word for spoken in by_rollout.values() for word in set(spoken))
            made[feature] = frozenset(w for w in _over_represented(marked, plain) if shared[w] > 1)
    return made


def _over_represented(first: Counter[str], second: Counter[str]) -> Iterable[str]:
    both = first + second
    n1, n2 = sum(first.values()), sum(second.values())
    total = PRIOR * (n1 + n2)
    for word, uses in first.items():
        prior = PRIOR * both[word]
        if uses < MARKED_COUNT or not n2:
            continue
        a1, a2 = uses + prior, second[word] + prior
        delta = np.log(a1 / (n1 + total - a1)) - np.log(a2 / (n2 + total - a2))
        if delta / np.sqrt(1 / a1 + 1 / a2) > MARKED_Z:
            yield word


def _places(sentence: str, spellings: Sequence[str]) -> list[tuple[int, int]]:
    return [m.span() for s in spellings for m in re.finditer(rf"(?<!\w){re.escape(s)}(?!\w)", sentence, re.IGNORECASE)]


def _in_slot(sentence: str, terms: Sequence[tuple[int, int]], markers: Collection[str]) -> bool:
    edges = [0, *(m.start() for m in CHUNK.finditer(sentence)), len(sentence)]
    for low, high in pairwise(edges):
        here = [(m.start() + low, m.end() + low, m.group()) for m in re.finditer(r"\b\w+\b", sentence[low:high])]
        term = [any(a <= start and end <= b for a, b in terms) for start, end, _ in here]
        spots = [i for i, t in enumerate(term) if t]
        for i, (_, _, word) in enumerate(here):
            near = any(abs(i - s) <= NEAR_WORDS for s in spots) or (spots and spots[0] < i < spots[-1])
            if word.lower() in markers and not term[i] and near:
                return True
    return False


def _topic(parameters: Any) -> str:
    return str(parameters.get("topic", "")) if isinstance(parameters, dict) else ""
