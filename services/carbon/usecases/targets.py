"""Targets and budgets of nodes: set, adjusted, and held against what was measured."""

import logging
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Protocol

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.contracts.carbon import CarbonResult, Granularity, Period
from libs.common.contracts.carbon import NodeKind as ContractNodeKind
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.tokens import Principal
from services.carbon.domain.targets import (
    Adjustment,
    Compliance,
    Standing,
    Target,
    compliance,
    performance,
    standing,
    unallocated,
)
from services.carbon.sites import Sites
from services.carbon.store import targets as store
from services.carbon.store.targets import Said, StoredTarget
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.costs import midnight
from services.carbon.usecases.figures import DayFigure, Figures, Measure
from services.carbon.usecases.ports import Audit, audit_event

logger = logging.getLogger(__name__)

YEAR = timedelta(days=364)
"""Fifty-two weeks, so that weekdays meet."""
SETTLED_AFTER = timedelta(days=7)
"""So long after its period a target is still looked at: late registers come within days."""
DAYS_MAX = 366
"""The longest period of a target. [d]"""
CHILDREN_AT_ONCE = 50
EVER = (date(1990, 1, 1), date(2200, 1, 1))
FORECAST = "_forecast"
"""Added to a measure, it names how the period is expected to end."""
SAME = 1e-9


class UnknownTarget(NotFound):
    """There is no such target."""

    code = "unknown_target"
    title_zh = "定额不存在"


class OverlappingTarget(Conflict):
    """The node has a target of this measure for some of these days already."""

    code = "overlapping_target"
    title_zh = "定额期间重叠"


class Publish(Protocol):
    """Publishes a result, in the transaction that remembers it (``bus.result``)."""

    async def __call__(self, conn: WriteConn, one: CarbonResult, event_id: str, at: datetime) -> None:
        """Publish one result."""


@dataclass(frozen=True)
class TargetStanding:
    """A target at a day, and what was known of its days."""

    stored: StoredTarget
    standing: Standing
    at_least: float | None
    """All that is known of what was used, the days that are incomplete too. [unit]"""
    days: Sequence[DayFigure]
    """The past days of its period."""
    interval_completeness: float
    """Mean share of the past days' intervals that are known, 0 to 1."""
    children: Sequence[StoredTarget]
    unallocated: float | None
    """What the children have not been given; None without children. [unit]"""
    performance: float | None
    """(allowed - measured) / allowed once the period is over; None before. [1]"""

    @property
    def exceeded(self) -> bool | None:
        """Whether more than allowed was used for certain; None where nothing is known."""
        return None if self.at_least is None else self.at_least > self.standing.allowed


class Targets:
    """Keeps targets and says how they stand."""

    def __init__(
        self, *, db: Database, figures: Figures, sites: Sites, clock: Clock, audit: Audit, publish: Publish
    ) -> None:
        """Keep what is needed."""
        self._db = db
        self._figures = figures
        self._sites = sites
        self._clock = clock
        self._audit = audit
        self._publish = publish
        self._histories: dict[str, tuple[date, Sequence[float | None]] | None] = {}

    async def page(
        self, who: Principal, *, node: str | None, parent: str | None, on: date | None, after: str, limit: int
    ) -> list[StoredTarget]:
        """Return targets by id that somebody may see, those that hold on a day."""
        first, last = EVER if on is None else (on, on + timedelta(days=1))
        found: list[StoredTarget] = []
        async with self._db.read() as conn:
            while len(found) < limit:
                some = await store.fetch_targets(
                    conn, node=node, parent_id=parent, first=first, last=last, after=after, limit=limit
                )
                found += [one for one in some if self._may_see(who, one)]
                if len(some) < limit:
                    break
                after = some[-1].target.target_id
        return found[:limit]

    async def create(
        self,
        who: Principal,
        *,
        name: str,
        node: Node,
        measure: Measure,
        unit: str | None,
        first: date,
        end: date,
        amount: float,
        reason: str,
        parent_id: str | None,
        owner: str | None,
        request_id: str | None = None,
    ) -> StoredTarget:
        """Allow a node an amount in ``[first, end)``.

        Raises:
            InvalidInput: The amount or the period is none, or lies outside of the parent's; a virtual meter has none.
            NotFound: There is no such node or parent.
            OverlappingTarget: The node has one of this measure and kind of period for some of the days.
            OverAllocated: The parent has not that much left.
            Forbidden: The node is not among the sites of the asker.
        """
        if node.kind is NodeKind.VIRTUAL:
            raise InvalidInput(
                "node_kind: expected a node of the tree, virtual meters have no targets",
                message_zh="node_kind:应为层级树中的节点,虚拟表没有定额",
            )
        self._sites.check(who, node)
        if unit not in (None, measure.unit):
            raise InvalidInput(
                f"unit: expected {measure.unit} for {measure.value}, found {unit}",
                message_zh=f"unit:{measure.value} 的单位应为 {measure.unit},实际为 {unit}",
            )
        if (end - first).days > DAYS_MAX:
            raise InvalidInput(
                f"last_day: expected at most {DAYS_MAX} days", message_zh=f"last_day:期间不得超过 {DAYS_MAX} 天"
            )
        wanted = StoredTarget(
            Target(
                target_id=uuid.uuid4().hex,
                node=node.id,
                measure=measure.value,
                unit=measure.unit,
                start=first,
                end=end,
                adjustments=(Adjustment(first, amount, reason, who.actor),),
                parent_id=parent_id,
            ),
            name,
            node.kind,
            granularity_of(first, end),
            owner,
        )
        now = self._clock.now()
        async with self._db.write() as conn:
            await store.lock_targets(conn)
            await self._check_overlap(conn, wanted)
            if parent_id is not None:
                await self._check_parent(conn, wanted)
            await store.add_target(conn, wanted, at=now, by=who.actor)
            await self._audit(
                conn,
                audit_event(
                    who,
                    "target.set",
                    f"target:{wanted.target.target_id}",
                    now,
                    after=_facts(wanted),
                    reason=reason,
                    request_id=request_id,
                ),
            )
        return wanted

    async def adjust(
        self, who: Principal, target_id: str, adjustment: Adjustment, *, request_id: str | None = None
    ) -> StoredTarget:
        """Change what a target allows from a day on; what it allowed before stays known.

        Raises:
            UnknownTarget: There is none.
            InvalidInput: It would allow less than nothing, or the day lies outside of the period.
            OverAllocated: Its parent has not that much left, or its children have been given more.
            Forbidden: The node is not among the sites of the asker.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            await store.lock_targets(conn)
            stored = await self._fetch(conn, target_id)
            self._sites.check(who, stored.place)
            if not stored.target.start <= adjustment.on < stored.target.end:
                raise InvalidInput(
                    f"on: expected {stored.target.start} to before {stored.target.end}, found {adjustment.on}",
                    message_zh=f"on:应在 {stored.target.start} 至 {stored.target.end} 之前,实际为 {adjustment.on}",
                )
            changed = replace(
                stored, target=replace(stored.target, adjustments=(*stored.target.adjustments, adjustment))
            )
            children = await store.fetch_targets(conn, parent_id=target_id)
            unallocated(changed.target, [one.target for one in children], on=date.max)
            if stored.target.parent_id is not None:
                await self._check_parent(conn, changed)
            await store.add_adjustment(conn, target_id, adjustment, at=now)
            await self._audit(
                conn,
                audit_event(
                    who,
                    "target.adjust",
                    f"target:{target_id}",
                    now,
                    before=_facts(stored),
                    after=_facts(changed),
                    reason=adjustment.reason,
                    request_id=request_id,
                ),
            )
        return changed

    async def standing(self, who: Principal, target_id: str, *, as_of: date | None) -> TargetStanding:
        """Return how a target stands at a day, today unless given.

        Raises:
            UnknownTarget: There is none, or the asker may not see it.
        """
        async with self._db.read() as conn:
            stored = await self._fetch(conn, target_id)
        if not self._may_see(who, stored):
            raise _unknown(target_id)
        return await self._stand(stored, min(as_of or self._today(), self._today()))

    async def children(self, who: Principal, target_id: str, *, as_of: date | None) -> list[TargetStanding]:
        """Return how the children of a target stand, those first that used the greatest share of what they may.

        Raises:
            UnknownTarget: There is none, or the asker may not see it.
        """
        async with self._db.read() as conn:
            stored = await self._fetch(conn, target_id)
            below = await store.fetch_targets(conn, parent_id=target_id, limit=CHILDREN_AT_ONCE)
        if not self._may_see(who, stored):
            raise _unknown(target_id)
        day = min(as_of or self._today(), self._today())
        found = [await self._stand(one, day) for one in below]
        return sorted(found, key=_share, reverse=True)

    def compliance(self, found: TargetStanding, *, price_cny: float, offset_share: float) -> Compliance | None:
        """Return what exceeding a target costs; None where there is no forecast."""
        forecast = found.standing.forecast
        if forecast is None:
            return None
        return compliance(
            allowed=found.standing.allowed, forecast=forecast.value, price_cny=price_cny, offset_share=offset_share
        )

    async def publish_due(self, beat: Callable[[], None]) -> int:
        """Publish how every running target stands, where that is news; return how many results were published."""
        today = self._today()
        async with self._db.read() as conn:
            running = await store.fetch_targets(conn, first=today - SETTLED_AFTER, last=today)
        self._histories = {one.target.target_id: self._histories.get(one.target.target_id) for one in running}
        published = 0
        for stored in running:
            beat()
            try:
                history = await self._remembered(stored, today)
                published += await self._say(await self._stand(stored, today, history))
            except (InvalidInput, Conflict, NotFound) as exc:  # its node has grown too large; the others go on
                logger.warning("a target cannot be held against the books", extra={
                    "target": stored.target.target_id, "reason": exc.message,
                })  # fmt: skip
        return published

    async def _say(self, found: TargetStanding) -> int:
        """Publish what a target has come to and how it will end, each when it differs from what was said."""
        now = self._clock.now()
        forecast, target = found.standing.forecast, found.stored.target
        facts = [(target.measure, found.at_least, found.exceeded)]
        value = None if forecast is None else forecast.value
        facts.append((target.measure + FORECAST, value, None if value is None else value > found.standing.allowed))
        published = 0
        async with self._db.write() as conn:
            await store.lock_targets(conn)
            said = await store.fetch_said(conn, target.target_id)
            for measure, amount, exceeded in facts:
                before = said.get(measure)
                version = 1 if before is None else before.version + 1
                news = Said(version, amount, found.standing.allowed, found.interval_completeness, exceeded)
                if before is not None and _same(before, news):
                    continue
                await store.put_said(conn, target.target_id, measure, news, at=now)
                result = self._result(found, measure, news, now)
                await self._publish(conn, result, f"{target.target_id}/{measure}/{version}", now)
                published += 1
        return published

    def _result(self, found: TargetStanding, measure: str, said: Said, now: datetime) -> CarbonResult:
        stored = found.stored
        target = stored.target
        sites = [] if stored.node_kind.is_group else self._sites.sites_of(stored.place)
        return CarbonResult(
            node=target.node,
            period=Period(start=midnight(target.start), end=midnight(target.end), granularity=stored.granularity),
            measure=measure,
            unit=target.unit,
            completeness=min(max(said.completeness, 0.0), 1.0),
            version=said.version,
            value=said.value,
            node_kind=ContractNodeKind(stored.node_kind.value),
            site_id=sites[0] if len(sites) == 1 else None,
            provisional=now < midnight(target.end) or None,
            target=said.target,
            target_exceeded=said.exceeded,
            computed_at=now,
        )

    async def _remembered(self, stored: StoredTarget, today: date) -> Sequence[float | None]:
        """Return last year's days of a target, read once a day: they rarely change, and there are many of them."""
        kept = self._histories.get(stored.target.target_id)
        if kept is None or kept[0] != today:
            kept = self._histories[stored.target.target_id] = (today, await self._history(stored))
        return kept[1]

    async def _history(self, stored: StoredTarget) -> Sequence[float | None]:
        """Return a figure of every day of a target's period, a year before."""
        target = stored.target
        days = await self._figures.days(stored.place, Measure(target.measure), target.start - YEAR, target.end - YEAR)
        return [one.value for one in days]

    async def _stand(
        self, stored: StoredTarget, as_of: date, history: Sequence[float | None] | None = None
    ) -> TargetStanding:
        target = stored.target
        until = min(max(as_of, target.start), target.end)
        measure = Measure(target.measure)
        days = await self._figures.days(stored.place, measure, target.start, until)
        before = await self._history(stored) if history is None else history
        async with self._db.read() as conn:
            children = await store.fetch_targets(conn, parent_id=target.target_id)
        found = standing(
            target,
            as_of=as_of,
            measured=[one.value for one in days],
            last_year=None if all(one is None for one in before) else before,
        )
        known = [one.at_least for one in days if one.at_least is not None]
        return TargetStanding(
            stored=stored,
            standing=found,
            at_least=math.fsum(known) if known else None,
            days=days,
            interval_completeness=_mean(days),
            children=children,
            unallocated=unallocated(target, [one.target for one in children], on=date.max) if children else None,
            performance=performance(found.allowed, found.measured) if until == target.end else None,
        )

    async def _fetch(self, conn: ReadConn | WriteConn, target_id: str) -> StoredTarget:
        found = await store.fetch_targets(conn, target_id=target_id)
        if not found:
            raise _unknown(target_id)
        return found[0]

    async def _check_overlap(self, conn: WriteConn, wanted: StoredTarget) -> None:
        target = wanted.target
        for one in await store.fetch_targets(conn, node=target.node, first=target.start, last=target.end):
            if (one.target.measure, one.granularity) == (target.measure, wanted.granularity):
                raise OverlappingTarget(
                    f"node {target.node} has the target {one.name} of {target.measure} from {one.target.start} "
                    f"to before {one.target.end} already; adjust it",
                    message_zh=f"节点 {target.node} 已有 {one.target.start} 起、{one.target.end} 前的 {target.measure} "
                    f"定额“{one.name}”,请调整该定额",
                )

    async def _check_parent(self, conn: WriteConn, wanted: StoredTarget) -> None:
        target = wanted.target
        parent = await self._fetch(conn, target.parent_id or "")
        if not self._sites.contains(parent.place, wanted.place):
            raise InvalidInput(
                f"parent: expected a target of a node that contains {target.node}, found {parent.target.node}",
                message_zh=f"parent:应为包含 {target.node} 的节点的定额,实际为 {parent.target.node}",
            )
        siblings = await store.fetch_targets(conn, parent_id=target.parent_id)
        others = [one.target for one in siblings if one.target.target_id != target.target_id]
        unallocated(parent.target, [*others, target], on=date.max)

    def _may_see(self, who: Principal, stored: StoredTarget) -> bool:
        """Return whether somebody may see a target; one whose node is gone is only for who sees all."""
        if who.sites is None:
            return True
        try:
            return self._sites.may_see(who, stored.place)
        except NotFound:
            return False

    def _today(self) -> date:
        return self._clock.now().astimezone(CIVIL_ZONE).date()


def granularity_of(first: date, end: date) -> Granularity:
    """Return what kind of civil period ``[first, end)`` is."""
    if (end - first).days == 1:
        return Granularity.DAY
    if (end - first).days == 7 and first.weekday() == 0:
        return Granularity.WEEK
    if first.day == 1 and end == (first + timedelta(days=31)).replace(day=1):
        return Granularity.MONTH
    if (first.month, first.day) == (1, 1) and end == date(first.year + 1, 1, 1):
        return Granularity.YEAR
    return Granularity.OTHER


def _share(found: TargetStanding) -> float:
    allowed = found.standing.allowed
    if found.at_least is None:
        return -1.0
    return found.at_least / allowed if allowed > 0 else float("inf")


def _same(one: Said, other: Said) -> bool:
    if one.exceeded != other.exceeded or (one.value is None) != (other.value is None):
        return False
    pairs = [(one.value or 0.0, other.value or 0.0), (one.target, other.target), (one.completeness, other.completeness)]
    return all(abs(mine - new) <= SAME * max(abs(mine), abs(new)) for mine, new in pairs)


def _mean(days: Sequence[DayFigure]) -> float:
    return sum(one.completeness for one in days) / len(days) if days else 0.0


def _facts(stored: StoredTarget) -> dict[str, object]:
    target = stored.target
    return {
        "name": stored.name,
        "node": target.node,
        "measure": target.measure,
        "first_day": target.start.isoformat(),
        "end_day": target.end.isoformat(),
        "allowed": target.allowed(date.max),
        "unit": target.unit,
        "parent": target.parent_id,
        "owner": stored.owner,
    }


def _unknown(target_id: str) -> UnknownTarget:
    return UnknownTarget(f"there is no target {target_id}", message_zh=f"定额 {target_id} 不存在")
