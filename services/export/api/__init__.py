"""The REST API of export: SC connections, units, mappings, deliveries."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as ApiPath
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from libs.common.contracts.base import Flag, Network
from libs.common.contracts.delivery import DeliveryState
from libs.common.db import Database
from libs.common.errors import Forbidden, NotFound
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_time_cursor, require, time_cursor
from libs.common.workbook import MEDIA_TYPE
from services.export.dialects import Dialect
from services.export.dialects.base import Evidence
from services.export.dialects.messages import DeviceDetail, DeviceRef, PointType, UnitFacts, UnitRef
from services.export.domain.completeness import TEXTS_ZH, Gap
from services.export.domain.connection import Connection, ConnectionId, ConnectionOptions, Phase, Unit, service_url
from services.export.domain.delivery import Delivery, Step
from services.export.domain.mapping import MappedDevice, MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.store import connections as connection_store
from services.export.store import deliveries as delivery_store
from services.export.store import mappings as mapping_store
from services.export.store import units as unit_store
from services.export.usecases.administration import Actor, Administration

ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_DEFAULT = ConnectionOptions()

Reader = Annotated[Principal, Depends(require("export:read"))]
Writer = Annotated[Principal, Depends(require("export:write"))]
Admin = Annotated[Principal, Depends(require("export:admin"))]


class SiteTree(Protocol):
    """Which sites a user's limits mean."""

    def sites_within(self, limits: Sequence[str]) -> list[str]:
        """Return the sites of limits such as ``region:440100``."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OptionsBody(_Body):
    """How to deal with one centre; what is left out keeps its default."""

    login_interval_s: float | None = Field(
        default=None, gt=0, le=86400, description="between two LOGINs of a unit; default: the dialect's (T: 180)"
    )
    timeout_s: float = Field(default=_DEFAULT.timeout_s, gt=0, le=120, description="for one call")
    batch_size: int = Field(default=_DEFAULT.batch_size, ge=1, le=500, description="alarms in one message")
    concurrency: int = Field(default=_DEFAULT.concurrency, ge=1, le=200, description="units at the same time")
    logins_per_s: float = Field(default=_DEFAULT.logins_per_s, gt=0, le=1000, description="LOGINs are spread to this")
    push_values_s: float = Field(
        default=_DEFAULT.push_values_s,
        ge=1,
        le=86_400,
        description="latest values are pushed so often, in dialects whose units push them (U)",
    )
    silence_s: float | None = Field(
        default=_DEFAULT.silence_s,
        gt=0,
        le=30 * 86400,
        description="nothing heard for this long is a lost connection; null: never",
    )
    failures_to_lost: int = Field(default=_DEFAULT.failures_to_lost, ge=1, le=1000)
    retry_first_s: float = Field(default=_DEFAULT.retry_first_s, gt=0, le=3600)
    retry_cap_s: float = Field(default=_DEFAULT.retry_cap_s, gt=0, le=86400)
    time_tolerance_s: float = Field(default=_DEFAULT.time_tolerance_s, gt=0, le=86400)
    allow_write_registration: Flag = Field(
        default=False, description="whether the centre may move its units to another address (SET_LOGININFO)"
    )
    peers: tuple[Network, ...] = Field(default=(), description="networks the centre polls from")

    def options(self) -> ConnectionOptions:
        """Return the domain's options."""
        plain = self.model_dump(exclude={"peers"})
        return ConnectionOptions(**plain, peers=tuple(str(each) for each in self.peers))


class AccountBody(_Body):
    """Account at the centre; never given back."""

    username: str = Field(max_length=200)
    password: SecretStr = Field(max_length=200)


class ConnectionBody(_Body):
    """A supervision centre."""

    name: str = Field(min_length=1, max_length=200)
    dialect: str = Field(default="T", description="variant of the B interface")
    url: str = Field(max_length=500, description="registration address, such as http://10.20.0.1:8080")
    options: OptionsBody = OptionsBody()
    enabled: Flag = True
    account: AccountBody | None = Field(default=None, description="absent: the stored one stays")

    def connection(self, connection_id: str) -> Connection:
        """Return the domain's connection."""
        return Connection(
            id=ConnectionId(connection_id),
            name=self.name,
            dialect=self.dialect,
            url=self.url,
            options=self.options.options(),
            enabled=self.enabled,
        )

    def credentials(self) -> dict[str, str] | None:
        """Return the account in plain, None when none was given."""
        if self.account is None:
            return None
        return {"username": self.account.username, "password": self.account.password.get_secret_value()}


class NewConnectionBody(ConnectionBody):
    """A supervision centre with its id."""

    id: str = Field(pattern=ID)


class FactsBody(_Body):
    """What a unit says of itself when it registers; what is left out is export's own."""

    address: str | None = Field(default=None, max_length=45, description="where the centre reaches the unit")
    port: int | None = Field(default=None, ge=1, le=65535)
    mac: str = Field(default="", max_length=17)
    imsi: str = Field(default="", max_length=15)
    network_type: str = Field(default="4G", max_length=20)
    locked_network_type: str = Field(default="LTE", max_length=20)
    carrier: str = Field(default="CT", max_length=20)
    modem_vendor: str = Field(default="", max_length=20)
    modem_type: str = Field(default="", max_length=20)
    registration_mode: str = Field(default="2", pattern="^[12]?$")
    vendor: str = Field(default="WATTRING", max_length=20)
    type: str = Field(default="WATTRING-SU", max_length=20)
    unit_class: str = Field(default="INTSTAN", max_length=20)
    version: str = Field(default="1.0", max_length=20)
    dictionary_version: str = Field(default="2", pattern="^[12]$")


class UnitBody(_Body):
    """A unit towards a centre."""

    unit_code: str | None = Field(default=None, description="second id where the dialect has one; default: the id")
    name: str = Field(min_length=1, max_length=200)
    sites: tuple[str, ...] = Field(default=(), description="sites it speaks for; the first stands for the unit")
    facts: FactsBody = FactsBody()


class UnitView(BaseModel):
    """A unit and its session."""

    unit_id: str
    unit_code: str
    name: str
    sites: tuple[str, ...]
    phase: Phase
    phase_zh: str
    assigned_address: str | None
    events_to: str
    right: int | None
    last_login_at: datetime | None
    logged_in_at: datetime | None
    heard_at: datetime | None
    error: str | None
    clock_skew_s: float | None


PHASES_ZH = {
    Phase.NEW: "未注册",
    Phase.REGISTERED: "已注册",
    Phase.REFUSED: "被拒绝",
    Phase.LOST: "连接中断",
    Phase.LEAVING: "注销中",
    Phase.LEFT: "已注销",
}


class ConnectionView(BaseModel):
    """A connection with its units; without its account."""

    id: str
    name: str
    dialect: str
    url: str
    options: OptionsBody
    enabled: bool
    units: list[UnitView]


class MappedDeviceBody(_Body):
    """A device as the centre knows it."""

    device_id: str
    device_code: str | None = Field(default=None, description="default: the id")
    name: str = ""
    details: dict[DeviceDetail, Annotated[str, Field(max_length=200)]] = Field(
        default={}, max_length=len(DeviceDetail),
        description="what else the centre is told of it, in its own words (dialect M: GET_DEV_CONF)",
    )  # fmt: skip


class MappedPointBody(_Body):
    """One row of a mapping."""

    device_id: str = Field(description="our device")
    kind: SourceKind
    source: str = Field(description="canonical point, or code of the signal table")
    sc_device_id: str
    point_id: str
    type: PointType
    name: str | None = None
    level: int | None = None
    network_alarm: str | None = Field(
        default=None, max_length=40, description="id of the alarm in the network's own table (dialect M: NMAlarmID)"
    )


class MappingBody(_Body):
    """All of one unit."""

    devices: tuple[MappedDeviceBody, ...]
    points: tuple[MappedPointBody, ...]

    def mapping(self) -> UnitMapping:
        """Return the domain's mapping."""
        return UnitMapping(
            devices=tuple(
                MappedDevice(
                    ref=DeviceRef(each.device_id, each.device_code or each.device_id),
                    name=each.name,
                    details={name: text for name, text in each.details.items() if text},
                )
                for each in self.devices
            ),
            points=tuple(MappedPoint(**each.model_dump()) for each in self.points),
        )


class MappingSize(BaseModel):
    """How much of a unit is mapped."""

    connection_id: str
    unit_id: str
    devices: int
    points: int


class GapView(BaseModel):
    """Something about a mapping that somebody should look at."""

    gap: Gap
    text_zh: str
    subject: str = Field(description="site, device or point that is meant")


class CommandView(BaseModel):
    """One command of a dialect."""

    name: str
    code: int | None
    operation: str
    answered: bool = Field(description="false: known, and refused")
    evidence: Evidence = Field(description="how its shape is known; reconstructed: to be confirmed by the centre")
    reason: str


class PartView(BaseModel):
    """A part of a dialect besides its commands: services, ids, words, registration."""

    part: str
    evidence: Evidence
    reason: str


class DialectView(BaseModel):
    """A variant of the B interface that connections can name."""

    name: str
    title: str
    evidence: Evidence
    reason: str
    ids: str
    ids_zh: str
    unit_path: str
    parts: list[PartView]
    commands: list[CommandView]


class ProposalBody(_Body):
    """What a proposal takes in place of the registry's facts."""

    region_code: str | None = Field(default=None, pattern=r"^[0-9]{6}$")
    station_class: str | None = Field(default=None, pattern="^[A-E]$")


class ProposalView(BaseModel):
    """A mapping to start from."""

    mapping: MappingBody
    notes: list[str]


class DeliveryView(BaseModel):
    """One end of one alarm on its way to a centre."""

    id: str
    connection_id: str
    unit_id: str
    alarm_id: str
    event_id: str
    site_id: str
    device_id: str | None
    step: Step
    serial: str
    sc_device_id: str
    point_id: str
    level: int
    at: datetime
    text: str
    state: DeliveryState
    attempts: int
    queued_at: datetime
    next_attempt_at: datetime | None
    finished_at: datetime | None
    error: str | None


class GiveUpBody(_Body):
    """Why a delivery need not arrive."""

    reason: str = Field(min_length=1, max_length=500)


def build_router(administration: Administration, db: Database, tree: SiteTree) -> APIRouter:
    """Return the endpoints."""
    router = APIRouter(prefix="/api/v1")
    router.include_router(_connections(administration, db))
    router.include_router(_mappings(administration, db))
    router.include_router(_deliveries(administration, db, tree))
    return router


def _connections(administration: Administration, db: Database) -> APIRouter:
    router = APIRouter(prefix="/sc-connections", tags=["sc-connections"])

    @router.get("")
    async def list_connections(_: Reader) -> list[ConnectionView]:
        """List the supervision centres and the units towards them."""
        async with db.read() as conn:
            return [
                _connection_view(each, await unit_store.fetch_units(conn, each.id))
                for each in await connection_store.fetch_connections(conn)
                if not each.removed
            ]

    @router.post("", status_code=201)
    async def create_connection(body: NewConnectionBody, who: Admin, request: Request) -> ConnectionView:
        """Connect a supervision centre; its units log in as soon as they are added."""
        _unlimited(who)
        connection = await administration.put_connection(
            body.connection(body.id), body.credentials(), _actor(who, request), create=True
        )
        return _connection_view(connection, [])

    @router.get("/dialects")
    async def list_dialects(_: Reader) -> list[DialectView]:
        """List the variants of the B interface that can be spoken, and what in each is reconstructed."""
        return [_dialect_view(each) for each in administration.dialects]

    @router.get("/{connection_id}")
    async def get_connection(connection_id: str, _: Reader) -> ConnectionView:
        """Return one supervision centre and the units towards it."""
        async with db.read() as conn:
            connection = await connection_store.fetch_connection(conn, connection_id)
            if connection is None:
                raise NotFound(f"no SC connection {connection_id}", message_zh=f"没有SC连接 {connection_id}")
            return _connection_view(connection, await unit_store.fetch_units(conn, connection_id))

    @router.put("/{connection_id}")
    async def put_connection(
        connection_id: Annotated[str, Field(pattern=ID)], body: ConnectionBody, who: Admin, request: Request
    ) -> ConnectionView:
        """Create or change a supervision centre."""
        _unlimited(who)
        connection = await administration.put_connection(
            body.connection(connection_id), body.credentials(), _actor(who, request), create=False
        )
        async with db.read() as conn:
            return _connection_view(connection, await unit_store.fetch_units(conn, connection_id))

    @router.delete("/{connection_id}", status_code=204)
    async def remove_connection(connection_id: str, who: Admin, request: Request) -> Response:
        """Remove a supervision centre: its units log out, what waits for it is given up."""
        _unlimited(who)
        await administration.remove_connection(connection_id, _actor(who, request))
        return Response(status_code=204)

    @router.put("/{connection_id}/units/{unit_id}")
    async def put_unit(connection_id: str, unit_id: str, body: UnitBody, who: Admin, request: Request) -> UnitView:
        """Create or change a unit; a new one logs in."""
        _unlimited(who)
        settings: UnitFacts = request.app.state.own_facts
        given = body.facts.model_dump(exclude={"address", "port"})
        facts = UnitFacts(
            **given, address=body.facts.address or settings.address, port=body.facts.port or settings.port
        )
        unit = await administration.put_unit(
            connection_id,
            UnitRef(unit_id, body.unit_code or unit_id),
            name=body.name,
            sites=body.sites,
            facts=facts,
            actor=_actor(who, request),
        )
        async with db.read() as conn:
            connection = await connection_store.fetch_connection(conn, connection_id)
        if connection is None:
            raise NotFound(f"no SC connection {connection_id}", message_zh=f"没有SC连接 {connection_id}")
        return _unit_view(connection, unit)

    @router.delete("/{connection_id}/units/{unit_id}", status_code=204)
    async def remove_unit(connection_id: str, unit_id: str, who: Admin, request: Request) -> Response:
        """Remove a unit: it logs out, what waits for it is given up."""
        _unlimited(who)
        await administration.remove_unit(connection_id, unit_id, _actor(who, request))
        return Response(status_code=204)

    return router


def _mappings(administration: Administration, db: Database) -> APIRouter:
    router = APIRouter(prefix="/mappings", tags=["mappings"])

    @router.get("")
    async def list_mappings(_: Reader) -> list[MappingSize]:
        """List how much of each unit is mapped."""
        async with db.read() as conn:
            sizes = await mapping_store.mapping_sizes(conn)
        return [MappingSize(connection_id=c, unit_id=u, devices=d, points=p) for c, u, d, p in sizes]

    @router.get("/{connection_id}.xlsx", response_class=Response,
                responses={200: {"content": {MEDIA_TYPE: {}}, "description": "the workbook"}})  # fmt: skip
    async def get_mapping_book(connection_id: Annotated[str, ApiPath(pattern=ID)], who: Reader) -> Response:
        """Return the mappings of all units of a connection as a workbook that can be changed and put back."""
        _unlimited(who)
        body = await administration.mapping_book(connection_id)
        headers = {"content-disposition": f'attachment; filename="mappings-{connection_id}.xlsx"'}
        return Response(body, media_type=MEDIA_TYPE, headers=headers)

    @router.put("/{connection_id}.xlsx", openapi_extra={
        "requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
    })  # fmt: skip
    async def put_mapping_book(
        connection_id: Annotated[str, ApiPath(pattern=ID)], who: Admin, request: Request
    ) -> list[MappingSize]:
        """Replace the mappings of the units that a workbook names, all of them or none."""
        _unlimited(who)
        stored = await administration.put_mapping_book(connection_id, await request.body(), _actor(who, request))
        return [
            MappingSize(connection_id=connection_id, unit_id=unit_id, devices=len(one.devices), points=len(one.points))
            for unit_id, one in stored.items()
        ]

    @router.get("/{connection_id}/{unit_id}/gaps")
    async def get_gaps(connection_id: str, unit_id: str, who: Reader) -> list[GapView]:
        """Return what a unit's mapping lacks or has too much of, compared with the registry and the profiles."""
        _unlimited(who)
        found = await administration.gaps(connection_id, unit_id)
        return [GapView(gap=each.gap, text_zh=TEXTS_ZH[each.gap], subject=each.subject) for each in found]

    @router.get("/{connection_id}/{unit_id}")
    async def get_mapping(connection_id: str, unit_id: str, _: Reader) -> MappingBody:
        """Return a unit's mapping."""
        return _mapping_body(await administration.mapping(connection_id, unit_id))

    @router.put("/{connection_id}/{unit_id}")
    async def put_mapping(
        connection_id: str, unit_id: str, body: MappingBody, who: Admin, request: Request
    ) -> MappingBody:
        """Replace a unit's mapping, whole or not at all."""
        _unlimited(who)
        mapping = body.mapping()
        await administration.put_mapping(connection_id, unit_id, mapping, _actor(who, request))
        return _mapping_body(mapping)

    @router.post("/{connection_id}/{unit_id}/proposal")
    async def propose_mapping(connection_id: str, unit_id: str, body: ProposalBody, _: Reader) -> ProposalView:
        """Propose a mapping from the sites' class and region and the devices' profiles; nothing is stored."""
        proposal = await administration.propose(
            connection_id, unit_id, region_code=body.region_code, station_class=body.station_class
        )
        return ProposalView(mapping=_mapping_body(proposal.mapping), notes=list(proposal.notes))

    return router


def _deliveries(administration: Administration, db: Database, tree: SiteTree) -> APIRouter:
    router = APIRouter(prefix="/deliveries", tags=["deliveries"])

    def sites_of(who: Principal) -> list[str] | None:
        return None if who.sites is None else tree.sites_within(who.sites)

    @router.get("")
    async def list_deliveries(
        who: Reader,
        connection: str | None = None,
        unit: str | None = None,
        site: str | None = None,
        state: DeliveryState | None = None,
        alarm: str | None = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[DeliveryView]:
        """List what centres were or are to be told, newest first."""
        async with db.read() as conn:
            found = await delivery_store.list_deliveries(
                conn,
                connection_id=connection,
                unit_id=unit,
                site_id=site,
                state=None if state is None else state.value,
                alarm_id=alarm,
                sites=sites_of(who),
                before=None if cursor is None else read_time_cursor(cursor),
                limit=limit + 1,
            )
        last = found[limit - 1][0] if len(found) > limit else None
        return Page(
            items=[_delivery_view(delivery, unit) for delivery, unit in found[:limit]],
            next_cursor=None if last is None else time_cursor(last.queued_at, last.id),
        )

    @router.post("/{delivery_id}/retry")
    async def retry_delivery(delivery_id: str, who: Writer, request: Request) -> DeliveryState:
        """Try a delivery again now."""
        return (await administration.retry(delivery_id, _actor(who, request), sites_of(who))).state

    @router.post("/{delivery_id}/give-up")
    async def give_up_delivery(delivery_id: str, body: GiveUpBody, who: Writer, request: Request) -> DeliveryState:
        """Give a delivery up; with a BEGIN its END."""
        return (await administration.give_up(delivery_id, body.reason, _actor(who, request), sites_of(who))).state

    return router


def _unlimited(who: Principal) -> None:
    """Centres serve the whole installation: somebody who may see a part of it only cannot change them."""
    if who.sites is not None:
        raise Forbidden(
            "only somebody who may see every site can change SC connections",
            message_zh="仅可管理全部局站的用户可以修改SC连接",
        )


def _actor(who: Principal, request: Request) -> Actor:
    return Actor(f"{who.kind}:{who.subject}", request.headers.get("x-request-id"))


def _connection_view(connection: Connection, units: Sequence[Unit]) -> ConnectionView:
    options = {name: getattr(connection.options, name) for name in OptionsBody.model_fields}
    return ConnectionView(
        id=connection.id,
        name=connection.name,
        dialect=connection.dialect,
        url=connection.url,
        options=OptionsBody.model_validate(options),
        enabled=connection.enabled,
        units=[_unit_view(connection, unit) for unit in units],
    )


def _dialect_view(dialect: Dialect) -> DialectView:
    return DialectView(
        name=dialect.name,
        title=dialect.title,
        evidence=dialect.evidence,
        reason=dialect.reason,
        ids=dialect.id_rule,
        ids_zh=dialect.id_rule_zh,
        unit_path=dialect.unit.path,
        parts=[PartView(part=each.part, evidence=each.evidence, reason=each.reason) for each in dialect.marks],
        commands=[
            CommandView(
                name=each.name,
                code=each.code,
                operation=each.operation.value,
                answered=each.request is not None,
                evidence=each.evidence,
                reason=each.reason or dialect.reason,
            )
            for each in dialect.commands
        ],
    )


def _unit_view(connection: Connection, unit: Unit) -> UnitView:
    return UnitView(
        unit_id=unit.ref.unit_id,
        unit_code=unit.ref.unit_code,
        name=unit.name,
        sites=unit.sites,
        phase=unit.phase,
        phase_zh=PHASES_ZH[unit.phase],
        assigned_address=unit.assigned_address,
        events_to=service_url(connection, unit.assigned_address),
        right=unit.right,
        last_login_at=unit.last_login_at,
        logged_in_at=unit.logged_in_at,
        heard_at=unit.heard_at,
        error=unit.error,
        clock_skew_s=unit.clock_skew_s,
    )


def _mapping_body(mapping: UnitMapping) -> MappingBody:
    return MappingBody(
        devices=tuple(
            MappedDeviceBody(
                device_id=each.ref.device_id,
                device_code=each.ref.device_code or None,
                name=each.name,
                details=dict(each.details),
            )
            for each in mapping.devices
        ),
        points=tuple(
            MappedPointBody(
                device_id=each.device_id,
                kind=each.kind,
                source=each.source,
                sc_device_id=each.sc_device_id,
                point_id=each.point_id,
                type=each.type,
                name=each.name,
                level=each.level,
                network_alarm=each.network_alarm,
            )
            for each in mapping.points
        ),
    )


def _delivery_view(delivery: Delivery, unit_id: str) -> DeliveryView:
    return DeliveryView(
        id=delivery.id,
        connection_id=delivery.connection_id,
        unit_id=unit_id,
        alarm_id=delivery.alarm_id,
        event_id=delivery.event_id,
        site_id=delivery.site_id,
        device_id=delivery.device_id,
        step=delivery.step,
        serial=f"{delivery.serial:010d}",
        sc_device_id=delivery.sc_device.device_id,
        point_id=delivery.point_id,
        level=delivery.level,
        at=delivery.at,
        text=delivery.text,
        state=delivery.state,
        attempts=delivery.attempts,
        queued_at=delivery.queued_at,
        next_attempt_at=delivery.next_attempt_at,
        finished_at=delivery.finished_at,
        error=delivery.error,
    )
