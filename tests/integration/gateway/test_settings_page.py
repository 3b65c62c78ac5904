"""Settings of many devices on the page, in a real browser: how far an order is, and who was refused and why."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.integration.gateway.test_alarm_page import PATIENCE_MS, Api, page

pytestmark = [pytest.mark.integration, pytest.mark.browser]
__all__ = ["page"]

ORDER: dict[str, Any] = {
    "group_id": "g-1", "state": "scheduled", "action": "set_point", "point": "temperature_setpoint", "value": 26.0,
    "target": {"site_id": "site-1", "kind": "ac_unit"}, "actor": "user:wang", "reason": None,
    "created_at": "2026-07-01T04:00:00Z",
    "progress": {"total": 3, "done": 2, "succeeded": 1, "refused": 1, "by_state": {"succeeded": 1, "scheduled": 1}},
}  # fmt: skip
CLOCK = {
    **ORDER,
    "group_id": "g-2",
    "action": "set_clock",
    "point": None,
    "value": None,
    "target": {"tag": "<b>hall</b>"},
}


def device(name: str, state: str, found: float | None, reason: str) -> dict[str, Any]:
    return {"device_id": name, "state": state, "found": found, "reason": reason}


DETAIL = {
    **ORDER, "expected_by": "2026-07-01T04:01:40Z",
    "settings": [device("m-1", "succeeded", 26.0, ""), device("ac-2", "scheduled", None, "device_busy")],
    "refused": [{"device_id": "ac-3", "message": "not below 26 degC", "message_zh": "不得低于 26 degC"}],
}  # fmt: skip


class SettingsApi(Api):
    def _found(self, path: str, query: str) -> Any:
        if path == "commands/settings/groups":
            return {"items": [ORDER, CLOCK], "next_cursor": None}
        return DETAIL if path == "commands/settings/groups/g-1" else super()._found(path, query)


@pytest.fixture
def api() -> Api:
    return SettingsApi()


def test_an_order_for_many_shows_its_progress_and_who_was_refused_and_why(page: Page) -> None:
    shown = page.locator("#orders tr[data-id=g-1] td")
    expect(shown.first).to_have_text("set point: temperature °C = 26", timeout=PATIENCE_MS)
    expect(shown.nth(1)).to_have_text("Tianhe · ac_unit", timeout=PATIENCE_MS)
    expect(shown.nth(4)).to_have_text("1 / 3", timeout=PATIENCE_MS)
    # What people call their groups is text and nothing else.
    expect(page.locator("#orders tr[data-id=g-2]")).to_contain_text("<b>hall</b>", timeout=PATIENCE_MS)
    expect(page.locator("#orders tr[data-id=g-2] td").first).to_have_text("clock", timeout=PATIENCE_MS)
    page.click("#orders tr[data-id=g-1] button")
    expect(page.locator("#order-figures")).to_have_text(
        "2 / 3 · succeeded 1 · scheduled 1 · expected by 12:01:40", timeout=PATIENCE_MS
    )
    assert page.locator("#order-bar").evaluate("bar => [bar.value, bar.max]") == [2, 3]
    rows = page.locator("#order-devices tbody tr")
    expect(rows).to_have_count(3, timeout=PATIENCE_MS)
    expect(rows.nth(0).locator("td")).to_have_text(["ac-3", "refused", "–", "not below 26 degC"], timeout=PATIENCE_MS)
    expect(rows.nth(1).locator("td")).to_have_text(["Feed meter", "succeeded", "26.0", ""], timeout=PATIENCE_MS)
    expect(rows.nth(2)).to_contain_text("device_busy", timeout=PATIENCE_MS)
    page.click("#order-close")
    page.click("#language")
    expect(shown.first).to_have_text("设定: 设定温度 ℃ = 26", timeout=PATIENCE_MS)
    page.click("#orders tr[data-id=g-1] button")
    expect(rows.nth(0)).to_contain_text("不得低于 26 degC", timeout=PATIENCE_MS)
