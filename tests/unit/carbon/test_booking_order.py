"""Booking in any order, in any batches, told twice, crashed anywhere: the books come out as if told once."""

from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import CircuitId, DeviceId
from libs.common.testing.clock import FakeClock
from services.carbon.domain.batches import RegisterTable
from services.carbon.domain.booking import POWER_POINT, Binding, BookedInterval, RegisterReading, Registers, series_of
from services.carbon.domain.intervals import STEP_S, Grade, Intervals, align
from services.carbon.domain.registers import FindingKind, accumulate
from services.carbon.store.intervals import runs_of
from services.carbon.usecases.intervals import Booking
from tests.unit.carbon.memory_books import EPOCH, POINT, SITE, SOME, Crash, FixedDirectory, MemoryBooks

START = datetime(2026, 3, 2, tzinfo=UTC)
FEED, METER, NEXT = CircuitId("feed"), DeviceId("meter"), DeviceId("next")
MODULUS, RATED = 10_000.0, 40.0
NO_CONN: Any = None
QUARTER = timedelta(minutes=15)
T = TypeVar("T")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing; an event loop for each of ten thousand batches would take longer than they do."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("books in memory wait for nothing")


def reading(
    minutes: float, shown: float, *, device: DeviceId = METER, ratio: float = 1.0, received: float | None = None,
    manual: bool = False, point: str = POINT,
) -> RegisterReading:  # fmt: skip
    at = START + timedelta(minutes=minutes)
    received_at = START + timedelta(minutes=minutes if received is None else received)
    return RegisterReading(device, point, at, received_at, shown, ratio, uncertain=False, manual=manual)


def served(**facts: Any) -> Binding:
    return Binding(**{
        "device_id": METER, "valid_from": START - timedelta(days=30), "valid_to": None, "initial_register": None,
        "final_register": None, "modulus_kwh": MODULUS, **facts,
    })  # fmt: skip


@dataclass
class Books:
    """Booking over memory; a batch is a transaction that is tried until it succeeds, as the consumer tries it."""

    memory: MemoryBooks
    booking: Booking
    directory: FixedDirectory

    @classmethod
    def of(cls, *bindings: Binding, rated: float | None = RATED) -> "Books":
        memory = MemoryBooks()
        directory = FixedDirectory({FEED: list(bindings) or [served()]}, rated)
        clock = FakeClock(START + timedelta(days=2))
        booking = Booking(directory=directory, books=memory, publisher=memory, clock=clock, point=POINT)
        return cls(memory, booking, directory)

    def take(self, *batch: RegisterReading, crash_in: int | None = None) -> None:
        if crash_in is not None:
            roll_back = self.memory.transaction()
            self.memory.crash_in = crash_in
            try:
                at_once(self.booking.take(NO_CONN, batch))
            except Crash:
                roll_back()
                self.booking.forget()
            self.memory.crash_in = None
        at_once(self.booking.take(NO_CONN, batch))

    def held(self) -> dict[float, tuple[float | None, Grade, bool, bool]]:
        return {
            start.timestamp(): (one.energy_kwh, one.grade, one.lower_bound, one.uncertain)
            for (_, start), one in self.memory.state.current.items()
        }

    def expected(self) -> Intervals:
        """All intervals out of all registers at once, by the domain alone."""
        series = []
        for one in self.directory.bindings[FEED]:
            rows = sorted(self.memory.state.rows.get((one.device_id, one.point), {}).items())
            told = Registers.of([(at, row.shown, row.ratio, row.uncertain or row.disputed) for at, row in rows])
            told = replace(told, manual=np.array([row.manual for _, row in rows], np.bool_))
            series += series_of(one, told, self.directory.rated)
        whole = accumulate(series)
        first, last = whole.at[0] // STEP_S * STEP_S, whole.at[-1] // STEP_S * STEP_S
        return align(whole, first=float(first), last=float(last))

    def check(self) -> None:
        """Hold the books against all registers at once."""
        expected, held = self.expected(), self.held()
        for start, energy, grade, lower in zip(
            expected.start, expected.energy_kwh, expected.grade, expected.lower_bound, strict=True
        ):
            found = held.pop(float(start), (None, Grade.MISSING, False, False))
            assert found[1] is Grade(int(grade)), (start, found)
            assert found[2] == bool(lower)
            if np.isnan(energy):
                assert found[0] is None
            else:
                assert found[0] == pytest.approx(float(energy), abs=1e-6)
        assert all(found[1] is Grade.MISSING for found in held.values())
        assert self.memory.state.published == self.memory.state.versions


@st.composite
def courses(draw: st.DrawFn) -> list[RegisterReading]:
    """Return what a meter may say within half a day: steps, gaps, wraps, resets, glitches, spikes, other truths."""
    minutes, shown = 0.0, draw(st.sampled_from([0.0, 500.0, 9_995.0]))
    found = []
    for _ in range(draw(st.integers(1, 24))):
        minutes += draw(st.sampled_from([1.0, 4.0, 7.5, 15.0, 15.0, 22.0, 95.0]))
        kind = draw(st.sampled_from(["plain"] * 8 + ["glitch", "reset", "spike", "other truth"]))
        told = shown
        if kind == "plain":
            shown = round((shown + draw(st.sampled_from([0.0, 0.02, 0.5, 2.5]))) % MODULUS, 2)
            told = shown
        elif kind == "glitch":
            told = max(round(shown - 0.01, 2), 0.0)
        elif kind == "reset":
            shown = told = 0.1
        elif kind == "spike":
            told = round(shown + 3_000.0, 2) % MODULUS
        else:
            shown = told = round(shown + 4_000.0, 2) % MODULUS
        found.append(reading(minutes, told, manual=draw(st.integers(0, 9)) == 0))
    # What follows closes the intervals before it.
    return found + [reading(minutes + 15.0 * i, round((shown + 0.25 * i) % MODULUS, 2)) for i in range(1, 8)]


@SOME
@given(courses(), st.data())
def test_the_books_do_not_depend_on_order_batches_replays_and_crashes(
    course: list[RegisterReading], data: st.DataObject
) -> None:
    closing = course[-5:]
    early = data.draw(st.permutations(course[:-5]), label="order of arrival")
    books = Books.of()
    while early:
        size = data.draw(st.integers(1, 6), label="batch")
        batch, early = early[:size], early[size:]
        books.take(*batch, crash_in=data.draw(st.none() | st.integers(1, 9), label="crash"))
        if data.draw(st.integers(0, 4), label="replay") == 0:
            before = list(books.memory.state.versions)
            books.booking.forget()
            books.take(*reversed(batch))
            assert books.memory.state.versions == before
    for one in closing:
        books.take(one)
    books.check()


@SOME
@given(courses())
def test_computing_everything_again_changes_nothing(course: list[RegisterReading]) -> None:
    books = Books.of()
    for one in course:
        books.take(one)
    versions = len(books.memory.state.versions)
    assert at_once(books.booking.recompute(NO_CONN, FEED, EPOCH)) == 0
    assert len(books.memory.state.versions) == versions
    books.check()


def test_a_register_that_comes_late_into_a_long_gap_changes_both_sides_of_it() -> None:
    books = Books.of()
    books.take(reading(0, 100.0), reading(360, 124.0))
    books.take(reading(180, 103.0))
    books.check()
    assert sum(energy or 0.0 for energy, *_ in books.held().values()) == pytest.approx(24.0)
    assert books.held()[START.timestamp()][0] == pytest.approx(0.25)


def test_a_late_register_reads_no_further_than_to_common_ground() -> None:
    books = Books.of()
    books.take(*(reading(15 * i, 100.0 + i) for i in range(200) if i != 40))
    asked: list[Any] = []
    fetch = books.memory.fetch_registers_of

    async def listen(conn: Any, spans: Any) -> RegisterTable:
        asked.extend(spans)
        return await fetch(conn, spans)

    books.memory.fetch_registers_of = listen  # type: ignore[method-assign]
    books.take(reading(15 * 40, 140.4))
    (span,) = asked
    assert span.start >= START + timedelta(minutes=15 * 36)
    assert span.end is not None
    assert span.end <= START + timedelta(minutes=15 * 43)
    books.check()


def test_a_late_register_that_undoes_common_ground_is_followed_to_the_end() -> None:
    books = Books.of(rated=None)
    books.take(*(reading(15 * i, 100.0 + i) for i in range(20)))
    books.take(reading(100, 5_000.0))  # without rated power nothing is impossible: the lower ones are in doubt
    books.take(reading(300, 120.0))
    books.check()


def test_a_late_register_that_makes_the_next_one_a_spike_moves_the_boundary_behind_it() -> None:
    books = Books.of()
    books.take(*(reading(minute, shown) for minute, shown in [(0, 0.0), (9, 0.0), (14, 2.5), (18, 2.5), (34, 2.6)]))
    books.take(reading(13, 0.0))  # within a minute 2.5 kWh cannot be used, so the register of minute 14 is a spike now
    books.check()


def test_the_first_register_of_a_new_meter_reaches_back_to_the_exchange() -> None:
    exchange = START + timedelta(minutes=60)
    books = Books.of(
        served(valid_to=exchange, final_register=104.5),
        served(device_id=NEXT, valid_from=exchange, initial_register=7.0),
    )
    books.take(reading(0, 100.0), reading(15, 101.0), reading(30, 102.0), reading(45, 103.0))
    books.take(reading(200, 13.0, device=NEXT), reading(215, 13.5, device=NEXT))
    books.check()
    assert sum(energy or 0.0 for energy, *_ in books.held().values()) == pytest.approx(4.5 + 6.0, abs=0.5)


def test_an_exchange_without_the_final_register_is_unknown_and_not_zero() -> None:
    exchange = START + timedelta(minutes=50)
    books = Books.of(served(valid_to=exchange), served(device_id=NEXT, valid_from=exchange, initial_register=7.0))
    books.take(*(reading(15 * i, 100.0 + i) for i in range(4)))
    books.take(*(reading(60 + 15 * i, 8.0 + i, device=NEXT) for i in range(4)))
    books.check()
    assert (START + timedelta(minutes=45)).timestamp() not in books.held()


def test_no_difference_is_taken_across_a_changed_ratio() -> None:
    books = Books.of()
    books.take(*(reading(15 * i, 100.0 + i, ratio=2.0) for i in range(3)))
    books.take(*(reading(15 * i, 100.0 + i, ratio=5.0) for i in range(3, 6)))
    books.check()
    energies = [books.held().get((START + timedelta(minutes=15 * i)).timestamp(), (None,))[0] for i in range(5)]
    assert energies == [2.0, 2.0, None, 5.0, 5.0]


def test_a_reset_on_record_counts_from_zero_and_is_a_lower_bound() -> None:
    books = Books.of(served(resets=(START + timedelta(minutes=35),)), rated=None)
    books.take(*(reading(15 * i, shown) for i, shown in enumerate([100.0, 101.0, 102.0, 0.4, 1.4])))
    books.check()
    assert [(energy, lower) for energy, _, lower, _ in books.held().values()] == [
        (1.0, False), (1.0, False), (pytest.approx(0.4), True), (1.0, False),
    ]  # fmt: skip


def test_of_two_registers_of_one_time_the_last_received_counts_and_both_are_doubtful() -> None:
    orders = []
    first, second = reading(15, 101.0, received=15), reading(15, 102.0, received=16)
    for pair in ([first, second], [second, first]):
        one_by_one, together = Books.of(), Books.of()
        one_by_one.take(reading(0, 100.0))
        for one in pair:
            one_by_one.take(one)
        one_by_one.take(reading(30, 103.0))
        together.take(reading(0, 100.0), *pair, reading(30, 103.0))
        orders += [one_by_one.held(), together.held()]
    assert all(order == orders[0] for order in orders)
    assert [(energy, uncertain) for energy, _, _, uncertain in orders[0].values()] == [(2.0, True), (1.0, True)]


def test_what_a_wrong_clock_or_no_register_says_is_not_taken() -> None:
    books = Books.of()
    books.take(reading(0, 100.0), reading(15, 101.0), reading(500, 150.0, received=494), reading(20, float("nan")))
    books.take(reading(30, -1.0), reading(35, MODULUS), reading(45, 103.0))
    books.check()
    assert (METER, POINT) in books.memory.state.rows
    assert max(books.memory.state.rows[METER, POINT]) == START + timedelta(minutes=45)
    kinds = {kind for _, _, kind in books.memory.state.findings}
    assert kinds == {FindingKind.OUT_OF_RANGE}


def test_an_interval_that_no_register_reaches_any_more_is_missing_and_no_longer_its_old_figure() -> None:
    books = Books.of(rated=None)
    books.take(reading(0, 100.0), reading(15, 101.0))
    books.take(reading(7, 900.0))  # accepted, and what came after it falls
    held = books.held()[START.timestamp()]
    assert held == (None, Grade.MISSING, False, False)
    books.check()


@SOME
@given(
    st.lists(st.tuples(st.sampled_from([1.0, 5.0, 15.0, 40.0]), st.floats(-9.0, 90.0)), min_size=1, max_size=20),
    st.data(),
)
def test_power_is_integrated_whatever_the_order_and_never_over_a_silence(
    steps: list[tuple[float, float]], data: st.DataObject
) -> None:
    minutes = np.cumsum([step for step, _ in steps])
    course = [reading(float(at), power, point=POWER_POINT) for at, (_, power) in zip(minutes, steps, strict=True)]
    closing = [reading(float(minutes[-1]) + 15.0 * i, 6.0, point=POWER_POINT) for i in range(1, 6)]
    books = Books.of(served(point=POWER_POINT))
    early = data.draw(st.permutations(course), label="order of arrival")
    while early:
        size = data.draw(st.integers(1, 4), label="batch")
        books.take(*early[:size])
        early = early[size:]
    for one in closing:
        books.take(one)
    books.check()
    assert {grade for _, grade, *_ in books.held().values()} <= {Grade.INTERPOLATED, Grade.MISSING}


def test_the_energy_under_a_power_is_that_of_trapezoids() -> None:
    books = Books.of(served(point=POWER_POINT))
    told = [(0, 4.0), (5, 8.0), (15, 4.0), (30, -2.0), (45, 6.0), (90, 6.0), (105, 2.0)]
    books.take(*(reading(minutes, power, point=POWER_POINT) for minutes, power in told))
    held = [books.held().get((START + timedelta(minutes=15 * i)).timestamp(), (None,))[0] for i in range(7)]
    # (4 + 8) / 2 · 1/12 + (8 + 4) / 2 · 1/6, then (4 + 0) / 2 · 1/4, (0 + 6) / 2 · 1/4, a silence of 45 minutes, …
    assert held == [*map(pytest.approx, [1.5, 0.5, 0.75]), None, None, None, pytest.approx(1.0)]


def test_power_of_a_meter_that_has_a_register_is_not_used() -> None:
    books = Books.of()
    books.take(*(reading(15 * i, 9.0, point=POWER_POINT) for i in range(4)))
    assert not books.memory.state.rows
    books.take(reading(0, 100.0), reading(7, 5.0, point=POWER_POINT), reading(15, 101.0))
    assert [energy for energy, *_ in books.held().values()] == [1.0]


def test_quarter_hours_beside_what_a_person_read_are_allocated() -> None:
    books = Books.of()
    books.take(*(reading(15 * i, 100.0 + i, manual=i == 2) for i in range(5)))
    grades = [grade for _, grade, *_ in books.held().values()]
    assert grades == [Grade.MEASURED, Grade.ALLOCATED, Grade.ALLOCATED, Grade.MEASURED]
    books.check()


def test_findings_are_told_once_however_often_they_are_found() -> None:
    books = Books.of(rated=None)
    late = 2 * 24 * 60.0 - 120.0  # an hour or two before now
    rows = [reading(late + 15 * i, shown) for i, shown in enumerate([500.0, 501.0, 20.0, 21.0, 22.0, 23.0, 24.0])]
    for one in rows:
        books.take(one)
    at_once(books.booking.recompute(NO_CONN, FEED, EPOCH))
    told = [(one.kind, one.at) for one in books.memory.state.told]
    assert FindingKind.UNEXPLAINED_DECREASE in {kind for kind, _ in told}
    assert len(told) == len(set(told))


def test_gaps_are_laid_out_as_the_circuit_usually_uses_whether_told_at_once_or_bit_by_bit() -> None:
    def office(quarter: int) -> float:
        return 3.0 if 32 <= (quarter + 32) % 96 < 72 else 1.0  # works from 8 to 18 in Shanghai; quarters are UTC

    quarters = 26 * 96
    shown = np.concatenate([[0.0], np.cumsum([office(i) for i in range(quarters)])])
    friday = range(18 * 96 - 20, 18 * 96 + 60)  # 2026-03-20, from 3 to 23 in Shanghai
    silent = {*friday, *range(22 * 96 + 40, 23 * 96)}
    rows = [reading(15 * i, float(shown[i])) for i in range(quarters + 1) if i not in silent]
    whole, bit_by_bit = Books.of(), Books.of()
    whole.take(*rows)
    for begin in range(0, len(rows), 96):
        bit_by_bit.take(*rows[begin : begin + 96])
    for (start, one), (other_start, other) in zip(whole.held().items(), bit_by_bit.held().items(), strict=True):
        assert start == other_start
        assert one[0] == pytest.approx(other[0], abs=1e-6)
        assert one[1:] == other[1:]
    found = [whole.held()[(START + timedelta(minutes=15 * i)).timestamp()] for i in friday]
    assert {grade for _, grade, *_ in found} == {Grade.ALLOCATED}
    assert [energy for energy, *_ in found] == pytest.approx([office(i) for i in friday])


@given(st.sets(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 12))))
def test_runs_of_intervals_hold_each_of_them_and_none_between(of: set[tuple[str, int]]) -> None:
    rows = [
        BookedInterval(
            CircuitId(circuit), SITE, START + place * QUARTER, 900, 2, 1.0, Grade.MEASURED, False, False, START
        )
        for circuit, place in sorted(of)
    ]
    runs = runs_of(rows)
    held = {
        (circuit, place)
        for circuit, first, last in runs
        for place in range(13)
        if first <= START + place * QUARTER <= last
    }
    assert held == of
    assert len({(circuit, first) for circuit, first, _ in runs}) == len(runs)
