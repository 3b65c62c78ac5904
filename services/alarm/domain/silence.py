"""Lost communication: a device that has missed several reports in a row.

Everything here is in the time of acceptance (``received_at``), not in event time: whether somebody is silent has
nothing to do with what its clock says. A device was heard when it reported anything, late or wrong as it may be; one
that never reported is waited for from the moment it was first known here.

A NORMAL rule keeps no episode: when the device was last heard says it all. So a million devices are looked at by one
comparison of two columns. Like every delay, silence follows from the reports alone: the gap between two of them says
whether there was an alarm, whoever looked in between; the partition's clock only brings the news earlier.
"""

from dataclasses import replace

from services.alarm.domain import life
from services.alarm.domain.model import SECOND_US, EffectiveRule, Episode, NoData, State

FAR_US = 1 << 62
"""Later than everything."""


def patience_us(rule: EffectiveRule, period_s: float | None) -> int | None:
    """Return how long nothing may be heard until the rule's condition holds; None when nothing is waited for. [µs]

    Args:
        rule: A rule on silence, whose threshold is a number of missed reports; or one that takes missing data for a
            violation.
        period_s: How often the device is to report. [s]
    """
    if not rule.active:
        return None
    if not rule.is_silence:
        return rule.max_gap_us if rule.no_data is NoData.ALARM else None
    if period_s is None or rule.threshold is None:
        return None
    return round(rule.threshold * period_s * SECOND_US)


def raise_after_us(rule: EffectiveRule, period_s: float | None) -> int:
    """Return how long nothing may be heard until the rule raises an alarm. [µs]"""
    patience = patience_us(rule, period_s)
    return FAR_US if patience is None else patience + rule.start_delay_us


def begin(rule: EffectiveRule, *, site_id: str, began_us: int) -> life.Outcome:
    """Return the alarm of a device that was silent for the whole start delay."""
    pending = life.start(rule, site_id=site_id, at_us=began_us, values={})
    return life.Outcome(replace(pending, state=State.ACTIVE), life.Change.BEGAN)


def elapse(episode: Episode, rule: EffectiveRule, *, silent_from_us: int, to_us: int, inclusive: bool) -> life.Outcome:
    """Let time pass without hearing from the device.

    Args:
        episode: Of a rule on silence.
        rule: The parameters that hold for the device.
        silent_from_us: When the condition holds again if nothing is heard. [µs]
        to_us: Until when. [µs]
        inclusive: Whether a delay that ends exactly then is over.
    """
    due = life.due_us(episode, rule)
    if due is None:
        return life.Outcome(episode)
    if silent_from_us < due:
        if silent_from_us < to_us or (inclusive and silent_from_us == to_us):
            return life.Outcome(replace(episode, state=State.ACTIVE, since_us=episode.began_us))
        return life.Outcome(episode)
    if due < to_us or (inclusive and due == to_us):
        return life.Outcome(None, life.Change.ENDED, last=episode)
    return life.Outcome(episode)


def hear(episode: Episode, rule: EffectiveRule, *, at_us: int) -> life.Outcome:
    """Apply that the device was heard, after ``elapse`` up to then."""
    if episode.state is State.DISMISSED:
        return life.Outcome(None)
    if episode.state is State.ACTIVE:
        episode = replace(episode, state=State.CLEARING, since_us=max(at_us, episode.began_us))
    episode = replace(episode, seen_us=at_us)
    due = life.due_us(episode, rule)
    if due is not None and due <= at_us:
        return life.Outcome(None, life.Change.ENDED, last=episode)
    return life.Outcome(episode)
