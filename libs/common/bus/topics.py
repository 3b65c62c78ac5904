"""The topics of Wattring by name, and how each is created. Writers, readers and fields: contracts.md 2.

Every topic has the same number of partitions, so that a group that reads several has one partition number
of all of them in one hand. ``registry.entities`` alone has a single partition: it is read whole, never in a
group, and there its order is the order of the changes.
"""

from libs.common.bus.port import TopicSpec
from libs.common.settings import BusSettings

READINGS = "wattring.telemetry.readings.v1"
BACKFILL = "wattring.telemetry.backfill.v1"
REJECTED = "wattring.telemetry.rejected.v1"
DEVICE_EVENTS = "wattring.device.events.v1"
DEVICE_STATUS = "wattring.device.status.v1"
REGISTRY = "wattring.registry.entities.v1"
COMMANDS = "wattring.control.commands.v1"
RESULTS = "wattring.control.results.v1"
CONTROL_EVENTS = "wattring.control.events.v1"
PLANS = "wattring.control.plans.v1"
CONDITIONS = "wattring.alarm.conditions.v1"
ALARM_EVENTS = "wattring.alarm.events.v1"
ALARM_ORDERS = "wattring.alarm.orders.v1"
MAINTENANCE = "wattring.alarm.maintenance.v1"
DIAGNOSES = "wattring.fault.diagnoses.v1"
INTERVALS = "wattring.carbon.intervals.v1"
CARBON_RESULTS = "wattring.carbon.results.v1"
ATTESTATIONS = "wattring.carbon.attestations.v1"
REPORTS = "wattring.carbon.reports.v1"
DELIVERY_EVENTS = "wattring.delivery.events.v1"
AUDIT = "wattring.audit.events.v1"

BULK = (READINGS, BACKFILL, REJECTED)
"""Carry the reports themselves: on the embedded bus they are bounded by bytes and leave after hours."""
COMPACTED = (DEVICE_STATUS, REGISTRY, MAINTENANCE)
"""Keep the last message of each key for ever."""
EVENTS = (
    DEVICE_EVENTS,
    COMMANDS,
    RESULTS,
    CONTROL_EVENTS,
    PLANS,
    CONDITIONS,
    ALARM_EVENTS,
    ALARM_ORDERS,
    DIAGNOSES,
    INTERVALS,
    CARBON_RESULTS,
    ATTESTATIONS,
    REPORTS,
    DELIVERY_EVENTS,
    AUDIT,
)
ALL = (*BULK, *COMPACTED, *EVENTS)


def specs(settings: BusSettings) -> list[TopicSpec]:
    """Return every topic as it has to exist on the bus that the settings choose."""
    partitions = settings.effective_site_partitions
    embedded = settings.effective_kind == "postgres"
    # Kafka compresses a report to a tenth and has disks of its own; there readings stay as long as events.
    bulk_age_s = settings.readings_retention_s if embedded else settings.events_retention_s
    bulk_bytes = settings.readings_retention_bytes if embedded else None
    return [
        *(TopicSpec(name, partitions, retention_s=bulk_age_s, retention_bytes=bulk_bytes) for name in BULK),
        *(TopicSpec(name, partitions, retention_s=settings.events_retention_s) for name in EVENTS),
        *(
            TopicSpec(name, 1 if name == REGISTRY else partitions, compacted=True, retention_s=None)
            for name in COMPACTED
        ),
    ]
