"""What the guards have to know of loads beyond themselves: policies, counts, alarms, maintenance, emergency, restarts.

Everything is read within the transaction that lets an OFF pass. Counts are read under the locks of their places, in
the order that ``store.areas`` gives, so that they hold for orders at the same moment and over replicas. On
acceptance the locks are waited for; the scheduler, which carries wake-ups in the same transaction, waits for nobody:
an OFF whose place is just being counted by somebody else is looked at again a moment later.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from libs.common.db import ReadConn, WriteConn
from services.control.domain.adjusting import is_restarting
from services.control.domain.guards import Facts, Policy
from services.control.domain.headcount import Headcount
from services.control.domain.loads import LoadInfo
from services.control.domain.places import (
    ActiveAlarm,
    EmergencyMode,
    MaintenanceWindow,
    backup_power,
    blocking_alarm,
)
from services.control.domain.policies import Book, Effective, GuardPolicy, InvalidPolicy, Scope, read_limits
from services.control.store import adjustments as adjustment_store
from services.control.store import areas as area_store
from services.control.store import places as place_store
from services.control.store import policies as policy_store
from services.control.store.policies import PolicyRow
from services.control.usecases.ports import Alone, Loads, Neighbours, Readings

RESTARTS_SINCE = timedelta(minutes=10)
"""One that was sent before this is going on only where its life says so."""


@dataclass(slots=True)
class Judge:
    """Says of each load what the guards have to know; OFFs that pass are noted by ``passed``."""

    effective: Callable[[LoadInfo], Effective]
    counts: Headcount = field(default_factory=Headcount)
    alarms: Sequence[ActiveAlarm] = ()
    windows: Sequence[MaintenanceWindow] = ()
    emergencies: Sequence[EmergencyMode] = ()
    restarts: Mapping[str, str] = field(default_factory=dict)
    """Orders by which devices are being restarted."""
    entered: bool = True
    """Whether emergency mode and restarts were kept from beginning meanwhile; without that nobody knows of them."""
    unlocked: frozenset[str] = frozenset()
    """Places that somebody else is counting."""
    problem: str | None = None
    """Why nothing can be said."""
    at: datetime | None = None
    """When the OFF is to be sent."""

    def policy(self, load: LoadInfo | None) -> Policy:
        """Return the limits in force for a load; of a load that is gone, those that hold everywhere."""
        return self.effective(load or _NOWHERE).policy

    def add_to(self, facts: Facts, load: LoadInfo | None) -> Facts:
        """Return the facts with what the load's place says."""
        if load is None:
            return facts
        policy = self.policy(load)
        busy = sorted(self.unlocked & set(counted_areas(load, policy)))
        alarm = blocking_alarm(self.alarms, load, policy)
        supply = backup_power(self.alarms, load, policy)
        mode = next((mode for mode in self.emergencies if mode.covers(load)), None)
        window = next((one for one in self.windows if self.at is not None and one.covers(load, self.at)), None)
        return replace(
            facts,
            keeps_coverage=load.keeps_coverage,
            unreadable=self.problem or (f"{busy[0]} is being counted" if busy else None),
            emergency_mode=None if mode is None else str(mode),
            maintenance=None if window is None else str(window),
            alarm=None if alarm is None else str(alarm),
            backup_power=None if supply is None else str(supply),
            restart=self._restart(load),
            crowding=self.counts.refusal(load, policy),
        )

    def _restart(self, load: LoadInfo) -> str | None:
        if not self.entered:
            return "not known yet"  # of an isolation too, which passes everything else that cannot be read
        return None if load.device_id is None else self.restarts.get(load.device_id)

    def passed(self, load: LoadInfo | None) -> None:
        """Count a load whose OFF goes on."""
        if load is not None:
            self.counts.add(load)


class GuardFacts:
    """Reads what the guards have to know."""

    def __init__(
        self, *, loads: Loads, readings: Readings, settings: Policy, neighbours: Neighbours | None = None
    ) -> None:
        """Prepare a reader.

        Args:
            loads: The registry.
            readings: What the direct door last said.
            settings: Limits where no policy says anything.
            neighbours: What a restart stops beside the device.
        """
        self._loads = loads
        self._readings = readings
        self._settings = settings
        self._neighbours = neighbours or Alone()
        self._book = Book((), settings)
        self._revision = 0
        self._problem: str | None = None

    def settings_only(self) -> Judge:
        """Return the judge of transactions in which no OFF is asked about."""
        return Judge(effective=Book((), self._settings).of)

    async def book(self, conn: ReadConn | WriteConn) -> Book:
        """Return the policies that hold."""
        revision = await policy_store.last_revision(conn)
        if revision != self._revision:
            rows = await policy_store.fetch_current(conn)
            found, self._problem = _policies(rows)
            self._book, self._revision = Book(found, self._settings), revision
        return self._book

    async def wants_second_person(self, conn: ReadConn | WriteConn, loads: Sequence[LoadInfo]) -> bool:
        """Return whether the policy of one of these loads asks that a second person agrees."""
        book = await self.book(conn)
        return any(book.of(load).policy.wants_second_person(len(loads)) for load in loads)

    async def judge(
        self,
        conn: WriteConn,
        loads: Iterable[LoadInfo | None],
        now: datetime,
        *,
        sending: bool,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Judge:
        """Read what is to be known before loads go off; they are locked.

        Args:
            conn: The transaction that lets the OFFs pass.
            loads: All of them.
            now: The time.
            sending: The OFFs are about to be sent, so that only what left before them counts, and nobody is waited
                for; else they are being accepted, and what is waiting at the same time counts too.
            start: When they are to begin; None is now.
            end: When they are to end; None is open.
        """
        about = [load for load in loads if load is not None]
        book = await self.book(conn)
        if not await place_store.enter(conn, wait=not sending):
            problem = "emergency mode is being declared, or a restart sent"
            return Judge(effective=book.of, problem=problem, entered=False)
        wanted = {area for load in about for area in counted_areas(load, book.of(load).policy)}
        locked = await area_store.lock_areas(conn, wanted, wait=not sending)
        return await self._look(
            conn, about, book, now, areas=locked, unlocked=wanted - locked, pending=not sending,
            start=start or now, end=end,
        )  # fmt: skip

    async def explain(self, conn: ReadConn, load: LoadInfo, now: datetime) -> tuple[Judge, Effective]:
        """Return what would be known if the load were to go off now, without locking anything."""
        book = await self.book(conn)
        judge = await self._look(
            conn, [load], book, now, areas={f"site:{load.site_id}", *counted_areas(load, book.of(load).policy)},
            unlocked=set(), pending=True, start=now, end=None,
        )  # fmt: skip
        return judge, book.of(load)

    async def _look(
        self,
        conn: ReadConn | WriteConn,
        about: Sequence[LoadInfo],
        book: Book,
        now: datetime,
        *,
        areas: set[str],
        unlocked: set[str],
        pending: bool,
        start: datetime,
        end: datetime | None,
    ) -> Judge:
        sites = {str(load.site_id) for load in about}
        end = end or datetime.max.replace(tzinfo=now.tzinfo)
        return Judge(
            effective=book.of,
            counts=await self._count(conn, sites, areas, pending=pending, start=start, end=end, now=now),
            alarms=await place_store.alarms_at(conn, sites),
            windows=await place_store.windows_at(conn, sites, start),
            emergencies=await place_store.emergencies_in_force(conn),
            restarts=await self._restarts(conn, now),
            unlocked=frozenset(unlocked),
            problem=self._problem,
            at=start,
        )

    async def _restarts(self, conn: ReadConn | WriteConn, now: datetime) -> dict[str, str]:
        """Return, by device, the order that is restarting it; the device itself or the station that it is part of."""
        sent = await adjustment_store.fetch_restarts(conn, now - RESTARTS_SINCE)
        return {
            device_id: one.adjustment_id
            for one in sent
            if is_restarting(one, now)
            for device_id in self._neighbours.stopped_with(one.device_id)
        }

    async def _count(
        self,
        conn: ReadConn | WriteConn,
        sites: set[str],
        areas: set[str],
        *,
        pending: bool,
        start: datetime,
        end: datetime,
        now: datetime,
    ) -> Headcount:
        if not areas:
            return Headcount()
        counts = Headcount(
            members={site: self._loads.at_site(site) for site in sites},
            off=await area_store.off_loads(conn, sites, pending=pending, start=start, end=end, now=now),
            off_in_region={area.removeprefix("region:"): 0 for area in areas if area.startswith("region:")},
        )
        if counts.off_in_region:
            by_site = await area_store.count_off(conn, pending=pending, start=start, end=end, now=now)
            for site, number in by_site.items():
                there = next(iter(self._loads.at_site(site)), None)
                for region in set(() if there is None else there.region_ids) & counts.off_in_region.keys():
                    counts.off_in_region[region] += number
        if start <= now:
            self._see(counts)
        return counts

    def _see(self, counts: Headcount) -> None:
        """Add what the breakers themselves read: opened by hand, by a trip, or not read at all."""
        unseen: set[str] = set()
        for members in counts.members.values():
            for load in members:
                if load.device_id is None:
                    continue  # nobody can switch it
                reading = self._readings.of(load.load_id)
                if reading is None or reading.breaker is None or reading.age_s is None:
                    unseen.add(load.load_id)
                elif reading.breaker == 0:
                    counts.add(load)
                elif reading.age_s > self._settings.stale_after_s:
                    unseen.add(load.load_id)
        counts.unseen = unseen


def counted_areas(load: LoadInfo, policy: Policy) -> list[str]:
    """Return the places whose counts the load's policy limits."""
    found = [f"region:{region}" for region in load.region_ids if region in policy.max_off_region]
    if policy.max_off_site is not None or (load.is_radio and (policy.min_on_sector > 0 or policy.min_on_site > 0)):
        found.append(f"site:{load.site_id}")
    return found


def _policies(rows: Sequence[PolicyRow]) -> tuple[list[GuardPolicy], str | None]:
    """Return the policies of the table, and what is wrong with one that a newer release may have written."""
    found: list[GuardPolicy] = []
    problem = None
    for row in rows:
        limits: Mapping[str, object] = row.limits or {}
        try:
            scope = Scope(row.scope)
            found.append(GuardPolicy(scope, row.target, read_limits(scope, row.target, limits)))
        except (InvalidPolicy, ValueError) as exc:
            problem = f"policy {row.scope}:{row.target}: {exc}"
    return found, problem


_NOWHERE = LoadInfo.nowhere()
