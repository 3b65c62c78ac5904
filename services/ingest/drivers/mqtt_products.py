"""What devices say and understand over MQTT, and JSON as the first way of saying it; no connection, no clock."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput
from libs.common.jsonpath import MISSING
from libs.common.profiles import (
    PLACEHOLDER,
    Control,
    DeviceProfile,
    MqttControl,
    MqttPoint,
    MqttReply,
    MqttReport,
    MqttRequest,
)
from libs.common.profiles import Protocol as Spoken
from services.ingest.domain.mqtt_json import Told, Unreadable, parse_json, read_reports
from services.ingest.domain.mqtt_topics import DEVICE, TopicTemplate, address_in
from services.ingest.domain.writing import raw_of
from services.ingest.drivers.port import Address, RawReport

ASKED_IS_FRESH_S = 2.0
UNASKED_IS_FRESH_S = 120.0
"""A value is as good as read when it came within this; the longer time is for products that cannot be asked. [s]"""

ProfileKey = tuple[str, str]


@dataclass(slots=True)
class Heard:
    """What one message came to."""

    reports: list[tuple[str, RawReport]] = field(default_factory=list)
    """Device id and report."""
    refused: tuple[RejectReason, str, str | None] | None = None
    """Why the message, or a part of it, goes on record with its bytes; and whose it is, if that is known."""
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    """What is to be sent because of it."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Devices that are not well, with the reason."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A device's reply to a command."""

    topic: str
    document: Any


@dataclass(frozen=True, slots=True)
class Order:
    """A message to a device as it is sent, and how to tell its reply."""

    id: str
    topic: str
    payload: bytes
    reply: MqttReply | None = None
    reply_topic: str | None = None
    at_most_once: bool = False
    """The dialect wants QoS 0, whatever the broker can do."""

    def judge(self, answer: Answer) -> bool | None:
        """Return whether the device took it, as the answer says; None when that is the answer to something else."""
        if self.reply is None or answer.topic != self.reply_topic:
            return None
        if self.reply.id is not None:
            found = self.reply.id.find(answer.document, answer.document)
            if found is MISSING or str(found) != self.id:
                return None
        said = self.reply.ok.find(answer.document, answer.document)
        # 0 == False in Python; in JSON they are different values.
        return type(said) is type(self.reply.value) and said == self.reply.value


class Dialect(Protocol):
    """How devices of one line speak; those of other dialects are none of its business."""

    def filters(self) -> Mapping[str, int]:
        """Return what to subscribe to, with the QoS."""

    def greetings(self, now: datetime) -> Sequence[tuple[str, bytes]]:
        """Return what is to be sent when the connection has been made."""

    def hear(self, topic: str, payload: bytes, received_at: datetime, *, retained: bool) -> Heard | Answer | None:
        """Return what a message says; None when it is in none of these devices' topics."""

    def lasts_s(self, address: Address) -> float:
        """Return for how long a value that came is as good as one that is read now. [s]"""

    def asking(self, address: Address, now: datetime) -> Order | None:
        """Return what makes a device report at once, None when nothing does."""

    def command(self, address: Address, control: Control, value: float | None, now: datetime) -> Order:
        """Return the message that does a control.

        Raises:
            InvalidInput: The control is none of this dialect, or cannot take the value.
        """


@dataclass(frozen=True, slots=True)
class _Form:
    """One sort of message of one product."""

    profile: ProfileKey
    template: TopicTemplate
    report: MqttReport


class Products:
    """The devices of a line that speak JSON; a ``Dialect``."""

    def __init__(self, devices: Iterable[Address], *, each: bool) -> None:
        """Prepare.

        Args:
            devices: Of the line; those of other dialects are left out.
            each: Subscribe to the topics of every device, in place of a wildcard per product.
        """
        self._each = each
        self._forms: list[_Form] = []
        self._points: dict[ProfileKey, dict[str, MqttPoint]] = {}
        self._devices: dict[ProfileKey, dict[str, list[str]]] = {}
        self._replies: dict[str, TopicTemplate] = {}
        for device in devices:
            if device.profile.protocol is Spoken.MQTT and device.text is not None:
                self._add(device.device_id, device.text, device.profile)

    def filters(self) -> dict[str, int]:
        """Return what to subscribe to: reports with QoS 1, replies with 0, since an old one is worth nothing."""
        found = {template.filter: 0 for template in self._replies.values()}
        for form in self._forms:
            if self._each:
                found |= {form.template.filter_of(address): 1 for address in self._devices[form.profile]}
            else:
                found[form.template.filter] = 1
        return found

    def greetings(self, now: datetime) -> list[tuple[str, bytes]]:
        """Return nothing."""
        return []

    def hear(self, topic: str, payload: bytes, received_at: datetime, *, retained: bool) -> Heard | Answer | None:
        """Return what a message says; None when no product has such a topic."""
        forms = [(form, match) for form in self._forms if (match := form.template.match(topic)) is not None]
        is_reply = any(template.match(topic) is not None for template in self._replies.values())
        if not forms and not is_reply:
            return None
        document = parse_json(payload)
        if isinstance(document, Unreadable):
            return Heard(refused=(document.reason, f"{topic}: {document.detail}", None))
        if not forms:
            return Answer(topic, document)
        heard, found = Heard(), set[str]()
        bad: list[Unreadable] = []
        for form, match in forms:
            devices, points = self._devices[form.profile], self._points[form.profile]
            for told in read_reports(document, form.report, points, address_in(match)):
                ids = devices.get(told.address or "", ())
                if isinstance(told, Unreadable):
                    # Of another product with the same topic, if that knows the device.
                    bad += [told] if ids or told.address is None else [_stranger(told.address)]
                elif not ids:
                    bad.append(_stranger(told.address))
                else:
                    found.add(told.address)
                    # What a broker kept is old news: without a time of its own it says nothing about now.
                    if not retained or told.source_time is not None:
                        heard.reports += [(device_id, _raw(told, received_at)) for device_id in ids]
        # That a product does not know the device counts only where no product does.
        bad = sorted(
            (one for one in bad if one.address not in found), key=lambda one: one.reason is RejectReason.UNKNOWN_DEVICE
        )
        if bad:
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            owner = self._owner(bad[0].address)
            heard.refused = (bad[0].reason, f"{topic}: {bad[0].detail}{more}", owner)
        return heard

    def lasts_s(self, address: Address) -> float:
        """Return for how long a value is as good as read."""
        return UNASKED_IS_FRESH_S if address.profile.read_request is None else ASKED_IS_FRESH_S

    def asking(self, address: Address, now: datetime) -> Order | None:
        """Return the product's own request."""
        request = address.profile.read_request
        return None if request is None else order_of(request, address.text or "", now)

    def command(self, address: Address, control: Control, value: float | None, now: datetime) -> Order:
        """Return the message of a control."""
        if not isinstance(control, MqttControl):
            raise InvalidInput(f"{control.name} is no control by MQTT messages")
        takes_value = "value" in PLACEHOLDER.findall(control.payload)
        raw = raw_of(control, value, address.profile) if takes_value else None
        return order_of(control, address.text or "", now, raw=raw)

    def _add(self, device_id: str, address: str, profile: DeviceProfile) -> None:
        key = (profile.name, profile.version)
        if key not in self._devices:
            self._devices[key] = {}
            self._points[key] = {name: p for name, p in profile.points.items() if isinstance(p, MqttPoint)}
            self._forms += [_Form(key, TopicTemplate.of(report.topic), report) for report in profile.reports]
            for control in profile.controls.values():
                if isinstance(control, MqttControl) and control.reply is not None:
                    self._replies.setdefault(control.reply.topic, TopicTemplate.of(control.reply.topic))
        self._devices[key].setdefault(address, []).append(device_id)

    def _owner(self, address: str | None) -> str | None:
        for devices in self._devices.values():
            ids = devices.get(address or "")
            if ids:
                return ids[0]
        return None


def order_of(message: MqttControl | MqttRequest, address: str, now: datetime, *, raw: float | None = None) -> Order:
    """Return a message of a profile with everything filled in.

    Args:
        message: A control, or what makes the device report.
        address: Of the device.
        now: Our time.
        raw: Number for ``{value}``.
    """
    id_, seconds = secrets.token_hex(6), now.timestamp()
    texts = {
        "device": address,
        "value": "" if raw is None else str(int(raw)) if raw.is_integer() else repr(raw),
        "id": id_,
        "unix_s": str(int(seconds)),
        "unix_ms": str(int(seconds * 1000)),
    }
    payload = PLACEHOLDER.sub(lambda match: texts.get(match[1], match[0]), message.payload)
    reply = message.reply if isinstance(message, MqttControl) else None
    return Order(
        id=id_,
        topic=message.topic.replace(DEVICE, address),
        payload=payload.encode(),
        reply=reply,
        reply_topic=None if reply is None else reply.topic.replace(DEVICE, address),
    )


def _stranger(address: str) -> Unreadable:
    return Unreadable(RejectReason.UNKNOWN_DEVICE, f"there is no device {address!r} on this line", address)


def _raw(told: Told, received_at: datetime) -> RawReport:
    return RawReport(
        raw=told.raw,
        received_at=received_at,
        texts=told.texts,
        source_time=told.source_time,
        seq=told.seq,
        message_id=told.message_id,
    )
