"""CJ/T 188 water, heat and gas meters on a stream of bytes: one question, all points in its answer.

Every quantity carries the code of its unit; it is converted from that and never from what the profile expects.
"""

import logging
from collections.abc import Collection, Mapping
from datetime import datetime

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import Cjt188Control, Cjt188Point, Control
from libs.common.units import UnknownUnit, convert
from services.ingest.domain.codecs import bcd, cjt188
from services.ingest.domain.codecs.cjt188 import Frame
from services.ingest.drivers.port import Address, BadAnswer, DeviceRefused, RawReport
from services.ingest.drivers.stream import StreamLine

logger = logging.getLogger(__name__)


class Cjt188Device:
    """One meter."""

    def __init__(self, line: StreamLine, address: Address) -> None:
        """Prepare a session.

        Raises:
            InvalidInput: The address is no CJ/T 188 address, or the profile does not say what to read.
        """
        self._line = line
        self._clock: Clock = line.clock
        self._device_id = address.device_id
        self._address = _address(address)
        meter_type, read_di = address.profile.meter_type, address.profile.read_di
        if meter_type is None or read_di is None:
            raise InvalidInput(f"profile {address.profile.name} is none of a CJ/T 188 meter")
        self._meter_type, self._read_di = meter_type, read_di
        points = [point for point in address.profile.cjt188_points() if point.copy_of is None]
        self._points: Mapping[str, Cjt188Point] = {point.name: point for point in points}
        self._serial = 0

    async def read(self) -> RawReport:
        """Read everything: it is one answer."""
        return await self.read_points(self._points)

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read some points now."""
        what = f"{self._device_id} {self._read_di:04X}"
        frame = await self._ask(cjt188.read(self._meter_type, self._address, self._read_di, self._next()), what)
        raw: dict[str, float | int | None] = {}
        texts: dict[str, str] = {}
        failed: dict[str, str] = {}
        device_time: datetime | None = None
        for point in (self._points[name] for name in names if name in self._points):
            content = frame.data[point.data_offset : point.data_offset + point.byte_count]
            if len(content) < point.byte_count:
                if not point.optional:
                    failed[point.name] = f"{what}: the answer ends before it"
            elif point.is_text:
                time = cjt188.clock(content)
                if time is not None:
                    device_time = time.replace(tzinfo=CIVIL_ZONE)
                    texts[point.name] = time.isoformat(sep=" ")
            else:
                self._take(point, content, frame.data, raw, failed)
        if not raw and not texts:
            reason = next(iter(failed.values()), f"{what}: nothing of the profile in the answer")
            raise BadAnswer(reason, raw=self._line.distrust())
        return RawReport(raw=raw, received_at=self._clock.now(), failed=failed, texts=texts, device_time=device_time)

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control: a valve."""
        if not isinstance(control, Cjt188Control):
            raise InvalidInput(f"{control.name} is no CJ/T 188 control")
        request = cjt188.write(
            self._meter_type, self._address, control.di, self._next(), control.data, control=control.control_code
        )
        await self._ask(request, f"{self._device_id} {control.name}")
        return f"write {control.di:04X} accepted"

    def _next(self) -> int:
        self._serial = (self._serial + 1) & 0xFF
        return self._serial

    async def _ask(self, request: Frame, what: str) -> Frame:
        """Send a request and return this meter's answer to it.

        Raises:
            LineDown, DeviceSilent: As the line says.
            DeviceRefused: The meter says no.
        """

        def wanted(frame: Frame) -> bool:
            mine = frame.is_answer and frame.function == request.function
            same_meter = cjt188.matches(self._address, frame.address) and frame.meter_type >> 4 == self._meter_type >> 4
            repeats = frame.is_error or (frame.identifier, frame.serial) == (request.identifier, request.serial)
            return mine and same_meter and repeats

        def scan(data: bytes) -> tuple[int, Frame | None]:
            done = 0
            while True:
                consumed, frame = cjt188.scan(data[done:])
                done += consumed
                if frame is None or wanted(frame):
                    return done, frame

        wire = cjt188.WAKE_UP + cjt188.encode(request)
        frame = await self._line.exchange(wire, scan, device=self._device_id, what=what)
        if frame.is_error:
            raise DeviceRefused(f"{what}: refused, status {frame.data.hex(' ') or 'none'}")
        return frame

    def _take(
        self,
        point: Cjt188Point,
        content: bytes,
        answer: bytes,
        raw: dict[str, float | int | None],
        failed: dict[str, str],
    ) -> None:
        """Put a number into ``raw``, in units of the profile's scale."""
        if point.format.endswith("bitmap"):
            raw[point.name] = int.from_bytes(content, "little")
            return
        number = bcd.number(content)
        if number is None or point.unit_byte_offset is None:
            raw[point.name] = number
            return
        code = answer[point.unit_byte_offset] if len(answer) > point.unit_byte_offset else None
        unit = None if code is None else cjt188.UNITS.get(code)
        try:
            if unit is None:
                raise UnknownUnit(f"unit code {'none' if code is None else f'{code:02X}'} is not known")
            factor = convert(unit.times, unit.unit, point.unit)
        except UnknownUnit as exc:
            failed[point.name] = f"{self._device_id} {point.name}: {exc.message}"
            return
        raw[point.name] = number if factor == 1.0 else number * factor


def _address(address: Address) -> str:
    try:
        return cjt188.normal_address(address.text or "")
    except ValueError as exc:
        raise InvalidInput(
            f"device {address.device_id}: {exc}",
            message_zh=f"设备 {address.device_id}:地址 {address.text!r} 不是 CJ/T 188 表号(最多 14 位)",
        ) from None
