"""Deliveries of alarms: what is queued for whom, under which serial number, and in which order.

* A BEGIN is queued when the alarm is begun and told (not inhibited, not found in late data), the END when the
  alarm ends and its BEGIN was queued. So an inhibited alarm that is released later still gets its BEGIN, and an
  alarm that was told and is inhibited afterwards still gets its END.
* The END has the serial number of its BEGIN. Numbers are given per unit, count up from 1, wrap after
  4,294,967,295, and pass over numbers whose alarm is still open.
* Order is kept per point: the next one is sent when the one before has been acknowledged or given up. An END
  therefore never overtakes its BEGIN.
* An END whose BEGIN was given up is given up too: the centre never heard of that serial number.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from libs.common.contracts.alarm import AlarmEvent
from libs.common.contracts.base import Phase as AlarmPhase
from libs.common.contracts.delivery import DeliveryState
from services.export.dialects import Dialect
from services.export.dialects.messages import AlarmFlag, AlarmReport, DeviceRef
from services.export.domain.connection import ConnectionId, UnitKey

SERIAL_LIMIT = 1 << 32
"""Serial numbers are 0 to 4,294,967,295."""

OPEN_STATES = (DeliveryState.QUEUED, DeliveryState.RETRYING, DeliveryState.REFUSED)
"""Still to be delivered; a refused alarm is tried again without limit until a person gives it up."""


class Step(StrEnum):
    """Which end of an alarm is delivered."""

    BEGIN = "begin"
    END = "end"

    @property
    def flag(self) -> AlarmFlag:
        """The same in the messages' words."""
        return AlarmFlag.BEGIN if self is Step.BEGIN else AlarmFlag.END


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A point of a centre's unit that an alarm of ours stands behind."""

    unit_key: UnitKey
    connection_id: ConnectionId
    dialect: str
    sc_device: DeviceRef
    point_id: str
    name: str | None
    """The centre's own name of the signal."""
    device_name: str = ""
    """The centre's name of the device."""
    level: int | None
    """Level that the centre wants for it; None keeps the alarm's."""
    network_alarm: str = ""
    """Id of the alarm in the network's own table; of an END its BEGIN's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One end of one alarm on its way to one unit's centre."""

    id: str
    connection_id: ConnectionId
    unit_key: UnitKey
    alarm_id: str
    event_id: str
    """Identity of the alarm event; with the destination it is the delivery's own."""
    site_id: str
    device_id: str | None
    step: Step
    serial: int
    sc_device: DeviceRef
    point_id: str
    level: int
    at: datetime
    began_at: datetime
    text: str
    detail: str = ""
    network_alarm: str = ""
    value: float | None
    traceparent: str | None = None
    state: DeliveryState
    attempts: int = 0
    alone: bool = False
    """Sent in a message of its own, because a message with company was refused."""
    queued_at: datetime
    next_attempt_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None

    def report(self) -> AlarmReport:
        """Return what the centre is told."""
        return AlarmReport(
            serial=self.serial,
            device=self.sc_device,
            point_id=self.point_id,
            flag=self.step.flag,
            at=self.at,
            level=self.level,
            text=self.text,
            began_at=self.began_at,
            value=self.value,
            detail=self.detail,
            network_alarm=self.network_alarm,
        )


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known of an alarm's BEGIN at one point."""

    serial: int
    level: int
    given_up: bool
    ended: bool = False
    """Whether the END has been queued too."""


def step_for(event: AlarmEvent, begun: Begun | None) -> Step | None:
    """Return what an alarm event adds to the queue of one point, None when nothing."""
    if event.phase is AlarmPhase.END:
        return Step.END if begun is not None and not begun.ended else None
    told = event.inhibited_by is None and not event.historical
    return Step.BEGIN if begun is None and told else None


def event_time(event: AlarmEvent, step: Step) -> datetime:
    """Return the alarm's own time of that end."""
    return event.ended_at if step is Step.END and event.ended_at is not None else event.began_at


def alarm_text(event: AlarmEvent, target: Target, dialect: Dialect) -> str:
    """Return the alarm's text, with the value that caused (or cleared) it where no field has it: ``停电(0.0V)``."""
    return dialect.fit_text(_signal_name(event, target), _value_text(event) if dialect.text_with_value else "")


def alarm_detail(event: AlarmEvent, target: Target, dialect: Dialect) -> str:
    """Return device, signal and value, where the dialect has room for it; else nothing."""
    name = f"{target.device_name} {_signal_name(event, target)}".strip()
    return dialect.fit_detail(name, _value_text(event)) if dialect.alarm_detail_bytes else ""


def _signal_name(event: AlarmEvent, target: Target) -> str:
    return target.name or event.signal_name_zh or event.signal_name or event.signal


def _value_text(event: AlarmEvent) -> str:
    return "" if event.value is None else f"({_number(event.value)}{event.unit or ''})"


def _number(value: float) -> str:
    """At least one decimal, at most two."""
    text = f"{value:.2f}"
    return text[:-1] if text.endswith("0") else text


def next_serials(first: int, count: int, taken: Collection[int]) -> tuple[list[int], int]:
    """Return ``count`` serial numbers from ``first`` on that are not taken, and where to go on.

    Args:
        first: The unit's next number.
        count: How many are wanted.
        taken: Numbers of alarms that are still open at the unit.
    """
    given: list[int] = []
    number = first % SERIAL_LIMIT
    while len(given) < count:
        if number not in taken:
            given.append(number)
        number = (number + 1) % SERIAL_LIMIT
    return given, number


def batch_of(heads: Sequence[Delivery], size: int) -> list[Delivery]:
    """Return what goes into the next message: the oldest one, with company unless it travels alone.

    Args:
        heads: The first open delivery of each point that is due, oldest first.
        size: Alarms in one message, at most.
    """
    if not heads:
        return []
    if heads[0].alone:
        return [heads[0]]
    return [each for each in heads if not each.alone][:size]


def values_by_state(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts with every open state present, for a metric that must fall back to 0."""
    return {state.value: counts.get(state.value, 0) for state in OPEN_STATES}
