"""Records on their way while homes are away, refuse, or the job dies between two steps: each is taken once."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from pydantic import SecretStr

from libs.common import jobs
from libs.common.db import Database
from libs.common.errors import Conflict, InvalidInput, Unavailable
from libs.common.jobs import JobContext
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.export.records import rows
from services.export.records.rows import RowState
from services.export.records.taking import RecordTaker
from services.export.usecases.administration import Actor
from services.export.usecases.records import Deliveries
from services.export.worker.records import RecordWorker
from tests.unit.export.test_export_records import DAY, MONTH, SINCE, Registry

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

START = datetime(2026, 5, 1, 4, 0, tzinfo=UTC)
ARCHIVE = {"table": 2, "item": "address", "subject": "s-1", **SINCE, "text": "street"}
ENERGY = {"table": 2, "item": "energy_kwh", "subject": "s-1", **MONTH, "value": 10, "unit": "kWh"}
COST = {"table": 2, "item": "electricity_cost_cny", "subject": "s-1", **MONTH, "value": 8, "unit": "CNY"}
REPORTED = {"table": 1, "item": "emission_tco2e", "subject": "op", **MONTH, "value": 1, "unit": "t"}
KWH = {"table": 2, "item": "energy_kwh", "subject": "044", **DAY, "value": 2.5, "unit": "kWh"}
WATER = {"table": 3, "item": "water_t", "subject": "s-1", **MONTH, "value": 120, "unit": "t"}
FEE = {"table": 3, "item": "water_cost_cny", "subject": "s-1", **MONTH, "value": 412.5, "unit": "CNY"}
ALL = (ARCHIVE, ENERGY, COST, REPORTED, KWH, WATER, FEE)


class Killed(BaseException):
    """The process dies here."""


@dataclass
class Homes:
    """Ingest and carbon, as little of them as records need; ``before`` may do anything before a call is heard."""

    site: list[dict[str, Any]] = field(
        default_factory=lambda: [{"id": "s-1", "name": "S", "valid_from": "2026-01-01T00:00:00Z", "version": 3}]
    )
    bills: list[dict[str, Any]] = field(default_factory=list)
    media_bills: list[dict[str, Any]] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    imports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    wrong: dict[int, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None

    async def get(self, path: str, *, timeout_s: float = 1.0, **params: Any) -> Any:
        self.before(f"GET {path}")
        if path.endswith("/history"):
            return {"versions": self.site}
        if path.endswith("/lines"):
            return {"items": [{"line": line, "detail": text, "detail_zh": text} for line, text in self.wrong.items()]}
        if path.endswith("/bills/media"):
            return {"items": list({one["number"]: one for one in self.media_bills}.values())}
        return {"items": self.bills} if path.endswith("/bills") else self.facts

    async def put(self, path: str, body: Any, *, timeout_s: float = 1.0) -> Any:
        return self._heard(f"PUT {path}", lambda: self.site.append({**body, "version": body["version"] + 1}))

    async def post(self, path: str, body: Any, *, timeout_s: float = 1.0) -> Any:
        name = urlsplit(path).path.rpartition("/")[2]
        match name:
            case "imports":
                key = parse_qs(urlsplit(path).query)["key"][0]
                lines = [orjson.loads(line) for line in body.splitlines()]
                return self._heard("POST imports", lambda: self.imports.setdefault(key, lines)) or {
                    "id": key, "state": "succeeded"
                }  # fmt: skip
            case "bills":
                return self._heard("POST bills", lambda: self.bills.append(body))
            case "media":
                return self._heard("POST media", lambda: self.media_bills.append(body))
            case _:
                return self._heard("POST facts", lambda: self.facts.append(body))

    def _heard(self, call: str, do: Callable[[], Any]) -> Any:
        self.before(call)
        self.calls.append(call)
        do()
        self.after(call)
        return None


@dataclass
class World:
    """Door, loop and job, without a process."""

    db: Database
    clock: FakeClock
    door: Deliveries
    worker: RecordWorker
    homes: Homes

    async def deliver(self, name: str, *records: dict[str, Any]) -> str:
        told = await self.door.deliver(name, list(enumerate(records, start=1)), Actor("key:utility"))
        return told.delivery.delivery_id

    async def work(self) -> None:
        """Look once and do what job there is, as far as it goes; a dead worker's job has failed."""
        await self.worker.enqueue()
        async with self.db.read() as conn:
            ids = [row["id"] for row in await conn.fetch("select id from jobs where state = 'queued'")]
        for job_id in ids:
            async with self.db.read() as conn:
                job = await jobs.fetch_job(conn, job_id)
            taker = RecordTaker(ingest=self.homes, carbon=self.homes, places=Registry)
            try:
                await taker.take(JobContext(job, None, self.db, self.clock))
            except Killed:
                pass
            async with self.db.write() as conn:
                await conn.execute(
                    "update jobs set state = 'failed', finished_at = now() where id = $1 and finished_at is null",
                    job_id,
                )

    async def states(self, delivery_id: str) -> list[tuple[RowState, str]]:
        async with self.db.read() as conn:
            found = await rows.fetch_rows(conn, delivery_id, state=None, after=0, limit=100)
        return [(row.state, row.problem or "") for row in found]


@pytest.fixture
async def world(module_postgres_url: str) -> AsyncIterator[World]:
    db, clock = Database(DatabaseSettings(url=SecretStr(module_postgres_url)), schema="export"), FakeClock(start=START)
    await db.open()
    async with db.write() as conn:
        await conn.execute("truncate record_deliveries, record_rows, record_devices, record_periods, jobs")
    door = Deliveries(db=db, clock=clock, places=Registry, senders=(), changed=lambda: None)
    worker = RecordWorker(
        db=db, clock=clock, deliveries=door, folder=None, owner="test", lease_s=9, poll_s=1, settle_s=0,
        retention_s=30 * 86_400,
    )  # fmt: skip
    try:
        yield World(db, clock, door, worker, Homes())
    finally:
        await db.close()


CALLS = ["PUT /api/v1/sites/s-1", "POST bills", "POST media", "POST facts", "POST imports"]


@pytest.mark.parametrize("at", range(10), ids=[f"{when} {call}" for call in CALLS for when in ("before", "after")])
async def test_a_job_that_dies_anywhere_is_done_again_and_each_row_taken_once(world: World, at: int) -> None:
    fatal = CALLS[at // 2]
    deaths: list[str] = []

    def die(call: str) -> None:
        if call == fatal and not deaths:
            deaths.append(call)
            raise Killed

    if at % 2:
        world.homes.after = die
    else:
        world.homes.before = die
    delivery_id = await world.deliver("one", *ALL)
    await world.work()
    assert deaths == [fatal]
    await world.worker.enqueue()  # it is noticed that the job has ended
    await world.clock.advance(61)
    await world.work()
    assert {state for state, _ in await world.states(delivery_id)} <= {RowState.TAKEN, RowState.UNCHANGED}
    assert [one["address"] for one in world.homes.site[1:]] == ["street"]
    assert [(one["energy_kwh"], one["amount_cny"]) for one in world.homes.bills] == [("10.0", "8.0")]
    assert [(one["account_number"], one["quantity"], one["unit"]) for one in world.homes.media_bills] == [
        ("W-1", "120.0", "m3")
    ]
    assert [one["value"] for one in world.homes.facts] == [1000.0]
    [lines] = world.homes.imports.values()  # sent again, it is the same file under the same key
    assert [line["points"] for line in lines] == [{"energy_active_import": 0.0}, {"energy_active_import": 2.5}]


async def test_who_is_away_is_waited_for_and_those_behind_wait_their_turn(world: World) -> None:
    def away(call: str) -> None:
        raise Unavailable("ingest is not available")

    world.homes.before = away
    first = await world.deliver("one", KWH)
    second = await world.deliver("two", {**KWH, "start": DAY["end"], "end": "2026-03-03T00:00:00+08:00"})
    await world.work()
    told = await world.door.get(first)
    assert (told.delivery.attempts, told.delivery.error) == (1, "ingest is not available")
    world.homes.before = lambda _: None
    await world.work()  # not before its time, and those behind it neither: registers follow the order of deliveries
    assert [await world.states(one) for one in (first, second)] == [[(RowState.WAITING, "")]] * 2
    await world.clock.advance(6)
    await world.work()
    await world.work()
    assert [await world.states(one) for one in (first, second)] == [[(RowState.TAKEN, "")]] * 2
    registers = [line["points"]["energy_active_import"] for lines in world.homes.imports.values() for line in lines]
    assert registers == [0.0, 2.5, 5.0]
    assert (await world.door.get(second)).delivery.finished_at is not None


async def test_what_a_home_refuses_is_told_with_its_words_and_the_others_go_on(world: World) -> None:
    def refuse(call: str) -> None:
        if call == "PUT /api/v1/sites/s-1":
            raise InvalidInput("address: expected another", message_zh="address:应为其他")
        if call in ("POST bills", "POST media"):
            raise Conflict("other days")

    world.homes.before = refuse
    world.homes.wrong = {2: "older than is kept"}
    delivery_id = await world.deliver("one", *ALL)
    await world.work()
    assert await world.states(delivery_id) == [
        (RowState.REFUSED, "address: expected another"), (RowState.REFUSED, "other days"),
        (RowState.REFUSED, "other days"), (RowState.TAKEN, ""), (RowState.REFUSED, "older than is kept"),
        (RowState.REFUSED, "other days"), (RowState.REFUSED, "other days"),
    ]  # fmt: skip
    world.homes.wrong = {}
    again = await world.deliver("again", KWH)  # what was written down and not taken is sent again
    await world.work()
    assert await world.states(again) == [(RowState.TAKEN, "")]
    third = await world.deliver("third", KWH)
    await world.work()
    assert await world.states(third) == [(RowState.UNCHANGED, "")]


async def test_an_entity_that_changes_meanwhile_is_read_again(world: World) -> None:
    def conflict(call: str) -> None:
        if call.startswith("PUT"):
            error = Conflict("somebody was faster")
            error.code = "version_conflict"
            raise error

    world.homes.before = conflict
    delivery_id = await world.deliver("one", ARCHIVE)
    await world.work()
    assert await world.states(delivery_id) == [(RowState.WAITING, "")]
    world.homes.before = lambda _: None
    await world.clock.advance(6)
    await world.work()
    assert await world.states(delivery_id) == [(RowState.TAKEN, "")]


async def test_a_bill_of_a_medium_is_entered_once_and_corrected_without_losing_its_quantity(world: World) -> None:
    async def come(name: str, *records: dict[str, Any]) -> set[RowState]:
        delivery_id = await world.deliver(name, *records)
        await world.work()
        return {state for state, _ in await world.states(delivery_id)}

    assert await come("fee", FEE) == {RowState.TAKEN}
    assert await come("fee again", FEE) == {RowState.UNCHANGED}
    assert await come("both", FEE, WATER) == {RowState.TAKEN}
    assert await come("both again", WATER, FEE) == {RowState.UNCHANGED}
    assert await come("fee alone", FEE) == {RowState.UNCHANGED}
    assert await come("corrected", {**FEE, "value": 400.0}) == {RowState.TAKEN}
    assert [(one["number"], one["quantity"], one["amount_cny"]) for one in world.homes.media_bills] == [
        ("202603-access", None, "412.5"), ("202603-access", "120.0", "412.5"), ("202603-access", "120.0", "400.0"),
    ]  # fmt: skip
    last = world.homes.media_bills[-1]
    assert (last["medium"], last["first_day"], last["last_day"], last["issued_on"]) == (
        "water", "2026-03-01", "2026-03-31", "2026-04-01",
    )  # fmt: skip


async def test_a_fee_of_a_year_is_a_bill_of_that_year(world: World) -> None:
    year = {"start": "2025-01-01T00:00:00+08:00", "end": "2026-01-01T00:00:00+08:00"}
    fee = {"table": 4, "subject": "H-1", **year, "value": 9000, "unit": "元"}
    delivery_id = await world.deliver(
        "year", {**fee, "item": "heating_cost_cny"}, {**fee, "item": "cooling_cost_cny", "value": 0.5}
    )
    await world.work()
    assert await world.states(delivery_id) == [(RowState.TAKEN, "")] * 2
    told = [(one["medium"], one["number"], one["last_day"], one["quantity"]) for one in world.homes.media_bills]
    assert told == [("heat", "2025-access", "2025-12-31", None), ("cold", "2025-access", "2025-12-31", None)]
