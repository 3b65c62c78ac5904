"""Wires ingest: the only place that names concrete classes."""

import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal

from libs.common.bus import topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.outbox import OutboxRelay
from libs.common.bus.port import StartAt
from libs.common.bus.tail import Tail
from libs.common.clocksync import clock_state
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.ids import DeviceId
from libs.common.lease import LeaseKeeper
from libs.common.migrations import BUS, SchemaGate
from libs.common.outgoing import AddressGuard
from libs.common.profiles import ProfileCatalogue
from libs.common.runtime import Check, Health, Platform, Service, Worker, run
from libs.common.secretstore import SecretStore
from libs.common.settings import load_common, load_section
from libs.common.web import create_app, open_lean_door
from services.ingest.api import devices as devices_api
from services.ingest.api import direct as direct_api
from services.ingest.api import fieldwork as fieldwork_api
from services.ingest.api import imports as imports_api
from services.ingest.api import manual as manual_api
from services.ingest.api import pulls as pulls_api
from services.ingest.api import push as push_api
from services.ingest.api import readings as readings_api
from services.ingest.api import registry as registry_api
from services.ingest.domain.resolution import rounded_points
from services.ingest.drivers.means import Means
from services.ingest.drivers.pushed import PushBoard
from services.ingest.files.pull_file import load_pulls
from services.ingest.jobs import limits_of
from services.ingest.settings import IngestSettings
from services.ingest.spool import Spool
from services.ingest.store import history as history_store
from services.ingest.store.coldfiles import open_cold_files
from services.ingest.store.commands import PgCommandStore, PgLatest
from services.ingest.store.instances import PgInstances
from services.ingest.store.offbook import OffBook
from services.ingest.store.snapshot import load_snapshot
from services.ingest.store.status import PgStatusStore
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.addresses import Addresses, LoadNames
from services.ingest.usecases.boards import LastSeen
from services.ingest.usecases.caring import Caretaker
from services.ingest.usecases.coverage import Coverages
from services.ingest.usecases.drops import Drops
from services.ingest.usecases.fieldwork import Fieldwork
from services.ingest.usecases.findings import Findings
from services.ingest.usecases.gaps import GapFinder
from services.ingest.usecases.history import HistoryHandler
from services.ingest.usecases.imports import Imports
from services.ingest.usecases.loss import Losses
from services.ingest.usecases.manual import ManualReadings
from services.ingest.usecases.orders import Orders
from services.ingest.usecases.pulls import Pulls
from services.ingest.usecases.readings import Readings
from services.ingest.usecases.registry import Registry
from services.ingest.usecases.rejected import RejectedHandler
from services.ingest.usecases.replacement import Replacements
from services.ingest.usecases.results import Results
from services.ingest.usecases.status import StatusBoard
from services.ingest.usecases.submissions import Submissions
from services.ingest.usecases.switching import Switcher
from services.ingest.usecases.taking import Taking
from services.ingest.usecases.topology import RegistryUnread, Topology
from services.ingest.worker.aep import AepPushes
from services.ingest.worker.backfill import Backfill, GapKeeper
from services.ingest.worker.commands import CommandWorker
from services.ingest.worker.fieldline import FieldLines
from services.ingest.worker.lines import LineManager
from services.ingest.worker.pulls import PullManager
from services.ingest.worker.reach import LineReach
from services.ingest.worker.rush import Rush
from services.ingest.worker.terminals import Terminals
from services.ingest.worker.upkeep import Heartbeats, HistoryUpkeep, RegistryKeeper, SnapshotKeeper
from services.ingest.worker.waking import WakeKeeper

NAME = "ingest"
RESULTS_MAX_BYTES = 64 << 20
"""Results of commands that are kept while neither database nor bus can be reached. [B]"""


class NotJoined(Unavailable):
    """A group has not been joined yet after the start."""

    code = "starting"
    title_zh = "正在启动"


def build(platform: Platform) -> Service:
    """Return ingest, wired and not yet started."""
    settings = load_section(NAME, IngestSettings)
    clock, bus, instance = platform.clock, platform.bus, platform.settings.instance
    member = f"{NAME}-{instance}"
    health = Health(clock)
    db = platform.database(NAME)
    catalogue = ProfileCatalogue.load(platform.settings.profile_dirs)
    folder = platform.settings.data_dir / NAME / instance
    cold = open_cold_files(settings.history.cold)
    readings = Readings(db, cold)
    power = PgLatest(readings)
    instances = PgInstances(db, alive_s=settings.polling.lease_s, monotonic=clock.monotonic)
    means = Means(
        secrets=SecretStore(settings.secrets_dir or platform.settings.data_dir / "secrets"),
        guard=AddressGuard(settings.outgoing_allowed),
        pushes=PushBoard(clock),
        latest=power.latest,
        folder=folder,
        alone_since=instances.alone_since,
    )

    relay = OutboxRelay(bus=bus, db=db, clock=clock, owner=member)
    topology = Topology()
    registry_tail = Tail(
        bus=bus, clock=clock, topics=(topics.REGISTRY,), start=StartAt(beginning=True), handle=topology.handle
    )
    registry = Registry(db, clock, catalogue, relay.wake)

    def registry_is_read() -> bool:
        return registry_tail.ready

    limits = limits_of(settings)
    findings = Findings(bus=bus, clock=clock, instance=instance)
    spool = Spool(folder / "spool", max_bytes=settings.acceptance.spool_max_bytes, wall=lambda: clock.now().timestamp())
    acceptor = Acceptor(
        bus=bus,
        spool=spool,
        clock=clock,
        limits=limits,
        watch=findings,
        publish_timeout_s=platform.settings.bus.publish_timeout_s,
        spool_max_age_s=settings.acceptance.spool_max_age_s,
    )
    rush = Rush(clock)
    status = StatusBoard(
        PgStatusStore(db), clock, offline_after_missed=settings.polling.offline_after_missed, give_way=rush.let_by
    )
    seen = LastSeen(clock)
    acceptor.on_live(status.heard)
    acceptor.on_live(seen.heard)
    terminals = None
    if settings.dtu.port is not None:
        terminals = Terminals(
            topology=topology,
            acceptor=acceptor,
            clock=clock,
            settings=settings.dtu,
            complete=registry_is_read,
        )
        means = replace(means, hub=terminals.hub)
    leases = LeaseKeeper(db, clock, member, settings.polling.lease_s)
    lines = LineManager(
        topology=topology,
        catalogue=catalogue,
        keeper=leases,
        instances=instances,
        acceptor=acceptor,
        status=status,
        findings=findings,
        clock=clock,
        settings=settings.polling,
        means=means,
        instance=member,
        complete=registry_is_read,
        rush=rush,
    )
    if terminals is not None:
        terminals.on_connected(lines.terminal_connected)
    book = OffBook(folder / "off-leases")
    boot = _boot_id()
    kept_results = Spool(folder / "results", max_bytes=RESULTS_MAX_BYTES, wall=lambda: clock.now().timestamp())
    commands = PgCommandStore(db)
    results = Results(bus=bus, kept=kept_results, clock=clock, instance=instance)
    reach = LineReach(lines=lines, clock=clock, settings=settings.polling, means=means, rush=rush)
    switcher = Switcher(
        reach=reach,
        seen=seen,
        power=power,
        clock=clock,
        settings=settings.switching,
    )
    orders = Orders(
        lines=lines,
        topology=topology,
        catalogue=catalogue,
        switcher=switcher,
        caretaker=Caretaker(reach=reach, clock=clock, settings=settings.switching),
        book=book,
        store=commands,
        results=results,
        findings=findings,
        keys=platform.keys,
        clock=clock,
        settings=settings.switching,
        instance=instance,
        boot=boot,
        clock_synchronised=partial(_clock_synchronised, settings.switching.clock_sync),
    )
    command_worker = CommandWorker(orders=orders, bus=bus, clock=clock)
    lines.on_taken(command_worker.line_taken)
    lines.keep_while(book.holds_line)
    waking = WakeKeeper(
        book=book,
        orders=orders,
        switcher=switcher,
        results=results,
        findings=findings,
        clock=clock,
        settings=settings.switching,
    )
    addresses, load_names = Addresses(topology), LoadNames(topology)
    snapshot = folder / "registry.ndjson"
    # From here on loads can be closed, whatever is away.
    book.load(orders.moment())
    load_snapshot(snapshot, topology)
    history = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group="ingest.history",
        topics=(topics.READINGS, topics.BACKFILL),
        handler=HistoryHandler(clock, partial(_resolution, catalogue)),
        member_id=member,
        max_batch=settings.history.max_batch,
        gather_s=settings.history.gather_s,
        give_way=rush.let_by,
    )
    rejected = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group="ingest.rejected",
        topics=(topics.REJECTED,),
        handler=RejectedHandler(),
        member_id=member,
    )
    submissions = Submissions(
        acceptor=acceptor,
        topology=topology,
        loads=load_names,
        catalogue=catalogue,
        db=db,
        clock=clock,
        park_s=settings.acceptance.park_s,
        complete=registry_is_read,
    )
    aep = AepPushes(
        topology=topology,
        addresses=addresses,
        catalogue=catalogue,
        acceptor=acceptor,
        submissions=submissions,
        status=status,
        pushes=means.pushes,
        secrets=means.secrets,
        clock=clock,
        complete=registry_is_read,
    )
    submissions.read_by("aep", aep)
    taking = Taking(
        db=db,
        clock=clock,
        acceptor=acceptor,
        topology=topology,
        addresses=addresses,
        catalogue=catalogue,
        status=status,
        published=relay.wake,
    )
    pulls = Pulls(db=db, clock=clock, taking=taking, files=load_pulls(settings.pulls.folders))
    submissions.read_by("pull", pulls)
    pull_manager = PullManager(
        topology=topology,
        keeper=LeaseKeeper(db, clock, member, settings.pulls.lease_s),
        pulls=pulls,
        drops=Drops(db=db, clock=clock, taking=taking, allowed=settings.pulls.drop_dirs),
        taking=taking,
        findings=findings,
        means=means,
        clock=clock,
        lease_s=settings.pulls.lease_s,
    )
    imports = Imports(
        db=db,
        clock=clock,
        registry=registry,
        catalogue=catalogue,
        limits=limits,
        published=relay.wake,
        sync_bytes=settings.import_sync_bytes,
    )
    heartbeats = Heartbeats(
        acceptor=acceptor, bus=bus, clock=clock, instance=instance, every_s=settings.acceptance.heartbeat_s
    )
    upkeep = HistoryUpkeep(db, commands, clock, settings.history, cold)
    keeper = RegistryKeeper(registry=registry, topology=topology, tail=registry_tail, clock=clock)

    access = FieldLines(
        lines=lines, topology=topology, keeper=leases, means=means, clock=clock, settings=settings.polling
    )
    fieldwork = Fieldwork(access=access, catalogue=catalogue, clock=clock)
    losses = Losses(db=db, topology=topology, catalogue=catalogue, settings=settings.polling, clock=clock)
    gap_keeper = GapKeeper(
        finder=GapFinder(
            db=db, losses=losses, topology=topology, findings=findings, clock=clock, settings=settings.gaps
        ),
        keeper=leases,
        clock=clock,
    )
    backfill = Backfill(db=db, lines=lines, clock=clock, settings=settings.gaps)

    examples = files("services.ingest") / "api_examples.yaml"
    app = create_app(NAME, platform, health, title="Wattring ingest", examples=examples)
    health.always_open = ("/direct/",)
    app.include_router(
        direct_api.build_router(
            orders=orders, book=book, seen=seen, topology=topology, lines=lines, readings=readings, clock=clock
        )
    )
    app.include_router(
        devices_api.build_router(
            registry=registry,
            replacements=Replacements(db, clock, registry, relay.wake),
            coverages=Coverages(db, clock, topology),
            topology=topology,
        )
    )
    app.include_router(fieldwork_api.build_router(fieldwork=fieldwork, catalogue=catalogue, topology=topology))
    app.include_router(registry_api.build_router(registry=registry, topology=topology, catalogue=catalogue, db=db))
    manual = ManualReadings(
        db=db,
        clock=clock,
        topology=topology,
        catalogue=catalogue,
        readings=readings,
        limits=limits,
        published=relay.wake,
    )
    app.include_router(manual_api.build_router(manual=manual, topology=topology))
    app.include_router(readings_api.build_router(readings=readings, loss=losses, topology=topology, db=db))
    app.include_router(imports_api.build_router(imports=imports, submissions=submissions, topology=topology))

    app.include_router(push_api.build_router(aep=aep))
    open_lean_door(app, push_api.lean_door(aep=aep))
    app.include_router(pulls_api.build_router(db=db, topology=topology))

    async def registry_read() -> None:
        if not registry_tail.ready:
            raise RegistryUnread

    async def history_joined() -> None:
        if not history.ready:
            raise NotJoined("the history has not joined its group yet", message_zh="历史库消费者尚未就绪")

    return Service(
        name=NAME,
        app=app,
        health=health,
        independent=(
            Worker("ingest.waking", waking.run),
            Worker("ingest.results", results.run),
            Worker("ingest.findings", findings.run),
            *([] if terminals is None else [Worker("ingest.terminals", terminals.run)]),
        ),
        resources=(SchemaGate(platform.settings.database, BUS, NAME), db, spool, _remembering(acceptor, db)),
        workers=(
            Worker("ingest.registry", registry_tail.run),
            Worker("ingest.registry-keeper", keeper.run),
            Worker("ingest.outbox", relay.run),
            Worker("ingest.spool", acceptor.drain),
            Worker("ingest.history", history.run),
            Worker("ingest.rejected", rejected.run),
            Worker("ingest.parked", submissions.run),
            Worker("ingest.lines", lines.run),
            Worker("ingest.pulls", pull_manager.run),
            Worker("ingest.status", status.run),
            *([] if terminals is None else [Worker("ingest.terminals-record", terminals.record)]),
            Worker("ingest.commands", command_worker.run),
            Worker(
                "ingest.snapshot",
                SnapshotKeeper(path=snapshot, topology=topology, tail=registry_tail, clock=clock).run,
            ),
            Worker("ingest.heartbeats", heartbeats.run),
            Worker("ingest.gaps", gap_keeper.run, max_silence_s=600.0),
            Worker("ingest.backfill", backfill.run, max_silence_s=600.0),
            Worker("ingest.partitions", upkeep.run, max_silence_s=1200.0),
        ),
        checks=(
            Check("database", db.check),
            Check("bus", bus.check),
            Check("registry", registry_read),
            Check("history", history_joined),
        ),
    )


@asynccontextmanager
async def _remembering(acceptor: Acceptor, db: Database) -> AsyncIterator[None]:
    """Let the acceptor know each device's last report, so that a restart does not take an old one for live."""
    async with db.read() as conn:
        times = await history_store.fetch_last_times(conn)
    acceptor.remember({DeviceId(device_id): time for device_id, time in times.items()})
    yield


def _resolution(catalogue: ProfileCatalogue, profile: str | None, version: str | None) -> Mapping[str, int]:
    """Return which points of a profile are rounded; none where the profile is not known."""
    found = None if profile is None else catalogue.find(profile, version)
    return {} if found is None else rounded_points(found)


def _clock_synchronised(policy: Literal["required", "assumed"]) -> bool:
    """Return whether an OFF may trust the wall clock."""
    if policy == "assumed":
        return True
    state = clock_state()
    return state is not None and state.synchronised


def _boot_id() -> str:
    """Return which run of the kernel this is; the monotonic clock means nothing beyond it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"process-{os.getpid()}-{time.monotonic_ns()}"


def main() -> int:
    """Run ingest alone; return the exit code."""
    return run([build], load_common, process=NAME)


if __name__ == "__main__":
    sys.exit(main())
