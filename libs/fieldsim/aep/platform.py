"""The platform: one product, its devices, its API, and what it pushes to the subscriber.

Devices are breakers with a meter, as the profile ``aep_breaker_example`` describes them. An awake device obeys a
command after ``act_s``; one that sleeps gets it with its next report, if the command's ttl lasts so long.
"""

import asyncio
import itertools
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson

from libs.common.clock import Clock
from libs.fieldsim.aep.pushes import PAUSE_S, Pusher
from libs.fieldsim.aep.signature import expected
from libs.fieldsim.sc.httpserver import HttpServer, Reply, Request

logger = logging.getLogger(__name__)

TOLERANCE_S = 300.0
"""A request's timestamp may be this far from the platform's clock; the real figure is not known. [s]"""
VERSIONS: Mapping[tuple[str, str], str] = {
    ("POST", "/aep_device_command/command"): "20190712225145",
    ("GET", "/aep_device_command/command"): "20190712225241",
    ("GET", "/aep_device_command/commands"): "20200814163736",
    ("PUT", "/aep_device_command/cancelCommand"): "20190615023142",
    ("POST", "/aep_device_status/getDeviceStatusHisInPage"): "20190928013337",
    ("GET", "/aep_device_management/device"): "20181031202139",
}
WITHOUT_MASTER_KEY = frozenset({"/aep_device_status/getDeviceStatusHisInPage"})
HISTORY_KEPT = 10_000
"""Reports of a device that the platform keeps."""
LOOK_S = 0.05
JSON = "application/json; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Account:
    """What a customer has: an application, and a product with its devices."""

    tenant: str = "20001234"
    product: str = "10000001"
    app_key: str = "demoAppKey01"
    app_secret: str = field(default="demoSecret01", repr=False)
    master_key: str = field(default="demoMasterKey", repr=False)


@dataclass(slots=True)
class SimulatedDevice:
    """A breaker behind the platform."""

    device_id: str
    imei: str
    closed: bool = True
    asleep: bool = False
    """Takes commands with its next report only."""
    obeys: bool = True
    """False: acknowledges and does not move."""
    locked: bool = False
    trip_reason: int = 0
    energy_raw: int = 100_000
    online: bool = True


@dataclass(slots=True)
class Task:
    """One command on its way."""

    command_id: str
    device_id: str
    content: Mapping[str, Any]
    ttl_s: int
    saved_at: float
    """Monotonic. [s]"""
    created_ms: int = 0
    state: int = 1
    """1 saved, 2 sent, 3 delivered, 4 completed, 6 cancelled, 999 failed."""
    act_at: float | None = None
    result: str = ""


@dataclass(slots=True)
class Oddities:
    """How pushes differ from a tidy description."""

    copies: int = 1
    """How often each message comes."""
    undefined_ids: bool = True
    numbers_as_text: bool = False
    product_as_number: bool = False
    results_out_of_order: bool = False
    """SUCCESSFUL comes before SENT and DELIVERED, after the device's own report."""


class DevicePlatform:
    """Listens for its API, and pushes."""

    def __init__(
        self,
        *,
        clock: Clock,
        account: Account | None = None,
        devices: int = 1,
        push_url: str | None = None,
        report_every_s: float = 0.0,
        act_s: float = 0.2,
        clock_offset_s: float = 0.0,
        pause_s: float = PAUSE_S,
        oddities: Oddities | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Prepare.

        Args:
            clock: Ours.
            account: Of the customer.
            devices: How many; their ids are ``dev0001`` and so on.
            push_url: Where to push.
            report_every_s: Each device reports this often; 0: only when told to. [s]
            act_s: From delivery of a command to the movement. [s]
            clock_offset_s: How wrong the platform's clock is, as ``/echo`` says. [s]
            pause_s: Rest of the pusher after too many failures. [s]
            oddities: Of the pushes.
            host: Where to listen.
            port: 0: a free one, see ``url``.
        """
        self.account = account or Account()
        self.devices = {
            f"dev{number:04d}": SimulatedDevice(f"dev{number:04d}", f"86000000000{number:04d}")
            for number in range(1, devices + 1)
        }
        self.tasks: dict[str, Task] = {}
        self.oddities = oddities or Oddities()
        self.pusher = Pusher(url=push_url, clock=clock, pause_s=pause_s)
        self.findings: list[str] = []
        self.history: dict[str, list[dict[str, Any]]] = {}
        """What was wrong with requests, oldest first."""
        self.requests = 0
        self.refuse_all: int | None = None
        """An error code that every call of the API is answered with, HTTP 200; None: as it should be."""
        self._clock = clock
        self._report_every_s = report_every_s
        self._act_s = act_s
        self._offset_s = clock_offset_s
        self._numbers = itertools.count(1)
        self._server = HttpServer(self._answer, host=host, port=port)

    @property
    def url(self) -> str:
        """Base of the API."""
        return f"http://{self._server.host}:{self._server.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The port is taken.
        """
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop()

    async def run(self) -> None:
        """Push, report, let commands go their way; for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pusher.run(), name="aep pushes")
            group.create_task(self._work(), name="aep commands")
            if self._report_every_s:
                group.create_task(self._report_all(), name="aep reports")

    # what devices do

    def report(self, device_id: str, *, at_ms: int | None = None) -> None:
        """Let a device report its values; commands that wait for it go out with that."""
        device = self.devices[device_id]
        device.energy_raw += 3 if device.closed else 0
        payload: dict[str, Any] = {
            "voltage": 2301,
            "current": 4100 if device.closed else 0,
            "active_power": 943 if device.closed else 0,
            "energy": device.energy_raw,
            "switch_state": int(device.closed),
            "local_lock": int(device.locked),
            "trip_reason": device.trip_reason,
        }
        self._push_data(device, "data_report", payload, at_ms=at_ms)
        for task in self.tasks.values():
            if task.device_id == device_id and task.state == 1 and not self._is_over(task):
                self._deliver(task)

    def signal(self, device_id: str) -> None:
        """Let a device report its radio link."""
        payload = {"rsrp": -101.0, "sinr": 3, "ecl": 1, "cell_id": "123456789", "pci": 77, "battery_voltage": 3.61}
        self._push_data(self.devices[device_id], "signal_report", payload)

    def event(self, device_id: str, service: str, content: Mapping[str, Any], *, event_type: int = 3) -> None:
        """Let a device send an event: 1 information, 2 warning, 3 fault."""
        device = self.devices[device_id]
        self._push(device, "eventReport", serviceId=service, eventType=event_type, eventContent=dict(content))

    def connectivity(self, device_id: str, *, online: bool) -> None:
        """Let the platform lose or find a device."""
        device = self.devices[device_id]
        device.online = online
        self._push(device, "deviceOnlineOfflineReport", eventType=int(online))

    def remember(self, device_id: str, at_ms: int, payload: Mapping[str, Any]) -> None:
        """Keep a report in the platform's history, whether or not it is pushed."""
        kept = self.history.setdefault(device_id, [])
        kept.append({"timestamp": at_ms, **payload})
        del kept[:-HISTORY_KEPT]

    def _push_data(
        self, device: SimulatedDevice, service: str, payload: Mapping[str, Any], *, at_ms: int | None = None
    ) -> None:
        if self.oddities.numbers_as_text:
            payload = {name: str(value) for name, value in payload.items()}
        self.remember(device.device_id, self._now_ms() if at_ms is None else at_ms, payload)
        self._push(device, "dataReport", at_ms=at_ms, serviceId=service, payload=dict(payload))

    def _push(self, device: SimulatedDevice, kind: str, *, at_ms: int | None = None, **content: Any) -> None:
        account, odd = self.account, self.oddities
        message = {
            "messageType": kind,
            "tenantId": account.tenant,
            "productId": int(account.product) if odd.product_as_number else account.product,
            "deviceId": device.device_id,
            "deviceType": "",
            "protocol": "lwm2m",
            "topic": "v1/up/ad19",
            "timestamp": self._now_ms() if at_ms is None else at_ms,
            "IMEI": device.imei,
            "IMSI": "undefined" if odd.undefined_ids else "460110000000001",
            "iccid": "undefined" if odd.undefined_ids else "89860000000000000012",
            "deviceSn": "",
            "upPacketSN": "",
            "upDataSN": -1,
            "assocAssetId": "",
            **content,
        }
        self.pusher.put(message, copies=odd.copies)

    async def _report_all(self) -> None:
        while True:
            for device_id in self.devices:
                self.report(device_id)
            await self._clock.sleep(self._report_every_s)

    # commands

    async def _work(self) -> None:
        while True:
            now = self._clock.monotonic()
            for task in list(self.tasks.values()):
                if task.state == 1 and self._is_over(task):
                    self._finish(task, 999, "EXPIRED")
                elif task.state == 1 and not self.devices[task.device_id].asleep:
                    self._deliver(task)
                elif task.act_at is not None and now >= task.act_at:
                    self._act(task)
            await self._clock.sleep(LOOK_S)

    def _is_over(self, task: Task) -> bool:
        device = self.devices[task.device_id]
        return device.asleep and self._clock.monotonic() - task.saved_at > task.ttl_s

    def _deliver(self, task: Task) -> None:
        task.state = 3
        task.act_at = self._clock.monotonic() + self._act_s
        if not self.oddities.results_out_of_order:
            self._respond(task, "SENT")
            self._respond(task, "DELIVERED")

    def _act(self, task: Task) -> None:
        task.act_at = None
        device = self.devices[task.device_id]
        wanted = task.content.get("params", {}).get("switch")
        if device.obeys and not device.locked and wanted in (0, 1):
            device.closed = bool(wanted)
        self.report(task.device_id)
        self._finish(task, 4, "SUCCESSFUL")
        if self.oddities.results_out_of_order:
            self._respond(task, "DELIVERED")
            self._respond(task, "SENT")

    def _finish(self, task: Task, state: int, result: str) -> None:
        task.state = state
        self._respond(task, result)

    def _respond(self, task: Task, code: str) -> None:
        task.result = code
        device = self.devices[task.device_id]
        self._push(
            device, "commandResponse", taskId=int(task.command_id), result={"resultCode": code, "resultDetail": ""}
        )

    # the API

    async def _answer(self, request: Request) -> Reply:
        self.requests += 1
        if request.path == "/echo":
            return Reply(headers={"x-ag-timestamp": str(self._now_ms())}, content_type=JSON, body=b"{}")
        if request.path.startswith("/sim"):
            return self._ordered(request)
        if self.refuse_all is not None:
            return _json({"code": self.refuse_all, "msg": "refused by order"})
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        wrong = self._wrong(request, query)
        if wrong is not None:
            self.findings.append(f"{request.method} {request.path}: {wrong}")
            return _json({"code": 1001, "msg": wrong})
        match request.method, request.path:
            case "POST", "/aep_device_command/command":
                return self._issue(request.body)
            case "GET", "/aep_device_command/command":
                return self._show(query.get("commandId", ""))
            case "GET", "/aep_device_management/device":
                return self._describe(query.get("deviceId", ""))
            case "POST", "/aep_device_status/getDeviceStatusHisInPage":
                return self._history_page(request.body)
            case "GET", "/aep_device_command/commands":
                mine = [task for task in self.tasks.values() if task.device_id == query.get("deviceId")]
                return _json({"code": 0, "msg": "ok", "result": {"list": [_shown(task) for task in mine]}})
            case _:
                return self._cancel(request.body)

    def _wrong(self, request: Request, query: Mapping[str, str]) -> str | None:
        version = VERSIONS.get((request.method, request.path))
        headers = request.headers
        if version is None:
            return "there is no such interface"
        if headers.get("version") != version:
            return f"version: expected {version}, found {headers.get('version')}"
        if headers.get("application") != self.account.app_key:
            return "application is not known"
        master_key = None if request.path in WITHOUT_MASTER_KEY else self.account.master_key
        if headers.get("masterkey") != master_key:
            return "MasterKey does not belong to the product" if master_key else "there is no MasterKey here"
        timestamp = headers.get("timestamp", "")
        if not timestamp.isdigit() or abs(int(timestamp) - self._now_ms()) > TOLERANCE_S * 1000:
            return "timestamp is outside of the tolerance"
        named = query if master_key is None else {**query, "MasterKey": master_key}
        signature = expected(self.account.app_secret, self.account.app_key, timestamp, named, request.body)
        return None if headers.get("signature") == signature else "signature does not match"

    def _issue(self, body: bytes) -> Reply:
        try:
            order = orjson.loads(body)
            device_id, product = order["deviceId"], str(order["productId"])
            task = Task(
                command_id=str(next(self._numbers)),
                device_id=device_id,
                content=order["content"],
                ttl_s=int(order["ttl"]),
                saved_at=self._clock.monotonic(),
                created_ms=self._now_ms(),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as exc:
            return _json({"code": 1002, "msg": f"bad request: {exc}"})
        if product != self.account.product or device_id not in self.devices:
            return _json({"code": 1218, "msg": "the device does not exist"})
        self.tasks[task.command_id] = task
        return _json({"code": 0, "msg": "ok", "result": _shown(task)})

    def _show(self, command_id: str) -> Reply:
        task = self.tasks.get(command_id)
        if task is None:
            return _json({"code": 1219, "msg": "the command does not exist"})
        return _json({"code": 0, "msg": "ok", "result": _shown(task)})

    def _describe(self, device_id: str) -> Reply:
        device = self.devices.get(device_id)
        if device is None:
            return _json({"code": 1218, "msg": "the device does not exist"})
        facts = {
            "deviceId": device.device_id,
            "productId": int(self.account.product),
            "imei": device.imei,
            "deviceStatus": 1,
            "netStatus": 1 if device.online else 2,
        }
        return _json({"code": 0, "msg": "ok", "result": facts})

    def _cancel(self, body: bytes) -> Reply:
        task = self.tasks.get(str(orjson.loads(body).get("commandId", "")))
        if task is None or task.state != 1:
            return _json({"code": 1220, "msg": "the command cannot be cancelled any more"})
        task.state = 6
        return _json({"code": 0, "msg": "ok", "result": _shown(task)})

    def _history_page(self, body: bytes) -> Reply:
        """Answer with records of a device, the youngest first, and the time from which the next page goes back."""
        order = orjson.loads(body)
        begin, end = int(order["begin_timestamp"]), int(order["end_timestamp"])
        end = int(order.get("page_timestamp", end + 1))
        kept = self.history.get(order["deviceId"], [])
        found = sorted((row for row in kept if begin <= row["timestamp"] < end), key=lambda row: -row["timestamp"])
        page = found[: int(order["page_size"])]
        following = str(page[-1]["timestamp"]) if len(found) > len(page) else ""
        return _json({"code": 0, "page_timestamp": following, "deviceStatusList": page})

    # for tests and people, unsigned

    def _ordered(self, request: Request) -> Reply:
        """Answer ``GET /sim``, and ``POST /sim/devices/<id>`` that sets fields of a device and lets it speak."""
        if request.method == "GET":
            return _json(
                {
                    "devices": [asdict(device) for device in self.devices.values()],
                    "tasks": [_shown(task) for task in self.tasks.values()],
                    "pushes": asdict(self.pusher.counts),
                    "findings": self.findings[-100:],
                }
            )
        device = self.devices.get(request.path.removeprefix("/sim/devices/"))
        order = orjson.loads(request.body or b"{}")
        if device is None or not isinstance(order, dict):
            return Reply(404, b"no such device\n")
        for name in ("closed", "asleep", "obeys", "locked", "trip_reason"):
            if name in order:
                setattr(device, name, order[name])
        if "online" in order:
            self.connectivity(device.device_id, online=bool(order["online"]))
        if "event" in order:
            self.event(device.device_id, order["event"], order.get("content", {}))
        if order.get("signal"):
            self.signal(device.device_id)
        if order.get("report", True):
            self.report(device.device_id)
        return _json(asdict(device))

    def _now_ms(self) -> int:
        return int((self._clock.now().timestamp() + self._offset_s) * 1000)


def _shown(task: Task) -> dict[str, Any]:
    return {
        "commandId": task.command_id,
        "deviceId": task.device_id,
        "command": orjson.dumps(task.content).decode(),
        "commandStatus": task.state,
        "resultCode": task.result,
        "createTime": task.created_ms,
        "ttl": task.ttl_s,
    }


def _json(payload: Mapping[str, Any]) -> Reply:
    return Reply(body=orjson.dumps(payload), content_type=JSON)
