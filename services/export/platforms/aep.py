"""Questions to the device platform about one device: is it online, when did it report, what became of a command.

Signed, bounded and only ever reading. What the platform does not say stays unknown.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import orjson

from libs.common.clock import Clock
from libs.common.ctwing import AppKey, signed_headers
from libs.common.errors import NotFound, Unavailable
from libs.common.metrics import counter
from libs.common.outgoing import Answer, CallFailed, GuardedClient, NotAllowed

CALLS = counter("export_device_platform_calls_total", "Calls of the device platform", ("operation", "outcome"))
MAX_ANSWER_BYTES = 1 << 20
CLOCK_FOR_S = 300.0
"""The platform's clock is looked at this often: requests that are too far off are refused. [s]"""
LOOK_BACK = timedelta(days=2)
"""How far back the last report is looked for."""
SKEW = timedelta(minutes=5)
"""A report from further ahead than the platform's clock may be is none."""

_DEVICE = ("GET", "/aep_device_management/device", "20181031202139")
_HISTORY = ("POST", "/aep_device_status/getDeviceStatusHisInPage", "20190928013337")
_COMMANDS = ("GET", "/aep_device_command/commands", "20200814163736")
Interface = tuple[str, str, str]
"""Method, path and date code."""

_STATES: Mapping[str, str] = {
    "1": "SAVED",
    "2": "SENT",
    "3": "DELIVERED",
    "4": "COMPLETED",
    "6": "CANCELLED",
    "999": "FAILED",
}
_WORDS = frozenset({"SENT", "DELIVERED", "SUCCESSFUL", "FAILED", "EXPIRED", "TIMEOUT"})

Facts = dict[str, bool | float | str]


class DevicePlatformUnavailable(Unavailable):
    """The device platform cannot be asked; nobody can tell how the device is there."""

    code = "device_platform_unavailable"
    title_zh = "物联网平台不可用"


class UnknownProduct(NotFound):
    """No account is configured for this product, so its devices are known to nobody here."""

    code = "unknown_product"
    title_zh = "未配置该产品"


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """What the platform says of a device."""

    facts: Facts
    at: datetime
    missing: tuple[str, ...]
    """Interfaces that did not answer, though others did."""


class PlatformPort(Protocol):
    """A device platform."""

    async def device(self, product: str, device: str) -> DeviceAnswer:
        """Return how a device of a product is there."""


class AepClient:
    """The platform's API, for the products that are configured."""

    def __init__(
        self,
        *,
        url: str,
        app_key: str,
        app_secret: str,
        products: Mapping[str, str],
        http: GuardedClient,
        clock: Clock,
        timeout_s: float,
        calls_per_minute: int,
    ) -> None:
        """Prepare.

        Args:
            url: Base of the API.
            app_key: Of the application.
            app_secret: Of the application; never logged.
            products: Product to its MasterKey; never logged.
            http: Calls only what an operator allowed.
            clock: Ours.
            timeout_s: For one call. [s]
            calls_per_minute: More are refused here.
        """
        self._url = url.rstrip("/")
        self._app_key = app_key
        self._app_secret = app_secret
        self._products = products
        self._http = http
        self._clock = clock
        self._timeout_s = timeout_s
        self._calls_per_minute = calls_per_minute
        self._called: deque[float] = deque()
        self._offset: tuple[float, float] | None = None
        """When the platform's clock was looked at, and how far it is from ours. [s, ms]"""

    async def device(self, product: str, device: str) -> DeviceAnswer:
        """Return how a device of a product is there.

        Raises:
            UnknownProduct: It is not configured.
            DevicePlatformUnavailable: Not one of the interfaces answered.
        """
        master_key = self._products.get(product)
        if master_key is None:
            raise _unknown(product)
        now = self._clock.now()
        query = {"productId": product, "deviceId": device}
        facts: Facts = {}
        missing: list[str] = []
        failed: DevicePlatformUnavailable | None = None
        for interface, read in ((_DEVICE, read_device), (_HISTORY, read_history), (_COMMANDS, read_commands)):
            has_body = interface[0] == "POST"
            try:
                answer = await self._ask(
                    interface,
                    # The history is the one interface that asks for no MasterKey.
                    AppKey(self._app_key, self._app_secret, None if has_body else master_key),
                    query={} if has_body else query,
                    body=_last_report(product, device, now) if has_body else b"",
                )
                facts.update(read(answer, now))
            except DevicePlatformUnavailable as exc:
                missing.append(interface[1].rsplit("/", 1)[-1])
                failed = exc
        if failed is not None and len(missing) == 3:
            raise failed
        return DeviceAnswer(facts, now, tuple(missing))

    async def _ask(
        self, interface: Interface, app: AppKey, *, query: Mapping[str, str], body: bytes
    ) -> Mapping[str, Any]:
        method, path, version = interface
        operation = path.rsplit("/", 1)[-1]
        self._spend(operation)
        try:
            offset_ms = await self._clock_offset_ms()
            now_ms = int(self._clock.now().timestamp() * 1000 + offset_ms)
            headers = signed_headers(app, timestamp_ms=now_ms, version=version, params=query, body=body)
            answer = await self._send(method, path, headers, query, body)
            found = answer.json()
        except (CallFailed, NotAllowed) as exc:
            CALLS.labels(operation, "unavailable").inc()
            raise _away(operation, exc.message) from exc
        except orjson.JSONDecodeError as exc:
            CALLS.labels(operation, "refused").inc()
            raise _away(operation, f"HTTP {answer.status} without JSON") from exc
        if not isinstance(found, dict) or not answer.is_success or str(found.get("code")) != "0":
            said = found.get("code") if isinstance(found, dict) else "no object"
            CALLS.labels(operation, "refused").inc()
            raise _away(operation, f"HTTP {answer.status}, code {str(said)[:40]}")
        CALLS.labels(operation, "answered").inc()
        return found

    async def _clock_offset_ms(self) -> float:
        at = self._clock.monotonic()
        if self._offset is not None and at - self._offset[0] < CLOCK_FOR_S:
            return self._offset[1]
        answer = await self._send("GET", "/echo", {}, {}, b"")
        stamp = answer.headers.get("x-ag-timestamp", "")
        if not (stamp.isascii() and stamp.isdigit()):
            raise CallFailed("the platform does not tell its time", message_zh="平台未返回时间", sent=True)
        self._offset = (at, int(stamp) - self._clock.now().timestamp() * 1000)
        return self._offset[1]

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
    ) -> Answer:
        return await self._http.request(
            method,
            self._url + path,
            headers=headers,
            params=query,
            content=body or None,
            timeout_s=self._timeout_s,
            max_bytes=MAX_ANSWER_BYTES,
        )

    def _spend(self, operation: str) -> None:
        now = self._clock.monotonic()
        while self._called and now - self._called[0] >= 60.0:
            self._called.popleft()
        if len(self._called) >= self._calls_per_minute:
            CALLS.labels(operation, "held_back").inc()
            raise _away(operation, f"{self._calls_per_minute} calls within a minute are enough")
        self._called.append(now)


class NoDevicePlatform:
    """Stands in where no account is configured."""

    async def device(self, product: str, device: str) -> DeviceAnswer:
        """Raise ``UnknownProduct``."""
        raise _unknown(product)


# What the answers mean


def read_device(answer: Mapping[str, Any], now: datetime) -> Facts:
    """Return whether the device is online (``netStatus`` 1) or not (2); anything else is not known."""
    result = answer.get("result")
    net = str(result.get("netStatus")) if isinstance(result, dict) else ""
    return {"platform_online": net == "1"} if net in ("1", "2") else {}


def read_history(answer: Mapping[str, Any], now: datetime) -> Facts:
    """Return when the device last reported; a time ahead of ours is none."""
    rows = answer.get("deviceStatusList")
    times = [_millis(row.get("timestamp")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    known = [at for at in times if at is not None and at <= now + SKEW]
    return {"platform_last_report_at": max(known).isoformat()} if known else {}


def read_commands(answer: Mapping[str, Any], now: datetime) -> Facts:
    """Return the state of the youngest command, as a word; one that waited longer than it may has expired."""
    result = answer.get("result")
    rows = result.get("list") if isinstance(result, dict) else None
    commands = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not commands:
        return {}
    last = max(commands, key=_created)
    word = str(last.get("resultCode") or "").upper()
    state = word if word in _WORDS else _STATES.get(str(last.get("commandStatus")))
    if state is None:
        return {}
    created, ttl_s = _millis(last.get("createTime")), _seconds(last.get("ttl"))
    if state == "SAVED" and created is not None and ttl_s is not None and created + timedelta(seconds=ttl_s) < now:
        state = "EXPIRED"
    return {"platform_command_state": state}


def _created(row: Mapping[str, Any]) -> datetime:
    return _millis(row.get("createTime")) or datetime.min.replace(tzinfo=UTC)


def _millis(value: object) -> datetime | None:
    """Return a time in milliseconds since 1970, None when it is none of this century."""
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) == 13):
        return None
    return datetime.fromtimestamp(int(text) / 1000, UTC)


def _seconds(value: object) -> float | None:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    return float(text)


def _last_report(product: str, device: str, now: datetime) -> bytes:
    return orjson.dumps(
        {
            "productId": product,
            "deviceId": device,
            "begin_timestamp": str(int((now - LOOK_BACK).timestamp() * 1000)),
            "end_timestamp": str(int(now.timestamp() * 1000)),
            "page_size": 1,
        }
    )


def _away(operation: str, reason: str) -> DevicePlatformUnavailable:
    return DevicePlatformUnavailable(
        f"device platform, {operation}: {reason}", message_zh=f"物联网平台 {operation}：{reason}"
    )


def _unknown(product: str) -> UnknownProduct:
    return UnknownProduct(
        f"product {product[:40]} is not configured (WATTRING_EXPORT__PLATFORM__PRODUCTS)",
        message_zh=f"未配置产品 {product[:40]}（WATTRING_EXPORT__PLATFORM__PRODUCTS）",
    )
