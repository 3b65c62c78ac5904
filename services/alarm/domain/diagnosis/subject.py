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
    product: str | None = None
    """What was ordered for the device, in the operator's words: ``NB-IoT 定向`` …"""


@dataclass(frozen=True, slots=True)
class PlatformId:
    """What a device platform (AEP) knows a device by."""

    product: str
    device: str


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
    """The devices behind the same gateway or on the same line, this one included; none where a platform is between."""
    same_address: int
    """Devices with its address and channel on its line, this one included."""
    one_box: Sequence[str] = ()
    """The devices that are other channels of the same thing, this one included."""
    by_platform: bool = False
    """Its line leads to a platform or broker: whether that can be reached says nothing of the device."""
    platform_id: PlatformId | None = None
