"""What a plan would have saved, by one click on the page, in a real browser."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.integration.gateway.test_alarm_page import PATIENCE_MS, Api, page

pytestmark = [pytest.mark.integration, pytest.mark.browser]
__all__ = ["page"]

PLAN = {"plan_id": "p-1", "name": "Nights"}
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
    def _found(self, path: str, query: str) -> Any:
        if path == "commands/c-1":
            return COMMAND
        if path == "plans/p-1/simulation":
            return SIMULATION
        answers: dict[str, Any] = {"plans": [PLAN], "occurrences": [OCCURRENCE], "commands": [COMMAND]}
        if path in answers:
            return {"items": answers[path], "next_cursor": None}
        return super()._found(path, query)


@pytest.fixture
def api() -> Api:
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
