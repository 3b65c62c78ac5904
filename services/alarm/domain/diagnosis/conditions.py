"""What evidence must show: each condition rests on facts that are present, never on the absence of one."""

from collections.abc import Callable

from services.alarm.domain.diagnosis.causes import Limits
from services.alarm.domain.diagnosis.facts import Evidence, Fact, FactValue, Known

Rests = tuple[Fact, ...]
Condition = Callable[[Evidence, Limits], Rests | None]
"""Returns the facts that it rests on, None when it does not hold or nobody can tell."""


def when(name: Known, test: Callable[[FactValue, Limits], bool]) -> Condition:
    """Hold when the fact is known and passes the test."""

    def holds(evidence: Evidence, limits: Limits) -> Rests | None:
        fact = evidence.get(name)
        return (fact,) if fact is not None and test(fact.value, limits) else None

    return holds


def is_true(name: Known) -> Condition:
    """Hold when the fact is known and true."""
    return when(name, lambda value, _: value is True)


def is_false(name: Known) -> Condition:
    """Hold when the fact is known and false."""
    return when(name, lambda value, _: value is False)


def is_known(name: Known) -> Condition:
    """Hold when the fact is known."""
    return when(name, lambda value, _: True)


def is_one_of(name: Known, *values: str) -> Condition:
    """Hold when the fact is known and one of these."""
    return when(name, lambda value, _: value in values)


def at_least(name: Known, limit: Callable[[Limits], float]) -> Condition:
    """Hold when the number is known and has reached a limit."""
    return when(name, lambda value, limits: is_number(value) and float(value) >= limit(limits))


def below(name: Known, limit: Callable[[Limits], float]) -> Condition:
    """Hold when the number is known and lies below a limit."""
    return when(name, lambda value, limits: is_number(value) and float(value) < limit(limits))


def pair(one: Known, other: Known, test: Callable[[FactValue, FactValue, Limits], bool]) -> Condition:
    """Hold when both facts are known and pass the test together."""

    def holds(evidence: Evidence, limits: Limits) -> Rests | None:
        first, second = evidence.get(one), evidence.get(other)
        if first is None or second is None or not test(first.value, second.value, limits):
            return None
        return (first, second)

    return holds


def all_of(*conditions: Condition) -> Condition:
    """Hold when each holds; rest on what all of them rest on."""

    def holds(evidence: Evidence, limits: Limits) -> Rests | None:
        found: dict[Known, Fact] = {}
        for condition in conditions:
            rests = condition(evidence, limits)
            if rests is None:
                return None
            found.update((fact.name, fact) for fact in rests)
        return tuple(found.values())

    return holds


def any_of(*conditions: Condition) -> Condition:
    """Hold when one holds; rest on what the first of them rests on."""

    def holds(evidence: Evidence, limits: Limits) -> Rests | None:
        return next((rests for one in conditions if (rests := one(evidence, limits)) is not None), None)

    return holds


def is_number(value: FactValue) -> bool:
    """Return whether a fact can be compared with a limit; a truth value is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
