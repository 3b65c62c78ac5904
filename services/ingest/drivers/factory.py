"""Which driver speaks over a line of the registry."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from libs.common.clock import Clock
from libs.common.contracts.registry import Line, LineKind
from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile, Protocol
from libs.common.secretstore import SecretStore
from services.ingest.drivers import aep, cdt, modbus_rtu, mqtt
from services.ingest.drivers.channel import TcpChannel
from services.ingest.drivers.cjt188 import Cjt188Device
from services.ingest.drivers.dlt645 import ClockSetting, Dlt645Device
from services.ingest.drivers.dtu import DtuHub, Registration
from services.ingest.drivers.endpoint import parse_endpoint
from services.ingest.drivers.line_settings import flag, seconds
from services.ingest.drivers.means import Means
from services.ingest.drivers.modbus_tcp import ModbusTcpLine
from services.ingest.drivers.mqtt_open import open_mqtt
from services.ingest.drivers.port import Channel, LineDriver, Opening, TellingLine
from services.ingest.drivers.stream import Sessions, StreamLine
from services.ingest.drivers.wire import baud_of, serial_channel
from services.ingest.drivers.yd1363 import Yd1363Device
from services.ingest.settings import PollingSettings

STREAM_KINDS = frozenset({LineKind.RTU_OVER_TCP, LineKind.SERIAL, LineKind.DTU})
"""Lines that are a stream of bytes: whatever protocol a device on it speaks, several at a time."""
POLLED_KINDS = STREAM_KINDS | {LineKind.TCP}
"""Lines that ingest reads by asking."""

CHARACTERS_OF_SILENCE = 3.5
"""Between two frames on a serial line, by the Modbus specification."""
BITS_OF_CHARACTER = 11


@dataclass(frozen=True, slots=True)
class Telling:
    """A driver for lines of one kind whose devices speak by themselves."""

    open: Callable[[Opening], TellingLine]
    """Raises ``InvalidInput`` when the line's endpoint or settings are wrong."""
    supports: Callable[[DeviceProfile], bool]
    """Whether it understands devices of a profile."""


TELLING_KINDS = frozenset(
    {
        LineKind.AEP, LineKind.CDT, LineKind.IEC101, LineKind.IEC103, LineKind.IEC104, LineKind.IEC61850,
        LineKind.MQTT, LineKind.OPCUA,
    }
)  # fmt: skip
"""Lines whose devices speak by themselves."""


def _telling(kind: LineKind) -> Telling:
    """Return the driver of a kind of ``TELLING_KINDS``.

    The libraries of OPC UA and of the IEC protocols take a third of the time in which ingest is loaded, and few sites
    have such lines: the first of them loads what it needs.
    """
    match kind:
        case LineKind.AEP:
            return Telling(aep.open_aep, aep.supports)
        case LineKind.CDT:
            return Telling(cdt.open_line, cdt.supports)
        case LineKind.IEC101 | LineKind.IEC104:
            from services.ingest.drivers.iec60870 import iec101, iec104

            return Telling((iec101 if kind is LineKind.IEC101 else iec104).open_line, iec104.supports)
        case LineKind.IEC103:
            from services.ingest.drivers.iec60870 import iec103

            return Telling(iec103.open_line, iec103.supports)
        case LineKind.IEC61850:
            from services.ingest.drivers.iec61850 import line as iec61850

            return Telling(iec61850.open_line, iec61850.supports)
        case LineKind.MQTT:
            return Telling(open_mqtt, mqtt.supports)
        case LineKind.OPCUA:
            from services.ingest.drivers import opcua
            from services.ingest.drivers.opcua_open import open_opcua

            return Telling(open_opcua, opcua.supports)
        case _:
            raise ValueError(f"devices on lines of kind {kind} do not speak by themselves")


def is_served(line: Line) -> bool:
    """Return whether there is a driver for lines of this kind."""
    return line.kind in POLLED_KINDS or line.kind in TELLING_KINDS


def open_line(
    line: Line, clock: Clock, settings: PollingSettings, means: Means, *, beside: bool = False
) -> LineDriver | TellingLine:
    """Return the driver of a line; it connects at the first request, or when it is run.

    A line's own ``settings`` may hold ``timeout_s`` and ``quiet_s`` in place of the general ones, and for a serial
    port ``baud``, ``data``, ``parity`` and ``stop``. ``set_clock: true`` lets the clocks of DL/T 645 meters on a stream
    be set by broadcast.

    Args:
        line: Of the registry.
        clock: Ours.
        settings: What holds where the line says nothing.
        means: What all drivers share: among it where the line's ``credentials_ref`` leads to.
        beside: It is a second connection for one order, while somebody else may hold the line.

    Raises:
        InvalidInput: The line's kind has no driver, or its endpoint or settings are wrong.
    """
    if line.kind in TELLING_KINDS:
        return _telling(line.kind).open(Opening(line, clock, means, beside))
    if line.kind is LineKind.DTU:
        return _dtu(line, clock, _sessions(line, settings, means.secrets), means.hub)
    timeout_s = seconds(line, "timeout_s", settings.response_timeout_s)
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
            baud = baud_of(line)
            channel = serial_channel(line, baud)
            pacing_s = max(pacing_s, CHARACTERS_OF_SILENCE * BITS_OF_CHARACTER / baud)
        case _:
            raise InvalidInput(
                f"line {line.id}: there is no driver for lines of kind {line.kind}",
                message_zh=f"线路 {line.id}:没有 {line.kind} 类型线路的驱动",
            )
    return StreamLine(
        channel,
        sessions=_sessions(line, settings, means.secrets),
        clock=clock,
        timeout_s=timeout_s,
        pacing_s=pacing_s,
        quiet_s=seconds(line, "quiet_s", settings.quiet_s),
    )


def supports(line: Line, profile: DeviceProfile) -> bool:
    """Return whether a device of the profile can be read or heard on the line."""
    if line.kind in TELLING_KINDS:
        return _telling(line.kind).supports(profile)
    match profile.protocol:
        case Protocol.MODBUS:
            return any(True for _ in profile.modbus_points())
        case Protocol.DLT645 | Protocol.CJT188 | Protocol.YD1363:
            return line.kind in STREAM_KINDS
        case _:
            return False


def _sessions(line: Line, settings: PollingSettings, secrets: SecretStore) -> Sessions:
    """Return how the protocols that a stream can carry are spoken."""
    ref = line.credentials_ref
    clock_setting = ClockSetting(enabled=flag(line, "set_clock"))
    return {
        Protocol.MODBUS: partial(modbus_rtu.device, max_gap=settings.max_gap),
        Protocol.DLT645: partial(
            Dlt645Device,
            credentials=None if ref is None else partial(secrets.read, ref),
            clock_setting=clock_setting,
        ),
        Protocol.CJT188: Cjt188Device,
        Protocol.YD1363: Yd1363Device,
    }


def _dtu(line: Line, clock: Clock, sessions: Sessions, hub: DtuHub | None) -> StreamLine:
    registration_of(line)
    if hub is None:
        raise InvalidInput(
            f"line {line.id}: nobody listens for terminals; WATTRING_INGEST__DTU__PORT says where to",
            message_zh=f"线路 {line.id}:未启用 DTU 监听,请设置 WATTRING_INGEST__DTU__PORT",
        )
    return StreamLine(
        hub.channel(line.id),
        sessions=sessions,
        clock=clock,
        timeout_s=seconds(line, "timeout_s", hub.settings.timeout_s),
        pacing_s=(line.pacing_ms or 0.0) / 1000,
        quiet_s=seconds(line, "quiet_s", hub.settings.quiet_s),
        renews=False,
    )


def registration_of(line: Line) -> Registration:
    """Return how the terminal of a line makes itself known.

    Raises:
        InvalidInput: The line does not say that in a way that can be read.
    """
    heartbeat = (line.settings or {}).get("heartbeat")
    return Registration.of(line.endpoint, None if heartbeat is None else str(heartbeat))
