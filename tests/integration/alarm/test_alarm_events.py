"""Alarms out of what devices tell and of what was used, on a real database: each once, whatever crashes."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.alarm import AlarmAction, AlarmEvent, AlarmOrder, EndReason
from libs.common.contracts.base import Phase
from libs.common.contracts.carbon import Interval, IntervalFlag
from libs.common.contracts.control import ControlEvent, OccurrenceState
from libs.common.contracts.device import DeviceEvent
from libs.common.ids import AlarmId, CircuitId, DeviceId, LoadId, OccurrenceId, SiteId
from services.alarm.domain.energy import CircuitFacts
from services.alarm.domain.rulebook import Target
from services.alarm.worker.events import DEVICE_EVENT
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import FAILURE, SITE, World, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

QUARTER_S = 900.0


def event(
    world: World,
    second: float,
    code: str,
    phase: Phase = Phase.BEGIN,
    *,
    device_id: str = "r-1",
    severity: int | None = None,
    delay_s: float = 0.0,
    text: str = "",
) -> Received:
    payload = DeviceEvent(
        device_id=DeviceId(device_id),
        site_id=SiteId(SITE),
        source_time=at(second),
        code=code,
        phase=phase,
        text=text,
        received_at=at(second + delay_s),
        severity=severity,
    )
    return world.received(topics.DEVICE_EVENTS, payload, at(second + delay_s))


def used(world: World, number: int, kwh: float | None, *, version: int = 1, late_s: float = 0.0) -> Received:
    start = at(number * QUARTER_S)
    payload = Interval(
        circuit_id=CircuitId("c-1"),
        site_id=SiteId(SITE),
        start=start,
        end=start + timedelta(seconds=QUARTER_S),
        interval_flag=IntervalFlag.MISSING if kwh is None else IntervalFlag.MEASURED,
        version=version,
        energy_kwh=kwh,
    )
    return world.received(topics.INTERVALS, payload, start + timedelta(seconds=QUARTER_S + late_s))


def shutdown(world: World, state: OccurrenceState, second: float, until: float) -> Received:
    payload = ControlEvent(
        site_id=SiteId(SITE),
        state=state,
        at=at(second),
        reason="",
        occurrence_id=OccurrenceId("night-1"),
        load_id=LoadId("aau-1"),
        restore_at=at(until),
    )
    return world.received(topics.CONTROL_EVENTS, payload, at(second))


@pytest.fixture(autouse=True)
def equipment(world: World) -> None:
    """A rectifier that tells events, and a circuit with a radio unit behind a meter."""
    world.registry.devices["r-1"] = Target(
        "r-1", SITE, "rectifier", "B", "yd1363_rectifier/1", frozenset({"voltage_dc"})
    )
    world.registry.circuits["c-1"] = CircuitFacts(
        "c-1", SITE, "load", "D", CIVIL_ZONE, ("m-1",), frozenset({"aau"}), None, ()
    )
    world.registry.loads["aau-1"] = ["b-1", "m-1"]


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("wattring_alarm_device_events_total", {"outcome": outcome}) or 0.0


def story(events: Sequence[AlarmEvent]) -> list[tuple[str, str, int]]:
    return [(one.phase.value, one.signal, int(one.level)) for one in events]


class TestDeviceEvents:
    async def test_each_module_has_an_alarm_of_its_own_with_the_level_of_the_sites_class(self, world: World) -> None:
        await world.take(event(world, 0, "module_1_fault"), event(world, 1, "module_2_fault"))
        await world.take(event(world, 60, "module_1_fault", Phase.END))
        found = await world.events()
        assert story(found) == [("begin", "0s06024001", 3), ("begin", "0s06024001", 3), ("end", "0s06024001", 3)]
        assert found[0].alarm_id == found[2].alarm_id != found[1].alarm_id
        assert (found[2].end_reason, found[2].ended_at) == (EndReason.RECOVERED, at(60))
        assert (found[0].rule_id, found[0].device_id, found[0].subject) == (
            "event.rectifier_module", "r-1", "module_1_fault",
        )  # fmt: skip
        assert found[0].signal_name_zh == "整流模块XX故障告警"

    async def test_what_happens_once_begins_and_ends(self, world: World) -> None:
        await world.take(event(world, 5, "smoke_alarm", Phase.ONCE, severity=1))
        assert story(await world.events()) == [("begin", "0s18002001", 1), ("end", "0s18002001", 1)]

    async def test_one_message_twice_and_the_same_hour_again_raise_nothing_more(self, world: World) -> None:
        hour = [
            event(world, 0, "module_1_fault"), event(world, 0, "module_1_fault"),
            event(world, 9, "module_1_fault", Phase.END), event(world, 20, "module_1_fault"),
            event(world, 30, "smoke_alarm", Phase.ONCE),
        ]  # fmt: skip
        await world.take(*hour)
        told = await world.events()
        assert [one.phase.value for one in told] == ["begin", "end", "begin", "begin", "end"]
        await world.take(*hour)
        await world.restart()
        await world.take(*hour)
        assert await world.events() == told

    async def test_a_crash_before_the_commit_loses_and_doubles_nothing(self, world: World) -> None:
        first, last = event(world, 0, "module_1_fault"), event(world, 60, "module_1_fault", Phase.END)
        await world.fail(first)
        await world.take(first)
        await world.fail(last)
        await world.restart()
        await world.take(last)
        assert [(one.phase.value, one.sequence) for one in await world.events()] == [("begin", 1), ("end", 2)]

    async def test_one_at_a_time_and_all_at_once_agree(self, world: World) -> None:
        codes = [
            ("module_1_fault", 0, Phase.BEGIN),
            ("module_2_fault", 1, Phase.BEGIN),
            ("module_1_fault", 2, Phase.END),
        ]
        codes += [("module_1_fault", 3, Phase.BEGIN), ("x_own", 4, Phase.ONCE), ("module_2_fault", 5, Phase.END)]
        batch = [event(world, second, code, phase, severity=2) for code, second, phase in codes]
        for one in batch:
            await world.take(one)
        singly = [one.model_copy(update={"raised_at": None}) for one in await world.events()]
        async with world.db.write() as conn:
            await conn.execute("delete from alarm_events")
            await conn.execute("delete from alarms")
            await conn.execute("delete from outbox")
        await world.restart()
        await world.take(*batch)
        assert [one.model_copy(update={"raised_at": None}) for one in await world.events()] == singly

    async def test_a_code_of_no_row_takes_the_devices_own_rating_or_is_no_alarm(self, world: World) -> None:
        before = counted("no_alarm")
        await world.take(
            event(world, 0, "maker_7", severity=2, text="风扇故障"), event(world, 1, "breaker_state", Phase.ONCE)
        )
        (found,) = await world.events()
        assert (found.signal, int(found.level), found.subject) == (DEVICE_EVENT, 2, "maker_7")
        assert found.text_zh is not None
        assert "风扇故障" in found.text_zh
        assert counted("no_alarm") == before + 1

    async def test_an_unknown_device_is_counted_and_raises_nothing(self, world: World) -> None:
        before = counted("unknown_device")
        await world.take(event(world, 0, "module_1_fault", device_id="nobody"))
        assert await world.events() == []
        assert counted("unknown_device") == before + 1

    async def test_an_old_end_does_not_end_a_younger_alarm(self, world: World) -> None:
        await world.take(event(world, 100, "module_1_fault"), event(world, 50, "module_1_fault", Phase.END))
        assert [one.phase.value for one in await world.events()] == ["begin"]

    async def test_what_comes_days_late_is_kept_and_told_to_nobody(self, world: World) -> None:
        await world.take(event(world, 0, "module_1_fault", delay_s=3 * 86_400))
        (found,) = await world.events()
        assert (found.historical, found.began_at) == (True, at(0))

    async def test_a_clock_that_is_ahead_is_not_believed(self, world: World) -> None:
        await world.take(event(world, 86_400, "module_1_fault", delay_s=-86_400 + 10))
        assert [one.began_at for one in await world.events()] == [at(10)]

    async def test_a_removed_device_ends_what_it_told(self, world: World) -> None:
        await world.take(event(world, 0, "module_1_fault"), world.heartbeat(30))
        world.registry.remove("r-1")
        await world.restart()
        world.registry.changed.add("r-1")
        await world.take(world.heartbeat(60))
        found = await world.events()
        assert [(one.phase.value, one.end_reason) for one in found] == [
            ("begin", None),
            ("end", EndReason.DEVICE_REMOVED),
        ]

    async def test_a_person_ends_it_and_it_arms_again_after_its_end(self, world: World) -> None:
        await world.take(event(world, 0, "module_1_fault"))
        order = AlarmOrder(
            order_id="o-1", site_id=SiteId(SITE), alarm_id=AlarmId((await world.events())[0].alarm_id),
            action=AlarmAction.CLEAR, actor="user:li", at=at(10),
        )  # fmt: skip
        await world.take(world.received(topics.ALARM_ORDERS, order, at(10)))
        await world.take(event(world, 20, "module_1_fault"))
        assert [one.phase.value for one in await world.events()] == ["begin", "end"]
        await world.take(event(world, 30, "module_1_fault", Phase.END), event(world, 40, "module_1_fault"))
        assert [one.phase.value for one in await world.events()] == ["begin", "end", "begin"]

    async def test_what_needs_supply_is_explained_by_the_lost_supply(self, world: World) -> None:
        world.registry.supplied_by["r-1"] = [frozenset({"m-1"})]
        await world.short_delays(FAILURE)
        await world.take(world.volts(0, 10), world.volts(3, 10))
        await world.take(event(world, 5, "panel_1_input_1_voltage_a_phase_loss"), event(world, 6, "smoke_alarm"))
        failure, lost, smoke = await world.events()
        assert lost.inhibited_by == f"alarm:{failure.alarm_id}"
        assert smoke.inhibited_by is None
        await world.restart()
        await world.take(world.volts(9, 230), world.volts(13, 230), world.heartbeat(20))
        await world.take(world.heartbeat(200))
        told = [one for one in await world.events() if one.alarm_id == lost.alarm_id]
        assert [one.inhibited_by is None for one in told] == [False, True]  # it outlasts its cause

    async def test_what_is_no_event_is_poison(self, world: World) -> None:
        with pytest.raises(PoisonMessage, match="DeviceEvent"):
            await world.take(world.raw(topics.DEVICE_EVENTS, b'{"device_id": "r-1"}', at(0)))

    async def test_a_row_of_a_person_is_judged_by_at_once_and_its_removal_ends_the_alarm(self, door: Door) -> None:
        world = door.world
        row = {"profiles": ["yd1363_*"], "code": "maker_*", "signal": "0s15001001", "level": 1}
        await door.ask("PUT", "/alarm-rules/device-events/province.maker", row)
        await world.take(event(world, 0, "maker_7"), event(world, 0, "module_1_fault"))
        assert story(await world.events()) == [("begin", "0s15001001", 1), ("begin", "0s06024001", 3)]
        await door.ask("DELETE", "/alarm-rules/device-events/province.maker", status=204)
        await door.ask("DELETE", "/alarm-rules/device-events/event.rectifier_module", status=204)
        await world.restart()
        await world.take(world.heartbeat(60))
        ends = (await world.events())[2:]
        assert {(one.signal, one.end_reason) for one in ends} == {
            ("0s15001001", EndReason.RULE_CHANGED), ("0s06024001", EndReason.RULE_CHANGED),
        }  # fmt: skip
        await door.ask("DELETE", "/alarm-rules/device-events/province.maker", status=404)

    async def test_pairs_of_codes_begin_and_end_one_alarm(self, door: Door) -> None:
        common = {"profiles": ["*"], "signal": FAILURE, "occurrence": "mains"}
        await door.ask("PUT", "/alarm-rules/device-events/down", {**common, "code": "power_down", "meaning": "begin"})
        await door.ask("PUT", "/alarm-rules/device-events/up", {**common, "code": "power_up", "meaning": "end"})
        world = door.world
        await world.take(event(world, 0, "power_down", Phase.ONCE), event(world, 9, "power_up", Phase.ONCE))
        assert story(await world.events()) == [("begin", FAILURE, 2), ("end", FAILURE, 2)]


class TestEnergy:
    async def test_power_while_it_should_be_off_is_an_alarm_until_it_is_not(self, world: World) -> None:
        await world.take(shutdown(world, OccurrenceState.SHUT_DOWN, -10, 8 * QUARTER_S))
        await world.take(used(world, 0, 0.3), used(world, 1, 0.3))
        await world.restart()
        await world.take(used(world, 2, 0.3), used(world, 3, 0.0))
        found = await world.events()
        assert [(one.phase.value, one.rule_id) for one in found] == [
            ("begin", "energy.use_while_off"), ("end", "energy.use_while_off"),
        ]  # fmt: skip
        assert (found[0].began_at, found[1].ended_at) == (at(0), at(3 * QUARTER_S))
        assert (found[0].value, found[0].threshold, found[0].unit, found[0].circuit_id) == (1.2, 0.05, "kW", "c-1")

    async def test_a_planned_shutdown_is_no_dead_unit_even_when_its_intervals_come_late(self, world: World) -> None:
        await world.take(shutdown(world, OccurrenceState.SHUT_DOWN, -10, 3 * QUARTER_S))
        await world.take(shutdown(world, OccurrenceState.AWAKE, 3 * QUARTER_S, 3 * QUARTER_S))
        await world.take(world.heartbeat(9 * QUARTER_S))
        await world.restart()
        await world.take(*(used(world, number, 0.0, late_s=9 * QUARTER_S) for number in range(3)))
        assert await world.events() == []
        await world.take(*(used(world, number, 0.0, late_s=9 * QUARTER_S) for number in range(4, 7)))
        assert [(one.phase.value, one.rule_id, one.began_at) for one in await world.events()] == [
            ("begin", "energy.no_use_while_on", at(4 * QUARTER_S))
        ]

    async def test_the_same_intervals_again_late_ones_and_corrections_raise_nothing(self, world: World) -> None:
        dead = [used(world, number, 0.0) for number in range(2)]
        await world.take(*dead)
        await world.take(used(world, 2, 0.5))
        told = await world.events()
        assert [one.phase.value for one in told] == ["begin", "end"]
        await world.take(*dead)
        await world.take(used(world, 0, 0.0, version=2), used(world, 1, 0.0, version=2))
        await world.take(used(world, 5, 0.0, late_s=86_400 * 3), used(world, 6, 0.0, late_s=86_400 * 3))
        assert await world.events() == told

    async def test_a_crash_between_batches_counts_no_interval_twice(self, world: World) -> None:
        await world.fail(used(world, 0, 0.0))
        await world.take(used(world, 0, 0.0))
        assert await world.events() == []
        await world.fail(used(world, 1, 0.0))
        await world.take(used(world, 1, 0.0))
        assert [one.sequence for one in await world.events()] == [1]

    async def test_a_site_gives_its_own_threshold(self, door: Door) -> None:
        world = door.world
        row = {
            "check": "standby", "signal": "wattring.energy_standby", "threshold": 1.0, "window_from": "12:00",
            "window_to": "13:00", "intervals": 2,
        }  # fmt: skip
        await door.ask("PUT", f"/alarm-rules/energy/energy.standby/site/{SITE}", row, reason="hall")
        await world.take(*(used(world, number, 0.5) for number in range(5)))
        assert await world.told() == [("begin", "energy.standby", 0), ("end", "energy.standby", 4 * QUARTER_S)]

    async def test_a_rule_that_is_switched_off_ends_its_alarm_and_says_it_again_afterwards(self, door: Door) -> None:
        world = door.world
        await world.take(used(world, 0, 0.0), used(world, 1, 0.0))
        row = {"check": "no_use_while_on", "signal": "wattring.energy_no_use", "threshold": 0.0, "intervals": 2}
        path = "/alarm-rules/energy/energy.no_use_while_on/all/all"
        await door.ask("PUT", path, {**row, "enabled": False})
        await world.take(used(world, 2, 0.0))
        await door.ask("PUT", path, row)
        await world.take(used(world, 3, 0.0))
        found = await world.events()
        assert [(one.phase.value, one.end_reason) for one in found] == [
            ("begin", None), ("end", EndReason.RULE_CHANGED), ("begin", None),
        ]  # fmt: skip
        assert found[2].began_at == at(3 * QUARTER_S)

    async def test_what_is_no_interval_is_poison(self, world: World) -> None:
        with pytest.raises(PoisonMessage, match="Interval"):
            await world.take(world.raw(topics.INTERVALS, b"[]", at(0)))


class TestRows:
    async def test_both_tables_are_shown_with_who_changed_what(self, door: Door) -> None:
        events = {one["rule_id"]: one for one in (await door.ask("GET", "/alarm-rules/device-events"))["items"]}
        assert events["event.rectifier_module"]["signal"] == "0s06024001"
        assert events["event.rectifier_module"]["changed_by"] is None
        energy = (await door.ask("GET", "/alarm-rules/energy"))["items"]
        assert {one["rule_id"]: one["threshold_unit"] for one in energy}["energy.water_balance"] == "%"
        row = {"profiles": ["*"], "code": "test_button", "meaning": "ignore"}
        kept = await door.ask("PUT", "/alarm-rules/device-events/event.test_button", row, reason="noisy")
        assert (kept["changed_by"], kept["version"] > 0) == ("user:wang", True)

    @pytest.mark.parametrize(
        ("path", "row", "status"),
        [
            ("/alarm-rules/device-events/x", {"profiles": ["*"], "code": "c", "signal": "nothing"}, 400),
            ("/alarm-rules/device-events/x", {"profiles": ["*"], "code": "c"}, 422),
            ("/alarm-rules/device-events/x", {"profiles": [], "code": "c", "signal": FAILURE}, 422),
            ("/alarm-rules/device-events/x", {"profiles": ["*"], "code": "*" * 9, "signal": FAILURE}, 422),
            ("/alarm-rules/energy/x/site/nowhere", {"check": "balance", "signal": "wattring.water_balance"}, 400),
            ("/alarm-rules/energy/x/circuit/nowhere", {"check": "balance", "signal": "wattring.water_balance"}, 400),
            ("/alarm-rules/energy/x/all/all", {"check": "guess", "signal": "wattring.water_balance"}, 422),
        ],
    )
    async def test_what_makes_no_sense_is_refused(self, door: Door, path: str, row: object, status: int) -> None:
        await door.ask("PUT", path, row, status=status)

    async def test_who_is_limited_to_sites_changes_rows_of_those_only(self, door: Door) -> None:
        row = {"check": "balance", "signal": "wattring.water_balance", "threshold": 5}
        ours = (SITE,)
        await door.ask("PUT", f"/alarm-rules/energy/energy.water_balance/site/{SITE}", row, sites=ours)
        await door.ask("PUT", "/alarm-rules/energy/energy.water_balance/circuit/c-1", row, sites=ours)
        await door.ask("PUT", "/alarm-rules/energy/energy.water_balance/site/site-2", row, sites=ours, status=403)
        await door.ask("PUT", "/alarm-rules/energy/energy.water_balance/all/all", row, sites=ours, status=403)
        event_row = {"profiles": ["*"], "code": "c", "signal": FAILURE}
        await door.ask("PUT", "/alarm-rules/device-events/x", event_row, sites=ours, status=403)
        await door.ask("PUT", "/alarm-rules/device-events/x", event_row, scopes=("alarm:read",), status=403)
