"""What must be true of a rule before it is taken, and what its thresholds may not do beside others."""

import math
from dataclasses import replace
from typing import Any

import pytest

from libs.common.points import POINTS
from services.alarm.dictionary import load_shipped
from services.alarm.domain.model import Band, Comparison, Measure, Need, Quantifier
from services.alarm.domain.rulebook import Override, RuleBook, Scope, contradictions, devices_to_come
from services.alarm.domain.ruledata import (
    PLAUSIBLE,
    RuleRow,
    change_faults,
    definition_of,
    make_rule,
    rule_faults,
    signal_faults,
)

TABLE = load_shipped()
KINDS = {
    "meter_3p": frozenset({"voltage_a", "voltage_b", "voltage_c", "current_a"}),
    "breaker": frozenset({"breaker_state"}),
}
ROW = RuleRow(
    rule_id="own.voltage_low",
    signal="0s16003001",
    comparison=Comparison.BELOW,
    quantifier=Quantifier.ANY,
    points=("voltage_a", "voltage_b"),
    unit="V",
    device_kinds=("meter_3p",),
    band=Band.LOW,
    group="phase_voltage",
    needs=frozenset({Need.SUPPLY}),
    takes=None,
    threshold=150.0,
    hysteresis=2.0,
    max_gap_s=900.0,
    level=2,
)
SILENCE: dict[str, Any] = {
    "measure": Measure.SILENCE, "unit": "1", "points": (), "comparison": Comparison.ABOVE, "band": None, "group": None,
    "threshold": 3.0,
}  # fmt: skip


def faults_of(**changes: Any) -> list[tuple[str, str]]:
    row = replace(ROW, **changes)
    found = rule_faults(row, TABLE.signals.get(row.signal), kinds=KINDS)
    assert all(fault.expected and fault.expected_zh for fault in found)
    return [(fault.field, str(fault.found)) for fault in found]


def test_a_rule_that_is_right_is_taken() -> None:
    assert faults_of() == []
    assert faults_of(comparison=Comparison.BITS, band=None, group=None, threshold=6.0) == []
    assert faults_of(device_kinds=()) == []
    assert faults_of(**SILENCE) == []
    assert faults_of(measure=Measure.RATE, unit="V/min", threshold=-30.0) == []
    assert faults_of(measure=Measure.EXPRESSION, expression="voltage_a - voltage_b") == []


@pytest.mark.parametrize(
    ("changes", "field", "found"),
    [
        ({"rule_id": "two words"}, "rule_id", "two words"),
        ({"rule_id": "effective"}, "rule_id", "effective"),
        ({"signal": "nothing"}, "signal", "nothing"),
        ({"signal": "0s16101001"}, "signal", "AI"),
        ({"points": ()}, "points", "0"),
        ({"points": ("voltage_a", "voltage_a")}, "points", "voltage_a"),
        ({"points": ("voltage_x",)}, "points", "voltage_x"),
        ({"points": ("meter_address",)}, "points", "meter_address"),
        ({"unit": "kV"}, "unit", "kV"),
        ({"points": ("voltage_a", "current_a")}, "unit", "V"),
        ({"quantifier": Quantifier.SOME, "points": ("voltage_a",)}, "quantifier", "some"),
        ({"band": None}, "group", "phase_voltage"),
        ({"group": "Two Words"}, "group", "Two Words"),
        ({"comparison": Comparison.ABOVE}, "comparison", "above"),
        ({"device_kinds": ("meter_9p",)}, "device_kinds", "meter_9p"),
        ({"device_kinds": ("breaker",)}, "device_kinds", "breaker"),
        ({"device_kinds": (), "points": ("voltage_ab",)}, "points", "voltage_ab"),
        ({"level": 5}, "level", "5"),
        ({"threshold": 9000.0}, "threshold", "9000.0"),
        ({"threshold": float("nan")}, "threshold", "nan"),
        ({"comparison": Comparison.BITS, "band": None, "group": None, "threshold": 1.5}, "threshold", "1.5"),
        ({"hysteresis": -1.0}, "hysteresis", "-1.0"),
        ({"max_gap_s": 1e6}, "max_gap_s", "1000000.0"),
        ({"start_delay_s": -1.0}, "start_delay_s", "-1.0"),
        ({"measure": Measure.RATE, "band": None, "group": None}, "unit", "V"),
        ({"measure": Measure.RATE, "unit": "V/min", "threshold": math.inf}, "threshold", "inf"),
        ({"measure": Measure.AGE, "unit": "s", "threshold": -1.0}, "threshold", "-1.0"),
        ({"measure": Measure.UNBALANCE, "unit": "%", "points": ("current_a",)}, "points", "1"),
        ({"measure": Measure.UNBALANCE, "unit": "%", "points": ("current_a", "current_b")}, "device_kinds", "meter_3p"),
        ({"measure": Measure.EXPRESSION}, "expression", "''"),
        ({"measure": Measure.EXPRESSION, "expression": "voltage_a ** 2"}, "expression", "voltage_a ** 2"),
        ({"measure": Measure.EXPRESSION, "expression": "voltage_a"}, "points", "voltage_a voltage_b"),
        ({"expression": "voltage_a"}, "expression", "voltage_a"),
        ({"measure": Measure.SILENCE}, "points", "voltage_a voltage_b"),
        ({**SILENCE, "unit": "s"}, "unit", "s"),
        ({**SILENCE, "comparison": Comparison.BELOW}, "comparison", "below"),
        ({**SILENCE, "threshold": 0.5}, "threshold", "0.5"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str, found: str) -> None:
    assert (field, found) in faults_of(**changes)


def test_a_retired_signal_takes_no_rules() -> None:
    gone = replace(TABLE.signals[ROW.signal], retired=True)
    assert [fault.field for fault in rule_faults(ROW, gone, kinds=KINDS)] == ["signal"]


def test_every_shipped_rule_would_be_taken_from_a_person_too() -> None:
    everything = {kind: frozenset(POINTS) for row in TABLE.rules.values() for kind in row.device_kinds}
    for row in TABLE.rules.values():
        assert rule_faults(row, TABLE.signals[row.signal], kinds=everything or KINDS) == [], row.rule_id


def test_numbers_of_overrides_keep_their_meaning() -> None:
    numbers = Override(ROW.rule_id, Scope.SITE, "s-1", 2, threshold=140.0)
    level = Override(ROW.rule_id, Scope.SITE, "s-1", 2, level=1)
    turned = replace(ROW, comparison=Comparison.ABOVE, band=Band.HIGH)
    assert [fault.field for fault in change_faults(turned, ROW, [numbers])] == ["comparison"]
    assert [fault.field for fault in change_faults(replace(ROW, unit="A"), ROW, [numbers])] == ["unit"]
    assert change_faults(turned, ROW, [level]) == []
    assert change_faults(replace(ROW, threshold=120.0), ROW, [numbers]) == []


def test_points_that_cannot_be_what_an_override_says_are_refused() -> None:
    number = Override(ROW.rule_id, Scope.SITE, "s-1", 2, threshold=250.0)
    other = replace(ROW, points=("voltage_imbalance",))
    assert change_faults(ROW, ROW, [number]) == []
    wide = Override(ROW.rule_id, Scope.SITE, "s-1", 2, threshold=290.0)
    narrow = next(name for name, (low, high) in PLAUSIBLE.items() if high is not None and high < 290)
    [fault] = change_faults(replace(other, points=(narrow,)), ROW, [wide])
    assert (fault.field, fault.found) == ("points", narrow)


def test_a_rule_compares_with_its_signals_thresholds_only_in_the_same_unit_and_where_they_can_be() -> None:
    signal = TABLE.signals[ROW.signal]
    bare = replace(ROW, threshold=None)
    assert signal_faults(bare, signal) == []
    assert signal_faults(bare, replace(signal, unit="伏")) == []
    [fault] = signal_faults(bare, replace(signal, unit="kV"))
    assert (fault.field, fault.expected, fault.found) == ("unit", f"kV, the unit of {signal.code}", "V")
    [fault] = signal_faults(bare, replace(signal, thresholds={"A": 160.0, "B": 9000.0}))
    assert (fault.field, fault.found) == ("threshold", 9000.0)
    assert signal_faults(ROW, replace(signal, unit="kV")) == []
    assert ("unit", "V") in [
        (one.field, one.found) for one in rule_faults(bare, replace(signal, unit="kV"), kinds=KINDS)
    ]


def test_what_a_rule_gives_stands_in_place_of_its_signals() -> None:
    signal = TABLE.signals[ROW.signal]
    own = make_rule(replace(ROW, start_delay_s=7.0, end_delay_s=8.0, enabled=False), signal, 1).defaults["A"]
    assert (own.level, own.threshold, own.start_delay_s, own.end_delay_s, own.enabled) == (2, 150.0, 7.0, 8.0, False)
    bare = make_rule(replace(ROW, level=None, threshold=None), signal, 1).defaults["A"]
    assert (bare.level, bare.threshold, bare.end_delay_s) == (signal.levels["A"], signal.thresholds["A"], 20.0)


def test_a_threshold_out_of_order_is_found_before_any_device_has_it() -> None:
    rules = {row.rule_id: make_rule(row, TABLE.signals[row.signal], 1) for row in TABLE.rules.values()}
    signal = TABLE.signals[ROW.signal]
    classes = {name: name for name in "ABCD"}

    def found(row: RuleRow) -> list[str]:
        book = RuleBook({**rules, row.rule_id: make_rule(row, signal, 1)}, {}, classes)
        yet = devices_to_come(book, {"phase_voltage"}, frozenset(POINTS))
        return [fault.expected for fault in contradictions(book, {"phase_voltage"}, yet)]

    assert found(ROW) == []
    [only] = found(replace(ROW, threshold=270.0))
    assert only == "own.voltage_low (low) below 0s16002001 (high)"
    assert found(replace(ROW, threshold=270.0, enabled=False)) == []


def test_kinds_that_an_override_names_do_not_hide_the_others() -> None:
    """Low is put right for one kind only; whatever other kind comes, it would have it above high."""
    classes = {name: name for name in "ABCD"}
    rules = {
        row.rule_id: make_rule(replace(row, device_kinds=()), TABLE.signals[row.signal], 1)
        for row in (replace(ROW, threshold=270.0), TABLE.rules["0s16002001"])
    }
    right = Override(ROW.rule_id, Scope.DEVICE_KIND, "meter_3p", 2, threshold=150.0)
    book = RuleBook(rules, {(ROW.rule_id, Scope.DEVICE_KIND, "meter_3p"): right}, classes)
    yet = devices_to_come(book, {"phase_voltage"}, frozenset(POINTS))
    assert contradictions(book, {"phase_voltage"}, yet) != []


def test_a_definition_names_every_field() -> None:
    assert definition_of(ROW)["needs"] == ["supply"]
    assert set(definition_of(ROW)) == set(RuleRow.__slots__) - {"rule_id"}
