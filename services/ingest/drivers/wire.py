"""What a line's bytes go over: a serial port of this machine, or a converter behind TCP."""

from libs.common.contracts.registry import Line
from libs.common.errors import InvalidInput
from services.ingest.drivers.channel import SerialChannel, TcpChannel
from services.ingest.drivers.endpoint import parse_endpoint
from services.ingest.drivers.line_settings import one_of
from services.ingest.drivers.port import Channel

DEFAULT_BAUD = 9600
SERIAL_SETTINGS = frozenset({"baud", "data", "parity", "stop"})
MOST_BAUD = 4_000_000


def wire_of(line: Line) -> Channel:
    """Return the channel of a line whose endpoint is a serial port (``/dev/…``) or a converter (``host:port``).

    Raises:
        InvalidInput: The endpoint or a setting of the port is wrong.
    """
    if line.endpoint.startswith("/"):
        return serial_channel(line, baud_of(line))
    return TcpChannel(*parse_endpoint(line.endpoint))


def serial_channel(line: Line, baud: int) -> SerialChannel:
    """Return the serial port of a line. Raises ``InvalidInput`` when a setting is wrong."""
    settings = line.settings or {}
    return SerialChannel(
        line.endpoint,
        baud=baud,
        data_bits=int(one_of(line, "data", settings.get("data", 8), (7, 8))),
        parity=str(one_of(line, "parity", settings.get("parity", "N"), ("N", "E", "O"))),
        stop_bits=int(one_of(line, "stop", settings.get("stop", 1), (1, 2))),
    )


def baud_of(line: Line) -> int:
    """Return the speed of a serial line. Raises ``InvalidInput``. [bit/s]"""
    value = (line.settings or {}).get("baud", DEFAULT_BAUD)
    if isinstance(value, bool) or not isinstance(value, int) or not 50 <= value <= MOST_BAUD:
        raise InvalidInput(
            f"line {line.id}: settings.baud: expected bits per second, 50 to {MOST_BAUD}, found {value!r}",
            message_zh=f"线路 {line.id}:settings.baud 应为 50 至 {MOST_BAUD} 的波特率,实际为 {value!r}",
        )
    return value
