"""What fault localisation asks of the registry: where a device is, what it hangs on, which card it has."""

from collections.abc import Iterator
from datetime import datetime

from libs.common.clock import Clock
from libs.common.contracts.registry import Device, EntityKind, Line, LineKind, Sim
from libs.common.ids import CircuitId, DeviceId, LoadId, RegionId
from libs.common.registry import RegistryView
from services.alarm.domain.diagnosis.grouping import Place
from services.alarm.domain.diagnosis.subject import Card, FaultCard, Installed, PlatformId


class Field:
    """The registry in the words of fault localisation."""

    def __init__(self, view: RegistryView, clock: Clock) -> None:
        """Follow the registry; the view is run by somebody else."""
        self._view = view
        self._clock = clock

    def installed(self, device_id: str) -> Installed | None:
        """Return a device, None when there is none or it was taken out."""
        device = self._view.device(DeviceId(device_id))
        if device is None or (device.decommissioned_at is not None and device.decommissioned_at <= self._now()):
            return None
        site = self._view.site(device.site)
        room = None if device.room is None else self._view.room(device.room)
        gateway = self._gateway(device)
        line = None if device.line is None else self._view.line(device.line)
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
            behind=[one.id for one in self._behind(device, gateway, line)],
            same_address=self._same_address(device),
            one_box=[one.id for one in self._at_address(device)],
            by_platform=line is not None and line.kind in BY_PLATFORM,
            platform_id=_platform_id(device, line),
        )

    def cards(self) -> Iterator[Card]:
        """Yield the cards that are in devices."""
        for device in self._view.devices():
            card = self._card(device)
            if card is not None:
                yield card

    def breaker_of(self, load_id: str) -> str | None:
        """Return the device that switches a load."""
        load = self._view.load(LoadId(load_id))
        return None if load is None or load.breaker is None else load.breaker.device

    def meters_of(self, circuit_id: str) -> list[str]:
        """Return the devices that measure a circuit."""
        return [binding.device for binding in self._view.bindings(CircuitId(circuit_id))]

    def _card(self, device: Device) -> Card | None:
        sim = None if device.sim is None else self._view.at(EntityKind.SIM, device.sim, self._now())
        if not isinstance(sim, Sim):
            return None
        return Card(sim.id, sim.iccid, sim.msisdn, sim.imei_bound, sim.expires_on, device.id, device.site, sim.product)

    def _gateway(self, device: Device) -> str | None:
        parent = None if device.parent is None else self._view.device(device.parent)
        return None if parent is None or parent.kind != GATEWAY else parent.id

    def _behind(self, device: Device, gateway: str | None, line: Line | None) -> Iterator[Device]:
        """Yield what shares the way to the device: a gateway, else a line; devices of a platform share none."""
        on_line = line is not None and line.kind not in BY_PLATFORM
        for one in self._view.devices(device.site):
            if one.kind == GATEWAY:
                continue
            if one.parent == gateway if gateway is not None else on_line and one.line == device.line:
                yield one

    def _at_address(self, device: Device) -> Iterator[Device]:
        """Yield the devices at its address of its line, whatever their channel."""
        if device.line is None or device.address is None:
            yield device
            return
        for one in self._view.devices(device.site):
            if (one.line, one.address) == (device.line, device.address):
                yield one

    def _same_address(self, device: Device) -> int:
        return sum(one.id == device.id or one.channel == device.channel for one in self._at_address(device))

    def _region(self, region_id: RegionId | None) -> str | None:
        if region_id is None:
            return None
        regions = [self._view.at(EntityKind.REGION, one, self._now()) for one in self._view.regions_above(region_id)]
        names = [one.name_zh or one.name for one in regions if one is not None]
        return "".join(reversed(names)) or None

    def _now(self) -> datetime:
        return self._clock.now()


GATEWAY = "gateway"
BY_PLATFORM = frozenset({LineKind.AEP, LineKind.MQTT, LineKind.PUSH, LineKind.PULL, LineKind.FILE, LineKind.MANUAL})
"""Lines that lead to a platform, a broker or people: that one is down tells nothing of a device."""


def _platform_id(device: Device, line: Line | None) -> PlatformId | None:
    product = None if line is None or line.kind is not LineKind.AEP else (line.settings or {}).get("product")
    if product is None or isinstance(product, bool) or not device.address:
        return None
    return PlatformId(str(product).strip(), device.address)


def _imei(device: Device, sim: Card | None) -> str | None:
    """Return the module that the device should have: its serial number where that is one, else what its card is for."""
    if device.serial is not None and len(device.serial) == 15 and device.serial.isdigit():
        return device.serial
    return None if sim is None else sim.imei
