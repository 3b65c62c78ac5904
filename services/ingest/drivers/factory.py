"""Which driver speaks over a line of the registry."""

from functools import partial

from libs.common.clock import Clock
from libs.common.contracts.registry import Line, LineKind
from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile, Protocol
from services.ingest.drivers import modbus_rtu
from services.ingest.drivers.channel import SerialChannel, TcpChannel
from services.ingest.drivers.endpoint import parse_endpoint
from services.ingest.drivers.modbus_tcp import ModbusTcpLine
from services.ingest.drivers.port import Channel, LineDriver
from services.ingest.drivers.stream import Sessions, StreamLine
from services.ingest.settings import PollingSettings

STREAM_KINDS = frozenset({LineKind.RTU_OVER_TCP, LineKind.SERIAL})
"""Lines that are a stream of bytes: whatever protocol a device on it speaks, several at a time."""
POLLED_KINDS = STREAM_KINDS | {LineKind.TCP}
"""Lines that ingest reads by asking; on the others devices speak by themselves."""

DEFAULT_BAUD = 9600
MOST_BAUD = 4_000_000
CHARACTERS_OF_SILENCE = 3.5
"""Between two frames on a serial line, by the Modbus specification."""
BITS_OF_CHARACTER = 11


def open_line(line: Line, clock: Clock, settings: PollingSettings) -> LineDriver:
    """Return the driver of a line; it connects at the first request.

    A line's own ``settings`` may hold ``timeout_s`` and ``quiet_s`` in place of the general ones, and for a serial
    port ``baud``, ``data``, ``parity`` and ``stop``.

    Raises:
        InvalidInput: The line's kind has no driver, or its endpoint or settings are wrong.
    """
    timeout_s = _seconds(line, "timeout_s", settings.response_timeout_s)
    pacing_s = (line.pacing_ms or 0.0) / 1000
    match line.kind:
        case LineKind.TCP:
            host, port = parse_endpoint(line.endpoint)
            return ModbusTcpLine(
                host=host, port=port, clock=clock, timeout_s=timeout_s, pacing_s=pacing_s, max_gap=settings.max_gap
            )
        case LineKind.RTU_OVER_TCP:
            channel: Channel = TcpChannel(*parse_endpoint(line.endpoint))
        case LineKind.SERIAL:
            baud = _baud(line)
            channel = _serial(line, baud)
            pacing_s = max(pacing_s, CHARACTERS_OF_SILENCE * BITS_OF_CHARACTER / baud)
        case _:
            raise InvalidInput(
                f"line {line.id}: lines of kind {line.kind} are not polled",
                message_zh=f"线路 {line.id}:{line.kind} 类型的线路不轮询",
            )
    return StreamLine(
        channel,
        sessions=_sessions(settings),
        clock=clock,
        timeout_s=timeout_s,
        pacing_s=pacing_s,
        quiet_s=_seconds(line, "quiet_s", settings.quiet_s),
    )


def supports(profile: DeviceProfile) -> bool:
    """Return whether a device of the profile has points that can be asked for."""
    match profile.protocol:
        case Protocol.MODBUS:
            return any(True for _ in profile.modbus_points())
        case _:
            return False


def _sessions(settings: PollingSettings) -> Sessions:
    """Return how the protocols that a stream can carry are spoken."""
    return {Protocol.MODBUS: partial(modbus_rtu.device, max_gap=settings.max_gap)}


def _serial(line: Line, baud: int) -> SerialChannel:
    settings = line.settings or {}
    return SerialChannel(
        line.endpoint,
        baud=baud,
        data_bits=int(_one_of(line, "data", settings.get("data", 8), (7, 8))),
        parity=str(_one_of(line, "parity", settings.get("parity", "N"), ("N", "E", "O"))),
        stop_bits=int(_one_of(line, "stop", settings.get("stop", 1), (1, 2))),
    )


def _baud(line: Line) -> int:
    value = (line.settings or {}).get("baud", DEFAULT_BAUD)
    if isinstance(value, bool) or not isinstance(value, int) or not 50 <= value <= MOST_BAUD:
        raise InvalidInput(
            f"line {line.id}: settings.baud: expected bits per second, 50 to {MOST_BAUD}, found {value!r}",
            message_zh=f"线路 {line.id}:settings.baud 应为 50 至 {MOST_BAUD} 的波特率,实际为 {value!r}",
        )
    return value


def _one_of(line: Line, name: str, value: object, known: tuple[int, ...] | tuple[str, ...]) -> int | str:
    for one in known:
        if value == one and not isinstance(value, bool):
            return one
    names = ", ".join(map(str, known))
    raise InvalidInput(
        f"line {line.id}: settings.{name}: expected one of {names}, found {value!r}",
        message_zh=f"线路 {line.id}:settings.{name} 应为 {names} 之一,实际为 {value!r}",
    )


def _seconds(line: Line, name: str, default: float) -> float:
    value = (line.settings or {}).get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 60:
        raise InvalidInput(
            f"line {line.id}: settings.{name}: expected seconds above 0, at most 60, found {value!r}",
            message_zh=f"线路 {line.id}:settings.{name} 应为大于 0、不超过 60 的秒数,实际为 {value!r}",
        )
    return float(value)
