"""What every simulated device has: a profile, values as a function of time, faults and a memory that is read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path

from libs.common.errors import InvalidInput
from libs.common.points import PointKind
from libs.common.profiles import Area, DeviceProfile, ProfileCatalogue, Protocol, load_profile
from libs.common.settings import load_common
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, Frozen, Markers
from libs.fieldsim.registers import GAP_REGISTERS, Image, RegisterMap


class ExceptionCode(IntEnum):
    """The Modbus exceptions that the simulators answer."""

    ILLEGAL_FUNCTION = 1
    ILLEGAL_ADDRESS = 2
    ILLEGAL_VALUE = 3
    DEVICE_FAILURE = 4
    GATEWAY_TARGET = 0x0B


class RefusedRequest(Exception):
    """The device answers with a Modbus exception."""

    def __init__(self, code: ExceptionCode) -> None:
        super().__init__(f"exception {int(code)} ({code.name.lower()})")
        self.code = code


class Device(ABC):
    """A device that answers from the register map of its profile.

    Args:
        device_id: Its id in the registry, and for fault orders.
        profile: What its registers mean.
        names: Points that it has.
        faults: The board that its faults are ordered on.
        events: Where it records what happens to it.
        ct_ratio: Of the current transformers before it.
        pt_ratio: Of the voltage transformers before it.
        refresh_s: How long one picture of the memory serves all readers; 0 makes each request exact. [s]
        gap_registers: Longest run of unused registers that still answers.
    """

    def __init__(
        self,
        device_id: str,
        profile: DeviceProfile,
        *,
        names: Collection[str],
        faults: FaultBoard,
        events: EventLog,
        ct_ratio: float = 1.0,
        pt_ratio: float = 1.0,
        refresh_s: float = 0.0,
        gap_registers: int = GAP_REGISTERS,
    ) -> None:
        self.device_id = device_id
        self.profile = profile
        self.names = frozenset(names)
        self.shows: Callable[[Mapping[str, float]], dict[str, float | None]] | None = None
        """What a perfect reader gets of canonical values, for a device that is not read by registers."""
        self.faults = faults
        self.events = events
        self.ct_ratio = ct_ratio
        self.pt_ratio = pt_ratio
        self.registers = RegisterMap(profile, names, ct_ratio=ct_ratio, pt_ratio=pt_ratio, gap_registers=gap_registers)
        self._refresh_s = refresh_s
        self._picture: Image | None = None
        self._picture_at_s = 0.0

    @abstractmethod
    def values(self, time_s: float) -> Mapping[str, float]:
        """Return the canonical values at a time, primary side; a pure function of time and of what was switched."""

    def image(self, now_s: float) -> Image:
        """Return the memory that a request at ``now_s`` reads."""
        if self._picture is None or not 0.0 <= now_s - self._picture_at_s < self._refresh_s:
            self._picture = self._draw(now_s)
            self._picture_at_s = now_s
        return self._picture

    def shown(self, time_s: float) -> dict[str, float | None]:
        """Return what a perfect reader gets at a time: canonical points, rounded as on the wire.

        Voltage, current and power are primary side, energy is as the register shows it.
        """
        if self.shows is not None:
            return self.shows(self.values(time_s))
        return self.registers.shown(self.registers.encode(self.values(time_s)))

    def write(self, area: Area, address: int, words: Sequence[int], now_s: float) -> None:
        """Take a write of registers, or of one coil as 0 or 0xFF00.

        Raises:
            RefusedRequest: The device does not take it.
        """
        raise RefusedRequest(ExceptionCode.ILLEGAL_ADDRESS)

    def settle(self, now_s: float) -> None:  # noqa: B027 - most devices do nothing by themselves
        """Apply what has happened by itself up to ``now_s``."""

    def snapshot(self) -> dict[str, object]:
        """Return what a later run has to know, JSON-ready; nothing by default."""
        return {}

    def restore(self, kept: Mapping[str, object]) -> None:  # noqa: B027 - most devices keep nothing
        """Take over what an earlier run kept."""

    def changed(self) -> None:
        """Make the next request see the present, not the picture that is still fresh."""
        self._picture = None

    def _draw(self, now_s: float) -> Image:
        self.settle(now_s)
        if not self.faults.of(self.device_id):
            return self.registers.encode(self.values(now_s))
        frozen_at_s = self.faults.began(self.device_id, Frozen, now_s)
        marked = self.faults.active(self.device_id, Markers, now_s)
        return self.registers.encode(
            self.values(now_s if frozen_at_s is None else frozen_at_s),
            marked=() if marked is None else self._marked(marked),
        )

    def _marked(self, order: Markers) -> Collection[str]:
        if order.points:
            return order.points
        return [
            point.name
            for point in self.registers.points
            if point.canonical is not None and point.canonical.kind is PointKind.GAUGE
        ]


SPOKEN = frozenset({Protocol.MODBUS, Protocol.DLT645, Protocol.CJT188, Protocol.YD1363})
"""Protocols that the simulators speak."""


@cache
def spoken_profile(name: str) -> DeviceProfile:
    """Return a shipped profile by name, or one from a YAML file by path.

    Raises:
        NotFound: There is no such profile.
        InvalidInput: It is for a protocol that no simulator speaks, or the file is wrong.
    """
    profile = load_profile(Path(name)) if name.endswith((".yaml", ".yml")) else _catalogue().get(name)
    if profile.protocol not in SPOKEN:
        names = ", ".join(sorted(SPOKEN))
        raise InvalidInput(
            f"profile {name} is for {profile.protocol}, these simulators speak {names}",
            message_zh=f"设备模板 {name} 的协议为 {profile.protocol}，模拟器支持 {names}",
        )
    return profile


def modbus_profile(name: str) -> DeviceProfile:
    """Return a profile as ``spoken_profile`` does, of a Modbus device.

    Raises:
        NotFound: There is no such profile.
        InvalidInput: It is not for Modbus, or the file is wrong.
    """
    profile = spoken_profile(name)
    if profile.protocol is not Protocol.MODBUS:
        raise InvalidInput(
            f"profile {name} is for {profile.protocol}, this line speaks Modbus",
            message_zh=f"设备模板 {name} 的协议为 {profile.protocol}，该线路只支持 Modbus",
        )
    return profile


@cache
def _catalogue() -> ProfileCatalogue:
    return ProfileCatalogue.load(load_common().profile_dirs)
