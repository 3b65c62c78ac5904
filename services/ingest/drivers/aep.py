"""A product on China Telecom's device platform (CTWing AEP): commands over its signed API.

What devices report comes by pushes over HTTP, to whichever process is called; ``Means.pushes`` has what has come to
this one. So nothing can be read here: a "read" is what the device said last, and of a switch only what it said after
the last command and a short while ago. Its lock and its last trip count however old they are.

What was not pushed (the platform pauses its pushes after failures, and loses what happens meanwhile) is in its history.

A command is on its way for as long as its ttl. While the same one still waits at the platform (the device sleeps) it
is not issued again, and what contradicts a new one is taken back.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import h11
import orjson

from libs.common.clock import Clock
from libs.common.contracts.registry import Line
from libs.common.ctwing import AppKey, signed_headers
from libs.common.errors import InvalidInput, PlatformError
from libs.common.outgoing import CallFailed, NotAllowed, parse_url, public_authorities
from libs.common.profiles import AepControl, AepPoint, Control, DeviceProfile, ProfilePoint, Protocol
from libs.common.wire import Answer, NotConnected, Wire
from services.ingest.domain.aep import (
    Interface,
    PushDecoder,
    TaskState,
    command_body,
    history_body,
    task_state_of,
)
from services.ingest.domain.loose import text_of
from services.ingest.domain.perprofile import PerProfile
from services.ingest.domain.switching import LOCK_POINT, TRIP_POINT
from services.ingest.drivers.line_settings import seconds
from services.ingest.drivers.means import Means
from services.ingest.drivers.port import (
    Address,
    BadAnswer,
    DeviceRefused,
    DeviceSession,
    DeviceSilent,
    LineDown,
    LineSink,
    NotDelivered,
    Opening,
    RawReport,
)
from services.ingest.drivers.pushed import Raw

logger = logging.getLogger(__name__)

CLOCK_EVERY_S = 300.0
"""The platform's clock is looked at this often: requests that are too far off are refused. [s]"""
TIMEOUT_S = 10.0
CALLS_AT_ONCE = 32
"""Calls of the platform, and connections to it; the others wait, and their time begins with their turn."""
NEWS_WITHIN_S = 5.0
"""A command waits this long for the platform to say what became of it, then its feedback decides. [s]"""
SPANS_IN_A_FLOOD = 4
"""It waits for so many times as long while the platform tells of earlier commands only."""
REPORT_WITHIN_S = 1.0
"""What a device reports of a command that it has done is waited for so long: it comes with the platform's word. [s]"""
AGAIN_S = 0.5
"""How often that is looked at meanwhile. [s]"""
FRESH_S = 60.0
"""What a device said longer ago is no state that one could switch by. [s]"""
OPERATOR = "wattring"
USUAL_HEADERS = {"accept": "*/*", "user-agent": "Wattring"}
MAX_ANSWER_BYTES = 1 << 20
HISTORY_SPAN = timedelta(hours=6)
"""The platform pages backwards: what is wanted oldest first is in memory for so long a span."""
MAX_PAGES = 250
"""Of a span: at a report a second there are 216 of them."""
LASTING = frozenset({LOCK_POINT, TRIP_POINT})
"""What holds until the device says otherwise."""


@dataclass(frozen=True, slots=True)
class Order:
    """A command that was issued."""

    task: str
    control: str
    value: float | None
    kept_until: float
    """Monotonic time at which the platform gives it up. [s]"""


class AepLine:
    """One product; implements ``TellingLine`` and ``ListeningLine``."""

    protocol = "aep"

    def __init__(
        self,
        *,
        line: Line,
        clock: Clock,
        means: Means,
        timeout_s: float = TIMEOUT_S,
        news_within_s: float = NEWS_WITHIN_S,
        fresh_s: float = FRESH_S,
    ) -> None:
        """Prepare a line; nothing is called before it is run or a command is given.

        Args:
            line: Of the registry: ``endpoint`` is the API's base URL, ``settings`` has ``product``,
                ``credentials_ref`` names a secret with ``app_key``, ``app_secret`` and ``master_key``.
            clock: Ours.
            means: Secrets, the way out, what was pushed.
            timeout_s: For one call of the platform. [s]
            news_within_s: For the platform to say what became of a command. [s]
            fresh_s: How old a pushed state may be to count as read. [s]

        Raises:
            InvalidInput: The endpoint is no URL, or the product is missing.
        """
        parse_url(line.endpoint)
        self.line = line
        self.product = product_of(line)
        self.orders: dict[str, list[Order]] = {}
        self.readings = PerProfile(_reading_of)
        self.written: dict[str, tuple[float, datetime]] = {}
        """Device to the moment of its last command, by both clocks."""
        self.news_within_s = news_within_s
        self.fresh_s = fresh_s
        self.api = PlatformApi(line, clock, means, timeout_s)
        self.means = means
        self.clock = clock

    async def run(self, devices: Mapping[str, Address], sink: LineSink) -> None:
        """Keep an eye on the platform: its clock and whether it can be called.

        Raises:
            LineDown, DeviceRefused: It cannot.
        """
        while True:
            await self.api.synchronise()
            sink.up()
            await self.clock.sleep(CLOCK_EVERY_S)

    def session(self, address: Address) -> DeviceSession:
        """Return a session for one device.

        Raises:
            InvalidInput: The device has no id on the platform.
        """
        return AepDevice(self, address)

    def listen(self, device_id: str, since: float) -> asyncio.Event:
        """Return what is set as soon as a device has pushed anything after a moment of the monotonic clock. [s]"""
        return self.means.pushes.listen(device_id, since)

    async def close(self) -> None:
        """Close the connections."""
        await self.api.close()


class AepDevice:
    """One device of the product; implements ``DeviceSession``."""

    def __init__(self, line: AepLine, address: Address) -> None:
        if not address.text:
            raise InvalidInput(
                f"device {address.device_id}: address: expected its deviceId on the platform",
                message_zh=f"设备 {address.device_id}:address 应为其在平台上的 deviceId",
            )
        self._line = line
        self._device_id = address.device_id
        self._platform_id = address.text
        self._points, self._decoder = line.readings.of(address.profile)

    async def read(self) -> RawReport:
        """Return what the device said last."""
        return await self.read_points(self._points)

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Return what the device said last of some points; those that cannot be known now are absent.

        Where there are other processes, or were, a push may have come to one of them: then the history is asked for
        what this one has not heard, and for the lock and the trip also when it has.
        """
        line = self._line
        raw: dict[str, float | int | None] = {}
        times: dict[str, datetime] = {}
        said = line.means.pushes.said(self._device_id)
        asked: list[str] = []
        alone_since = line.means.alone_since()
        for name in names:
            point = self._points.get(name)
            if point is None:
                continue
            one = said.get(point.copy_of or name)
            if one is not None and self._counts(name, one.received_at, line.clock.monotonic() - one.monotonic):
                raw[name], times[name] = one.value, one.received_at
            is_newest = one is not None and one.monotonic > alone_since
            if not is_newest and (name not in raw or name in LASTING):
                asked.append(name)
        if asked:
            points, at = await line.means.latest(self._device_id) or ({}, None)
            for name in asked:
                value = points.get(name)
                if value is None or at is None or (name in times and at <= times[name]):
                    continue
                if self._counts(name, at, (line.clock.now() - at).total_seconds()):
                    raw[name], times[name] = raw_of(self._points[name], value), at
        return RawReport(raw=raw, received_at=max(times.values(), default=line.clock.now()))

    async def write(self, control: Control, value: float | None) -> str:
        """Issue a command and return what the platform says of it.

        Raises:
            InvalidInput: It is no command of this platform, or the value is not within its bounds.
            LineDown: Nothing was sent.
            DeviceRefused: Platform or device said no.
            DeviceSilent, BadAnswer: What became of it is not known.
        """
        if not isinstance(control, AepControl):
            raise InvalidInput(f"{control.name} is no command of the device platform")
        line = self._line
        waiting = await self._still_waiting(control, value)
        if waiting is not None:
            return f"command {waiting.task}: it still waits at the platform"
        try:
            body = command_body(
                product=line.product, device=self._platform_id, operator=OPERATOR, control=control, value=value
            )
        except ValueError as exc:
            raise InvalidInput(str(exc)) from exc
        line.written[self._device_id] = (line.clock.monotonic(), line.clock.now())
        result = await line.api.call("POST", "/aep_device_command/command", Interface.COMMAND, body=body)
        task = _id(result.get("commandId"))
        if task is None:
            raise BadAnswer("the platform gave the command no id")
        before = line.orders.get(self._device_id, [])
        line.orders[self._device_id] = [Order(task, control.name, value, line.clock.monotonic() + control.ttl_s)]
        line.means.pushes.note_issued(line.line.id, task, self._device_id, line.written[self._device_id][0])
        await self._take_back(before)
        return await self._news(task, control)

    async def read_archive(self, points: Collection[str], since: datetime, until: datetime) -> AsyncIterator[RawReport]:
        """Yield what the platform has kept of ``[since, until)``; a step is a page of it."""
        begin = since
        while begin < until:
            end = min(begin + HISTORY_SPAN, until)
            found: dict[datetime, Mapping[str, float | int | None]] = {}
            page: str | None = None
            for _ in range(MAX_PAGES):
                rows, following = await self._history_page(begin, end, page)
                for row in rows:
                    record = None if self._decoder is None else self._decoder.remembered(row)
                    if record is not None and begin <= record[0] < end:
                        found[record[0]] = {**found.get(record[0], {}), **record[1]}
                yield RawReport(raw={}, received_at=self._line.clock.now(), archive=True)
                if not rows or following is None or following == page:
                    break
                page = following
            for at, values in sorted(found.items()):
                raw = {name: value for name, value in values.items() if name in points}
                yield RawReport(raw=raw, received_at=self._line.clock.now(), source_time=at, archive=True)
            begin = end

    async def _history_page(
        self, since: datetime, until: datetime, page: str | None
    ) -> tuple[list[object], str | None]:
        """Return records and what the page after them is asked for by.

        Raises:
            LineDown, DeviceSilent, BadAnswer: Not now.
        """
        body = history_body(product=self._line.product, device=self._platform_id, since=since, until=until, page=page)
        path = "/aep_device_status/getDeviceStatusHisInPage"
        try:
            answer = await self._line.api.ask("POST", path, Interface.HISTORY, body=body, master_key=False)
        except DeviceRefused as exc:
            # A code other than 0 is a quota or a store that fails as a rule: nothing that is refused for good.
            raise BadAnswer(exc.message) from exc
        rows = answer.get("deviceStatusList")
        if not isinstance(rows, list):
            raise BadAnswer(f"{path}: expected a deviceStatusList")
        return rows, text_of(answer.get("page_timestamp"))

    def _counts(self, name: str, at: datetime, age_s: float) -> bool:
        """Return whether something said at a time tells how things are now."""
        if name in LASTING:
            return True
        written = self._line.written.get(self._device_id)
        return age_s <= self._line.fresh_s and (written is None or at > written[1])

    async def _still_waiting(self, control: AepControl, value: float | None) -> Order | None:
        """Return the same command when the platform still keeps it for the device."""
        orders = self._line.orders.get(self._device_id, [])
        last = orders[-1] if orders else None
        if last is None or (last.control, last.value) != (control.name, value):
            return None
        if self._line.clock.monotonic() >= last.kept_until:
            return None
        return last if await self._state(last.task) in (TaskState.SAVED, TaskState.SENT) else None

    async def _news(self, task: str, control: AepControl) -> str:
        """Return what became of a command: at once when that is final or the device shows it, else after a while.

        While the platform tells of commands that were issued before this one it is not asked, and waited for longer:
        what it has to say of this one is behind them. Letting the next order begin meanwhile would only make more of
        what it has to say. What it has nothing to say of though it tells of later ones waits for its device.

        Raises:
            DeviceRefused, DeviceSilent: As ``_judged``.
        """
        line = self._line
        pushes, line_id = line.means.pushes, line.line.id
        since, _ = line.written[self._device_id]
        shows = self._shown_by(control)
        wait_s, waited_s = line.news_within_s, 0.0
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    state = await pushes.outcome(line_id, task, device_id=self._device_id, since=since, shows=shows)
            except TimeoutError:
                if self._is_passed_over(since):
                    return _judged(task, await self._state(task), control)
                waited_s += wait_s
                if waited_s >= SPANS_IN_A_FLOOD * line.news_within_s:
                    return _judged(task, pushes.task(line_id, task), control)
                wait_s = min(AGAIN_S, line.news_within_s)
            else:
                if state is TaskState.COMPLETED and shows is not None:
                    await pushes.shown(self._device_id, since=since, shows=shows, within_s=REPORT_WITHIN_S)
                return f"command {task}: the device reports it" if state is None else _judged(task, state, control)

    def _is_passed_over(self, since: float) -> bool:
        """Return whether what there is to tell of a command that was issued then should have come by now. [s]"""
        line = self._line
        pushes, line_id, within_s = line.means.pushes, line.line.id, line.news_within_s
        return pushes.tasks_told_s(line_id) >= within_s or pushes.has_told_of_later(line_id, since + within_s / 2)

    def _shown_by(self, control: AepControl) -> Callable[[Raw], bool] | None:
        """Return what tells whether a report shows that a control was followed, None where none does."""
        value = control.read_back.value
        points = [self._points.get(name) for name in control.read_back.points]
        wanted = {
            point.copy_of or point.name: raw_of(point, value)
            for point in points
            if point is not None and value is not None
        }
        if not wanted or len(points) > len(wanted):
            return None
        return lambda raw: all(name in raw and raw[name] == one for name, one in wanted.items())

    async def _state(self, task: str) -> TaskState | None:
        """Return how far a command is, as it was pushed or as the platform says when it is asked."""
        pushed = self._line.means.pushes.task(self._line.line.id, task)
        if pushed is not None and pushed.is_final:
            return pushed
        params = {"commandId": task, "productId": self._line.product, "deviceId": self._platform_id}
        try:
            result = await self._line.api.call(
                "GET", "/aep_device_command/command", Interface.COMMAND_STATE, params=params
            )
        except PlatformError as exc:
            logger.info("state of a command is not known", extra={"command": task, "reason": exc.message})
            return pushed
        asked = task_state_of(result.get("commandStatus"))
        return max((state for state in (pushed, asked) if state is not None), default=None)

    async def _take_back(self, orders: Collection[Order]) -> None:
        """Cancel what an earlier command still has under way, so that it does not come after the new one."""
        for order in orders:
            if self._line.clock.monotonic() >= order.kept_until:
                continue
            body = orjson.dumps(
                {"commandId": order.task, "productId": _number(self._line.product), "deviceId": self._platform_id}
            )
            try:
                await self._line.api.call("PUT", "/aep_device_command/cancelCommand", Interface.CANCEL, body=body)
            except PlatformError as exc:
                # Delivered already, as a rule: then it came before the new one.
                logger.info("earlier command not taken back", extra={"command": order.task, "reason": exc.message})


class PlatformApi:
    """The signed API, with the platform's clock."""

    def __init__(self, line: Line, clock: Clock, means: Means, timeout_s: float) -> None:
        self._line = line
        self._clock = clock
        self._means = means
        self._timeout_s = timeout_s
        self._wire: Wire | None = None
        self._room = asyncio.Semaphore(CALLS_AT_ONCE)
        self._offset_ms: float | None = None

    async def close(self) -> None:
        """Close the connections."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
            await asyncio.sleep(0)  # sockets are closed in the loop's next turn

    async def synchronise(self) -> None:
        """Learn how far the platform's clock is from ours.

        Raises:
            LineDown: It does not answer, or may not be called.
        """
        if self._wire is not None:
            self._wire.close_old()
        answer = await self._send("GET", "/echo", {}, {}, b"")
        stamp = answer.header("x-ag-timestamp") or ""
        if not stamp.isdigit():
            raise LineDown(f"line {self._line.id}: {self._line.endpoint}/echo gave no x-ag-timestamp")
        self._offset_ms = int(stamp) - self._clock.now().timestamp() * 1000

    async def call(
        self,
        method: str,
        path: str,
        version: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Mapping[str, Any]:
        """Call an interface and return its ``result``. Raises as ``ask``."""
        result = (await self.ask(method, path, version, params=params, body=body)).get("result")
        return result if isinstance(result, dict) else {}

    async def ask(
        self,
        method: str,
        path: str,
        version: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes = b"",
        master_key: bool = True,
    ) -> Mapping[str, Any]:
        """Call an interface and return its whole answer.

        Args:
            method: Of HTTP.
            path: Below the line's endpoint.
            version: The interface's date code.
            params: Of the query.
            body: JSON.
            master_key: Whether the interface asks for the product's MasterKey.

        Raises:
            InvalidInput: The secret cannot be used.
            LineDown: Nothing was sent.
            DeviceRefused: The platform said no.
            DeviceSilent: There was no answer.
            BadAnswer: The answer is none.
        """
        if self._offset_ms is None:
            await self.synchronise()
        async with self._room:
            app = self._app() if master_key else replace(self._app(), master_key=None)
            now_ms = int(self._clock.now().astimezone(UTC).timestamp() * 1000 + (self._offset_ms or 0.0))
            headers = signed_headers(app, timestamp_ms=now_ms, version=version, params=params or {}, body=body)
            answer = await self._send(method, path, headers, params or {}, body)
        if answer.status >= 500:
            raise DeviceSilent(f"{path}: the platform answered {answer.status}")
        try:
            found = orjson.loads(answer.body)
        except orjson.JSONDecodeError as exc:
            raise BadAnswer(f"{path}: answered {answer.status} without JSON", raw=answer.body[:512]) from exc
        if not isinstance(found, dict):
            raise BadAnswer(f"{path}: expected an object", raw=answer.body[:512])
        if not 200 <= answer.status < 300 or str(found.get("code")) != "0":
            raise DeviceRefused(f"{path}: code {found.get('code')}: {str(found.get('msg') or found.get('desc'))[:200]}")
        return found

    def _app(self) -> AppKey:
        if self._line.credentials_ref is None:
            raise InvalidInput(
                f"line {self._line.id}: credentials_ref: commands need a secret",
                message_zh=f"线路 {self._line.id}:下发指令需要 credentials_ref",
            )
        secret = self._means.secrets.read(self._line.credentials_ref)
        return AppKey(secret.require("app_key"), secret.require("app_secret"), secret.require("master_key"))

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], params: Mapping[str, str], body: bytes
    ) -> Answer:
        if self._wire is None:
            self._wire = Wire(self._means.guard, public_authorities())
        url = self._line.endpoint.rstrip("/") + path
        if params:
            url = f"{url}?{urlencode(params, quote_via=quote)}"
        try:
            answer = await self._wire.call(
                method, url, {**USUAL_HEADERS, **headers}, body, timeout_s=self._timeout_s, max_bytes=MAX_ANSWER_BYTES
            )
        except (NotAllowed, CallFailed, NotConnected) as exc:
            raise self._failed(exc, sent=False) from exc
        except (TimeoutError, OSError, h11.ProtocolError) as exc:
            raise self._failed(exc, sent=method != "GET") from exc
        if not answer.is_whole:
            raise BadAnswer(f"{path}: the answer broke off, or is longer than {MAX_ANSWER_BYTES} bytes")
        return answer

    def _failed(self, exc: Exception, *, sent: bool) -> LineDown | DeviceSilent:
        """Return what it means that a call had no answer; ``sent``: whether it may have been done all the same."""
        if isinstance(exc, PlatformError):
            reason, reason_zh = exc.message, exc.message_zh or exc.message
        elif isinstance(exc, TimeoutError):
            reason, reason_zh = f"no answer within {self._timeout_s:g} s", f"{self._timeout_s:g} 秒内无应答"
        else:
            reason = reason_zh = str(exc) or type(exc).__name__
        place = self._line.endpoint
        kind = DeviceSilent if sent else LineDown
        return kind(f"line {self._line.id}: {place}: {reason}", message_zh=f"线路 {self._line.id}:{place}:{reason_zh}")


def open_aep(opening: Opening) -> AepLine:
    """Return the driver of a line. Raises ``InvalidInput``."""
    line = opening.line
    return AepLine(
        line=line,
        clock=opening.clock,
        means=opening.means,
        timeout_s=seconds(line, "timeout_s", TIMEOUT_S),
        news_within_s=seconds(line, "news_within_s", NEWS_WITHIN_S),
        fresh_s=seconds(line, "fresh_s", FRESH_S, most=3600),
    )


def supports(profile: DeviceProfile) -> bool:
    """Return whether devices of a profile can be on the platform."""
    return profile.protocol is Protocol.AEP


def product_of(line: Line) -> str:
    """Return the product that a line is.

    Raises:
        InvalidInput: The line does not say.
    """
    value = (line.settings or {}).get("product")
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise InvalidInput(
            f"line {line.id}: settings.product: expected the productId, found {value!r}",
            message_zh=f"线路 {line.id}:settings.product 应为 productId,实际为 {value!r}",
        )
    return str(value).strip()


def raw_of(point: ProfilePoint, value: float) -> float | int | None:
    """Return the raw number that a point's value comes from; None where the profile has none for it."""
    if point.value_map is not None:
        return next((raw for raw, meant in point.value_map.items() if meant == value), None)
    return value / point.scale


def _reading_of(profile: DeviceProfile) -> tuple[Mapping[str, AepPoint], PushDecoder | None]:
    """Return the points of a profile, and what reads the product's pushes."""
    points = {name: point for name, point in profile.points.items() if isinstance(point, AepPoint)}
    return points, None if profile.aep is None else PushDecoder(points, profile.aep)


def _judged(task: str, state: TaskState | None, control: AepControl) -> str:
    """Return the answer to a command.

    Raises:
        DeviceRefused: It failed.
        NotDelivered: The platform keeps it for a device that sleeps, or is gone.
        DeviceSilent: It was not delivered, or the device did not answer; whether it was done is not known.
    """
    match state:
        case TaskState.FAILED:
            raise DeviceRefused(f"command {task}: the platform says that it failed")
        case TaskState.EXPIRED | TaskState.CANCELLED | TaskState.TIMED_OUT:
            raise DeviceSilent(f"command {task}: {state.name.lower()}")
        case TaskState.SAVED if control.ttl_s > 0:
            raise NotDelivered(f"command {task}: the platform keeps it, the device has not come for it")
        case None:
            return f"command {task} was taken by the platform"
        case _:
            return f"command {task}: {state.name.lower()}"


def _id(value: object) -> str | None:
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) and str(value) else None


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
