"""Changes of the registry: one transaction for the change, its record on the topic and its audit event."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from libs.common.bus import envelope, outbox, topics
from libs.common.bus.port import MAX_MESSAGE_BYTES, Message
from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.registry import (
    ENTITY_TYPES,
    Binding,
    Circuit,
    Device,
    Entity,
    EntityKind,
    RegistryRecord,
    Site,
    references_of,
)
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from libs.common.expected import expected as expected_of
from libs.common.ids import SiteId
from libs.common.profiles import ProfileCatalogue
from libs.common.registry.rules import broken_rules
from services.ingest.bus import SOURCE
from services.ingest.domain.registry import amended, current, facts, removed
from services.ingest.store import registry as store
from services.ingest.store.registry import Change

logger = logging.getLogger(__name__)

SAVE_AT_A_TIME = 500
"""Records written and published in one statement."""
MAX_SHOWN_CHANGES = 500
"""Entities of an import whose changes are shown field by field; all are counted."""
MAX_RECORD_BYTES = MAX_MESSAGE_BYTES - 4096
"""An entity with all its versions; the rest is for the headers. [B]"""


class UnknownEntity(NotFound):
    """There is no entity of that kind and id."""

    code = "unknown_entity"
    title_zh = "对象不存在"


class VersionConflict(Conflict):
    """Somebody else has changed the entity since it was read."""

    code = "version_conflict"
    title_zh = "版本冲突"


class StillReferred(Conflict):
    """Other entities name this one."""

    code = "still_referred"
    title_zh = "仍被引用"


class HistoryFull(Conflict):
    """The entity has changed too often to be published with all its versions."""

    code = "history_full"
    title_zh = "历史版本过多"


class InvalidEntity(InvalidInput):
    """A field of the entity is wrong."""

    code = "invalid_entity"
    title_zh = "对象字段有误"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something, and through which door."""

    name: str
    """``user:<name>``, ``key:<id>`` or ``service:<name>``."""
    door: str
    sites: frozenset[str] | None = None
    """Sites that the actor is limited to; None is all."""
    address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """An entity after a change."""

    entity: Entity
    revision: int
    created: bool
    changed: bool = True


@dataclass(slots=True)
class ImportCounts:
    """What an import did, or would do."""

    created: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    changes: list[dict[str, Any]] = field(default_factory=list)
    """What is new in the first entities: kind, id, and per field the value before and after."""

    def note(self, before: Entity | None, after: Entity) -> None:
        """Count a change, and show it unless there are many."""
        (self.created if before is None else self.changed)[after.kind_of.value] += 1
        if len(self.changes) < MAX_SHOWN_CHANGES:
            old, new = {} if before is None else facts(before), facts(after)
            differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            fields = {name: [old.get(name), new.get(name)] for name in differing if name != "id"}
            self.changes.append({"kind": after.kind_of.value, "id": after.id, "new": before is None, "fields": fields})

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Return the counts per kind."""
        return {
            "created": dict(self.created),
            "changed": dict(self.changed),
            "unchanged": dict(self.unchanged),
        }


class Registry:
    """The only one who changes the registry."""

    def __init__(self, db: Database, clock: Clock, catalogue: ProfileCatalogue, published: Callable[[], None]) -> None:
        """Prepare.

        Args:
            db: Of ingest.
            clock: Ours.
            catalogue: Profiles that devices may name.
            published: Called after a commit that has put something into the outbox.
        """
        self._db = db
        self._clock = clock
        self._catalogue = catalogue
        self._published = published

    async def put(
        self,
        kind: EntityKind,
        entity_id: str,
        body: Mapping[str, JsonValue],
        actor: Actor,
        *,
        expected: int | None = None,
        only_new: bool = False,
    ) -> Changed:
        """Create an entity, or give it a new version from ``valid_from`` (now unless said) on.

        Args:
            kind: Of the entity.
            entity_id: Its id.
            body: Its fields without the bookkeeping.
            actor: Who asks.
            expected: Revision that the caller has seen; None does not check.
            only_new: Refuse when it exists.

        Raises:
            InvalidEntity, VersionConflict, Forbidden: As they say.
        """
        now = self._clock.now()
        entity = self.parsed(kind, entity_id, body, actor, now)
        async with self._db.write() as conn:
            await store.lock_entities(conn, [entity_id])
            known = await store.fetch_record(conn, entity_id)
            _check_expected(known, expected, only_new=only_new)
            if known is not None and known.is_active and known.kind is kind:
                before: Entity | None = current(known, now)
                if before is not None and facts(before) == facts(entity) and body.get("valid_from") is None:
                    return Changed(before, known.revision, created=False, changed=False)
            else:
                before = None
            record = amended(known, entity)
            await self.check_references(conn, entity)
            site = await self._site_of(conn, entity)
            check_site(actor, site)
            await self._write(conn, [Change(record, site)], now)
            await outbox.put(conn, [_audit(actor, f"{kind}.put", entity, before, now, site)])
        self._published()
        return Changed(record.versions[-1], record.revision, created=known is None)

    async def remove(self, kind: EntityKind, entity_id: str, actor: Actor, *, expected: int | None = None) -> None:
        """Take an entity out of the registry; its history stays.

        Raises:
            UnknownEntity, VersionConflict, StillReferred, Forbidden: As they say.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            await store.lock_entities(conn, [entity_id])
            known = await store.fetch_record(conn, entity_id)
            if known is None or known.kind is not kind or not known.is_active:
                raise unknown(kind, entity_id)
            _check_expected(known, expected, only_new=False)
            site = (await store.fetch_sites(conn, [entity_id])).get(entity_id)
            check_site(actor, site)
            users = await store.fetch_referring(conn, entity_id, when=now, limit=6)
            if users:
                shown = ", ".join(users[:5]) + (" …" if len(users) > 5 else "")
                raise StillReferred(
                    f"{kind} {entity_id} is named by {shown}",
                    message_zh=f"{entity_id} 仍被引用:{shown}",
                    referring=users[:5],
                )
            before = current(known, now)
            await self._write(conn, [Change(removed(known, now, actor.name), site)], now)
            await outbox.put(conn, [_audit(actor, f"{kind}.remove", None, before, now, site)])
        self._published()

    async def get(self, kind: EntityKind, entity_id: str) -> RegistryRecord:
        """Return an entity's history.

        Raises:
            UnknownEntity: There is none.
        """
        async with self._db.read() as conn:
            record = await store.fetch_record(conn, entity_id)
        if record is None or record.kind is not kind:
            raise unknown(kind, entity_id)
        return record

    async def known(self) -> dict[str, EntityKind]:
        """Return id and kind of every active entity, for checking a file."""
        async with self._db.read() as conn:
            return await store.fetch_kinds(conn, None)

    async def take(self, entities: Sequence[Entity], actor: Actor, *, dry_run: bool, note: str) -> ImportCounts:
        """Take all entities of a checked file, or none.

        An entity that says what the registry says already is left alone, so the same file can be imported twice.

        Args:
            entities: What is referred to first.
            actor: Who imports.
            dry_run: Count only.
            note: Name of the file, for the audit.
        """
        now = self._clock.now()
        counts = ImportCounts()
        async with self._db.write() as conn:
            ids = [entity.id for entity in entities]
            await store.lock_entities(conn, ids)
            known = await store.fetch_records(conn, ids)
            sites = await self._sites_of_all(conn, entities)
            changes: list[Change] = []
            for entity in entities:
                record = known.get(entity.id)
                if record is not None and record.is_active and facts(current(record, now)) == facts(entity):
                    counts.unchanged[entity.kind_of.value] += 1
                    continue
                check_site(actor, sites[entity.id])
                changes.append(Change(amended(record, entity), sites[entity.id]))
                counts.note(current(record, now) if record is not None and record.is_active else None, entity)
            if dry_run:
                return counts
            for at in range(0, len(changes), SAVE_AT_A_TIME):
                await self._write(conn, changes[at : at + SAVE_AT_A_TIME], now)
            if changes:
                await outbox.put(conn, [_import_audit(actor, note, counts, now)])
        self._published()
        return counts

    async def publish_missing(self, known_revision: Callable[[EntityKind, str], int]) -> int:
        """Publish every record that the topic lacks or has older, and return how many there were.

        The topic may have been replaced by an empty one; the tables are the truth.
        """
        async with self._db.read() as conn:
            revisions = await store.fetch_revisions(conn)
        behind = [entity_id for entity_id, kind, revision in revisions if known_revision(kind, entity_id) < revision]
        for at in range(0, len(behind), SAVE_AT_A_TIME):
            async with self._db.write() as conn:
                records = await store.fetch_records(conn, behind[at : at + SAVE_AT_A_TIME])
                await outbox.put(conn, [_record_message(record, self._clock.now()) for record in records.values()])
            self._published()
        return len(behind)

    async def all_active(self) -> dict[EntityKind, list[Entity]]:
        """Return everything that is there, as it holds now, by kind and id."""
        found: dict[EntityKind, list[Entity]] = {}
        now = self._clock.now()
        async with self._db.read() as conn:
            ids = sorted(await store.fetch_kinds(conn, None))
            for at in range(0, len(ids), SAVE_AT_A_TIME):
                for record in (await store.fetch_records(conn, ids[at : at + SAVE_AT_A_TIME])).values():
                    found.setdefault(record.kind, []).append(current(record, now))
        return found

    def parsed(
        self, kind: EntityKind, entity_id: str, body: Mapping[str, JsonValue], actor: Actor, now: datetime
    ) -> Entity:
        """Return an entity as a body describes it.

        Raises:
            InvalidEntity: A field is wrong, or the profile is not known.
        """
        cls = ENTITY_TYPES[kind]
        given = {name: value for name, value in body.items() if name not in ("version", "changed_by", "state")}
        unknown_fields = sorted(given.keys() - cls.model_fields.keys())
        if unknown_fields:
            known = ", ".join(sorted(cls.model_fields.keys()))
            raise InvalidEntity(
                f"{unknown_fields[0]}: there is no such field of a {kind}; known are {known}",
                message_zh=f"{kind} 没有字段 {unknown_fields[0]}",
                problems=[{"field": name, "expected": f"one of {known}"} for name in unknown_fields],
            )
        if given.setdefault("id", entity_id) != entity_id:
            raise InvalidEntity(f"id: expected {entity_id}, as in the path", message_zh="id 与路径不一致")
        given.setdefault("valid_from", now.isoformat())
        try:
            entity = cls.model_validate({**given, "version": 1, "changed_by": actor.name})
        except ValidationError as exc:
            problems = [_problem(kind, error) for error in exc.errors()]
            text = "; ".join(f"{problem['field']}: expected {problem['expected']}" for problem in problems)
            text_zh = ";".join(f"{problem['field']}:应为 {problem['expected_zh']}" for problem in problems)
            raise InvalidEntity(text, message_zh=text_zh, problems=problems) from exc
        _check_rules(entity)
        if isinstance(entity, Device) and entity.profile is not None:
            if self._catalogue.find(entity.profile, entity.profile_version) is None:
                wanted = " ".join(filter(None, (entity.profile, entity.profile_version)))
                raise InvalidEntity(
                    f"profile: expected the name of a device profile, found {wanted!r}",
                    message_zh=f"profile:应为已有的设备模板名,实际为 {wanted!r}",
                    problems=[{"field": "profile", "expected": "the name of a device profile", "found": wanted}],
                )
        return entity

    async def check_references(self, conn: WriteConn, entity: Entity) -> None:
        """Check that what an entity names is there, and of the right kind.

        Raises:
            InvalidEntity: It is not.
        """
        named = references_of(entity)
        kinds = await store.fetch_kinds(conn, sorted({entity_id for _, _, entity_id in named}))
        for path, kind, entity_id in named:
            if entity_id == entity.id:
                raise InvalidEntity(f"{path}: names itself", message_zh=f"{path}:不能引用自身")
            if kinds.get(entity_id) is not kind:
                raise InvalidEntity(
                    f"{path}: expected the id of a {kind}, found {entity_id!r}",
                    message_zh=f"{path}:{entity_id!r} 不是已有的 {kind}",
                    problems=[{"field": path, "expected": f"the id of a {kind}", "found": entity_id}],
                )

    async def _site_of(self, conn: WriteConn, entity: Entity) -> str | None:
        """Return the site that an entity belongs to, through its room or device where it names none itself."""
        direct, through = _site_or_way(entity)
        if direct is not None or through is None:
            return direct
        return (await store.fetch_sites(conn, [through])).get(through)

    async def _sites_of_all(self, conn: WriteConn, entities: Sequence[Entity]) -> dict[str, str | None]:
        ways = {entity.id: _site_or_way(entity) for entity in entities}
        outside = sorted({way for _, way in ways.values() if way is not None and way not in ways})
        found: dict[str, str | None] = dict(await store.fetch_sites(conn, outside))
        for entity in entities:  # what is referred to comes first
            direct, way = ways[entity.id]
            found[entity.id] = direct if direct is not None or way is None else found.get(way)
        return found

    async def write(self, conn: WriteConn, records: Sequence[RegistryRecord], now: datetime) -> None:
        """Write and publish records that change together, within the caller's transaction.

        Raises:
            HistoryFull: One of them cannot be published any more.
        """
        sites = await self._sites_of_all(conn, [record.latest for record in records])
        await self._write(conn, [Change(record, sites[record.id]) for record in records], now)

    async def _write(self, conn: WriteConn, changes: Sequence[Change], now: datetime) -> None:
        messages = [_record_message(change.record, now) for change in changes]
        for change, message in zip(changes, messages, strict=True):
            size = len(message.value or b"")
            if size > MAX_RECORD_BYTES:  # the others would never hear of the change
                raise HistoryFull(
                    f"{change.record.id}: its history would take {size} bytes, at most {MAX_RECORD_BYTES} are sent",
                    message_zh=f"{change.record.id}:历史记录将达 {size} 字节,最多 {MAX_RECORD_BYTES}",
                )
        await store.save(conn, changes, now)
        await outbox.put(conn, messages)


def _problem(kind: EntityKind, error: ErrorDetails) -> dict[str, str]:
    english, chinese = expected_of(error)
    field = ".".join(str(part) for part in error["loc"]) or kind.value
    return {"field": field, "expected": english, "expected_zh": chinese}


def _check_rules(entity: Entity) -> None:
    for broken in broken_rules(entity):
        field = broken.field or entity.kind_of.value
        raise InvalidEntity(
            f"{field}: expected {broken.expected}, found {broken.found}",
            message_zh=f"{field}:应为 {broken.expected_zh},实际为 {broken.found}",
            problems=[{"field": field, "expected": broken.expected, "expected_zh": broken.expected_zh}],
        )


def unknown(kind: EntityKind, entity_id: str) -> UnknownEntity:
    """Return the error that says so."""
    return UnknownEntity(f"there is no {kind} {entity_id}", message_zh=f"{kind} {entity_id} 不存在")


def _check_expected(known: RegistryRecord | None, expected: int | None, *, only_new: bool) -> None:
    there = 0 if known is None else known.revision
    if only_new and known is not None and known.is_active:
        raise VersionConflict(f"{known.id} exists already", message_zh=f"{known.id} 已存在")
    if expected is not None and expected != there:
        raise VersionConflict(
            f"expected version {expected}, it is at {there}",
            message_zh=f"期望版本 {expected},当前版本 {there}",
            expected=expected,
            current=there,
        )


def check_site(actor: Actor, site: str | None) -> None:
    """Check that somebody may change what belongs to a site.

    Raises:
        Forbidden: They may not.
    """
    if actor.sites is not None and site not in actor.sites:
        raise Forbidden(
            f"{actor.name} may not change what belongs to {site or 'no single site'}",
            message_zh=f"{actor.name} 无权修改该局站的对象",
        )


def _site_or_way(entity: Entity) -> tuple[str | None, str | None]:
    """Return the site of an entity, or the id of the entity that knows it."""
    match entity:
        case Site():
            return entity.id, None
        case Circuit():
            return entity.site, entity.room
        case Binding():
            return None, entity.device
        case _:
            site: str | None = getattr(entity, "site", None)
            return site, None


def _record_message(record: RegistryRecord, now: datetime) -> Message:
    return envelope.message(
        topics.REGISTRY,
        record.id,
        record,
        source=SOURCE,
        time=now,
        event_id=f"{record.id}/{record.revision}",
        subject=f"{record.kind}:{record.id}",
    )


def _audit(
    actor: Actor, action: str, after: Entity | None, before: Entity | None, now: datetime, site: str | None
) -> Message:
    subject = after or before
    if subject is None:
        raise ValueError("an audit event is about something")
    event = AuditEvent(
        actor=actor.name,
        door=actor.door,
        action=action,
        subject=f"{subject.kind_of}:{subject.id}",
        at=now,
        before=None if before is None else facts(before),
        after=None if after is None else facts(after),
        address=actor.address,
        request_id=actor.request_id,
        site_id=None if site is None else SiteId(site),
    )
    return envelope.message(topics.AUDIT, actor.name, event, source=SOURCE, time=now)


def _import_audit(actor: Actor, note: str, counts: ImportCounts, now: datetime) -> Message:
    after: dict[str, JsonValue] = {name: dict(per_kind) for name, per_kind in counts.as_dict().items()}
    event = AuditEvent(
        actor=actor.name,
        door=actor.door,
        action="registry.import",
        subject=f"file:{note}",
        at=now,
        after=after,
        address=actor.address,
        request_id=actor.request_id,
    )
    return envelope.message(topics.AUDIT, actor.name, event, source=SOURCE, time=now)
