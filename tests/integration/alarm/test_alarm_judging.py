"""Judging on a real database: state, alarms and events in one transaction, exactly once whatever happens."""

from collections.abc import Sequence

import orjson
import pytest
from prometheus_client import REGISTRY

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.clock import SystemClock
from libs.common.contracts.alarm import AlarmLevel, Condition, ConditionKind, EndReason
from libs.common.contracts.base import Phase
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, OccurrenceState
from libs.common.contracts.delivery import DeliveryEvent, DeliveryState
from libs.common.contracts.telemetry import Quality
from libs.common.ids import CommandId, DeviceId, LoadId, OccurrenceId, SiteId
from services.alarm.domain.rulebook import Override, Scope
from services.alarm.store import alarms as alarms_store
from services.alarm.store import deliveries as deliveries_store
from services.alarm.store import rulebook as rulebook_store
from services.alarm.views import AlarmFilter, StoredOverride
from services.alarm.worker.deliveries import DeliveriesHandler
from services.alarm.worker.measure import Measure
from tests.integration.alarm.alarm_world import FAILURE, LOW, START, World, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


async def test_a_sag_on_one_phase_raises_voltage_too_low_and_ends(world: World) -> None:
    await world.short_delays()
    await world.take(world.volts(0, 230))
    for second in range(1, 8):
        await world.take(world.volts(second, 150, 230, 230))
    for second in range(8, 15):
        await world.take(world.volts(second, 230))
    begin, end = await world.events()
    assert (begin.phase, begin.signal, begin.level, begin.rule_id) == (Phase.BEGIN, LOW, AlarmLevel.MINOR, LOW)
    assert (begin.began_at, begin.point, begin.value, begin.threshold, begin.unit) == (
        at(1),
        "voltage_a",
        150,
        160,
        "V",
    )
    assert begin.signal_name_zh == "交流电压过低告警"
    assert begin.text_zh == "交流电压过低告警 告警"
    assert (end.phase, end.alarm_id, end.sequence) == (Phase.END, begin.alarm_id, 2)
    assert (end.ended_at, end.end_reason) == (at(8), EndReason.RECOVERED)
    assert await world.states() == {}
    assert world.woken == 2


async def test_the_shipped_delay_is_that_of_the_level(world: World) -> None:
    await world.take(world.volts(0, 150), world.volts(179, 150))
    assert await world.told() == []
    await world.take(world.volts(180, 150))
    assert await world.told() == [("begin", LOW, 0)]


async def test_mains_failure_lost_phase_and_low_voltage_are_told_apart(world: World) -> None:
    await world.short_delays(LOW, FAILURE, "0s16004001")
    world.registry.add("m-2")
    for second in (0, 5):
        await world.take(world.volts(second, 10, 230, 230, device_id="m-1"), world.volts(second, 5, device_id="m-2"))
    raised = {(event.device_id, event.rule_id) for event in await world.events()}
    assert raised == {("m-1", LOW), ("m-1", "0s16004001"), ("m-2", LOW), ("m-2", FAILURE)}


async def test_a_delay_runs_out_on_heartbeats_when_the_device_says_nothing_more(world: World) -> None:
    await world.short_delays(start_s=60)
    await world.take(world.volts(0, 150))
    await world.take(*(world.heartbeat(second) for second in range(1, 61)))
    assert await world.told() == []
    await world.take(world.heartbeat(62))
    assert await world.told() == [("begin", LOW, 0)]


STAGES: Sequence[tuple[str, int]] = (("PENDING", 2), ("ACTIVE", 5), ("CLEARING", 9))
"""State and the second after which the handler dies in it."""


def story(world: World) -> list[Received]:
    sag = [world.volts(second, 150) for second in range(8)]
    normal = [world.volts(second, 230) for second in range(8, 14)]
    return [*sag, *normal]


@pytest.mark.parametrize(("state", "second"), STAGES, ids=[state for state, _ in STAGES])
async def test_a_crash_in_any_state_loses_and_doubles_nothing(world: World, state: str, second: int) -> None:
    await world.short_delays()
    messages = story(world)
    for message in messages[: second + 1]:
        await world.take(message)
    assert await world.states() == {("m-1", LOW): state}
    await world.fail(*messages[second + 1 :])
    assert await world.states() == {("m-1", LOW): state}
    await world.restart()
    for message in messages[second + 1 :]:
        await world.take(message)
    assert await world.told() == [("begin", LOW, 0), ("end", LOW, 8)]


async def test_a_delay_that_runs_survives_a_restart_without_a_further_report(world: World) -> None:
    await world.short_delays(start_s=60)
    await world.take(world.volts(0, 150))
    await world.restart()
    await world.take(world.heartbeat(62))
    assert await world.told() == [("begin", LOW, 0)]


async def test_the_same_hour_again_raises_nothing(world: World) -> None:
    await world.short_delays()
    messages = story(world)
    await world.take(*messages)
    before = await world.told()
    assert len(before) == 2
    await world.take(*messages)
    await world.restart()
    await world.take(*messages[:-1])
    assert await world.told() == before


async def test_late_and_future_and_old_reports_raise_nothing_after_a_restart_either(world: World) -> None:
    await world.short_delays(start_s=0)
    old = orjson.loads(world.volts(-90_000, 150).value or b"")
    old["received_at"] = at(0).isoformat()
    await world.take(world.raw(topics.READINGS, orjson.dumps(old), at(0)))
    await world.take(world.volts(100, 230))
    await world.restart()
    await world.take(world.volts(99, 150))
    body = orjson.loads(world.volts(4000, 150).value or b"")
    body["received_at"] = at(101).isoformat()
    await world.take(world.raw(topics.READINGS, orjson.dumps(body), at(101)))
    assert await world.told() == []


async def test_bad_quality_holds_and_uncertain_is_judged(world: World) -> None:
    await world.short_delays(start_s=0, end_s=0)
    low: dict[str, float | None] = dict.fromkeys(("voltage_a", "voltage_b", "voltage_c"), 150.0)
    await world.take(world.reading(0, low, quality=dict.fromkeys(low, Quality.STALE)))
    assert await world.told() == []
    await world.take(world.reading(1, low, quality=dict.fromkeys(low, Quality.SUSPECT)))
    assert await world.told() == [("begin", LOW, 1)]
    normal: dict[str, float | None] = dict.fromkeys(low, 230.0)
    await world.take(world.reading(2, normal, quality={"voltage_c": Quality.FROZEN}))
    assert len(await world.told()) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source_time": None}, "source_time"),
        ({"source_time": "2026-03-01T04:00:00"}, "source_time"),
        ({"points": {"voltage_a": "high"}}, "points.voltage_a"),
        ({"points": [1]}, "points"),
        ({"device_id": None}, "device_id"),
    ],
)
async def test_what_cannot_be_read_is_poison_with_the_field_named(
    world: World, change: dict[str, object], reason: str
) -> None:
    body = orjson.loads(world.volts(1, 150).value or b"") | change
    bad = world.raw(topics.READINGS, orjson.dumps(body), at(1))
    with pytest.raises(PoisonMessage, match=reason) as caught:
        await world.take(world.volts(0, 150), bad, world.volts(2, 150))
    assert caught.value.received is bad


async def test_not_json_is_poison(world: World) -> None:
    with pytest.raises(PoisonMessage):
        await world.take(world.raw(topics.READINGS, b'{"voltage', at(1)))


async def change(world: World, rule_id: str = LOW, **params: object) -> None:
    async with world.db.write() as conn:
        version = await rulebook_store.next_book_version(conn)
        override = Override(rule_id, Scope.DEVICE, "m-1", version, **params)  # type: ignore[arg-type]
        await rulebook_store.put_override(conn, StoredOverride(override, "user:test", START, None))


async def test_a_changed_rule_re_evaluates_with_the_next_batch_and_says_so(world: World) -> None:
    await world.short_delays()
    await world.take(world.volts(0, 150), world.volts(3, 150))
    await change(world, threshold=140.0)
    await world.take(world.heartbeat(4))
    _, end = await world.events()
    assert (end.end_reason, end.ended_at, end.rule_version) == (EndReason.RULE_CHANGED, at(3), 3)


async def test_a_changed_rule_re_evaluates_after_a_restart_too(world: World) -> None:
    await world.short_delays()
    await world.take(world.volts(0, 150), world.volts(3, 150))
    await change(world, level=1)
    await world.restart()
    await world.take(world.heartbeat(4))
    begin, update = await world.events()
    assert (update.phase, update.alarm_id, update.sequence, update.level) == (
        Phase.UPDATE, begin.alarm_id, 2, AlarmLevel.CRITICAL,
    )  # fmt: skip


async def test_a_removed_device_ends_its_alarms(world: World) -> None:
    await world.short_delays()
    await world.take(world.volts(0, 150), world.volts(3, 150))
    world.registry.remove("m-1")
    await world.take(world.heartbeat(4))
    assert [event.end_reason for event in await world.events()] == [None, EndReason.DEVICE_REMOVED]


async def test_partitions_are_loaded_and_dropped_by_themselves(world: World) -> None:
    world.partitions = frozenset({0, 1})
    world.registry.add("m-2", site_id="site-2")
    await world.short_delays(start_s=60)
    await world.take(world.volts(0, 150), world.volts(0, 100, device_id="m-2", partition=1))
    world.handler.drop(frozenset({1}))
    assert world.handler.engine.episode("m-1", LOW) is not None
    assert world.handler.engine.episode("m-2", LOW) is None
    async with world.db.effects() as conn:
        await world.handler.load(conn, frozenset({1}))
    assert world.handler.engine.episode("m-2", LOW) is not None


class TestPlannedShutdown:
    def event(self, world: World, state: CommandState | OccurrenceState, second: float, **more: object) -> Received:
        facts: dict[str, object] = {
            "site_id": SiteId("site-1"),
            "state": state,
            "at": at(second),
            "reason": "",
            "load_id": LoadId("aau-1"),
            "occurrence_id": OccurrenceId("o-1"),
        } | more
        payload = ControlEvent.model_validate(facts)
        return world.received(topics.CONTROL_EVENTS, payload, at(second))

    async def test_a_unit_that_control_switched_off_is_no_power_failure(self, world: World) -> None:
        world.registry.loads["aau-1"] = ["m-1"]
        await world.short_delays(LOW, FAILURE)
        await world.take(self.event(world, OccurrenceState.SHUTTING_DOWN, 0))
        await world.take(world.volts(1, 0), world.volts(5, 0))
        begins = await world.events()
        assert {event.rule_id for event in begins} == {LOW, FAILURE}
        assert {event.inhibited_by for event in begins} == {"occurrence:o-1"}
        await world.restart()
        await world.take(self.event(world, OccurrenceState.AWAKE, 100), world.volts(100, 230), world.volts(104, 230))
        ends = (await world.events())[2:]
        assert {(event.phase, event.inhibited_by) for event in ends} == {(Phase.END, "occurrence:o-1")}
        await world.take(world.heartbeat(161))
        async with world.db.read() as conn:
            assert await conn.fetchval("select count(*) from shutdowns") == 0
        await world.take(world.volts(200, 0), world.volts(204, 0))
        assert {event.inhibited_by for event in (await world.events())[4:]} == {None}

    async def test_what_outlasts_the_wake_up_is_told(self, world: World) -> None:
        world.registry.loads["aau-1"] = ["m-1"]
        await world.short_delays()
        await world.take(self.event(world, OccurrenceState.SHUT_DOWN, 0), world.volts(1, 0), world.volts(5, 0))
        await world.take(self.event(world, OccurrenceState.AWAKE, 100), world.volts(100, 0))
        await world.restart()
        await world.take(world.heartbeat(159))
        assert len(await world.events()) == 1
        await world.take(world.heartbeat(160))
        _, update = await world.events()
        assert (update.phase, update.inhibited_by, update.sequence) == (Phase.UPDATE, None, 2)

    async def test_a_planned_end_that_passes_without_a_wake_up_is_told(self, world: World) -> None:
        world.registry.loads["aau-1"] = ["m-1"]
        await world.short_delays()
        await world.take(self.event(world, OccurrenceState.SHUTTING_DOWN, 0, restore_at=at(100)))
        await world.take(world.volts(1, 0), world.volts(5, 0))
        await world.restart()
        await world.take(world.heartbeat(160))
        assert [event.inhibited_by for event in await world.events()] == ["occurrence:o-1", None]

    async def test_commands_without_a_plan_count_too(self, world: World) -> None:
        await world.short_delays()
        command = {"occurrence_id": None, "command_id": CommandId("c-1"), "load_id": None, "device_id": DeviceId("m-1")}
        off = self.event(world, CommandState.DISPATCHED, 0, action=CommandAction.OPEN, **command)
        await world.take(off, world.volts(1, 0), world.volts(5, 0))
        assert [event.inhibited_by for event in await world.events()] == ["command:c-1"]

    async def test_a_command_that_failed_explains_nothing_afterwards(self, world: World) -> None:
        await world.short_delays()
        command = {"occurrence_id": None, "command_id": CommandId("c-1"), "load_id": None, "device_id": DeviceId("m-1")}
        for state, second in ((CommandState.DISPATCHED, 0), (CommandState.FAILED, 2)):
            await world.take(self.event(world, state, second, action=CommandAction.OPEN, **command))
        await world.take(world.volts(3, 0), world.volts(7, 0))
        assert [event.inhibited_by for event in await world.events()] == [None]


class TestConditions:
    def finding(self, world: World, phase: Phase, second: float, **more: object) -> Received:
        facts: dict[str, object] = {
            "site_id": SiteId("site-1"),
            "source": "control",
            "kind": ConditionKind.WAKE_UP_OVERDUE.value,
            "subject": "aau-1",
            "phase": phase,
            "detail": "not confirmed after 60 s",
            "at": at(second),
        } | more
        return world.condition(Condition.model_validate(facts), second)

    async def test_a_finding_begins_and_ends_one_alarm(self, world: World) -> None:
        await world.take(self.finding(world, Phase.BEGIN, 0), self.finding(world, Phase.BEGIN, 0))
        await world.restart()
        await world.take(self.finding(world, Phase.BEGIN, 1), self.finding(world, Phase.END, 9))
        await world.take(self.finding(world, Phase.END, 9), self.finding(world, Phase.BEGIN, 0))
        begin, end = await world.events()
        assert begin.signal == "wattring.condition.wake_up_overdue"
        assert (begin.level, begin.began_at, begin.subject) == (AlarmLevel.CRITICAL, at(0), "aau-1")
        assert (end.phase, end.alarm_id, end.ended_at) == (Phase.END, begin.alarm_id, at(9))

    async def test_a_finding_that_comes_back_is_another_alarm(self, world: World) -> None:
        for phase, second in ((Phase.BEGIN, 0), (Phase.END, 5), (Phase.BEGIN, 7)):
            await world.take(self.finding(world, phase, second))
        first, _, second_begin = await world.events()
        assert second_begin.alarm_id != first.alarm_id

    async def test_once_begins_and_ends(self, world: World) -> None:
        await world.take(self.finding(world, Phase.ONCE, 0))
        await world.take(self.finding(world, Phase.ONCE, 0))
        assert [event.phase for event in await world.events()] == [Phase.BEGIN, Phase.END]

    async def test_another_detail_is_an_update_once(self, world: World) -> None:
        await world.take(self.finding(world, Phase.BEGIN, 0))
        for _ in range(2):
            await world.take(self.finding(world, Phase.UPDATE, 5, detail="not confirmed after 120 s"))
        events = await world.events()
        assert [(event.phase, event.text) for event in events] == [
            (Phase.BEGIN, "not confirmed after 60 s"),
            (Phase.UPDATE, "not confirmed after 120 s"),
        ]

    async def test_a_kind_that_the_table_does_not_know_takes_the_finders_level(self, world: World) -> None:
        await world.take(self.finding(world, Phase.BEGIN, 0, kind="new_kind", level=2))
        [begin] = await world.events()
        assert (begin.signal, begin.level) == ("wattring.condition.new_kind", AlarmLevel.MAJOR)


async def test_deliveries_are_noted_per_centre_and_never_go_back(world: World) -> None:
    await world.short_delays()
    await world.take(world.volts(0, 150), world.volts(3, 150))
    [begin] = await world.events()

    def news(state: DeliveryState, second: float, attempts: int) -> Received:
        payload = DeliveryEvent(
            destination="sc-demo",
            item=f"{begin.alarm_id}:1",
            state=state,
            attempts=attempts,
            at=at(second),
            item_kind="alarm_begin",
            alarm_id=begin.alarm_id,
        )
        return world.received(topics.DELIVERY_EVENTS, payload, at(second))

    handler = DeliveriesHandler()
    for batch in (
        [news(DeliveryState.QUEUED, 3, 0), news(DeliveryState.DELIVERED, 5, 2)],
        [news(DeliveryState.RETRYING, 4, 1)],
    ):
        async with world.db.effects() as conn:
            await handler.handle(conn, batch)
    async with world.db.read() as conn:
        [row] = (await deliveries_store.fetch_deliveries(conn, [begin.alarm_id]))[begin.alarm_id]
    assert (row.destination, row.state, row.at, row.attempts) == ("sc-demo", "delivered", at(5), 2)


async def test_alarms_are_found_by_what_one_asks_for(world: World) -> None:
    world.registry.add("m-2")
    await world.short_delays()
    for device_id, first in (("m-1", 0), ("m-2", 20)):
        await world.take(*(world.volts(first + second, 150, device_id=device_id) for second in range(5)))
    await world.take(*(world.volts(10 + second, 230) for second in range(5)))

    async def found(**wanted: object) -> list[str | None]:
        async with world.db.read() as conn:
            rows = await alarms_store.fetch_alarms(conn, AlarmFilter(**wanted), after=None, limit=10)  # type: ignore[arg-type]
        return [row.device_id for row in rows]

    assert await found() == ["m-2", "m-1"]
    assert await found(active=True) == ["m-2"]
    assert await found(active=False) == ["m-1"]
    assert await found(device_id="m-1") == ["m-1"]
    assert await found(sites=["site-9"]) == []
    assert await found(levels=[3], signal=LOW) == ["m-2", "m-1"]
    assert await found(levels=[1, 2]) == []
    assert await found(began_from=at(10)) == ["m-2"]
    assert await found(began_before=at(20)) == ["m-1"]


async def test_the_shipped_table_is_taken_over_once(world: World) -> None:
    from services.alarm.dictionary import load_shipped

    async with world.db.write() as conn:
        before = await rulebook_store.fetch_book_version(conn)
        assert not await rulebook_store.seed(conn, load_shipped(), at(0))
        assert await rulebook_store.fetch_book_version(conn) == before
        assert len(await rulebook_store.fetch_signals(conn)) == len(load_shipped().signals)


async def test_metrics_count_reports_steps_and_active_alarms(world: World) -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"wattring_{name}", labels) or 0.0

    late = value("alarm_reports_total", outcome="late")
    begun = value("alarm_transitions_total", phase="begin", level="3")
    latencies = value("alarm_transition_latency_seconds_count")
    await world.short_delays()
    await world.take(world.volts(0, 150), world.volts(3, 150), world.volts(2, 150))
    await Measure(db=world.db, clock=SystemClock(), every_s=10).measure()
    assert value("alarm_reports_total", outcome="late") == late + 1
    assert value("alarm_transitions_total", phase="begin", level="3") == begun + 1
    assert value("alarm_transition_latency_seconds_count") == latencies + 1
    assert value("alarm_active", level="3", inhibited="false") == 1
    assert value("alarm_active", level="1", inhibited="false") == 0
