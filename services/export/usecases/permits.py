"""What people say a centre may order: in versions, each with its source, each audited."""

from collections.abc import Callable

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from services.export import bus
from services.export.domain.permits import OrderKind, Permits
from services.export.orders import permits as permit_store
from services.export.orders.permits import PermitsRow
from services.export.store import connections as connection_store
from services.export.usecases.administration import Actor


class PermitAdministration:
    """Changes of permits."""

    def __init__(self, *, db: Database, clock: Clock, changed: Callable[[], None]) -> None:
        """Keep what is needed; ``changed`` is called after every commit."""
        self._db = db
        self._clock = clock
        self._changed = changed

    async def put(self, connection_id: str, permits: Permits, source: str, actor: Actor) -> PermitsRow:
        """Set what a centre may order, as a new version; it holds from the next order on.

        Raises:
            NotFound: There is no such connection.
            InvalidInput: OFFs are permitted without an end, or a value means both OFF and ON.
        """
        _check(permits)
        now = self._clock.now()
        async with self._db.write() as conn:
            if not await permit_store.lock_connection(conn, connection_id):
                raise _no_connection(connection_id)
            before = await permit_store.fetch_current(conn, connection_id)
            row = await permit_store.insert(
                conn, connection_id, permits, source=source, changed_by=actor.name, changed_at=now
            )
            audited = bus.change_audited(
                actor.name, "sc_permits.put", f"sc_connection:{connection_id}", after=permits.as_json(),
                before=before.as_json(), reason=source, request_id=actor.request_id, at=now,
            )  # fmt: skip
            await outbox.put(conn, [audited])
        self._changed()
        return row

    async def versions(self, connection_id: str, limit: int) -> list[PermitsRow]:
        """Return the versions of a centre's permits, the youngest first; none: it may order nothing.

        Raises:
            NotFound: There is no such connection.
        """
        async with self._db.read() as conn:
            if await connection_store.fetch_connection(conn, connection_id) is None:
                raise _no_connection(connection_id)
            return await permit_store.fetch_versions(conn, connection_id, limit)


def _check(permits: Permits) -> None:
    if OrderKind.SWITCH_OFF in permits.kinds and permits.off_at_most_s is None:
        raise InvalidInput(
            "off_at_most_s: every OFF of a centre ends by itself; say after how long at most",
            message_zh="off_at_most_s:监控中心的分闸命令必须限时,请给出最长关断时长",
            field="off_at_most_s",
        )
    for number, rule in enumerate(permits.points):
        if rule.off_value is not None and rule.off_value == rule.on_value:
            raise InvalidInput(
                f"points[{number}]: {rule.off_value:g} cannot mean both OFF and ON",
                message_zh=f"points[{number}]:{rule.off_value:g} 不能同时表示分闸和合闸",
                field=f"points[{number}].off_value",
            )


def _no_connection(connection_id: str) -> NotFound:
    return NotFound(f"no SC connection {connection_id}", message_zh=f"没有SC连接 {connection_id}")
