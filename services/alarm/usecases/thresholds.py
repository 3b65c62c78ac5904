"""Thresholds as a supervision centre (SC) reads and writes them: of a device and a signal, one number.

What a centre writes is an override of the device like any other: versioned, checked, shown with its origin, and read
back as it was written. It changes what it says only; what people gave the device besides stays, and so does the level.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Forbidden, InvalidInput, NotFound, PlatformError
from libs.common.tokens import Principal
from services.alarm.domain.model import SECOND_US, EffectiveRule
from services.alarm.domain.rulebook import Override, RuleBook, Scope, Target, scopes_of
from services.alarm.store import rulebook as store
from services.alarm.usecases.ports import Audit, Directory, actor_of
from services.alarm.usecases.rules import InvalidRule, Rules
from services.alarm.views import StoredOverride

ORDERED = ("threshold", "hysteresis", "start_delay_s", "end_delay_s")
"""What an order can say."""


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
    threshold: float | None = None
    """None, here and below, leaves it as it is."""
    hysteresis: float | None = None
    start_delay_s: float | None = None
    end_delay_s: float | None = None
    unit: str | None = None
    """Checked, never converted; None is the rule's."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What holds for one signal of one device."""

    device_id: str
    signal: str
    rule_id: str
    threshold: float | None
    hysteresis: float
    start_delay_s: float
    end_delay_s: float
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
            chosen = _Chosen(book)
            taken: dict[tuple[str, str], Override] = {}
            pending = list(wanted)
            while pending:
                left: list[tuple[str, str]] = []
                for key in pending:
                    await asyncio.sleep(0)  # a message has up to a thousand orders, and others judge meanwhile
                    try:
                        taken[key] = self._taken(chosen, wanted[key], who)
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
                if (before := chosen.before(override)) is None or replace(before, version=override.version) != override
            ]
            if changed:
                version = await store.next_book_version(conn)
                for override in changed:
                    stored = StoredOverride(
                        replace(override, version=version), actor_of(who), self._clock.now(), f"SC {on_behalf_of}"
                    )
                    await store.put_override(conn, stored)
                    await self._audit(
                        conn,
                        self._rules.audit_of(
                            stored, chosen.before(override), "alarm_rule.sc_threshold", request_id, door="sc"
                        ),
                    )
                book = await store.fetch_book(conn, self._class_map)
        for key in taken:
            target = self._target(key[0], who)
            found[key] = _shown(self._rule(book, target, key[1]), target)
        return [found[order.device_id, order.signal] for order in orders]

    def _taken(self, chosen: "_Chosen", order: ThresholdOrder, who: Principal) -> Override:
        """Return the override that an order makes; from now on it holds for those that follow.

        Raises:
            NotFound: There is no such device, or nothing that judges it has a threshold of that signal.
            InvalidRule: The number cannot be.
        """
        target = self._target(order.device_id, who)
        book = chosen.book(target)
        rule = self._rule(book, target, order.signal).rule
        before = book.overrides.get((rule.rule_id, Scope.DEVICE, order.device_id))
        bare = Override(rule.rule_id, Scope.DEVICE, order.device_id, book.version)
        said = {name: value for name in ORDERED if (value := getattr(order, name)) is not None}
        if not said:
            raise InvalidInput(
                f"orders: expected one of {', '.join(ORDERED)}", message_zh=f"至少给出 {', '.join(ORDERED)} 之一"
            )
        override = replace(before or bare, **said)
        faults = self._rules.faults(book, rule, override, order.unit)
        if faults:
            raise InvalidRule(faults)
        chosen.take(override)
        return override

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


class _Chosen:
    """The rules with what holds for single devices, which a message changes one by one.

    Each device has a book of its own with the overrides that reach it: a new one is small, whatever others have.
    """

    def __init__(self, book: RuleBook) -> None:
        self._book = book
        self._overrides: dict[tuple[Scope, str], list[Override]] = {}
        for override in book.overrides.values():
            self._overrides.setdefault((override.scope, override.scope_id), []).append(override)
        self._books: dict[str, RuleBook] = {}

    def book(self, target: Target) -> RuleBook:
        """Return the book of a device."""
        if target.device_id not in self._books:
            reach = [one for place in scopes_of(target) for one in self._overrides.get(place, ())]
            overrides = {(one.rule_id, one.scope, one.scope_id): one for one in reach}
            self._books[target.device_id] = replace(self._book, overrides=overrides)
        return self._books[target.device_id]

    def take(self, override: Override) -> None:
        """Let an override of a device hold from now on."""
        self._books[override.scope_id] = self._books[override.scope_id].with_override(override)

    def before(self, override: Override) -> Override | None:
        """Return the stored one in whose place an override would stand."""
        return self._book.overrides.get((override.rule_id, override.scope, override.scope_id))


def _shown(rule: EffectiveRule, target: Target) -> Threshold:
    return Threshold(
        device_id=target.device_id,
        signal=rule.signal,
        rule_id=rule.rule.rule_id,
        threshold=rule.threshold,
        hysteresis=rule.hysteresis,
        start_delay_s=rule.start_delay_us / SECOND_US,
        end_delay_s=rule.end_delay_us / SECOND_US,
        unit=rule.rule.unit,
        level=rule.level,
        active=rule.active,
        source=rule.sources["threshold"],
        version=rule.version,
    )
