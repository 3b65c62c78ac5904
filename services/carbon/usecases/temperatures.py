"""Outdoor temperatures that people enter or import: daily means of a site or a region."""

from collections.abc import Mapping, Sequence
from datetime import date

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.tokens import Principal
from services.carbon.store import temperatures as store
from services.carbon.usecases.ports import Audit, audit_event


class OutdoorTemperatures:
    """Keeps daily means."""

    def __init__(self, *, db: Database, clock: Clock, audit: Audit) -> None:
        self._db = db
        self._clock = clock
        self._audit = audit

    async def put(self, place: str, days: Mapping[date, float], *, source: str, who: Principal) -> int:
        """Store daily means [°C] of a place; returns how many days are new or say something else than before."""
        now = self._clock.now()
        async with self._db.write() as conn:
            changed = await store.put_temperatures(conn, place, days, source=source, by=who.actor, at=now)
            if changed:
                said = {
                    "days": changed,
                    "first": min(days).isoformat(),
                    "last": max(days).isoformat(),
                    "source": source,
                }
                event = audit_event(who, "outdoor_temperature.put", f"place:{place}", now, after=said)
                await self._audit(conn, event)
        return changed

    async def of_place(self, place: str, start: date, end: date) -> Sequence[tuple[str, date, float, str]]:
        """Return (place, day, mean [°C], source) of the civil days ``[start, end)``."""
        async with self._db.read() as conn:
            return await store.fetch_temperatures(conn, [place], start, end)
