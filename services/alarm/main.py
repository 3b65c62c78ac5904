"""Alarm, wired."""

import logging
import sys
from datetime import timedelta
from importlib.resources import files
from typing import Self

from libs.common.backoff import Backoff
from libs.common.bus import outbox, topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.outbox import OutboxRelay
from libs.common.bus.port import Bus, partition_of
from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.db import Database, WriteConn
from libs.common.errors import Unavailable
from libs.common.migrations import BUS, SchemaGate
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryView
from libs.common.runtime import Beat, Check, Health, Platform, Service, Worker, group_check, run, wait_beating
from libs.common.settings import load_common, load_section
from libs.common.web import create_app
from services.alarm import bus
from services.alarm.api import build_router
from services.alarm.api.analysis import build_analysis_router
from services.alarm.api.rulerows import build_rule_rows_router
from services.alarm.api.settings_kept import build_settings_router
from services.alarm.dictionary import load_shipped
from services.alarm.directory import RegistryDirectory
from services.alarm.domain.beats import Beats
from services.alarm.domain.engine import Limits
from services.alarm.domain.model import SECOND_US
from services.alarm.domain.sites import SiteLimits
from services.alarm.localisation import build_localisation
from services.alarm.settings import AlarmSettings
from services.alarm.store import rulebook as rulebook_store
from services.alarm.telling import build_telling
from services.alarm.usecases.alarms import Alarms
from services.alarm.usecases.analysis import Analysis
from services.alarm.usecases.maintenance import Maintenance
from services.alarm.usecases.rulemaking import RuleMaking
from services.alarm.usecases.rulerows import RuleRows
from services.alarm.usecases.rules import Rules
from services.alarm.usecases.tables import Tables
from services.alarm.usecases.thresholds import Thresholds
from services.alarm.worker.deliveries import DELIVERIES_GROUP, DeliveriesHandler
from services.alarm.worker.ingest import IngestWatch
from services.alarm.worker.judging import RULES_GROUP, RULES_TOPICS, JudgeHandler
from services.alarm.worker.measure import Measure
from services.alarm.worker.targets import TARGETS_GROUP, TARGETS_TOPICS, TargetsHandler

logger = logging.getLogger(__name__)


class ShippedTable:
    """Takes the shipped signal table over at the start, when it is newer than the stored one."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Keep the database."""
        self._db = db
        self._clock = clock

    async def __aenter__(self) -> Self:
        table = load_shipped()
        async with self._db.write() as conn:
            await rulebook_store.seed(conn, table, self._clock.now())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is held."""


class Places:
    """Says in which partition the reports of a site are; to be asked once ``ready``."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        """Know nothing yet."""
        self._bus = bus
        self._clock = clock
        self._count = 0

    async def ready(self) -> None:
        """Wait until the bus has said how many partitions there are."""
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        while not self._count:
            try:
                self._count = await self._bus.partitions(topics.READINGS)
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("partitions are not known yet", extra={"reason": exc.message})
                await self._clock.sleep(backoff.next_s())

    def partition_of(self, site_id: str) -> int:
        """Return the partition of a site."""
        return partition_of(site_id, self._count)


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    settings = load_section("alarm", AlarmSettings)
    db = platform.database("alarm")
    owner = f"alarm-{platform.settings.instance}"
    view = RegistryView(bus=platform.bus, db=db, clock=platform.clock)
    directory = RegistryDirectory(
        view, ProfileCatalogue.load(platform.settings.profile_dirs), default_class=settings.default_class
    )
    relay = OutboxRelay(bus=platform.bus, db=db, clock=platform.clock, owner=owner)
    beats = Beats(
        gone_us=round(settings.ingest_gone_s * SECOND_US), deaf_us=round(settings.ingest_silent_s * SECOND_US)
    )
    places = Places(platform.bus, platform.clock)
    judge = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=platform.clock,
        group=RULES_GROUP,
        topics=RULES_TOPICS,
        handler=JudgeHandler(
            directory=directory,
            clock=platform.clock,
            limits=limits(settings),
            site_limits=site_limits(settings),
            heartbeats=beats,
            partition_of=places.partition_of,
            class_map=settings.classes,
            wake=relay.wake,
        ),
        member_id=owner,
        max_batch=settings.max_batch,
    )
    deliveries = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=platform.clock,
        group=DELIVERIES_GROUP,
        topics=[topics.DELIVERY_EVENTS],
        handler=DeliveriesHandler(),
        member_id=owner,
        max_batch=settings.max_batch,
    )

    targets = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=platform.clock,
        group=TARGETS_GROUP,
        topics=TARGETS_TOPICS,
        handler=TargetsHandler(wake=relay.wake),
        member_id=owner,
        max_batch=settings.max_batch,
    )

    async def consume(beat: Beat) -> None:
        await wait_beating(directory.ready, beat)
        await wait_beating(places.ready, beat)
        await judge.run(beat)

    async def audit(conn: WriteConn, event: AuditEvent) -> None:
        await outbox.put(conn, [bus.audit_message(event)])

    rules = Rules(db=db, directory=directory, clock=platform.clock, audit=audit, class_map=settings.classes)
    making = RuleMaking(db=db, directory=directory, clock=platform.clock, audit=audit, class_map=settings.classes)
    thresholds = Thresholds(
        db=db, directory=directory, clock=platform.clock, audit=audit, class_map=settings.classes, rules=rules
    )
    tables = Tables(db=db, directory=directory, clock=platform.clock, audit=audit, class_map=settings.classes)
    alarms = Alarms(
        db=db,
        directory=directory,
        clock=platform.clock,
        audit=audit,
        longest_shelf=timedelta(seconds=settings.max_shelf_s),
    )
    maintenance = Maintenance(
        db=db,
        directory=directory,
        clock=platform.clock,
        audit=audit,
        longest=timedelta(seconds=settings.max_window_s),
    )
    localisation = build_localisation(
        settings.diagnosis,
        platform=platform,
        db=db,
        view=view,
        directory=directory,
        relay=relay,
        audit=audit,
        owner=owner,
        max_batch=settings.max_batch,
    )
    telling = build_telling(settings, platform, db, directory, audit, relay, owner)
    watch = IngestWatch(
        bus=platform.bus,
        clock=platform.clock,
        beats=beats,
        caught_up=lambda: judge.ready and judge.lag().records == 0,
        silent_s=settings.ingest_silent_s,
    )
    rows = RuleRows(db=db, directory=directory, circuits=directory, clock=platform.clock, audit=audit)
    health = Health(platform.clock)
    examples = files("services.alarm") / "api_examples.yaml"
    app = create_app("alarm", platform, health, title="Wattring alarm", examples=examples)
    # Before the routes of a rule by its id, which would take these for one.
    app.include_router(build_rule_rows_router(rows))
    app.include_router(build_settings_router(db, directory))
    app.include_router(
        build_router(
            rules=rules,
            making=making,
            thresholds=thresholds,
            tables=tables,
            alarms=alarms,
            maintenance=maintenance,
        )
    )
    app.include_router(build_analysis_router(Analysis(db=db, directory=directory, clock=platform.clock)))
    app.include_router(localisation.router)
    app.include_router(telling.router)
    return Service(
        name="alarm",
        app=app,
        health=health,
        resources=[
            SchemaGate(platform.settings.database, BUS, "alarm"),
            db,
            ShippedTable(db, platform.clock),
            localisation.export,
        ],
        workers=[
            Worker("registry", view.run),
            Worker("rules", consume),
            Worker("deliveries", deliveries.run),
            Worker("targets", targets.run),
            *localisation.workers,
            *telling.workers,
            Worker("ingest watch", watch.run),
            Worker("outbox", relay.run),
            Worker("measure", Measure(db=db, clock=platform.clock, every_s=settings.measure_s).run),
        ],
        checks=[
            Check("database", db.check),
            Check("bus", platform.bus.check),
            Check("registry", view.check),
            group_check("rules", lambda: judge.ready, RULES_GROUP),
            group_check("deliveries", lambda: deliveries.ready, DELIVERIES_GROUP),
            group_check("targets", lambda: targets.ready, TARGETS_GROUP),
            *localisation.checks,
            telling.check,
        ],
    )


def limits(settings: AlarmSettings) -> Limits:
    """Return the engine's tolerances as configured."""
    return Limits(
        max_future_us=round(settings.max_future_s * SECOND_US),
        max_past_us=round(settings.max_past_s * SECOND_US),
        tick_grace_us=round(settings.tick_grace_s * SECOND_US),
        flap_count=settings.flap_count,
        flap_within_us=round(settings.flap_within_s * SECOND_US),
    )


def site_limits(settings: AlarmSettings) -> SiteLimits:
    """Return the tolerances of the second stage as configured."""
    return SiteLimits(
        settle_us=round(settings.wake_settle_s * SECOND_US),
        storm_count=settings.storm_count,
        storm_within_us=round(settings.storm_within_s * SECOND_US),
        storm_quiet_us=round(settings.storm_quiet_s * SECOND_US),
        storm_told_level=settings.storm_told_level,
    )


def main() -> int:
    """Run alarm as a process of its own."""
    return run([build], load_common, process="alarm")


if __name__ == "__main__":
    sys.exit(main())
