"""MQTT 5 and 3.1.1: one line is one broker, whose devices speak JSON in topics of their own, or Sparkplug B.

A message is acknowledged when what it says has been accepted, in the order in which messages came; what waits is
accepted together. With the spool full nothing is acknowledged, so that the broker keeps it. A command is progress when
the broker has it, and a step more when the device replies; what proves it is the point that is read back.

Source:
    southbound.md 10; MQTT 5.0 (OASIS, 2019), 4.4 to 4.6.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from secrets import token_hex

from paho.mqtt.client import MQTTMessage

from libs.common.clock import Clock
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput
from libs.common.profiles import Control, DeviceProfile, Protocol
from libs.common.secretstore import SecretUnusable
from services.ingest.domain.mqtt_topics import is_address
from services.ingest.domain.sparkplug import split_address
from services.ingest.drivers.mqtt_link import Broker, MqttLink
from services.ingest.drivers.mqtt_products import Answer, Dialect, Heard, Order, Products
from services.ingest.drivers.port import Address, DeviceRefused, DeviceSilent, LineDown, LineSink, RawReport
from services.ingest.drivers.sparkplug import SparkplugNodes
from services.ingest.spool import SpoolFull

logger = logging.getLogger(__name__)

MAX_BATCH = 500
"""Reports from which on what was taken is accepted before more is read."""
FULL_PAUSE_S = 2.0
"""While the spool is full, what has come is offered again after this. [s]"""
REST_OF_ANSWER_S = 1.0
"""Where a device tells its points in several messages, the others may come this much after the first. [s]"""
COMMAND_LIFE_S = 15.0
"""A broker drops a command that it could not deliver within this, where the control says nothing. [s]"""


@dataclass(slots=True)
class Known:
    """What a device said last, point by point."""

    values: dict[str, tuple[float | int | None, datetime, float]] = field(default_factory=dict)
    """Raw number, when it came by the wall clock, and by the monotonic one. [s]"""
    written_at: float = -math.inf
    """Monotonic time of the last command; what came before it proves nothing. [s]"""

    def take(self, report: RawReport, now: float) -> None:
        """Note a report."""
        for name, number in report.raw.items():
            self.values[name] = (number, report.received_at, now)

    def since(self, names: Collection[str], at: float) -> RawReport | None:
        """Return those of the points that came after ``at`` and after the last command; None when there are none."""
        at = max(at, self.written_at)
        found = {name: value for name in names if (value := self.values.get(name)) is not None and value[2] >= at}
        if not found:
            return None
        received_at = min(value[1] for value in found.values())
        return RawReport(raw={name: value[0] for name, value in found.items()}, received_at=received_at)


class MqttLine:
    """One broker and the devices that speak through it."""

    protocol = "mqtt"

    def __init__(
        self,
        *,
        broker: Callable[[], Broker],
        clock: Clock,
        max_payload_bytes: int,
        answer_within_s: float,
        each: bool = False,
        beside: bool = False,
    ) -> None:
        """Prepare; nothing is connected before ``run``.

        Args:
            broker: Says how it is reached, with the passwords and certificates as they are then. May read files;
                raises ``SecretUnusable``.
            clock: Ours.
            max_payload_bytes: A longer message is not even parsed. [B]
            answer_within_s: A device that was asked must answer within this. [s]
            each: Subscribe to the topics of every device, in place of a wildcard per product.
            beside: A second connection for one order, which takes nothing away from whoever holds the line.
        """
        self._broker = broker
        self._clock = clock
        self._max_payload_bytes = max_payload_bytes
        self._answer_within_s = answer_within_s
        self._each = each
        self._beside = beside
        self._link: MqttLink | None = None
        self._dialects: Mapping[Protocol, Dialect] = {}
        self._known: dict[str, Known] = {}
        self._orders: dict[str, tuple[Order, asyncio.Future[bool]]] = {}
        self._waiters: set[asyncio.Future[None]] = set()

    async def run(self, devices: Mapping[str, Address], sink: LineSink) -> None:
        """Connect, deliver until cancelled."""
        self._known = {device_id: self._known.get(device_id, Known()) for device_id in devices}
        self._dialects = {
            Protocol.MQTT: Products(devices.values(), each=self._each or self._beside),
            Protocol.SPARKPLUG: SparkplugNodes(devices.values()),
        }
        async with self._connected() as link:
            filters: dict[str, int] = {}
            for dialect in self._dialects.values():
                filters |= dialect.filters()
            # What comes beside the holder of the line is listened to and left to the holder.
            wanted = [(filter_, 0 if self._beside else qos) for filter_, qos in sorted(filters.items())]
            await link.subscribe(wanted)
            for dialect in self._dialects.values():
                await _send(link, dialect.greetings(self._clock.now()))
            sink.up()
            while True:
                await self._take_in(link, await link.take(), sink)

    def session(self, address: Address) -> "MqttSession":
        """Return a session for a device of this broker.

        Raises:
            InvalidInput: Its address cannot stand in a topic, or its profile is for something else.
        """
        if not supports(address.profile):
            raise InvalidInput(f"device {address.device_id}: its profile {address.profile.name} is not for MQTT")
        if address.profile.protocol is Protocol.SPARKPLUG:
            if split_address(address.text) is None:
                raise InvalidInput(
                    f"device {address.device_id}: address {address.text!r}: expected group/node or group/node/device",
                    message_zh=f"设备 {address.device_id}:地址 {address.text!r} 应为 组/节点 或 组/节点/设备",
                )
        elif address.text is None or not is_address(address.text):
            raise InvalidInput(
                f"device {address.device_id}: address {address.text!r} cannot be in a topic: expected no / + #",
                message_zh=f"设备 {address.device_id}:地址 {address.text!r} 不能用于主题,不得为空,不得含 /、+、#",
            )
        return MqttSession(self, address)

    async def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            await self._link.close()

    # what comes

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[MqttLink]:
        try:
            broker = await asyncio.to_thread(self._broker)
        except SecretUnusable as exc:
            raise DeviceRefused(exc.message, message_zh=exc.message_zh) from exc
        if self._beside:
            broker = replace(broker, client_id=f"{broker.client_id}-order-{token_hex(3)}", clean=True, will=None)
        link = MqttLink(broker)
        try:
            await link.open()
            self._link = link
            yield link
        finally:
            self._link = None
            self._wake()
            await link.close()

    async def _take_in(self, link: MqttLink, messages: Sequence[MQTTMessage], sink: LineSink) -> None:
        """Accept what messages say, then acknowledge them.

        Raises:
            LineDown: The connection was lost while something could not be accepted; it comes again.
        """
        reports: list[tuple[str, RawReport]] = []
        refused: list[tuple[MQTTMessage, RejectReason, str, str | None]] = []
        begin = 0
        for number, message in enumerate(messages, start=1):
            heard = self._hear(message)
            reports += heard.reports
            if heard.refused is not None:
                refused.append((message, *heard.refused))
            for device_id, reason in heard.failed:
                sink.failed(device_id, reason)
            await _send(link, heard.requests)
            if number < len(messages) and len(reports) + len(refused) < MAX_BATCH:
                continue
            self._note(reports)
            if not self._beside:
                await self._make_safe(link, sink, reports, refused)
                for taken in messages[begin:number]:
                    link.ack(taken)
            reports, refused, begin = [], [], number

    def _hear(self, message: MQTTMessage) -> Heard:
        topic, size = message.topic, len(message.payload)
        if size > self._max_payload_bytes:
            detail = f"{topic}: expected at most {self._max_payload_bytes} bytes, came {size}"
            return Heard(refused=(RejectReason.TOO_LARGE, detail, None))
        received_at = self._clock.now()
        for dialect in self._dialects.values():
            try:
                heard = dialect.hear(topic, bytes(message.payload), received_at, retained=message.retain)
            except Exception as exc:  # our mistake; without this the message would come again and again
                logger.exception("message could not be judged", extra={"topic": topic})
                return Heard(refused=(RejectReason.UNDECODABLE, f"{topic}: {type(exc).__name__}", None))
            if isinstance(heard, Answer):
                self._answered(heard)
                return Heard()
            if heard is not None:
                return heard
        # Left in the session from a time when the line had other devices.
        return Heard(refused=(RejectReason.FOREIGN_ADDRESS, f"{topic}: no device of this line has such a topic", None))

    async def _make_safe(
        self,
        link: MqttLink,
        sink: LineSink,
        reports: Sequence[tuple[str, RawReport]],
        refused: Sequence[tuple[MQTTMessage, RejectReason, str, str | None]],
    ) -> None:
        if reports:
            await self._until_accepted(link, lambda: sink.reports(reports))
        for message, reason, detail, device_id in refused:
            if device_id is not None:
                sink.failed(device_id, reason)
            payload = bytes(message.payload)
            await self._until_accepted(
                link,
                lambda: sink.reject(reason, payload, detail, device_id=device_id),  # noqa: B023  # done at once
            )

    async def _until_accepted(self, link: MqttLink, accept: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await accept()
            except SpoolFull:
                await self._clock.sleep(FULL_PAUSE_S)
                if not link.is_up:
                    await link.lost()
            else:
                return

    def _note(self, reports: Sequence[tuple[str, RawReport]]) -> None:
        now = self._clock.monotonic()
        for device_id, report in reports:
            if not report.archive:
                self._known.setdefault(device_id, Known()).take(report, now)
        self._wake()

    def _answered(self, answer: Answer) -> None:
        for order, done in self._orders.values():
            taken = order.judge(answer)
            if taken is not None and not done.done():
                done.set_result(taken)
                return

    # what is asked and told

    async def read_points(self, address: Address, names: Collection[str]) -> RawReport:
        """Return points of a device as they are now: known well enough, asked for, or waited for."""
        link, dialect = self._reached(address)
        points = address.profile.points
        wanted = frozenset(name for name in names if name in points and not points[name].is_text)
        known = self._known.setdefault(address.device_id, Known())
        began = self._clock.monotonic()
        found = known.since(wanted, began - dialect.lasts_s(address))
        if found is not None and found.raw.keys() == wanted:
            return found
        order = dialect.asking(address, self._clock.now())
        if order is not None:
            await self._publish(link, order, life_s=self._answer_within_s)
        give_up_at = began + self._answer_within_s
        while (wait_s := give_up_at - self._clock.monotonic()) > 0:
            await self._news(wait_s)
            if not link.is_up:
                raise LineDown("the connection to the broker was lost")
            found = known.since(wanted, began)
            if found is not None:
                if found.raw.keys() == wanted:
                    return found
                give_up_at = min(give_up_at, self._clock.monotonic() + REST_OF_ANSWER_S)
        if found is None:
            raise DeviceSilent(f"{address.device_id}: nothing came within {self._answer_within_s:g} s")
        return found

    async def write(self, address: Address, control: Control, value: float | None) -> str:
        """Send a command, and wait for the reply where the product has one."""
        link, dialect = self._reached(address)
        order = dialect.command(address, control, value, self._clock.now())
        self._known.setdefault(address.device_id, Known()).written_at = self._clock.monotonic()
        if order.reply is None:
            return await self._publish(link, order, life_s=control.verify_within_s or COMMAND_LIFE_S)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._orders[order.id] = (order, done)
        try:
            await self._publish(link, order, life_s=control.verify_within_s or COMMAND_LIFE_S)
            await asyncio.wait([done], timeout=self._answer_within_s)
        finally:
            del self._orders[order.id]
        if not done.done():
            raise DeviceSilent(f"{address.device_id}: {control.name}: no reply within {self._answer_within_s:g} s")
        if not done.result():
            raise DeviceRefused(f"{address.device_id}: {control.name}: the device replied no")
        return f"{order.reply_topic}: taken"

    def _reached(self, address: Address) -> tuple[MqttLink, Dialect]:
        link, dialect = self._link, self._dialects.get(address.profile.protocol)
        if link is None or dialect is None or not link.is_up:
            raise LineDown("the broker is not connected")
        return link, dialect

    async def _publish(self, link: MqttLink, order: Order, *, life_s: float) -> str:
        # A broker would keep a command with QoS 1 for a device that is away, and an OFF must not arrive hours later:
        # MQTT 5 can say how long it counts, 3.1.1 cannot, so there it is sent at most once.
        if link.is_v5 and not order.at_most_once:
            await link.publish(order.topic, order.payload, qos=1, expiry_s=math.ceil(life_s))
            return f"{order.topic}: the broker has it"
        await link.publish(order.topic, order.payload, qos=0)
        return f"{order.topic}: sent"

    async def _news(self, wait_s: float) -> None:
        """Return when something came, or after ``wait_s``."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=wait_s)
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class MqttSession:
    """One device behind a broker."""

    def __init__(self, line: MqttLine, address: Address) -> None:
        self._line = line
        self._address = address

    async def read(self) -> RawReport:
        """Read all points."""
        return await self.read_points(self._address.profile.points)

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read some points now."""
        return await self._line.read_points(self._address, names)

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control."""
        return await self._line.write(self._address, control, value)


def supports(profile: DeviceProfile) -> bool:
    """Return whether this driver understands devices of the profile."""
    return profile.protocol in (Protocol.MQTT, Protocol.SPARKPLUG)


async def _send(link: MqttLink, messages: Sequence[tuple[str, bytes]]) -> None:
    for topic, payload in messages:
        await link.publish(topic, payload, qos=0)
