"""Fault localisation on a real database: news in, looks, diagnoses out; how they live, and their door."""

import io
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import openpyxl
import pytest

from libs.common.bus import outbox
from libs.common.bus.port import Bus
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import Phase
from libs.common.contracts.device import Connectivity
from libs.common.db import WriteConn
from libs.common.runtime import Health, Platform
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from libs.common.web import create_app
from libs.fieldsim.cards import SimulatedCard
from services.alarm.api.diagnoses import build_diagnoses_router
from services.alarm.bus import audit_message
from services.alarm.faultcodes import load_codes
from services.alarm.usecases.cardcheck import CardCheck
from services.alarm.usecases.diagnoses import Diagnoses
from tests.integration.alarm.diagnosis_world import ICCID, IMEI, NUMBER, SIM, SITE, Field, field_of

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


@pytest.fixture
async def field(postgres_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    async with field_of(postgres_url, tmp_path) as made:
        yield made


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

    async def test_a_device_that_cannot_be_looked_at_stops_no_other(
        self, field: Field, caplog: pytest.LogCaptureFixture
    ) -> None:
        field.registry.add("d-1", sim=SIM)
        field.registry.add("d-2", site="site-2")
        one = field.registry.devices["d-1"]
        field.registry.devices["d-1"] = replace(one, card_face=None)  # type: ignore[arg-type]  # nobody foresaw that
        await field.silent("d-1", "d-2")
        assert await field.causes() == [("begin", "d-2", "13")]
        assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["look failed"]
        field.registry.add("d-1", sim=SIM)
        await field.clock.advance(3600)
        await field.look()
        assert ("begin", "d-1", "13") in await field.causes()

    async def test_looks_are_rationed(self, field: Field) -> None:
        for number in range(10):
            field.registry.add(f"d-{number}", site=f"site-{number}")
        field.looking = field.new_looking(per_minute=3)
        await field.silent(*(f"d-{number}" for number in range(10)))
        assert len(await field.told()) == 3
        await field.clock.advance(60)
        await field.look()
        assert len(await field.told()) == 6


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
        assert await check.run_if_due(lambda: None)
        assert not await check.run_if_due(lambda: None), "once a day"
        expected = [("begin", "card_expiring", "sim-1"), ("begin", "card_stopped", "sim-2")]
        assert await field.conditions() == expected
        await field.clock.advance(86_400)
        field.platform.down = True
        assert await check.run_if_due(lambda: None)
        assert await field.conditions() == expected, "nobody can tell, so it is neither better nor worse"
        await field.clock.advance(86_400)
        field.platform.down = False
        field.platform.cards["1064900000002"].state = "4"
        assert await check.run_if_due(lambda: None)
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
