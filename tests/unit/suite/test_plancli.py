"""``wattring plan``: simulation of a stored plan or a file, progress, files that are none; in both languages."""

from pathlib import Path
from typing import Any

import pytest

from libs.common.errors import InvalidInput
from libs.suite.plancli import read_plan, show_progress, simulate_plan
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


def test_a_file_is_sent_without_what_only_a_stored_plan_has(tmp_path: Path) -> None:
    suite, path = Suite(), tmp_path / "plan.json"
    path.write_text('{"name": "nights", "note": null, "load_ids": ["a"], "first_date": "2026-12-01"}')
    said = say(str(path), suite, chinese=True)
    assert suite.asked == [("plans/simulate", {"load_ids": ["a"], "first_date": "2026-03-01"})]
    assert "4 次中可关断 3 次,关断 6.0 小时,节电 8.40 千瓦时,数据覆盖 88%" in said[2]
    assert said[3] == "  1 x stale_data: 未读取"


def test_a_file_that_is_no_json_is_said(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("load_ids: [a]")
    with pytest.raises(InvalidInput, match=r"plan\.json: no JSON"):
        say(str(path), Suite())
    path.write_text('["a"]')
    with pytest.raises(InvalidInput, match=r"plan\.json: a JSON object"):
        say(str(path), Suite())
    with pytest.raises(InvalidInput, match=r"none\.json: cannot be read: No such file"):
        read_plan(tmp_path / "none.json")


def shutdown(number: int, state: str) -> dict[str, Any]:
    return {
        "load_id": f"aau-{number}", "off_at": "2026-03-01T15:00:00Z", "on_at": "2026-03-01T22:00:00Z", "state": state,
        "reason": "", "went_off_at": None, "came_on_at": None,
    }  # fmt: skip


class Many:
    """A savings plan with very many shutdowns, page by page."""

    def __init__(self, count: int) -> None:
        self.count, self.pages = count, 0

    def get(self, path: str, **params: Any) -> Any:
        if path == "plans/p-1":
            return {"plan_id": "p-1"}
        assert (path, params["plan"], params["from"], params["to"]) == ("occurrences", "p-1", "then", "later")
        self.pages += 1
        first = int(params["cursor"] or 0)
        last = min(first + params["limit"], self.count)
        items = [shutdown(number, "planned" if number % 3 else "awake") for number in range(first, last)]
        return {"items": items, "next_cursor": str(last) if last < self.count else None}

    def post(self, path: str, body: Any = None) -> Any:
        raise AssertionError(path)


def test_progress_counts_all_and_lists_the_first() -> None:
    said: list[str] = []
    show_progress(Many(3000), Words(chinese=False), said.append, plan="p-1", start="then", end="later")
    assert said[0] == "  aau-0  2026-03-01T15:00:00Z..2026-03-01T22:00:00Z  awake  off -  on -"
    assert said[50:] == ["  and 2950 more", "3000  awake 1000  planned 2000"]


def test_progress_of_more_than_can_be_counted_says_so() -> None:
    said: list[str] = []
    suite = Many(200_000)
    show_progress(suite, Words(chinese=True), said.append, plan="p-1", start="then", end="later")
    assert said[-2:] == ["20000  awake 6667  planned 13333", "未全部统计:请缩短时间范围"]
    assert suite.pages == 21
