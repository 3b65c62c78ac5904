"""A device is exchanged for another: one step that leaves no register unread and no load without its switch.

The bindings of the old device end with what its registers show last, those of the new one begin with what its show
first; loads that it switches and circuits of it go over; the line, its address and the SIM card are the new one's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from libs.common.bus import envelope, outbox, topics
from libs.common.bus.port import Message
from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.registry import Binding, Device, Entity, EntityKind, Load, RegistryRecord
from libs.common.db import Database
from libs.common.errors import InvalidInput
from libs.common.ids import DeviceId, SiteId
from services.ingest.bus import SOURCE
from services.ingest.domain.registry import amended, current, facts, removed
from services.ingest.store import registry as store
from services.ingest.usecases.registry import Actor, Registry, VersionConflict, check_site, unknown

MOVES = ("line", "address", "sim")
"""What the old device leaves to the new one."""


class InvalidReplacement(InvalidInput):
    """The exchange cannot be done as described."""

    code = "invalid_replacement"
    title_zh = "更换信息有误"


@dataclass(frozen=True, slots=True)
class RegisterPair:
    """The registers of one channel at the exchange."""

    final: float | None
    """What the old device shows last; None when it cannot be read any more. [kWh]"""
    initial: float | None
    """What the new device shows first. [kWh]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """An exchange as it is asked for."""

    old: str
    new: Mapping[str, JsonValue]
    """Fields of the new device that differ from the old one's; ``id`` at least."""
    at: datetime
    registers: Mapping[int, RegisterPair]
    """By channel; a channel of the old device that measures a circuit must be in it."""
    reason: str | None = None


@dataclass(slots=True)
class Replaced:
    """What an exchange changes."""

    old: str
    new: str
    at: datetime
    ended_bindings: list[str] = field(default_factory=list)
    new_bindings: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    dry_run: bool = False


class Replacements:
    """Exchanges devices."""

    def __init__(self, db: Database, clock: Clock, registry: Registry, published: Callable[[], None]) -> None:
        self._db = db
        self._clock = clock
        self._registry = registry
        self._published = published

    async def replace(self, asked: Replacement, actor: Actor, *, dry_run: bool) -> Replaced:
        """Do an exchange whole, or only say what it would change.

        Raises:
            UnknownEntity, VersionConflict, InvalidReplacement, InvalidEntity, Forbidden: As they say.
        """
        now = self._clock.now()
        if asked.at > now:
            raise InvalidReplacement("at: expected a time that has passed", message_zh="at:应为已过去的时间")
        new_id = str(asked.new.get("id") or "")
        async with self._db.write() as conn:
            ids = await store.fetch_referring_ids(conn, asked.old)
            await store.lock_entities(conn, [asked.old, new_id, *ids])
            records = await store.fetch_records(conn, [asked.old, new_id, *ids])
            old = _old(records.get(asked.old), asked)
            check_site(actor, old.site)
            if (there := records.get(new_id)) is not None:
                raise VersionConflict(f"{there.id} exists already", message_zh=f"{there.id} 已存在")
            new = self._new(old, asked, actor, now)
            check_site(actor, new.site)
            changes = [amended(None, new), amended(records[asked.old], _left(old, asked, actor))]
            done = Replaced(asked.old, new.id, asked.at, dry_run=dry_run)
            channels: set[int] = set()
            for entity_id in ids:
                changes += self._carried_over(records[entity_id], asked, new, actor, done, channels)
            _check_channels(asked.registers, channels)
            taken = await store.fetch_kinds(conn, done.new_bindings)
            if taken:
                raise VersionConflict(f"{min(taken)} exists already", message_zh=f"{min(taken)} 已存在")
            if dry_run:
                return done
            await self._registry.write(conn, changes, now)
            # Only now is there something that the new device's own references can be checked against.
            await self._registry.check_references(conn, new)
            await outbox.put(conn, [_audit(asked, old, new, done, actor, now)])
        self._published()
        return done

    def _new(self, old: Device, asked: Replacement, actor: Actor, now: datetime) -> Device:
        kept = {name: value for name, value in facts(old).items() if name not in ("id", "serial", "decommissioned_at")}
        body = {**kept, **asked.new, "installed_at": asked.at.isoformat(), "valid_from": asked.at.isoformat()}
        new = self._registry.parsed(EntityKind.DEVICE, str(asked.new.get("id") or ""), body, actor, now)
        if not isinstance(new, Device):
            raise TypeError("a body of a device is a device")
        return new

    def _carried_over(
        self, record: RegistryRecord, asked: Replacement, new: Device, actor: Actor, done: Replaced, channels: set[int]
    ) -> list[RegistryRecord]:
        """Return the records of something that named the old device, as they are after the exchange."""
        entity = record.at(asked.at)
        if entity is None or not record.is_active:
            return []
        if record.versions[-1].valid_from > asked.at:
            raise InvalidReplacement(
                f"at: {record.kind} {record.id} was changed after that time; expected a later one",
                message_zh=f"at:{record.id} 在该时间之后有变更,应晚于该变更",
            )
        stamp: dict[str, Any] = {"valid_from": asked.at, "changed_by": actor.name}
        match entity:
            case Binding() if entity.device == asked.old:
                pair = asked.registers.get(entity.channel)
                if pair is None:
                    raise InvalidReplacement(
                        f"registers: expected the registers of channel {entity.channel}, which measures"
                        f" {entity.circuit}; final may be null when it cannot be read",
                        message_zh=f"registers:缺少第 {entity.channel} 路(计量 {entity.circuit})的止码和起码",
                    )
                channels.add(entity.channel)
                following = f"{new.id}.{entity.channel}"
                begun = entity.model_copy(
                    update={
                        **stamp, "id": following, "device": DeviceId(new.id), "initial_register": pair.initial,
                        "final_register": None, "valid_to": None, "version": 1,
                    }
                )  # fmt: skip
                done.ended_bindings.append(entity.id)
                done.new_bindings.append(following)
                return [_ended(record, pair.final, asked.at, actor), amended(None, begun)]
            case Load() if entity.breaker is not None and entity.breaker.device == asked.old:
                breaker = entity.breaker.model_copy(update={"device": DeviceId(new.id)})
                done.loads.append(entity.id)
                return [amended(record, entity.model_copy(update={**stamp, "breaker": breaker, "valid_to": None}))]
            case Device() if entity.parent == asked.old:
                done.children.append(entity.id)
                moved = entity.model_copy(update={**stamp, "parent": DeviceId(new.id), "valid_to": None})
                return [amended(record, moved)]
            case _:
                return []


def _old(record: RegistryRecord | None, asked: Replacement) -> Device:
    old = None if record is None or not record.is_active else record.at(asked.at)
    if record is None or not isinstance(old, Device):
        raise unknown(EntityKind.DEVICE, asked.old)
    if old.decommissioned_at is not None:
        raise InvalidReplacement(
            f"{old.id} was taken out at {old.decommissioned_at.isoformat()}",
            message_zh=f"{old.id} 已于 {old.decommissioned_at.isoformat()} 拆除",
        )
    if asked.new.get("id") == old.id:
        raise InvalidReplacement("new.id: expected an id of its own", message_zh="new.id:应为新的标识")
    if current(record, asked.at).valid_from >= asked.at:
        raise InvalidReplacement(
            f"at: {old.id} holds from {old.valid_from.isoformat()}, expected a later time",
            message_zh=f"at:应晚于 {old.id} 的生效时间 {old.valid_from.isoformat()}",
        )
    return old


def _left(old: Device, asked: Replacement, actor: Actor) -> Entity:
    """Return the old device as it is afterwards: out of use, and on no line."""
    gone: dict[str, Any] = dict.fromkeys(MOVES)
    return old.model_copy(
        update={
            **gone, "valid_from": asked.at, "valid_to": None, "decommissioned_at": asked.at, "changed_by": actor.name
        }
    )  # fmt: skip


def _ended(record: RegistryRecord, final: float | None, at: datetime, actor: Actor) -> RegistryRecord:
    last = record.versions[-1].model_copy(update={"final_register": final})
    versions: Sequence[Entity] = (*record.versions[:-1], last)
    return removed(record.model_copy(update={"versions": tuple(versions)}), at, actor.name)


def _check_channels(given: Mapping[int, RegisterPair], measured: set[int]) -> None:
    strange = sorted(given.keys() - measured)
    if strange:
        raise InvalidReplacement(
            f"registers: channel {strange[0]} measures no circuit",
            message_zh=f"registers:第 {strange[0]} 路未绑定回路",
        )


def _audit(asked: Replacement, old: Device, new: Device, done: Replaced, actor: Actor, now: datetime) -> Message:
    registers: dict[str, JsonValue] = {
        str(channel): {"final": pair.final, "initial": pair.initial} for channel, pair in asked.registers.items()
    }
    event = AuditEvent(
        actor=actor.name,
        door=actor.door,
        action="device.replace",
        subject=f"device:{old.id}",
        at=now,
        before=facts(old),
        after={**facts(new), "registers": registers, "loads": list(done.loads), "reason": asked.reason},
        address=actor.address,
        request_id=actor.request_id,
        site_id=SiteId(old.site),
    )
    return envelope.message(topics.AUDIT, actor.name, event, source=SOURCE, time=now)
