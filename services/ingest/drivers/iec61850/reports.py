"""Information reports of IEC 61850, taken apart.

Source:
    IEC 61850-8-1:2011 17.2.3 (format of a report), 17.2.2 (OptFlds).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hat.drivers import mms

from services.ingest.drivers.iec61850.names import Variable
from services.ingest.drivers.iec61850.values import bits_of, leaves, text_of, true_bits

SEQUENCE, TIME, REASON, DATA_SET, REFERENCES, OVERFLOW, ENTRY, REVISION, SEGMENTS = range(1, 10)
"""Bits of OptFlds: which fields a report carries."""
DATA_CHANGE, QUALITY_CHANGE, DATA_UPDATE, INTEGRITY, INTERROGATION = range(1, 6)
"""Bits of a reason for inclusion."""
ASKED_FOR = frozenset({INTEGRITY, INTERROGATION})


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a data set."""

    variable: Variable
    type: Any
    """Description of its type."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report, by the names of the leaves in it."""

    values: Mapping[Variable, Any]
    changed: bool
    """Whether something in it has changed, as against told again in turn or because it was asked for."""
    interrogated: bool
    """It answers a general interrogation."""
    sequence: int | None
    """Its number; segments of one report share it, and it begins again with 0."""
    overflow: bool
    """Entries were lost before it."""
    entry: bytes | None
    """Id of its entry in the buffer."""
    entry_time: Any
    """When it was made, by the IED, as it came; see ``values.entry_time_of``."""


def report_id(data: Sequence[Any]) -> str:
    """Return which control block a report is of. Raises ``ValueError``."""
    if not data:
        raise ValueError("an empty report")
    return text_of(data[0])


def parse(data: Sequence[Any], members: Sequence[Member]) -> Report:
    """Return what a report says.

    Args:
        data: Of the information report.
        members: Of the data set, in order.

    Raises:
        ValueError: It is no report of this data set.
    """
    rest = iter(data)
    try:
        return _parse(rest, members)
    except StopIteration:
        raise ValueError(f"a report of {len(data)} fields is too short") from None


def _parse(rest: Iterator[Any], members: Sequence[Member]) -> Report:
    next(rest)
    fields = true_bits(bits_of(next(rest)))
    head = {name: next(rest) for name in (SEQUENCE, TIME, DATA_SET, OVERFLOW, ENTRY, REVISION) if name in fields}
    if SEGMENTS in fields:
        next(rest)  # its number
        next(rest)  # whether more follow
    included = bits_of(next(rest))
    if len(included) != len(members):
        raise ValueError(f"{len(included)} entries where the data set has {len(members)}")
    found = [member for member, there in zip(members, included, strict=True) if there]
    if REFERENCES in fields:
        for _ in found:
            next(rest)
    values: dict[Variable, Any] = {}
    for member in found:
        for item, leaf in leaves(member.variable.item, next(rest), member.type):
            values[Variable(member.variable.domain, item)] = leaf
    reasons = [true_bits(bits_of(next(rest))) for _ in found] if REASON in fields else []
    if next(rest, None) is not None:
        raise ValueError("more fields than a report has")
    sequence, entry = head.get(SEQUENCE), head.get(ENTRY)
    return Report(
        values=values,
        changed=not reasons or not all(reason <= ASKED_FOR for reason in reasons),
        interrogated=any(INTERROGATION in reason for reason in reasons),
        sequence=sequence.value if isinstance(sequence, mms.UnsignedData | mms.IntegerData) else None,
        overflow=head.get(OVERFLOW) == mms.BooleanData(True),
        entry=bytes(entry.value) if isinstance(entry, mms.OctetStringData) else None,
        entry_time=head.get(TIME),
    )
