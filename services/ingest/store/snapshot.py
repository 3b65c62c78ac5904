"""What waking needs of the registry, on this machine's disk: loads, their switches, lines, sites and regions.

So that a process that starts while the database is away can still close what has to be closed.
"""

import logging
import os
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from libs.common.contracts.registry import EntityKind, RegistryRecord, parse_record
from services.ingest.usecases.topology import Topology

logger = logging.getLogger(__name__)


def load_snapshot(path: Path, topology: Topology) -> int:
    """Give the topology what a former process has saved, and return how many entities that were."""
    try:
        records = [parse_record(line) for line in path.read_bytes().splitlines() if line]
    except FileNotFoundError:
        return 0
    except (OSError, ValidationError, ValueError) as exc:
        logger.error("the saved registry cannot be read", extra={"file": path.name, "reason": str(exc)[:300]})
        return 0
    for record in records:
        topology.put(record)
    return len(records)


def snapshot_of(topology: Topology, when: datetime) -> bytes:
    """Return the entities that waking needs, one record a line."""
    found: dict[str, RegistryRecord] = {}

    def add(kind: EntityKind, entity_id: str | None) -> None:
        record = None if entity_id is None else topology.index.record(kind, entity_id)
        if record is not None:
            found[record.id] = record

    for load in topology.loads(when):
        add(EntityKind.LOAD, load.id)
        add(EntityKind.SITE, load.site)
        site = topology.index.site(load.site, when)
        region = None if site is None or site.region in found else site.region
        for region_id in () if region is None else topology.index.regions_above(region, when):
            add(EntityKind.REGION, region_id)
        device = None if load.breaker is None else topology.device(load.breaker.device, when)
        if device is not None:
            add(EntityKind.DEVICE, device.id)
            add(EntityKind.LINE, device.line)
    return b"".join(record.to_json() + b"\n" for _, record in sorted(found.items()))


def save_snapshot(path: Path, blob: bytes) -> None:
    """Write the file whole, or not at all.

    Raises:
        OSError: The disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def same(path: Path, blob: bytes) -> bool:
    """Return whether the file holds exactly this."""
    try:
        return path.read_bytes() == blob
    except OSError:
        return False
