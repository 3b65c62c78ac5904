"""Which commands have been taken up, and the last known power of meters that others read."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from libs.common.contracts.control import Command
from libs.common.db import Database
from libs.common.errors import Unavailable
from services.ingest.usecases.readings import Readings

LOOK_TIMEOUT_S = 1.0
LOOKED_UP_TOGETHER = 500
"""Devices whose latest reports are asked for at once."""
KEPT = timedelta(days=30)


class PgCommandStore:
    """The table ``executed_commands``."""

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

    async def forget(self, now: datetime) -> None:
        """Forget commands that are too old to come again."""
        async with self._db.write() as conn:
            await conn.execute("delete from executed_commands where accepted_at < $1", now - KEPT)


Latest = tuple[Mapping[str, float | None], datetime] | None
"""The points of a device's latest report, and when it was received."""


class PgLatest:
    """The latest reports of devices out of the history; implements ``LatestPower``.

    Whoever asks while another question is under way is asked for together with all others that came meanwhile: when
    thousands switch, their looks take one connection of the database, and not all of them.
    """

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._wanted: dict[str, asyncio.Future[Latest]] = {}
        """By device; not asked for yet."""
        self._waiting = 0
        self._asking: asyncio.Task[None] | None = None

    async def latest(self, device_id: str) -> Latest:
        """Return the points of a device's latest report; None when there is none or it cannot be known."""
        answer = self._wanted.get(device_id)
        if answer is None:
            answer = self._wanted[device_id] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="latest reports")
        self._waiting += 1
        try:
            return await asyncio.shield(answer)
        finally:
            self._waiting -= 1
            if not self._waiting and self._asking is not None:
                self._asking.cancel()  # nobody is there to hear it, or it is over anyway
                self._asking = None

    async def _ask(self) -> None:
        while self._wanted:
            some = dict(list(self._wanted.items())[:LOOKED_UP_TOGETHER])
            for device_id in some:
                del self._wanted[device_id]
            found: Mapping[str, Latest] = {}
            try:
                found = await self._look(list(some))
            finally:
                for device_id, answer in some.items():
                    answer.set_result(found.get(device_id))

    async def _look(self, device_ids: Sequence[str]) -> Mapping[str, Latest]:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                found = await self._readings.latest(sites=None, devices=device_ids, after=None, limit=len(device_ids))
        except (Unavailable, TimeoutError):
            return {}
        return {one.device_id: (one.points, one.received_at) for one in found}
