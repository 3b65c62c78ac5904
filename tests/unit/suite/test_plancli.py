"""``wattring plan simulate``: a stored plan or a file, in sum and by load, in both languages."""

from pathlib import Path
from typing import Any

import pytest

from libs.common.errors import InvalidInput
from libs.suite.plancli import simulate_plan
from libs.suite.words import Words

STALE = {"guard": "stale_data", "count": 1, "message": "not read", "message_zh": "未读取"}
FOUND: dict[str, Any] = {
    "count": 4, "switched": 3, "hours_off": 6.0, "saved_kwh": 8.4, "covered": 0.875, "skipped": [STALE], "ahead": 2,
    "not_replayed": ["active_alarm"],
    "loads": [
        {"load_id": "a", "count": 2, "switched": 2, "hours_off": 4.0, "saved_kwh": 8.4, "covered": 1.0, "skipped": []},
        {"load_id": "b", "count": 2, "switched": 1, "hours_off": 2.0, "saved_kwh": None, "covered": 0.0,
         "skipped": [STALE]},
    ],
}  # fmt: skip


class Suite:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def get(self, path: str, **params: Any) -> Any:
        self.asked.append((path, params))
        return FOUND

    def post(self, path: str, body: Any = None) -> Any:
        self.asked.append((path, body))
        return FOUND


def say(plan: str, suite: Suite, *, chinese: bool = False) -> list[str]:
    said: list[str] = []
    simulate_plan(suite, Words(chinese=chinese), said.append, plan=plan, first="2026-03-01", last=None)
    return said


def test_a_stored_plan_is_told_by_load_and_in_sum() -> None:
    suite = Suite()
    said = say("p-1", suite)
    assert suite.asked == [("plans/p-1/simulation", {"first_date": "2026-03-01", "last_date": None})]
    assert "saved 8.40 kWh, known of 100% of the time" in said[0]
    assert "saved: not known" in said[1]
    assert "3 of 4 shutdowns, 6.0 h off, saved 8.40 kWh, known of 88% of the time" in said[2]
    assert said[3:] == [
        "  1 x stale_data: not read", "2 windows are not over yet", "not in the history, so not judged: active_alarm",
    ]  # fmt: skip


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    suite, path = Suite(), tmp_path / "plan.json"
    path.write_text('{"load_ids": ["a"]}')
    said = say(str(path), suite, chinese=True)
    assert suite.asked == [("plans/simulate", {"load_ids": ["a"]})]
    assert "4 次中可关断 3 次,关断 6.0 小时,节电 8.40 千瓦时,数据覆盖 88%" in said[2]
    assert said[3] == "  1 x stale_data: 未读取"


def test_a_file_that_is_no_json_is_said(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("load_ids: [a]")
    with pytest.raises(InvalidInput, match=r"plan\.json: no JSON"):
        say(str(path), Suite())
