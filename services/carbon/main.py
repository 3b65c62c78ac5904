"""Carbon, wired."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from fastapi import FastAPI

from libs.common.bus import topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.outbox import OutboxRelay
from libs.common.db import Database
from libs.common.migrations import BUS, SchemaGate
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryView
from libs.common.runtime import Beat, Check, Health, Platform, Service, Worker, group_check, run, wait_beating
from libs.common.settings import load_common, load_section
from libs.common.web import create_app
from libs.common.workdays import china
from services.carbon.api import build_router
from services.carbon.api.attestations import build_attestations
from services.carbon.api.levels import build_levels_router
from services.carbon.api.media import build_media_router
from services.carbon.api.money import build_money_router
from services.carbon.api.projects import build_project_router
from services.carbon.api.published import build_published_router
from services.carbon.api.reports import build_report_router
from services.carbon.api.shutdowns import build_shutdown_router
from services.carbon.api.statements import build_statement_router
from services.carbon.api.virtual import build_virtual_router
from services.carbon.api.why import Explainers, build_why_router
from services.carbon.attester import AttestingLoop, HeadPublisher
from services.carbon.boundary import Boundaries, Limits
from services.carbon.bus import audit, result
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT
from services.carbon.domain.factors import EmissionFactor
from services.carbon.gridfactors import GridFactors
from services.carbon.library import load_coal, load_library
from services.carbon.loads import LoadDirectory
from services.carbon.queries import Queries
from services.carbon.reporter import ReportSchedule
from services.carbon.settings import CarbonSettings
from services.carbon.sites import Sites
from services.carbon.store import attestation as attestation_store
from services.carbon.store import intervals as store
from services.carbon.store import inventories as inventory_store
from services.carbon.store import outages as outages_store
from services.carbon.store import switchings as switchings_store
from services.carbon.store import temperatures as temperatures_store
from services.carbon.tariff_file import shipped_rows
from services.carbon.topology import Topology
from services.carbon.tree import Tree
from services.carbon.usecases.attestchecks import Checks
from services.carbon.usecases.attesting import Attesting, Proofs
from services.carbon.usecases.bills import Bills
from services.carbon.usecases.costs import Costs
from services.carbon.usecases.figures import Figures
from services.carbon.usecases.gridprices import GridPrices
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.levels import Levels
from services.carbon.usecases.measurements import Measurements
from services.carbon.usecases.media import MediaUses
from services.carbon.usecases.meterends import MeterEnds
from services.carbon.usecases.metering import Metering
from services.carbon.usecases.outages import Outages
from services.carbon.usecases.projects import Projects
from services.carbon.usecases.reports import Reports
from services.carbon.usecases.shutdowns import ShutdownSavings, civil_exceptions
from services.carbon.usecases.statements import Statements
from services.carbon.usecases.supply import Supply
from services.carbon.usecases.targets import Targets
from services.carbon.usecases.tariffs import Tariffs
from services.carbon.usecases.temperatures import OutdoorTemperatures
from services.carbon.usecases.virtual import VirtualMeters
from services.carbon.usecases.why import (
    EnergyWhys,
    InventoryWhys,
    MoneyWhys,
    ProjectWhys,
    RatioWhys,
    SavingWhys,
    StatementWhys,
    VirtualWhys,
)
from services.carbon.worker import BookingHandler, Recomputation, SwitchingsHandler, TargetWatch, build_bookings


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    settings = load_section("carbon", CarbonSettings)
    db = platform.database("carbon")
    owner = f"carbon-{platform.settings.instance}"
    view = RegistryView(bus=platform.bus, db=db, clock=platform.clock)
    directory = RegistryDirectory(
        view, ProfileCatalogue.load(platform.settings.profile_dirs), platform.clock, point=ENERGY_POINT
    )
    relay = OutboxRelay(bus=platform.bus, db=db, clock=platform.clock, owner=owner)

    consumer = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=platform.clock,
        group="carbon.intervals",
        topics=[topics.READINGS, topics.BACKFILL],
        handler=BookingHandler(build_bookings(directory, platform.clock, point=ENERGY_POINT), relay),
        member_id=owner,
        max_batch=settings.max_batch,
    )
    switchings = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=platform.clock,
        group="carbon.switchings",
        topics=[topics.CONTROL_EVENTS],
        handler=SwitchingsHandler(),
        member_id=owner,
        max_batch=settings.max_batch,
    )
    recomputation = Recomputation(
        db=db,
        directory=directory,
        bookings=build_bookings(directory, platform.clock, point=ENERGY_POINT),
        relay=relay,
        clock=platform.clock,
        poll_s=settings.recompute_poll_s,
    )

    async def consume(beat: Beat) -> None:
        await wait_beating(directory.ready, beat)
        await consumer.run(beat)

    shipped = load_library()
    boundaries = Boundaries(
        db=db,
        tree=Tree(view),
        clock=platform.clock,
        limits=Limits(
            days=settings.query_days_max,
            intervals=settings.query_intervals_max,
            periods=settings.query_periods_max,
        ),
    )
    queries = Queries(
        db=db,
        directory=directory,
        boundaries=boundaries,
        clock=platform.clock,
        factors=shipped.rows,
        point=ENERGY_POINT,
    )
    inventories = Inventories(
        db=db,
        books=inventory_store,
        metering=Metering(
            nodes=Topology(view),
            energy=boundaries,
            clock=platform.clock,
            intervals_max=settings.inventory_intervals_max,
        ),
        clock=platform.clock,
        shipped=shipped,
        coal=load_coal(),
        audit=audit,
        software=version("wattring-carbon"),
    )
    health = Health(platform.clock)
    app = create_app("carbon", platform, health, title="Wattring carbon")
    app.include_router(build_router(queries, inventories))
    tariffs = Tariffs(db=db, clock=platform.clock, audit=audit, shipped=shipped_rows())
    costs, targets = add_money(app, platform, db, Sites(boundaries.tree, view, platform.clock), queries, tariffs)
    watch = TargetWatch(
        targets=targets, directory=directory, relay=relay, clock=platform.clock, poll_s=settings.targets_poll_s
    )
    factors = GridFactors(shipped.rows, directory, platform.clock)
    saved = add_savings(app, platform, db, view, factors, tariffs, settings)
    levels = Levels(db=db, boundaries=boundaries, directory=directory, audit=audit)
    supply = Supply(db=db, boundaries=boundaries, directory=directory)
    app.include_router(build_levels_router(levels, supply))
    virtual = VirtualMeters(db=db, circuits=directory, boundaries=boundaries, audit=audit)
    explain = Explainers(
        energy=EnergyWhys(queries),
        ratios=RatioWhys(levels, supply),
        money=MoneyWhys(costs, targets),
        inventories=InventoryWhys(inventories),
        savings=SavingWhys(saved.shutdowns, db),
        projects=ProjectWhys(saved.projects),
        statements=StatementWhys(saved.statements),
        virtual=VirtualWhys(virtual),
        boundaries=boundaries,
        loads=saved.loads,
    )
    app.include_router(build_why_router(explain))
    app.include_router(build_virtual_router(virtual, levels, queries))
    media = MediaUses(db=db, boundaries=boundaries, directory=directory, factors=shipped.rows)
    app.include_router(build_media_router(media))
    reports = Reports(db=db, clock=platform.clock, audit=audit)
    app.include_router(build_report_router(reports))
    schedule = ReportSchedule(reports=reports, clock=platform.clock, poll_s=settings.reports_poll_s)
    attesting = add_attestation(app, platform, db, directory, shipped.rows, settings)
    return Service(
        name="carbon",
        app=app,
        health=health,
        resources=[SchemaGate(platform.settings.database, BUS, "carbon"), db],
        workers=[
            Worker("registry", view.run),
            Worker("intervals", consume),
            Worker("switchings", switchings.run),
            Worker("recomputation", recomputation.run),
            Worker("attestation", attesting.run),
            Worker("targets", watch.run),
            Worker("reports", schedule.run),
            Worker("outbox", relay.run),
        ],
        checks=[
            Check("database", db.check),
            Check("bus", platform.bus.check),
            Check("registry", view.check),
            group_check("intervals", lambda: consumer.ready, "carbon.intervals"),
            group_check("switchings", lambda: switchings.ready, "carbon.switchings"),
        ],
    )


def add_money(
    app: FastAPI, platform: Platform, db: Database, sites: Sites, queries: Queries, tariffs: Tariffs
) -> tuple[Costs, Targets]:
    """Add the routes of tariffs, accounts, bills, costs and targets; return the two last, which others ask too."""
    bills = Bills(db=db, sites=sites, clock=platform.clock, audit=audit)
    costs = Costs(db=db, tariffs=tariffs, bills=bills, sites=sites, boundaries=queries.boundaries, clock=platform.clock)
    targets = Targets(
        db=db, figures=Figures(queries, costs), sites=sites, clock=platform.clock, audit=audit, publish=result
    )
    app.include_router(build_money_router(tariffs, bills, costs, targets))
    return costs, targets


@dataclass(frozen=True)
class Savings:
    """What traces ask of savings."""

    loads: LoadDirectory
    shutdowns: ShutdownSavings
    projects: Projects
    statements: Statements


def add_savings(
    app: FastAPI,
    platform: Platform,
    db: Database,
    view: RegistryView,
    factors: GridFactors,
    tariffs: Tariffs,
    settings: CarbonSettings,
) -> Savings:
    """Add the routes of savings; return what traces ask of them."""
    loads = LoadDirectory(view, platform.clock)
    days = china()
    holidays = civil_exceptions(days.off, days.work)
    shutdowns = ShutdownSavings(
        switchings=switchings_store,
        intervals=store,
        outages=outages_store,
        loads=loads,
        factors=factors,
        prices=GridPrices(tariffs, loads),
        temperatures=temperatures_store,
        holidays=holidays,
    )
    outages = Outages(db=db, clock=platform.clock, audit=audit)
    measurements = Measurements(
        intervals=store, temperatures=temperatures_store, shutdowns=shutdowns, circuits=loads, holidays=holidays
    )
    projects = Projects(db=db, clock=platform.clock, audit=audit, measurements=measurements)
    temperatures = OutdoorTemperatures(db=db, clock=platform.clock, audit=audit)
    statements = Statements(
        db=db,
        clock=platform.clock,
        audit=audit,
        measurements=measurements,
        meter_ends=MeterEnds(meters=factors.directory, point=ENERGY_POINT),
    )
    for router in (
        build_shutdown_router(shutdowns, outages, loads=loads, db=db, days_max=settings.query_days_max),
        build_project_router(projects, temperatures, loads=loads, clock=platform.clock),
        build_published_router(),
        build_statement_router(statements, loads=loads),
    ):
        app.include_router(router)
    return Savings(loads, shutdowns, projects, statements)


def add_attestation(
    app: FastAPI,
    platform: Platform,
    db: Database,
    directory: RegistryDirectory,
    factors: Sequence[EmissionFactor],
    settings: CarbonSettings,
) -> AttestingLoop:
    """Add the routes of attestation; return its loop."""
    proofs = Proofs(db=db, log=attestation_store)
    checks = Checks(db=db, rows=attestation_store, keys=platform.keys)
    app.include_router(build_attestations(proofs, checks, directory))
    attesting = Attesting(
        db=db,
        log=attestation_store,
        publisher=HeadPublisher(),
        clock=platform.clock,
        keys=platform.keys,
        head_every_s=settings.attest_head_every_s,
    )
    return AttestingLoop(attesting=attesting, factors=factors, clock=platform.clock, poll_s=settings.attest_poll_s)


def main() -> int:
    """Run carbon as a process of its own."""
    return run([build], load_common, process="carbon")


if __name__ == "__main__":
    sys.exit(main())
