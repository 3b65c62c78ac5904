"""One or several services from start to stop: what they are made of, and in which order it comes and goes.

*Start.* The listeners open first. Each service waits for its own dependencies, after the bus; none waits for
another's. What is away (``Unavailable``), a full disk or a folder that cannot be written is said once per reason,
shown on ``/readyz`` and waited for.

*Stop.* The order is: readiness off and live streams ended; workers cancelled; no new requests, those under way
finished; resources closed, the last one first; the bus. The first three share ``drain_s``, the rest ``CLOSE_S``.
What does not end in its time is named and left.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncContextDecorator, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI

from libs.common.bus.port import Bus
from libs.common.bus.risks import RiskWatch
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Bilingual, PlatformError, Unavailable
from libs.common.health import Check, Health, Worker, disk_check
from libs.common.listening import Listener, Serving
from libs.common.log import log_context
from libs.common.settings import SERVICES, CommonSettings
from libs.common.tokens import KeyRing

logger = logging.getLogger(__name__)

RETRY_START_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between attempts to reach a dependency at start; the last one repeats. [s]"""
WORKERS_SHARE = 0.7
"""The part of ``drain_s`` that workers have; requests under way have the rest, or more when workers need less."""
CLOSE_S = 5.0
"""All resources and the bus are closed within this. [s]"""
CLOSE_EACH_S = 2.0
"""One resource that does not close within this does not hold up those below it. [s]"""


@dataclass(frozen=True)
class Platform:
    """What a process gives to the services in it."""

    settings: CommonSettings
    clock: Clock
    bus: Bus
    keys: KeyRing

    def database(self, schema: str) -> Database:
        """Return the pool of one service, limited to its schema; it opens with the service."""
        return Database(self.settings.database, schema=schema, role=f"wattring_{schema}")


@dataclass
class Service:
    """One service, wired and not yet started."""

    name: str
    app: FastAPI
    health: Health
    workers: Sequence[Worker] = ()
    independent: Sequence[Worker] = ()
    """Run from the first moment, before the dependencies are reached, because they need none of them."""
    resources: Sequence[Database | AbstractAsyncContextManager[Any]] = ()
    """Entered in order before the workers start; one that raises ``Unavailable`` is entered again until it does not."""
    checks: Sequence[Check] = ()
    extra_listeners: Sequence[Listener] = ()
    """Ports of its own besides the API, such as the B interface that supervision centres call."""

    def __post_init__(self) -> None:
        names = [worker.name for worker in (*self.workers, *self.independent)]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: two workers of one name would beat for each other: {sorted(names)}")


class StopIncomplete(PlatformError):
    """Something did not stop in time and was left running."""

    code = "stop_incomplete"
    title_zh = "停止超时"


class PartFailed(Exception):
    """A worker, a resource or a listener failed, which was logged; ``__cause__`` says how."""


async def serve(
    services: Sequence[Service],
    platform: Platform,
    stop: asyncio.Event,
    places: Sequence[Listener],
    *,
    draining: Callable[[], None] | None = None,
) -> None:
    """Run wired services until ``stop`` is set or a part of them fails; either way stop all of it in order.

    Args:
        services: What to run.
        platform: What they were wired with.
        stop: Ends it.
        places: Where their applications are served.
        draining: Called when stopping begins, for whatever reason.

    Raises:
        CannotListen: An address cannot be had; nothing was started.
        ExceptionGroup: What a worker, a resource or a listener failed with; each was logged.
        StopIncomplete: Something did not stop in time, was named and left running.
    """
    servers: list[Serving] = []
    try:
        for place in places:
            servers.append(await Serving.start(place))
    except BaseException:
        await asyncio.gather(*(server.stop(0.0) for server in servers))
        raise
    await _Run(services, platform, servers).until(stop, draining)


class _Run:
    """One run of services: who works, who holds resources, and in which order they go."""

    def __init__(self, services: Sequence[Service], platform: Platform, servers: Sequence[Serving]) -> None:
        self._services = services
        self._platform = platform
        self._servers = servers
        self._workers: set[asyncio.Task[None]] = set()
        self._started: set[str] = set()
        self._bus_reached = asyncio.Event()
        self._release_resources = asyncio.Event()
        self._release_bus = asyncio.Event()
        self._over = asyncio.Event()
        self._draining = False
        self._failures: list[Exception] = []

    async def until(self, stop: asyncio.Event, draining: Callable[[], None] | None) -> None:
        """Run until ``stop`` or a failure, then stop all."""
        for server in self._servers:
            server.task.add_done_callback(partial(self._ended, "a listener", {}))
        bus = self._spawn(self._hold_bus(), "the bus", {})
        holders = {service.name: self._spawn(self._hold(service), "a service", {"service": service.name})
                   for service in self._services}  # fmt: skip
        for service in self._services:
            self._work(service, service.independent)
        asked = asyncio.create_task(self._follow(stop), name="stop")
        try:
            await self._over.wait()
        finally:
            asked.cancel()
            if draining is not None:
                draining()
            left = await self._drain(bus, holders)
        if left:
            raise StopIncomplete(
                f"still running: {', '.join(sorted(left))}", message_zh=f"仍在运行:{', '.join(sorted(left))}"
            )
        if self._failures:
            raise ExceptionGroup("a part of the process failed", self._failures)
        logger.info("stopped")

    async def _follow(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._over.set()

    # -- start ------------------------------------------------------------------------------------

    async def _hold_bus(self) -> None:
        bus, clock = self._platform.bus, self._platform.clock
        try:
            await _patiently(self._services, "bus", bus.start, clock)
            self._bus_reached.set()
            await self._release_bus.wait()
        finally:
            await _bounded(bus.stop, "bus")

    async def _hold(self, service: Service) -> None:
        """Reach a service's dependencies, start its workers, and close the resources when all workers have ended."""
        clock = self._platform.clock
        async with AsyncExitStack() as stack:
            await self._bus_reached.wait()
            for resource in service.resources:
                if isinstance(resource, Database):
                    await _patiently([service], "database", resource.open, clock)
                    stack.push_async_callback(_bounded, resource.close, f"database of {service.name}")
                else:
                    entry = _Entry(resource)
                    await _patiently([service], "resource", entry.enter, clock)
                    stack.push_async_callback(_bounded, entry.leave, f"{type(resource).__name__} of {service.name}")
            self._started.add(service.name)
            service.health.checks = (*service.checks, disk_check(self._platform.settings.data_dir))
            self._work(service, service.workers)
            if service.name in SERVICES:
                watch = RiskWatch(self._platform.bus, clock, service.name)
                self._work(service, [Worker("bus-risks", watch.run)])
            service.health.starting = None
            logger.info("service started", extra={"service": service.name})
            await self._release_resources.wait()

    def _work(self, service: Service, workers: Iterable[Worker]) -> None:
        for worker in workers:
            facts = {"service": service.name, "worker": worker.name}
            self._workers.add(self._spawn(_run_worker(service, worker), "a worker", facts))

    def _spawn(self, work: Coroutine[Any, Any, None], what: str, facts: dict[str, str]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=" ".join(facts.values()) or what)
        task.add_done_callback(partial(self._ended, what, facts))
        return task

    def _ended(self, what: str, facts: dict[str, str], task: asyncio.Task[None]) -> None:
        """Take note of a part that has ended; before the stop that is a failure."""
        failure: BaseException | None = None if task.cancelled() else task.exception()
        if self._draining:
            if failure is not None:
                logger.error(
                    "%s failed while stopping", what, exc_info=failure, extra={"reason": str(failure), **facts}
                )
            return
        if failure is None:
            failure = RuntimeError("it was cancelled by itself" if task.cancelled() else "it ended by itself")
        reason = str(failure) or type(failure).__name__
        logger.critical("%s failed", what, exc_info=failure, extra={"reason": reason, **facts})
        wrapped = PartFailed(f"{what} failed: {task.get_name()}")
        wrapped.__cause__ = failure
        self._failures.append(wrapped)
        self._over.set()

    # -- stop -------------------------------------------------------------------------------------

    async def _drain(self, bus: asyncio.Task[None], holders: dict[str, asyncio.Task[None]]) -> set[str]:
        """Stop everything in order and return the names of what did not stop in time."""
        now = asyncio.get_running_loop().time
        drain_until = now() + self._platform.settings.drain_s
        workers_until = now() + self._platform.settings.drain_s * WORKERS_SHARE
        logger.info("draining")
        self._draining = True
        for service in self._services:
            service.health.drain()
            if service.name not in self._started:
                holders[service.name].cancel()  # or it would start workers that nobody cancels
        for task in self._workers:
            task.cancel()
        left = await _wait_until(self._workers, workers_until - now())
        await asyncio.gather(*(server.stop(max(drain_until - now(), 0.5)) for server in self._servers))
        close_until = now() + CLOSE_S
        self._release_resources.set()
        left |= await _wait_until(holders.values(), close_until - now() - 1.0)
        self._release_bus.set()
        if not self._bus_reached.is_set():
            bus.cancel()
        return left | await _wait_until([bus], close_until - now())


class _Entry:
    """A resource that can be tried to enter more than once."""

    def __init__(self, resource: AbstractAsyncContextManager[Any]) -> None:
        self._resource = resource
        self._entered = resource

    async def enter(self) -> None:
        # One made of a generator is used up by a failed attempt; the library makes a fresh one for its own purposes.
        if isinstance(self._resource, AsyncContextDecorator):
            self._entered = self._resource._recreate_cm()  # noqa: SLF001
        await self._entered.__aenter__()

    async def leave(self) -> None:
        await self._entered.__aexit__(None, None, None)


async def _wait_until(tasks: Iterable[asyncio.Task[None]], within_s: float) -> set[str]:
    """Return the names of the tasks that have not ended in time; they are cancelled (again) and left. [s]"""
    todo = {task for task in tasks if not task.done()}
    if not todo:
        return set()
    _, todo = await asyncio.wait(todo, timeout=max(within_s, 0.1))
    for task in todo:
        task.cancel()
    return {task.get_name() for task in todo}


async def _run_worker(service: Service, worker: Worker) -> None:
    with log_context(service=service.name, worker=worker.name):
        await worker.run(service.health.beat(worker))


async def _patiently(
    services: Sequence[Service], what: str, attempt: Callable[[], Awaitable[Any]], clock: Clock
) -> None:
    """Repeat ``attempt`` until what it needs is there; say once per reason what is awaited."""
    said = ""
    attempts = 0
    while True:
        try:
            await attempt()
        except (Unavailable, OSError) as exc:
            trouble = exc if isinstance(exc, Unavailable) else trouble_of(exc)
            if trouble is None:
                raise
        else:
            break
        english, chinese = trouble.both
        for service in services:
            service.health.starting = Bilingual(f"waiting for {what}: {english}", f"等待 {what}:{chinese}")
        if trouble.message != said:
            said = trouble.message
            facts = {"dependency": what, "reason": said, "services": [service.name for service in services]}
            logger.warning("waiting for a dependency", extra=facts)
        await clock.sleep(RETRY_START_S[min(attempts, len(RETRY_START_S) - 1)])
        attempts += 1
    if said:
        logger.info("a dependency is there", extra={"dependency": what, "attempts": attempts + 1})


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_MENDABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EADDRINUSE, errno.EADDRNOTAVAIL),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT),
)


def trouble_of(exc: BaseException) -> Unavailable | None:
    """Return what a person can do something about while we wait, None for what is a mistake of ours."""
    if not isinstance(exc, OSError) or exc.errno is None:
        return None
    place = "" if exc.filename is None else f"{os.fsdecode(exc.filename)}: "
    if exc.errno in _DISK_FULL:
        return Unavailable(
            f"disk full: {place}{exc.strerror}; free some space",
            message_zh=f"磁盘已满:{place}{exc.strerror};请清理空间",
        )
    if exc.errno in _MENDABLE:
        return Unavailable(f"{place}{exc.strerror}", message_zh=f"{place}{exc.strerror}")
    return None


async def _bounded(close: Callable[[], Awaitable[Any]], what: str) -> None:
    """Close something within ``CLOSE_EACH_S``; a failure is logged and does not hold up what comes after."""
    try:
        async with asyncio.timeout(CLOSE_EACH_S):
            await close()
    except TimeoutError:
        logger.warning("gave up a clean close", extra={"what": what, "limit_s": CLOSE_EACH_S})
    except Exception:
        logger.exception("could not close cleanly", extra={"what": what})
