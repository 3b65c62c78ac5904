"""What people say about the guards: policies, emergency mode; and what the guards would say of a load now."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from libs.common.db import Database
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import new_id
from services.control.domain.audit import Entry
from services.control.domain.guards import Facts, off_refusals
from services.control.domain.loads import LoadInfo
from services.control.domain.places import EmergencyMode
from services.control.domain.policies import Effective, InvalidPolicy, Scope, read_limits
from services.control.domain.refusals import Refusal
from services.control.store import loads as load_store
from services.control.store import places as place_store
from services.control.store import policies as policy_store
from services.control.store.policies import PolicyRow
from services.control.usecases.auditing import record
from services.control.usecases.guardfacts import GuardFacts
from services.control.usecases.orders import Orders
from services.control.usecases.ports import Loads, SteadyClock

MAX_POLICIES = 20_000
"""Scopes with a policy at the same time."""


class EmergencyInForce(Conflict):
    """Emergency mode is in force there already."""

    code = "emergency_in_force"
    title_zh = "应急模式已生效"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the guards would say of an OFF of a load now."""

    refusals: tuple[Refusal, ...]
    """All that would refuse, in their order."""
    values: Mapping[str, object]
    """What each guard sees."""
    effective: Effective


class GuardRules:
    """Policies, emergency mode, explanations."""

    def __init__(self, *, db: Database, clock: SteadyClock, loads: Loads, guards: GuardFacts, orders: Orders) -> None:
        self._db = db
        self._clock = clock
        self._loads = loads
        self._guards = guards
        self._orders = orders

    # Policies.

    async def put_policy(
        self, scope: Scope, target: str, raw: Mapping[str, object], source: str, actor: str, door: str
    ) -> PolicyRow:
        """Set a policy; it holds from the next OFF that is asked about or sent.

        Raises:
            InvalidPolicy: A limit or the target is wrong, or there are too many policies.
        """
        limits = read_limits(scope, target, raw)
        self._require_place(scope, target)
        return await self._change(scope, target, limits, source, actor, door)

    async def drop_policy(self, scope: Scope, target: str, reason: str, actor: str, door: str) -> PolicyRow:
        """Take a policy away, so that the more general ones hold.

        Raises:
            NotFound: There is none.
        """
        return await self._change(scope, target, None, reason, actor, door)

    async def _change(
        self, scope: Scope, target: str, limits: Mapping[str, object] | None, source: str, actor: str, door: str
    ) -> PolicyRow:
        now = self._clock.now()
        async with self._db.write() as conn:
            await policy_store.lock(conn)
            versions = await policy_store.fetch_versions(conn, scope.value, target, 1)
            before = versions[0].limits if versions else None
            if limits is None and before is None:
                raise NotFound(
                    f"no guard policy {scope.value} {target}", message_zh=f"没有闭锁策略 {scope.value} {target}"
                )
            if limits is not None and before is None and await policy_store.count(conn) >= MAX_POLICIES:
                raise InvalidPolicy(
                    f"limits: there are {MAX_POLICIES} policies already; say it for a more general scope",
                    message_zh=f"闭锁策略已达 {MAX_POLICIES} 条,请改用更通用的范围",
                )
            row = await policy_store.insert(conn, scope.value, target, limits, source, actor, now)
            entry = Entry(
                actor, door, "guard_policy.set" if limits is not None else "guard_policy.remove",
                f"guard_policy:{scope.value}:{target}", now, before=before, after=row.limits, reason=source,
            )  # fmt: skip
            await record(conn, entry)
        return row

    def _require_place(self, scope: Scope, target: str) -> None:
        match scope:
            case Scope.LOAD:
                known = self._loads.get(target) is not None
            case Scope.SITE:
                known = bool(self._loads.at_site(target))
            case Scope.REGION:
                known = any(target in load.region_ids for load in self._loads.all())
            case _:
                known = True
        if not known:
            raise InvalidPolicy(
                f"target: expected a {scope.value} with loads, not {target!r}",
                message_zh=f"target 应为有负载的 {scope.value},收到 {target!r}",
                field="target",
            )

    async def policies(self) -> list[PolicyRow]:
        """Return the policies that hold."""
        async with self._db.read() as conn:
            return await policy_store.fetch_current(conn)

    async def versions(self, scope: Scope, target: str, limit: int) -> list[PolicyRow]:
        """Return the versions of one policy, the youngest first."""
        async with self._db.read() as conn:
            return await policy_store.fetch_versions(conn, scope.value, target, limit)

    # Emergency mode.

    async def declare(self, scope: str, target: str, reason: str, actor: str, door: str) -> EmergencyMode:
        """Let nothing be switched off at a place until a person ends it; what is off is woken at its time.

        When this returns, no OFF there is sent any more: whoever was letting one pass has been waited for.

        Raises:
            InvalidInput: There is no such place.
            EmergencyInForce: It is in force for that very place.
        """
        self._require_emergency_place(scope, target)
        now = self._clock.now()
        mode = EmergencyMode(new_id(), scope, target, reason, actor, now)
        async with self._db.write() as conn:
            await place_store.close_gate(conn)
            if not await place_store.insert_emergency(conn, mode):
                raise EmergencyInForce(
                    f"emergency mode is in force for {scope} {target} already",
                    message_zh=f"{scope} {target} 的应急模式已生效",
                )
            facts = {"scope": scope, "target": target, "in_force": True}
            subject = f"emergency:{mode.emergency_id}"
            await record(conn, Entry(actor, door, "emergency_mode.declare", subject, now, after=facts, reason=reason))
        return mode

    def _require_emergency_place(self, scope: str, target: str) -> None:
        known = {
            "all": target == "",
            "site": bool(target) and bool(self._loads.at_site(target)),
            "region": bool(target) and any(target in load.region_ids for load in self._loads.all()),
        }
        if not known.get(scope, False):
            raise InvalidInput(
                f"target: expected a site or region with loads, none for all, not {scope} {target!r}",
                message_zh=f"target 应为有负载的站点或区域(all 时为空),收到 {scope} {target!r}",
                field="target",
            )

    async def emergency(self, emergency_id: str) -> EmergencyMode:
        """Return an emergency mode.

        Raises:
            NotFound: There is none.
        """
        async with self._db.read() as conn:
            mode = await place_store.fetch_emergency(conn, emergency_id)
        if mode is None:
            raise NotFound(f"no emergency mode {emergency_id}", message_zh=f"没有应急模式 {emergency_id}")
        return mode

    async def end_emergency(self, emergency_id: str, reason: str, actor: str, door: str) -> EmergencyMode:
        """Let OFFs pass again.

        Raises:
            NotFound: There is no such emergency mode.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            if await place_store.end_emergency(conn, emergency_id, actor, now):
                mode = await place_store.fetch_emergency(conn, emergency_id)
                entry = Entry(
                    actor, door, "emergency_mode.end", f"emergency:{emergency_id}", now,
                    before=None if mode is None else {"scope": mode.scope, "target": mode.target, "in_force": True},
                    after={"in_force": False}, reason=reason or None,
                )  # fmt: skip
                await record(conn, entry)
        return await self.emergency(emergency_id)

    async def emergencies(self, before: tuple[datetime, str] | None, limit: int) -> list[EmergencyMode]:
        """Return emergency modes, ended ones too, the youngest first."""
        async with self._db.read() as conn:
            return await place_store.fetch_emergencies(conn, before=before, limit=limit)

    # What would be said now.

    async def explain(self, load: LoadInfo) -> Explanation:
        """Return what the guards would say of an OFF of the load now, with what each of them sees."""
        now = self._clock.now()
        async with self._db.read() as conn:
            known = (await load_store.facts_of(conn, [load.load_id], now))[load.load_id]
            judge, effective = await self._guards.explain(conn, load, now)
        facts = judge.add_to(self._orders.facts(load, known), load)
        far = datetime.max.replace(tzinfo=now.tzinfo)
        return Explanation(
            refusals=tuple(off_refusals(far, None, facts, now, effective.policy)),
            values={**_seen(facts, now), **judge.counts.values(load)},
            effective=effective,
        )


def _seen(facts: Facts, now: datetime) -> dict[str, object]:
    """Return what the guards see, by guard; None is nothing."""
    reading = facts.reading
    return {
        "emergency": facts.emergency,
        "emergency_mode": facts.emergency_mode,
        "isolation": facts.isolation_id,
        "already_off": facts.already_off,
        "coverage_layer": facts.keeps_coverage,
        "command_latency": facts.command_latency_s,
        "switches_per_day": facts.offs_last_day,
        "min_on_time": None if facts.last_on_at is None else (now - facts.last_on_at).total_seconds(),
        "guards_unknown": facts.unreadable,
        "maintenance": facts.maintenance,
        "active_alarm": facts.alarm,
        "backup_power": facts.backup_power,
        "clock_not_synchronised": facts.clock_problem,
        "stale_data": None if reading is None else reading.age_s,
        "local_lock": None if reading is None else reading.local_lock,
        "protection_trip": None if reading is None else reading.trip_reason,
    }
