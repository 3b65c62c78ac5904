"""The life of one alarm, told in seconds: delays in event time, gaps, quality, late and future reports."""

from typing import Any

import pytest

from services.alarm.domain.engine import Limits
from services.alarm.domain.model import SECOND_US, Comparison, EndReason, Need, Quantifier, StepPhase
from services.alarm.domain.rulebook import Scope
from services.alarm.domain.shutdowns import Shutdown, Shutdowns
from tests.unit.alarm.alarm_builders import Bench, Devices, book, override, rule, seconds, story, target, us


def test_alarm_begins_after_the_start_delay_and_dates_from_the_first_violation() -> None:
    bench = Bench(book(rule()))
    assert bench.volts(0, 230) == []
    assert bench.volts(1, 150) == []
    assert bench.state() == "PENDING"
    assert bench.volts(3, 150) == []
    steps = bench.volts(4, 150)
    assert story(steps) == [("begin", 1, None)]
    assert steps[0].sequence == 1
    assert steps[0].level == 3
    assert (steps[0].point, steps[0].value, steps[0].threshold) == ("voltage_a", 150, 160)
    assert bench.volts(5, 150) == []


def test_alarm_ends_once_with_the_same_id_and_the_time_the_condition_stopped() -> None:
    bench = Bench(book(rule()))
    [begin] = [*bench.volts(0, 150), *bench.volts(5, 150)]
    assert bench.volts(10, 230) == []
    assert bench.state() == "CLEARING"
    [end] = bench.volts(13, 230)
    assert (end.phase, end.alarm_id, end.sequence) == (StepPhase.END, begin.alarm_id, 2)
    assert seconds(end.ended_us) == 10
    assert end.end_reason is EndReason.RECOVERED
    assert bench.volts(14, 230) == []
    assert bench.state() == "NORMAL"


def test_a_violation_shorter_than_the_delay_raises_nothing() -> None:
    bench = Bench(book(rule()))
    bench.volts(0, 150)
    assert bench.volts(2, 230) == []
    assert bench.state() == "NORMAL"


def test_a_report_that_contradicts_at_the_very_end_of_the_delay_wins() -> None:
    bench = Bench(book(rule(start_delay_s=60)))
    bench.volts(0, 150)
    assert bench.volts(60, 230) == []
    assert bench.state() == "NORMAL"


def test_a_value_stands_until_the_next_report_so_slow_devices_raise_too() -> None:
    bench = Bench(book(rule(start_delay_s=60, end_delay_s=20)))
    bench.volts(0, 150)
    steps = bench.volts(300, 230)
    assert story(steps) == [("begin", 0, None)]
    assert bench.state() == "CLEARING"


def test_recovery_that_does_not_last_keeps_the_alarm() -> None:
    bench = Bench(book(rule()))
    bench.volts(0, 150)
    bench.volts(3, 150)
    bench.volts(4, 230)
    assert bench.volts(6, 150) == []
    assert bench.state() == "ACTIVE"
    assert bench.volts(20, 150) == []


def test_hysteresis_holds_the_alarm_between_the_thresholds() -> None:
    bench = Bench(book(rule(hysteresis=10)))
    bench.volts(0, 165)
    assert bench.state() == "NORMAL"
    bench.volts(1, 150)
    bench.volts(4, 150)
    bench.volts(5, 165)
    assert bench.state() == "ACTIVE"
    bench.volts(6, 170)
    assert bench.state() == "CLEARING"


def test_hysteresis_does_not_keep_a_pending_condition() -> None:
    bench = Bench(book(rule(hysteresis=10)))
    bench.volts(0, 150)
    bench.volts(1, 165)
    assert bench.state() == "NORMAL"


def test_without_delays_one_report_begins_and_the_next_ends() -> None:
    bench = Bench(book(rule(start_delay_s=0, end_delay_s=0)))
    assert story(bench.volts(0, 150)) == [("begin", 0, None)]
    assert story(bench.volts(1, 230)) == [("end", 0, 1)]


def test_two_payloads_at_one_instant_never_make_two_alarms_of_one_id() -> None:
    bench = Bench(book(rule(start_delay_s=0, end_delay_s=0)))
    [begin] = bench.volts(0, 150)
    assert bench.volts(0, 230) == []
    assert bench.volts(0, 150) == []
    assert bench.volts(0, 230) == []
    [end, *rest] = bench.volts(1, 150)
    assert (end.phase, end.alarm_id, seconds(end.ended_us)) == (StepPhase.END, begin.alarm_id, 0)
    assert [step.phase for step in rest] == [StepPhase.BEGIN]
    assert rest[0].alarm_id != begin.alarm_id


def test_a_silence_longer_than_the_gap_resets_what_was_pending() -> None:
    bench = Bench(book(rule(start_delay_s=600, max_gap_s=300)))
    bench.volts(0, 150)
    bench.volts(301, 150)
    assert bench.volts(700, 150) == []
    steps = [*bench.volts(900, 150), *bench.volts(1001, 150), *bench.volts(1300, 150)]
    assert story(steps) == [("begin", 700, None)], "301 to 700 is a gap too"


def test_a_silence_longer_than_the_gap_keeps_an_alarm_that_was_clearing() -> None:
    bench = Bench(book(rule(end_delay_s=400, max_gap_s=300)))
    bench.volts(0, 150)
    bench.volts(3, 150)
    bench.volts(10, 230)
    assert bench.volts(500, 150) == []
    assert bench.state() == "ACTIVE"


def test_a_gap_in_an_active_alarm_changes_nothing() -> None:
    bench = Bench(book(rule()))
    bench.volts(0, 150)
    bench.volts(3, 150)
    assert bench.volts(90_000, 150) == []
    assert bench.state() == "ACTIVE"


def test_bad_values_hold_every_state() -> None:
    bench = Bench(book(rule()))
    bench.volts(0, 150)
    assert bench.report(1, voltage_a=0, voltage_b=0, voltage_c=0, bad=("voltage_a", "voltage_b", "voltage_c")) == []
    assert bench.state() == "PENDING"
    bench.volts(3, 150)
    assert bench.report(4, voltage_a=None, voltage_b=None, voltage_c=None) == []
    assert bench.state() == "ACTIVE"
    bench.volts(5, 230)
    assert bench.report(6, voltage_b=150.0, bad=("voltage_b",)) == []
    assert bench.state() == "CLEARING"


def test_one_known_violation_is_enough_for_any_and_one_unknown_forbids_recovery() -> None:
    bench = Bench(book(rule(start_delay_s=0, end_delay_s=0)))
    assert len(bench.report(0, voltage_a=None, voltage_b=150.0, voltage_c=None)) == 1
    assert bench.report(1, voltage_a=None, voltage_b=230.0, voltage_c=230.0) == []
    assert bench.state() == "ACTIVE"
    assert len(bench.volts(2, 230)) == 1


def test_a_bad_reading_lets_a_delay_run_out_but_not_beyond_the_gap() -> None:
    bench = Bench(book(rule(start_delay_s=60, max_gap_s=300)))
    bench.volts(0, 150)
    assert story(bench.report(100, voltage_a=None, voltage_b=None, voltage_c=None)) == [("begin", 0, None)]


@pytest.mark.parametrize(
    ("volts", "any_", "all_", "some"),
    [
        ((230, 230, 230), False, False, False),
        ((80, 230, 230), True, False, True),
        ((80, 80, 230), True, False, True),
        ((80, 80, 80), True, True, False),
    ],
)
def test_phases_are_counted_as_the_signal_says(volts: tuple[float, ...], any_: bool, all_: bool, some: bool) -> None:
    now: dict[str, Any] = {"start_delay_s": 0.0, "threshold": 90.0}
    bench = Bench(
        book(
            rule("any", **now),
            rule("all", quantifier=Quantifier.ALL, **now),
            rule("some", quantifier=Quantifier.SOME, **now),
        )
    )
    raised = {step.rule_id for step in bench.volts(0, *volts)}
    assert raised == {name for name, holds in (("any", any_), ("all", all_), ("some", some)) if holds}


def test_optional_points_that_a_device_lacks_neither_raise_nor_hold() -> None:
    breaker = target(points=frozenset({"voltage_a"}), optional_points=frozenset({"voltage_b", "voltage_c"}))
    bench = Bench(book(rule(start_delay_s=0, end_delay_s=0), rule("all", quantifier=Quantifier.ALL)), breaker)
    assert [step.rule_id for step in bench.report(0, voltage_a=150)] == ["low"]
    assert bench.state("all") == "PENDING", "all phases of a single-phase breaker are one"
    assert [step.phase for step in bench.report(1, voltage_a=230)] == [StepPhase.END]


def test_a_lost_phase_means_nothing_on_a_single_phase_device() -> None:
    single = target(points=frozenset({"voltage_a"}))
    bench = Bench(book(rule("some", quantifier=Quantifier.SOME, start_delay_s=0)), single)
    assert bench.report(0, voltage_a=10) == []


@pytest.mark.parametrize(
    ("comparison", "threshold", "normal", "alarm"),
    [
        (Comparison.ABOVE, 50.0, 50.0, 50.1),
        (Comparison.BELOW, 50.0, 50.0, 49.9),
        (Comparison.EQUAL, 1.0, 0.0, 1.0),
        (Comparison.EQUAL, 0.0, 1.0, 0.0),
        (Comparison.EQUAL, 3.0, 4.0, 3.0),
        (Comparison.NOT_EQUAL, 3.0, 3.0, 2.0),
        (Comparison.BITS, 6.0, 9.0, 12.0),
    ],
)
def test_every_comparison_raises_and_ends(
    comparison: Comparison, threshold: float, normal: float, alarm: float
) -> None:
    one = rule(comparison=comparison, threshold=threshold, points=("x",), start_delay_s=0, end_delay_s=0)
    bench = Bench(book(one), target(points=frozenset({"x"})))
    assert bench.report(0, x=normal) == []
    assert story(bench.report(1, x=alarm)) == [("begin", 1, None)]
    assert bench.report(2, x=alarm) == []
    assert story(bench.report(3, x=normal)) == [("end", 1, 3)]


def test_late_reports_are_counted_and_never_judged() -> None:
    bench = Bench(book(rule(start_delay_s=0)))
    bench.volts(100, 230)
    assert bench.volts(99, 150) == []
    assert (bench.last.late_reports, bench.last.judged_reports) == (1, 0)
    assert bench.state() == "NORMAL"


def test_reports_from_the_far_past_are_history_even_of_a_device_that_is_new() -> None:
    bench = Bench(book(rule(start_delay_s=0)))
    assert bench.report(-3601, received_s=0, voltage_a=150, voltage_b=150, voltage_c=150) == []
    assert (bench.last.past_reports, bench.last.judged_reports) == (1, 0)
    assert story(bench.report(-3600, received_s=0, voltage_a=150, voltage_b=150, voltage_c=150)) == [
        ("begin", -3600, None)
    ]
    assert bench.report(-3602, received_s=0, voltage_a=230, voltage_b=230, voltage_c=230) == []
    assert (bench.last.late_reports, bench.last.past_reports) == (1, 0), "older than what was judged is late"


def test_reports_from_the_far_future_are_counted_and_do_not_make_the_present_late() -> None:
    bench = Bench(book(rule(start_delay_s=0)))
    assert bench.report(100_000, received_s=100, voltage_a=1, voltage_b=1, voltage_c=1) == []
    assert bench.last.future_reports == 1
    assert story(bench.volts(101, 150)) == [("begin", 101, None)]


def test_reports_of_unknown_devices_are_counted_and_judged_once_the_device_is_known() -> None:
    devices = Devices()
    bench = Bench(book(rule(start_delay_s=0)), directory=devices)
    assert bench.volts(0, 150, device_id="new") == []
    assert bench.last.unknown_reports == 1
    devices.targets["new"] = target("new")
    assert story(bench.volts(1, 150, device_id="new")) == [("begin", 1, None)]


class TestPartitionClock:
    def test_a_delay_runs_out_on_the_clock_without_a_further_report(self) -> None:
        bench = Bench(book(rule(start_delay_s=60)))
        bench.volts(0, 150)
        assert bench.tick(61) == [], "a report in flight may still contradict"
        assert story(bench.tick(62)) == [("begin", 0, None)]
        assert bench.tick(100) == []

    def test_an_end_delay_runs_out_on_the_clock_too(self) -> None:
        bench = Bench(book(rule(start_delay_s=0, end_delay_s=20)))
        bench.volts(0, 150)
        bench.volts(5, 230)
        assert bench.tick(26) == []
        assert story(bench.tick(27)) == [("end", 0, 5)]

    def test_the_clock_never_steps_back(self) -> None:
        bench = Bench(book(rule(start_delay_s=60)))
        bench.tick(100)
        bench.volts(50, 150)
        assert story(bench.tick(40)) == [], "the report came 50 s after the clock; its delay ends at 110"
        assert story(bench.tick(112)) == [("begin", 50, None)]

    def test_a_device_whose_clock_lags_is_judged_in_its_own_time(self) -> None:
        bench = Bench(book(rule(start_delay_s=60)))
        bench.report(0, received_s=30, voltage_a=150, voltage_b=150, voltage_c=150)
        assert bench.tick(91) == []
        assert story(bench.tick(92)) == [("begin", 0, None)]

    def test_without_heartbeats_nothing_begins(self) -> None:
        bench = Bench(book(rule(start_delay_s=60)))
        bench.volts(0, 150)
        for _ in range(5):
            assert bench.tick(0) == []
        assert bench.state() == "PENDING"

    def test_silence_beyond_the_gap_resets_a_long_delay(self) -> None:
        bench = Bench(book(rule(start_delay_s=600, max_gap_s=300)))
        bench.volts(0, 150)
        assert bench.tick(303) == []
        assert bench.state() == "NORMAL"

    def test_partitions_have_clocks_of_their_own(self) -> None:
        bench = Bench(book(rule(start_delay_s=60)), target("m-1"), target("m-2", site_id="s-2"))
        for device_id, partition in (("m-1", 0), ("m-2", 1)):
            bench.report(0, device_id, partition=partition, voltage_a=150, voltage_b=150, voltage_c=150)
        assert [step.device_id for step in bench.tick(100, partition=1)] == ["m-2"]
        assert bench.state(device_id="m-1") == "PENDING"

    def test_a_flapping_device_leaves_one_timer(self) -> None:
        bench = Bench(book(rule(start_delay_s=60)))
        for at in range(0, 200, 2):
            bench.volts(at, 150)
            bench.volts(at + 1, 230)
            bench.tick(at + 1)
        timers = bench.engine._timers[0]
        assert len(timers._armed) <= 1
        assert len(timers._heap) <= 2

    def test_a_flood_is_worked_off_in_portions_and_completely(self) -> None:
        devices = [target(f"m-{number}") for number in range(25)]
        bench = Bench(book(rule(start_delay_s=60)), *devices, limits=Limits(at_once=10))
        for device in devices:
            bench.volts(0, 150, device_id=device.device_id)
        portions = [bench.tick(62), bench.tick(62), bench.tick(62), bench.tick(62)]
        assert [len(portion) for portion in portions] == [10, 10, 5, 0]
        assert len({step.device_id for portion in portions for step in portion}) == 25

    def test_grace_is_configured(self) -> None:
        bench = Bench(book(rule(start_delay_s=60)), limits=Limits(tick_grace_us=10 * SECOND_US))
        bench.volts(0, 150)
        assert bench.tick(69) == []
        assert len(bench.tick(70)) == 1


class TestRuleChanges:
    def test_an_alarm_that_no_longer_holds_ends_as_rule_changed(self) -> None:
        bench = Bench(book(rule(threshold=160)))
        bench.volts(0, 150)
        [begin] = bench.volts(3, 150)
        [end] = bench.set_book(book(rule(threshold=140, version=2)))
        assert (end.alarm_id, end.end_reason, end.sequence) == (begin.alarm_id, EndReason.RULE_CHANGED, 2)
        assert end.rule_version == 2
        assert bench.volts(10, 150) == []

    def test_an_alarm_that_still_holds_goes_on(self) -> None:
        bench = Bench(book(rule(threshold=160)))
        bench.volts(0, 150)
        bench.volts(3, 150)
        assert bench.set_book(book(rule(threshold=155, version=2))) == []
        assert bench.state() == "ACTIVE"
        bench.volts(5, 230)
        assert story(bench.volts(8, 230)) == [("end", 0, 5)]

    def test_a_new_level_is_an_update(self) -> None:
        bench = Bench(book(rule(level=3)))
        bench.volts(0, 150)
        [begin] = bench.volts(3, 150)
        [update] = bench.set_book(book(rule(level=1, version=2)))
        assert (update.phase, update.alarm_id, update.sequence, update.level) == (
            StepPhase.UPDATE, begin.alarm_id, 2, 1,
        )  # fmt: skip
        [end] = [*bench.volts(5, 230), *bench.volts(8, 230)]
        assert (end.sequence, end.level) == (3, 1)

    def test_a_rule_put_to_sleep_ends_its_alarms(self) -> None:
        bench = Bench(book(rule()))
        bench.volts(0, 150)
        bench.volts(3, 150)
        [end] = bench.set_book(book(rule(enabled=False, version=2)))
        assert end.end_reason is EndReason.RULE_CHANGED

    def test_a_pending_condition_under_a_changed_rule_goes_without_a_trace(self) -> None:
        bench = Bench(book(rule(threshold=160)))
        bench.volts(0, 150)
        assert bench.set_book(book(rule(threshold=140, version=2))) == []
        assert bench.state() == "NORMAL"

    def test_a_shorter_delay_counts_from_the_first_violation(self) -> None:
        bench = Bench(book(rule(start_delay_s=600)))
        bench.volts(0, 150)
        bench.set_book(book(rule(start_delay_s=30, version=2)))
        assert story(bench.tick(32)) == [("begin", 0, None)]

    def test_clearing_returns_to_active_where_the_new_threshold_is_violated_again(self) -> None:
        bench = Bench(book(rule(threshold=160)))
        bench.volts(0, 150)
        bench.volts(3, 150)
        bench.volts(4, 165)
        assert bench.state() == "CLEARING"
        assert bench.set_book(book(rule(threshold=170, version=2))) == []
        assert bench.state() == "ACTIVE"

    def test_an_override_of_another_device_touches_nothing(self) -> None:
        bench = Bench(book(rule()), target("m-1"), target("m-2"))
        bench.volts(0, 150)
        bench.volts(3, 150)
        other = override("low", Scope.DEVICE, "m-2", threshold=10.0)
        assert bench.set_book(book(rule(), overrides=[other])) == []
        assert bench.volts(4, 150, device_id="m-2") == []
        assert bench.volts(9, 150, device_id="m-2") == []
        assert bench.state() == "ACTIVE"

    def test_a_removed_device_ends_its_alarms(self) -> None:
        bench = Bench(book(rule()))
        bench.volts(0, 150)
        bench.volts(3, 150)
        bench.directory.removed.add("m-1")
        bench.engine.forget_device("m-1")
        [end] = bench.reconsider()
        assert end.end_reason is EndReason.DEVICE_REMOVED
        assert bench.volts(4, 150) == []
        assert bench.last.unknown_reports == 1

    def test_a_device_that_the_projection_does_not_know_keeps_its_alarms(self) -> None:
        bench = Bench(book(rule()))
        bench.volts(0, 150)
        bench.volts(3, 150)
        bench.directory.targets.clear()
        bench.engine.forget_device("m-1")
        assert bench.reconsider() == []
        assert bench.state() == "ACTIVE"

    def test_a_device_that_moved_leaves_its_alarms_at_the_old_site(self) -> None:
        bench = Bench(book(rule()))
        bench.volts(0, 150)
        bench.volts(3, 150)
        bench.directory.targets["m-1"] = target(site_id="s-9")
        bench.engine.forget_device("m-1")
        [end] = bench.reconsider()
        assert (end.site_id, end.end_reason) == ("s-1", EndReason.DEVICE_REMOVED)

    def test_many_changed_episodes_are_looked_at_in_portions_and_before_the_next_report(self) -> None:
        devices = [target(f"m-{number:02d}") for number in range(25)]
        bench = Bench(book(rule(start_delay_s=0)), *devices, limits=Limits(at_once=10))
        for device in devices:
            bench.volts(0, 150, device_id=device.device_id)
        assert len(bench.set_book(book(rule(threshold=140, version=2)))) == 10
        [end] = bench.volts(1, 150, device_id="m-24")
        assert (end.device_id, end.end_reason) == ("m-24", EndReason.RULE_CHANGED)
        assert [len(bench.reconsider()) for _ in range(3)] == [10, 4, 0]

    def test_a_device_that_comes_back_with_another_profile_ends_what_its_points_cannot_tell(self) -> None:
        bench = Bench(book(rule(start_delay_s=0), rule("hot", points=("temperature",), start_delay_s=0)))
        bench.volts(0, 150)
        del bench.directory.targets["m-1"]
        bench.engine.forget_device("m-1")
        assert bench.reconsider() == []
        bench.directory.targets["m-1"] = target(profile="sensor/1", points=frozenset({"temperature"}))
        [end] = bench.report(1, temperature=400.0)
        assert (end.rule_id, end.end_reason) == ("low", EndReason.RULE_CHANGED)

    def test_a_delay_that_runs_out_is_judged_by_the_changed_rule(self) -> None:
        bench = Bench(book(rule(start_delay_s=60)))
        bench.volts(0, 150)
        bench.engine.set_book(book(rule(start_delay_s=60, threshold=140, version=2)))
        assert bench.tick(62) == []
        assert bench.state() == "NORMAL"

    def test_a_delay_runs_on_under_a_changed_rule_that_still_holds(self) -> None:
        bench = Bench(book(rule(start_delay_s=60)))
        bench.volts(0, 150)
        bench.engine.set_book(book(rule(start_delay_s=90, version=2)))
        assert bench.tick(62) == []
        assert story(bench.tick(92)) == [("begin", 0, None)]


class TestPlannedShutdown:
    def shut_down(self, bench: Bench, since_s: float, planned_end_s: float | None = None) -> None:
        planned_end_us = None if planned_end_s is None else us(planned_end_s)
        assert bench.shutdowns.begin(Shutdown("m-1", 0, "occurrence:o-1", us(since_s), planned_end_us))
        bench.sites.touch("s-1")

    def test_a_supply_alarm_of_a_unit_switched_off_says_what_explains_it(self) -> None:
        bench = Bench(book(rule(needs=[Need.LOAD]), rule("other", threshold=100)))
        self.shut_down(bench, 0)
        bench.volts(1, 10)
        steps = {step.rule_id: step.inhibited_by for step in bench.volts(5, 10)}
        assert steps == {"low": "occurrence:o-1", "other": None}

    def test_an_alarm_that_began_before_the_shutdown_is_not_explained_by_it(self) -> None:
        bench = Bench(book(rule(needs=[Need.LOAD])))
        bench.volts(0, 10)
        bench.volts(3, 10)
        self.shut_down(bench, 5)
        assert bench.settle(6) == []

    def test_news_of_the_shutdown_that_come_after_the_alarm_still_mark_it(self) -> None:
        bench = Bench(book(rule(needs=[Need.LOAD])))
        bench.volts(1, 10)
        bench.volts(4, 10)
        self.shut_down(bench, 0)
        [update] = bench.settle(5)
        assert (update.phase, update.sequence, update.inhibited_by) == (StepPhase.UPDATE, 2, "occurrence:o-1")

    def test_what_outlasts_the_wake_up_is_told_after_a_while(self) -> None:
        bench = Bench(book(rule(needs=[Need.LOAD])))
        self.shut_down(bench, 0)
        bench.volts(1, 10)
        bench.volts(5, 10)
        bench.shutdowns.end("m-1", "occurrence:o-1", us(100))
        bench.sites.touch("s-1")
        assert bench.settle(150) == []
        assert bench.engine.is_explained("m-1", bench.shutdowns.of("m-1"))
        [update] = bench.settle(160)
        assert (update.phase, update.inhibited_by) == (StepPhase.UPDATE, None)
        assert not bench.engine.is_explained("m-1", bench.shutdowns.of("m-1"))

    def test_an_alarm_that_ends_with_the_wake_up_is_never_told(self) -> None:
        bench = Bench(book(rule(needs=[Need.LOAD], end_delay_s=20)))
        self.shut_down(bench, 0)
        bench.volts(1, 10)
        bench.volts(5, 10)
        bench.volts(100, 230)
        bench.shutdowns.end("m-1", "occurrence:o-1", us(40))
        bench.sites.touch("s-1")
        assert bench.settle(101) == [], "it is clearing: wait"
        [end] = bench.volts(121, 230)
        assert end.inhibited_by == "occurrence:o-1"
        assert bench.settle(122) == []

    def test_an_alarm_that_seemed_to_end_with_the_wake_up_is_told_when_it_does_not(self) -> None:
        bench = Bench(book(rule(needs=[Need.LOAD], end_delay_s=20)))
        self.shut_down(bench, 0)
        bench.volts(1, 10)
        bench.volts(5, 10)
        bench.volts(100, 230)
        bench.shutdowns.end("m-1", "occurrence:o-1", us(40))
        bench.sites.touch("s-1")
        assert bench.settle(101) == [], "it is clearing: wait"
        assert bench.volts(110, 10) == [], "it is not over after all"
        [update] = bench.settle(111)
        assert (update.phase, update.inhibited_by) == (StepPhase.UPDATE, None)

    def test_a_violation_after_the_wake_up_is_not_explained(self) -> None:
        bench = Bench(book(rule(needs=[Need.LOAD])))
        self.shut_down(bench, 0)
        bench.shutdowns.end("m-1", "occurrence:o-1", us(100))
        bench.volts(101, 10)
        [begin] = bench.volts(105, 10)
        assert begin.inhibited_by is None

    def test_a_load_that_is_not_woken_by_its_planned_end_is_not_off_on_purpose(self) -> None:
        bench = Bench(book(rule(needs=[Need.LOAD]), rule("late", needs=[Need.LOAD], threshold=5)))
        self.shut_down(bench, 0, planned_end_s=100)
        bench.volts(1, 10)
        [begin] = bench.volts(5, 10)
        assert begin.inhibited_by == "occurrence:o-1"
        bench.volts(101, 1)
        [after] = bench.volts(105, 1)
        assert (after.rule_id, after.inhibited_by) == ("late", None)
        assert bench.settle(159) == []
        assert [(step.rule_id, step.phase, step.inhibited_by) for step in bench.settle(160)] == [
            ("low", StepPhase.UPDATE, None)
        ]

    def test_news_of_a_shutdown_are_taken_once_and_in_their_order(self) -> None:
        known = Shutdowns()
        first = Shutdown("m-1", 0, "occurrence:o-1", 100, 900)
        assert known.begin(first)
        assert not known.begin(first)
        assert known.begin(Shutdown("m-1", 0, "occurrence:o-1", 100, 950)), "the planned end has moved"
        current = known.of("m-1")
        assert current is not None
        assert current.explains(940)
        assert not known.begin(Shutdown("m-1", 0, "occurrence:o-0", 50, 80)), "older than what is known"
        assert known.end("m-1", "occurrence:o-0", 500) is None
        assert known.end("m-1", "occurrence:o-1", 90) is None, "before it began"
        ended = known.end("m-1", "occurrence:o-1", 500)
        assert ended is not None
        assert ended.until_us == 500
        assert known.end("m-1", "occurrence:o-1", 600) is None
        assert not ended.explains(501)
        assert not known.begin(first), "told again after its end"
        assert known.begin(Shutdown("m-1", 0, "occurrence:o-2", 1000))
        assert known.over(0, 10_000) == []
        known.drop([0])
        assert known.of("m-1") is None
