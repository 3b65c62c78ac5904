"""The shipped signal table says what its sources say, and a wrong line is named."""

import pytest

from libs.common.contracts.alarm import ConditionKind
from libs.common.errors import InvalidFile
from libs.common.points import POINTS
from services.alarm.bus import NOTIFICATION_FAILED
from services.alarm.dictionary import (
    CONDITION_PREFIX,
    FILES,
    SHIPPED_VERSION,
    _text,
    load_shipped,
    parse_table,
    shipped_digest,
)
from services.alarm.domain.model import CLASSES, Comparison, Quantifier
from services.alarm.domain.rulebook import RuleBook, Target, order_faults
from services.alarm.domain.ruledata import make_rule
from services.alarm.usecases.cardcheck import EXPIRING, STOPPED

TABLE = load_shipped()
DIGESTS = {
    1: "ed294e8988efc7ee29d2ab1ba82445ffa16299c2a536c3c0e865f7a8fd900162",
    2: "1a12b27ce96049476f6a979ebe112f288cd13ee590709a8cf125e0073f2e07d4",
    3: "3fa9d39ad3597463ef654735873f21e1d3eb77cfbb0910d3afdc967bb25c019f",
    4: "4a063be00dabcb73149dde4e9849e1a5fa7ab75e1af9467229d2f3cda44cc7d5",
    5: "1cc63f0534a83b1215bfe56a4d2d9df765bb405472b50c5fb9e8105bd9d19ca3",
    6: "e24c8216d8dbdfcd752d4fe9d20f8462cf78156dcd309aff188d06740e5b9a5e",
    7: "fa7e17000aa674fb6ad1969d9d86248c7cec941ada3980e3a44dfbbfeb5f713d",
    8: "65a71fbb4774aa985ac23f867193d5427e2dcc874622d434fe0b30c870ed0cc9",
}
"""Version of the shipped files to their hash: a change without a new version would reach no installation."""


def shipped_book() -> RuleBook:
    return RuleBook(
        {row.rule_id: make_rule(row, TABLE.signals[row.signal], 1) for row in TABLE.rules.values()},
        {},
        {"A": "A", "B": "B", "C": "C", "D": "D", "E": "D"},
    )


def test_changed_files_have_a_new_version() -> None:
    assert DIGESTS.get(SHIPPED_VERSION) == shipped_digest(), "raise SHIPPED_VERSION and note the new hash here"


@pytest.mark.parametrize(
    ("code", "levels", "threshold", "delay_s"),
    [
        # signal-table of the compact public dictionary, type 16.
        ("0s16001001", (1, 2, 3, 3), 90, 180),
        ("0s16002001", (3, 3, 3, 3), 260, None),
        ("0s16003001", (3, 3, 3, 3), 160, None),
        ("0s16004001", (3, 3, 3, 3), 90, None),
        ("0s16005001", (1, 2, 3, 3), 90, 180),
        ("0s16006001", (1, 2, 3, 3), 90, 180),
    ],
)
def test_the_smart_meter_rows_are_those_of_the_dictionary(
    code: str, levels: tuple[int, ...], threshold: float, delay_s: float | None
) -> None:
    signal = TABLE.signals[code]
    assert tuple(signal.levels[name] for name in CLASSES) == levels
    assert {signal.thresholds[name] for name in CLASSES} == {threshold}
    assert (signal.start_delay_s, signal.end_delay_s) == (delay_s, 20.0)


def test_thresholds_differ_by_class_where_the_dictionary_says_so() -> None:
    assert dict(TABLE.signals["0s18004001"].thresholds) == {"A": 30, "B": 28, "C": 30, "D": 32}
    assert dict(TABLE.signals["0s17005001"].levels) == {"B": 3, "C": 3, "D": 3}


def test_every_row_has_a_dictionary_with_its_source() -> None:
    known = {one.dictionary: one.source for one in TABLE.dictionaries}
    assert all(known[signal.dictionary] for signal in TABLE.signals.values())


def test_the_rules_read_phases_as_the_signals_say() -> None:
    found = {row.rule_id: (row.comparison, row.quantifier) for row in TABLE.rules.values()}
    assert found["0s16001001"] == (Comparison.BELOW, Quantifier.ALL)
    assert found["0s16002001"] == (Comparison.ABOVE, Quantifier.ANY)
    assert found["0s16003001"] == (Comparison.BELOW, Quantifier.ANY)
    assert found["0s16004001"] == (Comparison.BELOW, Quantifier.SOME)


@pytest.mark.parametrize("station_class", ["A", "B", "C", "D", "E"])
@pytest.mark.parametrize("kind", ["meter_3p", "env_sensor", "breaker"])
def test_shipped_thresholds_do_not_contradict_each_other(station_class: str, kind: str) -> None:
    everything = Target("d", "s", kind, station_class, "p", frozenset(POINTS))
    rules = shipped_book().for_device(everything)
    assert order_faults(rules) == []
    assert any(rule.active for rule in rules)


def test_rows_whose_numbers_are_damaged_ship_asleep() -> None:
    everything = Target("d", "s", "meter_3p", "B", "p", frozenset(POINTS))
    asleep = {rule.rule.rule_id for rule in shipped_book().for_device(everything) if not rule.active}
    assert {f"gd.voltage_{pair}_{band}" for pair in ("ab", "bc", "ca") for band in ("high", "low")} <= asleep


def test_every_finding_of_the_platform_has_a_signal() -> None:
    ours = {EXPIRING, STOPPED, NOTIFICATION_FAILED}
    assert {CONDITION_PREFIX + kind for kind in {kind.value for kind in ConditionKind} | ours} <= set(TABLE.signals)


@pytest.mark.parametrize(
    ("name", "old", "new", "field", "expected"),
    [
        ("signals.csv", ",1,2,3,3,90,", ",1,2,7,3,90,", "level_c", "1, 2, 3, 4 or nothing"),
        ("signals.csv", ",3,3,3,3,260,", ",3,3,3,3,high,", "threshold_a", "a number or nothing"),
        ("signals.csv", "0s16002001,tower", "0s16001001,tower", "code", "a key of its own, line 2 has it too"),
        ("signals.csv", "0s16002001,tower-compact-20150416", "0s16002001,nobody", "dictionary", "one of tower"),
        ("signals.csv", ",DI,交流电压过高告警", ",XX,交流电压过高告警", "kind", "one of DI, AI, DO, AO"),
        ("rules.csv", "0s16002001,0s16002001,", "0s16002001,0s99999999,", "signal", "the code of a signal"),
        ("rules.csv", ",frequency,Hz,", ",frequency,V,", "unit", "Hz, the unit of frequency"),
        ("rules.csv", ",water_leak_state,", ",wet_state,", "points", "numeric points"),
        ("rules.csv", ",above,any,temperature,", ",over,any,temperature,", "comparison", "one of above, below"),
        ("rules.csv", ",low_low,phase_voltage,", ",,phase_voltage,", "group", "band and group together"),
        ("rules.csv", "load supply,supply,,0,900", "load supply,supply,,-1,900", "hysteresis", "seconds, 0 or more"),
        ("rules.csv", "0,900,rate,", "0,900,speed,", "measure", "one of value, rate"),
        ("rules.csv", ",degC/min,", ",degC,", "unit", "degC/min"),
        ("rules.csv", "current_n / max(", "current_n ** max(", "expression", "numbers, points"),
        ("rules.csv", "current_n / max(current_a, ", "current_n / max(current_b, ", "points", "those of the formula"),
        ("rules.csv", ",silence,,hold", ",silence,,wait", "no_data", "one of hold, alarm, clear"),
        ("rules.csv", ",silence,,hold", ",value,,hold", "points", "none, where silence"),
        ("rules.csv", "load supply,supply,,0,900", "load sun,supply,,0,900", "needs", "of load, supply, link"),
    ],
)
def test_a_wrong_line_is_refused_with_line_field_and_what_was_expected(
    name: str, old: str, new: str, field: str, expected: str
) -> None:
    texts = {file: _text(file) for file in FILES}
    assert old in texts[name]
    texts[name] = texts[name].replace(old, new, 1)
    with pytest.raises(InvalidFile) as caught:
        parse_table(*texts.values())
    [first, *_] = [problem for problem in caught.value.problems if problem.field == field]
    assert first.expected.startswith(expected)
    assert first.line is not None
    assert first.line > 1
