"""The life of an episode in event time, one function per cause: a delay runs out, a report decides.

A report's values stand until the next report of the device, at most for ``max_gap``. So whether a delay ran
out follows from the reports alone and not from the moment somebody looks: a condition seen at 10:00:00 and
not contradicted held at 10:01:00, whether the next report came at 10:00:05 or at 10:05:00. A report that
contradicts it at the very moment the delay runs out wins: the condition has then held for less than a report.

    NORMAL ──holds──▶ PENDING ──start delay──▶ ACTIVE ──does not hold──▶ CLEARING ──end delay──▶ NORMAL
                      PENDING ──does not hold, or silent for longer than max_gap──▶ NORMAL (no alarm)
                      CLEARING ──holds, or silent for longer than max_gap──▶ ACTIVE
                      what no_data says of longer silence: ALARM keeps PENDING, CLEAR ends ACTIVE and CLEARING
                      ACTIVE, CLEARING ──a person ends it──▶ DISMISSED ──does not hold──▶ NORMAL
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from services.alarm.domain.model import (
    Comparison,
    EffectiveRule,
    EndReason,
    Episode,
    NoData,
    Quantifier,
    State,
    Values,
)


class Change(StrEnum):
    """What the outside must hear of."""

    BEGAN = "began"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where an episode went."""

    episode: Episode | None
    """What is to be kept, None for NORMAL."""
    change: Change | None = None
    last: Episode | None = None
    """After ENDED: the episode at its end; ``since_us`` is when that was."""
    reason: EndReason = EndReason.RECOVERED
    """Of an end."""


def start(rule: EffectiveRule, *, site_id: str, at_us: int, values: Values) -> Episode:
    """Return the episode of a condition that holds for the first time."""
    if rule.level is None:
        raise ValueError(f"rule {rule.rule.rule_id} has no level and cannot judge")
    return Episode(
        state=State.PENDING,
        since_us=at_us,
        began_us=at_us,
        seen_us=at_us,
        values=values,
        rule_version=rule.version,
        site_id=site_id,
        signal=rule.signal,
        level=rule.level,
    )


def due_us(episode: Episode, rule: EffectiveRule) -> int | None:
    """Return when the running delay is over, None when none runs.

    An alarm lasts at least a microsecond, so that the next one of the same rule begins later.
    """
    if episode.state is State.PENDING:
        return episode.since_us + rule.start_delay_us
    if episode.state is State.CLEARING:
        return max(episode.since_us + max(rule.end_delay_us, episode.hold_us), episode.began_us + 1)
    return None


def expires_us(episode: Episode, rule: EffectiveRule) -> int:
    """Return until when the last value stands."""
    return episode.seen_us + rule.max_gap_us


def next_look_us(episode: Episode, rule: EffectiveRule) -> int | None:
    """Return the event time at which time alone changes the episode, None when it never does."""
    due = due_us(episode, rule)
    expired = expires_us(episode, rule) + 1
    if due is None:
        return expired if episode.state is State.ACTIVE and rule.no_data is NoData.CLEAR else None
    return due if _goes_on(episode, rule) else min(due, expired)


def elapse(episode: Episode, rule: EffectiveRule, to_us: int, *, inclusive: bool) -> Outcome:
    """Let event time pass without a new value.

    Args:
        episode: What is known.
        rule: The parameters that hold for the device.
        to_us: Until when. [µs]
        inclusive: Whether a delay that ends exactly then is over.
    """
    due = due_us(episode, rule)
    expires = expires_us(episode, rule)
    if due is None:
        if next_look_us(episode, rule) is None or to_us <= expires:
            return Outcome(episode)
        return Outcome(None, Change.ENDED, replace(episode, since_us=expires), EndReason.NO_DATA)
    over = due < to_us or (inclusive and due == to_us)
    pending = episode.state is State.PENDING
    if over and (due <= expires or _goes_on(episode, rule)):
        if pending:
            return Outcome(replace(episode, state=State.ACTIVE), Change.BEGAN)
        return Outcome(None, Change.ENDED, last=episode)
    if to_us > expires and not _goes_on(episode, rule):
        if not pending and rule.no_data is NoData.CLEAR:
            return Outcome(None, Change.ENDED, episode, EndReason.NO_DATA)
        return Outcome(None if pending else _active_again(episode))
    return Outcome(episode)


def _goes_on(episode: Episode, rule: EffectiveRule) -> bool:
    """Return whether a start delay goes on without values, because their lack counts as a violation."""
    return episode.state is State.PENDING and rule.no_data is NoData.ALARM


def observe(episode: Episode, rule: EffectiveRule, *, holds: bool, at_us: int, values: Values) -> Outcome:
    """Apply a report that decides the condition, after ``elapse`` up to its time.

    ``holds`` is judged with the trigger threshold while NORMAL or PENDING and with the recovery threshold
    while ACTIVE, CLEARING or DISMISSED.
    """
    if not holds and episode.state in (State.PENDING, State.DISMISSED):
        return Outcome(None)
    if holds and episode.state is State.CLEARING:
        episode = _active_again(episode)
    elif not holds and episode.state is State.ACTIVE:
        # An alarm for want of data may have begun later than what the device says now.
        episode = replace(episode, state=State.CLEARING, since_us=max(at_us, episode.began_us))
    return elapse(replace(episode, seen_us=at_us, values=values), rule, at_us, inclusive=True)


def _active_again(episode: Episode) -> Episode:
    return replace(episode, state=State.ACTIVE, since_us=episode.began_us)


def violates(comparison: Comparison, value: float, threshold: float) -> bool:
    """Return whether one value violates the threshold."""
    if comparison is Comparison.ABOVE:
        return value > threshold
    if comparison is Comparison.BELOW:
        return value < threshold
    if comparison is Comparison.EQUAL:
        return value == threshold
    if comparison is Comparison.NOT_EQUAL:
        return value != threshold
    return int(value) & int(threshold) != 0


def condition(rule: EffectiveRule, values: Values, *, raised: bool) -> bool | None:
    """Return whether the rule's condition holds for one report, None when bad values leave it open.

    The engine does the same for many reports at once; this one serves when a rule changes.
    """
    limit = rule.recovery_threshold if raised else rule.threshold
    if limit is None:
        return False
    known = [value for value in values.values() if value is not None]
    violated = sum(violates(rule.rule.comparison, value, limit) for value in known)
    return decide(rule.rule.quantifier, present=len(values), known=len(known), violated=violated)


def decide(quantifier: Quantifier, *, present: int, known: int, violated: int) -> bool | None:
    """Return whether the quantifier is satisfied whatever the unknown values are; None when they decide it."""
    unknown = present - known
    if present == 0:
        return None
    least = present if quantifier is Quantifier.ALL else 1
    most = present - 1 if quantifier is Quantifier.SOME else present
    if violated >= least and violated + unknown <= most:
        return True
    if violated + unknown < least or violated > most:
        return False
    return None


def worst(comparison: Comparison, threshold: float, values: Values) -> tuple[str | None, float | None]:
    """Return the point that violates the threshold most, and its value; the one nearest to it when none does."""
    known: Iterable[tuple[str, float]] = [(name, value) for name, value in values.items() if value is not None]
    ranked = sorted(known, key=lambda item: _distance(comparison, item[1], threshold), reverse=True)
    return ranked[0] if ranked else (None, None)


def _distance(comparison: Comparison, value: float, threshold: float) -> float:
    if comparison is Comparison.ABOVE:
        return value - threshold
    if comparison is Comparison.BELOW:
        return threshold - value
    return float(violates(comparison, value, threshold))
