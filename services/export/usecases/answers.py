"""What the units answer when a centre asks: every request gets a well-formed reply, most of them a quick one.

A unit is found by its id and by who asks: the peer must be allowed for the unit's connection (by the
settings, by the connection's own networks, or as the address that the centre was assigned). A wrong id, code
or peer gets Result 0 like anything else that is refused. Orders are refused by default, audited always.
"""

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common import metrics
from libs.common.bus import outbox
from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from services.export import bus
from services.export.dialects import Dialect, Dialects
from services.export.dialects import messages as m
from services.export.dialects.base import Incoming, MalformedMessage, Service, UnknownCommand
from services.export.domain.connection import (
    Connection,
    Network,
    Phase,
    Unit,
    UnitKey,
    split_address,
    valid_address,
)
from services.export.domain.description import described
from services.export.domain.latest import LatestReadings, latest_values, stored_values, with_numbers
from services.export.domain.mapping import Mapping, SourceKind
from services.export.domain.storage import kept, rules_of
from services.export.host import HostMeter
from services.export.store import alarms as alarm_store
from services.export.store import connections as connection_store
from services.export.store import deliveries as delivery_store
from services.export.store import mappings as mapping_store
from services.export.store import samples as sample_store
from services.export.store import sessions as session_store
from services.export.store import units as unit_store
from services.export.usecases.configuration import Configuration
from services.export.usecases.files import FileAccounts
from services.export.usecases.options import PointOptionDesk
from services.export.usecases.orders import MAX_ORDERS, Orders

logger = logging.getLogger(__name__)

MAX_HEARTBEAT_S = 86_400.0
"""A centre that asks less often than this is not told from one that is gone. [s]"""
HEARD_STEP_S = 30.0
"""Hearing from a centre is written down at most so often per unit. [s]"""
MOST_CLOCKS = 1000
"""Peers whose clocks are remembered; of more all are forgotten, and written down again."""
SAME_CLOCK_S = 1.5
"""Times are told in whole seconds: a clock that differs less from what it was is the same. [s]"""

TurnedAway = Callable[[str, str], Awaitable[None]]
"""Told the peer and the outcome of a message that was refused for what it is."""

_asked = metrics.counter(
    "export_sc_requests_total", "Requests of centres, by what became of them", ("command", "outcome")
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a centre is answered."""

    payload: str
    service: Service
    """The service that answers, in the dialect of the unit."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The unit that is spoken to, with its connection."""

    unit: Unit
    connection: Connection


class Answers:
    """Answers the centres."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        latest: LatestReadings,
        host: HostMeter,
        orders: Orders,
        accounts: FileAccounts,
        configuration: Configuration,
        options: PointOptionDesk,
        dialects: Dialects,
        allowed_peers: Sequence[str],
        max_values: int,
        turned_away: TurnedAway,
    ) -> None:
        """Prepare the desk.

        Args:
            db: The service's database.
            clock: For freshness and a centre's time check.
            latest: Newest values.
            host: How busy the machine is.
            orders: Carries out what may be ordered.
            accounts: Of the units' file server.
            configuration: Takes descriptions of devices and accounts of LOGINs.
            options: Which options points use, and who may choose.
            dialects: Those that can be spoken.
            allowed_peers: Networks that may ask any unit.
            max_values: Values in one answer, at most.
            turned_away: Told of each message that is refused for what it is.
        """
        self._db = db
        self._clock = clock
        self._latest = latest
        self._host = host
        self._orders = orders
        self._accounts = accounts
        self._configuration = configuration
        self._options = options
        self._dialects = dialects
        self._always: tuple[Network, ...] = tuple(ipaddress.ip_network(each, strict=False) for each in allowed_peers)
        self._max_values = max_values
        self._turned_away = turned_away
        self._noted: dict[tuple[str, str], tuple[float, float]] = {}
        """When a peer's clock was last written down for a connection, by monotonic time, and how far off it was. [s]"""

    async def peer_allowed(self, peer: str) -> bool:
        """Return whether this address may speak to any unit at all."""
        if _within(peer, self._always):
            return True
        async with self._db.read() as conn:
            connections = await connection_store.fetch_connections(conn)
            if any(_within(peer, each.networks()) for each in connections):
                return True
            return peer in {split_address(address)[0] for address in await unit_store.assigned_addresses(conn)}

    async def service_at(self, path: str, peer: str) -> Service:
        """Return how the service at a path is described to a peer: in its own connection's dialect, if it has one."""
        return (await self._spoken(self._dialects.at(path), peer)).unit

    async def answer(self, incoming: Incoming, peer: str, path: str, unit_id: str | None = None) -> Reply:
        """Return the reply, in the dialect of the unit that is named.

        Args:
            incoming: The request.
            peer: IP address that it came from.
            path: Of the service that it came to; says what is spoken by who names no unit of ours.
            unit_id: The unit whose own path it came to; None at the path that all units share.
        """
        candidates = self._dialects.at(path, incoming)
        dialect = candidates[0]
        try:
            found = await self._find(incoming, peer, unit_id)
            if found is None:
                dialect = await self._spoken(candidates, peer)
            else:
                dialect = self._dialects.named(found.connection.dialect)
            return Reply(await self._answer_in(dialect, incoming, found, peer), dialect.unit)
        except Unavailable as exc:
            logger.warning("a centre cannot be answered", extra={"command": incoming.name, "reason": exc.message})
            return Reply(_no(dialect, incoming, "unavailable"), dialect.unit)

    async def _answer_in(self, dialect: Dialect, incoming: Incoming, found: _Found | None, peer: str) -> str:
        try:
            request = dialect.read_request(incoming)
        except UnknownCommand:
            return await self._turn_away(dialect, incoming, "unknown_command", peer)
        except MalformedMessage as exc:
            logger.warning("malformed request", extra={"command": incoming.name, "reason": exc.message, "peer": peer})
            return await self._turn_away(dialect, incoming, "malformed", peer)
        if isinstance(request, m.CheckTime | m.SetHeartbeat | m.WriteLoginAccount) and request.unit is None:
            if found is None:
                return await self._answer_for_all(dialect, incoming, request, peer)
            request = replace(request, unit=found.unit.ref)  # it came to the unit's own path
        if found is None or request.unit != found.unit.ref:
            return await self._turn_away(dialect, incoming, "wrong_unit", peer)
        reply = await self._reply(dialect, request, found, peer)
        await self._note_heard([found.unit])
        _count(dialect, incoming, "yes" if reply.ok else "no")
        return dialect.write_reply(incoming, reply)

    async def _turn_away(self, dialect: Dialect, incoming: Incoming, outcome: str, peer: str) -> str:
        await self._turned_away(peer, outcome)
        return _no(dialect, incoming, outcome)

    async def _spoken(self, candidates: Sequence[Dialect], peer: str) -> Dialect:
        """Return which of the dialects the peer speaks, as far as its connections tell."""
        if len(candidates) > 1:
            async with self._db.read() as conn:
                for connection in await connection_store.fetch_connections(conn):
                    for each in candidates:
                        if each.name != connection.dialect or not connection.enabled:
                            continue
                        known = self._may_ask(peer, connection, ())
                        if known or self._may_ask(peer, connection, await unit_store.fetch_units(conn, connection.id)):
                            return each
        return candidates[0]

    async def _find(self, incoming: Incoming, peer: str, unit_id: str | None) -> _Found | None:
        """Return the unit that the request or its path names, as far as the peer may speak to it."""
        refs = (dialect.unit_of(incoming) for dialect in self._dialects)
        names = {ref.unit_id for ref in refs if ref is not None}
        if unit_id is not None and names <= {unit_id}:
            names = {unit_id}
        elif unit_id is not None:
            return None  # another unit's request at this one's path
        async with self._db.read() as conn:
            for name in sorted(names):
                for unit in await unit_store.units_named(conn, name):
                    connection = await connection_store.fetch_connection(conn, unit.connection_id)
                    if connection is None or not connection.enabled:
                        continue
                    if self._may_ask(peer, connection, [unit]):
                        return _Found(unit, connection)
        return None

    def _may_ask(self, peer: str, connection: Connection, units: Sequence[Unit]) -> bool:
        assigned = {split_address(unit.assigned_address)[0] for unit in units if unit.assigned_address}
        return _within(peer, self._always) or _within(peer, connection.networks()) or peer in assigned

    async def _note_heard(self, units: Sequence[Unit]) -> None:
        now = self._clock.now()
        step = timedelta(seconds=HEARD_STEP_S)
        stale = [unit.key for unit in units if unit.heard_at is None or now - unit.heard_at >= step]
        if stale:
            async with self._db.write() as conn:
                await session_store.note_heard(conn, stale, now, not_since=now - step)

    # ---- one kind of request each --------------------------------------------------------------------

    async def _reply(self, dialect: Dialect, request: m.CentreRequest, found: _Found, peer: str) -> m.UnitReply:
        unit, connection = found.unit, found.connection
        match request:
            case m.ReadPoints():
                return await self._points(dialect, unit, request)
            case m.ReadHistory():
                return await self._history(unit, request)
            case m.ReadStatus():
                load = self._host.read()
                return m.UnitStatus(unit.ref, True, load.cpu_percent, load.memory_percent, self._clock.now())
            case m.CheckTime(time=time):
                return m.Outcome(unit.ref, await self._time_agrees([unit], connection, time))
            case m.ReadRegistration():
                return await self._registration(unit, connection)
            case m.WriteRegistration(centre_address=address):
                return m.Outcome(unit.ref, await self._write_registration(found, address, peer))
            case m.WritePoints(orders=orders):
                return await self._orders.write_points(unit, orders, peer)
            case m.WriteThresholds(orders=orders):
                return await self._orders.write_thresholds(unit, orders, peer)
            case m.ReadThresholds(selection=selection):
                return await self._orders.read_thresholds(unit, selection)
            case m.ReadFileAccount():
                return await self._accounts.read(unit)
            case m.WriteFileAccount():
                return await self._accounts.write(unit, request, peer)
            case m.Restart():
                await self._audit_refusal(unit, "unit.restart", (), peer)
                return m.Outcome(unit.ref, False)
            case m.ReadTime():
                return m.UnitTime(unit.ref, True, self._clock.now())
            case m.ReadAlarms():
                return await self._active_alarms(unit)
            case m.ReadOptions(selection=selection):
                return await self._options.read(unit, selection)
            case m.WriteOptions(orders=options):
                return await self._options.write(unit, options, peer)
            case m.ReadDelays(selection=selection):
                return await self._orders.read_delays(unit, selection)
            case m.WriteDelays(orders=delays):
                return await self._orders.write_delays(unit, delays, peer)
            case m.ReadStorage(selection=selection):
                async with self._db.read() as conn:
                    mapping = await mapping_store.fetch_mapping(conn, unit.key)
                return m.StorageRules(unit.ref, True, rules_of(mapping, selection, self._clock.now()))
            case m.WriteStorage(orders=rules):
                named = [f"{each.device.device_id}/{each.point_id}={each.interval_min} min" for each in rules]
                return await self._agree(unit, "storage.write", named, lambda mapping: kept(mapping, rules), peer)
            case m.ReadDevices(device=device):
                return await self._devices(unit, device)
            case m.WriteDevices(orders=devices):
                return await self._configuration.write_devices(unit, devices, peer)
            case m.WriteLoginAccount(username=username, password=password):
                done = await self._configuration.write_login_account(unit, username, password, peer)
                return m.Outcome(unit.ref, done)
            case m.SetHeartbeat(interval_s=interval_s):
                return m.Outcome(unit.ref, await self._set_heartbeat([unit], interval_s))

    async def _points(self, dialect: Dialect, unit: Unit, request: m.ReadPoints) -> m.PointValues:
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
            signalling = {point.device_id for point in mapping.points if point.kind is SourceKind.SIGNAL}
            active = await alarm_store.active_alarms(conn, signalling)
        devices = latest_values(
            mapping,
            with_numbers(mapping, request.selection, dialect),
            latest=self._latest,
            active=active,
            type_of=dialect.type_of_point,
            now=self._clock.now(),
            kinds=request.types,
        )
        if sum(len(device.values) for device in devices) > self._max_values:
            return m.PointValues(unit.ref, False)
        return m.PointValues(unit.ref, True, devices)

    async def _history(self, unit: Unit, request: m.ReadHistory) -> m.PointValues:
        now = self._clock.now()
        start = request.start or now.astimezone(CIVIL_ZONE).replace(hour=0, minute=0, second=0, microsecond=0)
        end = request.end or now
        if end < start:
            return m.PointValues(unit.ref, False)
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
            hours = (end - start) / timedelta(hours=1) + 1
            if hours * _most_points(mapping) > self._max_values:
                return m.PointValues(unit.ref, False)
            wanted = {point.device_id for point in mapping.points if point.kind is SourceKind.POINT}
            found = await sample_store.fetch_samples(conn, wanted, start, end)
        samples: dict[tuple[str, str], list[tuple[datetime, float]]] = {}
        for sample in found:
            samples.setdefault((sample.device_id, sample.point), []).append((sample.at, sample.value))
        return m.PointValues(unit.ref, True, stored_values(mapping, request.selection, samples))

    async def _active_alarms(self, unit: Unit) -> m.ActiveAlarms:
        async with self._db.read() as conn:
            begun = await delivery_store.active_reports(conn, unit.key)
        if len(begun) > self._max_values:
            return m.ActiveAlarms(unit.ref, False)
        return m.ActiveAlarms(unit.ref, True, tuple(each.report() for each in begun))

    async def _agree(
        self,
        unit: Unit,
        action: str,
        orders: Sequence[str],
        judge: Callable[[Mapping], tuple[m.DeviceOutcome, ...]],
        peer: str,
    ) -> m.WriteOutcome:
        """Answer which orders say what holds anyhow: nothing is changed by it, and it is audited like every order."""
        if len(orders) > MAX_ORDERS:
            await self._audit_refusal(unit, action, (), peer)
            return m.WriteOutcome(unit.ref, False)
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
        outcomes = judge(mapping)
        done = bool(orders) and not any(each.failed for each in outcomes)
        audited = bus.order_audited(
            unit, action, points=[text[:100] for text in orders], address=peer, succeeded=done, at=self._clock.now(),
            reason="there is one way, and another was ordered",
        )  # fmt: skip
        async with self._db.write() as conn:
            await outbox.put(conn, [audited])
        return m.WriteOutcome(unit.ref, done, outcomes)

    async def _devices(self, unit: Unit, device: m.DeviceRef) -> m.DeviceDescriptions:
        """Describe one device; while alarm is away without thresholds."""
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
        held = await self._orders.read_thresholds(unit, (m.DeviceSelection(device, None),))
        thresholds = {(each.device.device_id, one.point_id): one for each in held.devices for one in each.thresholds}
        found = described(mapping, thresholds, only=device.device_id)
        return m.DeviceDescriptions(unit.ref, bool(found), found, "" if found else "no such device")

    async def _set_heartbeat(self, units: Sequence[Unit], interval_s: float) -> bool:
        """Take in how often the centre asks; believed within a day, since silence is judged by it."""
        if interval_s > MAX_HEARTBEAT_S:
            return False
        async with self._db.write() as conn:
            await session_store.save_heartbeats(conn, [unit.key for unit in units], interval_s)
        return True

    async def _registration(self, unit: Unit, connection: Connection) -> m.Registration:
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
        own = m.DeviceRef(unit.ref.unit_id, unit.ref.unit_code)
        return m.Registration(
            unit=unit.ref,
            ok=True,
            centre_address=unit.assigned_address or connection.peers_and_host()[-1],
            tunnel_address=unit.facts.address,
            devices=(own, *(device.ref for device in mapping.devices if device.ref.device_id != own.device_id)),
            facts=unit.facts,
        )

    async def _write_registration(self, found: _Found, address: str, peer: str) -> bool:
        unit, allowed = found.unit, found.connection.options.allow_write_registration
        done = allowed and valid_address(address)
        async with self._db.write() as conn:
            current = await unit_store.lock_unit(conn, unit.key)
            if done and current is not None:
                await session_store.save_session(conn, replace(current, assigned_address=address))
            audited = bus.order_audited(
                unit, "registration.write", points=[address], address=peer, succeeded=done, at=self._clock.now()
            )
            await outbox.put(conn, [audited])
        return done

    async def _audit_refusal(self, unit: Unit, action: str, points: Sequence[str], peer: str) -> None:
        audited = bus.order_audited(unit, action, points=points, address=peer, succeeded=False, at=self._clock.now())
        async with self._db.write() as conn:
            await outbox.put(conn, [audited])

    # ---- what names no unit ------------------------------------------------------------------------

    async def _answer_for_all(
        self,
        dialect: Dialect,
        incoming: Incoming,
        request: m.CheckTime | m.SetHeartbeat | m.WriteLoginAccount,
        peer: str,
    ) -> str:
        """Answer what concerns every unit of a centre."""
        if isinstance(request, m.CheckTime):
            return await self._check_time_of_all(dialect, incoming, request.time, peer)
        concerned = await self._concerned(dialect, peer)
        if not concerned:
            return await self._turn_away(dialect, incoming, "wrong_unit", peer)
        units = [unit for _, each in concerned for unit in each]
        if isinstance(request, m.SetHeartbeat):
            done = await self._set_heartbeat(units, request.interval_s)
        elif len(concerned) > 1:  # whose account it is cannot be told; at a unit's own path it can
            return _no(dialect, incoming, "which_connection")
        else:
            done = await self._configuration.write_login_account(units[0], request.username, request.password, peer)
        await self._note_heard([unit for unit in units if unit.phase is not Phase.NEW])
        _count(dialect, incoming, "yes" if done else "no")
        return dialect.write_reply(incoming, m.Outcome(None, done))

    async def _concerned(self, dialect: Dialect, peer: str) -> list[tuple[Connection, list[Unit]]]:
        """Return the connections in a dialect whose units the peer may ask, with these units; those without none."""
        found: list[tuple[Connection, list[Unit]]] = []
        async with self._db.read() as conn:
            for connection in await connection_store.fetch_connections(conn):
                if connection.enabled and connection.dialect == dialect.name:
                    units = await unit_store.fetch_units(conn, connection.id)
                    if units and self._may_ask(peer, connection, units):
                        found.append((connection, units))
        return found

    # ---- time ------------------------------------------------------------------------------------

    async def _check_time_of_all(self, dialect: Dialect, incoming: Incoming, time: datetime, peer: str) -> str:
        """Answer a time check without a unit: it concerns every unit that the peer may ask."""
        concerned: list[tuple[Connection, list[Unit]]] = []
        agrees: list[bool] = []
        async with self._db.read() as conn:
            for connection in await connection_store.fetch_connections(conn):
                if not connection.enabled or connection.dialect != dialect.name:
                    continue
                if self._just_noted(peer, connection, time):
                    agrees.append(_tolerated(connection, self._skew_s(time)))
                    continue
                units = await unit_store.fetch_units(conn, connection.id)
                if self._may_ask(peer, connection, units):
                    concerned.append((connection, units))
        if not concerned and not agrees:
            return await self._turn_away(dialect, incoming, "wrong_unit", peer)
        for connection, units in concerned:
            agrees.append(await self._time_agrees(units, connection, time))
            await self._note_heard([unit for unit in units if unit.phase is not Phase.NEW])
            if len(self._noted) >= MOST_CLOCKS:
                self._noted.clear()
            self._noted[peer, connection.id] = (self._clock.monotonic(), self._skew_s(time))
        _count(dialect, incoming, "yes" if all(agrees) else "no")
        return dialect.write_reply(incoming, m.Outcome(None, all(agrees)))

    def _just_noted(self, peer: str, connection: Connection, time: datetime) -> bool:
        """Return whether the same clock was told for the connection a moment ago.

        A centre tells the time to each unit that logs in; told without a unit's name it is written down for all of
        them, which for ten thousand that log in one after the other would be a hundred million rows.
        """
        at, skew_s = self._noted.get((peer, connection.id), (float("-inf"), 0.0))
        fresh = self._clock.monotonic() - at < HEARD_STEP_S
        return fresh and abs(self._skew_s(time) - skew_s) < SAME_CLOCK_S

    def _skew_s(self, time: datetime) -> float:
        return (time - self._clock.now()).total_seconds()

    async def _time_agrees(self, units: Sequence[Unit], connection: Connection, time: datetime) -> bool:
        """Note a centre's clock and return whether it agrees with ours.

        Our clock is kept by the machine; a unit in software does not set it at a centre's word. A difference
        beyond the tolerance is answered with a no, so that the centre's operator sees it too.
        """
        skew_s = self._skew_s(time)
        keys: list[UnitKey] = [unit.key for unit in units]
        async with self._db.write() as conn:
            await session_store.note_skew(conn, keys, skew_s)
        tolerated = _tolerated(connection, skew_s)
        if not tolerated:
            logger.warning("a centre's clock differs", extra={"destination": connection.id, "skew_s": round(skew_s, 1)})
        return tolerated


def _tolerated(connection: Connection, skew_s: float) -> bool:
    return abs(skew_s) <= connection.options.time_tolerance_s


def _most_points(mapping: Mapping) -> int:
    return sum(1 for point in mapping.points if point.kind is SourceKind.POINT)


def _no(dialect: Dialect, incoming: Incoming, outcome: str) -> str:
    """Return Result 0 in the form that fits any command, echoing the unit that was named."""
    _count(dialect, incoming, outcome)
    return dialect.write_reply(incoming, m.Outcome(dialect.unit_of(incoming), False, outcome.replace("_", " ")))


def _count(dialect: Dialect, incoming: Incoming, outcome: str) -> None:
    # A name that is no command is the caller's text: under its own label the metric would grow without end.
    names = (each.name for each in dialect.commands if each.name.casefold() == incoming.name.casefold())
    _asked.labels(next(names, "other"), outcome).inc()


def _within(peer: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
