"""What rules compare besides plain values, and what missing data mean to them."""

from typing import Any

import pytest

from services.alarm.domain.model import Comparison, EndReason, Measure, NoData, Quantifier, Rule
from services.alarm.domain.rulebook import Scope, override_faults
from tests.unit.alarm.alarm_builders import Bench, book, override, rule, seconds, story, target, us

CURRENTS = ("current_a", "current_b", "current_c")


def made(measure: Measure, threshold: float, *, points: tuple[str, ...] = CURRENTS, **changes: object) -> Rule:
    facts: dict[str, object] = {
        "comparison": Comparison.ABOVE,
        "points": points,
        "threshold": threshold,
        "start_delay_s": 0.0,
        "end_delay_s": 0.0,
    } | changes
    expression = facts.pop("expression", None)
    plain = rule("r", **facts)  # type: ignore[arg-type]
    return Rule(
        plain.rule_id, plain.signal, plain.comparison, plain.quantifier, plain.points, plain.unit, plain.device_kinds,
        plain.defaults, measure=measure, expression=expression if isinstance(expression, str) else None,
    )  # fmt: skip


def bench(one: Rule, **facts: Any) -> Bench:
    return Bench(book(one), target(points=frozenset(one.points), **facts))


def test_a_rate_is_the_change_per_minute_between_two_reports() -> None:
    judge = bench(made(Measure.RATE, 5.0, points=("temperature",)))
    assert judge.report(0, temperature=20.0) == []
    assert judge.report(30, temperature=22.0) == []
    [begin] = judge.report(60, temperature=25.0)
    assert (begin.point, seconds(begin.began_us)) == ("temperature", 60)
    assert begin.value == pytest.approx(6.0)
    [end] = judge.report(120, temperature=25.0)
    assert (end.end_reason, seconds(end.ended_us)) == (EndReason.RECOVERED, 120)


def test_falling_is_a_negative_rate() -> None:
    judge = bench(made(Measure.RATE, -3.0, points=("temperature",), comparison=Comparison.BELOW))
    judge.report(0, temperature=20.0)
    assert story(judge.report(60, temperature=16.0)) == [("begin", 60, None)]


def test_a_bad_value_is_left_out_of_the_rate() -> None:
    judge = bench(made(Measure.RATE, 5.0, points=("temperature",)))
    judge.report(0, temperature=20.0)
    assert judge.report(60, temperature=90.0, bad=["temperature"]) == []
    assert judge.report(120, temperature=24.0) == []
    assert story(judge.report(180, temperature=30.0)) == [("begin", 180, None)]


@pytest.mark.parametrize("gap_s", [0, 901])
def test_there_is_no_rate_without_a_usable_distance(gap_s: int) -> None:
    judge = bench(made(Measure.RATE, 0.1, points=("temperature",)))
    judge.report(0, temperature=20.0)
    assert judge.report(gap_s, temperature=2000.0) == []


def test_rates_within_one_batch_are_those_of_one_report_after_the_other() -> None:
    from tests.unit.alarm.alarm_builders import reports

    judge = bench(made(Measure.RATE, 5.0, points=("temperature",)))
    rows = [("m-1", float(at), {"temperature": value}, frozenset[str]()) for at, value in [(0, 0), (60, 6), (120, 7)]]
    assert story(judge.judge(reports(rows))) == [("begin", 60, None), ("end", 60, 120)]


def test_phases_that_lie_apart_are_unbalanced() -> None:
    judge = bench(made(Measure.UNBALANCE, 15.0))
    assert judge.report(0, current_a=10.0, current_b=9.0, current_c=8.5) == []
    [begin] = judge.report(60, current_a=10.0, current_b=9.0, current_c=8.0)
    assert begin.point is None
    assert begin.value == pytest.approx(20.0)
    assert judge.report(120, current_a=10.0, current_b=None, current_c=1.0) == []
    assert story(judge.report(180, current_a=0.0, current_b=0.0, current_c=0.0)) == [("end", 60, 180)]


def test_unbalance_needs_all_phases_of_the_device() -> None:
    judge = Bench(book(made(Measure.UNBALANCE, 15.0)), target(points=frozenset(CURRENTS[:2])))
    assert judge.report(0, current_a=10.0, current_b=0.0) == []


def test_current_is_held_against_the_rating_of_the_circuit() -> None:
    one = made(Measure.RATED, 110.0)
    judge = bench(one, rated_current_a=20.0)
    assert judge.report(0, current_a=21.9, current_b=0.0, current_c=-21.0) == []
    [begin] = judge.report(60, current_a=1.0, current_b=1.0, current_c=-24.0)
    assert begin.point == "current_c"
    assert begin.value == pytest.approx(120.0)
    unrated = bench(one)
    assert unrated.report(0, current_a=9999.0, current_b=0.0, current_c=0.0) == []


def test_a_formula_is_judged_like_a_value() -> None:
    one = made(
        Measure.EXPRESSION, 25.0, points=("current_a", "current_n"), expression="current_n / current_a * 100",
        start_delay_s=10.0,
    )  # fmt: skip
    judge = bench(one)
    assert judge.report(0, current_a=10.0, current_n=3.0) == []
    [begin] = judge.report(10, current_a=10.0, current_n=4.0)
    assert (begin.point, seconds(begin.began_us)) == (None, 0)
    assert begin.value == pytest.approx(40.0)
    assert judge.report(20, current_a=0.0, current_n=0.0) == []
    assert story(judge.report(30, current_a=10.0, current_n=0.0)) == [("end", 0, 30)]


def test_a_point_without_usable_values_for_too_long_is_told() -> None:
    judge = bench(made(Measure.AGE, 100.0, points=("temperature",)))
    judge.report(0, temperature=20.0)
    assert judge.report(60, temperature=None) == []
    assert judge.report(100, temperature=20.0, bad=["temperature"]) == []
    [begin] = judge.report(160)
    assert (begin.point, begin.value, seconds(begin.began_us)) == ("temperature", 160.0, 160)
    assert story(judge.report(220, temperature=20.0)) == [("end", 160, 220)]


def test_a_point_that_never_had_a_value_is_waited_for_from_the_first_report() -> None:
    judge = bench(made(Measure.AGE, 100.0, points=("temperature",)))
    assert judge.report(0) == []
    assert judge.report(100) == []
    assert story(judge.report(101)) == [("begin", 101, None)]


def test_some_phases_without_current_are_a_missing_phase() -> None:
    one = made(Measure.VALUE, 0.5, comparison=Comparison.BELOW, quantifier=Quantifier.SOME)
    judge = bench(one)
    assert judge.report(0, current_a=0.0, current_b=0.0, current_c=0.0) == []
    assert story(judge.report(60, current_a=9.0, current_b=0.0, current_c=8.0)) == [("begin", 60, None)]


# What missing data mean.


def policy(no_data: NoData) -> Bench:
    return Bench(book(rule(no_data=no_data, max_gap_s=100.0, start_delay_s=150.0, end_delay_s=0.0)))


@pytest.mark.parametrize(
    ("no_data", "expected"),
    [(NoData.HOLD, []), (NoData.CLEAR, []), (NoData.ALARM, [("begin", 0, None)])],
)
def test_what_was_pending_when_values_stayed_away(no_data: NoData, expected: list[object]) -> None:
    judge = policy(no_data)
    judge.volts(0, 150)
    assert story(judge.tick(1000)) == expected


@pytest.mark.parametrize(
    ("no_data", "expected"),
    [(NoData.HOLD, []), (NoData.ALARM, []), (NoData.CLEAR, [("end", 0, 250)])],
)
def test_what_was_active_when_values_stayed_away(no_data: NoData, expected: list[object]) -> None:
    judge = policy(no_data)
    judge.volts(0, 150)
    assert story(judge.volts(90, 150)) == []
    assert story(judge.volts(150, 150)) == [("begin", 0, None)]
    steps = judge.tick(1000)
    assert story(steps) == expected
    assert all(step.end_reason is EndReason.NO_DATA for step in steps)


def test_no_data_clears_at_the_next_report_as_it_does_on_the_clock() -> None:
    judge = policy(NoData.CLEAR)
    judge.volts(0, 150)
    judge.volts(90, 150)
    judge.volts(150, 150)
    assert story(judge.volts(1000, 150)) == [("end", 0, 250)]
    assert judge.state() == "PENDING"


def test_bad_values_for_too_long_clear_too() -> None:
    judge = policy(NoData.CLEAR)
    judge.volts(0, 150)
    judge.volts(90, 150)
    judge.volts(150, 150)
    names = ("voltage_a", "voltage_b", "voltage_c")
    assert judge.report(240, bad=names, voltage_a=1.0, voltage_b=1.0, voltage_c=1.0) == []
    assert story(judge.report(260, bad=names, voltage_a=1.0, voltage_b=1.0, voltage_c=1.0)) == [("end", 0, 250)]


def test_a_silent_device_is_raised_where_no_data_are_an_alarm() -> None:
    judge = policy(NoData.ALARM)
    judge.volts(0, 230)
    assert judge.tick(251) == []
    assert story(judge.tick(252)) == [("begin", 100, None)]
    assert story(judge.volts(300, 230)) == [("end", 100, 300)]


@pytest.mark.parametrize(
    ("measure", "threshold", "fine"),
    [
        (Measure.RATE, -5.0, True),
        (Measure.RATE, float("inf"), False),
        (Measure.AGE, -1.0, False),
        (Measure.UNBALANCE, 101.0, False),
        (Measure.RATED, 120.0, True),
        (Measure.SILENCE, 0.0, False),
        (Measure.SILENCE, 3.0, True),
    ],
)
def test_thresholds_that_a_measure_cannot_reach_are_refused(measure: Measure, threshold: float, fine: bool) -> None:
    wanted = override("r", Scope.DEVICE, "m-1", threshold=threshold)
    faults = override_faults(wanted, made(measure, 1.0), plausible={})
    assert [fault.field for fault in faults] == ([] if fine else ["threshold"])


def test_nothing_is_remembered_for_a_rule_that_sleeps_and_it_begins_anew_when_it_wakes() -> None:
    one = made(Measure.AGE, 100.0, points=("temperature",))
    asleep = book(one, overrides=[override("r", Scope.DEVICE, "m-1", enabled=False)], version=2)
    judge = bench(one)
    judge.report(0, temperature=20.0)
    assert [judge.engine.remembered(slot)[2] for slot in judge.last.remembered] == [{"temperature": (20.0, us(0))}]
    judge.set_book(asleep)
    judge.report(60, temperature=20.0)
    assert [judge.engine.remembered(slot)[2] for slot in judge.last.remembered] == [{}], "what is stored goes too"
    judge.report(120, temperature=20.0)
    assert judge.last.remembered == set()
    judge.set_book(book(one, version=3))
    assert judge.report(180, temperature=None) == [], "the time of its sleep is not held against it"
    assert story(judge.report(290, temperature=None)) == [("begin", 290, None)]


def test_an_alarm_for_want_of_data_never_ends_before_it_began() -> None:
    """The device was heard again with what it had measured before anybody missed it."""
    judge = Bench(book(rule(no_data=NoData.ALARM, max_gap_s=100.0, start_delay_s=0.0, end_delay_s=0.0)))
    judge.volts(0, 230)
    assert story(judge.tick(102)) == [("begin", 100, None)]
    assert judge.report(50, received_s=110, voltage_a=230, voltage_b=230, voltage_c=230) == []
    assert story(judge.report(111, voltage_a=230, voltage_b=230, voltage_c=230)) == [("end", 100, 100)]
