"""Outages that people record, so that their days are no measure of what is usual."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from libs.common.clock import Clock
from libs.common.contracts.base import JsonObject
from libs.common.db import Database
from libs.common.errors import Conflict, NotFound
from libs.common.ids import CircuitId, SiteId, new_id
from libs.common.tokens import Principal
from services.carbon.domain.savings.shutdowns.outages import Outage
from services.carbon.store import outages as store
from services.carbon.usecases.ports import Audit, audit_event


class UnknownOutage(NotFound):
    """There is no such outage."""

    code = "unknown_outage"
    title_zh = "停电记录不存在"


class Outages:
    """Records and withdraws outages."""

    def __init__(self, *, db: Database, clock: Clock, audit: Audit) -> None:
        self._db = db
        self._clock = clock
        self._audit = audit

    async def record(
        self,
        *,
        site: SiteId,
        circuit: CircuitId | None,
        began_at: datetime,
        ended_at: datetime,
        reason: str,
        who: Principal,
    ) -> Outage:
        """Record an outage.

        Raises:
            InvalidInput: It has no length.
        """
        one = Outage(
            outage_id=new_id(),
            site_id=site,
            circuit_id=circuit,
            began_at=began_at,
            ended_at=ended_at,
            reason=reason,
            recorded_by=who.actor,
            recorded_at=self._clock.now(),
        )
        async with self._db.write() as conn:
            await store.add_outage(conn, one)
            event = audit_event(
                who, "outage.record", f"outage:{one.outage_id}", one.recorded_at, after=_said(one), site_id=site
            )
            await self._audit(conn, event)
        return one

    async def withdraw(self, outage_id: str, who: Principal) -> Outage:
        """Withdraw an outage that was recorded by mistake.

        Raises:
            UnknownOutage: There is none.
            Conflict: It is withdrawn already.
        """
        async with self._db.write() as conn:
            known = await store.fetch_outage(conn, outage_id)
            if known is None:
                raise UnknownOutage(f"no outage {outage_id}", message_zh=f"没有停电记录 {outage_id}")
            one = await store.withdraw_outage(conn, outage_id, who.actor, self._clock.now())
            if one is None:
                raise Conflict(
                    f"outage {outage_id} was withdrawn by {known.withdrawn_by} already",
                    message_zh=f"停电记录 {outage_id} 已由 {known.withdrawn_by} 撤销",
                )
            event = audit_event(
                who,
                "outage.withdraw",
                f"outage:{outage_id}",
                self._clock.now(),
                before=_said(known),
                after=_said(one),
                site_id=one.site_id,
            )
            await self._audit(conn, event)
        return one

    async def get(self, outage_id: str) -> Outage:
        """Return an outage.

        Raises:
            UnknownOutage: There is none.
        """
        async with self._db.read() as conn:
            found = await store.fetch_outage(conn, outage_id)
        if found is None:
            raise UnknownOutage(f"no outage {outage_id}", message_zh=f"没有停电记录 {outage_id}")
        return found

    async def of_site(self, site: SiteId, start: datetime, end: datetime) -> Sequence[Outage]:
        """Return the outages of a site that touch ``[start, end)`` and were not withdrawn."""
        async with self._db.read() as conn:
            return await store.fetch_outages(conn, [site], start, end)


def _said(one: Outage) -> JsonObject:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(one).items()}
