"""Wait for the database and bring the schemas up to date: the step of ``wattring up`` before anything works.

A program of its own, so that Alembic and SQLAlchemy take no memory while the suite runs; without something to do it
does not even load them. Prints a line per event; the last line of a failure begins with ``error: ``.
"""

import argparse
import asyncio
import sys
import time

from libs.common.db import NOT_REACHED, REFUSED, not_reached
from libs.common.errors import PlatformError
from libs.common.migrations import Revision, migrate, pending
from libs.common.settings import CommonSettings, load_common
from libs.suite.words import Words, words_for

PATIENCE = (0.05, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Waits between attempts to reach the database; the last one repeats. [s]"""
QUIET_S = 2.0
"""A database that answers within this is not worth a line. [s]"""


async def bring_up_to_date(settings: CommonSettings, words: Words) -> None:
    """Apply what is missing, however long the database stays away.

    Raises:
        PlatformError: There is no address, the address is refused for good, or a revision fails.
    """
    if settings.database.url is None:
        raise PlatformError("no database: set DATABASE_URL", message_zh="未配置数据库:请设置 DATABASE_URL")
    url = settings.database.url.get_secret_value()
    missing = await _patiently(url, words)
    if not missing:
        return
    print(words(f"updating the schemas: {len(missing)} changes", f"正在更新数据库结构:{len(missing)} 项"))  # noqa: T201
    # Embedded, no process of an older release is left beside us: all the way.
    await migrate(url, phase="post")


async def _patiently(url: str, words: Words) -> list[Revision]:
    began, said = time.monotonic(), ""
    for attempt in range(1_000_000_000):
        try:
            return await pending(url)
        except NOT_REACHED as exc:
            trouble = not_reached(url, exc)
            if isinstance(exc, REFUSED):
                raise trouble from exc
            if trouble.message != said and time.monotonic() - began > QUIET_S:
                said = trouble.message
                english, chinese = trouble.both
                print(words(f"waiting for the {english}", f"等待{chinese}"), flush=True)  # noqa: T201
        await asyncio.sleep(PATIENCE[min(attempt, len(PATIENCE) - 1)])
    raise AssertionError("unreachable")


def main() -> int:
    """Run as a program; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lang")
    words = words_for(parser.parse_args().lang)
    try:
        asyncio.run(bring_up_to_date(load_common(), words))
    except PlatformError as exc:
        print(f"error: {words(exc.message, exc.message_zh or exc.message)}")  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
