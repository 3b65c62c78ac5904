"""Carbon, wired."""

import sys
from collections.abc import Sequence
from importlib.resources import files

from fastapi import APIRouter, FastAPI

from libs.common.bus import topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.outbox import OutboxRelay
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.migrations import BUS, SchemaGate
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryView
from libs.common.runtime import Beat, Check, Health, Platform, Service, Worker, group_check, run, wait_beating
from libs.common.settings import load_common, load_section
from libs.common.web import create_app
from services.carbon.api import build_router
from services.carbon.api.attestations import build_attestations
from services.carbon.api.efficiency import build_efficiency_router
from services.carbon.api.footprints import build_footprint_router
from services.carbon.api.levels import build_levels_router
from services.carbon.api.media import build_media_router
from services.carbon.api.mediabills import build_medium_bill_router
from services.carbon.api.money import build_money_router
from services.carbon.api.projects import build_project_router
from services.carbon.api.published import build_published_router
from services.carbon.api.reports import build_report_router
from services.carbon.api.shutdowns import build_shutdown_router
from services.carbon.api.statements import build_statement_router
from services.carbon.api.virtual import build_virtual_router
from services.carbon.api.why import Explainers, build_why_router
from services.carbon.attester import AttestingLoop, HeadPublisher
from services.carbon.bus import audit
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT
from services.carbon.domain.factors import EmissionFactor
from services.carbon.reporter import ReportSchedule
from services.carbon.settings import CarbonSettings
from services.carbon.store import attestation as attestation_store
from services.carbon.usecases.attestchecks import Checks
from services.carbon.usecases.attesting import Attesting, Proofs
from services.carbon.usecases.outages import Outages
from services.carbon.usecases.reports import Reports
from services.carbon.usecases.temperatures import OutdoorTemperatures
from services.carbon.usecases.why import (
    EfficiencyWhys,
    EnergyWhys,
    FeeWhys,
    FootprintWhys,
    InventoryWhys,
    LoadWhys,
    MediaWhys,
    MediumBillWhys,
    MoneyWhys,
    ProjectWhys,
    RatioWhys,
    SavingWhys,
    StatementWhys,
    TargetWhys,
    VirtualWhys,
)
from services.carbon.wiring import Answers, Savings, World
from services.carbon.worker import (
    BookingHandler,
    Recomputation,
    SwitchingsHandler,
    TargetWatch,
    build_bookings,
    build_pushed,
)


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
        handler=BookingHandler(
            build_bookings(directory, platform.clock, point=ENERGY_POINT),
            build_pushed(directory, platform.clock),
            relay,
        ),
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

    answers = Answers.of(
        World(db, platform.clock, view, directory), settings, intervals_max=settings.query_intervals_max
    )
    health = Health(platform.clock)
    examples = files("services.carbon") / "api_examples.yaml"
    app = create_app("carbon", platform, health, title="Wattring carbon", examples=examples)
    reports = Reports(db=db, clock=platform.clock, audit=audit, sight=answers.sites)
    for router in (
        *energy_routers(answers),
        *saving_routers(answers.savings, db, platform.clock, settings),
        build_why_router(explainers(answers, db)),
        build_report_router(reports),
    ):
        app.include_router(router)
    watch = TargetWatch(
        targets=answers.money.targets,
        directory=directory,
        relay=relay,
        clock=platform.clock,
        poll_s=settings.targets_poll_s,
    )
    schedule = ReportSchedule(reports=reports, clock=platform.clock, poll_s=settings.reports_poll_s)
    attesting = add_attestation(app, platform, db, directory, answers.shipped.rows, settings)
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


def energy_routers(answers: Answers) -> list[APIRouter]:
    """Return the routes of energy, emissions, media, virtual meters, efficiency codes, footprints and money."""
    money = answers.money
    return [
        build_router(answers.queries, answers.inventories),
        build_levels_router(answers.levels, answers.supply),
        build_virtual_router(answers.virtual, answers.levels, answers.queries),
        build_media_router(answers.media),
        build_efficiency_router(answers.efficiency),
        build_footprint_router(answers.footprints, loads=answers.savings.loads),
        build_money_router(money.tariffs, money.bills, money.costs, money.targets),
        build_medium_bill_router(answers.medium_bills),
    ]


def saving_routers(saved: Savings, db: Database, clock: Clock, settings: CarbonSettings) -> list[APIRouter]:
    """Return the routes of savings by switching off, of projects and of contracts."""
    loads = saved.loads
    outages = Outages(db=db, clock=clock, audit=audit)
    temperatures = OutdoorTemperatures(db=db, clock=clock, audit=audit)
    return [
        build_shutdown_router(saved.shutdowns, outages, loads=loads, db=db, days_max=settings.query_days_max),
        build_project_router(saved.projects, temperatures, loads=loads, clock=clock),
        build_published_router(),
        build_statement_router(saved.statements, loads=loads),
    ]


def explainers(answers: Answers, db: Database) -> Explainers:
    """Return who answers why a figure is what it is."""
    money, saved = answers.money, answers.savings
    return Explainers(
        energy=EnergyWhys(answers.queries),
        ratios=RatioWhys(answers.levels, answers.supply),
        supply=LoadWhys(answers.supply),
        media=MediaWhys(answers.media),
        money=MoneyWhys(money.costs),
        medium_bills=MediumBillWhys(answers.medium_bills),
        fees=FeeWhys(money.costs),
        targets=TargetWhys(money.targets),
        inventories=InventoryWhys(answers.inventories, answers.nodes),
        savings=SavingWhys(saved.shutdowns, db, saved.loads),
        projects=ProjectWhys(saved.projects),
        statements=StatementWhys(saved.statements),
        efficiency=EfficiencyWhys(answers.efficiency),
        footprints=FootprintWhys(answers.footprints),
        virtual=VirtualWhys(answers.virtual, answers.queries),
        boundaries=answers.queries.boundaries,
        loads=saved.loads,
    )


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
