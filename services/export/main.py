"""Export, wired."""

import sys
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from libs.common.bus import topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.outbox import OutboxRelay
from libs.common.client import ServiceClient
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.migrations import BUS, SchemaGate
from libs.common.outgoing import AddressGuard, GuardedClient
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryView
from libs.common.runtime import Check, Health, Listener, Platform, Service, Worker, flag_check, group_check, run
from libs.common.settings import load_common, load_section
from libs.common.web import create_app
from services.export.api import build_router
from services.export.api.callbacks import build_callbacks_router, describe_webhooks
from services.export.api.cards import build_cards_router
from services.export.api.exports import build_exports_router
from services.export.api.feeds import build_feeds_router
from services.export.api.files import build_files_router
from services.export.api.listener import build_listener
from services.export.api.options import build_options_router
from services.export.api.orders import build_orders_router
from services.export.api.platforms import build_platforms_router
from services.export.api.records import build_records_router
from services.export.api.standard import build_standard_router
from services.export.callbacks.outlet import Outlet
from services.export.cards.client import CardPort, CmpClient, NoCardPlatform
from services.export.dialects import Dialects
from services.export.dialects.messages import UnitFacts
from services.export.domain.connection import ConnectionId, UnitKey
from services.export.door.watch import Door
from services.export.exports.outlet import FileOutlet
from services.export.exports.sites import RegistrySites
from services.export.exports.standard import StandardTables
from services.export.files.server import FileServer, ServerLimits
from services.export.host import HostMeter
from services.export.jobs import exports_folder
from services.export.master import RegistryMaster
from services.export.orders.neighbours import AlarmThresholds, ControlSwitcher
from services.export.platforms.aep import AepClient, NoDevicePlatform, PlatformPort
from services.export.records.places import RegistryPlaces
from services.export.secrets import Secrets
from services.export.settings import CardSettings, ExportSettings, PlatformSettings
from services.export.usecases.administration import Administration
from services.export.usecases.answers import Answers
from services.export.usecases.callbacks import CallbackAdministration
from services.export.usecases.configuration import Configuration
from services.export.usecases.exports import ExportAdministration
from services.export.usecases.feeds import FeedAdministration
from services.export.usecases.files import FileAccounts
from services.export.usecases.options import OptionBooks, PointOptionDesk
from services.export.usecases.orders import Orders
from services.export.usecases.permits import PermitAdministration
from services.export.usecases.records import Deliveries
from services.export.usecases.unitfiles import UnitFileAdministration
from services.export.worker.alarm_queue import GATHER_S as ALARMS_GATHER_S
from services.export.worker.alarm_queue import GROUP, AlarmQueue
from services.export.worker.callback_batches import GROUP as BATCHES_GROUP
from services.export.worker.callback_batches import MOST_MESSAGES, CallbackBatches
from services.export.worker.callback_batches import TOPICS as BATCHES_TOPICS
from services.export.worker.callback_keeping import CallbackKeeper
from services.export.worker.callback_owners import GATHER_S as OWNERS_GATHER_S
from services.export.worker.callback_owners import GROUP as OWNERS_GROUP
from services.export.worker.callback_owners import TOPICS as OWNERS_TOPICS
from services.export.worker.callback_owners import CallbackOwners
from services.export.worker.callback_queue import GROUP as CALLBACKS_GROUP
from services.export.worker.callback_queue import TOPICS as CALLBACKS_TOPICS
from services.export.worker.callback_queue import CallbackQueue
from services.export.worker.callbacks import Callbacks
from services.export.worker.centres import Centres
from services.export.worker.exports import Exports
from services.export.worker.feed_cutter import GATHER_S as FEEDS_GATHER_S
from services.export.worker.feed_cutter import GROUP as FEEDS_GROUP
from services.export.worker.feed_cutter import MAX_BATCH as FEEDS_MAX_BATCH
from services.export.worker.feed_cutter import TOPICS as FEEDS_TOPICS
from services.export.worker.feed_cutter import FeedCutter
from services.export.worker.feed_telling import FeedTelling
from services.export.worker.files import FileService
from services.export.worker.gauges import Gauges
from services.export.worker.readings import ReadingsCache
from services.export.worker.records import RecordWorker
from services.export.worker.unit_files import UnitFiles

NEWS_GATHER_S = 0.05
"""What export tells others is news of alarms by the hundred a second, and nobody waits for it. [s]"""


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    settings = load_section("export", ExportSettings)
    bus, clock = platform.bus, platform.clock
    db = platform.database("export")
    owner = f"export-{platform.settings.instance}"
    key = None if settings.secret_key is None else settings.secret_key.get_secret_value()
    secrets = Secrets.open(key, platform.settings.effective_keys_dir)

    dialects = Dialects.load(settings.dialects_dir)
    view = RegistryView(bus=bus, db=db, clock=clock)
    master = RegistryMaster(view, ProfileCatalogue.load(platform.settings.profile_dirs), clock)
    relay = OutboxRelay(bus=bus, db=db, clock=clock, owner=owner, gather_s=NEWS_GATHER_S)
    readings = ReadingsCache(
        bus=bus,
        db=db,
        clock=clock,
        look_back_s=settings.look_back_s,
        sample_retention_s=settings.sample_retention_s,
        delivery_retention_s=settings.delivery_retention_s,
    )
    centres = Centres(
        db=db,
        clock=clock,
        secrets=secrets,
        latest=readings.latest,
        dialects=dialects,
        owner=owner,
        lease_s=settings.lease_s,
        poll_s=settings.poll_s,
        committed=relay.wake,
    )

    guard = AddressGuard(settings.callbacks.allowed, setting="WATTRING_EXPORT__CALLBACKS__ALLOWED")
    outlet = Outlet(guard, clock)
    callbacks = Callbacks(
        db=db, clock=clock, outlet=outlet, secrets=secrets, owner=owner, poll_s=settings.poll_s, committed=relay.wake
    )

    def wake() -> None:
        relay.wake()
        centres.wake()

    def queued(units: Mapping[ConnectionId, Iterable[UnitKey]]) -> None:
        relay.wake()
        centres.queued(units)

    def callbacks_changed() -> None:
        relay.wake()
        callbacks.changed()

    alarms = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group=GROUP,
        topics=[topics.ALARM_EVENTS],
        handler=AlarmQueue(clock, dialects, master, wake=queued),
        member_id=owner,
        gather_s=ALARMS_GATHER_S,
    )
    told = CallbackQueue(clock, master, wake=callbacks.wake)
    news = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group=CALLBACKS_GROUP,
        topics=CALLBACKS_TOPICS,
        handler=told,
        member_id=owner,
        gather_s=told.gather_s,
    )
    many = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group=BATCHES_GROUP,
        topics=BATCHES_TOPICS,
        handler=CallbackBatches(clock, master, wake=callbacks.wake),
        member_id=owner,
        max_batch=MOST_MESSAGES,
        gather_s=settings.callbacks.batch_s,
    )
    feeds_guard = AddressGuard(settings.feeds.allowed, setting="WATTRING_EXPORT__FEEDS__ALLOWED")
    telling = FeedTelling(
        db=db,
        clock=clock,
        guard=feeds_guard,
        secrets=secrets,
        owner=owner,
        lease_s=settings.lease_s,
        poll_s=settings.poll_s,
        max_bytes=settings.feeds.max_bytes,
        committed=relay.wake,
    )
    cutter = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group=FEEDS_GROUP,
        topics=FEEDS_TOPICS,
        handler=FeedCutter(clock, master, wake=telling.wake),
        member_id=owner,
        max_batch=FEEDS_MAX_BATCH,
        gather_s=FEEDS_GATHER_S,
    )

    def feeds_changed() -> None:
        relay.wake()
        telling.wake()

    def owners_changed() -> None:
        callbacks_changed()
        telling.wake()

    owners = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group=OWNERS_GROUP,
        topics=OWNERS_TOPICS,
        handler=CallbackOwners(clock, changed=owners_changed),
        member_id=owner,
        gather_s=OWNERS_GATHER_S,
    )
    feed_administration = FeedAdministration(
        db=db,
        clock=clock,
        secrets=secrets,
        guard=feeds_guard,
        max_feeds=settings.feeds.max_feeds,
        max_destinations=settings.feeds.max_destinations,
        changed=feeds_changed,
    )
    keeper = CallbackKeeper(
        db=db,
        clock=clock,
        max_age_s=settings.callbacks.max_age_s,
        max_waiting=settings.callbacks.max_waiting,
        retention_s=settings.callbacks.retention_s,
        batch_age_s=settings.callbacks.batch_age_s,
        max_batches=settings.callbacks.max_batches,
    )
    door = Door(db=db, clock=clock, committed=relay.wake)
    control = ServiceClient(
        platform.keys, platform.settings.service_urls.get("control"),
        caller="export", audience="control", scopes=("control:app",),
    )  # fmt: skip
    alarm = ServiceClient(
        platform.keys, platform.settings.service_urls.get("alarm"),
        caller="export", audience="alarm", scopes=("alarm:read", "alarm:write"),
    )  # fmt: skip
    thresholds = AlarmThresholds(alarm)
    orders = Orders(
        db=db,
        clock=clock,
        switcher=ControlSwitcher(control, clock),
        thresholds=thresholds,
        loads=master,
        committed=relay.wake,
    )
    file_service = file_server(settings, platform, db, secrets, dialects, thresholds, door)

    def accounts_changed() -> None:
        relay.wake()
        if file_service is not None:
            file_service.wake()

    accounts = FileAccounts(
        db=db,
        clock=clock,
        secrets=secrets,
        port=lambda: (settings.files.public_port or settings.files.port) if file_service is not None else None,
        changed=accounts_changed,
    )
    unit_file_administration = UnitFileAdministration(db=db, clock=clock, secrets=secrets, changed=relay.wake)
    unit_files = UnitFiles(
        db=db,
        clock=clock,
        secrets=secrets,
        latest=readings.latest,
        folder=files_folder(settings, platform),
        owner=owner,
        lease_s=settings.lease_s,
        poll_s=settings.poll_s,
        committed=relay.wake,
    )
    exports = Exports(
        db=db,
        clock=clock,
        secrets=secrets,
        outlet=FileOutlet(AddressGuard(settings.exports.allowed, setting="WATTRING_EXPORT__EXPORTS__ALLOWED")),
        root=exports_folder(settings, platform.settings),
        owner=owner,
        lease_s=settings.lease_s,
        poll_s=settings.poll_s,
        retention_s=settings.exports.retention_s,
    )
    carbon = ServiceClient(
        platform.keys, platform.settings.service_urls.get("carbon"),
        caller="export", audience="carbon", scopes=("carbon:read",),
    )  # fmt: skip
    ingest = ServiceClient(
        platform.keys, platform.settings.service_urls.get("ingest"),
        caller="export", audience="ingest", scopes=("ingest:read",),
    )  # fmt: skip
    tables = StandardTables(carbon=carbon, ingest=ingest, registry=RegistrySites(view, clock))
    export_administration = ExportAdministration(
        db=db, clock=clock, secrets=secrets, max_exports=settings.exports.max_exports, changed=relay.wake
    )
    deliveries = Deliveries(
        db=db,
        clock=clock,
        places=lambda: RegistryPlaces(view, clock),
        senders=settings.records.senders,
        changed=relay.wake,
    )
    records = RecordWorker(
        db=db,
        clock=clock,
        deliveries=deliveries,
        folder=settings.records.folder,
        owner=owner,
        lease_s=settings.lease_s,
        poll_s=settings.poll_s,
        settle_s=settings.records.settle_s,
        retention_s=settings.records.retention_s,
    )
    configuration = Configuration(db=db, clock=clock, secrets=secrets, orders=orders, committed=relay.wake)
    options = PointOptionDesk(db=db, clock=clock, orders=orders, thresholds=thresholds, committed=relay.wake)
    answers = Answers(
        db=db,
        clock=clock,
        latest=readings.latest,
        host=HostMeter(),
        orders=orders,
        accounts=accounts,
        configuration=configuration,
        options=options,
        dialects=dialects,
        allowed_peers=settings.allowed_peers,
        max_values=settings.max_values,
        turned_away=door.refused,
    )
    administration = Administration(db=db, clock=clock, secrets=secrets, master=master, dialects=dialects, changed=wake)
    callback_administration = CallbackAdministration(
        db=db,
        clock=clock,
        secrets=secrets,
        guard=guard,
        outlet=outlet,
        max_endpoints=settings.callbacks.max_endpoints,
        changed=callbacks_changed,
    )

    health = Health(clock)
    examples = files("services.export") / "api_examples.yaml"
    app = create_app("export", platform, health, title="Wattring export", examples=examples)
    app.include_router(build_router(administration, db, master))
    app.include_router(build_orders_router(PermitAdministration(db=db, clock=clock, changed=relay.wake), db, master))
    app.include_router(build_options_router(OptionBooks(db=db, clock=clock, dialects=dialects, changed=relay.wake)))
    app.include_router(build_files_router(accounts, unit_file_administration, db, master))
    app.include_router(build_standard_router(tables, master, clock))
    app.include_router(build_records_router(deliveries, db))
    app.include_router(build_exports_router(export_administration, db))
    app.include_router(build_callbacks_router(callback_administration, db))
    app.include_router(build_feeds_router(feed_administration, db))
    describe_webhooks(app)
    card_http = GuardedClient(AddressGuard(settings.cards.allowed))
    app.include_router(build_cards_router(card_platform(settings.cards, card_http, clock)))
    platform_http = GuardedClient(AddressGuard(settings.platform.allowed))
    app.include_router(build_platforms_router(device_platform(settings.platform, platform_http, clock)))
    app.state.own_facts = UnitFacts(
        address=settings.unit_address, port=settings.unit_public_port or settings.unit_port or 8080
    )
    units = build_listener(
        answers, dialects, health, max_message_bytes=settings.max_message_bytes, turned_away=door.refused
    )
    place = Listener(units, host=settings.unit_host, port=settings.unit_port, setting="WATTRING_EXPORT__UNIT_PORT")
    return Service(
        name="export",
        app=app,
        health=health,
        resources=[
            SchemaGate(platform.settings.database, BUS, "export"),
            db,
            card_http,
            platform_http,
            outlet,
            control,
            alarm,
            carbon,
            ingest,
        ],
        workers=[
            Worker("registry", view.run),
            Worker("alarms", alarms.run),
            Worker("centres", centres.run),
            Worker("news", news.run),
            Worker("batches", many.run),
            Worker("owners", owners.run),
            Worker("callbacks", callbacks.run),
            Worker("callback keeper", keeper.run),
            Worker("feeds", cutter.run),
            Worker("destinations", telling.run),
            Worker("readings", readings.follow),
            Worker("samples", readings.keep_samples),
            Worker("door", door.run),
            Worker("gauges", Gauges(db=db, clock=clock).run),
            Worker("outbox", relay.run),
            Worker("unit files", unit_files.run),
            Worker("exports", exports.run),
            Worker("records", records.run),
            *([] if file_service is None else [Worker("files", file_service.run)]),
        ],
        checks=[
            Check("database", db.check),
            Check("bus", bus.check),
            group_check("alarms", lambda: alarms.ready, GROUP),
            group_check("callbacks", lambda: news.ready, CALLBACKS_GROUP),
            group_check("batches", lambda: many.ready, BATCHES_GROUP),
            group_check("owners", lambda: owners.ready, OWNERS_GROUP),
            group_check("feeds", lambda: cutter.ready, FEEDS_GROUP),
            flag_check(
                "readings", lambda: readings.ready, "the latest values are not read from the bus yet", "正在读取最新值"
            ),
        ],
        extra_listeners=[place] if settings.unit_port else [],
    )


def files_folder(settings: ExportSettings, platform: Platform) -> Path:
    """Return the folder below which each unit has its own."""
    return settings.files.folder or platform.settings.data_dir / "unit-files"


def file_server(
    settings: ExportSettings,
    platform: Platform,
    db: Database,
    secrets: Secrets,
    dialects: Dialects,
    thresholds: AlarmThresholds,
    door: Door,
) -> FileService | None:
    """Return the units' file server as configured, None without a port."""
    files = settings.files
    if not files.port:
        return None
    limits = ServerLimits(
        host=files.host,
        port=files.port,
        public_address=files.public_address,
        passive_ports=files.passive_range,
        max_sessions=files.max_sessions,
        max_sessions_per_address=files.max_sessions_per_address,
        idle_s=files.idle_s,
        max_upload_bytes=files.max_upload_bytes,
        certificate=files.certificate,
        tls_required=files.tls_required,
    )
    return FileService(
        FileServer(limits),
        db=db,
        clock=platform.clock,
        secrets=secrets,
        dialects=dialects,
        thresholds=thresholds,
        folder=files_folder(settings, platform),
        always=settings.allowed_peers,
        turned_away=door.refused,
    )


def card_platform(settings: CardSettings, http: GuardedClient, clock: Clock) -> CardPort:
    """Return the configured card platform, or a stand-in that cannot tell."""
    if settings.url is None:
        return NoCardPlatform()
    return CmpClient(
        url=settings.url,
        app_key=settings.app_key,
        secret=settings.secret.get_secret_value(),
        customer=settings.customer,
        arrears_path=settings.arrears_path,
        http=http,
        clock=clock,
        timeout_s=settings.timeout_s,
        remember_s=settings.remember_s,
        calls_per_minute=settings.calls_per_minute,
    )


def device_platform(settings: PlatformSettings, http: GuardedClient, clock: Clock) -> PlatformPort:
    """Return the configured device platform, or a stand-in that knows no product."""
    if settings.url is None:
        return NoDevicePlatform()
    return AepClient(
        url=settings.url,
        app_key=settings.app_key,
        app_secret=settings.app_secret.get_secret_value(),
        products={product: key.get_secret_value() for product, key in settings.products.items()},
        http=http,
        clock=clock,
        timeout_s=settings.timeout_s,
        calls_per_minute=settings.calls_per_minute,
    )


def main() -> int:
    """Run export as a process of its own."""
    return run([build], load_common, process="export")


if __name__ == "__main__":
    sys.exit(main())
