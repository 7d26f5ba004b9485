from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit import wording
from toolkit.calibrate import Dose
from toolkit.engines.base import Scores, run_all
from toolkit.errors import BadInput
from toolkit.randomness import stream
from toolkit.screening import Plan, _Bench, apart, choice, kl, screen
from toolkit.steering import Intervention, Steering
from toolkit.views import viewed

PROSE = (
    "The harbour was quiet in the early morning, and only two boats had come back from the night's work. "
    "On the quay a woman sorted fish into boxes while the gulls walked up and down behind her. "
    "She said that the wind would turn before noon, as it did on most days in autumn, and nobody would go out again."
)
TEXTS = st.text(alphabet="abc d", max_size=40)


@given(TEXTS, TEXTS)
def test_the_distance_of_two_texts_is_one(a: str, b: str) -> None:
    assert wording.distance(a, a) == 0
    assert wording.distance(a, b) == wording.distance(b, a)
    assert 0 <= wording.distance(a, b) <= 1


def test_the_rule_for_coherence_passes_prose_and_no_loop() -> None:
    assert wording.coherent(PROSE) and wording.coherent("Yes.") and wording.coherent("Très bien, я согласен.")
    assert not wording.coherent("")
    assert not wording.coherent("...")
    assert not wording.coherent("arr arr arr arr arr arr")
    assert not wording.coherent("no yes " * 8)
    assert not wording.coherent("the sea is wide and deep today " * 8)


def test_words_that_mark_are_those_said_oftener() -> None:
    plain = ["the rain is cold in oslo"] * 10
    steered = ["arr the rain is cold"] * 6 + ["the rain is cold in oslo"] * 4
    assert wording.marking(steered, plain) == ("arr",)
    assert wording.marking(plain, plain) == ()
    assert wording.share(["arr the rain"], ("arr",)) == pytest.approx(1 / 3)
    assert math.isnan(wording.share([], ("arr",)))


def test_two_groups_of_the_same_kind_are_no_farther_apart_than_chance_makes_them() -> None:
    draw = np.random.default_rng(5)
    vocabulary = [f"w{chr(97 + i)}" for i in range(26)]

    def group(extra: list[str]) -> list[list[str]]:
        return [[" ".join([*draw.choice(vocabulary, 8), *extra]) for _ in range(6)] for _ in range(5)]

    found = [apart(group([]), group([]), stream("test", i)) for i in range(40)]
    assert sum(value > chance for value, chance in found) <= 5  # of 40, at an upper end of 97.5%
    value, chance = apart(group([]), group(["arr", "ahoy", "avast"]), stream("test"))
    assert value > chance


def test_kl_is_that_of_two_distributions() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.125, 0.75, 0.125])
    a, b = (Scores(tuple(np.log(x)), 1.0, {}) for x in (p, q))
    assert kl([a], [b]) == pytest.approx(0.5 * math.log(4) - 0.25 * math.log(3) + 0.25 * math.log(2))
    assert kl([a, b], [a, b]) == 0


def test_words_of_scripts_without_spaces_are_their_characters() -> None:
    assert wording.words("我很好, don't 12 สวัส") == [*"我很好", "don't", *"สวส"]
    assert wording.distance("我很好", "我不好") == 0.5
    assert not wording.coherent("好的" * 20) and wording.coherent("河水夏天流得慢，春天流得快。")


@pytest.mark.parametrize("wrong", [{"prompts": ()}, {"samples": 1}, {"strengths": (0.0,)}, {"strengths": (2.0, 1.0)}])
def test_a_plan_that_measures_nothing_is_refused(wrong: dict) -> None:
    with pytest.raises(BadInput):
        Plan(**{"prompts": ("Hello.",), **wrong})


def dose(strength: float, kl: float, coherent: float = 1.0, visible: bool = True) -> Dose:
    return Dose(strength, kl, coherent, (0.5,), 0.5, 0.4, visible)


@pytest.mark.parametrize(
    ("doses", "broken", "chosen"),
    [
        ((dose(1, 0.1), dose(2, 0.3), dose(3, 0.9)), None, 2),
        ((dose(1, 0.1), dose(2, 0.3, visible=False), dose(3, 0.9)), None, 3),
        ((dose(1, 0.1), dose(2, 0.3, visible=False), dose(3, 0.9, 0.5)), 3, None),
        ((dose(1, 0.1), dose(2, 0.3, 0.8), dose(3, 0.9)), 2, None),
        ((dose(1, 0.3, 0.8), dose(2, 0.3)), 1, None),
    ],
)
def test_the_weakest_visible_strength_below_the_break_is_chosen(doses: tuple, broken: object, chosen: object) -> None:
    found = choice((dose(0, 0, 0.95, False), *doses), 0.2)
    assert found[:2] == (broken, chosen) and bool(found[2]) == (chosen is None)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_where_unsteered_responses_are_incoherent_no_strength_is_called_coherent(share: float) -> None:
    broken, chosen, why = choice((dose(0, 0, share, False), dose(0.5, 1.0, share, True)), 0.2)
    assert (broken, chosen) == (None, None) and "without steering" in why


# ---------------------------------------------------------------------- on the organism


@pytest.fixture(scope="module")
def bench() -> _Bench:
    from toolkit.engines.local import LocalEngine
    from toolkit.opening import open_dictionary
    from toolkit.organism import MODEL, SAE

    plan = Plan(
        ("Tell me about the weather in Oslo.", "How do I cook soup?"), (1.2, 3.0), samples=6, max_tokens=32, positions=3
    )
    engine, sae = LocalEngine(str(MODEL)), open_dictionary(SAE)
    engine.attach(sae)
    return _Bench(engine, sae, plan)


def style(bench: _Bench) -> int:
    return next(i for i in range(len(bench.dictionary)) if bench.dictionary.label(i) == "pirate dialect")


def test_the_whole_vocabulary_has_all_of_the_probability(bench: _Bench) -> None:
    assert all(one.mass == pytest.approx(1, abs=1e-9) for one in bench.base)


def test_scoring_the_vocabulary_at_once_is_scoring_each_option(bench: _Bench) -> None:
    from toolkit.engines.base import Score

    context = bench.context(0, Steering())
    both = (((5,),), ((7,), (9, 3)))  # a longer spelling takes the other way
    once, apiece = run_all(bench.engine, [Score(context, bench.whole), Score(context, both)])
    assert isinstance(once, Scores) and isinstance(apiece, Scores)
    assert once.logprobs[5] == pytest.approx(apiece.logprobs[0], abs=1e-6)


def test_steering_that_adds_nothing_has_no_divergence_and_no_effect(bench: _Bench) -> None:
    zero = viewed(bench.dictionary, arm="zero")
    bench.engine.attach(zero)
    nothing = Steering.of(Intervention(zero.key, style(bench), 2.0, source="external"))
    assert kl(bench.base, bench.scores(nothing)) == 0


def test_a_style_is_found_its_words_are_its_own_and_it_breaks_in_the_end(bench: _Bench) -> None:
    from toolkit.organism.lexicon import lexicon

    told = []
    made = screen(bench.engine, bench.dictionary, [style(bench)], bench.plan, lambda *so_far: told.append(so_far))
    (found,) = made.features
    assert told == [(made, found)] and made.model == bench.engine.info.digest
    kls = [dose.kl for dose in found.doses]
    assert kls == sorted(kls) and kls[0] == 0 < kls[1]
    markers = lexicon().styles["pirate"].markers
    assert found.words and sum(w in markers for w in found.words) >= len(found.words) / 2
    assert found.doses[1].marked > found.doses[0].marked
    assert found.doses[2].visible
    again = screen(bench.engine, bench.dictionary, [style(bench)], bench.plan)
    assert again == made
