"""Reading the embedded log: members of groups, which share partitions by lease, and tails.

A group is a set of leases in the schema ``bus``: one per member, one per partition number (of all its topics, so
that a site's messages of every topic are in one hand). Each member renews its leases three times in their life,
counts the members in force, and takes free partitions up to its share or gives back what is more. A member that
falls silent, because it died or froze, loses its leases; when it comes back it sees so by its own clock before it
reads on.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from libs.common.backoff import Backoff
from libs.common.bus.headers import unpack_headers
from libs.common.bus.port import BusUnavailable, GroupListener, Received, StartAt, TopicPartition
from libs.common.errors import Unavailable
from libs.common.lease import Lease, LeaseKeeper

if TYPE_CHECKING:
    import asyncpg

    from libs.common.bus.pglog import PgLogBus

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""What no event told of is found by looking. [s]"""
FETCH_EVERY_S = 0.01
"""While messages flow, a reader that keeps up looks no more often than this: fewer, larger batches. [s]"""
FETCH_BYTES = 16 << 20
"""Keys, values and headers in one fetch, unless the first message alone is larger. [B]"""


class StreamReader:
    """Positions in some streams, and what lies beyond them."""

    def __init__(self, bus: "PgLogBus") -> None:
        """Prepare a reader of nothing."""
        self._bus = bus
        self._places: dict[int, TopicPartition] = {}
        self._streams: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._turn = 0
        self._more = True
        """Whether there is a sign of something new."""
        self._full = False
        """Whether the last fetch left something behind."""
        self._looked_at = float("-inf")
        self._event = asyncio.Event()

    @property
    def reading(self) -> frozenset[TopicPartition]:
        """The partitions that have a position."""
        return frozenset(self._next)

    def positions(self) -> dict[TopicPartition, int]:
        """Return the offset that is read next, for every partition."""
        return dict(self._next)

    async def open(self, topics: Sequence[str]) -> None:
        """Learn the streams of the topics and begin to hear of appends to them."""
        self._places = await self._bus.streams(topics)
        self._streams = {place: stream for stream, place in self._places.items()}
        for stream in self._places:
            self._bus.wakers.by_stream.setdefault(stream, set()).add(self.wake)

    def close(self) -> None:
        """Stop hearing of appends."""
        for stream in self._places:
            self._bus.wakers.by_stream.get(stream, set()).discard(self.wake)

    def wake(self) -> None:
        """Look again: something was appended, or something else wants attention."""
        self._more = True
        self._event.set()

    def forget(self, places: Sequence[TopicPartition]) -> None:
        """Read these partitions no longer."""
        for place in places:
            self._next.pop(place, None)
            self._paused.discard(place)

    def pause(self, places: Sequence[TopicPartition]) -> None:
        """Leave these partitions out."""
        self._paused.update(places)

    def resume(self, places: Sequence[TopicPartition]) -> None:
        """Read them again."""
        self._paused.difference_update(places)
        self.wake()

    async def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read on at these offsets; one beyond the end belongs to another log, which is read from its beginning."""
        bounds = await self.bounds(list(positions))
        for place, offset in positions.items():
            floor, end = bounds[place]
            self._next[place] = offset if offset <= end else floor
        self.wake()

    async def bounds(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Return the first offset that retention has left and the one after the last message."""
        async with self._bus.db.read() as conn:
            rows = await conn.fetch(
                """
                select s.id, s.floor, greatest(s.floor, newest.past) as past
                  from unnest($1::integer[]) as wanted(id)
                  join streams s using (id)
                  left join lateral (
                       select m."off" + 1 as past from messages m where m.stream = s.id order by m."off" desc limit 1
                       ) as newest on true
                """,
                [self._streams[place] for place in places],
            )
        return {self._places[row["id"]]: (row["floor"], row["past"]) for row in rows}

    async def starts(self, start: StartAt) -> dict[TopicPartition, int]:
        """Return where every partition of the topics is to be read from."""
        places = list(self._streams)
        if start.since is not None:
            async with self._bus.db.read() as conn:
                rows = await conn.fetch(
                    "select id, offset_since(id, $2) as next from unnest($1::integer[]) as wanted(id)",
                    list(self._places),
                    start.since,
                )
            return {self._places[row["id"]]: row["next"] for row in rows}
        bounds = await self.bounds(places)
        if start.positions is not None:
            return {place: start.positions.get(place, bounds[place][0]) for place in places}
        return {place: bounds[place][0 if start.beginning else 1] for place in places}

    async def fetch(self, max_messages: int) -> list[Received]:
        """Return what is there now, or nothing when there is no sign of anything new."""
        self._bus.require_running()
        if max_messages <= 0:
            return []
        now = self._bus.clock.monotonic()
        if not self._full and now - self._looked_at < (FETCH_EVERY_S if self._more else POLL_S):
            return []
        wanted = [place for place in self._next if place not in self._paused]
        self._more = self._full = False
        self._looked_at = now
        if not wanted:
            return []  # seek and resume give the sign again
        # Another partition comes first each time, so that a busy one does not keep the others waiting.
        self._turn = (self._turn + 1) % len(wanted)
        wanted = wanted[self._turn :] + wanted[: self._turn]
        try:
            async with self._bus.db.read() as conn:
                rows = await conn.fetch(
                    """
                    select stream, "off", at, key, value, headers, size
                      from (select s.stream, m."off", m.at, m.key, m.value, m.headers, m.size, s.place,
                                   sum(m.size) over (order by s.place, m."off" rows unbounded preceding) as sum_size
                              from unnest($1::integer[], $2::bigint[]) with ordinality as s(stream, next, place)
                             cross join lateral (
                                   select x."off", x.at, x.key, x.value, x.headers,
                                          coalesce(octet_length(x.value), 0) + octet_length(x.headers) as size
                                     from messages x
                                    where x.stream = s.stream and x."off" >= s.next
                                    order by x."off" limit $3) as m
                             limit $3) as found
                     where sum_size - size < $4
                     order by place, "off"
                    """,
                    [self._streams[place] for place in wanted],
                    [self._next[place] for place in wanted],
                    max_messages,
                    FETCH_BYTES,
                )
        except BaseException:
            self._more = True
            raise
        if len(rows) == max_messages or sum(row["size"] for row in rows) >= FETCH_BYTES:
            self._more = self._full = True
        found = [self._received(row) for row in rows]
        for received in found:
            self._next[received.topic_partition] = received.offset + 1
        return found

    def _received(self, row: "asyncpg.Record") -> Received:
        place = self._places[row["stream"]]
        return Received(
            topic=place.topic,
            partition=place.partition,
            offset=row["off"],
            key=row["key"],
            value=row["value"],
            headers=unpack_headers(row["headers"]),
            appended_at=row["at"],
        )

    async def wait(self, timeout_s: float) -> None:
        """Wait for a sign of something new, at most ``timeout_s``."""
        if self._full or timeout_s <= 0:
            return
        try:
            async with asyncio.timeout(timeout_s):
                if not self._more:
                    await self._event.wait()
                await asyncio.sleep(self._looked_at + FETCH_EVERY_S - self._bus.clock.monotonic())
        except TimeoutError:
            return
        finally:
            self._event.clear()


class PgGroupMember:
    """A member of a group on the embedded bus."""

    def __init__(
        self, bus: "PgLogBus", group: str, topics: Sequence[str], listener: GroupListener, member_id: str
    ) -> None:
        """Prepare a member, not yet joined."""
        self._bus = bus
        self._group = group
        self._topics = topics
        self._listener = listener
        self._member_id = member_id
        self._reader = StreamReader(bus)
        self._keeper = LeaseKeeper(bus.db, bus.clock, member_id, bus.settings.lease_s)
        self._numbers: dict[int, list[TopicPartition]] = {}
        self._me: Lease | None = None
        self._leases: dict[int, Lease] = {}
        """By partition number; changed by the heart, which beats beside whatever the owner does."""
        self._surplus: set[int] = set()
        """Held, and to be given back once the owner has heard of it."""
        self._active: dict[int, int] = {}
        """Epoch of the lease under which the owner was told of the partition; changed within ``fetch`` only."""
        self._nudged = asyncio.Event()
        self._heart: asyncio.Task[None] | None = None

    @property
    def joined(self) -> bool:
        """Whether the member is in the group, with partitions or without."""
        return self._me is not None and self._me.valid

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that are claimed and read."""
        return self._reader.reading

    async def __aenter__(self) -> Self:
        with bus_errors():
            await self._reader.open(self._topics)
            places = (await self._bus.streams(self._topics)).values()
            for place in sorted(places, key=lambda place: (place.partition, place.topic)):
                self._numbers.setdefault(place.partition, []).append(place)
            try:
                await self._beat_once()
            except BaseException:
                self._reader.close()
                raise
        self._bus.wakers.by_group.setdefault(self._group, set()).add(self._nudged.set)
        self._bus.group_changed(self._group)
        # It lives exactly as long as the member is entered, and fetch says when it has failed.
        self._heart = asyncio.create_task(self._beat(), name=f"member {self._group}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._bus.wakers.by_group.get(self._group, set()).discard(self._nudged.set)
        self._reader.close()
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait([self._heart])
        held = [*self._leases.values(), *([self._me] if self._me is not None else [])]
        self._leases.clear()
        self._me = None
        try:
            async with asyncio.timeout(1.0):
                await self._keeper.release_many(held)
        except (Unavailable, TimeoutError):
            logger.debug("leases left to run out", extra={"group": self._group})
        self._bus.group_changed(self._group)

    async def fetch(self, *, max_messages: int, timeout_s: float) -> list[Received]:
        """Return what there is, after telling the listener what has changed."""
        deadline = self._bus.clock.monotonic() + timeout_s
        while True:
            await self._follow_leases()
            with bus_errors():
                found = await self._reader.fetch(max_messages)
            left_s = deadline - self._bus.clock.monotonic()
            if found or left_s <= 0 or max_messages <= 0:
                return found
            await self._reader.wait(left_s)

    async def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read on at these offsets."""
        with bus_errors():
            await self._reader.seek(positions)

    async def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop fetching these partitions and stay their owner."""
        self._reader.pause(partitions)

    async def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Fetch them again."""
        self._reader.resume(partitions)

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Write down how far the group is, for tools and for the warning before retention overtakes it."""
        places = sorted(positions)
        with bus_errors():
            async with self._bus.db.statements() as conn:
                await conn.execute(
                    """
                    insert into group_positions (grp, stream, next)
                    select $1, s.id, told.next
                      from unnest($2::text[], $3::integer[], $4::bigint[]) as told(topic, partition, next)
                      join streams s using (topic, partition)
                     order by s.id
                    on conflict (grp, stream) do update set next = excluded.next, told_at = now()
                    """,
                    self._group,
                    [place.topic for place in places],
                    [place.partition for place in places],
                    [positions[place] for place in places],
                )

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Return the offset after the last message of each assigned partition."""
        with bus_errors():
            return {place: end for place, (_, end) in (await self._reader.bounds(list(self.assignment))).items()}

    async def start_offsets(self) -> Mapping[TopicPartition, int]:
        """Return the first offset of each assigned partition that retention has left."""
        with bus_errors():
            return {place: floor for place, (floor, _) in (await self._reader.bounds(list(self.assignment))).items()}

    async def _follow_leases(self) -> None:
        """Tell the owner what the heart has learnt."""
        if self._heart is not None and self._heart.done():
            self._heart.result()
        held = {n: lease.epoch for n, lease in self._leases.items() if lease.valid and n not in self._surplus}
        gone = [number for number, epoch in self._active.items() if held.get(number) != epoch]
        if gone:
            places = [place for number in gone for place in self._numbers[number]]
            for number in gone:
                del self._active[number]
            self._reader.forget(places)
            await self._listener.revoked(places)
        if self._surplus:
            back = [self._leases.pop(number) for number in self._surplus if number in self._leases]
            self._surplus.clear()
            with bus_errors():
                await self._keeper.release_many(back)
            self._bus.group_changed(self._group)
        new = sorted(number for number in held if number not in self._active)
        if new:
            places = [place for number in new for place in self._numbers[number]]
            positions = await self._listener.assigned(places)
            with bus_errors():
                await self._reader.seek({place: positions.get(place, 0) for place in places})
            self._active.update({number: held[number] for number in new})

    async def _beat(self) -> None:
        """Keep the leases, whatever the owner is doing; its thread being stopped is what ends them."""
        backoff = Backoff(first_s=0.1, cap_s=1.0)
        pause_s = self._bus.settings.lease_s / 3
        while True:
            try:
                async with asyncio.timeout(pause_s):
                    await self._nudged.wait()
            except TimeoutError:
                pass
            self._nudged.clear()
            try:
                await self._beat_once()
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("leases not renewed", extra={"group": self._group, "reason": exc.message})
                pause_s = backoff.next_s()
            else:
                backoff.reset()
                pause_s = self._bus.settings.lease_s / 3

    async def _beat_once(self) -> None:
        """Renew what is held, then take or mark for giving back what differs from a fair share."""
        mine = [self._me] if self._me is not None else []
        renewed = {lease.name: lease for lease in await self._keeper.renew_many([*mine, *self._leases.values()])}
        me = renewed.get(self._lease_of_member(self._member_id))
        if me is None:
            if self._me is not None and self._me.valid:
                logger.error(
                    "another process uses the same member id", extra={"group": self._group, "member": self._member_id}
                )
            me = await self._keeper.acquire(self._lease_of_member(self._member_id))
        self._me = me
        before = set(self._leases)
        # What fetch has given back meanwhile is no longer in the table and must not come back.
        self._leases = {number: renewed[lease.name] for number, lease in self._leases.items() if lease.name in renewed}
        share = self._share(await self._keeper.holders(self._lease_of_member("")))
        excess = len(self._leases) - share
        if excess > 0:
            self._surplus = set(sorted(self._leases)[-excess:])
        else:
            self._surplus = set()
            wanted = [number for number in self._numbers if number not in self._leases]
            taken = await self._keeper.acquire_many([self._lease_of(number) for number in wanted], -excess)
            numbers = {self._lease_of(number): number for number in wanted}
            self._leases |= {numbers[lease.name]: lease for lease in taken}
        if self._surplus or set(self._leases) != before:
            self._reader.wake()

    def _share(self, members: Mapping[str, str]) -> int:
        """Return how many partition numbers this member should hold: as even as can be, the first ones one more."""
        names = sorted({*members, self._lease_of_member(self._member_id)})
        each, rest = divmod(len(self._numbers), len(names))
        return each + (1 if names.index(self._lease_of_member(self._member_id)) < rest else 0)

    def _lease_of(self, number: int) -> str:
        return f"group/{self._group}/partition/{number}"

    def _lease_of_member(self, member_id: str) -> str:
        return f"group/{self._group}/member/{member_id}"


class PgTailReader:
    """A reader of all partitions of some topics of the embedded bus."""

    def __init__(self, bus: "PgLogBus", topics: Sequence[str], start: StartAt) -> None:
        """Prepare a reader, not yet started."""
        self._bus = bus
        self._topics = topics
        self._start = start
        self._reader = StreamReader(bus)

    async def __aenter__(self) -> Self:
        with bus_errors():
            await self._reader.open(self._topics)
            try:
                await self._reader.seek(await self._reader.starts(self._start))
            except BaseException:
                self._reader.close()
                raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._reader.close()

    async def fetch(self, *, max_messages: int, timeout_s: float) -> list[Received]:
        """Return what there is; may be empty."""
        deadline = self._bus.clock.monotonic() + timeout_s
        while True:
            with bus_errors():
                found = await self._reader.fetch(max_messages)
            left_s = deadline - self._bus.clock.monotonic()
            if found or left_s <= 0:
                return found
            await self._reader.wait(left_s)

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Return the offset after the last message of every partition."""
        with bus_errors():
            return {place: end for place, (_, end) in (await self._reader.bounds(list(self._reader.reading))).items()}

    def positions(self) -> Mapping[TopicPartition, int]:
        """Return the offset that is read next, for every partition."""
        return self._reader.positions()


@contextmanager
def bus_errors() -> Iterator[None]:
    """Let an absent database be an absent bus."""
    try:
        yield
    except BusUnavailable:
        raise
    except Unavailable as exc:
        raise BusUnavailable(exc.message, message_zh=exc.message_zh) from exc
