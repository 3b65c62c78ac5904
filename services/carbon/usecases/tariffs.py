"""Tariffs, special days and prices: what ships, what people enter, and what holds of both."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from libs.common.clock import Clock
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import InvalidInput, NotFound
from libs.common.tokens import Principal
from services.carbon.domain.tariff.basic import BasicPrices
from services.carbon.domain.tariff.cost import EnergyPrice
from services.carbon.domain.tariff.periods import ALL_DAYS, Tariff, TariffRow, build_tariffs
from services.carbon.domain.tariff.sheet import SheetPrice, SpecialDays
from services.carbon.store import tariffs as store
from services.carbon.store.tariffs import Revision
from services.carbon.usecases.ports import Audit, audit_event, refuse_limited

MAX_TARIFF_ROWS = 20_000
"""Windows of all tariffs together; the shipped ones have some four hundred."""
MAX_PRICES = 10_000
"""Prices of one answer."""
CONFIRMED = "confirmed-by-person"
"""What a row's confidence becomes when somebody says that it may be counted with."""


class UnknownTariff(NotFound):
    """There is no such tariff."""

    code = "unknown_tariff"
    title_zh = "电价方案不存在"


@dataclass(frozen=True, slots=True)
class StoredTariff:
    """A tariff as it holds."""

    tariff_id: str
    revision: int
    """0 for what ships."""
    rows: tuple[TariffRow, ...]
    recorded_by: str | None
    """None for what ships."""


@dataclass(frozen=True, slots=True)
class TariffBook:
    """All that costs are counted with, but the prices."""

    tariffs: Mapping[tuple[str, str], Tariff]
    """By region and customer class."""
    special_days: Sequence[SpecialDays]


class Tariffs:
    """Keeps tariffs, special days and prices."""

    def __init__(self, *, db: Database, clock: Clock, audit: Audit, shipped: Sequence[TariffRow]) -> None:
        """Take what ships; it is checked as one book.

        Raises:
            InvalidFile: The shipped rows contradict each other.
        """
        build_tariffs(shipped, source="shipped tariffs")
        self.db = db
        self._clock = clock
        self._audit = audit
        self._built: tuple[Mapping[str, int], Mapping[tuple[str, str], Tariff]] | None = None
        """What was last built of which revisions."""
        self._shipped: dict[str, list[TariffRow]] = defaultdict(list)
        for row in shipped:
            self._shipped[row.tariff_id].append(replace(row, line=None))

    async def book(self, conn: ReadConn) -> TariffBook:
        """Return what holds."""
        stored = await self._stored(conn)
        revisions = {tariff_id: one.revision for tariff_id, one in stored.items()}
        if self._built is None or self._built[0] != revisions:
            rows = [row for one in stored.values() for row in one.rows]
            self._built = (revisions, await asyncio.to_thread(build_tariffs, rows, source="tariffs"))
        return TariffBook(self._built[1], await store.fetch_special_days(conn))

    async def tariffs(self) -> list[StoredTariff]:
        """Return every tariff as it holds, by id."""
        async with self.db.read() as conn:
            stored = await self._stored(conn)
        return [stored[tariff_id] for tariff_id in sorted(stored)]

    async def tariff(self, tariff_id: str) -> StoredTariff:
        """Return a tariff as it holds.

        Raises:
            UnknownTariff: There is none.
        """
        async with self.db.read() as conn:
            stored = await self._stored(conn)
        if tariff_id not in stored:
            raise _unknown(tariff_id)
        return stored[tariff_id]

    async def take(
        self,
        rows: Sequence[TariffRow],
        who: Principal,
        *,
        source: str,
        end_previous: bool = False,
        reason: str | None = None,
        request_id: str | None = None,
    ) -> list[StoredTariff]:
        """Take tariffs, each of them whole: what was entered or shipped under the same id holds no more.

        Args:
            rows: All windows of one or more tariffs.
            who: Who enters them.
            source: The file's name, for messages.
            end_previous: Let what is in force for the same customers end on the day before.
            reason: Why.
            request_id: Of the request.

        Raises:
            InvalidFile: A day is not covered once, or versions overlap with each other or with what is there.
            Forbidden: The asker is limited to sites.
        """
        refuse_limited(who, "tariffs", "电价方案")
        mine: dict[str, list[TariffRow]] = defaultdict(list)
        for row in rows:
            mine[row.tariff_id].append(row)
        async with self.db.write() as conn:
            await store.lock_tariffs(conn)
            stored = await self._stored(conn)
            changed = {tariff_id: tuple(some) for tariff_id, some in mine.items()}
            if end_previous:
                changed |= _ended(stored, rows, but=frozenset(mine))
            return await self._change(conn, stored, changed, who, source, reason, request_id)

    async def confirm(
        self, tariff_id: str, who: Principal, *, reason: str, request_id: str | None = None
    ) -> StoredTariff:
        """Let a tariff be counted with though nobody has checked it against its notice: somebody answers for it.

        Raises:
            UnknownTariff: There is none.
            Forbidden: The asker is limited to sites.
        """
        refuse_limited(who, "tariffs", "电价方案")
        async with self.db.write() as conn:
            await store.lock_tariffs(conn)
            stored = await self._stored(conn)
            if tariff_id not in stored:
                raise _unknown(tariff_id)
            rows = tuple(replace(row, confidence=CONFIRMED) for row in stored[tariff_id].rows)
            [changed] = await self._change(conn, stored, {tariff_id: rows}, who, tariff_id, reason, request_id)
            return changed

    async def special_days(self) -> Sequence[SpecialDays]:
        """Return the lists of special days that hold."""
        async with self.db.read() as conn:
            return await store.fetch_special_days(conn)

    async def put_special_days(
        self, wanted: SpecialDays, who: Principal, *, request_id: str | None = None
    ) -> SpecialDays:
        """Take a year's list of special days, which corrects the one before.

        Raises:
            Forbidden: The asker is limited to sites.
        """
        refuse_limited(who, "special days", "特殊日")
        now = self._clock.now()
        async with self.db.write() as conn:
            await store.lock_tariffs(conn)
            key = (wanted.region, wanted.day_type, wanted.year)
            held = {(one.region, one.day_type, one.year): one for one in await store.fetch_special_days(conn)}
            before = held.get(key)
            taken = replace(wanted, version=1 if before is None else before.version + 1)
            await store.add_special_days(conn, taken, at=now, by=who.actor)
            await self._audit(
                conn,
                audit_event(
                    who,
                    "special_days.enter",
                    f"special_days:{'/'.join(map(str, key))}",
                    now,
                    before=None if before is None else _days(before),
                    after=_days(taken),
                    reason=wanted.source,
                    request_id=request_id,
                ),
            )
        return taken

    async def prices(
        self,
        *,
        region: str | None,
        customer_class: str | None,
        voltage: str | None,
        first: date,
        last: date,
        versions: bool,
    ) -> list[SheetPrice]:
        """Return prices of months that begin in ``[first, last)``; see ``store.fetch_prices``.

        Raises:
            InvalidInput: There are too many for one answer.
        """
        async with self.db.read() as conn:
            found = await store.fetch_prices(
                conn, region=region, customer_class=customer_class, voltage=voltage, first=first, last=last,
                versions=versions, limit=MAX_PRICES + 1,
            )  # fmt: skip
        if len(found) > MAX_PRICES:
            raise InvalidInput(
                f"from, to, region: expected at most {MAX_PRICES} prices; ask for fewer months or one region",
                message_zh=f"电价超过 {MAX_PRICES} 条,请缩短时间或指定区域",
            )
        return found

    async def take_prices(
        self, wanted: Sequence[SheetPrice], who: Principal, *, source: str, request_id: str | None = None
    ) -> list[SheetPrice]:
        """Take prices as new versions; those that say what is known already change nothing.

        Returns:
            What was added.

        Raises:
            InvalidInput: One price twice.
            Forbidden: The asker is limited to sites.
        """
        refuse_limited(who, "prices", "电价")
        keys = [one.energy.key for one in wanted]
        if len(set(keys)) < len(keys):
            raise InvalidInput(
                "prices: expected each region, class, voltage and month once",
                message_zh="prices:每个区域、类别、电压与月份只能出现一次",
            )
        now = self._clock.now()
        async with self.db.write() as conn:
            await store.lock_tariffs(conn)
            months = [key.month for key in keys]
            held = {
                one.energy.key: one
                for one in await store.fetch_prices(conn, first=min(months), last=max(months) + timedelta(days=1))
            }
            new = [
                _versioned(one, held.get(one.energy.key), now)
                for one in wanted
                if one.energy.key not in held or not _same(one, held[one.energy.key])
            ]
            await store.add_prices(conn, new, by=who.actor)
            if new:
                await self._audit(
                    conn,
                    audit_event(
                        who,
                        "energy_prices.enter",
                        f"energy_prices:{source}",
                        now,
                        after={"prices": [_price(one) for one in new]},
                        request_id=request_id,
                    ),
                )
        return new

    async def _stored(self, conn: ReadConn | WriteConn) -> dict[str, StoredTariff]:
        entered = {
            tariff_id: StoredTariff(tariff_id, one.revision, one.rows, one.recorded_by)
            for tariff_id, one in (await store.fetch_revisions(conn)).items()
        }
        theirs = [row for one in entered.values() for row in one.rows]
        shipped = {
            tariff_id: StoredTariff(tariff_id, 0, tuple(rows), None)
            for tariff_id, rows in self._shipped.items()
            # What a later release ships gives way to what a person has entered for the same customers and days.
            if tariff_id not in entered and not _collide(rows, theirs)
        }
        return shipped | entered

    async def _change(
        self,
        conn: WriteConn,
        stored: Mapping[str, StoredTariff],
        changed: Mapping[str, tuple[TariffRow, ...]],
        who: Principal,
        source: str,
        reason: str | None,
        request_id: str | None,
    ) -> list[StoredTariff]:
        after = {tariff_id: one.rows for tariff_id, one in stored.items()} | dict(changed)
        rows = [row for some in after.values() for row in some]
        if len(rows) > MAX_TARIFF_ROWS:
            raise InvalidInput(
                f"tariffs: expected at most {MAX_TARIFF_ROWS} windows together, found {len(rows)}",
                message_zh=f"电价方案时段合计不得超过 {MAX_TARIFF_ROWS} 条,实际为 {len(rows)} 条",
            )
        await asyncio.to_thread(build_tariffs, rows, source=source)
        now = self._clock.now()
        found = []
        for tariff_id, some in changed.items():
            before = stored.get(tariff_id)
            revision = 1 if before is None else before.revision + 1
            await store.add_revision(conn, Revision(tariff_id, revision, some, now, who.actor))
            await self._audit(
                conn,
                audit_event(
                    who,
                    "tariff.enter",
                    f"tariff:{tariff_id}",
                    now,
                    before=None if before is None else _facts(before.revision, before.rows),
                    after=_facts(revision, some),
                    reason=reason,
                    request_id=request_id,
                ),
            )
            found.append(StoredTariff(tariff_id, revision, some, who.actor))
        return found


def _collide(rows: Sequence[TariffRow], others: Sequence[TariffRow]) -> bool:
    """Return whether two tariffs would hold for the same customers on the same days."""
    return any(
        (one.region, one.customer_class) == (other.region, other.customer_class)
        and one.valid_from <= (other.valid_to or date.max)
        and other.valid_from <= (one.valid_to or date.max)
        for one in rows
        if one.day_type == ALL_DAYS
        for other in others
        if other.day_type == ALL_DAYS
    )


def _ended(
    stored: Mapping[str, StoredTariff], rows: Sequence[TariffRow], *, but: frozenset[str]
) -> dict[str, tuple[TariffRow, ...]]:
    """Return the open tariffs of the same customers, ended on the day before the new rows begin."""
    begins: dict[tuple[str, str], date] = {}
    for row in rows:
        key = (row.region, row.customer_class)
        if row.day_type == ALL_DAYS:
            begins[key] = min(begins.get(key, row.valid_from), row.valid_from)
    found = {}
    for tariff_id, one in stored.items():
        ends = [
            begins[key]
            for row in one.rows
            if (key := (row.region, row.customer_class)) in begins
            and row.valid_from < begins[key] <= (row.valid_to or date.max)
        ]
        if tariff_id in but or not ends:
            continue
        end = min(ends) - timedelta(days=1)
        found[tariff_id] = tuple(
            replace(row, valid_to=min(row.valid_to or date.max, end)) for row in one.rows if row.valid_from <= end
        )
    return found


def _versioned(wanted: SheetPrice, before: SheetPrice | None, now: datetime) -> SheetPrice:
    version = 1 if before is None else before.energy.version + 1
    return SheetPrice(replace(wanted.energy, version=version, recorded_at=now), wanted.basic)


def _same(one: SheetPrice, other: SheetPrice) -> bool:
    return one.basic == other.basic and _figures(one.energy) == _figures(other.energy)


def _figures(price: EnergyPrice) -> tuple[object, ...]:
    return price.base_cny_per_kwh, price.fixed_cny_per_kwh, price.source


def _price(one: SheetPrice) -> dict[str, object]:
    key = one.energy.key
    return {
        "region": key.region,
        "customer_class": key.customer_class,
        "voltage": key.voltage,
        "month": f"{key.month:%Y-%m}",
        "version": one.energy.version,
        "base_cny_per_kwh": str(one.energy.base_cny_per_kwh),
        "fixed_cny_per_kwh": str(one.energy.fixed_cny_per_kwh),
        "basic": None if one.basic is None else _basic(one.basic),
    }


def _basic(basic: BasicPrices) -> dict[str, str | None]:
    return {
        name: None if (value := getattr(basic, name)) is None else str(value)
        for name in BasicPrices.__dataclass_fields__
    }


def _facts(revision: int, rows: Sequence[TariffRow]) -> dict[str, object]:
    return {
        "revision": revision,
        "rows": len(rows),
        "valid_from": min(row.valid_from for row in rows).isoformat(),
        "valid_to": max((row.valid_to or date.max) for row in rows).isoformat(),
        "sources": sorted({row.source for row in rows})[:20],
        "confidence": sorted({row.confidence for row in rows})[:20],
    }


def _days(one: SpecialDays) -> dict[str, object]:
    return {
        "version": one.version,
        "days": [day.isoformat() for day in sorted(one.days)],
        "known_until": one.known_until.isoformat(),
    }


def _unknown(tariff_id: str) -> UnknownTariff:
    return UnknownTariff(f"there is no tariff {tariff_id}", message_zh=f"电价方案 {tariff_id} 不存在")
