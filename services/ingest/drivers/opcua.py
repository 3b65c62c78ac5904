"""OPC UA: one line is one server; what changes is told by subscriptions, everything is read now and then besides.

The reading makes a device known at the start and after a loss, brings variables that the server does not tell
(at the pace of the subscription, which it stands in for), and shows a subscription that has died under a living
session. Whatever is lost, session, subscription or server, all is built anew by a new connection.

Source:
    southbound.md 9; OPC UA Part 4 (1.05), 5.11 to 5.14.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from asyncua import ua

from libs.common.clock import Clock
from libs.common.contracts.telemetry import Quality
from libs.common.errors import InvalidInput
from libs.common.profiles import Control, DeviceProfile, OpcUaControl, OpcUaPoint, Protocol
from libs.common.secretstore import SecretUnusable
from services.ingest import metrics
from services.ingest.domain.opcua_values import (
    DOES_NOT_EXIST,
    SUBCODE,
    Number,
    Sample,
    change_groups,
    is_bad,
    is_state,
    number_of,
    quality_of,
    reading_time,
    text_of,
)
from services.ingest.domain.writing import raw_of
from services.ingest.drivers.opcua_link import Item, OpcUaLink, Server, Value
from services.ingest.drivers.opcua_trust import TrustStore
from services.ingest.drivers.port import (
    Address,
    BadAnswer,
    DeviceRefused,
    DeviceSilent,
    LineDown,
    LineSink,
    RawReport,
)
from services.ingest.spool import SpoolFull

logger = logging.getLogger(__name__)

SLOW_EVERY_S = 86400.0
"""Slow points are read at first and then this often. [s]"""
POLL_AT_LEAST_S = 1.0
"""Variables that the server does not tell are read at the pace of the subscription, and not faster than this. [s]"""
GROUP_WITHIN_S = 1.0
"""Gauges that changed within this of each other, or within the publishing interval if shorter, are one report. [s]"""
TOLD_WITHIN_S = 30.0
"""A change that a subscription has not told for longer shows that it is dead. [s]"""

DEVICE = "{device}"


@dataclass(slots=True)
class Use:
    """One point that a variable gives."""

    address: Address
    point: OpcUaPoint
    told: bool = False
    """Whether a subscription tells its changes."""


@dataclass(slots=True)
class Variable:
    """One variable of the server and the points that come of it."""

    node: ua.NodeId
    uses: list[Use] = field(default_factory=list)


@dataclass(slots=True)
class Last:
    """What a device has last told."""

    at: datetime | None = None
    """Time of its last report."""
    samples: dict[str, Sample] = field(default_factory=dict)


class OpcUaLine:
    """One server and the devices in it."""

    protocol = "opcua"

    def __init__(
        self,
        *,
        server: Callable[[], Server],
        trust: TrustStore,
        clock: Clock,
        read_every_s: float,
        beside: bool = False,
    ) -> None:
        """Prepare; nothing is connected before ``run``.

        Args:
            server: Says how it is reached, with the password as it is then. May read files; raises
                ``SecretUnusable``.
            trust: Our certificate, and the servers' that are trusted.
            clock: Ours.
            read_every_s: How often everything is read, besides what is told. [s]
            beside: A second session for one order, which is told nothing.
        """
        self._server = server
        self._trust = trust
        self._clock = clock
        self._read_every_s = read_every_s
        self._beside = beside
        self._link: OpcUaLink | None = None

    async def run(self, devices: Mapping[str, Address], sink: LineSink) -> None:
        """Connect, deliver until cancelled."""
        try:
            server = await asyncio.to_thread(self._server)
        except SecretUnusable as exc:
            raise DeviceRefused(exc.message, message_zh=exc.message_zh) from exc
        link = OpcUaLink(server, self._trust, self._clock)
        try:
            await link.open()
            self._link = link
            if self._beside:
                sink.up()
                await link.changes()  # never any: until it is lost
            else:
                await Telling(link, devices, sink, self._clock, self._read_every_s).run()
        except (DeviceSilent, BadAnswer) as exc:
            raise LineDown(exc.message) from exc
        finally:
            self._link = None
            await link.close()

    def session(self, address: Address) -> "OpcUaSession":
        """Return a session for a device in this server.

        Raises:
            InvalidInput: Its profile is for something else, or it has no address where the profile needs one.
        """
        if not supports(address.profile):
            raise InvalidInput(f"device {address.device_id}: its profile {address.profile.name} is not for OPC UA")
        nodes = (point.node for point in _points(address.profile))
        if not address.text and any(DEVICE in node for node in nodes):
            raise InvalidInput(
                f"device {address.device_id}: no address, which the node ids of {address.profile.name} need",
                message_zh=f"设备 {address.device_id}:缺少地址,模板 {address.profile.name} 的节点标识需要该地址",
            )
        return OpcUaSession(self, address)

    async def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            await self._link.close()

    def now(self) -> datetime:
        """Return our time."""
        return self._clock.now()

    def link(self) -> OpcUaLink:
        """Return the session with the server.

        Raises:
            LineDown: There is none.
        """
        if self._link is None or not self._link.is_up:
            raise LineDown("the server is not connected")
        return self._link


class Telling:
    """What is delivered over one session, from the first reading to the loss."""

    def __init__(
        self, link: OpcUaLink, devices: Mapping[str, Address], sink: LineSink, clock: Clock, read_every_s: float
    ) -> None:
        self._link = link
        self._devices = devices
        self._sink = sink
        self._clock = clock
        self._read_every_s = read_every_s
        self._last = {device_id: Last() for device_id in devices}
        self._said: set[str] = set()
        self._slow_at = float("-inf")
        self._variables = self._resolved()

    async def run(self) -> None:
        """Read, subscribe, deliver; until the session is lost.

        Raises:
            LineDown, DeviceSilent, DeviceRefused, BadAnswer: It is.
        """
        await self._read(self._due())
        untold_every_s = await self._subscribe()
        self._sink.up()
        tasks = [
            asyncio.create_task(self._follow(), name="opcua changes"),
            asyncio.create_task(self._look(untold_every_s), name="opcua reading"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        done.pop().result()

    # which variables

    def _resolved(self) -> dict[str, Variable]:
        """Return the variables of all devices by their node ids as text."""
        found: dict[str, Variable] = {}
        for address in self._devices.values():
            missing: list[str] = []
            for point in _points(address.profile):
                node = self._link.resolve(_node_text(point.node, address))
                if node is None:
                    missing.append(point.name)
                    continue
                found.setdefault(node.to_string(), Variable(node)).uses.append(Use(address, point))
            self._note_missing(address, missing, "the server does not know their namespace")
        return found

    async def _subscribe(self) -> float | None:
        """Subscribe to what is not slow, and return how often what the server does not tell is to be read. [s]"""
        fastest: dict[int, dict[int, Variable]] = {}
        for handle, variable in enumerate(self._variables.values()):
            fast = [use.address.profile.publishing_ms for use in variable.uses if _is_told(use.point)]
            if fast:
                fastest.setdefault(min(fast), {})[handle] = variable
        untold_ms: list[int] = []
        for publishing_ms, variables in sorted(fastest.items()):
            items = [Item(handle, variable.node, _deadband(variable)) for handle, variable in variables.items()]
            try:
                untold = set(await self._link.subscribe(publishing_ms, items))
            except DeviceRefused as exc:
                logger.warning("server has no subscriptions for us; its values are read", extra={"reason": exc.message})
                untold = set(variables)
            for handle, variable in variables.items():
                for use in variable.uses:
                    use.told = handle not in untold
            untold_ms += [publishing_ms] if untold else []
        return max(min(untold_ms) / 1000, POLL_AT_LEAST_S) if untold_ms else None

    # what comes

    async def _follow(self) -> None:
        variables = list(self._variables.values())
        while True:
            changes = await self._link.changes()
            received_at = self._clock.now()
            samples: dict[str, list[Sample]] = {}
            for handle, value in changes:
                for use in variables[handle].uses if handle < len(variables) else ():
                    if not _is_told(use.point):
                        continue  # told along with another point of the same variable
                    sample = _sample(use.point, value, received_at)
                    if not _is_repeat(sample, self._last[use.address.device_id].samples.get(sample.point)):
                        samples.setdefault(use.address.device_id, []).append(sample)
            await self._deliver_changes(samples)

    async def _deliver_changes(self, samples: Mapping[str, Sequence[Sample]]) -> None:
        reports: list[tuple[str, RawReport]] = []
        times: dict[str, datetime] = {}
        for device_id, changed in samples.items():
            window_s = min(self._devices[device_id].profile.publishing_ms / 1000, GROUP_WITHIN_S)
            for group in change_groups(changed, self._last[device_id].at, window_s):
                times[device_id] = group.at
                reports.append((
                    device_id,
                    RawReport(
                        raw=group.raw, received_at=changed[-1].received_at, quality=group.quality,
                        source_time=group.at, device_time=group.device_time,
                    ),
                ))  # fmt: skip
        await self._deliver(reports)
        for device_id, changed in samples.items():
            self._remember(device_id, changed, times[device_id])

    # what is read

    async def _look(self, untold_every_s: float | None) -> None:
        """Read everything now and then, and in between what the server does not tell."""
        due = self._clock.monotonic() + self._read_every_s
        while True:
            wait_s = due - self._clock.monotonic()
            await self._clock.sleep(wait_s if untold_every_s is None else min(untold_every_s, wait_s))
            if self._clock.monotonic() >= due:
                due += max(self._read_every_s, self._clock.monotonic() - due)
                await self._read(self._due())
            else:
                await self._poll()

    def _due(self) -> list[Variable]:
        """Return what is read now: all, the slow ones once a day."""
        now = self._clock.monotonic()
        if now - self._slow_at >= SLOW_EVERY_S:
            self._slow_at = now
            return list(self._variables.values())
        return [variable for variable in self._variables.values() if not all(use.point.slow for use in variable.uses)]

    async def _poll(self) -> None:
        """Read what the server does not tell, and deliver what has changed."""
        untold = [
            (variable, [use for use in variable.uses if _is_told(use.point) and not use.told])
            for variable in self._variables.values()
        ]
        untold = [(variable, uses) for variable, uses in untold if uses]
        values = await self._link.read([variable.node for variable, _ in untold])
        received_at = self._clock.now()
        samples: dict[str, list[Sample]] = {}
        for (_, uses), value in zip(untold, values, strict=True):
            for use in uses if value.status & SUBCODE not in DOES_NOT_EXIST else ():
                sample = _sample(use.point, value, received_at)
                known = self._last[use.address.device_id].samples.get(sample.point)
                if known is None or (sample.raw, sample.quality) != (known.raw, known.quality):
                    samples.setdefault(use.address.device_id, []).append(sample)
        await self._deliver_changes(samples)

    async def _read(self, variables: Sequence[Variable]) -> None:
        """Read variables and deliver what they say, a report per device.

        Raises:
            LineDown: A change was never told: the subscription is dead.
        """
        values = await self._link.read([variable.node for variable in variables])
        received_at = self._clock.now()
        samples: dict[str, list[Sample]] = {}
        texts: dict[str, dict[str, str]] = {}
        missing: dict[str, list[str]] = {}
        for variable, value in zip(variables, values, strict=True):
            for use in variable.uses:
                device_id, point = use.address.device_id, use.point
                if value.status & SUBCODE in DOES_NOT_EXIST:
                    missing.setdefault(device_id, []).append(point.name)
                elif point.is_text:
                    text = None if is_bad(value.status) else text_of(value.content)
                    texts.setdefault(device_id, {}).update({} if text is None else {point.name: text})
                else:
                    sample = _sample(point, value, received_at)
                    self._check_told(use, sample)
                    samples.setdefault(device_id, []).append(sample)
        for device_id, names in missing.items():
            self._note_missing(self._devices[device_id], names, "the server refuses them")
        await self._deliver_reading(samples, texts, received_at)

    def _check_told(self, use: Use, sample: Sample) -> None:
        known = self._last[use.address.device_id].samples.get(sample.point)
        since = sample.source_time
        if not use.told or use.point.deadband is not None or known is None or since is None:
            return
        if sample.raw != known.raw and (sample.received_at - since).total_seconds() > TOLD_WITHIN_S:
            raise LineDown(
                f"the subscription has died: {use.address.device_id} {sample.point} changed at {since.isoformat()} and "
                "that was not told"
            )

    async def _deliver_reading(
        self, samples: Mapping[str, Sequence[Sample]], texts: Mapping[str, Mapping[str, str]], received_at: datetime
    ) -> None:
        reports: list[tuple[str, RawReport]] = []
        times: dict[str, datetime] = {}
        for device_id in samples.keys() | texts.keys():
            found = samples.get(device_id, ())
            at = reading_time(found, self._last[device_id].at)
            times[device_id] = at or received_at
            reports.append((
                device_id,
                RawReport(
                    raw={sample.point: sample.raw for sample in found}, received_at=received_at, source_time=at,
                    quality={sample.point: sample.quality for sample in found if sample.quality is not None},
                    texts=texts.get(device_id, {}),
                ),
            ))  # fmt: skip
        await self._deliver(reports)
        for device_id, found in samples.items():
            self._remember(device_id, found, times[device_id])

    async def _deliver(self, reports: Sequence[tuple[str, RawReport]]) -> None:
        """Hand reports over. A server cannot be told to wait: what is not accepted is lost, and counted."""
        if not reports:
            return
        try:
            await self._sink.reports(reports)
        except SpoolFull:
            metrics.DROPPED.labels("spool_full").inc(sum(len(report.raw) for _, report in reports))

    def _remember(self, device_id: str, samples: Iterable[Sample], at: datetime) -> None:
        last = self._last[device_id]
        last.at = at if last.at is None else max(last.at, at)
        last.samples.update({sample.point: sample for sample in samples})

    def _note_missing(self, address: Address, names: Sequence[str], reason: str) -> None:
        wanted = [name for name in names if not address.profile.points[name].optional]
        if wanted and address.device_id not in self._said:
            self._said.add(address.device_id)
            facts = {"device_id": address.device_id, "points": wanted, "reason": reason}
            logger.warning("server does not have points of a device's profile", extra=facts)
            self._sink.failed(address.device_id, "unknown_node")


class OpcUaSession:
    """One device in a server."""

    def __init__(self, line: OpcUaLine, address: Address) -> None:
        self._line = line
        self._address = address

    async def read(self) -> RawReport:
        """Read all points."""
        return await self.read_points(self._address.profile.points)

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read some points now."""
        link = self._line.link()
        wanted: list[tuple[OpcUaPoint, ua.NodeId]] = []
        failed: dict[str, str] = {}
        for point in _points(self._address.profile):
            if point.name in names and not point.is_text:
                node = link.resolve(_node_text(point.node, self._address))
                if node is None:
                    failed[point.name] = "the server does not know its namespace"
                else:
                    wanted.append((point, node))
        raw: dict[str, Number] = {}
        quality: dict[str, Quality] = {}
        values = await link.read([node for _, node in wanted])
        received_at = self._line.now()
        for (point, _), value in zip(wanted, values, strict=True):
            if value.status & SUBCODE in DOES_NOT_EXIST:
                failed[point.name] = f"status {value.status:#010x}"
                continue
            sample = _sample(point, value, received_at)
            raw[point.name] = sample.raw
            if sample.quality is not None:
                quality[point.name] = sample.quality
        if failed and not raw:
            raise DeviceRefused(f"{self._address.device_id}: nothing could be read; {next(iter(failed.values()))}")
        return RawReport(raw=raw, received_at=received_at, failed=failed, quality=quality)

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control."""
        if not isinstance(control, OpcUaControl):
            raise InvalidInput(f"{control.name} is no control by OPC UA")
        raw = control.value if control.value is not None else raw_of(control, value, self._address.profile)
        link = self._line.link()
        node = link.resolve(_node_text(control.node, self._address))
        if node is None:
            raise DeviceRefused(f"{self._address.device_id}: {control.name}: the server does not know the namespace")
        return await link.write(node, raw, control.type)


def supports(profile: DeviceProfile) -> bool:
    """Return whether this driver understands devices of the profile."""
    return profile.protocol is Protocol.OPCUA


def _points(profile: DeviceProfile) -> list[OpcUaPoint]:
    return [point for point in profile.points.values() if isinstance(point, OpcUaPoint) and point.copy_of is None]


def _node_text(template: str, address: Address) -> str:
    return template.replace(DEVICE, address.text or "")


def _is_told(point: OpcUaPoint) -> bool:
    """Return whether changes of a point are of interest."""
    return not point.slow and not point.is_text


def _deadband(variable: Variable) -> float | None:
    """Return the deadband of a variable: the least that its points ask for; one without any has none."""
    bands = [use.point.deadband for use in variable.uses if _is_told(use.point)]
    return min((band for band in bands if band is not None), default=None) if None not in bands else None


def _sample(point: OpcUaPoint, value: Value, received_at: datetime) -> Sample:
    return Sample(
        point=point.name,
        raw=None if is_bad(value.status) else number_of(value.content, point),
        received_at=received_at,
        quality=quality_of(value.status),
        source_time=value.source_time,
        is_state=is_state(point),
    )


def _is_repeat(sample: Sample, known: Sample | None) -> bool:
    return known is not None and (sample.raw, sample.quality, sample.source_time) == (
        known.raw,
        known.quality,
        known.source_time,
    )
