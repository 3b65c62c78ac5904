"""Thresholds as a supervision centre (SC) reads and writes them: of a device and a signal, one number.

What a centre writes is an override of the device like any other: versioned, checked, shown with its origin, and read
back as it was written. It changes the threshold only; level and delays that people gave the device stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Forbidden, NotFound, PlatformError
from libs.common.tokens import Principal
from services.alarm.domain.model import EffectiveRule
from services.alarm.domain.rulebook import Override, RuleBook, Scope, Target
from services.alarm.store import rulebook as store
from services.alarm.usecases.ports import Audit, Directory, actor_of
from services.alarm.usecases.rules import InvalidRule, Rules
from services.alarm.views import StoredOverride


class NoThreshold(NotFound):
    """Nothing that judges the device has a threshold of that signal."""

    code = "no_threshold"
    title_zh = "无此门限"


@dataclass(frozen=True, slots=True)
class ThresholdOrder:
    """What a centre wants the threshold of one signal of one device to be."""

    device_id: str
    signal: str
    """Code as the table writes it."""
    threshold: float
    unit: str | None = None
    """Checked, never converted; None is the rule's."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What holds for one signal of one device."""

    device_id: str
    signal: str
    rule_id: str
    threshold: float | None
    unit: str
    level: int | None
    active: bool
    source: str
    """Where the threshold comes from: ``dictionary`` or ``<scope>:<id>``."""
    version: int


Outcome = Threshold | PlatformError
"""What became of one order: what holds now, or why it was refused."""


class Thresholds:
    """What export asks and orders in the name of a centre."""

    def __init__(
        self,
        *,
        db: Database,
        directory: Directory,
        clock: Clock,
        audit: Audit,
        class_map: Mapping[str, str],
        rules: Rules,
    ) -> None:
        """Keep what is needed."""
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit
        self._class_map = class_map
        self._rules = rules

    async def read(self, device_id: str, signals: Sequence[str] | None, who: Principal) -> list[Threshold]:
        """Return what holds for a device, in the order of the rules' ids.

        Args:
            device_id: The device.
            signals: Only these; None is all that have a threshold.
            who: Who asks.

        Raises:
            NotFound: There is no such device, or none that the asker may see.
        """
        target = self._target(device_id, who)
        async with self._db.read() as conn:
            book = await store.fetch_book(conn, self._class_map)
        return [
            _shown(rule, target)
            for rule in book.for_device(target)
            if (rule.threshold is not None if signals is None else rule.signal in signals)
        ]

    async def write(
        self, orders: Sequence[ThresholdOrder], on_behalf_of: str, who: Principal, request_id: str | None
    ) -> list[Outcome]:
        """Carry out what can be, each order by itself, and return what became of each, in their order.

        What only contradicts a threshold that a later order moves is tried again after it. An order that changes
        nothing makes no version, so that a repeated message is harmless.

        Args:
            orders: At most one for each signal of a device; of several the last counts for all.
            on_behalf_of: The centre's connection.
            who: The service that speaks for it.
            request_id: Of the request.

        Raises:
            Forbidden: A person asks; people set overrides.
        """
        if who.kind != "service":
            raise Forbidden(
                "only a service may write thresholds for a centre; set an override of the device",
                message_zh="仅内部服务可代监控中心写入门限,请使用设备级覆盖设置",
            )
        wanted = {(order.device_id, order.signal): order for order in orders}
        found: dict[tuple[str, str], Outcome] = {}
        async with self._db.write() as conn:
            await store.lock_book(conn)
            book = await store.fetch_book(conn, self._class_map)
            overrides = {
                (one.override.rule_id, one.override.scope_id): one.override
                for one in await store.fetch_overrides(conn)
                if one.override.scope is Scope.DEVICE
            }
            taken: dict[tuple[str, str], Override] = {}
            pending = list(wanted)
            while pending:
                left: list[tuple[str, str]] = []
                for key in pending:
                    try:
                        override, book = self._taken(book, wanted[key], who)
                        taken[key] = override
                        found.pop(key, None)
                    except PlatformError as exc:
                        found[key] = exc
                        left.append(key)
                if len(left) == len(pending):
                    break
                pending = left
            changed = [
                override
                for override in taken.values()
                if overrides.get((override.rule_id, override.scope_id)) is None
                or replace(overrides[override.rule_id, override.scope_id], version=0) != replace(override, version=0)
            ]
            if changed:
                version = await store.next_book_version(conn)
                for override in changed:
                    stored = StoredOverride(
                        replace(override, version=version), actor_of(who), self._clock.now(), f"SC {on_behalf_of}"
                    )
                    await store.put_override(conn, stored)
                    before = overrides.get((override.rule_id, override.scope_id))
                    await self._audit(
                        conn,
                        self._rules.audit_of(stored, before, "alarm_rule.sc_threshold", request_id, door="sc"),
                    )
                book = await store.fetch_book(conn, self._class_map)
        for key in taken:
            target = self._target(key[0], who)
            found[key] = _shown(self._rule(book, target, key[1]), target)
        return [found[order.device_id, order.signal] for order in orders]

    def _taken(self, book: RuleBook, order: ThresholdOrder, who: Principal) -> tuple[Override, RuleBook]:
        """Return the override that an order makes, and the book with it.

        Raises:
            NotFound: There is no such device, or nothing that judges it has a threshold of that signal.
            InvalidRule: The number cannot be.
        """
        target = self._target(order.device_id, who)
        rule = self._rule(book, target, order.signal).rule
        before = book.overrides.get((rule.rule_id, Scope.DEVICE, order.device_id))
        bare = Override(rule.rule_id, Scope.DEVICE, order.device_id, book.version)
        override = replace(before or bare, threshold=order.threshold)
        faults = self._rules.faults(book, rule, override, order.unit)
        if faults:
            raise InvalidRule(faults)
        return override, book.with_override(override)

    def _rule(self, book: RuleBook, target: Target, signal: str) -> EffectiveRule:
        rules = [rule for rule in book.for_device(target) if rule.signal == signal]
        if len(rules) == 1:
            return rules[0]
        own = [rule for rule in rules if rule.rule.rule_id == signal]
        if len(own) == 1:
            return own[0]  # beside rules that people added for the same signal, the table's own is meant
        many = f"{len(rules)} rules" if rules else "no rule"
        raise NoThreshold(
            f"{many} of signal {signal} judge device {target.device_id}",
            message_zh=f"设备 {target.device_id} 的信号 {signal} 对应 {len(rules)} 条规则",
        )

    def _target(self, device_id: str, who: Principal) -> Target:
        target = self._directory.target(device_id)
        allowed = self._directory.sites_of(who)
        if target is None or (allowed is not None and target.site_id not in allowed):
            raise NotFound(f"there is no device {device_id}", message_zh=f"设备 {device_id} 不存在")
        return target


def _shown(rule: EffectiveRule, target: Target) -> Threshold:
    return Threshold(
        device_id=target.device_id,
        signal=rule.signal,
        rule_id=rule.rule.rule_id,
        threshold=rule.threshold,
        unit=rule.rule.unit,
        level=rule.level,
        active=rule.active,
        source=rule.sources["threshold"],
        version=rule.version,
    )
