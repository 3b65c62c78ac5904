"""The comparison of a soak finds every kind of mistake, and none where there is none."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.suite.soak.journal import COUNTER, Answer, Entry, Journal, Wrong, counter_kwh, number_of, voltage_of
from libs.suite.soak.judge import Discrepancy, Disturbance, Duty, Evidence, Fault, Held, Hour, Record, judge

START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
PERIOD = timedelta(seconds=1)
COUNT = 20


def points(number: int) -> dict[str, float]:
    return {COUNTER: counter_kwh(number), "voltage_a": voltage_of(number)}


def entry(number: int, *, served: bool = False, answer: Answer = Answer.ACCEPTED) -> Entry:
    return Entry("meter", number, START + number * PERIOD, points(number), served=served, answer=answer)


def row(number: int, *, after: timedelta = timedelta()) -> Held:
    at = START + number * PERIOD + after
    return Held("meter", at, at, points(number))


def marker(number: int) -> str:
    return f"soak-wrong-{number:06d}-"


def wrong(number: int) -> Wrong:
    return Wrong(marker(number), "meter", START, "no JSON", attempts=1, refused=True)


def record(number: int) -> Record:
    return Record(START, "undecodable", "sender", f'{{"message_id": "{marker(number)}", ')


def evidence(*, served: bool = False, answer: Answer = Answer.ACCEPTED) -> Evidence:
    """A run in which everything went right; what is served is dated a moment later."""
    numbers = range(1, COUNT + 1)
    until = START + (COUNT + 1) * PERIOD
    return Evidence(
        entries=[entry(number, served=served, answer=answer) for number in numbers],
        wrongs=[wrong(number) for number in range(3)],
        disturbances=[],
        duties=[Duty("meter", PERIOD.total_seconds(), START)],
        held=[row(number, after=timedelta(milliseconds=20) if served else timedelta()) for number in numbers],
        records=[record(number) for number in range(3)],
        hours=[Hour("meter", START, COUNT + 1, COUNT)],
        until=until,
    )


def faults(found: Evidence) -> list[Fault]:
    return [one.fault for one in judge(found).discrepancies]


def without(found: Evidence, number: int) -> Evidence:
    held = [one for one in found.held if number_of(one.points) != number]
    return replace(found, held=held, hours=[replace(found.hours[0], received=len(held))])


@pytest.mark.parametrize("served", [False, True], ids=["sent", "served"])
def test_run_in_which_everything_went_right_has_no_discrepancy(served: bool) -> None:
    verdict = judge(evidence(served=served))
    assert verdict.discrepancies == []
    (figures,) = verdict.figures
    assert (figures.said, figures.accepted, figures.held, figures.excused) == (COUNT, COUNT, COUNT, 0)
    assert (figures.missing_slots, verdict.refusals) == (1, 3)


@pytest.mark.parametrize("served", [False, True], ids=["sent", "served"])
def test_loss_is_named_with_device_time_and_number(served: bool) -> None:
    (found,) = judge(without(evidence(served=served), 7)).discrepancies
    assert found == Discrepancy("meter", START + 7 * PERIOD, Fault.MISSING, found.detail)
    assert "report 7 " in found.detail


def test_report_that_nobody_promised_may_be_missing_and_may_be_there() -> None:
    assert faults(evidence(answer=Answer.NONE)) == []
    assert faults(without(evidence(answer=Answer.NONE), 7)) == []


def test_report_that_never_left_its_device_must_not_be_held() -> None:
    found = evidence()
    found.entries[6].answer = Answer.UNSENT
    assert faults(found) == [Fault.NEVER_SENT]
    assert faults(without(found, 7)) == []


def test_double_is_found_wherever_it_stands() -> None:
    found = evidence()
    twice = [*found.held, replace(row(7), source_time=START + 100 * PERIOD, moved=True)]
    shown = [replace(found.hours[0], received=COUNT + 1)]
    assert Fault.DOUBLED in faults(replace(found, held=twice, hours=shown))


def test_row_of_nobody_is_found() -> None:
    found = evidence()
    for stranger in (row(COUNT + 1), replace(row(3), device_id="other"), replace(row(3), points={})):
        held, hours = [*found.held, stranger], [replace(found.hours[0], received=COUNT + 1)]
        assert Fault.NEVER_SENT in faults(replace(found, held=held, hours=hours))


@pytest.mark.parametrize("changed", [{"voltage_a": 230.1}, {"voltage_a": None}, {}], ids=["other", "null", "absent"])
def test_changed_value_is_found(changed: dict[str, float | None]) -> None:
    found = evidence()
    found.held[6] = replace(found.held[6], points={COUNTER: counter_kwh(7), **changed})  # type: ignore[index]
    assert faults(found) == [Fault.WRONG_VALUE]


def test_changed_time_is_found() -> None:
    found = evidence()
    found.held[6] = row(7, after=timedelta(milliseconds=1))  # type: ignore[index]
    assert faults(found) == [Fault.WRONG_TIME]


def test_served_value_is_dated_when_it_was_asked_for() -> None:
    for after in (-timedelta(seconds=1), timedelta(seconds=60)):
        found = evidence(served=True)
        found.held[6] = row(7, after=after)  # type: ignore[index]
        assert faults(found) == [Fault.WRONG_TIME]


def test_report_under_its_arrival_needs_a_twin() -> None:
    found = evidence()
    found.held[6] = replace(row(7, after=PERIOD / 2), moved=True)  # type: ignore[index]
    assert faults(found) == [Fault.WRONG_TIME]
    found.entries[6].has_twin = True
    assert faults(found) == []


def test_served_value_is_excused_by_a_disturbance_of_its_own_only() -> None:
    at = START + 8 * PERIOD
    for devices, expected in ((None, []), (frozenset({"meter"}), []), (frozenset({"other"}), [Fault.MISSING])):
        found = replace(without(evidence(served=True), 7), disturbances=[Disturbance(at, at, devices)])
        assert faults(found) == expected
        sent = replace(without(evidence(), 7), disturbances=[Disturbance(at, at, devices)])
        assert faults(sent) == [Fault.MISSING]
    long_after = Disturbance(at + timedelta(seconds=30), at + timedelta(seconds=31))
    assert faults(replace(without(evidence(served=True), 7), disturbances=[long_after])) == [Fault.MISSING]


def test_served_value_is_excused_when_it_was_asked_for_again_at_once() -> None:
    found = without(evidence(served=True), 7)
    found.entries[6].at += 0.7 * PERIOD
    assert faults(found) == []
    assert judge(found).figures[0].excused == 1


def test_refusal_that_is_not_on_record_is_found() -> None:
    found = evidence()
    assert faults(replace(found, records=found.records[:2])) == [Fault.REFUSAL_UNRECORDED]


def test_refusal_that_nothing_explains_is_found() -> None:
    found = evidence()
    assert faults(replace(found, records=[*found.records, record(9)])) == [Fault.REFUSAL_UNEXPLAINED]
    assert faults(replace(found, records=[*found.records, record(1)])) == [Fault.REFUSAL_UNEXPLAINED]
    found.wrongs[1].is_redelivered = True
    assert faults(replace(found, records=[*found.records, record(1)])) == []


def test_wrong_report_that_is_taken_and_right_one_that_is_refused_are_found() -> None:
    found = evidence()
    found.wrongs[1].taken = True
    found.entries[6].refused = "unknown_device"
    found.entries[6].answer = Answer.NONE
    assert faults(found) == [Fault.TAKEN_THOUGH_WRONG, Fault.REFUSED_THOUGH_RIGHT]


@pytest.mark.parametrize(
    "hour",
    [
        Hour("meter", START, COUNT + 1, COUNT - 1),
        Hour("meter", START, COUNT + 1, COUNT + 1),
        Hour("meter", START, COUNT - 5, COUNT),
        Hour("meter", START + timedelta(hours=1), COUNT, COUNT),
    ],
    ids=["too few received", "too many received", "too few expected", "none"],
)
def test_loss_that_is_shown_wrong_is_found(hour: Hour) -> None:
    assert faults(replace(evidence(), hours=[hour])) == [Fault.LOSS_MISCOUNTED]


@given(
    st.lists(st.sampled_from(list(Answer)), min_size=1, max_size=30),
    st.sets(st.integers(min_value=1, max_value=30)),
    st.sets(st.integers(min_value=1, max_value=30)),
)
@settings(max_examples=60)
def test_exactly_what_was_promised_and_is_not_there_is_missing(
    answers: list[Answer], lost: set[int], twice: set[int]
) -> None:
    entries = [entry(number, answer=answer) for number, answer in enumerate(answers, start=1)]
    sent = [one.number for one in entries if one.answer is not Answer.UNSENT and one.number not in lost]
    held = [row(number) for number in sent] + [row(number) for number in sent if number in twice]
    found = replace(evidence(), entries=entries, held=held, duties=[], wrongs=[], records=[])
    named = {(one.fault, round((one.at - START) / PERIOD)) for one in judge(found).discrepancies}
    assert named == {
        *((Fault.MISSING, one.number) for one in entries if one.answer is Answer.ACCEPTED and one.number in lost),
        *((Fault.DOUBLED, number) for number in sent if number in twice),
    }


def test_journal_counts_each_device_by_itself() -> None:
    journal = Journal()
    assert [journal.number("a"), journal.number("a"), journal.number("b")] == [1, 2, 1]
    first, second = (journal.add_wrong("a", START, "no JSON").marker for _ in range(2))
    assert first != second


@given(st.integers(min_value=1, max_value=1_000_000))
def test_number_is_what_the_counter_shows(number: int) -> None:
    assert number_of({COUNTER: counter_kwh(number)}) == number
