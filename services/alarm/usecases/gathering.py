"""Evidence from those who know, the cheap ones first; who does not answer in time cannot tell, and that is noted."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import NotFound, PlatformError
from services.alarm.domain.diagnosis.causes import Limits
from services.alarm.domain.diagnosis.facts import Evidence, Fact, Known, Said, Silence, Source
from services.alarm.domain.diagnosis.judge import next_question
from services.alarm.domain.diagnosis.observed import (
    ALARMS,
    LINE_DOWN,
    Around,
    Mark,
    Watched,
    of_marks,
    of_registry,
    of_status,
    of_surroundings,
)
from services.alarm.domain.diagnosis.subject import Installed, PlatformId
from services.alarm.store import watched as store

CARD_PLATFORM = "card_platform"
DEVICE_PLATFORM = "device_platform"

MARKS_KEPT = timedelta(days=1)
"""What a device or a command said longer ago explains nothing today."""


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

    async def device(self, wanted: PlatformId) -> Said:
        """Return whether it is online there, when it last reported, and how its last command fared."""


class Pulse(Protocol):
    """How long our own listeners have given no sign of life."""

    def silent_s(self) -> float | None:
        """Return it, None when nobody watches."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that could be found out about a device."""

    evidence: Evidence
    findings: bool
    """Something was found at the device that its end will be told of, such as a wrong clock."""


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
        battery_low_v: float | None,
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
            battery_low_v: Of a device's own battery; None: not known. [V]
        """
        self._db = db
        self._clock = clock
        self._cards = cards
        self._platforms = platforms
        self._pulse = pulse
        self._limits = limits
        self._timeout_s = timeout_s
        self._our_address = our_address
        self._battery_low_v = battery_low_v

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
                *of_status(watched, device, now),
                *of_registry(device, now),
                *of_surroundings(device, watched, around, now),
                *of_marks(marks, watched),
                *self._of_ourselves(device, watched, now),
            ]
        )
        if device.by_platform and (around.line_down is not None or (watched is not None and _is_cut_off(watched))):
            # We do not reach the platform, which says nothing of the device.
            evidence = evidence.without(Silence(Source.PLATFORM, around.line_down or now, "its line is down"))
        silent = evidence.get(Known.SILENT)
        asks = thorough or (silent is not None and silent.value is True)
        can_ask = {Source.LOCAL, *(_others(device) if asks else ())}
        asked = {Source.LOCAL}
        while (source := next_question(evidence, self._limits, can_ask=can_ask, asked=asked)) is not None:
            asked.add(source)
            evidence = await self._ask(source, device, watched, evidence)
        return Gathered(evidence, any(mark.lasting for mark in marks))

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

    async def _ask(self, source: Source, device: Installed, watched: Watched | None, evidence: Evidence) -> Evidence:
        try:
            async with asyncio.timeout(self._timeout_s):
                said = await self._question(source, device)
        except NotFound:
            return evidence  # there is no such platform; that says nothing of the device
        except TimeoutError:
            return evidence.without(Silence(source, self._clock.now(), f"no answer within {self._timeout_s:g} s"))
        except PlatformError as exc:
            return evidence.without(Silence(source, self._clock.now(), exc.message))
        if source is Source.PLATFORM:
            facts = [*_named(said, DEVICE_PLATFORM), *_ahead(said, watched)]
            found = evidence.answered(source).with_facts(facts)
        else:
            found = evidence.with_facts(_named(said, CARD_PLATFORM))
        if said.missing:
            return found.without(Silence(source, said.at, f"no answer of {', '.join(said.missing)}"))
        return found

    async def _question(self, source: Source, device: Installed) -> Said:
        if source is Source.PLATFORM and device.platform_id is not None:
            return await self._platforms.device(device.platform_id)
        number = "" if device.sim is None else device.sim.number or ""
        return await (self._cards.card(number) if source is Source.CARD else self._cards.session(number))

    def _of_ourselves(self, device: Installed, watched: Watched | None, now: datetime) -> Iterable[Fact]:
        silent_s = self._pulse.silent_s()
        if silent_s is not None:
            yield Fact(Known.INGEST_SILENT_S, round(silent_s, 1), now, "telemetry.readings")
        if self._our_address is not None and device.sim is not None:
            yield Fact(Known.OUR_ADDRESS, self._our_address, now, ALARMS)
        if self._battery_low_v is not None and watched is not None and watched.battery_v is not None:
            yield Fact(Known.BATTERY_LIMIT_V, self._battery_low_v, now, ALARMS)


def _others(device: Installed) -> Iterable[Source]:
    if device.platform_id is not None:
        yield Source.PLATFORM
    if device.sim is not None and device.sim.number is not None:
        yield Source.CARD
        yield Source.SESSION


def _is_cut_off(watched: Watched) -> bool:
    return watched.is_silent and watched.reason == LINE_DOWN


def _named(said: Said, source: str) -> Iterable[Fact]:
    """Yield those facts that have a name here; a platform may tell more than anybody asks."""
    names = {name.value: name for name in Known}
    return [Fact(names[name], value, said.at, source) for name, value in said.facts.items() if name in names]


def _ahead(said: Said, watched: Watched | None) -> Iterable[Fact]:
    """Yield how much the platform knows that was not pushed to us."""
    last = _time(said.facts.get(Known.PLATFORM_LAST_REPORT_AT.value))
    ours = None if watched is None else watched.last_report_at or watched.since
    if last is not None and ours is not None:
        yield Fact(Known.PLATFORM_AHEAD_S, round((last - ours).total_seconds(), 1), said.at, DEVICE_PLATFORM)


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
