"""The rows of occurrences as COPY takes them say what plan, windows and delays say."""

from datetime import UTC, date, datetime, time, timedelta
from struct import unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import LoadId, PlanId
from services.control.domain.plans import Plan, PlanOptions, PlanState, Schedule, Window, WindowInstance
from services.control.domain.stagger import Spread, Stagger, offsets
from services.control.store import copying, occurrences

NOW = datetime(2026, 3, 1, 4, 5, 6, 789, tzinfo=UTC)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
LOADS = st.sets(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
    min_size=1, max_size=12,
)  # fmt: skip
STAGGERS = st.one_of(
    st.just(Stagger()), st.builds(Stagger, st.sampled_from([Spread.EVEN, Spread.RANDOM]), st.integers(1, 7200))
)


def plan_of(load_ids: set[str], stagger: Stagger) -> Plan:
    schedule = Schedule(date(2026, 3, 1), date(2026, 3, 2), (Window(time(23), time(6)),), "Asia/Shanghai")
    return Plan(
        plan_id=PlanId("p"), name="p", state=PlanState.APPROVED, load_ids=tuple(map(LoadId, load_ids)),
        schedule=schedule, calendar_ids=(), created_by="user:a", created_at=NOW, options=PlanOptions(stagger=stagger),
    )  # fmt: skip


@st.composite
def window_lists(draw: st.DrawFn) -> list[WindowInstance]:
    """Windows of any length: where clocks are put forward less may be left of one than delays may take."""
    days = draw(st.sets(st.integers(0, 400), min_size=1, max_size=4))
    return [
        WindowInstance(
            datetime(2026, 3, 1, 23) + timedelta(days=day),  # noqa: DTZ001 - a wall time
            (off_at := datetime(2026, 3, 1, 15, tzinfo=UTC) + timedelta(days=day, hours=draw(st.integers(-2, 2)))),
            off_at + timedelta(seconds=draw(st.integers(1, 9000)), microseconds=draw(st.sampled_from([0, 1, 999_999]))),
        )
        for day in sorted(days)
    ]  # fmt: skip


def fields_of(raw: bytes) -> list[list[bytes]]:
    """Read what COPY reads, by the description of its format."""
    assert raw[:19] == b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"
    found: list[list[bytes]] = []
    place = 19
    while (count := unpack_from("!h", raw, place)[0]) != -1:
        place += 2
        fields = []
        for _ in range(count):
            (length,) = unpack_from("!i", raw, place)
            fields.append(raw[place + 4 : place + 4 + length])
            place += 4 + length
        found.append(fields)
    assert place + 2 == len(raw)
    return found


def integer(field: bytes) -> int:
    assert len(field) == 4
    return int.from_bytes(field, signed=True)


def instant(field: bytes) -> datetime:
    assert len(field) == 8
    return EPOCH + timedelta(microseconds=int.from_bytes(field, signed=True))


def expected_offs(
    load_ids: set[str], stagger: Stagger, windows: list[WindowInstance]
) -> list[tuple[int, WindowInstance, int, str, datetime]]:
    """Return each window and load with their places, and when the load goes off."""
    spread = offsets("p", sorted(load_ids), [window.start_local for window in windows], stagger)
    return [
        (number, window, position, load_id, off_at)
        for number, (window, of_window) in enumerate(zip(windows, spread.of_windows, strict=True))
        for position, load_id in enumerate(sorted(load_ids))
        for of_load in [spread.of_loads[position] if spread.of_loads else 0]
        for off_at in [window.off_at + timedelta(seconds=(of_load + of_window) % spread.modulus)]
        if off_at < window.on_at
    ]


@given(LOADS, STAGGERS, window_lists(), st.integers(1, 2**31 - 1), st.integers(1, 5))
def test_each_load_has_its_row_in_each_window(
    load_ids: set[str], stagger: Stagger, windows: list[WindowInstance], plan_no: int, at_once: int
) -> None:
    plan = plan_of(load_ids, stagger)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(occurrences, "LOADS_AT_ONCE", at_once)
        near = fields_of(b"".join(occurrences.near_rows(plan, plan_no, windows, NOW)))
        distant = fields_of(b"".join(occurrences.distant_rows(plan, enumerate(windows, plan_no - 9))))
    expected = expected_offs(load_ids, stagger, windows)
    assert [
        (integer(number), instant(wall).replace(tzinfo=None), instant(on), instant(made), instant(off), load.decode())
        for number, wall, on, made, off, load in near
    ] == [
        (plan_no, window.start_local, window.on_at, NOW, off_at, load_id) for _, window, _, load_id, off_at in expected
    ]
    assert [(integer(window), instant(off), integer(load)) for window, off, load in distant] == [
        (plan_no - 9 + number, off_at, position) for number, _, position, _, off_at in expected
    ]


@given(LOADS, LOADS, STAGGERS, STAGGERS, window_lists())
def test_what_is_kept_of_a_plan_is_of_no_other(
    load_ids: set[str], others: set[str], stagger: Stagger, another: Stagger, windows: list[WindowInstance]
) -> None:
    def rows(load_ids: set[str], stagger: Stagger) -> bytes:
        return b"".join(occurrences.near_rows(plan_of(load_ids, stagger), 1, windows, NOW))

    first = rows(load_ids, stagger)
    rows(others, another)
    again = rows(load_ids, stagger)
    occurrences._of_loads.cache_clear()
    assert rows(load_ids, stagger) == again == first


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001 - a wall time
def test_a_wall_time_is_written_without_a_zone(at: datetime) -> None:
    (microseconds,) = unpack_from("!q", copying.wall_time(at), 4)
    assert datetime(2000, 1, 1) + timedelta(microseconds=microseconds) == at  # noqa: DTZ001 - a wall time
