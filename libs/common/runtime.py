"""A process of Wattring: what a service is made of, and how one or six of them start, drain and stop.

The same services run embedded (six in one process) and distributed (one each). The listener opens first
and answers 503 with reasons until the service can work, so that a database or a broker that is away at
start is said clearly and waited for, not a crash. A worker that fails ends the process; whoever
supervises it starts it again, and the state is in the database.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from libs.common.bus.port import Bus
from libs.common.clock import Clock, SystemClock
from libs.common.db import Database
from libs.common.errors import Bilingual, PlatformError, Unavailable
from libs.common.log import setup_logging
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from libs.common.tracing import setup_tracing

logger = logging.getLogger(__name__)

RETRY_START_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between attempts to reach a dependency at start; the last one repeats. [s]"""

Beat = Callable[[], None]


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


@dataclass(frozen=True)
class Worker:
    """A loop that runs as long as the process."""

    name: str
    run: Callable[[Beat], Awaitable[None]]
    """Called with ``beat``; calls it at least every ``max_silence_s`` and never returns by itself."""
    max_silence_s: float = 60.0


@dataclass(frozen=True)
class Check:
    """One condition of readiness."""

    name: str
    probe: Callable[[], Awaitable[None]]
    """Raises ``PlatformError`` with the reason when the condition does not hold."""


def flag_check(name: str, holds: Callable[[], bool], otherwise: str, otherwise_zh: str) -> Check:
    """Return the check of a plain condition; ``otherwise`` says what is awaited while it does not hold."""

    async def probe() -> None:
        if not holds():
            raise Unavailable(otherwise, message_zh=otherwise_zh)

    return Check(name, probe)


def group_check(name: str, holds: Callable[[], bool], group: str) -> Check:
    """Return the check that a consumer group has its positions."""
    return flag_check(name, holds, f"the group {group} has no positions yet", f"消费组 {group} 尚未就绪")


@dataclass
class Service:
    """One service, wired and not yet started."""

    name: str
    app: FastAPI
    health: "Health"
    workers: Sequence[Worker] = ()
    independent: Sequence[Worker] = ()
    """Run from the first moment, before the dependencies are reached, because they need none of them."""
    resources: Sequence[Database | AbstractAsyncContextManager[Any]] = ()
    """Entered in order before the workers start; one that raises ``Unavailable`` is entered again until it does not."""
    checks: Sequence[Check] = ()
    extra_listeners: Sequence["Listener"] = ()
    """Ports of its own besides the API, such as the B interface that supervision centres call."""


class Health:
    """What the probes of one service answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beats: dict[str, tuple[float, float]] = {}
        self.starting: Bilingual | None = Bilingual("starting", "启动中")
        """Why the service has not started yet; None once it has."""
        self.draining = False
        self.checks: Sequence[Check] = ()
        self.always_open: tuple[str, ...] = ()
        """Beginnings of paths that are served before the service has started: they need no dependency."""

    def beat(self, worker: Worker) -> Beat:
        """Return the function by which a worker says that it makes progress."""

        def beat() -> None:
            self._beats[worker.name] = (self._clock.monotonic(), worker.max_silence_s)

        beat()
        return beat

    def stuck(self) -> list[str]:
        """Return the workers that have been silent for too long; the process should be restarted."""
        now = self._clock.monotonic()
        return [name for name, (last, limit) in self._beats.items() if now - last > limit]

    async def not_ready(self) -> dict[str, Bilingual]:
        """Return what keeps the service from working, by name; empty when it is ready."""
        if self.draining:
            return {"process": Bilingual("draining", "正在停止")}
        if self.starting is not None:
            return {"process": self.starting}
        reasons: dict[str, Bilingual] = {}
        for check in self.checks:
            try:
                async with asyncio.timeout(5.0):
                    await check.probe()
            except PlatformError as exc:
                reasons[check.name] = exc.both
            except TimeoutError:
                reasons[check.name] = Bilingual("no answer within 5 s", "5 秒内无应答")
        return reasons


@dataclass(frozen=True)
class Listener:
    """An address that one application is served on."""

    app: ASGIApp
    host: str | None = None
    port: int | None = None
    uds: Path | None = None
    setting: str = "PORT"
    """Variable that chooses another port, for the message when this one is taken."""


Builder = Callable[[Platform], Service]


def run(builders: Sequence[Builder], settings: CommonSettings, *, process: str) -> int:
    """Run services until SIGTERM or SIGINT; the main of every process.

    Returns:
        The exit code: 0 after a clean stop, 1 after a failure that was logged.
    """
    setup_logging(settings, process)
    setup_tracing(process)
    raise_file_limit()
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    code = 0
    try:
        asyncio.run(_main(builders, settings))
    except* PlatformError as group:
        for exc in _leaves(group):
            logger.critical("cannot run", extra={"reason": exc.both.english, "reason_zh": exc.both.chinese})
        code = 1
    except* Exception:
        logger.critical("stopped by an unexpected error", exc_info=True)
        code = 1
    return code


def _leaves(group: BaseExceptionGroup[PlatformError]) -> list[PlatformError]:
    """Return the errors of a group; a worker's comes in one group for each task around it."""
    found: list[PlatformError] = []
    for exc in group.exceptions:
        found += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return found


async def _main(builders: Sequence[Builder], settings: CommonSettings) -> None:
    from libs.common.bus import open_bus

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock = SystemClock()
    platform = Platform(
        settings=settings,
        clock=clock,
        bus=open_bus(settings, clock),
        keys=KeyRing.open(settings.effective_keys_dir, clock),
    )
    services = [builder(platform) for builder in builders]
    await serve(services, platform, stop, listeners(services, settings))


def listeners(services: Sequence[Service], settings: CommonSettings) -> list[Listener]:
    """Return where each service listens.

    One service alone has the configured address. Of several in one process the gateway has it, and each
    (the gateway too) has a Unix socket at its ``service_urls`` place, by which the others call it.
    """
    extra = [place for service in services for place in service.extra_listeners]
    if len(services) == 1 and settings.uds is None:
        return [Listener(services[0].app, host=settings.host, port=settings.port), *extra]
    found: list[Listener] = extra
    for service in services:
        url = settings.service_urls.get(service.name, "")
        if url.startswith("unix:"):
            found.append(Listener(service.app, uds=Path(url.removeprefix("unix:"))))
        if service.name == "gateway":
            found.append(Listener(service.app, host=settings.host, port=settings.port))
    return found


async def serve(
    services: Sequence[Service], platform: Platform, stop: asyncio.Event, places: Sequence[Listener]
) -> None:
    """Run wired services until ``stop`` is set or one of their workers fails.

    Raises:
        BaseExceptionGroup: What a worker or a listener failed with.
    """
    drain_s = platform.settings.drain_s
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(_listening(place, drain_s)) for place in places]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_watch_servers(servers), name="listeners"),
                    group.create_task(_work(services, platform), name="services"),
                    *(
                        group.create_task(_run_worker(service, worker), name=worker.name)
                        for service in services
                        for worker in service.independent
                    ),
                ]
                await stop.wait()
                logger.info("draining")
                for service in services:
                    service.health.draining = True
                for task in tasks:
                    task.cancel()
        finally:
            for service in services:
                service.health.draining = True
    logger.info("stopped")


async def _work(services: Sequence[Service], platform: Platform) -> None:
    """Reach the dependencies, then run all workers; release everything at the end, within the drain time."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_bounded, platform.bus.stop, platform.settings.drain_s, "bus")
        await _patiently(services, "bus", platform.bus.start, platform.clock)
        for service in services:
            for resource in service.resources:
                if isinstance(resource, Database):
                    stack.push_async_callback(_bounded, resource.close, platform.settings.drain_s, "database")
                    await _patiently([service], "database", resource.open, platform.clock)
                else:
                    await _patiently(
                        [service], "resource", partial(stack.enter_async_context, resource), platform.clock
                    )
        async with asyncio.TaskGroup() as group:
            for service in services:
                service.health.checks = service.checks
                for worker in service.workers:
                    group.create_task(_run_worker(service, worker), name=worker.name)
                service.health.starting = None
                logger.info("service started", extra={"service": service.name})
            # A group without workers would end at once; this one ends by cancellation only.
            group.create_task(asyncio.Event().wait(), name="until-stopped")


async def wait_beating(wait: Callable[[], Awaitable[None]], beat: Beat) -> None:
    """Wait for something that may take long, as a worker that is alive meanwhile."""
    waiting = asyncio.ensure_future(wait())
    try:
        while not waiting.done():
            beat()
            await asyncio.wait([waiting], timeout=5.0)
        waiting.result()
    finally:
        waiting.cancel()


async def _run_worker(service: Service, worker: Worker) -> None:
    await worker.run(service.health.beat(worker))
    raise RuntimeError(f"worker {worker.name} of {service.name} ended by itself")


async def _patiently(
    services: Sequence[Service], what: str, attempt: Callable[[], Awaitable[Any]], clock: Clock
) -> None:
    """Repeat ``attempt`` until it does not raise ``Unavailable``; say once per reason what is awaited."""
    said = ""
    for number in range(1_000_000_000):
        try:
            await attempt()
        except Unavailable as exc:
            english, chinese = exc.both
            for service in services:
                service.health.starting = Bilingual(f"waiting for {what}: {english}", f"等待 {what}:{chinese}")
            if exc.message != said:
                logger.warning("waiting for a dependency", extra={"dependency": what, "reason": exc.message})
                said = exc.message
            await clock.sleep(RETRY_START_S[min(number, len(RETRY_START_S) - 1)])
        else:
            return


async def _bounded(close: Callable[[], Awaitable[None]], limit_s: float, what: str) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await close()
    except TimeoutError:
        logger.warning("gave up a clean close", extra={"what": what, "limit_s": limit_s})


class PortTaken(PlatformError):
    """The address to listen on is in use."""

    code = "port_taken"
    title_zh = "端口被占用"


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the runtime has its own, and uvicorn's raise the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@asynccontextmanager
async def _listening(place: Listener, drain_s: float) -> AsyncIterator[asyncio.Task[None]]:
    """Serve one application within the block; connections get ``drain_s`` to finish at the end."""
    if place.uds is not None:
        place.uds.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.uds.unlink(missing_ok=True)
    config = uvicorn.Config(
        place.app,
        host=place.host or "127.0.0.1",
        port=place.port or 0,
        uds=None if place.uds is None else str(place.uds),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        backlog=4096,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, int(drain_s)),
        h11_max_incomplete_event_size=64 * 1024,
        ws="none",
    )
    server = _Server(config)
    try:
        sockets = None if place.uds is not None else [config.bind_socket()]
    except (OSError, SystemExit) as exc:
        raise PortTaken(
            f"cannot listen on {place.host}:{place.port}; another program holds it. "
            f"Choose another with {place.setting}=…",
            message_zh=f"无法监听 {place.host}:{place.port},端口已被占用。请用 {place.setting}=… 另选端口",
        ) from exc
    task = asyncio.create_task(server.serve(sockets=sockets), name=f"http {place.uds or place.port}")
    try:
        while not server.started and not task.done():  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.005)
        yield task
    finally:
        server.should_exit = True
        try:
            async with asyncio.timeout(drain_s + 2.0):
                await task
        except TimeoutError:
            server.force_exit = True


async def _watch_servers(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End with an error when a listener ends by itself."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
        raise RuntimeError(f"{task.get_name()} stopped serving")


def raise_file_limit(wanted: int = 65_536) -> int:
    """Raise the soft limit of open files towards ``wanted``; return what holds now.

    Ten thousand dialled-in devices need as many descriptors, and the usual soft limit is 1,024.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return max(soft, target)
