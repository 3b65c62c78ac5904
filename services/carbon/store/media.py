"""SQL of intervals of other media than electricity; their registers are stored as those of energy are."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import CircuitId, DeviceId
from services.carbon.domain.attestation import medium_subject
from services.carbon.domain.batches import CurrentTable, RegisterTable
from services.carbon.domain.booking import (
    BookedInterval,
    CircuitFinding,
    CircuitSpan,
    RegisterReading,
    Span,
    Window,
)
from services.carbon.domain.intervals import Grade
from services.carbon.domain.registers import FindingKind
from services.carbon.store import intervals as registers
from services.carbon.store.binary import copy_rows
from services.carbon.store.intervals import CURRENT_ROW, booked, current_of


class MediumBooks:
    """The books of one register; see ``usecases.intervals.Books``."""

    def __init__(self, point: str) -> None:
        self._point = point

    async def add_registers(
        self, conn: WriteConn, readings: Sequence[RegisterReading]
    ) -> list[tuple[DeviceId, datetime]]:
        """Store registers; return (device, source time) of those that are new or different now."""
        return await registers.add_registers(conn, readings)

    async def fetch_last_times(self, conn: WriteConn, points: Mapping[DeviceId, str]) -> dict[DeviceId, datetime]:
        """Return the newest time of each device that has registers of its point."""
        return await registers.fetch_last_times(conn, points)

    async def fetch_reach(self, conn: WriteConn, windows: Sequence[Window]) -> list[tuple[datetime, datetime | None]]:
        """Return how far the registers of each window can change anything."""
        return await registers.fetch_reach(conn, windows)

    async def fetch_registers_of(self, conn: WriteConn, spans: Sequence[Span]) -> RegisterTable:
        """Return the registers of each span."""
        return await registers.fetch_registers_of(conn, spans)

    async def mark_set_aside(
        self, conn: WriteConn, marks: Sequence[tuple[DeviceId, datetime, bool]], point: str
    ) -> None:
        """Record which registers the correction sets aside now, and which it uses again."""
        await registers.mark_set_aside(conn, marks, point)

    async def lock_circuits(self, conn: WriteConn, circuits: Sequence[CircuitId]) -> None:
        """Keep other recomputations of circuits out until the transaction ends."""
        await registers.lock_circuits(conn, circuits)

    async def fetch_current_of(self, conn: ReadConn | WriteConn, spans: Sequence[CircuitSpan]) -> CurrentTable:
        """Return the intervals that hold, of each span, in the unit of the medium."""
        rows = await copy_rows(
            conn,
            CURRENT_ROW,
            """
            select w.place::int4, i.start, i.version, coalesce(i.quantity, 'NaN')::float8,
                   (array_position($1::text[], i.flag) - 1)::int2, (i.lower_bound::int + 2 * i.uncertain::int)::int2
              from unnest($2::text[], $3::timestamptz[], $4::timestamptz[]) with ordinality
                as w(circuit_id, start, until, place)
              join medium_intervals i on i.circuit_id = w.circuit_id and i.point = $5 and i.current
                                     and i.start >= w.start and i.start < coalesce(w.until, 'infinity')
            """,
            [grade.flag for grade in Grade],
            [one.circuit_id for one in spans],
            [one.start for one in spans],
            [one.end for one in spans],
            self._point,
        )
        return current_of(rows, len(spans))

    async def book(self, conn: WriteConn, intervals: Sequence[BookedInterval]) -> None:
        """Add versions of intervals, to be attested; the version before each stays and no longer holds."""
        later = [one for one in intervals if one.version > 1]
        if later:
            await conn.execute(
                """
                update medium_intervals i set current = false
                  from unnest($2::text[], $3::timestamptz[]) as n(circuit_id, start)
                 where i.circuit_id = n.circuit_id and i.point = $1 and i.start = n.start and i.current
                """,
                self._point,
                [one.circuit_id for one in later],
                [one.start for one in later],
            )
        await conn.execute(
            """
            insert into medium_intervals (circuit_id, point, site_id, start, step_s, version, current, quantity, flag,
                                          lower_bound, uncertain, computed_at)
            select circuit_id, $1, site_id, start, step_s, version, true, quantity, flag, lower_bound, uncertain,
                   computed_at
              from unnest($2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::integer[], $7::float8[],
                          $8::text[], $9::boolean[], $10::boolean[], $11::timestamptz[])
                as n(circuit_id, site_id, start, step_s, version, quantity, flag, lower_bound, uncertain, computed_at)
            """,
            self._point,
            [one.circuit_id for one in intervals],
            [one.site_id for one in intervals],
            [one.start for one in intervals],
            [one.step_s for one in intervals],
            [one.version for one in intervals],
            [one.energy_kwh for one in intervals],
            [one.grade.flag for one in intervals],
            [one.lower_bound for one in intervals],
            [one.uncertain for one in intervals],
            [one.computed_at for one in intervals],
        )
        in_order = sorted(intervals, key=lambda one: (one.circuit_id, one.start, one.version))
        await conn.execute(
            """
            insert into attest_pending (kind, subject, at, version)
            select 'interval', subject, at, version
              from unnest($1::text[], $2::timestamptz[], $3::integer[]) with ordinality
                as n(subject, at, version, number)
             order by number
            """,
            [medium_subject(self._point, one.circuit_id) for one in in_order],
            [one.start for one in in_order],
            [one.version for one in in_order],
        )

    async def add_findings(
        self, conn: WriteConn, findings: Sequence[CircuitFinding], found_at: datetime
    ) -> set[tuple[CircuitId, datetime, FindingKind]]:
        """Store findings that are not there yet; return the keys of the new ones."""
        return await registers.add_findings(conn, findings, found_at, point=self._point)


async def fetch_versions(conn: ReadConn, circuit: CircuitId, point: str, start: datetime) -> list[BookedInterval]:
    """Return all versions of one interval of a medium, oldest first; the quantity is in the medium's unit."""
    rows = await conn.fetch(
        """
        select circuit_id, site_id, start, step_s, version, quantity as energy_kwh, flag, lower_bound, uncertain,
               computed_at
          from medium_intervals where circuit_id = $1 and point = $2 and start = $3 order by version
        """,
        circuit,
        point,
        start,
    )
    return [booked(row) for row in rows]


async def fetch_metered(
    conn: ReadConn, circuits: Sequence[CircuitId], points: Sequence[str], start: datetime, end: datetime
) -> dict[str, list[CircuitId]]:
    """Return of which of the circuits a register has intervals in ``[start, end)``, by register and id."""
    rows = await conn.fetch(
        """
        select p.name as point, c.id as circuit_id
          from unnest($1::text[]) as c(id) cross join unnest($2::text[]) as p(name)
         where exists (select from medium_intervals i
                        where i.circuit_id = c.id and i.point = p.name and i.current
                          and i.start >= $3 and i.start < $4)
         order by c.id
        """,
        list(circuits),
        list(points),
        start,
        end,
    )
    found: dict[str, list[CircuitId]] = {}
    for row in rows:
        found.setdefault(row["point"], []).append(CircuitId(row["circuit_id"]))
    return found
