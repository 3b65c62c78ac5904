"""Many circuits at once: the same as each by itself, and nothing odd is settled that way."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.batches import CurrentTable, Plain, RegisterTable, settle_plain
from services.carbon.domain.booking import Binding, BookedInterval, Current, Registers, changes, series_of
from services.carbon.domain.intervals import STEP_S, align
from services.carbon.domain.registers import accumulate
from tests.unit.carbon.memory_books import SOME

START = datetime(2026, 3, 2, tzinfo=UTC)
NOW = START + timedelta(days=1)
SITE = SiteId("site")


def registers(rows: list[tuple[float, float]], *, ratio: float = 1.0, aside: tuple[int, ...] = ()) -> Registers:
    """Return registers of (minutes, shown)."""
    found = Registers.of([(START + timedelta(minutes=at), shown, ratio, False) for at, shown in rows])
    return replace(found, set_aside=np.isin(np.arange(len(rows)), aside))


def plain(work: int, **facts: object) -> Plain:
    binding = Binding(DeviceId(f"m{work}"), START - timedelta(days=1), None, None, None, 10_000.0)
    fixed = {"rated_kw": 60.0, "start": START.timestamp(), "end": None, "binding": binding, **facts}
    return Plain(work, work, CircuitId(f"c{work}"), SITE, **fixed)  # type: ignore[arg-type]


def current(booked: list[BookedInterval]) -> Current:
    return Current(
        start=np.array([one.start.timestamp() for one in booked], np.float64),
        version=np.array([one.version for one in booked], np.int64),
        energy_kwh=np.array([np.nan if one.energy_kwh is None else one.energy_kwh for one in booked], np.float64),
        grade=np.array([one.grade for one in booked], np.int8),
        lower_bound=np.array([one.lower_bound for one in booked], np.bool_),
        uncertain=np.array([one.uncertain for one in booked], np.bool_),
    )


def carefully(one: Plain, rows: Registers, held: Current) -> list[BookedInterval] | None:
    """Return what booking would book of one circuit by itself; None where something has to be noted."""
    whole = accumulate(series_of(one.binding, rows, one.rated_kw))
    if whole.findings or not whole.at.size:
        return None
    first = max(one.start, float(whole.at[0] // STEP_S * STEP_S))
    return changes(
        align(whole, first=first, last=float(whole.at[-1] // STEP_S * STEP_S)),
        held,
        circuit_id=one.circuit_id,
        site_id=one.site_id,
        uncertain_at=rows.at[rows.uncertain],
        now=NOW,
    )


@st.composite
def tables(draw: st.DrawFn) -> list[Registers]:
    found = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(0, 14))
        minutes = np.cumsum(
            draw(st.lists(st.sampled_from([1.0, 7.5, 15.0, 30.0, 31.0]), min_size=count, max_size=count))
        )
        steps = draw(st.lists(st.sampled_from([0.0, 0.3, 2.0, 2.0, 2.0, -0.02, 90.0]), min_size=count, max_size=count))
        odd = draw(st.booleans())
        shown = 100.0 + np.cumsum(steps if odd else np.abs(np.minimum(steps, 2.0)))
        uncertain = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        rows = registers([(float(at), float(one)) for at, one in zip(minutes, shown, strict=True)], ratio=2.0)
        found.append(replace(rows, uncertain=np.array(uncertain, np.bool_)))
    return found


@SOME
@given(tables(), st.integers(0, 3), st.data())
def test_together_they_come_out_as_each_by_itself(parts: list[Registers], steps: int, data: st.DataObject) -> None:
    circuits = [plain(i, start=START.timestamp() + steps * STEP_S) for i in range(len(parts))]
    empty = CurrentTable.join([Current.none() for _ in parts])
    once, booked = settle_plain(circuits, RegisterTable.join(parts), empty, NOW)
    for one, rows in zip(circuits, parts, strict=True):
        mine = [row for row in booked if row.circuit_id == one.circuit_id]
        if one.work not in once:
            assert not mine
            continue
        expected = carefully(one, rows, Current.none())
        assert expected is not None
        assert [replace(row, energy_kwh=0.0) for row in mine] == [replace(row, energy_kwh=0.0) for row in expected]
        assert [row.energy_kwh for row in mine] == pytest.approx([row.energy_kwh for row in expected], abs=1e-9)
    # Told again with what was booked, nothing is new; with one interval changed, that one is.
    held = [current([row for row in booked if row.circuit_id == one.circuit_id]) for one in circuits]
    assert settle_plain(circuits, RegisterTable.join(parts), CurrentTable.join(held), NOW) == (once, [])
    if booked:
        wrong = data.draw(st.integers(0, len(booked) - 1))
        other = [replace(row, energy_kwh=(row.energy_kwh or 0.0) + 1.0, version=4) if i == wrong else row
                 for i, row in enumerate(booked)]  # fmt: skip
        held = [current([row for row in other if row.circuit_id == one.circuit_id]) for one in circuits]
        _, again = settle_plain(circuits, RegisterTable.join(parts), CurrentTable.join(held), NOW)
        assert again == [replace(booked[wrong], version=5)]


def test_what_is_plain_is_settled() -> None:
    parts = [registers([(5.0 * i, 100.0 + i) for i in range(12)]) for _ in range(3)]
    settled, booked = settle_plain(
        [plain(i) for i in range(3)], RegisterTable.join(parts), CurrentTable.join([Current.none()] * 3), NOW
    )
    assert settled == {0, 1, 2}
    assert [one.energy_kwh for one in booked] == [pytest.approx(3.0)] * 9


EVEN = [(15.0 * i, 100.0 + i) for i in range(6)]
BINDING = plain(0).binding


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        (registers([*EVEN[:3], (45.0, 101.0), *EVEN[4:]]), {}),  # falls
        (registers([*EVEN[:3], (45.0, 900.0), *EVEN[4:]]), {}),  # jumps
        (registers([*EVEN[:3], (45.0, -1.0)]), {}),
        (registers([*EVEN[:3], (45.0, 10_000.0)]), {"rated_kw": None}),
        (registers([EVEN[0], EVEN[5]]), {}),  # a long gap
        (registers(EVEN[:1]), {}),
        (registers(EVEN, aside=(2,)), {}),
        (replace(registers(EVEN), ratio=np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])), {}),
        (registers(EVEN), {"binding": replace(BINDING, initial_register=90.0)}),
        (registers(EVEN), {"binding": replace(BINDING, final_register=190.0, valid_to=NOW)}),
        (registers(EVEN), {"binding": replace(BINDING, valid_to=START + timedelta(minutes=40))}),
        (registers(EVEN), {"binding": replace(BINDING, resets=(START,))}),
        (registers(EVEN), {"end": START.timestamp() + 900.0}),
    ],
)
def test_what_is_odd_is_left_to_the_careful_way(rows: Registers, facts: dict[str, object]) -> None:
    even = registers(EVEN)
    settled, booked = settle_plain(
        [plain(0, **facts), plain(1)], RegisterTable.join([rows, even]), CurrentTable.join([Current.none()] * 2), NOW
    )
    assert settled == {1}
    assert {one.circuit_id for one in booked} == {"c1"}


def test_an_interval_that_no_register_reaches_is_left_to_the_careful_way() -> None:
    rows = registers(EVEN)
    _, booked = settle_plain([plain(0)], RegisterTable.join([rows]), CurrentTable.join([Current.none()]), NOW)
    beyond = replace(booked[-1], start=booked[-1].start + timedelta(minutes=15))
    held = CurrentTable.join([current([*booked, beyond])])
    assert settle_plain([plain(0)], RegisterTable.join([rows]), held, NOW) == (set(), [])
