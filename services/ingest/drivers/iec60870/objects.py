"""Whose information objects a station's are: from common address and object address to a device's point."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from libs.common.errors import InvalidInput
from libs.common.profiles import Iec60870Point, ObjectType
from services.ingest.drivers.iec60870.asdu import Widths
from services.ingest.drivers.port import Address

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the objects of a device are."""

    station: int
    """Common address."""
    offset: int
    """Added to the object addresses of the profile."""


@dataclass(frozen=True, slots=True)
class Owned:
    """An information object that is a device's point."""

    device_id: str
    point: Iec60870Point


def place_of(address: Address, widths: Widths) -> Place:
    """Return where a device's objects are.

    Raises:
        InvalidInput: The address is none of this form, or does not fit the line.
    """
    station, colon, offset = (address.text or "").partition(":")
    last = (1 << 8 * widths.common_address) - 2  # all bits 1 is every station
    if station.isdecimal() and 1 <= int(station) <= last and offset.isdecimal() == bool(colon):
        place = Place(int(station), int(offset or 0))
        highest = max((point.object_address for point in address.profile.iec60870_points()), default=0)
        if place.offset + highest < 1 << 8 * widths.object_address:
            return place
    raise InvalidInput(
        f"device {address.device_id}: address {address.text!r}: expected the station's common address (1 to {last}), "
        f"or common address:offset with object addresses of at most {widths.object_address} octets",
        message_zh=f"设备 {address.device_id}:地址 {address.text!r} 应为站公共地址(1–{last})或 公共地址:偏移,"
        f"信息体地址不超过 {widths.object_address} 字节",
    )


class Directory:
    """The information objects of a line's devices."""

    def __init__(self, devices: Mapping[str, Address], widths: Widths) -> None:
        self.places = {device_id: place_of(address, widths) for device_id, address in devices.items()}
        self._owned: dict[tuple[int, int], tuple[Owned, ...]] = {}
        for device_id, address in devices.items():
            self._add(device_id, address, self.places[device_id])

    def _add(self, device_id: str, address: Address, place: Place) -> None:
        for point in address.profile.iec60870_points():
            if point.copy_of is not None:
                continue
            key = (place.station, place.offset + point.object_address)
            others = self._owned.get(key, ())
            if any(owned.device_id != device_id for owned in others):
                logger.error(
                    "two devices claim one information object, the first one has it",
                    extra={"station": key[0], "object": key[1], "devices": [others[0].device_id, device_id]},
                )
                continue
            self._owned[key] = (*others, Owned(device_id, point))

    @property
    def stations(self) -> frozenset[int]:
        """Common addresses of the line's stations."""
        return frozenset(place.station for place in self.places.values())

    def owners(self, station: int, object_address: int) -> tuple[Owned, ...]:
        """Return the points that an object is; several when a profile takes it apart by masks."""
        return self._owned.get((station, object_address), ())

    def devices_of(self, station: int) -> list[str]:
        """Return the devices whose objects a station has."""
        return [device_id for device_id, place in self.places.items() if place.station == station]

    def has_counters(self, station: int) -> bool:
        """Return whether a station has to be asked for integrated totals."""
        return any(
            key[0] == station and owned[0].point.type is ObjectType.COUNTER for key, owned in self._owned.items()
        )
