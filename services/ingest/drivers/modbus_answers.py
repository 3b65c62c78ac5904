"""Modbus answers as they come off a line: what pymodbus's classes say, without what its decoder costs.

The library writes every answer out as text for a log that nobody reads and unpacks registers one by one. Reads of
registers, nearly all there is, are decoded here; the rest goes to the library.
"""

import struct

from pymodbus.exceptions import ModbusException
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.register_message import ReadHoldingRegistersResponse, ReadInputRegistersResponse

_DECODER = DecodePDU(False)
_REGISTERS: dict[int, type[ModbusPDU]] = {
    found.function_code: found for found in (ReadHoldingRegistersResponse, ReadInputRegistersResponse)
}


def decode_answer(data: bytes) -> ModbusPDU | None:
    """Return the answer in ``data`` (function code and what follows it), None where it is none."""
    kind = _REGISTERS.get(data[0]) if data else None
    if kind is None or len(data) < 2 or len(data) != 2 + data[1] or data[1] % 2:
        return _by_library(data)
    return kind(registers=struct.unpack(f">{data[1] // 2}H", data[2:]))


def _by_library(data: bytes) -> ModbusPDU | None:
    try:
        return _DECODER.decode(data)
    except ModbusException:
        return None
