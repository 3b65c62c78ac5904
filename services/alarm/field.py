"""What fault localisation asks of the registry: where a device is, what it hangs on, which card it has."""

from collections.abc import Iterator
from datetime import datetime

from libs.common.clock import Clock
from libs.common.contracts.registry import Device, EntityKind, Sim
from libs.common.ids import DeviceId, RegionId
from libs.common.registry import RegistryView
from services.alarm.domain.diagnosis.grouping import Place
from services.alarm.domain.diagnosis.subject import Card, FaultCard, Installed


class Field:
    """The registry in the words of fault localisation."""

    def __init__(self, view: RegistryView, clock: Clock) -> None:
        """Follow the registry; the view is run by somebody else."""
        self._view = view
        self._clock = clock

    def installed(self, device_id: str) -> Installed | None:
        """Return a device, None when there is none."""
        device = self._view.device(DeviceId(device_id))
        if device is None:
            return None
        site = self._view.site(device.site)
        room = None if device.room is None else self._view.room(device.room)
        gateway = self._gateway(device)
        sim = self._card(device)
        return Installed(
            device_id=device.id,
            place=Place(device.site, device.line, gateway),
            card_face=FaultCard(
                device_name=device.name_zh or device.name,
                device_number=device.serial or device.id,
                iccid=None if sim is None else sim.iccid,
                device_kind=device.kind,
                address=None if site is None else site.address or self._region(site.region),
                station_code="" if site is None else site.code,
                station_name="" if site is None else site.name_zh or site.name,
                room_code=None if room is None else room.code,
                room_name=None if room is None else room.name_zh or room.name,
            ),
            period_s=device.period_s,
            sleeps=device.command_latency_s is not None and device.command_latency_s > 0,
            imei=_imei(device, sim),
            sim=sim,
            behind=[one.id for one in self._behind(device, gateway)],
            same_address=self._same_address(device),
        )

    def cards(self) -> Iterator[Card]:
        """Yield the cards that are in devices."""
        for device in self._view.devices():
            card = self._card(device)
            if card is not None:
                yield card

    def _card(self, device: Device) -> Card | None:
        sim = None if device.sim is None else self._view.at(EntityKind.SIM, device.sim, self._now())
        if not isinstance(sim, Sim):
            return None
        return Card(sim.id, sim.iccid, sim.msisdn, sim.imei_bound, sim.expires_on, device.id, device.site)

    def _gateway(self, device: Device) -> str | None:
        parent = None if device.parent is None else self._view.device(device.parent)
        return None if parent is None or parent.kind != GATEWAY else parent.id

    def _behind(self, device: Device, gateway: str | None) -> Iterator[Device]:
        for one in self._view.devices(device.site):
            if one.kind == GATEWAY:
                continue
            if (gateway is not None and one.parent == gateway) or (
                gateway is None and device.line is not None and one.line == device.line
            ):
                yield one

    def _same_address(self, device: Device) -> int:
        if device.line is None or device.address is None:
            return 1
        return (
            sum(
                one.line == device.line and one.address == device.address and one.parent is None
                for one in self._view.devices(device.site)
            )
            or 1
        )

    def _region(self, region_id: RegionId | None) -> str | None:
        if region_id is None:
            return None
        regions = [self._view.at(EntityKind.REGION, one, self._now()) for one in self._view.regions_above(region_id)]
        names = [one.name_zh or one.name for one in regions if one is not None]
        return "".join(reversed(names)) or None

    def _now(self) -> datetime:
        return self._clock.now()


GATEWAY = "gateway"


def _imei(device: Device, sim: Card | None) -> str | None:
    """Return the module that the device should have: its serial number where that is one, else what its card is for."""
    if device.serial is not None and len(device.serial) == 15 and device.serial.isdigit():
        return device.serial
    return None if sim is None else sim.imei
