"""Feeds over the death of export: killed while it sends and while readings come, nothing is lost and nothing doubled
that its number does not tell."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import Message
from libs.common.clock import SystemClock
from libs.common.contracts.telemetry import Reading
from libs.common.ids import DeviceId, SiteId
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.testing.bus import until
from services.export.domain.rows import tally_of
from tests.integration.export.export_process import process
from tests.integration.export.test_export_feeds_db import lines_of, number_of
from tests.peers.callback_receiver import Call, Say, receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

AT = datetime(2026, 3, 8, 6, 0, tzinfo=UTC)
ALLOWED = {"WATTRING_EXPORT__FEEDS__ALLOWED": '["127.0.0.1"]'}


def reading(number: int) -> Message:
    at = AT + timedelta(seconds=number)
    found = Reading(
        device_id=DeviceId("m-1"), site_id=SiteId("s-1"), source_time=at, received_at=at, driver="modbus",
        points={"power_active": number / 10, "energy_active_import": 1000.0 + number},
    )  # fmt: skip
    return envelope.message(topics.READINGS, "s-1", found, source="test", time=at)


async def test_killed_while_it_sends_each_party_has_every_row_once_by_its_batch_number(
    postgres_url: str, tmp_path: Path
) -> None:
    bus = PgLogBus(DatabaseSettings(url=SecretStr(postgres_url)), BusSettings(), SystemClock())
    await bus.start()
    try:
        await bus.ensure_topics(topics.specs(BusSettings()))
        async with process(postgres_url, tmp_path, environ=ALLOWED) as export, receiver() as quick, receiver() as slow:

            def third_is_held(call: Call) -> Say:
                return Say(fault="hold") if number_of(call) == 3 else Say()

            slow.script = third_is_held
            feed = await export.call("POST", "/api/v1/feeds", {"name": "both", "max_rows": 3, "max_wait_s": 1})
            places = [
                await export.call("POST", f"/api/v1/feeds/{feed['id']}/destinations",
                                  {"name": "x", "kind": "http", "address": {"url": each.url}})
                for each in (quick, slow)
            ]  # fmt: skip
            await bus.publish([reading(n) for n in range(10)], timeout_s=10)
            await slow.until(lambda: any(number_of(call) == 3 for call in slow.calls))
            await export.kill()
            await bus.publish([reading(n) for n in range(10, 15)], timeout_s=10)
            slow.script = lambda _: Say()
            # Its successor, under its name, need not wait for the end of the lease.
            await export.start()
            await until(export.is_ready, within_s=90)
            await quick.until(lambda: len(rows_of(quick.accepted)) == 30)
            await slow.until(lambda: len(rows_of(slow.accepted)) == 30)
            assert [number_of(call) for call in slow.calls if number_of(call) == 3] == [3, 3]
            for party in (quick, slow):
                numbers = [number_of(call) for call in party.accepted]
                assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))
                for call in party.calls:  # told again is told the same
                    assert call.body == next(one.body for one in quick.accepted if number_of(one) == number_of(call))
            expected = tally_of(
                f"s-1\tm-1\t{point}\t2026-03-08T06:00:{n:02d}.000000Z\t{value}\t"
                for n in range(15)
                for point, value in (("power_active", f"{n / 10:g}"), ("energy_active_import", str(1000 + n)))
            )
            for place, party in zip(places, (quick, slow), strict=True):
                theirs = tally_of(rows_of(party.accepted))
                assert theirs == expected

                async def agrees(
                    path: str = f"{place['id']}/checks/2026-03-08", said: object = theirs.document()
                ) -> bool:
                    answer = await export.call("POST", f"/api/v1/feeds/{feed['id']}/destinations/{path}", said)
                    return bool(answer["agrees"]) and not answer["missing_batches"]

                await until(agrees)  # the last acknowledgement may not be written yet
    finally:
        await bus.stop()


def rows_of(calls: Sequence[Call]) -> list[str]:
    """What a receiver has who keeps one batch of a number."""
    return [line for call in {number_of(call): call for call in calls}.values() for line in lines_of(call)]
