"""The counting behind `selfsteer controls`: which index is out of the last results, and which is the right one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from scenarios.bench import share
from scenarios.controls import Indexes
from toolkit.organism.lexicon import lexicon


def call(round_: int, verb: str, *arguments: str, rows: tuple[int, ...] = ()) -> Any:
    shown = tuple(SimpleNamespace(feature=f) for f in rows)
    return SimpleNamespace(event="call", round=round_, verb=verb, arguments=arguments, rows=shown)


def test_an_index_counts_as_shown_only_if_it_was_in_the_last_results() -> None:
    counts = Indexes()
    counts.count(
        [
            call(1, "search", "pirates", rows=(12, 7)),
            call(2, "steer", "12", "+0.3"),  # shown, and the best match
            call(3, "inspect", rows=(5,)),
            call(4, "remove", "12"),  # in results, but not in the last ones
            call(4, "steer", "5", "+0.3"),  # shown; not after a search, so right or wrong does not arise
        ]
    )
    assert (counts.all, counts.shown, counts.searched, counts.right) == (3, 2, 1, 1)


def test_the_second_best_match_is_not_the_right_one() -> None:
    counts = Indexes()
    counts.count([call(1, "search", "pirates", rows=(12, 7)), call(2, "steer", "7", "+0.3")])
    assert (counts.shown, counts.right) == (1, 0)


def test_an_index_in_the_same_response_as_its_results_was_not_shown_yet() -> None:
    counts = Indexes()
    counts.count([call(1, "inspect", rows=(12,)), call(1, "remove", "12")])
    assert counts.shown == 0


def test_share_counts_sentences_and_leaves_calls_out() -> None:
    pirate = lexicon().styles["pirate"]
    assert share(["Arr, it rains. It rains.\nINSPECT()"], pirate) == (0.5, 2)
    assert share([""], pirate) == (0.0, 0)
