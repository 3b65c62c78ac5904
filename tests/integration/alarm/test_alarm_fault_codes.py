"""Each fault code provoked one by one: by what ingest and control tell, and by simulated platforms that are asked."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.bus.port import TopicPartition
from libs.common.contracts.alarm import Condition
from libs.common.contracts.base import Phase
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent
from libs.common.contracts.device import Battery, Connectivity, DeviceEvent, RadioSignal
from libs.common.ids import CommandId, DeviceId, SiteId
from libs.fieldsim.aep.platform import Task
from libs.fieldsim.cards import SimulatedCard
from services.alarm.domain.diagnosis.grouping import Place
from services.alarm.domain.diagnosis.subject import PlatformId
from tests.integration.alarm.diagnosis_world import NUMBER, SIM, SITE, START, Field, field_of

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


@pytest.fixture
async def field(postgres_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    async with field_of(postgres_url, tmp_path) as made:
        yield made


class TestCauses:
    async def test_a_platform_that_does_not_answer_is_no_fault_of_the_device(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER].state = "5"
        field.platform.down = True
        await field.silent("d-1")
        assert await field.causes() == [("begin", "d-1", "90")]
        field.platform.down = False
        await field.clock.advance(3600)
        await field.look()
        assert (await field.causes())[-1] == ("update", "d-1", "01")

    async def test_an_outage_of_the_site_asks_no_card(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.registry.add("d-2")
        async with field.db.write() as conn:
            await conn.execute(
                """
                insert into alarms (alarm_id, site_id, device_id, rule_id, signal, level, sequence, began_at, raised_at)
                select 'a-1', $1, 'd-2', rule_id, signal, 1, 1, $2, $2 from rules where takes = 'supply' limit 1
                """,
                SITE,
                START,
            )
        await field.silent("d-1", "d-2")
        assert sorted(await field.causes()) == [("begin", "d-1", "16"), ("begin", "d-2", "16")]
        assert field.platform.asked == []

    async def test_what_a_card_tells(self, field: Field) -> None:
        cases: list[tuple[Mapping[str, Any], str]] = [
            ({"state": "5"}, "01"),
            ({"state": "5", "owed": 3.0}, "02"),
            ({"state": "6"}, "01"),
            ({"cut_off": True}, "04"),
            ({"used_kb": 31_000.0, "quota_mb": 30.0}, "04"),
            ({"real_named": False}, "08"),
            ({"state": "1"}, "08"),
            ({"imei": "8600000000000001"}, "07"),
            ({"bound": False}, "07"),
            ({"directed": True, "targets": ("198.51.100.7",)}, "05"),
            ({"used_kb": 28_000.0, "quota_mb": 100.0}, "03"),
            ({}, "13"),
        ]
        names = [with_card(field, number, card) for number, (card, _) in enumerate(cases)]
        await field.silent(*names)
        assert await field.codes() == {name: code for name, (_, code) in zip(names, cases, strict=True)}
        assert field.platform.findings == []

    async def test_a_card_without_session_among_living_neighbours(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.registry.add("d-2")
        field.platform.cards[NUMBER].session = "stop"
        await field.tell(field.status("d-2", Connectivity.ONLINE))
        await field.silent("d-1")
        assert await field.causes() == [("begin", "d-1", "10")]

    async def test_what_the_last_status_tells(self, field: Field) -> None:
        cases: list[tuple[Mapping[str, Any], str]] = [
            ({"signal": RadioSignal(rsrp_dbm=-121.0)}, "12"),
            ({"battery": Battery(level_percent=7.0)}, "15"),
            ({"battery": Battery(voltage_v=3.1)}, "15"),
            ({"reason": "bad_answer"}, "25"),
            ({"reason": "line_down"}, "17"),
            ({}, "13"),
        ]
        for number, (changes, _) in enumerate(cases):
            field.registry.add(f"d-{number}", line=f"line-{number}", site=f"site-{number}")
            await field.tell(field.status(f"d-{number}", Connectivity.OFFLINE, **changes))
        await field.clock.advance(60)
        await field.look()
        assert await field.codes() == {f"d-{number}": code for number, (_, code) in enumerate(cases)}

    async def test_one_of_a_line_and_a_whole_line(self, field: Field) -> None:
        for number in (1, 2, 3):
            field.registry.add(f"d-{number}", line="line-1")
        await field.tell(field.status("d-2", Connectivity.ONLINE), field.status("d-3", Connectivity.ONLINE))
        await field.silent("d-1", reason="timeout")
        assert await field.causes() == [("begin", "d-1", "22")]
        await field.silent("d-2", "d-3", reason="timeout")
        assert {code for _, device_id, code in await field.causes() if device_id != "d-1"} == {"30"}

    async def test_what_was_never_heard_makes_no_line_half_alive(self, field: Field) -> None:
        for number in (1, 2, 3):
            field.registry.add(f"d-{number}", line="line-1")
        await field.tell(field.status("d-3", Connectivity.NEVER_SEEN))
        await field.silent("d-1", "d-2", reason="timeout")
        assert {code for _, _, code in await field.causes()} == {"30"}

    async def test_a_sleeper_is_only_asleep(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.registry.devices["d-1"] = replace(field.registry.devices["d-1"], sleeps=True, period_s=86_400.0)
        await field.silent("d-1")
        assert await field.causes() == [("begin", "d-1", "14")]
        assert field.platform.asked == []

    async def test_our_own_listeners_are_suspected_first(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.pulse.note({TopicPartition(topics.READINGS, 0): 7})
        await field.silent("d-1", after_s=120.0)
        assert await field.causes() == [("begin", "d-1", "29")]
        assert field.platform.asked == []

    async def test_a_device_that_is_heard_can_have_faults_too(self, field: Field) -> None:
        field.registry.add("d-1")
        await field.tell(field.status("d-1", Connectivity.ONLINE))
        fault = DeviceEvent(
            device_id=DeviceId("d-1"),
            site_id=SiteId(SITE),
            source_time=START,
            code="E7",
            phase=Phase.BEGIN,
            text="self-test failed",
            severity=1,
        )
        await field.tell(fault)
        await field.clock.advance(60)
        await field.look()
        assert await field.causes() == [("begin", "d-1", "11")]
        await field.tell(fault.model_copy(update={"phase": Phase.END, "source_time": START + timedelta(minutes=2)}))
        await field.clock.advance(601)
        await field.look()
        assert [phase for phase, _, _ in await field.causes()] == ["begin", "end"]

    @pytest.mark.parametrize(
        ("state", "reason", "code"),
        [
            (CommandState.EXPIRED, "", "21"),
            (CommandState.FAILED, "reads_closed", "26"),
            (CommandState.FAILED, "x", None),
        ],
    )
    async def test_what_became_of_a_command(
        self, field: Field, state: CommandState, reason: str, code: str | None
    ) -> None:
        field.registry.add("d-1")
        news = ControlEvent.model_validate(
            {
                "site_id": SITE,
                "state": state,
                "at": START,
                "reason": reason,
                "command_id": CommandId("c-1"),
                "load_id": "load-1",
                "action": CommandAction.OPEN,
            }
        )
        await field.tell(field.status("d-1", Connectivity.ONLINE), news)
        await field.clock.advance(60)
        await field.look()
        assert [found for _, _, found in await field.causes()] == ([] if code is None else [code])

    async def test_work_on_site_is_no_fault(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER].state = "5"
        async with field.db.write() as conn:
            await conn.execute(
                """
                insert into maintenance_windows (window_id, site_id, starts_at, ends_at, owner, reason, created_by,
                                                 created_at, changed_by, changed_at)
                values ('w-1', $1, $2, $3, 'wang', 'work', 'wang', $2, 'wang', $2)
                """,
                SITE,
                START - timedelta(hours=1),
                START + timedelta(minutes=30),
            )
        await field.silent("d-1")
        assert await field.told() == []
        assert field.platform.asked == []
        await field.clock.advance(3600)
        await field.look()
        assert await field.causes() == [("begin", "d-1", "01")], "the work is over and it is still silent"

    async def test_low_voltages_of_a_silent_site_are_its_lost_power(self, field: Field) -> None:
        field.registry.add("d-1")
        field.registry.add("d-2")
        async with field.db.write() as conn:
            await conn.execute(
                """
                insert into alarms (alarm_id, site_id, device_id, rule_id, signal, level, sequence, began_at, raised_at,
                                    point, value, threshold)
                select 'a-1', $1, 'd-2', rule_id, signal, 2, 1, $2, $2, 'voltage_a', 143.0, 187.0 from rules limit 1
                """,
                SITE,
                START,
            )
        await field.silent("d-1", "d-2")
        assert sorted(await field.causes()) == [("begin", "d-1", "16"), ("begin", "d-2", "16")]

    async def test_a_card_that_is_not_what_was_ordered(self, field: Field) -> None:
        cases: list[tuple[str, Mapping[str, Any], str]] = [
            ("NB-IoT 30M", {"network": "4G LTE"}, "06"),
            ("4G 通用", {"network": "NB-IoT"}, "06"),
            ("NB-IoT 定向", {"directed": False}, "06"),
            ("NB-IoT 非定向", {"directed": True, "targets": ("203.0.113.9",)}, "06"),
            ("NB-IoT 定向", {"directed": True, "targets": ("203.0.113.9",)}, "13"),
            ("30M", {"network": "4G LTE"}, "13"),
        ]
        names = [with_card(field, number, card, product=text) for number, (text, card, _) in enumerate(cases)]
        await field.silent(*names)
        assert await field.codes() == {name: code for name, (_, _, code) in zip(names, cases, strict=True)}

    async def test_two_of_a_line_with_one_address(self, field: Field) -> None:
        field.registry.add("d-1", line="line-1")
        field.registry.devices["d-1"] = replace(field.registry.devices["d-1"], same_address=2)
        await field.silent("d-1", reason="checksum")
        assert await field.causes() == [("begin", "d-1", "18")]

    async def test_two_of_a_line_that_say_they_are_the_same_meter(self, field: Field) -> None:
        field.registry.add("d-1", line="line-1")
        field.registry.add("d-2", line="line-1")
        number: Any = {"texts": {"meter_address": "202601010001"}}
        await field.tell(field.status("d-2", Connectivity.ONLINE, **number))
        await field.silent("d-1", reason="bad_answer", **number)
        assert await field.causes() == [("begin", "d-1", "18")]

    async def test_two_channels_of_one_meter_are_no_conflict(self, field: Field) -> None:
        for name in ("d-1", "d-2"):
            field.registry.add(name, line="line-1")
        field.registry.devices["d-1"] = replace(field.registry.devices["d-1"], one_box=("d-1", "d-2"))
        number: Any = {"texts": {"meter_address": "202601010001"}}
        await field.tell(field.status("d-2", Connectivity.ONLINE, **number))
        await field.silent("d-1", reason="timeout", **number)
        assert await field.causes() == [("begin", "d-1", "22")]

    async def test_a_password_that_is_refused(self, field: Field) -> None:
        for name in ("d-1", "d-2"):
            field.registry.add(name, line="line-1")
        await field.silent("d-1", "d-2", reason="auth_failed")
        assert sorted(await field.causes()) == [("begin", "d-1", "27"), ("begin", "d-2", "27")]

    async def test_a_clock_that_was_wrong_twice(self, field: Field) -> None:
        field.registry.add("d-1")
        await field.tell(
            field.status("d-1", Connectivity.ONLINE), finding("device_clock_skew", values={"skew_s": 812.0})
        )
        await field.clock.advance(60)
        await field.look()
        assert await field.told() == [], "once may be chance"
        await field.tell(field.status("d-1", Connectivity.ONLINE))
        await field.clock.advance(600)
        await field.look()
        assert await field.causes() == [("begin", "d-1", "23")]
        await field.tell(finding("device_clock_skew", phase=Phase.END))
        await field.clock.advance(601)
        await field.look()
        assert [phase for phase, _, _ in await field.causes()] == ["begin", "end"]

    async def test_reports_that_are_missing(self, field: Field) -> None:
        field.registry.add("d-1")
        await field.tell(field.status("d-1", Connectivity.ONLINE), finding("data_gap"))
        await field.clock.advance(60)
        await field.look()
        assert await field.causes() == [("begin", "d-1", "24")]
        await field.clock.advance(2 * 86_400)
        await field.look()
        assert len(await field.told()) == 1, "it is not over because nobody speaks of it"
        await field.tell(finding("data_gap", phase=Phase.END))
        await field.clock.advance(601)
        await field.look()
        assert [phase for phase, _, _ in await field.causes()] == ["begin", "end"]

    async def test_readings_that_cannot_be_are_a_fault_when_they_come_three_times(self, field: Field) -> None:
        field.registry.add("d-1")
        await field.tell(field.status("d-1", Connectivity.ONLINE))
        jump: Any = {"phase": Phase.ONCE, "device_id": None, "circuit_id": "circuit-1"}
        for number in range(3):
            assert await field.told() == []
            await field.tell(finding("impossible_jump", **jump), event_id=f"jump-{number}")
            await field.tell(finding("impossible_jump", **jump), event_id=f"jump-{number}")  # told again, it is one
            await field.clock.advance(60)
            await field.look()
        assert await field.causes() == [("begin", "d-1", "11")]

    async def test_two_faults_of_a_device_end_one_by_one(self, field: Field) -> None:
        field.registry.add("d-1")
        await field.tell(field.status("d-1", Connectivity.ONLINE), fault("E7"), fault("E8"))
        await field.clock.advance(60)
        await field.look()
        await field.tell(fault("E8", phase=Phase.END))
        await field.clock.advance(601)
        await field.look()
        assert [phase for phase, _, _ in await field.causes()] == ["begin", "update"], "E7 still holds"
        await field.tell(fault("E7", phase=Phase.END))
        await field.clock.advance(601)
        await field.look()
        assert [phase for phase, _, _ in await field.causes()] == ["begin", "update", "end"]


class TestDevicePlatform:
    """Devices behind the simulated platform, which is asked by way of export."""

    def add(self, field: Field, device_id: str = "d-1", known_as: str = "dev0001") -> None:
        field.registry.add(device_id)
        one = field.registry.devices[device_id]
        known = PlatformId(field.aep.account.product, known_as)
        field.registry.devices[device_id] = replace(
            one, place=Place(SITE, "line-1"), by_platform=True, platform_id=known
        )

    async def test_reports_that_are_there_and_were_not_pushed(self, field: Field) -> None:
        self.add(field)
        field.aep.remember("dev0001", millis(field.clock.now()), {"voltage": 2301})
        await field.silent("d-1")
        (told,) = await field.told()
        assert (told.code, told.confidence) == ("28", "high")
        facts = {item.name: item.value for item in told.evidence}
        assert (facts["platform_online"], facts["platform_ahead_s"]) == (True, 900.0)
        assert field.aep.findings == []

    async def test_nothing_was_reported_there_either(self, field: Field) -> None:
        self.add(field)
        field.aep.remember("dev0001", millis(field.clock.now() - timedelta(minutes=15)), {"voltage": 2301})
        await field.silent("d-1")
        assert await field.causes() == [("begin", "d-1", "13")]

    async def test_a_command_that_expired_there(self, field: Field) -> None:
        self.add(field)
        field.aep.tasks["7"] = Task("7", "dev0001", {}, 60, 0.0, millis(field.clock.now()), 999, None, "EXPIRED")
        await field.silent("d-1")
        assert await field.causes() == [("begin", "d-1", "21")]

    async def test_a_platform_that_refuses_every_call_is_no_fault_of_the_device(self, field: Field) -> None:
        self.add(field)
        field.aep.refuse_all = 500
        await field.silent("d-1")
        (told,) = await field.told()
        assert (told.code, told.also_possible) == ("90", None)
        field.aep.refuse_all = None
        field.aep.remember("dev0001", millis(field.clock.now()), {"voltage": 2301})
        await field.clock.advance(601)
        await field.look()
        assert (await field.causes())[-1] == ("update", "d-1", "28")

    async def test_a_product_that_nobody_has_configured_is_not_asked(self, field: Field) -> None:
        self.add(field)
        one = field.registry.devices["d-1"]
        field.registry.devices["d-1"] = replace(one, platform_id=PlatformId("99999999", "dev0001"))
        await field.silent("d-1")
        assert await field.causes() == [("begin", "d-1", "13")]
        assert field.aep.requests == 0

    async def test_a_line_to_a_platform_that_is_down_is_no_gateway_that_is(self, field: Field) -> None:
        self.add(field)
        field.aep.refuse_all = 500
        await field.silent("d-1", reason="line_down")
        assert await field.causes() == [("begin", "d-1", "90")]

    async def test_neighbours_that_are_heard_make_no_bus_of_a_platform(self, field: Field) -> None:
        self.add(field)
        self.add(field, "d-2", "dev0002")
        await field.tell(field.status("d-2", Connectivity.ONLINE))
        await field.silent("d-1")
        assert await field.causes() == [("begin", "d-1", "13")]


def with_card(field: Field, number: int, card: Mapping[str, Any], *, product: str | None = None) -> str:
    """Put a device with a card of its own on a site of its own; return its id."""
    name, access = f"d-{number}", f"10649{number:08d}"
    sim = replace(SIM, sim_id=name, number=access, device_id=name, site_id=f"site-{number}", product=product)
    field.registry.add(name, sim=sim, site=f"site-{number}")
    field.platform.cards[access] = SimulatedCard(**card)
    return name


def millis(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def finding(kind: str, *, phase: Phase = Phase.BEGIN, **changes: Any) -> Condition:
    facts = {"device_id": "d-1", "detail": f"{kind} of d-1", "subject": "d-1", "at": START} | changes
    return Condition.model_validate({"site_id": SITE, "source": "test", "kind": kind, "phase": phase, **facts})


def fault(code: str, *, phase: Phase = Phase.BEGIN) -> DeviceEvent:
    facts = {"device_id": "d-1", "site_id": SITE, "source_time": START, "text": code, "severity": 1}
    return DeviceEvent.model_validate({**facts, "code": code, "phase": phase})
