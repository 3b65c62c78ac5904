"""From control's events to a report of savings, with the books and the registry stood in for."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import cast

import numpy as np
import polars as pl
import pytest

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, OccurrenceState
from libs.common.db import ReadConn
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, CommandId, LoadId, OccurrenceId, PlanId, SiteId
from services.carbon.bus import switching_of
from services.carbon.domain.factors import Choice
from services.carbon.domain.savings.shutdowns.course import STEP
from services.carbon.domain.savings.shutdowns.executed import Switching, executed_parts
from services.carbon.domain.savings.shutdowns.outages import Outage
from services.carbon.usecases.gridprices import PriceAt
from services.carbon.usecases.shutdowns import ShutdownReport, ShutdownSavings

FIRST = datetime(2022, 4, 18, tzinfo=CIVIL_ZONE)
"""A Monday."""
NIGHT = datetime(2022, 5, 11, tzinfo=CIVIL_ZONE)
NOBODY = cast("ReadConn", None)


def event(state: CommandState | OccurrenceState, at: datetime, **more: object) -> ControlEvent:
    fields: dict[str, object] = {
        "site_id": SiteId("site-1"),
        "state": state,
        "at": at.astimezone(UTC),
        "reason": "",
        "load_id": LoadId("aau"),
        "occurrence_id": OccurrenceId("o1"),
        "plan_id": PlanId("p1"),
        **more,
    }
    return ControlEvent.model_validate(fields)


def test_an_occurrence_and_its_commands_prove_the_same_switchings() -> None:
    on = NIGHT + timedelta(hours=6)
    of_command = {"command_id": CommandId("c"), "action": CommandAction.OPEN, "off_at": NIGHT.astimezone(UTC)}
    told = [
        event(OccurrenceState.PLANNED, NIGHT - timedelta(hours=5)),
        event(CommandState.DISPATCHED, NIGHT - timedelta(seconds=2), command_id="c", action=CommandAction.OPEN),
        event(CommandState.SUCCEEDED, NIGHT, **of_command),
        event(OccurrenceState.SHUT_DOWN, NIGHT + timedelta(seconds=1), off_at=NIGHT.astimezone(UTC)),
        event(OccurrenceState.WAKING, on - timedelta(seconds=9)),
        event(CommandState.SUCCEEDED, on, command_id="d", action=CommandAction.CLOSE),
        event(OccurrenceState.AWAKE, on),
    ]
    (part,) = executed_parts([one for one in map(switching_of, told) if one is not None])
    assert (part.off_at, part.on_at, part.occurrence_id, part.plan_id) == (NIGHT, on, "o1", "p1")


@pytest.mark.parametrize(
    "state",
    [
        OccurrenceState.PLANNED,
        OccurrenceState.SHUTTING_DOWN,
        OccurrenceState.WAKING,
        OccurrenceState.OVERDUE,
        OccurrenceState.SKIPPED,
        OccurrenceState.CALLED_OFF,
        CommandState.FAILED,
        CommandState.UNKNOWN,
    ],
)
def test_nothing_else_proves_a_switching(state: CommandState | OccurrenceState) -> None:
    assert switching_of(event(state, NIGHT)) is None


class Books:
    """Twenty-eight days of a branch of 2 kW that is off on the last nights, and of a load without a meter."""

    def __init__(self, switchings: Sequence[Switching]) -> None:
        self.switchings = switchings
        self.outages: list[Outage] = []
        self.by_day: float | None = 1.0

    async def fetch_frame(
        self, conn: ReadConn, circuits: Sequence[CircuitId], start: datetime, end: datetime
    ) -> pl.DataFrame:
        energy = np.full(28 * 96, 0.5)
        starts = [FIRST.astimezone(UTC) + index * STEP for index in range(energy.size)]
        for part in executed_parts(self.switchings):
            for index, one in enumerate(starts):
                if part.on_at is not None and part.off_at <= one < part.on_at:
                    energy[index] = 0.0
        return pl.DataFrame(
            {"circuit_id": "branch", "start": starts, "energy_kwh": energy, "flag": "measured", "version": 1}
        )

    async def fetch_switchings(
        self, conn: ReadConn, loads: Sequence[LoadId], start: datetime, end: datetime
    ) -> Sequence[Switching]:
        return [one for one in self.switchings if one.load_id in loads]

    async def fetch_loads_of_plan(self, conn: ReadConn, plan: str, start: datetime, end: datetime) -> Sequence[LoadId]:
        return sorted({LoadId(one.load_id) for one in self.switchings if one.plan_id == plan})

    async def fetch_offs_of_occurrence(self, conn: ReadConn, occurrence: str) -> Sequence[tuple[LoadId, datetime]]:
        return [(LoadId(one.load_id), one.at) for one in self.switchings if one.off and one.occurrence_id == occurrence]

    async def fetch_outages(
        self, conn: ReadConn, sites: Sequence[SiteId], start: datetime, end: datetime
    ) -> Sequence[Outage]:
        return self.outages

    async def pricer(self, conn: ReadConn, circuits: Sequence[CircuitId], first: date, last: date) -> PriceAt:
        return lambda circuit, at: 0.3 if at.astimezone(CIVIL_ZONE).hour < 8 else self.by_day

    async def fetch_temperatures(
        self, conn: ReadConn, places: Sequence[str], start: date, end: date
    ) -> list[tuple[str, date, float, str]]:
        return []

    async def chooser(self, conn: ReadConn) -> Callable[[SiteId, int], Choice | None]:
        return lambda site, year: None


class Registry:
    def loads_at(self, site: SiteId) -> Sequence[LoadId]:
        return [LoadId("aau"), LoadId("dark")]

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        return SiteId("site-1")

    def places_of(self, site: SiteId) -> list[str]:
        return [site]

    def has_cooling(self, circuit: CircuitId) -> bool:
        return False

    def meter_of(self, load: LoadId) -> CircuitId | None:
        return CircuitId("branch") if load == "aau" else None

    def loads_behind(self, circuit: CircuitId) -> Sequence[LoadId]:
        return [LoadId("aau")]

    def peers_of(self, circuit: CircuitId) -> Sequence[CircuitId]:
        return []


def savings_of(books: Books) -> ShutdownSavings:
    return ShutdownSavings(
        switchings=books,
        intervals=books,
        outages=books,
        loads=Registry(),
        factors=books,
        prices=books,
        temperatures=books,
        holidays={},
    )


def nights_off(nights: int, *, woken: bool = True) -> list[Switching]:
    switchings = []
    for night in range(nights):
        off = NIGHT + timedelta(days=night)
        switchings.append(Switching("aau", off, True, f"o{night}", "p1"))
        if woken or night < nights - 1:
            switchings.append(Switching("aau", off + timedelta(hours=6), False, f"o{night}", "p1"))
    return switchings


async def report(nights: int, *, woken: bool = True) -> ShutdownReport:
    return await savings_of(Books(nights_off(nights, woken=woken))).report(
        NOBODY, loads=[LoadId("aau"), LoadId("dark")], start=NIGHT, end=NIGHT + timedelta(days=3)
    )


async def test_a_report_has_the_savings_of_each_occurrence_and_of_the_plan() -> None:
    found = await report(2)
    assert {name: one.saving_kwh for name, one in found.by_occurrence.items()} == {
        "o0": pytest.approx(12.0),
        "o1": pytest.approx(12.0),
    }
    assert found.by_plan["p1"].saving_kwh == pytest.approx(24.0)
    assert found.by_circuit["branch"].saving_kwh == pytest.approx(24.0)
    assert found.total.publishable


async def test_a_load_without_a_meter_saves_nothing_that_is_claimed() -> None:
    found = await report(1)
    assert found.unmetered == ("dark",)
    assert found.total.saving_kwh == pytest.approx(12.0)


async def test_a_shutdown_that_is_not_over_is_shown_and_not_counted() -> None:
    found = await report(2, woken=False)
    assert [part.occurrence_id for part in found.running] == ["o1"]
    assert set(found.by_occurrence) == {"o0"}


async def test_an_occurrence_is_asked_for_by_itself() -> None:
    found = await savings_of(Books(nights_off(2))).of_occurrence(NOBODY, "o1")
    assert found.total.saving_kwh == pytest.approx(12.0)
    assert [one.window.off_at for one in found.windows] == [NIGHT + timedelta(days=1)]
    assert (set(found.by_occurrence), set(found.by_plan)) == ({"o1"}, {"p1"})
    with pytest.raises(NotFound):
        await savings_of(Books(nights_off(2))).of_occurrence(NOBODY, "o9")


async def test_a_plan_has_its_own_share_of_a_window_and_no_other() -> None:
    by_hand = [
        Switching("aau", NIGHT + timedelta(hours=5, minutes=55), False, "o0", "p1"),
        Switching("aau", NIGHT + timedelta(hours=5, minutes=58), True),
        Switching("aau", NIGHT + timedelta(hours=7, minutes=53), False),
    ]
    found = await savings_of(Books([nights_off(1)[0], *by_hand])).of_plan(
        NOBODY, "p1", start=NIGHT, end=NIGHT + timedelta(days=1)
    )
    (window,) = found.windows
    share = 355 / (355 + 115)
    assert window.saving_kwh is not None
    assert found.total.saving_kwh == pytest.approx(window.saving_kwh * share)
    assert found.by_site["site-1"].saving_kwh == pytest.approx(window.saving_kwh * share)


async def test_a_day_with_an_outage_is_no_clean_day() -> None:
    books = Books(nights_off(1))
    without = await savings_of(books).report(NOBODY, loads=[LoadId("aau")], start=NIGHT, end=NIGHT + timedelta(days=1))
    day = NIGHT - timedelta(days=2)
    books.outages = [
        Outage(
            outage_id="x",
            site_id=SiteId("site-1"),
            circuit_id=None,
            began_at=day + timedelta(hours=3),
            ended_at=day + timedelta(hours=4),
            reason="mains failure",
            recorded_by="user:li",
            recorded_at=NIGHT,
        )
    ]
    found = await savings_of(books).report(NOBODY, loads=[LoadId("aau")], start=NIGHT, end=NIGHT + timedelta(days=1))
    assert day.date() in without.windows[0].days
    assert day.date() not in found.windows[0].days


async def test_more_loads_than_a_report_holds_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 500 loads"):
        await savings_of(Books([])).report(
            NOBODY, loads=[LoadId(str(one)) for one in range(501)], start=NIGHT, end=NIGHT + timedelta(days=1)
        )


async def test_saved_energy_is_worth_the_price_of_its_hours() -> None:
    books = Books(nights_off(2))
    found = await savings_of(books).report(NOBODY, loads=[LoadId("aau")], start=NIGHT, end=NIGHT + timedelta(days=3))
    assert found.by_occurrence["o0"].money_cny == pytest.approx(12.0 * 0.3)
    assert found.total.money_cny == pytest.approx(24.0 * 0.3)
    late = [Switching("aau", NIGHT + timedelta(hours=7), True), Switching("aau", NIGHT + timedelta(hours=9), False)]
    books = Books(late)
    books.by_day = None  # nobody has entered what the day costs: unknown, and not 0
    found = await savings_of(books).report(NOBODY, loads=[LoadId("aau")], start=NIGHT, end=NIGHT + timedelta(days=1))
    assert found.total.saving_kwh == pytest.approx(4.0)
    assert found.total.money_cny is None
