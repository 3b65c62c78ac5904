"""Which driver speaks over a line of the registry."""

from libs.common.clock import Clock
from libs.common.contracts.registry import Line, LineKind
from libs.common.errors import InvalidInput
from services.ingest.drivers.modbus import ModbusLine, parse_endpoint
from services.ingest.drivers.port import LineDriver
from services.ingest.settings import PollingSettings

POLLED_KINDS = frozenset({LineKind.TCP, LineKind.RTU_OVER_TCP})
"""Lines that ingest reads by asking; on the others devices speak by themselves."""


def open_line(line: Line, clock: Clock, settings: PollingSettings) -> LineDriver:
    """Return the driver of a line; it connects at the first request.

    A line's own ``settings`` may hold ``timeout_s`` and ``quiet_s`` in place of the general ones.

    Raises:
        InvalidInput: The line's kind has no driver, or its endpoint or settings are wrong.
    """
    if line.kind not in POLLED_KINDS:
        raise InvalidInput(f"line {line.id}: lines of kind {line.kind} are not polled")
    host, port = parse_endpoint(line.endpoint)
    return ModbusLine(
        host=host,
        port=port,
        framing="rtu" if line.kind is LineKind.RTU_OVER_TCP else "tcp",
        clock=clock,
        timeout_s=_seconds(line, "timeout_s", settings.response_timeout_s),
        pacing_s=(line.pacing_ms or 0.0) / 1000,
        quiet_s=_seconds(line, "quiet_s", settings.quiet_s),
        max_gap=settings.max_gap,
    )


def _seconds(line: Line, name: str, default: float) -> float:
    value = (line.settings or {}).get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 60:
        raise InvalidInput(f"line {line.id}: settings.{name}: expected seconds above 0, at most 60, found {value!r}")
    return float(value)
