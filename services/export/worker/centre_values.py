"""Values pushed to a centre whose dialect has its units do so: the latest, and what it has missed."""

import logging
from dataclasses import replace
from datetime import datetime

from services.export.dialects.messages import DeviceSelection, Operation, Outcome, PointType, ReportPoints
from services.export.domain import session
from services.export.domain.connection import Phase, Unit, service_url
from services.export.domain.latest import LatestReadings, latest_values, stored_values
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.mapping import SourceKind
from services.export.domain.pushing import SIGNALS_BACK, Rhythm, changes, known_values, missed, together
from services.export.soap_client import Answered
from services.export.store import alarms as alarm_store
from services.export.store import mappings as mapping_store
from services.export.store import samples as sample_store
from services.export.store import sessions as session_store
from services.export.store import units as unit_store
from services.export.worker.centre_link import CentreLink, reason_of, wants_a_login

logger = logging.getLogger(__name__)


class ValuePushes:
    """Pushes the values of a centre's units."""

    def __init__(self, link: CentreLink, latest: LatestReadings) -> None:
        """Prepare; ``latest`` holds the newest values."""
        self._link = link
        self._latest = latest
        self.rhythm = Rhythm()
        """When which unit's turn is."""

    async def push(self, unit: Unit) -> None:
        """Tell the centre the latest values, a message for each kind, and then what it has missed."""
        every_s = self._link.connection.options.push_values_s
        self.rhythm.pushed(unit.key, self._link.clock.monotonic(), every_s)
        now = self._link.clock.now()
        async with self._link.db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
            told_at = await session_store.values_told_at(conn, unit.key)
            signalling = {point.device_id for point in mapping.points if point.kind is SourceKind.SIGNAL}
            active = await alarm_store.active_alarms(conn, signalling)
        told = False
        for command in self._link.dialect.spoken(Operation.SEND_POINTS):
            devices = latest_values(
                mapping,
                (DeviceSelection(None, None),),
                latest=self._latest,
                active=active,
                type_of=self._link.dialect.type_of_point,
                now=now,
                kinds=command.types,
            )
            request = ReportPoints(unit.ref, known_values(devices), command.types)
            if not request.devices:
                continue
            if not await self._tell(unit, request, Operation.SEND_POINTS):
                return
            told = True
        if not told:
            return  # nothing is known, as after a start: what was missed stays missed until it is
        while (span := missed(told_at, now, every_s)) is not None:
            if not await self._tell_missed(unit, mapping, *span):
                return
            told_at = span[1]
        async with self._link.db.write() as conn:
            await session_store.note_values_told(conn, unit.key, now)

    async def _tell_missed(self, unit: Unit, mapping: UnitMapping, start: datetime, end: datetime) -> bool:
        """Tell the hourly samples and the changes of signals of a span of time; return whether they were taken."""
        devices = {point.device_id for point in mapping.points if point.kind is SourceKind.POINT}
        signalling = {point.device_id for point in mapping.points if point.kind is SourceKind.SIGNAL}
        since = max(start, self._link.clock.now() - SIGNALS_BACK)
        async with self._link.db.read() as conn:
            found = await sample_store.fetch_samples(conn, devices, start, end)
            alarms = await alarm_store.alarms_within(conn, signalling, since, end) if since < end else []
        samples: dict[tuple[str, str], list[tuple[datetime, float]]] = {}
        for sample in found:
            samples.setdefault((sample.device_id, sample.point), []).append((sample.at, sample.value))
        for command in self._link.dialect.spoken(Operation.SEND_HISTORY):
            kinds = frozenset(PointType) if command.types is None else command.types
            own = replace(mapping, points=tuple(point for point in mapping.points if point.type in kinds))
            values = known_values(stored_values(own, (DeviceSelection(None, None),), samples))
            values = together(values, changes(own, alarms, since, end))
            request = ReportPoints(unit.ref, values, command.types)
            if values and not await self._tell(unit, request, Operation.SEND_HISTORY):
                return False
        async with self._link.db.write() as conn:
            await session_store.note_values_told(conn, unit.key, end)
        return True

    async def _tell(self, unit: Unit, request: ReportPoints, operation: Operation) -> bool:
        """Say values; return whether the centre took them. Silence counts towards a lost connection as with alarms."""
        url = service_url(self._link.connection, unit.assigned_address)
        outcome = await self._link.call(url, request, operation)
        taken = isinstance(outcome, Answered) and isinstance(outcome.reply, Outcome) and outcome.reply.ok
        async with self._link.db.write() as conn:
            current = await unit_store.lock_unit(conn, unit.key)
            if current is not None and current.phase is Phase.REGISTERED:
                if taken:
                    after = session.alarms_acknowledged(current, self._link.clock.now())
                elif wants_a_login(outcome):
                    after = session.forgotten(current)
                elif isinstance(outcome, Answered):
                    after = current
                else:
                    after = session.alarms_failed(current, reason_of(outcome), self._link.connection.options)
                await self._link.save(conn, after, before=current)
        self._link.committed()
        if not taken:
            logger.info("values were not taken", extra={"unit": unit.ref.unit_id, "reason": reason_of(outcome)})
        return taken
