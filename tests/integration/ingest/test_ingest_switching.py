"""Commands at the line, on a breaker played by an independent Modbus server: proof, refusals, and waking alone."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import envelope, topics
from libs.common.clock import SystemClock
from libs.common.contracts.control import Command, CommandAction
from libs.common.ids import new_id
from libs.common.signing import sign_each
from libs.common.tokens import canonical
from tests.integration.ingest.conftest import SITE, Peer, RunningIngest, quick, running, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

CLOSED, OPEN, LOCKED = 0x00F0, 0x000F, 0x0100


class Breaker:
    """An LX47LE breaker on a pyModbusTCP server: what is written to its command register moves it, if it obeys."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.obeys = True
        self.writes: list[int] = []
        self.locked = False
        self.trip_reason = 0
        self.closed = True
        peer.bank.on_holding_registers_change = self._written
        self.show()

    def _written(self, address: int, from_value: int, to_value: int, srv_info: Any) -> None:
        if address == 0x000D:
            self.writes.append(to_value)
            if self.obeys:
                self.closed = to_value == 0xFF00
                self.show()

    def show(self) -> None:
        status = (CLOSED if self.closed else OPEN) | (LOCKED if self.locked else 0)
        self.peer.bank.set_input_registers(0x0000, [status])
        self.peer.bank.set_input_registers(0x0008, [230])
        for power in (0x000B, 0x0021):
            self.peer.bank.set_input_registers(power, [1200 if self.closed else 0])
        self.peer.bank.set_input_registers(0x0016, [self.trip_reason])


@pytest.fixture
def breaker(peer: Peer) -> Breaker:
    # The command register starts with a value that is neither command, so that every write is a change.
    peer.bank.set_holding_registers(0x000D, [0x1234])
    return Breaker(peer)


async def create_load(ingest: RunningIngest, endpoint: str) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create("/api/v1/lines/line-1", {"name": "Port", "kind": "tcp", "endpoint": endpoint})
    await ingest.create(
        "/api/v1/devices/breaker-1",
        {"name": "Breaker", "kind": "breaker", "profile": "lx47le_125", "site": "site-1", "line": "line-1",
         "address": "1"},
    )  # fmt: skip
    await ingest.create("/api/v1/circuits/circuit-1", {"name": "AAU", "level": 3, "role": "load", "site": "site-1"})
    await ingest.create(
        "/api/v1/bindings/binding-1", {"name": "own meter", "device": "breaker-1", "circuit": "circuit-1"}
    )
    await ingest.create(
        "/api/v1/loads/load-1",
        {"name": "AAU 1", "kind": "aau", "site": "site-1", "sector": "1", "breaker": {"device": "breaker-1"},
         "meter": "circuit-1"},
    )  # fmt: skip
    await until(lambda: door_load(ingest, breaker_state=1), "the breaker read closed")


async def door_load(ingest: RunningIngest, **expected: Any) -> Any:
    response = await ingest.http.get("/direct/v1/loads", headers=ingest.headers("watchdog", ("ingest:wake",)))
    assert response.status_code == 200, response.text
    loads = [load for load in response.json()["loads"] if load["load_id"] == "load-1"]
    if not loads or any(loads[0][name] != value for name, value in expected.items()):
        return None
    return loads[0]


def order(ingest: RunningIngest, action: CommandAction, *, restore_s: float = 600.0, **changes: Any) -> Command:
    now = SystemClock().now()
    off = action is CommandAction.OPEN
    fields: dict[str, Any] = {
        "command_id": new_id(),
        "site_id": "site-1",
        "device_id": "breaker-1",
        "line_id": "line-1",
        "action": action,
        "arguments": {},
        "not_after": now + timedelta(seconds=60),
        "issued_at": now,
        "signature": "",
        "restore_at": now + timedelta(seconds=restore_s) if off else None,
        "off_at_most_s": restore_s if off else None,
        "load_id": "load-1",
        **changes,
    }
    unsigned = Command(**fields)
    signature = ingest.platform.keys.sign_bytes("control", canonical(unsigned.signing_payload()))
    return unsigned.model_copy(update={"signature": signature})


async def send(ingest: RunningIngest, command: Command) -> str:
    message = envelope.message(
        topics.COMMANDS, command.site_id, command, source="control", time=command.issued_at, event_id=command.command_id
    )
    await ingest.platform.bus.publish([message], timeout_s=5)
    return command.command_id


def off_book(folder: Path) -> list[Path]:
    return list(folder.glob("ingest/0/off-leases/*.json"))


async def off_book_empties(folder: Path) -> None:
    """Wait for it: a closing is told without waiting for its file to go."""

    async def empty() -> bool:
        return not off_book(folder)

    await until(empty, "the off book empty")


async def stages(ingest: RunningIngest, command_id: str) -> list[dict[str, Any]]:
    return [m for m in await ingest.messages(topics.RESULTS) if m["command_id"] == command_id]


async def ended(ingest: RunningIngest, command_id: str, stage: str) -> dict[str, Any]:
    async def found() -> Any:
        return next((m for m in await stages(ingest, command_id) if m["stage"] == stage), None)

    result: dict[str, Any] = await until(found, f"{command_id} {stage}")
    return result


async def test_off_and_on_are_done_proven_and_leave_nothing_behind(
    ingest: RunningIngest, breaker: Breaker, tmp_path: Path
) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    off = await send(ingest, order(ingest, CommandAction.OPEN))
    proof = await ended(ingest, off, "verified")
    assert [m["stage"] for m in await stages(ingest, off)] == ["accepted", "executed", "verified"]
    assert proof["evidence"]["feedback_value"] == 0
    assert (proof["evidence"]["meter_device_id"], proof["evidence"]["meter_power_kw"]) == ("breaker-1", 0)
    assert breaker.writes == [0x0000]
    load = await until(lambda: door_load(ingest, breaker_state=0), "the door shows it open")
    assert load["off_lease"]["command_id"] == off
    assert off_book(tmp_path)
    on = await send(ingest, order(ingest, CommandAction.CLOSE))
    proof = await ended(ingest, on, "verified")
    assert (proof["evidence"]["feedback_value"], proof["evidence"]["meter_power_kw"]) == (1, 1.2)
    await off_book_empties(tmp_path)
    assert (await door_load(ingest))["off_lease"] is None


async def test_the_door_tells_of_named_loads_only_where_some_are_named(ingest: RunningIngest, breaker: Breaker) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    headers = ingest.headers("control", ("ingest:wake",))

    async def told(*named: str) -> list[Any]:
        response = await ingest.http.get("/direct/v1/loads", params={"load": named}, headers=headers)
        assert response.status_code == 200, response.text
        loads: list[Any] = response.json()["loads"]
        return loads

    every = await told()
    assert [load["load_id"] for load in every] == ["load-1"]
    named = await told("nobody", "load-1")
    assert [{**load, "age_s": None, "read_at": None} for load in named] == [
        {**load, "age_s": None, "read_at": None} for load in every
    ]
    assert await told("nobody") == []
    off = await send(ingest, order(ingest, CommandAction.OPEN))
    await ended(ingest, off, "verified")
    # What is off is told by its lease, whatever the registry says of the load meanwhile.
    assert [load["off_lease"]["command_id"] for load in await told("load-1")] == [off]
    many = await ingest.http.get("/direct/v1/loads", params={"load": ["x"] * 501}, headers=headers)
    assert many.status_code == 422


async def test_the_door_tells_values_out_of_the_history_to_control(ingest: RunningIngest, breaker: Breaker) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    now = SystemClock().now()
    body = {
        "device_ids": ["load-1", "breaker-1", "nobody"], "points": ["traffic_load", "active_power_total"],
        "start": (now - timedelta(hours=1)).isoformat(), "end": (now + timedelta(hours=1)).isoformat(),
    }  # fmt: skip
    headers = ingest.headers("control", ("ingest:wake",))

    async def told() -> dict[tuple[str, str], float] | None:
        response = await ingest.http.post("/direct/v1/samples", json=body, headers=headers)
        assert response.status_code == 200, response.text
        found = {(one["device_id"], one["point"]): one["value"] for one in response.json()["samples"]}
        return found if ("breaker-1", "active_power_total") in found else None

    assert await until(told, "the breaker's power is in the history") == {("breaker-1", "active_power_total"): 1.2}
    stranger = ingest.headers("export", ("ingest:wake",))
    assert (await ingest.http.post("/direct/v1/samples", json=body, headers=stranger)).status_code == 403
    many = body | {"device_ids": ["x"] * 201}
    assert (await ingest.http.post("/direct/v1/samples", json=many, headers=headers)).status_code == 422


async def test_command_is_executed_once_however_often_it_is_read(ingest: RunningIngest, breaker: Breaker) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    off = order(ingest, CommandAction.OPEN)
    for _ in range(3):
        await send(ingest, off)
    await ended(ingest, off.command_id, "verified")
    marker = await send(ingest, order(ingest, CommandAction.READ_BACK))
    await ended(ingest, marker, "verified")
    assert [m["stage"] for m in await stages(ingest, off.command_id)] == ["accepted", "executed", "verified"]
    assert breaker.writes == [0x0000]


async def test_command_is_executed_once_by_a_process_that_starts_and_reads_it_again(
    postgres_url: str, tmp_path: Path, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start reads the topic from ten minutes back; what is on record is left alone, a later repetition too."""
    quick(monkeypatch)
    async with running(postgres_url, tmp_path) as first:
        await create_load(first, breaker.peer.endpoint)
        off, on = order(first, CommandAction.OPEN), order(first, CommandAction.CLOSE)
        for command in (off, on):
            await send(first, command)
            await ended(first, command.command_id, "verified")
    breaker.writes.clear()
    async with running(postgres_url, tmp_path) as second:
        await send(second, off)
        marker = await send(second, order(second, CommandAction.READ_BACK))
        await ended(second, marker, "verified")
        assert [m["stage"] for m in await stages(second, off.command_id)] == ["accepted", "executed", "verified"]
        assert [m["stage"] for m in await stages(second, on.command_id)][-1] == "verified"
    assert breaker.writes == []
    assert breaker.closed


def forged(command: Command) -> Command:
    return command.model_copy(update={"off_at_most_s": 1e9})


@pytest.mark.parametrize(
    ("change", "fields", "reason"),
    [
        (forged, {}, "bad_signature"),
        (None, {"not_after": SystemClock().now() - timedelta(seconds=1)}, "expired"),
        (None, {"restore_at": SystemClock().now() - timedelta(seconds=1)}, "restore_at_passed"),
        (None, {"device_id": "nobody"}, "unknown_device"),
    ],
    ids=["forged", "late", "restore in the past", "unknown device"],
)
async def test_off_that_may_not_be_done_is_refused_and_writes_nothing(
    ingest: RunningIngest,
    breaker: Breaker,
    change: Callable[[Command], Command] | None,
    fields: dict[str, Any],
    reason: str,
) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    command = order(ingest, CommandAction.OPEN, **fields)
    await send(ingest, command if change is None else change(command))
    assert (await ended(ingest, command.command_id, "refused"))["reason"] == reason
    assert breaker.writes == []


async def test_of_orders_signed_together_each_is_judged_by_its_own_proof(
    ingest: RunningIngest, breaker: Breaker
) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    orders = [order(ingest, CommandAction.CLOSE) for _ in range(4)] + [order(ingest, CommandAction.OPEN)]
    shown = sign_each(ingest.platform.keys, "control", [canonical(one.signing_payload()) for one in orders[:4]])
    good, late, swapped, broken = (
        one.model_copy(update={"signature": signature, "proof": proof})
        for one, (signature, proof) in zip(orders, shown, strict=False)
    )
    bad = [
        late.model_copy(update={"not_after": late.not_after + timedelta(hours=1)}),
        swapped.model_copy(update={"proof": late.proof}),
        broken.model_copy(update={"proof": "AAAA"}),
        orders[4].model_copy(update={"signature": good.signature, "proof": good.proof}),
    ]
    breaker.closed = False
    breaker.show()
    for one in bad:
        await send(ingest, one)
        assert (await ended(ingest, one.command_id, "refused"))["reason"] == "bad_signature"
    assert breaker.writes == []
    await send(ingest, good)
    await ended(ingest, good.command_id, "verified")
    assert breaker.writes == [0xFF00]


async def test_late_on_is_done_all_the_same(ingest: RunningIngest, breaker: Breaker) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    breaker.closed = False
    breaker.show()
    on = order(ingest, CommandAction.CLOSE, not_after=SystemClock().now() - timedelta(hours=1))
    await send(ingest, on)
    await ended(ingest, on.command_id, "verified")
    assert breaker.writes == [0xFF00]


async def test_locked_breaker_is_not_opened_and_not_closed_and_a_person_is_called(
    ingest: RunningIngest, breaker: Breaker
) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    breaker.locked = True
    breaker.show()
    off = await send(ingest, order(ingest, CommandAction.OPEN))
    assert (await ended(ingest, off, "refused"))["reason"] == "local_lock"
    breaker.closed = False
    breaker.show()
    on = await send(ingest, order(ingest, CommandAction.CLOSE))
    result = await ended(ingest, on, "refused")
    assert (result["reason"], result["evidence"]["local_lock"]) == ("local_lock", True)
    assert breaker.writes == []

    async def called() -> Any:
        return [c for c in await ingest.messages(topics.CONDITIONS) if c["kind"] == "wake_up_stopped"]

    (condition,) = await until(called, "a person is called")
    assert (condition["level"], condition["phase"], condition["load_id"]) == (1, "begin", "load-1")


async def test_on_stops_at_a_protection_trip_however_often_it_is_ordered_until_a_person_has_released_it(
    ingest: RunningIngest, breaker: Breaker
) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    breaker.closed, breaker.trip_reason = False, 2
    breaker.show()
    first = await send(ingest, order(ingest, CommandAction.CLOSE))
    result = await ended(ingest, first, "refused")
    assert (result["reason"], result["evidence"]["trip_reason"]) == ("protection_trip", 2)
    again = await send(ingest, order(ingest, CommandAction.CLOSE))
    await ended(ingest, again, "refused")
    other = await send(ingest, order(ingest, CommandAction.CLOSE, arguments={"released_trip": 1}))
    await ended(ingest, other, "refused")
    assert breaker.writes == []
    released = await send(ingest, order(ingest, CommandAction.CLOSE, arguments={"released_trip": 2}))
    await ended(ingest, released, "verified")
    assert breaker.writes == [0xFF00]


async def test_off_that_does_not_follow_is_failed_with_what_was_seen(ingest: RunningIngest, breaker: Breaker) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    breaker.obeys = False
    off = await send(ingest, order(ingest, CommandAction.OPEN))
    result = await ended(ingest, off, "failed")
    assert (result["reason"], result["evidence"]["feedback_value"]) == ("not_followed", 1)


async def test_on_that_does_not_follow_is_tried_again_by_the_holder(ingest: RunningIngest, breaker: Breaker) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    breaker.closed = breaker.obeys = False
    breaker.show()
    on = await send(ingest, order(ingest, CommandAction.CLOSE))
    await ended(ingest, on, "failed")
    breaker.obeys = True
    breaker.peer.bank.set_holding_registers(0x000D, [0x1234])
    await ended(ingest, on, "verified")
    assert breaker.closed


async def test_nobody_closes_so_the_holder_does_at_restore_at(ingest: RunningIngest, breaker: Breaker) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    off = await send(ingest, order(ingest, CommandAction.OPEN, restore_s=3.0))
    await ended(ingest, off, "verified")
    result = await ended(ingest, off, "restored")
    assert result["evidence"]["feedback_value"] == 1
    assert breaker.closed
    assert (await door_load(ingest))["off_lease"] is None


async def test_direct_door_closes_and_is_for_control_and_the_watchdog_only(
    ingest: RunningIngest, breaker: Breaker
) -> None:
    await create_load(ingest, breaker.peer.endpoint)
    off = await send(ingest, order(ingest, CommandAction.OPEN))
    await ended(ingest, off, "verified")
    for headers in (ingest.headers("gateway"), ingest.headers("watchdog", ("ingest:read",)), {}):
        refused = await ingest.http.post("/direct/v1/on", json={"load_id": "load-1"}, headers=headers)
        assert refused.status_code in (401, 403)
    assert not breaker.closed
    answer = await ingest.http.post(
        "/direct/v1/on", json={"load_id": "load-1"}, headers=ingest.headers("watchdog", ("ingest:wake",))
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["verified"], answer.json()["evidence"]["feedback_value"]) == (True, 1)
    assert breaker.closed


async def test_process_that_starts_without_its_database_closes_what_it_has_opened(
    postgres_url: str, tmp_path: Path, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    async with running(postgres_url, tmp_path) as first:
        await create_load(first, breaker.peer.endpoint)
        off = await send(first, order(first, CommandAction.OPEN, restore_s=4.0))
        await ended(first, off, "verified")
    assert not breaker.closed
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    async with running(nowhere, tmp_path, wait=False) as second:
        loads = await second.http.get("/direct/v1/loads", headers=second.headers("watchdog", ("ingest:wake",)))
        assert [load["off_lease"]["command_id"] for load in loads.json()["loads"]] == [off]
        assert (await second.http.get("/api/v1/sites", headers=second.headers())).status_code == 503

        async def closed() -> bool:
            return breaker.closed

        await until(closed, "the breaker closed without a database")

        await off_book_empties(tmp_path)
    # The result was kept on disk and is told once the database is back.
    async with running(postgres_url, tmp_path) as third:
        assert (await ended(third, off, "restored"))["evidence"]["feedback_value"] == 1


async def test_direct_door_closes_without_database(
    postgres_url: str, tmp_path: Path, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    async with running(postgres_url, tmp_path) as first:
        await create_load(first, breaker.peer.endpoint)

        async def saved() -> bool:
            file = tmp_path / "ingest/0/registry.ndjson"
            return file.exists() and b"load-1" in file.read_bytes()  # it is saved while the registry is still growing

        await until(saved, "the registry saved for waking")
    breaker.closed = False
    breaker.show()
    async with running("postgresql://nobody@127.0.0.1:1/none", tmp_path, wait=False) as second:
        answer = await second.http.post(
            "/direct/v1/on", json={"load_id": "load-1"}, headers=second.headers("control", ("ingest:wake",))
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["verified"]
    assert breaker.closed
