"""A supervision centre that does as it is told, and the whole service against it."""

import asyncio
import contextlib
import html
import re
import socket
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.client import http_client
from libs.common.clock import SystemClock
from libs.common.contracts.alarm import AlarmEvent, AlarmLevel, EndReason
from libs.common.contracts.base import Phase
from libs.common.contracts.control import ControlEvent
from libs.common.contracts.delivery import DeliveryEvent
from libs.common.contracts.telemetry import Reading
from libs.common.ids import AlarmId, DeviceId, SiteId
from libs.common.runtime import Platform, listeners, serve
from libs.common.settings import BusSettings, CommonSettings, DatabaseSettings
from libs.common.tokens import KeyRing
from libs.fieldsim.sc.server import SupervisionCentre

FSU = "44010643800017"
METER = "44010641600021"
SC_NAMESPACE = "http://SCService.chinatowercom.com"

Answer = str | bytes | None
"""A payload, a raw HTTP body, or None to say nothing and close the connection."""


@dataclass
class Heard:
    """One request as the centre took it apart."""

    name: str
    code: str
    info: ET.Element
    at: float

    def alarms(self) -> list[dict[str, str]]:
        return [{child.tag: child.text or "" for child in alarm} for alarm in self.info.iter("TAlarm")]


Script = Callable[[Heard], Awaitable[Answer]]


def ack(name: str, code: int, body: str) -> str:
    return f"<Response><PK_Type><Name>{name}_ACK</Name><Code>{code + 1}</Code></PK_Type><Info>{body}</Info></Response>"


LOGIN_OK = ack("LOGIN", 101, "<SCIP>127.0.0.1</SCIP><RightLevel>2</RightLevel>")
LOGIN_NO = ack("LOGIN", 101, "<SCIP></SCIP><RightLevel>0</RightLevel>")
ALARM_OK = ack("SEND_ALARM", 501, "<Result>1</Result>")
ALARM_NO = ack("SEND_ALARM", 501, "<Result>0</Result>")
LOGOUT_OK = ack("LOGOUT", 103, "<Result>1</Result>")


async def obedient(heard: Heard) -> Answer:
    return {"LOGIN": LOGIN_OK, "SEND_ALARM": ALARM_OK, "LOGOUT": LOGOUT_OK}[heard.name]


@dataclass
class ScriptedCentre:
    """Takes SOAP over HTTP apart with nothing of the product, and answers by its script."""

    script: Script = obedient
    heard: list[Heard] = field(default_factory=list)
    acknowledged: list[dict[str, str]] = field(default_factory=list)
    too_early: list[dict[str, str]] = field(default_factory=list)
    """ENDs that came before their BEGIN was acknowledged."""
    port: int = 0
    namespace: str = SC_NAMESPACE
    """What it wants to be called in."""
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/SCService"

    def named(self, name: str) -> list[Heard]:
        return [each for each in self.heard if each.name == name]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            return  # the centre is being stopped: the connection just closes
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            declared = re.search(r"(?i)content-length: *(\d+)", head)
            assert declared is not None, head
            length = int(declared[1])
            body = (await reader.readexactly(length)).decode("utf-8")
            assert f'xmlns:ns1="{self.namespace}"' in body
            data = re.search(r"(?s)<xmlData[^>]*>(.*)</xmlData>", body)
            assert data is not None, body
            root = ET.fromstring(html.unescape(data[1]).encode())
            info = root.find("Info")
            assert info is not None, body
            loop = asyncio.get_running_loop()
            heard = Heard(root.findtext("PK_Type/Name", ""), root.findtext("PK_Type/Code", ""), info, loop.time())
            self.heard.append(heard)
            known = {alarm["SerialNo"] for alarm in self.acknowledged}
            self.too_early += [
                alarm for alarm in heard.alarms() if alarm["AlarmFlag"] == "END" and alarm["SerialNo"] not in known
            ]
            answer = await self.script(heard)
            if answer is not None:
                raw = answer if isinstance(answer, bytes) else _soap(answer)
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(raw), raw)
                )
                await writer.drain()
                if answer == ALARM_OK:
                    self.acknowledged += heard.alarms()


def _soap(payload: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><SOAP-ENV:Envelope '
        'xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"><SOAP-ENV:Body>'
        f'<n:invokeResponse xmlns:n="{SC_NAMESPACE}"><invokeReturn>{html.escape(payload)}</invokeReturn>'
        "</n:invokeResponse></SOAP-ENV:Body></SOAP-ENV:Envelope>"
    ).encode()


@pytest.fixture
async def centre() -> AsyncIterator[ScriptedCentre]:
    scripted = ScriptedCentre()
    await scripted.start()
    yield scripted
    await scripted.stop()


TOPIC_OF = {
    AlarmEvent: topics.ALARM_EVENTS,
    ControlEvent: topics.CONTROL_EVENTS,
    Reading: topics.READINGS,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Export:
    """The service as a process would run it, on a database and bus of its own; may be stopped and started."""

    def __init__(
        self, url: str, folder: Path, environ: pytest.MonkeyPatch, *, service_urls: Mapping[str, str] | None = None
    ) -> None:
        self.api_port, self.unit_port = free_port(), free_port()
        database = DatabaseSettings(url=SecretStr(url))
        self.settings = CommonSettings(
            data_dir=folder, port=self.api_port, database=database, bus=BusSettings(lease_s=1.0), drain_s=3.0,
            service_urls=service_urls or {},
        )  # fmt: skip
        self.clock = SystemClock()
        KeyRing.create(self.settings.effective_keys_dir)
        self.keys = KeyRing.open(self.settings.effective_keys_dir, self.clock)
        self.bus = PgLogBus(database, self.settings.bus, self.clock)
        environ.setenv("WATTRING_EXPORT__UNIT_PORT", str(self.unit_port))
        environ.setenv("WATTRING_EXPORT__POLL_S", "0.1")
        environ.setenv("WATTRING_EXPORT__LEASE_S", "2")
        environ.setenv("WATTRING_EXPORT__CALLBACKS__ALLOWED", '["127.0.0.1"]')
        environ.setenv("WATTRING_EXPORT__CALLBACKS__BATCH_S", "0.1")
        environ.setenv("WATTRING_EXPORT__FEEDS__ALLOWED", '["127.0.0.1"]')
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._events = 0

    async def start(self) -> None:
        from services.export.main import build

        bus = PgLogBus(self.settings.database, self.settings.bus, self.clock)
        platform = Platform(settings=self.settings, clock=self.clock, bus=bus, keys=self.keys)
        service = build(platform)
        self._stop = asyncio.Event()
        places = listeners([service], self.settings)
        self._task = asyncio.create_task(serve([service], platform, self._stop, places), name="export")
        async with http_client(f"http://127.0.0.1:{self.api_port}", "export") as http:

            async def ready() -> bool:
                if self._task is not None and self._task.done():
                    self._task.result()
                try:
                    answer = await http.get("/readyz")
                except httpx.HTTPError:
                    return False
                return answer.status_code == 200

            await until(ready)

    async def stop(self) -> None:
        if self._task is not None:
            self._stop.set()
            await self._task
            self._task = None

    async def kill(self) -> None:
        """End it without letting it finish anything."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def api(self, method: str, path: str, body: Any = None, *, status: int | None = None) -> Any:
        if self._task is not None and self._task.done():
            self._task.result()
        token = self.keys.sign_token("gateway", audience="export", subject="wang", kind="user", scopes=["export:*"])
        async with http_client(f"http://127.0.0.1:{self.api_port}", "export") as http:
            answer = await http.request(
                method, f"/api/v1{path}", json=body, headers={"authorization": f"Bearer {token}"}, timeout=10
            )
        if status is None:
            assert answer.is_success, answer.text
        else:
            assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def connect(self, centre: ScriptedCentre | SupervisionCentre, **options: Any) -> None:
        """Connect the centre, with one unit and a small mapping."""
        quick = {"timeout_s": 1.0, "login_interval_s": 0.3, "retry_first_s": 0.1, "retry_cap_s": 0.3}
        await self.api("POST", "/sc-connections",
                       {"id": "gd", "name": "广东SC", "url": centre.url, "options": {**quick, **options}})  # fmt: skip
        await self.api("PUT", f"/sc-connections/gd/units/{FSU}", {"name": "一号站", "sites": ["s-1"]})
        await self.api("PUT", f"/mappings/gd/{FSU}", small_mapping())

    async def publish(self, *events: AlarmEvent | ControlEvent | Reading) -> None:
        await self.bus.publish([self.message(event) for event in events], timeout_s=5)

    def message(self, event: AlarmEvent | ControlEvent | Reading) -> Any:
        topic = TOPIC_OF[type(event)]
        self._events += 1
        return envelope.message(topic, event.site_id, event, source="test", time=datetime.now(UTC))

    async def deliveries(self, **params: str) -> list[dict[str, Any]]:
        query = "&".join(f"{name}={value}" for name, value in params.items())
        found: list[dict[str, Any]] = (await self.api("GET", f"/deliveries?limit=1000&{query}"))["items"]
        return found

    async def unit(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.api("GET", "/sc-connections/gd"))["units"][0]
        return found

    async def delivery_events(self) -> list[DeliveryEvent]:
        from libs.common.bus.port import StartAt

        async with self.bus.tail([topics.DELIVERY_EVENTS], StartAt(beginning=True)) as tail:
            found: list[DeliveryEvent] = []
            while batch := await tail.fetch(max_messages=10_000, timeout_s=0.5):
                for each in batch:
                    assert each.value is not None
                    found.append(DeliveryEvent.from_json(each.value))
        return found


def small_mapping() -> dict[str, Any]:
    def row(kind: str, source: str, point_id: str, type_: str, name: str) -> dict[str, str]:
        return {
            "device_id": "m-1", "kind": kind, "source": source, "sc_device_id": METER, "point_id": point_id,
            "type": type_, "name": name,
        }  # fmt: skip

    return {
        "devices": [{"device_id": METER, "name": "智能电表"}],
        "points": [
            row("point", "voltage_a", "0416104001", "AI", "A相电压Ua"),
            row("point", "frequency", "0416118001", "AI", "频率F"),
            row("signal", "0s16001001", "0416001001", "DI", "停电"),
            row("signal", "0s16003001", "0416003001", "DI", "交流电压过低告警"),
        ],
    }


BEGAN = datetime(2026, 3, 8, 6, 2, 11, tzinfo=UTC)


def begin(alarm: str, signal: str = "0s16003001", **changes: Any) -> AlarmEvent:
    fields: dict[str, Any] = {
        "alarm_id": AlarmId(alarm), "site_id": SiteId("s-1"), "sequence": 1, "phase": Phase.BEGIN,
        "level": AlarmLevel.MINOR, "signal": signal, "began_at": BEGAN, "device_id": DeviceId("m-1"),
        "point": "voltage_a", "value": 152.3, "unit": "V",
    }  # fmt: skip
    return AlarmEvent(**{**fields, **changes})


def end(alarm: str, signal: str = "0s16003001", **changes: Any) -> AlarmEvent:
    fields = {
        "sequence": 2, "phase": Phase.END, "ended_at": datetime(2026, 3, 8, 6, 5, 0, tzinfo=UTC),
        "end_reason": EndReason.RECOVERED, "value": 221.0,
    }  # fmt: skip
    return begin(alarm, signal, **{**fields, **changes})


def reading(points: dict[str, float | None], *, at: datetime | None = None, device: str = "m-1") -> Reading:
    at = at or datetime.now(UTC)
    return Reading(
        device_id=DeviceId(device), site_id=SiteId("s-1"), source_time=at, received_at=at, driver="modbus",
        points=points,
    )  # fmt: skip


async def until(holds: Callable[[], Awaitable[bool]], limit_s: float = 60.0) -> None:
    """Wait until it holds; a bound, not a measure."""
    async with asyncio.timeout(limit_s):
        while not await holds():  # noqa: ASYNC110 - what is waited for is in another system
            await asyncio.sleep(0.03)


@pytest.fixture
async def export(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Export]:
    running = Export(postgres_url, tmp_path, monkeypatch)
    await running.bus.start()
    await running.bus.ensure_topics(topics.specs(running.settings.bus))
    await running.start()
    try:
        yield running
    finally:
        try:
            await running.stop()
        finally:
            await running.bus.stop()


class Kit:
    """What tests of this folder share."""

    fsu = FSU
    meter = METER
    login_ok = LOGIN_OK
    login_no = LOGIN_NO
    alarm_ok = ALARM_OK
    alarm_no = ALARM_NO
    began = BEGAN
    begin = staticmethod(begin)
    end = staticmethod(end)
    reading = staticmethod(reading)
    until = staticmethod(until)
    obedient = staticmethod(obedient)
    mapping = staticmethod(small_mapping)

    @staticmethod
    def flags(alarms: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
        return [(alarm["SerialNo"], alarm["AlarmFlag"]) for alarm in alarms]


@pytest.fixture
def kit() -> Kit:
    return Kit()
