"""Callbacks on the page, in a real browser: who is called, a new one with its secret, the buttons, and deliveries."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from services.export.domain.callbacks import TYPES
from services.gateway.pages import STATIC
from tests.integration.gateway.test_alarm_page import PATIENCE_MS, Api, page

pytestmark = [pytest.mark.integration, pytest.mark.browser]
__all__ = ["page"]

CALLBACK: dict[str, Any] = {
    "id": "cb-1", "name": "<i>work orders</i>", "owner": "user:wang", "url": "https://app.example.com/hook",
    "types": ["alarm.begin"], "sites": None, "actors": None, "points": None, "kinds": None, "state": "active",
    "state_reason": None, "failures": 6, "error": "HTTP 503", "waiting": 7,
}  # fmt: skip
DELIVERY = {
    "event_id": "e-1", "type": "alarm.begin", "resource": "alarm/a-1", "sequence": 3, "state": "retrying",
    "attempts": 2, "status": 503, "error": "the receiver is not able to", "queued_at": "2026-07-01T04:00:00Z",
}  # fmt: skip


class CallbackApi(Api):
    """One endpoint to begin with; what is asked for is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks = [dict(CALLBACK)]

    def answer(self, route: Route) -> None:
        path = urlsplit(route.request.url).path.removeprefix("/api/v1/callbacks")
        if route.request.method != "POST" or path == urlsplit(route.request.url).path or self.refuses is not None:
            super().answer(route)
            return
        action = path.rpartition("/")[2]
        sent = route.request.post_data_json if route.request.post_data else None
        self.asked.append(("POST", action, sent))
        if action == "":
            made = {
                **CALLBACK,
                **(sent or {}),
                "id": "cb-2",
                "failures": 0,
                "error": None,
                "waiting": 0,
            }
            self.callbacks.append(made)
            route.fulfill(status=201, json={**made, "secret": "whsec_new"})
        elif action == "test":
            route.fulfill(json={"event_id": "t-1", "outcome": "refused", "status": 404, "took_s": 0.254, "error": None})
        elif action == "rotate-secret":
            route.fulfill(json={"secret": "whsec_other", "previous_until": "2026-07-02T04:00:00Z"})
        else:
            self.callbacks[0]["state"] = "paused" if action == "pause" else "active"
            route.fulfill(json=self.callbacks[0])

    def _found(self, path: str, query: str) -> Any:
        if path == "callbacks":
            return self.callbacks
        if path == "callbacks/cb-1/deliveries":
            first = {"items": [DELIVERY], "next_cursor": "c-1"}
            last = {"items": [{**DELIVERY, "event_id": "e-0", "state": "delivered"}], "next_cursor": None}
            return last if "cursor=c-1" in query else first
        return super()._found(path, query)


@pytest.fixture
def api() -> CallbackApi:
    return CallbackApi()


def test_what_can_be_chosen_is_what_export_tells() -> None:
    listed = re.search(r"CALLBACK_TYPES = \[(.*?)\]", (STATIC / "callbacks.js").read_text(), re.DOTALL)
    assert listed is not None
    assert sorted(re.findall(r'"([a-z.]+)"', listed[1])) == sorted(each.value for each in TYPES)


def test_endpoints_and_their_deliveries_are_shown(page: Page) -> None:
    page.click("#callbacks-open")
    shown = page.locator("#callbacks-list tr[data-id=cb-1]")
    # What people call theirs is text and nothing else.
    expect(shown).to_contain_text("<i>work orders</i>", timeout=PATIENCE_MS)
    expect(shown).to_contain_text("HTTP 503", timeout=PATIENCE_MS)
    shown.locator("button.link").click()
    line = page.locator("#callbacks-deliveries tbody tr")
    expect(line).to_contain_text("alarm/a-1 #3", timeout=PATIENCE_MS)
    expect(line).to_contain_text("tried again", timeout=PATIENCE_MS)
    expect(line).to_contain_text("503 the receiver is not able to", timeout=PATIENCE_MS)
    page.click("#callbacks-more")
    expect(page.locator("#callbacks-deliveries tr[data-id=e-0]")).to_contain_text("delivered", timeout=PATIENCE_MS)
    expect(page.locator("#callbacks-more")).to_be_disabled(timeout=PATIENCE_MS)
    page.click("#callbacks-back")
    expect(page.locator("#callbacks-deliveries tr[data-id=e-1]")).to_be_visible(timeout=PATIENCE_MS)


def test_a_new_one_shows_its_secret_once(page: Page, api: CallbackApi) -> None:
    page.click("#callbacks-open")
    page.fill("#callbacks-new [name=name]", "forecast")
    page.fill("#callbacks-new [name=url]", "https://forecast.example.com/")
    page.select_option("#callbacks-new [name=types]", ["readings.batch", "intervals.batch"])
    page.fill("#callbacks-new [name=sites]", "site-1, region:440100")
    page.fill("#callbacks-new [name=kinds]", "meter_3p")
    page.click("#callbacks-new button[type=submit]")
    expect(page.locator("#callbacks-said")).to_have_text("Secret, shown this once: whsec_new", timeout=PATIENCE_MS)
    expect(page.locator("#callbacks-list tr[data-id=cb-2]")).to_contain_text("forecast", timeout=PATIENCE_MS)
    assert api.asked == [("POST", "", {
        "name": "forecast", "url": "https://forecast.example.com/", "only_mine": False,
        "types": ["readings.batch", "intervals.batch"], "sites": ["site-1", "region:440100"], "kinds": ["meter_3p"],
    })]  # fmt: skip
    page.click("#callbacks-close")
    page.click("#callbacks-open")
    expect(page.locator("#callbacks-said")).to_have_text("", timeout=PATIENCE_MS)


def test_the_buttons_try_pause_and_give_a_new_secret(page: Page, api: CallbackApi) -> None:
    page.click("#callbacks-open")
    shown, said = page.locator("#callbacks-list tr[data-id=cb-1]"), page.locator("#callbacks-said")
    shown.locator("[data-action=test]").click()
    expect(said).to_have_text("Test: refused 404 (0.25 s)", timeout=PATIENCE_MS)
    shown.locator("[data-action=pause]").click()
    expect(shown.locator(".badge")).to_have_text("paused", timeout=PATIENCE_MS)
    shown.locator("[data-action=resume]").click()
    expect(shown.locator(".badge")).to_have_text("active", timeout=PATIENCE_MS)
    shown.locator("[data-action=rotate-secret]").click()
    expect(said).to_contain_text("Secret, shown this once: whsec_other", timeout=PATIENCE_MS)
    assert [action for _, action, _ in api.asked] == ["test", "pause", "resume", "rotate-secret"]
    api.refuses = "not yours"
    shown.locator("[data-action=pause]").click()
    expect(page.locator("#callbacks-problem")).to_have_text("not yours", timeout=PATIENCE_MS)
