"""Tables of device events and of energy rules: what holds, and how people change it."""

from datetime import datetime

from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.db import Database, WriteConn
from libs.common.errors import Forbidden, NotFound
from libs.common.ids import SiteId
from libs.common.tokens import Principal
from services.alarm.domain.energy import EnergyScope
from services.alarm.domain.rulebook import Fault
from services.alarm.rulerows import Kept, Place, R, Row, Table, definition_of, merged
from services.alarm.store import rulebook as rulebook_store
from services.alarm.store import rulerows as rows_store
from services.alarm.usecases.ports import Audit, Circuits, Directory, actor_of
from services.alarm.usecases.rules import InvalidRule


class RuleRows:
    """Reads and changes both tables."""

    def __init__(self, *, db: Database, directory: Directory, circuits: Circuits, clock: Clock, audit: Audit) -> None:
        """Keep what is needed."""
        self._db = db
        self._directory = directory
        self._circuits = circuits
        self._clock = clock
        self._audit = audit

    async def rows(self, table: Table[R]) -> list[Kept[R]]:
        """Return the rows that hold, shipped ones and those of people, in order of their ids."""
        async with self._db.read() as conn:
            return merged(table.shipped(), await rows_store.fetch_rows(conn, table))

    async def put(
        self, table: Table[R], place: Place, row: R, who: Principal, *, reason: str | None, request_id: str | None
    ) -> Kept[R]:
        """Write a row in place of the one that stands there.

        Raises:
            InvalidRule: The signal does not exist, or there is nothing that the scope names.
            Forbidden: The asker may not change that much.
        """
        site_id = self._site_of(place)
        self._may_change(place, site_id, who)
        async with self._db.write() as conn:
            faults = self._scope_faults(place, site_id)
            signals = await rulebook_store.fetch_signals(conn)
            if row.signal is not None and row.signal not in signals:
                faults.append(Fault("signal", "the code of a signal of the table", "信号表中的信号编码", row.signal))
            if faults:
                raise InvalidRule(faults)
            before = await self._standing(conn, table, place)
            version = await rulebook_store.next_book_version(conn)
            actor, now = actor_of(who), self._clock.now()
            await rows_store.put_row(
                conn, table.kind, place, definition_of(row), version=version, changed_by=actor, changed_at=now,
                reason=reason,
            )  # fmt: skip
            await self._audit(conn, _changed(table.kind, place, before, row, actor, now, reason, request_id, site_id))
        return Kept(place, row, version, actor)

    async def remove(
        self, table: Table[R], place: Place, who: Principal, *, reason: str | None, request_id: str | None
    ) -> None:
        """Take a row out, a shipped one too; alarms that it raised and that stand end with ``rule_changed``.

        Raises:
            NotFound: There is no such row.
            Forbidden: The asker may not change that much.
        """
        site_id = self._site_of(place)
        self._may_change(place, site_id, who)
        async with self._db.write() as conn:
            before = await self._standing(conn, table, place)
            if before is None:
                where = f"{place.rule_id} {place.scope} {place.scope_id}".strip()
                raise NotFound(f"there is no rule {where}", message_zh=f"规则 {where} 不存在")
            version = await rulebook_store.next_book_version(conn)
            actor, now = actor_of(who), self._clock.now()
            await rows_store.put_row(
                conn, table.kind, place, None, version=version, changed_by=actor, changed_at=now, reason=reason
            )
            await self._audit(conn, _changed(table.kind, place, before, None, actor, now, reason, request_id, site_id))

    async def _standing(self, conn: WriteConn, table: Table[R], place: Place) -> R | None:
        rows = merged(table.shipped(), await rows_store.fetch_rows(conn, table))
        return next((kept.row for kept in rows if kept.place == place), None)

    def _site_of(self, place: Place) -> str | None:
        if place.scope is EnergyScope.SITE:
            return place.scope_id
        if place.scope is EnergyScope.CIRCUIT:
            circuit = self._circuits.circuit(place.scope_id)
            return None if circuit is None else circuit.site_id
        return None

    def _scope_faults(self, place: Place, site_id: str | None) -> list[Fault]:
        if place.scope is EnergyScope.SITE and not self._directory.has_site(place.scope_id):
            return [Fault("scope_id", "the id of a site", "局站标识", place.scope_id)]
        if place.scope is EnergyScope.CIRCUIT and site_id is None:
            return [Fault("scope_id", "the id of a circuit", "回路标识", place.scope_id)]
        return []

    def _may_change(self, place: Place, site_id: str | None, who: Principal) -> None:
        allowed = self._directory.sites_of(who)
        if allowed is not None and (site_id is None or site_id not in allowed):
            raise Forbidden(
                f"{who.subject} may not change rules of {place.scope} {place.scope_id}".rstrip(),
                message_zh=f"{who.subject} 无权修改 {place.scope} {place.scope_id} 的规则",
            )


def _changed(
    kind: str,
    place: Place,
    before: Row | None,
    after: Row | None,
    actor: str,
    at: datetime,
    reason: str | None,
    request_id: str | None,
    site_id: str | None,
) -> AuditEvent:
    return AuditEvent(
        actor=actor,
        door="api",
        action=f"alarm_rule.{'remove' if after is None else 'put'}_{kind}",
        subject=f"alarm_rule:{place.rule_id}/{place.scope}:{place.scope_id}",
        at=at,
        before=None if before is None else definition_of(before),
        after=None if after is None else definition_of(after),
        reason=reason,
        request_id=request_id,
        site_id=None if site_id is None else SiteId(site_id),
    )
