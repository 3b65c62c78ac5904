"""``wattring settings``: what devices are set to, with the mark, in both languages."""

from typing import Any

import pytest

from libs.suite.settingcli import list_settings, show_setting, write_setting
from libs.suite.words import Words

ROW = {"device_id": "b-1", "point": "setting_overvoltage", "unit": "V", "state": "succeeded"}


class Suite:
    """An API that answers what it was given."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []

    def get(self, path: str, **params: Any) -> Any:
        self.asked.append((path, {name: value for name, value in params.items() if value is not None}))
        return self.answers.pop(0)

    def post(self, path: str, body: Any = None) -> Any:
        self.asked.append((path, body))
        return self.answers.pop(0)


@pytest.mark.parametrize(("chinese", "marks"), [(False, ["DIFFERS", "same", "?"]), (True, ["不一致", "一致", "?"])])
def test_each_setting_is_a_line_with_its_mark(chinese: bool, marks: list[str]) -> None:
    rows = [
        {**ROW, "wanted": 265.0, "found": 280.0, "differs": True},
        {**ROW, "wanted": 265.0, "found": 265.0, "differs": False},
    ]
    suite = Suite(
        {"items": rows, "next_cursor": "more"},
        {"items": [{**ROW, "wanted": 265.0, "found": None, "differs": None}], "next_cursor": None},
    )
    said: list[str] = []
    list_settings(suite, Words(chinese=chinese), said.append, device=None, differs=False)
    assert [line.split("  ")[4] for line in said] == marks
    assert "265" in said[0]
    assert "280" in said[0]
    assert suite.asked == [
        ("alarm-rules/device-settings", {"limit": 200}),
        ("alarm-rules/device-settings", {"limit": 200, "cursor": "more"}),
    ]


def test_no_setting_is_said_too() -> None:
    said: list[str] = []
    suite = Suite({"items": [], "next_cursor": None})
    list_settings(suite, Words(chinese=False), said.append, device="b-1", differs=True)
    assert said == ["nothing"]
    assert suite.asked == [("alarm-rules/device-settings", {"device": "b-1", "differs": True, "limit": 200})]


def test_an_order_is_given_and_looked_after() -> None:
    suite = Suite(
        {"setting_id": "a-1"},
        {**ROW, "value": 265.0, "reason": "", "found": 265.0, "history": [
            {"at": "2026-05-01T04:00:00Z", "state": "scheduled", "reason": "", "attempt": 0, "found": None},
        ]},
    )  # fmt: skip
    said: list[str] = []
    words = Words(chinese=False)
    write_setting(
        suite, words, said.append, device="b-1", point="setting_overvoltage", value=265.0, unit="V", reason=None
    )
    show_setting(suite, words, said.append, "a-1")
    assert said[0] == "ordered: wattring settings show a-1"
    assert said[1] == "b-1  setting_overvoltage = 265  succeeded   read back 265"
    assert suite.asked[0] == (
        "commands/settings",
        {"device_id": "b-1", "point": "setting_overvoltage", "value": 265.0, "unit": "V", "reason": None},
    )
