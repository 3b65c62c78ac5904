"""What a unit's mapping lacks or has too much of, compared with the registry and the profiles."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.export.domain.mapping import DictionaryRow, ProposedDevice, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping


class Gap(StrEnum):
    """Kinds of findings."""

    NO_SITE = "no_site"
    UNKNOWN_SITE = "unknown_site"
    NOT_ROUTED = "not_routed"
    """The site's ``sc_routing`` does not name the connection: its alarms are not told."""
    NO_MAPPING = "no_mapping"
    DEVICE_NOT_MAPPED = "device_not_mapped"
    POINT_NOT_MAPPED = "point_not_mapped"
    """The dictionary has it, the device's profile too, the mapping not."""
    UNKNOWN_DEVICE = "unknown_device"
    """Mapped, and at none of the unit's sites."""
    UNKNOWN_POINT = "unknown_point"
    """Mapped, and the device's profile does not have it: the centre is told that it is invalid."""
    EMPTY_DEVICE = "empty_device"
    """A device of the centre without a single point."""


TEXTS_ZH: Mapping[Gap, str] = {
    Gap.NO_SITE: "单元未关联局站",
    Gap.UNKNOWN_SITE: "局站不在台账中",
    Gap.NOT_ROUTED: "局站的 sc_routing 未包含该连接",
    Gap.NO_MAPPING: "单元没有映射",
    Gap.DEVICE_NOT_MAPPED: "设备未映射",
    Gap.POINT_NOT_MAPPED: "测点未映射",
    Gap.UNKNOWN_DEVICE: "映射的设备不在该单元的局站中",
    Gap.UNKNOWN_POINT: "设备模板没有该测点",
    Gap.EMPTY_DEVICE: "监控设备下没有监控点",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that somebody should look at."""

    gap: Gap
    subject: str
    """Site, device or point that is meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSite:
    """One of the unit's sites, as the registry has it."""

    site_id: str
    known: bool
    routed: bool
    devices: Sequence[ProposedDevice]


def gaps_of(mapping: UnitMapping, sites: Sequence[UnitSite], dictionary: Iterable[DictionaryRow]) -> list[Finding]:
    """Return what is to be looked at, site by site and device by device.

    Args:
        mapping: The unit's.
        sites: Those that it speaks for.
        dictionary: Rows of the centre's dictionary; empty where none is public, and no point is missed then.
    """
    found = [] if sites else [Finding(Gap.NO_SITE, "")]
    if not mapping.points:
        found.append(Finding(Gap.NO_MAPPING, ""))
    rows = list(dictionary)
    devices: dict[str, ProposedDevice] = {}
    for site in sites:
        if not site.known:
            found.append(Finding(Gap.UNKNOWN_SITE, site.site_id))
        elif not site.routed:
            found.append(Finding(Gap.NOT_ROUTED, site.site_id))
        devices |= {device.device_id: device for device in site.devices}
    mapped: dict[str, set[str]] = {}
    for point in mapping.points:
        mapped.setdefault(point.device_id, set()).add(point.source)
    for device_id, device in devices.items():
        if device_id not in mapped:
            found.append(Finding(Gap.DEVICE_NOT_MAPPED, device_id))
            continue
        for row in rows:
            possible = row.source_kind is SourceKind.POINT and device.category in row.categories
            if possible and device.points.intersection(row.sources) and not mapped[device_id].intersection(row.sources):
                found.append(Finding(Gap.POINT_NOT_MAPPED, f"{device_id} {row.sources[0]} ({row.name_zh})"))
    found += [Finding(Gap.UNKNOWN_DEVICE, device_id) for device_id in mapped if device_id not in devices]
    for point in mapping.points:
        known = devices.get(point.device_id)
        if point.kind is SourceKind.POINT and known is not None and known.points and point.source not in known.points:
            found.append(Finding(Gap.UNKNOWN_POINT, f"{point.device_id} {point.source}"))
    used = {point.sc_device_id for point in mapping.points}
    found += [
        Finding(Gap.EMPTY_DEVICE, each.ref.device_id) for each in mapping.devices if each.ref.device_id not in used
    ]
    return found
