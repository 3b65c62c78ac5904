"""Reports that arrive as JSON, live: checked like every reading, parked while their device is not known yet."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import orjson

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import NotFound, Unavailable
from libs.common.ids import DeviceId, SiteId, new_id
from libs.common.profiles import ProfileCatalogue
from services.ingest import metrics
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.report import Rejection, Report
from services.ingest.domain.submission import Submission, is_device_id, parse_submission, report_of, unknown_device
from services.ingest.domain.traffic import TrafficReport, names_a_load, read_traffic, report_of_load, unknown_load
from services.ingest.store import imports as store
from services.ingest.store import rejected as rejected_store
from services.ingest.store.imports import Parked, Stranger
from services.ingest.store.rejected import RejectedRow
from services.ingest.usecases.acceptor import Acceptor, Outcome
from services.ingest.usecases.addresses import LoadNames
from services.ingest.usecases.topology import RegistryUnread, Topology, in_use

logger = logging.getLogger(__name__)

DRIVER = "push"
LOOK_S = 1.0
LOAD_FIELDS = (b'"load_id"', b'"network_element_id"')
PARKED_AT_A_TIME = 500
EVER = datetime.min.replace(tzinfo=UTC)
"""Nobody's time is up before."""


class UnknownRejection(NotFound):
    """There is no such rejection, or it cannot be sent again."""

    code = "unknown_rejection"
    title_zh = "拒收记录不存在"


@dataclass(slots=True)
class Problem:
    """Why one report of a batch was not taken."""

    index: int
    reason: str
    detail: str
    detail_zh: str | None = None


@dataclass(slots=True)
class Answer:
    """What became of a batch."""

    accepted: int = 0
    late: int = 0
    duplicate: int = 0
    parked: int = 0
    rejected: int = 0
    problems: list[Problem] = field(default_factory=list)


class OtherReader(Protocol):
    """Reads again what a driver has parked, or what was rejected of it: messages in a form of its own."""

    def knows(self, line_id: str | None, device: str) -> bool:
        """Return whether a device, as the driver's messages name it, is in the registry now."""

    async def again(self, raw: bytes, *, line_id: str | None, received_at: datetime) -> Refused | None:
        """Take a message; return why it is refused (on record again), None when it was taken. Raises ``SpoolFull``."""


class Submissions:
    """The door for reports in JSON."""

    def __init__(
        self,
        *,
        acceptor: Acceptor,
        topology: Topology,
        loads: LoadNames,
        catalogue: ProfileCatalogue,
        db: Database,
        clock: Clock,
        park_s: float,
        complete: Callable[[], bool],
    ) -> None:
        """Prepare the door.

        Args:
            acceptor: Makes reports durable.
            topology: Who is known.
            loads: Who is known by the names of network elements.
            catalogue: Profiles.
            db: Where reports of unknown devices wait.
            clock: Ours.
            park_s: How long they wait. [s]
            complete: Whether the registry has been read to its end; before that nobody is called unknown.
        """
        self._acceptor = acceptor
        self._topology = topology
        self._loads = loads
        self._catalogue = catalogue
        self._db = db
        self._clock = clock
        self._park_s = park_s
        self._complete = complete
        self._others: dict[str, OtherReader] = {}

    def read_by(self, driver: str, reader: OtherReader) -> None:
        """Let another reader have what is parked or rejected of a driver."""
        self._others[driver] = reader

    async def submit(
        self, raws: Sequence[bytes], *, source: str, may: Callable[[str], bool] = lambda site: True
    ) -> Answer:
        """Take a batch; return once all of it is durable, parked or rejected on record.

        Args:
            raws: One JSON object each, in order.
            source: Address or key of the sender.
            may: Whether the sender may report for a site.

        Raises:
            SpoolFull, DatabaseUnavailable, RegistryUnread: Not all of it was taken; send it again.
        """
        now = self._clock.now()
        answer = Answer()
        reports: list[Report] = []
        places: list[int] = []
        rejections: list[Rejection] = []
        parked: list[Parked] = []
        for index, raw in enumerate(raws):
            found = self._read(raw, now, may)
            if isinstance(found, Report):
                reports.append(found)
                places.append(index)
            elif isinstance(found, Submission):
                until = now + timedelta(seconds=self._park_s)
                parked.append(Parked(new_id(), found.device_id, source, now, until, raw))
            else:
                rejections.append(self._rejection(found, raw, source, now, may))
                answer.problems.append(Problem(index, found.reason, found.detail, found.detail_zh))
        if parked:
            async with self._db.write() as conn:
                await store.park(conn, parked)
        if rejections:
            await self._acceptor.reject(rejections)
        for index, accepted in zip(places, await self._acceptor.accept(reports), strict=True):
            refused = accepted.refused
            match accepted.outcome:
                case Outcome.ACCEPTED:
                    answer.accepted += 1
                case Outcome.LATE:
                    answer.late += 1
                case Outcome.DUPLICATE:
                    answer.duplicate += 1
                case Outcome.REJECTED:
                    answer.rejected += 1
            if refused is not None:
                answer.problems.append(Problem(index, refused.reason, refused.detail, refused.detail_zh))
        answer.parked = len(parked)
        answer.rejected += len(rejections)
        answer.problems.sort(key=lambda problem: problem.index)
        return answer

    async def park(self, raw: bytes, *, device: str, driver: str, line_id: str, received_at: datetime) -> None:
        """Keep a message of another driver until its device may have become known.

        Raises:
            DatabaseUnavailable: It is not kept.
        """
        until = received_at + timedelta(seconds=self._park_s)
        async with self._db.write() as conn:
            await store.park(conn, [Parked(new_id(), device, line_id, received_at, until, raw, driver, line_id)])

    async def refuse(self, body: bytes, refused: Refused, *, source: str, content_type: str) -> None:
        """Put a delivery that is not even looked into on record.

        Raises:
            SpoolFull: It is not.
        """
        now = self._clock.now()
        rejection = Rejection(
            reason=refused.reason,
            source=source,
            received_at=now,
            raw=body,
            detail=refused.detail,
            detail_zh=refused.detail_zh,
            driver=DRIVER,
            content_type=content_type,
        )
        await self._acceptor.reject([rejection])

    async def replay(self, rejected_id: str, *, mended: bytes, source: str, may: Callable[[str], bool]) -> Answer:
        """Send something that was rejected again; with ``mended`` in its place when that is not empty.

        Raises:
            UnknownRejection: There is none of that id, or nothing but a part of its bytes was kept.
        """
        async with self._db.read() as conn:
            found = await rejected_store.fetch(conn, rejected_id)
        if found is None or (found.truncated and not mended):
            raise UnknownRejection(
                f"there is no rejection {rejected_id} that can be replayed",
                message_zh=f"没有可重放的拒收记录 {rejected_id}",
            )
        other = None if found.driver is None else self._others.get(found.driver)
        if other is not None:
            answer = await self._read_again(other, mended or found.raw, found, may)
        else:
            answer = await self.submit([mended or found.raw], source=source, may=may)
        if not answer.rejected:
            async with self._db.write() as conn:
                await rejected_store.note_replayed(conn, rejected_id, self._clock.now())
        return answer

    async def _read_again(
        self, other: OtherReader, raw: bytes, found: RejectedRow, may: Callable[[str], bool]
    ) -> Answer:
        if may(found.site_id or ""):
            refused = await other.again(raw, line_id=found.line_id, received_at=self._clock.now())
        else:
            refused = unknown_device(found.device_id or "")
        if refused is None:
            return Answer(accepted=1)
        return Answer(rejected=1, problems=[Problem(0, refused.reason, refused.detail, refused.detail_zh)])

    async def run(self, beat: Callable[[], None]) -> None:
        """Settle what is parked, for ever."""
        while True:
            beat()
            try:
                if not await self.settle_once():
                    await self._clock.sleep(LOOK_S)
            except Unavailable as exc:
                logger.debug("parked reports wait", extra={"reason": exc.message})
                await self._clock.sleep(5 * LOOK_S)

    async def settle_once(self) -> int:
        """Accept the parked reports whose device is known now, reject those whose time is up; return how many.

        While the registry is not read to its end nobody's time is up: the bus may be away for longer than we wait.
        """
        now = self._clock.now()
        async with self._db.read() as conn:
            waiting = await store.fetch_parked_devices(conn)
        metrics.PARKED.set(sum(waiting.values()))
        if not waiting:
            return 0
        known = [stranger for stranger in waiting if self._is_known(stranger, now)]
        async with self._db.write() as conn:
            # Gone from the table only when all of them are durable elsewhere: the transaction ends after that.
            over = now if self._complete() else EVER
            taken = await store.take_parked(conn, until=over, known=known, limit=PARKED_AT_A_TIME)
            await self._settle(taken)
        return len(taken)

    def _is_known(self, stranger: Stranger, now: datetime) -> bool:
        driver, line_id, device = stranger
        if driver in self._others:
            return self._others[driver].knows(line_id, device)
        return self._topology.device(device, now) is not None

    async def _settle(self, taken: Sequence[Parked]) -> None:
        reports: list[Report] = []
        rejections: list[Rejection] = []
        for one in taken:
            if one.driver in self._others:
                await self._others[one.driver].again(one.raw, line_id=one.line_id, received_at=one.received_at)
                continue
            found = self._read(one.raw, one.received_at, lambda site: True)
            if isinstance(found, Report):
                reports.append(found)
            else:
                refused = unknown_device(one.device_id) if isinstance(found, Submission) else found
                rejections.append(self._rejection(refused, one.raw, one.source, one.received_at))
        if rejections:
            await self._acceptor.reject(rejections)
        await self._acceptor.accept(reports)

    def _read(self, raw: bytes, now: datetime, may: Callable[[str], bool]) -> Report | Submission | Refused:
        """Return a report, or a submission whose device is not known, or why it is refused."""
        traffic = _traffic(raw)
        if traffic is not None:
            return self._load_report(traffic, now, may)
        found = parse_submission(raw)
        if isinstance(found, Refused):
            return found
        device = self._topology.device(found.device_id, now)
        if device is None:
            return found
        if not in_use(device, now) or not may(device.site):
            return unknown_device(found.device_id)
        profile = None if device.profile is None else self._catalogue.find(device.profile, device.profile_version)
        return report_of(found, device, profile, now, DRIVER)

    def _load_report(
        self, traffic: TrafficReport | Refused, now: datetime, may: Callable[[str], bool]
    ) -> Report | Refused:
        if isinstance(traffic, Refused):
            return traffic
        load = self._loads.find(traffic.load, now)
        if load is None and not self._complete():
            raise RegistryUnread
        if load is None or not may(load.site):
            return unknown_load(traffic.load)
        return report_of_load(traffic.said, load, now, DRIVER)

    def _rejection(
        self, refused: Refused, raw: bytes, source: str, now: datetime, may: Callable[[str], bool] = lambda site: True
    ) -> Rejection:
        """Return the record of a refusal; with its site, for whoever is limited to it, where the sender may say so."""
        device_id = _device_named(raw)
        device = None if device_id is None else self._topology.device(device_id, now)
        return Rejection(
            reason=refused.reason,
            source=source,
            received_at=now,
            raw=raw,
            detail=refused.detail,
            detail_zh=refused.detail_zh,
            device_id=device_id,
            site_id=SiteId(device.site) if device is not None and may(device.site) else None,
            driver=DRIVER,
            content_type="application/json",
        )


def split_batch(body: bytes) -> list[bytes]:
    """Return the objects of a JSON array, or the one object, each as bytes of its own; what is no JSON stays whole.

    An array that is no JSON for one item only (NaN, half a character) is taken apart all the same, so that the item
    is refused and not its neighbours.
    """
    if not body.lstrip().startswith(b"["):
        return [body]
    try:
        return [orjson.dumps(item) for item in orjson.loads(body)]
    except orjson.JSONDecodeError:
        pass
    try:
        return [json.dumps(item).encode() for item in json.loads(body)]
    except (ValueError, RecursionError):
        return [body]


def _traffic(raw: bytes) -> TrafficReport | Refused | None:
    """Return what a report about a load says, None for one about a device."""
    if not any(name in raw for name in LOAD_FIELDS):
        return None
    try:
        payload = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None  # said by whoever reads it as a device's
    return read_traffic(payload) if names_a_load(payload) else None


def _device_named(raw: bytes) -> DeviceId | None:
    """Return the device that an object names, which may be no JSON for its numbers only."""
    for load in (orjson.loads, json.loads):
        try:
            payload = load(raw)
        except (ValueError, RecursionError):
            continue
        device_id = payload.get("device_id") if isinstance(payload, dict) else None
        return DeviceId(device_id) if is_device_id(device_id) else None
    return None
