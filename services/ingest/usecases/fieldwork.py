"""Helpers for a person who commissions a line: who is on it, which profile fits, where registers are, what goes by.

Every request is a turn of its own on the line: polls and commands come in between, and none of these helpers takes
longer than its budget; what is left is asked for with a further call. They read only; nothing is written.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile, ModbusPoint, Order, ProfileCatalogue
from libs.common.profiles import Protocol as Spoken
from services.ingest.domain.commissioning import (
    Look,
    Looked,
    best_offset,
    is_candidate,
    look_at,
    score,
    telling_points,
)
from services.ingest.domain.normalise import UNITY, Normaliser
from services.ingest.domain.registers import ByteOrder, decode
from services.ingest.drivers import fieldwork
from services.ingest.drivers.dlt645 import Dlt645Device
from services.ingest.drivers.fieldwork import Answered, Identity
from services.ingest.drivers.port import (
    Address,
    BadAnswer,
    DeviceRefused,
    DeviceSession,
    DeviceSilent,
    LineDriver,
    RawReport,
)
from services.ingest.drivers.taps import Passing

Result = TypeVar("Result")

STRANGER = "new-device"
"""What a device that is not in the registry is called in messages."""
SILENT_PROFILES = 3
"""Profiles that are tried on a device that has not answered at all."""
OFFSETS = (-1, 0, 1)
WILDCARD_645 = "AAAAAAAAAAAA"


class LineUse(Protocol):
    """A line for a while, in turns."""

    async def turn(self, job: Callable[[LineDriver], Awaitable[Result]]) -> Result:
        """Do ``job`` on the line when it is free; commands and polls come between two turns.

        Raises:
            LineDown: The line was given up.
        """


class LineAccess(Protocol):
    """The way to lines."""

    def use(self, line_id: str) -> AbstractAsyncContextManager[LineUse]:
        """Return a line to be used, held by this process or by nobody.

        Raises:
            NotFound: There is no such line.
            Conflict: Another process holds it.
            InvalidInput: Its devices are not asked.
        """

    def listen(self, line_id: str) -> AbstractAsyncContextManager["Frames"]:
        """Return what goes by on a line that this process holds. Raises as ``use``."""


class Frames(Protocol):
    """What goes by on a line."""

    async def next(self, timeout_s: float) -> tuple[datetime, Passing] | None:
        """Return the next frame and when it went by, None when none did in time or the line was given up."""

    @property
    def lost(self) -> int:
        """Frames that were not fetched in time."""

    @property
    def over(self) -> bool:
        """Whether the line was given up."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """Units that were looked for."""

    asked: int
    found: list[Answered]
    next: int | None
    """The unit to go on with; None when all were asked."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """How a profile fits."""

    profile: DeviceProfile
    score: float
    looked: list[Looked]


@dataclass(frozen=True, slots=True)
class Proposed:
    """Profiles that were tried, the best first."""

    tried: int
    proposals: list[Proposal]
    next: str | None
    """The profile to go on with; None when all were tried."""


@dataclass(frozen=True, slots=True)
class ProbedPlace:
    """What stands at an address, read as a point would be."""

    point: str
    offset: int
    address: int
    registers: list[int] | None
    """None: not readable."""
    reason: str | None
    by_order: dict[ByteOrder, float | None]
    """In the canonical unit, by the order of the bytes; one register knows two orders, a bit one."""
    looked: Looked
    """In the profile's own order."""


@dataclass(frozen=True, slots=True)
class Probed:
    """Points read at their addresses and beside them."""

    places: list[ProbedPlace]
    offset: int | None
    """At which the values look right; None where that cannot be told."""


class Fieldwork:
    """The helpers."""

    def __init__(self, *, access: LineAccess, catalogue: ProfileCatalogue, clock: Clock) -> None:
        self._access = access
        self._catalogue = catalogue
        self._clock = clock

    async def scan(self, line_id: str, *, first: int, last: int, timeout_s: float, budget_s: float) -> Scanned:
        """Look for Modbus units on a line, in the order of their numbers.

        Args:
            line_id: The line.
            first: First unit id.
            last: Last one, included.
            timeout_s: How long each may take to answer. [s]
            budget_s: No further unit is asked after this. [s]

        Raises:
            LineDown: The line cannot be reached.
            InvalidInput: The line carries no Modbus.
        """
        ends = self._clock.monotonic() + budget_s
        found: list[Answered] = []
        asked = 0
        async with self._access.use(line_id) as line:
            least, most = await line.turn(_unit_limits)
            for unit in range(max(first, least), min(last, most) + 1):
                if asked and self._clock.monotonic() >= ends:
                    return Scanned(asked, found, unit)

                async def look(driver: LineDriver, unit: int = unit) -> Answered | None:
                    return await fieldwork.look_for(fieldwork.modbus_asking(driver), unit, timeout_s=timeout_s)

                answered = await line.turn(look)
                asked += 1
                if answered is not None:
                    found.append(answered)
        return Scanned(asked, found, None)

    async def identify(self, line_id: str, *, unit: int, timeout_s: float) -> Identity:
        """Ask a Modbus unit what it is. Raises as ``scan``."""

        async def ask(driver: LineDriver) -> Identity:
            return await fieldwork.identity(fieldwork.modbus_asking(driver), unit, timeout_s=timeout_s)

        async with self._access.use(line_id) as line:
            return await line.turn(ask)

    async def meter_address(self, line_id: str) -> str:
        """Ask the one DL/T 645 meter of a line for its address.

        Raises:
            LineDown, DeviceSilent: Nobody answers.
            BadAnswer: Several meters answer at once.
            InvalidInput: The line carries no DL/T 645.
        """
        profile = next((found for found in self._catalogue if found.protocol is Spoken.DLT645), None)
        if profile is None:
            raise InvalidInput("there is no profile of DL/T 645", message_zh="没有 DL/T 645 设备模板")
        address = Address(STRANGER, WILDCARD_645, profile)

        async def ask(driver: LineDriver) -> str:
            session = driver.session(address)
            if not isinstance(session, Dlt645Device):
                raise InvalidInput("the line carries no DL/T 645", message_zh="该线路不支持 DL/T 645")
            return await session.read_address()

        async with self._access.use(line_id) as line:
            return await line.turn(ask)

    async def propose(
        self, line_id: str, *, address: str, protocol: str, start: str | None, budget_s: float
    ) -> Proposed:
        """Try the known profiles of a protocol on a device, and say how well each fits.

        Args:
            line_id: The line.
            address: Of the device on it.
            protocol: What it speaks.
            start: Begin with the profile of this name; None: with the first.
            budget_s: No further profile is tried after this. [s]

        Raises:
            LineDown, DeviceSilent: Nobody answers.
        """
        ends = self._clock.monotonic() + budget_s
        profiles = sorted(
            (found for found in self._catalogue if is_candidate(found, protocol)), key=lambda found: found.name
        )
        todo = [found for found in profiles if start is None or found.name >= start]
        proposals: list[Proposal] = []
        heard = False
        async with self._access.use(line_id) as line:
            for number, profile in enumerate(todo):
                if number and self._clock.monotonic() >= ends:
                    return Proposed(number, _ranked(proposals), profile.name)
                looked = await self._try(line, Address(STRANGER, address, profile), heard=heard)
                if looked is None:
                    if number + 1 >= SILENT_PROFILES:
                        raise DeviceSilent(
                            f"{address} on line {line_id} does not answer",
                            message_zh=f"线路 {line_id} 上的 {address} 无应答",
                        )
                    looked = []
                else:
                    heard = True
                proposals.append(Proposal(profile, score(looked), looked))
        return Proposed(len(todo), _ranked(proposals), None)

    async def probe(
        self, line_id: str, *, unit: int, profile: DeviceProfile, points: Collection[str], timeout_s: float
    ) -> Probed:
        """Read points of a Modbus device at their addresses, one before and one behind, in every order of bytes.

        Args:
            line_id: The line.
            unit: The device's unit id.
            profile: What it is believed to be.
            points: Which; empty takes those that tell most.
            timeout_s: How long each answer may take. [s]

        Raises:
            LineDown, DeviceSilent: Nobody answers.
            InvalidInput: The profile has none of the points, or none in registers of their own.
        """
        wanted = _probed_points(profile, points)
        normaliser = Normaliser(profile)
        places: list[ProbedPlace] = []
        async with self._access.use(line_id) as line:
            for point in wanted:
                for offset in OFFSETS:
                    if 0 <= point.address + offset <= 0x10000 - point.count:
                        places.append(
                            await _probe_place(line, unit, profile, normaliser, point, offset, timeout_s=timeout_s)
                        )
        by_offset = {
            offset: [place.looked for place in places if place.offset == offset]
            for offset in OFFSETS
            if any(place.offset == offset for place in places)
        }
        return Probed(places, best_offset(by_offset))

    async def trace(
        self, line_id: str, *, device_id: str | None, for_s: float, keep_alive_s: float
    ) -> AsyncGenerator[tuple[datetime, Passing] | None, None]:
        """Yield what goes by on a line: of one device and of nobody in particular, or all of it.

        None comes at the beginning and whenever nothing has gone by for ``keep_alive_s``. Ends after ``for_s``, or when
        the line is given up. Raises as ``LineAccess.listen``.
        """
        ends = self._clock.monotonic() + for_s
        async with self._access.listen(line_id) as frames:
            yield None
            told_at = self._clock.monotonic()
            while not frames.over and (left_s := ends - self._clock.monotonic()) > 0:
                found = await frames.next(min(left_s, keep_alive_s))
                wanted = found is not None and (device_id is None or found[1].device in (device_id, ""))
                if wanted or self._clock.monotonic() - told_at >= keep_alive_s:
                    told_at = self._clock.monotonic()
                    yield found if wanted else None

    async def _try(self, line: LineUse, address: Address, *, heard: bool) -> list[Looked] | None:
        """Return what the points that tell most of a profile read; the first alone decides when it is not there.

        None: nothing was answered, and the device has not been heard before either. Many meters answer a register that
        they do not have with silence.
        """
        looked: list[Looked] = []
        normaliser = Normaliser(address.profile)
        session: DeviceSession | None = None
        for point in telling_points(address.profile.points):
            name = point.name

            async def read(driver: LineDriver, name: str = name) -> RawReport:
                nonlocal session
                session = session or driver.session(address)
                return await session.read_points([name])

            try:
                raw = await line.turn(read)
            except (DeviceRefused, BadAnswer):
                looked.append(Looked(name, None, Look.UNREADABLE))
            except DeviceSilent:
                if not looked and not heard:
                    return None
                looked.append(Looked(name, None, Look.UNREADABLE))
            except InvalidInput:
                return []  # an address that this profile's devices cannot have
            else:
                measured = normaliser.measure(raw.raw, UNITY).points
                value = measured.get(name)
                looked.append(Looked(name, value, look_at(name, value, read=name in measured)))
            if len(looked) == 1 and looked[0].look in (Look.UNREADABLE, Look.WRONG):
                break
        return looked


async def _unit_limits(driver: LineDriver) -> tuple[int, int]:
    fieldwork.modbus_asking(driver)
    return fieldwork.unit_limits(driver)


def _ranked(proposals: list[Proposal]) -> list[Proposal]:
    """Return the best first; of two that fit alike the one that explains more of the device."""
    return sorted(proposals, key=lambda found: (-found.score, -len(found.profile.points), found.profile.name))


def _probed_points(profile: DeviceProfile, names: Collection[str]) -> list[ModbusPoint]:
    named = [profile.points[name] for name in names if name in profile.points]
    chosen = named if names else telling_points(profile.points)
    found = [point for point in chosen if isinstance(point, ModbusPoint) and not point.parts]
    if not found:
        raise InvalidInput(
            f"{profile.name}: expected points in registers of a Modbus device, found {', '.join(names) or 'none'}",
            message_zh=f"{profile.name}:应为 Modbus 寄存器测点,收到 {', '.join(names) or '无'}",
        )
    return found


async def _probe_place(
    line: LineUse,
    unit: int,
    profile: DeviceProfile,
    normaliser: Normaliser,
    point: ModbusPoint,
    offset: int,
    *,
    timeout_s: float,
) -> ProbedPlace:
    address = point.address + offset

    async def read(driver: LineDriver) -> list[int] | int:
        asking = fieldwork.modbus_asking(driver)
        return await fieldwork.registers(asking, unit, point.area, address, point.count, timeout_s=timeout_s)

    own = ByteOrder.of(big_bytes=profile.byte_order is Order.BIG, big_words=profile.word_order is Order.BIG)
    try:
        found = await line.turn(read)
        reason = f"exception {found:02X}" if isinstance(found, int) else None
    except BadAnswer as exc:
        found, reason = 0, exc.message
    if isinstance(found, int):
        nothing = Looked(point.name, None, Look.UNREADABLE)
        return ProbedPlace(point.name, offset, address, None, reason, {}, nothing)
    by_order: dict[ByteOrder, float | None] = {}
    for order in _orders(point):
        raw = decode(found, point.type, order)
        by_order[order] = normaliser.measure({point.name: raw}, UNITY).points.get(point.name)
    value = by_order[own if own in by_order else _alone(own)]
    return ProbedPlace(
        point.name, offset, address, found, None, by_order, Looked(point.name, value, look_at(point.name, value))
    )


def _orders(point: ModbusPoint) -> tuple[ByteOrder, ...]:
    """Return the orders that make a difference."""
    if point.area.is_bits:
        return (ByteOrder.ABCD,)
    return (ByteOrder.ABCD, ByteOrder.BADC) if point.count == 1 else tuple(ByteOrder)


def _alone(order: ByteOrder) -> ByteOrder:
    """Return the order of one register's bytes."""
    return ByteOrder.ABCD if order in (ByteOrder.ABCD, ByteOrder.CDAB) else ByteOrder.BADC
