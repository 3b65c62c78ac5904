"""IEC 60870-5-104: ASDUs over TCP, with the transport control (k, w, t1 to t3) of hat-drivers.

Its connection closes itself when the peer breaks the rules: no acknowledgement or test answer within t1, a jump in
the sequence numbers, an acknowledgement of what was never sent.

Source:
    IEC 60870-5-104:2006 clause 5; southbound.md 6.1.
"""

import asyncio
import logging
from collections.abc import Callable

from hat.drivers import net
from hat.drivers.iec60870 import apci

from libs.common.contracts.registry import Line
from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile, Protocol
from services.ingest.drivers.endpoint import parse_endpoint
from services.ingest.drivers.iec60870.asdu import WIDTHS_104
from services.ingest.drivers.iec60870.line import Iec60870Line
from services.ingest.drivers.iec60870.master import Habits, Link
from services.ingest.drivers.iec60870.objects import Directory
from services.ingest.drivers.line_settings import flag, only, seconds, whole, zone
from services.ingest.drivers.port import LineDown, Opening

# The library tells every broken connection with a traceback; here it is a line that is down.
logging.getLogger("hat.drivers.iec60870").setLevel(logging.ERROR)

PORT = 2404
MOST_UNACKNOWLEDGED = 32767
DAY_S = 86400.0
STATION_SETTINGS = frozenset(
    {
        "originator", "zone", "time_tags", "interrogation_s", "counter_interrogation_s", "freeze_counters", "set_clock",
        "clock_sync_s", "confirm_s", "terminate_s",
    }
)  # fmt: skip
"""What a line of kind ``iec104`` or ``iec101`` may say of its stations."""


def open_line(opening: Opening) -> Iec60870Line:
    """Return the driver of a 104 line.

    Raises:
        InvalidInput: Its endpoint or settings are wrong.
    """
    line = opening.line
    only(line, {"t0_s", "t1_s", "t2_s", "t3_s", "k", "w"} | STATION_SETTINGS)
    host, port = parse_endpoint(line.endpoint, PORT)
    connect_s = seconds(line, "t0_s", 30.0)
    response_s = seconds(line, "t1_s", 15.0)
    supervisory_s = seconds(line, "t2_s", 10.0)
    test_s = seconds(line, "t3_s", 20.0, most=DAY_S)
    k, w = _window(line, "k", 12), _window(line, "w", 8)
    if supervisory_s >= response_s:
        raise InvalidInput(
            f"line {line.id}: settings.t2_s: expected less than t1_s ({response_s:g}), found {supervisory_s:g}",
            message_zh=f"线路 {line.id}:settings.t2_s 应小于 t1_s({response_s:g}),收到 {supervisory_s:g}",
        )

    async def connect(directory: Directory) -> Link:
        try:
            async with asyncio.timeout(connect_s):
                connection = await apci.connect(
                    net.TcpAddress(host, port),
                    response_timeout=response_s,
                    supervisory_timeout=supervisory_s,
                    test_timeout=test_s,
                    send_window_size=k,
                    receive_window_size=w,
                )
        except TimeoutError:
            raise LineDown(f"{host}:{port}: no connection, or no answer to STARTDT, in time") from None
        except (OSError, UnicodeError) as exc:
            raise LineDown(f"{host}:{port} cannot be connected: {exc}") from exc
        except Exception as exc:
            # The library has no error of its own for a peer that does not speak 104.
            raise LineDown(f"{host}:{port} does not answer as a station of 104: {exc}") from exc
        return _Link(connection, f"{host}:{port}")

    return Iec60870Line(
        protocol="iec104",
        connect=connect,
        widths=WIDTHS_104,
        clock=opening.clock,
        habits=habits_of(line),
        beside=opening.beside,
    )


def habits_of(line: Line) -> Habits:
    """Return how a line's stations are spoken to, from its settings.

    Raises:
        InvalidInput: A setting is wrong.
    """
    clock_sync_s = seconds(line, "clock_sync_s", 3600.0, most=DAY_S)
    return Habits(
        originator=whole(line, "originator", 0, least=0, most=255),
        zone=zone(line),
        use_times=flag(line, "time_tags", default=True),
        interrogation_s=seconds(line, "interrogation_s", 60.0, most=DAY_S),
        counter_interrogation_s=seconds(line, "counter_interrogation_s", 60.0, most=DAY_S),
        freeze_counters=flag(line, "freeze_counters"),
        clock_sync_s=clock_sync_s if flag(line, "set_clock", default=True) else 0.0,
        confirm_s=seconds(line, "confirm_s", 10.0),
        terminate_s=seconds(line, "terminate_s", 20.0, most=300),
    )


def supports(profile: DeviceProfile) -> bool:
    """Return whether devices of a profile can be behind a station."""
    return profile.protocol is Protocol.IEC60870_5


def _window(line: Line, name: str, default: int) -> int:
    return whole(line, name, default, least=1, most=MOST_UNACKNOWLEDGED)


class _Link:
    """The connection to one peer, whatever stations are behind it."""

    def __init__(self, connection: apci.Connection, peer: str) -> None:
        self._connection = connection
        self._peer = peer

    async def send(self, asdu: bytes, station: int) -> None:
        """Return once it is out: with k frames unacknowledged the library holds it back."""
        try:
            await self._connection.send(asdu)
            await self._connection.drain()
        except ConnectionError as exc:
            raise self._down() from exc

    async def receive(self) -> bytes:
        try:
            return bytes(await self._connection.receive())
        except ConnectionError as exc:
            raise self._down() from exc

    def on_back(self, listener: Callable[[int], None]) -> None:
        """Do nothing: the connection is lost with its peer."""

    async def close(self) -> None:
        await self._connection.async_close()

    def _down(self) -> LineDown:
        return LineDown(f"{self._peer}: the connection was closed, or the peer broke the rules of 104")
