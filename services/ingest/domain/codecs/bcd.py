"""Decimal digits in bytes, two to a byte and the lowest pair first, as Chinese meter protocols write numbers."""


def number(data: bytes, *, signed: bool = False) -> int | None:
    """Return the digits of a value as a whole number, the decimal point left out.

    Args:
        data: As sent, lowest pair first.
        signed: The top bit of the highest byte is the sign.

    Returns:
        None for all bytes FF (not measured) and for what is no decimal number.
    """
    if not data or all(byte == 0xFF for byte in data):
        return None
    sign = 1
    if signed and data[-1] & 0x80:
        sign, data = -1, data[:-1] + bytes((data[-1] & 0x7F,))
    text = digits(data)
    return None if text is None else sign * int(text)


def digits(data: bytes) -> str | None:
    """Return a number that is a name (an address, a serial number) as its digits; None where it has others."""
    text = data[::-1].hex()
    return text if text.isdecimal() else None


def encode(value: int, byte_count: int, *, signed: bool = False) -> bytes:
    """Return a number as bytes.

    Raises:
        ValueError: It does not fit, or is negative without a sign.
    """
    text = str(abs(value)).rjust(2 * byte_count, "0")
    if len(text) > 2 * byte_count or (value < 0 and not signed) or (signed and text[0] >= "8"):
        raise ValueError(f"{value} does not fit into {byte_count} bytes")
    data = bytearray(bytes.fromhex(text)[::-1])
    if value < 0:
        data[-1] |= 0x80
    return bytes(data)
