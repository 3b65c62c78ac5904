"""One IED as a telling line: reports where it has them, attributes read in turn, objects controlled."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hat.drivers import mms

from libs.common.clock import Clock
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput, Unavailable
from libs.common.profiles import Control, DeviceProfile, Iec61850Control
from services.ingest.drivers.endpoint import parse_endpoint
from services.ingest.drivers.iec61850.client import Client, associate
from services.ingest.drivers.iec61850.control import Commander
from services.ingest.drivers.iec61850.intake import Intake, Place, places_of, said
from services.ingest.drivers.iec61850.names import Variable, data_set, report_block
from services.ingest.drivers.iec61850.reports import Member, parse, report_id
from services.ingest.drivers.iec61850.values import text_of
from services.ingest.drivers.line_settings import only, seconds
from services.ingest.drivers.port import (
    Address,
    DeviceRefused,
    DeviceSession,
    DeviceSilent,
    LineDown,
    LineSink,
    Opening,
    RawReport,
)

logger = logging.getLogger(__name__)

PORT = 102
DAY_S = 86400.0
KEPT = 1024
"""Information reports that wait for their turn; then the association waits too."""
SILENT_ROUNDS = 2
"""Rounds of reading in a row that were not answered, after which the association is made anew."""
REJECT_EVERY_S = 60.0
TRIGGERS = (False, True, True, False, True, True)
"""Data change, quality change, integrity, interrogation."""
REPORTS = mms.VmdSpecificObjectName("RPT")


def open_line(opening: Opening) -> "Iec61850Line":
    """Return the driver of an IED's line.

    Raises:
        InvalidInput: Its endpoint or settings are wrong.
    """
    line = opening.line
    only(line, {"connect_s", "answer_s", "read_s", "terminate_s"})
    host, port = parse_endpoint(line.endpoint, PORT)
    return Iec61850Line(
        host,
        port,
        clock=opening.clock,
        habits=Habits(
            connect_s=seconds(line, "connect_s", 10.0),
            answer_s=seconds(line, "answer_s", 5.0),
            read_s=seconds(line, "read_s", 60.0, most=DAY_S),
            terminate_s=seconds(line, "terminate_s", 20.0, most=300),
        ),
        beside=opening.beside,
    )


def supports(profile: DeviceProfile) -> bool:
    """Return whether a profile is one of IEC 61850."""
    return any(True for _ in profile.iec61850_points())


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How an IED is spoken to."""

    connect_s: float = 10.0
    """For an association. [s]"""
    answer_s: float = 5.0
    """For an answer. [s]"""
    read_s: float = 60.0
    """Between two readings of all attributes. [s]"""
    terminate_s: float = 20.0
    """From an operated command to the telling of its end. [s]"""


@dataclass(frozen=True, slots=True)
class _Subscription:
    """One enabled report control block."""

    block: Variable
    members: Sequence[Member]
    intake: Intake


class Iec61850Line:
    """One association with an IED; implements ``TellingLine``."""

    protocol = "iec61850"

    def __init__(self, host: str, port: int, *, clock: Clock, habits: Habits, beside: bool) -> None:
        """Prepare.

        Args:
            host: Of the IED.
            port: Its port.
            clock: Ours.
            habits: How it is spoken to.
            beside: It is a second association for one order: nothing is subscribed or reported.
        """
        self.clock = clock
        self.habits = habits
        self._host = host
        self._port = port
        self._beside = beside
        self._client: Client | None = None
        self._commander: Commander | None = None
        self._entries: dict[Variable, bytes] = {}
        """Last entry that was taken of each buffer, for the next association."""

    async def run(self, devices: Mapping[str, Address], sink: LineSink) -> None:
        """Associate, subscribe and read until cancelled or the association is lost."""
        commander = Commander()
        waiting: asyncio.Queue[Any] = asyncio.Queue(KEPT)

        async def told(message: Any) -> None:
            if not commander.take(message):
                await waiting.put(message)

        client = await associate(self._host, self._port, within_s=self.habits.connect_s, told=told)
        try:
            self._client, self._commander = client, commander
            sink.up()
            if self._beside:
                await client.lost()
                raise self._lost()
            await _Association(self, client, devices, sink, waiting, self._entries).run()
        finally:
            self._client = self._commander = None
            commander.end()
            await client.close()

    def session(self, address: Address) -> DeviceSession:
        """Return a session for a device on this line.

        Raises:
            InvalidInput: The address is no name of an IED.
        """
        return _Session(self, address)

    async def close(self) -> None:
        """End the association."""
        if self._client is not None:
            await self._client.close()

    def client(self) -> Client:
        """Return the association. Raises ``LineDown``."""
        if self._client is None:
            raise LineDown("not associated")
        return self._client

    def commander(self) -> Commander:
        """Return who knows of commands under way. Raises ``LineDown``."""
        if self._commander is None:
            raise LineDown("not associated")
        return self._commander

    def _lost(self) -> LineDown:
        return LineDown(f"{self._host}:{self._port}: the association was lost")


class _Association:
    """One association's work: its subscriptions, its reading, what it is told."""

    def __init__(
        self,
        line: Iec61850Line,
        client: Client,
        devices: Mapping[str, Address],
        sink: LineSink,
        waiting: "asyncio.Queue[Any]",
        entries: dict[Variable, bytes],
    ) -> None:
        self._line = line
        self._client = client
        self._addresses = devices
        self._sink = sink
        self._waiting = waiting
        self._entries = entries
        self._answer_s = line.habits.answer_s
        self._intakes = {device_id: Intake(address, sink, line.clock) for device_id, address in devices.items()}
        self._subscriptions: dict[str, _Subscription] = {}
        self._absent: set[Variable] = set()
        self._rejected_at = float("-inf")

    async def run(self) -> None:
        """Work until the association is lost. Raises ``LineDown``."""
        tasks = [
            asyncio.create_task(self._client.lost(), name="iec61850 association"),
            asyncio.create_task(self._keep_taking(), name="iec61850 reports"),
            asyncio.create_task(self._keep_reading(), name="iec61850 reading"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in done:
            if not task.cancelled():
                task.result()
        raise LineDown("the association was lost")

    async def _keep_reading(self) -> None:
        for device_id, address in self._addresses.items():
            for reference in address.profile.control_blocks:
                await self._subscribe(device_id, address, reference)
        silent = 0
        while True:
            answered = [await self._read(device_id) for device_id in self._addresses]
            silent = 0 if any(answered) or not answered else silent + 1
            if silent >= SILENT_ROUNDS:
                raise LineDown("associated, but nothing is answered")
            await self._line.clock.sleep(self._line.habits.read_s)

    async def _read(self, device_id: str) -> bool:
        """Read a device's attributes; return whether the IED answered."""
        intake = self._intakes[device_id]
        try:
            values = await read_places(self._client, intake.places, self._absent, within_s=self._answer_s)
        except DeviceSilent as exc:
            logger.info("IED does not answer", extra={"device_id": device_id, "reason": exc.message})
            self._sink.failed(device_id, "timeout")
            return False
        if not any(place.value in values for place in intake.places):
            self._sink.failed(device_id, "protocol_mismatch")
        await intake.take_read(values)
        return True

    async def _subscribe(self, device_id: str, address: Address, reference: str) -> None:
        """Enable a report control block; without it the attributes are still read in turn."""
        block = report_block(address.text or "", reference)
        try:
            name, members = await self._members(block)
            self._subscriptions[name] = _Subscription(block, members, self._intakes[device_id])
            await self._enable(block)
        except (DeviceRefused, DeviceSilent, ValueError) as exc:
            logger.warning(
                "report control block cannot be used",
                extra={"device_id": device_id, "block": reference, "reason": str(exc)},
            )

    async def _members(self, block: Variable) -> tuple[str, list[Member]]:
        """Return the id of a block's reports and the entries of its data set."""
        names = (block.child("RptID"), block.child("DatSet"))
        told_id, told_set = await self._client.read(names, within_s=self._answer_s)
        found = None if told_set is None else data_set(text_of(told_set))
        if found is None:
            raise ValueError("it has no data set")
        entries = await self._client.members_of(found, within_s=self._answer_s)
        members = [Member(entry, await self._client.type_of(entry, within_s=self._answer_s)) for entry in entries]
        name = "" if told_id is None else text_of(told_id)
        return name or f"{block.domain}/{block.item}", members

    async def _enable(self, block: Variable) -> None:
        await self._write(block, "RptEna", mms.BooleanData(False))
        await self._write(block, "TrgOps", mms.BitStringData(list(TRIGGERS)))
        if "$BR$" in block.item:
            entry = self._entries.get(block)
            if entry is None:
                # What was buffered for somebody before us is not asked for: it may have been told already.
                await self._write(block, "PurgeBuf", mms.BooleanData(True))
            else:
                await self._resume(block, entry)
        await self._write(block, "RptEna", mms.BooleanData(True))
        await self._write(block, "GI", mms.BooleanData(True))

    async def _resume(self, block: Variable, entry: bytes) -> None:
        """Go on after the last entry that was taken; when the buffer has lost it, with all that it has."""
        try:
            await self._write(block, "EntryID", mms.OctetStringData(entry))
        except DeviceRefused as exc:
            logger.warning("entries of a report buffer were lost", extra={"block": block.item, "reason": exc.message})
            del self._entries[block]

    async def _write(self, block: Variable, name: str, data: Any) -> None:
        await self._client.write(block.child(name), data, within_s=self._answer_s)

    async def _keep_taking(self) -> None:
        while True:
            message = await self._waiting.get()
            if not isinstance(message, mms.InformationReportUnconfirmed) or message.specification != REPORTS:
                continue
            data = list(message.data)
            try:
                subscription = self._subscriptions.get(report_id(data))
                if subscription is None:
                    continue
                report = parse(data, subscription.members)
            except ValueError as exc:
                await self._reject(str(data).encode(), str(exc))
                continue
            if report.overflow and subscription.block in self._entries:
                logger.warning("entries of a report buffer were lost", extra={"block": subscription.block.item})
            if report.entry is not None:
                self._entries[subscription.block] = report.entry
            await subscription.intake.take_report(report.values, changed=report.changed)

    async def _reject(self, raw: bytes, detail: str) -> None:
        now = self._line.clock.monotonic()
        if now - self._rejected_at < REJECT_EVERY_S:
            return
        self._rejected_at = now
        try:
            await self._sink.reject(RejectReason.UNDECODABLE, raw, detail)
        except Unavailable as exc:
            logger.debug("rejection is lost", extra={"reason": exc.message})


async def read_places(
    client: Client, places: Sequence[Place], absent: set[Variable], *, within_s: float
) -> dict[Variable, Any]:
    """Return values, qualities and times of points; what the IED does not have is noted in ``absent``.

    Raises:
        LineDown, DeviceSilent: Nothing was read.
    """
    wanted = [
        variable for place in places for variable in (place.value, place.quality, place.time) if variable not in absent
    ]
    wanted = list(dict.fromkeys(wanted))
    found = await client.read(wanted, within_s=within_s)
    # A quality or time that is not there will not come; a value is asked for again, it is what the profile is about.
    values = {place.value for place in places}
    absent |= {
        variable for variable, data in zip(wanted, found, strict=True) if data is None and variable not in values
    }
    return {variable: data for variable, data in zip(wanted, found, strict=True) if data is not None}


class _Session:
    """One device of an IED."""

    def __init__(self, line: Iec61850Line, address: Address) -> None:
        if not (address.text or "").replace("_", "").isalnum():
            raise InvalidInput(
                f"device {address.device_id}: address {address.text!r}: expected the name of the IED",
                message_zh=f"设备 {address.device_id}:地址 {address.text!r} 应为 IED 名称",
            )
        self._line = line
        self._device_id = address.device_id
        self._ied = address.text or ""
        self._places = {place.point.name: place for place in places_of(address)}

    async def read(self) -> RawReport:
        """Read all points."""
        return await self.read_points(list(self._places))

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read some points now."""
        places = [self._places[name] for name in names if name in self._places]
        values = await read_places(self._line.client(), places, set(), within_s=self._line.habits.answer_s)
        found = {place.point.name: known for place in places if (known := said(place, values)) is not None}
        if places and not found:
            raise DeviceRefused(f"{self._device_id}: the IED has none of {len(places)} points")
        return RawReport(
            {name: known.raw for name, known in found.items()},
            self._line.clock.now(),
            failed={place.point.name: "not there" for place in places if place.point.name not in found},
            quality={name: known.quality for name, known in found.items() if known.quality is not None},
        )

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control."""
        if not isinstance(control, Iec61850Control):
            raise InvalidInput(f"{control.name} is no control of IEC 61850")
        raw = control.value if control.value is not None else self._raw(control, value)
        client, commander = self._line.client(), self._line.commander()
        return await commander.command(
            client, self._ied, control, raw, clock=self._line.clock, answer_s=self._line.habits.answer_s,
            terminate_s=self._line.habits.terminate_s,
        )  # fmt: skip

    def _raw(self, control: Iec61850Control, value: float | None) -> float:
        low = control.min if control.min is not None else float("-inf")
        high = control.max if control.max is not None else float("inf")
        if value is None or not low <= value <= high:
            raise InvalidInput(
                f"{control.name} takes a value from {low:g} to {high:g}, not {value}",
                message_zh=f"{control.name} 的取值范围为 {low:g} 至 {high:g},收到 {value}",
            )
        place = self._places.get(control.read_back.points[0])
        scale, offset = (place.point.scale, place.point.offset) if place is not None else (1.0, 0.0)
        return (value - offset) / scale
