"""Master data: what there is, where, and what it is connected to, with the history of all of it.

A record on the compacted topic carries every version of one entity, so that a reader can answer for any
time in the past: replacements, ratio changes and moves are new versions with their own validity.
Versions are half-open, ``[valid_from, valid_to)``; an open end is absent.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar
from zoneinfo import ZoneInfo

import orjson
from pydantic import ConfigDict, Discriminator, Field, TypeAdapter, field_validator, model_validator

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.base import CalendarDate, Code, EntityKey, Number, Payload, UtcTime
from libs.common.errors import WrongValue
from libs.common.ids import (
    CircuitId,
    DeviceId,
    LineId,
    OrganisationId,
    RegionId,
    RoomId,
    SimId,
    SiteId,
)

Archive = Mapping[
    Annotated[str, Field(pattern=r"^t[1-6]_[a-z_]{1,40}$")], Annotated[str, Field(min_length=1, max_length=500)]
]
"""What others have on file, by table and item of the data-access standard: ``t2_nature_of_use``. Of what has a field of
its own the field is the truth."""


class EntityKind(StrEnum):
    """The kinds of entities."""

    REGION = "region"
    ORGANISATION = "organisation"
    SITE = "site"
    ROOM = "room"
    LINE = "line"
    SIM = "sim"
    DEVICE = "device"
    CIRCUIT = "circuit"
    BINDING = "binding"
    LOAD = "load"


class EntityState(StrEnum):
    """Whether the entity is there; a removed one keeps its history."""

    ACTIVE = "active"
    REMOVED = "removed"


class Entity(Payload):
    """One version of an entity: what was so from ``valid_from`` until ``valid_to``."""

    kind_of: ClassVar[EntityKind]
    """Which kind the class describes."""

    id: EntityKey
    name: str = Field(min_length=1)
    valid_from: UtcTime
    version: int = Field(ge=1)
    """Counts the changes of the entity; a correction of the past takes the next number too."""
    changed_by: str
    """``user:<name>``, ``key:<id>``, ``service:<name>`` or ``import:<file>``."""
    name_zh: str | None = None
    valid_to: UtcTime | None = None
    """Absent while it holds."""
    state: EntityState = EntityState.ACTIVE
    tags: tuple[str, ...] = ()
    """Free groups, for plans, rules and reports."""

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise WrongValue("valid_to after valid_from", "valid_to 晚于 valid_from")
        return self

    def holds_at(self, when: datetime) -> bool:
        """Return whether this version is the truth at that time."""
        return self.valid_from <= when and (self.valid_to is None or when < self.valid_to)


class RegionLevel(StrEnum):
    """Level of an administrative region."""

    PROVINCE = "province"
    CITY = "city"
    DISTRICT = "district"


class Region(Entity):
    """A province, city or district."""

    kind_of: ClassVar[EntityKind] = EntityKind.REGION

    code: str = Field(pattern=r"^[0-9]{6}$")
    """Code of GB/T 2260."""
    parent: RegionId | None = None

    @property
    def level(self) -> RegionLevel:
        """The level, which the code tells: 440000 is a province, 440100 a city, 440106 a district."""
        if self.code.endswith("0000"):
            return RegionLevel.PROVINCE
        return RegionLevel.CITY if self.code.endswith("00") else RegionLevel.DISTRICT


class OrganisationKind(StrEnum):
    """What an organisation is."""

    OPERATOR = "operator"
    ENTERPRISE = "enterprise"
    INSTITUTION = "institution"
    ENERGY_SERVICE_COMPANY = "energy_service_company"


class Organisation(Entity):
    """An organisation or a part of one."""

    kind_of: ClassVar[EntityKind] = EntityKind.ORGANISATION

    kind: OrganisationKind
    parent: OrganisationId | None = None
    archive: Archive | None = None


class SiteKind(StrEnum):
    """What a site is."""

    EXCHANGE = "exchange"
    BASE_STATION = "base_station"
    ACCESS_ROOM = "access_room"
    INDOOR = "indoor"
    BUSINESS_HALL = "business_hall"
    IDC = "idc"
    BUILDING = "building"
    PARK = "park"


class StationClass(StrEnum):
    """Importance of a station; which classes a signal dictionary has is its configuration's matter."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"
    E = "E"


class Site(Entity):
    """A place with an electricity account."""

    kind_of: ClassVar[EntityKind] = EntityKind.SITE

    code: str = Field(min_length=1)
    """Station code (局站编码)."""
    kind: SiteKind
    station_class: StationClass | None = None
    region: RegionId | None = None
    organisation: OrganisationId | None = None
    address: str | None = None
    lon: Number | None = Field(default=None, ge=-180, le=180)
    lat: Number | None = Field(default=None, ge=-90, le=90)
    timezone: str = CIVIL_ZONE.key
    """IANA name."""
    account_number: str | None = None
    """Electricity account."""
    area_m2: Number | None = Field(default=None, ge=0)
    persons: int | None = Field(default=None, ge=0)
    sc_routing: tuple[str, ...] = ()
    """Ids of the SC connections it reports to; empty is local only."""
    archive: Archive | None = None

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as exc:
            raise WrongValue("an IANA time zone such as Asia/Shanghai", "IANA 时区名,如 Asia/Shanghai") from exc
        return value


class Room(Entity):
    """A room within a site."""

    kind_of: ClassVar[EntityKind] = EntityKind.ROOM

    site: SiteId
    code: str = Field(min_length=1)


class CircuitRole(StrEnum):
    """What a circuit feeds or carries; PUE and balances follow from it."""

    SITE_FEED = "site_feed"
    ROOM_FEED = "room_feed"
    IT_OUTPUT = "it_output"
    COOLING = "cooling"
    GENERATOR = "generator"
    PV = "pv"
    LOAD = "load"
    OTHER = "other"


class Circuit(Entity):
    """A metered branch, of a site or of one of its rooms."""

    kind_of: ClassVar[EntityKind] = EntityKind.CIRCUIT

    level: int = Field(ge=1, le=9)
    """Metering level: 1 whole unit, 2 main line, 3 key equipment, 4 and more finer."""
    role: CircuitRole
    site: SiteId | None = None
    room: RoomId | None = None
    parent: CircuitId | None = None
    rated_power_kw: Number | None = Field(default=None, gt=0)
    """Without it no rollover or spike test is made."""
    transformer: str | None = None
    line: str | None = None
    """Name of the supplying power line, for its load rate; not a communication line."""
    archive: Archive | None = None

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.site is None and self.room is None:
            raise WrongValue("site or room", "site 或 room 至少其一")
        return self


class LineKind(StrEnum):
    """How a line is reached."""

    TCP = "tcp"
    RTU_OVER_TCP = "rtu_over_tcp"
    SERIAL = "serial"
    DTU = "dtu"
    AEP = "aep"
    MQTT = "mqtt"
    OPCUA = "opcua"
    IEC104 = "iec104"
    IEC103 = "iec103"
    IEC101 = "iec101"
    CDT = "cdt"
    IEC61850 = "iec61850"
    PUSH = "push"
    PULL = "pull"
    FILE = "file"
    MANUAL = "manual"


class Line(Entity):
    """What one ingest process owns at a time: a serial pair, a gateway port, a connection, a platform."""

    kind_of: ClassVar[EntityKind] = EntityKind.LINE

    kind: LineKind
    endpoint: str
    """``host:port``, a serial device, a registration packet, a URL or a topic, by kind."""
    credentials_ref: str | None = None
    """Name of a stored secret; never the secret."""
    pacing_ms: Number | None = Field(default=None, ge=0)
    """Silence kept between two requests. [ms]"""
    settings: Mapping[str, bool | int | float | str] | None = None
    """Of the kind: baud and parity, Modbus timeout, common address …"""


class Sim(Entity):
    """A SIM card."""

    kind_of: ClassVar[EntityKind] = EntityKind.SIM

    iccid: str = Field(pattern=r"^[0-9A-Fa-f]{19,20}$")
    imsi: str | None = Field(default=None, pattern=r"^[0-9]{15}$")
    msisdn: str | None = Field(default=None, pattern=r"^[0-9]{11,15}$")
    imei_bound: str | None = Field(default=None, pattern=r"^[0-9]{14,16}$")
    product: str | None = None
    expires_on: CalendarDate | None = None


class Device(Entity):
    """A meter, breaker, switch, sensor or gateway; or one circuit of a device with several."""

    kind_of: ClassVar[EntityKind] = EntityKind.DEVICE

    kind: Code
    """Category of the profile: ``meter_3p``, ``breaker``, ``relay``, ``gateway`` …"""
    site: SiteId
    serial: str | None = None
    """IMEI or meter number."""
    profile: str | None = None
    """Name of a device profile; absent for a device without points of its own, such as a gateway."""
    profile_version: str | None = None
    """Absent: the newest."""
    room: RoomId | None = None
    line: LineId | None = None
    address: str | None = None
    """On its line: Modbus unit id, DL/T 645 address, platform device id …"""
    ct_ratio: Number = Field(default=1.0, gt=0)
    pt_ratio: Number = Field(default=1.0, gt=0)
    installed_at: UtcTime | None = None
    decommissioned_at: UtcTime | None = None
    sim: SimId | None = None
    parent: DeviceId | None = None
    """The device that this is a circuit of, or the gateway it hangs on."""
    channel: int | None = Field(default=None, ge=1)
    """Which circuit of the parent."""
    period_s: Number | None = Field(default=None, gt=0)
    """How often it is polled or reports; absent: what its line or product says. [s]"""
    command_latency_s: Number | None = Field(default=None, ge=0)
    """How long a command may take to reach it, for sleeping devices. [s]"""


class Binding(Entity):
    """A device's channel measures a circuit while this holds; a replacement ends one and begins another."""

    kind_of: ClassVar[EntityKind] = EntityKind.BINDING

    device: DeviceId
    circuit: CircuitId
    channel: int = Field(default=1, ge=1)
    initial_register: Number | None = None
    """Energy register when it began, as the meter shows it. [kWh]"""
    final_register: Number | None = None
    """Energy register when it ended, as the meter shows it. [kWh]"""


class LoadKind(StrEnum):
    """What control switches."""

    AAU = "aau"
    RRU = "rru"
    LIGHTING = "lighting"
    AIR_CONDITIONER = "air_conditioner"
    SOCKET = "socket"
    OTHER = "other"

    @property
    def is_radio(self) -> bool:
        """Whether coverage depends on it."""
        return self in (LoadKind.AAU, LoadKind.RRU)


class BreakerRef(Payload):
    """The switch of a load."""

    device: DeviceId
    channel: int | None = Field(default=None, ge=1)
    """Of a relay board; absent for a device that is one switch."""


class Load(Entity):
    """What control may switch."""

    kind_of: ClassVar[EntityKind] = EntityKind.LOAD

    kind: LoadKind
    site: SiteId
    network_element_id: str | None = None
    """Of the radio network, for traffic and upstream apps."""
    sector: str | None = None
    coverage_layer: bool | None = None
    """Belongs to the layer that keeps coverage; absent is unknown and treated as yes."""
    rated_power_kw: Number | None = Field(default=None, gt=0)
    breaker: BreakerRef | None = None
    meter: CircuitId | None = None
    """The circuit whose meter proves the switching."""
    never_off: bool = False

    @property
    def plan_obstacle(self) -> str | None:
        """Why it cannot enter a plan, None when it can."""
        if self.never_off:
            return "never_off"
        if self.breaker is None:
            return "no_breaker"
        if self.kind.is_radio and self.sector is None:
            return "no_sector"
        return None


E = TypeVar("E", bound=Entity)


class RecordOf(Payload, Generic[E]):
    """Everything about one entity: its state and all its versions, oldest first, without overlap."""

    # It has none, and of a generic class pydantic looks for the source in vain, through all modules there are (0.3 s).
    model_config = ConfigDict(use_attribute_docstrings=False)

    kind: EntityKind
    id: EntityKey
    state: EntityState
    versions: tuple[E, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_history(self) -> Self:
        if any(version.id != self.id for version in self.versions):
            raise ValueError("all versions carry the id of the record")
        for earlier, later in zip(self.versions, self.versions[1:], strict=False):
            if earlier.valid_to is None or earlier.valid_to > later.valid_from:
                raise ValueError(f"versions overlap or are out of order at {later.valid_from.isoformat()}")
        if self.state is EntityState.REMOVED and self.latest.valid_to is None:
            raise ValueError("the last version of a removed entity needs valid_to, the time of its removal")
        return self

    @property
    def latest(self) -> E:
        """The youngest version, whether it holds now or not."""
        return self.versions[-1]

    @property
    def revision(self) -> int:
        """Rises with every change of the record."""
        return max(version.version for version in self.versions)

    @property
    def is_active(self) -> bool:
        """Whether the entity is there."""
        return self.state is EntityState.ACTIVE

    def at(self, when: datetime) -> E | None:
        """Return the version that was the truth at that time, None when there was no such thing."""
        for version in reversed(self.versions):
            if version.holds_at(when):
                return version if version.state is EntityState.ACTIVE else None
        return None


class RegionRecord(RecordOf[Region]):
    """A region's history."""

    kind: Literal[EntityKind.REGION]


class OrganisationRecord(RecordOf[Organisation]):
    """An organisation's history."""

    kind: Literal[EntityKind.ORGANISATION]


class SiteRecord(RecordOf[Site]):
    """A site's history."""

    kind: Literal[EntityKind.SITE]


class RoomRecord(RecordOf[Room]):
    """A room's history."""

    kind: Literal[EntityKind.ROOM]


class LineRecord(RecordOf[Line]):
    """A line's history."""

    kind: Literal[EntityKind.LINE]


class SimRecord(RecordOf[Sim]):
    """A SIM card's history."""

    kind: Literal[EntityKind.SIM]


class DeviceRecord(RecordOf[Device]):
    """A device's history."""

    kind: Literal[EntityKind.DEVICE]


class CircuitRecord(RecordOf[Circuit]):
    """A circuit's history."""

    kind: Literal[EntityKind.CIRCUIT]


class BindingRecord(RecordOf[Binding]):
    """A binding's history."""

    kind: Literal[EntityKind.BINDING]


class LoadRecord(RecordOf[Load]):
    """A load's history."""

    kind: Literal[EntityKind.LOAD]


RegistryRecord = Annotated[
    RegionRecord
    | OrganisationRecord
    | SiteRecord
    | RoomRecord
    | LineRecord
    | SimRecord
    | DeviceRecord
    | CircuitRecord
    | BindingRecord
    | LoadRecord,
    Discriminator("kind"),
]
"""What ``registry.entities`` carries."""

_RECORD: TypeAdapter[RegistryRecord] = TypeAdapter(RegistryRecord)

ENTITY_TYPES: Mapping[EntityKind, type[Entity]] = {
    cls.kind_of: cls for cls in (Region, Organisation, Site, Room, Line, Sim, Device, Circuit, Binding, Load)
}
"""The class of each kind, in an order in which references point backwards (parents aside)."""

RECORD_TYPES: Mapping[EntityKind, type[RecordOf[Any]]] = {
    EntityKind.REGION: RegionRecord,
    EntityKind.ORGANISATION: OrganisationRecord,
    EntityKind.SITE: SiteRecord,
    EntityKind.ROOM: RoomRecord,
    EntityKind.LINE: LineRecord,
    EntityKind.SIM: SimRecord,
    EntityKind.DEVICE: DeviceRecord,
    EntityKind.CIRCUIT: CircuitRecord,
    EntityKind.BINDING: BindingRecord,
    EntityKind.LOAD: LoadRecord,
}
"""The record class of each kind."""

REFERENCES: Mapping[EntityKind, Mapping[str, EntityKind]] = {
    EntityKind.REGION: {"parent": EntityKind.REGION},
    EntityKind.ORGANISATION: {"parent": EntityKind.ORGANISATION},
    EntityKind.SITE: {"region": EntityKind.REGION, "organisation": EntityKind.ORGANISATION},
    EntityKind.ROOM: {"site": EntityKind.SITE},
    EntityKind.LINE: {},
    EntityKind.SIM: {},
    EntityKind.DEVICE: {
        "site": EntityKind.SITE,
        "room": EntityKind.ROOM,
        "line": EntityKind.LINE,
        "sim": EntityKind.SIM,
        "parent": EntityKind.DEVICE,
    },
    EntityKind.CIRCUIT: {"site": EntityKind.SITE, "room": EntityKind.ROOM, "parent": EntityKind.CIRCUIT},
    EntityKind.BINDING: {"device": EntityKind.DEVICE, "circuit": EntityKind.CIRCUIT},
    EntityKind.LOAD: {"site": EntityKind.SITE, "breaker.device": EntityKind.DEVICE, "meter": EntityKind.CIRCUIT},
}
"""Which field of which kind names an entity of which kind; a dot goes into an object."""

AnyEntity = Region | Organisation | Site | Room | Line | Sim | Device | Circuit | Binding | Load
"""Any version of any entity."""


def references_of(entity: Entity) -> list[tuple[str, EntityKind, str]]:
    """Return the entities that this one names, as (field, kind, id); absent ones are left out."""
    found = []
    for path, kind in REFERENCES[entity.kind_of].items():
        value: Any = entity
        for part in path.split("."):
            value = None if value is None else getattr(value, part)
        if value is not None:
            found.append((path, kind, str(value)))
    return found


def record_of(versions: Sequence[Entity], *, state: EntityState = EntityState.ACTIVE) -> RegistryRecord:
    """Return the record of one entity's versions.

    Raises:
        pydantic.ValidationError: The versions are of several entities, or overlap.
    """
    kind = versions[0].kind_of
    return _RECORD.validate_python({"kind": kind, "id": versions[0].id, "state": state, "versions": tuple(versions)})


def parse_record(value: bytes) -> RegistryRecord:
    """Read a record from the topic.

    Raises:
        pydantic.ValidationError: Not a record; it says which field and why.
    """
    return _RECORD.validate_python(orjson.loads(value))
