"""A device that is to be looked at: where it stands, what it hangs on, which card it has."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from services.alarm.domain.diagnosis.grouping import Place


@dataclass(frozen=True, slots=True)
class Card:
    """A SIM card of the registry."""

    sim_id: str
    iccid: str
    number: str | None
    """Access number, by which the platform knows it."""
    imei: str | None
    expires_on: date | None
    device_id: str
    site_id: str


@dataclass(frozen=True, slots=True)
class FaultCard:
    """What people are told of the device beside the fault: nine of the twelve fields of the fault card (故障定位)."""

    device_name: str
    device_number: str
    iccid: str | None
    device_kind: str
    address: str | None
    station_code: str
    station_name: str
    room_code: str | None
    room_name: str | None


@dataclass(frozen=True, slots=True)
class Installed:
    """A device where it stands."""

    device_id: str
    place: Place
    card_face: FaultCard
    period_s: float | None
    sleeps: bool
    """Takes commands only when it wakes up."""
    imei: str | None
    sim: Card | None
    behind: Sequence[str]
    """The devices behind the same gateway or on the same line, this one included."""
    same_address: int
    """Devices at its address of its line, this one included."""
