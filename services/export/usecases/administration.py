"""What people and programs change over the API: connections, units, mappings, stuck deliveries.

Each change is one transaction with its audit record. Changes reach the workers by the database: the
worker of another replica sees them when it looks next.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import SplitResult, urlsplit, urlunsplit

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.delivery import DeliveryState
from libs.common.contracts.registry import Device, Region, Site
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound, Problem
from libs.common.points import is_point_name
from services.export import bus
from services.export.dialects import Dialect, Dialects
from services.export.dialects.messages import UnitFacts, UnitRef
from services.export.domain import session
from services.export.domain.completeness import Finding, UnitSite, gaps_of
from services.export.domain.connection import Connection, Unit, UnitKey
from services.export.domain.delivery import OPEN_STATES, Delivery
from services.export.domain.dictionary import tower_dictionary
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.mapping import Proposal, ProposedDevice, in_dialect, problems_of, propose
from services.export.domain.permits import NOTHING
from services.export.mapping_book import read_mapping_book, units_in, write_mapping_book
from services.export.orders import option_books
from services.export.orders import permits as permit_store
from services.export.secrets import Secrets
from services.export.store import connections as connection_store
from services.export.store import deliveries as delivery_store
from services.export.store import mappings as mapping_store
from services.export.store import units as unit_store

REMOVED = "the connection was removed"
"""What is said of everything that ends with a connection."""


class ConnectionExists(Conflict):
    """There is a connection of that id already."""

    code = "connection_exists"
    title_zh = "连接已存在"


class NotProposable(Conflict):
    """A proposal needs facts that the registry does not have."""

    code = "not_proposable"
    title_zh = "无法生成映射建议"


class MasterData(Protocol):
    """What a proposal asks the registry."""

    def site(self, site_id: str) -> Site | None:
        """Return a site."""

    def region(self, region_id: str) -> Region | None:
        """Return a region."""

    def devices_of(self, site_id: str) -> Sequence[Device]:
        """Return a site's devices."""

    def routed(self, site_id: str, connection_id: str) -> bool:
        """Return whether the registry lets a site report over a connection."""

    def profile_points(self, device: Device) -> frozenset[str]:
        """Return the canonical points that the device's profile has."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, for the audit."""

    name: str
    request_id: str | None = None


class Administration:
    """Changes by people and programs."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        master: MasterData,
        dialects: Dialects,
        changed: Callable[[], None],
    ) -> None:
        """Prepare it; ``changed`` is called after every commit, to wake the workers of this process."""
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._master = master
        self.dialects = dialects
        """Those that connections can name."""
        self._changed = changed

    # ---- connections -----------------------------------------------------------------------------

    async def put_connection(
        self, connection: Connection, credentials: Mapping[str, str] | None, actor: Actor, *, create: bool
    ) -> Connection:
        """Create or change a connection; without credentials those that are stored stay.

        Raises:
            ConnectionExists: It is to be created and exists.
            InvalidInput: The dialect is not known, or the address is no HTTP URL.
        """
        dialect = self.dialects.named(connection.dialect)
        connection = _with_path(connection, dialect)
        async with self._db.write() as conn:
            known = await connection_store.fetch_connection(conn, connection.id)
            if create and known is not None:
                raise ConnectionExists(f"connection {connection.id} exists", message_zh=f"连接 {connection.id} 已存在")
            if (
                known is not None
                and known.dialect != connection.dialect
                and await unit_store.fetch_units(conn, known.id)
            ):
                raise Conflict(
                    f"connection {connection.id} has units that speak dialect {known.dialect}",
                    message_zh=f"连接 {connection.id} 下已有使用方言 {known.dialect} 的单元",
                )
            await connection_store.put_connection(
                conn,
                connection,
                credentials=None if not credentials else self._secrets.seal(credentials),
                keep_credentials=credentials is None and known is not None,  # of a removed one nothing counts again
                now=self._clock.now(),
            )
            await self._audit(
                conn, actor, "sc_connection.put", f"sc_connection:{connection.id}", {"url": connection.url}
            )
        self._changed()
        return connection

    async def remove_connection(self, connection_id: str, actor: Actor) -> None:
        """Remove a connection: its units take their leave, what waits for it is given up.

        Its option templates go with it, and its permits end: they were another agreement's than that of a connection
        that is made under its name later.

        Raises:
            NotFound: There is none.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            if not await connection_store.remove_connection(conn, connection_id, now):
                raise _no_connection(connection_id)
            await option_books.remove(conn, connection_id)
            if await permit_store.fetch_current(conn, connection_id) != NOTHING:
                await permit_store.insert(
                    conn, connection_id, NOTHING, source=REMOVED, changed_by=actor.name, changed_at=now
                )
            left = await unit_store.leave_units(conn, connection_id)
            await self._give_up_all(conn, left, REMOVED)
            await self._audit(conn, actor, "sc_connection.remove", f"sc_connection:{connection_id}", None)
        self._changed()

    # ---- units -----------------------------------------------------------------------------------

    async def put_unit(
        self, connection_id: str, ref: UnitRef, *, name: str, sites: Sequence[str], facts: UnitFacts, actor: Actor
    ) -> Unit:
        """Create or change a unit; a new one logs in.

        Raises:
            NotFound: There is no such connection.
            InvalidInput: The ids do not have the dialect's form.
        """
        async with self._db.write() as conn:
            dialect = await self._dialect(conn, connection_id)
            ref = dialect.own_unit(ref)
            for text in (ref.unit_id, *((ref.unit_code,) if dialect.unit_has_code else ())):
                if not dialect.check_unit_id(text):
                    raise InvalidInput(
                        f"unit id {text!r}: {dialect.id_rule}", message_zh=f"单元ID {text!r}:{dialect.id_rule_zh}"
                    )
            key = await unit_store.put_unit(conn, connection_id, ref, name=name, sites=sites, facts=facts)
            unit = await unit_store.fetch_unit_by_key(conn, key)
            await self._audit(conn, actor, "unit.put", f"unit:{ref.unit_id}", {"connection": connection_id})
        self._changed()
        if unit is None:
            raise _no_unit(connection_id, ref.unit_id)
        return unit

    async def remove_unit(self, connection_id: str, unit_id: str, actor: Actor) -> None:
        """Remove a unit: it takes its leave, what waits for it is given up.

        Raises:
            NotFound: There is none.
        """
        async with self._db.write() as conn:
            left = await unit_store.leave_units(conn, connection_id, unit_id)
            if not left:
                raise _no_unit(connection_id, unit_id)
            await self._give_up_all(conn, left, "the unit was removed")
            await self._audit(conn, actor, "unit.remove", f"unit:{unit_id}", {"connection": connection_id})
        self._changed()

    # ---- mappings --------------------------------------------------------------------------------

    async def mapping(self, connection_id: str, unit_id: str) -> UnitMapping:
        """Return a unit's mapping.

        Raises:
            NotFound: There is no such unit.
        """
        async with self._db.read() as conn:
            unit = await unit_store.fetch_unit(conn, connection_id, unit_id)
            if unit is None:
                raise _no_unit(connection_id, unit_id)
            return await mapping_store.fetch_mapping(conn, unit.key)

    async def put_mapping(self, connection_id: str, unit_id: str, mapping: UnitMapping, actor: Actor) -> None:
        """Replace a unit's mapping, whole or not at all.

        Raises:
            NotFound: There is no such unit.
            InvalidInput: Rows are wrong; the message lists every one.
        """
        async with self._db.write() as conn:
            dialect = await self._dialect(conn, connection_id)
            unit = await unit_store.fetch_unit(conn, connection_id, unit_id)
            if unit is None:
                raise _no_unit(connection_id, unit_id)
            mapping = in_dialect(mapping, dialect)
            _refuse(problems_of(mapping, dialect, _known_point), dialect)
            await self._put_mapping(conn, unit, mapping, actor)
        self._changed()

    async def _put_mapping(self, conn: WriteConn, unit: Unit, mapping: UnitMapping, actor: Actor) -> None:
        await unit_store.lock_unit(conn, unit.key)
        await mapping_store.put_mapping(conn, unit.key, mapping)
        await self._audit(
            conn,
            actor,
            "mapping.put",
            f"unit:{unit.ref.unit_id}",
            {"connection": unit.connection_id, "devices": len(mapping.devices), "points": len(mapping.points)},
        )

    async def mapping_book(self, connection_id: str) -> bytes:
        """Return the mappings of all units of a connection as an Excel workbook.

        Raises:
            NotFound: There is no such connection.
        """
        async with self._db.read() as conn:
            if await connection_store.fetch_connection(conn, connection_id) is None:
                raise _no_connection(connection_id)
            units = await unit_store.fetch_units(conn, connection_id)
            mappings = {unit.ref.unit_id: await mapping_store.fetch_mapping(conn, unit.key) for unit in units}
        return await asyncio.to_thread(write_mapping_book, mappings)

    async def put_mapping_book(self, connection_id: str, body: bytes, actor: Actor) -> dict[str, UnitMapping]:
        """Replace the mappings of the units that a workbook names, all of them or none; others stay.

        Returns:
            The mappings by unit id, as they are stored.

        Raises:
            NotFound: There is no such connection.
            InvalidFile, InvalidInput: Rows are wrong; every one is listed with sheet, row and column.
        """
        books = await asyncio.to_thread(read_mapping_book, body, "workbook")
        async with self._db.write() as conn:
            dialect = await self._dialect(conn, connection_id)
            units = {unit.ref.unit_id: unit for unit in await unit_store.fetch_units(conn, connection_id)}
            problems = units_in(books, list(units))
            mappings = {unit_id: in_dialect(book.mapping, dialect) for unit_id, book in books.items()}
            for unit_id, book in books.items():
                wrong = problems_of(mappings[unit_id], dialect, _known_point)
                problems += [book.placed(problem, unit_id) for problem in wrong]
            _refuse(problems, dialect)
            for unit_id in sorted(mappings, key=lambda each: units[each].key):
                await self._put_mapping(conn, units[unit_id], mappings[unit_id], actor)
        self._changed()
        return mappings

    async def gaps(self, connection_id: str, unit_id: str) -> list[Finding]:
        """Return what a unit's mapping lacks or has too much of.

        Raises:
            NotFound: There is no such unit.
            Unavailable: The registry has not been read to its end.
        """
        async with self._db.read() as conn:
            connection = await connection_store.fetch_connection(conn, connection_id)
            unit = await unit_store.fetch_unit(conn, connection_id, unit_id)
            if connection is None or unit is None:
                raise _no_unit(connection_id, unit_id)
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
        sites = [
            UnitSite(
                site_id=site_id,
                known=self._master.site(site_id) is not None,
                routed=self._master.routed(site_id, connection_id),
                devices=self._proposed_devices(site_id),
            )
            for site_id in unit.sites
        ]
        dialect = self.dialects.named(connection.dialect)
        return gaps_of(mapping, sites, tower_dictionary() if dialect.dictionary == "tower" else ())

    async def propose(
        self, connection_id: str, unit_id: str, *, region_code: str | None, station_class: str | None
    ) -> Proposal:
        """Return a mapping for the unit's sites by class, region and the devices' profiles; nothing is stored.

        Args:
            connection_id: The connection.
            unit_id: The unit.
            region_code: Used in place of the site's region.
            station_class: Used in place of the site's class.

        Raises:
            NotFound: There is no such unit.
            NotProposable: The unit has no site, or the site lacks class or region.
        """
        async with self._db.read() as conn:
            connection = await connection_store.fetch_connection(conn, connection_id)
            unit = await unit_store.fetch_unit(conn, connection_id, unit_id)
        if connection is None or unit is None:
            raise _no_unit(connection_id, unit_id)
        if self.dialects.named(connection.dialect).dictionary is None:
            raise NotProposable(
                f"dialect {connection.dialect} has no public dictionary of signals; import the centre's as a workbook",
                message_zh=f"方言 {connection.dialect} 没有公开的信号字典,请用Excel导入监控中心的对照表",
            )
        if not unit.sites:
            raise NotProposable(f"unit {unit_id} has no site", message_zh=f"单元 {unit_id} 未关联局站")
        taken: set[str] = {unit.ref.unit_id}
        parts = []
        for site_id in unit.sites:
            part = self._propose_site(site_id, region_code, station_class, frozenset(taken))
            taken |= {device.ref.device_id for device in part.mapping.devices}
            parts.append(part)
        return Proposal(
            UnitMapping(
                devices=tuple(device for part in parts for device in part.mapping.devices),
                points=tuple(point for part in parts for point in part.mapping.points),
            ),
            tuple(note for part in parts for note in part.notes),
        )

    def _propose_site(
        self, site_id: str, region_code: str | None, station_class: str | None, taken: frozenset[str]
    ) -> Proposal:
        site = self._master.site(site_id)
        if site is None:
            raise NotProposable(f"site {site_id} is not in the registry", message_zh=f"局站 {site_id} 不在台账中")
        region = None if site.region is None else self._master.region(site.region)
        code = region_code or (None if region is None else region.code)
        own_class = None if site.station_class is None else site.station_class.value
        if code is None or (station_class or own_class) is None:
            lacking = "region" if code is None else "station_class"
            raise NotProposable(
                f"site {site_id} has no {lacking}; set it in the registry or give it here",
                message_zh=f"局站 {site_id} 缺少{'行政区划' if code is None else '局站等级'},请在台账中补充或在此给出",
            )
        return propose(
            region_code=code,
            station_class=station_class or own_class or "",
            devices=self._proposed_devices(site_id),
            dictionary=tower_dictionary(),
            taken=taken,
        )

    def _proposed_devices(self, site_id: str) -> list[ProposedDevice]:
        return [
            ProposedDevice(
                device_id=device.id,
                name=device.name_zh or device.name,
                category=device.kind,
                points=self._master.profile_points(device),
            )
            for device in sorted(self._master.devices_of(site_id), key=lambda device: device.id)
        ]

    # ---- deliveries ------------------------------------------------------------------------------

    async def give_up(self, delivery_id: str, reason: str, actor: Actor, sites: Sequence[str] | None) -> Delivery:
        """Give a delivery up; with a BEGIN its END, which the centre could not place.

        Raises:
            NotFound: There is none, or it is at a site outside ``sites``.
            Conflict: It has been delivered or given up already.
        """
        return await self._change_open(
            delivery_id,
            lambda each: session.given_up(each, self._clock.now(), reason),
            actor,
            "delivery.give_up",
            sites,
            with_end=True,
        )

    async def retry(self, delivery_id: str, actor: Actor, sites: Sequence[str] | None) -> Delivery:
        """Try a delivery again now instead of later.

        Raises:
            NotFound, Conflict: As for ``give_up``.
        """
        return await self._change_open(
            delivery_id,
            lambda each: session.due_now(each, self._clock.now()),
            actor,
            "delivery.retry",
            sites,
            with_end=False,
        )

    async def _change_open(
        self,
        delivery_id: str,
        change: Callable[[Delivery], Delivery],
        actor: Actor,
        action: str,
        sites: Sequence[str] | None,
        *,
        with_end: bool,
    ) -> Delivery:
        async with self._db.write() as conn:
            found = {each.id: each for each in await delivery_store.lock_with_end(conn, delivery_id)}
            named = found.get(delivery_id)
            if named is None or (sites is not None and named.site_id not in sites):
                raise NotFound(f"no delivery {delivery_id}", message_zh=f"没有投递记录 {delivery_id}")
            if named.state not in OPEN_STATES:
                raise Conflict(
                    f"delivery {delivery_id} is {named.state.value} already",
                    message_zh=f"投递记录 {delivery_id} 已是 {named.state.value} 状态",
                )
            concerned = list(found.values()) if with_end else [named]
            before = [each for each in concerned if each.state in OPEN_STATES]
            after = [change(each) for each in before]
            await self._save(conn, before, after)
            await self._audit(conn, actor, action, f"delivery:{delivery_id}", {"reason": after[0].error})
        self._changed()
        return next(each for each in after if each.id == delivery_id)

    async def _give_up_all(self, conn: WriteConn, keys: Sequence[UnitKey], reason: str) -> None:
        before = await delivery_store.lock_open_of_units(conn, keys)
        await self._save(conn, before, [session.given_up(each, self._clock.now(), reason) for each in before])

    async def _save(self, conn: WriteConn, before: Sequence[Delivery], after: Sequence[Delivery]) -> None:
        await delivery_store.save_attempts(conn, after)
        changed = [new for old, new in zip(before, after, strict=True) if old.state is not new.state]
        assert all(each.state is DeliveryState.GIVEN_UP for each in changed)  # noqa: S101 - a person can only do that
        await outbox.put(conn, [bus.delivery_event(each, at=self._clock.now()) for each in changed])

    async def _dialect(self, conn: WriteConn, connection_id: str) -> Dialect:
        connection = await connection_store.fetch_connection(conn, connection_id)
        if connection is None:
            raise _no_connection(connection_id)
        return self.dialects.named(connection.dialect)

    async def _audit(
        self, conn: WriteConn, actor: Actor, action: str, subject: str, after: Mapping[str, object] | None
    ) -> None:
        message = bus.change_audited(
            actor.name, action, subject, after=after, request_id=actor.request_id, at=self._clock.now()
        )
        await outbox.put(conn, [message])


def _refuse(problems: Sequence[Problem], dialect: Dialect) -> None:
    """Refuse a mapping that is wrong; every place is told."""
    if not problems:
        return
    shown = "; ".join(str(problem).strip() for problem in problems[:20])
    raise InvalidInput(
        f"mapping: {len(problems)} problem(s), nothing was changed: {shown}",
        message_zh=f"映射有 {len(problems)} 处错误,未作修改({dialect.id_rule_zh}):{shown}",
        problems=[problem.as_dict() for problem in problems],
    )


def _parts(url: str) -> SplitResult | None:
    """Return the parts of an address that can be called, None of any other."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.port != 0 and parts.username is None
        (parts.hostname or "").encode("idna")
    except ValueError:  # no port, no IPv6, no name: urlsplit looks at each only when asked
        return None
    return parts if usable and parts.hostname and re.search(r"\s", url) is None else None


def _with_path(connection: Connection, dialect: Dialect) -> Connection:
    """Return the connection with the dialect's own path where the address has none."""
    parts = _parts(connection.url)
    if parts is None:
        raise InvalidInput(
            f"url: expected http://host:port/path without an account, found {connection.url!r}",
            message_zh=f"url 应为不含账号的 http://主机:端口/路径,实为 {connection.url!r}",
        )
    path = parts.path if parts.path not in ("", "/") else dialect.centre.path
    return Connection(
        id=connection.id,
        name=connection.name,
        dialect=connection.dialect,
        url=urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")),
        options=connection.options,
        enabled=connection.enabled,
    )


def _known_point(name: str) -> bool:
    return is_point_name(name)


def _no_connection(connection_id: str) -> NotFound:
    return NotFound(f"no SC connection {connection_id}", message_zh=f"没有SC连接 {connection_id}")


def _no_unit(connection_id: str, unit_id: str) -> NotFound:
    return NotFound(
        f"connection {connection_id} has no unit {unit_id}", message_zh=f"连接 {connection_id} 下没有单元 {unit_id}"
    )
