"""What a container runs before its service: ``python -m libs.common.prepare [--phase post] [schema …]``.

Brings the schemas up to date on the database of the settings (which here names a user who may create roles), then
creates the topics that are missing when a Kafka is named. Where topics are made by others, leave Kafka unnamed.

With ``--if-reachable`` an absent database or broker is said and left at that: a service with work that needs neither
(ingest wakes loads) must not be held up by them, and waits for its schema by itself (``SchemaGate``).
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

import asyncpg

from libs.common.bus import open_bus, topics
from libs.common.clock import SystemClock
from libs.common.db import REFUSED, not_reached
from libs.common.errors import PlatformError, Unavailable
from libs.common.log import setup_logging
from libs.common.migrations import Phase, migrate
from libs.common.settings import CommonSettings, InvalidSettings, load_common

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0


async def prepare(settings: CommonSettings, schemas: Sequence[str] | None, phase: Phase) -> None:
    """Bring schemas up to date and create missing topics.

    Raises:
        PlatformError: No database is named, it cannot be reached, a revision fails, the broker does not answer.
        OSError: Something else of the system's.
    """
    if settings.database.url is None:
        raise PlatformError("no database: set DATABASE_URL", message_zh="未配置数据库:请设置 DATABASE_URL")
    url = settings.database.url.get_secret_value()
    try:
        await migrate(url, schemas, phase=phase)
    except (*REFUSED, OSError, asyncpg.PostgresError) as exc:
        away = not_reached(url, exc)
        if isinstance(exc, OSError):
            raise away from exc
        raise PlatformError(away.message, message_zh=away.message_zh) from exc  # it is there, and will not let us
    if settings.bus.effective_kind == "kafka":
        bus = open_bus(settings, SystemClock())
        try:
            await bus.start()
            await bus.ensure_topics(topics.specs(settings.bus))
        finally:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await bus.stop()


def main() -> int:
    """Run as a program; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m libs.common.prepare", description=__doc__)
    parser.add_argument("--phase", choices=("pre", "post"), default="pre")
    parser.add_argument("--if-reachable", action="store_true", help="an absent database or broker is no error")
    parser.add_argument("schemas", nargs="*", help="default: the bus and every installed service")
    arguments = parser.parse_args()
    try:
        settings = load_common()
    except InvalidSettings as exc:
        sys.stderr.write(f"{exc}\n")  # how to log is among the settings
        return 1
    setup_logging(settings, "prepare")
    try:
        asyncio.run(prepare(settings, arguments.schemas or None, arguments.phase))
    except (PlatformError, OSError) as exc:
        reason = str(exc) or type(exc).__name__
        if arguments.if_reachable and isinstance(exc, Unavailable | OSError):
            logger.error("left unprepared", extra={"reason": reason})
            return 0
        logger.critical("cannot prepare", extra={"reason": reason})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
