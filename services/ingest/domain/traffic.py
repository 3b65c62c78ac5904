"""The traffic of a load, which decides whether it may be switched off: told by the radio network's own systems.

Such a report names a load in place of a device: by ``load_id``, or as the radio network calls it, by
``network_element_id`` and, where that has several sectors, ``sector``. It carries ``traffic_load`` in per cent and
nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.contracts.registry import Load
from libs.common.contracts.telemetry import RejectReason
from libs.common.ids import DeviceId, LoadId, SiteId
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.report import Report
from services.ingest.domain.submission import Submission, is_device_id, read_submission

TRAFFIC_POINT = "traffic_load"
_NAMES = ("load_id", "network_element_id")
_PLACEHOLDER = "load"


@dataclass(frozen=True, slots=True)
class LoadName:
    """How a report calls a load."""

    load_id: str | None
    network_element_id: str | None = None
    sector: str | None = None

    def __str__(self) -> str:
        sector = "" if self.sector is None else f", sector {self.sector}"
        return self.load_id if self.load_id is not None else f"network element {self.network_element_id}{sector}"


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """A load's traffic as it was sent, read but not yet believed."""

    load: LoadName
    said: Submission


def names_a_load(payload: object) -> bool:
    """Return whether a report is about a load and not about a device."""
    return isinstance(payload, dict) and "device_id" not in payload and any(name in payload for name in _NAMES)


def read_traffic(payload: Mapping[str, Any]) -> TrafficReport | Refused:
    """Return what a report about a load says, or why it is not taken."""
    load = _name(payload)
    if isinstance(load, Refused):
        return load
    said = read_submission({**payload, "device_id": _PLACEHOLDER})
    if isinstance(said, Refused):
        return said
    if set(said.points) != {TRAFFIC_POINT}:
        return Refused(
            RejectReason.UNKNOWN_POINT,
            f"points: a load has {TRAFFIC_POINT} and nothing else, found {', '.join(sorted(said.points))[:200]}",
            f"负载只有测点 {TRAFFIC_POINT},实际为 {', '.join(sorted(said.points))[:200]}",
        )
    return TrafficReport(load, said)


def report_of_load(said: Submission, load: Load, received_at: datetime, driver: str) -> Report:
    """Return the report of a load that the registry knows; on the bus it stands under the load's id."""
    return Report(
        device_id=DeviceId(load.id),
        site_id=SiteId(load.site),
        source_time=said.source_time,
        received_at=received_at,
        driver=driver,
        points=said.points,
        quality=said.quality,
        seq=said.seq,
        message_id=said.message_id,
        load_id=LoadId(load.id),
    )


def unknown_load(name: LoadName) -> Refused:
    """Return why a report of a load that is not in the registry, or not the only one of that name, is not taken."""
    return Refused(
        RejectReason.UNKNOWN_DEVICE,
        f"there is no load {name}, or more than one: expected load_id, or network_element_id with sector",
        f"没有负载 {name},或有多个:请用 load_id,或 network_element_id 加 sector",
    )


def _name(payload: Mapping[str, Any]) -> LoadName | Refused:
    load_id = payload.get("load_id")
    if load_id is not None:
        return LoadName(load_id) if is_device_id(load_id) else _wrong("load_id", load_id)
    element, sector = payload.get("network_element_id"), payload.get("sector")
    if not _is_name(element):
        return _wrong("network_element_id", element)
    if sector is not None and not _is_name(sector):
        return _wrong("sector", sector)
    return LoadName(None, str(element), None if sector is None else str(sector))


def _is_name(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and 0 < len(str(value)) <= 200


def _wrong(field: str, found: object) -> Refused:
    shown = repr(found)[:100]
    return Refused(
        RejectReason.UNDECODABLE, f"{field}: expected a name, found {shown}", f"{field} 应为名称,实际为 {shown}"
    )
