"""Plans on the page, in a real browser: what they mean, approving, ending, and what one would have saved."""

from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.integration.gateway.test_alarm_page import PATIENCE_MS, Api, page

pytestmark = [pytest.mark.integration, pytest.mark.browser]
__all__ = ["page"]

SCHEDULE: dict[str, Any] = {
    "first_date": "2026-03-01", "last_date": "2026-03-31", "windows": [{"start": "23:59:59", "end": "06:00:00"}],
    "zone": "Asia/Shanghai", "weekdays": [1, 2, 3, 4, 5, 6, 7], "exceptions": [], "calendar_ids": [],
    "day_class": "any", "working_calendar": None, "approved_by": None, "approved_at": None, "ended_by": None,
    "ended_at": None,
    "end_reason": None, "created_by": "user:lin",
}  # fmt: skip
PLAN: dict[str, Any] = {
    **SCHEDULE, "plan_id": "p-1", "name": "Nights", "state": "draft", "load_count": 60,
    "created_at": "2026-02-01T04:00:00Z",
}  # fmt: skip
COOLER: dict[str, Any] = {
    **SCHEDULE, "plan_id": "s-1", "name": "Warm nights", "state": "draft", "target": {"site_id": "site-1"},
    "device_ids": ["m-1"], "point": "temperature_setpoint", "value": 28.0, "value_after": 26.0,
    "created_at": "2026-02-02T04:00:00Z",
}  # fmt: skip
STAYS_ON = {"load_id": "b", "guard": "coverage_layer", "message": "it keeps coverage", "message_zh": "覆盖层保持开启"}
RULE = {"name": "summer", "message": "below 26 degC in summer", "message_zh": "夏季低于 26 ℃"}
NIGHT = {"start_local": "2026-03-01T23:59:59", "off_at": "2026-03-01T15:59:59Z", "on_at": "2026-03-01T22:00:00Z"}
PREVIEW = {
    "count": 31, "windows": [NIGHT], "stays_on": [STAYS_ON],
    "overlaps": [{"name": "Feast", "outcome": "yields", "windows": 2, "load_count": 5}],
}  # fmt: skip
TIMES = {"start_local": NIGHT["start_local"], "begin_at": NIGHT["off_at"], "end_at": NIGHT["on_at"]}
OCCURRENCE = {
    "occurrence_id": "1.20260301T230000.a", "plan_id": "p-1", "load_id": "a", "off_at": "2026-03-01T15:00:00Z",
    "on_at": "2026-03-01T22:00:00Z", "went_off_at": None, "came_on_at": None, "state": "planned",
}  # fmt: skip
STALE = {"guard": "stale_data", "count": 1, "message": "the breaker was not read", "message_zh": "断路器数据已过期"}
TOTAL: dict[str, Any] = {
    "count": 14,
    "switched": 13,
    "hours_off": 91.0,
    "saved_kwh": 105.25,
    "covered": 0.905,
    "skipped": [STALE],
}
UNKNOWN: dict[str, Any] = {
    "count": 7,
    "switched": 7,
    "hours_off": 49.0,
    "saved_kwh": None,
    "covered": 0.0,
    "skipped": [],
}
SIMULATION = {
    **TOTAL, "ahead": 0, "not_replayed": ["active_alarm"],
    "loads": [{**TOTAL, "load_id": "a", "name": "AAU 1"}, {**UNKNOWN, "load_id": "b", "name": "AAU 2"}],
}  # fmt: skip
FAULT = {
    "code": "S13", "text": "the meter still shows power", "text_zh": "电表仍有功率", "advice": "look for a bypass",
    "advice_zh": "检查旁路",
}  # fmt: skip
EVIDENCE = {"feedback_point": "breaker_state", "feedback_value": 0, "feedback_at": "2026-03-01T15:00:02Z",
            "meter_power_kw": 0.3}  # fmt: skip
COMMAND = {
    "command_id": "c-1", "action": "open", "load_id": "a", "device_id": "m-1", "state": "failed", "fault": FAULT,
    "created_at": "2026-03-01T15:00:00Z", "sent_at": "2026-03-01T15:00:01Z",
    "history": [{"state": "failed", "evidence": EVIDENCE}],
}  # fmt: skip


class PlanApi(Api):
    """Two plans, one of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.plan, self.cooler = dict(PLAN), dict(COOLER)

    def answer(self, route: Route) -> None:
        if route.request.method == "POST" and route.request.url.endswith("/setpoints/preview"):
            self.asked.append(("POST", "preview", route.request.post_data_json))
            found = {"count": 31, "windows": [TIMES], "second_person_for": RULE, "forbidden_by": None}
            route.fulfill(status=200, json=found)
        else:
            super().answer(route)

    def _take(self, method: str, action: str, body: Any) -> None:
        self.asked.append((method, action.removeprefix("/api/v1/"), body))
        plan = self.cooler if "/setpoints/" in action else self.plan
        state, who, at = ("approved", "approved_by", "approved_at") if "approve" in action else (
            "ended", "ended_by", "ended_at")  # fmt: skip
        plan |= {"state": state, who: "user:wang", at: "2026-02-03T04:00:00Z", "end_reason": (body or {}).get("reason")}

    def _found(self, path: str, query: str) -> Any:
        if path == "plans/p-1":
            return {**self.plan, "load_ids": ["a", "b"], "preview": PREVIEW}
        if path == "plans/setpoints/s-1":
            return {**self.cooler, "preview": None}
        if path == "plans/setpoints/s-1/windows":
            return {"items": [{**TIMES, "state": "begun", "set_in": ["m-1"], "reason": ""}], "next_cursor": None}
        if path == "plans/setpoints":
            return {"items": [self.cooler], "next_cursor": None}
        if path == "plans":
            assert "loads=false" in query
            return {"items": [self.plan], "next_cursor": "more"}
        if path == "commands/c-1":
            return COMMAND
        if path == "plans/p-1/simulation":
            return SIMULATION
        answers: dict[str, Any] = {"occurrences": [OCCURRENCE], "commands": [COMMAND]}
        if path in answers:
            return {"items": answers[path], "next_cursor": None}
        return super()._found(path, query)


@pytest.fixture
def api() -> PlanApi:
    return PlanApi()


def test_a_plan_shows_what_it_would_have_switched_and_saved_and_what_is_not_known(page: Page) -> None:
    page.click("#occurrences button[data-plan=p-1]")
    shown = page.locator("#simulation")
    expect(shown).to_contain_text("Nights · simulated over the last seven days", timeout=PATIENCE_MS)
    cells = page.locator("#simulation-loads tr[data-id=a] td")
    expect(cells).to_have_text(
        ["AAU 1", "13 / 14", "91.0", "105.25", "91 %", "1 × the breaker was not read"], timeout=PATIENCE_MS
    )
    unknown = page.locator("#simulation-loads tr[data-id=b] td")
    expect(unknown).to_have_text(["AAU 2", "7 / 7", "49.0", "–", "0 %", ""], timeout=PATIENCE_MS)
    expect(page.locator("#simulation-loads tr[data-id=together]")).to_contain_text("Together", timeout=PATIENCE_MS)
    expect(page.locator("#simulation-note")).to_contain_text("active_alarm", timeout=PATIENCE_MS)
    page.click("#simulation-close")
    page.click("#language")
    page.click("#occurrences button[data-plan=p-1]")
    expect(cells.last).to_have_text("1 × 断路器数据已过期", timeout=PATIENCE_MS)


def test_an_off_that_failed_says_why_with_its_evidence(page: Page) -> None:
    shown = page.locator("#commands tr[data-id=c-1]")
    expect(shown).to_contain_text("S13 the meter still shows power", timeout=PATIENCE_MS)
    expect(shown.locator("td").last).to_have_text("0.300", timeout=PATIENCE_MS)
    page.click("#language")
    expect(shown).to_contain_text("S13 电表仍有功率", timeout=PATIENCE_MS)


def open_plan(page: Page, plan_id: str) -> None:
    page.click("#plans-open")
    page.click(f"#plans-list tr[data-id={plan_id}] button.link")
    expect(page.locator("#plan-shown")).to_be_visible(timeout=PATIENCE_MS)


def test_a_plan_is_approved_by_somebody_who_has_seen_what_it_amounts_to_and_is_ended(page: Page, api: PlanApi) -> None:
    open_plan(page, "p-1")
    rows = page.locator("#plans-list tbody tr")
    expect(rows).to_have_count(2, timeout=PATIENCE_MS)
    expect(rows.first).to_contain_text("temperature °C 28 / 26 · devices 1", timeout=PATIENCE_MS)
    expect(rows.last).to_contain_text("off · loads 60", timeout=PATIENCE_MS)
    expect(page.locator("#plans-more")).to_contain_text("wattring plan list", timeout=PATIENCE_MS)
    expect(page.locator("#plan-title")).to_have_text("Nights · draft", timeout=PATIENCE_MS)
    expect(page.locator("#plan-figures")).to_contain_text("windows 31", timeout=PATIENCE_MS)
    page.click("#plan-targets summary")
    expect(page.locator("#plan-names")).to_have_text("a, b", timeout=PATIENCE_MS)
    notes = page.locator("#plan-notes li")
    expect(notes).to_have_text(["gives way to Feast: windows 2, loads 5", "b: it keeps coverage"], timeout=PATIENCE_MS)
    expect(page.locator("#plan-windows tbody tr")).to_have_count(1, timeout=PATIENCE_MS)

    api.refuses = "whoever drafted a plan may not approve it"
    page.click("#plan-approve")
    expect(page.locator("#plans-problem")).to_have_text(api.refuses, timeout=PATIENCE_MS)
    api.refuses = None
    page.click("#plan-approve")
    expect(page.locator("#plan-title")).to_have_text("Nights · approved", timeout=PATIENCE_MS)
    expect(page.locator("#plan-approve")).to_be_hidden(timeout=PATIENCE_MS)
    expect(page.locator("#plans-list tr[data-id=p-1]")).to_contain_text("user:wang", timeout=PATIENCE_MS)
    page.fill("#plan-end [name=reason]", "a feast")
    page.click("#plan-end button")
    expect(page.locator("#plan-figures")).to_contain_text("a feast", timeout=PATIENCE_MS)
    expect(page.locator("#plan-end")).to_be_hidden(timeout=PATIENCE_MS)
    assert api.asked == [("POST", "plans/p-1/approve", None), ("POST", "plans/p-1/end", {"reason": "a feast"})]


def test_a_plan_of_set_points_says_who_has_to_approve_it_and_how_far_its_windows_are(page: Page, api: PlanApi) -> None:
    page.click("#language")
    open_plan(page, "s-1")
    expect(page.locator("#plan-names")).to_have_text("总表", timeout=PATIENCE_MS)
    expect(page.locator("#plan-notes li")).to_have_text(["须由第二人批准： 夏季低于 26 ℃"], timeout=PATIENCE_MS)
    expect(page.locator("#plan-windows tbody tr")).to_have_count(1, timeout=PATIENCE_MS)
    (_, _, wish) = api.asked[0]
    assert wish["site_id"] == "site-1"
    assert (wish["point"], wish["value"], wish["value_after"]) == ("temperature_setpoint", 28.0, 26.0)
    assert wish["windows"] == SCHEDULE["windows"]
    page.click("#plan-approve")
    expect(page.locator("#plan-title")).to_have_text("Warm nights · 已批准", timeout=PATIENCE_MS)
    expect(page.locator("#plan-windows tbody tr")).to_contain_text("已开始", timeout=PATIENCE_MS)
    expect(page.locator("#plan-windows tbody tr")).to_contain_text("设备数 1", timeout=PATIENCE_MS)
    assert api.asked[1] == ("POST", "plans/setpoints/s-1/approve", None)
