"""Settings of alarm."""

import pytest

from libs.common.settings import InvalidSettings, load_section
from services.alarm.settings import AlarmSettings


def test_class_e_takes_class_d_unless_configured() -> None:
    plain = load_section("alarm", AlarmSettings, {})
    assert plain.classes == {"A": "A", "B": "B", "C": "C", "D": "D", "E": "D"}


def test_naming_one_class_leaves_the_others_as_they_are() -> None:
    found = load_section("alarm", AlarmSettings, {"WATTRING_ALARM__CLASS_MAP": '{"E": "C"}'})
    assert found.classes == {"A": "A", "B": "B", "C": "C", "D": "D", "E": "C"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WATTRING_ALARM__CLASS_MAP", '{"E": "E"}'),
        ("WATTRING_ALARM__DEFAULT_CLASS", "F"),
        ("WATTRING_ALARM__TICK_GRACE_S", "-1"),
        ("WATTRING_ALARM__TICKS", "1"),
    ],
)
def test_wrong_settings_stop_the_start_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=name.rpartition("__")[2]):
        load_section("alarm", AlarmSettings, {name: value})
