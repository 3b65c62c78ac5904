"""Past reports of a simulated field, as the platform would have stored them had it been there.

A report holds what a perfect reader would have got from the registers at that instant, so the last past
report and the first live one fit: same rounding, same energy register, same switchings.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from libs.common.contracts.telemetry import Reading
from libs.common.ids import DeviceId, LineId, SiteId
from libs.common.points import Quantity
from libs.fieldsim.faults import ClockOffset
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import DevicePart


def past_reports(
    field: Field,
    *,
    until: datetime,
    hours: float,
    period_s: int,
    devices: Sequence[str] = (),
) -> Iterator[Reading]:
    """Yield the reports of ``[until - hours, until)``, oldest first, one per device and period.

    Report times are multiples of the period since 1970. Faults of the field are not in it, except a wrong
    device clock: that one dates the reports wrongly, as it would have.

    Args:
        field: Where the values come from.
        until: End of the history, exclusive.
        hours: Its length. [h]
        period_s: Distance of two reports of a device. [s]
        devices: Only these; none given: all.
    """
    end_s = until.timestamp()
    number = math.ceil((end_s - hours * 3600) / period_s)
    parts = [part for part in field.file.devices if not devices or part.id in devices]
    while (time_s := float(number * period_s)) < end_s:
        for part in parts:
            yield _report(field, part, time_s, until)
        number += 1


def write_history(
    path: Path, field: Field, *, until: datetime, hours: float, period_s: int, devices: Sequence[str] = ()
) -> int:
    """Write past reports as one JSON object a line; return how many. The file appears when it is whole."""
    fresh = path.with_name(f".{path.name}.part")
    count = 0
    with fresh.open("wb") as file:
        for reading in past_reports(field, until=until, hours=hours, period_s=period_s, devices=devices):
            file.write(reading.to_json() + b"\n")
            count += 1
    fresh.replace(path)
    return count


def read_history(path: Path) -> Iterator[Reading]:
    """Yield the reports of a history file."""
    with path.open("rb") as file:
        for line in file:
            yield Reading.model_validate(orjson.loads(line))


def _report(field: Field, part: DevicePart, time_s: float, received_at: datetime) -> Reading:
    device = field.devices[part.id]
    moment = datetime.fromtimestamp(time_s, UTC)
    wrong = field.faults.active(part.id, ClockOffset, received_at.timestamp())
    profile = device.profile
    points = {name: value for name, value in device.shown(time_s).items() if value is not None}
    ratio = device.ct_ratio * device.pt_ratio
    return Reading(
        device_id=DeviceId(part.id),
        site_id=SiteId(part.site),
        source_time=moment if wrong is None else moment + timedelta(seconds=wrong.offset_s),
        received_at=moment,
        driver=profile.protocol.code,
        points=points,
        line_id=LineId(part.line),
        profile=profile.name,
        profile_version=profile.version,
        ct_ratio=device.ct_ratio,
        pt_ratio=device.pt_ratio,
        energy_ratio=ratio if Quantity.ENERGY in profile.ratio_applies_to else None,
    )
