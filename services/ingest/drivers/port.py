"""What every driver offers, and the four ways in which a device can fail to answer.

A driver owns one line. There are two sorts: a ``LineDriver`` asks, one request in flight, and a ``TellingLine`` is
told by devices that speak by themselves. Both turn the protocol's words into raw numbers per point and its errors
into the ones below; when to ask or to connect again is decided by whoever calls.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.contracts.registry import Line
from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.errors import InvalidInput, PlatformError, Unavailable
from libs.common.profiles import Control, DeviceProfile
from libs.common.secretstore import SecretStore
from services.ingest.drivers.means import Means


class LineDown(Unavailable):
    """The line cannot be reached; that says nothing about the devices on it."""

    code = "line_down"
    title_zh = "线路不通"


class DeviceSilent(Unavailable):
    """The device did not answer in time. After a write this means that the outcome is not known.

    ``facts["raw"]``: bytes that came and were no answer.
    """

    code = "device_silent"
    title_zh = "设备无应答"


class NotDelivered(DeviceSilent):
    """Whoever carries the command keeps it for a device that has not come for it yet; it is no good to write again."""


class DeviceRefused(PlatformError):
    """The device answered no."""

    code = "device_refused"
    title_zh = "设备拒绝"


class NotLetIn(DeviceRefused):
    """The other side does not know our name, or does not take our password."""

    code = "auth_failed"
    title_zh = "鉴权失败"


class BadAnswer(PlatformError):
    """What came is not an answer to what was asked; ``facts["raw"]`` has its bytes."""

    code = "bad_answer"
    title_zh = "应答有误"


class NotOffered(InvalidInput):
    """The device, or its protocol, has no such thing; nothing was sent."""

    code = "unsupported"
    title_zh = "设备不支持"


@dataclass(frozen=True, slots=True)
class RawReport:
    """What a device said, before scales, ratios and units."""

    raw: Mapping[str, float | int | None]
    """Raw number per point; None where the device gave none. Points that were not read are absent."""
    received_at: datetime
    device_time: datetime | None = None
    """The device's own clock, when it told it."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Points that were asked for and not read, with the reason."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Points that are texts: version, serial number, model."""
    quality: Mapping[str, Quality] = field(default_factory=dict)
    """What the protocol itself says of a point (104 quality bits, OPC UA status); absent is good."""
    source_time: datetime | None = None
    """When the values held, as the device says; None takes ``received_at``. Not the same as ``device_time``, the
    reading of a clock beside values that are of now."""
    seq: int | None = None
    """The device's own number of the report."""
    message_id: str | None = None
    """What its protocol tells deliveries apart by."""
    archive: bool = False
    """Asked for later, from the device's memory: goes to backfill and is never judged live."""
    events: "tuple[DeviceEvent, ...]" = ()
    """Alarms of the device that began or ended since it was last asked; of lines that ask. Others tell the sink."""


@dataclass(frozen=True, slots=True)
class Address:
    """How a device is called on its line."""

    device_id: str
    text: str | None
    """As the registry has it; None takes the profile's factory setting."""
    profile: DeviceProfile


class DeviceSession(Protocol):
    """One device on a line, with what was learnt about it."""

    async def read(self) -> RawReport:
        """Read the points that are due: the fast ones each time, the slow ones at first and once a day.

        Raises:
            LineDown, DeviceSilent: Nothing was read.
            DeviceRefused, BadAnswer: Nothing usable was read.
        """

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read these points now. Raises as ``read``."""

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control and return the device's answer in its protocol's words.

        Args:
            control: Of the device's profile.
            value: In the unit of the control's read-back point, where the control takes one.

        Raises:
            LineDown: Nothing was sent.
            DeviceSilent: It was sent; whether it was done is not known.
            DeviceRefused: The device said no.
            BadAnswer: It was sent; the answer is not the one of the protocol.
        """


@runtime_checkable
class ArchiveSession(Protocol):
    """A session for a device that remembers what it measured (load profile, frozen values, a platform's store).

    A session that is one offers it beside ``DeviceSession``; what has no memory leaves it out, and its gaps stay gaps.
    """

    def read_archive(self, points: Collection[str], since: datetime, until: datetime) -> AsyncIterator[RawReport]:
        """Yield what the device remembers of ``[since, until)``, oldest first, as far as its memory goes.

        Every step is one exchange at most and leaves the line free: between two steps others use it, and the next
        step may come much later or never (``aclose``).

        Args:
            points: Those that are wanted, of the profile; what the memory does not hold is left out.
            since: Begin, included.
            until: End, not included.

        Yields:
            Reports with ``archive=True`` and the time of the device's record as ``source_time``. An exchange that
            brings no record yields one with an empty ``raw``, so that the line is free again after each of them.

        Raises:
            LineDown, DeviceSilent, BadAnswer: Not now; asked again later from where it stopped.
            DeviceRefused: The device does not give this out; not asked again for this span.
        """


class Care(StrEnum):
    """What keeps a device in order, by its protocol and not by a control of its profile."""

    READ_CLOCK = "read_clock"
    SET_CLOCK = "set_clock"
    """To our time, in the zone that the device's clock is set to."""
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Cared:
    """What came of it."""

    answer: str
    """The device's, in its protocol's words."""
    skew: timedelta | None = None
    """The device's clock minus ours, as read after it; None where it cannot be read."""


@runtime_checkable
class CaredSession(Protocol):
    """A session of a protocol that sets clocks or restarts devices; what has neither leaves this out."""

    async def care(self, task: Care) -> Cared:
        """Do one of these.

        Raises:
            NotOffered: Not by this protocol, not by this device, or not without something that is missing.
            LineDown: Nothing was sent.
            DeviceSilent: It was sent; whether it was done is not known.
            DeviceRefused: The device said no.
            BadAnswer: It was sent; the answer is not the one of the protocol.
        """


class LineDriver(Protocol):
    """One line."""

    protocol: str

    def session(self, address: Address) -> DeviceSession:
        """Return a session for a device on this line; opens nothing."""

    async def close(self) -> None:
        """Close the connection; the next request opens it again."""


EventPhase = Literal[Phase.BEGIN, Phase.END, Phase.ONCE]


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """An alarm or event that a device sends by itself."""

    code: str
    """In the protocol's or the platform's words; alarm's table knows what it means."""
    phase: EventPhase
    text: str
    """As the device or its profile words it; empty where neither does."""
    source_time: datetime
    severity: int | None = None
    """As the device rates it, 1 the worst, 4 the least."""
    point: str | None = None
    value: float | None = None
    seq: int | None = None


class LineSink(Protocol):
    """Where a line whose devices speak by themselves puts what they say."""

    async def report(self, device_id: str, report: RawReport) -> None:
        """Accept a report; on return it is safe with the bus or on disk, and may be acknowledged.

        Raises:
            SpoolFull: It is not accepted; do not acknowledge it.
        """

    async def reports(self, told: Sequence[tuple[str, RawReport]]) -> None:
        """Accept reports of several devices at once, in their order: what has waited goes in one step to the bus.

        Raises:
            SpoolFull: At least one is not accepted; acknowledge none. Those that were are told as duplicates later.
        """

    async def event(self, device_id: str, event: DeviceEvent) -> None:
        """Accept an event. Raises as ``report``."""

    async def reject(self, reason: RejectReason, raw: bytes, detail: str, *, device_id: str | None = None) -> None:
        """Put something that cannot be understood on record. Raises as ``report``."""

    def up(self) -> None:
        """The line works."""

    def failed(self, device_id: str, reason: str) -> None:
        """A device is not well though the line is; the reason is told when its reports stay away."""


@runtime_checkable
class TellingLine(Protocol):
    """One line whose devices speak by themselves: a 104 connection, an OPC UA server, a broker."""

    protocol: str

    async def run(self, devices: Mapping[str, Address], sink: LineSink) -> None:
        """Connect, deliver until cancelled; whoever calls connects again with growing pauses.

        Args:
            devices: Of the line; when they change ``run`` is cancelled and called anew.
            sink: Where to.

        Raises:
            LineDown: The connection could not be made, or is lost.
            DeviceRefused: The peer does not want us (credentials, certificate); tried again slowly.
        """

    def session(self, address: Address) -> DeviceSession:
        """Return a session for reads and writes while ``run`` is connected; they raise ``LineDown`` when it is not."""

    async def close(self) -> None:
        """Close the connection."""


@runtime_checkable
class ListeningLine(Protocol):
    """A telling line that hears of a device the moment it speaks, so that nobody has to look again and again."""

    def listen(self, device_id: str, since: float) -> asyncio.Event:
        """Return what is set as soon as a device has said anything after a moment of the monotonic clock. [s]"""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a driver needs to open a line whose devices speak by themselves."""

    line: Line
    clock: Clock
    means: Means
    beside: bool
    """A second connection for one order, while another process may hold the line: it must not push that one out."""

    @property
    def secrets(self) -> SecretStore:
        """Where the line's ``credentials_ref`` and certificates lead to."""
        return self.means.secrets


class Channel(Protocol):
    """A stream of bytes to the devices of a line: a TCP connection, a serial port, a tunnel through a DTU."""

    async def open(self) -> None:
        """Connect unless connected.

        Raises:
            LineDown: Nobody is there.
        """

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises ``LineDown``."""

    async def receive(self, timeout_s: float) -> bytes:
        """Return what comes next, at least one byte.

        Raises:
            TimeoutError: Nothing came in time.
            LineDown: The other side has gone.
        """

    async def close(self) -> None:
        """Disconnect."""
