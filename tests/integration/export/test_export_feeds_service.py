"""Feeds in the running service: over its API, from the bus to two parties, over a restart, to an agreement."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.export.domain.rows import tally_of
from tests.integration.export.conftest import Export, Kit
from tests.integration.export.test_export_feeds_db import lines_of, number_of
from tests.peers.callback_receiver import Receiver, receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

AT = datetime(2026, 3, 8, 6, 0, tzinfo=UTC)


def http(party: Receiver) -> dict[str, Any]:
    return {
        "name": "party",
        "kind": "http",
        "address": {"url": party.url, "auth": "bearer"},
        "secrets": {"token": "t-1"},
    }


async def test_two_parties_get_what_the_bus_brings_and_the_statement_agrees(export: Export, kit: Kit) -> None:
    async with receiver() as one, receiver() as other:
        feed = await export.api("POST", "/feeds", {"name": "both", "points": ["energy_*"], "max_rows": 2})
        places = [await export.api("POST", f"/feeds/{feed['id']}/destinations", http(each)) for each in (one, other)]
        assert "t-1" not in str(places)
        assert places[0]["has_secrets"] is True
        await export.publish(
            *[kit.reading({"energy_active_import": 10.5 + n, "voltage_a": 1.0}, at=AT) for n in range(3)]
        )
        await one.took(1)
        await other.took(1)
        await export.stop()
        await export.start()
        await export.publish(kit.reading({"energy_active_import": 99.0}, at=AT))
        await one.took(2)
        await other.took(2)
        assert [number_of(call) for call in one.calls] == [1, 2]
        assert [call.body for call in one.calls] == [call.body for call in other.calls]
        assert {call.headers["authorization"] for call in one.calls} == {"Bearer t-1"}

        async def told() -> bool:
            found = await export.api("GET", f"/feeds/{feed['id']}/destinations")
            return all(each["next_batch"] == 3 for each in found)

        await kit.until(told)
        statement = await export.api("GET", f"/feeds/{feed['id']}/statements/2026-03-08")
        assert await export.api("GET", f"/feeds/{feed['id']}/statements") == []
        theirs = tally_of(line for call in one.calls for line in lines_of(call)).document()
        assert (statement["rows"], statement["hash"], statement["points"]) == (
            4, theirs["hash"], theirs["points"],
        )  # fmt: skip
        assert [each["complete"] for each in statement["destinations"]] == [True, True]
        check = f"/feeds/{feed['id']}/destinations/{places[0]['id']}/checks/2026-03-08"
        assert (await export.api("POST", check, theirs))["agrees"] is True
        lost = {**theirs, "batches": {"1": one.calls[0].headers["wattring-hash"]}, "send_again": True}
        found = await export.api("POST", check, lost)
        assert (found["agrees"], found["wrong_batches"], found["sent_again"]) == (False, [2], [2])
        await one.took(3)
        assert one.calls[2].body == one.calls[1].body
        log = await export.api("GET", f"/feeds/{feed['id']}/destinations/{places[0]['id']}/deliveries")
        assert [(each["batch"], each["state"]) for each in log] == [(2, "delivered"), (1, "delivered")]
        assert [each["batch"] for each in await export.api("GET", f"/feeds/{feed['id']}/batches")] == [2, 1]


async def test_what_cannot_be_used_is_refused_with_its_field(export: Export) -> None:
    feed = await export.api("POST", "/feeds", {"name": "x"})
    base: dict[str, Any] = {"name": "x", "kind": "http", "address": {"url": "http://127.0.0.1:1/"}}
    for wrong in (
        {"address": {"url": "ftp://x"}}, {"format": {"kind": "json", "columns": {"a": "colour"}}},
        {"egress": {"proxy": "ftp://x"}}, {"address": {"url": "http://127.0.0.1:1/", "auth": "basic"}},
        {"from_batch": 2},
    ):  # fmt: skip
        await export.api("POST", f"/feeds/{feed['id']}/destinations", {**base, **wrong}, status=400)
    place = await export.api("POST", f"/feeds/{feed['id']}/destinations", base)
    dry = await export.api("POST", f"/feeds/{feed['id']}/destinations/{place['id']}/dry-run")
    assert '"batch":0' in dry["body"]
    tried = await export.api("POST", f"/feeds/{feed['id']}/destinations/{place['id']}/test")
    assert tried["outcome"] == "failed"
    for day in ("statements/yesterday", "statements/0", "statements?before=0"):
        await export.api("GET", f"/feeds/{feed['id']}/{day}", status=422)
    await export.api("DELETE", f"/feeds/{feed['id']}/destinations/{place['id']}")
    await export.api("DELETE", f"/feeds/{feed['id']}")
    await export.api("GET", f"/feeds/{feed['id']}", status=404)
