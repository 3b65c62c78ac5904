"""The watchdog's judgement: when a lease is over, what is woken, and what is not taken for proof."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.domain.watch import Book, Judgement, Lease, Moment, Seen, Verdict, judge, write_lease

WALL = datetime(2026, 3, 1, 16, 0, tzinfo=UTC)
START = Moment(WALL, 1000.0, "boot-1")
MARGIN_S = 30.0


def at(seconds: float, *, wall_jump_s: float = 0.0, boot: str = "boot-1") -> Moment:
    return Moment(WALL + timedelta(seconds=seconds + wall_jump_s), 1000.0 + seconds, boot)


def lease(length_s: float = 3600.0, **changes: object) -> Lease:
    return Lease(
        **{  # type: ignore[arg-type]
            "command_id": "off-1", "load_id": "aau", "device_id": "d", "channel": None, "site_id": "s",
            "restore_at": WALL + timedelta(seconds=length_s), "off_at_most_s": length_s, "isolation_id": None,
            "boot": "boot-1", "deadline": 1000.0 + length_s, **changes,
        }
    )  # fmt: skip


def seen(breaker: int | None = 0, *, age_s: float | None = 0.0, **changes: object) -> Seen:
    return Seen("aau", "d", "s", None, breaker, age_s, **changes)  # type: ignore[arg-type]


def judged(book: Book, now: Moment, shown: Seen | None = None, *, waking: bool = False) -> Judgement:
    found = judge(book, {} if shown is None else {"aau": shown}, ["aau"] if waking else [], now, MARGIN_S)
    assert len(found) == 1
    return found[0]


def book(*leases: Lease, **changes: object) -> Book:
    return Book(leases={one.command_id: one for one in leases}, is_complete=True, **changes)  # type: ignore[arg-type]


class TestLease:
    def test_it_holds_until_its_end_and_a_margin(self) -> None:
        assert lease().is_valid(at(3600 + 29.9), MARGIN_S)
        assert not lease().is_valid(at(3600 + 30), MARGIN_S)

    def test_a_wall_clock_put_back_does_not_prolong_it(self) -> None:
        assert not lease().is_valid(at(3630, wall_jump_s=-3600), MARGIN_S)

    def test_a_wall_clock_put_forward_ends_it(self) -> None:
        assert not lease().is_valid(at(60, wall_jump_s=3600), MARGIN_S)

    def test_the_longest_off_time_counts_from_when_it_was_seen_open(self) -> None:
        opened = lease(off_at_most_s=600, opened_at=1100.0)
        assert opened.is_valid(at(729), MARGIN_S)
        assert not opened.is_valid(at(730), MARGIN_S)

    def test_after_a_reboot_lengths_count_anew_and_never_beyond_the_longest_off_time(self) -> None:
        anew = lease(off_at_most_s=600, opened_at=1100.0).rebooted(Moment(WALL - timedelta(days=9000), 5.0, "boot-2"))
        assert (anew.boot, anew.deadline, anew.opened_at) == ("boot-2", 605.0, None)
        assert lease().rebooted(at(10)) == lease()

    @given(st.floats(0, 20_000), st.floats(-7200, 7200))
    def test_whatever_the_wall_clock_does_it_ends_by_the_monotonic_one(self, seconds: float, jump_s: float) -> None:
        if seconds >= 3600 + MARGIN_S + 0.001:
            assert not lease().is_valid(at(seconds, wall_jump_s=jump_s), MARGIN_S)


class TestJudge:
    def test_off_by_right(self) -> None:
        assert judged(book(lease()), at(10), seen(0)).verdict is Verdict.FINE

    def test_open_without_a_lease_is_woken_whoever_opened_it(self) -> None:
        for trip in (None, 0, 9, 10, 11, 12, 13, 99):
            assert judged(book(), at(10), seen(0, trip_reason=trip)).verdict is Verdict.WAKE

    def test_however_old_the_reading(self) -> None:
        assert judged(book(), at(10), seen(0, age_s=1e6)).verdict is Verdict.WAKE

    def test_open_beyond_its_lease(self) -> None:
        found = judged(book(lease()), at(3631), seen(0))
        assert (found.verdict, found.had_lease) == (Verdict.WAKE, True)

    def test_a_lease_that_is_over_wakes_what_no_door_shows(self) -> None:
        found = judged(book(lease()), at(3631))
        assert (found.verdict, found.device_id) == (Verdict.WAKE, "d")
        assert judged(book(lease()), at(3631), seen(None)).verdict is Verdict.WAKE

    def test_closed_before_its_end_proves_nothing(self) -> None:
        # Read closed two hours ago, and the OFF came after that.
        assert judged(book(lease()), at(3700), seen(1, age_s=7200)).verdict is Verdict.WAKE
        assert judged(book(lease()), at(3700), seen(1, age_s=None)).verdict is Verdict.WAKE

    def test_closed_after_its_end_is_over(self) -> None:
        assert judged(book(lease()), at(3700), seen(1, age_s=5)).verdict is Verdict.OVER

    def test_closed_under_a_lease_that_stands_says_nothing_yet(self) -> None:
        assert judged(book(lease()), at(10), seen(1)).verdict is Verdict.FINE

    def test_never_read_and_never_wanted_off(self) -> None:
        assert judged(book(), at(10), seen(None)).verdict is Verdict.FINE

    @pytest.mark.parametrize(("shown", "text"), [
        (seen(0, local_lock=True), "local_lock"), (seen(0, trip_reason=2), "protection_trip"),
    ])  # fmt: skip
    def test_two_exceptions_call_a_person(self, shown: Seen, text: str) -> None:
        found = judged(book(), at(10), shown)
        assert (found.verdict, found.text) == (Verdict.CALL, text)

    def test_a_released_trip_is_none(self) -> None:
        assert judged(book(released_trips={"aau": 2}), at(10), seen(0, trip_reason=2)).verdict is Verdict.WAKE

    def test_an_isolation_is_a_lease_until_it_expires(self) -> None:
        isolated = lease(isolation_id="i")
        assert judged(book(isolated), at(10), seen(0)).verdict is Verdict.FINE
        assert judged(book(isolated), at(3631), seen(0)).verdict is Verdict.WAKE

    def test_an_isolation_that_only_the_holder_knows_counts_until_control_has_spoken(self) -> None:
        shown = seen(0, isolation_id="i")
        assert judged(Book(), at(10), shown).text == "isolation"
        assert judged(book(), at(10), shown).verdict is Verdict.WAKE

    def test_an_isolation_that_comes_while_waking_stops_it(self) -> None:
        found = judged(book(lease(isolation_id="i")), at(10), seen(0), waking=True)
        assert (found.verdict, found.text) == (Verdict.CALL, "isolation")

    def test_a_lease_that_comes_while_waking_ends_it(self) -> None:
        assert judged(book(lease()), at(10), seen(0), waking=True).verdict is Verdict.FINE

    def test_one_valid_lease_among_several_is_enough(self) -> None:
        over = lease(600, command_id="off-0")
        assert judged(book(over, lease()), at(1000), seen(0)).verdict is Verdict.FINE

    def test_what_is_being_woken_stays_so_while_nobody_sees_it(self) -> None:
        assert judged(book(), at(10), waking=True).verdict is Verdict.WAKE


class TestBook:
    def put(self, target: Book, *leases: Lease, complete: bool = False, ended: tuple[str, ...] = ()) -> None:
        target.apply(
            {"kind": "put", "epoch": 3, "complete": complete, "leases": [write_lease(one) for one in leases],
             "ended": list(ended), "released_trips": {}}
        )  # fmt: skip

    def test_being_told_again_never_prolongs(self) -> None:
        known = book(lease(opened_at=1050.0))
        self.put(known, lease(deadline=1e9))
        assert known.leases["off-1"].deadline == lease().deadline
        assert known.leases["off-1"].opened_at == 1050.0

    def test_everything_replaces_everything(self) -> None:
        known = book(lease(command_id="old"))
        self.put(known, lease(), complete=True)
        assert set(known.leases) == {"off-1"}

    def test_ends_end(self) -> None:
        known = book(lease())
        self.put(known, ended=("off-1", "unknown"))
        assert not known.leases

    def test_its_state_is_itself(self) -> None:
        known = book(lease(opened_at=1.5), lease(command_id="b", isolation_id="i", channel=3), released_trips={"x": 2},
                     told={"aau|wake_up_overdue": "overdue"}, epoch=7)  # fmt: skip
        again = Book()
        again.apply(known.as_record())
        assert again == known

    def test_a_reboot_is_noted(self) -> None:
        known = book(lease(opened_at=1050.0))
        known.apply({"kind": "rebooted", "command_id": "off-1", "boot": "boot-2", "deadline": 77.0})
        assert known.leases["off-1"] == replace(lease(), boot="boot-2", deadline=77.0)
