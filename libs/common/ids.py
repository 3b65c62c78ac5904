"""Identifiers: typed so that a device id is never passed where a site id is wanted."""

import os
import time
import uuid
from typing import NewType

RegionId = NewType("RegionId", str)
OrganisationId = NewType("OrganisationId", str)
SiteId = NewType("SiteId", str)
RoomId = NewType("RoomId", str)
DeviceId = NewType("DeviceId", str)
CircuitId = NewType("CircuitId", str)
LineId = NewType("LineId", str)
SimId = NewType("SimId", str)
BindingId = NewType("BindingId", str)
LoadId = NewType("LoadId", str)
AlarmId = NewType("AlarmId", str)
CommandId = NewType("CommandId", str)
OccurrenceId = NewType("OccurrenceId", str)
PlanId = NewType("PlanId", str)


def new_id() -> str:
    """Return a new identifier that sorts by creation time (UUID version 7, RFC 9562)."""
    ms = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (ms & (1 << 48) - 1) << 80
    value |= 0x7 << 76
    value |= ((random >> 62) & 0xFFF) << 64
    value |= 0b10 << 62
    value |= random & (1 << 62) - 1
    return str(uuid.UUID(int=value))
