"""Which commands have been taken up, and the last known power of meters that others read."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from libs.common.bus import outbox
from libs.common.bus.port import Message
from libs.common.contracts.control import Command
from libs.common.db import Database
from libs.common.errors import Unavailable
from services.ingest.usecases.readings import Readings

LOOK_TIMEOUT_S = 1.0
KEPT = timedelta(days=30)


class PgCommandStore:
    """The table ``executed_commands`` and the outbox."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def record(self, commands: Sequence[tuple[Command, int]], *, instance: str, at: datetime) -> set[str]:
        """Note commands with the epoch of their line's lease, and return the ids that nobody had noted before.

        Raises:
            DatabaseUnavailable: Nothing was noted.
        """
        async with asyncio.timeout(LOOK_TIMEOUT_S * 2), self._db.write() as conn:
            rows = await conn.fetch(
                """
                insert into executed_commands
                       (command_id, device_id, line_id, site_id, action, epoch, instance, accepted_at)
                select *, $7::text, $8::timestamptz
                  from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
                on conflict (command_id) do nothing
                returning command_id
                """,
                [command.command_id for command, _ in commands],
                [command.device_id for command, _ in commands],
                [command.line_id for command, _ in commands],
                [command.site_id for command, _ in commands],
                [command.action.value for command, _ in commands],
                [epoch for _, epoch in commands],
                instance,
                at,
            )
        return {row["command_id"] for row in rows}

    async def publish(self, messages: Sequence[Message]) -> None:
        """Put results into the outbox.

        Raises:
            DatabaseUnavailable: They are not there.
        """
        async with asyncio.timeout(LOOK_TIMEOUT_S * 2), self._db.write() as conn:
            await outbox.put(conn, messages)

    async def forget(self, now: datetime) -> None:
        """Forget commands that are too old to come again."""
        async with self._db.write() as conn:
            await conn.execute("delete from executed_commands where accepted_at < $1", now - KEPT)


class PgLatestPower:
    """The latest report of a meter out of the history; implements ``LatestPower``."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    async def latest(self, device_id: str) -> tuple[Mapping[str, float | None], datetime] | None:
        """Return the points of a device's latest report; None when there is none or it cannot be known."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                found = await self._readings.latest(sites=None, devices=[device_id], after=None, limit=1)
        except (Unavailable, TimeoutError):
            return None
        return (found[0].points, found[0].received_at) if found else None
