"""A night of many units in which everything is killed again and again, drawn from a seed, in virtual time.

A plan takes all units off at midnight and on again at five. Around both moments, and now and then between them,
control, ingest, the bus, the database and the watchdog are killed and restarted; control dies at steps of its own
as well; one answer of a device in twenty is lost. Every other evening is calm, so that all units are off when it
begins. Some units cannot be reached any more, some are locked, tripped or isolated while they are off. ``faults``
says what must not be, when it is over.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from libs.common.bus import topics
from libs.common.db import Database
from libs.common.ids import SiteId
from libs.common.testing.clock import FakeClock
from services.control.domain.guards import Policy
from services.control.domain.plans import Schedule, Window
from services.control.usecases.isolations import IsolationRequest
from tests.integration.control.control_world import new_keys
from tests.integration.control.mortal import Fate, Mortal
from tests.integration.control.mortal_world import MortalWorld, is_stopped

ZONE = ZoneInfo("Asia/Shanghai")
NIGHT = date(2026, 3, 2)
OFF, ON = time(0), time(5)
LOST_ANSWERS = 0.05
DEATH_AT_A_STEP = 0.03
DEATHS_AT_MESSAGES = 0.2
"""Of control, in one night, for each message that a unit of it causes. [1]"""
PARTS = ("control", "ingest", "bus", "database", "watchdog")
LEAVES = 0.02
"""Share of the units that cannot be reached any more from some moment of the night on. [1]"""
STOPPED = 0.03
"""Share of the units that are locked, tripped or isolated while they are off. [1]"""
REST_TURNS = 12
"""Minutes after which everything has come to rest: some pauses of a minute, one after the other."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A part is away."""

    part: str
    begins: datetime
    ends: datetime


@dataclass(slots=True)
class Night:
    """What was drawn, and what came of it."""

    world: MortalWorld
    outages: list[Outage]
    leaving: dict[str, datetime]
    stopping: dict[str, tuple[datetime, str]]
    jump_at: datetime | None
    jump_h: int
    went_off: set[str] = field(default_factory=set)
    isolated: set[str] = field(default_factory=set)
    overslept: list[str] = field(default_factory=list)
    """Units that nothing stood in the way of and that were off when all had come to rest, whatever the clock said."""
    kills: Counter[str] = field(default_factory=Counter)


def _at(wall: time) -> datetime:
    return datetime.combine(NIGHT, wall, ZONE)


def draw(world: MortalWorld, rng: random.Random, units: int, *, calm_evening: bool) -> Night:
    """Draw what goes wrong; after a calm evening nothing is away before all units are off."""
    outages = []
    stretches = [(_at(OFF) - timedelta(minutes=1), 5, 4), (_at(OFF) + timedelta(minutes=5), 280, 3),
                 (_at(ON) - timedelta(minutes=2), 8, 6)]  # fmt: skip
    for begins, minutes, number in stretches:
        for _ in range(number):
            start = begins + timedelta(minutes=rng.uniform(0, minutes))
            outages.append(Outage(rng.choice(PARTS), start, start + timedelta(seconds=rng.choice([5, 20, 60, 150]))))
    if calm_evening:
        outages = [outage for outage in outages if outage.begins > _at(OFF) + timedelta(minutes=5)]
    names = [f"aau-{number:04d}" for number in range(units)]
    rng.shuffle(names)
    leaving_end = round(units * LEAVES)
    leaving = {name: _at(OFF) + timedelta(minutes=rng.uniform(-1, 305)) for name in names[:leaving_end]}
    stopping = {
        name: (_at(OFF) + timedelta(minutes=rng.uniform(60, 290)), rng.choice(["lock", "trip", "isolation"]))
        for name in names[leaving_end : leaving_end + round(units * STOPPED)]
    }
    jumps = rng.random() < 0.5
    jump_at = _at(OFF) + timedelta(minutes=rng.uniform(60, 230)) if jumps else None
    for number in range(units):
        world.add_load(f"aau-{number:04d}", site_id=SiteId(f"site-{number // 20}"))
    return Night(world, outages, leaving, stopping, jump_at, rng.choice([-1, 1]))


async def live_through(db: Database, folder: Path, seed: int, units: int) -> Night:
    """Live through the night of a seed, and the rest after it."""
    rng = random.Random(seed)
    clock = FakeClock(_at(OFF) - timedelta(minutes=2))
    mortal = Mortal(db)
    world = MortalWorld(mortal, clock, new_keys(folder / "keys", clock), Policy(), folder / "leases.journal")
    world.field.holder_margin_s = 30
    night = draw(world, rng, units, calm_evening=seed % 2 == 1)
    schedule = Schedule(NIGHT, NIGHT, (Window(OFF, ON),), str(ZONE))
    plan, _ = await world.plans.draft("chaos", sorted(world.field.breakers), schedule, (), None, "user:a", "api")
    await world.plans.approve(plan.plan_id, "user:b", "api")

    world.field.loses_answer = lambda: rng.random() < LOST_ANSWERS
    world.delivers_again = lambda: rng.random() < LOST_ANSWERS
    world.dies_publishing = lambda: rng.random() < DEATHS_AT_MESSAGES / units
    mortal.fate = lambda: (
        rng.choice([Fate.DIES_BEFORE, Fate.DIES_AFTER]) if rng.random() < DEATH_AT_A_STEP else Fate.LIVES
    )
    # By this clock outages are planned; the wall clock may jump.
    began, began_at = clock.monotonic(), clock.now()
    calm_at = max([outage.ends for outage in night.outages] + [_at(ON)])
    while (now := began_at + timedelta(seconds=clock.monotonic() - began)) < calm_at:
        await _disturb(night, now)
        await world.live(_pause_s(night, now))
        night.went_off |= {load_id for load_id, breaker in world.field.breakers.items() if not breaker.closed}
    await _calm(night)
    for _ in range(REST_TURNS):
        await world.live(60)
    night.overslept = [
        load_id
        for load_id, breaker in world.field.breakers.items()
        if not breaker.closed and breaker.reachable and not breaker.local_lock and not breaker.trip_reason
        and load_id not in night.isolated
    ]  # fmt: skip
    # A control that was started after the wall clock had been put back believes it, as it has to: by the wall it is
    # still night. The units are awake by then all the same, which holders and watchdog have seen to.
    while clock.now() < _at(ON) + timedelta(minutes=10):
        await world.live(300)
    for _ in range(REST_TURNS):
        await world.live(60)
    return night


def _pause_s(night: Night, now: datetime) -> float:
    """Return how long nothing needs to be looked at: seconds around a window's ends and outages, else minutes."""
    busy = [(_at(OFF) - timedelta(seconds=40), _at(OFF) + timedelta(minutes=2)),
            (_at(ON) - timedelta(seconds=10), _at(ON) + timedelta(minutes=3))]  # fmt: skip
    busy += [(outage.begins, outage.ends + timedelta(seconds=15)) for outage in night.outages]
    if any(begins <= now < ends for begins, ends in busy):
        return 7.0
    if _at(OFF) <= now < _at(OFF) + timedelta(minutes=11):
        return 30.0  # what could not be switched off at once is tried for ten minutes
    next_s = min(((begins - now).total_seconds() for begins, _ in busy if begins > now), default=600.0)
    return min(max(next_s, 7.0), 600.0)


async def _disturb(night: Night, now: datetime) -> None:
    world = night.world
    for part in PARTS:
        there = not any(outage.part == part and outage.begins <= now < outage.ends for outage in night.outages)
        if there != _is_there(world, part):
            night.kills[part] += not there
            _set_there(world, part, there=there)
    for load_id, at in night.leaving.items():
        if at <= now:
            world.field.breakers[load_id].reachable = False
    for load_id, (at, how) in list(night.stopping.items()):
        if at <= now and not world.field.breakers[load_id].closed:
            await _stop(night, load_id, how)
    if night.jump_at is not None and now >= night.jump_at:
        world.clock.set_wall(world.clock.now() + timedelta(hours=night.jump_h))
        night.jump_at = None


def _is_there(world: MortalWorld, part: str) -> bool:
    match part:
        case "control":
            return world.control_up
        case "ingest":
            return world.field.holder_alive
        case "bus":
            return world.bus_up
        case "database":
            return not world.mortal.away
    return world.watchdog_up


def _set_there(world: MortalWorld, part: str, *, there: bool) -> None:
    match part:
        case "control":
            world.control_up = there
            if there:
                world.start()
        case "ingest":
            world.field.holder_alive = there
        case "bus":
            world.bus_up = there
        case "database":
            world.mortal.away = not there
        case _ if there:
            world.revive_watchdog()
        case _:
            world.kill_watchdog()


async def _stop(night: Night, load_id: str, how: str) -> None:
    """Let somebody lock it, let it trip, or take out a work permit; tried again while control is away."""
    world, breaker = night.world, night.world.field.breakers[load_id]
    if how == "lock":
        breaker.local_lock = True
    elif how == "trip":
        breaker.trip_reason = 2
    elif world.control_up and not world.mortal.away:
        fate, world.mortal.fate = world.mortal.fate, lambda: Fate.LIVES
        request = IsolationRequest(
            world.loads.loads[load_id], "user:owner", "P-1", "work", world.steady.now() + timedelta(hours=20)
        )
        isolation = await world.isolations.request(request, "user:owner", "api")
        await world.isolations.approve(isolation.isolation_id, "user:second", "api")
        world.mortal.fate = fate
        night.isolated.add(load_id)
    else:
        return
    del night.stopping[load_id]


async def _calm(night: Night) -> None:
    """End all disturbances; what cannot be reached and what is stopped stays so."""
    world = night.world
    for part in PARTS:
        if not _is_there(world, part):
            _set_there(world, part, there=True)
    world.mortal.fate = lambda: Fate.LIVES
    world.dies_publishing = world.delivers_again = world.field.loses_answer = lambda: False


async def faults(night: Night) -> list[str]:
    """Return what is not as it has to be in the end; empty when all is well."""
    world = night.world
    async with world.db.read() as conn:
        waking = {
            row["load_id"]
            for row in await conn.fetch(
                "select load_id from commands where not is_final union select load_id from wake_up_todo"
            )
        }
        leased = {row["load_id"] for row in await conn.fetch("select load_id from off_leases where closed_at is null")}
        isolated = {row["load_id"] for row in await conn.fetch("select load_id from isolations where state = 'active'")}
        open_ended = {
            row["load_id"]
            for row in await conn.fetch(
                "select load_id from plan_occurrences where state not in ('awake', 'skipped', 'called_off')"
            )
        }
    alarms = standing_alarms(world)
    found = [f"{load_id}: overslept" for load_id in night.overslept]
    for load_id, breaker in world.field.breakers.items():
        alarm = alarms.get(load_id, set())
        if load_id in isolated or is_stopped(breaker):
            # Nobody is called for a lock on a breaker that is closed: there is nothing to do.
            needs_person = not breaker.closed and (load_id not in isolated or load_id in waking | open_ended)
            if needs_person and "wake_up_stopped" not in alarm:
                found.append(f"{load_id}: stopped, and nobody was called ({alarm})")
        elif not breaker.reachable:
            doubtful = not breaker.closed or load_id in waking
            if doubtful and not alarm & {"wake_up_overdue", "wake_up_stopped"}:
                found.append(f"{load_id}: out of reach, and no alarm")
        else:
            wrong = {
                "sleeps": not breaker.closed, "commands are not over": load_id in waking,
                "lease stands": load_id in leased, "occurrence is not over": load_id in open_ended,
                f"alarms stand: {sorted(alarm)}": bool(alarm),
            }  # fmt: skip
            found += [f"{load_id}: {what}" for what, is_so in wrong.items() if is_so]
    sent: dict[object, object] = {}
    for topic, payload in world.published:
        if topic == topics.COMMANDS and sent.setdefault(payload["command_id"], payload) != payload:
            found.append(f"{payload['command_id']}: two different sendings")
    return found


def standing_alarms(world: MortalWorld) -> dict[str, set[str]]:
    """Return the kinds of conditions that stand, by load: begun by somebody and not ended by the same."""
    standing: dict[str, dict[tuple[object, str], object]] = {}
    for one in world.events(topics.CONDITIONS):
        standing.setdefault(str(one["subject"]), {})[one["source"], str(one["kind"])] = one["phase"]
    return {
        load_id: {kind for (_, kind), phase in by_kind.items() if phase != "end" and kind != "isolation_active"}
        for load_id, by_kind in standing.items()
    }
