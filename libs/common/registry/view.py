"""A service's projection of the registry: a table of its own, and the whole of it in memory.

Read from ``registry.entities`` outside any group. The table keeps the records and how far they were read, in
one transaction, so that a start reads what is new only. Replicas of a service share the table: the row of the
positions is locked while a batch goes in, and what another replica has written already is left out.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from libs.common.backoff import Backoff
from libs.common.bus.port import Bus, Received, StartAt, TopicPartition
from libs.common.bus.tail import Tail
from libs.common.bus.topics import REGISTRY
from libs.common.clock import Clock
from libs.common.contracts.registry import (
    Binding,
    Circuit,
    Device,
    Entity,
    EntityKind,
    Line,
    Load,
    RegistryRecord,
    Room,
    Site,
    parse_record,
)
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Unavailable
from libs.common.ids import CircuitId, DeviceId, LineId, LoadId, RegionId, RoomId, SiteId
from libs.common.registry.index import RegistryIndex

logger = logging.getLogger(__name__)

RECORDS_AT_A_TIME = 200
"""Parsed before the event loop gets its turn: some milliseconds."""

OnChange = Callable[[EntityKind, str], None]

ENTITIES = """
    create table registry_entities (
        id text not null,
        kind text not null,
        state text not null,
        record jsonb not null,
        partition integer not null,
        "offset" bigint not null,
        constraint registry_entities_pk primary key (id)
    )
"""
POSITIONS = """
    create table registry_positions (
        partition integer not null,
        next bigint not null,
        constraint registry_positions_pk primary key (partition)
    )
"""


class Operations(Protocol):
    """What is needed of Alembic's ``op``."""

    def execute(self, sqltext: str) -> None:
        """Run one statement."""


def create_registry_tables(op: Operations) -> None:
    """Create the projection's tables, in a migration of a service."""
    for statement in (ENTITIES, POSITIONS):
        op.execute(statement)


class RegistryNotReady(Unavailable):
    """The registry has not been read to its end yet."""

    code = "registry_not_ready"
    title_zh = "档案数据尚未加载完成"


class RegistryView:
    """Master data as a service sees it. Run it as a worker; ask after ``ready()``.

    Every question is about now unless it says ``when``.
    """

    def __init__(self, *, bus: Bus | None, db: Database, clock: Clock) -> None:
        """Prepare the view; ``db`` is that of the service, whose migration called ``create_registry_tables``.

        Without a bus it can be loaded (``load_stored``) and not run.
        """
        self._bus = bus
        self._db = db
        self._clock = clock
        self._index = RegistryIndex()
        self._callbacks: list[OnChange] = []
        self._tail: Tail | None = None
        self._loaded = asyncio.Event()

    # Life

    async def run(self, beat: Callable[[], None]) -> None:
        """Load the table, then follow the topic for ever; wait while the database or the bus is away."""
        if self._bus is None:
            raise ValueError("a view without a bus cannot follow the registry")
        positions = await self._start(self._bus, beat)
        self._tail = Tail(
            bus=self._bus,
            clock=self._clock,
            topics=(REGISTRY,),
            start=StartAt(positions=positions),
            handle=self._take,
        )
        self._loaded.set()
        await self._tail.run(beat)

    async def load_stored(self) -> None:
        """Load what the table has and follow nothing: for a job beside a service that keeps the table."""
        await self._load(lambda: None)
        self._loaded.set()

    @property
    def is_ready(self) -> bool:
        """Whether the registry has been read to the end that was seen at the start."""
        return self._tail is not None and self._tail.ready

    async def ready(self) -> None:
        """Wait until the registry has been read to the end that was seen at the start."""
        await self._loaded.wait()
        if self._tail is not None:
            await self._tail.caught_up()

    async def check(self) -> None:
        """Raise ``RegistryNotReady`` until the registry has been read; for readiness."""
        if not self.is_ready:
            raise RegistryNotReady(
                f"the registry is being read, {len(self._index)} entities so far",
                message_zh=f"正在加载档案数据,已加载 {len(self._index)} 条",
            )

    def on_change(self, callback: OnChange) -> None:
        """Call back with kind and id after an entity has changed, not for what is loaded at the start."""
        self._callbacks.append(callback)

    # Questions

    @property
    def index(self) -> RegistryIndex:
        """All questions, each with its time."""
        return self._index

    def record(self, kind: EntityKind, entity_id: str) -> RegistryRecord | None:
        """Return the whole history of an entity."""
        return self._index.record(kind, entity_id)

    def at(self, kind: EntityKind, entity_id: str, when: datetime) -> Entity | None:
        """Return the version of an entity that held at a time."""
        return self._index.at(kind, entity_id, when)

    def site(self, site_id: SiteId, when: datetime | None = None) -> Site | None:
        """Return a site."""
        return self._index.site(site_id, when or self._clock.now())

    def room(self, room_id: RoomId, when: datetime | None = None) -> Room | None:
        """Return a room."""
        return self._index.room(room_id, when or self._clock.now())

    def device(self, device_id: DeviceId, when: datetime | None = None) -> Device | None:
        """Return a device."""
        return self._index.device(device_id, when or self._clock.now())

    def circuit(self, circuit_id: CircuitId, when: datetime | None = None) -> Circuit | None:
        """Return a circuit."""
        return self._index.circuit(circuit_id, when or self._clock.now())

    def line(self, line_id: LineId, when: datetime | None = None) -> Line | None:
        """Return a line."""
        return self._index.line(line_id, when or self._clock.now())

    def load(self, load_id: LoadId, when: datetime | None = None) -> Load | None:
        """Return a load."""
        return self._index.load(load_id, when or self._clock.now())

    def sites(self, when: datetime | None = None) -> list[Site]:
        """Return all sites."""
        return list(self._index.all_of(Site, when or self._clock.now()))

    def devices(self, site_id: SiteId | None = None, when: datetime | None = None) -> list[Device]:
        """Return all devices, or those of a site."""
        when = when or self._clock.now()
        if site_id is None:
            return list(self._index.all_of(Device, when))
        return list(self._index.referring(Device, "site", site_id, when))

    def devices_on(self, line_id: LineId, when: datetime | None = None) -> list[Device]:
        """Return the devices of a line."""
        return list(self._index.referring(Device, "line", line_id, when or self._clock.now()))

    def lines(self, when: datetime | None = None) -> list[Line]:
        """Return all lines."""
        return list(self._index.all_of(Line, when or self._clock.now()))

    def circuits(self, site_id: SiteId | None = None, when: datetime | None = None) -> list[Circuit]:
        """Return all circuits, or those of a site with its rooms."""
        when = when or self._clock.now()
        if site_id is None:
            return list(self._index.all_of(Circuit, when))
        return self._index.circuits_of_site(site_id, when)

    def loads(self, site_id: SiteId | None = None, when: datetime | None = None) -> list[Load]:
        """Return all loads, or those of a site."""
        when = when or self._clock.now()
        if site_id is None:
            return list(self._index.all_of(Load, when))
        return list(self._index.referring(Load, "site", site_id, when))

    def bindings(self, circuit_id: CircuitId, when: datetime | None = None) -> list[Binding]:
        """Return what measures a circuit."""
        return self._index.bindings_of_circuit(circuit_id, when or self._clock.now())

    def bindings_of_device(self, device_id: DeviceId, when: datetime | None = None) -> list[Binding]:
        """Return what a device measures."""
        return self._index.bindings_of_device(device_id, when or self._clock.now())

    def site_of_circuit(self, circuit: Circuit, when: datetime | None = None) -> SiteId | None:
        """Return where a circuit is."""
        return self._index.site_of_circuit(circuit, when or self._clock.now())

    def regions_above(self, region_id: RegionId, when: datetime | None = None) -> list[RegionId]:
        """Return a region and those that it lies in, smallest first."""
        return self._index.regions_above(region_id, when or self._clock.now())

    # Following the topic

    async def _start(self, bus: Bus, beat: Callable[[], None]) -> dict[TopicPartition, int]:
        """Load the table and return where to read on; again and again while something is away."""
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        while True:
            beat()
            try:
                positions = await self._load(beat)
                return await self._believed(bus, positions)
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("registry waits", extra={"reason": exc.message})
                await self._clock.sleep(backoff.next_s())

    async def _load(self, beat: Callable[[], None]) -> dict[TopicPartition, int]:
        """Fill the memory from the table, as of one moment, and return the positions of that moment."""
        self._index = RegistryIndex()
        async with self._db.read() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            positions = await _fetch_positions(conn)
            async for row in conn.cursor("select record::text from registry_entities", prefetch=RECORDS_AT_A_TIME):
                self._index.put(parse_record(row["record"].encode()))
                beat()
        return positions

    async def _believed(self, bus: Bus, positions: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Return the positions, or none when they lie beyond the log: then it is another log, read from its start.

        The records stay until the new log says otherwise; ingest publishes all of them again.
        """
        async with bus.tail((REGISTRY,), StartAt(beginning=True)) as reader:
            ends = await reader.end_offsets()
        beyond = {where: position for where, position in positions.items() if position > ends.get(where, 0)}
        if not beyond:
            return positions
        logger.warning(
            "the registry's log was replaced; reading it from its beginning",
            extra={"positions": {where.partition: position for where, position in beyond.items()}},
        )
        async with self._db.write() as conn:
            await conn.execute("delete from registry_positions")
        return {}

    async def _take(self, batch: Sequence[Received]) -> None:
        """Write a batch and its positions, then change the memory and tell who wants to know."""
        records: dict[str, tuple[Received, RegistryRecord | None]] = {}
        for number, received in enumerate(batch, start=1):
            record = None if received.value is None else parse_record(received.value)
            entity_id = record.id if record is not None else received.key
            if entity_id is None:
                raise ValueError("a tombstone without a key says nothing")
            records[entity_id] = (received, record)
            if number % RECORDS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        async with self._db.write() as conn:
            await _store(conn, records, _ends(batch))
        changes: list[tuple[EntityKind, str]] = []
        for entity_id, (_, record) in records.items():
            kinds = {self._index.discard(entity_id)}
            if record is not None:
                self._index.put(record)
                kinds.add(record.kind)
            changes += [(kind, entity_id) for kind in kinds if kind is not None]
        for kind, entity_id in changes:
            for callback in self._callbacks:
                callback(kind, entity_id)


def _ends(batch: Sequence[Received]) -> dict[int, int]:
    """Return the offset after the last message of each partition."""
    return {received.partition: received.offset + 1 for received in batch}


async def _fetch_positions(conn: ReadConn) -> dict[TopicPartition, int]:
    rows = await conn.fetch("select partition, next from registry_positions")
    return {TopicPartition(REGISTRY, row["partition"]): row["next"] for row in rows}


async def _store(
    conn: WriteConn, records: dict[str, tuple[Received, RegistryRecord | None]], ends: dict[int, int]
) -> None:
    """Write the newest record of each id and the positions, leaving out what another replica was faster with."""
    await conn.execute(
        """
        insert into registry_positions (partition, next)
        select unnest($1::integer[]), 0
        on conflict (partition) do nothing
        """,
        sorted(ends),
    )
    rows = await conn.fetch(
        """
        select partition, next from registry_positions
        where partition = any($1::integer[]) order by partition for update
        """,
        sorted(ends),
    )
    done = {row["partition"]: row["next"] for row in rows}
    fresh = [
        (entity_id, received, record)
        for entity_id, (received, record) in records.items()
        if received.offset >= done[received.partition]
    ]
    gone = [entity_id for entity_id, _, record in fresh if record is None]
    kept = [(received, record) for _, received, record in fresh if record is not None]
    if gone:
        await conn.execute("delete from registry_entities where id = any($1::text[])", gone)
    if kept:
        await conn.execute(
            """
            insert into registry_entities (id, kind, state, record, partition, "offset")
            select id, kind, state, record::jsonb, partition, "offset"
            from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[])
                as new (id, kind, state, record, partition, "offset")
            on conflict (id) do update set
                kind = excluded.kind,
                state = excluded.state,
                record = excluded.record,
                partition = excluded.partition,
                "offset" = excluded."offset"
            """,
            [record.id for _, record in kept],
            [record.kind.value for _, record in kept],
            [record.state.value for _, record in kept],
            [(received.value or b"").decode() for received, _ in kept],
            [received.partition for received, _ in kept],
            [received.offset for received, _ in kept],
        )
    await conn.execute(
        """
        update registry_positions as old set next = new.next
        from unnest($1::integer[], $2::bigint[]) as new (partition, next)
        where old.partition = new.partition and old.next < new.next
        """,
        list(ends.keys()),
        list(ends.values()),
    )
