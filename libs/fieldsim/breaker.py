"""A breaker with a motor: takes commands over Modbus, moves after a delay, trips, locks, bounces.

Everything that will happen is written down with its time when it is ordered, and applied when the device is next
looked at. So a motor delay needs no timer, and a run that is killed while the motor turns finishes the move in the
next run.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import BaseModel

from libs.common.profiles import Area, DeviceProfile, ModbusControl
from libs.fieldsim.device import Device, ExceptionCode, RefusedRequest
from libs.fieldsim.electrical import MAX_STEPS, Load, Mains, Measured, electrical_points, measure, sag_of
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import Bounce, FaultBoard, IgnoresCommands, Locked, Trip, TripReason, VoltageSag, Welded

MOTOR_DELAY_S = 1.5
INSTALLED_AT = datetime(2025, 1, 1, tzinfo=UTC)
INRUSH_SHARE = 1.8
"""Part of the load's demand that flows right after closing: capacitors fill, fans start."""
INRUSH_S = 3.0

AMBIENT_DEGC = 26.0
DEGC_PER_AMP2 = 0.002
LEAKAGE_MA = 4.0
DEFAULT_SETTINGS = {"setting_overvoltage": 275.0, "setting_undervoltage": 160.0, "setting_overcurrent": 63.0}


class Move(NamedTuple):
    """A change of position."""

    at_s: float
    closed: bool
    reason: int
    """Why it opened; 0 for closing."""


class Kept(BaseModel):
    """What a breaker's next run has to know."""

    moves: list[Move] = []
    pending: list[Move] = []
    command: bool | None = None
    locked: bool = False
    tripped: int = 0
    settings: dict[str, float] = {}


class Breaker(Device):
    """A breaker with its own meter, in front of one load.

    A protection trip stays until somebody releases it at the device: a remote close is acknowledged and not obeyed
    until then, as with a breaker whose handle has to be reset by hand.

    Args:
        device_id: See ``Device``.
        profile: A profile with the controls ``breaker_close`` and ``breaker_open``.
        load: What it feeds; none: nothing flows.
        mains: The voltage of its site.
        faults: See ``Device``.
        events: See ``Device``.
        poles: 1 or 3; with 1 the optional points of phases b and c do not exist.
        motor_delay_s: From the command to the new position. [s]
        refresh_s: See ``Device``.
        installed_at: When its energy register stood at 0, where it has one.
    """

    def __init__(
        self,
        device_id: str,
        profile: DeviceProfile,
        *,
        load: Load | None,
        mains: Mains,
        faults: FaultBoard,
        events: EventLog,
        poles: int = 3,
        motor_delay_s: float = MOTOR_DELAY_S,
        refresh_s: float = 0.0,
        installed_at: datetime = INSTALLED_AT,
    ) -> None:
        super().__init__(
            device_id,
            profile,
            names=[name for name, point in profile.points.items() if poles == 3 or not point.optional],
            faults=faults,
            events=events,
            refresh_s=refresh_s,
        )
        self.poles = poles
        self.load = load
        if load is not None:
            load.switch = self
        self._installed_s = installed_at.timestamp()
        self._mains = mains
        self._motor_delay_s = motor_delay_s
        self._kept = Kept(settings=dict(DEFAULT_SETTINGS))
        self._settled_s = 0.0

    @property
    def closed(self) -> bool:
        """Whether the contacts were closed when last looked at."""
        return self._kept.moves[-1].closed if self._kept.moves else True

    @property
    def locked(self) -> bool:
        """Whether somebody has locked it at the device."""
        return self._kept.locked

    @property
    def tripped(self) -> int:
        """The protection trip that nobody has released; 0 none."""
        return self._kept.tripped

    def values(self, time_s: float) -> Mapping[str, float]:
        """Return position, own measurements and settings at a time."""
        seen = self._seen(time_s)
        if self.load is not None and "energy_active_import" in self.names:
            seen.energy = self.load.energy(self._installed_s, time_s)
        points = electrical_points(seen)
        amps = max(seen.currents)
        terminal_degc = AMBIENT_DEGC + DEGC_PER_AMP2 * amps * amps
        closed = self._closed_at(time_s)
        return points | {
            "breaker_state": float(closed),
            "breaker_command_state": float(closed if self._kept.command is None else self._kept.command),
            "breaker_local_lock": float(self._is_locked(time_s)),
            "breaker_trip_reason": float(self._reason_at(time_s)),
            "current_leakage": LEAKAGE_MA if closed else 0.0,
            **{f"temperature_{where}": terminal_degc for where in ("a", "b", "c", "n")},
            **self._kept.settings,
        }

    def write(self, area: Area, address: int, words: Sequence[int], now_s: float) -> None:
        """Take a command or a new setting; one register at a time.

        Raises:
            RefusedRequest: Not a register that can be written, not one at a time, or a word without meaning.
        """
        self.settle(now_s)
        if len(words) != 1:
            raise RefusedRequest(ExceptionCode.ILLEGAL_VALUE)
        word = words[0]
        controls = [
            control
            for control in self.profile.controls.values()
            if isinstance(control, ModbusControl) and (control.area, control.address) == (area, address)
        ]
        if not controls:
            self._set(area, address, word, now_s)
            return
        for control in controls:
            if control.value == word:
                self.order(control.name == "breaker_close", now_s)
                return
        raise RefusedRequest(ExceptionCode.ILLEGAL_VALUE)

    def settle(self, now_s: float) -> None:
        """Apply moves that are due, and trips that were ordered."""
        kept = self._kept
        since_s = self._settled_s
        self._settled_s = max(now_s, since_s)
        trips = self.faults.beginnings(self.device_id, Trip, since_s, now_s)
        while kept.pending or trips:
            if trips and (not kept.pending or trips[0][0] <= kept.pending[0].at_s):
                at_s, order = trips.pop(0)
                self.trip(order.reason, at_s)
            elif kept.pending[0].at_s <= now_s:
                self._move(kept.pending.pop(0))
            else:
                return

    def order(self, close: bool, now_s: float) -> None:
        """Take a command to close or to open: it is obeyed unless something at the device is in its way."""
        kept = self._kept
        kept.command = close
        self.changed()
        obstacle = self._obstacle(close, now_s)
        self.events.record(now_s, self.device_id, "command", close=close, obstacle=obstacle)
        if obstacle is not None:
            return
        kept.pending = self._plan(close, now_s + self._motor_delay_s, now_s)

    def permit(self, now_s: float) -> None:
        """Take the permission to close: somebody at the device has to press its button."""
        self._kept.command = True
        self.changed()
        self.events.record(now_s, self.device_id, "permitted")

    def trip(self, reason: TripReason, at_s: float) -> None:
        """Open at once, as a protection or whatever else the reason says."""
        kept = self._kept
        kept.pending.clear()
        if reason.is_protection:
            kept.tripped = reason
        self.events.record(at_s, self.device_id, "tripped", reason=reason)
        self._move(Move(at_s, closed=False, reason=reason))

    def release(self, at_s: float) -> None:
        """Do what a person at the device does after a protection trip."""
        self._kept.tripped = 0
        self.events.record(at_s, self.device_id, "released")
        self.changed()

    def lock(self, locked: bool, at_s: float) -> None:
        """Set or clear the local lock, as a person at the device does."""
        self._kept.locked = locked
        self.events.record(at_s, self.device_id, "locked" if locked else "unlocked")
        self.changed()

    def move_by_hand(self, closed: bool, at_s: float) -> None:
        """Move the handle, as a person at the device does."""
        self.settle(at_s)
        self._kept.pending.clear()
        self._move(Move(at_s, closed=closed, reason=0 if closed else TripReason.MANUAL))

    def snapshot(self) -> dict[str, object]:
        """Return position, moves under way, lock, trip and settings."""
        return self._kept.model_dump(mode="json")

    def restore(self, kept: Mapping[str, object]) -> None:
        """Continue where an earlier run stopped, moves that were under way included."""
        self._kept = Kept.model_validate(kept)
        self.changed()

    def _seen(self, time_s: float) -> Measured:
        order = self.faults.active(self.device_id, VoltageSag, time_s)
        loads = () if self.load is None else (self.load,)
        return measure(loads, self._mains, time_s, sag=None if order is None else sag_of(order))

    def _closed_at(self, time_s: float) -> bool:
        moves = self._kept.moves
        if not moves:
            return True
        if time_s >= moves[-1].at_s:
            return moves[-1].closed
        index = bisect_right(moves, time_s, key=lambda move: move.at_s)
        return moves[index - 1].closed if index else not moves[0].closed

    def _reason_at(self, time_s: float) -> int:
        """Return the reason of the latest opening; 0 when it has never opened."""
        openings = (m.reason for m in reversed(self._kept.moves) if not m.closed and m.at_s <= time_s)
        return next(openings, 0)

    def _is_locked(self, time_s: float) -> bool:
        return self._kept.locked or self.faults.active(self.device_id, Locked, time_s) is not None

    def _obstacle(self, close: bool, now_s: float) -> str | None:
        """Return why a command is acknowledged and not obeyed."""
        if self._is_locked(now_s):
            return "locked"
        if close and self._kept.tripped:
            return "tripped"
        if self.faults.active(self.device_id, IgnoresCommands, now_s) is not None:
            return "ignored"
        return None

    def _plan(self, close: bool, at_s: float, now_s: float) -> list[Move]:
        if close == self.closed:
            return []
        order = self.faults.active(self.device_id, Bounce, now_s)
        if order is None:
            return [_remote(at_s, close)]
        moves = 2 * order.count + (1 if order.settles else 0)
        return [_remote(at_s + order.gap_s * n, close if n % 2 == 0 else not close) for n in range(moves)]

    def _move(self, move: Move) -> None:
        kept = self._kept
        before = self.closed
        if move.closed == before:
            return
        kept.moves.append(move)
        del kept.moves[:-MAX_STEPS]
        self.changed()
        self.events.record(move.at_s, self.device_id, "moved", closed=move.closed, reason=move.reason)
        if self.load is None:
            return
        if move.closed:
            self.load.let_through(INRUSH_SHARE, move.at_s)
            self.load.let_through(1.0, move.at_s + INRUSH_S)
        else:
            welded = self.faults.active(self.device_id, Welded, move.at_s)
            self.load.let_through(0.0 if welded is None else welded.share, move.at_s)

    def _set(self, area: Area, address: int, word: int, now_s: float) -> None:
        for point in self.registers.points:
            if point.area == area and point.address == address and point.name in self._kept.settings:
                value = word * point.scale + point.offset
                self._kept.settings[point.name] = value
                self.changed()
                self.events.record(now_s, self.device_id, "written", point=point.name, value=value)
                return
        raise RefusedRequest(ExceptionCode.ILLEGAL_ADDRESS)


def _remote(at_s: float, closed: bool) -> Move:
    return Move(at_s, closed, 0 if closed else TripReason.REMOTE)
