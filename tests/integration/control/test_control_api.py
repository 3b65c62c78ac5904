"""Control's API: bad input named and refused, idempotency keys, rights, progress; over a real socket."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr

from libs.common.bus import open_bus, topics
from libs.common.bus.port import StartAt
from libs.common.clock import SystemClock
from libs.common.runtime import Platform
from libs.common.settings import CommonSettings, DatabaseSettings
from libs.common.tokens import KeyRing
from services.control.main import build
from tests.integration.control.fake_ingest import until
from tests.integration.control.test_control_process import Installation, installation, plan_body

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

GOOD = {
    "name": "p", "load_ids": ["aau-1"], "first_date": "2099-05-01", "last_date": "2099-06-01",
    "windows": [{"start": "23:59:59", "end": "06:00:00"}],
}  # fmt: skip


def refused(answer: httpx.Response, status: int, *words: str) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    body = answer.json()
    for word in words:
        assert word in body["detail"], body
    assert body["detail_zh"]
    return body


async def bad_plans(found: Installation) -> None:
    async def post(**changes: Any) -> httpx.Response:
        return await found.call("POST", "/api/v1/plans", GOOD | changes)

    assert (await post()).json()["preview"]["count"] == 32
    refused(await post(windows=[{"start": "01:00", "end": "01:00"}]), 400, "windows", "no length")
    refused(await post(zone="Asia/Guangzhou"), 400, "zone", "Asia/Guangzhou")
    refused(await post(first_date="2020-05-01", last_date="2020-06-01"), 400, "past")
    refused(await post(last_date="2099-04-01"), 400, "last_date")
    refused(await post(first_date="9999-12-31", last_date="9999-12-31"), 400, "last_date", "1900 to 2199")
    refused(await post(weekdays=[8]), 400, "weekdays")
    refused(await post(calendar_ids=["nowhere"]), 400, "calendar_ids")
    body = refused(await post(load_ids=["aau-1", "hospital", "nowhere"]), 400, "hospital (never_off)")
    assert body["facts"]["loads"] == [
        {"load_id": "hospital", "reason": "never_off"}, {"load_id": "nowhere", "reason": "unknown_load"},
    ]  # fmt: skip
    refused(await post(load_ids=["aau-1", "aau-1"]), 400, "different loads")
    refused(await post(day_class="working_days"), 400, "working_calendar", "2099", "cn-working-days")
    refused(await post(working_calendar="cn-working-days"), 400, "working_calendar")
    refused(await post(day_class="working_days", working_calendar="nowhere"), 400, "nowhere")
    refused(await post(load_ids=[]), 400, "load_ids")
    refused(await post(rank=0), 422, "rank")
    refused(await post(stagger={"spread": "even"}), 400, "stagger")
    refused(await post(stagger={"spread": "even", "within_s": 21600}), 422, "within_s")
    refused(await post(conditions=[{"quantity": "wind", "limit": 1}]), 422, "quantity")
    refused(await post(tariff={"bands": ["sharp"], "table": [{"start": "08:00", "end": "22:00", "band": "peak"}]}), 400)
    wanted = {
        "conditions": [{"quantity": "traffic_load", "side": "below", "limit": 5.0, "for_s": 1800.0}],
        "tariff": {"bands": ["peak"], "table": [{"start": "08:00:00", "end": "22:00:00", "band": "peak"}]},
        "stagger": {"spread": "random", "within_s": 600}, "rank": 7,
    }  # fmt: skip
    shown = (await post(**wanted)).json()
    assert {name: shown[name] for name in wanted} == wanted
    refused(await post(tags=["nobody has it"]), 400, "tags", "nobody has it")
    body = refused(await post(load_ids=[], site_ids=["site-1"]), 400, "hospital (never_off)")
    assert {"load_id": "hospital", "reason": "never_off"} in body["facts"]["loads"]
    shown = (await post(load_ids=[], site_ids=["site-1"], excluded_load_ids=["hospital"])).json()
    assert "aau-1" in shown["load_ids"]
    assert "hospital" not in shown["load_ids"]
    assert shown["site_ids"] == ["site-1"]
    refused(await post(first_date="2099-02-30"), 422, "first_date")
    refused(await post(windows=[{"start": "25:00", "end": "06:00"}]), 422, "windows")
    refused(await post(surprise=1), 422, "surprise")
    refused(await found.call("GET", "/api/v1/plans/nowhere"), 404)
    refused(await found.call("POST", "/api/v1/plans/nowhere/approve"), 404)
    refused(await found.call("GET", "/api/v1/plans?cursor=rubbish"), 400)
    refused(await found.call("GET", "/api/v1/plans?limit=0"), 422)


async def plan_states(found: Installation) -> None:
    plan_id = (await found.call("POST", "/api/v1/plans", GOOD)).json()["plan_id"]
    first = await found.call("POST", f"/api/v1/plans/{plan_id}/approve")
    assert first.json()["approved_by"] == "user:duty"
    refused(await found.call("POST", f"/api/v1/plans/{plan_id}/approve"), 409, "approved")
    ended = await found.call("POST", f"/api/v1/plans/{plan_id}/end", {"reason": "no longer wanted"})
    assert ended.json()["state"] == "ended"
    refused(await found.call("POST", f"/api/v1/plans/{plan_id}/end", {}), 409)
    assert plan_id in [plan["plan_id"] for plan in (await found.get("/api/v1/plans?limit=1000"))["items"]]
    (plain, brief) = [
        next(one for one in (await found.get(path))["items"] if one["plan_id"] == plan_id)
        for path in ("/api/v1/plans?limit=1000", "/api/v1/plans?limit=1000&loads=false")
    ]
    assert (plain["load_ids"], plain["load_count"]) == (GOOD["load_ids"], len(GOOD["load_ids"]))
    assert brief == plain | {"load_ids": [], "named": []}
    file = await found.call("GET", f"/api/v1/plans/{plan_id}/calendar.ics")
    assert file.headers["content-type"] == "text/calendar; charset=utf-8"
    assert file.text.count("BEGIN:VEVENT") == 32
    assert file.text.count("STATUS:CANCELLED") == 32
    refused(await found.call("GET", "/api/v1/plans/nowhere/calendar.ics"), 404)
    page = await found.get("/api/v1/plans?limit=1")
    following = await found.get(f"/api/v1/plans?limit=1&cursor={page['next_cursor'].replace('+', '%2B')}")
    assert page["items"][0]["plan_id"] != following["items"][0]["plan_id"]


async def calendars(found: Installation) -> None:
    (shipped,) = await found.get("/api/v1/calendars")
    assert (shipped["calendar_id"], shipped["changed_at"]) == ("cn-working-days", None)
    assert {"day": "2025-09-28", "kind": "work", "label": "国庆节"} in shipped["days"]
    body = {"name": "中国", "source": "a notice", "days": [
        {"day": "2099-05-04", "kind": "off", "label": "劳动节"}, {"day": "2099-05-02", "kind": "work"},
    ]}  # fmt: skip
    put = await found.call("PUT", "/api/v1/calendars/cn-working-days", body)
    assert put.json()["years"] == [2099]
    plan = {name: value for name, value in GOOD.items() if name != "name"}
    plan |= {"day_class": "working_days", "last_date": "2099-05-05"}
    shown = (await found.call("POST", "/api/v1/plans/preview", plan)).json()
    # 2099-05-01 is a Friday, the 2nd a worked Saturday, the 4th a Monday that is off.
    assert [one["start_local"][:10] for one in shown["windows"]] == ["2099-05-01", "2099-05-02", "2099-05-05"]
    both = {"day": "2099-05-02", "kind": "off"}
    refused(await found.call("PUT", "/api/v1/calendars/x", body | {"days": [*body["days"], both]}), 400, "2099-05-02")


async def bad_commands(found: Installation) -> None:
    soon = (found.platform.clock.now() + timedelta(seconds=60)).isoformat()

    async def post(**body: Any) -> httpx.Response:
        return await found.call("POST", "/api/v1/commands", body)

    refused(await post(action="open", load_id="aau-1"), 400, "restore_at")
    body = refused(await post(action="open", load_id="hospital", restore_at=soon), 400, "never_off")
    assert body["facts"]["refused"][0]["guard"] == "never_off"
    refused(await post(action="open", load_id="aau-1", restore_at="2020-01-01T00:00:00Z"), 400, "restore_at")
    refused(await post(action="open", load_id="aau-1", restore_at="2099-01-01T00:00:00"), 422, "restore_at")
    refused(await post(action="explode", load_id="aau-1"), 422, "action")
    past = (found.platform.clock.now() - timedelta(seconds=1)).isoformat()
    order = {"action": "open", "load_id": "aau-1", "restore_at": "2099-01-01T00:00:00Z"}
    late = await found.call("POST", "/api/v1/commands", order, **{"take-by": past, "idempotency-key": "late"})
    assert refused(late, 409, "Take-By")["code"] == "order_too_late"
    refused(await found.call("POST", "/api/v1/commands", order, **{"take-by": "soon"}), 422, "Take-By")
    refused(await post(action="close"), 422, "exactly one")
    refused(await post(action="close", load_id="aau-1", site_id="site-1"), 422, "exactly one")
    refused(await post(action="close", device_ids=["brk-aau-1"], region_id="440100"), 422, "exactly one")
    refused(await post(action="close", site_id="nowhere"), 404)
    refused(await post(action="close", region_id="999999"), 404, "999999")
    refused(await post(action="close", device_ids=["brk-aau-1", "nowhere"]), 404, "nowhere")
    refused(await found.call("GET", "/api/v1/commands/nowhere"), 404)
    refused(await found.call("POST", "/api/v1/commands/nowhere/cancel", {}), 404)
    refused(await found.call("GET", "/api/v1/commands/groups/nowhere"), 404)
    refused(await found.call("POST", "/api/v1/wake-ups", {"scope": "site"}), 400, "target")
    refused(await found.call("POST", "/api/v1/wake-ups", {"scope": "all", "target": "x"}), 400, "target")
    refused(await found.call("POST", "/api/v1/wake-ups", {"scope": "region", "target": "999999"}), 404)
    refused(await found.call("POST", "/api/v1/wake-ups", {"scope": "loads", "load_ids": ["nowhere"]}), 404)
    trip = {"load_id": "aau-1", "trip_reason": 9, "reason": "x"}
    refused(await found.call("POST", "/api/v1/commands/trip-releases", trip), 400, "no protection trip")
    isolation = {"load_id": "aau-1", "owner": "Li", "permit": "1", "reason": "x", "expires_at": "2020-01-01T00:00:00Z"}
    refused(await found.call("POST", "/api/v1/commands/isolations", isolation), 400, "expires_at")
    refused(await found.call("POST", "/api/v1/commands/isolations", isolation | {"load_id": "nowhere"}), 404)


async def groups(found: Installation) -> None:
    restore_at = (found.platform.clock.now() + timedelta(seconds=3)).isoformat()
    answer = await found.call(
        "POST", "/api/v1/commands",
        {"action": "open", "load_ids": ["aau-2", "hospital"], "restore_at": restore_at, "reason": "test"},
    )  # fmt: skip
    assert answer.status_code == 202, answer.text
    group = answer.json()
    assert [one["load_id"] for one in group["refused"]] == ["hospital"]
    command_id = group["commands"][0]["command_id"]

    async def over() -> bool:
        wake_up = await found.get(f"/api/v1/commands/{command['pair_id']}")
        return bool(wake_up["state"] == "succeeded")

    command = await found.get(f"/api/v1/commands/{command_id}")
    assert [step["state"] for step in command["history"]][:3] == ["received", "validated", "scheduled"]
    await until(over, "woken")
    done = await found.get(f"/api/v1/commands/groups/{group['group_id']}")
    assert done["state"] == "partial"
    assert done["refused"][0]["guard"] == "never_off"
    assert group["expected_by"] > group["created_at"]
    assert (group["progress"]["total"], group["progress"]["done"], group["progress"]["refused"]) == (2, 1, 1)
    assert done["expected_by"] is None
    assert done["progress"] == {"total": 2, "done": 2, "succeeded": 1, "refused": 1, "by_state": {"succeeded": 1}}


async def groups_by_device_and_region(found: Installation) -> None:
    async def ordered(**where: Any) -> set[str]:
        answer = await found.call("POST", "/api/v1/commands", {"action": "close", **where})
        assert answer.status_code == 202, answer.text
        return {one["load_id"] for one in answer.json()["commands"]}

    assert await ordered(device_ids=["brk-aau-1", "brk-aau-3"]) == {"aau-1", "aau-3"}
    assert await ordered(region_id="440100") == {"aau-1", "aau-2", "aau-3", "hospital"}


async def idempotency(found: Installation) -> None:
    body = {"action": "close", "load_id": "aau-3"}
    key = {"Idempotency-Key": "key-1"}
    before = len((await found.get("/api/v1/commands?load=aau-3"))["items"])
    answers = await asyncio.gather(*(found.call("POST", "/api/v1/commands", body, **key) for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    again = await found.call("POST", "/api/v1/commands", body, **key)
    groups = {answer.json()["group_id"] for answer in [*answers, again] if answer.status_code == 202}
    assert len(groups) == 1
    assert len((await found.get("/api/v1/commands?load=aau-3"))["items"]) == before + 1
    other = await found.call("POST", "/api/v1/commands", body | {"load_id": "aau-1"}, **key)
    assert refused(other, 422)["code"] == "idempotency_key_reused"
    # Another caller's key is another key, and a refusal is repeated as well.
    token = found.headers(who="somebody else")
    another = await found.client.post("/api/v1/commands", json=body, headers=token | key)
    assert another.json()["group_id"] not in groups
    bad = {"action": "open", "load_id": "hospital", "restore_at": "2099-01-01T00:00:00Z"}
    first, second = [await found.call("POST", "/api/v1/commands", bad, **{"Idempotency-Key": "key-2"}) for _ in "ab"]
    assert refused(first, 400) == refused(second, 400)


async def guards(found: Installation) -> None:
    listed = await found.get("/api/v1/guards")
    assert {"coverage_layer", "max_off_site", "emergency_mode"} <= {one["guard"] for one in listed}
    policy = "/api/v1/guards/policies/load/aau-2"
    refused(await found.call("PUT", policy, {"limits": {"min_on": 1}, "source": "x"}), 400, "limits.min_on")
    refused(
        await found.call("PUT", "/api/v1/guards/policies/site/nowhere", {"limits": {}, "source": "x"}), 400, "limits"
    )
    await found.call("PUT", policy, {"limits": {"max_offs_per_day": 0, "two_persons": True}, "source": "order 7"})
    assert (await found.get("/api/v1/guards/policies"))[0]["source"] == "order 7"
    about = {one["guard"]: one for one in await found.get("/api/v1/guards?load=aau-2")}
    daily = about["switches_per_day"]
    assert (daily["refuses"], daily["limit"], daily["said_by"]) == (True, 0, "load:aau-2")
    assert daily["message"]
    assert daily["message_zh"]
    assert about["stale_data"]["refuses"] is False
    refused(await found.call("GET", "/api/v1/guards?load=nowhere"), 404)
    await found.call("PUT", policy, {"limits": {"two_persons": True}, "source": "order 8"})
    later = (found.platform.clock.now() + timedelta(seconds=600)).isoformat()
    order = await found.call("POST", "/api/v1/commands", {"action": "open", "load_id": "aau-2", "restore_at": later})
    approve = f"/api/v1/commands/groups/{order.json()['group_id']}/approve"
    assert order.json()["state"] == "approval"
    refused(await found.call("POST", approve), 403, "second person")
    declined = await found.call("POST", approve.replace("approve", "decline"), {})
    assert declined.json()["state"] == "cancelled"
    refused(await found.call("POST", approve, None, **found.headers(who="chief")), 409)
    assert (await found.call("POST", f"{policy}/remove", {"reason": "done"})).json()["limits"] is None
    assert (await found.get(policy))[0]["limits"] is None
    emergencies = "/api/v1/guards/emergencies"
    refused(await found.call("POST", emergencies, {"scope": "site", "target": "nowhere", "reason": "x"}), 400, "target")
    mode = (await found.call("POST", emergencies, {"scope": "all", "reason": "storm"})).json()
    refused(await found.call("POST", emergencies, {"scope": "all", "reason": "storm"}), 409)
    body = {"action": "open", "load_id": "aau-2", "restore_at": later}
    refused(await found.call("POST", "/api/v1/commands", body), 400, "emergency mode is declared")
    ended = await found.call("POST", f"{emergencies}/{mode['emergency_id']}/end", {"reason": "over"})
    assert ended.json()["ended_by"] == "user:duty"
    assert [one["emergency_id"] for one in (await found.get(emergencies))["items"]] == [mode["emergency_id"]]


async def rights(found: Installation) -> None:
    path, body = "/api/v1/wake-ups", {"scope": "all"}
    refused(await found.client.post(path, json=body), 401)
    reader = found.headers(scopes=("control:read",))
    refused(await found.client.post(path, json=body, headers=reader), 403)
    assert (await found.client.get("/api/v1/guards", headers=reader)).status_code == 200
    findings: dict[str, list[object]] = {"findings": []}
    refused(await found.client.post("/watchdog/v1/findings", json=findings, headers=reader), 403)
    token = found.platform.keys.sign_token(
        "gateway", audience="control", subject="local", kind="user", scopes=("control:*",), sites=("elsewhere",)
    )
    limited = {"authorization": f"Bearer {token}"}
    refused(await found.client.post(path, json={"scope": "site", "target": "site-1"}, headers=limited), 403)
    refused(await found.client.post(path, json=body, headers=limited), 403)
    refused(await found.client.post("/api/v1/plans", json=GOOD, headers=limited), 403)
    assert (await found.client.get("/api/v1/commands", headers=limited)).json()["items"] == []
    assert (await found.client.get("/api/v1/plans", headers=limited)).json()["items"] == []


async def findings_of_the_watchdog(found: Installation) -> None:
    token = found.platform.keys.sign_token("watchdog", audience="control", scopes=("control:watchdog",))
    body = {
        "load_id": "aau-3", "site_id": "site-1", "device_id": "brk-aau-3", "kind": "wake_up_overdue",
        "phase": "begin", "text": "overdue", "detail": "attempts: 4", "at": "2099-01-01T00:00:00+00:00",
    }  # fmt: skip
    headers = {"authorization": f"Bearer {token}"}
    answer = await found.client.post("/watchdog/v1/findings", json={"findings": [body]}, headers=headers)
    assert answer.status_code == 204, answer.text
    heard: list[dict[str, Any]] = []
    async with found.platform.bus.tail([topics.CONDITIONS], StartAt(beginning=True)) as reader:

        async def told() -> bool:
            for received in await reader.fetch(max_messages=100, timeout_s=1.0):
                heard.append(orjson.loads(received.value or b"{}"))
            return any(one["source"] == "watchdog" for one in heard)

        await until(told, "the finding is on the bus")
    (one,) = [one for one in heard if one["source"] == "watchdog"]
    assert (one["kind"], one["phase"], one["level"], one["load_id"]) == ("wake_up_overdue", "begin", 1, "aau-3")
    assert one["detail_zh"]


async def one_key(found: Installation) -> None:
    restore_at = (found.platform.clock.now() + timedelta(seconds=3600)).isoformat()
    body = {"action": "open", "load_id": "aau-1", "restore_at": restore_at}
    assert (await found.call("POST", "/api/v1/commands", body)).status_code == 202
    await until(lambda: not found.field.breakers["aau-1"].closed, "off")
    answer = await found.call("POST", "/api/v1/wake-ups", {"scope": "site", "target": "site-1", "reason": "storm"})
    assert answer.status_code == 202
    wake_up_id = answer.json()["wake_up_id"]
    assert answer.json()["released_at"] is None  # every field that the description promises is there

    async def done() -> bool:
        return bool((await found.get(f"/api/v1/wake-ups/{wake_up_id}"))["state"] == "done")

    await until(done, "all awake")
    assert found.field.breakers["aau-1"].closed
    order = await found.get(f"/api/v1/wake-ups/{wake_up_id}")
    assert order["loads"] == order["commanded"] == order["accepted"] == order["verified"]
    path = f"/api/v1/wake-ups/{wake_up_id}/loads"
    assert (await found.get(path))["items"] == []
    page = await found.get(f"{path}?which=all&limit=1")
    assert len(page["items"]) == 1
    assert page["items"][0]["awake"]
    assert page["next_cursor"] == page["items"][0]["load_id"]
    refused(await found.call("GET", f"{path}?which=some"), 422, "which")
    refused(await found.call("GET", "/api/v1/wake-ups/nowhere/loads"), 404)
    codes = {one["fault"]: one for one in await found.get("/api/v1/wake-ups/fault-codes")}
    assert codes["no_answer"]["code"] == "S01"
    assert codes["no_answer"]["advice_zh"]
    assert wake_up_id in [one["wake_up_id"] for one in (await found.get("/api/v1/wake-ups"))["items"]]
    body = refused(await found.call("POST", "/api/v1/commands", body), 400, "emergency")
    released = await found.call("POST", f"/api/v1/wake-ups/{wake_up_id}/release")
    assert released.json()["released_by"] == "user:duty"


async def guards_and_calendars(found: Installation) -> None:
    guards = {guard["guard"]: guard for guard in await found.get("/api/v1/guards")}
    assert guards["never_off"]["stops"] == "off"
    assert guards["protection_trip"]["stops"] == "on"
    assert guards["too_little_left"]["limit"] == 1.0
    calendar = {"name": "China 2099", "source": "notice", "days": [{"day": "2099-05-01", "label": "Labour Day"}]}
    assert (await found.call("PUT", "/api/v1/calendars/cn-2099", calendar)).status_code == 200
    assert [one["calendar_id"] for one in await found.get("/api/v1/calendars")] == ["cn-2099", "cn-working-days"]
    preview = {**GOOD, "calendar_ids": ["cn-2099"]}
    del preview["name"]
    assert (await found.call("POST", "/api/v1/plans/preview", preview)).json()["count"] == 31
    refused(await found.call("PUT", "/api/v1/calendars/no spaces", calendar), 422)
    refused(
        await found.call("PUT", "/api/v1/calendars/cn-2099", {**calendar, "days": [{"day": 0}]}), 422, "a date such as"
    )
    counted = {**preview, "windows": [{"start": 3600, "end": "06:00:00"}]}
    refused(await found.call("POST", "/api/v1/plans/preview", counted), 422, "a time of day such as 23:59:59")


async def settings(found: Installation) -> None:
    path = "/api/v1/commands/settings"

    async def post(path: str, **body: Any) -> httpx.Response:
        return await found.call("POST", path, body)

    many = f"{path}/groups"
    degrees = {"point": "temperature_setpoint", "value": 24.0, "unit": "degC"}
    refused(await post(many, **degrees), 422, "exactly one")
    refused(await post(many, **degrees, tag="hall", site_id="site-1"), 422, "exactly one")
    refused(await post(many, **degrees, tag="nobody has it"), 404, "nobody has it")
    refused(await post(many, **degrees, tag="hall", kind="breaker"), 404, "breaker")
    refused(await post(many, **degrees, device_ids=["ac-1", "nowhere"]), 404, "nowhere")
    refused(await post(many, tag="hall"), 422, "point and value")
    refused(await post(many, tag="hall", point="temperature_setpoint", value=False), 422, "value")
    refused(await post(many, tag="hall", action="restart", value=1), 422, "neither")
    refused(await post(many, **degrees, tag="hall", action="set_threshold"), 422, "set_point")
    refused(await post(path, **degrees, device_id="nowhere"), 404, "nowhere")
    refused(await post(path, device_id="ac-1", point="temperature_setpoint", value=40.0), 400, "16 to 30")
    refused(await post(path, device_id="ac-1", action="set_clock"), 400, "set its clock")
    refused(await post(path, device_id="ac-1", action="set_sampling_period", value=60), 400, "registry")
    body = refused(await post(many, action="restart", tag="hall"), 400, "restart it")
    assert [one["guard"] for one in body["facts"]["refused"]] == ["unsupported", "unsupported"]

    # One order for a region: the breakers in it cannot be set so, the air conditioners can.
    key = {"Idempotency-Key": "settings-1"}
    order = degrees | {"region_id": "440100", "reason": "a hot day"}
    answers = await asyncio.gather(*(found.call("POST", many, order, **key) for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    group = (await found.call("POST", many, order, **key)).json()
    assert {answer.json()["group_id"] for answer in answers if answer.status_code == 202} == {group["group_id"]}
    refused(await found.call("POST", many, order | {"value": 25.0}, **key), 422)
    assert group["expected_by"] > group["created_at"]
    assert [one["device_id"] for one in group["settings"]] == ["ac-1", "ac-2"]
    assert {one["guard"] for one in group["refused"]} == {"no_control"}

    async def over() -> bool:
        shown = await found.get(f"{many}/{group['group_id']}")
        return bool(shown["progress"]["by_state"] == {"succeeded": 2} and shown["expected_by"] is None)

    await until(over, "both are set")
    assert found.field.settings == {("ac-1", "temperature_setpoint"): 24.0, ("ac-2", "temperature_setpoint"): 24.0}
    listed = (await found.get(f"{many}?limit=1"))["items"]
    assert [(one["group_id"], one["state"]) for one in listed] == [(group["group_id"], "partial")]
    one = await found.get(f"{path}/{group['settings'][0]['setting_id']}")
    assert (one["state"], one["found"], one["group_id"]) == ("succeeded", 24.0, group["group_id"])
    narrowed = await post(many, **degrees | {"value": 25.0}, site_id="site-1", kind="ac_unit")
    assert (len(narrowed.json()["settings"]), narrowed.json()["refused"]) == (2, [])
    refused(await found.call("GET", f"{many}/nowhere"), 404)
    refused(await found.call("GET", f"{path}/nowhere"), 404)
    token = found.platform.keys.sign_token(
        "gateway", audience="control", subject="local", kind="user", scopes=("control:*",), sites=("elsewhere",)
    )
    limited = {"authorization": f"Bearer {token}"}
    refused(await found.client.post(many, json=order, headers=limited), 403, "site-1")
    refused(await found.client.get(f"{many}/{group['group_id']}", headers=limited), 404)
    assert (await found.client.get(many, headers=limited)).json()["items"] == []


async def setpoint_rules(found: Installation) -> None:
    rules = "/api/v1/guards/setpoints"
    assert [one["rule"] for one in await found.get(rules)] == ["public_building_summer", "public_building_winter"]
    assert await found.get(f"{rules}?device=ac-1") == []  # a base station is no public room
    refused(await found.call("GET", f"{rules}?device=nowhere"), 404)
    rule = {"point": "temperature_setpoint", "min": 26, "from": "01-01", "to": "12-31", "source": "house order 7"}
    policy = f"{rules}/policies/site/site-1"
    body = {"rules": {"house": rule}, "source": "the landlord"}
    refused(await found.call("PUT", policy, body | {"rules": {"house": rule | {"min": "x"}}}), 400, "rules.house.min")
    refused(await found.call("PUT", policy.replace("site/site-1", "default/x"), body), 400)
    assert (await found.call("PUT", policy, body)).json()["rules"]["house"]["min"] == 26
    assert [one["said_by"] for one in await found.get(f"{rules}?device=ac-1")] == ["site:site-1"]
    order = {"device_id": "ac-1", "point": "temperature_setpoint", "value": 23.0}
    said = refused(await found.call("POST", "/api/v1/commands/settings", order), 400, "house", "23", "26")
    assert said["code"] == "setpoint_rule"
    assert (said["facts"]["limit"], said["facts"]["source"]) == ({"min": 26.0}, "house order 7")
    body = {"rules": {"house": rule | {"effect": "approve"}}, "source": "the landlord"}
    await found.call("PUT", policy, body)
    waiting = (await found.call("POST", "/api/v1/commands/settings", order)).json()
    assert (waiting["state"], waiting["expected_by"]) == ("approval", None)
    approve = f"/api/v1/commands/settings/{waiting['setting_id']}/approve"
    refused(await found.call("POST", approve), 403, "second person")
    agreed = await found.call("POST", approve, None, **found.headers(who="chief"))
    assert agreed.status_code == 200, agreed.text
    group = (await found.call("POST", "/api/v1/commands/settings/groups", {**order, "device_id": None})).json()
    assert group["status"] == 422
    del order["device_id"]
    group = (await found.call("POST", "/api/v1/commands/settings/groups", order | {"tag": "hall"})).json()
    assert group["progress"]["by_state"]["approval"] >= 1
    decline = f"/api/v1/commands/settings/groups/{group['group_id']}/decline"
    declined = (await found.call("POST", decline, {"reason": "no"})).json()
    assert "approval" not in declined["progress"]["by_state"]
    assert (await found.call("POST", f"{policy}/remove", {"reason": "over"})).json()["rules"] is None
    assert [one["revision"] for one in await found.get(policy)] == [3, 2, 1]
    assert await found.get(f"{rules}/policies") == []


async def test_the_api(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with installation(postgres_url, tmp_path, monkeypatch, watchdog=False) as found:
        for part in (
            bad_plans,
            guards,
            plan_states,
            bad_commands,
            groups,
            groups_by_device_and_region,
            settings,
            setpoint_rules,
            idempotency,
            rights,
            findings_of_the_watchdog,
            one_key,
            calendars,
            guards_and_calendars,
        ):
            await part(found)
        assert found.field.refused_signatures == 0
        metrics = (await found.client.get("/metrics")).text
        assert "wattring_control_overdue_wakeups 0.0" in metrics
        assert 'wattring_control_commands_total{action="close",state="succeeded"}' in metrics


async def test_what_was_not_read_yet_is_not_called_unknown(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CommonSettings(data_dir=tmp_path, database=DatabaseSettings(url=SecretStr(postgres_url)))
    clock = SystemClock()
    KeyRing.create(tmp_path / "keys")
    platform = Platform(settings, clock, open_bus(settings, clock), KeyRing.open(tmp_path / "keys", clock))
    service = build(platform)  # nothing of it runs, so nobody has read the registry
    service.health.starting = None
    token = platform.keys.sign_token("gateway", audience="control", subject="duty", kind="user", scopes=("control:*",))
    transport = httpx.ASGITransport(app=service.app)
    headers = {"authorization": f"Bearer {token}"}
    plan = {name: value for name, value in GOOD.items() if name != "name"}
    order = {"action": "open", "load_id": "aau-1", "restore_at": "2099-01-01T00:00:00Z"}
    async with httpx.AsyncClient(transport=transport, base_url="http://control", headers=headers) as client:
        for path, body in (("plans", GOOD), ("plans/preview", plan), ("plans/simulate", plan), ("commands", order)):
            answer = await client.post(f"/api/v1/{path}", json=body)
            assert refused(answer, 503, "registry is being read")["code"] == "registry_not_ready", path


async def test_two_replicas_do_everything_once(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with installation(postgres_url, tmp_path, monkeypatch, watchdog=False, replicas=2) as found:
        body = plan_body(found, "aau-1", "aau-2", "aau-3", start_in_s=3, length_s=4)
        plan = (await found.call("POST", "/api/v1/plans", body)).json()
        await found.call("POST", f"/api/v1/plans/{plan['plan_id']}/approve")

        async def awake() -> bool:
            items = (await found.get(f"/api/v1/occurrences?plan={plan['plan_id']}"))["items"]
            return [one["state"] for one in items] == ["awake"] * 3

        await until(awake, "all three are awake again")
        for load_id in ("aau-1", "aau-2", "aau-3"):
            breaker = found.field.breakers[load_id]
            assert len(breaker.switched) == len(set(breaker.switched)) == 2
            items = (await found.get(f"/api/v1/commands?load={load_id}"))["items"]
            assert sorted(one["state"] for one in items) == ["succeeded", "succeeded"]
            for one in items:
                states = [
                    step["state"] for step in (await found.get(f"/api/v1/commands/{one['command_id']}"))["history"]
                ]
                assert len(states) == len(set(states))
