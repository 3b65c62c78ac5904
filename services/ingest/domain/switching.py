"""What an order means for a device: which control, which feedback proves it, and what forbids it.

The rules are those of contracts.md 5 and architecture.md 4: an OFF needs everything (signature, time, lease,
clock, a way back that is stored), an ON needs next to nothing, and only a lock set at the breaker or a
protection trip that nobody has released stops it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from libs.common.contracts.control import Command, CommandAction
from libs.common.profiles import Control, DeviceProfile

LOCK_POINT = "breaker_local_lock"
TRIP_POINT = "breaker_trip_reason"

PROTECTION_TRIPS: Mapping[int, str] = {
    1: "overload",
    2: "short_circuit",
    3: "leakage",
    4: "overvoltage",
    5: "undervoltage",
    6: "phase_loss",
    7: "overtemperature",
    8: "arc",
}
"""Values of ``breaker_trip_reason`` that are protection trips (points.md 2.6)."""

_SHOWS_POWER = re.compile(r"(?:breaker|light|valve|ac_power|relay_(?P<channel>[1-9][0-9]*))_state")
"""Points that show whether a load has power, and the number of its channel (points.md 2.6)."""


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch of a device: how it is opened and closed, and what shows it."""

    on: Control
    off: Control | None
    """None where the device can only be closed by us."""
    timer: "SwitchTimer | None" = None
    """Where the device can be told to close by itself."""

    @property
    def feedback(self) -> str:
        """Point that shows its position."""
        return self.on.read_back.points[0]

    def state(self, points: Mapping[str, float | None]) -> int | None:
        """Return 1 for closed (the load has power), 0 for open, None when the points do not tell."""
        values = [points.get(name) for name in self.on.read_back.points]
        if any(value is None for value in values):
            return None
        return int(all(value == self.on.read_back.value for value in values))


@dataclass(frozen=True, slots=True)
class SwitchTimer:
    """How a device is told to close by itself, and where it shows that it will."""

    control: Control
    step_s: float
    clear: float

    @property
    def point(self) -> str:
        """Point that shows the time that is set. [s]"""
        return self.control.read_back.points[0]

    def setting(self, close_after_s: float | None) -> float | None:
        """Return what to set for closing after a time, not earlier; None when the device cannot wait that long.

        Args:
            close_after_s: None stops the timer. [s]
        """
        if close_after_s is None:
            return self.clear
        wanted = math.ceil(max(close_after_s, self.control.min or self.step_s) / self.step_s) * self.step_s
        return None if self.control.max is not None and wanted > self.control.max else wanted


def switches_of(profile: DeviceProfile) -> dict[int | None, Switch]:
    """Return the switches of a device by channel; None is a switch without a number.

    What a control is, its profile says by what proves it: a control that is proved by 1 at a point that shows power
    gives it (an ON), one that is proved by 0 there takes it (an OFF). So breaker, relay, lamp, air conditioner and
    socket are the same here, and a new kind of device needs a profile and nothing else. A control that moves several
    at once is no switch. Of several without a number the first counts that can be opened too.
    """
    offs = {one.read_back.points: one for one in profile.controls.values() if one.read_back.value == 0}
    switches: dict[int | None, Switch] = {}
    for control in profile.controls.values():
        points = control.read_back.points
        shown = _SHOWS_POWER.fullmatch(points[0]) if len(points) == 1 else None
        if shown is None or control.read_back.value != 1:
            continue
        channel = None if shown["channel"] is None else int(shown["channel"])
        known = switches.get(channel)
        if known is None or (known.off is None and points in offs):
            off = offs.get(points)
            switches[channel] = Switch(control, off, _timer_of(profile, off))
    return switches


def _timer_of(profile: DeviceProfile, off: Control | None) -> SwitchTimer | None:
    timer = None if off is None else off.timer
    return None if timer is None else SwitchTimer(profile.controls[timer.control], timer.step_s, timer.clear)


def switch_of(profile: DeviceProfile, channel: int | None) -> Switch | None:
    """Return the switch of a device, None when the profile has none for the channel.

    A device that is one switch may be addressed by channel 1 or without a channel, however its profile counts it.
    """
    switches = switches_of(profile)
    if channel in switches:
        return switches[channel]
    if len(switches) == 1 and channel in (None, 1):
        return switches.get(None if channel == 1 else 1)
    return None


def is_switched_by(profile: DeviceProfile, point: object) -> bool:
    """Return whether a point shows the position of a switch, or when it closes by itself: no set point may move it."""
    return point in profile.switching_points


def feedback_points(profile: DeviceProfile, control: Control) -> tuple[str, ...]:
    """Return the points to read with a control: its proof, and what may forbid an ON."""
    wanted = (*control.read_back.points, LOCK_POINT, TRIP_POINT)
    return tuple(dict.fromkeys(name for name in wanted if name in profile.points))


def obstacle(points: Mapping[str, float | None], released_trip: int | None) -> str | None:
    """Return what forbids an ON: ``local_lock``, ``protection_trip``, or None."""
    if points.get(LOCK_POINT) == 1:
        return "local_lock"
    trip = points.get(TRIP_POINT)
    if trip is not None and int(trip) in PROTECTION_TRIPS and int(trip) != released_trip:
        return "protection_trip"
    return None


def channel_of(arguments: Mapping[str, object]) -> int | None:
    """Return the channel that an order names, None for a device that is one switch.

    Raises:
        ValueError: It is no channel number.
    """
    value = arguments.get("channel")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or not 1 <= value <= 256:
        raise ValueError(f"channel: expected a number from 1 to 256, found {value!r}")
    return int(value)


@dataclass(frozen=True, slots=True)
class OffConditions:
    """What must hold at the moment of an OFF besides its signature."""

    lease_valid_for_s: float
    """Left of the lease on the line, by our monotonic clock. [s]"""
    lease_margin_s: float
    clock_synchronised: bool
    database: bool
    """Whether the command could be recorded."""


def why_not_now(command: Command, now: datetime) -> str | None:
    """Return why an order other than an ON comes too late, None when it may still be done."""
    if command.action is CommandAction.CLOSE:
        return None
    if now > command.not_after:
        return "expired"
    if command.action is CommandAction.OPEN and command.restore_at is not None and command.restore_at <= now:
        return "restore_at_passed"
    return None


def why_not_off(conditions: OffConditions) -> str | None:
    """Return what forbids an OFF at this moment, None for nothing."""
    if conditions.lease_valid_for_s <= conditions.lease_margin_s:
        return "lease_lost"
    if not conditions.clock_synchronised:
        return "clock_not_synchronised"
    return None if conditions.database else "database_unavailable"


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by every clock there is."""

    wall: datetime
    monotonic: float
    """[s]"""
    boot: str
    """Which run of the kernel the monotonic clock belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffLease:
    """A load that this process has opened, or must close: all that is needed to do it alone."""

    device_id: str
    channel: int | None
    site_id: str
    line_id: str
    line: Mapping[str, object]
    """The line as the registry had it."""
    address: str | None
    profile: str
    profile_version: str | None
    command_id: str
    epoch: int
    boot: str
    deadline: float | None
    """Monotonic time at which the longest off time is over, in the run ``boot`` of the kernel. [s]"""
    stored_at: datetime
    restore_at: datetime | None = None
    """None only under an isolation."""
    off_at_most_s: float | None = None
    isolation_id: str | None = None
    load_id: str | None = None
    meter_device_id: str | None = None
    wake: bool = False
    """To be closed now: an ON was ordered and is not verified yet."""

    @property
    def key(self) -> str:
        """Name of the switch: device and channel."""
        return switch_key(self.device_id, self.channel)

    def is_due(self, at: Moment) -> bool:
        """Return whether the load is to be closed at a moment, by whichever clock says so first."""
        if self.wake:
            return True
        if self.restore_at is not None and at.wall >= self.restore_at:
            return True
        return self.deadline is not None and at.boot == self.boot and at.monotonic >= self.deadline


def switch_key(device_id: str, channel: int | None) -> str:
    """Return the name of a switch, fit for a file."""
    return f"{device_id}~{channel or 0}"


def deadline_after_reboot(lease: OffLease, now: Moment) -> float | None:
    """Return the monotonic end of a lease in the present run of the kernel: what is left of it, counted from now."""
    if lease.boot == now.boot:
        return lease.deadline
    if lease.off_at_most_s is None:
        return None
    left_s = lease.off_at_most_s
    if lease.restore_at is not None:
        left_s = min(left_s, max((lease.restore_at - now.wall).total_seconds(), 0.0))
    return now.monotonic + left_s
