"""IEC 60870-5-103: protection relays and feeder controllers on an unbalanced link.

The link is that of 101; what it carries is said to the master in the words of 101 (``iec103_asdu``).

Source:
    IEC 60870-5-103:1997 clause 7.4 (application functions).
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from zoneinfo import ZoneInfo

from libs.common.clock import Clock
from libs.common.profiles import DeviceProfile, ObjectType, Protocol
from services.ingest.drivers.iec60870.asdu import (
    CLOCK_SYNCHRONISATION,
    DOUBLE_COMMAND,
    END_OF_INITIALISATION,
    INTERROGATION,
    STATION,
    Asdu,
    Cause,
    Information,
    Undecodable,
    Widths,
    decode,
    encode,
)
from services.ingest.drivers.iec60870.iec101 import UNBALANCED_SETTINGS, unbalanced
from services.ingest.drivers.iec60870.iec103_asdu import (
    Message,
    Type,
    Why,
    clock_time,
    command,
    interrogation,
    values_of,
)
from services.ingest.drivers.iec60870.iec103_asdu import decode as decode_103
from services.ingest.drivers.iec60870.iec104 import habits_of
from services.ingest.drivers.iec60870.line import Iec60870Line
from services.ingest.drivers.iec60870.master import Link
from services.ingest.drivers.iec60870.objects import Directory
from services.ingest.drivers.line_settings import only, zone
from services.ingest.drivers.port import LineDown, Opening
from services.ingest.drivers.wire import SERIAL_SETTINGS

logger = logging.getLogger(__name__)

WIDTHS = Widths(cause=1, common_address=1, object_address=3)
"""Of the ASDUs of 101 in which the master is spoken to."""
CYCLIC = frozenset({ObjectType.NORMALISED})
"""Measurands come in their turn and are no part of an interrogation."""
KEPT = 1024
"""ASDUs that wait for the master; then the line waits too."""
SETTINGS = frozenset({"zone", "time_tags", "interrogation_s", "set_clock", "clock_sync_s", "confirm_s", "terminate_s"})


def open_line(opening: Opening) -> Iec60870Line:
    """Return the driver of a 103 line.

    Raises:
        InvalidInput: Its endpoint or settings are wrong.
    """
    line, clock = opening.line, opening.clock
    only(line, UNBALANCED_SETTINGS | SERIAL_SETTINGS | SETTINGS)
    connect, stations_zone = unbalanced(opening), zone(line)

    async def connect_103(directory: Directory) -> Link:
        return Iec103Link(await connect(directory), zone=stations_zone, clock=clock)

    return Iec60870Line(
        protocol="iec103",
        connect=connect_103,
        widths=WIDTHS,
        clock=clock,
        habits=replace(habits_of(line), cyclic=CYCLIC),
        beside=opening.beside,
    )


def supports(profile: DeviceProfile) -> bool:
    """Return whether a profile is one of 103."""
    return profile.protocol is Protocol.IEC60870_5_103


class Iec103Link:
    """Stations of 103 as a master of 101 sees them; implements ``Link``."""

    def __init__(self, link: Link, *, zone: ZoneInfo, clock: Clock) -> None:
        """Begin to listen.

        Args:
            link: To the stations.
            zone: What their clocks are set to.
            clock: Ours.
        """
        self._link = link
        self._zone = zone
        self._clock = clock
        self._numbers = itertools.cycle(range(1, 256))
        self._scans: dict[int, int] = {}
        """By station, the number of the interrogation that was asked last."""
        self._commands: dict[int, tuple[int, Information]] = {}
        """By station, the number of the command that was sent last, and the command."""
        self._received: asyncio.Queue[Asdu | Undecodable | None] = asyncio.Queue(KEPT)
        self._ended: LineDown | None = None
        self._task = asyncio.create_task(self._listen(), name="iec103 listen")

    async def send(self, asdu: bytes, station: int) -> None:
        """Send what the master asks or orders, in the words of 103."""
        asked = decode(asdu, WIDTHS)
        said = asked.objects[0]
        match asked.type_id:
            case _ if asked.type_id == INTERROGATION:
                scan = self._scans[station] = next(self._numbers)
                await self._link.send(interrogation(station, scan), station)
                # 103 has no confirmation of its own: that of the link stands for it.
                await self._received.put(replace(asked, cause=Cause.ACTIVATION_CONFIRMED))
            case _ if asked.type_id == CLOCK_SYNCHRONISATION:
                await self._link.send(clock_time(station, said.element), station)
            case _ if asked.type_id == DOUBLE_COMMAND:
                number = next(self._numbers)
                self._commands[station] = (number, said)
                await self._link.send(command(station, said.address, said.element[0] & 0x03, number), station)
            case _:
                raise TypeError(f"type {asked.type_id} of 101 has no counterpart in 103")

    async def receive(self) -> bytes:
        """Return what a station says, in the words of 101."""
        found = await self._received.get()
        if found is None:
            self._received.put_nowait(None)
            raise self._ended or LineDown("the line was closed")
        if isinstance(found, Undecodable):
            raise found
        return encode(found, WIDTHS)

    def on_back(self, listener: Callable[[int], None]) -> None:
        """Call ``listener`` with every station that answers again."""
        self._link.on_back(listener)

    async def close(self) -> None:
        """Stop listening and close the line."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._link.close()

    async def _listen(self) -> None:
        try:
            while True:
                data = await self._link.receive()
                try:
                    message = decode_103(data)
                except Undecodable as exc:
                    await self._received.put(Undecodable(str(exc), data))
                    continue
                found = None if message is None else self._said(message)
                if found is not None:
                    await self._received.put(found)
        except LineDown as exc:
            self._ended = exc
            await self._received.put(None)

    def _said(self, message: Message) -> Asdu | None:
        """Return what a station says as 101 does, None where 101 says nothing."""
        station = message.station
        match message.type:
            case Type.IDENTIFICATION if message.cause in (Why.RESTARTED, Why.POWER_ON):
                return Asdu(END_OF_INITIALISATION, 4, station, (Information(0, b"\x00"),))
            case Type.TIME:
                said = Information(0, message.body)
                return Asdu(CLOCK_SYNCHRONISATION, Cause.ACTIVATION_CONFIRMED, station, (said,))
            case Type.END_OF_INTERROGATION if message.body[0] == self._scans.get(station):
                return Asdu(INTERROGATION, Cause.TERMINATION, station, (Information(0, STATION),))
            case Type.MESSAGE if message.cause in (Why.COMMAND, Why.COMMAND_REFUSED):
                return self._answered(message)
            case _:
                return values_of(message, self._zone, self._clock.now())

    def _answered(self, message: Message) -> Asdu | None:
        number, said = self._commands.get(message.station, (None, None))
        if said is None or message.supplement != number:
            return None  # of an earlier command, or of another master
        refused = message.cause == Why.COMMAND_REFUSED
        return Asdu(DOUBLE_COMMAND, Cause.ACTIVATION_CONFIRMED, message.station, (said,), negative=refused)
