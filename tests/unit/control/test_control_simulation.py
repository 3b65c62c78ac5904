"""What a plan would have done: windows, guards and conditions as they were known then, energy only where values are."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.ids import DeviceId, LineId, LoadId, SiteId
from services.control.domain.conditions import Condition, Conditions, Quantity, Sample, Side
from services.control.domain.guards import Policy
from services.control.domain.loads import LoadInfo
from services.control.domain.simulation import LoadWindow, Past, Replay, SimulatedWindow, energy, total

NIGHT = datetime(2026, 3, 1, 15, tzinfo=UTC)
WINDOW = LoadWindow(NIGHT, NIGHT + timedelta(hours=2))
LOAD = LoadInfo(
    load_id=LoadId("a"), name="A", site_id=SiteId("s"), device_id=DeviceId("d"), line_id=LineId("l"),
    meter_device_id=DeviceId("m"),
)  # fmt: skip
QUIET = Condition(Quantity.TRAFFIC_LOAD, Side.BELOW, 5.0, 900)


def minutes(*pairs: tuple[float, float], after: timedelta = timedelta()) -> list[Sample]:
    return [Sample(NIGHT + after + timedelta(minutes=minute), value) for minute, value in pairs]


def steady(value: float, first: int = -10, last: int = 130, after: timedelta = timedelta()) -> list[Sample]:
    return minutes(*[(minute, value) for minute in range(first, last, 5)], after=after)


def one(
    powers: Sequence[Sample],
    *conditions: Condition,
    traffic: Sequence[Sample] = (),
    states: Sequence[Sample] | None = None,
    load: LoadInfo = LOAD,
    policy: Policy | None = None,
) -> SimulatedWindow:
    past = Past(
        powers=powers,
        states=steady(1) if states is None else states,
        values={Quantity.TRAFFIC_LOAD: [traffic] if traffic else []},
    )
    return Replay(load, Conditions(conditions), policy or Policy()).run(WINDOW, past)


def guard(found: SimulatedWindow) -> str | None:
    return None if found.refusal is None else found.refusal.guard


def test_a_steady_load_saves_its_power_for_the_whole_window() -> None:
    found = one(steady(1.2))
    assert (found.went_off_at, found.refusal, found.off_s) == (NIGHT, None, 7200)
    assert found.saved_kwh == pytest.approx(2.4)
    assert found.covered == pytest.approx(1.0)


def test_what_is_not_known_is_not_made_up() -> None:
    found = one(minutes(*[(minute, 1.2) for minute in range(0, 60, 5)]))
    assert found.saved_kwh == pytest.approx(1.2)
    assert found.covered == pytest.approx(0.5)
    nothing = one([])
    assert (nothing.went_off_at, nothing.saved_kwh, nothing.covered) == (NIGHT, None, 0.0)
    both = total([found, nothing])
    assert (both.switched, both.off_s) == (2, 14_400)
    assert both.saved_kwh == pytest.approx(1.2)
    assert both.covered == pytest.approx(0.25)
    assert total([nothing]).saved_kwh is None


def test_a_value_from_before_the_window_stands_for_what_is_left_of_its_time() -> None:
    energy_kwh, covered = energy(minutes((-3, 6.0)), WINDOW.off_at, WINDOW.on_at)
    assert energy_kwh == pytest.approx(6.0 * 2 / 60)
    assert covered == pytest.approx(2 / 120)
    assert energy(minutes((-6, 6.0), (121, 6.0)), WINDOW.off_at, WINDOW.on_at) == (None, 0.0)


def test_a_load_that_draws_nothing_saves_nothing_and_that_is_known() -> None:
    found = one(steady(0.0))
    assert (found.saved_kwh, found.covered) == (0.0, 1.0)


def test_a_condition_sees_only_what_was_known_then() -> None:
    powers = steady(1.0)
    met = one(powers, QUIET, traffic=minutes((-20, 3), (-5, 2), (10, 90)))
    assert (met.went_off_at, met.refusal) == (NIGHT, None)
    busy = one(powers, QUIET, traffic=minutes((-20, 3), (-5, 7), (9, 1)))
    assert (guard(busy), busy.saved_kwh, busy.off_s) == ("condition_traffic_load", None, 0)
    assert busy.refusal is not None
    assert busy.refusal.value == 7
    unknown = one(powers, QUIET, traffic=minutes((10.5, 1)))
    assert guard(unknown) == "stale_traffic_load"


def test_an_off_waits_for_its_condition_within_the_grace_time() -> None:
    at_once = Condition(Quantity.POWER, Side.BELOW, 0.5)
    powers = [*minutes((-5, 1.0), (4, 0.4)), *steady(0.4, 5, 120)]
    found = one(powers, at_once)
    assert found.went_off_at == NIGHT + timedelta(minutes=4)
    assert found.saved_kwh == pytest.approx(0.4 * 116 / 60)
    assert guard(one(minutes((-5, 1.0), (5, 1.0), (11, 0.4)), at_once)) == "condition_power"


def test_a_breaker_that_was_not_read_stays_on() -> None:
    stale = one(steady(1.0), states=minutes((-6, 1)))
    assert guard(stale) == "stale_data"
    assert guard(one(steady(1.0), states=[])) == "stale_data"
    late = one(steady(1.0), states=minutes((-6, 1), (3, 1)))
    assert late.went_off_at == NIGHT + timedelta(minutes=3)


def test_what_was_off_already_saves_nothing() -> None:
    assert guard(one(steady(0.0), states=steady(0))) == "already_off"


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (replace(LOAD, obstacle="never_off"), "never_off"),
        (replace(LOAD, line_id=None), "no_line"),
        (replace(LOAD, keeps_coverage=True), "coverage_layer"),
        (replace(LOAD, command_latency_s=3600), "command_latency"),
    ],
    ids=["never off", "no line", "coverage", "sleeping"],
)
def test_what_the_registry_forbids_would_not_have_run(load: LoadInfo, expected: str) -> None:
    assert guard(one(steady(1.0), load=load)) == expected


def test_a_window_of_which_too_little_is_left_is_not_worth_it() -> None:
    assert guard(one(steady(1.0), policy=Policy(min_off_s=7201))) == "too_little_left"


def test_windows_before_count_for_the_times_of_those_after() -> None:
    hours = [LoadWindow(NIGHT + timedelta(hours=n), NIGHT + timedelta(hours=n, minutes=50)) for n in range(4)]
    past = Past(powers=steady(1.0, last=300), states=steady(1, last=300))

    def run(policy: Policy) -> list[str | None]:
        replay = Replay(LOAD, Conditions(), policy)
        return [guard(replay.run(window, past)) for window in hours]

    assert run(Policy()) == [None] * 4
    assert run(Policy(max_offs_per_day=2)) == [None, None, "switches_per_day", "switches_per_day"]
    # Ten minutes on, half an hour wanted; what did not run does not count.
    assert run(Policy(min_on_s=1800, off_grace_s=60)) == [None, "min_on_time", None, "min_on_time"]


def test_reasons_are_counted_with_the_first_of_each() -> None:
    found = total([one(steady(1.0)), one([], states=[]), one([], states=minutes((-7, 1)))])
    assert (found.count, found.switched) == (3, 1)
    count, first = found.skipped["stale_data"]
    assert (count, first.value) == (2, None)
