"""Brings the rows of one delivery to their homes, as a job: registry, history, books; something comes of every row.

Each step is noted when its home has said so, and is one that may be done twice: a version that says what is there
already is not made, a bill or fact is compared before it is entered, ingest takes a file of one key once. So a job that
dies is simply done again. Who is away is asked again later; what he refuses is told with his own words.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import orjson
from pydantic import BaseModel

from libs.common.accessstandard import WrongRecord
from libs.common.clock import CIVIL_ZONE
from libs.common.errors import PlatformError, Unavailable
from libs.common.jobs import JobContext
from services.export.domain.records import BILLINGS, COST, ENERGY, Kind, Placed, Places, Refusal, follow
from services.export.exports.asking import CALL_TIMEOUT_S, pages_of, read_as
from services.export.records import rows
from services.export.records.reading import MAX_ROWS
from services.export.records.rows import RowState
from services.export.usecases.records import judge

logger = logging.getLogger(__name__)

RECORDS_JOB = "records"
WAIT_FIRST_S, WAIT_CAP_S = 5.0, 120.0
"""Between tries while somebody is away, doubling. [s]"""
IMPORT_LOOK_S = 1.0
IMPORT_WITHIN_S = 300.0
"""A larger import is looked at again with the next try. [s]"""
PATHS = {"organisation": "organisations", "site": "sites", "circuit": "circuits"}
BOOKKEEPING = ("version", "changed_by", "valid_from", "valid_to", "state")


class Told(Protocol):
    """A service that is asked and told (``libs.common.client.ServiceClient``)."""

    async def get(self, path: str, *, timeout_s: float = CALL_TIMEOUT_S, **params: Any) -> Any:
        """Return the parsed answer. Raises ``PlatformError``."""

    async def post(self, path: str, body: Any, *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Send JSON, or bytes as they are. Raises ``PlatformError``."""

    async def put(self, path: str, body: Any, *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Store JSON. Raises ``PlatformError``."""


class _Version(BaseModel):
    valid_from: datetime
    version: int


class _History(BaseModel):
    versions: list[dict[str, Any]]


class _Bill(BaseModel):
    number: str
    first_day: date
    last_day: date
    energy_kwh: float
    amount_cny: float


class _Bills(BaseModel):
    items: list[_Bill]


class _MediumBill(BaseModel):
    number: str
    first_day: date
    last_day: date
    quantity: str | None
    unit: str | None
    amount_cny: float


class _MediumBills(BaseModel):
    items: list[_MediumBill]


class _Fact(BaseModel):
    kind: str
    first_day: date
    end_day: date
    value: float


class _Facts(BaseModel):
    items: list[_Fact]


class _Import(BaseModel):
    id: str
    state: str
    detail: str | None = None
    detail_zh: str | None = None


class _WrongLine(BaseModel):
    line: int
    detail: str
    detail_zh: str


class _WrongLines(BaseModel):
    items: list[_WrongLine]


@dataclass(frozen=True, slots=True)
class _Line:
    """A report for ingest, and whose rows it is."""

    report: Mapping[str, Any]
    lines: tuple[int, ...]
    period: tuple[str, datetime] | None = None
    """Device and start of the period that ends with it."""


class RecordTaker:
    """Works deliveries off."""

    def __init__(self, *, ingest: Told, carbon: Told, places: Callable[[], Places]) -> None:
        """Keep whom to tell, and what gives the registry as it is now."""
        self._ingest = ingest
        self._carbon = carbon
        self._places = places

    async def take(self, context: JobContext) -> Mapping[str, Any]:
        """Take the rows that wait of the delivery that a job is of."""
        delivery_id = str(context.job.payload["delivery_id"])
        async with context.db.read() as conn:
            one = await rows.fetch_delivery(conn, delivery_id)
            waiting = await rows.fetch_rows(conn, delivery_id, state=RowState.WAITING, after=0, limit=MAX_ROWS)
        if one is None or one.finished_at is not None or one.job_id != context.job.id:
            return {"outcome": "nothing to do"}
        placed, refused = await judge([(row.line, row.fields) for row in waiting], self._places())
        work = _Work(context, delivery_id, self._ingest, self._carbon)
        try:
            await work.refuse(list(refused.values()))
            await work.archives([each for each in placed if each.kind is Kind.ARCHIVE])
            await work.bills([each for each in placed if each.kind is Kind.BILL])
            for each in placed:
                if each.kind is Kind.MEDIUM_BILL:
                    await work.medium_bill(each)
                if each.kind is Kind.EMISSION:
                    await work.emission(each)
            await work.measured([each for each in placed if each.kind in (Kind.GAUGE, Kind.PERIOD)])
        except Unavailable as exc:
            wait_s = min(WAIT_FIRST_S * 2.0 ** min(one.attempts, 20), WAIT_CAP_S)
            logger.warning("records wait", extra={"delivery": delivery_id, "reason": exc.message})
            async with context.db.write() as conn:
                again = context.clock.now() + timedelta(seconds=wait_s)
                await rows.put_off(conn, delivery_id, context.job.id, again, exc.message[:500])
            return {"outcome": "put off", "reason": exc.message[:500]}
        async with context.db.write() as conn:
            await rows.finish(conn, delivery_id, context.clock.now())
            await context.finish(conn, {"outcome": "done"})
        return {"outcome": "done"}


class _Work:
    """One delivery on its way."""

    def __init__(self, context: JobContext, delivery_id: str, ingest: Told, carbon: Told) -> None:
        self._context = context
        self._delivery_id = delivery_id
        self._ingest = ingest
        self._carbon = carbon
        self._done = 0

    async def refuse(self, refused: Sequence[Refusal]) -> None:
        async with self._context.db.write() as conn:
            await rows.save_refused(conn, self._delivery_id, refused)
        await self._progress(len(refused))

    async def _save(self, lines: Sequence[int], state: RowState) -> None:
        async with self._context.db.write() as conn:
            await rows.save_lines(conn, self._delivery_id, lines, state)
        await self._progress(len(lines))

    async def _progress(self, count: int) -> None:
        self._done += count
        await self._context.progress(self._done)

    async def _told(self, lines: Sequence[int], tell: Callable[[], Any]) -> None:
        """Tell a home about rows, all of them at once; note whether it took them or why not."""
        try:
            state = await tell()
        except Unavailable:
            raise
        except PlatformError as exc:
            if exc.code == "version_conflict":  # somebody changed the entity between our two calls
                raise Unavailable(exc.message, message_zh=exc.message_zh) from exc
            await self.refuse(
                [Refusal(line, exc.message[:500], (exc.message_zh or exc.message)[:500]) for line in lines]
            )
        else:
            await self._save(lines, state)

    # ---- archives --------------------------------------------------------------------------------

    async def archives(self, placed: Sequence[Placed]) -> None:
        """Give entities their versions, the oldest change first; what is said of one time is one version."""
        by_time = sorted(placed, key=lambda one: (one.home, one.row.record.start, one.row.line))
        for (home, start), group in groupby(by_time, key=lambda one: (one.home, one.row.record.start)):
            members = list(group)
            await self._told([one.row.line for one in members], lambda: self._version(home, start, members))  # noqa: B023

    async def _version(self, home: str, start: datetime, members: Sequence[Placed]) -> RowState:
        kind, _, entity_id = home.partition(":")
        path = f"/api/v1/{PATHS[kind]}/{quote(entity_id, safe='')}"
        versions = read_as(_History, await self._ingest.get(f"{path}/history"), "ingest").versions
        facts = [_Version.model_validate(one) for one in versions]
        last, body = facts[-1], {name: value for name, value in versions[-1].items() if name not in BOOKKEEPING}
        changed = _changed(body, members)
        if changed == body:
            return RowState.UNCHANGED
        if start < last.valid_from:
            since = last.valid_from.astimezone(CIVIL_ZONE).isoformat()
            raise WrongRecord(
                f"start: expected {since} or later, since when the {kind} is as it is, found {start.isoformat()}",
                message_zh=f"start:不应早于该对象现行版本的起始时间 {since},实际为 {start.isoformat()}",
            )
        revision = max(one.version for one in facts)
        await self._ingest.put(path, {**changed, "valid_from": start.isoformat(), "version": revision})
        return RowState.TAKEN

    # ---- the books -------------------------------------------------------------------------------

    async def bills(self, placed: Sequence[Placed]) -> None:
        """Enter bills, each of an account and a month out of its energy and its cost."""
        months: dict[tuple[str, datetime], list[Placed]] = defaultdict(list)
        for one in placed:
            months[one.home, one.row.record.start].append(one)
        for (account, _), members in sorted(months.items()):
            await self._told([one.row.line for one in members], lambda: self._bill(account, members))  # noqa: B023

    async def _bill(self, account: str, members: Sequence[Placed]) -> RowState:
        values = {one.name: float(one.value) for one in members}
        record = members[0].row.record
        if values.keys() != {ENERGY, COST} or record.end is None:
            raise WrongRecord(
                f"item: expected {ENERGY} and {COST} of one account and month",
                message_zh="数据项:应为同户号、同月的用电量与电费各一条",
            )
        first, after = (at.astimezone(CIVIL_ZONE).date() for at in (record.start, record.end))
        number = f"{first:%Y%m}-access"
        question: dict[str, Any] = {"account": account, "from": first.isoformat(), "to": after.isoformat()}
        found = read_as(_Bills, await self._carbon.get("/api/v1/bills", **question), "carbon").items
        same = next((one for one in found if one.number == number), None)
        last_day = after - timedelta(days=1)
        if same is not None and (same.first_day, same.last_day, same.energy_kwh, same.amount_cny) == (
            first, last_day, values[ENERGY], values[COST],
        ):  # fmt: skip
            return RowState.UNCHANGED
        await self._carbon.post("/api/v1/bills", {
            "account_number": account, "number": number, "first_day": first.isoformat(),
            "last_day": last_day.isoformat(), "energy_kwh": repr(values[ENERGY]), "amount_cny": repr(values[COST]),
            "issued_on": after.isoformat(),
        })  # fmt: skip
        return RowState.TAKEN

    async def medium_bill(self, one: Placed) -> None:
        """Enter a bill of water, cooling or heating, with the quantity that the delivery says of its time."""
        await self._told([one.row.line, *one.beside], lambda: self._medium_bill(one))

    async def _medium_bill(self, one: Placed) -> RowState:
        record, billing, amount = one.row.record, BILLINGS[one.name], float(one.value)
        first, after = (at.astimezone(CIVIL_ZONE).date() for at in (record.start, record.end or record.start))
        last_day = after - timedelta(days=1)
        number = f"{first:%Y}-access" if last_day.month != first.month else f"{first:%Y%m}-access"
        question: dict[str, Any] = {"medium": billing.medium, "account": one.home}
        question |= {"from": first.isoformat(), "to": after.isoformat()}
        found = read_as(_MediumBills, await self._carbon.get("/api/v1/bills/media", **question), "carbon").items
        same = next((each for each in found if each.number == number), None)
        quantity, unit = (None, None) if one.quantity is None else (repr(one.quantity), billing.unit)
        if quantity is None and same is not None:  # a fee alone says nothing against the quantity that came before
            quantity, unit = same.quantity, same.unit
        if same is not None and (same.first_day, same.last_day, _number(same.quantity), same.unit, same.amount_cny) == (
            first, last_day, _number(quantity), unit, amount,
        ):  # fmt: skip
            return RowState.UNCHANGED
        await self._carbon.post("/api/v1/bills/media", {
            "medium": billing.medium, "account_number": one.home, "number": number, "first_day": first.isoformat(),
            "last_day": last_day.isoformat(), "quantity": quantity, "unit": unit, "amount_cny": repr(amount),
            "issued_on": after.isoformat(),
        })  # fmt: skip
        return RowState.TAKEN

    async def emission(self, one: Placed) -> None:
        """Enter what an authority has on file, as a fact that stands beside what is calculated."""
        await self._told([one.row.line], lambda: self._fact(one))

    async def _fact(self, one: Placed) -> RowState:
        record = one.row.record
        node = one.home.partition(":")[2]
        first, after = (at.astimezone(CIVIL_ZONE).date() for at in (record.start, record.end or record.start))
        span: dict[str, Any] = {"first_day": first.isoformat(), "end_day": after.isoformat()}
        kind, value = "reported_emission_kg_co2e", float(one.value)
        answer = await self._carbon.get("/api/v1/energy/facts", node=node, **span)
        for fact in read_as(_Facts, {"items": answer}, "carbon").items:
            if (fact.kind, fact.first_day, fact.end_day, fact.value) == (kind, first, after, value):
                return RowState.UNCHANGED
        source = f"records:{self._delivery_id}/{one.row.line}"
        await self._carbon.post(
            "/api/v1/energy/facts", {"node": node, "kind": kind, "value": value, "source": source, **span}
        )
        return RowState.TAKEN

    # ---- the history -----------------------------------------------------------------------------

    async def measured(self, placed: Sequence[Placed]) -> None:
        """Send reports to ingest as one file under a key of its content, and note what it has said of each line."""
        if not placed:
            return
        lines = [*await self._gauges(placed), *await self._periods(placed)]
        if not lines:
            return
        body = b"\n".join(orjson.dumps(one.report) for one in lines)
        found = await self._imported(body)
        if found.state == "failed":
            detail, detail_zh = found.detail or "the import failed", found.detail_zh or found.detail or "导入失败"
            await self.refuse([Refusal(line, detail[:500], detail_zh[:500]) for one in lines for line in one.lines])
            return
        wrong = {
            one.line: one
            async for page in pages_of(self._ingest, f"/api/v1/imports/{found.id}/lines", {"limit": 1000})
            for one in read_as(_WrongLines, page, "ingest").items
        }
        refused = {
            line: Refusal(line, wrong[place].detail[:500], wrong[place].detail_zh[:500])
            for place, one in enumerate(lines, start=1) if place in wrong for line in one.lines
        }  # fmt: skip
        taken = [line for one in lines for line in one.lines if line not in refused]
        sent = [one.period for place, one in enumerate(lines, start=1) if one.period is not None and place not in wrong]
        async with self._context.db.write() as conn:
            await rows.save_refused(conn, self._delivery_id, list(refused.values()))
            await rows.save_lines(conn, self._delivery_id, taken, RowState.TAKEN)
            await rows.save_sent(conn, sent)

    async def _imported(self, body: bytes) -> _Import:
        digest = hashlib.sha256(body).hexdigest()[:16]
        question = urlencode(
            {"kind": "readings", "file": f"records-{self._delivery_id}.jsonl", "key": f"{self._delivery_id}-{digest}"}
        )
        found = read_as(
            _Import, await self._ingest.post(f"/api/v1/imports?{question}", body, timeout_s=CALL_TIMEOUT_S), "ingest"
        )
        until = self._context.clock.monotonic() + IMPORT_WITHIN_S
        while found.state in ("queued", "running"):
            if self._context.clock.monotonic() > until:
                raise Unavailable(f"import {found.id} is not done yet", message_zh=f"导入任务 {found.id} 尚未完成")
            await self._context.clock.sleep(IMPORT_LOOK_S)
            await self._progress(0)
            found = read_as(_Import, await self._ingest.get(f"/api/v1/imports/{found.id}"), "ingest")
        return found

    async def _gauges(self, placed: Sequence[Placed]) -> list[_Line]:
        """Return one report for each device and time."""
        reports: dict[tuple[str, datetime], list[Placed]] = defaultdict(list)
        refused = []
        for one in placed:
            if one.kind is not Kind.GAUGE:
                continue
            problem = await self._held(one, rows.GAUGES)
            if problem is not None:
                refused.append(problem)
                continue
            record = one.row.record
            members = reports[one.home, record.end or record.start]
            if any(each.name == one.name for each in members):  # by two names of one device, or two items
                refused.append(
                    Refusal(
                        one.row.line,
                        f"table {record.table}, {record.key}: expected one {one.name} of {one.home} at a time",
                        f"表{record.table} {record.key}:{one.home} 同一时刻的 {one.name} 应只有一个值",
                    )
                )
                continue
            members.append(one)
        await self.refuse(refused)
        return [
            _Line(
                {"device_id": device, "source_time": _utc(at), "points": {one.name: one.value for one in members}},
                tuple(one.row.line for one in members),
            )
            for (device, at), members in sorted(reports.items())
        ]

    async def _periods(self, placed: Sequence[Placed]) -> list[_Line]:
        """Return the registers that periods make, each written down before it is sent."""
        found: list[_Line] = []
        refused: list[Refusal] = []
        unchanged: list[int] = []
        periods = [one for one in placed if one.kind is Kind.PERIOD]
        for one in sorted(periods, key=lambda one: (one.home, one.row.record.start, one.row.line)):
            problem = await self._held(one, one.name)
            if problem is not None:
                refused.append(problem)
                continue
            try:
                stored = await self._followed(one)
            except WrongRecord as exc:
                refused.append(Refusal(one.row.line, exc.message, exc.message_zh or exc.message))
                continue
            if stored.sent:
                unchanged.append(one.row.line)
                continue
            period = stored.period
            if stored.is_first:  # where the register begins
                found.append(_Line(_register(one, period.start, 0.0), ()))
            end = _register(one, period.end, period.register)
            found.append(_Line(end, (one.row.line,), (one.home, period.start)))
        await self.refuse(refused)
        await self._save(unchanged, RowState.UNCHANGED)
        return found

    async def _held(self, one: Placed, what: str) -> Refusal | None:
        """Return why a device cannot take this: two reports of one time would be in each other's way."""
        async with self._context.db.write() as conn:
            held = await rows.holds(conn, one.home, what)
        if held == what:
            return None
        return Refusal(
            one.row.line,
            f"table {one.row.record.table}, {one.row.record.key}: subject: expected a device of its own, "
            f"{one.home} holds {held}",
            f"表{one.row.record.table} {one.row.record.key}:对象:应为单独的设备,{one.home} 已用于 {held}",
        )

    async def _followed(self, one: Placed) -> rows.StoredPeriod:
        async with self._context.db.write() as conn:
            known = await rows.fetch_period(conn, one.home, one.row.record.start)
            last = await rows.fetch_last_period(conn, one.home)
            period = follow(one.row, last, None if known is None else known.period)
            if known is not None:
                return known
            await rows.add_period(conn, one.home, period, is_first=last is None)
            return rows.StoredPeriod(period, last is None, sent=False)


def _changed(body: Mapping[str, Any], members: Sequence[Placed]) -> dict[str, Any]:
    """Return an entity as rows say it is."""
    archive = dict(body.get("archive") or {})
    fields = dict(body)
    for one in members:
        if one.name.startswith("t") and one.name[1:2].isdigit():
            archive[one.name] = one.value
        else:
            fields[one.name] = one.value
    return {**fields, "archive": archive} if archive else fields


def _register(one: Placed, at: datetime, register: float) -> dict[str, Any]:
    return {"device_id": one.home, "source_time": _utc(at), "points": {one.name: register}}


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
