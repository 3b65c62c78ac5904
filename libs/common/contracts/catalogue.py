"""Every topic in one table: who writes it, who reads it, what it carries.

The AsyncAPI document, the JSON Schemas and the tests are made from this. The names themselves stand in
``libs/common/bus/topics.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from libs.common.bus import topics
from libs.common.contracts.alarm import AlarmEvent, AlarmOrder, Condition, Diagnosis, MaintenanceWindow
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import Payload
from libs.common.contracts.carbon import AttestationHead, CarbonResult, FinishedReport, Interval
from libs.common.contracts.control import Command, ControlEvent, PlanEvent, Result
from libs.common.contracts.delivery import DeliveryEvent
from libs.common.contracts.device import DeviceEvent, DeviceStatus
from libs.common.contracts.registry import RECORD_TYPES
from libs.common.contracts.telemetry import Heartbeat, Reading, Rejected
from libs.common.settings import SERVICES

EVERY_SERVICE = tuple(SERVICES)
PAYLOAD_LIMIT_BYTES = 256 * 1024
"""A larger record is refused by its writer. [B]"""


@dataclass(frozen=True, slots=True)
class TopicContract:
    """One topic."""

    name: str
    key: str
    """What the key is, in words; also what decides order."""
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    payloads: Sequence[type[Payload]]
    """What a value may be; each has its own ``ce_type`` or shares the topic's."""
    description: str
    compacted: bool = False
    partitioned_by: str | None = None
    """What chooses the partition where it is not the key."""

    @property
    def area(self) -> str:
        """``telemetry.readings`` of ``wattring.telemetry.readings.v1``."""
        return self.name.removeprefix("wattring.").removesuffix(".v1")

    def ce_type(self, payload: type[Payload]) -> str:
        """Return the CloudEvents type of a payload on this topic."""
        return payload.ce_type or self.name


CATALOGUE: tuple[TopicContract, ...] = (
    TopicContract(
        name=topics.READINGS,
        key="site_id",
        writers=("ingest",),
        readers=("ingest", "alarm", "carbon", "export", "gateway"),
        payloads=(Reading, Heartbeat),
        description="Live reports of devices, in order per device; once a second and partition ingest's heartbeat.",
    ),
    TopicContract(
        name=topics.BACKFILL,
        key="site_id",
        writers=("ingest",),
        readers=("ingest", "carbon", "export"),
        payloads=(Reading,),
        description="Late and filled-in reports; stored, accounted and shown, never judged live.",
    ),
    TopicContract(
        name=topics.REJECTED,
        key="line or source",
        writers=("ingest",),
        readers=(),
        payloads=(Rejected,),
        description="What could not be understood, with its bytes and the reason.",
    ),
    TopicContract(
        name=topics.DEVICE_EVENTS,
        key="site_id",
        writers=("ingest",),
        readers=("alarm",),
        payloads=(DeviceEvent,),
        description="Alarms and events that devices send themselves.",
    ),
    TopicContract(
        name=topics.DEVICE_STATUS,
        key="device_id",
        partitioned_by="site_id",
        writers=("ingest",),
        readers=("alarm", "control", "export", "gateway"),
        payloads=(DeviceStatus,),
        description="Latest state of every device: connectivity, text points, radio, battery, SIM.",
        compacted=True,
    ),
    TopicContract(
        name=topics.REGISTRY,
        key="entity id",
        writers=("ingest",),
        readers=EVERY_SERVICE,
        payloads=tuple(RECORD_TYPES.values()),
        description="Master data, each record with the whole validity history of its entity.",
        compacted=True,
    ),
    TopicContract(
        name=topics.COMMANDS,
        key="site_id",
        writers=("control",),
        readers=("ingest",),
        payloads=(Command,),
        description="Signed orders to the holders of lines; every ingest process reads all of them.",
    ),
    TopicContract(
        name=topics.RESULTS,
        key="site_id",
        writers=("ingest",),
        readers=("control",),
        payloads=(Result,),
        description="Stages of execution with the evidence read back.",
    ),
    TopicContract(
        name=topics.CONTROL_EVENTS,
        key="site_id",
        writers=("control",),
        readers=("alarm", "carbon", "export", "gateway"),
        payloads=(ControlEvent,),
        description="What became of commands and of the occurrences of plans.",
    ),
    TopicContract(
        name=topics.PLANS,
        key="plan_id",
        writers=("control",),
        readers=("export",),
        payloads=(PlanEvent,),
        description="Plans drafted, approved, begun and ended.",
    ),
    TopicContract(
        name=topics.CONDITIONS,
        key="site_id",
        writers=EVERY_SERVICE,
        readers=("alarm",),
        payloads=(Condition,),
        description="Findings of the platform itself: full spool, data gap, overdue wake-up, refusing SC …",
    ),
    TopicContract(
        name=topics.ALARM_EVENTS,
        key="site_id",
        writers=("alarm",),
        readers=("control", "export", "gateway"),
        payloads=(AlarmEvent,),
        description="Begin, updates and end of alarms, with rising sequence.",
    ),
    TopicContract(
        name=topics.ALARM_ORDERS,
        key="site_id",
        writers=("alarm",),
        readers=("alarm",),
        payloads=(AlarmOrder,),
        description="What people order about alarms, for the process that holds the life of the alarm.",
    ),
    TopicContract(
        name=topics.MAINTENANCE,
        key="window_id",
        partitioned_by="site_id",
        writers=("alarm",),
        readers=("alarm", "control"),
        payloads=(MaintenanceWindow,),
        description="Maintenance windows; a tombstone calls one off.",
        compacted=True,
    ),
    TopicContract(
        name=topics.DIAGNOSES,
        key="site_id",
        writers=("alarm",),
        readers=("export", "gateway"),
        payloads=(Diagnosis,),
        description="Localised causes of silent and failing devices, with evidence and advice.",
    ),
    TopicContract(
        name=topics.INTERVALS,
        key="site_id",
        writers=("carbon",),
        readers=("alarm", "export", "gateway"),
        payloads=(Interval,),
        description="Consumption of circuits by interval; a later version replaces an earlier one.",
    ),
    TopicContract(
        name=topics.CARBON_RESULTS,
        key="node id",
        writers=("carbon",),
        readers=("alarm", "export", "gateway"),
        payloads=(CarbonResult,),
        description="Figures of nodes and periods: energy, cost, PUE, emissions, targets.",
    ),
    TopicContract(
        name=topics.ATTESTATIONS,
        key="name of the log",
        writers=("carbon",),
        readers=("export",),
        payloads=(AttestationHead,),
        description="Signed heads of the attestation log, for witnesses outside.",
    ),
    TopicContract(
        name=topics.REPORTS,
        key="definition and edition of the report",
        writers=("carbon",),
        readers=("export",),
        payloads=(FinishedReport,),
        description="Reports that were made and filed; their files are fetched from carbon.",
    ),
    TopicContract(
        name=topics.DELIVERY_EVENTS,
        key="destination",
        writers=("export",),
        readers=("gateway", "alarm"),
        payloads=(DeliveryEvent,),
        description="What outside parties were told and whether they got it.",
    ),
    TopicContract(
        name=topics.AUDIT,
        key="actor",
        writers=EVERY_SERVICE,
        readers=("export", "gateway"),
        payloads=(AuditEvent,),
        description="Every change by a person, a key or a service.",
    ),
)
