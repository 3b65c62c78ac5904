"""How an entity's history changes: a new version from a time on, a correction of the past, a removal."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from libs.common.contracts.registry import Entity, EntityState, RegistryRecord, record_of
from libs.common.errors import InvalidInput

BOOKKEEPING = frozenset({"version", "changed_by", "valid_from", "valid_to", "state"})
"""Fields that say when and by whom, not what."""


def facts(entity: Entity) -> dict[str, Any]:
    """Return what an entity says about the thing, without the bookkeeping."""
    return entity.model_dump(mode="json", exclude=set(BOOKKEEPING), exclude_none=True)


def amended(record: RegistryRecord | None, entity: Entity) -> RegistryRecord:
    """Return the record with a version from ``entity.valid_from`` on.

    What was true before that time stays true; the version that held then ends there, and later ones, which this
    one replaces, go. The new version takes the next number.

    Raises:
        InvalidInput: The id belongs to another kind.
    """
    if record is None:
        return record_of([_numbered(entity, 1)])
    if record.kind is not entity.kind_of:
        raise InvalidInput(
            f"{entity.id} is a {record.kind} already", message_zh=f"标识 {entity.id} 已被 {record.kind} 使用"
        )
    kept: list[Entity] = []
    for version in record.versions:
        if version.valid_from >= entity.valid_from:
            break
        if version.valid_to is None or version.valid_to > entity.valid_from:
            version = version.model_copy(update={"valid_to": entity.valid_from})
        kept.append(version)
    return record_of([*kept, _numbered(entity, record.revision + 1)])


def removed(record: RegistryRecord, when: datetime, changed_by: str) -> RegistryRecord:
    """Return the record of an entity that is gone from ``when`` on; its history stays."""
    began = [version for version in record.versions if version.valid_from < when]
    kept: Sequence[Entity] = began or record.versions[:1]
    last = kept[-1]
    end = when if last.valid_to is None or last.valid_to > when else last.valid_to
    update: dict[str, Any] = {"version": record.revision + 1, "changed_by": changed_by}
    if began:
        update["valid_to"] = end
    else:
        update["state"] = EntityState.REMOVED
    return record_of([*kept[:-1], last.model_copy(update=update)], state=EntityState.REMOVED)


def current(record: RegistryRecord, when: datetime) -> Entity:
    """Return the version to show: the one that holds, else the last before, else the first to come."""
    began = [version for version in record.versions if version.valid_from <= when]
    return began[-1] if began else record.versions[0]


def _numbered(entity: Entity, version: int) -> Entity:
    return entity if entity.version == version else entity.model_copy(update={"version": version})
