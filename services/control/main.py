"""Control, wired."""

import asyncio
import sys
from importlib.resources import files

from libs.common.bus import topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.outbox import OutboxRelay
from libs.common.garbage import Undisturbed
from libs.common.migrations import BUS, SchemaGate
from libs.common.registry import RegistryView
from libs.common.runtime import Beat, Check, Health, Platform, Service, Worker, group_check, run, wait_beating
from libs.common.settings import load_common, load_section
from libs.common.web import create_app
from services.control.api.adjustments import build_adjustment_router
from services.control.api.apps import build_app_router
from services.control.api.audit import build_audit_router, record_refusals
from services.control.api.commands import build_command_router
from services.control.api.common import Idempotent
from services.control.api.findings import build_finding_router
from services.control.api.guards import build_guard_router
from services.control.api.isolations import build_isolation_router
from services.control.api.plans import build_plan_router
from services.control.api.setpointplans import build_setpoint_plan_router
from services.control.api.setpoints import build_setpoint_router
from services.control.api.wake_ups import build_wake_up_router
from services.control.directory import RegistryDevices, RegistryLoads
from services.control.drivers.door import Board, Doors
from services.control.drivers.history import History
from services.control.drivers.samples import SampleBoard
from services.control.drivers.watchdog import Watchdog
from services.control.settings import ControlSettings
from services.control.usecases.adjusting import ADJUSTMENTS_GROUP, Adjusting
from services.control.usecases.apps import Apps
from services.control.usecases.auditing import Linker
from services.control.usecases.guardfacts import GuardFacts
from services.control.usecases.guardrules import GuardRules
from services.control.usecases.isolations import Isolations
from services.control.usecases.local import LocalActions
from services.control.usecases.orders import Orders
from services.control.usecases.places import PlaceHandler
from services.control.usecases.plans import Plans
from services.control.usecases.ports import AssumedClock, SteadyClock
from services.control.usecases.results import ResultHandler
from services.control.usecases.rush import Rush
from services.control.usecases.scheduler import Scheduler
from services.control.usecases.setpointplans import SetpointPlans
from services.control.usecases.setpoints import SetpointPolicies
from services.control.usecases.simulation import Simulation
from services.control.usecases.switching import Switching
from services.control.worker import (
    AdjustLoop,
    AuditLoop,
    KernelClock,
    LastResort,
    LeasePusher,
    LookLoop,
    SampleLoop,
    SchedulerLoop,
    SecondPath,
    Singleton,
    StandByWaking,
    WakeUpsFirst,
)


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    settings = load_section("control", ControlSettings)
    clock, steady = platform.clock, SteadyClock(platform.clock)
    urls = platform.settings.service_urls
    db = platform.database("control")
    owner = f"control-{platform.settings.instance}"
    view = RegistryView(bus=platform.bus, db=db, clock=clock)
    loads = RegistryLoads(view, clock)
    doors = Doors(settings.doors or tuple(url for url in [urls.get("ingest")] if url), platform.keys)
    board = Board(doors, clock, steady)
    samples = SampleBoard(doors, clock, steady, load_of=loads.get, devices_of_site=loads.devices_of_site)
    watchdog = Watchdog(urls.get("watchdog"), platform.keys)
    rush = Rush(clock)
    relay = OutboxRelay(bus=platform.bus, db=db, clock=clock, owner=owner, only_urgent=lambda: rush.is_on)

    switching = Switching(loads=loads, keys=platform.keys, policy=settings.policy())
    devices = RegistryDevices(view, platform.settings.profile_dirs)
    guards = GuardFacts(loads=loads, readings=board, settings=switching.policy, neighbours=devices)
    answers = ResultHandler(clock=steady, switching=switching, wake_relay=relay.wake, rush=rush)
    scheduler = Scheduler(
        db=db,
        clock=steady,
        sync=AssumedClock() if settings.clock_sync == "assumed" else KernelClock(),
        readings=board,
        samples=samples,
        switching=switching,
        guards=guards,
        prepare_s=settings.prepare_s,
        watchdog_required=settings.watchdog == "required",
        inrush=settings.inrush(),
        answers_come=answers.answers_come,
        rush=rush,
    )
    hurry = asyncio.Event()

    def singleton(name: str) -> Singleton:
        return Singleton(db=db, clock=clock, owner=owner, name=name, ttl_s=settings.scheduler_lease_s)

    schedules = singleton("scheduler")
    undisturbed = Undisturbed(clock)
    loop = SchedulerLoop(
        scheduler, schedules, undisturbed=undisturbed, tick_s=settings.tick_s, committed=relay.wake, wake=hurry
    )
    pusher = LeasePusher(
        db=db, clock=clock, steady=steady, watchdog=watchdog, singleton=singleton("watchdog"), wake_scheduler=hurry
    )
    local = LocalActions(db=db, clock=steady, switching=switching, readings=board)
    looks = LookLoop(
        db=db, clock=clock, steady=steady, board=board, scheduler=scheduler, schedules=schedules, local=local,
        wake_scheduler=hurry,
    )  # fmt: skip
    last_resort = LastResort(clock=clock, doors=doors)
    second_path = SecondPath(
        db=db, steady=steady, doors=doors, singleton=singleton("second-path"), answers_come=answers.answers_come
    )
    results = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=clock,
        group="control.results",
        topics=[topics.RESULTS],
        handler=answers,
        member_id=owner,
        give_way=WakeUpsFirst(clock=clock, waking=scheduler.waking, heard=answers.heard).wait,
    )
    # No part of the readiness: wake-ups need none of it.
    places = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=clock,
        group="control.places",
        topics=[topics.ALARM_EVENTS, topics.MAINTENANCE],
        handler=PlaceHandler(clock=steady),
        member_id=owner,
    )

    adjust_soon = asyncio.Event()
    adjusting = Adjusting(db=db, clock=steady, keys=platform.keys, wake=relay.wake, neighbours=devices)
    setpoint_plans = SetpointPlans(
        db=db, clock=steady, adjusting=adjusting, devices=devices, loads=loads, two_persons=settings.two_person_plans
    )
    adjust_loop = AdjustLoop(
        adjusting, setpoint_plans, singleton("adjusting"), tick_s=settings.tick_s, wake=adjust_soon
    )
    adjust_results = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=clock,
        group=ADJUSTMENTS_GROUP,
        topics=[topics.RESULTS],
        handler=adjusting,
        member_id=owner,
    )

    linker = Linker(db=db, clock=steady, keys=platform.keys)
    audit_loop = AuditLoop(linker, singleton("audit"), waits=lambda: rush.is_on)

    async def schedule(beat: Beat) -> None:
        await wait_beating(view.ready, beat)
        await loop.run(beat)

    stand_by = StandByWaking(
        clock=clock, steady=steady, waking=scheduler.waking, schedules=schedules, tick_s=settings.tick_s,
        committed=relay.wake,
    )  # fmt: skip

    async def wake_standing_by(beat: Beat) -> None:
        await wait_beating(view.ready, beat)
        await stand_by.run(beat)

    async def consume(beat: Beat) -> None:
        await wait_beating(view.ready, beat)
        await results.run(beat)

    def hurry_all() -> None:
        hurry.set()
        relay.wake()

    health = Health(clock)
    examples = files("services.control") / "api_examples.yaml"
    app = create_app("control", platform, health, title="Wattring control", examples=examples)
    orders = Orders(db=db, clock=steady, switching=switching, readings=board, scheduler=scheduler, guards=guards)
    plans = Plans(db=db, clock=steady, switching=switching, guards=guards, two_persons=settings.two_person_plans)
    isolations = Isolations(db=db, clock=steady, switching=switching)
    apps = Apps(db=db, clock=steady, loads=loads)
    history = History(doors, meter_at=loads.meter_at, devices_of_site=loads.devices_of_site)
    simulation = Simulation(db=db, clock=steady, switching=switching, guards=guards, history=history)
    app.include_router(build_setpoint_plan_router(setpoint_plans, db, devices, clock, adjust_soon.set))
    app.include_router(build_plan_router(plans, simulation, apps, db, loads, clock, hurry_all, view.check))
    idempotent = Idempotent(db, steady)
    app.include_router(
        build_adjustment_router(
            adjusting=adjusting, db=db, devices=devices, idempotent=idempotent, wake=adjust_soon.set
        )
    )
    app.include_router(build_audit_router(db=db, clock=steady, keys=platform.keys))
    record_refusals(app, db=db, clock=steady)
    app.include_router(build_isolation_router(isolations=isolations, orders=orders, db=db, loads=loads, wake=hurry_all))
    app.include_router(
        build_command_router(
            orders=orders, apps=apps, db=db, loads=loads, board=board, idempotent=idempotent, wake=hurry_all,
            registry=view.check,
        )
    )  # fmt: skip
    app.include_router(build_app_router(apps, loads))
    app.include_router(
        build_wake_up_router(
            orders=orders, clock=clock, loads=loads, board=board, idempotent=idempotent, wake=hurry_all,
            last_resort=last_resort.take, undisturbed=undisturbed,
        )
    )  # fmt: skip
    rules = GuardRules(db=db, clock=steady, loads=loads, guards=guards, orders=orders)
    app.include_router(build_setpoint_router(SetpointPolicies(db=db, clock=steady), devices))
    app.include_router(build_guard_router(rules, loads, board, switching.policy))
    app.include_router(build_finding_router(db=db, clock=clock, loads=loads))
    workers = [
        Worker("registry", view.run),
        Worker("scheduler", schedule),
        Worker("wake-ups", wake_standing_by),
        Worker("results", consume),
        Worker("places", places.run),
        Worker("looks", looks.run),
        Worker("adjusting", adjust_loop.run),
        Worker("adjustment-results", adjust_results.run),
        Worker("samples", SampleLoop(db=db, clock=clock, steady=steady, samples=samples).run, max_silence_s=300),
        Worker("second-path", second_path.run, max_silence_s=300),
        Worker("last-resort", last_resort.run, max_silence_s=300),
        Worker("audit", audit_loop.run),
        Worker("outbox", relay.run),
    ]
    if settings.watchdog == "required":
        workers.append(Worker("watchdog-leases", pusher.run))
    return Service(
        name="control",
        app=app,
        health=health,
        resources=[SchemaGate(platform.settings.database, BUS, "control"), db, doors, watchdog],
        workers=workers,
        checks=[
            Check("database", db.check),
            Check("bus", platform.bus.check),
            Check("registry", view.check),
            group_check("results", lambda: results.ready, "control.results"),
            group_check("adjustment-results", lambda: adjust_results.ready, ADJUSTMENTS_GROUP),
        ],
    )


def main() -> int:
    """Run control as a process of its own."""
    return run([build], load_common, process="control")


if __name__ == "__main__":
    sys.exit(main())
