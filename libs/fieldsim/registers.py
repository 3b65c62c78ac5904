"""Canonical values to registers and back, for any Modbus profile.

``RegisterMap`` lays the points of a profile out in blocks; ``encode`` fills an ``Image`` of the device's memory
with canonical values, which the Modbus server cuts answers from; ``shown`` says what a reader of that memory gets,
rounding and float32 included, so that history can be written as the registers would have shown it.
"""

import math
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from libs.common.points import Quantity
from libs.common.profiles import Area, DeviceProfile, Encoding, ModbusPoint, Order, ProfilePoint, RegisterType

GAP_REGISTERS = 16
"""Unused registers between two points that still answer, with 0; beyond them an address does not exist."""

RESOLUTION = {
    "V": 0.1,
    "A": 0.001,
    "kW": 0.0001,
    "kvar": 0.0001,
    "kVA": 0.0001,
    "kWh": 0.001,
    "kvarh": 0.001,
    "Hz": 0.01,
    "degC": 0.1,
    "%": 0.1,
}
"""Digits that a meter shows, in the canonical unit: a float register holds no more than these."""
OTHER_RESOLUTION = 0.001

_STRUCT = {
    RegisterType.INT16: ">h",
    RegisterType.UINT16: ">H",
    RegisterType.INT32: ">i",
    RegisterType.UINT32: ">I",
    RegisterType.INT64: ">q",
    RegisterType.UINT64: ">Q",
    RegisterType.FLOAT32: ">f",
    RegisterType.FLOAT64: ">d",
}
_NAN = {RegisterType.FLOAT32: 0x7FC00000, RegisterType.FLOAT64: 0x7FF8 << 48}


class NoSuchAddress(Exception):
    """A read or write touches an address that the device does not have."""


@dataclass(slots=True)
class Image:
    """The memory of one device at one instant."""

    blocks: dict[Area, list[tuple[int, bytearray]]]
    """Per register area, ascending: first address and content, two bytes a register."""
    bits: dict[Area, dict[int, bool]]

    def registers(self, area: Area, address: int, count: int) -> bytes:
        """Return ``count`` registers, high byte first.

        Raises:
            NoSuchAddress: A part of them does not exist.
        """
        for start, content in self.blocks.get(area, ()):
            first = 2 * (address - start)
            if 0 <= first and first + 2 * count <= len(content):
                return bytes(content[first : first + 2 * count])
        raise NoSuchAddress(f"{area} {address}..{address + count - 1}")

    def flags(self, area: Area, address: int, count: int) -> list[bool]:
        """Return ``count`` bits.

        Raises:
            NoSuchAddress: A part of them does not exist.
        """
        bits = self.bits.get(area, {})
        try:
            return [bits[at] for at in range(address, address + count)]
        except KeyError:
            raise NoSuchAddress(f"{area} {address}..{address + count - 1}") from None


class _Plain(NamedTuple):
    """A float point, prepared: a thousand meters are drawn five times a second."""

    name: str
    area: Area
    block: int
    offset: int
    """In the block. [B]"""
    pack_into: Callable[[bytearray, int, float], None]
    steps: float
    """Steps of the resolution in one canonical unit on the primary side."""
    step: float
    """One step as a register number."""


class RegisterMap:
    """The points of a profile, laid out.

    Args:
        profile: What to lay out; a Modbus one.
        names: Points this device has; the others of the profile do not exist on it.
        ct_ratio: Of the transformers before the device; divides what goes into secondary-side registers.
        pt_ratio: The same for voltage.
        gap_registers: Longest run of unused registers that still answers.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        names: Collection[str],
        *,
        ct_ratio: float = 1.0,
        pt_ratio: float = 1.0,
        gap_registers: int = GAP_REGISTERS,
    ) -> None:
        self.points = tuple(point for point in profile.modbus_points() if point.name in names)
        self._low_word_first = profile.word_order is Order.LITTLE
        self._ratio = {
            point.name: ratio_of(profile, point, ct_ratio=ct_ratio, pt_ratio=pt_ratio) for point in self.points
        }
        self._spans = _spans(self.points, gap_registers)
        masked = {(p.area, p.address) for p in self.points if p.mask is not None}
        written = [
            point
            for point in self.points
            if point.copy_of is None and (point.mask is not None or (point.area, point.address) not in masked)
        ]
        self._written = tuple(written)
        self._plain = tuple(self._prepared(point) for point in written if self._is_plain(point))
        self._others = tuple(point for point in written if not self._is_plain(point))

    def encode(self, values: Mapping[str, float], *, marked: Collection[str] = ()) -> Image:
        """Return the memory that shows ``values``.

        Args:
            values: Canonical values, primary side; a point without one holds 0.
            marked: Points that hold the profile's "not measured" marker instead.
        """
        blocks = {
            area: [(start, bytearray(2 * (end - start))) for start, end in spans]
            for area, spans in self._spans.items()
            if not area.is_bits
        }
        bits: dict[Area, dict[int, bool]] = {}
        if not marked:
            for plain in self._plain:
                value = values.get(plain.name)
                if value is not None:
                    content = blocks[plain.area][plain.block][1]
                    plain.pack_into(content, plain.offset, round(value * plain.steps) * plain.step)
        for point in self._others if not marked else self._written:
            value = values.get(point.name, 0.0)
            if point.area.is_bits:
                bits.setdefault(point.area, {})[point.address] = bool(value)
            elif point.name in marked:
                _put(blocks[point.area], point, self._ordered(_marker(point)))
            elif point.value_map is None or point.name in values:
                _put(blocks[point.area], point, self._words(point, value / self._ratio[point.name]))
        return Image(blocks=blocks, bits=bits)

    def shown(self, image: Image) -> dict[str, float | None]:
        """Return what a reader gets: canonical values after rounding on the wire, none for a marker.

        Energy stays as the register shows it; voltage, current and power come back to the primary side.
        """
        result: dict[str, float | None] = {}
        for point in self.points:
            value = self.decode(point, image)
            if value is not None and not _is_energy(point):
                value *= self._ratio[point.name]
            result[point.name] = value
        return result

    def decode(self, point: ModbusPoint, image: Image) -> float | None:
        """Return the value of one point as it stands in the memory, in its unit, on the register's side."""
        if point.area.is_bits:
            return float(image.flags(point.area, point.address, 1)[0])
        words = self._ordered(image.registers(point.area, point.address, point.count))
        raw = struct.unpack(_STRUCT[point.type], words)[0]
        if int.from_bytes(words) in point.invalid_raw or math.isnan(raw):
            return None
        if point.value_map is not None:
            return point.value_map.get(raw if point.mask is None else raw & point.mask)
        if point.encoding is Encoding.SCHNEIDER_4Q_PF:
            raw = _from_four_quadrants(raw)
        return float(raw) * point.scale + point.offset

    def _is_plain(self, point: ModbusPoint) -> bool:
        """Return whether a point is a float that scale and rounding alone turn into its register: most are."""
        return point.type.is_float and point.value_map is None and point.offset == 0.0 and not self._low_word_first

    def _prepared(self, point: ModbusPoint) -> "_Plain":
        block, start = next(
            (number, start)
            for number, (start, end) in enumerate(self._spans[point.area])
            if start <= point.address < end
        )
        resolution = RESOLUTION.get(point.unit, OTHER_RESOLUTION)
        return _Plain(
            name=point.name,
            area=point.area,
            block=block,
            offset=2 * (point.address - start),
            pack_into=struct.Struct(_STRUCT[point.type]).pack_into,
            steps=1.0 / (self._ratio[point.name] * resolution),
            step=resolution / point.scale,
        )

    def _words(self, point: ModbusPoint, value: float) -> bytes:
        raw = _raw(point, value) if point.value_map is None else _raw_of_state(point, value)
        return self._ordered(struct.pack(_STRUCT[point.type], raw))

    def _ordered(self, words: bytes) -> bytes:
        """Return big-endian bytes in the profile's word order, or the other way round."""
        if not self._low_word_first or len(words) == 2:
            return words
        return b"".join(words[index : index + 2] for index in range(len(words) - 2, -1, -2))


def ratio_of(profile: DeviceProfile, point: ProfilePoint, *, ct_ratio: float, pt_ratio: float) -> float:
    """Return what a primary-side value is divided by on its way into the register."""
    quantity = Quantity.OTHER if point.canonical is None else point.canonical.quantity
    if quantity not in profile.ratio_applies_to:
        return 1.0
    return {Quantity.VOLTAGE: pt_ratio, Quantity.CURRENT: ct_ratio}.get(quantity, ct_ratio * pt_ratio)


def _is_energy(point: ModbusPoint) -> bool:
    return point.canonical is not None and point.canonical.quantity is Quantity.ENERGY


def _spans(points: Iterable[ModbusPoint], gap_registers: int) -> dict[Area, list[tuple[int, int]]]:
    """Return per area the half-open address ranges that answer."""
    spans: dict[Area, list[tuple[int, int]]] = {}
    for point in sorted(points, key=lambda point: point.address):
        area = spans.setdefault(point.area, [])
        if area and point.address - area[-1][1] <= gap_registers:
            area[-1] = (area[-1][0], max(point.end, area[-1][1]))
        else:
            area.append((point.address, point.end))
    return spans


def _put(blocks: list[tuple[int, bytearray]], point: ModbusPoint, words: bytes) -> None:
    for start, content in blocks:
        first = 2 * (point.address - start)
        if 0 <= first < len(content):
            if point.mask is None:
                content[first : first + len(words)] = words
            else:  # points that share a register each bring their own bits
                for index, byte in enumerate(words):
                    content[first + index] |= byte
            return
    raise NoSuchAddress(f"{point.area} {point.address}")


def _raw(point: ModbusPoint, value: float) -> float:
    """Return the number for the register: rounded, a counter rolled over, a gauge held at the type's limits."""
    if point.type.is_float:
        resolution = RESOLUTION.get(point.unit, OTHER_RESOLUTION)
        return round((value - point.offset) / resolution) * resolution / point.scale
    raw = round((value - point.offset) / point.scale)
    if point.modulus is not None and _is_energy(point):
        return raw % round(point.modulus / point.scale)
    low, high = (
        (1 - (1 << point.type.bits - 1), (1 << point.type.bits - 1) - 2)
        if point.type.is_signed
        else (0, (1 << point.type.bits) - 2)
    )
    return max(low, min(high, raw))


def _raw_of_state(point: ModbusPoint, value: float) -> int:
    for raw, meaning in (point.value_map or {}).items():
        if meaning == value:
            return raw
    raise ValueError(f"{point.name}: the profile has no raw value for {value}")


def _marker(point: ModbusPoint) -> bytes:
    """Return the pattern for "not measured": the profile's, else NaN or all ones."""
    all_ones = (1 << point.type.bits) - 1
    pattern = min(point.invalid_raw, default=_NAN.get(point.type, all_ones))
    return pattern.to_bytes(point.type.bits // 8)


def _from_four_quadrants(raw: float) -> float:
    if raw > 1:
        return 2 - raw
    return -2 - raw if raw < -1 else raw
