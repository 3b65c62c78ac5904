"""A process that moves one day to files and is killed, by SIGKILL, at the step that it is told.

python cold_mover.py DATABASE_URL FOLDER DAY STEP
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from libs.common.clock import SystemClock
from libs.common.db import Database, WriteConn
from libs.common.settings import DatabaseSettings
from services.ingest.store import days, history
from services.ingest.store.coldfiles import LocalFiles
from services.ingest.usecases.cooling import Cooling

STEPS = (
    "written but not in place",
    "in place but not read back",
    "read back",
    "files noted",
    "partition dropped but not committed",
    "committed",
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Mover(LocalFiles):
    """Dies around ``put``."""

    def __init__(self, root: Path, step: str) -> None:
        super().__init__(root)
        self._step = step

    def put(self, name: str, write: Callable[[Path], None]) -> Any:
        def write_and_die(path: Path) -> None:
            write(path)
            if self._step == "written but not in place":
                die()

        written = super().put(name, write_and_die)
        if self._step == "in place but not read back":
            die()
        return written


async def main(url: str, folder: str, day: str, step: str) -> None:
    lock, drop = days.lock_version, history.drop_partition

    async def lock_version(conn: WriteConn, day: date) -> int:
        if step == "read back":
            die()
        return await lock(conn, day)

    async def drop_partition(conn: WriteConn, day: date) -> None:
        if step == "files noted":
            die()
        await drop(conn, day)
        if step == "partition dropped but not committed":
            die()

    days.lock_version, history.drop_partition = lock_version, drop_partition
    db = Database(DatabaseSettings(url=url), schema="ingest", role="wattring_ingest")
    await db.open()

    async def progress(done: int) -> None:
        """Nobody asks."""

    await Cooling(db=db, files=Mover(Path(folder), step), clock=SystemClock()).cool(date.fromisoformat(day), progress)
    if step == "committed":
        die()
    await db.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
