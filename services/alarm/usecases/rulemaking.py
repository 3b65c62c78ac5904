"""Rules that people add, change, disable and remove; every version of each is kept."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, Forbidden
from libs.common.points import POINTS
from libs.common.tokens import Principal
from services.alarm.domain.rulebook import Fault, RuleBook, contradictions, devices_to_come
from services.alarm.domain.ruledata import RuleRow, change_faults, definition_of, make_rule, rule_faults
from services.alarm.store import rulebook as rulebook_store
from services.alarm.store import ruledata as store
from services.alarm.store.ruledata import RuleVersion, StoredRule
from services.alarm.usecases.ports import Audit, Directory, actor_of
from services.alarm.usecases.rules import InvalidRule, UnknownRule

MAX_RULES = 2_000
"""Rules of an installation; each device is judged by those that fit it."""


class TooManyRules(Conflict):
    """There are as many rules as there may be."""

    code = "too_many_rules"
    title_zh = "规则数量已达上限"


class RuleExists(Conflict):
    """The id is taken, or was: alarms of a removed rule still name it."""

    code = "rule_exists"
    title_zh = "规则标识已被使用"


class RuleHasChanged(Conflict):
    """Somebody else has changed the rule since it was read."""

    code = "rule_has_changed"
    title_zh = "规则已被他人修改"


class RuleMaking:
    """Rules as data."""

    def __init__(
        self, *, db: Database, directory: Directory, clock: Clock, audit: Audit, class_map: Mapping[str, str]
    ) -> None:
        """Keep what is needed."""
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit
        self._class_map = class_map

    async def add(self, row: RuleRow, reason: str | None, who: Principal, request_id: str | None) -> None:
        """Add a rule; it judges from the next batch of each partition on.

        Raises:
            RuleExists: The id is or was a rule's.
            TooManyRules: Another must go first.
            InvalidRule: Something is impossible; every wrong field is named with what was expected.
            Forbidden: The asker is limited to sites, and a rule reaches them all.
        """
        _may(who)
        async with self._db.write() as conn:
            version = await rulebook_store.next_book_version(conn)
            there = await store.fetch_rules(conn)
            if row.rule_id in there:
                raise RuleExists(
                    f"rule {row.rule_id} exists already, or was removed; choose another id",
                    message_zh=f"规则标识 {row.rule_id} 已存在或曾被删除,请另选标识",
                )
            if sum(not one.removed for one in there.values()) >= MAX_RULES:
                raise TooManyRules(
                    f"there are {MAX_RULES} rules already; remove one first",
                    message_zh=f"规则已达上限 {MAX_RULES} 条,请先删除",
                )
            await self._check(conn, row, None)
            await self._put(conn, row, None, version, "alarm_rule.add", reason, who, request_id)

    async def change(
        self, row: RuleRow, expected_version: int | None, reason: str | None, who: Principal, request_id: str | None
    ) -> None:
        """Give a rule another definition; its overrides stay. What is not NORMAL is judged anew at once.

        Raises:
            UnknownRule: There is none.
            RuleHasChanged: It is not at the version that was expected.
            InvalidRule, Forbidden: As ``add``.
        """
        _may(who)
        async with self._db.write() as conn:
            version = await rulebook_store.next_book_version(conn)
            before = _known(await store.fetch_rules(conn), row.rule_id)
            _unchanged(before, expected_version)
            await self._check(conn, row, before.row)
            await self._put(conn, row, before.row, version, "alarm_rule.change", reason, who, request_id)

    async def remove(
        self, rule_id: str, expected_version: int | None, reason: str | None, who: Principal, request_id: str | None
    ) -> None:
        """Remove a rule; its alarms end with ``rule_changed``, and its history stays.

        Raises:
            UnknownRule: There is none.
            RuleHasChanged: It is not at the version that was expected.
            Forbidden: The asker is limited to sites.
        """
        _may(who)
        async with self._db.write() as conn:
            version = await rulebook_store.next_book_version(conn)
            before = _known(await store.fetch_rules(conn), rule_id)
            _unchanged(before, expected_version)
            await self._put(
                conn, before.row, before.row, version, "alarm_rule.remove", reason, who, request_id, removed=True
            )

    async def history(self, rule_id: str) -> tuple[list[RuleVersion], Sequence[Mapping[str, Any]]]:
        """Return the versions of a rule and of its overrides, the youngest first; of a removed one too.

        Raises:
            UnknownRule: There never was one.
        """
        async with self._db.read() as conn:
            if rule_id not in await store.fetch_rules(conn):
                raise _unknown(rule_id)
            return await store.fetch_versions(conn, rule_id), await store.fetch_override_versions(conn, rule_id)

    async def _check(self, conn: WriteConn, row: RuleRow, before: RuleRow | None) -> None:
        signals = await rulebook_store.fetch_signals(conn)
        signal = signals.get(row.signal)
        faults = rule_faults(row, signal, kinds=self._directory.kinds())
        if before is not None:
            overrides = await rulebook_store.fetch_overrides(conn, row.rule_id)
            faults += change_faults(row, before, [one.override for one in overrides])
        if not faults and signal is not None:
            book = await rulebook_store.fetch_book(conn, self._class_map)
            rules = {**book.rules, row.rule_id: make_rule(row, signal, book.version)}
            faults = self._contradictions(RuleBook(rules, book.overrides, self._class_map, book.version), row)
        if faults:
            raise InvalidRule(faults)

    def _contradictions(self, book: RuleBook, row: RuleRow) -> list[Fault]:
        if row.group is None:
            return []
        units = {rule.unit for rule in book.rules.values() if rule.group == row.group}
        if len(units) > 1:
            others = ", ".join(sorted(units - {row.unit}))
            what, what_zh = f"a group of rules in {row.unit}", f"单位为 {row.unit} 的规则组"
            return [Fault("group", what, what_zh, f"{row.group}: {others}")]
        yet = devices_to_come(book, {row.group}, frozenset(POINTS))
        return contradictions(book, {row.group}, chain(self._directory.targets(), yet))

    async def _put(
        self,
        conn: WriteConn,
        row: RuleRow,
        before: RuleRow | None,
        version: int,
        action: str,
        reason: str | None,
        who: Principal,
        request_id: str | None,
        *,
        removed: bool = False,
    ) -> None:
        actor, now, definition = actor_of(who), self._clock.now(), definition_of(row)
        await store.put_rule(conn, row, RuleVersion(row.rule_id, version, removed, definition, actor, now, reason))
        await self._audit(
            conn,
            AuditEvent(
                actor=actor,
                door="api",
                action=action,
                subject=f"alarm_rule:{row.rule_id}",
                at=now,
                before=None if before is None else definition_of(before),
                after=None if removed else definition,
                reason=reason,
                request_id=request_id,
            ),
        )


def _may(who: Principal) -> None:
    if who.sites is not None:
        raise Forbidden(
            f"{who.subject} is limited to sites and may not change rules, which reach all of them",
            message_zh=f"{who.subject} 仅限部分局站,无权修改全局规则",
        )


def _known(rules: Mapping[str, StoredRule], rule_id: str) -> StoredRule:
    found = rules.get(rule_id)
    if found is None or found.removed:
        raise _unknown(rule_id)
    return found


def _unknown(rule_id: str) -> UnknownRule:
    return UnknownRule(f"there is no alarm rule {rule_id}", message_zh=f"告警规则 {rule_id} 不存在")


def _unchanged(before: StoredRule, expected: int | None) -> None:
    shown = max(before.version, before.signal_version)
    if expected is not None and expected != shown:
        raise RuleHasChanged(
            f"rule {before.row.rule_id} is at version {shown} now, not {expected}; read it again",
            message_zh=f"规则 {before.row.rule_id} 当前版本为 {shown},不是 {expected},请重新读取",
        )
