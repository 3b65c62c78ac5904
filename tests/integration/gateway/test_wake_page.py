"""One key on the overview page, in a real browser: the question, the progress, what is the matter, the release."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from services.gateway.pages import HEADERS, STATIC
from tests.peers.chromium import chromium

pytestmark = [pytest.mark.integration, pytest.mark.browser]

ORIGIN = "http://wattring.test"
PATIENCE_MS = 30_000
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

SITE = {"id": "site-1", "name": "Tianhe", "name_zh": "天河局站"}
REGION = {"id": "440100", "name": "Guangzhou", "name_zh": "广州市"}
FAULT = {
    "code": "S01", "fault": "no_answer", "name": "Device does not answer", "name_zh": "设备无应答",
    "text": "It stays silent", "text_zh": "设备未应答", "advice": "Check its supply", "advice_zh": "检查设备供电",
}  # fmt: skip


def asleep(load_id: str) -> dict[str, Any]:
    return {
        "load_id": load_id, "name": None, "site_id": "site-1", "device_id": f"b-{load_id}", "channel": None,
        "state": "scheduled", "awake": False, "attempts": 3, "sent_at": None, "changed_at": "2026-03-01T04:00:00Z",
        "reason": "device_silent", "hold": None, "fault": FAULT,
    }  # fmt: skip


class Api:
    """What the page is answered, and what it asked for."""

    def __init__(self) -> None:
        self.order: dict[str, Any] | None = None
        self.asked: list[tuple[str, Any, str | None]] = []
        self.refuses: str | None = None

    def answer(self, route: Route) -> None:
        request, url = route.request, urlsplit(route.request.url)
        if not url.path.startswith("/api/v1/"):
            self._file(route, "index.html" if url.path == "/" else url.path.removeprefix("/static/"))
        elif url.path == "/api/v1/live":
            route.fulfill(body="retry: 600000\n\n", content_type="text/event-stream")
        elif request.method == "GET":
            found = self._found(url.path.removeprefix("/api/v1/"), url.query)
            route.fulfill(status=404 if found is None else 200, json=found or {})
        elif self.refuses is not None:
            route.fulfill(status=403, json={"detail": self.refuses, "detail_zh": self.refuses})
        else:
            body = json.loads(request.post_data or "{}")
            self.asked.append((url.path, body, request.headers.get("idempotency-key")))
            if url.path.endswith("/release"):
                self.progress(released_at="2026-03-01T05:00:00Z", released_by="user:wang")
            else:
                self.progress(scope=body["scope"], target=body.get("target", ""))
            route.fulfill(status=202, json=self.order)

    def progress(self, **changes: Any) -> None:
        self.order = {
            "wake_up_id": "w-1", "scope": "site", "target": "site-1", "reason": "", "actor": "user:wang",
            "created_at": "2026-03-01T04:00:00Z", "suspends_plans": True, "released_at": None, "released_by": None,
            "loads": 60, "commanded": 60, "accepted": 58, "verified": 8, "held": 0, "failed": 52,
            "faults": [{"fault": FAULT, "loads": 52}], "state": "running", **(self.order or {}), **changes,
        }  # fmt: skip

    def _file(self, route: Route, name: str) -> None:
        kind = TYPES[Path(name).suffix]
        route.fulfill(path=STATIC / name, headers={**HEADERS, "content-type": f"{kind}; charset=utf-8"})

    def _found(self, path: str, query: str) -> Any:
        pages: dict[str, list[Any]] = {"sites": [SITE], "regions": [REGION]}
        if path == "auth/me":
            return {"name": "wang"}
        if path == "emissions":
            return None
        if path == "wake-ups/w-1":
            return self.order
        if path == "wake-ups":
            pages[path] = [] if self.order is None else [self.order]
        if path == "wake-ups/w-1/loads":
            assert self.order is not None
            left = [asleep(f"aau-{number:02}") for number in range(self.order["loads"] - self.order["verified"])]
            after = parse_qs(query).get("cursor", [""])[0]
            page = [one for one in left if one["load_id"] > after]
            return {"items": page[:50], "next_cursor": page[49]["load_id"] if len(page) > 50 else None}
        return {"items": pages.get(path, []), "next_cursor": None}


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def page(api: Api) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(locale="en-GB")
        page.set_default_timeout(PATIENCE_MS)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.route(f"{ORIGIN}/**", api.answer)
        page.goto(ORIGIN)
        yield page
        browser.close()
        assert problems == []


def ask(page: Page, scope: str, target: str | None) -> None:
    page.click("#wake-open")
    page.select_option("#wake-order [name=scope]", scope)
    if target is not None:
        page.fill("#wake-order [name=target]", target)
    page.fill("#wake-order [name=reason]", "storm")
    page.click("#wake-ask")


def test_a_site_is_woken_after_a_question_and_followed_until_it_is_on(page: Page, api: Api) -> None:
    ask(page, "site", "site-1")
    expect(page.locator("#wake-question")).to_have_text("Wake at once: site Tianhe", timeout=PATIENCE_MS)
    page.click("#wake-no")
    expect(page.locator("#wake-sure")).to_be_hidden(timeout=PATIENCE_MS)
    assert api.asked == []
    page.click("#wake-ask")
    page.click("#wake-yes")
    figures = page.locator("#wake-figures dd")
    expect(figures).to_have_text(["60", "60", "58", "8", "52", "0"], timeout=PATIENCE_MS)
    ((path, body, key),) = api.asked
    assert (path, body) == ("/api/v1/wake-ups", {"scope": "site", "target": "site-1", "reason": "storm"})
    assert key
    expect(page.locator("#wake-faults")).to_contain_text("S01 Device does not answer")
    expect(page.locator("#wake-faults")).to_contain_text("Check its supply")
    loads = page.locator("#wake-loads tbody tr[data-id]")
    expect(loads).to_have_count(50, timeout=PATIENCE_MS)
    page.click("#wake-more")
    expect(loads).to_have_count(2, timeout=PATIENCE_MS)
    expect(loads.first).to_contain_text("aau-50")
    page.click("#wake-back")
    expect(loads).to_have_count(50, timeout=PATIENCE_MS)
    # It is followed without being asked to.
    api.progress(verified=60, accepted=60, failed=0, faults=[], state="done")
    expect(figures).to_have_text(["60", "60", "60", "60", "0", "0"], timeout=PATIENCE_MS)
    expect(loads).to_have_count(0)
    page.click("#wake-release")
    expect(page.locator("#wake-release")).to_be_hidden(timeout=PATIENCE_MS)
    page.click("#wake-close")
    expect(page.locator("#wake-ups tr[data-id=w-1] .badge")).to_have_text(["all awake"], timeout=PATIENCE_MS)
    assert [path for path, _, _ in api.asked][1:] == ["/api/v1/wake-ups/w-1/release"]


def test_everything_needs_no_target_and_a_refusal_is_said_in_the_page_s_language(page: Page, api: Api) -> None:
    page.click("#language")
    api.refuses = "仅限部分局站"
    ask(page, "all", None)
    expect(page.locator("#wake-question")).to_have_text("确认立即唤醒： 全部负载", timeout=PATIENCE_MS)
    page.click("#wake-yes")
    expect(page.locator("#wake-problem")).to_have_text("仅限部分局站", timeout=PATIENCE_MS)
    api.refuses = None
    page.click("#wake-yes")
    expect(page.locator("#wake-faults")).to_contain_text("S01 设备无应答", timeout=PATIENCE_MS)
    expect(page.locator("#wake-loads")).to_contain_text("检查设备供电")
    assert api.asked[0][1] == {"scope": "all", "reason": "storm"}


def test_an_order_that_somebody_else_gave_is_on_the_page(page: Page, api: Api) -> None:
    api.progress(scope="region", target="440100", actor="user:li")
    page.reload()
    line = page.locator("#wake-ups tr[data-id=w-1]")
    expect(line).to_contain_text("user:li", timeout=PATIENCE_MS)
    expect(line.locator(".badge")).to_have_text(["52", "waking", "plans rest"])
    line.locator("button.link").click()
    expect(page.locator("#wake-title")).to_have_text("region 440100", timeout=PATIENCE_MS)
    expect(page.locator("#wake-figures dd").first).to_have_text("60")
