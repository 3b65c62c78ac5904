"""Rules, overrides, and what holds for a device."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import JsonObject
from libs.common.db import Database
from libs.common.errors import Forbidden, InvalidInput, NotFound
from libs.common.ids import SiteId
from libs.common.points import POINTS
from libs.common.tokens import Principal
from services.alarm.domain.model import EffectiveRule, Measure, NoData, Rule, Signal
from services.alarm.domain.rulebook import (
    PARAMETERS,
    STATION_CLASSES,
    Fault,
    Override,
    RuleBook,
    Scope,
    Target,
    applies,
    contradictions,
    dictionary_class,
    override_faults,
)
from services.alarm.domain.ruledata import PLAUSIBLE
from services.alarm.store import rulebook as rulebook_store
from services.alarm.usecases.ports import Audit, Directory, actor_of
from services.alarm.views import StoredOverride


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
    no_data: NoData | None = None
    unit: str | None = None
    """Unit of threshold and hysteresis as the asker understands them; checked, never converted."""
    reason: str | None = None


class Rules:
    """Rules, overrides, and what holds for a device."""

    def __init__(
        self,
        *,
        db: Database,
        directory: Directory,
        clock: Clock,
        audit: Audit,
        class_map: Mapping[str, str],
    ) -> None:
        """Keep what is needed."""
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit
        self._class_map = class_map

    async def signals(self) -> list[Signal]:
        """Return the signal table, in order of the codes."""
        async with self._db.read() as conn:
            return list((await rulebook_store.fetch_signals(conn)).values())

    async def signal(self, code: str) -> Signal:
        """Return one row of the table.

        Raises:
            NotFound: There is none of that code.
        """
        async with self._db.read() as conn:
            found = (await rulebook_store.fetch_signals(conn)).get(code)
        if found is None:
            raise NotFound(f"there is no signal {code}", message_zh=f"信号 {code} 不存在")
        return found

    async def book(self) -> tuple[RuleBook, dict[str, Signal]]:
        """Return all rules and the table."""
        async with self._db.read() as conn:
            return await rulebook_store.fetch_book(conn, self._class_map), await rulebook_store.fetch_signals(conn)

    async def rule(self, rule_id: str) -> tuple[Rule, Signal, list[StoredOverride]]:
        """Return a rule with its overrides, without those that were taken back.

        Raises:
            UnknownRule: There is none.
        """
        async with self._db.read() as conn:
            book = await rulebook_store.fetch_book(conn, self._class_map)
            rule = _known(book, rule_id)
            signals = await rulebook_store.fetch_signals(conn)
            overrides = await rulebook_store.fetch_overrides(conn, rule_id)
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

    def order_of(self, device_id: str) -> int:
        """Return the order number of the circuit that a device measures, for names with a place for it."""
        return self._directory.order_of(device_id)

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
            version = await rulebook_store.next_book_version(conn)
            book = await rulebook_store.fetch_book(conn, self._class_map)
            rule = _known(book, rule_id)
            before = book.overrides.get((rule_id, scope, scope_id))
            override = Override(
                rule_id=rule_id,
                scope=scope,
                scope_id=scope_id,
                version=version,
                **{name: getattr(wanted, name) for name in PARAMETERS},
            )
            faults = self.faults(book, rule, override, wanted.unit)
            if faults:
                raise InvalidRule(faults)
            stored = StoredOverride(override, actor_of(who), self._clock.now(), wanted.reason)
            await rulebook_store.put_override(conn, stored)
            await self._audit(conn, self.audit_of(stored, before, "alarm_rule.override", request_id))
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
            version = await rulebook_store.next_book_version(conn)
            book = await rulebook_store.fetch_book(conn, self._class_map)
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
            stored = StoredOverride(empty, actor_of(who), self._clock.now(), None)
            await rulebook_store.put_override(conn, stored)
            await self._audit(conn, self.audit_of(stored, before, "alarm_rule.take_back", request_id))

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

    def faults(self, book: RuleBook, rule: Rule, override: Override, unit: str | None) -> list[Fault]:
        """Return why an override cannot be taken into a book, nothing when it can.

        Args:
            book: As it stands.
            rule: The rule that the override changes.
            override: What is asked for.
            unit: Of its numbers as the asker understands them; None is the rule's.
        """
        faults = override_faults(override, rule, plausible=PLAUSIBLE)
        if override.empty:
            what = f"at least one of {', '.join(PARAMETERS)}"
            faults.append(Fault("body", what, f"至少包含 {', '.join(PARAMETERS)} 之一", "nothing"))
        if unit is not None and unit != rule.unit:
            of = f", the unit of {rule.points[0]}" if rule.measure is Measure.VALUE else ""
            faults.append(Fault("unit", f"{rule.unit}{of}", f"{rule.unit}", unit))
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
        """Return contradictions that the book would have on any device that the override reaches."""
        return [] if rule.group is None else contradictions(book, {rule.group}, self._reached(rule, override))

    def _reached(self, rule: Rule, override: Override) -> Iterable[Target]:
        chosen: Mapping[Scope, Callable[[Target], bool]] = {
            Scope.DEVICE_KIND: lambda target: target.kind == override.scope_id,
            Scope.SITE_CLASS: lambda target: target.station_class == override.scope_id,
            Scope.SITE: lambda target: target.site_id == override.scope_id,
        }
        if override.scope is Scope.DEVICE:
            target = self._directory.target(override.scope_id)
            yield from [] if target is None else [target]
            return
        reached = chosen[override.scope]
        yield from (target for target in self._directory.targets() if reached(target) and applies(rule, target))
        # Devices to come: one that has every point, of each kind and class that the override reaches.
        for kind in sorted(rule.device_kinds) or [override.scope_id]:
            for station_class in STATION_CLASSES:
                future = Target("", "", kind, station_class, "any", frozenset(POINTS))
                if override.scope in (Scope.DEVICE_KIND, Scope.SITE_CLASS) and reached(future):
                    yield future

    def audit_of(
        self,
        stored: StoredOverride,
        before: Override | None,
        action: str,
        request_id: str | None,
        *,
        door: str = "api",
    ) -> AuditEvent:
        """Return what the audit log says of a changed override."""
        override = stored.override
        target = self._directory.target(override.scope_id) if override.scope is Scope.DEVICE else None
        site = override.scope_id if override.scope is Scope.SITE else None if target is None else target.site_id
        return AuditEvent(
            actor=stored.changed_by,
            door=door,
            action=action,
            subject=f"alarm_rule:{override.rule_id}/{override.scope}:{override.scope_id}",
            at=stored.changed_at,
            before=None if before is None else _parameters(before),
            after=_parameters(override),
            reason=stored.reason,
            request_id=request_id,
            site_id=None if site is None else SiteId(site),
        )


def _known(book: RuleBook, rule_id: str) -> Rule:
    rule = book.rules.get(rule_id)
    if rule is None:
        raise UnknownRule(f"there is no alarm rule {rule_id}", message_zh=f"告警规则 {rule_id} 不存在")
    return rule


def _parameters(override: Override) -> JsonObject | None:
    named = {name: getattr(override, name) for name in PARAMETERS if getattr(override, name) is not None}
    return named or None
