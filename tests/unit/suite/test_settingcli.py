"""``wattring settings``: what devices are set to, with the mark, in both languages."""

from typing import Any

import pytest

from libs.suite.commandcli import order_commands, show_commands
from libs.suite.settingcli import (
    list_rules,
    list_settings,
    order_settings,
    show_setting,
    show_settings,
    write_setting,
)
from libs.suite.words import Words

ROW = {"device_id": "b-1", "action": "set_threshold", "point": "setting_overvoltage", "unit": "V", "state": "succeeded"}


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


GROUP = {
    "group_id": "g-1", "state": "scheduled", "action": "set_point", "point": "temperature_setpoint", "value": 26.0,
    "expected_by": "2026-07-01T04:01:40Z",
    "progress": {"total": 3, "done": 1, "succeeded": 0, "refused": 1, "by_state": {"scheduled": 2}},
    "settings": [
        {"device_id": "ac-1", "state": "dispatched", "reason": "", "found": None},
        {"device_id": "ac-2", "state": "scheduled", "reason": "device_busy", "found": 24.0},
    ],
    "refused": [
        {"device_id": "b-1", "guard": "no_control", "message": "has no control", "message_zh": "没有控制项"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("chinese", "refused"), [(False, "has no control"), (True, "没有控制项")])
def test_an_order_for_many_says_who_was_refused_and_how_far_it_is(chinese: bool, refused: str) -> None:
    suite = Suite(GROUP, GROUP)
    said: list[str] = []
    words = Words(chinese=chinese)
    order_settings(
        suite, words, said.append, {"point": "temperature_setpoint", "value": 26.0, "tag": "hall", "unit": None}
    )
    show_settings(suite, words, said.append, "g-1")
    assert suite.asked == [
        ("commands/settings/groups", {"point": "temperature_setpoint", "value": 26.0, "tag": "hall"}),
        ("commands/settings/groups/g-1", {}),
    ]
    assert said[0].startswith("temperature_setpoint = 26  scheduled  1/3  scheduled 2  ")
    assert "2026-07-01T04:01:40Z" in said[0]
    assert said[1] == f"  b-1  no_control  {refused}"
    assert said[2].endswith("wattring settings progress g-1")
    assert said[-2:] == ["  ac-1  dispatched   -", "  ac-2  scheduled device_busy  24"]


def test_a_clock_has_no_value_and_rules_have_a_source() -> None:
    clock = {**GROUP, "action": "set_clock", "point": None, "value": None, "refused": []}
    rule = {
        "rule": "public_building_summer", "point": "temperature_setpoint", "min": 26.0, "max": None,
        "season": ["06-01", "09-30"], "site_kinds": ["building"], "effect": "refuse", "source": "a notice",
        "source_zh": "通知",
    }  # fmt: skip
    suite = Suite(clock, [rule], [])
    said: list[str] = []
    words = Words(chinese=False)
    order_settings(suite, words, said.append, {"action": "set_clock", "site_id": "s-1"})
    list_rules(suite, words, said.append, None)
    list_rules(suite, words, said.append, "ac-1")
    assert said[0].startswith("set_clock  scheduled")
    assert said[2] == "public_building_summer  temperature_setpoint  min 26  06-01..09-30  building  refuse  a notice"
    assert said[3] == "none"
    assert suite.asked[2] == ("guards/setpoints", {"device": "ac-1"})


def test_switching_is_ordered_and_followed() -> None:
    group: dict[str, Any] = {
        "group_id": "g-2", "state": "scheduled", "action": "open", "expected_by": None,
        "progress": {"total": 2, "done": 1, "succeeded": 0, "refused": 1, "by_state": {"scheduled": 1}},
        "commands": [{"load_id": "aau-1", "state": "scheduled", "reason": ""}],
        "refused": [{"load_id": "hospital", "guard": "never_off", "message": "never", "message_zh": "禁止"}],
    }  # fmt: skip
    suite = Suite(group, {**group, "commands": group["commands"] * 60})
    said: list[str] = []
    words = Words(chinese=False)
    order_commands(suite, words, said.append, {"action": "open", "region_id": "440100", "tag": None})
    show_commands(suite, words, said.append, "g-2")
    assert suite.asked[0] == ("commands", {"action": "open", "region_id": "440100"})
    assert said[0] == "open  scheduled  1/2  scheduled 1  refused 1  expected by -"
    assert said[1] == "  hospital  never_off  never"
    assert said[2].endswith("wattring command show g-2")
    assert said[-1] == "  and 10 more"
