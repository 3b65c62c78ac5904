"""What people and services do with rules and alarms: look, override, acknowledge, note."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import JsonObject
from libs.common.db import ReadConn, WriteConn
from libs.common.errors import Forbidden, InvalidInput, NotFound
from libs.common.ids import SiteId
from libs.common.points import POINTS
from libs.common.tokens import Principal
from services.alarm.domain.model import EffectiveRule, Rule, Signal
from services.alarm.domain.rulebook import (
    PARAMETERS,
    Fault,
    Override,
    RuleBook,
    Scope,
    Target,
    applies,
    dictionary_class,
    order_faults,
    override_faults,
)
from services.alarm.views import AlarmFilter, AlarmRow, DeliveryRow, Note, StoredOverride

STATION_CLASSES = ("A", "B", "C", "D", "E")


class Transactions(Protocol):
    """Where connections come from."""

    def read(self) -> AbstractAsyncContextManager[ReadConn]:
        """Yield a connection that changes nothing."""

    def write(self) -> AbstractAsyncContextManager[WriteConn]:
        """Yield a connection in one transaction."""


class Directory(Protocol):
    """The registry in alarm's words."""

    def target(self, device_id: str) -> Target | None:
        """Return what the rules need to know of a device."""

    def targets(self) -> Iterable[Target]:
        """Return all devices."""

    def has_site(self, site_id: str) -> bool:
        """Return whether there is such a site."""

    def sites_of(self, who: Principal) -> frozenset[str] | None:
        """Return the sites that somebody is limited to, None for all."""


class Store(Protocol):
    """The SQL that is needed here."""

    async def fetch_signals(self, conn: ReadConn | WriteConn) -> dict[str, Signal]:
        """Return the signal table, in order of the codes."""

    async def fetch_book(self, conn: ReadConn | WriteConn, class_map: Mapping[str, str]) -> RuleBook:
        """Return all rules and overrides."""

    async def fetch_overrides(self, conn: ReadConn | WriteConn, rule_id: str | None = None) -> list[StoredOverride]:
        """Return all overrides, or those of a rule."""

    async def next_book_version(self, conn: WriteConn) -> int:
        """Raise the version; others who change rules wait."""

    async def put_override(self, conn: WriteConn, stored: StoredOverride) -> None:
        """Write an override."""

    async def fetch_alarms(
        self, conn: ReadConn, wanted: AlarmFilter, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[AlarmRow]:
        """Return alarms, the youngest first."""

    async def fetch_alarm(self, conn: ReadConn | WriteConn, alarm_id: str, *, lock: bool = False) -> AlarmRow | None:
        """Return an alarm."""

    async def fetch_events(self, conn: ReadConn, alarm_id: str) -> list[JsonObject]:
        """Return an alarm's events, in order."""

    async def fetch_notes(self, conn: ReadConn, alarm_id: str) -> list[Note]:
        """Return an alarm's notes, oldest first."""

    async def fetch_deliveries(self, conn: ReadConn, alarm_ids: Sequence[str]) -> dict[str, list[DeliveryRow]]:
        """Return deliveries by alarm."""

    async def put_note(self, conn: WriteConn, alarm_id: str, note: Note) -> None:
        """Add a note to an alarm."""

    async def acknowledge(self, conn: WriteConn, alarm_id: str, *, actor: str, at: datetime) -> None:
        """Note who took an alarm up first."""


class Audit(Protocol):
    """Publishes what somebody changed, in the transaction of the change."""

    async def __call__(self, conn: WriteConn, event: AuditEvent) -> None:
        """Publish one change."""


class InvalidRule(InvalidInput):
    """A change of a rule is refused; ``problems`` names field and expected."""

    code = "invalid_rule"
    title_zh = "告警规则有误"

    def __init__(self, faults: Sequence[Fault]) -> None:
        """Say what is wrong with each field."""
        super().__init__(
            "; ".join(f"{fault.field}: expected {fault.expected}, found {fault.found}" for fault in faults),
            message_zh=";".join(f"{fault.field}:应为{fault.expected_zh},实际为 {fault.found}" for fault in faults),
            problems=[
                {
                    "field": fault.field,
                    "expected": fault.expected,
                    "expected_zh": fault.expected_zh,
                    "found": fault.found if isinstance(fault.found, bool | int | float | str) else str(fault.found),
                }
                for fault in faults
            ],
        )


class UnknownRule(NotFound):
    """There is no rule of that id."""

    code = "unknown_rule"
    title_zh = "告警规则不存在"


class UnknownAlarm(NotFound):
    """There is no alarm of that id, or none that the asker may see."""

    code = "unknown_alarm"
    title_zh = "告警不存在"


@dataclass(frozen=True, slots=True)
class OverrideRequest:
    """What somebody wants to change; None leaves a parameter to the more general scopes."""

    enabled: bool | None = None
    level: int | None = None
    threshold: float | None = None
    hysteresis: float | None = None
    start_delay_s: float | None = None
    end_delay_s: float | None = None
    max_gap_s: float | None = None
    unit: str | None = None
    """Unit of threshold and hysteresis as the asker understands them; checked, never converted."""
    reason: str | None = None


class Rules:
    """Rules, overrides, and what holds for a device."""

    def __init__(
        self,
        *,
        db: Transactions,
        store: Store,
        directory: Directory,
        clock: Clock,
        audit: Audit,
        class_map: Mapping[str, str],
    ) -> None:
        """Keep what is needed."""
        self._db = db
        self._store = store
        self._directory = directory
        self._clock = clock
        self._audit = audit
        self._class_map = class_map

    async def signals(self) -> list[Signal]:
        """Return the signal table, in order of the codes."""
        async with self._db.read() as conn:
            return list((await self._store.fetch_signals(conn)).values())

    async def signal(self, code: str) -> Signal:
        """Return one row of the table.

        Raises:
            NotFound: There is none of that code.
        """
        async with self._db.read() as conn:
            found = (await self._store.fetch_signals(conn)).get(code)
        if found is None:
            raise NotFound(f"there is no signal {code}", message_zh=f"信号 {code} 不存在")
        return found

    async def book(self) -> tuple[RuleBook, dict[str, Signal]]:
        """Return all rules and the table."""
        async with self._db.read() as conn:
            return await self._store.fetch_book(conn, self._class_map), await self._store.fetch_signals(conn)

    async def rule(self, rule_id: str) -> tuple[Rule, Signal, list[StoredOverride]]:
        """Return a rule with its overrides, without those that were taken back.

        Raises:
            UnknownRule: There is none.
        """
        async with self._db.read() as conn:
            book = await self._store.fetch_book(conn, self._class_map)
            rule = _known(book, rule_id)
            signals = await self._store.fetch_signals(conn)
            overrides = await self._store.fetch_overrides(conn, rule_id)
        return rule, signals[rule.signal], [one for one in overrides if not one.override.empty]

    async def effective(self, device_id: str, who: Principal) -> tuple[Target, list[EffectiveRule], dict[str, Signal]]:
        """Return every rule that applies to a device, with its parameters and where each comes from.

        Raises:
            NotFound: There is no such device, or none that the asker may see.
        """
        target = self._directory.target(device_id)
        allowed = self._directory.sites_of(who)
        if target is None or (allowed is not None and target.site_id not in allowed):
            raise NotFound(f"there is no device {device_id}", message_zh=f"设备 {device_id} 不存在")
        book, signals = await self.book()
        return target, list(book.for_device(target)), signals

    def dictionary_class(self, target: Target) -> str:
        """Return the class of the signal table that a device's site belongs to."""
        return dictionary_class(self._class_map, target.station_class)

    async def put_override(
        self, rule_id: str, scope: Scope, scope_id: str, wanted: OverrideRequest, who: Principal, request_id: str | None
    ) -> StoredOverride:
        """Set what an override of one scope changes; what it changed before and is not named is inherited again.

        Raises:
            UnknownRule: There is no such rule.
            InvalidRule: Something is impossible; every wrong field is named with what was expected.
            Forbidden: The asker may not change that much.
        """
        self._may_change(scope, scope_id, who)
        async with self._db.write() as conn:
            version = await self._store.next_book_version(conn)
            book = await self._store.fetch_book(conn, self._class_map)
            rule = _known(book, rule_id)
            before = book.overrides.get((rule_id, scope, scope_id))
            override = Override(
                rule_id=rule_id,
                scope=scope,
                scope_id=scope_id,
                version=version,
                **{name: getattr(wanted, name) for name in PARAMETERS},
            )
            faults = self._faults(book, rule, override, wanted.unit)
            if faults:
                raise InvalidRule(faults)
            stored = StoredOverride(override, _actor(who), self._clock.now(), wanted.reason)
            await self._store.put_override(conn, stored)
            await self._audit(conn, self._changed(stored, before, "alarm_rule.override", request_id))
        return stored

    async def delete_override(
        self, rule_id: str, scope: Scope, scope_id: str, who: Principal, request_id: str | None
    ) -> None:
        """Take an override back.

        Raises:
            UnknownRule: There is no such rule.
            NotFound: There is no such override.
            InvalidRule: Without it the thresholds of a device would contradict each other.
            Forbidden: The asker may not change that much.
        """
        self._may_change(scope, scope_id, who)
        async with self._db.write() as conn:
            version = await self._store.next_book_version(conn)
            book = await self._store.fetch_book(conn, self._class_map)
            rule = _known(book, rule_id)
            before = book.overrides.get((rule_id, scope, scope_id))
            if before is None or before.empty:
                raise NotFound(
                    f"rule {rule_id} has no override of {scope} {scope_id}",
                    message_zh=f"规则 {rule_id} 没有 {scope} {scope_id} 的覆盖设置",
                )
            empty = Override(rule_id=rule_id, scope=scope, scope_id=scope_id, version=version)
            faults = self._order_faults(book.with_override(empty), rule, empty)
            if faults:
                raise InvalidRule(faults)
            stored = StoredOverride(empty, _actor(who), self._clock.now(), None)
            await self._store.put_override(conn, stored)
            await self._audit(conn, self._changed(stored, before, "alarm_rule.take_back", request_id))

    def _may_change(self, scope: Scope, scope_id: str, who: Principal) -> None:
        allowed = self._directory.sites_of(who)
        if allowed is None:
            return
        if scope is Scope.SITE and scope_id in allowed:
            return
        target = self._directory.target(scope_id) if scope is Scope.DEVICE else None
        if target is not None and target.site_id in allowed:
            return
        raise Forbidden(
            f"{who.subject} may not change rules of {scope} {scope_id}",
            message_zh=f"{who.subject} 无权修改 {scope} {scope_id} 的规则",
        )

    def _faults(self, book: RuleBook, rule: Rule, override: Override, unit: str | None) -> list[Fault]:
        faults = override_faults(override, rule, plausible=PLAUSIBLE)
        if override.empty:
            what = f"at least one of {', '.join(PARAMETERS)}"
            faults.append(Fault("body", what, f"至少包含 {', '.join(PARAMETERS)} 之一", "nothing"))
        if unit is not None and unit != rule.unit:
            faults.append(Fault("unit", f"{rule.unit}, the unit of {rule.points[0]}", f"{rule.unit}", unit))
        faults += self._scope_faults(rule, override.scope, override.scope_id)
        return faults or self._order_faults(book.with_override(override), rule, override)

    def _scope_faults(self, rule: Rule, scope: Scope, scope_id: str) -> list[Fault]:
        if scope is Scope.SITE_CLASS and scope_id not in STATION_CLASSES:
            return [Fault("scope_id", "a station class, A to E", "局站等级 A 至 E", scope_id)]
        if scope is Scope.SITE and not self._directory.has_site(scope_id):
            return [Fault("scope_id", "the id of a site", "局站标识", scope_id)]
        if scope is Scope.DEVICE_KIND and rule.device_kinds and scope_id not in rule.device_kinds:
            kinds = ", ".join(sorted(rule.device_kinds))
            return [Fault("scope_id", f"a kind of device that the rule judges: {kinds}", f"设备类型:{kinds}", scope_id)]
        if scope is Scope.DEVICE:
            return self._device_faults(rule, scope_id)
        return []

    def _device_faults(self, rule: Rule, device_id: str) -> list[Fault]:
        target = self._directory.target(device_id)
        if target is None:
            return [Fault("scope_id", "the id of a device", "设备标识", device_id)]
        if applies(rule, target):
            return []
        if rule.device_kinds and target.kind not in rule.device_kinds:
            kinds = ", ".join(sorted(rule.device_kinds))
            return [
                Fault("scope_id", f"a device of kind {kinds}", f"类型为 {kinds} 的设备", f"{device_id}: {target.kind}")
            ]
        points = ", ".join(rule.points)
        has = ", ".join(sorted(target.all_points)) or "no points"
        return [
            Fault(
                "scope_id",
                f"a device whose profile has {points}",
                f"模板包含测点 {points} 的设备",
                f"{device_id}, profile {target.profile}: {has}",
            )
        ]

    def _order_faults(self, book: RuleBook, rule: Rule, override: Override) -> list[Fault]:
        """Return contradictions that the book would have on any device that the override reaches.

        Devices that no override tells apart are looked at once.
        """
        if rule.group is None:
            return []
        seen: set[int] = set()
        faults: list[Fault] = []
        for target in self._reached(rule, override):
            rules = book.for_device(target)
            if id(rules) in seen:
                continue
            seen.add(id(rules))
            for fault in order_faults(one for one in rules if one.rule.group == rule.group):
                if fault not in faults:
                    faults.append(fault)
        return faults

    def _reached(self, rule: Rule, override: Override) -> Iterable[Target]:
        chosen: Mapping[Scope, Callable[[Target], bool]] = {
            Scope.DEVICE_KIND: lambda target: target.kind == override.scope_id,
            Scope.SITE_CLASS: lambda target: target.station_class == override.scope_id,
            Scope.SITE: lambda target: target.site_id == override.scope_id,
            Scope.DEVICE: lambda target: target.device_id == override.scope_id,
        }
        reached = chosen[override.scope]
        yield from (target for target in self._directory.targets() if reached(target) and applies(rule, target))
        # Devices to come: one that has every point, of each kind and class that the override reaches.
        for kind in sorted(rule.device_kinds) or [override.scope_id]:
            for station_class in STATION_CLASSES:
                future = Target("", "", kind, station_class, "any", frozenset(POINTS))
                if override.scope in (Scope.DEVICE_KIND, Scope.SITE_CLASS) and reached(future):
                    yield future

    def _changed(
        self, stored: StoredOverride, before: Override | None, action: str, request_id: str | None
    ) -> AuditEvent:
        override = stored.override
        target = self._directory.target(override.scope_id) if override.scope is Scope.DEVICE else None
        site = override.scope_id if override.scope is Scope.SITE else None if target is None else target.site_id
        return AuditEvent(
            actor=stored.changed_by,
            door="api",
            action=action,
            subject=f"alarm_rule:{override.rule_id}/{override.scope}:{override.scope_id}",
            at=stored.changed_at,
            before=None if before is None else _parameters(before),
            after=_parameters(override),
            reason=stored.reason,
            request_id=request_id,
            site_id=None if site is None else SiteId(site),
        )


PLAUSIBLE: Mapping[str, tuple[float | None, float | None]] = {
    point.name: (point.plausible_min, point.plausible_max) for point in POINTS.values()
}


@dataclass(frozen=True, slots=True)
class AlarmDetail:
    """An alarm with its events, notes and deliveries."""

    alarm: AlarmRow
    events: Sequence[JsonObject]
    notes: Sequence[Note]
    deliveries: Sequence[DeliveryRow]


class Alarms:
    """Active alarms and their history."""

    def __init__(self, *, db: Transactions, store: Store, directory: Directory, clock: Clock, audit: Audit) -> None:
        """Keep what is needed."""
        self._db = db
        self._store = store
        self._directory = directory
        self._clock = clock
        self._audit = audit

    async def page(
        self, wanted: AlarmFilter, who: Principal, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[tuple[AlarmRow, Sequence[DeliveryRow]]]:
        """Return alarms that the asker may see, the youngest first, with their deliveries."""
        allowed = self._directory.sites_of(who)
        if allowed is not None:
            sites = allowed if wanted.sites is None else allowed.intersection(wanted.sites)
            wanted = replace(wanted, sites=sorted(sites))
        async with self._db.read() as conn:
            alarms = await self._store.fetch_alarms(conn, wanted, after=after, limit=limit)
            deliveries = await self._store.fetch_deliveries(conn, [alarm.alarm_id for alarm in alarms])
        return [(alarm, deliveries.get(alarm.alarm_id, ())) for alarm in alarms]

    async def detail(self, alarm_id: str, who: Principal) -> AlarmDetail:
        """Return an alarm with everything about it.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
        """
        async with self._db.read() as conn:
            alarm = self._visible(await self._store.fetch_alarm(conn, alarm_id), alarm_id, who)
            return AlarmDetail(
                alarm,
                await self._store.fetch_events(conn, alarm_id),
                await self._store.fetch_notes(conn, alarm_id),
                (await self._store.fetch_deliveries(conn, [alarm_id])).get(alarm_id, ()),
            )

    async def acknowledge(self, alarm_id: str, who: Principal, note: str | None, request_id: str | None) -> AlarmDetail:
        """Take an alarm up; doing so again adds the note only.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
        """
        async with self._db.write() as conn:
            alarm = self._visible(await self._store.fetch_alarm(conn, alarm_id, lock=True), alarm_id, who)
            actor, now = _actor(who), self._clock.now()
            await self._store.acknowledge(conn, alarm_id, actor=actor, at=now)
            if note is not None:
                await self._store.put_note(conn, alarm_id, Note(now, actor, note))
            if alarm.acknowledged_at is None or note is not None:
                await self._audit(conn, _handled(alarm, "alarm.acknowledge", actor, now, note, request_id))
        return await self.detail(alarm_id, who)

    async def add_note(self, alarm_id: str, who: Principal, note: str, request_id: str | None) -> AlarmDetail:
        """Write something about an alarm.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
        """
        async with self._db.write() as conn:
            alarm = self._visible(await self._store.fetch_alarm(conn, alarm_id), alarm_id, who)
            actor, now = _actor(who), self._clock.now()
            await self._store.put_note(conn, alarm_id, Note(now, actor, note))
            await self._audit(conn, _handled(alarm, "alarm.note", actor, now, note, request_id))
        return await self.detail(alarm_id, who)

    def _visible(self, alarm: AlarmRow | None, alarm_id: str, who: Principal) -> AlarmRow:
        allowed = self._directory.sites_of(who)
        if alarm is None or (allowed is not None and alarm.site_id not in allowed):
            raise UnknownAlarm(f"there is no alarm {alarm_id}", message_zh=f"告警 {alarm_id} 不存在")
        return alarm


def _known(book: RuleBook, rule_id: str) -> Rule:
    rule = book.rules.get(rule_id)
    if rule is None:
        raise UnknownRule(f"there is no alarm rule {rule_id}", message_zh=f"告警规则 {rule_id} 不存在")
    return rule


def _actor(who: Principal) -> str:
    return f"{who.kind}:{who.subject}"


def _parameters(override: Override) -> JsonObject | None:
    named = {name: getattr(override, name) for name in PARAMETERS if getattr(override, name) is not None}
    return named or None


def _handled(
    alarm: AlarmRow, action: str, actor: str, at: datetime, note: str | None, request_id: str | None
) -> AuditEvent:
    return AuditEvent(
        actor=actor,
        door="api",
        action=action,
        subject=f"alarm:{alarm.alarm_id}",
        at=at,
        reason=note,
        request_id=request_id,
        site_id=SiteId(alarm.site_id),
    )
