"""What every driver offers, and the four ways in which a device can fail to answer.

A driver owns one line: one connection, one request in flight. It turns the protocol's words into raw numbers
per point and its errors into these; when to ask again is decided by whoever calls it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from libs.common.errors import PlatformError, Unavailable
from libs.common.profiles import Control, DeviceProfile


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


class DeviceRefused(PlatformError):
    """The device answered no."""

    code = "device_refused"
    title_zh = "设备拒绝"


class BadAnswer(PlatformError):
    """What came is not an answer to what was asked; ``facts["raw"]`` has its bytes."""

    code = "bad_answer"
    title_zh = "应答有误"


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


class LineDriver(Protocol):
    """One line."""

    protocol: str

    def session(self, address: Address) -> DeviceSession:
        """Return a session for a device on this line; opens nothing."""

    async def close(self) -> None:
        """Close the connection; the next request opens it again."""
