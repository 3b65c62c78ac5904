"""``make run`` as a newcomer meets it: started, looked at in a real browser, reported, stopped, started again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.peers.chromium import chromium

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.browser, pytest.mark.timeout(480)]

START_TIMEOUT_S = 180.0
STORY_TIMEOUT_MS = 150_000
STOP_TIMEOUT_S = 120.0
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def environment(folder: Path) -> dict[str, str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("WATTRING_", "KAFKA_", "DATABASE_"))
    }
    return {**clean, "WATTRING_DATA_DIR": str(folder), "PORT": "0", "LANG": "C.UTF-8"}


@contextmanager
def suite(folder: Path) -> Iterator[str]:
    """Run ``wattring up --demo``; yield everything it said up to *ready*. Stops it as Ctrl-C does."""
    output = folder.with_name(f"{folder.name}.out")
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "libs.suite", "up", "--demo"],
            env=environment(folder),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + START_TIMEOUT_S
    try:
        while "Ctrl-C" not in output.read_text(encoding="utf-8"):
            assert process.poll() is None, output.read_text(encoding="utf-8")
            assert time.monotonic() < end, output.read_text(encoding="utf-8")
            time.sleep(0.1)
        yield output.read_text(encoding="utf-8")
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=STOP_TIMEOUT_S)
    assert code == 0, output.read_text(encoding="utf-8")


def address(said: str) -> str:
    found = re.search(r"address\s+(http://\S+)", said)
    assert found, said
    return found[1]


def sign_in(page: Page, said: str, password: str) -> None:
    page.goto(address(said) + "/")
    page.fill("input[name=password]", password)
    page.click("#sign-in button")
    expect(page.locator("#overview")).to_be_visible(timeout=30_000)


def test_a_newcomer_sees_the_story_and_finds_it_again_after_a_restart(tmp_path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        folder = tmp_path / "data"
        with suite(folder) as said:
            password = re.search(r"password\s+(\S+)", said)
            assert password, said
            page = browser.new_page(locale="en-GB", viewport={"width": 1500, "height": 1200})
            problems: list[str] = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(address(said) + "/")
            page.fill("input[name=password]", "not the password")
            page.click("#sign-in button")
            expect(page.locator("#sign-in .problem")).to_have_text("name or password is wrong")
            sign_in(page, said, password[1])
            look_at_live_values(page)
            look_at_the_alarm(page)
            look_at_the_shutdown(page)
            look_at_energy_and_carbon(page)
            approve_what_somebody_else_has_drafted(page, folder)
            page.click("#language")
            expect(page.locator("#alarms")).to_contain_text("交流电压过低告警")
            assert problems == []
            page.goto(address(said) + "/docs")
            page.click("a[href='/docs/alarm']")
            expect(page.locator("#operations-alarms-get_alarms")).to_be_visible(timeout=90_000)
            command(folder, "demo-report", "--wait", "60")
        with suite(folder) as said:
            assert "password" not in said
            page = browser.new_page(locale="en-GB", viewport={"width": 1500, "height": 1200})
            sign_in(page, said, password[1])
            expect(page.locator("#alarms")).to_contain_text("ended", timeout=60_000)
            expect(page.locator("#occurrences")).to_contain_text("awake", timeout=60_000)
            expect(page.locator("#energy tbody tr")).to_have_count(12, timeout=60_000)
        browser.close()


def look_at_live_values(page: Page) -> None:
    rows = page.locator("#meters tbody tr[data-id]")
    expect(rows).to_have_count(10, timeout=60_000)
    feed = page.locator("#meters tr[data-id=meter-tianhe-feed]")
    expect(feed).to_contain_text(re.compile(r"2\d\d\.\d / 2\d\d\.\d / 2\d\d\.\d"), timeout=60_000)
    before = feed.inner_text()
    expect(feed).not_to_have_text(before, timeout=60_000)


def look_at_the_alarm(page: Page) -> None:
    alarm = page.locator("#alarms tbody tr[data-id]").first
    expect(alarm).to_contain_text("ended", timeout=STORY_TIMEOUT_MS)
    expect(alarm).to_contain_text("begin delivered", timeout=60_000)
    expect(alarm).to_contain_text("end delivered", timeout=60_000)
    alarm.locator("button.link").click()
    shown = page.locator("#alarm")
    expect(shown.locator("#alarm-course")).to_contain_text("end · Level", timeout=60_000)
    shown.locator("[name=words]").fill("looked at it")
    shown.locator("button[value=acknowledge]").click()
    expect(shown.locator("#alarm-course")).to_contain_text("user:admin: looked at it", timeout=60_000)
    expect(shown.locator("#alarm-facts")).to_contain_text("user:admin")
    page.click("#alarm-close")
    expect(alarm).to_contain_text("user:admin", timeout=60_000)


def look_at_the_shutdown(page: Page) -> None:
    commands = page.locator("#commands tbody tr[data-id]")
    expect(commands).to_have_count(2, timeout=STORY_TIMEOUT_MS)
    opened, closed = commands.filter(has_text="= 0 ("), commands.filter(has_text="= 1 (")
    expect(opened).to_contain_text("succeeded", timeout=STORY_TIMEOUT_MS)
    expect(opened.locator("td.number")).to_have_text("0.000")
    expect(closed).to_contain_text("succeeded", timeout=STORY_TIMEOUT_MS)
    expect(page.locator("#occurrences tbody tr[data-id]").first).to_contain_text("awake", timeout=60_000)
    breaker = page.locator("#meters tr[data-id=breaker-huangpu-aau-1]")
    expect(breaker).to_contain_text("closed", timeout=60_000)


def approve_what_somebody_else_has_drafted(page: Page, folder: Path) -> None:
    file = folder.with_name("nights.json")
    night = {
        "first_date": "2035-03-01",
        "last_date": "2035-03-31",
        "windows": [{"start": "23:59:59", "end": "06:00:00"}],
    }
    file.write_text(json.dumps({"name": "Nights", "load_ids": ["load-panyu-aau-1"], **night}))
    drafted = command(folder, "plan", "draft", str(file))
    plan = drafted.split()[-1]
    page.click("#plans-open")
    drafts = page.locator(f"#plans-list tr[data-id='{plan}']")
    expect(drafts).to_contain_text("draft", timeout=60_000)
    drafts.locator("button.link").click()
    expect(page.locator("#plan-figures")).to_contain_text("windows 31", timeout=60_000)
    page.click("#plan-approve")
    expect(drafts).to_contain_text("approved", timeout=60_000)
    page.fill("#plan-end [name=reason]", "looked at it")
    page.click("#plan-end button")
    expect(drafts).to_contain_text("ended", timeout=60_000)
    page.click("#plans-close")
    shown = command(folder, "plan", "show", plan)
    assert re.search(
        r"drafted by service:cli .*\n +approved by user:admin .*\n +ended by user:admin .* looked at it$", shown, re.M
    )


def command(folder: Path, *arguments: str) -> str:
    """Run ``wattring`` against the suite; return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "libs.suite", *arguments], env=environment(folder), capture_output=True, text=True,
        timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def look_at_energy_and_carbon(page: Page) -> None:
    hours = page.locator("#energy tbody tr[data-id]")
    expect(hours).to_have_count(12, timeout=60_000)
    expect(hours.first).to_contain_text("provisional")
    for number in (0, 5, 11):
        expect(hours.nth(number)).to_contain_text(re.compile(r"\d+\.\d\d\s+\d+\.\d\d"), use_inner_text=True)
    expect(page.locator("#factor")).to_contain_text("GRID-44-2023: 0.4419 kgCO2/kWh")
