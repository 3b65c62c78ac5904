"""What people say about set points: policies by place, in versions, over the rules that ship."""

from collections.abc import Mapping

from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import NotFound
from services.control.domain.audit import Entry
from services.control.domain.setpoints import (
    EVERYWHERE,
    MAX_RULES,
    InvalidSetpointPolicy,
    SetpointBook,
    SetpointPolicy,
    SetpointRule,
    SetpointScope,
    as_raw,
    read_rule,
)
from services.control.setpointrules import shipped_rules
from services.control.store import setpoints as store
from services.control.store.setpoints import SetpointPolicyRow
from services.control.usecases.auditing import record
from services.control.usecases.ports import SteadyClock

MAX_POLICIES = 10_000


async def fetch_book(conn: ReadConn | WriteConn) -> SetpointBook:
    """Return all rules as they hold now."""
    return SetpointBook(shipped_rules(), [_policy(row) for row in await store.fetch_current(conn)])


def _policy(row: SetpointPolicyRow) -> SetpointPolicy:
    scope = SetpointScope(row.scope)
    name = SetpointPolicy(scope, row.target, {}).name
    return SetpointPolicy(scope, row.target, _read(row.rules or {}, name))


def _read(raw: Mapping[str, object], said_by: str) -> dict[str, SetpointRule | None]:
    """Check the rules of a policy and return them.

    Raises:
        InvalidSetpointPolicy: One is wrong.
    """
    found: dict[str, SetpointRule | None] = {}
    for name, rule in raw.items():
        if rule is not None and not isinstance(rule, Mapping):
            raise InvalidSetpointPolicy(
                f"rules.{name}: expected an object, or null to take the rule away",
                message_zh=f"rules.{name} 应为对象,或以 null 取消该规则", field=f"rules.{name}",
            )  # fmt: skip
        found[name] = None if rule is None else read_rule(name, rule, said_by)
    return found


class SetpointPolicies:
    """Policies of set points."""

    def __init__(self, *, db: Database, clock: SteadyClock) -> None:
        """Keep where they are, and the time."""
        self._db = db
        self._clock = clock

    async def put(
        self, scope: SetpointScope, target: str, raw: Mapping[str, object], source: str, actor: str, door: str
    ) -> SetpointPolicyRow:
        """Set a policy; it holds from the next order.

        Raises:
            InvalidSetpointPolicy: A rule is wrong, or there are too many.
        """
        if not 1 <= len(raw) <= MAX_RULES or (scope is SetpointScope.DEFAULT) is not (target == EVERYWHERE):
            raise InvalidSetpointPolicy(
                f"expected 1 to {MAX_RULES} rules, and target {EVERYWHERE} of the default policy alone",
                message_zh=f"应有 1 到 {MAX_RULES} 条规则,且仅默认策略的 target 为 {EVERYWHERE}", field="rules",
            )  # fmt: skip
        name = SetpointPolicy(scope, target, {}).name
        rules = {key: None if rule is None else as_raw(rule) for key, rule in _read(raw, name).items()}
        return await self._change(scope, target, rules, source, actor, door)

    async def drop(self, scope: SetpointScope, target: str, reason: str, actor: str, door: str) -> SetpointPolicyRow:
        """Take a policy away, so that the more general ones hold.

        Raises:
            NotFound: There is none.
        """
        return await self._change(scope, target, None, reason, actor, door)

    async def policies(self) -> list[SetpointPolicyRow]:
        """Return the policies that hold."""
        async with self._db.read() as conn:
            return await store.fetch_current(conn)

    async def versions(self, scope: SetpointScope, target: str, limit: int) -> list[SetpointPolicyRow]:
        """Return the versions of one policy, the youngest first."""
        async with self._db.read() as conn:
            return await store.fetch_versions(conn, scope.value, target, limit)

    async def book(self) -> SetpointBook:
        """Return all rules as they hold now."""
        async with self._db.read() as conn:
            return await fetch_book(conn)

    async def _change(
        self, scope: SetpointScope, target: str, rules: Mapping[str, object] | None, source: str, actor: str, door: str
    ) -> SetpointPolicyRow:
        now = self._clock.now()
        async with self._db.write() as conn:
            await store.lock(conn)
            versions = await store.fetch_versions(conn, scope.value, target, 1)
            before = versions[0].rules if versions else None
            if rules is None and before is None:
                raise NotFound(
                    f"no set-point policy {scope.value} {target}", message_zh=f"没有设定值策略 {scope.value} {target}"
                )
            if rules is not None and before is None and len(await store.fetch_current(conn)) >= MAX_POLICIES:
                raise InvalidSetpointPolicy(
                    f"there are {MAX_POLICIES} policies already; say it for a more general scope",
                    message_zh=f"设定值策略已达 {MAX_POLICIES} 条,请改用更通用的范围",
                )
            row = await store.insert(conn, scope.value, target, rules, source, actor, now)
            entry = Entry(
                actor, door, "setpoint_policy.set" if rules is not None else "setpoint_policy.remove",
                f"setpoint_policy:{scope.value}:{target}", now, before=before, after=row.rules, reason=source,
            )  # fmt: skip
            await record(conn, entry)
        return row
