"""Books in memory: what ``store.intervals`` does with SQL, for tests of the order in which things happen."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import settings

from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.batches import CurrentTable, RegisterTable
from services.carbon.domain.booking import (
    Binding,
    BookedInterval,
    CircuitFinding,
    CircuitSpan,
    Current,
    RegisterReading,
    Registers,
    Span,
    Told,
    Window,
    floor,
)
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.registers import CONFIRMATIONS, Finding, FindingKind

SOME = settings(max_examples=settings().max_examples * 3 // 10)
"""For whole histories, which take a tenth of a second each."""
POINT = "energy_active_import"
SITE = SiteId("site")


class Crash(Exception):
    """The process ends here."""


@dataclass
class Row:
    shown: float
    ratio: float
    uncertain: bool
    disputed: bool
    received_at: datetime
    set_aside: bool = False
    manual: bool = False

    @property
    def key(self) -> tuple[datetime, float, float]:
        return self.received_at, self.shown, self.ratio


@dataclass
class State:
    """What a database would keep."""

    rows: dict[tuple[DeviceId, str], dict[datetime, Row]] = field(default_factory=dict)
    versions: list[BookedInterval] = field(default_factory=list)
    current: dict[tuple[CircuitId, datetime], BookedInterval] = field(default_factory=dict)
    findings: set[tuple[CircuitId, datetime, FindingKind]] = field(default_factory=set)
    published: list[BookedInterval] = field(default_factory=list)
    told: list[Finding] = field(default_factory=list)


class MemoryBooks:
    """Books and publisher in one, whose state is a transaction's."""

    def __init__(self) -> None:
        self.state = State()
        self.crash_in: int | None = None
        """Count of calls after which the process ends; None is never."""

    def transaction(self) -> Callable[[], None]:
        """Return what takes back all that happens from now on."""
        kept = deepcopy(self.state)

        def roll_back() -> None:
            self.state = kept

        return roll_back

    def _step(self) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self.crash_in = None
                raise Crash

    def _of(self, device: DeviceId, point: str) -> dict[datetime, Row]:
        return self.state.rows.setdefault((device, point), {})

    def _trusted(self, device: DeviceId, point: str) -> list[datetime]:
        return sorted(at for at, row in self._of(device, point).items() if not row.set_aside)

    async def add_registers(self, conn: Any, readings: Sequence[RegisterReading]) -> list[tuple[DeviceId, datetime]]:
        self._step()
        assert len({(one.device_id, one.point, one.source_time) for one in readings}) == len(readings)
        changed = []
        for one in readings:
            rows = self._of(one.device_id, one.point)
            told = Row(one.shown, one.ratio, one.uncertain, one.disputed, one.received_at, manual=one.manual)
            held = rows.get(one.source_time)
            if held is None:
                rows[one.source_time] = told
            else:
                disputed = told.disputed or held.disputed or (told.shown, told.ratio) != (held.shown, held.ratio)
                if told.key <= held.key and disputed == held.disputed:
                    continue
                last = max(told, held, key=lambda row: row.key)
                rows[one.source_time] = replace(last, disputed=disputed, set_aside=held.set_aside)
            changed.append((one.device_id, one.source_time))
        return changed

    async def fetch_last_times(self, conn: Any, points: Mapping[DeviceId, str]) -> dict[DeviceId, datetime]:
        self._step()
        return {device: max(rows) for device, point in points.items() if (rows := self._of(device, point))}

    async def fetch_reach(self, conn: Any, windows: Sequence[Window]) -> list[tuple[datetime, datetime | None]]:
        self._step()
        found: list[tuple[datetime, datetime | None]] = []
        for one in windows:
            before = [
                at
                for at in self._trusted(one.before.device_id, one.before.point)
                if one.before.valid_from <= at < one.since and at <= (one.before.valid_to or at)
            ]
            first = before[-CONFIRMATIONS] if len(before) >= CONFIRMATIONS else one.before.valid_from
            last = None
            if one.until is not None:
                after = [at for at in self._trusted(one.after.device_id, one.after.point) if at > one.until]
                if after:
                    edge = floor(after[0]) + timedelta(seconds=STEP_S)
                    last = next((at for at in after if at >= edge and at <= (one.after.valid_to or at)), None)
            found.append((first, last))
        return found

    async def fetch_registers_of(self, conn: Any, spans: Sequence[Span]) -> RegisterTable:
        self._step()
        found = []
        for one in spans:
            before = [at for at in self._trusted(one.device_id, one.point) if at <= one.start]
            first = before[-1] if before else one.start
            rows = [
                (at, row)
                for at, row in sorted(self._of(one.device_id, one.point).items())
                if at >= first and (one.end is None or at <= one.end)
            ]
            plain = Registers.of([(at, row.shown, row.ratio, row.uncertain or row.disputed) for at, row in rows])
            aside = np.array([row.set_aside for _, row in rows], np.bool_)
            found.append(replace(plain, set_aside=aside, manual=np.array([row.manual for _, row in rows], np.bool_)))
        return RegisterTable.join(found)

    async def mark_set_aside(self, conn: Any, marks: Sequence[tuple[DeviceId, datetime, bool]], point: str) -> None:
        self._step()
        for device, at, aside in marks:
            self._of(device, point)[at].set_aside = aside

    async def lock_circuits(self, conn: Any, circuits: Sequence[CircuitId]) -> None:
        self._step()

    async def fetch_current_of(self, conn: Any, spans: Sequence[CircuitSpan]) -> CurrentTable:
        self._step()
        found = []
        for one in spans:
            rows = sorted(
                (held for (circuit, start), held in self.state.current.items()
                 if circuit == one.circuit_id and one.start <= start and (one.end is None or start < one.end)),
                key=lambda held: held.start,
            )  # fmt: skip
            found.append(
                Current(
                    start=np.array([row.start.timestamp() for row in rows], np.float64),
                    version=np.array([row.version for row in rows], np.int64),
                    energy_kwh=np.array([np.nan if row.energy_kwh is None else row.energy_kwh for row in rows]),
                    grade=np.array([row.grade for row in rows], np.int8),
                    lower_bound=np.array([row.lower_bound for row in rows], np.bool_),
                    uncertain=np.array([row.uncertain for row in rows], np.bool_),
                )
            )
        return CurrentTable.join(found)

    async def book(self, conn: Any, intervals: Sequence[BookedInterval]) -> None:
        self._step()
        for one in intervals:
            held = self.state.current.get((one.circuit_id, one.start))
            assert one.version == (1 if held is None else held.version + 1)
            assert one.energy_kwh is None or one.energy_kwh >= 0.0
            self.state.current[one.circuit_id, one.start] = one
            self.state.versions.append(one)

    async def add_findings(
        self, conn: Any, findings: Sequence[CircuitFinding], found_at: datetime
    ) -> set[tuple[CircuitId, datetime, FindingKind]]:
        self._step()
        new = {one.key for one in findings} - self.state.findings
        self.state.findings |= new
        return new

    async def intervals(self, conn: Any, booked: Sequence[BookedInterval]) -> None:
        self._step()
        self.state.published += booked

    async def findings(
        self, conn: Any, site: SiteId, circuit: CircuitId, findings: Sequence[Finding], now: datetime
    ) -> None:
        self._step()
        self.state.told += findings


@dataclass
class FixedDirectory:
    """A registry that a test writes down."""

    bindings: dict[CircuitId, list[Binding]]
    rated: float | None = None
    at_start: bool = False

    def circuits_of(self, device: DeviceId) -> list[CircuitId]:
        return [circuit for circuit, served in self.bindings.items() if any(one.device_id == device for one in served)]

    def bindings_of(self, circuit: CircuitId) -> list[Binding]:
        return self.bindings[circuit]

    def stands_in(self, device: DeviceId) -> Told | None:
        served = (one for each in self.bindings.values() for one in each)
        return next(
            (Told(one.point, one.period_s, self.at_start)
             for one in served if one.device_id == device and not one.has_register),
            None,
        )  # fmt: skip

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        return SITE

    def rated_kw(self, circuit: CircuitId) -> float | None:
        return self.rated


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
