"""A head on its way out: signed by carbon, carried by export, kept by a witness, held against a proof months later."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from libs.common import verifier
from libs.common.bus import topics
from libs.common.bus.headers import unpack_headers
from libs.common.bus.port import Received
from libs.common.db import Database
from libs.common.settings import DatabaseSettings
from services.export.domain.callbacks import NewsType
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import Caller
from tests.integration.carbon.attest_world import DAY, START, House, interval, verdict
from tests.integration.export.callback_world import ADMIN, world
from tests.peers.callback_receiver import receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

AUDITOR = Caller(Actor("key:auditor", None), ("site-9",), sees_all=False)
"""Sees one site of others, and may keep heads all the same: they tell nothing of any site."""


async def test_a_head_comes_to_the_witness_and_later_dates_what_was_committed_before_it(
    postgres_url: str, tmp_path: Path
) -> None:
    db = Database(DatabaseSettings(url=SecretStr(postgres_url)), schema="carbon", role="wattring_carbon")
    await db.open()
    try:
        house = House(db)
        async with world(postgres_url, tmp_path) as export, receiver() as witness:
            endpoint, secret = await export.endpoint(witness.url, NewsType.ATTESTATION_HEAD, caller=AUDITOR)
            await export.endpoint(witness.url, NewsType.ALARM_BEGIN, caller=ADMIN)
            export.start()
            await house.commit(interval(0, 1.0), interval(1, 2.5))
            await house.commit(interval(2, 3.0), after=timedelta(hours=14, microseconds=7))
            heads = await published(db)
            await export.tell(*heads, *heads)  # the bus may give all of it twice
            await export.settled(endpoint, "delivered", "delivered", "delivered")
            assert all(call.is_signed_with(secret) for call in witness.calls)
            called = [call.event for call in witness.calls]
        assert [(one["type"], one["subject"], one["sequence"]) for one in called] == [
            (verifier.CALLBACK, "attestation/carbon", f"{number:012}") for number in (1, 2, 3)
        ]
        assert [one["data"] for one in called] == await house.proofs.heads(DAY, DAY + timedelta(days=1), 10)
        first, _, last = called
        proof = await house.proofs.inclusion("circuit:c-1", START, None)
        until_now = await house.proofs.consistency((DAY, 2), None)
        code, words = verdict(proof, until_now, witness=first)
        assert code == 0, words
        assert "committed before you were given head 2026-03-01/2, and is unchanged since" in words
        assert verdict(last, witness=called)[0] == 0
    finally:
        await db.close()


async def published(db: Database) -> list[Received]:
    """What the relay takes to the topic, as export reads it there."""
    async with db.read() as conn:
        rows = await conn.fetch(
            "select id, topic, key, value, headers from outbox where topic = $1 order by id", topics.ATTESTATIONS
        )
    now = datetime.now(UTC)
    return [
        Received(row["topic"], 0, row["id"], row["key"], row["value"], unpack_headers(row["headers"]), now)
        for row in rows
    ]
