"""Feeds on the page, in a real browser: destinations and their batches, the buttons, a day on both sides, new ones."""

from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.integration.gateway.test_alarm_page import PATIENCE_MS, Api, page

pytestmark = [pytest.mark.integration, pytest.mark.browser]
__all__ = ["page"]

FEED: dict[str, Any] = {
    "id": "f-1", "name": "<i>both</i>", "owner": "user:wang", "sites": ["region:440100"], "devices": None,
    "points": ["energy_*"], "last_batch": 7,
}  # fmt: skip
DESTINATION: dict[str, Any] = {
    "id": "d-1", "feed_id": "f-1", "name": "energy company", "kind": "http", "party": "key:esco", "state": "active",
    "address": {"url": "https://esco.example.com/in", "auth": "bearer"}, "failures": 6, "error": "it answered 503",
    "waiting": 2,
}  # fmt: skip
TOLD = {
    "batch": 5, "state": "delivered", "attempts": 3, "status": 200, "error": None, "last_at": "2026-07-01T04:00:00Z",
}  # fmt: skip
TALLY = {"rows": 20, "hash": "a" * 64, "points": {"energy_active_import": {"rows": 20, "values": 19, "sum": "10046.5"}}}
STATEMENT = {
    **TALLY, "batches": [{"batch": n} for n in range(1, 8)],
    "destinations": [
        {**TALLY, "name": "energy company", "told": [[1, 3], [5, 5]], "missing": [[4, 4], [6, 7]], "complete": False},
        {**TALLY, "name": "owner", "told": [[1, 7]], "missing": [], "complete": True},
    ],
}  # fmt: skip


class FeedApi(Api):
    """One feed and one destination to begin with; what is asked for is done to them."""

    def __init__(self) -> None:
        super().__init__()
        self.feeds = [dict(FEED)]
        self.destinations = [dict(DESTINATION)]

    def answer(self, route: Route) -> None:
        path, query = urlsplit(route.request.url).path.removeprefix("/api/v1/"), urlsplit(route.request.url).query
        if route.request.method == "GET" and path.startswith("feeds"):
            route.fulfill(json=self._of_feeds(path, query))
            return
        if route.request.method != "POST" or not path.startswith("feeds") or self.refuses is not None:
            super().answer(route)
            return
        action = path.rpartition("/")[2]
        sent = route.request.post_data_json if route.request.post_data else None
        self.asked.append(("POST", path, sent))
        if action == "feeds":
            self.feeds.append({**FEED, "points": None, "sites": None, **(sent or {}), "id": "f-2"})
            route.fulfill(status=201, json=self.feeds[-1])
        elif action == "destinations":
            self.destinations.append({**DESTINATION, **(sent or {}), "id": "d-2", "failures": 0, "error": None})
            route.fulfill(status=201, json=self.destinations[-1])
        elif action == "test":
            route.fulfill(json={"body": "{}", "outcome": "refused", "status": 404, "took_s": 0.254, "error": None})
        elif action == "dry-run":
            route.fulfill(json={"body": '{"batch":0}', "outcome": None, "status": None, "took_s": None, "error": None})
        else:
            self.destinations[0]["state"] = "paused" if action == "pause" else "active"
            route.fulfill(json=self.destinations[0])

    def _of_feeds(self, path: str, query: str) -> Any:
        if path == "feeds":
            return self.feeds
        if path == "feeds/f-1/destinations":
            return self.destinations
        if path == "feeds/f-2/destinations":
            return []
        if path == "feeds/f-1/destinations/d-1/deliveries":
            return [TOLD] if "before" in query else [{**TOLD, "batch": n} for n in range(55, 5, -1)]
        assert path.startswith("feeds/f-1/statements/")
        return STATEMENT


@pytest.fixture
def api() -> FeedApi:
    return FeedApi()


def test_destinations_and_their_batches_are_shown(page: Page) -> None:
    page.click("#feeds-open")
    # What people call theirs is text and nothing else.
    expect(page.locator("#feeds-list tr[data-id=f-1]")).to_contain_text("<i>both</i>", timeout=PATIENCE_MS)
    shown = page.locator("#feeds-list tr[data-id=d-1]")
    expect(shown).to_contain_text("http https://esco.example.com/in", timeout=PATIENCE_MS)
    expect(shown).to_contain_text("it answered 503", timeout=PATIENCE_MS)
    shown.locator("button.link").click()
    expect(page.locator("#feeds-batches tr[data-id='55']")).to_contain_text("delivered", timeout=PATIENCE_MS)
    page.click("#feeds-more")
    expect(page.locator("#feeds-batches tr[data-id='5']")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("#feeds-more")).to_be_disabled(timeout=PATIENCE_MS)
    page.click("#feeds-back")
    expect(page.locator("#feeds-batches tr[data-id='55']")).to_be_visible(timeout=PATIENCE_MS)


def test_a_day_is_shown_on_both_sides(page: Page) -> None:
    page.click("#feeds-open")
    page.locator("#feeds-list tr[data-id=f-1] [data-action=statement]").click()
    lines = page.locator("#feeds-sides tbody tr")
    expect(lines).to_have_count(3, timeout=PATIENCE_MS)
    expect(lines.nth(1)).to_contain_text("1–3, 5", timeout=PATIENCE_MS)
    expect(lines.nth(1)).to_contain_text("4, 6–7", timeout=PATIENCE_MS)
    expect(lines.nth(1)).to_contain_text("lacks some", timeout=PATIENCE_MS)
    expect(lines.nth(2)).to_contain_text("complete", timeout=PATIENCE_MS)
    expect(page.locator("#feeds-points tbody tr")).to_contain_text("10046.5", timeout=PATIENCE_MS)
    page.fill("#feeds-date", "2026-03-08")
    expect(page.locator("#feeds-day-title")).to_contain_text("2026-03-08", timeout=PATIENCE_MS)


def test_the_buttons_try_show_and_pause(page: Page, api: FeedApi) -> None:
    page.click("#feeds-open")
    shown, said = page.locator("#feeds-list tr[data-id=d-1]"), page.locator("#feeds-said")
    shown.locator("[data-action=test]").click()
    expect(said).to_have_text("Test: refused 404 (0.25 s)", timeout=PATIENCE_MS)
    shown.locator("[data-action=dry-run]").click()
    expect(said).to_have_text('Dry run: {"batch":0}', timeout=PATIENCE_MS)
    shown.locator("[data-action=pause]").click()
    expect(shown.locator(".badge")).to_have_text("paused", timeout=PATIENCE_MS)
    shown.locator("[data-action=resume]").click()
    expect(shown.locator(".badge")).to_have_text("active", timeout=PATIENCE_MS)
    api.refuses = "not yours"
    shown.locator("[data-action=pause]").click()
    expect(page.locator("#feeds-problem")).to_have_text("not yours", timeout=PATIENCE_MS)


def test_a_new_feed_and_a_destination_of_it(page: Page, api: FeedApi) -> None:
    page.click("#feeds-open")
    page.fill("#feeds-new [name=name]", "forecast")
    page.fill("#feeds-new [name=points]", "energy_*, active_power_total")
    page.click("#feeds-new button[type=submit]")
    expect(page.locator("#feeds-list tr[data-id=f-2]")).to_contain_text("forecast", timeout=PATIENCE_MS)
    page.select_option("#feeds-to [name=feed]", "f-1")
    page.fill("#feeds-to [name=name]", "their table")
    page.select_option("#feeds-to [name=kind]", "postgresql")
    expect(page.locator("#feeds-to [name=address]")).to_have_value('{"host":"","port":5432,"database":"","user":"",'
        '"table":"readings","batches":"batches","tls":true}', timeout=PATIENCE_MS)  # fmt: skip
    page.fill("#feeds-to [name=address]", '{"host": "db.example.com"}')
    page.fill("#feeds-to [name=secrets]", "{password}")
    page.click("#feeds-to button[type=submit]")
    expect(page.locator("#feeds-problem")).to_contain_text("is no JSON", timeout=PATIENCE_MS)
    page.fill("#feeds-to [name=secrets]", '{"password": "p"}')
    page.click("#feeds-to button[type=submit]")
    expect(page.locator("#feeds-list tr[data-id=d-2]")).to_contain_text("their table", timeout=PATIENCE_MS)
    assert api.asked == [
        ("POST", "feeds", {"name": "forecast", "points": ["energy_*", "active_power_total"]}),
        ("POST", "feeds/f-1/destinations", {
            "name": "their table", "kind": "postgresql", "address": {"host": "db.example.com"},
            "secrets": {"password": "p"},
        }),
    ]  # fmt: skip
    expect(page.locator("#feeds-to [name=secrets]")).to_have_value("", timeout=PATIENCE_MS)
