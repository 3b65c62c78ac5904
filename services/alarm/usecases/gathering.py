"""Evidence from those who know, the cheap ones first; who does not answer in time cannot tell, and that is noted."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from libs.common.clock import Clock
from libs.common.contracts.device import Connectivity
from libs.common.db import Database
from libs.common.errors import NotFound, PlatformError
from services.alarm.domain.diagnosis.facts import Evidence, Fact, FactValue, Known, Said, Silence, Source
from services.alarm.domain.diagnosis.judge import Limits, next_question
from services.alarm.domain.diagnosis.subject import Installed
from services.alarm.store import diagnoses as store
from services.alarm.store.diagnoses import Around, Mark, Watched

STATUS = "device.status"
REGISTRY = "registry"
ALARMS = "alarm"
CARD_PLATFORM = "card_platform"
DEVICE_PLATFORM = "device_platform"

TOGETHER = timedelta(minutes=5)
"""Devices of a site that fall silent within this fall silent together."""
MARKS_KEPT = timedelta(days=1)
"""What a device or a command said longer ago explains nothing today."""
DEFAULT_PERIOD_S = 300.0
"""Of a device of which nobody says how often it reports."""


class Cards(Protocol):
    """The operator's card platform."""

    async def card(self, number: str) -> Said:
        """Return state, arrears, usage and kind of a card."""

    async def session(self, number: str) -> Said:
        """Return the network session and the directed addresses of a card."""

    async def states(self, numbers: Sequence[str]) -> Mapping[str, str]:
        """Return the states of up to 100 cards."""


class DevicePlatforms(Protocol):
    """The device platforms (AEP) that devices are behind."""

    def knows(self, device: Installed) -> bool:
        """Return whether the device is behind one that can be asked."""

    async def device(self, device: Installed) -> Said:
        """Return whether it is online there, when it last reported, and how its last command fared."""


class NoPlatforms:
    """No device platform can be asked."""

    def knows(self, device: Installed) -> bool:
        """Return that none knows the device."""
        return False

    async def device(self, device: Installed) -> Said:
        """Raise ``NotFound``."""
        raise NotFound(f"no platform of {device.device_id} can be asked", message_zh="没有可查询的设备平台")


class Pulse(Protocol):
    """How long our own listeners have given no sign of life."""

    def silent_s(self) -> float | None:
        """Return it, None when nobody watches."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that could be found out about a device."""

    evidence: Evidence
    watched: Watched | None


class Gatherer:
    """Asks step by step until a cause is sure, or everybody has been asked."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        cards: Cards,
        platforms: DevicePlatforms,
        pulse: Pulse,
        limits: Limits,
        timeout_s: float,
        our_address: str | None,
    ) -> None:
        """Keep what is needed.

        Args:
            db: Our own projections.
            clock: Our clock.
            cards: The card platform.
            platforms: The device platforms.
            pulse: Our own listeners.
            limits: Where evidence begins to count.
            timeout_s: For one question to somebody else. [s]
            our_address: Where devices are told to report to; None: not known.
        """
        self._db = db
        self._clock = clock
        self._cards = cards
        self._platforms = platforms
        self._pulse = pulse
        self._limits = limits
        self._timeout_s = timeout_s
        self._our_address = our_address

    async def gather(self, device: Installed, *, thorough: bool) -> Gathered:
        """Return what is known of a device.

        Args:
            device: The device.
            thorough: Ask others also while the device is heard: a person wants to know.

        Raises:
            Unavailable: Our own database is away.
        """
        now = self._clock.now()
        watched, around, marks = await self._own(device, now)
        evidence = Evidence().with_facts(
            [
                *_of_status(watched, device, now),
                *_of_surroundings(device, watched, around, now),
                *_of_marks(marks),
                *self._of_ourselves(device, now),
            ]
        )
        silent = evidence.get(Known.SILENT)
        asks = thorough or (silent is not None and silent.value is True)
        can_ask = {Source.LOCAL, *(self._others(device) if asks else ())}
        asked = {Source.LOCAL}
        while (source := next_question(evidence, self._limits, can_ask=can_ask, asked=asked)) is not None:
            asked.add(source)
            evidence = await self._ask(source, device, evidence)
        return Gathered(evidence, watched)

    async def _own(self, device: Installed, now: datetime) -> tuple[Watched | None, Around, list[Mark]]:
        async with self._db.read() as conn:
            watched = await store.fetch_watched(conn, device.device_id)
            around = await store.fetch_around(
                conn,
                device.device_id,
                device.place.site_id,
                line_id=device.place.line_id,
                iccid=None if watched is None else watched.iccid,
                now=now,
            )
            marks = await store.fetch_marks(conn, device.device_id, since=now - MARKS_KEPT)
        return watched, around, marks

    def _others(self, device: Installed) -> Iterable[Source]:
        if self._platforms.knows(device):
            yield Source.PLATFORM
        if device.sim is not None and device.sim.number is not None:
            yield Source.CARD
            yield Source.SESSION

    async def _ask(self, source: Source, device: Installed, evidence: Evidence) -> Evidence:
        try:
            async with asyncio.timeout(self._timeout_s):
                if source is Source.PLATFORM:
                    told = await self._platforms.device(device)
                    return evidence.with_facts(_named(told.facts, told.at, DEVICE_PLATFORM))
                number = "" if device.sim is None else device.sim.number or ""
                said = await (self._cards.card(number) if source is Source.CARD else self._cards.session(number))
        except NotFound:
            return evidence  # there is no such platform; that says nothing of the device
        except TimeoutError:
            return evidence.without(Silence(source, self._clock.now(), f"no answer within {self._timeout_s:g} s"))
        except PlatformError as exc:
            return evidence.without(Silence(source, self._clock.now(), exc.message))
        found = evidence.with_facts(_named(said.facts, said.at, CARD_PLATFORM))
        if said.missing:
            return found.without(Silence(source, said.at, f"no answer of {', '.join(said.missing)}"))
        return found

    def _of_ourselves(self, device: Installed, now: datetime) -> Iterable[Fact]:
        silent_s = self._pulse.silent_s()
        if silent_s is not None:
            yield Fact(Known.INGEST_SILENT_S, round(silent_s, 1), now, "telemetry.readings")
        if self._our_address is not None and device.sim is not None:
            yield Fact(Known.OUR_ADDRESS, self._our_address, now, ALARMS)


def _named(facts: Mapping[str, FactValue], at: datetime, source: str) -> Iterable[Fact]:
    """Yield those facts that have a name here; a platform may tell more than anybody asks."""
    names = {name.value: name for name in Known}
    return [Fact(names[name], value, at, source) for name, value in facts.items() if name in names]


def _of_status(watched: Watched | None, device: Installed, now: datetime) -> Iterable[Fact]:
    if watched is None:
        return
    at = watched.told_at
    offline = watched.connectivity == Connectivity.OFFLINE.value
    asleep = watched.connectivity == Connectivity.SLEEPING.value
    if offline or asleep or watched.connectivity == Connectivity.ONLINE.value:
        yield Fact(Known.SILENT, offline or asleep, at, STATUS)
    if asleep:
        yield Fact(Known.ASLEEP, True, at, STATUS)
    last = watched.last_report_at or watched.since
    if last is not None:
        yield Fact(Known.SILENT_FOR_S, round(max((now - last).total_seconds(), 0.0), 1), last, STATUS)
    source = REGISTRY if device.period_s is not None else "default"
    yield Fact(Known.PERIOD_S, device.period_s or DEFAULT_PERIOD_S, now, source)
    if device.sleeps and device.period_s is not None:
        yield Fact(Known.SLEEP_PERIOD_S, device.period_s, now, REGISTRY)
    if offline and watched.reason is not None:
        yield Fact(Known.LAST_FAILURE, watched.reason, at, STATUS)
    for name, value, when in (
        (Known.RSRP_DBM, watched.rsrp_dbm, watched.radio_at),
        (Known.SINR_DB, watched.sinr_db, watched.radio_at),
        (Known.COVERAGE_LEVEL, watched.coverage_level, watched.radio_at),
        (Known.BATTERY_PERCENT, watched.battery_percent, watched.battery_at),
        (Known.BATTERY_V, watched.battery_v, watched.battery_at),
    ):
        if value is not None:
            yield Fact(name, value, when or at, STATUS)
    imei = device.imei or watched.imei
    if imei is not None:
        yield Fact(Known.DEVICE_IMEI, imei, now if device.imei is not None else at, REGISTRY if device.imei else STATUS)


def _of_surroundings(device: Installed, watched: Watched | None, around: Around, now: datetime) -> Iterable[Fact]:
    explained = _explained(around)
    if explained is not None:
        yield Fact(Known.EXPLAINED_BY, explained, now, ALARMS)
    if around.mains_alarm is not None:
        yield Fact(Known.MAINS_ALARM, True, around.mains_alarm, ALARMS)
    if around.auth_refused is not None:
        yield Fact(Known.AUTH_REFUSED, True, around.auth_refused, ALARMS)
    if around.skew_times:
        yield Fact(Known.CLOCK_SKEW_TIMES, around.skew_times, around.skew_at or now, ALARMS)
    if around.shared_card is not None:
        yield Fact(Known.CARD_SHARED, True, now, STATUS)
    if device.same_address > 1:
        yield Fact(Known.SAME_ADDRESS, device.same_address, now, REGISTRY)
    if watched is None:
        return
    silent = _is_silent(watched)
    silent_there = {one.device_id for one in around.neighbours if _is_silent(one)}
    alive_there = {one.device_id for one in around.neighbours if one.connectivity == Connectivity.ONLINE.value}
    together = sum(_fell_together(watched, one) for one in around.neighbours if one.device_id in silent_there)
    yield Fact(Known.SITE_DEVICES, len(around.neighbours) + 1, now, STATUS)
    yield Fact(Known.SITE_SILENT, together + int(silent), now, STATUS)
    yield Fact(Known.SITE_ALIVE, len(alive_there), now, STATUS)
    if not device.behind:
        return
    others = set(device.behind) - {device.device_id}
    silent_behind = len(others & silent_there) + int(silent)
    # A line is its gateway where the registry has no gateway of its own for it, so both are told.
    for name, count in (
        (Known.GATEWAY_DEVICES, len(device.behind)),
        (Known.GATEWAY_SILENT, silent_behind),
        (Known.LINE_DEVICES, len(device.behind)),
        (Known.LINE_SILENT, silent_behind),
    ):
        yield Fact(name, count, now, STATUS)
    yield Fact(Known.LINE_ALIVE, len(others & alive_there), now, STATUS)
    alive = _gateway_alive(device, watched, around, bool(others & alive_there))
    if alive is not None:
        yield Fact(Known.GATEWAY_ALIVE, alive, around.line_down or watched.told_at, STATUS)


def _of_marks(marks: Sequence[Mark]) -> Iterable[Fact]:
    names = {name.value: name for name in Known}
    return [Fact(names[mark.name], mark.value, mark.at, mark.source) for mark in marks if mark.name in names]


def _explained(around: Around) -> str | None:
    if around.window is not None:
        return f"window:{around.window}"
    return around.planned


def _gateway_alive(device: Installed, watched: Watched, around: Around, others_answer: bool) -> bool | None:
    """Return whether the way to the device can be reached up to the device itself, None when nobody can say."""
    gateway = next((one for one in around.neighbours if one.device_id == device.place.gateway_id), None)
    if gateway is not None and gateway.connectivity in (Connectivity.ONLINE.value, Connectivity.OFFLINE.value):
        return gateway.connectivity == Connectivity.ONLINE.value
    if others_answer:
        return True
    if around.line_down is not None or watched.reason == "line_down":
        return False
    # A poll that timed out went out over an open connection; nothing of the sort is known of those that only push.
    return True if watched.reason in ("timeout", "device_silent") else None


def _is_silent(watched: Watched) -> bool:
    return watched.connectivity in (Connectivity.OFFLINE.value, Connectivity.SLEEPING.value)


def _fell_together(one: Watched, other: Watched) -> bool:
    if one.last_report_at is not None and other.last_report_at is not None:
        return abs(one.last_report_at - other.last_report_at) <= TOGETHER
    return one.since is not None and other.since is not None and abs(one.since - other.since) <= TOGETHER
