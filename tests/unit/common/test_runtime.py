"""Services from start to stop, within one process: what is waited for, who fails, and in which order all goes."""

import asyncio
import errno
import logging
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from libs.common.bus import topics
from libs.common.bus.port import AtRisk, Bus, BusUnavailable, Message
from libs.common.errors import Bilingual, InvalidInput, Unavailable
from libs.common.health import Beat, Check, Health, Worker, flag_check
from libs.common.runtime import Listener, listeners, raise_file_limit
from libs.common.serving import PartFailed, Platform, Service, StopIncomplete, serve, trouble_of
from libs.common.settings import CommonSettings
from libs.common.testing.clock import FakeClock, settle
from libs.common.tokens import KeyRing
from libs.common.web import create_app


class FakeBus:
    """Starts when it is told that it can."""

    def __init__(self, happened: list[str]) -> None:
        self.happened = happened
        self.away: Exception | None = None
        self.risks: list[AtRisk] = []
        self.published: list[Message] = []

    async def start(self) -> None:
        if self.away is not None:
            raise self.away
        self.happened.append("bus started")

    async def stop(self) -> None:
        self.happened.append("bus stopped")

    async def at_risk(self) -> Sequence[AtRisk]:
        return self.risks

    async def publish(self, messages: Sequence[Message], *, timeout_s: float) -> None:
        self.published += messages


@dataclass
class Thing:
    """A resource that says when it comes and goes."""

    name: str
    happened: list[str]
    away: list[Exception] = field(default_factory=list)
    on_leave: Callable[[], Awaitable[None]] | None = None

    async def __aenter__(self) -> "Thing":
        if self.away:
            raise self.away.pop(0)
        self.happened.append(f"{self.name} entered")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.on_leave is not None:
            await self.on_leave()
        self.happened.append(f"{self.name} left")


class World:
    """Platform, a list of what happened, and services made of little."""

    def __init__(self, folder: Path) -> None:
        KeyRing.create(folder / "keys", ["alarm"])
        self.folder = folder
        self.clock = FakeClock()
        self.happened: list[str] = []
        self.bus = FakeBus(self.happened)
        settings = CommonSettings(data_dir=folder, drain_s=1.0)
        bus: Bus = self.bus  # type: ignore[assignment]  # only what the runtime calls
        self.platform = Platform(settings, self.clock, bus, KeyRing.open(folder / "keys", self.clock))
        self.stop = asyncio.Event()

    def worker(self, name: str, *, last_words: str | None = None) -> Worker:
        async def work(beat: Beat) -> None:
            self.happened.append(f"{name} works")
            try:
                while True:
                    beat()
                    await asyncio.sleep(3600)
            finally:
                self.happened.append(last_words or f"{name} stopped")

        return Worker(name, work)

    def service(self, name: str = "alarm", **parts: Any) -> Service:
        health = Health(self.clock)
        return Service(name=name, app=create_app(name, self.platform, health, title=name), health=health, **parts)

    @asynccontextmanager
    async def running(self, *services: Service) -> AsyncIterator[asyncio.Task[None]]:
        places = [Listener(service.app, uds=self.folder / f"{service.name}.sock") for service in services]
        task = asyncio.create_task(serve(services, self.platform, self.stop, places))
        try:
            yield task
        finally:
            self.stop.set()
            await asyncio.wait([task], timeout=60)
            assert task.done()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - sockets are real, so waiting for them is
                await asyncio.sleep(0.005)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


def said(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.getMessage() == message]


# -- order ----------------------------------------------------------------------------------------


async def test_all_comes_in_order_and_goes_in_the_reverse(world: World) -> None:
    async def probe() -> None:
        world.happened.append("probed")

    service = world.service(
        resources=[Thing("database", world.happened), Thing("spool", world.happened)],
        workers=[world.worker("polling")],
        checks=[Check("probe", probe)],
    )
    async with world.running(service) as task:
        await world.until(lambda: "polling works" in world.happened)
        assert service.health.starting is None
        assert await service.health.not_ready() == {}
    await task
    assert world.happened == [
        "bus started",
        "database entered",
        "spool entered",
        "polling works",
        "probed",
        "polling stopped",
        "spool left",
        "database left",
        "bus stopped",
    ]
    assert service.health.draining


async def test_the_resources_of_all_services_outlive_all_workers(world: World) -> None:
    one = world.service("alarm", resources=[Thing("a", world.happened)], workers=[world.worker("wa")])
    two = world.service("carbon", resources=[Thing("b", world.happened)], workers=[world.worker("wb")])
    async with world.running(one, two) as task:
        await world.until(lambda: {"wa works", "wb works"} <= set(world.happened))
    await task
    last_worker = max(world.happened.index("wa stopped"), world.happened.index("wb stopped"))
    assert last_worker < min(world.happened.index("a left"), world.happened.index("b left"))
    assert world.happened[-1] == "bus stopped"


async def test_draining_is_told_before_anything_stops(world: World) -> None:
    service = world.service(workers=[world.worker("w")])
    places = [Listener(service.app, uds=world.folder / "alarm.sock")]
    task = asyncio.create_task(
        serve([service], world.platform, world.stop, places, draining=lambda: world.happened.append("draining"))
    )
    await world.until(lambda: "w works" in world.happened)
    world.stop.set()
    await task
    assert world.happened.index("draining") < world.happened.index("w stopped")


async def test_a_worker_may_take_its_time_to_stop_within_the_bound(world: World) -> None:
    async def tidy(beat: Beat) -> None:
        beat()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.1)
            world.happened.append("tidied")

    service = world.service(workers=[Worker("tidy", tidy)], resources=[Thing("database", world.happened)])
    async with world.running(service) as task:
        await world.until(lambda: service.health.starting is None)
    await task
    assert world.happened[-3:] == ["tidied", "database left", "bus stopped"]


async def test_every_service_says_when_it_is_about_to_lose_messages(world: World) -> None:
    bus = world.bus
    bus.risks = [AtRisk("alarm.rules", topics.READINGS, 0, records=7, left_s=600.0)]
    async with world.running(world.service("alarm"), world.service("carbon")) as task:
        await world.until(lambda: len(bus.published) == 2)
    await task
    found = {one["source"]: one for one in (orjson.loads(message.value or b"") for message in bus.published)}
    assert {message.topic for message in bus.published} == {topics.CONDITIONS}
    assert {name: one["phase"] for name, one in found.items()} == {"alarm": "begin", "carbon": "end"}
    assert (found["alarm"]["kind"], found["alarm"]["subject"]) == ("retention_risk", "alarm")
    wanted = f"alarm.rules ({topics.READINGS}): 7 messages are not read and the first expire in 10 min"
    assert found["alarm"]["detail"] == wanted


# -- waiting --------------------------------------------------------------------------------------


async def test_a_bus_that_is_away_is_said_once_and_waited_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.bus.away = BusUnavailable("no broker at kafka:9092", message_zh="kafka:9092 没有应答")
    service = world.service(workers=[world.worker("w")])
    async with world.running(service) as task:
        await world.until(lambda: world.clock.sleeping > 0)
        assert service.health.starting == Bilingual(
            "waiting for bus: no broker at kafka:9092", "等待 bus:kafka:9092 没有应答"
        )
        assert await service.health.not_ready() == {"process": service.health.starting}
        for _ in range(5):
            await world.clock.advance(5.0)
        waiting = said(caplog, "waiting for a dependency")
        assert [(one["dependency"], one["reason"], one["services"]) for one in waiting] == [
            ("bus", "no broker at kafka:9092", ["alarm"])
        ]
        world.bus.away = BusUnavailable("not allowed")
        await world.clock.advance(5.0)
        assert [one["reason"] for one in said(caplog, "waiting for a dependency")][1:] == ["not allowed"]
        world.bus.away = None
        await world.clock.advance(5.0)
        await world.until(lambda: "w works" in world.happened)
        assert service.health.starting is None
        assert len(said(caplog, "a dependency is there")) == 1
    await task


async def test_one_service_does_not_wait_for_what_another_needs(world: World) -> None:
    away = Thing("missing", world.happened, away=[Unavailable("not migrated")] * 1000)
    waits = world.service("carbon", resources=[away], workers=[world.worker("wc")])
    works = world.service("alarm", resources=[Thing("there", world.happened)], workers=[world.worker("wa")])
    async with world.running(waits, works) as task:
        await world.until(lambda: "wa works" in world.happened)
        assert works.health.starting is None
        assert waits.health.starting == Bilingual(
            "waiting for resource: not migrated", "等待 resource:暂不可用:not migrated"
        )
    await task
    assert "wc works" not in world.happened
    assert "there left" in world.happened
    assert "missing left" not in world.happened


async def test_a_stop_while_waiting_gives_back_what_was_reached(world: World) -> None:
    service = world.service(
        resources=[
            Thing("first", world.happened),
            Thing("second", world.happened, away=[Unavailable("away")] * 1000),
        ],
        workers=[world.worker("w")],
    )
    async with world.running(service) as task:
        await world.until(lambda: world.clock.sleeping > 0)
    await task
    assert world.happened == ["bus started", "first entered", "first left", "bus stopped"]


@pytest.mark.parametrize(
    ("error", "english", "chinese"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/spool/1"), "disk full: /data/spool/1: No", "磁盘已满"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk full: Disk quota exceeded", "磁盘已满"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), "/data: Permission denied", "/data"),
        (OSError(errno.EROFS, "Read-only file system", "/data"), "/data: Read-only file system", "/data"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files", "Too many"),
    ],
)
async def test_a_full_disk_or_a_closed_folder_is_said_and_waited_for(
    world: World, error: OSError, english: str, chinese: str
) -> None:
    spool = Thing("spool", world.happened, away=[error, error])
    service = world.service(resources=[spool], workers=[world.worker("w")])
    async with world.running(service) as task:
        await world.until(lambda: world.clock.sleeping > 0)
        reasons = await service.health.not_ready()
        assert reasons["process"].english.startswith(f"waiting for resource: {english}")
        assert chinese in reasons["process"].chinese
        await world.clock.advance(1.0)
        await world.until(lambda: "w works" in world.happened)
    await task


def test_what_waiting_does_not_mend_is_no_trouble() -> None:
    assert trouble_of(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert trouble_of(OSError("without a number")) is None
    assert trouble_of(ValueError("x")) is None
    found = trouble_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), b"/data/\xff"))
    assert found is not None
    assert "disk full" in found.message


async def test_a_resource_made_of_a_generator_can_be_tried_again(world: World) -> None:
    attempts: list[int] = []

    @asynccontextmanager
    async def remembering() -> AsyncIterator[None]:
        attempts.append(1)
        if len(attempts) < 3:
            raise Unavailable("not yet")
        world.happened.append("entered")
        yield
        world.happened.append("left")

    service = world.service(resources=[remembering()], workers=[world.worker("w")])
    async with world.running(service) as task:
        await world.until(lambda: world.clock.sleeping > 0)
        await world.clock.advance(1.0)  # both pauses
        await world.until(lambda: "w works" in world.happened)
    await task
    assert world.happened == ["bus started", "entered", "w works", "w stopped", "left", "bus stopped"]


async def test_independent_workers_run_while_the_dependencies_are_away(world: World) -> None:
    world.bus.away = BusUnavailable("away")
    service = world.service(independent=[world.worker("closing")], workers=[world.worker("polling")])
    async with world.running(service) as task:
        await world.until(lambda: "closing works" in world.happened)
    await task
    assert world.happened == ["closing works", "closing stopped", "bus stopped"]


# -- failures -------------------------------------------------------------------------------------


def causes(group: BaseExceptionGroup[Any]) -> list[BaseException | None]:
    assert all(isinstance(one, PartFailed) for one in group.exceptions)
    return [one.__cause__ for one in group.exceptions]


async def test_a_worker_that_fails_ends_the_process_in_order_and_is_named(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    failure = KeyError("a bug")

    async def fail(beat: Beat) -> None:
        beat()
        await world.until(lambda: "other works" in world.happened)
        raise failure

    service = world.service(
        resources=[Thing("database", world.happened)], workers=[Worker("rules", fail), world.worker("other")]
    )
    async with world.running(service) as task:
        await asyncio.wait([task], timeout=30)
        assert not world.stop.is_set()
    assert isinstance(task.exception(), ExceptionGroup)
    assert causes(task.exception()) == [failure]  # type: ignore[arg-type]  # by the line above
    assert world.happened[-3:] == ["other stopped", "database left", "bus stopped"]
    (line,) = said(caplog, "a worker failed")
    assert (line["service"], line["worker"], line["reason"], line["levelname"]) == (
        "alarm", "rules", "'a bug'", "CRITICAL",
    )  # fmt: skip
    assert line["exc_info"][1] is failure


async def test_a_worker_that_ends_or_cancels_itself_is_a_failure_too(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def end(beat: Beat) -> None:
        beat()

    async def cancel(beat: Beat) -> None:
        raise asyncio.CancelledError

    for name, body, reason in (("e", end, "it ended by itself"), ("c", cancel, "it was cancelled by itself")):
        caplog.clear()
        task = asyncio.create_task(serve([world.service(workers=[Worker(name, body)])], world.platform, world.stop, []))
        with pytest.raises(ExceptionGroup):
            await task
        assert [line["reason"] for line in said(caplog, "a worker failed")] == [reason]


async def test_a_resource_with_a_bug_ends_the_process_and_is_named(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Thing("broken", world.happened, away=[InvalidInput("wrong profile")])
    service = world.service(resources=[Thing("database", world.happened), broken])
    with pytest.raises(ExceptionGroup):
        await serve([service], world.platform, world.stop, [])
    (line,) = said(caplog, "a service failed")
    assert (line["service"], line["reason"]) == ("alarm", "wrong profile")
    assert world.happened == ["bus started", "database entered", "database left", "bus stopped"]


async def test_a_worker_that_fails_while_stopping_is_logged_and_does_not_spoil_the_stop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def clumsy(beat: Beat) -> None:
        beat()
        try:
            await asyncio.sleep(3600)
        finally:
            raise RuntimeError("dropped it")

    service = world.service(workers=[Worker("clumsy", clumsy)], resources=[Thing("database", world.happened)])
    async with world.running(service) as task:
        await world.until(lambda: service.health.starting is None)
        await settle()
    await task
    (line,) = said(caplog, "a worker failed while stopping")
    assert (line["worker"], line["reason"]) == ("clumsy", "dropped it")
    assert world.happened[-2:] == ["database left", "bus stopped"]


async def test_a_resource_that_cannot_close_does_not_hold_up_the_others(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.serving.CLOSE_EACH_S", 0.05)

    async def break_() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def hang() -> None:
        await asyncio.Event().wait()

    service = world.service(
        resources=[
            Thing("database", world.happened),
            Thing("breaks", world.happened, on_leave=break_),
            Thing("hangs", world.happened, on_leave=hang),
        ]
    )
    async with world.running(service) as task:
        await world.until(lambda: service.health.starting is None)
    await task
    assert world.happened[-2:] == ["database left", "bus stopped"]
    assert [line["what"] for line in said(caplog, "gave up a clean close")] == ["Thing of alarm"]
    assert [line["what"] for line in said(caplog, "could not close cleanly")] == ["Thing of alarm"]


async def test_a_worker_that_swallows_its_cancellation_is_named_and_left(world: World) -> None:
    let_go = asyncio.Event()

    async def stubborn(beat: Beat) -> None:
        beat()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                world.happened.append("ignored a cancellation")

    service = world.service(workers=[Worker("stubborn", stubborn)], resources=[Thing("database", world.happened)])
    async with world.running(service) as task:
        await world.until(lambda: service.health.starting is None)
        world.stop.set()
        with pytest.raises(StopIncomplete, match="still running: alarm stubborn"):
            await task
    assert world.happened[-2:] == ["database left", "bus stopped"]
    let_go.set()
    await settle()


async def test_an_address_that_cannot_be_had_starts_nothing(world: World) -> None:
    (world.folder / "taken.sock").write_text("")
    service = world.service(independent=[world.worker("w")])
    places = [
        Listener(service.app, uds=world.folder / "good.sock"),
        Listener(service.app, uds=world.folder / "taken.sock"),
    ]
    with pytest.raises(Exception, match=r"taken\.sock: there is a file of that name"):
        await serve([service], world.platform, world.stop, places)
    assert world.happened == []
    assert not (world.folder / "good.sock").exists()


async def test_cancelling_the_whole_stops_it_in_order_too(world: World) -> None:
    service = world.service(workers=[world.worker("w")], resources=[Thing("database", world.happened)])
    task = asyncio.create_task(serve([service], world.platform, world.stop, []))
    await world.until(lambda: "w works" in world.happened)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.happened[-3:] == ["w stopped", "database left", "bus stopped"]


# -- wiring ---------------------------------------------------------------------------------------


async def test_two_workers_of_one_name_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="two workers of one name"):
        world.service(workers=[world.worker("w")], independent=[world.worker("w")])


async def test_where_services_listen(world: World) -> None:
    extra = Listener(world.service().app, host="127.0.0.1", port=8080)
    alarm, gateway = world.service("alarm", extra_listeners=[extra]), world.service("gateway")
    urls = {"alarm": "unix:/run/alarm.sock", "gateway": "unix:/run/gateway.sock", "export": "http://export:8000"}
    alone = listeners([alarm], CommonSettings(host="0.0.0.0", port=81, service_urls=urls))
    assert [(one.host, one.port, one.uds) for one in alone] == [("0.0.0.0", 81, None), ("127.0.0.1", 8080, None)]
    by_socket = listeners([alarm], CommonSettings(uds=Path("/run/x.sock"), service_urls=urls))
    assert [(one.host, one.port, one.uds) for one in by_socket] == [
        (None, None, Path("/run/x.sock")),
        ("127.0.0.1", 8080, None),
    ]
    watched = listeners([gateway, alarm], CommonSettings(internal_port=9000))
    assert [(one.app, one.host, one.port) for one in watched if one.internal] == [(gateway.app, "127.0.0.1", 9000)]
    together = listeners([alarm, gateway], CommonSettings(host="0.0.0.0", port=81, service_urls=urls))
    assert {(one.app, one.host, one.port, one.uds) for one in together} == {
        (extra.app, "127.0.0.1", 8080, None),
        (alarm.app, None, None, Path("/run/alarm.sock")),
        (gateway.app, None, None, Path("/run/gateway.sock")),
        (gateway.app, "0.0.0.0", 81, None),
    }


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "set_to", "holds"),
    [
        (1024, 4096, 2048, 2048, 2048),
        (1024, 4096, 65536, 4096, 4096),
        (4096, 8192, 2048, None, 4096),
        (1024, resource.RLIM_INFINITY, 2048, 2048, 2048),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 2048, None, 2048),
    ],
)
def test_the_limit_of_open_files_is_raised_and_never_lowered(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int, set_to: int | None, holds: int
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert raise_file_limit(wanted) == holds
    assert asked == ([] if set_to is None else [(set_to, hard)])


async def test_a_plain_condition_is_checked_each_time() -> None:
    flags = {"there": False}
    check = flag_check("flag", lambda: flags["there"], "missing", "缺少")
    with pytest.raises(Unavailable, match="missing"):
        await check.probe()
    flags["there"] = True
    await check.probe()
