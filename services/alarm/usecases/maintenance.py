"""Maintenance windows: work is going on, so alarms are kept and not told, and plans do not switch."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.alarm import MaintenanceScope, MaintenanceWindow
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import JsonObject
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import DeviceId, SiteId, new_id
from libs.common.tokens import Principal
from services.alarm import bus
from services.alarm.store import maintenance as store
from services.alarm.store.maintenance import WindowFilter, WindowRow
from services.alarm.usecases.ports import Audit, Directory, actor_of


class InvalidWindow(InvalidInput):
    """A maintenance window is refused."""

    code = "invalid_window"
    title_zh = "维护窗口有误"


class UnknownWindow(NotFound):
    """There is no such window, or none that the asker may see."""

    code = "unknown_window"
    title_zh = "维护窗口不存在"


class WindowIsOver(Conflict):
    """The window has ended or was called off; history is not rewritten."""

    code = "window_is_over"
    title_zh = "维护窗口已结束"


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """What somebody wants a window to be."""

    site_id: str
    device_ids: Collection[str] | None
    """None: the whole site."""
    starts_at: datetime
    ends_at: datetime
    owner: str | None
    """Who answers for the work; None: who asks."""
    reason: str


class Maintenance:
    """Maintenance windows."""

    def __init__(
        self,
        *,
        db: Database,
        directory: Directory,
        clock: Clock,
        audit: Audit,
        longest: timedelta,
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where windows are.
            directory: The registry.
            clock: Our clock.
            audit: Publishes who changed what.
            longest: A window may last so long at most.
        """
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit
        self._longest = longest

    async def page(
        self, wanted: WindowFilter, who: Principal, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[WindowRow]:
        """Return windows that the asker may see, the latest begin first."""
        allowed = self._directory.sites_of(who)
        if allowed is not None:
            sites = allowed if wanted.sites is None else allowed.intersection(wanted.sites)
            wanted = replace(wanted, sites=sorted(sites))
        async with self._db.read() as conn:
            return await store.fetch_windows(conn, wanted, after=after, limit=limit)

    async def window(self, window_id: str, who: Principal) -> WindowRow:
        """Return a window.

        Raises:
            UnknownWindow: There is none, or none that the asker may see.
        """
        async with self._db.read() as conn:
            return self._visible(await store.fetch_window(conn, window_id), window_id, who)

    async def open(self, wanted: WindowRequest, who: Principal, request_id: str | None) -> WindowRow:
        """Set a new window up.

        Raises:
            InvalidWindow: Site, devices or times are wrong.
        """
        self._check(wanted, who, begun_at=None)
        now, actor = self._clock.now(), actor_of(who)
        row = WindowRow(
            window_id=new_id(),
            site_id=wanted.site_id,
            device_ids=None if wanted.device_ids is None else sorted(set(wanted.device_ids)),
            starts_at=wanted.starts_at,
            ends_at=wanted.ends_at,
            owner=wanted.owner or actor,
            reason=wanted.reason,
            created_by=actor,
            created_at=now,
            changed_by=actor,
            changed_at=now,
            called_off_at=None,
        )
        async with self._db.write() as conn:
            await self._store(conn, row, None, "maintenance_window.open", request_id)
        return row

    async def change(self, window_id: str, wanted: WindowRequest, who: Principal, request_id: str | None) -> WindowRow:
        """Change a window that is not over; its site stays.

        Raises:
            UnknownWindow: There is none, or none that the asker may see.
            WindowIsOver: It has ended or was called off.
            InvalidWindow: Site, devices or times are wrong.
        """
        async with self._db.write() as conn:
            before = self._open(self._visible(await store.fetch_window(conn, window_id, lock=True), window_id, who))
            if wanted.site_id != before.site_id:
                raise _invalid(
                    "site_id",
                    f"{before.site_id}, the site of the window; another site needs a window of its own",
                    f"{before.site_id}（窗口所属站点；其他站点请另建窗口）",
                    wanted.site_id,
                )
            self._check(wanted, who, begun_at=before.starts_at)
            row = replace(
                before,
                device_ids=None if wanted.device_ids is None else sorted(set(wanted.device_ids)),
                starts_at=wanted.starts_at,
                ends_at=wanted.ends_at,
                owner=wanted.owner or before.owner,
                reason=wanted.reason,
                changed_by=actor_of(who),
                changed_at=self._clock.now(),
            )
            await self._store(conn, row, before, "maintenance_window.change", request_id)
        return row

    async def call_off(self, window_id: str, who: Principal, request_id: str | None) -> WindowRow:
        """End a window now, or call it off before it begins.

        Raises:
            UnknownWindow: There is none, or none that the asker may see.
            WindowIsOver: It has ended or was called off.
        """
        async with self._db.write() as conn:
            before = self._open(self._visible(await store.fetch_window(conn, window_id, lock=True), window_id, who))
            now = self._clock.now()
            row = replace(before, called_off_at=now, changed_by=actor_of(who), changed_at=now)
            await self._store(conn, row, before, "maintenance_window.call_off", request_id)
        return row

    async def _store(
        self, conn: WriteConn, row: WindowRow, before: WindowRow | None, action: str, request_id: str | None
    ) -> None:
        await store.put_window(conn, row)
        window = _contract(row)
        message = bus.window_message if row.called_off_at is None else bus.window_tombstone
        await outbox.put(conn, [message(window, row.changed_at)])
        await self._audit(
            conn,
            AuditEvent(
                actor=row.changed_by,
                door="api",
                action=action,
                subject=f"maintenance_window:{row.window_id}",
                at=row.changed_at,
                before=None if before is None else _facts(before),
                after=_facts(row),
                reason=row.reason,
                request_id=request_id,
                site_id=SiteId(row.site_id),
            ),
        )

    def _check(self, wanted: WindowRequest, who: Principal, *, begun_at: datetime | None) -> None:
        """Refuse what makes no sense.

        Args:
            wanted: What is asked for.
            who: Who asks; a site outside their reach is one that does not exist.
            begun_at: When the window that is changed begins; what has begun may keep its begin.
        """
        allowed = self._directory.sites_of(who)
        if not self._directory.has_site(wanted.site_id) or (allowed is not None and wanted.site_id not in allowed):
            raise _invalid("site_id", "a site of the registry", "已登记的站点", wanted.site_id)
        if wanted.device_ids is not None:
            strangers = sorted(set(wanted.device_ids) - self._directory.devices_of(wanted.site_id))
            if strangers or not wanted.device_ids:
                raise _invalid(
                    "device_ids",
                    f"devices of {wanted.site_id}, or nothing for the whole site",
                    f"{wanted.site_id} 的设备；整站请留空",
                    ", ".join(strangers) or "[]",
                )
        if wanted.ends_at <= wanted.starts_at:
            raise _invalid("to", "a time after from", "晚于 from 的时间", wanted.ends_at.isoformat())
        if wanted.ends_at - wanted.starts_at > self._longest:
            hours = self._longest / timedelta(hours=1)
            raise _invalid(
                "to",
                f"at most {hours:g} h after from",
                f"距 from 不超过 {hours:g} 小时",
                wanted.ends_at.isoformat(),
            )
        now = self._clock.now()
        if wanted.ends_at <= now:
            raise _invalid(
                "to", f"a time in the future, after {now.isoformat()}", "将来的时间", wanted.ends_at.isoformat()
            )
        if wanted.starts_at < now - SLACK and wanted.starts_at != begun_at:
            raise _invalid(
                "from",
                "now or later: what was told cannot be taken back",
                "现在或将来：已通知的告警不能收回",
                wanted.starts_at.isoformat(),
            )

    def _open(self, row: WindowRow) -> WindowRow:
        if row.called_off_at is not None or row.ends_at <= self._clock.now():
            ended = row.called_off_at or row.ends_at
            raise WindowIsOver(
                f"window {row.window_id} ended at {ended.isoformat()}; open a new one",
                message_zh=f"维护窗口 {row.window_id} 已于 {ended.isoformat()} 结束，请新建窗口",
            )
        return row

    def _visible(self, row: WindowRow | None, window_id: str, who: Principal) -> WindowRow:
        allowed = self._directory.sites_of(who)
        if row is None or (allowed is not None and row.site_id not in allowed):
            raise UnknownWindow(
                f"there is no maintenance window {window_id}", message_zh=f"维护窗口 {window_id} 不存在"
            )
        return row


SLACK = timedelta(minutes=5)
"""A window "from now" may have been asked for by a clock that is a little behind."""


def _invalid(field: str, expected: str, expected_zh: str, found: str) -> InvalidWindow:
    return InvalidWindow(
        f"{field}: expected {expected}, found {found}",
        message_zh=f"{field}：应为{expected_zh}，实际为 {found}",
        problems=[{"field": field, "expected": expected, "expected_zh": expected_zh, "found": found}],
    )


def _contract(row: WindowRow) -> MaintenanceWindow:
    devices = None if row.device_ids is None else tuple(DeviceId(device_id) for device_id in row.device_ids)
    return MaintenanceWindow(
        window_id=row.window_id,
        scope=MaintenanceScope(site_id=SiteId(row.site_id), device_ids=devices),
        from_=row.starts_at,
        to=row.ends_at,
        owner=row.owner,
        reason=row.reason,
    )


def _facts(row: WindowRow) -> JsonObject:
    return {
        "site_id": row.site_id,
        "device_ids": None if row.device_ids is None else list(row.device_ids),
        "from": row.starts_at.isoformat(),
        "to": row.ends_at.isoformat(),
        "owner": row.owner,
        "reason": row.reason,
        "called_off_at": None if row.called_off_at is None else row.called_off_at.isoformat(),
    }
