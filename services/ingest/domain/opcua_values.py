"""What an OPC UA server says of values: quality of status codes, numbers of variants, and which values are one report.

A change is told at its source's time, when the value came to be. One that a reading of ours has already overtaken (the
source's clock is slow, say) is told at the time at which it came, with the source's beside it, so that it is not taken
for old news. What is read is of the time of its youngest change, as long as something in the device changes at all.

Source:
    OPC UA Part 4 (1.05), 7.11 DataValue, 7.38 StatusCode; Part 8 (1.05), 6.3 status codes of data access.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from libs.common.contracts.telemetry import Quality
from libs.common.points import PointKind
from libs.common.profiles import OpcUaPoint

SUBCODE = 0xFFFF0000
"""The upper half of a status code says what, the lower half carries flags."""
_SEVERITY = 0xC0000000
_UNCERTAIN, _BAD = 0x40000000, 0x80000000
_FLAGS: Mapping[int, Quality] = {
    0x00960000: Quality.MANUAL,  # GoodLocalOverride: somebody has set it
    0x408F0000: Quality.STALE,  # UncertainNoCommunicationLastUsableValue
    0x40900000: Quality.STALE,  # UncertainLastUsableValue
    0x40910000: Quality.SUBSTITUTED,  # UncertainSubstituteValue
    0x42090000: Quality.ESTIMATED,  # UncertainSimulatedValue
    0x80310000: Quality.STALE,  # BadNoCommunication
    0x808A0000: Quality.STALE,  # BadNotConnected
}
DOES_NOT_EXIST = frozenset({
    0x801F0000,  # BadUserAccessDenied
    0x80330000,  # BadNodeIdInvalid
    0x80340000,  # BadNodeIdUnknown
    0x80350000,  # BadAttributeIdInvalid
    0x803A0000,  # BadNotReadable
})  # fmt: skip
"""Status codes that say that a variable is not there for us: no missing value, but a wrong profile."""

STATIC_AFTER_S = 60.0
"""A device of whose values none has changed for longer has no clock of its own that is worth reading. [s]"""
MAX_TEXT = 200

Number = float | int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one point."""

    point: str
    raw: Number
    received_at: datetime
    quality: Quality | None = None
    source_time: datetime | None = None
    is_state: bool = False
    """Its time is told exactly; a gauge's may be moved by less than the window."""


@dataclass(slots=True)
class Group:
    """Samples that are one report."""

    at: datetime
    raw: dict[str, Number] = field(default_factory=dict)
    quality: dict[str, Quality] = field(default_factory=dict)
    device_time: datetime | None = None
    """The source's time, where ``at`` is not it."""

    def put(self, sample: Sample) -> None:
        """Add a sample."""
        self.raw[sample.point] = sample.raw
        if sample.quality is not None:
            self.quality[sample.point] = sample.quality


def quality_of(status: int) -> Quality | None:
    """Return what a status code says of its value, None for good."""
    known = _FLAGS.get(status & SUBCODE)
    if known is not None:
        return known
    match status & _SEVERITY:
        case 0:
            return None
        case severity if severity == _UNCERTAIN:
            return Quality.SUSPECT
        case _:
            return Quality.INVALID


def is_bad(status: int) -> bool:
    """Return whether a status code says that there is no value."""
    return bool(status & _BAD)


def number_of(value: object, point: OpcUaPoint) -> Number:
    """Return the raw number that a variant's content is for a point, None when it is none."""
    if isinstance(value, list | tuple):
        if point.index is None or point.index >= len(value):
            return None
        value = value[point.index]
    elif point.index is not None:
        return None
    match value:
        case bool():
            return int(value)
        case int() | float():
            return value
        case str() if point.words is not None:
            return point.words.get(value)
        case _:
            return None


def text_of(value: object) -> str | None:
    """Return a text point's text."""
    if value is None or isinstance(value, list | tuple | bytes):
        return None
    return str(value)[:MAX_TEXT] or None


def is_state(point: OpcUaPoint) -> bool:
    """Return whether the time of a change matters to the moment."""
    return point.canonical is not None and point.canonical.kind in (PointKind.STATE, PointKind.SETTING)


def change_groups(samples: Iterable[Sample], last: datetime | None, window_s: float) -> list[Group]:
    """Return the reports that changes of one device make, oldest first.

    Args:
        samples: In the order in which they came.
        last: Time of the device's last report; None when there was none.
        window_s: Gauges that changed within this of each other are one report, at the latest of their times. [s]
    """
    timed = sorted(((*_time_of(sample, last), sample) for sample in samples), key=lambda found: found[0])
    groups: list[Group] = []
    open_group: Group | None = None
    begun = datetime.min.replace(tzinfo=UTC)
    for at, device_time, sample in timed:
        if sample.is_state:
            groups.append(Group(at, device_time=device_time))
            groups[-1].put(sample)
            continue
        if open_group is None or sample.point in open_group.raw or (at - begun).total_seconds() > window_s:
            open_group, begun = Group(at), at
            groups.append(open_group)
        open_group.at = at
        open_group.put(sample)
        open_group.device_time = device_time or open_group.device_time
    return _merged(groups)


def reading_time(samples: Sequence[Sample], last: datetime | None) -> datetime | None:
    """Return the time of values that were read together, None for the time at which they came.

    It is on the clock of the source, as the changes are, as long as that shows to be running: by a value that is
    younger than ``STATIC_AFTER_S`` and than the device's last report.
    """
    newest = max((sample.source_time for sample in samples if sample.source_time is not None), default=None)
    if newest is None or (last is not None and newest <= last):
        return None
    age_s = (samples[0].received_at - newest).total_seconds()
    return newest if age_s <= STATIC_AFTER_S else None


def _time_of(sample: Sample, last: datetime | None) -> tuple[datetime, datetime | None]:
    """Return when a change was, and the source's time where that is not it."""
    source = sample.source_time
    if source is None:
        return sample.received_at, None
    if last is not None and source <= last < sample.received_at:
        return sample.received_at, source
    return source, None


def _merged(groups: list[Group]) -> list[Group]:
    """Return groups in the order of their times, those of one time together where they share no point."""
    found: list[Group] = []
    for group in sorted(groups, key=lambda group: group.at):
        before = found[-1] if found else None
        if before is not None and before.at == group.at and not before.raw.keys() & group.raw.keys():
            before.raw |= group.raw
            before.quality |= group.quality
            before.device_time = before.device_time or group.device_time
        else:
            found.append(group)
    return found
