"""What a person at a new line needs below the level of profiles: who answers, what it calls itself, bare registers."""

import struct
from dataclasses import dataclass

from pymodbus.pdu import ExceptionResponse
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest, ReadDeviceInformationResponse
from pymodbus.pdu.other_message import ReportDeviceIdRequest, ReportDeviceIdResponse
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest

from libs.common.errors import InvalidInput
from libs.common.profiles import Area
from services.ingest.domain.registers import text
from services.ingest.drivers.modbus import GATEWAY_PATH, GATEWAY_SILENT, READS, Asking
from services.ingest.drivers.modbus_rtu import UNITS, RtuAsking
from services.ingest.drivers.modbus_tcp import ModbusTcpLine, TcpAsking
from services.ingest.drivers.port import BadAnswer, DeviceSilent, LineDriver
from services.ingest.drivers.stream import StreamLine

OBJECTS = {
    0: "vendor", 1: "product_code", 2: "revision", 3: "vendor_url", 4: "product", 5: "model", 6: "application",
}  # fmt: skip
"""Basic and regular objects of Read Device Identification, Modbus application protocol V1.1b3 6.21."""
NOBODY = ""
"""Whoever is asked here need not be there: silence must not make the line doubtful to the devices on it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A unit that is there."""

    unit: int
    exception: int | None
    """It answers with this exception; None: with registers."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a unit says of itself; most meters say nothing."""

    objects: dict[str, str]
    """Of Read Device Identification (43/14)."""
    server_id_hex: str | None
    """Of Report Server ID (17), in the maker's own form."""


def modbus_asking(driver: LineDriver) -> Asking:
    """Return a way to ask bare Modbus questions on a line.

    Raises:
        InvalidInput: The line carries no Modbus.
    """
    match driver:
        case ModbusTcpLine():
            return TcpAsking(driver, NOBODY)
        case StreamLine():
            return RtuAsking(driver, NOBODY)
        case _:
            raise InvalidInput(
                f"a line of {driver.protocol} carries no Modbus", message_zh=f"{driver.protocol} 线路不支持 Modbus"
            )


def unit_limits(driver: LineDriver) -> tuple[int, int]:
    """Return the least and the greatest unit id on a line."""
    return UNITS if isinstance(driver, StreamLine) else (0, 255)


async def look_for(asking: Asking, unit: int, *, timeout_s: float) -> Answered | None:
    """Ask a unit for one register; any answer, an exception too, says that it is there.

    Raises:
        LineDown: As the port says.
    """
    pdu = ReadHoldingRegistersRequest(address=0, count=1, dev_id=unit)
    try:
        answer = await asking.request(f"unit {unit}", pdu, timeout_s=timeout_s)
    except DeviceSilent:
        return None
    except BadAnswer:
        asking.distrust()
        return Answered(unit, None)  # something answers, if only two of them at once
    if isinstance(answer, ExceptionResponse):
        number = answer.exception_code
        # A gateway says of a unit behind it that nobody is there.
        return None if number in (GATEWAY_PATH, GATEWAY_SILENT) else Answered(unit, number)
    return Answered(unit, None)


async def identity(asking: Asking, unit: int, *, timeout_s: float) -> Identity:
    """Ask a unit what it is; what it refuses or does not answer is left out.

    Raises:
        LineDown: As the port says.
    """
    objects: dict[str, str] = {}
    server_id: str | None = None
    try:
        answer = await asking.request(
            f"unit {unit} identification", ReadDeviceInformationRequest(dev_id=unit), timeout_s=timeout_s
        )
        if isinstance(answer, ReadDeviceInformationResponse):
            objects = {
                OBJECTS.get(number, f"object_{number:02X}"): words
                for number, raw in answer.information.items()
                if (words := _words(raw)) is not None
            }
    except (DeviceSilent, BadAnswer):
        asking.distrust()
    try:
        answer = await asking.request(f"unit {unit} server id", ReportDeviceIdRequest(dev_id=unit), timeout_s=timeout_s)
        if isinstance(answer, ReportDeviceIdResponse):
            server_id = bytes(answer.identifier).hex()
    except (DeviceSilent, BadAnswer):
        asking.distrust()
    return Identity(objects, server_id)


async def registers(
    asking: Asking, unit: int, area: Area, address: int, count: int, *, timeout_s: float
) -> list[int] | int:
    """Read bare registers or bits.

    Returns:
        The registers, or the number of the exception that the unit answered.

    Raises:
        LineDown, DeviceSilent, BadAnswer: As the port says.
    """
    pdu = READS[area](address=address, count=count, dev_id=unit)
    answer = await asking.request(f"unit {unit} {area} {address:#06x}+{count}", pdu, timeout_s=timeout_s)
    if isinstance(answer, ExceptionResponse):
        return int(answer.exception_code)
    found = [int(bit) for bit in answer.bits[:count]] if area.is_bits else list(answer.registers)
    if len(found) != count or answer.function_code != pdu.function_code:
        raise BadAnswer(f"unit {unit}: asked for {count} of {area}, got {len(found)}", raw=asking.distrust())
    return found


def _words(raw: object) -> str | None:
    """Return an object's characters; several of one number are joined."""
    if isinstance(raw, list | tuple):
        return " ".join(words for one in raw if (words := _words(one)) is not None) or None
    if not isinstance(raw, bytes):
        return str(raw) or None
    padded = raw + b"\0" * (len(raw) % 2)
    return text(struct.unpack(f">{len(padded) // 2}H", padded))
