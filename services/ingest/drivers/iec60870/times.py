"""Time tags of IEC 60870-5: local times without a zone, in seven octets, or in three that say minute and second only.

Source:
    IEC 60870-5-101:2003 7.2.6.18 (CP56Time2a) and 7.2.6.19 (CP24Time2a).
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

SUMMER = timedelta(hours=1)


class UnreadableTime(ValueError):
    """The octets are no time."""


def decode_time(octets: bytes, zone: ZoneInfo, received_at: datetime) -> datetime | None:
    """Return the time of a tag in UTC, None when the station itself calls it invalid.

    Args:
        octets: Seven, or three.
        zone: Where the station's clock is set to.
        received_at: For a tag of three octets, which is the nearest such time to this.

    Raises:
        UnreadableTime: A field is out of its range.
    """
    milliseconds, minute = int.from_bytes(octets[:2], "little"), octets[2] & 0x3F
    if milliseconds > 59_999 or minute > 59:
        raise UnreadableTime(f"minute {minute}, millisecond {milliseconds}")
    if octets[2] & 0x80:
        return None
    if len(octets) == 3:
        return _nearest(minute, milliseconds, zone, received_at)
    return _local(octets, minute, milliseconds, zone)


def _nearest(minute: int, milliseconds: int, zone: ZoneInfo, received_at: datetime) -> datetime:
    this_hour = received_at.astimezone(zone).replace(minute=0, second=0, microsecond=0).astimezone(UTC)
    told = this_hour + timedelta(minutes=minute, milliseconds=milliseconds)
    half = timedelta(minutes=30)
    if told - received_at > half:
        return told - timedelta(hours=1)
    return told + timedelta(hours=1) if received_at - told > half else told


def _local(octets: bytes, minute: int, milliseconds: int, zone: ZoneInfo) -> datetime:
    hour, summer = octets[3] & 0x1F, bool(octets[3] & 0x80)
    day, month, year = octets[4] & 0x1F, octets[5] & 0x0F, 2000 + (octets[6] & 0x7F)
    seconds, milliseconds = divmod(milliseconds, 1000)
    try:
        local = datetime(
            year, month, day, hour, minute, seconds, milliseconds * 1000, tzinfo=zone, fold=0 if summer else 1
        )
    except ValueError as exc:
        raise UnreadableTime(f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}: {exc}") from exc
    if summer and not local.dst():
        local -= SUMMER  # the station has a summer time that its zone does not
    return local.astimezone(UTC)


def encode_time(when: datetime, zone: ZoneInfo) -> bytes:
    """Return seven octets that a station whose clock is set to ``zone`` shows."""
    local = when.astimezone(zone)
    milliseconds = local.second * 1000 + local.microsecond // 1000
    summer = 0x80 if local.dst() else 0
    return milliseconds.to_bytes(2, "little") + bytes(
        [local.minute, local.hour | summer, local.isoweekday() << 5 | local.day, local.month, local.year % 100]
    )
