"""Fault localisation in the real service on a real bus, killed with SIGKILL: every fault begins once and ends once."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from libs.common.bus import envelope, topics
from libs.common.bus.port import Message, StartAt
from libs.common.contracts.alarm import Diagnosis
from libs.common.contracts.base import Phase
from libs.common.contracts.device import Battery, Connectivity, DeviceStatus, RadioSignal, SimState
from libs.common.ids import DeviceId
from tests.integration.alarm.test_alarm_process import SITE, Field, field_of

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

DEVICES = [f"m-{number}" for number in range(20)]


def statuses(connectivity: Connectivity) -> Iterable[Message]:
    now = datetime.now(UTC)
    for device_id in DEVICES:
        payload = DeviceStatus(
            device_id=DeviceId(device_id),
            site_id=SITE,
            connectivity=connectivity,
            texts={},
            signal=RadioSignal(),
            battery=Battery(),
            sim=SimState(),
            last_report_at=now if connectivity is Connectivity.ONLINE else now - timedelta(hours=1),
            connectivity_since=now,
        )
        yield envelope.message(topics.DEVICE_STATUS, device_id, payload, source="test", time=now, partition_key=SITE)


async def told(field: Field) -> Counter[tuple[str, str, str]]:
    """Phase, device and diagnosis of every begin and end, each event id once."""
    found: dict[str, Diagnosis] = {}
    async with field.bus.tail((topics.DIAGNOSES,), StartAt(beginning=True)) as reader:
        ends = await reader.end_offsets()
        while any(reader.positions().get(where, 0) < end for where, end in ends.items()):
            for received in await reader.fetch(max_messages=1000, timeout_s=0.5):
                one = Diagnosis.from_json(received.value or b"")
                assert found.setdefault(envelope.event_id(received) or "", one) == one
    return Counter(
        (one.phase.value, one.device_id, one.diagnosis_id) for one in found.values() if one.phase is not Phase.UPDATE
    )


async def count(field: Field, condition: str, wanted: int) -> bool:
    found = await field.value(f"select count(*) from alarm.diagnoses where {condition}")
    return isinstance(found, int) and found >= wanted


async def no_outbox(field: Field) -> bool:
    return await field.value("select count(*) from alarm.outbox") == 0


async def test_killed_while_it_looks_a_fault_begins_once_and_ends_once(postgres_url: str, tmp_path: Path) -> None:
    async with field_of(postgres_url, tmp_path, DEVICES) as field:
        field.settings = {
            "WATTRING_ALARM__DIAGNOSIS__SETTLE_S": "0",
            "WATTRING_ALARM__DIAGNOSIS__AT_A_TIME": "2",
            "WATTRING_ALARM__DIAGNOSIS__GROUP_MORE_THAN": "1000",
        }
        await field.start()
        await field.until("ready", field.ready)
        await field.publish(statuses(Connectivity.OFFLINE))
        for wanted in (1, 8):
            await field.until(f"{wanted} diagnoses", partial(count, field, "true", wanted))
            await field.kill()
            await field.start()
        await field.until("all diagnoses", partial(count, field, "true", len(DEVICES)))
        await field.publish(statuses(Connectivity.ONLINE))
        await field.until("one end", partial(count, field, "ended_at is not null", 1))
        await field.kill()
        await field.start()
        await field.until("all ends", partial(count, field, "ended_at is not null", len(DEVICES)))
        await field.until("outbox empty", partial(no_outbox, field))
        found = await told(field)
    assert Counter((phase, device_id) for phase, device_id, _ in found) == {
        (phase, device_id): 1 for phase in ("begin", "end") for device_id in DEVICES
    }
    assert len({diagnosis_id for _, _, diagnosis_id in found}) == len(DEVICES)
