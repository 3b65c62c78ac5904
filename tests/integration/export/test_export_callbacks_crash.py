"""Callbacks over the deaths of others: export killed between a call and its record, the database away."""

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.clock import SystemClock
from libs.common.contracts.control import CommandState
from libs.common.errors import Unavailable
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.testing.bus import until
from tests.integration.export.callback_world import control, world
from tests.integration.export.export_process import process
from tests.peers.callback_receiver import Say, receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def test_killed_between_the_call_and_its_record_it_calls_again_under_the_same_id(
    postgres_url: str, tmp_path: Path
) -> None:
    bus = PgLogBus(DatabaseSettings(url=SecretStr(postgres_url)), BusSettings(), SystemClock())
    await bus.start()
    try:
        await bus.ensure_topics(topics.specs(BusSettings()))
        async with process(postgres_url, tmp_path) as export, receiver(lambda _: Say(fault="hold")) as app:
            body = {"name": "app", "url": app.url, "types": ["command.result"]}
            created = await export.call("POST", "/api/v1/callbacks", body)
            event = control(CommandState.FAILED)
            message = envelope.message(topics.CONTROL_EVENTS, "s-1", event, source="control", time=event.at)
            await bus.publish([message], timeout_s=10)
            await app.has(1)
            await export.kill()
            app.script = lambda _: Say()
            # Its successor, under its name, need not wait for the end of the claim.
            await export.start()
            await app.took(1)
            assert [call.id for call in app.calls] == [app.calls[0].id] * 2
            assert {call.event["sequence"] for call in app.calls} == {"000000000001"}
            assert all(call.is_signed_with(created["secret"]) for call in app.calls)
    finally:
        await bus.stop()


@pytest.mark.sql
async def test_with_the_database_away_what_was_taken_is_remembered_and_not_sent_twice(
    postgres_server: str, postgres_url: str, tmp_path: Path
) -> None:
    name = urlsplit(postgres_url).path.removeprefix("/")
    admin = await asyncpg.connect(postgres_server)
    try:
        async with world(postgres_url, tmp_path) as found, receiver(lambda _: Say(fault="hold")) as app:
            endpoint, _ = await found.endpoint(app.url)
            found.start()
            await found.tell(control(CommandState.FAILED))
            await app.has(1)
            await admin.execute(f'alter database "{name}" allow_connections false')
            await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
            app.gate.set()
            await app.took(1)
            await until(lambda: found.clock.sleeping > 0)  # it waits for the database
            await found.clock.advance(30)
            await admin.execute(f'alter database "{name}" allow_connections true')

            async def written() -> bool:
                await found.clock.advance(5)
                try:
                    return [each.state.value for each in await found.log(endpoint)] == ["delivered"]
                except Unavailable:  # a session that was ended is still in the pool
                    return False

            await until(written)
            assert len(app.calls) == 1
            await found.check_books()
    finally:
        await admin.close()
