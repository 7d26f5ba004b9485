"""Queries about models that explore and steer themselves: what the claims of the SAE self-steering study name.

Knows no claim. Each meaning says what is counted; the room that counts it says what is wrong with the published way.
"""

from __future__ import annotations

from analysis import degeneration, grounding, published_coder, removal, searches, steered, tool_use, wording
from analysis.claims.statistic import Statistic
from analysis.frames import Frames
from analysis.metrics import Metric
from analysis.stats import Estimate, fisher, outcomes


def fisher_of_counts(frames: Frames, first: tuple[int, int], second: tuple[int, int]) -> Estimate:
    """p of Fisher's exact test, two-sided, of published counts [k, n] and [k, n]: needs no transcript."""
    found = fisher(outcomes(*first), outcomes(*second))
    nan = float("nan")
    return Estimate(found.p, nan, nan, found.n, "p of Fisher's exact test, two-sided, of published counts", 0, found.p)


COUNTS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("degenerate_any_cause", 1, "rate", "any of five signs of degeneration", degeneration.any_cause),
        Metric("called", 1, "rate", "a call of any outcome, ever", tool_use.rounds_used),
        Metric("called_first_round", 1, "rate", "a call of any outcome in round 1", tool_use.rounds_used),
        Metric("silent_first_round", 1, "rate", "no call in round 1", tool_use.rounds_used),
        Metric("rounds_with_calls", 1, "number", "rounds with a call", tool_use.rounds_used),
        Metric("rounds", 1, "number", "rounds with a response", tool_use.rounds_used),
        Metric("calls_written", 1, "number", "calls as parsed, of any outcome", tool_use.rounds_used),
        Metric("malformed_counter", 1, "number", "malformed calls by the runner's counter", tool_use.runner_counter),
        Metric("attempts_in_text", 1, "number", "names of tools with a bracket, in the text", tool_use.attempted),
        Metric("repeated_in_text", 1, "number", "well-formed calls written again", tool_use.attempted),
        Metric("prose_in_text", 1, "number", "tools named within sentences", tool_use.attempted),
        Metric("broken_in_text", 1, "number", "calls whose argument cannot be read", tool_use.attempted),
        Metric("empty_searches", 1, "number", "searches for nothing, in the text", tool_use.attempted),
        Metric("rollouts", 1, "number", "1 for every rollout", tool_use.recorded),
        Metric("readings", 1, "number", "features listed by the automatic INSPECT", tool_use.recorded),
        Metric("seconds", 1, "number", "seconds of generation, as recorded", tool_use.recorded),
        Metric("words", 1, "number", "words between white space", wording.word_counts),
        Metric("responses", 1, "number", "responses", wording.word_counts),
        Metric("first_person_words", 1, "number", "I, my, me, mine, myself", wording.word_counts),
        Metric("second_person_words", 1, "number", "you, your, yours, yourself", wording.word_counts),
        Metric("second_person_share", 1, "share", "second person per word", wording.word_counts),
        Metric("more_second_than_first", 1, "rate", "more second than first person", wording.word_counts),
        Metric("contains_all", 1, "rate", "a response holds all of the texts", wording.containing),
        Metric("word_most", 1, "number", "most times that one response says a word", wording.one_word),
        Metric("word_rounds", 1, "number", "responses that are mostly one word", wording.one_word),
        Metric("queries", 1, "number", "searches, of any outcome", searches.searched),
        Metric("matching", 1, "number", "searches that match", searches.searched),
        Metric("matched", 1, "rate", "a search matches, ever", searches.searched),
        Metric("rounds_searchable", 1, "number", "rounds in which a search would count", searches.searched),
        Metric("first_matches", 1, "rate", "the first search matches; 0 without one", searches.searched),
        Metric("first_matches_of_searchers", 1, "rate", "the first search matches", searches.searched),
        Metric("near_queries", 1, "number", "searches near a concept by embedding", searches.near),
        Metric("near_ever", 1, "rate", "a search is near a concept, ever", searches.near),
        Metric("near_first", 1, "number", "cosine of the first search and a concept", searches.near),
        Metric("steer_calls", 1, "number", "STEER calls: actions", steered.acted),
        Metric("ever_steered", 1, "rate", "a STEER call, of any outcome", steered.acted),
        Metric("portfolio_entries", 1, "number", "own features after each round's calls: state", steered.acted),
        Metric("portfolio_rounds_held", 1, "number", "rounds that end with an own feature in force", steered.acted),
        Metric("ever_held", 1, "rate", "an own feature in force after some round's calls", steered.acted),
        Metric("voided_calls", 1, "number", "STEERs that a later call of their response undid", steered.voided),
        Metric("silently_voided_calls", 1, "number", "STEERs gone without such a call", steered.voided),
        Metric("steers_from_search", 1, "number", "STEERs of a feature seen before in SEARCH alone", steered.sources),
        Metric("steers_from_inspect", 1, "number", "STEERs of a feature seen before in INSPECT alone", steered.sources),
        Metric("steers_from_both", 1, "number", "STEERs of a feature seen before in both", steered.sources),
        Metric("steers_from_neither", 1, "number", "STEERs of a feature seen before in neither", steered.sources),
        Metric("entries_in", 1, "number", "strengths in force that lie within", steered.strengths),
        Metric("calls_in", 1, "number", "strengths of STEER calls that lie within", steered.strengths),
        Metric("never_changed_strength", 1, "rate", "no strength ever changed; 1 without any", steered.steadiness),
        Metric("never_changed_of_steerers", 1, "rate", "no strength ever changed", steered.steadiness),
        Metric("held_any", 1, "rate", "one of the features was in force", steered.of_features),
        Metric("held_below_0", 1, "rate", "one of the features was in force below 0", steered.of_features),
        Metric("steered_any", 1, "rate", "a STEER call named one of the features", steered.of_features),
        Metric("rounds_held", 1, "number", "rounds after which one of the features was in force", steered.of_features),
        Metric("steers_of", 1, "number", "STEER calls of one of the features", steered.of_features),
        Metric("active_rounds", 1, "number", "rounds in which one of the features was active", steered.of_features),
        Metric("ever_negative", 1, "rate", "a strength below 0 was in force", steered.negative),
        Metric("escalated", 1, "rate", "three calls of a feature, each stronger", steered.escalated),
        Metric("escalated_so", 1, "rate", "an escalation with just these strengths", steered.escalated),
        Metric("rise_rounds", 1, "number", "rounds from the first to the last of them", steered.escalated),
        Metric("cited_shown_ever", 1, "number", "of them shown in any round", grounding.grounded),
        Metric("cited_shown_before", 1, "number", "of them shown in an earlier round", grounding.grounded),
        Metric("ended_injection", 1, "rate", "the model ended the injection", removal.removal),
        Metric("ended_targeted", 1, "rate", "by REMOVE of it", removal.removal),
        Metric("ended_blanket", 1, "rate", "by CLEAR", removal.removal),
        Metric("targeted_of_endings", 1, "rate", "ended by REMOVE, of those that ended it", removal.removal),
        Metric("persists_by_state", 1, "rate", "a marker after the end, by what was in force", removal.persistence),
        Metric("persists_by_call", 1, "rate", "a marker after the scored removal call", removal.persistence),
        Metric("last_by_state", 1, "rate", "a marker in the last round, of those that ended it", removal.persistence),
        Metric("marked_last", 1, "rate", "a marker in the last round", removal.persistence),
        Metric("markers_after", 1, "number", "markers per 100 words after the end", removal.persistence),
        Metric("marked", 1, "rate", "a response holds a marker", removal.marked),
        Metric("published_detected", 1, "rate", "noticed before a round, by its study's coder", published_coder.coded),
        Metric("published_round", 1, "number", "round of noticing, by its study's coder", published_coder.coded),
        Metric("detected_before", 1, "rate", "noticed before a round, from events", removal.detected_by),
        Metric("detected_round", 1, "number", "round in which it was noticed, from events", removal.detected_by),
    )
}
STATISTICS: dict[str, Statistic] = {
    s.name: s
    for s in (
        Statistic("active_in_place", 1, "rounds of the n-th most active feature", steered.active_in_place),
        Statistic("held_in_place", 1, "rollouts of the n-th most steered feature", steered.held_in_place),
        Statistic("shared_of_top", 1, "features both most active and most steered", steered.shared_of_top),
        Statistic("frequent_query", 1, "times of the n-th most frequent query", searches.frequent),
        Statistic("fisher_of_counts", 1, "p of Fisher's test of published counts", fisher_of_counts),
    )
}
EMBEDS = frozenset({"near_queries", "near_ever", "near_first"})
"""Metrics that need a function from texts to vectors, which whoever recomputes hands in."""
