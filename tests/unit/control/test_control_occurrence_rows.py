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


def decode(raw: bytes) -> list[tuple[object, ...]]:
    """Read what COPY reads, by the description of its format: number, wall time, instants, load."""
    assert raw[:19] == b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"
    found: list[tuple[object, ...]] = []
    place = 19
    while (count := unpack_from("!h", raw, place)[0]) != -1:
        place += 2
        fields = []
        for _ in range(count):
            (length,) = unpack_from("!i", raw, place)
            fields.append(raw[place + 4 : place + 4 + length])
            place += 4 + length
        times = [EPOCH + timedelta(microseconds=int.from_bytes(field, signed=True)) for field in fields[1:-1]]
        assert [len(field) for field in fields[:-1]] == [4] + [8] * len(times)
        found.append(
            (int.from_bytes(fields[0], signed=True), times[0].replace(tzinfo=None), *times[1:], fields[-1].decode())
        )
    assert place + 2 == len(raw)
    return found


@given(LOADS, STAGGERS, window_lists(), st.integers(1, 2**31 - 1), st.integers(1, 5), st.booleans())
def test_each_load_has_its_row_in_each_window(
    load_ids: set[str], stagger: Stagger, windows: list[WindowInstance], plan_no: int, at_once: int, distant: bool
) -> None:
    plan = plan_of(load_ids, stagger)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(occurrences, "LOADS_AT_ONCE", at_once)
        found = decode(b"".join(occurrences.copied_rows(plan, plan_no, windows, None if distant else NOW)))
    spread = offsets("p", sorted(load_ids), [window.start_local for window in windows], stagger)
    expected = []
    for window, of_window in zip(windows, spread.of_windows, strict=True):
        for position, load_id in enumerate(sorted(load_ids)):
            of_load = spread.of_loads[position] if spread.of_loads else 0
            off_at = window.off_at + timedelta(seconds=(of_load + of_window) % spread.modulus)
            if off_at < window.on_at:
                of_near = () if distant else (window.on_at, NOW)
                expected.append((plan_no, window.start_local, *of_near, off_at, load_id))
    assert found == expected


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001 - a wall time
def test_a_wall_time_is_written_without_a_zone(at: datetime) -> None:
    (microseconds,) = unpack_from("!q", copying.wall_time(at), 4)
    assert datetime(2000, 1, 1) + timedelta(microseconds=microseconds) == at  # noqa: DTZ001 - a wall time
