"""A process of Wattring: what a service is made of, and how one or six of them start, drain and stop.

The same services run embedded (six in one process) and distributed (one each).

*Start.* The listener opens first and answers 503 with reasons until the service can work, so that a database or a
broker that is away, a full disk or a folder that cannot be written is said clearly and waited for, not a crash. Each
service waits for its own dependencies; none waits for another's. What waiting cannot mend (an impossible setting, a
key that is missing, an address that is taken) is one line, and exit code 1.

*Run.* A worker that fails, or ends, ends the process with exit code 1; whoever supervises it starts it again, and the
state is in the database. A worker that is silent for too long makes ``/livez`` answer 503.

*Stop*, on SIGTERM or SIGINT: ``/readyz`` answers 503 and live streams are ended; workers are cancelled; then nothing
new is taken and requests under way are finished, all within ``drain_s``; then the resources are closed, the last
one first, and the bus, within ``CLOSE_S``. What is still there after that is named and left behind: no worker that
swallows its cancellation, no thread and no blocked loop holds the process longer. Exit code 0 when all went well.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from libs.common import metrics
from libs.common.clock import SystemClock
from libs.common.errors import InvalidFile, PlatformError
from libs.common.garbage import GarbageKeeper
from libs.common.health import Beat, Check, Health, Worker, flag_check, group_check, wait_beating
from libs.common.listening import CannotListen, Listener, PortTaken
from libs.common.log import setup_logging
from libs.common.serving import CLOSE_S, PartFailed, Platform, Service, StopIncomplete, serve, trouble_of
from libs.common.settings import CommonSettings, InvalidSettings, load_common, shown
from libs.common.tokens import KeyRing
from libs.common.tracing import FLUSH_S, setup_tracing, shutdown_tracing

__all__ = [
    "Beat",
    "Builder",
    "CannotListen",
    "Check",
    "Health",
    "Listener",
    "Platform",
    "PortTaken",
    "Service",
    "StopIncomplete",
    "Worker",
    "flag_check",
    "group_check",
    "listeners",
    "raise_file_limit",
    "run",
    "serve",
    "wait_beating",
]

logger = logging.getLogger(__name__)

THREADS_S = 1.0
"""A thread that still works when all else has stopped is waited for this long. [s]"""
MARGIN_S = 1.0
THREADS = "wattring-thread"

Builder = Callable[[Platform], Service]


def run(
    builders: Sequence[Builder], settings: CommonSettings | Callable[[], CommonSettings] = load_common, *, process: str
) -> int:
    """Run services until SIGTERM or SIGINT; the main of every process.

    Args:
        builders: Wire the services; called within the running loop.
        settings: The common settings, or what reads them: then an impossible one is a log line and ``os.EX_CONFIG``.
        process: What the process is called in logs, metrics and traces.

    Returns:
        The exit code: 0 after a clean stop, 1 after a failure that was logged, ``os.EX_CONFIG`` where starting again
        helps only after a person has changed a setting or a file.
    """
    try:
        common = settings() if callable(settings) else settings
    except InvalidSettings as exc:
        setup_logging(CommonSettings(), process)
        logger.critical("cannot run", extra={"reason": exc.both.english, "reason_zh": exc.both.chinese})
        return os.EX_CONFIG
    setup_logging(common, process)
    faulthandler.enable()
    setup_tracing(process)
    raise_file_limit()
    garbage = GarbageKeeper()
    garbage.begin()
    metrics.note_build(process, _release())
    logger.info("starting", extra={"version": _release(), "pid": os.getpid(), "settings": shown(common)})
    bound = _StopBound(common.drain_s + CLOSE_S + THREADS_S + FLUSH_S + MARGIN_S)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        garbage.later = runner.get_loop().call_soon_threadsafe
        code = runner.run(_guarded(builders, common, bound))
        garbage.end()
    shutdown_tracing()
    bound.lift()
    return code


def _release() -> str:
    try:
        return version("wattring-common")
    except PackageNotFoundError:  # not installed, run from a checkout
        return "0.0.0"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return None
    return uvloop.new_event_loop


async def _guarded(builders: Sequence[Builder], settings: CommonSettings, bound: "_StopBound") -> int:
    """Run to the end and return the exit code; leave at once what cannot be waited for."""
    threads = ThreadPoolExecutor(thread_name_prefix=THREADS)
    asyncio.get_running_loop().set_default_executor(threads)
    code = 0
    stuck = False
    try:
        await _main(builders, settings, bound)
    except* PartFailed:
        code = 1
    except* StopIncomplete as group:
        for problem in _leaves(group):
            logger.critical("left behind what did not stop", extra={"reason": str(problem)})
        code, stuck = 1, True
    except* (PlatformError, OSError) as group:
        for problem in _leaves(group):
            trouble = problem if isinstance(problem, PlatformError) else trouble_of(problem)
            if trouble is None:
                logger.critical("cannot run", exc_info=problem, extra={"reason": str(problem)})
            else:
                logger.critical("cannot run", extra={"reason": trouble.both.english, "reason_zh": trouble.both.chinese})
            if isinstance(problem, InvalidSettings | InvalidFile):
                code = os.EX_CONFIG
        code = code or 1
    except* Exception as group:
        for problem in _leaves(group):
            logger.critical("stopped by an unexpected error", exc_info=problem, extra={"reason": str(problem)})
        code = 1
    bound.start()
    if stuck:
        _leave(code)
    threads.shutdown(wait=False, cancel_futures=True)
    if not _threads_ended(THREADS_S):
        logger.warning("left without waiting for a thread that still worked")
        _leave(code)
    return code


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found


def _threads_ended(within_s: float) -> bool:
    """Return whether the threads of the loop's pool, which was shut down, have ended. [s]"""
    working = [thread for thread in threading.enumerate() if thread.name.startswith(f"{THREADS}_")]
    for thread in working:
        thread.join(within_s / len(working))
    return not any(thread.is_alive() for thread in working)


def _leave(code: int) -> None:
    """End the process now; the interpreter's own way out would wait for what does not end."""
    shutdown_tracing(0.5)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


class _StopBound:
    """Ends the process when stopping takes too long, even when the loop itself is blocked."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Begin to count; only the first call does."""
        if self._timer is None:
            self._timer = threading.Timer(self._limit_s, self._give_up)
            self._timer.daemon = True
            self._timer.start()

    def lift(self) -> None:
        """Stop counting: all has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self) -> None:
        main = threading.main_thread().ident
        frame = None if main is None else sys._current_frames().get(main)  # noqa: SLF001 - the documented way
        where = "" if frame is None else "".join(traceback.format_stack(frame)[-8:])
        logger.critical("stopping took too long", extra={"limit_s": self._limit_s, "main_thread": where})
        _leave(1)


async def _main(builders: Sequence[Builder], settings: CommonSettings, bound: _StopBound) -> None:
    from libs.common.bus import open_bus

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        bound.start()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    clock = SystemClock()
    platform = Platform(
        settings=settings,
        clock=clock,
        bus=open_bus(settings, clock),
        keys=KeyRing.open(settings.effective_keys_dir, clock),
    )
    services = [builder(platform) for builder in builders]
    await serve(services, platform, stop, listeners(services, settings), draining=bound.start)


def listeners(services: Sequence[Service], settings: CommonSettings) -> list[Listener]:
    """Return where each service listens.

    One service alone has the configured address: the socket ``uds`` if there is one, else host and port. Of several
    in one process the gateway has host and port, and each (the gateway too) has a Unix socket at its
    ``service_urls`` place, by which the others call it. The internal listener, if one is wanted, is that of the first
    service: metrics are the whole process's.
    """
    extra = [place for service in services for place in service.extra_listeners]
    if settings.internal_port is not None:
        place = Listener(
            services[0].app, host=settings.internal_host, port=settings.internal_port,
            setting="WATTRING_INTERNAL_PORT", internal=True,
        )  # fmt: skip
        extra.append(place)
    if len(services) == 1 and settings.uds is not None:
        return [Listener(services[0].app, uds=settings.uds), *extra]
    if len(services) == 1:
        return [Listener(services[0].app, host=settings.host, port=settings.port), *extra]
    found: list[Listener] = extra
    for service in services:
        url = settings.service_urls.get(service.name, "")
        if url.startswith("unix:"):
            found.append(Listener(service.app, uds=Path(url.removeprefix("unix:"))))
        if service.name == "gateway":
            found.append(Listener(service.app, host=settings.host, port=settings.port))
    return found


def raise_file_limit(wanted: int = 65_536) -> int:
    """Raise the soft limit of open files towards ``wanted``; return what holds now.

    Ten thousand dialled-in devices need as many descriptors, and the usual soft limit is 1,024.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return max(soft, target)
