"""Acceptance: the one door through which everything that a device said goes to the bus.

*Accepted* means acknowledged by the bus, or, when it took longer than its time, on this machine's disk. Every
driver calls ``accept`` and tells its sender nothing before it returns. While the bus is away reports go to the
spool at once; it is drained in order beside the live traffic and never in front of it.

Source:
    contracts.md 4; architecture.md 4.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

import orjson

from libs.common.backoff import Backoff
from libs.common.bus import topics
from libs.common.bus.port import Bus, BusUnavailable, Message, MessageRefused
from libs.common.clock import Clock
from libs.common.contracts.device import DeviceEvent
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import Unavailable
from libs.common.ids import DeviceId
from services.ingest import metrics
from services.ingest.bus import (
    event_message,
    heartbeat_message,
    is_heartbeat,
    pack,
    reading_message,
    rejected_message,
    unpack,
)
from services.ingest.domain.acceptance import DeviceMemory, Limits, Refused, Route, is_still_live, judge
from services.ingest.domain.report import Rejection, Report
from services.ingest.spool import Record, Spool, SpoolFull

logger = logging.getLogger(__name__)

DRAIN_BATCH = 500
IDLE_S = 0.5
"""How often an empty spool is looked at. [s]"""


class Outcome(StrEnum):
    """What became of one report."""

    ACCEPTED = "accepted"
    LATE = "late"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer for one report, in the order of the call."""

    outcome: Outcome
    report: Report
    refused: Refused | None = None
    """Why it was rejected."""


@dataclass(slots=True)
class Judged:
    """Reports that were judged and are not durable yet."""

    answers: list[Accepted] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    """What has to be made durable, in order: reports, and rejections of what was not believed."""
    learned: dict[DeviceId, DeviceMemory] = field(default_factory=dict)


class Watch(Protocol):
    """Whoever has to hear what acceptance finds out about the spool and about the devices' clocks."""

    def spool_full(self, detail: str) -> None:
        """Reports are refused from now on."""

    def spool_accepts(self) -> None:
        """Reports are taken again."""

    def clock_wrong(self, device_id: str, site_id: str, skew_s: float) -> None:
        """A device's own clock is too far off to be used. [s]"""

    def clock_right(self, device_id: str, site_id: str) -> None:
        """A device's own clock can be used."""


Listener = Callable[[Report], None]
"""Hears of every live report, after it has been accepted."""


class Acceptor:
    """Judges reports and makes the good ones durable."""

    def __init__(
        self,
        *,
        bus: Bus,
        spool: Spool,
        clock: Clock,
        limits: Limits,
        watch: Watch,
        publish_timeout_s: float = 2.0,
        spool_max_age_s: float = 7 * 86400.0,
    ) -> None:
        """Prepare the door.

        Args:
            bus: Where reports go.
            spool: Where they go when the bus does not answer; open.
            clock: Ours.
            limits: What is believed.
            watch: Hears of a full spool and of wrong clocks.
            publish_timeout_s: The bus must acknowledge within this. [s]
            spool_max_age_s: What has been in the spool for longer is dropped, and counted. [s]
        """
        self._bus = bus
        self._spool = spool
        self._clock = clock
        self._limits = limits
        self._watch = watch
        self._publish_timeout_s = publish_timeout_s
        self._spool_max_age_s = spool_max_age_s
        self._memory: dict[DeviceId, DeviceMemory] = {}
        self._published: dict[DeviceId, datetime] = {}
        self._bus_away = False
        self._listeners: list[Listener] = []

    @property
    def bus_away(self) -> bool:
        """Whether reports go to the spool at the moment."""
        return self._bus_away

    def on_live(self, listener: Listener) -> None:
        """Call ``listener`` with every live report."""
        self._listeners.append(listener)

    def remember(self, last_times: Mapping[DeviceId, datetime]) -> None:
        """Learn the time of each device's last report from the database, at the start."""
        for device_id, source_time in last_times.items():
            self._memory.setdefault(device_id, DeviceMemory(source_time, source_time))
            self._published.setdefault(device_id, source_time)

    async def accept(self, reports: Sequence[Report], *, history: bool = False) -> list[Accepted]:
        """Judge reports and return once the good ones are durable and the bad ones on record.

        Args:
            reports: In the order in which they came.
            history: They come from an archive and are not live, whatever their time.

        Raises:
            SpoolFull: Nothing was accepted; the sender must keep its reports.
        """
        judged = self.judge(reports, history=history)
        await self._make_durable(judged.messages)
        self.settle(judged)
        return judged.answers

    def judge(self, reports: Sequence[Report], *, history: bool = False) -> Judged:
        """Judge reports and promise nothing: whoever makes ``messages`` durable by himself then calls ``settle``.

        For what is noted in one transaction with how far a source was read, so that neither goes without the other.
        """
        judged = Judged()
        for report in reports:
            known = judged.learned.get(report.device_id) or self._memory.get(report.device_id)
            verdict = judge(report, known, self._limits, history=history)
            if isinstance(verdict, Refused):
                judged.messages.append(rejected_message(_rejection(report, verdict)))
                judged.answers.append(Accepted(Outcome.REJECTED, report, verdict))
                continue
            judged.learned[report.device_id] = verdict.memory
            if verdict.skew_s is not None:
                self._watch.clock_wrong(report.device_id, report.site_id, verdict.skew_s)
            elif verdict.route is Route.LIVE and report.is_dated_by_device:
                self._watch.clock_right(report.device_id, report.site_id)
            judged.answers.append(Accepted(_OUTCOMES[verdict.route], verdict.report))
            if verdict.route is Route.DUPLICATE:
                continue
            topic = topics.READINGS if verdict.route is Route.LIVE else topics.BACKFILL
            judged.messages.append(reading_message(verdict.report, topic))
        return judged

    def settle(self, judged: Judged) -> None:
        """Learn from reports that are durable now, and let the listeners hear of the live ones."""
        self._memory.update(judged.learned)
        for answer in judged.answers:
            if answer.outcome is Outcome.ACCEPTED:
                for listener in self._listeners:
                    listener(answer.report)
        _count(judged.answers)

    async def reject(self, rejections: Sequence[Rejection]) -> None:
        """Return once what could not be understood is on record.

        Raises:
            SpoolFull: It is not.
        """
        await self._make_durable([rejected_message(rejection) for rejection in rejections])
        for rejection in rejections:
            metrics.REJECTED.labels(rejection.reason).inc()

    async def accept_events(self, events: Sequence[DeviceEvent]) -> None:
        """Return once events that devices sent are durable, in their order.

        A time too far ahead of ours is a wrong clock: ours stands in its place. An old one is a delayed delivery and
        stays.

        Raises:
            SpoolFull: Nothing was accepted.
        """
        now = self._clock.now()
        messages: list[Message] = []
        for event in events:
            ahead_s = (event.source_time - now).total_seconds()
            if ahead_s > self._limits.max_skew_s:
                self._watch.clock_wrong(event.device_id, event.site_id, ahead_s)
                event = event.model_copy(update={"source_time": now})
            messages.append(event_message(event))
        await self._make_durable(messages)
        for event in events:
            metrics.EVENTS.labels(event.driver or "unknown").inc()

    async def heartbeat(self, instance: str, partitions: int, seq: int) -> None:
        """Publish one heartbeat into every partition, by the way that reports go.

        Raises:
            SpoolFull: The way is closed, and silence is what tells so.
        """
        now = self._clock.now()
        await self._make_durable([heartbeat_message(instance, number, now, seq) for number in range(partitions)])

    async def drain(self, beat: Callable[[], None]) -> None:
        """Publish what the spool holds, in order, for ever."""
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        while True:
            beat()
            metrics.BUFFER_BYTES.set(self._spool.size_bytes)
            metrics.BUFFER_RECORDS.set(self._spool.records)
            try:
                drained = await self.drain_once()
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("spool waits for the bus", extra={"reason": exc.message})
                await self._clock.sleep(backoff.next_s())
                continue
            backoff.reset()
            if not drained:
                await self._clock.sleep(IDLE_S)

    async def drain_once(self) -> int:
        """Publish the oldest records of the spool and return how many there were.

        Raises:
            BusUnavailable: The bus did not take them; they stay.
        """
        records = await self._spool.read(DRAIN_BATCH)
        if not records:
            if self._bus_away:
                await self._bus.check()
                self._bus_is_back()
            return 0
        # What is found out about the order of a device holds only once the bus has taken it.
        newest: dict[DeviceId, datetime] = {}
        outgoing = [message for record in records if (message := self._outgoing(record, newest)) is not None]
        await self._publish_patiently(outgoing)
        self._note_published(outgoing)
        self._bus_is_back()
        await self._spool.advance(records[-1].sequence + 1)
        self._watch.spool_accepts()
        return len(records)

    async def _make_durable(self, messages: list[Message]) -> None:
        if not messages:
            return
        if not self._bus_away:
            try:
                await self._publish_patiently(messages)
            except BusUnavailable as exc:
                if not self._bus_away:
                    self._bus_away = True
                    logger.warning("the bus is away, reports go to the spool", extra={"reason": exc.message})
            else:
                self._note_published(messages)
                return
        try:
            await self._spool.append([pack(message) for message in messages])
        except SpoolFull as exc:
            metrics.REFUSED.inc(len(messages))
            self._watch.spool_full(exc.message)
            raise
        metrics.SPOOLED.inc(len(messages))
        self._watch.spool_accepts()

    async def _publish_patiently(self, messages: Iterable[Message]) -> None:
        """Publish; a message that the bus will never take is rejected, and the others go on."""
        todo = list(messages)
        while todo:
            try:
                await self._bus.publish(todo, timeout_s=self._publish_timeout_s)
            except MessageRefused as exc:
                logger.error("the bus refuses a message for good", extra={"reason": exc.message})
                todo = [self._instead(message, exc) if message is exc.refused else message for message in todo]
            else:
                return

    def _instead(self, message: Message, exc: MessageRefused) -> Message:
        """Return the rejection of a report that is too large for the bus; its first bytes are kept."""
        metrics.REJECTED.labels(RejectReason.TOO_LARGE).inc()
        return rejected_message(
            Rejection(
                reason=RejectReason.TOO_LARGE,
                source=message.key[:200],
                received_at=self._clock.now(),
                raw=message.value or b"",
                detail=exc.message,
                detail_zh=exc.message_zh,
            )
        )

    def _outgoing(self, record: Record, newest: dict[DeviceId, datetime]) -> Message | None:
        """Return what a spooled record becomes now, None when nothing; ``newest`` is of those before it."""
        now = self._clock.now()
        message = unpack(record.payload)
        age_s = now.timestamp() - record.accepted_at
        if is_heartbeat(message.headers):
            return message if age_s <= self._limits.max_lateness_s else None
        if age_s > self._spool_max_age_s:
            metrics.DROPPED.labels("spool_age").inc(_points_in(message))
            logger.error("spooled message is too old and was dropped", extra={"topic": message.topic, "age_s": age_s})
            return None
        if message.topic != topics.READINGS:
            return message
        device_id, source_time = _identity(message)
        last = newest.get(device_id) or self._published.get(device_id)
        if is_still_live(source_time, now, last, self._limits.max_lateness_s):
            newest[device_id] = source_time
            return message
        return Message(topics.BACKFILL, message.key, message.value, _retyped(message), message.partition_key)

    def _note_published(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.topic == topics.READINGS and not is_heartbeat(message.headers):
                device_id, source_time = _identity(message)
                self._published[device_id] = max(source_time, self._published.get(device_id, source_time))

    def _bus_is_back(self) -> None:
        if self._bus_away:
            self._bus_away = False
            logger.info("the bus is back", extra={"spooled": self._spool.records})


_OUTCOMES = {Route.LIVE: Outcome.ACCEPTED, Route.LATE: Outcome.LATE, Route.DUPLICATE: Outcome.DUPLICATE}


def _identity(message: Message) -> tuple[DeviceId, datetime]:
    """Return device and time of a report's message from its headers, which we wrote."""
    found = dict(message.headers)
    time = datetime.fromisoformat(found["ce_time"].decode())
    return DeviceId(found["ce_subject"].decode()), time.astimezone(UTC)


def _retyped(message: Message) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, topics.BACKFILL.encode() if name == "ce_type" else value) for name, value in message.headers)


def _points_in(message: Message) -> int:
    return len(orjson.loads(message.value or b"{}").get("points", ()))


def _rejection(report: Report, refused: Refused) -> Rejection:
    return Rejection(
        reason=refused.reason,
        source=report.line_id or report.device_id,
        received_at=report.received_at,
        raw=reading_message(report, topics.READINGS).value or b"",
        detail=refused.detail,
        detail_zh=refused.detail_zh,
        device_id=report.device_id,
        site_id=report.site_id,
        line_id=report.line_id,
        driver=report.driver,
        content_type="application/json",
    )


def _count(answers: Sequence[Accepted]) -> None:
    for answer in answers:
        metrics.POINTS.labels(answer.report.driver, answer.outcome).inc(len(answer.report.points))
        if answer.refused is not None:
            metrics.REJECTED.labels(answer.refused.reason).inc()
