"""A way to a device for orders; who holds the line decides how."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from libs.common.contracts.registry import Line
from libs.common.profiles import Control, DeviceProfile
from services.ingest.domain.normalise import UNITY, Normaliser
from services.ingest.drivers.port import Care, Cared, CaredSession, DeviceSession, NotOffered

Result = TypeVar("Result")
Points = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Target:
    """A device that is to be switched: where it is and what it is."""

    device_id: str
    site_id: str
    line: Line
    address: str | None
    profile: DeviceProfile


@dataclass(frozen=True, slots=True)
class Handle:
    """A device while the line is ours for it."""

    session: DeviceSession
    normaliser: Normaliser
    is_telling: bool = False
    """Whether the device speaks by itself, so that to read is to look at what it has said and keeps nobody waiting."""

    async def read(self, names: Collection[str]) -> tuple[Points, datetime]:
        """Return points in canonical units, and when they were read; raises as the driver."""
        raw = await self.session.read_points(names)
        return self.normaliser.measure(raw.raw, UNITY, raw.quality).points, raw.received_at

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control; raises as the driver."""
        return await self.session.write(control, value)

    async def care(self, task: Care) -> Cared:
        """Read or set the clock, or restart the device; raises as the driver."""
        if not isinstance(self.session, CaredSession):
            raise NotOffered(
                f"the device's protocol has no {task.value}, and its profile no control for it",
                message_zh=f"设备的协议没有 {task.value},其模板也没有相应控制项",
            )
        return await self.session.care(task)


class Reach(Protocol):
    """Ways to devices."""

    async def use(
        self, target: Target, job: Callable[[Handle], Awaitable[Result]], *, alone: bool, only_looks: bool = False
    ) -> Result:
        """Do ``job`` with the device, before any poll of its line.

        Args:
            target: Which device.
            job: What to do; it has the line for itself meanwhile.
            alone: Connect by ourselves when we do not hold the line; without it that is ``LineDown``.
            only_looks: It only reads; where devices speak by themselves it does not stand in line behind what moves.

        Raises:
            LineDown, DeviceSilent, DeviceRefused, BadAnswer, InvalidInput: As the driver does.
        """

    async def read_polled(self, device_id: str, names: Collection[str]) -> tuple[Points, datetime] | None:
        """Read points of a device that this process polls, now; None when it does not, or gets no answer."""

    async def pause(self, target: Target, delay_s: float, *, since: float) -> None:
        """Wait before the next look at a device.

        Args:
            target: Which device.
            delay_s: How long. Where the device tells by itself it is waited for, for some seconds at most. [s]
            since: When it was looked at, by the monotonic clock. [s]
        """

    def poll_soon(self, line_id: str, device_ids: Collection[str]) -> None:
        """Let the next polls of these devices be now: something about them has changed."""
