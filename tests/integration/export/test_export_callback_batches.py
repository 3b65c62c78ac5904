"""Readings and intervals as callbacks on a real database: who is told which, in how many calls, for how long."""

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.carbon import Interval, IntervalFlag
from libs.common.contracts.control import CommandState, PlanEvent
from libs.common.contracts.device import Battery, Connectivity, DeviceStatus, RadioSignal, SimState
from libs.common.contracts.telemetry import Reading
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.export.domain.callbacks import EndpointState, NewsType
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import Caller
from tests.integration.export.callback_world import World, control, world
from tests.peers.callback_receiver import Receiver, receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

T0 = datetime(2026, 3, 8, 6, 0, tzinfo=UTC)
READINGS, INTERVALS = NewsType.READINGS_BATCH, NewsType.INTERVALS_BATCH
_offsets = itertools.count(1)


@pytest.fixture
async def found(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world(postgres_url, tmp_path) as built:
        yield built


@pytest.fixture
async def app() -> AsyncIterator[Receiver]:
    async with receiver() as running:
        yield running


def on_bus(found: World, topic: str, payload: Any, *, source: str = "test", at: datetime | None = None) -> Received:
    now = at or found.clock.now()
    message = envelope.message(topic, "k", payload, source=source, time=now)
    return Received(topic, 0, next(_offsets), "k", message.value, message.headers, now)


def reading(found: World, device: str, site: str = "s-1", *, at: datetime | None = None, **points: float) -> Received:
    payload = Reading(
        device_id=DeviceId(device), site_id=SiteId(site), source_time=T0, received_at=T0, driver="modbus",
        points=points or {"power_active": 1.5, "voltage_a": 230.0},
    )  # fmt: skip
    return on_bus(found, topics.READINGS, payload, at=at)


def interval(found: World, circuit: str, version: int = 1) -> Received:
    payload = Interval(
        circuit_id=CircuitId(circuit), site_id=SiteId("s-1"), start=T0, end=T0 + timedelta(minutes=15),
        interval_flag=IntervalFlag.MEASURED, version=version, energy_kwh=1.25,
    )  # fmt: skip
    return on_bus(found, topics.INTERVALS, payload)


def devices(call: Any) -> list[str]:
    return [one["device_id"] for one in call.event["data"]["readings"]]


async def rows(found: World, table: str) -> int:
    async with found.db.read() as conn:
        return int(await conn.fetchval(f"select count(*) from {table}"))


async def test_many_readings_of_a_site_are_one_signed_call_and_one_row(found: World, app: Receiver) -> None:
    endpoint, secret = await found.endpoint(app.url, READINGS)
    found.start()
    sent = [reading(found, f"meter-{number}") for number in range(300)]
    await found.hand(found.batches, *sent, reading(found, "meter-x", "s-2"))
    await app.took(2)
    by_subject = {call.event["subject"]: call for call in app.calls}
    call = by_subject["readings/s-1"]
    assert call.is_signed_with(secret)
    assert call.event["type"] == "wattring.readings.batch.v1"
    assert (call.event["siteid"], call.event["sequence"]) == ("s-1", "000000000001")
    assert devices(call) == [f"meter-{number}" for number in range(300)]
    assert devices(by_subject["readings/s-2"]) == ["meter-x"]
    assert await rows(found, "callback_events") == await rows(found, "callback_deliveries") == 2
    await found.hand(found.batches, reading(found, "meter-1"))
    await found.settled(endpoint, "delivered", "delivered", "delivered")
    assert app.calls[-1].event["sequence"] == "000000000002"
    await found.check_books()


async def test_each_is_told_the_sites_points_and_kinds_that_it_has_chosen(found: World) -> None:
    async with receiver() as all_, receiver() as power, receiver() as fans, receiver() as limited:
        await found.endpoint(all_.url, READINGS)
        await found.endpoint(power.url, READINGS, points=["power_active"], sites=["region:r-1"])
        await found.endpoint(fans.url, READINGS, INTERVALS, kinds=["fan"])
        only_s2 = Caller(Actor("key:small", None), ("s-2",), sees_all=False)
        await found.endpoint(limited.url, READINGS, caller=only_s2, sites=["s-1", "s-2"])
        found.start()
        await found.hand(
            found.batches,
            reading(found, "meter-1"),
            reading(found, "fan-1", fan_speed=900.0),
            reading(found, "meter-2", "s-2"),
            interval(found, "c-1"),
        )
        await all_.took(2)
        await power.took(1)
        await fans.took(2)
        await limited.took(1)
        assert sorted(name for call in all_.calls for name in devices(call)) == ["fan-1", "meter-1", "meter-2"]
        (call,) = power.calls
        assert [one["points"] for one in call.event["data"]["readings"]] == [{"power_active": 1.5}]
        told = {call.event["type"]: call for call in fans.calls}
        assert devices(told["wattring.readings.batch.v1"]) == ["fan-1"]
        # Nobody's kind is meant by the consumption of a circuit.
        assert told["wattring.intervals.batch.v1"].event["data"]["intervals"][0]["energy_kwh"] == 1.25
        assert [name for call in limited.calls for name in devices(call)] == ["meter-2"]


async def test_those_who_choose_alike_share_the_batch(found: World, app: Receiver) -> None:
    async with receiver() as second:
        first_endpoint, _ = await found.endpoint(app.url, READINGS)
        await found.endpoint(second.url, READINGS)
        found.start()
        await found.hand(found.batches, reading(found, "meter-1"))
        await app.took(1)
        await second.took(1)
        assert app.calls[0].id == second.calls[0].id
        assert await rows(found, "callback_events") == 1
        await found.settled(first_endpoint, "delivered")


async def test_what_the_bus_gives_again_is_told_once(found: World, app: Receiver) -> None:
    endpoint, _ = await found.endpoint(app.url, READINGS)
    found.start()
    sent = [reading(found, "meter-1"), reading(found, "meter-2")]
    await found.hand(found.batches, *sent)
    await found.hand(found.batches, *sent)
    await found.hand(found.batches, reading(found, "meter-3"))
    await found.settled(endpoint, "delivered", "delivered")
    assert [devices(call) for call in app.calls] == [["meter-1", "meter-2"], ["meter-3"]]


async def test_what_was_there_before_the_endpoint_is_not_told(found: World, app: Receiver) -> None:
    old = reading(found, "meter-old", at=found.clock.now() - timedelta(minutes=1))
    await found.endpoint(app.url, READINGS)
    found.start()
    await found.hand(found.batches, old, reading(found, "meter-new"))
    await app.took(1)
    assert devices(app.calls[0]) == ["meter-new"]


async def test_nothing_is_written_while_nobody_asks(found: World, app: Receiver) -> None:
    await found.endpoint(app.url, NewsType.COMMAND_RESULT)
    await found.hand(found.batches, reading(found, "meter-1"), interval(found, "c-1"))
    assert await rows(found, "callback_events") == 0


async def test_the_state_of_a_device_is_told_by_kind(found: World, app: Receiver) -> None:
    await found.endpoint(app.url, NewsType.DEVICE_STATUS, kinds=["meter"])
    found.start()
    for name in ("fan-1", "meter-1"):
        status = DeviceStatus(
            device_id=DeviceId(name), site_id=SiteId("s-1"), connectivity=Connectivity.OFFLINE, texts={},
            signal=RadioSignal(), battery=Battery(), sim=SimState(), reason="timeout",
        )  # fmt: skip
        await found.tell(on_bus(found, topics.DEVICE_STATUS, status))
    await app.took(1)
    (call,) = app.calls
    assert (call.event["type"], call.event["subject"]) == ("wattring.device.status.v1", "status/meter-1")
    assert call.event["data"]["reason"] == "timeout"


async def test_a_plan_is_told_to_whom_one_of_its_sites_concerns_without_the_others(found: World) -> None:
    async with receiver() as here, receiver() as there, receiver() as author:
        states = (NewsType.PLAN_APPROVED, NewsType.PLAN_ENDED)
        only_s1 = Caller(Actor("key:small", None), ("s-1",), sees_all=False)
        await found.endpoint(here.url, *states, caller=only_s1)
        await found.endpoint(there.url, *states, sites=["region:r-9"])
        await found.endpoint(author.url, *states, actors=["key:app"])

        def plan(state: str, app: str | None) -> Received:
            payload = PlanEvent.model_validate(
                {
                    "plan_id": "p-1", "state": state, "at": T0, "name": "night", "load_count": 2, "app": app,
                    "first_date": date(2026, 6, 1), "last_date": date(2026, 6, 2), "zone": "Asia/Shanghai",
                    "site_ids": ("s-1", "s-2"), "created_by": "user:li",
                }
            )  # fmt: skip
            return on_bus(found, topics.PLANS, payload)

        found.start()
        await found.tell(plan("draft", None), plan("approved", None), plan("ended", "key:app"))
        await here.took(2)
        await author.took(1)
        assert [call.event["type"] for call in here.calls] == ["wattring.plan.approved.v1", "wattring.plan.ended.v1"]
        assert here.calls[0].event["subject"] == "plan/p-1"
        assert "site_ids" not in here.calls[0].event["data"]
        assert author.calls[0].event["type"] == "wattring.plan.ended.v1"
        assert there.calls == []


class TestBounds:
    async def test_too_many_batches_push_out_batches_and_no_command(self, found: World, app: Receiver) -> None:
        endpoint, _ = await found.endpoint(app.url, READINGS, NewsType.COMMAND_RESULT)
        await found.tell(control(CommandState.FAILED))
        for number in range(13):
            await found.hand(found.batches, reading(found, f"meter-{number}"))
        await found.keeper.tidy()
        states = [each.state.value for each in await found.log(endpoint)]
        assert states == ["queued", *["given_up"] * 3, *["queued"] * 10]
        await found.check_books()

    async def test_batches_wait_and_are_kept_for_a_day_and_commands_for_longer(
        self, found: World, app: Receiver
    ) -> None:
        endpoint, _ = await found.endpoint(app.url, READINGS, NewsType.COMMAND_RESULT)
        await found.tell(control(CommandState.FAILED))
        await found.hand(found.batches, reading(found, "meter-1"))
        await found.clock.advance(86400.0 + 60)
        await found.keeper.tidy()
        assert [each.state.value for each in await found.log(endpoint)] == ["queued", "given_up"]
        await found.clock.advance(86400.0 + 60)
        await found.keeper.tidy()
        assert [each.type for each in await found.log(endpoint)] == [NewsType.COMMAND_RESULT]
        assert await rows(found, "callback_events") == 1
        await found.check_books()


class TestOwners:
    async def test_a_revoked_key_is_called_no_more(self, found: World, app: Receiver) -> None:
        endpoint, _ = await found.endpoint(app.url, NewsType.COMMAND_RESULT)
        other, _ = await found.endpoint(
            app.url, NewsType.COMMAND_RESULT, caller=Caller(Actor("key:other", None), None, sees_all=False)
        )
        said = AuditEvent(
            actor="user:admin", door="api", action="api_key.revoke", subject="key:app", at=found.clock.now()
        )
        # Only the gateway can say so.
        await found.hand(found.owners, on_bus(found, topics.AUDIT, said, source="carbon"))
        assert (await found.now(endpoint)).state is EndpointState.ACTIVE
        await found.hand(found.owners, on_bus(found, topics.AUDIT, said, source="gateway"))
        now = await found.now(endpoint)
        assert now.state is EndpointState.DISABLED
        assert now.state_reason == "the API key of its owner was revoked"
        assert (await found.now(other)).state is EndpointState.ACTIVE
        await found.tell(control(CommandState.FAILED))
        assert await found.log(endpoint) == []
        assert [each.state.value for each in await found.log(other)] == ["queued"]
        assert [
            value for topic, value in await found.outbox() if topic == topics.AUDIT and b"callback.disable" in value
        ]

    async def test_a_person_who_may_see_less_is_told_less_from_then_on(self, found: World, app: Receiver) -> None:
        li = Caller(Actor("user:li", None), None, sees_all=False)
        endpoint, _ = await found.endpoint(app.url, NewsType.COMMAND_RESULT, caller=li)
        before, later = found.clock.now() - timedelta(seconds=1), found.clock.now() + timedelta(seconds=1)

        def changed(sites: list[str] | None, at: datetime) -> Received:
            said = AuditEvent(
                actor="user:admin", door="api", action="user.change", subject="user:li", at=at,
                after={"roles": ["operator"], "sites": sites, "disabled": False},
            )  # fmt: skip
            return on_bus(found, topics.AUDIT, said, source="gateway")

        await found.hand(found.owners, changed(["s-9"], before))
        assert (await found.now(endpoint)).limits is None
        await found.hand(found.owners, changed(["s-2"], later))
        assert (await found.now(endpoint)).limits == ("s-2",)
        await found.tell(control(CommandState.FAILED), control(CommandState.FAILED, site="s-2", load="l-2"))
        assert [each.site_id for each in await found.log(endpoint)] == ["s-2"]
