"""Fault localisation: which cause a set of facts gives, whom to ask, and what a silent platform must never mean."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidFile
from services.alarm.domain.diagnosis.causes import Cause, Limits
from services.alarm.domain.diagnosis.facts import Evidence, Fact, FactValue, Known, Silence, Source
from services.alarm.domain.diagnosis.grouping import GroupLimits, Member, Place, common_cause, group
from services.alarm.domain.diagnosis.judge import judge, next_question
from services.alarm.domain.diagnosis.rules import RULES
from services.alarm.faultcodes import load_codes, parse_codes

AT = datetime(2026, 3, 1, 4, tzinfo=UTC)
LIMITS = Limits()
SILENT: Mapping[Known, FactValue] = {Known.SILENT: True, Known.SILENT_FOR_S: 1800.0, Known.PERIOD_S: 300.0}
SPEAKS: Mapping[Known, FactValue] = {Known.SILENT: False}
CARD_FINE: Mapping[Known, FactValue] = {Known.CARD_STATE: "4", Known.CARD_CUT_OFF: False, Known.CARD_OWED: 0.0}


def evidence(*parts: Mapping[Known, FactValue], unreachable: tuple[Source, ...] = ()) -> Evidence:
    facts = {name: Fact(name, value, AT, "test") for part in parts for name, value in part.items()}
    return Evidence(facts, {source: Silence(source, AT, "no answer") for source in unreachable})


PROVOKED: Mapping[Cause, Evidence] = {
    Cause.OWN_LISTENER_DOWN: evidence(SILENT, {Known.INGEST_SILENT_S: 61.0}),
    Cause.SITE_POWER_LOSS: evidence(SILENT, {Known.SITE_SILENT: 4, Known.MAINS_ALARM: True}),
    Cause.GATEWAY_OFFLINE: evidence(
        SILENT, {Known.GATEWAY_ALIVE: False, Known.GATEWAY_DEVICES: 3, Known.GATEWAY_SILENT: 3}
    ),
    Cause.LINE_SILENT: evidence(SILENT, {Known.GATEWAY_ALIVE: True, Known.LINE_DEVICES: 3, Known.LINE_SILENT: 3}),
    Cause.DORMANT: evidence(SILENT, {Known.SLEEP_PERIOD_S: 86_400.0}),
    Cause.PLATFORM_PUSH_BROKEN: evidence(SILENT, {Known.PLATFORM_ONLINE: True, Known.PLATFORM_AHEAD_S: 900.0}),
    Cause.SIM_ARREARS: evidence(SILENT, {Known.CARD_STATE: "5", Known.CARD_OWED: 12.5}),
    Cause.SIM_SUSPENDED: evidence(SILENT, {Known.CARD_STATE: "5", Known.CARD_OWED: 0.0}),
    Cause.SIM_CUT_OFF: evidence(SILENT, CARD_FINE, {Known.CARD_CUT_OFF: True}),
    Cause.SIM_NOT_ACTIVE: evidence(SILENT, {Known.CARD_STATE: "1"}),
    Cause.SIM_IMEI_MISMATCH: evidence(
        SILENT, {Known.SESSION_IMEI: "8600000000000001", Known.DEVICE_IMEI: "869951041747345"}
    ),
    Cause.SIM_CARD_TYPE: evidence(SILENT, {Known.CARD_NETWORK: "4g", Known.DEVICE_NETWORK: "nb"}),
    Cause.SIM_TARGET_ADDRESS: evidence(
        SILENT,
        {
            Known.SESSION: "start",
            Known.CARD_DIRECTED: True,
            Known.CARD_TARGETS: "198.51.100.7, iot.example",
            Known.OUR_ADDRESS: "203.0.113.9",
        },
    ),
    Cause.AUTH_FAILED: evidence(SILENT, {Known.LAST_FAILURE: "auth_failed"}),
    Cause.ADDRESS_CONFLICT: evidence(SILENT, {Known.SAME_ADDRESS: 2}),
    Cause.PROTOCOL_MISMATCH: evidence(SILENT, {Known.LAST_FAILURE: "bad_answer"}),
    Cause.DEVICE_FAULT: evidence(SILENT, {Known.DEVICE_FAULT: "self-test failed"}),
    Cause.LOW_BATTERY: evidence(SILENT, {Known.BATTERY_PERCENT: 19.0}),
    Cause.POOR_SIGNAL: evidence(SILENT, {Known.RSRP_DBM: -117.0}),
    Cause.NO_SESSION: evidence(SILENT, CARD_FINE, {Known.SESSION: "stop", Known.SITE_ALIVE: 2}),
    Cause.BUS_NO_ANSWER: evidence(
        SILENT, {Known.GATEWAY_ALIVE: True, Known.LINE_DEVICES: 3, Known.LINE_SILENT: 1, Known.LINE_ALIVE: 2}
    ),
    Cause.STATE_MISMATCH: evidence(SPEAKS, {Known.SWITCH_DIFFERS: True}),
    Cause.SIM_USAGE_ALARM: evidence(SPEAKS, CARD_FINE, {Known.CARD_USED_KB: 92.0, Known.CARD_PACKAGE_KB: 100.0}),
    Cause.COMMAND_EXPIRED: evidence(SPEAKS, {Known.COMMAND_STATE: "expired"}),
    Cause.CLOCK_DRIFT: evidence(SPEAKS, {Known.CLOCK_SKEW_S: -400.0, Known.CLOCK_SKEW_TIMES: 2}),
    Cause.DATA_GAP: evidence(SPEAKS, {Known.DATA_GAP: "3 reports are missing"}),
    Cause.PLATFORM_UNREACHABLE: evidence(SILENT, unreachable=(Source.CARD,)),
    Cause.HEARTBEAT_TIMEOUT: evidence(SILENT),
}
SPARED: Mapping[str, Evidence] = {
    "a listener that beats": evidence({Known.INGEST_SILENT_S: 59.0}),
    "one silent device with a mains alarm": evidence(SILENT, {Known.SITE_SILENT: 1, Known.MAINS_ALARM: True}),
    "several silent devices with mains": evidence(SILENT, {Known.SITE_SILENT: 4, Known.MAINS_ALARM: False}),
    "a module with a check digit more": evidence(
        {Known.SESSION_IMEI: "8699510417473401", Known.DEVICE_IMEI: "869951041747349"}
    ),
    "a module that is no IMEI": evidence({Known.SESSION_IMEI: "?", Known.DEVICE_IMEI: "869951041747349"}),
    "an address in the list": evidence(
        SILENT,
        {
            Known.SESSION: "start",
            Known.CARD_DIRECTED: True,
            Known.CARD_TARGETS: "203.0.113.9",
            Known.OUR_ADDRESS: "203.0.113.9",
        },
    ),
    "no session, and all neighbours silent": evidence(SILENT, CARD_FINE, {Known.SESSION: "stop", Known.SITE_ALIVE: 0}),
    "no session, and nobody knows of the card": evidence(SILENT, {Known.SESSION: "stop", Known.SITE_ALIVE: 2}),
    "a battery at its limit": evidence({Known.BATTERY_PERCENT: 20.0}),
    "a signal at its limit": evidence({Known.RSRP_DBM: -110.0, Known.SINR_DB: -3.0, Known.COVERAGE_LEVEL: 1}),
    "a clock that was wrong once": evidence(SPEAKS, {Known.CLOCK_SKEW_S: 400.0, Known.CLOCK_SKEW_TIMES: 1}),
    "a package of no size": evidence(CARD_FINE, {Known.CARD_USED_KB: 5.0, Known.CARD_PACKAGE_KB: 0.0}),
}


@pytest.mark.parametrize("cause", list(Cause))
def test_each_cause_is_found_by_its_evidence(cause: Cause) -> None:
    assert judge(PROVOKED[cause], LIMITS).cause is cause


@pytest.mark.parametrize("found", SPARED.values(), ids=SPARED.keys())
def test_evidence_short_of_a_cause_says_no_more_than_that_it_is_silent(found: Evidence) -> None:
    assert judge(found, LIMITS).cause in (None, Cause.HEARTBEAT_TIMEOUT)


def test_silence_shorter_than_three_periods_is_no_cause_yet() -> None:
    assert judge(evidence(SILENT, {Known.SILENT_FOR_S: 899.0}), LIMITS).cause is None
    assert judge(evidence(SILENT, {Known.SILENT_FOR_S: 599.0, Known.PERIOD_S: 5.0}), LIMITS).cause is None
    assert judge(evidence(SILENT, {Known.SILENT_FOR_S: 600.0, Known.PERIOD_S: 5.0}), LIMITS).cause is not None


def test_the_special_comes_before_the_general() -> None:
    places = [rule.cause for rule in RULES]

    def before(one: Cause, other: Cause) -> bool:
        return places.index(one) < places.index(other)

    assert before(Cause.SIM_ARREARS, Cause.SIM_SUSPENDED)
    assert before(Cause.SIM_CUT_OFF, Cause.SIM_USAGE_ALARM)
    assert before(Cause.SITE_POWER_LOSS, Cause.GATEWAY_OFFLINE)
    assert places[-2:] == [Cause.PLATFORM_UNREACHABLE, Cause.HEARTBEAT_TIMEOUT]
    assert sorted(places) == sorted(Cause)


def test_what_else_fits_is_listed_and_the_generic_answer_is_not() -> None:
    found = judge(evidence(SILENT, {Known.CARD_STATE: "5", Known.CARD_OWED: 1.0, Known.RSRP_DBM: -120.0}), LIMITS)
    assert found.cause is Cause.SIM_ARREARS
    assert found.also_possible == (Cause.SIM_SUSPENDED, Cause.POOR_SIGNAL)
    assert {fact.name for fact in found.rests_on} == {Known.CARD_STATE, Known.CARD_OWED}


def test_what_is_planned_has_no_cause_and_nobody_is_asked() -> None:
    planned = evidence(SILENT, {Known.EXPLAINED_BY: "window:1", Known.CARD_STATE: "5"})
    assert judge(planned, LIMITS).explained_by == "window:1"
    assert judge(planned, LIMITS).cause is None
    assert next_question(planned, LIMITS, can_ask=set(Source), asked={Source.LOCAL}) is None


def test_asking_stops_at_the_first_decisive_answer() -> None:
    everybody = set(Source)
    power = evidence(SILENT, {Known.SITE_SILENT: 4, Known.MAINS_ALARM: True})
    assert next_question(power, LIMITS, can_ask=everybody, asked={Source.LOCAL}) is None
    alone = evidence(SILENT, {Known.RSRP_DBM: -120.0})
    assert next_question(alone, LIMITS, can_ask=everybody, asked={Source.LOCAL}) is Source.PLATFORM
    assert next_question(alone, LIMITS, can_ask=everybody, asked={Source.LOCAL, Source.PLATFORM}) is Source.CARD
    owing = evidence(SILENT, {Known.CARD_STATE: "5", Known.CARD_OWED: 3.0})
    asked = {Source.LOCAL, Source.PLATFORM, Source.CARD}
    assert next_question(owing, LIMITS, can_ask=everybody, asked=asked) is None
    assert next_question(alone, LIMITS, can_ask={Source.LOCAL}, asked={Source.LOCAL}) is None


# Whatever the facts

OF_SOURCE: Mapping[Source, tuple[Known, ...]] = {
    Source.PLATFORM: tuple(name for name in Known if name.value.startswith("platform_")),
    Source.CARD: (
        Known.CARD_STATE,
        Known.CARD_OWED,
        Known.CARD_USED_KB,
        Known.CARD_PACKAGE_KB,
        Known.CARD_QUOTA_KB,
        Known.CARD_CUT_OFF,
        Known.CARD_REAL_NAMED,
        Known.CARD_NETWORK,
        Known.CARD_DIRECTED,
        Known.CARD_EXPIRES_ON,
    ),
    Source.SESSION: (
        Known.SESSION,
        Known.SESSION_SINCE,
        Known.SESSION_IMEI,
        Known.SESSION_APN,
        Known.CARD_BOUND,
        Known.CARD_TARGETS,
    ),
}
REMOTE = {name: source for source, names in OF_SOURCE.items() for name in names}
VALUES = st.one_of(
    st.booleans(),
    st.integers(-200, 2000),
    st.floats(-1e4, 1e4),
    st.sampled_from(["1", "4", "5", "start", "stop", "expired", "nb", "4g", "869951041747345", ""]),
)
NAMES: list[Known] = [name for name in Known if name != Known.EXPLAINED_BY]
EVIDENCE = st.dictionaries(st.sampled_from(NAMES), VALUES).map(lambda facts: evidence(facts))


@given(EVIDENCE, st.sets(st.sampled_from([Source.PLATFORM, Source.CARD, Source.SESSION])))
def test_a_platform_that_does_not_answer_never_adds_a_cause_of_the_device(full: Evidence, away: set[Source]) -> None:
    heard = {name: fact for name, fact in full.facts.items() if REMOTE.get(name) not in away}
    with_all = judge(full, LIMITS)
    without = judge(Evidence(heard, {one: Silence(one, AT, "away") for one in away}), LIMITS)
    possible = {with_all.cause, *with_all.also_possible, None, Cause.PLATFORM_UNREACHABLE}
    if not away:
        assert without.cause is with_all.cause
    elif without.cause is not Cause.HEARTBEAT_TIMEOUT:
        assert without.cause in possible
        assert set(without.also_possible) <= possible
    else:
        pytest.fail("silence of a platform became a time-out of the device")


@given(EVIDENCE, EVIDENCE)
def test_more_facts_take_no_cause_away(some: Evidence, more: Evidence) -> None:
    both = Evidence({**more.facts, **some.facts})
    places = [rule.cause for rule in RULES]
    found, with_more = judge(some, LIMITS), judge(both, LIMITS)
    if found.cause is not None:
        assert with_more.cause is not None
        assert places.index(with_more.cause) <= places.index(found.cause)


@given(EVIDENCE, st.sets(st.sampled_from(list(Source))))
def test_asking_step_by_step_finds_what_asking_everybody_finds(full: Evidence, away: set[Source]) -> None:
    def answers(source: Source) -> dict[Known, Fact]:
        return {name: fact for name, fact in full.facts.items() if REMOTE.get(name, Source.LOCAL) is source}

    away -= {Source.LOCAL}
    known, asked = Evidence(answers(Source.LOCAL)), {Source.LOCAL}
    everything = known
    for source in Source:
        everything = (
            everything.without(Silence(source, AT, "away"))
            if source in away
            else everything.with_facts(answers(source).values())
        )
    while (wanted := next_question(known, LIMITS, can_ask=set(Source), asked=asked)) is not None:
        assert wanted not in asked
        asked.add(wanted)
        known = (
            known.without(Silence(wanted, AT, "away")) if wanted in away else known.with_facts(answers(wanted).values())
        )
    assert judge(known, LIMITS).cause is judge(everything, LIMITS).cause


# Groups


def member(number: int, minutes: float, group_id: str | None = None) -> Member:
    return Member(f"d{number}", AT + timedelta(minutes=minutes), group_id)


def test_more_than_five_within_ten_minutes_are_a_group_named_after_the_first() -> None:
    five = [member(number, number) for number in range(5)]
    assert group(five[4], five[:4], GroupLimits()).joins is None
    found = group(member(5, 5), five, GroupLimits())
    assert found.joins == "d0"
    assert sorted(found.formed_by) == ["d0", "d1", "d2", "d3", "d4"]


def test_a_group_is_joined_while_it_grows_and_not_afterwards() -> None:
    formed = [member(number, number, "d0") for number in range(6)]
    assert group(member(6, 14), formed, GroupLimits()).joins == "d0"
    assert group(member(6, 15.1), formed, GroupLimits()).joins is None


def test_a_lost_site_explains_that_site_only() -> None:
    here, there = Place("s-1", "l-1", "g-1"), Place("s-2", "l-2", "g-2")
    for cause in (Cause.SITE_POWER_LOSS, Cause.GATEWAY_OFFLINE, Cause.LINE_SILENT):
        assert common_cause(cause, here) != common_cause(cause, there)
    assert common_cause(Cause.SIM_SUSPENDED, here) == common_cause(Cause.SIM_SUSPENDED, there)


# Codes


def test_every_cause_has_a_code_of_its_own_and_words_in_two_languages() -> None:
    codes = load_codes()
    assert set(codes) == set(Cause)
    assert len({one.code for one in codes.values()}) == len(codes)
    known = {"01": "sim_suspended", "02": "sim_arrears", "13": "heartbeat_timeout", "90": "platform_unreachable"}
    assert {one.code: one.cause.value for one in codes.values() if one.code in known} == known


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("sim_arrears,02", "sim_arrears,01"), "code"),
        (("sim_arrears,02", "sim_arrears,2"), "code"),
        (("sim_arrears,", "sim_debts,"), "cause"),
        (("Pay what is owed and check that the card is resumed", ""), "advice_en"),
    ],
)
def test_a_wrong_line_is_named(change: tuple[str, str], field: str) -> None:
    text = files("services.alarm").joinpath("data", "fault_codes.csv").read_text(encoding="utf-8")
    with pytest.raises(InvalidFile) as caught:
        parse_codes(text.replace(*change))
    assert any(problem.field == field for problem in caught.value.problems)
