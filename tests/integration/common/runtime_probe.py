"""A process of one small service, for tests that need real signals: ``runtime_probe.py <trait> …``.

Traits: ``fails``, ``ends``, ``swallows``, ``blocks``, ``silent`` (workers), ``thread`` (work left in a thread),
``tidy`` (a worker that takes a while to stop), ``full`` (a resource on a full disk), ``misnamed`` (a bad setting).
"""

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi.responses import StreamingResponse
from pydantic import SecretStr

from libs.common.errors import Conflict
from libs.common.runtime import Beat, Check, Health, Platform, Service, Worker, run
from libs.common.settings import SettingsModel, load_section
from libs.common.web import create_app

logger = logging.getLogger("probe")
TRAITS = set(sys.argv[1:])


class ProbeSettings(SettingsModel):
    """Section ``alarm``."""

    secret_key: SecretStr | None = None
    level: int = 1


@asynccontextmanager
async def thing(name: str) -> AsyncIterator[None]:
    logger.info("%s entered", name)
    yield
    logger.info("%s left", name)


class Full:
    """Cannot write before somebody has made room."""

    def __init__(self, room: Path) -> None:
        self._room = room

    async def __aenter__(self) -> None:
        target = self._room if self._room.exists() else Path("/dev/full")
        with target.open("wb") as file:
            file.write(b"x" * 10_000)

    async def __aexit__(self, *_: object) -> None:
        pass


async def beating(beat: Beat) -> None:
    while True:
        beat()
        await asyncio.sleep(0.1)


async def tidy(beat: Beat) -> None:
    try:
        await beating(beat)
    finally:
        logger.info("tidying")
        await asyncio.sleep(1.0)


async def fails(beat: Beat) -> None:
    beat()
    raise Conflict("the state is wrong", message_zh="状态有误")


async def ends(beat: Beat) -> None:
    beat()


async def swallows(beat: Beat) -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await beating(beat)


async def blocks(beat: Beat) -> None:
    try:
        await beating(beat)
    finally:
        time.sleep(600)  # noqa: ASYNC251 - the point of the test


async def silent(beat: Beat) -> None:
    beat()
    await asyncio.Event().wait()


async def in_thread(beat: Beat) -> None:
    await asyncio.to_thread(time.sleep, 600)


def build(platform: Platform) -> Service:
    load_section("alarm", ProbeSettings)
    health = Health(platform.clock)
    db = platform.database("alarm")
    app = create_app("alarm", platform, health, title="probe")

    @app.get("/api/v1/slow")
    async def slow() -> dict[str, int]:
        logger.info("slow began")
        await asyncio.sleep(1.0)
        async with db.read() as conn:
            return {"answer": await conn.fetchval("select 42")}

    @app.get("/api/v1/stream")
    async def stream() -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            yield b"data: first\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(events(), media_type="text/event-stream")

    kinds = {"fails": fails, "ends": ends, "swallows": swallows, "blocks": blocks, "thread": in_thread, "tidy": tidy}
    workers = [Worker("steady", beating)] + [Worker(name, body) for name, body in kinds.items() if name in TRAITS]
    if "silent" in TRAITS:
        workers.append(Worker("silent", silent, max_silence_s=0.2))
    full = [Full(platform.settings.data_dir / "room")] if "full" in TRAITS else []
    return Service(
        name="alarm",
        app=app,
        health=health,
        resources=[db, thing("lower"), *full, thing("upper")],
        workers=workers,
        checks=[Check("database", db.check), Check("bus", platform.bus.check)],
    )


if __name__ == "__main__":
    sys.exit(run([build], process="probe"))
