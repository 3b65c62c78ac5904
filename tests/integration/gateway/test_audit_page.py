"""The audit of switching on the page, in a real browser: entries, filters, pages, and who may not see it."""

from typing import Any
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Page, expect

from tests.integration.gateway.test_wake_page import PATIENCE_MS, Api, page

pytestmark = [pytest.mark.integration, pytest.mark.browser]
__all__ = ["page"]

HASH = "ab" * 32


def entry(seq: int, **changes: Any) -> dict[str, Any]:
    return {
        "seq": seq, "entry_id": f"e-{seq}", "at": "2026-03-01T04:00:00Z", "actor": "user:li", "door": "console",
        "action": "plan.approve", "subject": "plan:p-1", "reason": None, "succeeded": True,
        "before": {"state": "draft"}, "after": {"state": "approved"}, "hash": HASH, **changes,
    }  # fmt: skip


class AuditApi(Api):
    """Sixty entries, of which every tenth was refused."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = [entry(seq, succeeded=seq % 10 != 0) for seq in range(60, 0, -1)]

    def _found(self, path: str, query: str) -> Any:
        if path == "commands/audit/head":
            return {"seq": 60, "hash": HASH, "at": "2026-03-01T04:00:00Z", "signature": "x"}
        if path == "commands/audit":
            wanted = {name: values[0] for name, values in parse_qs(query).items()}
            found = [
                one for one in self.entries
                if (wanted.get("succeeded") != "false" or not one["succeeded"])
                and one["seq"] < int(wanted.get("cursor", "61")) and wanted.get("subject", "plan:p-1") == one["subject"]
            ]  # fmt: skip
            left = found[50:]
            return {"items": found[:50], "next_cursor": str(found[49]["seq"]) if left else None}
        return super()._found(path, query)


@pytest.fixture
def api() -> Api:
    return AuditApi()


def test_entries_are_shown_page_by_page_and_filtered(page: Page) -> None:
    page.click("#audit-open")
    rows = page.locator("#audit-entries tbody tr")
    expect(rows).to_have_count(50, timeout=PATIENCE_MS)
    expect(rows.first).to_contain_text("plan:p-1", timeout=PATIENCE_MS)
    expect(rows.first).to_contain_text("refused or failed", timeout=PATIENCE_MS)
    expect(page.locator("#audit-head")).to_have_text(
        "The chain ends with 60 · SHA-256 abababababababab…", timeout=PATIENCE_MS
    )
    rows.first.locator("summary").click()
    expect(rows.first.locator("pre").last).to_contain_text('"state": "approved"', timeout=PATIENCE_MS)
    page.click("#audit-more")
    expect(rows).to_have_count(10, timeout=PATIENCE_MS)
    expect(page.locator("#audit-more")).to_be_disabled(timeout=PATIENCE_MS)
    page.click("#audit-back")
    expect(rows).to_have_count(50, timeout=PATIENCE_MS)
    page.check("#audit-filter [name=failed]")
    page.click("#audit-filter button")
    expect(rows).to_have_count(6, timeout=PATIENCE_MS)
    page.fill("#audit-filter [name=subject]", "load:nowhere")
    page.click("#audit-filter button")
    expect(rows).to_have_count(1, timeout=PATIENCE_MS)
    expect(rows.first).to_have_text("Nothing yet", timeout=PATIENCE_MS)


def test_it_speaks_chinese_and_says_who_may_not_see_it(page: Page, api: Api) -> None:
    page.click("#language")
    page.click("#audit-open")
    expect(page.locator("#audit-entries tbody tr").first).to_contain_text("被拒绝或失败", timeout=PATIENCE_MS)
    expect(page.locator("#audit-head")).to_contain_text("审计链末条 60", timeout=PATIENCE_MS)
    page.click("#audit-close")
    page.route(
        "**/api/v1/commands/audit?**",
        lambda route: route.fulfill(status=403, json={"detail": "lacks control:admin", "detail_zh": "没有权限"}),
    )
    page.click("#audit-open")
    expect(page.locator("#audit-problem")).to_have_text("没有权限", timeout=PATIENCE_MS)
