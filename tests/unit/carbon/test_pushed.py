"""Energies of intervals that a meter forms itself: booked where it has no register, held against it where it has."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from libs.common.ids import DeviceId
from libs.common.testing.clock import FakeClock
from services.carbon.domain.booking import INTERVAL_POINT, Binding, RegisterReading, Told
from services.carbon.domain.intervals import Grade, align
from services.carbon.domain.pushed import DAY, AskedDay, PushedDay, days_due, midnight_before
from services.carbon.domain.registers import INTERPOLATED, Finding, FindingKind, Series, accumulate
from services.carbon.usecases.pushed import PushedIntervals
from tests.unit.carbon.memory_books import SOME, FixedDirectory, MemoryBooks
from tests.unit.carbon.test_booking_order import FEED, METER, NO_CONN, START, Books, at_once, reading, served

QUARTER = 900.0
MIDNIGHT = datetime(2026, 3, 3, tzinfo=CIVIL_ZONE)
WHOLE = AskedDay(FEED, METER, MIDNIGHT, QUARTER)


def told(*pairs: tuple[float, float], period_s: float = QUARTER, **facts: Any) -> Series:
    at, energy = zip(*pairs, strict=True)
    return Series(at=np.array(at, np.float64), shown_kwh=np.array(energy, np.float64), period_s=period_s, **facts)


def own(period_s: float = QUARTER, **facts: Any) -> Binding:
    return served(point=INTERVAL_POINT, period_s=period_s, modulus_kwh=None, **facts)


class TestAddingUp:
    def test_intervals_that_meet_are_one_run_and_what_lies_between_others_is_unknown(self) -> None:
        found = accumulate([told((900, 1.0), (1800, 2.0), (4500, 4.0), ratio=10.0)])
        assert found.at.tolist() == [0, 900, 1800, 3600, 4500]
        assert found.energy_kwh.tolist() == [0, 10, 30, 30, 70]
        assert found.run.tolist() == [0, 0, 0, 1, 1]
        energy = align(found, first=0.0, last=4500.0).energy_kwh
        assert energy[[0, 1, 4]].tolist() == [10, 20, 40]
        assert np.isnan(energy[2:4]).all()

    def test_an_interval_that_ends_a_little_late_still_meets_the_next(self) -> None:
        found = accumulate([told((900, 1.0), (1830, 2.0), (2700, 3.0))])
        assert found.run.tolist() == [0, 0, 0, 0]
        assert found.energy_kwh[-1] == 6.0

    def test_of_one_that_overlaps_the_one_before_only_the_rest_counts(self) -> None:
        found = accumulate([told((900, 9.0), (1200, 9.0))])
        assert found.energy_kwh.tolist() == [0.0, 9.0, 12.0]
        assert found.best.tolist() == [0, 0, INTERPOLATED]
        assert INTERPOLATED == Grade.INTERPOLATED

    def test_what_cannot_be_is_found_and_leaves_its_interval_unknown(self) -> None:
        found = accumulate([told((900, 1.0), (1800, 99.0), (2700, 1.0), (3600, -1.0), rated_kw=8.0)])
        assert [(one.kind, one.at) for one in found.findings] == [
            (FindingKind.SPIKE, 1800.0),
            (FindingKind.OUT_OF_RANGE, 3600.0),
        ]
        assert found.at.tolist() == [0, 900, 1800, 2700]
        assert found.run.tolist() == [0, 0, 1, 1]

    def test_the_total_of_an_hour_is_measured_and_its_quarters_are_not(self) -> None:
        found = align(accumulate([told((3600, 4.0), (7200, 8.0), period_s=3600.0)]), first=0.0, last=7200.0)
        assert found.energy_kwh.tolist() == pytest.approx([1.0] * 4 + [2.0] * 4)
        assert set(found.grade.tolist()) == {int(Grade.ALLOCATED)}

    @given(
        st.lists(st.tuples(st.integers(60, 4000), st.floats(-5.0, 50.0)), max_size=20),
        st.sampled_from([300.0, QUARTER]),
    )
    def test_nothing_is_counted_twice_and_nothing_is_negative(
        self, steps: list[tuple[int, float]], period_s: float
    ) -> None:
        at = np.cumsum([step for step, _ in steps]).astype(np.float64)
        energy = np.array([one for _, one in steps], np.float64)
        found = accumulate([Series(at=at, shown_kwh=energy, period_s=period_s, rated_kw=200.0)])
        assert (np.diff(found.at) > 0).all()
        assert (np.diff(found.energy_kwh) >= 0).all()
        total = float(found.energy_kwh[-1]) if found.at.size else 0.0
        assert total <= energy[energy > 0].sum() + 1e-9


class TestBooking:
    def test_they_are_booked_of_a_meter_without_a_register(self) -> None:
        books = Books.of(own())
        books.take(*(reading(15 * i, 0.5 * i, point=INTERVAL_POINT) for i in range(1, 5)))
        books.check()
        assert [(energy, grade) for energy, grade, *_ in books.held().values()] == [
            (0.5 * i, Grade.MEASURED) for i in range(1, 5)
        ]

    def test_those_told_with_the_time_of_their_start_are_kept_at_their_end(self) -> None:
        books = Books.of(own())
        books.directory.at_start = True
        books.take(*(reading(15 * i, 1.0 + i, point=INTERVAL_POINT) for i in range(3)))
        assert [(at - START.timestamp(), energy) for at, (energy, *_) in books.held().items()] == [
            (0.0, 1.0),
            (900.0, 2.0),
            (1800.0, 3.0),
        ]

    def test_an_interval_that_began_before_the_binding_is_not_its_circuits(self) -> None:
        books = Books.of(own(valid_from=START + timedelta(minutes=10)))
        books.take(*(reading(15 * i, 1.0, point=INTERVAL_POINT) for i in range(1, 4)))
        assert sorted(at - START.timestamp() for at in books.held()) == [900.0, 1800.0]

    def test_an_uncertain_one_marks_all_that_it_touches_and_no_more(self) -> None:
        books = Books.of(own(period_s=3600.0))
        fine, doubtful, after = (reading(60 * i, 4.0, point=INTERVAL_POINT) for i in range(1, 4))
        books.take(fine, RegisterReading(
            doubtful.device_id, doubtful.point, doubtful.source_time, doubtful.received_at, 4.0, 1.0, uncertain=True,
        ), after)  # fmt: skip
        assert [uncertain for *_, uncertain in books.held().values()] == [False] * 4 + [True] * 4 + [False] * 4

    def test_they_do_not_count_beside_a_register(self) -> None:
        books = Books.of()
        books.take(reading(0, 100.0), reading(0, 7.0, point=INTERVAL_POINT), reading(15, 101.0))
        books.take(reading(15, 9.0, point=INTERVAL_POINT))
        assert [energy for energy, *_ in books.held().values()] == [1.0]

    @SOME
    @given(
        st.sampled_from([300.0, QUARTER, 3600.0]),
        st.lists(
            st.tuples(st.sampled_from([1.0, 1.0, 1.0, 1.05, 0.4, 2.5]), st.floats(-1.0, 60.0)), min_size=1, max_size=12
        ),
        st.data(),
    )
    def test_the_books_do_not_depend_on_the_order_in_which_they_came(
        self, period_s: float, steps: list[tuple[float, float]], data: st.DataObject
    ) -> None:
        minutes = np.cumsum([share * period_s / 60.0 for share, _ in steps])
        course = [reading(float(at), one, point=INTERVAL_POINT) for at, (_, one) in zip(minutes, steps, strict=True)]
        end = float(minutes[-1])
        closing = [reading(end + period_s / 60.0 * i, 0.5, point=INTERVAL_POINT) for i in range(1, 8)]
        books = Books.of(own(period_s=period_s))
        early = data.draw(st.permutations(course), label="order of arrival")
        while early:
            size = data.draw(st.integers(1, 4), label="batch")
            books.take(*early[:size], crash_in=data.draw(st.none() | st.integers(1, 9), label="crash"))
            early = early[size:]
        for one in closing:
            books.take(one)
        books.check()


class TestDays:
    def test_at_midnight_an_interval_ends_that_is_of_the_day_before(self) -> None:
        assert midnight_before(MIDNIGHT + DAY) == MIDNIGHT
        assert midnight_before(MIDNIGHT + timedelta(minutes=15)) == MIDNIGHT

    def test_a_day_is_due_once_an_hour_of_the_next_has_been_told_with_those_before_it(self) -> None:
        one_o_clock = MIDNIGHT + timedelta(hours=1)
        quarter = timedelta(minutes=15)
        assert days_due(MIDNIGHT, [one_o_clock]) == set()
        assert days_due(one_o_clock, [one_o_clock + quarter]) == {MIDNIGHT - i * DAY for i in range(1, 4)}
        assert days_due(one_o_clock + quarter, [one_o_clock + 2 * quarter]) == set()

    def test_a_day_is_due_again_when_one_of_its_intervals_comes_late(self) -> None:
        now = MIDNIGHT + timedelta(hours=12)
        assert days_due(now, [MIDNIGHT - 9 * DAY]) == {MIDNIGHT - 10 * DAY}
        assert days_due(now, [MIDNIGHT + timedelta(hours=6)]) == set()

    def test_a_history_that_comes_at_once_is_looked_at_day_by_day(self) -> None:
        ends = [MIDNIGHT + i * timedelta(minutes=15) for i in range(1, 96 * 3 + 9)]
        assert days_due(None, ends) >= {MIDNIGHT + i * DAY for i in range(3)}

    @pytest.mark.parametrize(
        ("told", "told_kwh", "counted", "counted_kwh", "differs"),
        [
            (96, 100.0, 96, 100.0, False),
            (96, 100.5, 96, 100.0, False),
            (96, 100.6, 96, 100.0, True),
            (96, 99.4, 96, 100.0, True),
            (95, 90.0, 96, 100.0, False),
            (96, 90.0, 95, 100.0, False),
            (96, 0.0, 96, 0.02, False),
        ],
    )
    def test_both_have_to_be_whole_and_within_half_a_percent(
        self, told: int, told_kwh: float, counted: int, counted_kwh: float, differs: bool
    ) -> None:
        found = PushedDay(WHOLE, told, told_kwh, counted, counted_kwh).finding
        assert (found is not None) == differs
        if found is not None:
            finding = Finding(FindingKind.SUM_DIFFERS, MIDNIGHT.timestamp(), counted_kwh, told_kwh)
            assert (found.circuit_id, found.finding) == (FEED, finding)


class DayBooks(MemoryBooks):
    """With what a day came to, which the test says."""

    def __init__(self, counted_kwh: float) -> None:
        super().__init__()
        self.counted_kwh = counted_kwh
        self.asked: list[AskedDay] = []

    async def fetch_pushed_days(self, conn: Any, asked: Sequence[AskedDay]) -> list[PushedDay]:
        self.asked += asked
        return [PushedDay(one, 96, 100.0, 96, self.counted_kwh) for one in asked]


class Beside(FixedDirectory):
    """A meter that tells intervals beside its register."""

    def tells_beside(self, device: DeviceId) -> Told | None:
        return Told(INTERVAL_POINT, QUARTER) if device == METER else None


def pushed(books: DayBooks, *bindings: Binding, now: datetime = MIDNIGHT) -> PushedIntervals:
    directory = Beside({FEED: list(bindings) or [served()]})
    return PushedIntervals(directory=directory, books=books, publisher=books, clock=FakeClock(now))


def intervals(first: datetime, count: int, device: DeviceId = METER) -> list[RegisterReading]:
    ends = [first + timedelta(minutes=15 * i) for i in range(1, count + 1)]
    return [RegisterReading(device, INTERVAL_POINT, at, at, 1.0, 1.0, uncertain=False) for at in ends]


class TestHoldingAgainstTheRegister:
    def test_a_day_that_differs_is_told_once(self) -> None:
        books = DayBooks(counted_kwh=110.0)
        check = pushed(books)
        at_once(check.take(NO_CONN, intervals(MIDNIGHT - DAY, 104)))
        asked = {one.start for one in books.asked}
        assert MIDNIGHT - DAY in asked
        told = [one.at for one in books.state.told]
        assert MIDNIGHT.timestamp() - DAY.total_seconds() in told
        at_once(check.take(NO_CONN, intervals(MIDNIGHT - DAY, 104)))
        assert [one.at for one in books.state.told] == told
        assert (books.state.told[-1].previous_kwh, books.state.told[-1].shown_kwh) == (110.0, 100.0)

    def test_a_day_that_agrees_is_not(self) -> None:
        books = DayBooks(counted_kwh=100.0)
        at_once(pushed(books).take(NO_CONN, intervals(MIDNIGHT - DAY, 104)))
        assert books.asked
        assert not books.state.findings

    def test_history_is_on_record_and_alarms_nobody(self) -> None:
        books = DayBooks(counted_kwh=110.0)
        check = pushed(books, now=MIDNIGHT + 30 * DAY)
        at_once(check.take(NO_CONN, intervals(MIDNIGHT - DAY, 104)))
        assert books.state.findings
        assert not books.state.told

    def test_a_day_in_which_the_meter_was_exchanged_is_not_looked_at(self) -> None:
        books = DayBooks(counted_kwh=110.0)
        check = pushed(books, served(valid_from=MIDNIGHT - timedelta(hours=12)))
        at_once(check.take(NO_CONN, intervals(MIDNIGHT - DAY, 104)))
        assert books.asked == []

    def test_a_meter_that_has_none_beside_its_register_is_left_alone(self) -> None:
        books = DayBooks(counted_kwh=110.0)
        at_once(pushed(books).take(NO_CONN, intervals(MIDNIGHT - DAY, 104, DeviceId("other"))))
        assert not books.state.rows
