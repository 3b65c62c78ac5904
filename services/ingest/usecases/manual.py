"""Readings that people take from meters without communication (利旧电表), and their corrections.

A reading that does not fit the meter's history is not refused: whoever sends it is asked, and may confirm it. Nothing
is ever overwritten here; a correction is a reading of its own that names the one it corrects, and takes its place in
the history.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from libs.common.bus import envelope, outbox, topics
from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.registry import Circuit, Device
from libs.common.contracts.telemetry import Quality
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import DeviceId, SiteId, new_id
from libs.common.profiles import ProfileCatalogue
from services.ingest.bus import SOURCE, reading_message
from services.ingest.domain.acceptance import Limits as TimeLimits
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.latest import OlderPoint
from services.ingest.domain.normalise import Ratios, energy_ratio
from services.ingest.domain.plausibility import Known, Limits, Question, questions
from services.ingest.domain.submission import Submission, read_submission, report_of
from services.ingest.store import manual as store
from services.ingest.store.manual import ManualReading
from services.ingest.usecases.readings import Readings
from services.ingest.usecases.registry import Actor, check_site
from services.ingest.usecases.topology import Topology, in_use

DRIVER = "manual"
MAX_PHOTO_BYTES = 4 << 20
PHOTO_TYPES: Mapping[bytes, str] = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}
"""First bytes of a picture to its type."""
AROUND = 5
"""Readings before and after that are looked at for each point's neighbours."""


class UnknownManualReading(NotFound):
    """There is no such reading."""

    code = "unknown_manual_reading"
    title_zh = "抄表记录不存在"


class NeedsConfirmation(Conflict):
    """The reading does not fit the history; send it again with ``confirm`` when it is right."""

    code = "needs_confirmation"
    title_zh = "读数需要确认"


class CorrectedAlready(Conflict):
    """Another reading corrects this one."""

    code = "corrected_already"
    title_zh = "该记录已被更正"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a person has read."""

    payload: Mapping[str, Any]
    """``device_id``, ``source_time``, ``points``, ``units``: as in a pushed report."""
    reader: str
    note: str | None = None
    photo: bytes | None = None
    confirm: bool = False
    corrects: str | None = None
    reason: str | None = None


class ManualReadings:
    """Takes readings and corrections."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        topology: Topology,
        catalogue: ProfileCatalogue,
        readings: Readings,
        limits: TimeLimits,
        published: Callable[[], None],
    ) -> None:
        self._db = db
        self._clock = clock
        self._topology = topology
        self._catalogue = catalogue
        self._readings = readings
        self._limits = limits
        self._published = published

    async def take(self, taken: Taken, actor: Actor) -> ManualReading:
        """Take a reading.

        Raises:
            InvalidInput: A field is wrong, or the device is not known.
            NeedsConfirmation: It does not fit; ``facts["questions"]`` says why.
            Forbidden: The device belongs to another site.
        """
        read = _read(taken.payload)
        photo_type = _photo_type(taken.photo)
        now = self._clock.now()
        if read.source_time > now + timedelta(seconds=self._limits.max_skew_s):
            raise InvalidInput(
                "source_time: expected a time that has passed", message_zh="source_time:应为已过去的时间"
            )
        device = self._topology.device(read.device_id, read.source_time)
        if device is None or not in_use(device, read.source_time):
            raise InvalidInput(
                f"device_id: there was no device {read.device_id} in use at that time",
                message_zh=f"device_id:该时间没有在用的设备 {read.device_id}",
            )
        check_site(actor, device.site)
        points = {name: value for name, value in read.points.items() if value is not None}
        async with self._db.write() as conn:
            await store.lock_device(conn, device.id)
            doubts = await self._doubts(conn, device, points, read.source_time, taken.corrects)
            if doubts and not taken.confirm:
                raise _needs_confirmation(doubts)
            found = ManualReading(
                id=new_id(),
                device_id=device.id,
                site_id=device.site,
                source_time=read.source_time,
                recorded_at=now,
                points=points,
                reader=taken.reader,
                recorded_by=actor.name,
                note=taken.note,
                confirmed=[_shown(one) for one in doubts] or None,
                corrects=taken.corrects,
                reason=taken.reason,
                photo_type=photo_type,
                photo_sha256=None if taken.photo is None else hashlib.sha256(taken.photo).hexdigest(),
            )
            await store.insert(conn, found, taken.photo)
            profile = None if device.profile is None else self._catalogue.find(device.profile, device.profile_version)
            sent = replace(read, quality=dict.fromkeys(points, Quality.MANUAL), message_id=found.id)
            report = replace(report_of(sent, device, profile, now, DRIVER), replaces=taken.corrects)
            await outbox.put(conn, [reading_message(report, topics.BACKFILL), _audit(found, actor)])
        self._published()
        return found

    async def correct(self, reading_id: str, taken: Taken, actor: Actor) -> ManualReading:
        """Put another reading in the place of one that was wrong; the old one stays on record.

        Raises:
            UnknownManualReading, CorrectedAlready: As they say.
            InvalidInput, NeedsConfirmation, Forbidden: As ``take``.
        """
        old = await self.get(reading_id)
        if old.corrected_by is not None:
            raise CorrectedAlready(
                f"{old.id} was corrected by {old.corrected_by}, correct that one",
                message_zh=f"{old.id} 已由 {old.corrected_by} 更正,请更正后者",
            )
        payload = {**taken.payload, "device_id": old.device_id, "source_time": old.source_time.isoformat()}
        return await self.take(replace(taken, payload=payload, corrects=old.id), actor)

    async def get(self, reading_id: str) -> ManualReading:
        """Return a reading.

        Raises:
            UnknownManualReading: There is none.
        """
        async with self._db.read() as conn:
            found = await store.fetch(conn, reading_id)
        if found is None:
            raise UnknownManualReading(
                f"there is no manual reading {reading_id}", message_zh=f"抄表记录 {reading_id} 不存在"
            )
        return found

    async def photo(self, reading_id: str) -> bytes:
        """Return a reading's photo.

        Raises:
            UnknownManualReading: It has none.
        """
        async with self._db.read() as conn:
            body = await store.fetch_photo(conn, reading_id)
        if body is None:
            raise UnknownManualReading(f"{reading_id} has no photo", message_zh=f"{reading_id} 没有照片")
        return body

    async def page(
        self, *, device_id: str | None, sites: frozenset[str] | None, before: str | None, limit: int
    ) -> list[ManualReading]:
        """Return readings, the last recorded first."""
        async with self._db.read() as conn:
            return await store.fetch_page(
                conn, device_id=device_id, sites=None if sites is None else sorted(sites), before=before, limit=limit
            )

    async def _doubts(
        self, conn: WriteConn, device: Device, points: Mapping[str, float], at: datetime, corrects: str | None
    ) -> list[Question]:
        earlier, later = await store.fetch_around(conn, device.id, at, without=corrects, limit=AROUND)
        before: dict[str, Known] = {}
        after: dict[str, Known] = {}
        for found, side in ((earlier, before), (later, after)):
            for one in found:
                for name, value in one.points.items():
                    side.setdefault(name, Known(one.source_time, value))
        await self._add_reported(device.id, at, before)
        profile = None if device.profile is None else self._catalogue.find(device.profile, device.profile_version)
        ratio = None if profile is None else energy_ratio(profile, Ratios(ct=device.ct_ratio, pt=device.pt_ratio))
        limits = Limits(
            modulus={}
            if profile is None
            else {n: p.modulus for n, p in profile.points.items() if p.modulus is not None},
            rated_kw=self._rated_kw(device, at),
            energy_ratio=ratio or 1.0,
        )
        return questions(points, at, before, after, limits)

    async def _add_reported(self, device_id: str, at: datetime, before: dict[str, Known]) -> None:
        """Add what the device itself or an import has reported last, where that is younger."""
        for reading in await self._readings.latest(sites=None, devices=[device_id], after=None, limit=1):
            last = {
                name: OlderPoint(value, reading.source_time, reading.quality.get(name))
                for name, value in reading.points.items()
            }
            for name, found in {**reading.older, **last}.items():
                known = before.get(name)
                younger = found.source_time < at and (known is None or known.at < found.source_time)
                if found.value is not None and found.quality is not Quality.MANUAL and younger:
                    before[name] = Known(found.source_time, found.value)

    def _rated_kw(self, device: Device, at: datetime) -> float | None:
        bindings = self._topology.index.bindings_of_device(DeviceId(device.id), at)
        circuits = [self._topology.index.circuit(binding.circuit, at) for binding in bindings]
        rated = [circuit.rated_power_kw for circuit in circuits if isinstance(circuit, Circuit)]
        return rated[0] if len(rated) == 1 else None


def _read(payload: Mapping[str, Any]) -> Submission:
    found = read_submission(dict(payload))
    if isinstance(found, Refused):
        raise InvalidInput(found.detail, message_zh=found.detail_zh, reason=found.reason)
    if not any(value is not None for value in found.points.values()):
        raise InvalidInput("points: expected at least one value", message_zh="points:至少一个读数")
    return found


def _photo_type(photo: bytes | None) -> str | None:
    if photo is None:
        return None
    kind = next((kind for head, kind in PHOTO_TYPES.items() if photo.startswith(head)), None)
    if kind is None or len(photo) > MAX_PHOTO_BYTES:
        raise InvalidInput(
            f"photo: expected a JPEG, PNG or WebP of at most {MAX_PHOTO_BYTES} bytes",
            message_zh=f"photo:应为不超过 {MAX_PHOTO_BYTES} 字节的 JPEG、PNG 或 WebP 图片",
        )
    return kind


def _needs_confirmation(doubts: list[Question]) -> NeedsConfirmation:
    return NeedsConfirmation(
        "; ".join(one.detail for one in doubts) + "; send it again with confirm when it is right",
        message_zh=";".join(one.detail_zh for one in doubts) + ";如确认无误,请带 confirm 再次提交",
        questions=[_shown(one) for one in doubts],
    )


def _shown(one: Question) -> dict[str, Any]:
    known = None if one.known is None else {"at": one.known.at.isoformat(), "value": one.known.value}
    return {"point": one.point, "doubt": one.doubt.value, "value": one.value, "known": known,
            "detail": one.detail, "detail_zh": one.detail_zh}  # fmt: skip


def _audit(found: ManualReading, actor: Actor) -> Any:
    event = AuditEvent(
        actor=actor.name,
        door=actor.door,
        action="reading.manual" if found.corrects is None else "reading.correct",
        subject=f"device:{found.device_id}",
        at=found.recorded_at,
        before=None if found.corrects is None else {"id": found.corrects},
        after={"id": found.id, "points": dict(found.points), "reader": found.reader, "reason": found.reason},
        address=actor.address,
        request_id=actor.request_id,
        site_id=SiteId(found.site_id),
    )
    return envelope.message(topics.AUDIT, actor.name, event, source=SOURCE, time=found.recorded_at)
