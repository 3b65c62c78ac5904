"""Energy rules: each check on its own, at its edges, and with what is missing, estimated, late or out of order."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.alarm.domain.energy import (
    Check,
    CircuitFacts,
    EnergyRule,
    EnergyScope,
    Memory,
    OffTime,
    OffTimes,
    Ruling,
    Used,
    chosen,
    judge,
)
from services.alarm.domain.model import to_us

ZONE = ZoneInfo("Asia/Shanghai")
QUARTER = timedelta(minutes=15)
EVENING = datetime(2026, 5, 1, 22, tzinfo=ZONE)
CIRCUIT = CircuitFacts("c", "site-1", "load", "D", ZONE, ("meter",), frozenset({"aau"}), None, ())
MAIN = replace(CIRCUIT, circuit_id="main", children=("sub-1", "sub-2"))


def rule(check: Check, threshold: float | None = 0.05, **more: object) -> EnergyRule:
    return EnergyRule("energy.x", "signal", check, threshold, **more)  # type: ignore[arg-type]


def us(when: datetime) -> int:
    return to_us(when.astimezone(UTC))


def used(
    number: int, value: float | None, *, measured: bool = True, circuit: str = "c", start: datetime = EVENING,
    length: timedelta = QUARTER, water: bool = False,
) -> Used:  # fmt: skip
    begin = start + number * length
    return Used(circuit, us(begin), us(begin + length), value, measured and value is not None, water)


def off(since: float, planned: float | None = None, until: float | None = None) -> OffTime:
    """Times in quarters of an hour after the evening's first."""

    def at(quarters: float | None) -> int | None:
        return None if quarters is None else us(EVENING + quarters * QUARTER)

    return OffTime("meter", 0, at(since) or 0, at(planned), at(until))


def run(
    one: EnergyRule, intervals: list[Used], times: list[OffTime] | None = None, circuit: CircuitFacts = CIRCUIT
) -> list[tuple[bool, int, float]]:
    """Judge intervals; return begins and ends with their quarter after the evening's first, and the value."""
    memory, found = Memory(), []
    for interval in intervals:
        memory, ruling = judge(one, circuit, memory, interval, times or [])
        if ruling is not None:
            found.append((ruling.begins, round((ruling.at_us - us(EVENING)) / (QUARTER / timedelta(microseconds=1))),
                          round(ruling.value, 3)))  # fmt: skip
    return found


def test_power_behind_an_open_breaker_is_an_alarm_until_it_is_gone() -> None:
    shut = [off(0.5, planned=10)]
    kwh = [0.3, 0.3, 0.3, 0.0, 0.0]
    assert run(rule(Check.USE_WHILE_OFF), [used(i, v) for i, v in enumerate(kwh)], shut) == [
        (True, 1, 1.2),
        (False, 3, 0.0),
    ]


def test_use_is_judged_only_in_intervals_that_lie_wholly_in_the_shutdown() -> None:
    shut = [off(1, planned=3, until=3.5)]
    assert run(rule(Check.USE_WHILE_OFF), [used(i, 0.3) for i in range(6)], shut) == [(True, 1, 1.2), (False, 4, 1.2)]
    assert run(rule(Check.USE_WHILE_OFF), [used(0, 0.3), used(1, 0.0), used(3, 0.3)], shut) == []


def test_a_unit_that_uses_nothing_is_an_alarm_unless_control_has_switched_it_off() -> None:
    one = rule(Check.NO_USE_WHILE_ON, 0.0, intervals=2)
    dead = [used(i, v) for i, v in enumerate([0.3, 0.0, 0.0, 0.0, 0.3])]
    assert run(one, dead) == [(True, 1, 0.0), (False, 4, 1.2)]
    assert run(one, dead, [off(0.9, planned=3, until=4.1)]) == []
    assert run(one, dead, [off(0.9, planned=2)]) == []  # nobody has seen it awake yet


def test_intervals_that_do_not_follow_each_other_do_not_add_up() -> None:
    one = rule(Check.NO_USE_WHILE_ON, 0.0, intervals=3)
    assert run(one, [used(0, 0.0), used(1, 0.0), used(5, 0.0), used(6, 0.0)]) == []
    assert run(one, [used(0, 0.0), used(1, 0.0), used(2, 0.0)]) == [(True, 0, 0.0)]


@pytest.mark.parametrize("unknown", [used(2, None), used(2, 0.3, measured=False)], ids=["missing", "estimated"])
def test_what_is_not_known_holds_the_state(unknown: Used) -> None:
    one = rule(Check.NO_USE_WHILE_ON, 0.0)
    assert run(one, [used(0, 0.3), used(1, 0.0), unknown, used(3, 0.0)]) == [(True, 1, 0.0)]


def test_what_was_judged_is_not_judged_again() -> None:
    one = rule(Check.NO_USE_WHILE_ON, 0.0)
    assert run(one, [used(0, 0.0), used(1, 0.3), used(0, 0.0), used(1, 0.0)]) == [(True, 0, 0.0), (False, 1, 1.2)]


def test_standby_counts_at_night_only_and_over_midnight() -> None:
    one = rule(Check.STANDBY, 1.0, window=(1350, 360), intervals=2)
    # 22:00, then from 22:30; the window ends at 06:00, 32 quarters after 22:00.
    assert run(one, [used(i, 0.5) for i in range(36)]) == [(True, 2, 2.0), (False, 32, 2.0)]
    assert run(one, [used(i, 0.2) for i in range(36)]) == []


def test_a_leak_is_a_night_without_rest() -> None:
    one = rule(Check.NIGHT_FLOW, 0.02, window=(120, 240))
    night = datetime(2026, 5, 2, 0, tzinfo=ZONE)

    def hours(values: Sequence[float | None], day: int = 0) -> list[Used]:
        start = night + timedelta(days=day)
        return [used(i, v, start=start, length=timedelta(hours=1), water=True) for i, v in enumerate(values)]

    leak, rest, gap = [0.5, 0.4, 0.1, 0.03, 0.6], [0.5, 0.4, 0.0, 0.3, 0.6], [0.5, 0.4, 0.1, None, 0.6]
    assert run(one, hours(leak)) == [(True, 16, 0.03)]
    assert run(one, hours(rest)) == []
    assert run(one, hours(gap)) == []
    assert run(one, hours(leak) + hours(gap, 1) + hours(rest, 2)) == [(True, 16, 0.03), (False, 16 + 192, 0.0)]


def test_the_hours_of_a_night_may_come_in_any_order() -> None:
    one = rule(Check.NIGHT_FLOW, 0.02, window=(120, 240))
    night = datetime(2026, 5, 2, 2, tzinfo=ZONE)
    first, second = (used(i, 0.1, start=night, length=timedelta(hours=1), water=True) for i in range(2))
    assert run(one, [second, first]) == [(True, 16, 0.1)]


def day(circuit: str, value: float | None, number: int = 0) -> list[Used]:
    """Return the hours of a civil day."""
    start = datetime(2026, 5, 1, tzinfo=ZONE) + timedelta(days=number)
    return [
        used(
            i,
            None if value is None else value / 24,
            circuit=circuit,
            start=start,
            length=timedelta(hours=1),
            water=True,
        )
        for i in range(24)
    ]


def test_main_and_subs_that_differ_are_an_alarm_once_the_day_of_all_is_complete() -> None:
    one = rule(Check.BALANCE, 10.0)
    whole = day("main", 100) + day("sub-1", 60) + day("sub-2", 20)
    assert run(one, whole, circuit=MAIN) == [(True, -88, 20.0)]
    assert run(one, whole[:-1], circuit=MAIN) == []
    assert run(one, day("main", 100) + day("sub-1", 60) + day("sub-2", 35), circuit=MAIN) == []
    assert run(one, day("main", 80) + day("sub-1", 60) + day("sub-2", 40), circuit=MAIN) == [(True, -88, -20.0)]
    better = day("sub-2", 40, 1) + day("main", 100, 1) + day("sub-1", 60, 1)
    assert run(one, whole + better, circuit=MAIN) == [(True, -88, 20.0), (False, 8, 0.0)]


def test_days_that_never_become_complete_are_given_up() -> None:
    one, memory = rule(Check.BALANCE, 10.0), Memory()
    for number in range(30):
        for interval in day("main", 100, number):
            memory, _ = judge(one, MAIN, memory, interval, [])
    assert sum(map(len, memory.figures.values())) <= 24 * 5


@given(st.permutations(day("main", 100) + day("sub-1", 60) + day("sub-2", 20)))
def test_the_balance_of_a_day_does_not_depend_on_the_order(intervals: list[Used]) -> None:
    assert run(rule(Check.BALANCE, 10.0), intervals, circuit=MAIN) == [(True, -88, 20.0)]


def test_electricity_and_water_have_their_own_rules() -> None:
    assert run(rule(Check.NO_USE_WHILE_ON, 0.0), [used(0, 0.0, water=True)]) == []
    assert run(rule(Check.NIGHT_FLOW, 0.0, window=(0, 60)), [used(8, 1.0, length=timedelta(hours=1))]) == []


def test_a_changed_rule_says_again_what_still_holds_and_ends_what_does_not() -> None:
    one = rule(Check.USE_WHILE_OFF)
    shut = [off(0, planned=10)]
    memory, begun = judge(one, CIRCUIT, Memory(), used(0, 0.3), shut)
    assert begun == Ruling(True, us(EVENING), used(0, 0.3).per_hour or 0.0)
    _, again = judge(replace(one, version=2), CIRCUIT, memory, used(1, 0.3), shut)
    assert again is not None
    assert again.begins
    _, ended = judge(replace(one, version=2, threshold=2.0), CIRCUIT, memory, used(1, 0.3), shut)
    assert ended is not None
    assert not ended.begins


def test_the_most_specific_row_of_a_rule_holds() -> None:
    rows = [
        rule(Check.STANDBY, 1.0),
        rule(Check.STANDBY, 2.0, scope=EnergyScope.SITE, scope_id="site-1"),
        rule(Check.STANDBY, 3.0, scope=EnergyScope.CIRCUIT, scope_id="c"),
        rule(Check.STANDBY, 4.0, scope=EnergyScope.CIRCUIT, scope_id="other"),
    ]
    assert [one.threshold for one in chosen(rows, CIRCUIT)] == [3.0]
    assert [one.threshold for one in chosen(rows, replace(CIRCUIT, circuit_id="d"))] == [2.0]
    assert [one.threshold for one in chosen(rows, replace(CIRCUIT, circuit_id="d", site_id="e"))] == [1.0]


def test_a_rule_looks_at_the_circuits_that_it_names() -> None:
    assert chosen([rule(Check.STANDBY, roles=frozenset({"site_feed"}))], CIRCUIT) == []
    assert chosen([rule(Check.NO_USE_WHILE_ON, loads=frozenset({"rru", "aau"}))], CIRCUIT)
    assert chosen([rule(Check.NO_USE_WHILE_ON, loads=frozenset({"lighting"}))], CIRCUIT) == []
    assert chosen([rule(Check.BALANCE)], CIRCUIT) == []


def test_times_without_supply_are_remembered_until_they_are_long_over() -> None:
    times = OffTimes()
    times.note(off(0, planned=4))
    times.note(off(0, planned=4, until=4.5))
    times.note(off(8))
    assert [one.until_us is None for one in times.of(["meter", "other"])] == [False, True]
    times.forget(us(EVENING + 5 * QUARTER))
    assert [one.until_us for one in times.of(["meter"])] == [None]
    times.drop([0])
    assert times.of(["meter"]) == []
