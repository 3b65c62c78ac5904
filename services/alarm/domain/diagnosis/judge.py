"""From evidence to a cause: the first code all of whose evidence is there, most specific first.

Every condition rests on facts that are present, so more facts never take a cause away. That is why asking can stop
as soon as a cause holds before which no other could be found by asking further.
"""

from collections.abc import Collection
from dataclasses import dataclass

from services.alarm.domain.diagnosis.causes import Cause, Certainty, Limits
from services.alarm.domain.diagnosis.conditions import Rests
from services.alarm.domain.diagnosis.facts import ASKING_ORDER, Evidence, Known, Source
from services.alarm.domain.diagnosis.rules import GENERIC, RULES


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found; ``cause`` is None when nothing holds (yet)."""

    cause: Cause | None
    certainty: Certainty | None
    rests_on: Rests
    also_possible: tuple[Cause, ...]
    explained_by: str | None = None
    """A window or a planned shutdown: nobody is to look for a cause."""


def judge(evidence: Evidence, limits: Limits) -> Verdict:
    """Return the first cause that holds, with the others as possible."""
    explained = evidence.get(Known.EXPLAINED_BY)
    if explained is not None:
        return Verdict(None, None, (explained,), (), str(explained.value))
    found = [(rule, rests) for rule in RULES if (rests := rule.holds(evidence, limits)) is not None]
    if not found:
        return Verdict(None, None, (), ())
    rule, rests = found[0]
    return Verdict(
        rule.cause, rule.certainty, rests, tuple(one.cause for one, _ in found[1:] if one.cause not in GENERIC)
    )


def next_question(
    evidence: Evidence, limits: Limits, *, can_ask: Collection[Source], asked: Collection[Source]
) -> Source | None:
    """Return whom to ask next, None when no further answer could change the cause.

    Args:
        evidence: What is known.
        limits: Where evidence begins to count.
        can_ask: The sources that know of the device; a wired meter has no card.
        asked: Those that were asked, whether they could tell or not.
    """
    if Known.EXPLAINED_BY in evidence.facts:
        return None
    open_ = [source for source in ASKING_ORDER if source in can_ask and source not in asked]
    for rule in RULES:
        if rule.holds(evidence, limits) is not None:
            return None
        wanted = [source for source in open_ if source in rule.sources]
        if wanted:
            return wanted[0]
    return None
