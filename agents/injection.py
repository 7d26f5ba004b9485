"""Injections: steering that the experimenter sets and ends in the middle of a conversation, as values a script carries.

Knows no conversation, no engine and no text. An arm is another dictionary (toolkit.views); nothing here asks which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from agents.script import Turn
from toolkit.dictionary import FeatureDictionary
from toolkit.errors import BadInput
from toolkit.randomness import stream
from toolkit.steering import Intervention, Mode, Steering

Change = Callable[[Steering], Steering]


@dataclass(frozen=True)
class Injection:
    """Features held at one strength from the turn of round `onset` on, and until that of round `until`, if any.

    dictionary: the one whose directions are added, in whose unit `strength` is; engines must have it attached. The
    features keep their numbers in every arm, so a matched-norm random direction can be removed by the same number.
    Raises BadInput for no feature, one that the dictionary has not, or rounds out of order.
    """

    dictionary: FeatureDictionary
    features: tuple[int, ...]
    strength: float
    onset: int = 1
    until: int | None = None
    mode: Mode = "add"

    def __post_init__(self) -> None:
        if not self.features:
            raise BadInput("an injection without a feature injects nothing; leave it out, or name a feature")
        for feature in self.features:
            if not 0 <= feature < len(self.dictionary):
                raise BadInput(f"feature {feature} is not in {self.dictionary.name} (0 to {len(self.dictionary) - 1})")
        if self.onset < 1:
            raise BadInput(f"an injection cannot begin in round {self.onset}; rounds are numbered from 1")
        if self.until is not None and self.until <= self.onset:
            raise BadInput(f"an injection of round {self.onset} cannot end in round {self.until}; end it later")

    def at(self, number: int) -> Change | None:
        """The experimenter's change of steering before round `number`, if there is one."""
        if number == self.onset:
            return injected(self.dictionary, self.features, self.strength, self.mode)
        return withdrawn if number == self.until else None


def injected(dictionary: FeatureDictionary, features: Sequence[int], strength: float, mode: Mode = "add") -> Change:
    """The change that adds `features` at `strength` (in the dictionary's unit), beside whatever else is in force."""
    added = [Intervention(dictionary.key, feature, strength, mode, "external") for feature in features]
    return lambda now: now.with_(*added)


def withdrawn(now: Steering) -> Steering:
    """What stays in force when the experimenter ends all of its own; what the model set stays."""
    return now.without(*now.by("external"))


def conversation(
    texts: Iterable[str], injection: Injection | None = None, forget_at: int | None = None
) -> Iterator[Turn]:
    """One turn for each text, with the injection's changes; the history is dropped before round `forget_at`."""
    for number, text in enumerate(texts, 1):
        change = injection.at(number) if injection else None
        why = "" if change is None else "injection begins" if change is not withdrawn else "injection ends"
        yield Turn(text, change, why, forget=number == forget_at)


def find(dictionary: FeatureDictionary, named: str) -> int:
    """A feature by its number or by its label in full, upper or lower case.

    `dictionary` must show its true labels. Raises BadInput for what is neither, naming the labels nearest in meaning: a
    slip must not inject whatever lies nearest. Raises it too for a label that several features have.
    """
    named = named.strip()
    if named.isdecimal():
        if int(named) >= len(dictionary):
            raise BadInput(f"feature {named} is not in {dictionary.name} (0 to {len(dictionary) - 1})")
        return int(named)
    same = [i for i in range(len(dictionary)) if dictionary.label(i).casefold() == named.casefold()]
    if len(same) == 1:
        return same[0]
    if same:
        shown = ", ".join(map(str, same[:5])) + (", ..." if len(same) > 5 else "")
        raise BadInput(f"{len(same)} features of {dictionary.name} are labelled {named!r}; name one by number: {shown}")
    near = [f"{hit.feature} {dictionary.label(hit.feature)}" for hit in (dictionary.search(named, 3) if named else [])]
    way = f"nearest in meaning are {'; '.join(near)}. Name" if near else "name"
    raise BadInput(f"no feature of {dictionary.name} is labelled {named!r}; {way} one by number or label in full")


def drawn(dictionary: FeatureDictionary, among: Sequence[int], *name: str | int) -> int:
    """A feature with a real label that is none of `among`, by the random stream `name`. Raises BadInput if none is."""
    others = [i for i in range(len(dictionary)) if dictionary.status(i) == "real" and i not in set(among)]
    if not others:
        raise BadInput(f"{dictionary.name} has no other feature with a label, so none can be drawn")
    return others[int(stream(*name).integers(len(others)))]
