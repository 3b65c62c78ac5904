"""Export, wired."""

import sys
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
from services.export.api.files import build_files_router
from services.export.api.listener import build_listener
from services.export.api.orders import build_orders_router
from services.export.api.platforms import build_platforms_router
from services.export.callbacks.outlet import Outlet
from services.export.cards.client import CardPort, CmpClient, NoCardPlatform
from services.export.dialects import Dialects
from services.export.dialects.messages import UnitFacts
from services.export.door.watch import Door
from services.export.files.server import FileServer, ServerLimits
from services.export.host import HostMeter
from services.export.master import RegistryMaster
from services.export.orders.neighbours import AlarmThresholds, ControlSwitcher
from services.export.platforms.aep import AepClient, NoDevicePlatform, PlatformPort
from services.export.secrets import Secrets
from services.export.settings import CardSettings, ExportSettings, PlatformSettings
from services.export.usecases.administration import Administration
from services.export.usecases.answers import Answers
from services.export.usecases.callbacks import CallbackAdministration
from services.export.usecases.files import FileAccounts
from services.export.usecases.orders import Orders
from services.export.usecases.permits import PermitAdministration
from services.export.usecases.unitfiles import UnitFileAdministration
from services.export.worker.alarm_queue import GROUP, AlarmQueue
from services.export.worker.callback_keeping import CallbackKeeper
from services.export.worker.callback_queue import GROUP as CALLBACKS_GROUP
from services.export.worker.callback_queue import TOPICS as CALLBACKS_TOPICS
from services.export.worker.callback_queue import CallbackQueue
from services.export.worker.callbacks import Callbacks
from services.export.worker.files import FileService
from services.export.worker.gauges import Gauges
from services.export.worker.readings import ReadingsCache
from services.export.worker.sessions import Centres
from services.export.worker.unit_files import UnitFiles


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
    relay = OutboxRelay(bus=bus, db=db, clock=clock, owner=owner)
    centres = Centres(
        db=db,
        clock=clock,
        secrets=secrets,
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

    def callbacks_changed() -> None:
        relay.wake()
        callbacks.changed()

    alarms = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group=GROUP,
        topics=[topics.ALARM_EVENTS],
        handler=AlarmQueue(clock, dialects, master, wake=wake),
        member_id=owner,
    )
    news = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group=CALLBACKS_GROUP,
        topics=CALLBACKS_TOPICS,
        handler=CallbackQueue(clock, master, wake=callbacks.wake),
        member_id=owner,
    )
    keeper = CallbackKeeper(
        db=db,
        clock=clock,
        max_age_s=settings.callbacks.max_age_s,
        max_waiting=settings.callbacks.max_waiting,
        retention_s=settings.callbacks.retention_s,
    )
    readings = ReadingsCache(
        bus=bus,
        db=db,
        clock=clock,
        look_back_s=settings.look_back_s,
        sample_retention_s=settings.sample_retention_s,
        delivery_retention_s=settings.delivery_retention_s,
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
        switcher=ControlSwitcher(control),
        thresholds=thresholds,
        loads=master,
        committed=relay.wake,
    )
    file_service = file_server(settings, platform, db, secrets, thresholds)

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
    )
    answers = Answers(
        db=db,
        clock=clock,
        latest=readings.latest,
        host=HostMeter(),
        orders=orders,
        accounts=accounts,
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
    app = create_app("export", platform, health, title="Wattring export")
    app.include_router(build_router(administration, db, master))
    app.include_router(build_orders_router(PermitAdministration(db=db, clock=clock, changed=relay.wake), db, master))
    app.include_router(build_files_router(accounts, unit_file_administration, db, master))
    app.include_router(build_callbacks_router(callback_administration, db))
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
        ],
        workers=[
            Worker("registry", view.run),
            Worker("alarms", alarms.run),
            Worker("centres", centres.run),
            Worker("news", news.run),
            Worker("callbacks", callbacks.run),
            Worker("callback keeper", keeper.run),
            Worker("readings", readings.follow),
            Worker("samples", readings.keep_samples),
            Worker("door", door.run),
            Worker("gauges", Gauges(db=db, clock=clock).run),
            Worker("outbox", relay.run),
            Worker("unit files", unit_files.run),
            *([] if file_service is None else [Worker("files", file_service.run)]),
        ],
        checks=[
            Check("database", db.check),
            Check("bus", bus.check),
            group_check("alarms", lambda: alarms.ready, GROUP),
            group_check("callbacks", lambda: news.ready, CALLBACKS_GROUP),
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
    settings: ExportSettings, platform: Platform, db: Database, secrets: Secrets, thresholds: AlarmThresholds
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
        thresholds=thresholds,
        folder=files_folder(settings, platform),
        always=settings.allowed_peers,
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
