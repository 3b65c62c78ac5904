"""The watchdog as a process: ``python -m services.control.watchdog``.

It needs its file, ingest's direct door and its key, and nothing else: neither the bus nor the database.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from libs.common.backoff import Backoff
from libs.common.clock import Clock, SystemClock
from libs.common.errors import PlatformError
from libs.common.log import setup_logging
from libs.common.settings import CommonSettings, InvalidSettings, load_common, load_section
from libs.common.tokens import KeyRing
from services.control.watchdog.calls import Calls
from services.control.watchdog.engine import Watchdog
from services.control.watchdog.journal import Journal
from services.control.watchdog.listener import Routes, listening
from services.control.watchdog.settings import WatchdogSettings

logger = logging.getLogger(__name__)

STUCK_AFTER_S = 60.0
"""A loop that has made no turn for this long does not come back by itself. [s]"""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def main() -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    try:
        common = load_common()
    except InvalidSettings as exc:
        setup_logging(CommonSettings(), "watchdog")
        return _cannot_run(exc)
    setup_logging(common, "watchdog")
    try:
        settings = load_section("watchdog", WatchdogSettings)
        asyncio.run(run(common, settings, SystemClock()))
    except PlatformError as exc:
        return _cannot_run(exc)
    return 0


def _cannot_run(exc: PlatformError) -> int:
    """Say why, and return the exit code."""
    logger.critical("cannot run", extra={"reason": exc.both.english, "reason_zh": exc.both.chinese})
    return os.EX_CONFIG if isinstance(exc, InvalidSettings) else 1


async def run(common: CommonSettings, settings: WatchdogSettings, clock: Clock) -> None:
    """Look and wake until the process is asked to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    keys = KeyRing.open(common.effective_keys_dir, clock)
    journal = Journal(settings.file or common.data_dir / "watchdog" / "leases.journal")
    await _open(journal, clock)
    ingest = common.service_urls.get("ingest")
    calls = Calls(settings.doors or ((ingest,) if ingest else ()), common.service_urls.get("control"), keys,
                  call_url=settings.call_url, body=settings.call_body)  # fmt: skip
    watchdog = Watchdog(journal=journal, reach=calls, clock=clock, boot=_boot_id(), settings=settings)
    turned_at = clock.monotonic()

    async def watch() -> None:
        nonlocal turned_at
        async with asyncio.TaskGroup() as group:
            while True:
                await watchdog.turn(group)
                turned_at = clock.monotonic()
                await clock.sleep(settings.look_every_s)

    routes = Routes(
        watchdog, keys, version=_version(), stuck_for_s=lambda: clock.monotonic() - turned_at,
        stuck_after_s=STUCK_AFTER_S,
    )  # fmt: skip
    answer = routes.answer if common.uds is None else routes.answer_inside
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(calls)
        await stack.enter_async_context(listening(answer, host=common.host, port=common.port, uds=common.uds))
        if common.internal_port is not None:
            monitoring = listening(routes.answer_monitoring, host=common.internal_host, port=common.internal_port)
            try:
                await stack.enter_async_context(monitoring)
            except OSError as exc:  # loads are woken without it
                logger.error("no internal listener", extra={"reason": str(exc), "setting": "WATTRING_INTERNAL_PORT"})
        logger.info("watching", extra={"leases": len(journal.book.leases), "complete": journal.book.is_complete})
        watching = asyncio.create_task(watch(), name="watch")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait([watching, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, stopping):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching  # a failure of ours ends the process, and whoever keeps it starts it again
    journal.close()
    logger.info("stopped")


async def _open(journal: Journal, clock: Clock) -> None:
    """Open the journal, patiently: a disk that is full now may not be in a minute."""
    backoff = Backoff(first_s=0.5, cap_s=10.0)
    while True:
        try:
            journal.open()
        except OSError as exc:
            logger.error("cannot open the journal", extra={"reason": str(exc)})
            await clock.sleep(backoff.next_s())
        else:
            return


def _boot_id() -> str:
    """Return which run of the kernel this is; the monotonic clock counts within it."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _version() -> str:
    try:
        return installed("wattring-control")
    except PackageNotFoundError:
        return "0.0.0"


if __name__ == "__main__":
    sys.exit(main())
