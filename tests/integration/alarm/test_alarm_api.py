"""HTTP of alarm on a real database: what is listed, what an override does, and what is refused with which words."""

from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.delivery import DeliveryEvent, DeliveryState
from services.alarm.dictionary import load_shipped
from services.alarm.store import deliveries as deliveries_store
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import FAILURE, LOW, SITE, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

HIGH = "0s16002001"


class TestSignals:
    async def test_the_table_is_listed_in_pages(self, door: Door) -> None:
        codes: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            page = await door.ask("GET", "/signals", limit=50, **cursor)
            codes += [item["code"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert len(codes) == len(set(codes)) == len(load_shipped().signals)
        assert codes == sorted(codes)

    async def test_a_signal_says_level_threshold_and_codes_of_each_class(self, door: Door) -> None:
        signal = await door.ask("GET", f"/signals/{FAILURE}")
        assert signal["name_zh"] == "交流输入停电告警"
        assert signal["levels"] == {"A": 1, "B": 2, "C": 3, "D": 3}
        assert signal["class_codes"]["D"] == "0416001001"
        assert signal["points"] == ["voltage_a", "voltage_b", "voltage_c"]
        meters = await door.ask("GET", "/signals", equipment_type="16")
        assert {item["equipment_zh"] for item in meters["items"]} == {"智能电表（交流）"}
        await door.ask("GET", "/signals/nothing", status=404)


class TestRules:
    async def test_rules_are_listed_with_the_defaults_of_each_class(self, door: Door) -> None:
        page = await door.ask("GET", "/alarm-rules")
        found = {item["rule_id"]: item for item in page["items"]}
        assert found[LOW]["defaults"]["D"]["threshold"] == 160
        assert found[LOW]["quantifier"] == "any"
        two = await door.ask("GET", "/alarm-rules", limit=2)
        rest = await door.ask("GET", "/alarm-rules", cursor=two["next_cursor"])
        assert len(two["items"]) + len(rest["items"]) == len(found)

    async def test_what_holds_for_a_device_is_shown_with_its_origin(self, door: Door) -> None:
        await door.override({"threshold": 180, "hysteresis": 5}, scope="site_class/D")
        await door.override({"start_delay_s": 3, "reason": "demo"}, scope=f"site/{SITE}")
        reply = await door.ask("GET", "/alarm-rules/effective", device="m-1")
        assert (reply["station_class"], reply["dictionary_class"], reply["profile"]) == ("D", "D", "meter_3p/1")
        [low] = [item for item in reply["rules"] if item["rule_id"] == LOW]
        assert (low["threshold"], low["recovery_threshold"], low["start_delay_s"]) == (180, 185, 3)
        assert (low["level"], low["class_code"], low["active"]) == (3, "0416003001", True)
        assert low["sources"]["threshold"] == "site_class:D"
        assert low["sources"]["start_delay_s"] == f"site:{SITE}"
        assert low["sources"]["level"] == "dictionary"
        other = await door.ask("GET", "/alarm-rules/effective", device="m-2")
        [unchanged] = [item for item in other["rules"] if item["rule_id"] == LOW]
        assert (unchanged["threshold"], unchanged["sources"]["start_delay_s"]) == (160, "policy")
        await door.ask("GET", "/alarm-rules/effective", device="nobody", status=404)

    async def test_an_override_is_judged_by_audited_and_can_be_taken_back(self, door: Door) -> None:
        stored = await door.override({"start_delay_s": 0, "threshold": 200})
        assert (stored["scope"], stored["scope_id"], stored["changed_by"]) == ("device", "m-1", "user:wang")
        await door.world.take(door.world.volts(0, 190))
        assert await door.world.told() == [("begin", LOW, 0)]
        rule = await door.ask("GET", f"/alarm-rules/{LOW}")
        assert [item["scope_id"] for item in rule["overrides"]] == ["m-1"]
        await door.ask("DELETE", f"/alarm-rules/{LOW}/overrides/device/m-1", status=204)
        assert (await door.ask("GET", f"/alarm-rules/{LOW}"))["overrides"] == []
        await door.world.take(door.world.heartbeat(1))
        assert [event.end_reason for event in await door.world.events()][-1] == "rule_changed"
        await door.ask("DELETE", f"/alarm-rules/{LOW}/overrides/device/m-1", status=404)
        async with door.world.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.AUDIT)
            versions = await conn.fetchval("select count(*) from rule_override_versions")
        audits = [AuditEvent.from_json(row["value"]) for row in rows]
        assert [audit.action for audit in audits] == ["alarm_rule.override", "alarm_rule.take_back"]
        assert audits[1].before == {"threshold": 200.0, "start_delay_s": 0.0}
        assert audits[0].site_id == SITE
        assert versions == 2

    async def test_an_override_wakes_a_rule_that_ships_asleep(self, door: Door) -> None:
        rule = "wattring.breaker_open"
        await door.override({"level": 2, "start_delay_s": 0}, rule=rule, scope="device_kind/breaker")
        found = await door.ask("GET", f"/alarm-rules/{rule}")
        assert found["overrides"][0]["level"] == 2

    async def test_what_is_impossible_is_refused_with_field_and_expected(self, door: Door) -> None:
        cases: list[tuple[str, str, dict[str, object], str, str]] = [
            (LOW, "device/m-1", {"threshold": 270}, "threshold", f"{LOW} (low) below {HIGH} (high)"),
            (HIGH, f"site/{SITE}", {"threshold": 150}, "threshold", f"{LOW} (low) below {HIGH} (high)"),
            (LOW, "site_class/D", {"threshold": 80}, "threshold", f"{FAILURE} (low_low) below {LOW} (low)"),
            (LOW, "device_kind/meter_3p", {"threshold": 80}, "threshold", f"{FAILURE} (low_low) below {LOW} (low)"),
            (LOW, "site_class/B", {"threshold": 280}, "threshold", f"{LOW} (low) below {HIGH} (high)"),
            (LOW, "device/m-1", {"hysteresis": 120}, "hysteresis", f"recovery of {LOW} below recovery of {HIGH}"),
            (LOW, "device/t-1", {"threshold": 150}, "scope_id", "a device of kind breaker, meter_1p, meter_3p"),
            ("0s18001001", "device/t-1", {"level": 1}, "scope_id", "a device whose profile has water_leak_state"),
            (LOW, "device/nobody", {"threshold": 150}, "scope_id", "the id of a device"),
            (LOW, "site/nobody", {"threshold": 150}, "scope_id", "the id of a site"),
            (LOW, "site_class/F", {"threshold": 150}, "scope_id", "a station class, A to E"),
            (LOW, "device_kind/env_sensor", {"level": 1}, "scope_id", "a kind of device that the rule judges"),
            (LOW, "device/m-1", {"threshold": 150, "unit": "kV"}, "unit", "V, the unit of voltage_a"),
            (LOW, "device/m-1", {"threshold": 9000}, "threshold", "0 to 300 V"),
            (LOW, "device/m-1", {"level": 7}, "level", "1, 2, 3 or 4"),
            (LOW, "device/m-1", {"end_delay_s": -5}, "end_delay_s", "0 to 86400 s"),
            (LOW, "device/m-1", {}, "body", "at least one of enabled, level"),
        ]
        for rule, scope, body, field, expected in cases:
            reply = await door.override(body, rule=rule, scope=scope, status=400)
            assert reply["code"] == "invalid_rule"
            problem = reply["facts"]["problems"][0]
            assert problem["field"] == field, (scope, body)
            assert problem["expected"].startswith(expected)
            assert field in reply["detail_zh"]
            assert (await door.ask("GET", f"/alarm-rules/{rule}"))["overrides"] == [], (scope, body)

    async def test_an_override_that_contradicts_one_of_a_narrower_scope_is_refused(self, door: Door) -> None:
        await door.override({"threshold": 200}, rule=HIGH)
        reply = await door.override({"threshold": 210}, scope=f"site/{SITE}", status=400)
        assert reply["facts"]["problems"][0]["found"] == "210 V >= 200 V"
        await door.override({"threshold": 190}, scope=f"site/{SITE}")

    async def test_taking_back_must_not_leave_a_contradiction(self, door: Door) -> None:
        await door.override({"threshold": 100}, scope=f"site/{SITE}")
        await door.override({"threshold": 150}, rule=HIGH)
        reply = await door.ask("DELETE", f"/alarm-rules/{LOW}/overrides/site/{SITE}", status=400)
        assert reply["facts"]["problems"][0]["field"] == "threshold"

    async def test_unknown_rules_scopes_and_fields_are_refused(self, door: Door) -> None:
        await door.override({"level": 1}, rule="nothing", status=404)
        await door.override({"level": 1}, scope="planet/earth", status=422)
        await door.override({"levle": 1}, status=422)
        await door.override({"threshold": "high"}, status=422)

    async def test_rights_and_sites_limit_who_may_change_what(self, door: Door) -> None:
        path = f"/alarm-rules/{LOW}/overrides"
        await door.ask("PUT", f"{path}/device/m-1", {"level": 1}, scopes=("alarm:read",), status=403)
        await door.ask("PUT", f"{path}/device/m-1", {"level": 1}, sites=("site-2",), status=403)
        await door.ask("PUT", f"{path}/site_class/D", {"level": 1}, sites=(SITE,), status=403)
        await door.ask("PUT", f"{path}/device/m-1", {"level": 1}, sites=(SITE,))
        await door.ask("GET", "/alarm-rules/effective", sites=("site-2",), device="m-1", status=404)


class TestAlarms:
    async def test_an_alarm_is_listed_while_active_and_afterwards(self, door: Door) -> None:
        alarm_id = await door.raise_alarm()
        [alarm] = (await door.ask("GET", "/alarms", state="active"))["items"]
        assert (alarm["alarm_id"], alarm["state"], alarm["signal_name_zh"]) == (alarm_id, "active", "交流电压过低告警")
        assert (alarm["device_id"], alarm["level"], alarm["value"]) == ("m-1", 3, 150)
        await door.world.take(door.world.volts(200, 230), door.world.volts(220, 230))
        assert (await door.ask("GET", "/alarms", state="active"))["items"] == []
        [ended] = (await door.ask("GET", "/alarms", state="ended"))["items"]
        assert (ended["alarm_id"], ended["end_reason"]) == (alarm_id, "recovered")

    async def test_pages_go_through_all_alarms_without_gap_or_double(self, door: Door) -> None:
        for number in range(7):
            door.world.registry.add(f"d-{number}")
            await door.raise_alarm(f"d-{number}", second=0 if number < 3 else number)
        seen: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            page = await door.ask("GET", "/alarms", limit=2, **cursor)
            seen += [item["device_id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert len(seen) == 7
        assert set(seen) == {f"d-{number}" for number in range(7)}
        assert seen[:4] == ["d-6", "d-5", "d-4", "d-3"]

    async def test_filters(self, door: Door) -> None:
        alarm_id = await door.raise_alarm()

        async def count(**params: Any) -> int:
            return len((await door.ask("GET", "/alarms", **params))["items"])

        assert await count(site=SITE) == 1
        assert await count(site="site-2") == 0
        assert await count(device="m-1", level=[3, 4], signal=LOW) == 1
        assert await count(level=1) == 0
        assert await count(acknowledged=False, inhibited=False) == 1
        assert await count(**{"from": at(1).isoformat()}) == 0
        assert await count(to=at(1).isoformat()) == 1
        await door.ask("POST", f"/alarms/{alarm_id}/acknowledge")
        assert await count(acknowledged=False) == 0
        await door.ask("GET", "/alarms", level=9, status=422)
        misspelt = await door.ask("GET", "/alarms", sites_="site-2", status=422)
        assert misspelt["detail"] == "query.sites_: expected site, there is no such parameter"
        no_zone: dict[str, Any] = {"from": "2026-03-01T00:00:00"}
        await door.ask("GET", "/alarms", status=422, **no_zone)
        backwards: dict[str, Any] = {"from": at(2).isoformat(), "to": at(1).isoformat()}
        await door.ask("GET", "/alarms", status=400, **backwards)
        await door.ask("GET", "/alarms", cursor="nonsense", status=400)

    async def test_who_is_limited_to_sites_sees_theirs_only(self, door: Door) -> None:
        alarm_id = await door.raise_alarm()
        assert (await door.ask("GET", "/alarms", sites=("site-2",)))["items"] == []
        assert (await door.ask("GET", "/alarms", sites=("site-2",), site=SITE))["items"] == []
        assert len((await door.ask("GET", "/alarms", sites=(SITE,)))["items"]) == 1
        await door.ask("GET", f"/alarms/{alarm_id}", sites=("site-2",), status=404)
        await door.ask("POST", f"/alarms/{alarm_id}/acknowledge", sites=("site-2",), status=404)
        await door.ask("GET", "/alarms", scopes=("carbon:read",), status=403)

    async def test_one_alarm_with_events_notes_and_deliveries(self, door: Door) -> None:
        alarm_id = await door.raise_alarm()
        delivered = DeliveryEvent.model_validate(
            {"destination": "sc-demo", "item": f"{alarm_id}:1", "state": DeliveryState.DELIVERED, "attempts": 1,
             "at": at(181), "item_kind": "alarm_begin", "alarm_id": alarm_id}
        )  # fmt: skip
        async with door.world.db.write() as conn:
            await deliveries_store.put_deliveries(conn, [(alarm_id, delivered)])
        await door.ask("POST", f"/alarms/{alarm_id}/notes", {"note": "生产厂家已通知"}, status=201)
        alarm = await door.ask("GET", f"/alarms/{alarm_id}")
        assert [event["phase"] for event in alarm["events"]] == ["begin"]
        assert alarm["events"][0]["sequence"] == 1
        [delivery] = alarm["deliveries"]
        assert (delivery["destination"], delivery["state"], delivery["at"]) == (
            "sc-demo", "delivered", at(181).isoformat().replace("+00:00", "Z"),
        )  # fmt: skip
        assert [(note["actor"], note["note"]) for note in alarm["notes"]] == [("user:wang", "生产厂家已通知")]

    async def test_acknowledging_twice_keeps_the_first_and_adds_the_note(self, door: Door) -> None:
        alarm_id = await door.raise_alarm()
        first = await door.ask("POST", f"/alarms/{alarm_id}/acknowledge", {"note": "on the way"})
        again = await door.ask("POST", f"/alarms/{alarm_id}/acknowledge", {"note": "there"})
        assert first["acknowledged_by"] == again["acknowledged_by"] == "user:wang"
        assert first["acknowledged_at"] == again["acknowledged_at"]
        assert [note["note"] for note in again["notes"]] == ["on the way", "there"]
        await door.ask("POST", "/alarms/nothing/acknowledge", status=404)
        await door.ask("POST", f"/alarms/{alarm_id}/notes", {"note": ""}, status=422)
        async with door.world.db.read() as conn:
            audits = await conn.fetchval("select count(*) from outbox where topic = $1", topics.AUDIT)
        assert audits == 2
