"""``wattring money``: what a person is told of imports, costs and accruals."""

from pathlib import Path
from typing import Any

import pytest

from libs.suite.api import Refused
from libs.suite.importing import NotImported
from libs.suite.moneycli import import_bills, import_prices, import_tariffs, list_accruals, show_cost
from libs.suite.words import words_for

ENGLISH, CHINESE = words_for("en"), words_for("zh")
COST: dict[str, Any] = {
    "bands": [
        {"band": "peak", "energy_kwh": "868.0", "cost_cny": "911.40"},
        {"band": None, "energy_kwh": "2.0", "cost_cny": None},
    ],
    "energy_kwh": "870.0", "cost_cny": None, "interval_completeness": 0.9678,
    "unknown": [{"reason": "no_price", "text": "no price is entered for X", "text_zh": "未录入电价:X"}],
}  # fmt: skip
MARCH: dict[str, Any] = {
    "account_number": "0320001", "month": "2026-03", "billed_cny": "1200.00", "open_days": 11, "open_cny": "651.33",
}  # fmt: skip


class Suite:
    """Answers as the suite would."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def get(self, path: str, **params: Any) -> Any:
        self.asked.append((path, params))
        return self.answers.pop(0)

    def upload(self, path: str, content: bytes, *, media_type: str, **params: Any) -> Any:
        self.asked.append((path, {"content": content, **params}))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "table.csv"
    found.write_bytes(b"a,b\n")
    return found


def test_imports_say_what_they_did(file: Path) -> None:
    told: list[str] = []
    tariff = {"tariff_id": "GD-2026", "revision": 1, "windows": 8, "valid_from": "2026-07-01", "valid_to": None}
    suite = Suite(
        {"items": [tariff]},
        {"items": [1, 2], "unchanged": 3},
        {"bills": 4, "corrected": 1},
        {"bills": 2, "corrected": 0},
    )
    import_tariffs(suite, ENGLISH, told.append, file, end_previous=True)
    import_prices(suite, CHINESE, told.append, file)
    import_bills(suite, ENGLISH, told.append, file)
    import_bills(suite, CHINESE, told.append, file, path="bills/media/imports")
    assert told == [
        "GD-2026: revision 1, 8 windows, 2026-07-01 to open",
        "录入电价 2 条,未变 3 条",
        "4 bills entered, 1 of them corrected",
        "录入账单 2 张,其中更正 0 张",
    ]
    assert suite.asked[0] == (
        "tariffs/imports", {"content": b"a,b\n", "file": "table.csv", "end_previous": True},
    )  # fmt: skip
    assert [path for path, _ in suite.asked[1:]] == ["tariffs/prices/imports", "bills/imports", "bills/media/imports"]


def test_what_is_refused_is_told_in_the_words_of_the_suite(file: Path, tmp_path: Path) -> None:
    suite = Suite(Refused("line 3: energy_kwh", message_zh="第 3 行:电量"))
    with pytest.raises(NotImported, match="line 3") as refused:
        import_bills(suite, CHINESE, print, file)
    assert refused.value.message_zh == "第 3 行:电量"
    with pytest.raises(NotImported, match="cannot be read"):
        import_prices(suite, ENGLISH, print, tmp_path / "missing.csv")


def test_a_cost_is_told_by_band_with_what_is_unknown() -> None:
    told: list[str] = []
    suite = Suite(COST, COST)
    show_cost(suite, ENGLISH, told.append, first="2026-03-01", last="2026-04-01", site="site-1", account=None)
    assert told == [
        "peak: 868.00 kWh, 911.40 CNY",
        "no tariff: 2.00 kWh, cost unknown",
        "total: 870.00 kWh, cost unknown, intervals known: 96.8%",
        "no price is entered for X",
    ]
    span = {"from": "2026-03-01T00:00:00+08:00", "to": "2026-04-01T00:00:00+08:00"}
    assert suite.asked == [("energy/cost", {"site": "site-1", "account": None, **span})]
    show_cost(suite, CHINESE, told.append, first="2026-03-01", last="2026-04-01", site="site-1", account=None)
    assert told[-2:] == ["合计:870.00 kWh,电费未知,区间完整率:96.8%", "未录入电价:X"]


def test_accruals_are_told_page_by_page() -> None:
    told: list[str] = []
    april = {**MARCH, "month": "2026-04", "open_cny": None}
    suite = Suite({"items": [MARCH], "next_cursor": "next"}, {"items": [april], "next_cursor": None})
    list_accruals(suite, ENGLISH, told.append, first="2026-03-01", site=None, account="0320001")
    assert told == [
        "0320001 2026-03: billed 1200.00 CNY; 11 days open, 651.33 CNY",
        "0320001 2026-04: billed 1200.00 CNY; 11 days open, cost unknown",
    ]
    assert [params["cursor"] for _, params in suite.asked] == [None, "next"]
