"""One IED as a telling line: reports where it has them, attributes read in turn, objects controlled."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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
from services.ingest.drivers.iec61850.names import Variable, report_block
from services.ingest.drivers.iec61850.reports import Report, parse, report_id
from services.ingest.drivers.iec61850.subscription import Subscription, enable, learn
from services.ingest.drivers.iec61850.values import entry_time_of
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
CLOCK_OFF_AT_MOST = timedelta(minutes=1)
"""What the IED's clock may be off by, where times of entries depend on ours."""
REPORTS = mms.VmdSpecificObjectName("RPT")


def open_line(opening: Opening) -> "Iec61850Line":
    """Return the driver of an IED's line.

    Raises:
        InvalidInput: Its endpoint or settings are wrong.
    """
    line = opening.line
    only(line, {"connect_s", "answer_s", "read_s", "terminate_s", "integrity_s"})
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
            integrity_s=seconds(line, "integrity_s", 0.0, most=DAY_S)
            if "integrity_s" in (line.settings or {})
            else None,
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
    integrity_s: float | None = None
    """Between two reports of everything; None leaves it as the IED's configuration has it. [s]"""


@dataclass(frozen=True, slots=True)
class _Read:
    """Attributes of one device that were read."""

    device_id: str
    values: Mapping[Variable, Any]
    since: int
    """Number of the last report that had come when they were asked for."""


@dataclass(slots=True)
class _Memory:
    """What outlives an association, so that the next one goes on where it ended."""

    entries: dict[Variable, bytes] = field(default_factory=dict)
    """Last entry that was taken of each buffer."""
    heard_at: datetime | None = None
    """When something was heard last."""


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
        self._intakes: dict[str, Intake] = {}
        self._memory = _Memory()

    async def run(self, devices: Mapping[str, Address], sink: LineSink) -> None:
        """Associate, subscribe and read until cancelled or the association is lost."""
        commander = Commander()
        association = _Association(self, self._intakes_of(devices, sink), sink, self._memory)

        async def told(message: Any) -> None:
            if not commander.take(message):
                await association.told(message)

        client = await associate(self._host, self._port, within_s=self.habits.connect_s, told=told)
        try:
            self._client, self._commander = client, commander
            sink.up()
            if self._beside:
                await client.lost()
                raise LineDown(f"{self._host}:{self._port}: the association was lost")
            await association.run(client, devices)
        finally:
            self._client = self._commander = None
            commander.end()
            await client.close()

    def _intakes_of(self, devices: Mapping[str, Address], sink: LineSink) -> Mapping[str, Intake]:
        """Return who takes what devices say: as before where nothing about a device has changed."""
        intakes = {}
        for device_id, address in devices.items():
            known = self._intakes.get(device_id)
            if known is None or not known.serves(address, sink):
                known = Intake(address, sink, self.clock)
            known.begin()
            intakes[device_id] = known
        self._intakes = intakes
        return intakes

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


class _Association:
    """One association's work: its subscriptions, its reading, what it is told."""

    def __init__(self, line: Iec61850Line, intakes: Mapping[str, Intake], sink: LineSink, memory: _Memory) -> None:
        self._line = line
        self._intakes = intakes
        self._sink = sink
        self._memory = memory
        self._kept_since = memory.heard_at
        """What was kept for us was made after this."""
        self._answer_s = line.habits.answer_s
        self._waiting: asyncio.Queue[mms.InformationReportUnconfirmed | _Read] = asyncio.Queue(KEPT)
        """What came, in the order in which it came."""
        self._arrived = 0
        """Reports so far."""
        self._taken = 0
        """Those that were worked on."""
        self._subscriptions: dict[str, Subscription] = {}
        self._unusable: set[Variable] = set()
        """Blocks that could not be enabled; they are tried again with each reading."""
        self._absent: set[Variable] = set()
        self._due = asyncio.Event()
        """Reports were lost: everything is read now."""
        self._rejected_at = float("-inf")

    async def told(self, message: Any) -> None:
        """Keep a report for its turn."""
        if isinstance(message, mms.InformationReportUnconfirmed) and message.specification == REPORTS:
            self._arrived += 1
            await self._waiting.put(message)

    async def run(self, client: Client, devices: Mapping[str, Address]) -> None:
        """Work until the association is lost. Raises ``LineDown``."""
        tasks = [
            asyncio.create_task(client.lost(), name="iec61850 association"),
            asyncio.create_task(self._keep_taking(), name="iec61850 reports"),
            asyncio.create_task(self._keep_reading(client, devices), name="iec61850 reading"),
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

    async def _keep_reading(self, client: Client, devices: Mapping[str, Address]) -> None:
        blocks: dict[Variable, list[Intake]] = {}
        for device_id, address in devices.items():
            for reference in address.profile.control_blocks:
                blocks.setdefault(report_block(address.text or "", reference), []).append(self._intakes[device_id])
        enabled: set[Variable] = set()
        silent = 0
        while True:
            for block, intakes in blocks.items():
                if block not in enabled and await self._subscribe(client, block, intakes):
                    enabled.add(block)
            self._due.clear()
            answered = [await self._read(client, device_id) for device_id in devices]
            silent = 0 if any(answered) or not answered else silent + 1
            if silent >= SILENT_ROUNDS:
                raise LineDown("associated, but nothing is answered")
            try:
                async with asyncio.timeout(self._line.habits.read_s):
                    await self._due.wait()
            except TimeoutError:
                pass

    async def _read(self, client: Client, device_id: str) -> bool:
        """Read a device's attributes; return whether the IED answered."""
        intake, since = self._intakes[device_id], self._arrived
        try:
            values = await read_places(client, intake.places, self._absent, within_s=self._answer_s)
        except DeviceSilent as exc:
            logger.info("IED does not answer", extra={"device_id": device_id, "reason": exc.message})
            self._sink.failed(device_id, "timeout")
            return False
        if not any(place.value in values for place in intake.places):
            self._sink.failed(device_id, "protocol_mismatch")
        await self._waiting.put(_Read(device_id, values, since))
        return True

    async def _subscribe(self, client: Client, block: Variable, intakes: Sequence[Intake]) -> bool:
        """Enable a report control block; without it the attributes are still read in turn."""
        try:
            subscription = await learn(client, block, intakes, within_s=self._answer_s)
            other = self._subscriptions.setdefault(subscription.report_id, subscription)
            if other.block != block:
                raise ValueError(f"its reports cannot be told from those of {other.block.item}")
            self._subscriptions[subscription.report_id] = subscription
            await enable(
                client, subscription, last_entry=self._memory.entries.get(block),
                integrity_s=self._line.habits.integrity_s, within_s=self._answer_s,
            )  # fmt: skip
        except (DeviceRefused, DeviceSilent, ValueError) as exc:
            if block not in self._unusable:
                self._unusable.add(block)
                logger.warning("report control block cannot be used", extra={"block": block.item, "reason": str(exc)})
            return False
        self._unusable.discard(block)
        return True

    async def _keep_taking(self) -> None:
        while True:
            item = await self._waiting.get()
            self._memory.heard_at = self._line.clock.now()
            if isinstance(item, _Read):
                await self._intakes[item.device_id].take_read(item.values, since=item.since)
            else:
                self._taken += 1
                await self._take_report(list(item.data))

    async def _take_report(self, data: Sequence[Any]) -> None:
        try:
            subscription = self._subscriptions.get(report_id(data))
            if subscription is None:
                return  # of a block that another client has enabled for all
            report = parse(data, subscription.members)
        except ValueError as exc:
            await self._reject(str(data).encode(), str(exc))
            return
        block = subscription.block
        if subscription.has_lost(report):
            logger.warning("reports were lost, everything is read", extra={"block": block.item})
            self._due.set()
        if report.interrogated:
            subscription.resuming = False
        made_at = self._made_at(report) if subscription.resuming else None
        for intake in subscription.intakes:
            await intake.take_report(report, number=self._taken, kept=subscription.resuming, made_at=made_at)
        if report.entry is not None:
            self._memory.entries[block] = report.entry

    def _made_at(self, report: Report) -> datetime | None:
        """Return when an entry was made that was kept for us."""
        if self._kept_since is None:
            return None
        return entry_time_of(
            report.entry_time, self._kept_since - CLOCK_OFF_AT_MOST, self._line.clock.now() + CLOCK_OFF_AT_MOST
        )

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
