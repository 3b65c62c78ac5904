"""Calls of units by name: every command of a dialect is written under its own name and code, and no other is."""

from datetime import UTC, datetime

import pytest

from libs.common.errors import InvalidInput
from libs.fieldsim.sc.calls import NAMES_NO_UNIT, UnitCall, commands
from libs.fieldsim.sc.soap import parse_payload
from libs.fieldsim.sc.spec import DRAFT, TOWER, Spec

NOW = datetime(2026, 3, 8, 6, 2, 11, tzinfo=UTC)
UNITS = {"T": "44010643800017", "Y": "44010600000000001"}


@pytest.mark.parametrize("spec", [TOWER, DRAFT], ids=lambda spec: spec.name)
def test_every_call_has_its_dialect_s_name_and_code_and_names_the_unit(spec: Spec) -> None:
    unit = UNITS[spec.name]
    assert spec.heartbeat in commands(spec)
    for name in commands(spec):
        call = UnitCall(command=name, device_id="1" * spec.device_digits, point_id="2" * spec.point_digits,
                        value=1, option_id="1")  # fmt: skip
        message = parse_payload(call.payload(spec, unit, NOW))
        assert (message.root, message.name, message.code) == ("Request", name, spec.codes[name])
        assert message.value(spec.unit_names[0]) == (None if name in NAMES_NO_UNIT else unit)


def test_points_are_asked_for_one_by_one_or_all() -> None:
    everything = UnitCall(command="GET_DATA").payload(DRAFT, UNITS["Y"], NOW)
    assert "9" * 12 in everything
    some = UnitCall(command="GET_DATA", points={"2020001": ("230200050010",)}).payload(DRAFT, UNITS["Y"], NOW)
    assert "230200050010" in some
    assert "9" * 12 not in some


def test_a_command_of_another_dialect_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidInput, match="GET_SUINFO"):
        UnitCall(command="GET_FSUINFO").payload(DRAFT, UNITS["Y"], NOW)
