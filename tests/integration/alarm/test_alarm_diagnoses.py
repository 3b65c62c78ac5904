"""Fault localisation on a real database: news in, looks, diagnoses out; cards by way of export and a socket."""

import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openpyxl
import pytest

from libs.common.bus import envelope, outbox, topics
from libs.common.bus.port import Bus, Received, TopicPartition
from libs.common.client import ServiceClient
from libs.common.contracts.alarm import Condition, Diagnosis
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import Payload, Phase
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent
from libs.common.contracts.device import Battery, Connectivity, DeviceEvent, DeviceStatus, RadioSignal, SimState
from libs.common.db import Database, WriteConn
from libs.common.ids import CommandId, DeviceId, LineId, SiteId
from libs.common.listening import Listener, Serving
from libs.common.outgoing import AddressGuard, GuardedClient
from libs.common.runtime import Health, Platform
from libs.common.settings import CommonSettings
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing, Principal
from libs.common.web import create_app
from libs.fieldsim.cards import CardPlatform, SimulatedCard
from services.alarm.api.diagnoses import build_diagnoses_router
from services.alarm.bus import audit_message
from services.alarm.domain.diagnosis.grouping import GroupLimits, Place
from services.alarm.domain.diagnosis.judge import Limits
from services.alarm.domain.diagnosis.subject import Card, FaultCard, Installed
from services.alarm.drivers.cards import ExportCards
from services.alarm.faultcodes import load_codes
from services.alarm.usecases.cardcheck import CardCheck
from services.alarm.usecases.diagnoses import Diagnoses
from services.alarm.usecases.gathering import Gatherer, NoPlatforms
from services.alarm.usecases.localising import Localiser, Pauses
from services.alarm.worker.diagnosing import ListenerPulse, Looking, NewsHandler
from services.export.api.cards import build_cards_router
from services.export.cards.client import CmpClient
from tests.integration.alarm.alarm_world import database

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

START = datetime(2026, 3, 1, 4, tzinfo=UTC)
SITE = "site-1"
NUMBER = "1064900000000"
ICCID = "89860304279605344613"
IMEI = "869951041747345"
SIM = Card("sim-1", ICCID, NUMBER, None, date(2026, 3, 20), "d-1", SITE)


class Registry:
    """Devices and who may see them, as a test sets them up."""

    def __init__(self) -> None:
        self.devices: dict[str, Installed] = {}

    def add(self, device_id: str, *, line: str | None = None, sim: Card | None = None, site: str = SITE) -> None:
        face = FaultCard(
            device_name="低压配电房电表",
            device_number=IMEI if device_id == "d-1" else device_id,
            iccid=None if sim is None else sim.iccid,
            device_kind="meter_3p",
            address="广东省广州市",
            station_code="03921",
            station_name="荔枝湾",
            room_code="003",
            room_name="3号机房",
        )
        imei = IMEI if sim is not None else None
        self.devices[device_id] = Installed(device_id, Place(site, line), face, 300.0, False, imei, sim, (), 1)
        if line is not None:
            behind = [one for one, device in self.devices.items() if device.place.line_id == line]
            for one in behind:
                self.devices[one] = replace(self.devices[one], behind=behind)

    def installed(self, device_id: str) -> Installed | None:
        return self.devices.get(device_id)

    def cards(self) -> list[Card]:
        return [one.sim for one in self.devices.values() if one.sim is not None]

    def sites_of(self, who: Principal) -> frozenset[str] | None:
        return None if who.sites is None else frozenset(who.sites)


class Field:
    """News of devices in, looks at what is due, diagnoses out."""

    def __init__(self, db: Database, cards: ExportCards, platform: CardPlatform, clock: FakeClock) -> None:
        self.db = db
        self.platform = platform
        self.registry = Registry()
        self.clock = clock
        self.pulse = ListenerPulse(bus=None, clock=self.clock)  # type: ignore[arg-type]  # a test notes the ends itself
        self.cards = cards
        self.offset = 0
        self.handler = NewsHandler(
            clock=self.clock,
            settle=timedelta(seconds=60),
            pause=timedelta(seconds=600),
            breaker_of={"load-1": "d-1"}.get,
        )
        self.looking = self.new_looking()

    def new_looking(self, per_minute: int = 1000) -> Looking:
        limits = Limits()
        gatherer = Gatherer(
            db=self.db,
            clock=self.clock,
            cards=self.cards,
            platforms=NoPlatforms(),
            pulse=self.pulse,
            limits=limits,
            timeout_s=30.0,
            our_address="203.0.113.9",
        )
        localiser = Localiser(
            db=self.db,
            clock=self.clock,
            devices=self.registry,
            gatherer=gatherer,
            codes=load_codes(),
            limits=limits,
            groups=GroupLimits(),
            pauses=Pauses(timedelta(seconds=600), timedelta(seconds=3600)),
            wake=lambda: None,
        )
        return Looking(
            db=self.db, clock=self.clock, localiser=localiser, owner="test", per_minute=per_minute, at_a_time=4
        )

    async def tell(self, *payloads: Payload) -> None:
        """Hand news over as the bus would."""
        named: Mapping[type[Payload], str] = {
            DeviceStatus: topics.DEVICE_STATUS,
            DeviceEvent: topics.DEVICE_EVENTS,
            ControlEvent: topics.CONTROL_EVENTS,
            Condition: topics.CONDITIONS,
        }
        batch = []
        for payload in payloads:
            topic, now = named[type(payload)], self.clock.now()
            headers = envelope.headers(event_type=topic, source="test", event_id=envelope.new_event_id(), time=now)
            self.offset += 1
            batch.append(Received(topic, 0, self.offset, SITE, payload.to_json(), headers, now))
        async with self.db.effects() as conn:
            await self.handler.handle(conn, batch)

    async def look(self) -> None:
        """Look at all that is due."""
        while await self.looking.round(lambda: None):
            pass

    async def silent(self, *device_ids: str, after_s: float = 60.0, **changes: Any) -> None:
        """Let devices fall silent, and look when it is time."""
        await self.tell(*(self.status(one, Connectivity.OFFLINE, **changes) for one in device_ids))
        await self.clock.advance(after_s)
        await self.look()

    async def heard(self, *device_ids: str) -> None:
        """Let devices report again, and look."""
        await self.tell(*(self.status(one, Connectivity.ONLINE) for one in device_ids))
        await self.look()

    def status(
        self, device_id: str, connectivity: Connectivity, *, long_ago_s: float = 900.0, **changes: Any
    ) -> DeviceStatus:
        now = self.clock.now()
        online = connectivity is Connectivity.ONLINE
        device = self.registry.devices[device_id]
        line = device.place.line_id
        return DeviceStatus(
            **{
                "device_id": DeviceId(device_id),
                "site_id": SiteId(device.place.site_id),
                "connectivity": connectivity,
                "texts": {},
                "signal": RadioSignal(),
                "battery": Battery(),
                "sim": SimState(),
                "last_report_at": now if online else now - timedelta(minutes=15),
                "connectivity_since": now,
                "line_id": None if line is None else LineId(line),
            }
            | changes
        )

    async def told(self) -> list[Diagnosis]:
        """What others were told, in order."""
        async with self.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.DIAGNOSES)
        return [Diagnosis.from_json(row["value"]) for row in rows]

    async def causes(self) -> list[tuple[str, str, str]]:
        return [(one.phase.value, one.device_id, one.code) for one in await self.told()]

    async def conditions(self) -> list[tuple[str, str, str]]:
        async with self.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.CONDITIONS)
        found = [Condition.from_json(row["value"]) for row in rows]
        return [(one.phase.value, one.kind, one.subject) for one in found]


@pytest.fixture
async def field(postgres_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    clock = FakeClock(START)
    KeyRing.create(tmp_path / "keys")
    keys = KeyRing.open(tmp_path / "keys", clock)
    bus: Bus = None  # type: ignore[assignment]  # nothing here publishes but by the outbox
    health = Health(clock)
    health.starting = None
    app = create_app("export", Platform(CommonSettings(), clock, bus, keys), health, title="export")
    platform = CardPlatform(cards={NUMBER: SimulatedCard()})
    await platform.start()
    async with GuardedClient(AddressGuard(["127.0.0.0/8"])) as http, database(postgres_url) as db:
        client = CmpClient(
            url=platform.url,
            app_key=platform.app_key,
            secret=platform.secret,
            customer="C1",
            arrears_path="/openapi/v1/prodinst/queryOwe",
            http=http,
            clock=clock,
            timeout_s=20.0,
            remember_s=0.0,
            calls_per_minute=10_000,
        )
        app.include_router(build_cards_router(client))
        socket = tmp_path / "export.sock"
        serving = await Serving.start(Listener(app, uds=socket))
        calls = ServiceClient(keys, f"unix:{socket}", caller="alarm", audience="export", scopes=("export:cards",))
        async with calls:
            yield Field(db, ExportCards(calls, timeout_s=30.0), platform, clock)
        await serving.stop(5.0)
    await platform.stop()


class TestLife:
    async def test_a_stopped_card_is_found_told_with_its_evidence_and_closed_when_the_device_returns(
        self, field: Field
    ) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER].state = "5"
        await field.silent("d-1")
        (begin,) = await field.told()
        assert (begin.phase, begin.code, begin.cause, begin.confidence) == (Phase.BEGIN, "01", "sim_suspended", "high")
        assert (begin.evidence[0].name, begin.evidence[0].value, begin.evidence[0].source) == (
            "card_state",
            "5",
            "card_platform",
        )
        assert begin.advice_zh
        assert begin.advice_en
        await field.heard("d-1")
        assert [(one.phase, one.diagnosis_id) for one in await field.told()] == [
            (Phase.BEGIN, begin.diagnosis_id),
            (Phase.END, begin.diagnosis_id),
        ]

    async def test_nothing_is_looked_at_before_neighbours_had_time_to_follow(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER].state = "5"
        await field.silent("d-1", after_s=59.0)
        assert await field.told() == []
        assert field.platform.asked == []
        await field.heard("d-1")
        await field.clock.advance(120)
        await field.look()
        assert await field.told() == [], "it came back in time"

    async def test_new_evidence_is_looked_at_after_ten_minutes_and_tells_an_update(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER].state = "5"
        await field.silent("d-1")
        field.platform.cards[NUMBER].owed = 12.5
        await field.silent("d-1", after_s=539.0)
        assert await field.causes() == [("begin", "d-1", "01")], "too early"
        await field.clock.advance(61)
        await field.look()
        assert await field.causes() == [("begin", "d-1", "01"), ("update", "d-1", "02")]

    async def test_the_same_evidence_is_not_told_again(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER].state = "5"
        await field.silent("d-1")
        asked = len(field.platform.asked)
        await field.clock.advance(3600)
        await field.look()
        assert len(field.platform.asked) > asked
        assert len(await field.told()) == 1

    async def test_what_is_gone_from_the_registry_is_closed(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER].state = "5"
        await field.silent("d-1")
        del field.registry.devices["d-1"]
        await field.clock.advance(3600)
        await field.look()
        assert [phase for phase, _, _ in await field.causes()] == ["begin", "end"]

    async def test_looks_are_rationed(self, field: Field) -> None:
        for number in range(10):
            field.registry.add(f"d-{number}", site=f"site-{number}")
        field.looking = field.new_looking(per_minute=3)
        await field.silent(*(f"d-{number}" for number in range(10)))
        assert len(await field.told()) == 3
        await field.clock.advance(60)
        await field.look()
        assert len(await field.told()) == 6


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

    @pytest.mark.parametrize(
        ("card", "code"),
        [
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
        ],
    )
    async def test_what_a_card_tells(self, field: Field, card: Mapping[str, Any], code: str) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER] = SimulatedCard(**card)
        await field.silent("d-1")
        assert await field.causes() == [("begin", "d-1", code)]
        assert field.platform.findings == []

    async def test_a_card_without_session_among_living_neighbours(self, field: Field) -> None:
        field.registry.add("d-1", sim=SIM)
        field.registry.add("d-2")
        field.platform.cards[NUMBER].session = "stop"
        await field.tell(field.status("d-2", Connectivity.ONLINE))
        await field.silent("d-1")
        assert await field.causes() == [("begin", "d-1", "10")]

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"signal": RadioSignal(rsrp_dbm=-121.0)}, "12"),
            ({"battery": Battery(level_percent=7.0)}, "15"),
            ({"reason": "bad_answer"}, "25"),
            ({"reason": "line_down"}, "17"),
            ({}, "13"),
        ],
    )
    async def test_what_the_last_status_tells(self, field: Field, changes: Mapping[str, Any], code: str) -> None:
        field.registry.add("d-1", line="line-1")
        await field.silent("d-1", **changes)
        assert await field.causes() == [("begin", "d-1", code)]

    async def test_one_of_a_line_and_a_whole_line(self, field: Field) -> None:
        for number in (1, 2, 3):
            field.registry.add(f"d-{number}", line="line-1")
        await field.tell(field.status("d-2", Connectivity.ONLINE), field.status("d-3", Connectivity.ONLINE))
        await field.silent("d-1", reason="timeout")
        assert await field.causes() == [("begin", "d-1", "22")]
        await field.silent("d-2", "d-3", reason="timeout")
        assert {code for _, device_id, code in await field.causes() if device_id != "d-1"} == {"30"}

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


class TestGroups:
    async def test_many_with_one_cause_are_told_as_one(self, field: Field) -> None:
        names = [f"d-{number:02d}" for number in range(9)]
        for number, name in enumerate(names):
            card = replace(SIM, sim_id=name, number=f"10649{number:08d}", device_id=name)
            field.registry.add(name, sim=card, site=f"site-{number}")
            field.platform.cards[f"10649{number:08d}"] = SimulatedCard(state="5")
        for name in names:
            await field.silent(name)
        told = await field.told()
        assert [one.device_id for one in told] == names[:6], "those that join a known group are not told one by one"
        assert {one.group_id for one in told} == {None, told[0].diagnosis_id}
        assert told[5].group_id == told[0].diagnosis_id
        async with field.db.read() as conn:
            groups = await conn.fetch("select group_id, count(*) as size from diagnoses group by group_id")
        assert [(row["group_id"], row["size"]) for row in groups] == [(told[0].diagnosis_id, 9)]


class TestCards:
    async def test_cards_that_end_or_are_stopped_become_findings_once(self, field: Field) -> None:
        other = replace(SIM, sim_id="sim-2", number="1064900000002", device_id="d-2", expires_on=date(2027, 1, 1))
        field.registry.add("d-1", sim=SIM)
        field.registry.add("d-2", sim=other)
        field.platform.cards["1064900000002"] = SimulatedCard(state="5")
        check = CardCheck(
            db=field.db,
            clock=field.clock,
            holders=field.registry,
            cards=field.cards,
            hour=3,
            within=timedelta(days=30),
        )
        assert await check.run_if_due()
        assert not await check.run_if_due(), "once a day"
        expected = [("begin", "card_expiring", "sim-1"), ("begin", "card_stopped", "sim-2")]
        assert await field.conditions() == expected
        await field.clock.advance(86_400)
        field.platform.down = True
        assert await check.run_if_due()
        assert await field.conditions() == expected, "nobody can tell, so it is neither better nor worse"
        await field.clock.advance(86_400)
        field.platform.down = False
        field.platform.cards["1064900000002"].state = "4"
        assert await check.run_if_due()
        assert await field.conditions() == [*expected, ("end", "card_stopped", "sim-2")]


class TestDoor:
    @pytest.fixture
    async def ask(self, field: Field, tmp_path: Path) -> AsyncIterator[Any]:
        keys = KeyRing.open(tmp_path / "keys", field.clock)
        bus: Bus = None  # type: ignore[assignment]  # nothing here publishes but by the outbox
        health = Health(field.clock)
        health.starting = None

        async def audit(conn: WriteConn, event: AuditEvent) -> None:
            await outbox.put(conn, [audit_message(event)])

        app = create_app("alarm", Platform(CommonSettings(), field.clock, bus, keys), health, title="alarm")
        registry: Any = field.registry
        diagnoses = Diagnoses(
            db=field.db, directory=registry, devices=registry, clock=field.clock, audit=audit, codes=load_codes()
        )
        app.include_router(build_diagnoses_router(diagnoses))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://alarm") as client:

            async def ask(
                method: str, path: str, body: object = None, *, status: int = 200, sites: Any = None, **params: Any
            ) -> Any:
                token = keys.sign_token(
                    "gateway",
                    subject="wang",
                    kind="user",
                    audience="alarm",
                    scopes=("alarm:read", "alarm:write"),
                    sites=sites,
                )
                headers = {"authorization": f"Bearer {token}"}
                reply = await client.request(method, f"/api/v1{path}", json=body, params=params, headers=headers)
                assert reply.status_code == status, reply.text
                is_json = "json" in reply.headers.get("content-type", "")
                return reply.json() if is_json else reply.content

            yield ask

    async def test_the_record_has_the_twelve_fields_and_so_has_the_workbook(self, field: Field, ask: Any) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER].state = "5"
        await field.silent("d-1")
        (shown,) = (await ask("GET", "/diagnoses", state="open"))["items"]
        assert shown["card"] == {
            "device_name": "低压配电房电表",
            "device_number": IMEI,
            "iccid": ICCID,
            "device_kind": "meter_3p",
            "address": "广东省广州市",
            "station_code": "03921",
            "station_name": "荔枝湾",
            "room_code": "003",
            "room_name": "3号机房",
        }
        assert (shown["code"], shown["text_zh"]) == ("01", "设备内物联网卡可能存在停机情况")
        assert await ask("GET", f"/diagnoses/{shown['diagnosis_id']}") == shown
        book = openpyxl.load_workbook(io.BytesIO(await ask("GET", "/diagnoses/download")))
        heads, values = list(book.worksheets[0].iter_rows(values_only=True))
        row = dict(zip(heads, values, strict=True))
        assert row["设备编号 Device number"] == IMEI
        assert row["故障代码 Fault code"] == "01"
        assert row["局站编码 Station code"] == "03921"
        assert "card_state = 5 (card_platform" in str(row["证据 Evidence"])
        assert row["Advice"]

    async def test_a_person_orders_a_look_at_once(self, field: Field, ask: Any) -> None:
        field.registry.add("d-1", sim=SIM)
        field.platform.cards[NUMBER].used_kb = 29_000.0
        await field.tell(field.status("d-1", Connectivity.ONLINE))
        assert await ask("POST", "/diagnoses", {"device_id": "d-1"}, status=202) == {
            "device_id": "d-1",
            "site_id": SITE,
        }
        await field.look()
        (shown,) = (await ask("GET", "/diagnoses", device="d-1"))["items"]
        assert (shown["code"], shown["asked_by"]) == ("03", "user:wang")
        assert (await ask("POST", "/diagnoses", {"device_id": "d-9"}, status=404))["code"] == "unknown_device"

    async def test_a_site_is_hidden_from_those_who_may_not_see_it(self, field: Field, ask: Any) -> None:
        field.registry.add("d-1")
        await field.silent("d-1")
        (shown,) = (await ask("GET", "/diagnoses"))["items"]
        elsewhere = {"sites": ("site-2",)}
        assert (await ask("GET", "/diagnoses", **elsewhere))["items"] == []
        await ask("GET", f"/diagnoses/{shown['diagnosis_id']}", status=404, **elsewhere)
        await ask("POST", "/diagnoses", {"device_id": "d-1"}, status=404, **elsewhere)
        await ask("PUT", "/diagnoses/codes/sc-1", {"codes": {}}, status=403, **elsewhere)

    async def test_a_receiver_has_codes_of_its_own(self, field: Field, ask: Any) -> None:
        field.registry.add("d-1")
        await field.silent("d-1")
        await ask("PUT", "/diagnoses/codes/blue-energy", {"codes": {"heartbeat_timeout": "55"}})
        (shown,) = (await ask("GET", "/diagnoses", receiver="blue-energy"))["items"]
        assert shown["code"] == "55"
        assert (await ask("GET", f"/diagnoses/{shown['diagnosis_id']}"))["code"] == "13"
        twice = await ask("PUT", "/diagnoses/codes/blue-energy", {"codes": {"heartbeat_timeout": "01"}}, status=400)
        assert twice["code"] == "invalid_fault_codes"
        await ask("PUT", "/diagnoses/codes/blue-energy", {"codes": {"gremlins": "77"}}, status=400)
        assert (await ask("GET", "/diagnoses/codes", receiver="blue-energy"))["items"][-1]["our_code"] == "90"
