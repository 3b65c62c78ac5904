"""The service as a process of its own that is killed while it tells people: everybody is told, under one id each."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import envelope, topics
from libs.common.bus.port import Message
from libs.common.contracts.alarm import AlarmEvent, EndReason
from libs.common.contracts.base import Phase
from tests.integration.alarm.test_alarm_process import Field, field_of
from tests.peers.receivers import HttpReceiver, http_receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

ALARMS = 120
BEGAN = datetime.now(UTC).replace(microsecond=0)


def events(phase: Phase) -> Iterable[Message]:
    ends = {"ended_at": BEGAN, "end_reason": EndReason.RECOVERED} if phase is Phase.END else {}
    for number in range(ALARMS):
        event = AlarmEvent.model_validate(
            {
                "alarm_id": f"a-{number}",
                "site_id": f"s-{number}",
                "sequence": 2 if ends else 1,
                "phase": phase,
                "level": 1,
                "signal": "0s16001001",
                "began_at": BEGAN,
                **ends,
            }
        )
        yield envelope.message(topics.ALARM_EVENTS, event.site_id, event, source="test", time=BEGAN)


def told(receiver: HttpReceiver, *, ended: bool) -> dict[str, set[str]]:
    """Return alarms by the message that told of them."""
    found: dict[str, set[str]] = {}
    for call in list(receiver.calls):
        body = json.loads(call.body)
        alarms = {one["alarm_id"] for one in body["alarms"] if (one["ended_at"] is not None) is ended}
        if alarms:
            found.setdefault(body["notification_id"], set()).update(alarms)
    return found


async def put(field: Field, path: str, body: dict[str, Any]) -> None:
    reply = await field.call("PUT", f"/api/v1/notifications/{path}", body)
    assert reply.status_code == 200, reply.text


async def test_killed_while_it_tells_every_alarm_and_every_end_is_told_in_one_message(
    postgres_url: str, tmp_path: Path
) -> None:
    with http_receiver() as receiver:
        async with field_of(postgres_url, tmp_path, ["m-1"]) as field:
            field.settings = {
                "WATTRING_ALARM__OUTGOING_ALLOWED": '["127.0.0.1"]',
                "WATTRING_ALARM__NOTIFY_EVERY_S": "0.05",
                "WATTRING_ALARM__MAX_BATCH": "25",
            }
            await field.start()
            await field.until("ready", field.ready)
            config = {"kind": "webhook", "url": receiver.url}
            await put(field, "channels/duty", {"name": "duty", "config": config, "rate_per_min": 6000})
            route = {"name": "all", "channels": ["duty"], "group_by": ["site"], "group_wait_s": 0}
            await put(field, "routes/all", {**route, "group_interval_s": 1})
            await field.publish(events(Phase.BEGIN))
            for share in (0.2, 0.5):

                async def reached(wanted: float = share * ALARMS) -> bool:
                    return len(receiver.calls) >= wanted

                await field.until(f"{share:.0%} told", reached)
                await field.kill()
                await field.start()

            async def all_told(*, ended: bool = False) -> bool:
                return len(set().union(*told(receiver, ended=ended).values())) == ALARMS

            async def all_ends_told() -> bool:
                return await all_told(ended=True)

            await field.until("all begins told", all_told)
            await field.publish(events(Phase.END))
            await field.until("all ends told", all_ends_told)

            async def all_noted() -> bool:
                return await field.value("select count(*) from alarm.notifications where state <> 'sent'") == 0

            await field.until("all noted as sent", all_noted)
            assert await field.value("select count(*) from alarm.notification_members") == 0
            rows = await field.value("select count(*) from alarm.notifications")
    begins, ends = told(receiver, ended=False), told(receiver, ended=True)
    assert sum(map(len, begins.values())) == sum(map(len, ends.values())) == ALARMS
    assert rows == len(begins) + len(ends)
