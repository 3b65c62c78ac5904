"""The table of device events: the shipped rows, which of several holds, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidFile
from libs.common.profiles import ProfileCatalogue
from libs.common.profiles.model import DeviceProfile
from services.alarm.dictionary import load_shipped
from services.alarm.domain.energy import EnergyScope
from services.alarm.domain.occurrences import EventRule, EventTable, Meaning
from services.alarm.rulerows import ENERGY, EVENTS, EnergyRow, EventRow, Kept, Place, definition_of, merged

SHIPPED = EVENTS.shipped()
TABLE = EventTable(tuple(row.rule(place.rule_id, 0) for place, row in SHIPPED.items()))


def rule(rule_id: str, code: str, *profiles: str, enabled: bool = True) -> EventRule:
    return EventRule(rule_id, profiles or ("*",), code, Meaning.AS_SENT, "signal", rule_id, enabled=enabled)


@pytest.mark.parametrize(
    ("profile", "code", "rule_id", "part"),
    [
        ("yd1363_ac_panel", "panel_1_input_2_voltage_a_low", "event.ac_input_voltage_low", "1-2-a"),
        ("yd1363_ac_panel", "panel_1_input_2_voltage_c_phase_loss", "event.ac_input_phase_loss", "1-2-c"),
        ("yd1363_rectifier", "module_12_fault", "event.rectifier_module", "12"),
        ("yd1363_dc_panel", "panel_1_voltage_low", "event.dc_voltage_low", "1"),
        ("yd1363_environment", "smoke_alarm", "event.smoke", "alarm"),
        ("aep_breaker_example", "leakage", "event.leakage", ""),
        ("iec60870_breaker_example", "door_open", "event.door_open", ""),
    ],
)
def test_an_event_comes_under_the_row_that_says_most(profile: str, code: str, rule_id: str, part: str) -> None:
    match = TABLE.match(profile, code)
    assert match is not None
    assert (match.rule.rule_id, match.part) == (rule_id, part)


def test_a_code_that_no_row_speaks_of_has_none() -> None:
    assert TABLE.match("yd1363_rectifier", "module_1_user_2_fault_of_its_own") is None
    assert TABLE.match("iec60870_breaker_example", "breaker_state") is None
    assert TABLE.match("iec60870_breaker_example", "x" * 1000) is None


def test_every_shipped_row_names_a_signal_of_the_table() -> None:
    signals = load_shipped().signals
    rows: list[EventRow | EnergyRow] = [*SHIPPED.values(), *ENERGY.shipped().values()]
    assert {row.signal for row in rows if row.signal is not None} <= signals.keys()


def test_each_event_that_a_shipped_profile_rates_as_an_alarm_has_a_row_of_its_own() -> None:
    """What has none comes under the general signal; of the shipped ones only what makers define themselves."""
    for profile in ProfileCatalogue.load():
        for codes in _codes(profile):
            known = any(TABLE.match(profile.name, code) is not None for code in codes)
            assert known or "module_1_user_1_fault" in codes, f"{profile.name}: {codes}"


def _codes(profile: DeviceProfile) -> list[list[str]]:
    """Return the codes of each alarm of a profile."""
    equipment, product = profile.yd1363, profile.aep
    found = [] if product is None else [[event.code] for event in product.events]
    for alarm in () if equipment is None else equipment.alarms:
        base = alarm.code.format_map(dict.fromkeys(("panel", "input", "switch", "module", "fuse", "user"), 1))
        found.append([f"{base}_{name}" for name in alarm.values.values()])
    events = [getattr(point, "event", None) for point in profile.points.values()]
    return found + [[event.code] for event in events if event is not None and event.severity is not None]


def test_the_more_specific_profile_and_then_the_longer_code_wins() -> None:
    table = EventTable(
        (rule("a", "trip_*"), rule("b", "trip_over*"), rule("c", "*", "abb_*"), rule("d", "trip_*", "abb"))
    )
    assert [match.rule.rule_id for code in ("trip_x", "trip_over_x") if (match := table.match("acme", code))] == [
        "a",
        "b",
    ]
    assert [match.rule.rule_id for one in ("abb_b23", "abb") if (match := table.match(one, "trip_x"))] == ["c", "d"]


def test_a_row_that_is_switched_off_speaks_of_nothing() -> None:
    assert EventTable((rule("a", "trip", enabled=False),)).match("acme", "trip") is None


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_code_of_any_profile_is_looked_up(profile: str, code: str) -> None:
    match = TABLE.match(profile, code)
    assert match is None or match.rule.rule_id in {place.rule_id for place in SHIPPED}


def test_each_wrong_line_of_a_file_is_named() -> None:
    text = "rule_id,profiles,code,meaning,signal\na,*,trip,as_sent,\na,*,tr**p,as_sent,x\nb,*,trip,soon,x\n"
    with pytest.raises(InvalidFile) as refused:
        EVENTS.read(text)
    assert [(problem.line, problem.field) for problem in refused.value.problems] == [
        (2, "line"),
        (3, "code"),
        (4, "meaning"),
    ]


def test_what_people_write_wins_over_what_is_shipped() -> None:
    mine = EventRow(profiles=("*",), code="test_button", signal="wattring.device_event")
    stored = {
        Place("event.test_button"): Kept(Place("event.test_button"), mine, 7, "user:li"),
        Place("event.smoke"): None,
    }
    rows = {kept.place.rule_id: kept for kept in merged(SHIPPED, stored)}
    assert "event.smoke" not in rows
    assert rows["event.test_button"] == stored[Place("event.test_button")]
    assert len(rows) == len(SHIPPED) - 1


@pytest.mark.parametrize("table", [EVENTS, ENERGY], ids=["events", "energy"])
def test_a_row_reads_back_as_it_was_stored(table: object) -> None:
    rows: list[EventRow | EnergyRow] = [*SHIPPED.values()] if table is EVENTS else [*ENERGY.shipped().values()]
    parse = EVENTS.parse if table is EVENTS else ENERGY.parse
    assert [parse(definition_of(row)) for row in rows] == rows


@pytest.mark.parametrize(
    "row",
    [
        {"check": "standby", "signal": "s", "threshold": 1},
        {"check": "standby", "signal": "s", "window_from": "22:00", "window_to": "22:00"},
        {"check": "balance", "signal": "s", "window_from": "22:00", "window_to": "23:00"},
        {"check": "night_flow", "signal": "s", "window_from": "22:00", "window_to": "24:00"},
        {"check": "use_while_off", "signal": "s", "threshold": -1},
        {"check": "use_while_off", "signal": "s", "intervals": 0},
    ],
)
def test_an_energy_row_that_makes_no_sense_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"validation error"):
        EnergyRow.model_validate(row)


def test_an_energy_row_becomes_a_rule_of_its_scope() -> None:
    row = EnergyRow.model_validate(
        {"check": "standby", "signal": "s", "threshold": 2.5, "window_from": "22:30", "window_to": "06:00"}
    )
    found = row.rule("energy.x", 3, EnergyScope.SITE, "site-1")
    assert (found.window, found.scope_id, found.active) == ((1350, 360), "site-1", True)
