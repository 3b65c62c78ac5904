"""Telling people of alarms, wired: channels, the consumer that finds out whom to tell, and what tells them."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from fastapi import APIRouter

from libs.common.bus import topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.outbox import OutboxRelay
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.outgoing import AddressGuard, GuardedClient
from libs.common.runtime import Beat, Check, Platform, Worker, group_check, wait_beating
from libs.common.secretstore import SecretStore
from services.alarm.api.notifications import build_notifications_router
from services.alarm.channels.mail import MailChannel
from services.alarm.channels.port import Channel
from services.alarm.channels.robots import DingtalkChannel, FeishuChannel, WecomChannel
from services.alarm.channels.sms import SmsChannel
from services.alarm.channels.webhook import WebhookChannel
from services.alarm.directory import RegistryDirectory
from services.alarm.settings import AlarmSettings
from services.alarm.usecases.channels import MAX_CHANNELS, Channels
from services.alarm.usecases.notifications import Notifications
from services.alarm.usecases.ports import Audit
from services.alarm.usecases.routes import Routes
from services.alarm.worker.composing import Composer
from services.alarm.worker.grouping import EVENTS_AT_ONCE, NOTIFICATIONS_GROUP, GroupingHandler
from services.alarm.worker.sending import Sender, SendingLimits
from services.alarm.worker.telling import Teller


@dataclass(frozen=True, slots=True)
class Telling:
    """What the service runs and shows of it."""

    router: APIRouter
    resource: AbstractAsyncContextManager[object]
    workers: Sequence[Worker]
    check: Check


def build_telling(
    settings: AlarmSettings,
    platform: Platform,
    db: Database,
    directory: RegistryDirectory,
    audit: Audit,
    relay: OutboxRelay,
    owner: str,
) -> Telling:
    """Return it, not yet started."""
    guard = AddressGuard(settings.outgoing_allowed, setting="WATTRING_ALARM__OUTGOING_ALLOWED")
    client = GuardedClient(guard, max_connections=MAX_CHANNELS)  # one that hangs takes no other's
    sender = Sender(
        db=db,
        clock=platform.clock,
        channels=channels(guard, client, platform.clock),
        secrets=SecretStore(settings.secrets_dir or platform.settings.data_dir / "secrets"),
        limits=SendingLimits(settings.notify_max_attempts, settings.notify_max_age_s),
        wake=relay.wake,
    )
    teller = Teller(
        db=db,
        clock=platform.clock,
        composer=Composer(db=db, clock=platform.clock, directory=directory),
        sender=sender,
        owner=owner,
        keep_s=settings.notify_keep_days * 86_400,
        every_s=settings.notify_every_s,
    )
    grouping = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=platform.clock,
        group=NOTIFICATIONS_GROUP,
        topics=[topics.ALARM_EVENTS],
        handler=GroupingHandler(directory=directory, clock=platform.clock),
        member_id=owner,
        max_batch=min(settings.max_batch, EVENTS_AT_ONCE),
    )

    async def group(beat: Beat) -> None:
        await wait_beating(directory.ready, beat)
        await grouping.run(beat)

    async def tell(beat: Beat) -> None:
        await wait_beating(directory.ready, beat)
        await teller.run(beat)

    ways = Channels(db=db, directory=directory, clock=platform.clock, audit=audit, deliver=sender.deliver)
    routes = Routes(db=db, directory=directory, clock=platform.clock, audit=audit)
    notifications = Notifications(db=db, directory=directory, clock=platform.clock, audit=audit)
    return Telling(
        router=build_notifications_router(ways, routes, notifications),
        resource=client,
        workers=[Worker("grouping", group), Worker("telling", tell)],
        check=group_check("notifications", lambda: grouping.ready, NOTIFICATIONS_GROUP),
    )


def channels(guard: AddressGuard, client: GuardedClient, clock: Clock) -> dict[str, Channel]:
    """Return the ways to tell people, by kind."""
    return {
        "webhook": WebhookChannel(client, clock),
        "smtp": MailChannel(guard),
        "wecom": WecomChannel(client),
        "dingtalk": DingtalkChannel(client, clock),
        "feishu": FeishuChannel(client, clock),
        "sms": SmsChannel(client),
    }
