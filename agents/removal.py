"""The moment of a removal, four ways: a conversation's keys and values as they were or anew, its words or neutral ones.

Transcripts in, a context out. Knows no engine and no scenario; a way on is a value, and the loop that goes on from it
cannot tell which it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.rollout import SINK
from agents.transcript import Given, Response, Transcript
from toolkit.context import Context
from toolkit.errors import SelfsteerError
from toolkit.steering import NO_STEERING


def at_removal(
    steered: Transcript, plain: Transcript, keeps_state: bool, keeps_words: bool, stops: frozenset[int]
) -> Given:
    """The conversation as one cell has it when the steering goes: its context, and whether its last reply was closed.

    Without its words, each response under steering holds those of the same round of `plain`, and of the rounds after
    it, as many tokens as there were; its stop token stays. Raises SelfsteerError if either conversation failed.
    """
    for one in (steered, plain):
        if one.end is None or one.end.how != "finished":
            how = "is not finished" if one.end is None else f"ended as {one.end.how}: {one.end.error or ''}"
            raise SelfsteerError(
                f"{one.path} {how}; nothing can go on from it: use another --run-seed, or fewer rounds"
            )
    said = [event for event in steered.events if isinstance(event, Response)]
    context = steered.context()
    if not keeps_words:
        neutral = [
            [token for token in event.tokens if token not in stops]
            for event in plain.events
            if isinstance(event, Response)
        ]
        context = with_words(context, neutral, stops)
    if not keeps_state:
        context = context.under(NO_STEERING, SINK)
    return Given.of(context, closed=said[-1].why == "stop")


def with_words(context: Context, neutral: Sequence[Sequence[int]], stops: frozenset[int]) -> Context:
    """The context with other words in every response that was generated under steering; stop tokens stay.

    neutral: tokens for each response of the conversation, the unsteered ones counted; those of later ones fill up.
    """
    position, number, made = 0, 0, context
    for segment in context.segments:
        if segment.author == "generated":
            room = len(segment) - (segment.tokens[-1] in stops)
            if len(segment.steering) and room:
                words = [token for part in (*neutral[number:], *neutral[:number]) for token in part]
                if not words:
                    raise SelfsteerError("the conversation without injection has no word to put in the place of others")
                made = made.swap(position, [words[i % len(words)] for i in range(room)])
            number += 1
        position += len(segment)
    return made
