"""What MMS carries, as raw numbers, quality and time.

Source:
    IEC 61850-7-3:2010 6.2 (quality), IEC 61850-8-1:2011 8.1.3 (types and their coding).
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hat.drivers import mms

from libs.common.contracts.telemetry import Quality

VALIDITY_BITS = 13
BINARY_EPOCH = datetime(1984, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000
OVERFLOW, BAD_REFERENCE, FAILURE, OLD_DATA = 2, 4, 6, 7
SUBSTITUTED, TEST, BLOCKED = 10, 11, 12


def raw_of(data: Any) -> int | float | None:
    """Return the number of a leaf; None for text and structures.

    True is 1; a position (two bits) is 0 intermediate, 1 off, 2 on, 3 bad; of other bit strings the first bit is the
    least.
    """
    match data:
        case mms.BooleanData(value):
            return int(value)
        case mms.IntegerData(value) | mms.UnsignedData(value):
            return int(value)
        case mms.FloatingPointData(value):
            return float(value)
        case mms.BitStringData(bits) if len(bits) == 2:
            first, second = bits
            return int(first) << 1 | int(second)
        case mms.BitStringData(bits):
            return sum(int(bit) << n for n, bit in enumerate(bits))
        case _:
            return None


def quality_of(data: Any) -> Quality | None:
    """Return the worst that a quality says, None for good, and for what is no quality."""
    if not isinstance(data, mms.BitStringData) or len(data.value) != VALIDITY_BITS:
        return None
    bits = list(data.value)
    # A value of a device under test is none of the process.
    if bits[:2] == [False, True] or any(bits[n] for n in (OVERFLOW, BAD_REFERENCE, FAILURE, TEST)):
        return Quality.INVALID
    if bits[OLD_DATA]:
        return Quality.STALE
    if bits[BLOCKED]:
        return Quality.FROZEN
    if bits[SUBSTITUTED]:
        return Quality.SUBSTITUTED
    return Quality.SUSPECT if bits[:2] != [False, False] else None


def time_of(data: Any) -> datetime | None:
    """Return a time that the IED vouches for: None when its clock has failed or follows nothing."""
    if not isinstance(data, mms.UtcTimeData) or data.clock_failure or data.not_synchronized:
        return None
    return data.value if data.value.timestamp() > 0 else None


def entry_time_of(data: Any, since: datetime, until: datetime) -> datetime | None:
    """Return a time of entry, found by when the entry can have been made; None where that leaves it open.

    It is days and the milliseconds of the day, which hat-drivers adds up as if they were seconds. A millisecond more
    may therefore be a day less: what is left is one time in nearly a day.

    Args:
        data: As hat-drivers decodes it.
        since: The entry was not made before.
        until: It was made by then.
    """
    if not isinstance(data, mms.BinaryTimeData):
        return None
    told_s = (data.value - BINARY_EPOCH) // timedelta(seconds=1)
    found = []
    for day in range((since - BINARY_EPOCH).days, (until - BINARY_EPOCH).days + 1):
        at_ms = told_s - day * 86_400
        at = BINARY_EPOCH + timedelta(days=day, milliseconds=at_ms)
        if 0 <= at_ms < DAY_MS and since <= at <= until:
            found.append(at)
    return found[0] if len(found) == 1 else None


def leaves(item: str, data: Any, kind: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a value with their names, by the description of its type.

    Raises:
        ValueError: The value is not of the type.
    """
    if not isinstance(kind, mms.StructureTypeDescription):
        yield item, data
        return
    elements = list(data.elements) if isinstance(data, mms.StructureData) else []
    components = list(kind.components)
    if len(elements) != len(components):
        raise ValueError(f"{item}: {len(elements)} elements where its type has {len(components)}")
    for (name, component), element in zip(components, elements, strict=True):
        yield from leaves(f"{item}${name}", element, component)


def bits_of(data: Any) -> Sequence[bool]:
    """Return the bits of a bit string.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(data, mms.BitStringData):
        raise ValueError(f"expected bits, found {type(data).__name__}")
    return list(data.value)


def text_of(data: Any) -> str:
    """Return a text.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(data, mms.VisibleStringData | mms.MmsStringData):
        raise ValueError(f"expected text, found {type(data).__name__}")
    return str(data.value)


def true_bits(bits: Collection[bool]) -> frozenset[int]:
    """Return which bits are set."""
    return frozenset(n for n, bit in enumerate(bits) if bit)
