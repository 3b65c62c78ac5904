"""The registry as a file: read whole, or refused with every place that is wrong.

The format is described in ``docs/registry-file.md``: one list per kind of entity, the fields those of the registry.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue, TypeAdapter, ValidationError

from libs.common.contracts.base import UtcTime
from libs.common.contracts.registry import ENTITY_TYPES, Device, Entity, EntityKind, references_of
from libs.common.errors import InvalidFile, Problem
from libs.common.registry.rules import broken_rules
from libs.common.yamlfile import Path, YamlDocument, parse_yaml, validate

SCHEMA = "registry/1"

LISTS: Mapping[str, EntityKind] = {f"{kind}s": kind for kind in ENTITY_TYPES}
"""Name of the list of each kind, as in the API's paths; in an order in which what is referred to comes first."""

NOT_IN_A_FILE = ("version", "changed_by", "valid_to", "state")
"""Fields of an entity that a file does not give: it says what is, not what was and who changed it."""

_TIME: TypeAdapter[datetime] = TypeAdapter(UtcTime)


def parse_registry_yaml(
    text: str,
    source: str,
    *,
    valid_from: datetime,
    changed_by: str,
    known: Mapping[str, EntityKind] | None = None,
    profiles: Collection[str] | None = None,
) -> list[Entity]:
    """Return the entities that a YAML file describes; the arguments are those of ``read_registry``.

    Raises:
        InvalidFile: Something is wrong; all places are listed with line and field, and nothing is returned.
    """
    document = parse_yaml(text, source)
    return read_registry(document, valid_from=valid_from, changed_by=changed_by, known=known, profiles=profiles)


def read_registry(
    document: YamlDocument,
    *,
    valid_from: datetime,
    changed_by: str,
    known: Mapping[str, EntityKind] | None = None,
    profiles: Collection[str] | None = None,
) -> list[Entity]:
    """Return the entities that a parsed file describes, each in version 1, what is referred to first.

    Args:
        document: The file.
        valid_from: Since when it holds where the file does not say.
        changed_by: Who imports it, such as ``import:registry.yaml``.
        known: What the registry holds already, id to kind: may be referred to, and may be described anew.
        profiles: Names of the device profiles; None does not check them.

    Raises:
        InvalidFile: Something is wrong; all places are listed with line and field, and nothing is returned.
    """
    reader = _Reader(document, known or {}, profiles)
    entities = reader.read(valid_from=valid_from, changed_by=changed_by)
    if reader.problems:
        raise InvalidFile(document.source, sorted(reader.problems, key=lambda problem: problem.line or 0))
    return entities


@dataclass(frozen=True, slots=True)
class _Found:
    """One entity and where it stood."""

    entity: Entity
    path: Path


class _Reader:
    def __init__(
        self, document: YamlDocument, known: Mapping[str, EntityKind], profiles: Collection[str] | None
    ) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._known = known
        self._profiles = profiles
        self._found: dict[str, _Found] = {}
        self._places: dict[str, Path] = {}
        """Where each id stands, also of entities that are wrong otherwise."""

    def read(self, *, valid_from: datetime, changed_by: str) -> list[Entity]:
        data = self._document.data
        if not isinstance(data, dict):
            self._refuse((), f"schema: {SCHEMA} and lists of entities", f"schema: {SCHEMA} 及各类对象列表")
            return []
        if data.get("schema") != SCHEMA:
            self._refuse(("schema",), SCHEMA, SCHEMA, data.get("schema"))
        since = self._valid_from(data.get("valid_from"), valid_from)
        defaults: dict[str, JsonValue] = {
            "valid_from": since.isoformat(),
            "version": 1,
            "changed_by": changed_by,
        }
        for name, items in data.items():
            if name in LISTS:
                self._list(name, items, defaults)
            elif name not in ("schema", "valid_from"):
                names = ", ".join(("schema", "valid_from", *LISTS))
                self._refuse((name,), f"one of {names}", f"下列之一:{names}", name)
        for found in self._found.values():
            self._references(found)
            self._rules(found)
        self._addresses()
        self._loops()
        return list(self._in_order())

    def _refuse(self, path: Path, expected: str, expected_zh: str, value: object = None) -> None:
        self.problems.append(self._document.problem(path, expected, expected_zh, value))

    def _valid_from(self, value: JsonValue, otherwise: datetime) -> datetime:
        if value is None:
            return otherwise
        try:
            return _TIME.validate_python(value)
        except ValidationError:
            example = "2026-01-31T00:00:00+08:00"
            both = (f"a time with an offset, such as {example}", f"带时区偏移的时间,如 {example}")
            self._refuse(("valid_from",), *both, value)
            return otherwise

    def _list(self, name: str, items: JsonValue, defaults: Mapping[str, JsonValue]) -> None:
        if items is None:
            return
        if not isinstance(items, list):
            self._refuse((name,), "a list", "列表")
            return
        for i, item in enumerate(items):
            path: Path = (name, i)
            if not isinstance(item, dict):
                both = ("an entity: fields and their values", "对象:字段及其取值")
                self._refuse(path, *both, item if isinstance(item, str) else None)
                continue
            given = [field for field in NOT_IN_A_FILE if field in item]
            for field in given:
                self._refuse((*path, field), "no value, the platform sets it", "不填,由平台设置")
            self._once(path)
            entity, problems = validate(ENTITY_TYPES[LISTS[name]], self._document, path, defaults=defaults)
            self.problems += problems
            if entity is not None and not given:
                self._found.setdefault(entity.id, _Found(entity, path))

    def _once(self, path: Path) -> None:
        """Check that an id is not taken: ids are unique over all kinds, because the topic is keyed by them."""
        entity_id = self._document.texts.get((*path, "id"))
        if not entity_id:
            return
        kind = LISTS[str(path[0])]
        if entity_id in self._places:
            line = self._document.line(self._places[entity_id])
            both = (f"an id of its own, line {line} has it too", f"唯一的标识,第 {line} 行已使用")
            self._refuse((*path, "id"), *both, entity_id)
        elif self._known.get(entity_id, kind) is not kind:
            owner = self._known[entity_id]
            both = (f"an id of its own, a {owner} has it", f"唯一的标识,已被一个 {owner} 使用")
            self._refuse((*path, "id"), *both, entity_id)
        self._places.setdefault(entity_id, path)

    def _references(self, found: _Found) -> None:
        for field, kind, entity_id in references_of(found.entity):
            path = (*found.path, *field.split("."))
            there = self._kind_of(entity_id)
            if there is None:
                both = (f"the id of a {kind} in this file or in the registry", f"本文件或台账中已有的 {kind} 标识")
                self._refuse(path, *both, entity_id)
            elif there is not kind:
                both = (f"the id of a {kind}, this is a {there}", f"{kind} 的标识,而这是一个 {there}")
                self._refuse(path, *both, entity_id)
        entity = found.entity
        if isinstance(entity, Device) and entity.profile is not None and self._profiles is not None:
            if entity.profile not in self._profiles:
                self._refuse((*found.path, "profile"), *_profile_name(entity.profile, self._profiles), entity.profile)

    def _rules(self, found: _Found) -> None:
        for broken in broken_rules(found.entity):
            path = (*found.path, broken.field) if broken.field else found.path
            self._refuse(path, broken.expected, broken.expected_zh, broken.found)

    def _kind_of(self, entity_id: str) -> EntityKind | None:
        # An entity that is wrong itself still counts as there: its mistake is reported once, where it is.
        if entity_id in self._places:
            return LISTS[str(self._places[entity_id][0])]
        return self._known.get(entity_id)

    def _addresses(self) -> None:
        """Refuse two devices that would answer to one address of a line."""
        taken: dict[tuple[str, str, int | None], _Found] = {}
        for found in self._found.values():
            device = found.entity
            if not isinstance(device, Device) or device.line is None or device.address is None:
                continue
            first = taken.setdefault((device.line, device.address, device.channel), found)
            if first is not found:
                line = self._document.line(first.path)
                both = (
                    f"an address (or a channel) of its own on {device.line}, line {line} has it too",
                    f"{device.line} 上唯一的地址(或通道),第 {line} 行已使用",
                )
                self._refuse((*found.path, "address"), *both, device.address)

    def _loops(self) -> None:
        """Refuse parents that lead back to where they started."""
        for entity_id, found in self._found.items():
            seen = [entity_id]
            parent = _parent(found.entity)
            while parent in self._found and parent not in seen:
                seen.append(parent)
                parent = _parent(self._found[parent].entity)
            if parent == entity_id:
                chain = " > ".join([*seen, entity_id])
                both = (f"a parent that does not lead back, this does: {chain}", f"不成环的上级,当前成环:{chain}")
                self._refuse((*found.path, "parent"), *both)

    def _in_order(self) -> Iterator[Entity]:
        """Yield the entities kind by kind, parents before their children."""
        for cls in ENTITY_TYPES.values():
            yield from _parents_first([f.entity for f in self._found.values() if type(f.entity) is cls])


def _profile_name(given: str, profiles: Collection[str]) -> tuple[str, str]:
    """Return what was expected, with the name that was probably meant."""
    near = difflib.get_close_matches(given, profiles, n=1)
    english, chinese = "the name of a device profile", "已有的设备模板名"
    return (f"{english}, perhaps {near[0]}", f"{chinese},可能是 {near[0]}") if near else (english, chinese)


def _parent(entity: Entity) -> str | None:
    parent: str | None = getattr(entity, "parent", None)
    return parent


def _parents_first(entities: Sequence[Entity]) -> Iterator[Entity]:
    waiting = {entity.id: entity for entity in entities}
    while waiting:
        ready = [entity for entity in waiting.values() if _parent(entity) not in waiting]
        if not ready:
            return  # a loop, which is reported as such
        for entity in ready:
            del waiting[entity.id]
        yield from ready
