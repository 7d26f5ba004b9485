"""Screening features for calibration: generate, score and read under each strength, and choose one by a stated rule.

Knows no scenario and no prompt of its own; what comes of it is a value of toolkit/calibrate.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit import wording
from toolkit.calibrate import DISTANCE, Calibration, Dose, Screened
from toolkit.context import Context
from toolkit.dictionary import FeatureDictionary
from toolkit.engines.base import Completion, Engine, Generate, Read, Residuals, Sampling, Score, Scores, run_all
from toolkit.errors import BadInput
from toolkit.randomness import stream
from toolkit.steering import NO_STEERING, Intervention, Steering

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)
ENOUGH = 0.8  # of the prompts must show a visible difference
TELLING = 0.5  # of unsteered responses must be coherent for the rule to say anything
STILL = 0.9  # of the unsteered share of coherent responses must be left
RELABELLED = 500  # random relabellings behind the chance band
UPPER = 0.975  # its upper end

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What is measured. Prompts are rendered, with `system` if there is one; position 0 is never steered.

    samples: responses a prompt and strength, beside a greedy one; half of them find the words that mark a feature, the
    others are counted. positions: at how many places of the greedy unsteered response KL is measured. target_kl: nats;
    the weakest strength that reaches it visibly is chosen, if it is below the one at which coherence breaks.
    """

    prompts: tuple[str, ...]
    strengths: tuple[float, ...] = STRENGTHS
    samples: int = 6
    max_tokens: int = 40
    temperature: float = 0.7
    positions: int = 6
    target_kl: float = 0.1
    system: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompts or self.samples < 2 or self.positions < 1:
            raise BadInput(
                f"{len(self.prompts)} prompts, {self.samples} samples and {self.positions} positions are too few; use "
                "1, 2 and 1 at least: two unsteered samples say how far responses differ by chance"
            )
        if not self.strengths or not all(0 < s < math.inf for s in self.strengths):
            raise BadInput(f"strengths {self.strengths} must be positive numbers, such as 0.3, 0.6, 1.0")
        if list(self.strengths) != sorted(set(self.strengths)):
            raise BadInput(f"strengths {self.strengths} must be distinct, the weakest first")
        if not 0 < self.target_kl < math.inf:
            raise BadInput(f"target KL {self.target_kl} is not a positive number of nats; use 0.1")


@dataclass(frozen=True)
class _Said:
    """Responses under one strength: texts[prompt][sample] and greedy[prompt].

    active, reread: [F], the mean activations over the samples as they were computed, and read again unsteered.
    """

    texts: tuple[tuple[str, ...], ...]
    greedy: tuple[str, ...]
    active: Array
    reread: Array

    @cached_property
    def found(self) -> tuple[str, ...]:
        """The half from which words are found."""
        return tuple(t for row in self.texts for t in row[0::2])

    @cached_property
    def held_out(self) -> tuple[str, ...]:
        return tuple(t for row in self.texts for t in row[1::2])

    @cached_property
    def coherent(self) -> float:
        return float(np.mean([wording.coherent(t) for row in self.texts for t in row]))


def screen(
    engine: Engine,
    dictionary: FeatureDictionary,
    features: Sequence[int],
    plan: Plan,
    done: Callable[[Calibration, Screened], None] = lambda so_far, last: None,
) -> Calibration:
    """Screen `features` at every strength of the plan; `done` is told what is there after each, and the last of it.

    Raises BadInput for no feature, or one that the dictionary has not; whatever the engine raises ends it.
    """
    if not features:
        raise BadInput("no feature is to be screened; name one by its number")
    if unknown := next((f for f in features if not 0 <= f < len(dictionary)), None):
        raise BadInput(f"feature {unknown} is not in {dictionary.name} (0 to {len(dictionary) - 1})")
    engine.attach(dictionary)
    bench, info = _Bench(engine, dictionary, plan), engine.info
    made = Calibration(
        dictionary.key, dictionary.name, dictionary.directions.unit, info.digest, info.name,
        tuple(_within(row) for row in bench.plain.texts), (), settings(plan),
    )  # fmt: skip
    for feature in dict.fromkeys(features):
        screened = bench.screened(feature)
        made = replace(made, features=tuple(sorted((*made.features, screened), key=lambda one: one.feature)))
        done(made, screened)
    return made


def settings(plan: Plan) -> dict[str, Any]:
    """How a plan measures, as a calibration says it: the plan and its rules in words."""
    return {
        **{k: list(v) if isinstance(v, tuple) else v for k, v in vars(plan).items()},
        "visible": f"greedy responses over {DISTANCE} apart on {ENOUGH:.0%} of prompts, and all words of sampled ones "
        f"farther apart than in {UPPER:.1%} of {RELABELLED} random relabellings",
        "coherent": wording.COHERENT,
        "broken": f"under {STILL:.0%} of the share of coherent responses without steering",
    }


def kl(plain: Sequence[Scores], steered: Sequence[Scores]) -> float:
    """Mean over positions of KL(plain || steered) in nats, of scores of the whole vocabulary, float64 sums."""
    p, q = (np.array([one.logprobs for one in some]) for some in (plain, steered))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def apart(
    plain: Sequence[Sequence[str]], steered: Sequence[Sequence[str]], draw: np.random.Generator
) -> tuple[float, float]:
    """Jaccard distance between all words of one group of responses and all words of the other, and what chance makes.

    Groups are lists of texts for each prompt. The second number is the upper end of the distance when the responses to
    each prompt are relabelled at random: what two unsteered groups would show.
    """
    sets = [[frozenset(wording.words(t)) for t in (*a, *b)] for a, b in zip(plain, steered, strict=True)]
    first = [np.arange(len(row)) < len(a) for row, a in zip(sets, plain, strict=True)]
    chance = [_pooled(sets, [draw.permutation(group) for group in first]) for _ in range(RELABELLED)]
    return _pooled(sets, first), float(np.quantile(chance, UPPER))


def choice(doses: Sequence[Dose], target_kl: float) -> tuple[float | None, float | None, str]:
    """Where coherence breaks (None: never), the strength that is chosen (None: none passes), and why not.

    doses: weakest first, the unsteered one at the front. The weakest strength below the break that reaches `target_kl`
    nats and is visible. None where too few unsteered responses are coherent to tell what breaks them.
    """
    if not doses[0].coherent >= TELLING:
        return None, None, f"only {doses[0].coherent:.0%} of responses are coherent without steering"
    broken = next((d.strength for d in doses[1:] if d.coherent < STILL * doses[0].coherent), None)
    below = [d for d in doses[1:] if broken is None or d.strength < broken]
    reaching = [d for d in below if d.kl >= target_kl]
    if not reaching:
        most = max((d.kl for d in below), default=0.0)
        return broken, None, f"coherent strengths reach a KL of {most:.2f} nats, under {target_kl:g}"
    seen = next((d.strength for d in reaching if d.visible), None)
    return broken, seen, "" if seen is not None else "coherent strengths make no visible difference"


class _Bench:
    """What is the same for every feature: contexts, unsteered responses, and their next-token distributions."""

    def __init__(self, engine: Engine, dictionary: FeatureDictionary, plan: Plan) -> None:
        self.engine, self.dictionary, self.plan = engine, dictionary, plan
        self.openings = [engine.tokenizer.opening(plan.system, prompt) for prompt in plan.prompts]
        self.whole = tuple(((token,),) for token in range(engine.info.vocabulary))
        self.plain, self.greedy = self.said(NO_STEERING, "unsteered")
        self.base = self.scores(NO_STEERING)

    def context(self, prompt: int, steering: Steering) -> Context:
        tokens = self.openings[prompt]
        return Context().append(tokens[:1]).append(tokens[1:], steering)

    def said(self, steering: Steering, *name: str | int) -> tuple[_Said, list[tuple[int, ...]]]:
        """What it says under `steering`, and the tokens of the greedy responses, one a prompt."""
        plan, each = self.plan, self.plan.samples + 1
        requests = []
        for prompt in range(len(plan.prompts)):
            for sample in range(each):
                heat = 0.0 if sample == plan.samples else plan.temperature  # the last of each is greedy
                draws = ("calibrate", plan.seed, *name, prompt, sample)
                sampling = Sampling(heat, max_tokens=plan.max_tokens, stream=draws)
                requests.append(Generate(self.context(prompt, steering), sampling, steering, self.dictionary.key))
        answers = [one for one in run_all(self.engine, requests) if isinstance(one, Completion)]
        read, active = [], []
        for place, one in enumerate(answers):
            if place % each == plan.samples:
                continue
            whole = self.context(place // each, NO_STEERING).append(one.tokens)
            positions = tuple(range(len(whole) - len(one.tokens), len(whole)))
            read.append(Read(whole, positions, (self.dictionary.reader.layer,)))
            active.append(self._mean(one.residuals))
        again = [self._mean(one.values[:, 0]) for one in run_all(self.engine, read) if isinstance(one, Residuals)]
        texts = [self.engine.tokenizer.decode(one.tokens) for one in answers]
        rows = [tuple(texts[i : i + each]) for i in range(0, len(texts), each)]
        said = _Said(
            tuple(row[:-1] for row in rows), tuple(row[-1] for row in rows), np.mean(active, 0), np.mean(again, 0)
        )
        return said, [one.tokens for one in answers[plan.samples :: each]]

    def scores(self, steering: Steering) -> list[Scores]:
        """Of the whole vocabulary, at evenly spaced places of the greedy unsteered responses, all under `steering`."""
        requests = []
        for prompt, tokens in enumerate(self.greedy):
            whole = self.context(prompt, steering).append(tokens, steering)
            start = len(self.openings[prompt])
            places = np.linspace(start, max(start, len(whole) - 1), self.plan.positions).round().astype(int)
            requests += [Score(whole.upto(place), self.whole) for place in dict.fromkeys(places.tolist())]
        return [one for one in run_all(self.engine, requests) if isinstance(one, Scores)]

    def screened(self, feature: int) -> Screened:
        plan = self.plan
        doses, said = [self._dose(feature, 0.0, self.plain)], [self.plain]
        for strength in plan.strengths:
            steering = Steering.of(Intervention(self.dictionary.key, feature, strength, source="external"))
            spoken, _ = self.said(steering, feature, repr(strength))
            doses.append(self._dose(feature, strength, spoken, steering))
            said.append(spoken)
        broken, chosen, why = choice(doses, plan.target_kl)
        below = [d for d in doses[1:] if broken is None or d.strength < broken]
        at = doses.index(below[-1]) if below else 1  # the strongest coherent one shows most of its words
        words = wording.marking(said[at].found, self.plain.found)
        marked = [
            replace(dose, marked=wording.share(spoken.held_out, words))
            for dose, spoken in zip(doses, said, strict=True)
        ]
        return Screened(feature, self.dictionary.label(feature), chosen, why, broken, words, tuple(marked))

    def _dose(self, feature: int, strength: float, said: _Said, steering: Steering = NO_STEERING) -> Dose:
        distances = tuple(map(wording.distance, self.plain.greedy, said.greedy))
        draw = stream("calibrate", self.plan.seed, feature, repr(strength), "relabelled")
        found, chance = apart(self.plain.texts, said.texts, draw) if len(steering) else (0.0, 0.0)
        visible = found > chance and sum(d > DISTANCE for d in distances) >= ENOUGH * len(distances)
        divergence = kl(self.base, self.scores(steering)) if len(steering) else 0.0
        return Dose(
            strength, divergence, said.coherent, distances, found, chance, visible,
            activation=float(said.active[feature]), reread=float(said.reread[feature]),
        )  # fmt: skip

    def _mean(self, residuals: object) -> Array:
        """[F]: mean activation of every feature over residuals [T, D]."""
        total: Array = np.zeros(len(self.dictionary))
        for block in residuals.split(64):  # type: ignore[attr-defined]
            total += self.dictionary.reader.encode(block).double().sum(0).cpu().numpy()
        return total / len(residuals)  # type: ignore[arg-type]


def _pooled(sets: Sequence[Sequence[frozenset[str]]], first: Sequence[NDArray[np.bool_]]) -> float:
    """Jaccard distance between the union of the sets that are `first` and the union of the others."""
    one, other = set[str](), set[str]()
    for row, group in zip(sets, first, strict=True):
        for said, belongs in zip(row, group.tolist(), strict=True):
            (one if belongs else other).update(said)
    return 1 - len(one & other) / len(one | other) if one | other else 0.0


def _within(texts: Sequence[str]) -> float:
    """Mean distance of two different ones."""
    return float(np.mean([wording.distance(a, b) for a, b in combinations(texts, 2)]))
