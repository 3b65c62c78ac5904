"""Sparkplug B devices of a line: births, deaths, data and commands; no connection, no clock."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.errors import InvalidInput
from libs.common.profiles import Control, SparkplugControl, SparkplugPoint
from libs.common.profiles import Protocol as Spoken
from services.ingest.domain.sparkplug import (
    NAMESPACE,
    REBIRTH,
    DataType,
    Metric,
    Node,
    Payload,
    Topic,
    Verb,
    parse_topic,
    split_address,
    type_named,
    unsigned,
)
from services.ingest.domain.writing import raw_of
from services.ingest.drivers.mqtt_products import ASKED_IS_FRESH_S, Answer, Heard, Order
from services.ingest.drivers.port import Address, RawReport
from services.ingest.drivers.sparkplug_codec import NotSparkplug, decode, encode

REBIRTH_EVERY_S = 5.0
"""A node is asked for a new birth at most this often: a birth is its largest message. [s]"""
GOOD, BAD, STALE = 192, 0, 500
"""Values of the property ``Quality``."""
DEAD = "sparkplug_death"
MAX_TEXT = 200
"""Of a text point; the rest is cut. [characters]"""


class SparkplugNodes:
    """The devices of a line that speak Sparkplug B; a ``Dialect``."""

    def __init__(self, devices: Iterable[Address]) -> None:
        self._nodes: dict[str, Node] = {}
        self._devices: dict[str, list[Address]] = {}
        self._asked_at: dict[str, datetime] = {}
        for device in devices:
            parts = split_address(device.text)
            if device.profile.protocol is Spoken.SPARKPLUG and parts is not None:
                group, node, _ = parts
                self._nodes.setdefault(f"{group}/{node}", Node(f"{group}/{node}"))
                self._devices.setdefault(device.text or "", []).append(device)

    def filters(self) -> dict[str, int]:
        """Return what to subscribe to: everything of our nodes, whichever devices they have."""
        nodes = (address.split("/") for address in self._nodes)
        return {f"{NAMESPACE}/{group}/+/{node}/#": 1 for group, node in nodes}

    def greetings(self, now: datetime) -> list[tuple[str, bytes]]:
        """Ask all nodes for a birth: without one, nothing that they say can be understood."""
        return [request for address in self._nodes for request in self._rebirth(address, now)]

    def hear(self, topic: str, payload: bytes, received_at: datetime, *, retained: bool) -> Heard | Answer | None:
        """Return what a message says; None when it is of none of our nodes."""
        who = parse_topic(topic)
        node = None if who is None else self._nodes.get(f"{who.group}/{who.node}")
        if who is None or node is None:
            return None
        if retained or who.verb.is_command:
            return Heard()
        devices = self._devices.get(who.address, [])
        try:
            message = decode(payload)
        except NotSparkplug as exc:
            owner = devices[0].device_id if devices else None
            return Heard(refused=(RejectReason.UNDECODABLE, f"{topic}: {exc}", owner))
        said = node.hear(who, message)
        heard = Heard()
        for address in said.stale:
            for device in self._devices.get(address, ()):
                heard.reports.append((device.device_id, _stale(device, received_at)))
                heard.failed.append((device.device_id, DEAD))
        if said.wants_birth:
            heard.requests += self._rebirth(node.address, received_at)
        for device in devices:
            try:
                heard.reports += [(device.device_id, r) for r in _reports(device, message, said.metrics, received_at)]
            except (OverflowError, ValueError, OSError):
                detail = f"{topic}: expected times in milliseconds since 1970"
                heard.refused = (RejectReason.UNREADABLE_TIME, detail, device.device_id)
        if said.is_birth and who.device is not None and not devices:
            detail = f"{topic}: there is no device {who.address!r} on this line"
            heard.refused = (RejectReason.UNKNOWN_DEVICE, detail, None)
        return heard

    def lasts_s(self, address: Address) -> float:
        """Return for how long a value holds: a node says what changes, so until its death."""
        node = self._node_of(address)
        return math.inf if node is not None and node.is_alive(address.text or "") else ASKED_IS_FRESH_S

    def asking(self, address: Address, now: datetime) -> Order | None:
        """Return the request for a birth, which has all values."""
        node = self._node_of(address)
        requests = [] if node is None else self._rebirth(node.address, now)
        return next((Order("rebirth", topic, payload, at_most_once=True) for topic, payload in requests), None)

    def command(self, address: Address, control: Control, value: float | None, now: datetime) -> Order:
        """Return the command message of a control."""
        if not isinstance(control, SparkplugControl):
            raise InvalidInput(f"{control.name} is no control by Sparkplug B")
        group, node, device = split_address(address.text) or ("", "", None)
        topic = Topic(group, Verb.NCMD if device is None else Verb.DCMD, node, device)
        raw = control.value if control.value is not None else raw_of(control, value, address.profile)
        datatype = type_named(control.type)
        try:
            written = unsigned(raw, datatype)
        except ValueError as exc:
            raise InvalidInput(f"{control.name}: {exc}", message_zh=f"{control.name}:数值超出类型范围") from exc
        at = _ms(now)
        metric = Metric(name=control.metric, datatype=datatype, time_ms=at, value=written)
        # The specification wants commands at most once: one that comes late is worse than none.
        return Order(control.name, str(topic), encode(Payload([metric], time_ms=at)), at_most_once=True)

    def _node_of(self, address: Address) -> Node | None:
        parts = split_address(address.text)
        return None if parts is None else self._nodes.get(f"{parts[0]}/{parts[1]}")

    def _rebirth(self, node: str, now: datetime) -> list[tuple[str, bytes]]:
        asked_at = self._asked_at.get(node)
        if asked_at is not None and abs((now - asked_at).total_seconds()) < REBIRTH_EVERY_S:
            return []
        self._asked_at[node] = now
        group, name = node.split("/")
        metric = Metric(name=REBIRTH, datatype=DataType.BOOLEAN, time_ms=_ms(now), value=True)
        return [(str(Topic(group, Verb.NCMD, name)), encode(Payload([metric], time_ms=_ms(now))))]


@dataclass(slots=True)
class _Part:
    """What a message says of a device at one time."""

    raw: dict[str, float | int | None] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    quality: dict[str, Quality] = field(default_factory=dict)

    def take(self, point: SparkplugPoint, metric: Metric) -> None:
        """Note a metric as a point."""
        value = metric.value
        if point.is_text:
            if value is not None:
                self.texts[point.name] = str(value)[:MAX_TEXT]
            return
        if isinstance(value, str):
            value = None if point.words is None else point.words.get(value)
        self.raw[point.name] = int(value) if isinstance(value, bool) else value
        if metric.quality is not None and metric.quality != GOOD:
            flags = {BAD: Quality.INVALID, STALE: Quality.STALE}
            self.quality[point.name] = flags.get(metric.quality, Quality.SUSPECT)


def _reports(device: Address, message: Payload, metrics: Sequence[Metric], received_at: datetime) -> list[RawReport]:
    """Return the reports of a device in a message: one per time, oldest first, history before what is of now.

    Raises:
        OverflowError, ValueError, OSError: A time is none.
    """
    points: dict[str, list[SparkplugPoint]] = {}
    for point in device.profile.points.values():
        if isinstance(point, SparkplugPoint) and point.copy_of is None:
            points.setdefault(point.metric, []).append(point)
    parts: dict[tuple[bool, int | None], _Part] = {}
    for metric in metrics:
        time_ms = metric.time_ms if metric.time_ms is not None else message.time_ms
        for point in points.get(metric.name or "", ()):
            parts.setdefault((metric.is_historical, time_ms), _Part()).take(point, metric)
    return [
        RawReport(
            raw=part.raw,
            received_at=received_at,
            texts=part.texts,
            quality=part.quality,
            source_time=None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC),
            archive=is_historical,
        )
        for (is_historical, time_ms), part in sorted(parts.items(), key=lambda item: (not item[0][0], item[0][1] or 0))
    ]


def _stale(device: Address, received_at: datetime) -> RawReport:
    names = [point.name for point in device.profile.points.values() if not point.is_text and point.copy_of is None]
    return RawReport(raw=dict.fromkeys(names), received_at=received_at, quality=dict.fromkeys(names, Quality.STALE))


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
