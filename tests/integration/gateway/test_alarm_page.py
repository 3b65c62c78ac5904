"""The alarms of the overview page in a real browser: what a person sees of an alarm, and what the buttons ask for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
DEVICE = {"id": "m-1", "name": "Feed meter", "name_zh": "总表", "kind": "meter_3p", "profile": "p"}
ALARM: dict[str, Any] = {
    "alarm_id": "a-1",
    "state": "active",
    "site_id": "site-1",
    "device_id": "m-1",
    "subject": None,
    "signal": "0s16003001",
    "signal_name": "Voltage low",
    "signal_name_zh": "交流电压过低告警",
    "level": 2,
    "began_at": "2026-03-01T04:00:00Z",
    "ended_at": None,
    "end_reason": None,
    "inhibited_by": "window:w-1",
    "point": "voltage_a",
    "value": 150.0,
    "threshold": 187.0,
    "unit": "V",
    "detail": None,
    "detail_zh": None,
    "acknowledged_at": None,
    "acknowledged_by": None,
    "assigned_to": None,
    "flapping": False,
    "shelved_until": None,
    "shelved_by": None,
    "report_state": "waiting",
    "reports": [
        {
            "destination": "sc-1",
            "state": "waiting",
            "begin_reported_at": None,
            "end_reported_at": None,
            "error": "connection refused",
        }
    ],
    "diagnosis": {
        "state": "found",
        "diagnosis_id": "d-1",
        "cause": "power_lost",
        "confidence": "high",
        "began_at": "2026-03-01T04:01:00Z",
        "ended_at": None,
    },
    "deliveries": [
        {
            "destination": "sc-1",
            "item": "a-1:1",
            "item_kind": "alarm_begin",
            "state": "retrying",
            "attempts": 3,
            "at": "2026-03-01T04:00:05Z",
            "error": "connection refused",
        }
    ],
}
EVENT = {
    "sequence": 1,
    "phase": "begin",
    "level": 2,
    "began_at": ALARM["began_at"],
    "raised_at": "2026-03-01T04:00:02Z",
}
TOLD = {
    "channel_id": "duty",
    "kind": "news",
    "state": "failed",
    "created_at": "2026-03-01T04:00:30Z",
    "error": "no answer within 10 s",
    "error_zh": "10 秒内无应答",
}

FAULT = {
    "diagnosis_id": "d-1",
    "device_id": "m-1",
    "site_id": "site-1",
    "card": {"device_name": "总表"},
    "code": "90",
    "name_zh": "平台接口不可用",
    "name_en": "Platform interface unavailable",
    "advice_zh": "恢复平台接口后将自动重新分析",
    "advice_en": "It is looked into again once the platform answers",
    "confidence": "information",
    "evidence": [
        {"name": "silent", "value": True, "at": "2026-03-01T04:00:00Z", "source": "device.status", "decisive": True},
        {"name": "period_s", "value": 300, "at": "2026-03-01T04:00:00Z", "source": "registry", "decisive": False},
    ],
    "unreachable": [{"source": "card", "at": "2026-03-01T04:01:00Z", "reason": "HTTP 503"}],
    "began_at": "2026-03-01T04:01:00Z",
    "group_size": 9,
}

SOURCES = dict.fromkeys(("threshold", "level", "start_delay_s", "end_delay_s"), "dictionary")
RULES = [
    {
        "rule_id": "0s16003001",
        "name": "Voltage low",
        "name_zh": "交流电压过低告警",
        "threshold": 190.0,
        "unit": "V",
        "level": 2,
        "start_delay_s": 60.0,
        "end_delay_s": 30.0,
        "active": True,
        "sources": {**SOURCES, "threshold": "device:m-1"},
    },
    {
        "rule_id": "0s16004001",
        "name": "Voltage high",
        "name_zh": "交流电压过高告警",
        "threshold": None,
        "unit": "V",
        "level": 3,
        "start_delay_s": 60.0,
        "end_delay_s": 30.0,
        "active": False,
        "sources": SOURCES,
    },
]
SETTING = {
    "point": "setting_undervoltage",
    "name_zh": "欠压定值",
    "unit": "V",
    "wanted": 190.0,
    "found": 180.0,
    "found_at": "2026-03-01T04:00:00Z",
    "differs": True,
}


class Api:
    """What the page is answered, and what it asked for."""

    def __init__(self) -> None:
        self.alarm = dict(ALARM)
        self.notes: list[dict[str, str]] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.refuses: str | None = None

    def answer(self, route: Route) -> None:
        request, path = route.request, urlsplit(route.request.url).path
        if not path.startswith("/api/v1/"):
            self._file(route, "index.html" if path == "/" else path.removeprefix("/static/"))
        elif path == "/api/v1/live":
            route.fulfill(body="retry: 600000\n\n", content_type="text/event-stream")
        elif request.method == "GET":
            found = self._found(path.removeprefix("/api/v1/"), urlsplit(request.url).query)
            route.fulfill(status=404 if found is None else 200, json=found or {})
        elif self.refuses is not None:
            route.fulfill(status=409, json={"detail": self.refuses, "detail_zh": self.refuses})
        else:
            body = None if request.post_data is None else json.loads(request.post_data)
            self._take(request.method, path.removeprefix("/api/v1/alarms/a-1/"), body)
            route.fulfill(status=202, json=self._detail())

    def _file(self, route: Route, name: str) -> None:
        kind = TYPES[Path(name).suffix]
        route.fulfill(path=STATIC / name, headers={**HEADERS, "content-type": f"{kind}; charset=utf-8"})

    def _found(self, path: str, query: str) -> Any:
        pages: dict[str, list[Any]] = {
            "sites": [SITE],
            "devices": [DEVICE],
            "notifications": [TOLD],
            "diagnoses": [FAULT],
        }
        if path == "auth/me":
            return {"name": "wang"}
        if path == "alarms/a-1":
            return self._detail()
        if path == "alarms":
            wanted = re.search(r"state=(\w+)", query)
            assert wanted is not None
            pages["alarms"] = [self.alarm] if wanted[1] == self.alarm["state"] else []
        elif path == "emissions":
            return None
        elif path == "alarm-rules/effective":
            return {"rules": RULES}
        elif path == "alarm-rules/device-settings":
            pages[path] = [SETTING]
        return {"items": pages.get(path, []), "next_cursor": None}

    def _detail(self) -> dict[str, Any]:
        return {**self.alarm, "events": [EVENT], "notes": self.notes}

    def _take(self, method: str, action: str, body: Any) -> None:
        self.asked.append((method, action, body))
        if body and (said := body.get("note") or body.get("reason")):
            self.notes.append({"at": "2026-03-01T04:10:00Z", "actor": "user:wang", "note": said})
        if action == "acknowledge":
            self.alarm |= {"acknowledged_at": "2026-03-01T04:10:00Z", "acknowledged_by": "user:wang"}
        elif action == "assign":
            self.alarm["assigned_to"] = body["to"]
        elif action == "shelve":
            self.alarm |= {"shelved_until": body["until"], "shelved_by": "user:wang"}
        elif action == "shelf":
            self.alarm |= {"shelved_until": None, "shelved_by": None}
        elif action == "clear":
            self.alarm |= {"state": "ended", "ended_at": "2026-03-01T04:11:00Z", "end_reason": "manual"}


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


def open_alarm(page: Page) -> None:
    page.click("#alarms tr[data-id=a-1] button.link")
    expect(page.locator("#alarm")).to_be_visible(timeout=PATIENCE_MS)


def test_an_alarm_shows_what_explains_it_its_course_and_who_was_told(page: Page) -> None:
    line = page.locator("#alarms tr[data-id=a-1]")
    expect(line).to_contain_text("explained: maintenance window", timeout=PATIENCE_MS)
    expect(line).to_contain_text("begin retrying", timeout=PATIENCE_MS)
    open_alarm(page)
    shown = page.locator("#alarm")
    expect(shown).to_contain_text("Voltage low · Feed meter", timeout=PATIENCE_MS)
    expect(shown).to_contain_text("voltage_a 150 V (threshold 187)", timeout=PATIENCE_MS)
    expect(shown).to_contain_text("sc-1: waiting", timeout=PATIENCE_MS)
    expect(shown).to_contain_text("found power_lost", timeout=PATIENCE_MS)
    expect(page.locator("#alarm-course")).to_contain_text("begin · Level 2", timeout=PATIENCE_MS)
    expect(page.locator("#alarm-told")).to_contain_text(
        "sc-1: begin retrying (3) connection refused", timeout=PATIENCE_MS
    )
    expect(page.locator("#alarm-told")).to_contain_text(
        "duty: news not taken no answer within 10 s", timeout=PATIENCE_MS
    )
    page.click("#alarm-close")
    page.click("#language")
    expect(line).to_contain_text("已抑制: 维护窗口", timeout=PATIENCE_MS)
    open_alarm(page)
    expect(page.locator("#alarm-told")).to_contain_text("10 秒内无应答", timeout=PATIENCE_MS)


def test_a_person_takes_an_alarm_up_hands_it_on_shelves_it_and_ends_it(page: Page, api: Api) -> None:
    open_alarm(page)
    button = page.locator("#alarm-do button")
    button.get_by_text("Acknowledge").click()
    expect(page.locator("#alarm-facts")).to_contain_text("user:wang", timeout=PATIENCE_MS)
    page.fill("#alarm-do [name=words]", "on my way")
    button.get_by_text("Add note").click()
    expect(page.locator("#alarm-course")).to_contain_text("user:wang: on my way", timeout=PATIENCE_MS)
    page.fill("#alarm-do [name=to]", "lin")
    button.get_by_text("Assign", exact=True).click()
    expect(page.locator("#alarm-facts")).to_contain_text("lin", timeout=PATIENCE_MS)
    expect(button.get_by_text("Take off the shelf")).to_be_disabled(timeout=PATIENCE_MS)
    page.fill("#alarm-do [name=words]", "spare part")
    page.fill("#alarm-do [name=hours]", "2")
    button.get_by_text("Shelve", exact=True).click()
    expect(button.get_by_text("Take off the shelf")).to_be_enabled(timeout=PATIENCE_MS)
    button.get_by_text("Take off the shelf").click()
    expect(button.get_by_text("Take off the shelf")).to_be_disabled(timeout=PATIENCE_MS)
    page.fill("#alarm-do [name=words]", "checked on site")
    button.get_by_text("End", exact=True).click()
    expect(page.locator("#alarm-facts")).to_contain_text("ended by a person", timeout=PATIENCE_MS)
    expect(button.get_by_text("End", exact=True)).to_be_disabled(timeout=PATIENCE_MS)
    shelved = api.asked[3]
    assert shelved[:2] == ("POST", "shelve")
    assert shelved[2]["reason"] == "spare part"
    assert [(method, action, body) for method, action, body in api.asked if action != "shelve"] == [
        ("POST", "acknowledge", {"note": None}),
        ("POST", "notes", {"note": "on my way"}),
        ("POST", "assign", {"to": "lin", "note": None}),
        ("DELETE", "shelf", None),
        ("POST", "clear", {"reason": "checked on site"}),
    ]


def test_what_is_missing_or_refused_is_said(page: Page, api: Api) -> None:
    open_alarm(page)
    button = page.locator("#alarm-do button")
    button.get_by_text("End", exact=True).click()
    expect(page.locator("#alarm-problem")).to_have_text("Write a note or a reason first", timeout=PATIENCE_MS)
    assert api.asked == []
    api.refuses = "alarm a-1 ended already"
    page.fill("#alarm-do [name=words]", "checked")
    button.get_by_text("End", exact=True).click()
    expect(page.locator("#alarm-problem")).to_have_text("alarm a-1 ended already", timeout=PATIENCE_MS)
    assert page.input_value("#alarm-do [name=words]") == "checked"


def test_a_fault_shows_its_advice_what_it_rests_on_and_who_could_not_tell(page: Page) -> None:
    fault = page.locator("#faults tr[data-id=d-1]")
    expect(fault).to_contain_text("90 Platform interface unavailable", timeout=PATIENCE_MS)
    expect(fault).to_contain_text("devices with this cause: 9")
    expect(fault).to_contain_text("It is looked into again")
    expect(fault.locator("summary")).to_have_text("silent = true")
    fault.locator("summary").click()
    expect(fault.locator("details")).to_contain_text("period_s = 300 (registry")
    expect(fault.locator("details")).to_contain_text("could not tell: card: HTTP 503")
    page.click("#language")
    expect(fault).to_contain_text("恢复平台接口后将自动重新分析", timeout=PATIENCE_MS)


def test_a_device_shows_what_it_is_judged_by_where_that_comes_from_and_what_it_is_set_to(page: Page) -> None:
    page.click("#meters tr[data-id=m-1] button.link")
    low = page.locator("#rules-held tr[data-id='0s16003001']")
    expect(low).to_contain_text("190 V", timeout=PATIENCE_MS)
    expect(low.locator(".badge")).to_have_text(["device", "judged"])
    expect(page.locator("#rules-held tr[data-id='0s16004001'] .badge")).to_have_text(["asleep"])
    expect(page.locator("#rules-set tr")).to_contain_text(["Setting", "190 V180 V"])
    expect(page.locator("#rules-set .badge")).to_have_text(["differs from platform"])
    page.click("#rules-close")
    page.click("#language")
    page.click("#meters tr[data-id=m-1] button.link")
    expect(low).to_contain_text("交流电压过低告警", timeout=PATIENCE_MS)
    expect(page.locator("#rules-set .badge")).to_have_text(["与平台不一致"])
