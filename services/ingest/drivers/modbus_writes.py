"""What Modbus writes for a control: function, registers and coils, and what the answer must repeat of it."""

from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.bit_message import WriteMultipleCoilsRequest, WriteSingleCoilRequest
from pymodbus.pdu.register_message import WriteMultipleRegistersRequest, WriteSingleRegisterRequest

from libs.common.errors import InvalidInput
from libs.common.profiles import ModbusControl, ModbusPoint, RegisterType, WriteFunction
from services.ingest.domain.registers import ByteOrder, encode


def write_request(
    control: ModbusControl, value: float | None, *, shown_by: ModbusPoint | None, order: ByteOrder, unit: int
) -> ModbusPDU:
    """Return the request that does a control.

    Args:
        control: Of the profile.
        value: The command's, where the control takes one.
        shown_by: The point that it is read back from; its scale and offset hold for the command's value.
        order: Of the bytes of a value of several registers.
        unit: Whom to ask.

    Raises:
        InvalidInput: No value, one outside the device's limits, or one that cannot be written.
    """
    words = control.values or (
        (control.value,) if control.value is not None else _words(control, value, shown_by, order)
    )
    match control.function:
        case WriteFunction.COIL:
            return WriteSingleCoilRequest(address=control.address, bits=[words[0] != 0], dev_id=unit)
        case WriteFunction.COILS:
            bits = [word != 0 for word in words]
            return WriteMultipleCoilsRequest(address=control.address, bits=bits, dev_id=unit)
        case WriteFunction.REGISTER:
            return WriteSingleRegisterRequest(address=control.address, registers=list(words), dev_id=unit)
        case WriteFunction.REGISTERS:
            return WriteMultipleRegistersRequest(address=control.address, registers=list(words), dev_id=unit)


def repeated(pdu: ModbusPDU) -> tuple[object, ...]:
    """Return what the answer to a write repeats of it."""
    match pdu.function_code:
        case WriteSingleCoilRequest.function_code:
            return (pdu.address, bool(pdu.bits[0]))
        case WriteSingleRegisterRequest.function_code:
            return (pdu.address, pdu.registers[0])
        case _:
            return (pdu.address, pdu.count)


def _words(
    control: ModbusControl, value: float | None, shown_by: ModbusPoint | None, order: ByteOrder
) -> tuple[int, ...]:
    """Return the registers of a control that takes its value from the command."""
    low = control.min if control.min is not None else float("-inf")
    high = control.max if control.max is not None else float("inf")
    if value is None or not low <= value <= high:
        raise InvalidInput(
            f"{control.name} takes a value from {low:g} to {high:g}, not {value}",
            message_zh=f"{control.name} 的取值范围为 {low:g} 至 {high:g},收到 {value}",
        )
    scale, offset = (shown_by.scale, shown_by.offset) if shown_by is not None else (1.0, 0.0)
    type_ = control.type
    if type_ is None:
        type_ = shown_by.type if shown_by is not None and shown_by.count == 1 else RegisterType.UINT16
    raw = (value - offset) / scale
    return encode(raw if type_.is_float else round(raw), type_, order)
