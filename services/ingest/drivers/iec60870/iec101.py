"""IEC 60870-5-101: the ASDUs of 104, narrower, over a serial line or a converter.

Source:
    IEC 60870-5-101:2003 (DL/T 634.5101); southbound.md 7.
"""

import logging

from libs.common.contracts.registry import Line
from services.ingest.drivers.iec60870.asdu import Widths
from services.ingest.drivers.iec60870.balanced import BalancedLink
from services.ingest.drivers.iec60870.iec104 import STATION_SETTINGS, habits_of
from services.ingest.drivers.iec60870.line import Connect, Iec60870Line
from services.ingest.drivers.iec60870.master import Link
from services.ingest.drivers.iec60870.objects import Directory
from services.ingest.drivers.iec60870.unbalanced import UnbalancedLink
from services.ingest.drivers.line_settings import one_of, only, seconds, whole
from services.ingest.drivers.port import Opening
from services.ingest.drivers.stream import StreamLine
from services.ingest.drivers.wire import SERIAL_SETTINGS, wire_of

logger = logging.getLogger(__name__)

RESPONSE_S = 1.0
"""For an answer on the link: at 9600 baud the longest frame takes 0.3 s. [s]"""
QUIET_S = 0.2
POLL_S = 0.5
UNBALANCED_SETTINGS = frozenset({"timeout_s", "quiet_s", "poll_s"})
"""What any line with an unbalanced link may say of it."""
LINE_SETTINGS = UNBALANCED_SETTINGS | {
    "link", "link_address", "link_address_octets", "cause_octets", "common_address_octets", "object_address_octets",
}  # fmt: skip


def open_line(opening: Opening) -> Iec60870Line:
    """Return the driver of a 101 line.

    The line's ``settings`` say how wide its fields are (``cause_octets``, ``common_address_octets``,
    ``object_address_octets``, ``link_address_octets``), which ``link`` it has (``unbalanced``, ``balanced``) and, where
    that is not the common address, the ``link_address`` of its one station.

    Raises:
        InvalidInput: Its endpoint or settings are wrong.
    """
    line = opening.line
    only(line, LINE_SETTINGS | SERIAL_SETTINGS | STATION_SETTINGS)
    widths = Widths(
        cause=_octets(line, "cause_octets", 1, 1, 2),
        common_address=_octets(line, "common_address_octets", 1, 1, 2),
        object_address=_octets(line, "object_address_octets", 2, 1, 3),
    )
    mode = one_of(line, "link", (line.settings or {}).get("link", "unbalanced"), ("unbalanced", "balanced"))
    return Iec60870Line(
        protocol="iec101",
        connect=_balanced(opening) if mode == "balanced" else unbalanced(opening),
        widths=widths,
        clock=opening.clock,
        habits=habits_of(line),
        beside=opening.beside,
    )


def unbalanced(opening: Opening) -> Connect:
    """Return how the stations of an unbalanced line are reached, by the line's settings.

    Raises:
        InvalidInput: One is wrong.
    """
    line, clock = opening.line, opening.clock
    wire_of(line)  # says what is wrong
    address_size = _octets(line, "link_address_octets", 1, 1, 2)
    timeout_s, quiet_s = seconds(line, "timeout_s", RESPONSE_S), seconds(line, "quiet_s", QUIET_S)
    poll_s = seconds(line, "poll_s", POLL_S)
    fixed = _link_address(line, address_size)
    pacing_s = (line.pacing_ms or 0.0) / 1000

    async def connect(directory: Directory) -> Link:
        channel = wire_of(line)
        await channel.open()
        stream = StreamLine(channel, sessions={}, clock=clock, timeout_s=timeout_s, pacing_s=pacing_s, quiet_s=quiet_s)
        return UnbalancedLink(
            stream, directory.stations, link_address=lambda station: station if fixed is None else fixed,
            address_size=address_size, poll_s=poll_s, clock=clock,
        )  # fmt: skip

    return connect


def _balanced(opening: Opening) -> Connect:
    line, clock = opening.line, opening.clock
    wire_of(line)  # says what is wrong
    address_size = _octets(line, "link_address_octets", 1, 0, 2)
    timeout_s = seconds(line, "timeout_s", RESPONSE_S)
    fixed = _link_address(line, address_size)

    async def connect(directory: Directory) -> Link:
        channel = wire_of(line)
        await channel.open()
        address = min(directory.stations) if fixed is None else fixed
        link = BalancedLink(
            channel, address=address if address_size else 0, address_size=address_size, timeout_s=timeout_s, clock=clock
        )
        try:
            await link.start()
        except BaseException:
            await link.close()
            raise
        return link

    return connect


def _octets(line: Line, name: str, default: int, least: int, most: int) -> int:
    return whole(line, name, default, least=least, most=most)


def _link_address(line: Line, size: int) -> int | None:
    """Return the link address of a line's one station, None where it is the common address."""
    if "link_address" not in (line.settings or {}):
        return None
    return whole(line, "link_address", 1, least=0, most=max((1 << 8 * size) - 2, 0))
