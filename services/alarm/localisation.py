"""Wires fault localisation: what listens, what looks, whom it asks, and its door."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from fastapi import APIRouter

from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.outbox import OutboxRelay
from libs.common.client import ServiceClient
from libs.common.db import Database
from libs.common.registry import RegistryView
from libs.common.runtime import Beat, Check, Platform, Worker, group_check, wait_beating
from services.alarm.api.diagnoses import build_diagnoses_router
from services.alarm.directory import RegistryDirectory
from services.alarm.domain.diagnosis.causes import Limits
from services.alarm.domain.diagnosis.grouping import GroupLimits
from services.alarm.drivers.cards import ExportCards
from services.alarm.drivers.platforms import ExportPlatforms
from services.alarm.faultcodes import load_codes
from services.alarm.field import Field
from services.alarm.settings import DiagnosisSettings
from services.alarm.usecases.cardcheck import CardCheck
from services.alarm.usecases.diagnoses import Diagnoses
from services.alarm.usecases.gathering import Gatherer
from services.alarm.usecases.localising import Localiser, Pauses
from services.alarm.usecases.ports import Audit
from services.alarm.worker.diagnosing import ListenerPulse, Looking, daily
from services.alarm.worker.news import DIAGNOSIS_GROUP, DIAGNOSIS_TOPICS, NewsHandler

ASKED_AT_MOST = 3
"""Whom a look asks one after the other: device platform, card, session."""


@dataclass(frozen=True, slots=True)
class Localisation:
    """What the service runs for it."""

    router: APIRouter
    workers: Sequence[Worker]
    checks: Sequence[Check]
    export: ServiceClient
    """To be opened and closed with the service."""


def build_localisation(
    settings: DiagnosisSettings,
    *,
    platform: Platform,
    db: Database,
    view: RegistryView,
    directory: RegistryDirectory,
    relay: OutboxRelay,
    audit: Audit,
    owner: str,
    max_batch: int,
) -> Localisation:
    """Return fault localisation as configured.

    Args:
        settings: Its section.
        platform: Bus, clock, keys.
        db: Of the service.
        view: The registry; run by somebody else.
        directory: Who may see which site.
        relay: Told when something was written for others.
        audit: Publishes who ordered what.
        owner: Names this process.
        max_batch: Messages in one transaction.
    """
    clock = platform.clock
    field = Field(view, clock)
    pulse = ListenerPulse(bus=platform.bus, clock=clock)
    export = ServiceClient(
        platform.keys, platform.settings.service_urls.get("export"),
        caller="alarm", audience="export", scopes=("export:cards", "export:platforms"),
    )  # fmt: skip
    cards = ExportCards(export, timeout_s=settings.timeout_s)
    limits = Limits()
    codes = load_codes()
    localiser = Localiser(
        db=db,
        clock=clock,
        devices=field,
        gatherer=Gatherer(
            db=db,
            clock=clock,
            cards=cards,
            platforms=ExportPlatforms(export, timeout_s=settings.timeout_s),
            pulse=pulse,
            limits=limits,
            timeout_s=settings.timeout_s,
            our_address=settings.our_address,
            battery_low_v=settings.battery_low_v,
        ),
        codes=codes,
        limits=limits,
        groups=GroupLimits(settings.group_more_than, timedelta(seconds=settings.group_within_s)),
        pauses=Pauses(timedelta(seconds=settings.repeat_s), timedelta(seconds=settings.recheck_s)),
        wake=relay.wake,
    )
    looking = Looking(
        db=db,
        clock=clock,
        localiser=localiser,
        owner=owner,
        per_minute=settings.per_minute,
        at_a_time=settings.at_a_time,
    )
    card_check = CardCheck(
        db=db,
        clock=clock,
        holders=field,
        cards=cards,
        hour=settings.card_check_hour,
        within=timedelta(days=settings.card_expiry_days),
    )
    news = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=clock,
        group=DIAGNOSIS_GROUP,
        topics=DIAGNOSIS_TOPICS,
        handler=NewsHandler(
            clock=clock,
            settle=timedelta(seconds=settings.settle_s),
            pause=timedelta(seconds=settings.repeat_s),
            wiring=field,
        ),
        member_id=owner,
        max_batch=max_batch,
    )

    async def listen(beat: Beat) -> None:
        await wait_beating(directory.ready, beat)
        await news.run(beat)

    async def diagnose(beat: Beat) -> None:
        await wait_beating(directory.ready, beat)
        await looking.run(beat)

    async def check_cards(beat: Beat) -> None:
        await wait_beating(directory.ready, beat)
        await daily(card_check, clock, beat)

    diagnoses = Diagnoses(db=db, directory=directory, devices=field, clock=clock, audit=audit, codes=codes)
    return Localisation(
        router=build_diagnoses_router(diagnoses),
        workers=[
            Worker("news", listen),
            Worker("pulse", pulse.run),
            Worker("diagnosis", diagnose, max_silence_s=60.0 + ASKED_AT_MOST * settings.timeout_s),
            Worker("cards", check_cards, max_silence_s=60.0 + settings.timeout_s),
        ],
        checks=[group_check("news", lambda: news.ready, DIAGNOSIS_GROUP)],
        export=export,
    )
